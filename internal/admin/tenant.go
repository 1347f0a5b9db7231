package admin

import (
	"context"
	"net/http"

	"github.com/penstock/penstock/api"
)

// Tenants lists and makes tenants.
type Tenants interface {
	CreateTenant(ctx context.Context, by *api.Principal, id api.TenantID) (api.Tenant, error)
	Tenants(ctx context.Context) ([]api.Tenant, error)
}

func (s *Server) tenantRoutes() []route {
	return []route{
		call(route{method: http.MethodGet, path: "/tenants", id: "listTenants", tag: "tenants", scope: api.ScopeAdmin, reach: serverWide,
			summary: "List tenants"},
			func(ctx context.Context, _ *request, _ *nothing) (api.List[api.Tenant], error) {
				tenants, err := s.cfg.Tenants.Tenants(ctx)
				return pageOf(tenants, len(tenants)+1, func(t api.Tenant) string { return string(t.ID) }), err
			}),
		call(route{method: http.MethodPost, path: "/tenants", id: "createTenant", tag: "tenants", scope: api.ScopeAdmin, reach: serverWide,
			summary: "Make a tenant", status: http.StatusCreated, errors: []api.Code{api.CodeExists, api.CodeBadName}},
			func(ctx context.Context, q *request, in *api.TenantRequest) (api.Tenant, error) {
				if err := api.CheckName("tenant", string(in.ID)); err != nil {
					return api.Tenant{}, err
				}
				return s.cfg.Tenants.CreateTenant(ctx, q.principal, in.ID)
			}),
	}
}
