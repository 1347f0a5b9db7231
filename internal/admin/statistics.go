package admin

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
)

// Statistics tells what a tenant's endpoints did in the last span, all its endpoints among them, and what the workers have in
// hand.
type Statistics interface {
	Statistics(t api.TenantID, span time.Duration) api.Statistics
}

// The span that statistics look back when none is asked for, and the shortest and longest.
const (
	spanDefault = 10 * time.Second
	spanMin     = 2 * time.Second
	spanMax     = time.Minute
)

func (s *Server) statisticsRoutes() []route {
	return []route{call(route{method: http.MethodGet, path: "/tenants/{tenant}/statistics", id: "getStatistics", tag: "logs", scope: api.ScopeRead,
		summary: "What endpoints and workers do now",
		detail:  "Rates, quantiles and means over the last seconds, from memory. Workers are shared by all tenants and told of to admins of tenant default only.",
		query:   []parameter{{name: "window", doc: "Time to look back, such as 10s, which is what it is when left out; 2s to 1m."}}},
		s.getStatistics)}
}

func (s *Server) getStatistics(_ context.Context, q *request, _ *nothing) (api.Statistics, error) {
	span := spanDefault
	if text := q.param("window"); text != "" {
		var err error
		if span, err = time.ParseDuration(text); err != nil || span < spanMin || span > spanMax {
			return api.Statistics{}, api.Fail(api.CodeBadRequest, "", "window=%q is not a duration from %s to %s, such as 10s", clipped(text), spanMin, spanMax)
		}
	}
	out := s.cfg.Statistics.Statistics(q.tenant, span)
	if q.principal.Tenant != api.DefaultTenant || !q.principal.Allows(api.ScopeAdmin) {
		out.Workers, out.Memory = nil, nil
		out.Shares = slices.DeleteFunc(out.Shares, func(t api.TenantShare) bool { return t.Tenant != q.tenant })
	}
	slices.SortFunc(out.Endpoints, func(a, b api.EndpointStatistics) int { return cmp.Compare(a.Endpoint, b.Endpoint) })
	if out.Endpoints == nil {
		out.Endpoints = []api.EndpointStatistics{}
	}
	for i := range out.Endpoints {
		if out.Endpoints[i].Recent == nil {
			out.Endpoints[i].Recent = []float64{}
		}
	}
	if out.Shares == nil {
		out.Shares = []api.TenantShare{}
	}
	if out.Workers == nil {
		out.Workers = []api.WorkerStatistics{}
	}
	return out, nil
}
