package admin

import (
	"context"
	"net/http"

	"github.com/penstock/penstock/api"
)

// Collections runs the garbage collection. Collection gives a run once it is over, or as it stands when the context ends.
type Collections interface {
	Collect(p *api.Principal, dry bool) (api.Collection, error)
	Collection(ctx context.Context, id api.CollectionID) (api.Collection, error)
	Collections(ctx context.Context, limit int) ([]api.Collection, error)
}

const collectionIDMax = 64 // bytes of a run's identifier in a path

func (s *Server) collectionRoutes() []route {
	return []route{
		call(route{method: http.MethodPost, path: "/collections", id: "collect", tag: "collections", scope: api.ScopeAdmin, reach: serverWide,
			summary: "Free what nothing needs any more",
			detail:  "Begins a run of the garbage collection beside everything else; with wait, the answer comes when it is over. With dry_run it only tells what it would free, and why.",
			query:   []parameter{waitParameter}, status: http.StatusAccepted, also: http.StatusOK,
			errors: []api.Code{api.CodeCollecting, api.CodeShuttingDown, api.CodeQueueFull}},
			func(ctx context.Context, q *request, in *api.CollectRequest) (api.Collection, error) {
				run, err := s.cfg.Collections.Collect(q.principal, in.DryRun)
				if err != nil {
					return run, err
				}
				waiting, done, ok, err := q.waiting(ctx)
				if err == nil && ok { // it is under way whatever becomes of the wait
					defer done()
					if later, err := s.cfg.Collections.Collection(waiting, run.ID); err == nil {
						run = later
					}
				}
				if run.State != api.CollectionRunning {
					q.status = http.StatusOK
				}
				return run, nil
			}),
		call(route{method: http.MethodGet, path: "/collections", id: "listCollections", tag: "collections", scope: api.ScopeAdmin, reach: serverWide,
			summary: "List the last runs of the garbage collection, newest first", query: []parameter{limitParameter}},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[api.Collection], err error) {
				limit, err := q.limit()
				if err != nil {
					return page, err
				}
				runs, err := s.cfg.Collections.Collections(ctx, limit)
				for i := range runs {
					runs[i].Items = nil // each is shown by itself
				}
				return pageOf(runs, len(runs)+1, func(c api.Collection) string { return string(c.ID) }), err
			}),
		call(route{method: http.MethodGet, path: "/collections/{collection}", id: "getCollection", tag: "collections", scope: api.ScopeAdmin, reach: serverWide,
			summary: "Show a run of the garbage collection, or wait until it is over", query: []parameter{waitParameter}, errors: []api.Code{api.CodeNotFound, api.CodeQueueFull}},
			func(ctx context.Context, q *request, _ *nothing) (api.Collection, error) {
				id := q.PathValue("collection")
				if len(id) > collectionIDMax {
					return api.Collection{}, api.Fail(api.CodeNotFound, clipped(id), "no such collection")
				}
				waiting, done, ok, err := q.waiting(ctx)
				if err != nil {
					return api.Collection{}, err
				}
				if !ok {
					now, cancel := context.WithCancel(ctx)
					cancel() // a context that is over already asks for the present state
					return s.cfg.Collections.Collection(now, api.CollectionID(id))
				}
				defer done()
				return s.cfg.Collections.Collection(waiting, api.CollectionID(id))
			}),
	}
}
