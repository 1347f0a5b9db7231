package serve

import (
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/serve/cache"
	"github.com/penstock/penstock/internal/serve/queue"
	"github.com/penstock/penstock/internal/split"
)

// table is a plan made quick to read: no lookup on the request's way allocates. Only the counters in it change, and they
// are carried over from plan to plan.
type table struct {
	routes   map[api.EndpointKey]*route
	caching  []*variant    // those whose spec asks for a response cache
	replaced chan struct{} // closed when a newer table is in effect
}

// route is one endpoint.
type route struct {
	*api.PlanEndpoint
	gate     *gate
	variants []*variant
	weights  []int64
}

// variant is one arm; where its replicas are tells PlanVariant.Set.
type variant struct {
	*api.PlanVariant
	key      api.EndpointKey
	revision api.RevisionNumber
	gate     *gate
	flow     *queue.Flow // the tenant's
	band     queue.Band
	where    atomic.Pointer[where]
	compute  *compute
	cache    *cache.Cache // nil where the spec asks for none
}

// compute is what a version's requests take inside the runtime, in nanoseconds; 0 while it is not known.
type compute struct {
	mean atomic.Int64
	tail atomic.Int64 // 99 of 100 take less
}

// learn moves the mean to what a request took, by an eighth of the way or less for short runs, and the tail so that one request
// in a hundred is above it. Of two at once one may be lost, which both survive.
func (c *compute) learn(took time.Duration) {
	old, now := c.mean.Load(), max(1, int64(took))
	if old == 0 {
		c.mean.Store(now)
		c.tail.Store(now)
		return
	}
	if next := old + (now-old)/min(max(8, meanOver/old), 256); next != old {
		c.mean.Store(max(1, next))
	}
	if tail := c.tail.Load(); now > tail {
		c.tail.Store(min(now, tail+max(1, old/8)))
	} else if down := old / 8 / 99; down > 0 {
		c.tail.Store(max(now, tail-down))
	}
}

// expect is what a request is counted with before it is done.
func (c *compute) expect() time.Duration {
	if mean := c.mean.Load(); mean > 0 {
		return time.Duration(mean)
	}
	return unknownCompute
}

const (
	// meanOver is about how much of a version's work, in nanoseconds, its mean is taken over; at least 8 runs and at most 256. One run in a
	// hundred of a tiny model may be interrupted for a hundred times what it takes: in a mean over 8, those that follow would look like much work.
	meanOver = int64(5 * time.Millisecond)
	// unknownCompute is what a request counts for whose version has not answered yet.
	unknownCompute = time.Millisecond
)

// gate counts an endpoint's requests.
type gate struct {
	name    api.EndpointName
	present atomic.Int64
	retries retries
}

// enter lets a request in while fewer than limit are present; leave must be called once.
func (g *gate) enter(limit int64) error {
	if n := g.present.Add(1); n > limit {
		g.present.Add(-1)
		full := api.Fail(api.CodeQueueFull, string(g.name), "the endpoint's queue is full: limit %d", limit)
		full.RetryAfter = time.Second
		return full
	}
	g.retries.requests.Add(1)
	return nil
}

// force lets a request in whatever the limit.
func (g *gate) force() {
	g.present.Add(1)
	g.retries.requests.Add(1)
}

func (g *gate) leave() { g.present.Add(-1) }

func compile(plan *api.Plan, old *table, fair *queue.Fair) *table {
	t := &table{routes: make(map[api.EndpointKey]*route, len(plan.Endpoints)), replaced: make(chan struct{})}
	for key, ep := range plan.Endpoints {
		r := &route{PlanEndpoint: ep, gate: &gate{name: key.Endpoint}}
		if old != nil && old.routes[key] != nil {
			r.gate = old.routes[key].gate
		}
		for i := range ep.Variants {
			v := &variant{PlanVariant: &ep.Variants[i], key: key, revision: ep.Revision, gate: r.gate, compute: old.compute(key, &ep.Variants[i])}
			v.flow, v.band = fair.Flow(key.Tenant), bandOf(v.Serving.Band)
			if v.Serving.Cache != nil {
				t.caching = append(t.caching, v)
			}
			r.variants = append(r.variants, v)
			r.weights = append(r.weights, v.Weight)
		}
		t.routes[key] = r
	}
	return t
}

// compute finds what is known of a version on this endpoint; t may be nil.
func (t *table) compute(key api.EndpointKey, like *api.PlanVariant) *compute {
	if t != nil && t.routes[key] != nil {
		for _, v := range t.routes[key].variants {
			if v.Digest == like.Digest {
				return v.compute
			}
		}
	}
	return &compute{}
}

// find gives the route of an endpoint in the principal's own tenant; a foreign name looks like a missing one.
func (t *table) find(p *api.Principal, name api.EndpointName) (*route, error) {
	if p != nil {
		if r := t.routes[api.EndpointKey{Tenant: p.Tenant, Endpoint: name}]; r != nil {
			return r, nil
		}
	}
	return nil, api.Fail(api.CodeEndpointNotFound, "", "no such endpoint in this tenant")
}

// route picks the variant that answers: the one asked for, or the one that the unit falls on, or a random one.
func (t *table) route(c *Call) (*variant, error) {
	r, err := t.find(c.Principal, c.Endpoint)
	if err != nil {
		return nil, err
	}
	if r.Unloaded {
		return nil, off(c.Endpoint)
	}
	if len(r.variants) == 0 {
		return nil, api.Fail(api.CodeNotReady, string(c.Endpoint), "nothing was released on this endpoint yet")
	}
	if c.Variant != "" || c.Version != "" {
		return r.chosen(c)
	}
	if len(r.variants) == 1 {
		return r.variants[0], nil
	}
	if i := split.Pick(r.Salt, r.unit(c), r.weights); i >= 0 {
		return r.variants[i], nil
	}
	return nil, api.Fail(api.CodeNotReady, string(c.Endpoint), "no variant takes traffic: all weights are 0")
}

func off(name api.EndpointName) error {
	return api.Fail(api.CodeNotReady, string(name), "the endpoint is unloaded").
		WithCure("Load it: POST /v2/repository/models/%s/load; or deploy to it.", name)
}

// unit is what the split hashes: the caller's unit when the endpoint is sticky, else the request's own id, which makes
// the choice random.
func (r *route) unit(c *Call) string {
	if r.Sticky && c.Unit != "" {
		return c.Unit
	}
	return c.RequestID
}

// chosen finds the variant that the caller named, by name or by version. Of several arms with that version the split
// picks by weight.
func (r *route) chosen(c *Call) (*variant, error) {
	weights := make([]int64, len(r.variants))
	var first *variant
	for i, v := range r.variants {
		if (c.Variant != "" && string(v.Name) != c.Variant) || (c.Version != "" && strconv.FormatInt(int64(v.Version), 10) != c.Version) {
			continue
		}
		weights[i] = v.Weight
		if first == nil {
			first = v
		}
	}
	if i := split.Pick(r.Salt, r.unit(c), weights); i >= 0 {
		return r.variants[i], nil
	}
	switch {
	case first != nil:
		return first, nil // weight 0: reachable only by name
	case c.Version != "":
		return nil, api.Fail(api.CodeVersionNotFound, string(c.Endpoint), "version %.20s is not at ready state", c.Version)
	default:
		return nil, api.Fail(api.CodeNotFound, string(c.Endpoint), "the current revision has no variant %.64q", c.Variant)
	}
}

// balance picks the replica whose worker has the least work in hand and that is not among the failed ones; nil when
// there is none. Of equal ones the first is taken, and a little work is like none: while there is not much to do, one
// worker stays awake with its caches warm, and what it is sent and answers travels together, where taking turns would
// find each one cold.
func balance(replicas, failed []api.Replica) *api.Replica {
	var best *api.Replica
	least := time.Duration(0)
	for i := range replicas {
		r := &replicas[i]
		if len(failed) > 0 && slices.Contains(failed, *r) {
			continue
		}
		work := r.Load.Work()
		if work <= queue.LittleWork {
			return r
		}
		if best == nil || work < least {
			best, least = r, work
		}
	}
	return best
}

// platform names what runs a format, as Triton names its platforms.
func platform(format string) string {
	if format == api.FormatChain {
		return "penstock_chain"
	}
	return "onnxruntime_onnx"
}

// Describe gives what a caller may know of an endpoint; version is empty or a decimal number.
func (p *Path) Describe(principal *api.Principal, name api.EndpointName, version string) (View, error) {
	t := p.table.Load()
	if t == nil {
		return View{}, api.Fail(api.CodeNotReady, string(name), "the server has no plan yet")
	}
	r, err := t.find(principal, name)
	if err != nil {
		return View{}, err
	}
	if r.Unloaded {
		return View{}, off(name)
	}
	view := View{Endpoint: name}
	for _, v := range r.variants {
		number := strconv.FormatInt(int64(v.Version), 10)
		if version != "" && number != version {
			continue
		}
		state := v.Set.State()
		if len(view.Versions) == 0 {
			view.Signature, view.Platform, view.Ready, view.Cached = v.Signature, platform(v.Format), true, v.cache != nil
			if state.Batch != nil {
				view.Batch = *state.Batch
			}
			if v.Serving.Batching != nil {
				view.Batching = *v.Serving.Batching
			}
		}
		view.Versions = append(view.Versions, number)
		if len(state.Replicas) == 0 && !state.Asleep && v.Weight > 0 {
			view.Ready = false
		}
	}
	if version != "" && len(view.Versions) == 0 {
		return View{}, api.Fail(api.CodeVersionNotFound, string(name), "version %.20s is not at ready state", version)
	}
	return view, nil
}
