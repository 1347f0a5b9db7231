package admin

import (
	"context"
	"net/http"
	"slices"

	"github.com/penstock/penstock/api"
)

// Models reads models.
type Models interface {
	Model(ctx context.Context, t api.TenantID, m api.ModelName) (api.Model, error)
	Models(ctx context.Context, t api.TenantID, after api.ModelName, limit int) ([]api.Model, error)
	ShareModel(ctx context.Context, p *api.Principal, m api.ModelName, with api.TenantID, share bool) error
	ModelReaders(ctx context.Context, t api.TenantID, m api.ModelName) ([]api.ModelReader, error)
	RenameModel(ctx context.Context, p *api.Principal, m api.ModelName, in api.RenameRequest) (api.Model, error)
	ForgetRedirect(ctx context.Context, p *api.Principal, name api.ModelName) error
	Redirects(ctx context.Context, t api.TenantID, after api.ModelName, limit int) ([]api.Redirect, error)
	CopyVersion(ctx context.Context, p *api.Principal, m api.ModelName, in api.SharedCopyRequest) (_ api.Version, created bool, _ error)
}

func (s *Server) modelRoutes() []route {
	return []route{
		call(route{method: http.MethodGet, path: "/tenants/{tenant}/models", id: "listModels", tag: "models", scope: api.ScopeRead,
			summary: "List models by name", query: []parameter{afterParameter, limitParameter}},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[api.Model], err error) {
				limit, err := q.limit()
				if err != nil {
					return page, err
				}
				models, err := s.cfg.Models.Models(ctx, q.tenant, api.ModelName(q.param("after")), limit)
				for i := range models {
					wholeModel(&models[i])
				}
				return pageOf(models, limit, func(m api.Model) string { return string(m.Name) }), err
			}),
		call(route{method: http.MethodGet, path: "/tenants/{tenant}/models/{model}", id: "getModel", tag: "models", scope: api.ScopeRead,
			summary: "Show a model with its aliases", errors: []api.Code{api.CodeModelNotFound}},
			func(ctx context.Context, q *request, _ *nothing) (api.Model, error) {
				m, err := s.cfg.Models.Model(ctx, q.tenant, q.model())
				wholeModel(&m)
				return m, err
			}),
		s.readersRoute(), s.shareRoute(http.MethodPut, "shareModel", "Let another tenant copy versions of a model", true),
		s.shareRoute(http.MethodDelete, "unshareModel", "Let another tenant copy no more; its copies stay", false), s.copyRoute(),
		s.renameRoute(), s.redirectsRoute(), s.forgetRoute(),
	}
}

const readersPath = "/tenants/{tenant}/models/{model}/readers"

func (s *Server) readersRoute() route {
	return call(route{method: http.MethodGet, path: readersPath, id: "listReaders", tag: "models", scope: api.ScopeRead,
		summary: "List the tenants that may copy versions of a model", errors: []api.Code{api.CodeModelNotFound}},
		func(ctx context.Context, q *request, _ *nothing) (page api.List[api.ModelReader], err error) {
			readers, err := s.cfg.Models.ModelReaders(ctx, q.tenant, q.model())
			return pageOf(readers, len(readers)+1, func(r api.ModelReader) string { return string(r.Tenant) }), err
		})
}

func (s *Server) shareRoute(method, id, summary string, share bool) route {
	return call(route{method: method, path: readersPath + "/{reader}", id: id, tag: "models", scope: api.ScopeAdmin,
		summary: summary, look: lookReader, errors: []api.Code{api.CodeModelNotFound, api.CodeNotFound}},
		func(ctx context.Context, q *request, _ *nothing) (nothing, error) {
			return nothing{}, s.cfg.Models.ShareModel(ctx, q.principal, q.model(), api.TenantID(q.PathValue("reader")), share)
		})
}

func lookReader(ctx context.Context, q *request) any {
	readers, err := q.server.cfg.Models.ModelReaders(ctx, q.tenant, q.model())
	i := slices.IndexFunc(readers, func(r api.ModelReader) bool { return string(r.Tenant) == q.PathValue("reader") })
	if err != nil || i < 0 {
		return nil
	}
	return readers[i]
}

func (s *Server) copyRoute() route {
	return call(route{method: http.MethodPost, path: "/tenants/{tenant}/models/{model}/copies", id: "copySharedVersion", tag: "models", scope: api.ScopeWrite,
		summary: "Copy a version of another tenant", detail: "Its owner must have shared the model. No bytes move. The same content again answers 200 with the version that exists.",
		status: http.StatusCreated, also: http.StatusOK, errors: []api.Code{api.CodeModelNotFound, api.CodeVersionNotFound, api.CodeModelRefused, api.CodeProtected, api.CodeQuotaExceeded}},
		func(ctx context.Context, q *request, in *api.SharedCopyRequest) (api.Version, error) {
			q.reason = "copied from " + clipped(string(in.Tenant)+"/"+in.Ref)
			v, created, err := s.cfg.Models.CopyVersion(ctx, q.principal, q.model(), *in)
			if err == nil && !created {
				q.status = http.StatusOK
			}
			wholeVersion(&v)
			return v, err
		})
}

// wholeModel gives empty lists instead of null.
func wholeModel(m *api.Model) {
	if m.Aliases == nil {
		m.Aliases = []api.Alias{}
	}
}
