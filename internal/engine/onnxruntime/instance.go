package onnxruntime

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/ort"
)

// instance is one loaded model. Load fills it and then closes ready; until then only Load touches what is below it.
type instance struct {
	name   string
	ctx    context.Context // ends when the runs under way shall stop
	cancel context.CancelFunc
	ready  chan struct{}
	slots  chan struct{} // a run each

	failed  error // why Load failed; nil: loaded
	loaded  engine.Loaded
	model   *model
	letGo   func(*model)
	inputs  []input
	byName  map[string]int // index in inputs
	symbols []string       // names that several free dimensions of inputs share

	mu      sync.Mutex // guards what follows, and the closing of idle
	users   int
	retired bool
	idle    chan struct{} // closed when retired and the last user has left
	stopped bool
	gone    bool // discarded
	runners map[*runner]struct{}
	spare   []*runner // the last one used is taken first

	requests, failures atomic.Int64
	compute            atomic.Int64 // nanoseconds
}

func newInstance(parent context.Context, name string, runs int) *instance {
	in := &instance{name: name, ready: make(chan struct{}), slots: make(chan struct{}, runs), idle: make(chan struct{}), runners: map[*runner]struct{}{}}
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
	in.users--
	last := in.retired && in.users == 0
	in.mu.Unlock()
	if last {
		in.discard()
		close(in.idle)
	}
}

// retire lets nobody in any more; the channel closes when the last request has left and the instance is freed.
func (in *instance) retire() <-chan struct{} {
	in.mu.Lock()
	first := !in.retired
	in.retired = true
	empty := first && in.users == 0
	in.mu.Unlock()
	if empty {
		in.discard()
		close(in.idle)
	}
	return in.idle
}

// stop tells the runs under way to end, and those that wait for a slot.
func (in *instance) stop() {
	in.cancel()
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stopped = true
	for r := range in.runners {
		if r.running {
			_ = r.options.Terminate() // fails only on closed options, and a running one's are open
		}
	}
}

// close waits for a Load under way, which the engine's context has told to end, then retires the instance.
func (in *instance) close() <-chan struct{} {
	select {
	case <-in.ready:
		if in.failed == nil {
			return in.retire()
		}
	default:
	}
	// Load fails when it sees that the engine is closed, or its instance frees itself here.
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		<-in.ready
		if in.failed == nil {
			<-in.retire()
		}
	}()
	return gone
}

// discard frees what the instance holds. Nobody uses it any more, but for answers that are not released yet: their runners
// free themselves.
func (in *instance) discard() {
	in.cancel()
	in.mu.Lock()
	in.gone = true
	spare := in.spare
	in.spare = nil
	for _, r := range spare {
		delete(in.runners, r)
	}
	in.mu.Unlock()
	for _, r := range spare {
		r.options.Close()
	}
	if in.model != nil {
		in.letGo(in.model)
	}
}

func (in *instance) count(compute time.Duration, failed bool) {
	in.requests.Add(1)
	in.compute.Add(int64(compute))
	if failed {
		in.failures.Add(1)
	}
}

// forget takes the warming run out of the counts.
func (in *instance) forget() {
	in.requests.Store(0)
	in.failures.Store(0)
	in.compute.Store(0)
}

func (in *instance) stats() engine.InstanceStats {
	in.mu.Lock()
	users := in.users
	in.mu.Unlock()
	return engine.InstanceStats{Instance: in.name, InFlight: int64(users), Requests: in.requests.Load(),
		Failures: in.failures.Load(), Compute: time.Duration(in.compute.Load()), Bytes: in.model.bytes()}
}

// describe reads the session's signature and refuses what the protocols cannot carry.
func (in *instance) describe() error {
	var err error
	if in.loaded.Signature.Inputs, err = in.specs("input", in.model.session.Inputs()); err != nil {
		return err
	}
	if in.loaded.Signature.Outputs, err = in.specs("output", in.model.session.Outputs()); err != nil {
		return err
	}
	for _, info := range in.model.session.Inputs() {
		in.inputs = append(in.inputs, newInput(info, false))
	}
	for _, info := range in.model.session.Initializers() {
		in.inputs = append(in.inputs, newInput(info, true))
	}
	in.tie()
	in.byName = make(map[string]int, len(in.inputs))
	for i := range in.inputs {
		in.byName[in.inputs[i].name] = i
	}
	return nil
}

func (in *instance) specs(role string, infos []ort.Info) ([]api.TensorSpec, error) {
	specs := make([]api.TensorSpec, 0, len(infos))
	for _, info := range infos {
		if info.Kind != ort.KindTensor {
			return nil, api.Fail(api.CodeLoadFailed, in.name, "%s %q is a %s; only tensors can be served", role, info.Name, info.Kind)
		}
		typ := fromNative(info.Type)
		if typ.String() == "" {
			return nil, api.Fail(api.CodeLoadFailed, in.name, "%s %q has elements of type %s, which the protocol does not know", role, info.Name, info.Type)
		}
		specs = append(specs, toSpec(info, typ))
	}
	return specs, nil
}
