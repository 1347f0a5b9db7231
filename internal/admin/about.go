package admin

import (
	"context"
	"net/http"
	"slices"

	"github.com/penstock/penstock/api"
)

// Workers tells which worker processes run.
type Workers interface {
	Workers() []api.Worker
}

func (s *Server) aboutRoutes() []route {
	document := route{method: http.MethodGet, path: "/openapi.json", id: "openapi", tag: "server", reach: openToAll,
		summary: "This document", outMedia: mediaJSON}
	document.serve = func(q *request) error {
		q.writeJSON(http.StatusOK, s.document)
		return nil
	}
	return []route{
		document,
		call(route{method: http.MethodGet, path: "/version", id: "version", tag: "server", summary: "Name and version of the server"},
			func(context.Context, *request, *nothing) (api.ServerInfo, error) {
				return api.ServerInfo{Name: s.cfg.Name, Version: s.cfg.Version, API: "v1"}, nil
			}),
		call(route{method: http.MethodGet, path: "/whoami", id: "whoami", tag: "server", summary: "Who the caller is taken for"},
			func(_ context.Context, q *request, _ *nothing) (api.Whoami, error) {
				p := q.principal
				return api.Whoami{Tenant: p.Tenant, Key: p.Key, Name: p.Name, Scopes: slices.Clone(p.Scopes)}, nil
			}),
		call(route{method: http.MethodGet, path: "/workers", id: "listWorkers", tag: "server", scope: api.ScopeAdmin, reach: serverWide,
			summary: "Worker processes", detail: "Workers are shared by all tenants."},
			func(context.Context, *request, *nothing) (api.List[api.Worker], error) {
				workers := s.cfg.Workers.Workers()
				return pageOf(workers, len(workers)+1, func(api.Worker) string { return "" }), nil
			}),
	}
}
