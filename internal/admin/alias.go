package admin

import (
	"context"
	"net/http"
	"slices"

	"github.com/penstock/penstock/api"
)

// Aliases moves aliases. ifMoves is the count of moves that must still hold: -1 is any, 0 is "must not exist".
type Aliases interface {
	MoveAlias(ctx context.Context, p *api.Principal, m api.ModelName, a api.AliasName, to api.VersionNumber, ifMoves int64, why string) (api.Alias, error)
	AliasHistory(ctx context.Context, t api.TenantID, m api.ModelName, a api.AliasName, limit int) ([]api.AliasMove, error)
}

const aliasPath = "/tenants/{tenant}/models/{model}/aliases/{alias}"

func (s *Server) aliasRoutes() []route {
	missing := []api.Code{api.CodeModelNotFound, api.CodeAliasNotFound}
	return []route{
		call(route{method: http.MethodGet, path: aliasPath, id: "getAlias", tag: "aliases", scope: api.ScopeRead,
			summary: "Show an alias", detail: "The ETag counts its moves.", errors: missing},
			func(ctx context.Context, q *request, _ *nothing) (api.Alias, error) {
				a, err := q.alias(ctx)
				if err == nil {
					q.setETag(a.Moves)
				}
				return a, err
			}),
		call(route{method: http.MethodPut, path: aliasPath, id: "moveAlias", tag: "aliases", scope: api.ScopeWrite,
			summary: "Make or move an alias", headers: conditionHeaders,
			errors: []api.Code{api.CodeModelNotFound, api.CodeAliasNotFound, api.CodeVersionNotFound, api.CodeStale, api.CodeExists}},
			func(ctx context.Context, q *request, in *api.AliasRequest) (api.Alias, error) {
				return q.moveAlias(ctx, in.Version, in.Why)
			}),
		call(route{method: http.MethodDelete, path: aliasPath, id: "deleteAlias", tag: "aliases", scope: api.ScopeWrite,
			summary: "Delete an alias; its history stays", headers: conditionHeaders[:1],
			query:  []parameter{{name: "why", doc: "Reason, kept in the history."}},
			errors: []api.Code{api.CodeModelNotFound, api.CodeAliasNotFound, api.CodeStale}},
			func(ctx context.Context, q *request, _ *nothing) (nothing, error) {
				_, err := q.moveAlias(ctx, 0, q.param("why"))
				return nothing{}, err
			}),
		call(route{method: http.MethodGet, path: aliasPath + "/history", id: "aliasHistory", tag: "aliases", scope: api.ScopeRead,
			summary: "List the moves of an alias, newest first", query: []parameter{limitParameter}, errors: missing},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[api.AliasMove], err error) {
				limit, err := q.limit()
				if err != nil {
					return page, err
				}
				moves, err := s.cfg.Aliases.AliasHistory(ctx, q.tenant, q.model(), q.aliasName(), limit)
				return pageOf(moves, len(moves)+1, func(m api.AliasMove) string { return decimal(m.Seq) }), err
			}),
	}
}

func (q *request) aliasName() api.AliasName { return api.AliasName(q.PathValue("alias")) }

func (q *request) moveAlias(ctx context.Context, to api.VersionNumber, why string) (api.Alias, error) {
	moves, err := q.condition(func() (int64, error) {
		a, err := q.alias(ctx)
		return a.Moves, err
	})
	if err != nil {
		return api.Alias{}, err
	}
	a, err := q.server.cfg.Aliases.MoveAlias(ctx, q.principal, q.model(), q.aliasName(), to, moves, why)
	if err == nil && to != 0 {
		q.setETag(a.Moves)
	}
	return a, err
}

// alias finds the alias among its model's.
func (q *request) alias(ctx context.Context) (api.Alias, error) {
	m, err := q.server.cfg.Models.Model(ctx, q.tenant, q.model())
	if err != nil {
		return api.Alias{}, err
	}
	i := slices.IndexFunc(m.Aliases, func(a api.Alias) bool { return a.Name == q.aliasName() })
	if i < 0 {
		return api.Alias{}, api.Fail(api.CodeAliasNotFound, string(m.Name)+":"+string(q.aliasName()), "the model has no such alias")
	}
	return m.Aliases[i], nil
}
