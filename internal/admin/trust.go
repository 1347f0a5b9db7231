package admin

import (
	"context"
	"net/http"

	"github.com/penstock/penstock/api"
)

// Trust keeps a tenant's trust policy. ifGeneration is the generation that must still hold: -1 is any, 0 is "none yet".
type Trust interface {
	Trust(ctx context.Context, t api.TenantID) (api.TrustPolicy, error)
	SetTrust(ctx context.Context, p *api.Principal, t api.TenantID, in api.TrustRequest, ifGeneration int64) (api.TrustPolicy, error)
}

const trustPath = "/tenants/{tenant}/trust"

func (s *Server) trustRoutes() []route {
	return []route{
		call(route{method: http.MethodGet, path: trustPath, id: "getTrust", tag: "trust", scope: api.ScopeRead,
			summary: "Show the tenant's trust policy", detail: "The ETag counts its changes."},
			func(ctx context.Context, q *request, _ *nothing) (api.TrustPolicy, error) {
				p, err := s.cfg.Trust.Trust(ctx, q.tenant)
				if err == nil && p.Generation > 0 {
					q.setETag(p.Generation)
				}
				return wholeTrust(p), err
			}),
		call(route{method: http.MethodPut, path: trustPath, id: "setTrust", tag: "trust", scope: api.ScopeAdmin, headers: conditionHeaders,
			summary: "Change the tenant's trust policy", errors: []api.Code{api.CodeStale},
			detail: "From then on, a deploy of a version without a valid signature by one of the keys is refused. What serves goes on."},
			func(ctx context.Context, q *request, in *api.TrustRequest) (api.TrustPolicy, error) {
				generation, err := q.condition(func() (int64, error) {
					p, err := s.cfg.Trust.Trust(ctx, q.tenant)
					return p.Generation, err
				})
				if err != nil {
					return api.TrustPolicy{}, err
				}
				p, err := s.cfg.Trust.SetTrust(ctx, q.principal, q.tenant, *in, generation)
				if err == nil {
					q.setETag(p.Generation)
				}
				return wholeTrust(p), err
			}),
	}
}

// wholeTrust gives empty lists instead of null.
func wholeTrust(p api.TrustPolicy) api.TrustPolicy {
	if p.Aliases == nil {
		p.Aliases = []api.AliasName{}
	}
	if p.Keys == nil {
		p.Keys = []api.TrustedKey{}
	}
	return p
}
