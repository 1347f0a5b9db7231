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

// idleOptions is how many run options an instance keeps for later runs.
const idleOptions = 32

// onlyFatal is ONNX Runtime's number for a log of nothing but what ends the process.
const onlyFatal = 4

// instance is one loaded model. Load fills it and then closes ready; until then only Load touches what is below it.
type instance struct {
	name   string
	ctx    context.Context // ends when the runs under way shall stop
	cancel context.CancelFunc
	ready  chan struct{}

	failed  error // why Load failed; nil: loaded
	loaded  engine.Loaded
	session *ort.Session
	runtime *ort.Runtime
	inputs  []input
	byName  map[string]int // index in inputs
	options chan *ort.RunOptions

	mu      sync.Mutex // guards users, retired and the closing of idle
	users   int
	retired bool
	idle    chan struct{} // closed when retired and the last user has left

	requests, failures atomic.Int64
	compute            atomic.Int64 // nanoseconds
}

func newInstance(parent context.Context, name string) *instance {
	in := &instance{name: name, ready: make(chan struct{}), idle: make(chan struct{}), options: make(chan *ort.RunOptions, idleOptions)}
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

// stop tells the runs under way to end.
func (in *instance) stop() { in.cancel() }

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

// discard frees what the instance holds. Nobody uses it any more.
func (in *instance) discard() {
	in.cancel()
	if in.session != nil {
		in.session.Close()
		defer ort.TrimMemory() // else most of the model's memory would stay with the C allocator
	}
	for {
		select {
		case o := <-in.options:
			o.Close()
			continue
		default:
		}
		return
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
		Failures: in.failures.Load(), Compute: time.Duration(in.compute.Load())}
}

// run runs the model, and stops it when ctx ends or the instance is stopped.
func (in *instance) run(ctx context.Context, inputs []ort.Tensor, outputs []string) (*ort.Result, error) {
	options, err := in.takeOptions()
	if err != nil {
		return nil, err
	}
	forRequest := watch(ctx, options)
	forInstance := watch(in.ctx, options)
	result, err := in.session.Run(inputs, outputs, options)
	// Only when no watcher can terminate any more may the options serve another run.
	clean := forRequest()
	clean = forInstance() && clean
	in.putOptions(options, clean)
	return result, err
}

func (in *instance) takeOptions() (*ort.RunOptions, error) {
	select {
	case o := <-in.options:
		return o, nil
	default:
	}
	o, err := in.runtime.NewRunOptions()
	if err != nil {
		return nil, err
	}
	// A run that fails is reported by its error; a log line beside it would count each canceled request as a fault.
	if err := o.SetLogLevel(onlyFatal); err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

func (in *instance) putOptions(o *ort.RunOptions, clean bool) {
	if clean {
		select {
		case in.options <- o:
			return
		default:
		}
	}
	o.Close()
}

// watch terminates the run when ctx ends. The returned function ends the watch; false says that it came too late.
func watch(ctx context.Context, options *ort.RunOptions) (end func() bool) {
	if ctx.Done() == nil {
		return func() bool { return true }
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		_ = options.Terminate() // fails only on closed options, and these are open until the watch has ended
	})
	return func() bool {
		if stop() {
			return true
		}
		<-fired
		return false
	}
}

// describe reads the session's signature and refuses what the protocols cannot carry.
func (in *instance) describe() error {
	var err error
	if in.loaded.Signature.Inputs, err = in.specs("input", in.session.Inputs()); err != nil {
		return err
	}
	if in.loaded.Signature.Outputs, err = in.specs("output", in.session.Outputs()); err != nil {
		return err
	}
	for _, info := range in.session.Inputs() {
		in.inputs = append(in.inputs, newInput(info, false))
	}
	for _, info := range in.session.Initializers() {
		in.inputs = append(in.inputs, newInput(info, true))
	}
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
