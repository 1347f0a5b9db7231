// Package chain is the engine that runs graphs of steps: it wraps another engine, which runs the models, and adds
// built-in steps before, between and behind them. Tensors pass from step to step in memory, without a copy. It also
// checks chains when they are deployed, so that both ends mean the same. It decides nothing about what is loaded, and
// what is no chain it passes through. Callers: server, which puts it around a worker's engine and gives Resolve to rollout.
package chain

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/tensor"
)

// Config tunes an engine. Zero fields take their defaults.
type Config struct {
	// Heavy is how many built-in steps that take long (pictures) run at the same time; others wait. Default: GOMAXPROCS,
	// at least 2.
	Heavy int
	// CloseWait is how long Close waits for requests that it told to stop; default 10 s.
	CloseWait time.Duration
	Log       *slog.Logger // default slog.Default()
}

// Engine runs chains on top of another engine. It implements engine.Engine.
type Engine struct {
	inner  engine.Engine
	config Config
	heavy  chan struct{}
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	chains atomic.Pointer[map[string]*instance] // replaced whole under mu; read on every request

	mu      sync.Mutex // guards what follows and the replacing of chains
	closed  bool
	members map[string]*member // by their name in inner
}

var _ engine.Engine = (*Engine)(nil)

// New puts an engine around another, which it then owns.
func New(inner engine.Engine, config Config) *Engine {
	if config.Heavy <= 0 {
		config.Heavy = max(2, runtime.GOMAXPROCS(0))
	}
	if config.CloseWait <= 0 {
		config.CloseWait = 10 * time.Second
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	e := &Engine{inner: inner, config: config, heavy: make(chan struct{}, config.Heavy), members: map[string]*member{}}
	e.chains.Store(&map[string]*instance{})
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// Done is closed when the engine below cannot answer any more.
func (e *Engine) Done() <-chan struct{} { return e.inner.Done() }

func (e *Engine) over() bool {
	select {
	case <-e.inner.Done():
		return true
	default:
		return e.ctx.Err() != nil
	}
}

func lost(subject string) error {
	return api.Fail(api.CodeWorkerLost, subject, "the engine was closed")
}

func notLoaded(subject string) error {
	return api.Fail(api.CodeNotLoaded, subject, "the instance is not loaded")
}

func ended(ctx context.Context, subject string) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return api.Fail(api.CodeDeadline, subject, "the deadline passed before the engine was done").Because(ctx.Err())
	}
	return api.Fail(api.CodeCanceled, subject, "the request was canceled").Because(ctx.Err())
}

// Load loads a model, or a chain with all its members. While one Load of a chain is under way, others wait for it.
func (e *Engine) Load(ctx context.Context, load engine.Load) (engine.Loaded, error) {
	if load.Options.Chain == nil {
		return e.inner.Load(ctx, load)
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

// claim finds a chain, or puts an empty one there that the caller must fill.
func (e *Engine) claim(name string) (_ *instance, first bool, _ error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, false, lost(name)
	}
	if in := (*e.chains.Load())[name]; in != nil {
		return in, false, nil
	}
	in := newInstance(e.ctx, name)
	e.replace(func(chains map[string]*instance) { chains[name] = in })
	return in, true, nil
}

// replace needs mu.
func (e *Engine) replace(change func(map[string]*instance)) {
	chains := maps.Clone(*e.chains.Load())
	change(chains)
	e.chains.Store(&chains)
}

// forget takes a chain out of the list, unless another has its place.
func (e *Engine) forget(in *instance) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if (*e.chains.Load())[in.name] == in {
		e.replace(func(chains map[string]*instance) { delete(chains, in.name) })
	}
}

// fill loads a claimed chain; on failure it takes the claim back.
func (e *Engine) fill(ctx context.Context, in *instance, load engine.Load) (engine.Loaded, error) {
	in.failed = e.start(ctx, in, load)
	if in.failed != nil {
		e.forget(in)
		e.let(context.WithoutCancel(ctx), in)
	}
	close(in.ready)
	return in.loaded, in.failed
}

func (e *Engine) start(ctx context.Context, in *instance, load engine.Load) error {
	begin := time.Now()
	g, err := compile(load.Options.Chain)
	if err != nil {
		return api.Fail(api.CodeLoadFailed, load.Instance, "%w", err)
	}
	in.graph, in.members = g, make([]string, len(g.nodes))
	options := api.LoadOptions{Batching: load.Options.Batching}
	for i := range g.nodes {
		if g.nodes[i].op != nil {
			continue
		}
		step := &load.Options.Chain.Steps[i]
		path := slices.IndexFunc(load.Members, func(m engine.Member) bool { return m.Digest == step.Digest })
		if path < 0 {
			return api.Fail(api.CodeLoadFailed, load.Instance, "step %s: the file of %s is not named", step.Name, step.Digest.Short())
		}
		one := engine.Load{Instance: memberName(step.Digest, options), Format: step.Format, Path: load.Members[path].Path, Warm: load.Warm, Options: options}
		loaded, err := e.take(ctx, one)
		if err != nil {
			e := *api.AsError(err)
			e.Subject, e.Message = load.Instance, fmt.Sprintf("step %s: %s", step.Name, e.Message)
			return &e
		}
		in.members[i] = one.Instance
		in.loaded.WarmTime += loaded.WarmTime
		in.loaded.Bytes += loaded.Bytes
	}
	in.loaded.Signature = g.chain.Signature()
	in.loaded.LoadTime = max(0, time.Since(begin)-in.loaded.WarmTime)
	return nil
}

// memberMark stands in the names of members. Instances of the same file that serve by themselves have names without it:
// they come and go by the fleet's word, members with their chains.
const memberMark = "~member"

func memberName(d api.Digest, options api.LoadOptions) string {
	name := d.Hex() + memberMark
	if text := options.Text(); text != "" {
		sum := sha256.Sum256([]byte(text))
		name += "-" + hex.EncodeToString(sum[:6])
	}
	return name
}

// Unload takes an instance away. New requests are refused at once; those under way are waited for until ctx ends, and
// then told to stop. Members go when their last chain does.
func (e *Engine) Unload(ctx context.Context, name string) error {
	in := (*e.chains.Load())[name]
	if in == nil {
		return e.inner.Unload(ctx, name)
	}
	select {
	case <-in.ready:
	case <-ctx.Done():
		return ended(ctx, name)
	}
	e.forget(in)
	first, idle := in.retire()
	select {
	case <-idle:
	case <-ctx.Done():
		in.cancel()
		<-idle // steps see that they are to end
	}
	if first && in.failed == nil {
		e.let(ctx, in)
	}
	return nil
}

// Infer runs one request: a chain's here, any other in the engine below.
func (e *Engine) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	in := (*e.chains.Load())[req.Instance]
	if in == nil {
		return e.inner.Infer(ctx, req)
	}
	if e.over() {
		return nil, lost(req.Instance)
	}
	if ctx.Err() != nil {
		return nil, ended(ctx, req.Instance)
	}
	if !in.isReady() || !in.enter() {
		return nil, notLoaded(req.Instance)
	}
	defer in.leave()
	answer, err := e.infer(ctx, in, req)
	in.count(answer, err)
	return answer, err
}

func (e *Engine) infer(ctx context.Context, in *instance, req engine.Request) (*engine.Answer, error) {
	outs, err := in.accept(req)
	if err != nil {
		return nil, err
	}
	r := &run{graph: in.graph, engine: e, in: in, begin: time.Now(), priority: req.Priority, outs: outs,
		tensors: make([]tensor.Tensor, len(in.graph.owner)), holds: make([]steps, len(in.graph.owner)),
		answers: make([]*engine.Answer, len(in.graph.nodes)), chosen: make([]int, len(in.graph.nodes)),
		times: make([]api.StepTime, 0, len(in.graph.nodes))}
	for i := range r.chosen {
		r.chosen[i] = -1
	}
	for i := range in.graph.inputs {
		at := slices.IndexFunc(req.Inputs, func(t tensor.Tensor) bool { return t.Name == in.graph.chain.Inputs[i].Name })
		r.tensors[i], r.holds[i] = req.Inputs[at], only(inputBit)
	}
	for _, at := range outs {
		r.sinks |= only(in.graph.owner[at])
	}
	r.ctx, r.cancel = context.WithCancel(ctx)
	defer r.cancel()
	stop := context.AfterFunc(in.ctx, r.cancel)
	defer stop()
	answer, err := r.execute()
	switch {
	case err == nil:
		for i := range answer.Outputs {
			answer.Outputs[i].Name = in.outputName(req.Outputs, i)
		}
		return answer, nil
	case e.over():
		return nil, lost(in.name)
	case in.ctx.Err() != nil:
		return nil, api.Fail(api.CodeNotLoaded, in.name, "the instance was unloaded while it answered")
	case ctx.Err() != nil:
		return nil, ended(ctx, in.name)
	}
	told := *api.AsError(err)
	told.Subject = in.name
	return nil, &told
}

// Stats reports what the engine below does, with chains in the place of their members.
func (e *Engine) Stats(ctx context.Context) (engine.Stats, error) {
	stats, err := e.inner.Stats(ctx)
	if err != nil {
		return stats, err
	}
	bytes := map[string]int64{} // of members
	for _, s := range stats.Instances {
		bytes[s.Instance] = s.Bytes
	}
	stats.Instances = slices.DeleteFunc(stats.Instances, func(s engine.InstanceStats) bool { return strings.Contains(s.Instance, memberMark) })
	for _, in := range *e.chains.Load() {
		if in.isReady() {
			one := in.stats()
			for i, m := range in.members {
				if m != "" && !slices.Contains(in.members[:i], m) {
					one.Bytes += bytes[m]
				}
			}
			stats.Instances = append(stats.Instances, one)
		}
	}
	slices.SortFunc(stats.Instances, func(a, b engine.InstanceStats) int { return strings.Compare(a.Instance, b.Instance) })
	return stats, nil
}

// Close stops what runs and closes the engine below.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	chains := *e.chains.Load()
	e.chains.Store(&map[string]*instance{})
	e.mu.Unlock()
	e.cancel()
	err := e.inner.Close()
	limit := time.NewTimer(e.config.CloseWait)
	defer limit.Stop()
	for _, in := range chains {
		_, idle := in.retire()
		select {
		case <-idle:
		case <-limit.C:
			err = errors.Join(err, errors.New("close chain engine: requests did not stop in time"))
			limit.Reset(0)
		}
	}
	return err
}
