package admin

import (
	"context"
	"net/http"

	"github.com/penstock/penstock/api"
)

// Endpoints reads and changes endpoints. ifGeneration must still hold: -1 is any, 0 is "must not exist".
type Endpoints interface {
	Endpoint(ctx context.Context, t api.TenantID, e api.EndpointName) (api.Endpoint, error)
	Endpoints(ctx context.Context, t api.TenantID, after api.EndpointName, limit int) ([]api.Endpoint, error)
	Deploy(ctx context.Context, p *api.Principal, e api.EndpointName, spec api.EndpointSpec, ifGeneration int64, why string) (api.Release, error)
	Delete(ctx context.Context, p *api.Principal, e api.EndpointName) error
}

const (
	endpointsPath = "/tenants/{tenant}/endpoints"
	endpointPath  = endpointsPath + "/{endpoint}"
)

func (s *Server) endpointRoutes() []route {
	return []route{
		call(route{method: http.MethodGet, path: endpointsPath, id: "listEndpoints", tag: "endpoints", scope: api.ScopeRead,
			summary: "List endpoints by name", query: []parameter{afterParameter, limitParameter}},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[api.Endpoint], err error) {
				limit, err := q.limit()
				if err != nil {
					return page, err
				}
				endpoints, err := s.cfg.Endpoints.Endpoints(ctx, q.tenant, api.EndpointName(q.param("after")), limit)
				for i := range endpoints {
					wholeEndpoint(&endpoints[i])
				}
				return pageOf(endpoints, limit, func(e api.Endpoint) string { return string(e.Name) }), err
			}),
		call(route{method: http.MethodGet, path: endpointPath, id: "getEndpoint", tag: "endpoints", scope: api.ScopeRead,
			summary: "Show an endpoint", detail: "The ETag counts changes of the spec.", errors: []api.Code{api.CodeEndpointNotFound}},
			func(ctx context.Context, q *request, _ *nothing) (api.Endpoint, error) {
				e, err := s.cfg.Endpoints.Endpoint(ctx, q.tenant, q.endpoint())
				if err == nil {
					q.setETag(e.Generation)
				}
				wholeEndpoint(&e)
				return e, err
			}),
		call(route{method: http.MethodPut, path: endpointPath, id: "deploy", tag: "endpoints", scope: api.ScopeWrite,
			summary: "Deploy: make or change an endpoint", headers: conditionHeaders, look: lookEndpoint,
			detail: "Answers 202 with the release as soon as it is recorded; with wait, 200 once it is final. A release that failed is an answer, not an error.",
			query:  []parameter{waitParameter}, status: http.StatusAccepted, also: http.StatusOK,
			errors: []api.Code{api.CodeModelNotFound, api.CodeVersionNotFound, api.CodeAliasNotFound, api.CodeBusy, api.CodeStale, api.CodeExists, api.CodeQuarantined, api.CodeQueueFull}},
			s.deploy),
		call(route{method: http.MethodDelete, path: endpointPath, id: "deleteEndpoint", tag: "endpoints", scope: api.ScopeWrite,
			summary: "Delete an endpoint with its history", headers: conditionHeaders[:1], look: lookEndpoint, errors: []api.Code{api.CodeEndpointNotFound, api.CodeStale}},
			func(ctx context.Context, q *request, _ *nothing) (nothing, error) {
				return nothing{}, s.deleteEndpoint(ctx, q)
			}),
	}
}

func lookEndpoint(ctx context.Context, q *request) any {
	if e, err := q.server.cfg.Endpoints.Endpoint(ctx, q.tenant, q.endpoint()); err == nil {
		return e
	}
	return nil
}

func (s *Server) deploy(ctx context.Context, q *request, in *api.DeployRequest) (api.Release, error) {
	if _, err := q.wait(); err != nil {
		return api.Release{}, err
	}
	generation, err := q.condition(func() (int64, error) {
		e, err := s.cfg.Endpoints.Endpoint(ctx, q.tenant, q.endpoint())
		return e.Generation, err
	})
	if err != nil {
		return api.Release{}, err
	}
	release, err := s.cfg.Endpoints.Deploy(ctx, q.principal, q.endpoint(), in.EndpointSpec, generation, in.Why)
	if err != nil {
		return release, err
	}
	return q.await(ctx, release), nil
}

// deleteEndpoint holds the condition against the present generation first. Between the two a deploy may slip in; the
// room refuses to delete under a release, so what can be lost is a spec that was final a moment before.
func (s *Server) deleteEndpoint(ctx context.Context, q *request) error {
	present := func() (int64, error) {
		e, err := s.cfg.Endpoints.Endpoint(ctx, q.tenant, q.endpoint())
		return e.Generation, err
	}
	wanted, err := q.condition(present)
	if err != nil {
		return err
	}
	if wanted >= 0 {
		generation, err := present()
		if err != nil {
			return err
		}
		if generation != wanted {
			return api.Fail(api.CodeStale, string(q.endpoint()), "the endpoint is at generation %d, not %d", generation, wanted)
		}
	}
	return s.cfg.Endpoints.Delete(ctx, q.principal, q.endpoint())
}

// wholeEndpoint gives empty lists instead of null.
func wholeEndpoint(e *api.Endpoint) {
	if e.Spec.Variants == nil {
		e.Spec.Variants = []api.VariantSpec{}
	}
}
