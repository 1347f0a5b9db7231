package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
)

// Exchanges reads the inference log.
type Exchanges interface {
	Recent(t api.TenantID, f LogFilter) []api.Exchange
	// Follow gives each new exchange of the tenant until the context ends; a reader that is too slow misses some.
	Follow(ctx context.Context, t api.TenantID) <-chan api.Exchange
}

// LogFilter chooses exchanges. Empty fields choose all.
type LogFilter struct {
	Endpoint   api.EndpointName
	Variant    api.VariantName
	OnlyErrors bool
	Limit      int
}

func (f LogFilter) takes(x api.Exchange) bool {
	return (f.Endpoint == "" || x.Endpoint == f.Endpoint) && (f.Variant == "" || x.Variant == f.Variant) && (!f.OnlyErrors || x.Code != "")
}

// pingEvery is how often a quiet stream says that it lives, and looks whether its key still does.
const pingEvery = 10 * time.Second

func (s *Server) logRoutes() []route {
	r := route{method: http.MethodGet, path: "/tenants/{tenant}/logs", id: "listExchanges", tag: "logs", scope: api.ScopeRead,
		summary: "List exchanges (one per inference), newest first",
		detail:  "With follow=1, a stream of server-sent events: the recent ones, oldest first, then each new one as a JSON `data:` line.",
		query: []parameter{{name: "endpoint", doc: "Only of this endpoint."}, {name: "variant", doc: "Only of this variant."},
			{name: "errors", doc: "1: only those that failed.", kind: "boolean"}, limitParameter,
			{name: "follow", doc: "1: stream.", kind: "boolean"}},
		out: reflect.TypeFor[api.List[api.Exchange]](), errors: []api.Code{api.CodeQueueFull}}
	r.serve = s.listExchanges
	return []route{r}
}

func (s *Server) listExchanges(q *request) error {
	limit, err := q.limit()
	if err != nil {
		return err
	}
	onlyErrors, err := q.flag("errors")
	if err != nil {
		return err
	}
	follow, err := q.flag("follow")
	if err != nil {
		return err
	}
	filter := LogFilter{Endpoint: api.EndpointName(q.param("endpoint")), Variant: api.VariantName(q.param("variant")), OnlyErrors: onlyErrors, Limit: limit}
	if follow {
		return s.followExchanges(q, filter)
	}
	recent := s.cfg.Exchanges.Recent(q.tenant, filter)
	slices.SortStableFunc(recent, func(a, b api.Exchange) int { return cmp.Compare(b.Start, a.Start) })
	return q.answer(pageOf(recent, len(recent)+1, func(api.Exchange) string { return "" }))
}

func (s *Server) followExchanges(q *request, filter LogFilter) error {
	ctx, release, err := s.hold(q.Context())
	if err != nil {
		return err
	}
	defer release()
	stream := s.cfg.Exchanges.Follow(ctx, q.tenant) // before the recent ones, so that none falls between
	recent := s.cfg.Exchanges.Recent(q.tenant, filter)
	slices.SortStableFunc(recent, func(a, b api.Exchange) int { return cmp.Compare(a.Start, b.Start) })
	q.w.Header().Set("Content-Type", "text/event-stream")
	q.w.WriteHeader(http.StatusOK)
	out := q.pacedWriter()
	sent := make(map[string]bool, len(recent))
	for _, x := range recent {
		sent[x.RequestID] = true
		if err := out.event(x); err != nil {
			return ignoreGone(err)
		}
	}
	if err := out.ping(); err != nil {
		return ignoreGone(err)
	}
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		select {
		case x, ok := <-stream:
			if !ok {
				return nil
			}
			if sent[x.RequestID] || !filter.takes(x) {
				continue
			}
			err = out.event(x)
		case <-ping.C:
			if _, err := s.cfg.Guard.Authenticate(q.Header.Values("Authorization")); err != nil {
				return nil // the key was revoked or expired: the stream ends
			}
			err = out.ping()
		case <-ctx.Done():
			return nil
		}
		if err != nil {
			return ignoreGone(err)
		}
	}
}

// event writes one exchange and sends it off.
func (p *pacedWriter) event(x api.Exchange) error {
	text, err := encodeJSON(x)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(p, "data: %s\n", text); err != nil {
		return errGone
	}
	return p.flush()
}

func (p *pacedWriter) ping() error {
	if _, err := fmt.Fprint(p, ": still here\n\n"); err != nil {
		return errGone
	}
	return p.flush()
}

func (p *pacedWriter) flush() error {
	if p.control.Flush() != nil {
		return errGone
	}
	return nil
}

var errGone = errors.New("the reader of the stream went away")

// ignoreGone: that a reader hangs up is how such a stream ends.
func ignoreGone(err error) error {
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}
