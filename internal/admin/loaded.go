package admin

import (
	"context"
	"net/http"

	"github.com/penstock/penstock/api"
)

// Loaded tells which models are in memory.
type Loaded interface {
	Loaded(t api.TenantID) []api.LoadedModel
	Memory() api.ModelMemory
}

func (s *Server) loadedRoutes() []route {
	return []route{call(route{method: http.MethodGet, path: "/tenants/{tenant}/loaded", id: "listLoaded", tag: "models", scope: api.ScopeRead,
		summary: "Which models are in memory, where and why",
		detail:  "Memory is shared by all tenants: what all of them take together is told to admins of tenant default only."},
		func(_ context.Context, q *request, _ *nothing) (api.LoadedModels, error) {
			out := api.LoadedModels{Items: s.cfg.Loaded.Loaded(q.tenant)}
			if q.principal.Tenant == api.DefaultTenant && q.principal.Allows(api.ScopeAdmin) {
				out.Memory = s.cfg.Loaded.Memory()
			}
			return out, nil
		})}
}
