package admin

import (
	"context"
	"net/http"

	"github.com/penstock/penstock/api"
)

// Search finds versions.
type Search interface {
	Search(ctx context.Context, t api.TenantID, in api.SearchRequest) (api.List[api.Found], error)
	SearchFields(ctx context.Context, t api.TenantID) ([]api.SearchField, error)
	SearchValues(ctx context.Context, t api.TenantID, field, prefix string, limit int) ([]string, error)
}

const searchPath = "/tenants/{tenant}/search"

func (s *Server) searchRoutes() []route {
	return []route{
		call(route{method: http.MethodGet, path: searchPath, id: "search", tag: "search", scope: api.ScopeRead,
			summary: "Find versions",
			detail:  "The language of `q` is in the guide: `task=classification and metrics.accuracy>0.97`. A query that cannot be read is answered with the place of the fault and a caret under it.",
			query: []parameter{{name: "q", doc: "Query; everything when left out."},
				{name: "sort", doc: "Field to sort by, with `-` before it for the largest first; newest first when left out. Versions without the field are left out."},
				afterParameter, limitParameter}, errors: []api.Code{api.CodeBadQuery}},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[api.Found], err error) {
				limit, err := q.limit()
				if err != nil {
					return page, err
				}
				return s.cfg.Search.Search(ctx, q.tenant, api.SearchRequest{Query: q.param("q"), Sort: q.param("sort"), After: q.param("after"), Limit: limit})
			}),
		call(route{method: http.MethodGet, path: searchPath + "/fields", id: "searchFields", tag: "search", scope: api.ScopeRead,
			summary: "List the fields of searches", detail: "Every field that a query may name; of families such as tag., those that the tenant's versions have."},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[api.SearchField], err error) {
				fields, err := s.cfg.Search.SearchFields(ctx, q.tenant)
				return pageOf(fields, len(fields)+1, func(f api.SearchField) string { return f.Name }), err
			}),
		call(route{method: http.MethodGet, path: searchPath + "/values", id: "searchValues", tag: "search", scope: api.ScopeRead,
			summary: "List values of a field, for completion", query: []parameter{{name: "field", doc: "Field, in full."},
				{name: "prefix", doc: "Beginning of the values."}, limitParameter}, errors: []api.Code{api.CodeBadQuery}},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[string], err error) {
				limit, err := q.limit()
				if err != nil {
					return page, err
				}
				values, err := s.cfg.Search.SearchValues(ctx, q.tenant, q.param("field"), q.param("prefix"), limit)
				return pageOf(values, len(values)+1, func(v string) string { return v }), err
			}),
	}
}
