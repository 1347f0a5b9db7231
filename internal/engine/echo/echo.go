// Package echo is an engine for tests: it answers a request with its own inputs, and can be made to wait, fail and
// crash. It runs no model and reads no file. Only tests use it.
package echo

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/tensor"
)

// Config holds the hooks; all may be nil. They run on the caller's goroutine with a context that also ends when the
// engine crashes, is closed, or unloads the instance.
type Config struct {
	Signature   api.Signature // what Load reports
	BeforeLoad  func(ctx context.Context, load engine.Load) error
	BeforeInfer func(ctx context.Context, req engine.Request) error
}

// Engine answers inputs as outputs. It implements engine.Engine.
type Engine struct {
	config Config
	done   chan struct{}
	ctx    context.Context // ends with Crash and Close
	cancel context.CancelFunc

	mu     sync.Mutex // guards what follows, and each instance's fields
	loaded map[string]*instance
}

type instance struct {
	loaded  engine.Loaded
	stats   engine.InstanceStats
	retired bool
	idle    chan struct{} // closed when retired and nobody is in
	ctx     context.Context
	cancel  context.CancelFunc
}

var _ engine.Engine = (*Engine)(nil)

// New makes an engine with nothing loaded.
func New(config Config) *Engine {
	e := &Engine{config: config, done: make(chan struct{}), loaded: map[string]*instance{}}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// Crash ends the engine as the death of a worker would: requests under way end with CodeWorkerLost.
func (e *Engine) Crash() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.over() {
		close(e.done)
		e.cancel()
		e.loaded = nil
	}
}

// Close ends the engine; what is under way ends with CodeWorkerLost.
func (e *Engine) Close() error {
	e.Crash()
	return nil
}

// Done is closed by Crash and Close.
func (e *Engine) Done() <-chan struct{} { return e.done }

func (e *Engine) over() bool { return e.ctx.Err() != nil }

func lost(name string) error { return api.Fail(api.CodeWorkerLost, name, "the engine is gone") }

func ended(ctx context.Context, name string) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return api.Fail(api.CodeDeadline, name, "the deadline passed")
	}
	return api.Fail(api.CodeCanceled, name, "the request was canceled")
}

// Load runs BeforeLoad and remembers the instance. Two loads of one instance at once may both run the hook.
func (e *Engine) Load(ctx context.Context, load engine.Load) (engine.Loaded, error) {
	e.mu.Lock()
	over, have := e.over(), e.loaded[load.Instance]
	e.mu.Unlock()
	if over {
		return engine.Loaded{}, lost(load.Instance)
	}
	if have != nil {
		return have.loaded, nil
	}
	began := time.Now()
	if e.config.BeforeLoad != nil {
		both, stop := merge(ctx, e.ctx)
		defer stop()
		if err := e.config.BeforeLoad(both, load); err != nil {
			return engine.Loaded{}, e.explain(ctx, nil, load.Instance, err)
		}
	}
	if ctx.Err() != nil {
		return engine.Loaded{}, ended(ctx, load.Instance)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over() {
		return engine.Loaded{}, lost(load.Instance)
	}
	if have := e.loaded[load.Instance]; have != nil {
		return have.loaded, nil
	}
	in := &instance{idle: make(chan struct{}), stats: engine.InstanceStats{Instance: load.Instance}}
	in.loaded = engine.Loaded{Signature: e.config.Signature, LoadTime: time.Since(began)}
	in.ctx, in.cancel = context.WithCancel(e.ctx)
	e.loaded[load.Instance] = in
	return in.loaded, nil
}

// Unload takes an instance away; requests under way are waited for until ctx ends, then stopped.
func (e *Engine) Unload(ctx context.Context, name string) error {
	e.mu.Lock()
	in := e.loaded[name]
	if in == nil {
		e.mu.Unlock()
		return nil
	}
	delete(e.loaded, name)
	in.retired = true
	if in.stats.InFlight == 0 {
		close(in.idle)
	}
	e.mu.Unlock()
	defer in.cancel()
	select {
	case <-in.idle:
	case <-ctx.Done():
	case <-e.done:
	}
	return nil
}

// Infer runs BeforeInfer and answers copies of the inputs.
func (e *Engine) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	in, err := e.enter(ctx, req.Instance)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if e.config.BeforeInfer != nil {
		both, stop := merge(ctx, in.ctx)
		err = e.config.BeforeInfer(both, req)
		stop()
	}
	var outputs []tensor.Tensor
	if err == nil {
		outputs, err = echo(req)
	} else {
		err = e.explain(ctx, in, req.Instance, err)
	}
	compute := time.Since(began)
	e.leave(in, compute, err != nil)
	if e.over() {
		return nil, lost(req.Instance)
	}
	if err != nil {
		return nil, err
	}
	answer := engine.NewAnswer(outputs, nil)
	answer.Compute = compute
	return answer, nil
}

func (e *Engine) enter(ctx context.Context, name string) (*instance, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	in := e.loaded[name]
	switch {
	case e.over():
		return nil, lost(name)
	case ctx.Err() != nil:
		return nil, ended(ctx, name)
	case in == nil:
		return nil, api.Fail(api.CodeNotLoaded, name, "the instance is not loaded")
	}
	in.stats.InFlight++
	return in, nil
}

func (e *Engine) leave(in *instance, compute time.Duration, failed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	in.stats.InFlight--
	in.stats.Requests++
	in.stats.Compute += compute
	if failed {
		in.stats.Failures++
	}
	if in.retired && in.stats.InFlight == 0 {
		close(in.idle)
	}
}

// explain keeps a hook's own api.Error, and otherwise says what ended the hook.
func (e *Engine) explain(ctx context.Context, in *instance, name string, err error) error {
	var own *api.Error
	switch {
	case errors.As(err, &own):
		return err
	case e.over():
		return lost(name)
	case ctx.Err() != nil:
		return ended(ctx, name)
	case in != nil && in.ctx.Err() != nil:
		return api.Fail(api.CodeNotLoaded, name, "the instance was unloaded while it answered")
	case in == nil:
		return api.Fail(api.CodeLoadFailed, name, "%w", err)
	}
	return api.Fail(api.CodeInferenceFailed, name, "%w", err)
}

func merge(ctx, other context.Context) (context.Context, context.CancelFunc) {
	both, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(other, cancel)
	return both, func() { stop(); cancel() }
}

func echo(req engine.Request) ([]tensor.Tensor, error) {
	var outputs []tensor.Tensor
	for i := range req.Inputs {
		if err := req.Inputs[i].Check(); err != nil {
			return nil, api.Fail(api.CodeBadTensor, req.Instance, "input %q: %w", req.Inputs[i].Name, err)
		}
	}
	if req.Outputs == nil {
		for i := range req.Inputs {
			outputs = append(outputs, clone(&req.Inputs[i]))
		}
	}
	for _, name := range req.Outputs {
		at := slices.IndexFunc(req.Inputs, func(t tensor.Tensor) bool { return t.Name == name })
		if at < 0 {
			return nil, api.Fail(api.CodeSignatureMismatch, req.Instance, "the model has no output %q", name)
		}
		outputs = append(outputs, clone(&req.Inputs[at]))
	}
	return outputs, nil
}

func clone(t *tensor.Tensor) tensor.Tensor {
	return tensor.Tensor{Name: t.Name, Type: t.Type, Shape: slices.Clone(t.Shape), Data: slices.Clone(t.Data)}
}

// Stats reports what is loaded. The process is this one; its memory is made up.
func (e *Engine) Stats(_ context.Context) (engine.Stats, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over() {
		return engine.Stats{}, lost("")
	}
	stats := engine.Stats{PID: os.Getpid(), Runtime: "echo", Resident: 1 << 20}
	for _, in := range e.loaded {
		stats.Instances = append(stats.Instances, in.stats)
	}
	slices.SortFunc(stats.Instances, func(a, b engine.InstanceStats) int { return strings.Compare(a.Instance, b.Instance) })
	return stats, nil
}
