package oci

import (
	"io"
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
	q.w.Header().Set("Content-Type", "application/octet-stream")
	if api.Is(err, api.CodeBlobNotFound) && q.server.cfg.Images != nil {
		if d, other := q.server.cfg.Images.Derived(q.Context(), q.repo, digest); other == nil {
			return q.sendDerived(d)
		}
	}
	// Only who wants the bytes is served from elsewhere: who asks whether they are here wants to push.
	if api.Is(err, api.CodeBlobNotFound) && q.server.cfg.Upstream != nil && q.Method == http.MethodGet {
		return q.sendThrough(digest)
	}
	if err != nil {
		return err
	}
	return q.send(b)
}

// send serves a blob.
func (q *request) send(b api.RepositoryBlob) error {
	return q.serve(b.Digest, func() (io.ReadSeekCloser, error) { return q.server.cfg.Blobs.OpenBlob(q.Context(), b.Blob) })
}

// sendDerived serves what is made now.
func (q *request) sendDerived(d api.Derived) error {
	return q.serve(d.Digest, func() (io.ReadSeekCloser, error) { return q.server.cfg.Images.OpenDerived(q.Context(), d) })
}

// sendThrough serves a blob while it comes from elsewhere. A body that cannot be brought to its end is cut off.
func (q *request) sendThrough(digest api.ContentDigest) error {
	body, size, err := q.server.cfg.Upstream.ThroughBlob(q.Context(), q.repo, digest)
	if err != nil {
		return err
	}
	defer body.Close()
	h := q.w.Header()
	h.Set("Docker-Content-Digest", string(digest))
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	q.w.WriteHeader(http.StatusOK)
	to := q.sender()
	if _, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{body}, make([]byte, copyBytes)); err != nil {
		q.server.cfg.Log.WarnContext(q.Context(), "a blob from elsewhere did not come to its end", "repository", q.repo.String(), "digest", digest, "error", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

// serve sends bytes that never change: whole, by one range or by several.
func (q *request) serve(digest api.ContentDigest, open func() (io.ReadSeekCloser, error)) error {
	h := q.w.Header()
	h.Set("Docker-Content-Digest", string(digest))
	h.Set("ETag", strconv.Quote(string(digest)))
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	if strings.Count(q.Header.Get("Range"), ",") >= rangesMax || len(q.Header["Range"]) > 1 {
		q.Header.Del("Range")
	}
	f, err := open()
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
