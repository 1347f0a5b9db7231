package admin

import (
	"context"
	"io"
	"net/http"
	"path"
	"strconv"
	"time"

	"github.com/penstock/penstock/api"
)

// Referrers attaches papers to versions: signatures, scan reports, bills of materials.
type Referrers interface {
	Attach(ctx context.Context, p *api.Principal, ref api.Ref, in api.ReferrerRequest) (api.Referrer, error)
	VersionReferrers(ctx context.Context, t api.TenantID, ref api.Ref, kind string, after api.Digest, limit int) ([]api.Referrer, error)
	OpenReferrer(ctx context.Context, t api.TenantID, ref api.Ref, d api.Digest) (api.Artifact, io.ReadSeekCloser, error)
	SBOM(ctx context.Context, t api.TenantID, ref api.Ref, form string) ([]byte, error)
}

const referrersPath = versionPath + "/referrers"

func (s *Server) referrerRoutes() []route {
	missing := []api.Code{api.CodeModelNotFound, api.CodeVersionNotFound, api.CodeAliasNotFound}
	content := route{method: http.MethodGet, path: referrersPath + "/{digest}", id: "getReferrer", tag: "referrers", scope: api.ScopeRead,
		summary: "Download what is attached to a version", detail: "The ETag is the digest of the bytes, Penstock-Media-Type what they are.",
		outMedia: mediaBytes, errors: append(missing, api.CodeManifestNotFound, api.CodeBlobNotFound)}
	content.serve = s.sendReferrer
	sbom := route{method: http.MethodGet, path: versionPath + "/sbom", id: "getSBOM", tag: "referrers", scope: api.ScopeRead,
		summary: "Write a version's bill of materials", detail: "The same version has the same one, always.", outMedia: mediaJSON, errors: missing,
		query: []parameter{{name: "format", doc: "cyclonedx (default) or spdx."}}}
	sbom.serve = func(q *request) error {
		ref, err := q.ref()
		if err != nil {
			return err
		}
		text, err := s.cfg.Referrers.SBOM(q.Context(), q.tenant, ref, q.param("format"))
		if err == nil {
			q.writeJSON(http.StatusOK, text)
		}
		return err
	}
	return []route{
		call(route{method: http.MethodGet, path: referrersPath, id: "listReferrers", tag: "referrers", scope: api.ScopeRead,
			summary: "List what is attached to a version", detail: "Ordered by digest.", errors: missing,
			query: []parameter{{name: "type", doc: "Only those of this type."}, afterParameter, limitParameter}},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[api.Referrer], err error) {
				ref, err := q.ref()
				if err != nil {
					return page, err
				}
				limit, err := q.limit()
				if err != nil {
					return page, err
				}
				after := api.Digest(q.param("after"))
				if after != "" && !after.Valid() {
					return page, api.Fail(api.CodeBadRequest, "", "after=%q is not the `next` of a page", clipped(string(after)))
				}
				found, err := s.cfg.Referrers.VersionReferrers(ctx, q.tenant, ref, q.param("type"), after, limit)
				return pageOf(found, limit, func(r api.Referrer) string { return string(r.Digest) }), err
			}),
		call(route{method: http.MethodPost, path: referrersPath, id: "attachReferrer", tag: "referrers", scope: api.ScopeWrite,
			summary: "Attach an uploaded blob to a version", status: http.StatusCreated,
			detail: "It becomes an OCI manifest whose subject is the version. The same blob again is the same referrer. A signature (type " +
				api.ReferrerSignature + ") must be about this version and all its files.",
			errors: append(missing, api.CodeBlobNotFound, api.CodeSignatureInvalid, api.CodeTooLarge)},
			func(ctx context.Context, q *request, in *api.ReferrerRequest) (api.Referrer, error) {
				ref, err := q.ref()
				if err != nil {
					return api.Referrer{}, err
				}
				return s.cfg.Referrers.Attach(ctx, q.principal, ref, *in)
			}),
		content, sbom,
	}
}

// sendReferrer streams the paper. It is always bytes to a browser: what a stranger attached is never a page of this server.
func (s *Server) sendReferrer(q *request) error {
	ref, err := q.ref()
	if err != nil {
		return err
	}
	digest, err := parseDigest(q.PathValue("digest"))
	if err != nil {
		return err
	}
	paper, file, err := s.cfg.Referrers.OpenReferrer(q.Context(), q.tenant, ref, digest)
	if err != nil {
		return err
	}
	defer file.Close()
	h := q.w.Header()
	h.Set("Content-Type", mediaBytes)
	h.Set("Penstock-Media-Type", clipped(strconv.QuoteToASCII(paper.MediaType)))
	h.Set("Content-Disposition", "attachment; filename="+strconv.QuoteToASCII(path.Base(paper.Path)))
	h.Set("ETag", strconv.Quote(string(paper.Digest)))
	http.ServeContent(q.pacedWriter(), q.Request, "", time.Time{}, file)
	return nil
}
