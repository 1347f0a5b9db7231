package admin

import (
	"context"
	"net/http"
	"strconv"

	"github.com/penstock/penstock/api"
)

// Keeping decides what stays: deletion and restoring, retention, quotas. ifGeneration is as with endpoints: -1 is any, 0 is
// "was never set".
type Keeping interface {
	DeleteVersion(ctx context.Context, p *api.Principal, ref api.Ref, why string, forGood bool) error
	DeleteModel(ctx context.Context, p *api.Principal, m api.ModelName, withAliases bool, why string, forGood bool) error
	RestoreVersion(ctx context.Context, p *api.Principal, m api.ModelName, n api.VersionNumber) (api.Version, error)
	RestoreManifest(ctx context.Context, p *api.Principal, repo api.Repository, digest api.ContentDigest) error
	Trash(ctx context.Context, t api.TenantID, limit int) ([]api.Deleted, error)

	Retention(ctx context.Context, t api.TenantID, m api.ModelName) (api.Retention, error)
	SetRetention(ctx context.Context, p *api.Principal, m api.ModelName, rules api.RetentionRules, ifGeneration int64) (api.Retention, error)
	ApplyRetention(ctx context.Context, p *api.Principal, m api.ModelName, dry bool) ([]api.RetentionVerdict, error)

	Quota(ctx context.Context, t api.TenantID) (api.Quota, error)
	SetQuota(ctx context.Context, by *api.Principal, t api.TenantID, q api.QuotaRequest, ifGeneration int64) (api.Quota, error)
}

const (
	modelPath     = "/tenants/{tenant}/models/{model}"
	retentionPath = modelPath + "/retention"
	quotaPath     = "/tenants/{tenant}/quota"
)

var deleteParameters = []parameter{{name: "why", doc: "Reason, kept in the event."},
	{name: "for_good", doc: "1: it cannot be restored, and the next collection frees it.", kind: "boolean"}}

func (s *Server) trashRoutes() []route {
	return []route{
		call(route{method: http.MethodDelete, path: versionPath, id: "deleteVersion", tag: "versions", scope: api.ScopeWrite,
			summary: "Delete a version", detail: "It can be restored for a while. Its number is never given out again. What an alias, an endpoint or a release under way needs is refused.",
			query: deleteParameters, errors: []api.Code{api.CodeModelNotFound, api.CodeVersionNotFound, api.CodeAliasNotFound, api.CodeInUse}},
			func(ctx context.Context, q *request, _ *nothing) (nothing, error) {
				ref, err := q.ref()
				if err != nil {
					return nothing{}, err
				}
				forGood, err := q.flag("for_good")
				if err != nil {
					return nothing{}, err
				}
				return nothing{}, s.cfg.Keeping.DeleteVersion(ctx, q.principal, ref, q.param("why"), forGood)
			}),
		call(route{method: http.MethodDelete, path: modelPath, id: "deleteModel", tag: "models", scope: api.ScopeWrite,
			summary: "Delete all versions of a model", detail: "All of them or none. Each can be restored for a while.",
			query:  append([]parameter{{name: "aliases", doc: "1: delete its aliases too; otherwise one that stands refuses the deletion.", kind: "boolean"}}, deleteParameters...),
			errors: []api.Code{api.CodeModelNotFound, api.CodeInUse}},
			func(ctx context.Context, q *request, _ *nothing) (nothing, error) {
				aliases, err := q.flag("aliases")
				if err != nil {
					return nothing{}, err
				}
				forGood, err := q.flag("for_good")
				if err != nil {
					return nothing{}, err
				}
				return nothing{}, s.cfg.Keeping.DeleteModel(ctx, q.principal, q.model(), aliases, q.param("why"), forGood)
			}),
		call(route{method: http.MethodPost, path: versionPath + "/restore", id: "restoreVersion", tag: "versions", scope: api.ScopeWrite,
			summary: "Restore a deleted version, by its number", errors: []api.Code{api.CodeModelNotFound, api.CodeVersionNotFound, api.CodeQuotaExceeded}},
			func(ctx context.Context, q *request, _ *nothing) (v api.Version, err error) {
				n, err := strconv.ParseInt(q.PathValue("version"), 10, 64)
				if err != nil || n < 1 {
					return v, api.Fail(api.CodeVersionNotFound, clipped(q.PathValue("version")), "a deleted version is named by its number")
				}
				v, err = s.cfg.Keeping.RestoreVersion(ctx, q.principal, q.model(), api.VersionNumber(n))
				wholeVersion(&v)
				return v, err
			}),
		call(route{method: http.MethodGet, path: "/tenants/{tenant}/trash", id: "listTrash", tag: "versions", scope: api.ScopeRead,
			summary: "List what can be restored, what was deleted last first", query: []parameter{limitParameter}},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[api.Deleted], err error) {
				limit, err := q.limit()
				if err != nil {
					return page, err
				}
				all, err := s.cfg.Keeping.Trash(ctx, q.tenant, limit)
				return pageOf(all, len(all)+1, func(d api.Deleted) string { return string(d.Digest) }), err
			}),
		call(route{method: http.MethodPost, path: "/tenants/{tenant}/trash", id: "restoreManifest", tag: "versions", scope: api.ScopeWrite,
			summary: "Restore a deleted manifest of a repository", detail: "With those of its tags that no other manifest took. One that is a version comes back as that.",
			errors: []api.Code{api.CodeManifestNotFound, api.CodeQuotaExceeded}},
			func(ctx context.Context, q *request, in *api.RestoreRequest) (nothing, error) {
				repo, err := api.ParseRepository(string(q.tenant) + "/" + in.Repository)
				if err != nil {
					return nothing{}, err
				}
				if !in.Digest.Valid() {
					return nothing{}, api.Fail(api.CodeBadRequest, "$.digest", "this is not a digest of sha256 or sha512")
				}
				q.about = in.Repository + "@" + string(in.Digest)
				return nothing{}, s.cfg.Keeping.RestoreManifest(ctx, q.principal, repo, in.Digest)
			}),
	}
}

func (s *Server) retentionRoutes() []route {
	missing := []api.Code{api.CodeModelNotFound}
	return []route{
		call(route{method: http.MethodGet, path: retentionPath, id: "getRetention", tag: "models", scope: api.ScopeRead,
			summary: "Show which versions of a model are kept", detail: "The ETag counts its changes.", errors: missing},
			func(ctx context.Context, q *request, _ *nothing) (api.Retention, error) {
				r, err := s.cfg.Keeping.Retention(ctx, q.tenant, q.model())
				if err == nil {
					q.setETag(r.Generation)
				}
				return r, err
			}),
		call(route{method: http.MethodPut, path: retentionPath, id: "setRetention", tag: "models", scope: api.ScopeWrite,
			summary: "Set which versions of a model are kept", detail: "The policy is applied with each garbage collection. No rule keeps everything.",
			headers: conditionHeaders, errors: []api.Code{api.CodeModelNotFound, api.CodeStale}},
			func(ctx context.Context, q *request, in *api.RetentionRules) (api.Retention, error) {
				generation, err := q.condition(func() (int64, error) {
					r, err := s.cfg.Keeping.Retention(ctx, q.tenant, q.model())
					return r.Generation, err
				})
				if err != nil {
					return api.Retention{}, err
				}
				r, err := s.cfg.Keeping.SetRetention(ctx, q.principal, q.model(), *in, generation)
				if err == nil {
					q.setETag(r.Generation)
				}
				return r, err
			}),
		call(route{method: http.MethodPost, path: retentionPath + "/apply", id: "applyRetention", tag: "models", scope: api.ScopeWrite,
			summary: "Delete what the model's retention does not keep", detail: "With dry_run it only tells what that is. The answer names every version and what keeps it.", errors: missing},
			func(ctx context.Context, q *request, in *api.RetentionRequest) (api.List[api.RetentionVerdict], error) {
				all, err := s.cfg.Keeping.ApplyRetention(ctx, q.principal, q.model(), in.DryRun)
				return pageOf(all, len(all)+1, func(v api.RetentionVerdict) string { return decimal(v.Version) }), err
			}),
	}
}

func (s *Server) quotaRoutes() []route {
	return []route{
		call(route{method: http.MethodGet, path: quotaPath, id: "getQuota", tag: "tenants", scope: api.ScopeRead, reach: administrated,
			summary: "Show what a tenant may store, and what it stores", detail: "The ETag counts its changes."},
			func(ctx context.Context, q *request, _ *nothing) (api.Quota, error) {
				quota, err := s.cfg.Keeping.Quota(ctx, q.tenant)
				if api.KindOf(err) == api.NotFound && err != nil {
					err = noSuchTenant()
				}
				if err == nil {
					q.setETag(quota.Generation)
				}
				return quota, err
			}),
		call(route{method: http.MethodPut, path: quotaPath, id: "setQuota", tag: "tenants", scope: api.ScopeAdmin, reach: administrated,
			summary: "Set what a tenant may store", detail: "Only an admin of tenant default may. A limit below what is stored takes nothing away.",
			headers: conditionHeaders, errors: []api.Code{api.CodeStale}},
			func(ctx context.Context, q *request, in *api.QuotaRequest) (api.Quota, error) {
				generation, err := q.condition(func() (int64, error) {
					quota, err := s.cfg.Keeping.Quota(ctx, q.tenant)
					return quota.Generation, err
				})
				if err != nil {
					return api.Quota{}, err
				}
				quota, err := s.cfg.Keeping.SetQuota(ctx, q.principal, q.tenant, *in, generation)
				if api.KindOf(err) == api.NotFound && err != nil {
					err = noSuchTenant()
				}
				if err == nil {
					q.setETag(quota.Generation)
				}
				return quota, err
			}),
	}
}
