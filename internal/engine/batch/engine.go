// Package batch is the engine that runs requests together: it wraps another engine and joins the requests of one
// instance along their first dimension, where a trial at load showed that this pays and changes no result. It runs no
// model itself, and neither decides what is loaded nor holds requests while the instance is idle. Callers: server, which
// puts it around a worker's runtime.
package batch

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
)

// Config holds the engine's settings. The zero value works.
type Config struct {
	// Runs is how many runs of one instance are under way at the same time, where its own settings name none. While they
	// are, requests wait and form a batch. Default 1; the threads of the runtime are a good number.
	Runs int
	// Queue is the most requests that wait for one instance, where its settings name none; default 4096.
	Queue int
	// Bytes is the most bytes of inputs that are joined; a request that is larger runs alone. Default 64 MiB.
	Bytes int64
	// MaxSize is the most rows of a batch where the settings name none; default 64.
	MaxSize int
	// TrialTime bounds the trial at load; default 200 ms in mode auto, of which 10 times as much in mode on.
	TrialTime time.Duration
	// TrialMemory is how much the process may grow in the trial before it stops trying larger batches; default 256 MiB.
	TrialMemory int64
	// TrialBytes is the most bytes that the trial makes up as inputs of one batch; default 32 MiB.
	TrialBytes int64
	// Log receives what was chosen at load; default slog.Default().
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Runs <= 0 {
		c.Runs = 1
	}
	if c.Queue <= 0 {
		c.Queue = 4096
	}
	if c.Bytes <= 0 {
		c.Bytes = 64 << 20
	}
	if c.MaxSize <= 0 {
		c.MaxSize = 64
	}
	if c.TrialTime <= 0 {
		c.TrialTime = 200 * time.Millisecond
	}
	if c.TrialMemory <= 0 {
		c.TrialMemory = 256 << 20
	}
	if c.TrialBytes <= 0 {
		c.TrialBytes = 32 << 20
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Engine batches in front of another engine. It implements engine.Engine.
type Engine struct {
	config Config
	inner  engine.Engine
	pool   pool

	view atomic.Pointer[map[string]*held] // what Infer sees: all that is loaded

	mu     sync.Mutex // guards what follows and the replacing of view
	all    map[string]*held
	closed bool
}

var _ engine.Engine = (*Engine)(nil)

// held is one instance, from the beginning of its Load to the end of its Unload. The first Load fills it and closes
// ready.
type held struct {
	ready   chan struct{}
	gone    chan struct{} // closed when it was unloaded, or its Load failed
	failed  error
	loaded  engine.Loaded
	batcher *Batcher // nil: requests go straight to the inner engine
	trial   engine.InstanceStats
	leaving bool // guarded by Engine.mu
}

// New makes an engine around inner, which is closed with it.
func New(inner engine.Engine, config Config) *Engine {
	e := &Engine{config: config.withDefaults(), inner: inner, all: map[string]*held{}}
	e.view.Store(&map[string]*held{})
	return e
}

// Load loads in the inner engine, then tries what batching brings. While one Load or Unload of an instance is under way,
// others wait for it.
func (e *Engine) Load(ctx context.Context, load engine.Load) (engine.Loaded, error) {
	for {
		h, first := e.claim(load.Instance)
		if first {
			return e.fill(ctx, h, load)
		}
		wait := h.ready
		if e.isLeaving(h) {
			wait = h.gone
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return engine.Loaded{}, ended(ctx, load.Instance)
		}
		if h.failed == nil && !e.isLeaving(h) {
			return h.loaded, nil
		}
	}
}

// claim finds an instance, or puts an empty one there that the caller must fill.
func (e *Engine) claim(name string) (_ *held, first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if h := e.all[name]; h != nil {
		return h, false
	}
	h := &held{ready: make(chan struct{}), gone: make(chan struct{})}
	e.all[name] = h
	return h, true
}

func (e *Engine) isLeaving(h *held) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return h.leaving
}

// fill loads a claimed instance; on failure it takes the claim back.
func (e *Engine) fill(ctx context.Context, h *held, load engine.Load) (engine.Loaded, error) {
	loaded, err := e.inner.Load(ctx, load)
	if err == nil {
		var settings api.Batching
		if load.Options.Batching != nil {
			settings = *load.Options.Batching
		}
		began := time.Now()
		plan := known(load.Known)
		if load.Known == nil {
			plan = e.try(ctx, load, loaded.Signature, settings)
			h.trial = e.innerStats(ctx, load.Instance)
		}
		loaded.WarmTime += time.Since(began)
		loaded.Batch = plan.tell()
		e.config.Log.Debug("batching chosen", "instance", load.Instance, "max_size", plan.max, "why", plan.why)
		if plan.max > 1 {
			h.batcher = e.newBatcher(load.Instance, settings, loaded.Signature, plan)
			loaded.InTurn = false // those that wait together run together
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	h.loaded, h.failed = loaded, err
	if err != nil {
		delete(e.all, load.Instance)
		close(h.gone)
	} else {
		e.show(load.Instance, h)
		if e.closed && h.batcher != nil {
			h.batcher.end(lost(load.Instance))
		}
	}
	close(h.ready)
	return loaded, err
}

// show needs mu: it makes Infer see an instance that is loaded.
func (e *Engine) show(name string, h *held) {
	view := maps.Clone(*e.view.Load())
	view[name] = h
	e.view.Store(&view)
}

// hide needs mu: Infer does not see the instance any more.
func (e *Engine) hide(name string) {
	view := maps.Clone(*e.view.Load())
	delete(view, name)
	e.view.Store(&view)
}

// innerStats reads what the trial left in the inner engine's counts, so that it can be taken out of them.
func (e *Engine) innerStats(ctx context.Context, name string) engine.InstanceStats {
	stats, err := e.inner.Stats(ctx)
	if err != nil {
		return engine.InstanceStats{}
	}
	for _, in := range stats.Instances {
		if in.Instance == name {
			return in
		}
	}
	return engine.InstanceStats{}
}

// Unload refuses new requests at once, lets those that wait and run finish until ctx ends, and then unloads in the
// inner engine.
func (e *Engine) Unload(ctx context.Context, name string) error {
	e.mu.Lock()
	h := e.all[name]
	e.mu.Unlock()
	if h == nil {
		return e.inner.Unload(ctx, name)
	}
	select {
	case <-h.ready: // also when ctx has ended: then nothing is waited for
	default:
		select {
		case <-h.ready:
		case <-ctx.Done():
			return ended(ctx, name)
		}
	}
	e.mu.Lock()
	if h.failed != nil || h.leaving {
		e.mu.Unlock()
		select {
		case <-h.gone:
			return nil
		case <-ctx.Done():
			return ended(ctx, name)
		}
	}
	h.leaving = true
	e.hide(name)
	e.mu.Unlock()
	if h.batcher != nil {
		h.batcher.drain(ctx)
	}
	err := e.inner.Unload(ctx, name)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil { // the inner engine holds it still, and so does this one: Unload may be called again
		h.leaving = false
		e.show(name, h)
		return err
	}
	delete(e.all, name) // it is out of what Infer sees already
	close(h.gone)
	return nil
}

// Infer runs one request, alone or together with others.
func (e *Engine) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	h := (*e.view.Load())[req.Instance]
	switch {
	case h != nil && h.batcher != nil:
		return h.batcher.Infer(ctx, req)
	case h != nil || e.over():
		return e.inner.Infer(ctx, req)
	case ctx.Err() != nil:
		return nil, ended(ctx, req.Instance)
	}
	return nil, api.Fail(api.CodeNotLoaded, req.Instance, "the instance is not loaded")
}

// Stats reports requests, where the inner engine counts runs.
func (e *Engine) Stats(ctx context.Context) (engine.Stats, error) {
	stats, err := e.inner.Stats(ctx)
	if err != nil {
		return stats, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range stats.Instances {
		in := &stats.Instances[i]
		if h := e.all[in.Instance]; h != nil && h.loaded.Batch != nil {
			in.Requests -= h.trial.Requests
			in.Failures -= h.trial.Failures
			in.Compute -= h.trial.Compute
			if h.batcher != nil {
				h.batcher.count(in)
			}
		}
	}
	return stats, nil
}

// Done is closed when the inner engine is done.
func (e *Engine) Done() <-chan struct{} { return e.inner.Done() }

func (e *Engine) over() bool {
	select {
	case <-e.inner.Done():
		return true
	default:
		return false
	}
}

// Close ends what waits and closes the inner engine.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	all := maps.Clone(e.all)
	e.mu.Unlock()
	for name, h := range all {
		select {
		case <-h.ready:
			if h.batcher != nil {
				h.batcher.end(lost(name))
			}
		default: // its Load sees closed
		}
	}
	return e.inner.Close()
}

func lost(instance string) error {
	return api.Fail(api.CodeWorkerLost, instance, "the engine was closed")
}

// ended turns the end of ctx into the error for it.
func ended(ctx context.Context, subject string) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return api.Fail(api.CodeDeadline, subject, "the deadline passed while the request waited for its batch").Because(ctx.Err())
	}
	return api.Fail(api.CodeCanceled, subject, "the request was canceled").Because(ctx.Err())
}
