package serve

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/serve/cache"
)

// Engines finds the engine of a worker; it is asked on every request and must not block.
type Engines interface {
	Engine(worker string) (engine.Engine, bool)
}

// Recorder takes the exchange of every inference; it must not block.
type Recorder interface {
	Record(x api.Exchange)
}

// Limits bound what one endpoint may hold. Zero means the default.
type Limits struct {
	Queue   int           // requests in the gateway per endpoint, waiting and running; default 256
	Timeout time.Duration // longest time for one request where the variant says nothing; default 60 s
	Wake    time.Duration // longest wait for a replica while none is loaded; default 30 s
	Cache   int64         // bytes of all response caches together, however much their endpoints ask for; default 256 MiB
}

// lostRetries bounds how often a request is sent again after a worker died with it: it got no byte of an answer, but it
// may have run. One that never reached a worker, or whose worker did not hold the instance, never ran; it is tried on
// every other replica, and then waits for a new plan.
const lostRetries = 1

// Path carries requests from the gateway to an engine. Set the fields before the first call.
type Path struct {
	Engines  Engines
	Recorder Recorder
	Limits   Limits
	Now      func() time.Time

	table atomic.Pointer[table]
	kept  cache.Budget // what all response caches hold
}

// SetPlan puts a plan into effect for every request that is routed from now on. One goroutine calls it at a time.
func (p *Path) SetPlan(plan *api.Plan) {
	old := p.table.Load()
	next := compile(plan, old)
	p.openCaches(next, old)
	p.table.Store(next)
	if old != nil {
		closeCaches(old, next)
		close(old.replaced)
	}
}

// Ready reports whether a plan is in effect.
func (p *Path) Ready() bool { return p.table.Load() != nil }

// Infer is the walk: admit, route, recall, queue, share, balance, infer, record. Every call ends exactly once, at the latest with its
// deadline, and leaves exactly one exchange.
func (p *Path) Infer(ctx context.Context, c *Call) (*Answer, error) {
	x := exchange(c)
	answer, err := p.walk(ctx, c, &x)
	p.record(&x, answer, err)
	return answer, err
}

func (p *Path) walk(ctx context.Context, c *Call, x *api.Exchange) (*Answer, error) {
	if err := admit(c); err != nil {
		return nil, err
	}
	to, err := p.route(c)
	if err != nil {
		return nil, err
	}
	see(x, to.variant)
	if answer := p.recall(c, &to, x); answer != nil {
		return answer, nil
	}
	gate := to.variant.gate
	if err := gate.enter(p.Limits.queue()); err != nil {
		return nil, err
	}
	defer gate.leave()
	ctx, cancel := context.WithTimeout(ctx, p.Limits.timeout(to.variant))
	defer cancel()
	return p.share(ctx, c, &to, x)
}

// admit checks what the principal may do; its tenant is the only place where names resolve.
func admit(c *Call) error {
	if !c.Principal.Allows(api.ScopeInfer) {
		return api.Fail(api.CodeForbidden, string(c.Endpoint), "the key lacks the scope %q", api.ScopeInfer)
	}
	if c.Variant != "" && !c.Principal.Allows(api.ScopeVariant) {
		return api.Fail(api.CodeForbidden, string(c.Endpoint), "the key lacks the scope %q, which choosing a variant needs", api.ScopeVariant)
	}
	return nil
}

// target is where a request goes: the variant in the table that routed it, and the replicas of that table which failed
// it already. Asked is the response cache that may answer it, nil for none.
type target struct {
	table   *table
	variant *variant
	failed  []api.Replica
	asked   *cache.Cache
	key     cache.Key
}

func (p *Path) route(c *Call) (target, error) {
	t := p.table.Load()
	if t == nil {
		return target{}, api.Fail(api.CodeNotReady, string(c.Endpoint), "the server has no plan yet")
	}
	v, err := t.route(c)
	return target{table: t, variant: v}, err
}

// renew follows the newest plan: to the same arm when it still serves the same version, else to whatever the plan gives
// the caller now, since the old replicas may be gone.
func (to *target) renew(newest *table, c *Call) (err error) {
	if newest == to.table {
		return nil
	}
	to.table, to.failed = newest, to.failed[:0]
	if r := newest.routes[to.variant.key]; r != nil {
		for _, v := range r.variants {
			if v.Digest == to.variant.Digest && v.Name == to.variant.Name {
				to.variant = v
				return nil
			}
		}
	}
	to.variant, err = newest.route(c)
	return err
}

// infer sends the request to the least loaded replica, and again where that is safe.
func (p *Path) infer(ctx context.Context, c *Call, to *target, x *api.Exchange) (*Answer, error) {
	for lost := 0; ; x.Retries++ {
		r, waited, err := p.replica(ctx, c, to)
		x.Queue += waited
		if err != nil {
			return nil, err
		}
		v := to.variant
		see(x, v)
		x.Worker = r.Worker
		answer, err := p.send(ctx, c, v, r)
		if err == nil {
			v.compute.learn(ownShare(x, answer))
			x.Queue += answer.Queue
			x.Compute, x.Executed, x.Wait, x.Steps = answer.Compute, int64(answer.Batch), answer.Wait, answer.Steps
			return &Answer{Outputs: answer.Outputs, Model: v.Model, Version: v.Version, Variant: v.Name, release: answer.Release}, nil
		}
		switch {
		case ctx.Err() != nil:
			return nil, ended(ctx, c)
		case api.Is(err, api.CodeWorkerLost) && lost < lostRetries:
			lost++
		case api.Is(err, api.CodeNotLoaded):
		default:
			return nil, about(err, c)
		}
		to.failed = append(to.failed, r.Replica)
	}
}

// ownShare is a request's part of the run that it shared with others.
func ownShare(x *api.Exchange, answer *engine.Answer) time.Duration {
	if int64(answer.Batch) <= x.Batch {
		return answer.Compute
	}
	return answer.Compute * time.Duration(max(1, x.Batch)) / time.Duration(answer.Batch)
}

// about names the endpoint in an engine's error: the engine knows only the instance's name, which says nothing to callers.
func about(err error, c *Call) error {
	told := *api.AsError(err)
	told.Subject = string(c.Endpoint)
	return &told
}

func (p *Path) send(ctx context.Context, c *Call, v *variant, r *replica) (*engine.Answer, error) {
	e, ok := p.Engines.Engine(r.Worker)
	if !ok || gone(e) {
		return nil, api.Fail(api.CodeNotLoaded, string(c.Endpoint), "worker %s is gone", r.Worker)
	}
	work := v.compute.expect()
	r.load.enter(work)
	defer r.load.leave(work)
	return e.Infer(ctx, engine.Request{Instance: r.Instance, Inputs: v.inputs(c), Outputs: c.Outputs, Priority: c.Priority})
}

// gone reports an engine that is known to be dead: a request that was never sent to it costs no retry of a lost one.
func gone(e engine.Engine) bool {
	select {
	case <-e.Done():
		return true
	default:
		return false
	}
}

// replica picks the least loaded replica as the newest plan knows it. While there is none that has not failed the
// request, it holds the request until a new plan brings one, at most Limits.Wake.
func (p *Path) replica(ctx context.Context, c *Call, to *target) (*replica, time.Duration, error) {
	var begin time.Time
	var wake <-chan time.Time
	for {
		if err := to.renew(p.table.Load(), c); err != nil {
			return nil, 0, err
		}
		if r := to.variant.balance(to.failed); r != nil {
			if wake == nil {
				return r, 0, nil
			}
			return r, p.Now().Sub(begin), nil
		}
		if wake == nil {
			begin = p.Now()
			timer := time.NewTimer(p.Limits.wake())
			defer timer.Stop()
			wake = timer.C
		}
		select {
		case <-to.table.replaced:
		case <-ctx.Done():
			return nil, p.Now().Sub(begin), ended(ctx, c)
		case <-wake:
			return nil, p.Now().Sub(begin), api.Fail(api.CodeLoading, string(c.Endpoint),
				"no replica of version %d became ready within the limit of %v", to.variant.Version, p.Limits.wake())
		}
	}
}

func ended(ctx context.Context, c *Call) error {
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return api.Fail(api.CodeDeadline, string(c.Endpoint), "the deadline passed before the answer was ready")
	}
	return api.Fail(api.CodeCanceled, string(c.Endpoint), "the caller went away")
}

func exchange(c *Call) api.Exchange {
	x := api.Exchange{RequestID: c.RequestID, Endpoint: c.Endpoint, Protocol: c.Protocol, Unit: c.Unit,
		Start: api.TimeOf(c.Start), Batch: 1, Priority: c.Priority, TraceID: c.TraceID, ParentID: c.ParentID, Sampled: c.Sampled}
	if c.Principal != nil {
		x.Tenant, x.Key = c.Principal.Tenant, c.Principal.Key
	}
	for i := range c.Inputs {
		x.BytesIn += int64(len(c.Inputs[i].Data))
	}
	if len(c.Inputs) > 0 && len(c.Inputs[0].Shape) > 0 {
		x.Batch = c.Inputs[0].Shape[0]
	}
	return x
}

func see(x *api.Exchange, v *variant) {
	x.Revision, x.Variant, x.Model, x.Version = v.revision, v.Name, v.Model, v.Version
}

func (p *Path) record(x *api.Exchange, answer *Answer, err error) {
	if answer != nil {
		for i := range answer.Outputs {
			x.BytesOut += int64(len(answer.Outputs[i].Data))
		}
	}
	if err != nil {
		e := api.AsError(err)
		x.Code, x.Error = e.Code, e.Message
	}
	x.Total = p.Now().Sub(x.Start.Std())
	p.Recorder.Record(*x)
}

func (l Limits) queue() int64 {
	if l.Queue > 0 {
		return int64(l.Queue)
	}
	return 256
}

func (l Limits) cache() int64 {
	if l.Cache > 0 {
		return l.Cache
	}
	return 256 << 20
}

func (l Limits) wake() time.Duration {
	if l.Wake > 0 {
		return l.Wake
	}
	return 30 * time.Second
}

func (l Limits) timeout(v *variant) time.Duration {
	if ms := v.Serving.TimeoutMS; ms > 0 {
		return time.Duration(ms) * time.Millisecond
	}
	if l.Timeout > 0 {
		return l.Timeout
	}
	return 60 * time.Second
}
