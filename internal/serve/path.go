package serve

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/serve/cache"
	"github.com/penstock/penstock/internal/serve/queue"
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
	Wait    time.Duration // longest wait for a turn in the workers; default 15 s
	Fair    queue.Config  // the sharing among tenants
	Timeout time.Duration // longest time for one request where the variant says nothing; default 60 s
	Wake    time.Duration // longest wait for a replica while none is loaded; default 30 s
	Retry   RetryLimits   // sending requests again whose worker was lost
	Cache   int64         // bytes of all response caches together, however much their endpoints ask for; default 256 MiB
}

// lostRetries bounds how often a request is sent again after a worker died with it: it got no byte of an answer, but it
// may have run. One that never reached a worker, or whose worker did not hold the instance, never ran; it is tried on
// every other replica, and then waits until the fleet has another.
const lostRetries = 1

// Path carries requests from the gateway to an engine. Set the fields before the first call.
type Path struct {
	Engines  Engines
	Recorder Recorder
	Limits   Limits
	Now      func() time.Time

	// Blame, when set, is told which replica a poison request was on when the second worker crashed; it must not block.
	Blame func(r api.Replica, why string)

	table atomic.Pointer[table]
	fair  *queue.Fair  // made with the first plan
	kept  cache.Budget // what all response caches hold
	tight atomic.Bool  // memory is nearly used up
	sick  healths

	poison  poison
	weights map[api.TenantID]int // of the last plan; touched by SetPlan alone
}

// SetPlan puts a plan into effect for every request that is routed from now on. One goroutine calls it at a time.
func (p *Path) SetPlan(plan *api.Plan) {
	old := p.table.Load()
	if p.fair == nil {
		p.fair = queue.New(p.Limits.Fair)
	}
	next := compile(plan, old, p.fair)
	p.weigh(plan.Weights)
	p.openCaches(next, old)
	p.table.Store(next)
	if old != nil {
		closeCaches(old, next)
		close(old.replaced)
	}
}

// Tighten says whether the server's memory is nearly used up. While it is, nothing new is begun; what is kept is still answered.
func (p *Path) Tighten(tight bool) { p.tight.Store(tight) }

func overloaded(c *Call) error {
	err := api.Fail(api.CodeOverloaded, string(c.Endpoint), "the server's memory is nearly used up")
	err.RetryAfter = time.Second
	return err
}

// weigh gives tenants their weights; those that are not named have 1.
func (p *Path) weigh(weights map[api.TenantID]int) {
	for t, w := range weights {
		p.fair.SetWeight(p.fair.Flow(t), w)
	}
	for t := range p.weights {
		if _, still := weights[t]; !still {
			p.fair.SetWeight(p.fair.Flow(t), 1)
		}
	}
	p.weights = weights
}

// Ready reports whether a plan is in effect.
func (p *Path) Ready() bool { return p.table.Load() != nil }

// Infer is the walk: admit, route, recall, queue, share, balance, infer, record. Every call ends exactly once, at the latest with its
// deadline, and leaves exactly one exchange.
func (p *Path) Infer(ctx context.Context, c *Call) (*Answer, error) {
	c.x = exchange(c)
	answer, err := p.walk(ctx, c, &c.x)
	p.record(&c.x, answer, err)
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
	if _, err := p.poison.look(c, &to, p.Now); err != nil {
		return nil, err
	}
	if p.tight.Load() {
		return nil, overloaded(c)
	}
	gate := to.variant.gate
	if err := gate.enter(p.Limits.queue()); err != nil {
		if !p.fair.Evict(to.variant.flow, gate, to.variant.bandOf(c)) {
			return nil, err
		}
		gate.force() // the one evicted is on its way out
	}
	defer gate.leave()
	now, limit := p.Now(), p.Limits.timeout(to.variant)
	by, has := ctx.Deadline()
	switch {
	case has && by.Before(now.Add(limit)):
	case !has && c.Life != nil && c.Life.Within(now, limit):
		defer c.Life.Free()
	default:
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
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

// target is where a request goes: the variant in the table that routed it, and the replicas which failed it already. Asked is the response cache that may answer it, nil for none.
type target struct {
	table   *table
	variant *variant
	seen    *api.ReplicaState // where the variant was loaded when a replica was picked last
	failed  []api.Replica     // of seen
	asked   *cache.Cache
	key     cache.Key
	alone   bool     // it was in a worker that crashed, so it runs with nothing beside it
	weighed *variant // that content is for
	content dose
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
		r, place, err := p.turn(ctx, c, to, x)
		if err != nil {
			return nil, err
		}
		v := to.variant
		see(x, v)
		x.Worker = r.Worker
		answer, err := p.send(ctx, c, to, r, sending{place: place, x: x})
		let(v.Set, answer)
		if err == nil {
			x.Queue += answer.Queue
			x.Compute, x.Executed, x.Wait, x.Steps = answer.Compute, int64(answer.Batch), answer.Wait, answer.Steps
			c.answer = Answer{Outputs: answer.Outputs, Model: v.Model, Version: v.Version, Variant: v.Name, run: answer}
			return &c.answer, nil
		}
		switch {
		case ctx.Err() != nil:
			return nil, ended(ctx, c)
		case api.Is(err, api.CodeWorkerLost) && lost < lostRetries:
			lost++
			if err := p.mayRetry(c, v, x, err); err != nil {
				return nil, err
			}
		case api.Is(err, api.CodeNotLoaded):
		default:
			return nil, about(err, c)
		}
		to.failed = append(to.failed, *r)
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

// sending is what goes with a request to a replica: the place in its worker, and what becomes of it.
type sending struct {
	place queue.Place
	x     *api.Exchange
	sole  bool // nothing else is in the worker
}

// send has a replica answer, and gives the place in its worker back with the time that it took.
func (p *Path) send(ctx context.Context, c *Call, to *target, r *api.Replica, s sending) (*engine.Answer, error) {
	v, took := to.variant, time.Duration(-1)
	defer func() { p.fair.Leave(s.place, took) }()
	e, ok := p.Engines.Engine(r.Worker)
	if !ok || gone(e) {
		return nil, api.Fail(api.CodeNotLoaded, string(c.Endpoint), "worker %s is gone", r.Worker)
	}
	s.sole = s.place.Alone() && engine.Busy(e) == 0
	took = 0 // as expected, when it fails
	work := v.compute.expect()
	r.Load.Enter(work)
	defer r.Load.Leave(work)
	begun := p.Now()
	probe := p.sick.begin(*r, begun)
	answer, err := e.Infer(ctx, engine.Request{Instance: r.Instance, Inputs: v.inputs(c), Outputs: c.Outputs, Priority: c.Priority,
		Expect: work, Limit: p.Limits.timeout(v)})
	ended := p.Now()
	s.sole = s.sole && (err == nil || engine.Fault(e) == nil) // else the worker was ended for what it did itself
	p.sick.end(*r, judge(ctx, err, ended.Sub(begun), time.Duration(v.compute.tail.Load())), probe, ended)
	switch {
	case err == nil:
		took = max(1, ownShare(s.x, answer))
		v.compute.learn(took)
	case api.Is(err, api.CodeNotLoaded):
		took = -1
	}
	return answer, p.blame(c, to, r, s, err)
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

func (l Limits) wait() time.Duration {
	if l.Wait > 0 {
		return l.Wait
	}
	return 15 * time.Second
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
