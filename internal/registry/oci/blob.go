package oci

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
)

// rangesMax is how many ranges of one answer are served; a request with more gets the whole.
const rangesMax = 8

// getBlob answers GET and HEAD.
func (q *request) getBlob() error {
	digest, err := parseDigest(q.reference)
	if err != nil {
		return err
	}
	b, err := q.server.cfg.Blobs.RepositoryBlob(q.Context(), q.repo, digest)
	if api.Is(err, api.CodeBlobNotFound) {
		// Clients that resolve a digest ask here for manifests too.
		if m, other := q.server.cfg.Manifests.ManifestByDigest(q.Context(), q.repo, digest); other == nil {
			b, err = m.RepositoryBlob, nil
		}
	}
	if err != nil {
		return err
	}
	q.w.Header().Set("Content-Type", "application/octet-stream")
	return q.send(b)
}

// send serves bytes that never change: whole, by one range or by several.
func (q *request) send(b api.RepositoryBlob) error {
	h := q.w.Header()
	h.Set("Docker-Content-Digest", string(b.Digest))
	h.Set("ETag", strconv.Quote(string(b.Digest)))
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	if strings.Count(q.Header.Get("Range"), ",") >= rangesMax || len(q.Header["Range"]) > 1 {
		q.Header.Del("Range")
	}
	f, err := q.server.cfg.Blobs.OpenBlob(q.Context(), b.Blob)
	if err != nil {
		for _, name := range []string{"Docker-Content-Digest", "ETag", "Cache-Control"} {
			h.Del(name)
		}
		return err
	}
	defer f.Close()
	http.ServeContent(q.sender(), q.Request, "", time.Time{}, f)
	return nil
}

// deleteBlob answers DELETE. The repository holds the blob no more; others may.
func (q *request) deleteBlob() error {
	digest, err := parseDigest(q.reference)
	if err != nil {
		return err
	}
	if err := q.server.cfg.Blobs.UnlinkBlob(q.Context(), q.principal, q.repo, digest); err != nil {
		return err
	}
	return q.empty(http.StatusAccepted)
}
