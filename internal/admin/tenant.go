package admin

import (
	"context"
	"net/http"
	"slices"

	"github.com/penstock/penstock/api"
)

// Tenants lists and makes tenants.
type Tenants interface {
	CreateTenant(ctx context.Context, by *api.Principal, id api.TenantID) (api.Tenant, error)
	Tenants(ctx context.Context) ([]api.Tenant, error)
	SetWeight(ctx context.Context, by *api.Principal, id api.TenantID, weight int, ifGeneration int64) (api.Tenant, error)
}

const tenantPath = "/tenants/{tenant}"

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
		call(route{method: http.MethodGet, path: tenantPath, id: "getTenant", tag: "tenants", scope: api.ScopeAdmin, reach: administrated,
			summary: "Show a tenant", detail: "The ETag counts its changes."},
			func(ctx context.Context, q *request, _ *nothing) (api.Tenant, error) {
				t, err := q.findTenant(ctx)
				if err == nil {
					q.setETag(t.Generation)
				}
				return t, err
			}),
		call(route{method: http.MethodPatch, path: tenantPath, id: "setTenant", tag: "tenants", scope: api.ScopeAdmin, reach: administrated,
			summary: "Change a tenant's weight", headers: conditionHeaders[:1], errors: []api.Code{api.CodeStale},
			detail: "Only for keys of tenant `default`. The weight is in effect when the call returns."},
			func(ctx context.Context, q *request, in *api.TenantChange) (api.Tenant, error) {
				generation, err := q.condition(func() (int64, error) {
					t, err := q.findTenant(ctx)
					return t.Generation, err
				})
				if err != nil {
					return api.Tenant{}, err
				}
				t, err := s.cfg.Tenants.SetWeight(ctx, q.principal, q.tenant, in.Weight, generation)
				if err == nil {
					q.setETag(t.Generation)
				}
				return t, err
			}),
	}
}

// findTenant gives the tenant of the path.
func (q *request) findTenant(ctx context.Context) (api.Tenant, error) {
	all, err := q.server.cfg.Tenants.Tenants(ctx)
	if err != nil {
		return api.Tenant{}, err
	}
	if i := slices.IndexFunc(all, func(t api.Tenant) bool { return t.ID == q.tenant }); i >= 0 {
		return all[i], nil
	}
	return api.Tenant{}, noSuchTenant()
}
