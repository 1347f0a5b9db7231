// Package onnxruntime is the engine that runs ONNX models in this process. It knows files, tensors and threads, nothing
// of tenants or versions. Callers: worker (in a child process), server (for those who choose to run models in it).
package onnxruntime

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/ort"
)

// Config holds the engine's settings. The zero value works, except for CacheDir.
type Config struct {
	// CacheDir is where ONNX Runtime's shared library is unpacked once (46 MB); a folder of this user alone.
	CacheDir string
	// IntraThreads work together on one operator, of all models together; default: GOMAXPROCS.
	IntraThreads int
	// InterThreads run operators side by side; default 1.
	InterThreads int
	// MaxRuns is how many runs are inside ONNX Runtime at once; others wait, which Answer.Queue counts. Each takes an
	// operating system thread. Default: 4 times GOMAXPROCS, at least 16.
	MaxRuns int
	// InstanceRuns is how many of them may be one instance's. More of one model than there are processors only take its
	// weights out of each other's caches; runs of others do not wait for long ones so. Default: MaxRuns.
	InstanceRuns int
	// MaxWarm is the most bytes that warming makes up as inputs; a model that takes more is not warmed. Default 256 MiB.
	MaxWarm int64
	// WarmWait is the longest that warming one model takes; the run is then stopped, which says nothing about real inputs.
	// Default 10 s.
	WarmWait time.Duration
	// CloseWait is how long Close waits for runs that it told to stop; default 10 s.
	CloseWait time.Duration
	// Log receives warnings, ONNX Runtime's own too; default slog.Default().
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.IntraThreads <= 0 {
		c.IntraThreads = runtime.GOMAXPROCS(0)
	}
	if c.InterThreads <= 0 {
		c.InterThreads = 1
	}
	if c.MaxRuns <= 0 {
		c.MaxRuns = max(16, 4*runtime.GOMAXPROCS(0))
	}
	if c.InstanceRuns <= 0 {
		c.InstanceRuns = c.MaxRuns
	}
	if c.MaxWarm <= 0 {
		c.MaxWarm = 256 << 20
	}
	if c.WarmWait <= 0 {
		c.WarmWait = 10 * time.Second
	}
	if c.CloseWait <= 0 {
		c.CloseWait = 10 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Engine runs models through ONNX Runtime. It implements engine.Engine.
type Engine struct {
	config Config
	done   chan struct{}   // closed by Close
	slots  chan struct{}   // one token per run inside the runtime
	ctx    context.Context // ends with Close; loads and runs watch it
	cancel context.CancelFunc

	opening sync.Mutex // held while ONNX Runtime is opened, which takes long; never together with mu
	mu      sync.Mutex // guards what follows
	runtime *ort.Runtime
	loaded  map[string]*instance
	models  map[modelKey]*model // files that are loaded or being loaded
	buffer  []byte              // kept for the next small file to be read into; nil while one is
	trim    *time.Timer         // set while a trim is to come
	trims   sync.WaitGroup      // the same, to wait for
}

var _ engine.Engine = (*Engine)(nil)

// Prepare unpacks ONNX Runtime's library into the folder that Config.CacheDir will name, for engines in processes that may
// only read there. A build without the library has nothing to unpack, which its first Load tells.
func Prepare(cacheDir string) error {
	if err := ort.Unpack(cacheDir); err != nil && !errors.Is(err, ort.ErrNotFetched) {
		return err
	}
	return nil
}

// New makes an engine. ONNX Runtime itself is opened by the first Load.
func New(config Config) *Engine {
	e := &Engine{config: config.withDefaults(), done: make(chan struct{}), loaded: map[string]*instance{}, models: map[modelKey]*model{}}
	e.slots = make(chan struct{}, e.config.MaxRuns)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// Done is closed by Close.
func (e *Engine) Done() <-chan struct{} { return e.done }

func (e *Engine) closed() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

func lost(instance string) error {
	return api.Fail(api.CodeWorkerLost, instance, "the engine was closed")
}

// ended turns the end of ctx into the error for it.
func ended(ctx context.Context, subject string) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return api.Fail(api.CodeDeadline, subject, "the deadline passed before the engine was done").Because(ctx.Err())
	}
	return api.Fail(api.CodeCanceled, subject, "the request was canceled").Because(ctx.Err())
}

// open opens ONNX Runtime at the first call that succeeds.
func (e *Engine) open() (*ort.Runtime, error) {
	e.opening.Lock()
	defer e.opening.Unlock()
	e.mu.Lock()
	have := e.runtime
	e.mu.Unlock()
	if have != nil {
		return have, nil
	}
	opened, err := ort.Open(e.config.CacheDir, ort.Options{IntraThreads: e.config.IntraThreads, InterThreads: e.config.InterThreads, Log: e.config.Log})
	if errors.Is(err, ort.ErrNotFetched) {
		return nil, api.Fail(api.CodeUnsupported, "", "%w", err).WithCure("Run `make onnxruntime`, then build again.")
	}
	if err != nil {
		return nil, api.Fail(api.CodeUnavailable, "", "ONNX Runtime cannot be opened: %v", err).Because(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed() {
		opened.Close()
		return nil, lost("")
	}
	e.runtime = opened
	return opened, nil
}

// Load makes an instance of a model file. While one Load of an instance is under way, others wait for it; when it fails,
// the next one tries again with its own file.
func (e *Engine) Load(ctx context.Context, load engine.Load) (engine.Loaded, error) {
	if load.Format != "onnx" {
		return engine.Loaded{}, api.Fail(api.CodeLoadFailed, load.Instance, "this engine runs models of the format onnx, not %q", load.Format)
	}
	for {
		if ctx.Err() != nil {
			return engine.Loaded{}, ended(ctx, load.Instance)
		}
		in, first, err := e.claim(load.Instance)
		if err != nil {
			return engine.Loaded{}, err
		}
		if first {
			return e.fill(ctx, in, load)
		}
		select {
		case <-in.ready:
		case <-ctx.Done():
			return engine.Loaded{}, ended(ctx, load.Instance)
		}
		if in.failed == nil {
			return in.loaded, nil
		}
	}
}

// claim finds an instance, or puts an empty one there that the caller must fill.
func (e *Engine) claim(name string) (_ *instance, first bool, _ error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed() {
		return nil, false, lost(name)
	}
	if in := e.loaded[name]; in != nil {
		return in, false, nil
	}
	in := newInstance(e.ctx, name, e.config.InstanceRuns)
	e.loaded[name] = in
	return in, true, nil
}

// fill loads a claimed instance; on failure it takes the claim back.
func (e *Engine) fill(ctx context.Context, in *instance, load engine.Load) (engine.Loaded, error) {
	in.failed = e.start(ctx, in, load)
	if in.failed != nil {
		e.mu.Lock()
		delete(e.loaded, in.name)
		e.mu.Unlock()
		in.discard()
	}
	close(in.ready)
	return in.loaded, in.failed
}

func (e *Engine) start(ctx context.Context, in *instance, load engine.Load) error {
	began := time.Now()
	m, err := e.hold(ctx, load)
	if err != nil {
		return err
	}
	in.model, in.letGo = m, e.letGo
	if err := in.describe(); err != nil {
		return err
	}
	in.loaded.LoadTime = time.Since(began)
	if load.Warm {
		if err := e.warm(ctx, in); err != nil {
			return err
		}
	}
	in.loaded.Bytes = m.bytes()
	in.loaded.InTurn = cap(in.slots) == 1
	return nil
}

// refuse makes the error for a file that cannot be loaded, without the path, which is nothing for callers.
func refuse(load engine.Load, err error) error {
	message := err.Error()
	if native := (*ort.Error)(nil); errors.As(err, &native) {
		message = native.Message
	}
	name := load.Path[strings.LastIndexByte(load.Path, '/')+1:]
	return api.Fail(api.CodeLoadFailed, load.Instance, "%s", strings.ReplaceAll(message, load.Path, name)).Because(err)
}

// merge makes a context that ends with either.
func merge(ctx, other context.Context) (context.Context, context.CancelFunc) {
	both, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(other, cancel)
	return both, func() { stop(); cancel() }
}

// warm runs the model once on made-up inputs, dynamic dimensions 1, so that the first request does not pay for memory and lazily
// prepared kernels. A run that fails, or does not end, says nothing about real inputs, so it is only logged.
func (e *Engine) warm(ctx context.Context, in *instance) error {
	inputs, ok := in.samples(e.config.MaxWarm)
	if !ok {
		e.config.Log.Warn("model is not warmed: its inputs are over the limit", "instance", in.name, "limit_bytes", e.config.MaxWarm)
		return nil
	}
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, e.config.WarmWait)
	defer cancel()
	answer, err := e.infer(limited, in, engine.Request{Instance: in.name, Inputs: inputs})
	answer.Release()
	in.loaded.WarmTime = time.Since(began)
	in.forget()
	if e.closed() || ctx.Err() != nil {
		return err
	}
	if err != nil {
		e.config.Log.Warn("warming run failed", "instance", in.name, "err", err)
	}
	return nil
}

// Unload takes an instance away. New requests are refused at once; those under way are waited for until ctx ends, and
// then told to stop.
func (e *Engine) Unload(ctx context.Context, name string) error {
	e.mu.Lock()
	in := e.loaded[name]
	e.mu.Unlock()
	if in == nil {
		return nil
	}
	select {
	case <-in.ready:
	case <-ctx.Done():
		return ended(ctx, name)
	}
	if in.failed != nil {
		return nil // it has let its model go itself; others may still use that
	}
	e.mu.Lock()
	if e.loaded[name] == in {
		delete(e.loaded, name)
	}
	e.mu.Unlock()
	idle := in.retire()
	select {
	case <-idle:
	case <-ctx.Done():
		in.stop() // the last request frees the instance
	}
	return nil
}

// Infer runs one request.
func (e *Engine) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	if e.closed() {
		return nil, lost(req.Instance)
	}
	if ctx.Err() != nil {
		return nil, ended(ctx, req.Instance)
	}
	e.mu.Lock()
	in := e.loaded[req.Instance]
	e.mu.Unlock()
	if in == nil || !in.isReady() || !in.enter() {
		if e.closed() {
			return nil, lost(req.Instance)
		}
		return nil, api.Fail(api.CodeNotLoaded, req.Instance, "the instance is not loaded")
	}
	defer in.leave()
	return e.infer(ctx, in, req)
}

// infer checks, waits for a free slot, and runs. The caller holds the instance.
func (e *Engine) infer(ctx context.Context, in *instance, req engine.Request) (*engine.Answer, error) {
	r, err := in.take()
	if err != nil {
		return nil, e.explain(ctx, in, err)
	}
	if err = in.accept(r, req.Inputs); err == nil {
		err = in.wanted(req.Outputs)
	}
	if err != nil {
		in.count(0, true)
		r.release()
		return nil, err
	}
	queue, err := e.enter(ctx, in)
	if err != nil {
		r.release()
		return nil, err
	}
	began := time.Now()
	err = r.run(ctx, req.Outputs)
	compute := time.Since(began)
	<-e.slots
	<-in.slots
	in.count(compute, err != nil)
	if err != nil {
		r.release()
		return nil, e.explain(ctx, in, err)
	}
	return r.answer(queue, compute), nil
}

// enter waits for a free slot of the instance and then one of the engine, so that those of one model do not keep the engine's
// from others.
func (e *Engine) enter(ctx context.Context, in *instance) (time.Duration, error) {
	own, err := e.wait(ctx, in, in.slots)
	if err != nil {
		return 0, err
	}
	all, err := e.wait(ctx, in, e.slots)
	if err != nil {
		<-in.slots
		return 0, err
	}
	return own + all, nil
}

// wait takes a slot; the clock is read only when there is none at once.
func (e *Engine) wait(ctx context.Context, in *instance, slots chan struct{}) (time.Duration, error) {
	select {
	case slots <- struct{}{}:
		return 0, nil
	default:
	}
	arrived := time.Now()
	select {
	case slots <- struct{}{}:
		return time.Since(arrived), nil
	case <-ctx.Done():
		return 0, ended(ctx, in.name)
	case <-in.ctx.Done():
		return 0, e.stopped(in)
	}
}

// stopped is the error for a request whose instance was stopped under it.
func (e *Engine) stopped(in *instance) error {
	if e.closed() {
		return lost(in.name)
	}
	return api.Fail(api.CodeNotLoaded, in.name, "the instance was unloaded while it answered")
}

func (e *Engine) explain(ctx context.Context, in *instance, err error) error {
	var native *ort.Error
	switch {
	case in.ctx.Err() != nil: // the run was told to stop
		return e.stopped(in)
	case ctx.Err() != nil:
		return ended(ctx, in.name)
	case errors.As(err, &native):
		return api.Fail(api.CodeInferenceFailed, in.name, "%s", native.Message).Because(err)
	}
	return api.Fail(api.CodeInferenceFailed, in.name, "%w", err)
}

// Close stops what runs, unloads everything and gives ONNX Runtime up. Answers that are not released yet stay readable.
// It is an error when runs do not stop within Config.CloseWait; they are left to end by themselves.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed() {
		e.mu.Unlock()
		return nil
	}
	close(e.done)
	all, opened := e.loaded, e.runtime
	e.loaded, e.runtime = nil, nil
	e.mu.Unlock()
	e.cancel()
	limit := time.NewTimer(e.config.CloseWait)
	defer limit.Stop()
	var err error
	for _, in := range all {
		in.stop()
	}
	for _, in := range all {
		select {
		case <-in.close():
		case <-limit.C:
			err = errors.New("close onnxruntime engine: runs did not stop in time")
			limit.Reset(0)
		}
	}
	if opened != nil {
		opened.Close()
	}
	e.endTrim()
	return err
}
