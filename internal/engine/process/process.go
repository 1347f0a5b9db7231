// Package process is the engine whose models live in a worker process: it speaks the hop to a worker over a unix
// socket. It starts and ends no process (fleet does, through a provider). Callers: fleet, server.
package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/arena"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/wire/hop"
)

// Config tunes the connections to one worker. Zero fields take their defaults.
type Config struct {
	Connections int        // sockets, so that one large tensor does not hold up small ones; default 2
	Requests    int        // requests in flight per connection, those given up included; default 4096
	Limits      hop.Limits // of one frame

	// RunGrace is how long a run that was told to end may go on: beyond it the worker counts as lost, with a StuckError,
	// since a run that does not end holds a processor and its callers' memory for ever. Default 5 s.
	RunGrace time.Duration

	// Memory, when set, is lent to the worker: tensors that lie in it are not sent.
	Memory *arena.Arena
}

func (c Config) orDefault() Config {
	if c.Connections <= 0 {
		c.Connections = 2
	}
	if c.Requests <= 0 {
		c.Requests = 4096
	}
	if c.RunGrace <= 0 {
		c.RunGrace = 5 * time.Second
	}
	return c
}

// Engine is a worker seen through its socket. When one of its connections breaks, the whole engine is done: which
// requests the worker still holds could not be known.
type Engine struct {
	config Config
	pool   hop.Pool
	pid    int
	links  []*link
	next   atomic.Uint64 // request ids, unique over all connections

	once    sync.Once
	done    chan struct{}
	reason  atomic.Pointer[error] // why it is done
	readers sync.WaitGroup
	watch   watch    // for runs that do not end
	turns   sync.Map // the loaded instances whose runs go on one at a time

	worked   func(pid int) worked
	patience time.Duration // the most that a ping of the watch takes
}

var _ engine.Engine = (*Engine)(nil)

// Dial connects to the worker that listens on the unix socket at address and proves itself with token. ctx bounds the
// dialling only.
func Dial(ctx context.Context, address, token string, config Config) (*Engine, error) {
	e := &Engine{config: config.orDefault(), done: make(chan struct{}), worked: workedBy, patience: pingPatience}
	e.watch.engine = e
	for range e.config.Connections {
		if err := e.connect(ctx, address, token); err != nil {
			e.end(hop.ErrClosed)
			return nil, fmt.Errorf("dial worker at %s: %w", address, err)
		}
	}
	for _, l := range e.links {
		e.readers.Go(l.read)
	}
	return e, nil
}

func (e *Engine) connect(ctx context.Context, address, token string) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", address)
	if err != nil {
		return err
	}
	l := newLink(e, conn)
	pid, err := l.hello(ctx, token)
	if err != nil {
		l.takeBack()
		_ = l.conn.Close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	e.pid = pid
	e.links = append(e.links, l)
	return nil
}

// hello opens the connection and waits for the worker's answer.
func (l *link) hello(ctx context.Context, token string) (pid int, err error) {
	m := hop.Message{Kind: hop.KindHello, ID: l.engine.next.Add(1), Token: token}
	ways, err := l.open(ctx, &m)
	if err != nil {
		return 0, err
	}
	defer func() { _ = ways.Close() }()
	// A worker that accepts and stays silent must not hold the dialler: closing is what ends the exchange.
	unhook := context.AfterFunc(ctx, func() { _ = l.conn.Close() })
	reply, err := l.reader.Next()
	if !unhook() && err == nil {
		reply.Release()
		return 0, ctx.Err()
	}
	if err != nil {
		return 0, fmt.Errorf("read the answer to hello: %w", err)
	}
	defer reply.Release()
	if reply.Kind != hop.KindHello.Result() || reply.ID != m.ID || reply.Check != m.Mark() || reply.Shared && l.loan == nil || reply.Split && ways == nil {
		return 0, fmt.Errorf("%w: hello answered by kind %d", hop.ErrOrder, reply.Kind)
	}
	if !reply.Shared {
		l.takeBack() // it does without
	}
	if reply.Split {
		pair, err := hop.Caller(l.conn.(*net.UnixConn), ways)
		if err != nil {
			return 0, err
		}
		l.use(pair)
		l.openLanes(pair.Lanes)
	}
	return int(reply.PID), nil
}

// PID is the worker's process, as it told.
func (e *Engine) PID() int { return e.pid }

// Done is closed when the worker cannot be reached any more.
func (e *Engine) Done() <-chan struct{} { return e.done }

// Err says why the engine is done; nil while it is not.
func (e *Engine) Err() error {
	if p := e.reason.Load(); p != nil {
		return *p
	}
	return nil
}

// Close ends the connections. The worker stops what it still runs for them; its process is not this engine's.
func (e *Engine) Close() error {
	e.end(hop.ErrClosed)
	e.readers.Wait()
	e.watch.looks.Wait()
	return nil
}

// end makes every request in flight fail, once.
func (e *Engine) end(err error) {
	e.once.Do(func() {
		e.reason.Store(&err)
		close(e.done)
		e.watch.stop()
		for _, l := range e.links {
			l.shut(err)
		}
	})
}

// Load makes an instance ready in the worker.
func (e *Engine) Load(ctx context.Context, load engine.Load) (engine.Loaded, error) {
	m := hop.Message{Kind: hop.KindLoad, Load: hop.Load{Instance: load.Instance, Format: load.Format, Path: load.Path,
		Warm: load.Warm, Options: load.Options.Text()}}
	if load.Known != nil {
		m.Load.Batched, m.Load.Batch = true, *load.Known
	}
	for _, member := range load.Members {
		m.Load.Members = append(m.Load.Members, hop.Member{Digest: string(member.Digest), Path: member.Path})
	}
	reply, err := e.ask(ctx, &m)
	if err != nil {
		return engine.Loaded{}, err
	}
	defer reply.Release()
	loaded := engine.Loaded{Signature: reply.Loaded.Signature, LoadTime: reply.Loaded.LoadTime, WarmTime: reply.Loaded.WarmTime,
		Bytes: reply.Loaded.Bytes, InTurn: reply.Loaded.InTurn}
	if loaded.InTurn {
		e.turns.Store(load.Instance, nil)
	}
	if reply.Loaded.Batched {
		plan := reply.Loaded.Batch
		loaded.Batch = &plan
	}
	return loaded, nil
}

// Unload takes an instance away when its requests are done.
func (e *Engine) Unload(ctx context.Context, instance string) error {
	e.turns.Delete(instance)
	reply, err := e.ask(ctx, &hop.Message{Kind: hop.KindUnload, Instance: instance})
	reply.Release()
	return err
}

// Infer runs one request in the worker. The inputs' bytes go from their memory to the socket without another
// copy, or stay where they are when the worker sees that memory too.
func (e *Engine) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	reply, err := e.ask(ctx, &hop.Message{Kind: hop.KindInfer, Instance: req.Instance, Outputs: req.Outputs,
		Tensors: req.Inputs, Priority: int64(req.Priority), Expect: req.Expect, Limit: req.Limit})
	if err != nil {
		return nil, err
	}
	answer := engine.NewAnswer(reply.Tensors, reply.Free())
	answer.Queue, answer.Compute = reply.Queue, reply.Compute
	answer.Batch, answer.Wait, answer.Steps = int(reply.Batch), reply.Wait, reply.Steps
	return answer, nil
}

// Busy is how many runs the worker has not answered, also those whose callers gave up.
func (e *Engine) Busy() (n int) {
	for _, l := range e.links {
		n += l.busy()
	}
	return n
}

// Stats reports memory and what is loaded.
func (e *Engine) Stats(ctx context.Context) (engine.Stats, error) {
	reply, err := e.ask(ctx, &hop.Message{Kind: hop.KindStats})
	if err != nil {
		return engine.Stats{}, err
	}
	defer reply.Release()
	s := engine.Stats{PID: int(reply.Stats.PID), Runtime: reply.Stats.Runtime, Resident: reply.Stats.Resident, Private: reply.Stats.Private}
	for _, in := range reply.Stats.Instances {
		s.Instances = append(s.Instances, engine.InstanceStats(in))
	}
	return s, nil
}

// Ping asks whether the worker reads and answers.
func (e *Engine) Ping(ctx context.Context) error { return e.ping(ctx, e.pick(0)) }

// ping is Ping by one connection.
func (e *Engine) ping(ctx context.Context, by *link) error {
	m := &hop.Message{Kind: hop.KindPing}
	if err := e.begin(ctx, m); err != nil {
		return err
	}
	reply, err := by.ask(ctx, m, false)
	reply.Release()
	return err
}

// begin gives a request its id, and the time that is left for it.
func (e *Engine) begin(ctx context.Context, m *hop.Message) error {
	if err := ctx.Err(); err != nil {
		return ended(err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		if left <= 0 {
			return ended(context.DeadlineExceeded)
		}
		m.Budget = min(max(left.Truncate(time.Microsecond), time.Microsecond), longestBudget)
	}
	m.ID = e.next.Add(1)
	return nil
}

// ask sends a request and waits for its answer.
func (e *Engine) ask(ctx context.Context, m *hop.Message) (*hop.Message, error) {
	if err := e.begin(ctx, m); err != nil {
		return nil, err
	}
	payload := 0
	for i := range m.Tensors {
		payload += len(m.Tensors[i].Data)
	}
	// What lies in shared memory makes a small frame, which goes the way of the small ones.
	if first := e.links[0]; payload >= shareFrom && first.loan != nil && payload-first.shareable(m) < largeRequest {
		return first.ask(ctx, m, true)
	}
	return e.pick(payload).ask(ctx, m, false)
}

// longestBudget is what a deadline that lies further away is sent as; the worker would not take more.
const longestBudget = 24 * time.Hour

// shareFrom is the size from which a tensor is left where it lies: below it, a copy is cheaper than the bookkeeping.
const shareFrom = 16 << 10

// largeRequest is the payload from which a request goes over another connection than the small ones: those share the
// first, where they leave and arrive together, and would wait behind it.
const largeRequest = 64 << 10

// pick gives small requests the first connection and large ones the least loaded of the others.
func (e *Engine) pick(payload int) *link {
	if payload < largeRequest || len(e.links) == 1 {
		return e.links[0]
	}
	best := e.links[1]
	for _, l := range e.links[2:] {
		if l.load.Load() < best.load.Load() {
			best = l
		}
	}
	return best
}

// lost is what a request gets that the worker did not answer.
func (e *Engine) lost() error {
	cause := e.Err()
	if cause == nil {
		cause = hop.ErrClosed
	}
	return api.Fail(api.CodeWorkerLost, "", "the worker was lost before it answered").Because(cause)
}

// ended is what a request gets whose context ended.
func ended(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return api.Fail(api.CodeDeadline, "", "the deadline passed before the worker answered").Because(err)
	}
	return api.Fail(api.CodeCanceled, "", "the request was cancelled before the worker answered").Because(err)
}

// notSent is what a request gets that could not be encoded.
func notSent(err error) error {
	code := api.CodeBadTensor
	if errors.Is(err, hop.ErrOversize) {
		code = api.CodeTooLarge
	}
	return api.Fail(code, "", "%v", err)
}
