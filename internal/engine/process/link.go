package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

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
	loan   *arena.Loan // what the worker sees of this process's memory; nil is nothing. Set before the first request

	mu      sync.Mutex // guards the fields below
	pending map[uint64]*call
	broken  bool
}

// call is one request that waits. Whoever takes it out of pending, and nobody else, sends on answer once.
type call struct {
	kind    hop.Kind
	answer  chan *hop.Message // nil: the worker is lost
	givenUp bool              // guarded by link.mu: nobody waits any more; its answer will be dropped

	// offsets are where the request's tensors lie in shared memory, -1 for others. The call holds that memory from before
	// the request is sent until its answer is there: see package arena. Empty when there is none, or none any more.
	offsets []int64
}

func newLink(e *Engine, conn net.Conn) *link {
	l := &link{engine: e, conn: conn, pending: map[uint64]*call{}}
	l.reader = hop.NewReader(conn, &e.pool, e.config.Limits)
	l.writer = hop.NewWriter(conn, e.end)
	return l
}

// open sends a connection's first frame; with it go the descriptors of the shared memory. Only the first connection,
// that of the small frames, has any.
func (l *link) open(ctx context.Context, m *hop.Message) error {
	memory := l.engine.config.Memory
	conn, ok := l.conn.(*net.UnixConn)
	if ok && memory != nil && len(l.engine.links) == 0 {
		var err error
		if l.loan, err = memory.Lend(); err != nil {
			return err
		}
		m.Shares = l.loan.Bytes()
	}
	f := l.writer.Frame()
	err := f.Encode(m, l.engine.config.Limits)
	switch {
	case err != nil:
		l.writer.Drop(f)
	case l.loan != nil:
		err = hop.SendRights(conn, f, l.loan.Files())
		l.writer.Drop(f)
	default:
		err = l.writer.Send(ctx, f, false)
	}
	if l.loan != nil {
		l.loan.Sent()
	}
	if err != nil {
		l.takeBack()
	}
	return err
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
	c.kind, c.givenUp = m.Kind, false
	if share {
		l.share(c, m)
	}
	f := l.writer.Frame()
	if err := f.Encode(m, l.engine.config.Limits); err != nil {
		l.writer.Drop(f)
		l.drop(c)
		return nil, notSent(err)
	}
	if err := l.begin(m.ID, c); err != nil {
		l.writer.Drop(f)
		l.drop(c)
		return nil, err
	}
	crowd := l.load.Add(1) > 1
	defer l.load.Add(-1)
	if err := l.writer.Send(ctx, f, crowd); err != nil && ctx.Err() != nil {
		// Only a frame that was taken back is known not to have left.
		return l.giveUp(ctx, c, m.ID, !errors.Is(err, ctx.Err()))
	}
	// A broken connection ends the engine, which answers every call: there is one way out of here for all.
	select {
	case reply := <-c.answer:
		return l.finish(ctx, c, reply)
	case <-ctx.Done():
		return l.giveUp(ctx, c, m.ID, true)
	}
}

func (l *link) begin(id uint64, c *call) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.broken:
		return l.engine.lost()
	case len(l.pending) >= l.engine.config.Requests:
		return api.Fail(api.CodeQueueFull, "", "%d requests wait for the worker already", len(l.pending))
	}
	l.pending[id] = c
	return nil
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
	switch {
	case waiting && sent:
		c.givenUp = true // the call is the reader's now
	case waiting:
		delete(l.pending, id)
	}
	l.mu.Unlock()
	if !waiting {
		return l.finish(ctx, c, <-c.answer)
	}
	if sent {
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
	l.mu.Lock()
	c, known := l.pending[m.ID]
	fits := known && (m.Kind == hop.KindFailure || m.Kind == c.kind.Result())
	givenUp := fits && c.givenUp
	if fits {
		delete(l.pending, m.ID)
	}
	l.mu.Unlock()
	switch {
	case !known:
		m.Release()
		return fmt.Errorf("%w: id %d", hop.ErrUnknownID, m.ID)
	case !fits:
		m.Release()
		return fmt.Errorf("%w: kind %d answers id %d of kind %d", hop.ErrOrder, m.Kind, m.ID, c.kind)
	case givenUp:
		m.Release()
		l.drop(c)
	default:
		c.answer <- m
	}
	return nil
}

// shut ends the connection and answers every call that waits on it. What the worker may still read stays held until it
// has let go.
func (l *link) shut(err error) {
	l.writer.Abort(err)
	_ = l.conn.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = true
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
