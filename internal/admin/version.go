package admin

import (
	"context"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
)

// Versions commits and reads versions.
type Versions interface {
	Commit(ctx context.Context, p *api.Principal, m api.ModelName, up api.Upload) (_ api.Version, created bool, _ error)
	Resolve(ctx context.Context, t api.TenantID, ref api.Ref) (api.Version, error)
	Versions(ctx context.Context, t api.TenantID, m api.ModelName, before api.VersionNumber, limit int) ([]api.Version, error)
	SetTags(ctx context.Context, p *api.Principal, m api.ModelName, n api.VersionNumber, set map[string]string, remove []string) (api.Version, error)
	SetMetadata(ctx context.Context, p *api.Principal, ref api.Ref, in api.MetadataRequest, ifChanges int64) (api.Version, error)
	Diff(ctx context.Context, t api.TenantID, from, to api.Ref) (api.VersionDiff, error)
	WriteGate(ctx context.Context, p *api.Principal, ref api.Ref, in api.GateRequest) (api.Version, error)
	OpenArtifact(ctx context.Context, t api.TenantID, ref api.Ref, path string) (api.Artifact, io.ReadSeekCloser, error)
}

const (
	versionsPath = "/tenants/{tenant}/models/{model}/versions"
	versionPath  = versionsPath + "/{version}"
)

func (s *Server) versionRoutes() []route {
	artifact := route{method: http.MethodGet, path: versionPath + "/artifacts/{path...}", id: "getArtifact", tag: "versions", scope: api.ScopeRead,
		summary: "Download a file of a version", detail: "One byte range may be asked for; the ETag is the digest.", outMedia: mediaBytes,
		errors: []api.Code{api.CodeModelNotFound, api.CodeVersionNotFound, api.CodeAliasNotFound, api.CodeBlobNotFound}}
	artifact.serve = s.sendArtifact
	return []route{
		s.commitRoute(),
		call(route{method: http.MethodGet, path: versionsPath, id: "listVersions", tag: "versions", scope: api.ScopeRead,
			summary: "List versions, newest first", query: []parameter{beforeParameter, limitParameter}, errors: []api.Code{api.CodeModelNotFound}},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[api.Version], err error) {
				before, limit, err := q.page("before")
				if err != nil {
					return page, err
				}
				versions, err := s.cfg.Versions.Versions(ctx, q.tenant, q.model(), api.VersionNumber(before), limit)
				for i := range versions {
					wholeVersion(&versions[i])
				}
				return pageOf(versions, limit, func(v api.Version) string { return decimal(v.Number) }), err
			}),
		call(route{method: http.MethodGet, path: versionPath, id: "getVersion", tag: "versions", scope: api.ScopeRead,
			summary: "Show a version", errors: []api.Code{api.CodeModelNotFound, api.CodeVersionNotFound, api.CodeAliasNotFound}},
			func(ctx context.Context, q *request, _ *nothing) (v api.Version, err error) {
				ref, err := q.ref()
				if err != nil {
					return v, err
				}
				v, err = s.cfg.Versions.Resolve(ctx, q.tenant, ref)
				wholeVersion(&v)
				return v, err
			}),
		s.metadataRoute(), s.gateRoute(), s.diffRoute(),
		call(route{method: http.MethodPatch, path: versionPath + "/tags", id: "setTags", tag: "versions", scope: api.ScopeWrite,
			summary: "Change tags", look: lookVersion, errors: []api.Code{api.CodeModelNotFound, api.CodeVersionNotFound, api.CodeAliasNotFound}},
			func(ctx context.Context, q *request, in *api.TagsRequest) (v api.Version, err error) {
				ref, err := q.ref()
				if err != nil {
					return v, err
				}
				if v, err = s.cfg.Versions.Resolve(ctx, q.tenant, ref); err != nil {
					return v, err
				}
				v, err = s.cfg.Versions.SetTags(ctx, q.principal, v.Model, v.Number, in.Set, in.Remove)
				wholeVersion(&v)
				return v, err
			}),
		artifact,
	}
}

func lookVersion(ctx context.Context, q *request) any {
	ref, err := q.ref()
	if err != nil {
		return nil
	}
	if v, err := q.server.cfg.Versions.Resolve(ctx, q.tenant, ref); err == nil {
		return v
	}
	return nil
}

// metadataRoute changes what may change. Its ETag is Version.Changes.
func (s *Server) metadataRoute() route {
	return call(route{method: http.MethodPatch, path: versionPath + "/metadata", id: "setMetadata", tag: "versions", scope: api.ScopeWrite,
		summary: "Change notes and label", detail: "A field that is left out stays. What made the version (origin, signature, metrics of the push, card) never changes.",
		headers: conditionHeaders[:1], look: lookVersion, errors: []api.Code{api.CodeModelNotFound, api.CodeVersionNotFound, api.CodeStale, api.CodeExists}},
		func(ctx context.Context, q *request, in *api.MetadataRequest) (v api.Version, err error) {
			ref, err := q.ref()
			if err != nil {
				return v, err
			}
			changes, err := q.condition(func() (int64, error) { return -1, nil })
			if err != nil {
				return v, err
			}
			v, err = s.cfg.Versions.SetMetadata(ctx, q.principal, ref, *in, changes)
			if err == nil {
				q.setETag(v.Changes)
			}
			wholeVersion(&v)
			return v, err
		})
}

// diffRoute compares with another version of the tenant, perhaps of another model.
func (s *Server) diffRoute() route {
	return call(route{method: http.MethodGet, path: versionPath + "/diff", id: "diffVersions", tag: "versions", scope: api.ScopeRead,
		summary: "Compare two versions", detail: "Signature, graph, parameters, metadata, metrics and files; at most 200 changes of each are listed.",
		query:  []parameter{{name: "with", doc: "Reference of the other version, such as fraud@3 or fraud:champion."}},
		errors: []api.Code{api.CodeModelNotFound, api.CodeVersionNotFound, api.CodeAliasNotFound, api.CodeModelRefused}},
		func(ctx context.Context, q *request, _ *nothing) (d api.VersionDiff, err error) {
			from, err := q.ref()
			if err != nil {
				return d, err
			}
			to, err := api.ParseRef(q.param("with"))
			if err != nil {
				return d, err
			}
			return s.cfg.Versions.Diff(ctx, q.tenant, from, to)
		})
}

func (s *Server) gateRoute() route {
	return call(route{method: http.MethodPost, path: versionPath + "/gates", id: "writeGate", tag: "versions", scope: api.ScopeGate,
		summary: "Write what a gate found", detail: "The last result of each gate counts; rules of aliases ask for it.", look: lookVersion,
		errors: []api.Code{api.CodeModelNotFound, api.CodeVersionNotFound, api.CodeAliasNotFound, api.CodeTooLarge}},
		func(ctx context.Context, q *request, in *api.GateRequest) (v api.Version, err error) {
			ref, err := q.ref()
			if err != nil {
				return v, err
			}
			v, err = s.cfg.Versions.WriteGate(ctx, q.principal, ref, *in)
			wholeVersion(&v)
			return v, err
		})
}

// commitRoute takes either the list of uploaded blobs as JSON, or the one file itself.
func (s *Server) commitRoute() route {
	r := call(route{method: http.MethodPost, path: versionsPath, id: "commitVersion", tag: "versions", scope: api.ScopeWrite,
		summary: "Commit a version",
		detail:  "JSON names blobs that were uploaded before; application/octet-stream is one model file, streamed. The same content again answers 200 with the version that exists.",
		query: []parameter{{name: "filename", doc: "Name of the streamed file; model.onnx when left out."},
			{name: "alias", doc: "Alias to move to the version of a streamed file; may be repeated.", repeated: true}},
		inBytes: true, status: http.StatusCreated, also: http.StatusOK,
		errors: []api.Code{api.CodeBlobNotFound, api.CodeFormatRefused, api.CodeModelRefused, api.CodeQuarantined, api.CodeTooLarge, api.CodeDeadline}},
		func(ctx context.Context, q *request, up *api.Upload) (api.Version, error) {
			if q.param("filename") != "" || q.param("alias") != "" {
				return api.Version{}, api.Fail(api.CodeBadRequest, "", "filename and alias belong to a streamed file; name them in the JSON body")
			}
			return q.commit(ctx, *up)
		})
	fromJSON := r.serve
	r.serve = func(q *request) error {
		if media, _, _ := strings.Cut(q.Header.Get("Content-Type"), ";"); media != mediaBytes {
			return fromJSON(q)
		}
		return q.naturally(func() (any, error) { return q.commitStream() })
	}
	return r
}

func (q *request) commit(ctx context.Context, up api.Upload) (api.Version, error) {
	v, created, err := q.server.cfg.Versions.Commit(ctx, q.principal, q.model(), up)
	if err != nil {
		return v, err
	}
	if !created {
		q.status = http.StatusOK
	}
	wholeVersion(&v)
	return v, nil
}

func (q *request) commitStream() (api.Version, error) {
	name := q.param("filename")
	if name == "" {
		name = "model.onnx"
	}
	var aliases []api.AliasName
	for _, a := range q.values["alias"] {
		if err := api.CheckName("alias", a); err != nil {
			return api.Version{}, err
		}
		aliases = append(aliases, api.AliasName(a))
	}
	blob, err := q.putBlob()
	if err != nil {
		return api.Version{}, err
	}
	return q.commit(q.Context(), api.Upload{Files: []api.UploadFile{{Path: name, Digest: blob.Digest, Size: blob.Size}}, Aliases: aliases})
}

// ref reads {version}: a number, a digest, "latest", or else an alias.
func (q *request) ref() (api.Ref, error) {
	ref, text := api.Ref{Model: q.model()}, q.PathValue("version")
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err == nil && n > 0:
		ref.Version = api.VersionNumber(n)
	case err == nil:
		return ref, api.Fail(api.CodeVersionNotFound, clipped(text), "versions are numbered from 1")
	case text == "latest":
	case api.Digest(text).Valid():
		ref.Digest = api.Digest(text)
	case text[0] == '^' || text[0] == '~':
		ref.Label = text
		return ref, api.CheckLabelRef(text)
	default:
		if api.LooksLikeLabel(text) && api.CheckLabelRef(text) == nil {
			ref.Label = text // or else an alias that looks like one
		}
		if err := api.CheckName("alias", text); err != nil {
			return ref, err
		}
		ref.Alias = api.AliasName(text)
	}
	return ref, nil
}

// sendArtifact streams a file with a deadline per write, so that a slow reader is fine and a dead one is not.
func (s *Server) sendArtifact(q *request) error {
	ref, err := q.ref()
	if err != nil {
		return err
	}
	artifact, file, err := s.cfg.Versions.OpenArtifact(q.Context(), q.tenant, ref, q.PathValue("path"))
	if err != nil {
		return err
	}
	defer file.Close()
	// Several ranges would let a small request ask for the file many times over.
	if strings.Contains(q.Header.Get("Range"), ",") {
		q.Header.Del("Range")
	}
	h := q.w.Header()
	h.Set("Content-Type", mediaBytes)
	h.Set("Content-Disposition", "attachment; filename="+strconv.QuoteToASCII(path.Base(artifact.Path)))
	h.Set("ETag", strconv.Quote(string(artifact.Digest)))
	http.ServeContent(q.pacedWriter(), q.Request, "", time.Time{}, file)
	return nil
}

// pacedWriter renews the write deadline before each write.
func (q *request) pacedWriter() *pacedWriter {
	return &pacedWriter{answerWriter: q.w, control: http.NewResponseController(q.w), timeout: q.server.cfg.WriteTimeout}
}

type pacedWriter struct {
	*answerWriter
	control *http.ResponseController
	timeout time.Duration
}

// Write sends bytes under a fresh deadline. Connections without deadlines are left to the server's own limits.
func (p *pacedWriter) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(p.timeout))
	return p.answerWriter.Write(b)
}

// wholeVersion gives empty lists instead of null.
func wholeVersion(v *api.Version) {
	if v.Artifacts == nil {
		v.Artifacts = []api.Artifact{}
	}
	for _, specs := range []*[]api.TensorSpec{&v.Signature.Inputs, &v.Signature.Outputs} {
		if *specs == nil {
			*specs = []api.TensorSpec{}
		}
		for i := range *specs {
			if (*specs)[i].Shape == nil {
				(*specs)[i].Shape = []int64{}
			}
		}
	}
}
