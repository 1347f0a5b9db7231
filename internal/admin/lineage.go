package admin

import (
	"context"
	"net/http"

	"github.com/penstock/penstock/api"
)

// Lineage answers what came from what. direction is up, down or empty for both.
type Lineage interface {
	Lineage(ctx context.Context, t api.TenantID, of, direction string) (api.Lineage, error)
	Drawing(l *api.Lineage) []byte
}

// lineageOfMax bounds what can be asked about, in bytes.
const lineageOfMax = 300

func (s *Server) lineageRoutes() []route {
	ask := func(q *request) (api.Lineage, error) {
		of, direction := q.param("of"), q.param("direction")
		if of == "" || len(of) > lineageOfMax {
			return api.Lineage{}, api.Fail(api.CodeBadRequest, "", "of names what is asked about, such as digits@2 or dataset:NAME")
		}
		if direction != "" && direction != "up" && direction != "down" {
			return api.Lineage{}, api.Fail(api.CodeBadRequest, "", "direction=%q is neither up nor down", clipped(direction))
		}
		return s.cfg.Lineage.Lineage(q.Context(), q.tenant, of, direction)
	}
	query := []parameter{{name: "of", doc: "A version's reference, or dataset:NAME, run:NAME, endpoint:NAME, revision:ENDPOINT/N or key:ID."},
		{name: "direction", doc: "up: where it came from; down: what came of it; both when left out."}}
	errors := []api.Code{api.CodeModelNotFound, api.CodeVersionNotFound, api.CodeAliasNotFound, api.CodeEndpointNotFound, api.CodeRevisionNotFound, api.CodeNotFound}
	picture := route{method: http.MethodGet, path: "/tenants/{tenant}/lineage.svg", id: "drawLineage", tag: "lineage", scope: api.ScopeRead,
		summary: "Draw what came from what", query: query, outMedia: "image/svg+xml", errors: errors}
	picture.serve = func(q *request) error {
		l, err := ask(q)
		if err != nil {
			return err
		}
		h := q.w.Header()
		h.Set("Content-Type", "image/svg+xml")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'") // names in it are of strangers
		q.w.WriteHeader(http.StatusOK)
		q.w.write(s.cfg.Lineage.Drawing(&l))
		return nil
	}
	return []route{
		call(route{method: http.MethodGet, path: "/tenants/{tenant}/lineage", id: "getLineage", tag: "lineage", scope: api.ScopeRead,
			summary: "Tell what came from what, and who calls it", query: query, errors: errors,
			detail: "Data sets, runs, versions and those derived from them, revisions, releases and their ends, and the keys that called. At most 400 nodes."},
			func(_ context.Context, q *request, _ *nothing) (api.Lineage, error) { return ask(q) }),
		picture,
	}
}
