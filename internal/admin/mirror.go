package admin

import (
	"context"
	"net/http"

	"github.com/penstock/penstock/api"
)

// Mirrors keeps repositories here and at other registries alike.
type Mirrors interface {
	CreateMirror(ctx context.Context, p *api.Principal, in api.MirrorRequest) (api.Mirror, error)
	Mirror(ctx context.Context, t api.TenantID, name api.MirrorName) (api.Mirror, error)
	Mirrors(ctx context.Context, t api.TenantID) ([]api.Mirror, error)
	RunMirror(ctx context.Context, p *api.Principal, name api.MirrorName) (api.Mirror, error)
	DeleteMirror(ctx context.Context, p *api.Principal, name api.MirrorName) error
}

const mirrorsPath = "/tenants/{tenant}/mirrors"

func (s *Server) mirrorRoutes() []route {
	if s.cfg.Mirrors == nil {
		return nil
	}
	missing := []api.Code{api.CodeNotFound}
	return []route{
		call(route{method: http.MethodPost, path: mirrorsPath, id: "createMirror", tag: "mirrors", scope: api.ScopeWrite,
			summary: "Make a mirror", detail: "A mirror is not changed: delete it and make another.", status: http.StatusCreated,
			errors: []api.Code{api.CodeBadName, api.CodeExists, api.CodeTooLarge}},
			func(ctx context.Context, q *request, in *api.MirrorRequest) (api.Mirror, error) {
				return s.cfg.Mirrors.CreateMirror(ctx, q.principal, *in)
			}),
		call(route{method: http.MethodGet, path: mirrorsPath, id: "listMirrors", tag: "mirrors", scope: api.ScopeRead, summary: "List the tenant's mirrors"},
			func(ctx context.Context, q *request, _ *nothing) (api.List[api.Mirror], error) {
				all, err := s.cfg.Mirrors.Mirrors(ctx, q.tenant)
				return pageOf(all, len(all)+1, func(m api.Mirror) string { return string(m.Name) }), err
			}),
		call(route{method: http.MethodGet, path: mirrorsPath + "/{mirror}", id: "getMirror", tag: "mirrors", scope: api.ScopeRead,
			summary: "Show a mirror, and how its last round went", errors: missing},
			func(ctx context.Context, q *request, _ *nothing) (api.Mirror, error) {
				return s.cfg.Mirrors.Mirror(ctx, q.tenant, q.mirror())
			}),
		call(route{method: http.MethodPost, path: mirrorsPath + "/{mirror}/run", id: "runMirror", tag: "mirrors", scope: api.ScopeWrite,
			summary: "Begin a round of a mirror now", status: http.StatusAccepted, errors: missing},
			func(ctx context.Context, q *request, _ *nothing) (api.Mirror, error) {
				return s.cfg.Mirrors.RunMirror(ctx, q.principal, q.mirror())
			}),
		call(route{method: http.MethodDelete, path: mirrorsPath + "/{mirror}", id: "deleteMirror", tag: "mirrors", scope: api.ScopeWrite,
			summary: "Delete a mirror", detail: "What it copied stays.", errors: missing},
			func(ctx context.Context, q *request, _ *nothing) (nothing, error) {
				return nothing{}, s.cfg.Mirrors.DeleteMirror(ctx, q.principal, q.mirror())
			}),
	}
}

func (q *request) mirror() api.MirrorName { return api.MirrorName(q.PathValue("mirror")) }
