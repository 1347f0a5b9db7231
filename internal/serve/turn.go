package serve

import (
	"context"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/serve/queue"
)

// bandOf reads an endpoint's band; what it does not know is standard.
func bandOf(b api.Band) queue.Band {
	switch b {
	case api.BandCritical:
		return queue.Critical
	case api.BandBatch:
		return queue.Batch
	}
	return queue.Standard
}

// band is the request's: its endpoint's, or a lower one that the caller asks for. Nobody asks for a higher one.
func (v *variant) bandOf(c *Call) queue.Band {
	if c.Band == "" {
		return v.band
	}
	return max(v.band, bandOf(c.Band))
}

// where is the pool of the workers that hold a variant, for one state of its set.
type where struct {
	state *api.ReplicaState
	pool  *queue.Pool
}

// pool finds the pool of the workers that hold the variant; it is looked up anew when its set has changed.
func (v *variant) pool(state *api.ReplicaState, fair *queue.Fair) *queue.Pool {
	if w := v.where.Load(); w != nil && w.state == state {
		return w.pool
	}
	w := &where{state, fair.Pool(workers(state.Replicas, nil))}
	v.where.Store(w)
	return w.pool
}

// turn waits until it is the request's turn and a worker has room, and says which replica takes it. The place must be given
// back, and the variant's set let go of: it is held, so that the model stays while the request waits.
func (p *Path) turn(ctx context.Context, c *Call, to *target, x *api.Exchange) (*api.Replica, queue.Place, error) {
	var serial uint64
	for {
		r, waited, err := p.replica(ctx, c, to)
		x.Queue += waited
		if err != nil {
			return nil, queue.Place{}, err
		}
		v, set, state := to.variant, to.variant.Set, to.seen
		pool, skip := v.pool(state, p.fair), p.sick.avoid(state.Replicas, to.failed, p.Now)
		if len(skip) > 0 {
			pool = p.fair.Pool(workers(state.Replicas, skip))
		}
		q := queue.Request{Flow: v.flow, Pool: pool, Band: v.bandOf(c), Cost: time.Duration(v.compute.expect()),
			Part: part(state.Batch, x.Batch), Tail: time.Duration(v.compute.tail.Load()), Owner: v.gate, Again: x.Retries > 0 || serial != 0, Serial: serial, Alone: to.alone}
		q.Until, _ = ctx.Deadline()
		place, w, refusal := p.fair.Enter(&q)
		if refusal.Reason != queue.Fits {
			let(set, nil)
			return nil, queue.Place{}, p.refused(c, &refusal)
		}
		if w != nil {
			serial = w.Serial()
			begin := p.Now()
			place, err = p.stand(ctx, c, to, w, pool)
			x.Queue += p.Now().Sub(begin)
			if err != nil {
				let(set, nil)
				return nil, queue.Place{}, err
			}
			r = nil
		}
		if !place.Granted() {
			let(set, nil)
			continue // other replicas answer for it now
		}
		if r == nil || r.Worker != place.Worker() {
			r = on(set.State().Replicas, place.Worker(), skip)
		}
		if r == nil || to.variant.Set != set { // it has moved away in this moment
			p.fair.Leave(place, -1)
			let(set, nil)
			continue
		}
		suspect, err := p.poison.look(c, to, p.Now)
		if err == nil && (!suspect || place.Alone()) {
			return r, place, nil
		}
		p.fair.Leave(place, -1) // what is held against its like was found while it waited
		let(set, nil)
		if err != nil {
			return nil, queue.Place{}, err
		}
		to.alone = true
	}
}

// stand waits for the turn. It gives no place and no error when the request has to ask anew, since other replicas answer for
// it now.
func (p *Path) stand(ctx context.Context, c *Call, to *target, w *queue.Waiter, pool *queue.Pool) (queue.Place, error) {
	longest := time.NewTimer(p.Limits.wait())
	defer longest.Stop()
	for {
		select {
		case <-w.Granted():
			place, evicted := p.fair.Take(w)
			switch {
			case evicted:
				return queue.Place{}, shed(c)
			case ctx.Err() != nil: // it would be run for nobody
				p.fair.Leave(place, -1)
				return queue.Place{}, ended(ctx, c)
			case to.variant.late(ctx, p.Now().Add(place.Ahead())): // it would be run for nothing, in the place of one that can be in time
				p.fair.Leave(place, -1)
				return queue.Place{}, tooLate(c, "too little of the request's time was left when it was its turn")
			}
			return place, nil
		case <-ctx.Done():
			p.fair.Cancel(w)
			return queue.Place{}, ended(ctx, c)
		case <-longest.C:
			p.fair.Cancel(w)
			return queue.Place{}, tooLate(c, "it was not the request's turn within the limit of %v", p.Limits.wait())
		case <-to.table.replaced:
			if err := to.renew(p.table.Load(), c); err != nil {
				p.fair.Cancel(w)
				return queue.Place{}, err
			}
		case <-to.seen.Changed:
			to.seen, to.failed = to.variant.Set.State(), to.failed[:0]
		}
		if to.variant.pool(to.variant.Set.State(), p.fair) != pool {
			p.fair.Cancel(w)
			return queue.Place{}, nil
		}
	}
}

// late reports that a run which takes long for its version, and begins then, would not end by the deadline.
func (v *variant) late(ctx context.Context, begin time.Time) bool {
	by, ok := ctx.Deadline()
	return ok && by.Sub(begin) < time.Duration(v.compute.tail.Load())
}

func tooLate(c *Call, format string, args ...any) error {
	err := api.Fail(api.CodeTooLate, string(c.Endpoint), format, args...)
	err.RetryAfter = time.Second
	return err
}

// refused makes the error of a request that may not wait.
func (p *Path) refused(c *Call, why *queue.Refusal) error {
	var err *api.Error
	switch why.Reason {
	case queue.OverShare:
		err = api.Fail(api.CodeOverShare, string(c.Endpoint),
			"the tenant is over its share of the workers: %d of its requests wait, limit %d while other tenants compete", why.Waiting, p.Limits.Fair.Limit())
	default:
		err = api.Fail(api.CodeTooLate, string(c.Endpoint), "an answer is expected in %v, after the request's deadline; %d requests of the tenant wait",
			why.Expect.Round(time.Millisecond), why.Waiting)
	}
	err.RetryAfter = min(max(why.Retry, 100*time.Millisecond), retryMost)
	return err
}

// Overdue refuses a call, of which only Principal, Endpoint, RequestID, Protocol and Start are known, if it would be refused
// whatever else it says: its tenant is over its share. So its body need not be read, which costs the server more than the
// refusal. It leaves an exchange when it refuses. Endpoints that keep answers are left out: a kept one needs no worker.
func (p *Path) Overdue(c *Call) error {
	t := p.table.Load()
	if t == nil || admit(c) != nil {
		return nil // the walk says so better
	}
	r, err := t.find(c.Principal, c.Endpoint)
	if err != nil || len(r.variants) == 0 || slices.ContainsFunc(r.variants, func(v *variant) bool { return v.cache != nil }) {
		return nil
	}
	v := r.variants[0]
	state := v.Set.State()
	if len(state.Replicas) == 0 {
		return nil
	}
	refusal := p.fair.Overdue(v.flow, v.pool(state, p.fair))
	if refusal.Reason == queue.Fits {
		return nil
	}
	x := exchange(c)
	err = p.refused(c, &refusal)
	p.record(&x, nil, err)
	return err
}

// shed is the end of a request that waited while a more urgent one of the same endpoint came.
func shed(c *Call) error {
	err := api.Fail(api.CodeQueueFull, string(c.Endpoint), "the endpoint's queue is full, and a more urgent request took the place")
	err.RetryAfter = time.Second
	return err
}

// retryMost bounds the time that callers are told to stay away.
const retryMost = 30 * time.Second

// part is a request's share of a run; nothing is known of a model that does not batch.
func part(batch *api.BatchPlan, rows int64) int64 {
	if batch == nil {
		return 0
	}
	return queue.PartOf(rows, int64(batch.MaxSize))
}

// workers names the workers of the replicas that have not failed the request, in their order.
func workers(replicas, failed []api.Replica) []string {
	names := make([]string, 0, len(replicas))
	for _, r := range replicas {
		if !slices.Contains(failed, r) {
			names = append(names, r.Worker)
		}
	}
	return names
}

// on finds the replica in a worker; nil when there is none that has not failed the request.
func on(replicas []api.Replica, worker string, failed []api.Replica) *api.Replica {
	for i := range replicas {
		if r := &replicas[i]; r.Worker == worker && (len(failed) == 0 || !slices.Contains(failed, *r)) {
			return r
		}
	}
	return nil
}
