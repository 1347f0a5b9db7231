package admin

import (
	"context"
	"net/http"
	"slices"

	"github.com/penstock/penstock/api"
)

// Aliases moves aliases and protects them.
type Aliases interface {
	MoveAlias(ctx context.Context, p *api.Principal, move api.AliasChange) (api.Alias, error)
	ProtectAlias(ctx context.Context, p *api.Principal, m api.ModelName, a api.AliasName, in api.AliasRuleRequest) (api.AliasRule, error)
	AliasRules(ctx context.Context, t api.TenantID, m api.ModelName) ([]api.AliasRule, error)
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
			summary: "Make or move an alias", headers: conditionHeaders, look: lookAlias,
			errors: []api.Code{api.CodeModelNotFound, api.CodeAliasNotFound, api.CodeVersionNotFound, api.CodeStale, api.CodeProtected}},
			func(ctx context.Context, q *request, in *api.AliasRequest) (api.Alias, error) {
				return q.moveAlias(ctx, api.AliasChange{To: in.Version, Why: in.Why, Expect: in.Expect})
			}),
		call(route{method: http.MethodDelete, path: aliasPath, id: "deleteAlias", tag: "aliases", scope: api.ScopeWrite,
			summary: "Delete an alias; its history stays", headers: conditionHeaders[:1], look: lookAlias,
			query:  []parameter{{name: "why", doc: "Reason, kept in the history."}},
			errors: []api.Code{api.CodeModelNotFound, api.CodeAliasNotFound, api.CodeStale, api.CodeProtected}},
			func(ctx context.Context, q *request, _ *nothing) (nothing, error) {
				q.reason = q.param("why")
				_, err := q.moveAlias(ctx, api.AliasChange{Why: q.reason})
				return nothing{}, err
			}),
		call(route{method: http.MethodPut, path: aliasPath + "/rule", id: "protectAlias", tag: "aliases", scope: api.ScopeAdmin,
			summary: "Protect an alias", detail: "Says who may move it, and which gates a version must have passed. A rule that asks for nothing removes it.", look: lookRule,
			errors: []api.Code{api.CodeModelNotFound, api.CodeTooLarge}},
			func(ctx context.Context, q *request, in *api.AliasRuleRequest) (api.AliasRule, error) {
				return s.cfg.Aliases.ProtectAlias(ctx, q.principal, q.model(), q.aliasName(), *in)
			}),
		call(route{method: http.MethodGet, path: "/tenants/{tenant}/models/{model}/rules", id: "listAliasRules", tag: "aliases", scope: api.ScopeRead,
			summary: "List the rules of a model's aliases", errors: []api.Code{api.CodeModelNotFound}},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[api.AliasRule], err error) {
				rules, err := s.cfg.Aliases.AliasRules(ctx, q.tenant, q.model())
				return pageOf(rules, len(rules)+1, func(r api.AliasRule) string { return string(r.Alias) }), err
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

func lookAlias(ctx context.Context, q *request) any {
	if a, err := q.alias(ctx); err == nil {
		return a
	}
	return nil
}

func lookRule(ctx context.Context, q *request) any {
	rules, err := q.server.cfg.Aliases.AliasRules(ctx, q.tenant, q.model())
	i := slices.IndexFunc(rules, func(r api.AliasRule) bool { return r.Alias == q.aliasName() })
	if err != nil || i < 0 {
		return nil
	}
	return rules[i]
}

func (q *request) aliasName() api.AliasName { return api.AliasName(q.PathValue("alias")) }

func (q *request) moveAlias(ctx context.Context, move api.AliasChange) (_ api.Alias, err error) {
	move.Model, move.Alias = q.model(), q.aliasName()
	move.Moves, err = q.condition(func() (int64, error) {
		a, err := q.alias(ctx)
		return a.Moves, err
	})
	if err != nil {
		return api.Alias{}, err
	}
	a, err := q.server.cfg.Aliases.MoveAlias(ctx, q.principal, move)
	if err == nil && move.To != 0 {
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
