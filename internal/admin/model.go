package admin

import (
	"context"
	"net/http"

	"github.com/penstock/penstock/api"
)

// Models reads models.
type Models interface {
	Model(ctx context.Context, t api.TenantID, m api.ModelName) (api.Model, error)
	Models(ctx context.Context, t api.TenantID, after api.ModelName, limit int) ([]api.Model, error)
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
	}
}

// wholeModel gives empty lists instead of null.
func wholeModel(m *api.Model) {
	if m.Aliases == nil {
		m.Aliases = []api.Alias{}
	}
}
