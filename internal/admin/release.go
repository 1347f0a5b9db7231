package admin

import (
	"context"
	"net/http"
	"strconv"

	"github.com/penstock/penstock/api"
)

// Releases reads what was released and moves endpoints back.
type Releases interface {
	// Await gives the release once it is final, or as it stands when the context ends.
	Await(ctx context.Context, t api.TenantID, e api.EndpointName, number int64) (api.Release, error)
	Rollback(ctx context.Context, p *api.Principal, e api.EndpointName, to api.RevisionNumber, why string) (api.Release, error)
	Abort(ctx context.Context, p *api.Principal, e api.EndpointName) (api.Release, error)
	Revisions(ctx context.Context, t api.TenantID, e api.EndpointName, before api.RevisionNumber, limit int) ([]api.Revision, error)
	Releases(ctx context.Context, t api.TenantID, e api.EndpointName, before int64, limit int) ([]api.Release, error)
}

func (s *Server) releaseRoutes() []route {
	missing := []api.Code{api.CodeEndpointNotFound}
	return []route{
		call(route{method: http.MethodPost, path: endpointPath + "/rollback", id: "rollback", tag: "releases", scope: api.ScopeWrite, outlivesLog: true,
			summary: "Make an earlier revision current", detail: "Answers when it is in effect. It works also while the database is away.",
			errors: []api.Code{api.CodeEndpointNotFound, api.CodeRevisionNotFound, api.CodeNothingEarlier, api.CodeNotReady}},
			func(ctx context.Context, q *request, in *api.RollbackRequest) (api.Release, error) {
				return s.cfg.Releases.Rollback(ctx, q.principal, q.endpoint(), in.To, in.Why)
			}),
		call(route{method: http.MethodPost, path: endpointPath + "/abort", id: "abort", tag: "releases", scope: api.ScopeWrite,
			summary: "Stop the release under way", look: lookEndpoint, errors: []api.Code{api.CodeEndpointNotFound, api.CodeNoRelease}},
			func(ctx context.Context, q *request, _ *nothing) (api.Release, error) {
				return s.cfg.Releases.Abort(ctx, q.principal, q.endpoint())
			}),
		call(route{method: http.MethodGet, path: endpointPath + "/revisions", id: "listRevisions", tag: "releases", scope: api.ScopeRead,
			summary: "List revisions, newest first", query: []parameter{beforeParameter, limitParameter}, errors: missing},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[api.Revision], err error) {
				before, limit, err := q.page("before")
				if err != nil {
					return page, err
				}
				revisions, err := s.cfg.Releases.Revisions(ctx, q.tenant, q.endpoint(), api.RevisionNumber(before), limit)
				return pageOf(revisions, limit, func(r api.Revision) string { return decimal(r.Number) }), err
			}),
		call(route{method: http.MethodGet, path: endpointPath + "/releases", id: "listReleases", tag: "releases", scope: api.ScopeRead,
			summary: "List releases, newest first", query: []parameter{beforeParameter, limitParameter}, errors: missing},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[api.Release], err error) {
				before, limit, err := q.page("before")
				if err != nil {
					return page, err
				}
				releases, err := s.cfg.Releases.Releases(ctx, q.tenant, q.endpoint(), before, limit)
				return pageOf(releases, limit, func(r api.Release) string { return decimal(r.Number) }), err
			}),
		call(route{method: http.MethodGet, path: endpointPath + "/releases/{release}", id: "getRelease", tag: "releases", scope: api.ScopeRead,
			summary: "Show a release, or wait until it is final", query: []parameter{waitParameter}, errors: []api.Code{api.CodeEndpointNotFound, api.CodeQueueFull}},
			s.getRelease),
	}
}

func (s *Server) getRelease(ctx context.Context, q *request, _ *nothing) (api.Release, error) {
	number, err := strconv.ParseInt(q.PathValue("release"), 10, 64)
	if err != nil || number < 1 {
		return api.Release{}, api.Fail(api.CodeNotFound, clipped(q.PathValue("release")), "releases are numbered from 1")
	}
	waiting, done, ok, err := q.waiting(ctx)
	if err != nil {
		return api.Release{}, err
	}
	if !ok {
		// A context that is over already asks for the present state.
		now, cancel := context.WithCancel(ctx)
		cancel()
		return s.cfg.Releases.Await(now, q.tenant, q.endpoint(), number)
	}
	defer done()
	return s.cfg.Releases.Await(waiting, q.tenant, q.endpoint(), number)
}

// await waits for a release that was just recorded, when the caller asked to. The release is recorded whatever becomes
// of the wait, so a wait that fails gives what is known.
func (q *request) await(ctx context.Context, release api.Release) api.Release {
	waiting, done, ok, err := q.waiting(ctx)
	if err == nil && ok {
		defer done()
		if later, err := q.server.cfg.Releases.Await(waiting, q.tenant, q.endpoint(), release.Number); err == nil {
			release = later
		}
	}
	if release.State.Final() {
		q.status = http.StatusOK
	}
	return release
}
