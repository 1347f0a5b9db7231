package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/penstock/penstock/api"
)

// Keys makes, lists and revokes API keys.
type Keys interface {
	CreateKey(ctx context.Context, by *api.Principal, k api.Key) (_ api.Key, secret string, _ error)
	Keys(ctx context.Context, t api.TenantID) ([]api.Key, error)
	RevokeKey(ctx context.Context, by *api.Principal, t api.TenantID, id api.KeyID) error
}

const keyIDMax = 128 // bytes of a key's identifier in a path

func (s *Server) keyRoutes() []route {
	return []route{
		call(route{method: http.MethodGet, path: "/tenants/{tenant}/keys", id: "listKeys", tag: "keys", scope: api.ScopeAdmin, reach: administrated,
			summary: "List the tenant's keys, without their secrets"},
			func(ctx context.Context, q *request, _ *nothing) (api.List[api.Key], error) {
				keys, err := s.cfg.Keys.Keys(ctx, q.tenant)
				if api.KindOf(err) == api.NotFound && err != nil {
					err = noSuchTenant()
				}
				return pageOf(keys, len(keys)+1, func(k api.Key) string { return string(k.ID) }), err
			}),
		call(route{method: http.MethodPost, path: "/tenants/{tenant}/keys", id: "createKey", tag: "keys", scope: api.ScopeAdmin, reach: administrated,
			summary: "Make a key", detail: "The secret is in this answer and nowhere else.", status: http.StatusCreated},
			func(ctx context.Context, q *request, in *api.KeyRequest) (api.NewKey, error) {
				if !in.Expires.IsZero() && !in.Expires.Std().After(time.Now()) {
					return api.NewKey{}, api.Fail(api.CodeBadRequest, "$.expires", "the key would have expired already")
				}
				key, secret, err := s.cfg.Keys.CreateKey(ctx, q.principal, api.Key{Tenant: q.tenant, Name: in.Name, Scopes: in.Scopes, Expires: in.Expires})
				return api.NewKey{Key: key, Secret: secret}, err
			}),
		call(route{method: http.MethodDelete, path: "/tenants/{tenant}/keys/{id}", id: "revokeKey", tag: "keys", scope: api.ScopeAdmin, reach: administrated,
			summary: "Revoke a key", detail: "It stops working at once."},
			func(ctx context.Context, q *request, _ *nothing) (nothing, error) {
				id := q.PathValue("id")
				if len(id) > keyIDMax {
					return nothing{}, api.Fail(api.CodeNotFound, "", "there is no such key")
				}
				return nothing{}, s.cfg.Keys.RevokeKey(ctx, q.principal, q.tenant, api.KeyID(id))
			}),
	}
}
