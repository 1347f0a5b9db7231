package process

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/api"
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

	mu      sync.Mutex       // guards the fields below
	pending map[uint64]*call // nil value: given up; its answer will be dropped
	broken  bool
}

// call is one request that waits. Whoever takes it out of pending, and nobody else, sends on answer once.
type call struct {
	kind   hop.Kind
	answer chan *hop.Message // nil: the worker is lost
}

func newLink(e *Engine, conn net.Conn) *link {
	l := &link{engine: e, conn: conn, pending: map[uint64]*call{}}
	l.reader = hop.NewReader(conn, &e.pool, e.config.Limits)
	l.writer = hop.NewWriter(conn, e.end)
	return l
}

func (l *link) ask(ctx context.Context, m *hop.Message) (*hop.Message, error) {
	f := l.writer.Frame()
	if err := f.Encode(m, l.engine.config.Limits); err != nil {
		l.writer.Drop(f)
		return nil, notSent(err)
	}
	c, err := l.begin(m)
	if err != nil {
		l.writer.Drop(f)
		return nil, err
	}
	crowd := l.load.Add(1) > 1
	defer l.load.Add(-1)
	if err := l.writer.Send(ctx, f, crowd); err != nil && ctx.Err() != nil {
		return l.giveUp(ctx, c, m.ID, false)
	}
	// A broken connection ends the engine, which answers every call: there is one way out of here for all.
	select {
	case reply := <-c.answer:
		return l.finish(ctx, c, reply)
	case <-ctx.Done():
		return l.giveUp(ctx, c, m.ID, true)
	}
}

func (l *link) begin(m *hop.Message) (*call, error) {
	c, ok := l.calls.Get().(*call)
	if !ok {
		c = &call{answer: make(chan *hop.Message, 1)}
	}
	c.kind = m.Kind
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.broken:
		return nil, l.engine.lost()
	case len(l.pending) >= l.engine.config.Requests:
		return nil, api.Fail(api.CodeQueueFull, "", "%d requests wait for the worker already", len(l.pending))
	}
	l.pending[m.ID] = c
	return c, nil
}

// finish turns what arrived into the caller's result. A worker that is stopping refuses new requests and cancels what
// it cannot finish; to a caller who did not cancel, that is a worker lost, and the request may go elsewhere.
func (l *link) finish(ctx context.Context, c *call, reply *hop.Message) (*hop.Message, error) {
	l.calls.Put(c)
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
		l.pending[id] = nil
	case waiting:
		delete(l.pending, id)
	}
	l.mu.Unlock()
	if !waiting {
		return l.finish(ctx, c, <-c.answer)
	}
	l.calls.Put(c)
	if sent {
		f := l.writer.Frame()
		if err := f.Encode(&hop.Message{Kind: hop.KindCancel, ID: id}, l.engine.config.Limits); err == nil {
			l.writer.Post(f)
		}
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
	fits := known && (c == nil || m.Kind == hop.KindFailure || m.Kind == c.kind.Result())
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
	case c == nil:
		m.Release()
	default:
		c.answer <- m
	}
	return nil
}

// shut ends the connection and answers every call that waits on it.
func (l *link) shut(err error) {
	l.writer.Abort(err)
	_ = l.conn.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = true
	for id, c := range l.pending {
		delete(l.pending, id)
		if c != nil {
			c.answer <- nil
		}
	}
}
