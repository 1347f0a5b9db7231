package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/penstock/penstock/api"
)

// Events reads what happened: oldest first after a sequence number; a negative number asks for the newest. An empty
// tenant is all tenants and the server's own.
type Events interface {
	Events(ctx context.Context, t api.TenantID, after int64, limit int) ([]api.Event, error)
}

func (s *Server) eventRoutes() []route {
	return []route{
		call(route{method: http.MethodGet, path: "/events", id: "listEvents", tag: "events", scope: api.ScopeRead,
			summary: "List events, oldest first",
			detail:  "Without after, the newest. `next` is always there to read on from; with wait, the answer comes when there is something new.",
			query: []parameter{{name: "after", doc: "Sequence number after which to read.", kind: "integer"}, limitParameter, waitParameter,
				{name: "all", doc: "1: events of all tenants and of the server; for admins of tenant default.", kind: "boolean"}},
			errors: []api.Code{api.CodeQueueFull}},
			s.listEvents),
	}
}

func (s *Server) listEvents(ctx context.Context, q *request, _ *nothing) (page api.List[api.Event], err error) {
	limit, err := q.limit()
	if err != nil {
		return page, err
	}
	after, err := q.integer("after", -1, 0, 1<<62)
	if err != nil {
		return page, err
	}
	tenant := q.tenant
	if all, err := q.flag("all"); err != nil {
		return page, err
	} else if all {
		if tenant != api.DefaultTenant || !q.principal.Allows(api.ScopeAdmin) {
			return page, api.Fail(api.CodeForbidden, "", "all=1 needs a key of tenant %q with the scope %q", api.DefaultTenant, api.ScopeAdmin)
		}
		tenant = ""
	}
	waiting, done, ok, err := q.waiting(ctx)
	if err != nil {
		return page, err
	}
	var events []api.Event
	if ok {
		defer done()
		events, err = s.awaitEvents(waiting, tenant, after, limit)
	} else {
		events, err = s.cfg.Events.Events(ctx, tenant, after, limit)
	}
	if err != nil {
		return page, err
	}
	page = pageOf(events, limit, func(api.Event) string { return "" })
	page.Next = decimal(max(after, 0))
	if n := len(events); n > 0 {
		page.Next = decimal(events[n-1].Seq)
	}
	return page, nil
}

// awaitEvents asks until there are events or the context ends; ending is an empty page, not an error.
func (s *Server) awaitEvents(ctx context.Context, tenant api.TenantID, after int64, limit int) ([]api.Event, error) {
	poll := time.NewTicker(s.cfg.EventPoll)
	defer poll.Stop()
	for {
		events, err := s.cfg.Events.Events(ctx, tenant, after, limit)
		if ctx.Err() != nil {
			return events, nil
		}
		if err != nil || len(events) > 0 {
			return events, err
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-poll.C:
		}
	}
}
