package observe

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
)

// Filter chooses exchanges of a tenant. Empty fields choose all.
type Filter struct {
	Endpoint   api.EndpointName
	Variant    api.VariantName
	ErrorsOnly bool
	Limit      int // newest exchanges for Recent, at most and by default as many as are kept; Follow has no limit
}

func (f *Filter) passes(e *api.Exchange) bool {
	return (f.Endpoint == "" || f.Endpoint == e.Endpoint) && (f.Variant == "" || f.Variant == e.Variant) &&
		(!f.ErrorsOnly || e.Code != "")
}

// history keeps each tenant's newest exchanges apart, so that a busy tenant does not push a quiet one's out, and each
// tenant's newest failures beside them, so that many successes do not either.
type history struct {
	keep, tenants int
	logs          map[api.TenantID]*tenantLog
}

type tenantLog struct {
	all, failed tail
	last        api.Time // start of the newest exchange
}

// tail holds the newest exchanges up to a limit; it grows as they come.
type tail struct {
	limit int
	next  int // place of the oldest, once full
	items []api.Exchange
}

func newHistory(keep, tenants int) *history {
	return &history{keep: keep, tenants: tenants, logs: map[api.TenantID]*tenantLog{}}
}

func (h *history) add(e *api.Exchange) {
	l := h.logs[e.Tenant]
	if l == nil {
		if len(h.logs) >= h.tenants {
			h.forget()
		}
		l = &tenantLog{all: tail{limit: h.keep}, failed: tail{limit: max(1, h.keep/4)}}
		h.logs[e.Tenant] = l
	}
	l.last = max(l.last, e.Start)
	l.all.add(e)
	if e.Code != "" {
		l.failed.add(e)
	}
}

// forget drops the tenant that was silent longest.
func (h *history) forget() {
	var oldest api.TenantID
	found := false
	for t, l := range h.logs {
		if !found || l.last < h.logs[oldest].last {
			oldest, found = t, true
		}
	}
	delete(h.logs, oldest)
}

func (t *tail) add(e *api.Exchange) {
	if len(t.items) < t.limit {
		t.items = append(t.items, *e)
		return
	}
	t.items[t.next] = *e
	t.next = (t.next + 1) % t.limit
}

func (h *history) recent(t api.TenantID, f Filter) []api.Exchange {
	l := h.logs[t]
	if l == nil {
		return nil
	}
	from := &l.all
	if f.ErrorsOnly {
		from = &l.failed
	}
	limit := f.Limit
	if limit <= 0 || limit > from.limit {
		limit = from.limit
	}
	// The shards of the ring keep no order within one drain, so the time of the start does.
	order := make([]int, 0, len(from.items))
	for i := range from.items {
		if f.passes(&from.items[i]) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(from.items[a].Start, from.items[b].Start) })
	order = order[max(0, len(order)-limit):]
	out := make([]api.Exchange, len(order))
	for i, at := range order {
		out[i] = from.items[at]
	}
	return out
}

// protocolLost marks the line that tells a follower what it lost.
const protocolLost = "lost"

// Lost tells whether a line of Follow stands for lines that were lost, and for how many.
func Lost(e api.Exchange) (int64, bool) { return e.Batch, e.Protocol == protocolLost }

func lostLine(t api.TenantID, n int64) api.Exchange {
	return api.Exchange{Tenant: t, Protocol: protocolLost, Batch: n, Start: api.TimeOf(time.Now()),
		Error: fmt.Sprintf("%d lines were lost: this follower reads more slowly than requests come", n)}
}

// audience is everyone who follows exchanges as they come.
type audience struct {
	limit, lag int
	size       atomic.Int32 // lets the drain skip the lock when nobody listens

	mu        sync.Mutex // guards the fields below and every follower
	followers map[*follower]struct{}
	closed    bool
}

type follower struct {
	tenant api.TenantID
	filter Filter
	out    chan api.Exchange
	lost   int64
}

func newAudience(limit, lag int) *audience {
	return &audience{limit: limit, lag: lag, followers: map[*follower]struct{}{}}
}

func (a *audience) follow(ctx context.Context, t api.TenantID, f Filter) <-chan api.Exchange {
	fo := &follower{tenant: t, filter: f, out: make(chan api.Exchange, a.lag)}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		close(fo.out)
		return fo.out
	case len(a.followers) >= a.limit:
		fo.out <- api.Exchange{Tenant: t, Protocol: protocolLost, Code: api.CodeUnavailable,
			Error: fmt.Sprintf("%d followers are the limit; end another one first", a.limit)}
		close(fo.out)
		return fo.out
	}
	a.followers[fo] = struct{}{}
	a.size.Store(int32(len(a.followers)))
	context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.remove(fo)
	})
	return fo.out
}

// remove needs mu; it may be asked twice for one follower.
func (a *audience) remove(fo *follower) {
	if _, there := a.followers[fo]; !there {
		return
	}
	delete(a.followers, fo)
	a.size.Store(int32(len(a.followers)))
	close(fo.out)
}

func (a *audience) tell(e *api.Exchange) {
	if a.size.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for fo := range a.followers {
		if fo.tenant != e.Tenant || !fo.filter.passes(e) {
			continue
		}
		if fo.lost > 0 && !fo.confess() {
			fo.lost++
			continue
		}
		select {
		case fo.out <- *e:
		default:
			fo.lost++
		}
	}
}

// confess tells the follower what it lost, if there is room. Needs the audience's mu.
func (fo *follower) confess() bool {
	select {
	case fo.out <- lostLine(fo.tenant, fo.lost):
		fo.lost = 0
		return true
	default:
		return false
	}
}

// settle tells the followers that have room what they lost, and reports whether some could not be told yet.
func (a *audience) settle() (owing bool) {
	if a.size.Load() == 0 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for fo := range a.followers {
		if fo.lost > 0 && !fo.confess() {
			owing = true
		}
	}
	return owing
}

func (a *audience) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	for fo := range a.followers {
		a.remove(fo)
	}
}

// clip cuts text to a limit in bytes without leaving half a character; the copy lets the long original go.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.Clone(strings.ToValidUTF8(s[:limit], "")) + "…"
}
