package admin

import (
	"context"
	"io"
	"net/http"
	"reflect"
	"strconv"

	"github.com/penstock/penstock/api"
)

// Blobs takes uploaded bytes and says which are there. length is what was announced, -1 when nothing was.
type Blobs interface {
	PutBlob(ctx context.Context, p *api.Principal, r io.Reader, want api.Digest, length int64) (api.Digest, int64, error)
	StatBlob(ctx context.Context, p *api.Principal, d api.Digest) (int64, error)
}

func (s *Server) blobRoutes() []route {
	put := route{method: http.MethodPost, path: "/tenants/{tenant}/blobs", id: "putBlob", tag: "blobs", scope: api.ScopeWrite,
		summary: "Upload a blob", detail: "The body is streamed and hashed while it is written; the same bytes are kept once.",
		query:   []parameter{{name: "digest", doc: "Digest that the bytes must have."}},
		inBytes: true, out: reflect.TypeFor[api.BlobInfo](), status: http.StatusCreated,
		errors: []api.Code{api.CodeTooLarge, api.CodeDigestMismatch, api.CodeDeadline, api.CodeFormatRefused}}
	put.serve = func(q *request) error {
		return q.naturally(func() (any, error) { return q.putBlob() })
	}
	head := route{method: http.MethodHead, path: "/tenants/{tenant}/blobs/{digest}", id: "statBlob", tag: "blobs", scope: api.ScopeWrite,
		summary: "Ask whether a blob is there", detail: "Content-Length is its size.", outMedia: mediaBytes, errors: []api.Code{api.CodeBlobNotFound}}
	head.serve = func(q *request) error {
		digest, err := parseDigest(q.PathValue("digest"))
		if err != nil {
			return err
		}
		size, err := s.cfg.Blobs.StatBlob(q.Context(), q.principal, digest)
		if err != nil {
			return err
		}
		q.w.Header().Set("Content-Type", mediaBytes)
		q.w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		q.w.WriteHeader(http.StatusOK)
		return nil
	}
	return []route{put, head}
}

// putBlob streams the body into the registry.
func (q *request) putBlob() (api.BlobInfo, error) {
	want := api.Digest("")
	if text := q.param("digest"); text != "" {
		var err error
		if want, err = parseDigest(text); err != nil {
			return api.BlobInfo{}, err
		}
	}
	body, err := q.upload()
	if err != nil {
		return api.BlobInfo{}, err
	}
	digest, size, err := q.server.cfg.Blobs.PutBlob(q.Context(), q.principal, body, want, q.ContentLength)
	return api.BlobInfo{Digest: digest, Size: size}, err
}

func parseDigest(text string) (api.Digest, error) {
	if d := api.Digest(text); d.Valid() {
		return d, nil
	}
	return "", api.Fail(api.CodeBadRequest, "", "%q is not sha256: with 64 lower-case hex digits", clipped(text))
}
