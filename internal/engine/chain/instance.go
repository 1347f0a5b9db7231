package chain

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/tensor"
)

// instance is one loaded chain. Load fills it and then closes ready; until then only Load touches what is below it.
type instance struct {
	name   string
	ctx    context.Context // ends when the requests under way shall stop
	cancel context.CancelFunc
	ready  chan struct{}

	failed  error // why Load failed; nil: loaded
	loaded  engine.Loaded
	graph   *graph
	members []string // by step: the model's name in the engine below

	mu      sync.Mutex // guards users, retired and the closing of idle
	users   int
	retired bool
	idle    chan struct{} // closed when retired and the last user has left

	requests, failures atomic.Int64
	compute            atomic.Int64 // nanoseconds
}

func newInstance(parent context.Context, name string) *instance {
	in := &instance{name: name, ready: make(chan struct{}), idle: make(chan struct{})}
	in.ctx, in.cancel = context.WithCancel(parent)
	return in
}

func (in *instance) isReady() bool {
	select {
	case <-in.ready:
		return in.failed == nil
	default:
		return false
	}
}

// enter holds the instance for one request; false when it is on its way out.
func (in *instance) enter() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.retired {
		return false
	}
	in.users++
	return true
}

func (in *instance) leave() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.users--
	if in.retired && in.users == 0 {
		close(in.idle)
	}
}

// retire lets nobody in any more; first says whether this call began it. The channel closes when the last request has left.
func (in *instance) retire() (first bool, idle <-chan struct{}) {
	in.mu.Lock()
	defer in.mu.Unlock()
	first = !in.retired
	in.retired = true
	if first && in.users == 0 {
		close(in.idle)
	}
	return first, in.idle
}

func (in *instance) count(answer *engine.Answer, err error) {
	in.requests.Add(1)
	if err != nil {
		in.failures.Add(1)
		return
	}
	in.compute.Add(int64(answer.Compute))
}

func (in *instance) stats() engine.InstanceStats {
	in.mu.Lock()
	users := in.users
	in.mu.Unlock()
	return engine.InstanceStats{Instance: in.name, InFlight: int64(users), Requests: in.requests.Load(),
		Failures: in.failures.Load(), Compute: time.Duration(in.compute.Load())}
}

// accept checks a request against the chain's signature and finds the slots of the outputs wanted.
func (in *instance) accept(req engine.Request) ([]slot, error) {
	g := in.graph
	mismatch := func(format string, args ...any) error {
		return api.Fail(api.CodeSignatureMismatch, in.name, format, args...)
	}
	for i := range req.Inputs {
		t := &req.Inputs[i]
		at := slices.IndexFunc(g.chain.Inputs, func(s api.TensorSpec) bool { return s.Name == t.Name })
		if at < 0 {
			return nil, mismatch("the chain has no input %q; it takes %s", clip(t.Name), names(g.chain.Inputs))
		}
		if slices.ContainsFunc(req.Inputs[:i], func(before tensor.Tensor) bool { return before.Name == t.Name }) {
			return nil, mismatch("input %q is given twice", t.Name)
		}
		if err := (bindings{}).take(g.inputs[at], actual(t)); err != nil {
			return nil, mismatch("input %q: %w", t.Name, err)
		}
		if err := t.Check(); err != nil {
			return nil, api.Fail(api.CodeBadTensor, in.name, "input %q: %w", t.Name, err)
		}
	}
	for _, s := range g.chain.Inputs {
		if !slices.ContainsFunc(req.Inputs, func(t tensor.Tensor) bool { return t.Name == s.Name }) {
			return nil, mismatch("input %q is missing: %s of shape %v", s.Name, s.Datatype, s.Shape)
		}
	}
	if len(req.Outputs) == 0 {
		return g.outs, nil
	}
	outs := make([]slot, len(req.Outputs))
	for i, name := range req.Outputs {
		at := slices.IndexFunc(g.chain.Outputs, func(o api.ChainOutput) bool { return o.Name == name })
		if at < 0 {
			return nil, mismatch("the chain has no output %q", clip(name))
		}
		if slices.Contains(req.Outputs[:i], name) {
			return nil, mismatch("output %q is asked for twice", name)
		}
		outs[i] = g.outs[at]
	}
	return outs, nil
}

// outputName names the answer's tensor number i.
func (in *instance) outputName(wanted []string, i int) string {
	if len(wanted) > 0 {
		return wanted[i]
	}
	return in.graph.chain.Outputs[i].Name
}

// member is a model in the engine below that chains share. Its lock is a channel, so that whoever waits can give up; it
// is held over loading and unloading, so that one never crosses the other.
type member struct {
	lock   chan struct{}
	loaded bool // guarded by lock
	found  engine.Loaded
	claims int // chains that hold it or wait for it; guarded by Engine.mu
}

// take loads a member, or claims it when it is loaded.
func (e *Engine) take(ctx context.Context, load engine.Load) (engine.Loaded, error) {
	e.mu.Lock()
	m := e.members[load.Instance]
	if m == nil {
		m = &member{lock: make(chan struct{}, 1)}
		e.members[load.Instance] = m
	}
	m.claims++
	e.mu.Unlock()
	select {
	case m.lock <- struct{}{}:
	case <-ctx.Done():
		e.mu.Lock()
		m.claims--
		e.mu.Unlock()
		return engine.Loaded{}, ended(ctx, load.Instance)
	}
	defer func() { <-m.lock }()
	if m.loaded {
		return engine.Loaded{Signature: m.found.Signature}, nil
	}
	found, err := e.inner.Load(ctx, load)
	if err != nil {
		e.mu.Lock()
		m.claims--
		e.drop(load.Instance, m)
		e.mu.Unlock()
		return found, err
	}
	m.loaded, m.found = true, found
	return found, nil
}

// drop needs mu and the member's lock. It forgets a member that nobody claims.
func (e *Engine) drop(name string, m *member) {
	if m.claims == 0 && e.members[name] == m {
		delete(e.members, name)
	}
}

// let gives up a chain's claims; a member that nobody claims any more is unloaded.
func (e *Engine) let(ctx context.Context, in *instance) {
	in.cancel()
	for _, name := range in.members {
		if name == "" {
			continue
		}
		e.mu.Lock()
		m := e.members[name]
		e.mu.Unlock()
		m.lock <- struct{}{} // not for long: loading and unloading are bounded by the engine below
		e.mu.Lock()
		m.claims--
		last := m.claims == 0
		e.mu.Unlock()
		if last && m.loaded {
			if err := e.inner.Unload(ctx, name); err != nil {
				e.config.Log.Warn("chain: member not unloaded", "member", name, "error", err)
			}
			m.loaded = false
		}
		e.mu.Lock()
		e.drop(name, m)
		e.mu.Unlock()
		<-m.lock
	}
}
