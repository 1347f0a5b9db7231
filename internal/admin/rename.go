package admin

import (
	"context"
	"net/http"
	"slices"

	"github.com/penstock/penstock/api"
)

const redirectsPath = "/tenants/{tenant}/redirects"

func (s *Server) renameRoute() route {
	return call(route{method: http.MethodPost, path: modelPath + "/rename", id: "renameModel", tag: "models", scope: api.ScopeWrite,
		summary: "Give a model another name", detail: "Every earlier name leads to the new one from then on, in references of all kinds, and nothing new can take it. What serves goes on.",
		look: lookModelName, errors: []api.Code{api.CodeModelNotFound, api.CodeExists, api.CodeRedirected, api.CodeBadName}},
		func(ctx context.Context, q *request, in *api.RenameRequest) (api.Model, error) {
			q.about = string(q.model()) + " to " + clipped(string(in.To)) // both names are in the audit, whatever comes of it
			m, err := s.cfg.Models.RenameModel(ctx, q.principal, q.model(), *in)
			wholeModel(&m)
			return m, err
		})
}

// lookModelName is the name that a model has before it gets another.
func lookModelName(ctx context.Context, q *request) any {
	m, err := q.server.cfg.Models.Model(ctx, q.tenant, q.model())
	if err != nil {
		return nil
	}
	return m.Name
}

func (s *Server) redirectsRoute() route {
	return call(route{method: http.MethodGet, path: redirectsPath, id: "listRedirects", tag: "models", scope: api.ScopeRead,
		summary: "List earlier names of models, by name", query: []parameter{afterParameter, limitParameter}},
		func(ctx context.Context, q *request, _ *nothing) (page api.List[api.Redirect], err error) {
			limit, err := q.limit()
			if err != nil {
				return page, err
			}
			all, err := s.cfg.Models.Redirects(ctx, q.tenant, api.ModelName(q.param("after")), limit)
			return pageOf(all, limit, func(r api.Redirect) string { return string(r.Name) }), err
		})
}

func (s *Server) forgetRoute() route {
	return call(route{method: http.MethodDelete, path: redirectsPath + "/{model}", id: "forgetRedirect", tag: "models", scope: api.ScopeAdmin,
		summary: "Free an earlier name of a model", detail: "References by that name are not found any more, and the next model may take it.",
		look: lookRedirect, errors: []api.Code{api.CodeNotFound}},
		func(ctx context.Context, q *request, _ *nothing) (nothing, error) {
			return nothing{}, s.cfg.Models.ForgetRedirect(ctx, q.principal, q.model())
		})
}

func lookRedirect(ctx context.Context, q *request) any {
	all, err := q.server.cfg.Models.Redirects(ctx, q.tenant, "", 1000)
	i := slices.IndexFunc(all, func(r api.Redirect) bool { return r.Name == q.model() })
	if err != nil || i < 0 {
		return nil
	}
	return all[i]
}
