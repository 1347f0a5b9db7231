package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/arena"
	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/hop"
)

// link is one connection: callers write, one goroutine reads and hands every answer to who waits for it.
type link struct {
	engine *Engine
	conn   net.Conn
	reader *hop.Reader
	writer *hop.Writer
	load   atomic.Int64 // requests in flight, for pick
	calls  sync.Pool
	looks  bool        // callers may look for answers: another thread goes on with what else there is
	loan   *arena.Loan // what the worker sees of this process's memory; nil is nothing. Set before the first request

	mu      sync.Mutex // guards the fields below
	pending map[uint64]*call
	broken  bool
	idle    []*lane // that no request has; the last one used is the next
	alone   int     // runs in a row that found nobody waiting
	turn    inTurn
	lanes   []*lane // all of them
	looking bool    // the watch is on
	quiet   int     // looks in a row that saw no new request in a lane

	watch *time.Timer // kicks callers who wait in a lane for long
}

// call is one request that waits. Whoever takes it out of pending, and nobody else, sends on answer once.
type call struct {
	kind    hop.Kind
	mark    uint64            // that its answer has to carry
	answer  chan *hop.Message // nil: the worker is lost
	givenUp bool              // guarded by link.mu: nobody waits any more; its answer will be dropped
	lane    *lane             // where its answer comes; nil: by the shared socket
	quick   bool              // it is expected so soon that its caller looks for it

	instance string        // that runs; empty for what is no run
	started  time.Time     // set for runs
	limit    time.Duration // how long the run may take although nobody waits
	due      time.Time     // guarded by link.mu: when a run that nobody waits for should have ended
	chances  int           // guarded by link.mu: times that it was overdue when the worker was seen to read, and was given time from there
	seen     worked        // guarded by link.mu: by the worker's process at the first of these

	counts bool // guarded by link.mu: in inTurn.same
	told   bool // the same: its request is in turn

	// offsets are where the request's tensors lie in shared memory, -1 for others. The call holds that memory from before
	// the request is sent until its answer is there: see package arena. Empty when there is none, or none any more.
	offsets []int64
}

func newLink(e *Engine, conn net.Conn) *link {
	l := &link{engine: e, pending: map[uint64]*call{}, looks: runtime.GOMAXPROCS(0) > 1}
	l.use(conn)
	return l
}

// use makes conn the link's connection, before the first request.
func (l *link) use(conn net.Conn) {
	l.conn = conn
	l.reader = hop.NewReader(conn, &l.engine.pool, l.engine.config.Limits)
	l.writer = hop.NewWriter(conn, l.engine.end)
}

// open sends a connection's first frame. With that of the first connection, which is for the small frames, go descriptors:
// of the sockets for answers, whose other ends it returns, and of the shared memory.
func (l *link) open(ctx context.Context, m *hop.Message) (ours hop.Ways, err error) {
	f := l.writer.Frame()
	conn, ok := l.conn.(*net.UnixConn)
	if !ok || len(l.engine.links) > 0 {
		if err := f.Encode(m, l.engine.config.Limits); err != nil {
			l.writer.Drop(f)
			return nil, err
		}
		return nil, l.writer.Send(ctx, f, false)
	}
	defer l.writer.Drop(f)
	theirs, ours, err := hop.NewWays()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }() // the worker has its own then
	files := slices.Clone(theirs)
	if memory := l.engine.config.Memory; memory != nil {
		if l.loan, err = memory.Lend(); err != nil {
			return nil, errors.Join(err, ours.Close())
		}
		defer l.loan.Sent()
		m.Shares = l.loan.Bytes()
		files = append(files, l.loan.Files()...)
	}
	if err = f.Encode(m, l.engine.config.Limits); err == nil {
		err = hop.SendRights(conn, f, files)
	}
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return ours, nil
}

// takeBack ends the loan of a worker that was never told where anything lies.
func (l *link) takeBack() {
	if l.loan != nil {
		l.loan.End(nil)
		l.loan = nil
	}
}

// shareable is how many bytes of the request's tensors may stay where they are.
func (l *link) shareable(m *hop.Message) (n int) {
	for i := range m.Tensors {
		if l.mayShare(&m.Tensors[i]) {
			n += len(m.Tensors[i].Data)
		}
	}
	return n
}

// mayShare reports whether the worker can be told where a tensor is. BYTES are sent: their lengths are parsed.
func (l *link) mayShare(t *tensor.Tensor) bool {
	return len(t.Data) >= shareFrom && t.Type.Size() > 0 && l.engine.config.Memory.Contains(t.Data)
}

// share holds what may stay in shared memory, and says so in the message.
func (l *link) share(c *call, m *hop.Message) {
	for i := range m.Tensors {
		t, offset := &m.Tensors[i], int64(-1)
		if l.mayShare(t) {
			if at, ok := l.engine.config.Memory.Hold(t.Data); ok && at%int64(t.Type.Size()) == 0 {
				offset = at
			} else if ok {
				l.engine.config.Memory.Free(at) // not aligned: its copy will be
			}
		}
		c.offsets = append(c.offsets, offset)
	}
	m.Offsets = c.offsets
}

// free ends the call's hold on shared memory.
func (l *link) free(c *call) {
	for _, at := range c.offsets {
		if at >= 0 {
			l.engine.config.Memory.Free(at)
		}
	}
	c.offsets = c.offsets[:0]
}

// drop gives a call back that waits for nothing.
func (l *link) drop(c *call) {
	l.free(c)
	l.calls.Put(c)
}

func (l *link) ask(ctx context.Context, m *hop.Message, share bool) (*hop.Message, error) {
	c, ok := l.calls.Get().(*call)
	if !ok {
		c = &call{answer: make(chan *hop.Message, 1)}
	}
	c.kind, c.mark, c.givenUp, c.instance, c.chances = m.Kind, m.Mark(), false, "", 0
	if m.Kind == hop.KindInfer {
		c.instance, c.limit, c.quick = m.Instance, m.Limit, m.Expect > 0 && m.Expect < laneQuick
		c.started = time.Now()
	}
	if share {
		l.share(c, m)
	}
	if err := l.begin(m, c); err != nil {
		l.drop(c)
		return nil, err
	}
	f := l.writer.Frame()
	if err := f.Encode(m, l.engine.config.Limits); err != nil {
		l.writer.Drop(f)
		l.unsent(c, m.ID)
		return nil, notSent(err)
	}
	crowd := l.load.Add(1) > 1
	defer l.load.Add(-1)
	if err := l.writer.Send(ctx, f, crowd); err != nil && ctx.Err() != nil {
		sent := !errors.Is(err, ctx.Err()) // only a frame that was taken back is known not to have left
		if sent && c.lane != nil {
			l.leave(c.lane)
		}
		return l.giveUp(ctx, c, m.ID, sent)
	}
	if c.lane != nil {
		if reply := l.await(c); reply != nil {
			return l.finish(ctx, c, reply)
		}
	}
	// A broken connection ends the engine, which answers every call: there is one way out of here for all.
	select {
	case reply := <-c.answer:
		return l.finish(ctx, c, reply)
	case <-ctx.Done():
		return l.giveUp(ctx, c, m.ID, true)
	}
}

func (l *link) begin(m *hop.Message, c *call) error {
	relieved, err := l.enter(m, c)
	l.relieve(relieved)
	return err
}

// enter puts a call among those that wait, and tells up to which the others are not in turn any more; 0 is none.
func (l *link) enter(m *hop.Message, c *call) (relieved uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.broken:
		return 0, l.engine.lost()
	case len(l.pending) >= l.engine.config.Requests:
		return 0, api.Fail(api.CodeQueueFull, "", "%d requests wait for the worker already", len(l.pending))
	}
	c.lane = l.take(m)
	if m.Lane = 0; c.lane != nil {
		m.Lane = c.lane.number
	}
	relieved = l.join(m, c)
	l.pending[m.ID] = c
	return relieved, nil
}

// forget needs mu. It takes a call away from those that wait.
func (l *link) forget(id uint64, c *call) {
	delete(l.pending, id)
	l.give(c.lane)
	l.turn.leave(id, c)
}

// unsent forgets a call whose request did not leave.
func (l *link) unsent(c *call, id uint64) {
	l.mu.Lock()
	_, waiting := l.pending[id]
	if waiting {
		l.forget(id, c)
	}
	l.mu.Unlock()
	if !waiting {
		<-c.answer // the engine has ended, and said so
	}
	l.drop(c)
}

// busy counts the runs that were not answered.
func (l *link) busy() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.pending {
		if c.kind == hop.KindInfer {
			n++
		}
	}
	return n
}

// finish turns what arrived into the caller's result. A worker that is stopping refuses new requests and cancels what
// it cannot finish; to a caller who did not cancel, that is a worker lost, and the request may go elsewhere.
func (l *link) finish(ctx context.Context, c *call, reply *hop.Message) (*hop.Message, error) {
	l.drop(c)
	if reply == nil {
		return nil, l.engine.lost()
	}
	if reply.Kind == hop.KindFailure {
		err := reply.Failure.Error()
		reply.Release()
		if err.Code == api.CodeShuttingDown || err.Code == api.CodeCanceled && ctx.Err() == nil {
			return nil, api.Fail(api.CodeWorkerLost, err.Subject, "the worker stopped before it answered").Because(err)
		}
		return nil, err
	}
	return reply, nil
}

// giveUp leaves a request whose ctx ended. The answer that is still to come is dropped by the reader; when it came in
// this very moment it is the result after all. sent says whether the worker knows of the request.
func (l *link) giveUp(ctx context.Context, c *call, id uint64, sent bool) (*hop.Message, error) {
	l.mu.Lock()
	_, waiting := l.pending[id]
	relieved := uint64(0)
	switch {
	case waiting && sent:
		relieved = l.turn.relieve() // else the cancel would not be read
		c.givenUp = true            // the call is the reader's now
		c.due = time.Now().Add(l.engine.config.RunGrace)
		if late := c.started.Add(c.limit + l.engine.config.RunGrace); c.limit > 0 && late.After(c.due) {
			c.due = late
		}
		if c.instance != "" {
			l.engine.watch.by(c.due)
		}
	case waiting:
		l.forget(id, c)
	}
	l.mu.Unlock()
	if !waiting {
		return l.finish(ctx, c, <-c.answer)
	}
	if sent {
		l.relieve(relieved)
		f := l.writer.Frame()
		if err := f.Encode(&hop.Message{Kind: hop.KindCancel, ID: id}, l.engine.config.Limits); err == nil {
			l.writer.Post(f)
		}
	} else {
		l.drop(c)
	}
	return nil, ended(ctx.Err())
}

// read hands answers out until the stream ends or goes wrong; a worker that answers what nobody asked, or in another
// kind, cannot be trusted with the next answer either.
func (l *link) read() {
	for {
		m, err := l.reader.Next()
		if err == nil {
			err = l.deliver(m)
		}
		if err != nil {
			l.engine.end(err)
			return
		}
	}
}

func (l *link) deliver(m *hop.Message) error {
	c, err := l.arrived(m, nil)
	if c != nil {
		c.answer <- m
	}
	return err
}

// arrived takes a message's call out of those that wait, unless nobody waits for it any more. from is the lane that it came
// by; nil is the shared socket.
func (l *link) arrived(m *hop.Message, from *lane) (*call, error) {
	l.mu.Lock()
	c, known := l.pending[m.ID]
	fits := known && c.lane == from && m.Check == c.mark && (m.Kind == hop.KindFailure || m.Kind == c.kind.Result())
	givenUp := fits && c.givenUp
	if fits {
		l.turn.wait(m, c)
		l.forget(m.ID, c)
	}
	l.mu.Unlock()
	switch {
	case !known:
		err := fmt.Errorf("%w: id %d", hop.ErrUnknownID, m.ID)
		m.Release()
		return nil, err
	case !fits:
		err := fmt.Errorf("%w: kind %d with the mark %x answers id %d of kind %d and mark %x", hop.ErrOrder, m.Kind, m.Check, m.ID, c.kind, c.mark)
		m.Release()
		return nil, err
	case givenUp:
		m.Release()
		l.drop(c)
		return nil, nil
	}
	return c, nil
}

// shut ends the connection and answers every call that waits on it. What the worker may still read stays held until it
// has let go.
func (l *link) shut(err error) {
	l.writer.Abort(err)
	_ = l.conn.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = true
	if l.watch != nil {
		l.watch.Stop()
	}
	var held []int64
	for id, c := range l.pending {
		delete(l.pending, id)
		for _, at := range c.offsets {
			if at >= 0 {
				held = append(held, at)
			}
		}
		c.offsets = c.offsets[:0]
		if !c.givenUp {
			c.answer <- nil
		}
	}
	if l.loan != nil {
		l.loan.End(held)
	}
}
