package worker

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/arena"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/wire/hop"
)

// refusal says why a request is not taken in hand.
type refusal uint8

const (
	refuseNot refusal = iota
	refuseFull
	refuseStopping
)

// link is one connection. One goroutine, its leader, reads. Requests of quick instances it runs itself, and what it
// answers leaves together when nothing more has arrived; so it does with one that is InTurn. Every other request runs in a
// goroutine of its own, which also writes its answer. A run of the leader's that takes long, or is relieved, makes it a
// goroutine of the latter kind: another leads on.
type link struct {
	host   *host
	reader *hop.Reader
	rights *hop.Rights     // nil on a connection that carries none
	view   *arena.View     // the gateway's memory; nil when none was lent
	ctx    context.Context // ends with the connection; set before anybody leads
	ended  chan struct{}   // closed when nobody leads any more

	// The leader's.
	admitted int  // bytes that the frame being read was admitted for
	begun    bool // a goroutine was, since the leader last waited
	lead     leader
	looks    int // for the next request

	mu      sync.Mutex // guards the fields below
	running map[uint64]context.CancelFunc
	isShut  bool

	// Changed by hello only, with mu held.
	conn   net.Conn
	writer *hop.Writer
	lanes  []*hop.Writer // for one answer at a time; none on a connection that came without
	pair   *hop.Pair     // the same as conn, then
}

func newLink(h *host, conn net.Conn) *link {
	l := &link{host: h, conn: conn, running: map[uint64]context.CancelFunc{}, ended: make(chan struct{})}
	l.lead.run = &ownRun{}
	l.lead.timer = time.AfterFunc(time.Hour, l.look)
	l.lead.timer.Stop() // until there is something to watch
	var in io.Reader = conn
	if c, ok := conn.(*net.UnixConn); ok {
		l.rights = hop.NewRights(c)
		in = l.rights
	}
	l.read(in)
	l.writer = hop.NewWriter(conn, l.shut)
	return l
}

// read makes in what the leader reads.
func (l *link) read(in io.Reader) {
	l.reader = hop.NewReader(in, &l.host.pool, l.host.config.Limits)
	l.reader.Admit = func(_ hop.Kind, payload int) bool {
		if !l.host.admit(payload) {
			return false
		}
		l.admitted = payload
		return true
	}
	if l.view != nil {
		l.reader.Shared = l.view
	}
}

// shut ends the connection; every goroutine of the link then ends by itself.
func (l *link) shut(err error) {
	l.mu.Lock()
	l.isShut = true
	conn, writer, lanes := l.conn, l.writer, l.lanes
	l.mu.Unlock()
	writer.Abort(err)
	for _, lane := range lanes {
		lane.Abort(err)
	}
	_ = conn.Close()
}

// writers are all that answers leave by.
func (l *link) writers() []*hop.Writer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*hop.Writer{l.writer}, l.lanes...)
}

// split gives answers sockets of their own.
func (l *link) split(ways hop.Ways) error {
	conn, ok := l.conn.(*net.UnixConn)
	if !ok || l.reader.Buffered() {
		return fmt.Errorf("%w: more than hello before its answer", hop.ErrOrder)
	}
	pair, err := hop.Worker(conn, ways)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn, l.pair, l.writer, l.lanes = pair, pair, hop.NewWriter(pair, l.shut), pair.Writers(l.shut)
	if l.isShut {
		return errors.Join(hop.ErrClosed, pair.Close())
	}
	l.read(pair)
	return nil
}

// serve reads until the connection ends. Requests of a connection that is gone are stopped: nobody can take the answer.
func (l *link) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer l.host.close(l)
	defer cancel()
	if err := l.hello(); err != nil {
		l.end(err)
	} else {
		l.ctx = ctx
		go l.leadOn()
	}
	<-l.ended
	if l.view != nil {
		l.view.Release() // requests in hand have their own references
	}
}

// leadOn reads until the connection ends, or another leads in its place.
func (l *link) leadOn() {
	for {
		if !l.reader.Buffered() {
			l.writer.Flush()
			if l.begun {
				l.begun = false
				// The read may block the only thread that runs goroutines, until Go's monitor sees it. Twice: the first of those
				// that were begun may yield too, for the others to join it (batch.Batcher), and would come behind the read.
				runtime.Gosched()
				runtime.Gosched()
			}
		}
		m, err := l.next()
		if err == nil {
			if why := l.prepare(m); why != ownNot {
				if !l.runOwn(m, why) {
					return
				}
				continue
			}
			err = l.take(l.ctx, m)
		}
		if err != nil {
			l.end(err)
			return
		}
	}
}

// prepare says whether the leader should run a request itself, and makes ready for that, or for another to.
func (l *link) prepare(m *hop.Message) own {
	why := l.own(m)
	if why == ownInTurn {
		l.host.spare.inTurn()
		runtime.Gosched() // who goes on for 10 ms without loses Go's processor in the run
	} else if m.Kind == hop.KindInfer {
		l.host.spare.together()
	}
	if why != ownQuick {
		l.writer.Flush() // it may take long
	}
	return why
}

// end is the leader's last act.
func (l *link) end(err error) {
	l.shut(hop.ErrClosed)
	l.stopWatch()
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		l.host.config.Log.Warn("worker: connection ended", "error", err)
	}
	close(l.ended)
}

// next reads a message and keeps the count of admitted bytes right also when the frame breaks off.
func (l *link) next() (*hop.Message, error) {
	l.admitted = 0
	m, err := l.reader.Next()
	if err != nil {
		l.host.bytes.Add(-int64(l.admitted))
	}
	return m, err
}

// hello lets only those in who know the token, and only in time.
func (l *link) hello() error {
	if l.rights != nil {
		defer l.rights.Close()
	}
	if err := l.conn.SetReadDeadline(time.Now().Add(l.host.config.Hello)); err != nil {
		return err
	}
	m, err := l.next()
	if err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	defer func() {
		l.host.bytes.Add(-int64(m.Payload()))
		m.Release()
	}()
	if m.Kind != hop.KindHello {
		return fmt.Errorf("%w: the first is of kind %d", hop.ErrOrder, m.Kind)
	}
	if subtle.ConstantTimeCompare([]byte(m.Token), []byte(l.host.config.Token)) != 1 {
		return hop.ErrToken
	}
	ways := l.descriptors(m.Shares)
	defer func() { _ = ways.Close() }()
	reply := hop.Message{Kind: hop.KindHello.Result(), PID: int64(os.Getpid()), Shared: l.view != nil, Split: ways != nil}
	reply.Answers(m)
	l.send(&reply)
	if ways != nil {
		return l.split(ways)
	}
	return l.conn.SetReadDeadline(time.Time{})
}

// descriptors takes what came with hello: the sockets for answers, and two for the memory that the gateway lends, or either.
func (l *link) descriptors(shares int64) (ways hop.Ways) {
	if l.rights == nil {
		return nil
	}
	files := l.rights.Take()
	if len(files) > hop.Lanes {
		ways, files = files[:1+hop.Lanes], files[1+hop.Lanes:]
	}
	if len(files) == 2 {
		l.borrow(files, shares)
	} else {
		_ = hop.Ways(files).Close() // none, or what nobody here knows
	}
	return ways
}

// borrow maps the memory that the gateway lends. A worker that cannot is sent the tensors instead.
func (l *link) borrow(files []*os.File, size int64) {
	view, err := arena.Borrow(files[0], files[1], size)
	if err != nil {
		l.host.config.Log.Warn("worker: the gateway's memory cannot be mapped; tensors come through the socket", "error", err)
		return
	}
	l.view = view
	l.reader.Shared = view
}

// take begins a request, or answers it at once. An error ends the connection.
func (l *link) take(ctx context.Context, m *hop.Message) error {
	switch m.Kind {
	case hop.KindCancel:
		l.mu.Lock()
		cancel := l.running[m.ID]
		l.mu.Unlock()
		if cancel != nil { // else its answer is on the way already
			cancel()
		}
		m.Release()
		return nil
	case hop.KindRelieve:
		l.host.relieve(m.ID)
		m.Release()
		return nil
	case hop.KindPing:
		reply := hop.Message{Kind: hop.KindPing.Result()}
		reply.Answers(m)
		l.send(&reply)
		m.Release()
		return nil
	case hop.KindLoad, hop.KindUnload, hop.KindInfer, hop.KindStats:
		return l.begin(ctx, m)
	}
	return fmt.Errorf("%w: kind %d", hop.ErrOrder, m.Kind)
}

// admit takes a request in hand, or answers why not and gives it back.
func (l *link) admit(m *hop.Message) bool {
	why := refuseFull
	if !m.Refused {
		why = l.host.begin(m)
	}
	if why == refuseNot {
		return true
	}
	l.fail(m, l.refuse(why))
	l.host.bytes.Add(-int64(m.Payload()))
	m.Release()
	return false
}

func (l *link) begin(ctx context.Context, m *hop.Message) error {
	if !l.admit(m) {
		return nil
	}
	var cancel context.CancelFunc
	if m.Budget > 0 {
		ctx, cancel = context.WithTimeout(ctx, m.Budget)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	if !l.register(m.ID, cancel) {
		cancel()
		l.host.end(m)
		m.Release()
		return fmt.Errorf("%w: %d", hop.ErrDuplicate, m.ID)
	}
	l.begun = true
	go l.run(ctx, cancel, m)
	return nil
}

// register lets a request be cancelled; false when its id is in use.
func (l *link) register(id uint64, cancel context.CancelFunc) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, double := l.running[id]; double {
		return false
	}
	l.running[id] = cancel
	return true
}

func (l *link) refuse(why refusal) error {
	if why == refuseStopping {
		return api.Fail(api.CodeShuttingDown, "", "the worker is stopping")
	}
	c := &l.host.config
	return api.Fail(api.CodeQueueFull, "", "the worker holds %d requests or %d bytes of tensors already", c.Requests, c.Bytes)
}

// run carries one request out and answers it, exactly once.
func (l *link) run(ctx context.Context, cancel context.CancelFunc, m *hop.Message) {
	reply, answer := l.execute(ctx, m, false)
	reply.Answers(m)
	l.mu.Lock()
	delete(l.running, m.ID)
	l.mu.Unlock()
	cancel()
	l.send(&reply)
	l.done(m, answer)
}

// done gives back what a request held. The inputs go last: an engine may answer with views of them.
func (l *link) done(m *hop.Message, answer *engine.Answer) {
	answer.Release()
	l.host.end(m)
	m.Release()
}

// execute turns a panic of the engine into that request's failure alone. A quick request does not queue for a place in
// the engine behind long ones.
func (l *link) execute(ctx context.Context, m *hop.Message, quick bool) (reply hop.Message, answer *engine.Answer) {
	defer func() {
		if p := recover(); p != nil {
			l.host.config.Log.Error("worker: the engine panicked", "panic", p, "stack", string(debug.Stack()))
			answer = nil
			reply = hop.Message{Kind: hop.KindFailure,
				Failure: hop.FailureOf(api.Fail(api.CodeInternal, m.Instance, "the engine panicked"))}
		}
	}()
	var err error
	switch m.Kind {
	case hop.KindInfer:
		reply, answer, err = l.infer(ctx, m, quick)
	case hop.KindLoad:
		reply, err = l.load(ctx, m)
	case hop.KindUnload:
		l.host.costs.Delete(m.Instance)
		err = l.host.engine.Unload(ctx, m.Instance)
	case hop.KindStats:
		reply, err = l.stats(ctx)
	}
	if err != nil {
		return hop.Message{Kind: hop.KindFailure, Failure: l.failure(ctx, err)}, answer
	}
	reply.Kind = m.Kind.Result()
	return reply, answer
}

func (l *link) infer(ctx context.Context, m *hop.Message, quick bool) (reply hop.Message, answer *engine.Answer, err error) {
	var wait time.Duration
	if !quick {
		if wait, err = l.enter(ctx); err != nil {
			return reply, nil, err
		}
		defer func() { <-l.host.runs }()
	}
	answer, err = l.host.engine.Infer(ctx, engine.Request{Instance: m.Instance, Inputs: m.Tensors, Outputs: m.Outputs,
		Priority: int(m.Priority)})
	if err != nil {
		return reply, nil, err
	}
	l.host.took(m.Instance, answer)
	reply.Tensors, reply.Queue, reply.Compute = answer.Outputs, answer.Queue+wait, answer.Compute
	reply.Batch, reply.Wait, reply.Steps = int64(answer.Batch), answer.Wait, answer.Steps
	return reply, answer, nil
}

// enter waits for a place in the engine; the clock is read only when there is none at once.
func (l *link) enter(ctx context.Context) (time.Duration, error) {
	select {
	case l.host.runs <- struct{}{}:
		return 0, nil
	default:
	}
	start := time.Now()
	select {
	case l.host.runs <- struct{}{}:
		return time.Since(start), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (l *link) load(ctx context.Context, m *hop.Message) (reply hop.Message, err error) {
	load := engine.Load{Instance: m.Load.Instance, Format: m.Load.Format, Path: m.Load.Path, Warm: m.Load.Warm}
	if m.Load.Options != "" {
		if err := api.DecodeStrict([]byte(m.Load.Options), &load.Options); err != nil {
			return reply, fmt.Errorf("read the options to load with: %w", err)
		}
	}
	for _, member := range m.Load.Members {
		load.Members = append(load.Members, engine.Member{Digest: api.Digest(member.Digest), Path: member.Path})
	}
	if m.Load.Batched {
		load.Known = &m.Load.Batch
	}
	loaded, err := l.host.engine.Load(ctx, load)
	l.host.learn(load.Instance, loaded.Batch != nil && loaded.Batch.MaxSize > 1)
	reply.Loaded = hop.Loaded{Signature: loaded.Signature, LoadTime: loaded.LoadTime, WarmTime: loaded.WarmTime, Bytes: loaded.Bytes,
		InTurn: loaded.InTurn}
	if loaded.Batch != nil {
		reply.Loaded.Batched, reply.Loaded.Batch = true, *loaded.Batch
	}
	return reply, err
}

func (l *link) stats(ctx context.Context) (reply hop.Message, err error) {
	s, err := l.host.engine.Stats(ctx)
	reply.Stats = hop.Stats{PID: int64(s.PID), Runtime: s.Runtime, Resident: s.Resident, Private: s.Private}
	for _, in := range s.Instances {
		reply.Stats.Instances = append(reply.Stats.Instances, hop.InstanceStats(in))
	}
	return reply, err
}

// failure tells an error to the other end. What is not an api.Error stays in this log.
func (l *link) failure(ctx context.Context, err error) hop.Failure {
	var known *api.Error
	switch {
	case errors.As(err, &known):
	case errors.Is(err, context.DeadlineExceeded):
		err = api.Fail(api.CodeDeadline, "", "the deadline passed in the worker")
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		err = api.Fail(api.CodeCanceled, "", "the request was cancelled")
	default:
		l.host.config.Log.Error("worker: request failed", "error", err)
	}
	return hop.FailureOf(err)
}

func (l *link) fail(m *hop.Message, err error) {
	reply := hop.Message{Kind: hop.KindFailure, Failure: hop.FailureOf(err)}
	reply.Answers(m)
	l.send(&reply)
}

// send writes a message; it returns when the tensors are not needed any more.
func (l *link) send(m *hop.Message) {
	w := l.way(m)
	if f := l.encode(w, m); f != nil {
		_ = w.Send(context.Background(), f, false) // a broken connection has told shut
	}
}

// way is where an answer leaves by.
func (l *link) way(m *hop.Message) *hop.Writer {
	if m.Lane > 0 && len(l.lanes) > 0 {
		return l.lanes[m.Lane-1]
	}
	return l.writer
}

// encode makes a message's frame. A message that cannot be encoded (an engine's tensor without its bytes, an answer over
// the limit) becomes a failure; nil when there is none either, and the connection has ended.
func (l *link) encode(w *hop.Writer, m *hop.Message) *hop.Frame {
	f := w.Frame()
	err := f.Encode(m, l.host.config.Limits)
	if err == nil {
		return f
	}
	l.host.config.Log.Error("worker: answer not sent", "error", err)
	code := api.CodeInternal
	if errors.Is(err, hop.ErrOversize) {
		code = api.CodeTooLarge
	}
	failure := hop.Message{Kind: hop.KindFailure, ID: m.ID, Check: m.Check,
		Failure: hop.FailureOf(api.Fail(code, "", "the answer does not fit the hop: %v", err))}
	if err := f.Encode(&failure, l.host.config.Limits); err != nil {
		w.Drop(f)
		l.shut(err)
		return nil
	}
	return f
}
