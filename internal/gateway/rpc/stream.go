package rpc

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/internal/expiry"
)

// stream is one call from its header to its end. The peer's frames reach it by the connection's reader; a goroutine of its
// own runs the method, for a unary one from when the message is whole.
type stream struct {
	conn        *conn
	id          uint32
	method      *method
	contentType string // of request and answer
	coding      string // of compressed messages, both ways; empty: none
	fields      []field
	ctx         callContext
	life        expiry.Context     // that ctx is of, unless cancel is set
	cancel      context.CancelFunc // of the caller's deadline, where it has to be met closely; else nil
	refused     int                // HTTP status for who does not speak gRPC; 0 for who does
	promised    int64              // content-length; -1 for none
	admitted    any                // what Admit gave
	opened      time.Time
	extra       []string // names and values that the answer's header gets; the method's until the header is sent

	in assembly // a unary method's message: the reader's until started; else the method's, in Recv

	// Guarded by conn.mu.
	started      bool // the method runs
	first        bool // a message has come, or none has to any more
	ended        bool // the peer has nothing more to send
	over         error
	answering    bool // the header is sent
	answerCoding string
	window       int64  // what may be sent
	credit       int64  // what the peer may send
	got          int64  // what it sent, padding apart
	owed         int64  // what of it was taken and not allowed again
	pending      []byte // of a streaming method: what came and was not taken

	arrived chan struct{} // room for one: pending grew, or the peer ended; nil for unary methods
	room    chan struct{} // room for one: the window grew; made when somebody waits
}

var (
	errReset = errors.New("rpc: the caller gave the call up")
	errLost  = errors.New("rpc: the connection ended")
)

// callContext is the context of a call; it knows its stream.
type callContext struct {
	context.Context
	stream *stream
}

type streamKey struct{}

// Value finds the stream, and else asks the context below.
func (c *callContext) Value(key any) any {
	if key == (streamKey{}) {
		return c.stream
	}
	return c.Context.Value(key)
}

func streamOf(ctx context.Context) *stream {
	s, _ := ctx.Value(streamKey{}).(*stream)
	return s
}

// Life is the context of a unary call, unless its caller's deadline has to be met closely; nil for other calls.
func Life(ctx context.Context) *expiry.Context {
	if s := streamOf(ctx); s != nil && s.cancel == nil && s.method != nil && s.method.stream == nil {
		return &s.life
	}
	return nil
}

// Values gives the values of a call's metadata, by a name in lower case; nil when there are none. It allocates only for names that
// came several times.
func Values(ctx context.Context, name string) []string {
	s := streamOf(ctx)
	if s == nil {
		return nil
	}
	var values []string
	for i := range s.fields {
		if s.fields[i].name == name {
			values = append(values, s.fields[i].value)
		}
	}
	return values
}

// Admitted is what the server's Admit gave for a call.
func Admitted(ctx context.Context) any {
	if s := streamOf(ctx); s != nil {
		return s.admitted
	}
	return nil
}

// SetHeader adds names and values to the metadata of the call's answer, until the answer has begun.
func SetHeader(ctx context.Context, pairs ...string) {
	if s := streamOf(ctx); s != nil {
		s.extra = append(s.extra, pairs...)
	}
}

// open begins a call, or answers at once why not.
func (c *conn) open(id uint32, ends bool) error {
	if id <= c.last {
		return c.second(id, ends)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = id
	if c.draining || c.active >= c.server.limits.Streams {
		c.out = appendReset(c.out, id, faultRefused)
		return c.strain()
	}
	var r request
	switch {
	case c.fieldBytes > c.server.limits.HeaderBytes:
		c.out = appendReset(c.out, id, faultCalm)
		return c.strain()
	case !r.read(c.fields):
		c.out = appendReset(c.out, id, faultProtocol)
		return c.strain()
	}
	s := &stream{conn: c, id: id, contentType: r.contentType, coding: r.coding, promised: r.length, ended: ends,
		window: c.initial, credit: streamWindow, opened: time.Now()}
	s.fields = slices.Clone(r.fields)
	c.streams[id] = s
	c.active++
	switch {
	case r.method != http.MethodPost:
		s.refused = http.StatusMethodNotAllowed
	case !grpcType(r.contentType):
		s.refused = http.StatusUnsupportedMediaType
	}
	if ends && s.promised > 0 {
		c.cut(s, faultProtocol)
		return c.strain()
	}
	if err := c.begin(s, &r); err != nil {
		c.end(s, err)
		return c.strain()
	}
	return nil
}

// strain needs mu: what was answered at once is bounded as noise is, and written when much of it waits.
func (c *conn) strain() error {
	full := len(c.out) > outKept
	c.mu.Unlock()
	defer c.mu.Lock()
	return c.relieve(full)
}

// cut needs mu: it ends a call that breaks HTTP/2's rules.
func (c *conn) cut(s *stream, code fault) {
	c.out = appendReset(c.out, s.id, code)
	c.drop(s, errReset)
}

// second is a header on a stream that is there: the peer's trailer, which ends it.
func (c *conn) second(id uint32, ends bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	pseudo := slices.ContainsFunc(c.fields, func(f field) bool { return strings.HasPrefix(f.name, ":") })
	switch {
	case s == nil:
		return faultClosed
	case s.ended:
		c.cut(s, faultClosed)
	case !ends || pseudo:
		c.cut(s, faultProtocol)
	default:
		c.close(s)
	}
	return nil
}

// begin needs mu. It finds the method, asks who calls, and starts a streaming method. An error is the call's status.
func (c *conn) begin(s *stream, r *request) error {
	server := c.server
	s.life.Init(s.opened, lookEvery)
	s.ctx = callContext{&s.life, s}
	if r.timeout > 0 && !s.life.Within(s.opened, r.timeout) {
		s.ctx.Context, s.cancel = context.WithTimeout(context.Background(), r.timeout)
	}
	server.arm()
	if s.refused != 0 {
		if s.ended {
			s.started = true
			server.start(s)
		}
		return nil
	}
	if s.method = server.methods[r.path]; s.method == nil {
		return server.unknown(r.path)
	}
	if s.coding != "" && encoding.GetCompressor(s.coding) == nil {
		return status.Errorf(codes.Unimplemented, "messages compressed as %q are not understood", s.coding)
	}
	if server.admit != nil {
		var err error
		if s.admitted, err = server.admit(&s.ctx, r.path); err != nil {
			return err
		}
	}
	s.in = assembly{limit: server.limits.MessageBytes, memory: server.memory}
	if s.method.stream == nil {
		if s.ended {
			return errNoMessage
		}
		return nil
	}
	s.arrived = make(chan struct{}, 1)
	s.started = true
	server.start(s)
	return nil
}

var errNoMessage = status.Error(codes.Internal, "the call ended before its message was whole")

// data takes a piece of a call's messages.
func (c *conn) data(f *frame) error {
	if f.stream == 0 || f.stream > c.last {
		return faultProtocol
	}
	b, err := f.strip()
	if err != nil {
		return err
	}
	size := int64(len(f.payload))
	if c.credit -= size; c.credit < 0 {
		return faultFlow
	}
	c.owed += size
	if len(b) == 0 && !f.has(flagEndStream) {
		if err := c.noisy(); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owed >= connWindow/2 {
		c.out = appendWindow(c.out, 0, c.owed)
		c.credit, c.owed = c.credit+c.owed, 0
	}
	s := c.streams[f.stream]
	if s == nil {
		c.out = appendReset(c.out, f.stream, faultClosed)
		return c.strain()
	}
	s.credit -= size
	s.got += int64(len(b))
	switch {
	case s.ended:
		c.cut(s, faultClosed)
		return nil
	case s.credit < 0:
		c.cut(s, faultFlow)
		return nil
	case s.promised >= 0 && (s.got > s.promised || f.has(flagEndStream) && s.got != s.promised):
		c.cut(s, faultProtocol)
		return nil
	}
	s.grant(size - int64(len(b))) // padding
	if s.refused != 0 {
		s.grant(int64(len(b)))
	} else if s.method.stream != nil {
		s.pending = append(s.pending, b...)
		s.notify()
	} else if err := c.collect(s, b, f.has(flagEndStream)); err != nil {
		c.end(s, err)
		return nil
	}
	if f.has(flagEndStream) {
		c.close(s)
	}
	return nil
}

// collect needs mu. It puts a unary method's message together and starts the method when it is whole.
func (c *conn) collect(s *stream, b []byte, ends bool) error {
	taken := int64(len(b))
	if !s.started {
		_, done, err := s.in.feed(b)
		if err != nil {
			return err
		}
		if done {
			s.started, s.first = true, true
			s.ended = ends
			if c.alone() {
				c.own = s
			} else {
				c.server.start(s)
			}
			return nil
		}
	}
	if !ends {
		s.grant(taken)
	}
	return nil
}

// grant needs mu: it lets the peer send as much again as was taken, by and by.
func (s *stream) grant(taken int64) {
	if s.owed += taken; s.owed >= streamWindow/4 {
		s.conn.out = appendWindow(s.conn.out, s.id, s.owed)
		s.credit, s.owed = s.credit+s.owed, 0
	}
}

// close needs mu: the peer has nothing more to send on the call.
func (c *conn) close(s *stream) {
	s.ended = true
	switch {
	case s.refused != 0 && !s.started:
		s.started = true
		c.server.start(s)
	case s.refused != 0:
	case s.method.stream != nil:
		s.notify()
	case !s.started:
		c.end(s, errNoMessage)
	}
}

// notify needs mu.
func (s *stream) notify() {
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// wake needs mu: more may be sent.
func (s *stream) wake() {
	if s.room == nil {
		return
	}
	select {
	case s.room <- struct{}{}:
	default:
	}
}

// stop ends the call's context.
func (s *stream) stop() {
	if s.cancel != nil {
		s.cancel()
		return
	}
	s.life.Cancel()
}

// drop needs mu. It ends a call without a word to the peer; a method that runs is told by its context.
func (c *conn) drop(s *stream, why error) {
	if s.over != nil {
		return
	}
	s.over = why
	delete(c.streams, s.id)
	s.stop()
	s.wake()
	if !s.started {
		s.in.letGo()
		c.done()
	}
}

// end needs mu. It answers a call with a status, as far as nobody has, and forgets it.
func (c *conn) end(s *stream, err error) {
	if s.over != nil {
		return
	}
	st, more := convert(err)
	c.appendTrailer(s, st, more)
	if !s.ended {
		c.out = appendReset(c.out, s.id, faultNone) // nobody reads what the peer may still send
	}
	c.drop(s, errFinished)
}

var errFinished = errors.New("rpc: the call was answered")

// done needs mu: a call's place is free.
func (c *conn) done() {
	c.active--
	if c.draining && c.active == 0 {
		_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // wakes the reader, which ends the connection
	}
}

// expire ends calls whose first message has not come in time, and those that are over their own. It reports whether there are
// any.
func (c *conn) expire(now time.Time, limit time.Duration) (any bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		s.life.Look(now)
		if !s.first && now.Sub(s.opened) >= limit {
			c.end(s, status.Errorf(codes.Canceled, "the message did not come within the limit of %v", limit))
		}
	}
	c.write()
	return len(c.streams) > 0
}

// convert gives the status of an error: its own, or that of a context's end, or unknown; and the metadata that goes with it.
func convert(err error) (*status.Status, []string) {
	var f *failure
	if errors.As(err, &f) {
		return f.status, f.trailer
	}
	if st, ok := status.FromError(err); ok {
		return st, nil
	}
	return status.FromContextError(err), nil
}

// failure is a call's end with metadata of its own.
type failure struct {
	status  *status.Status
	trailer []string // names and values
}

// Failure makes the error of a call that ends with a status, and with names and values in its trailer. Names are in lower case.
func Failure(st *status.Status, pairs ...string) error { return &failure{st, pairs} }

// Error is the status's text.
func (f *failure) Error() string { return f.status.Err().Error() }

// GRPCStatus is how the status package finds it.
func (f *failure) GRPCStatus() *status.Status { return f.status }
