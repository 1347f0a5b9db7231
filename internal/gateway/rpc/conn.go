package rpc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/penstock/penstock/internal/socket"
)

// The limits of a connection that nobody needs to change.
const (
	readBuffer   = 32 << 10  // holds a whole frame
	connWindow   = 1 << 20   // what may be under way to this end on a connection
	streamWindow = 256 << 10 // the same on one call
	leadOn       = 20 * time.Millisecond
	outKept      = 64 << 10 // largest buffer for writing that is kept, and what may wait in it before reading stops
	lingering    = time.Second
	lingerBytes  = 2 * connWindow // read and thrown away while lingering
	noiseMax     = 2000           // frames that only cost, between two calls that were answered
	pingsMax     = 2              // pings that come too early, between two answers
)

// conn is one connection. One goroutine, its leader, reads frames; whoever has something to send writes it, or leaves it to
// who is writing already. The leader runs a unary call itself that comes alone, which spares waking another goroutine; when
// the call takes long, another leads on.
type conn struct {
	server *Server
	whole  net.Conn // closed at the end
	raw    net.Conn // read and written, below the watch
	below  net.Conn // the same, for writing several parts in one call

	// The reader's alone.
	in         *bufio.Reader
	decoder    *hpack.Decoder
	fields     []field // of the header being read
	fieldBytes int
	block      uint32 // stream of the header that goes on in CONTINUATION frames; 0: none
	blockEnds  bool   // that header's call has no message behind it
	last       uint32 // the newest stream that the peer opened
	credit     int64  // what the peer may send on the connection
	owed       int64  // what it sent, and was not allowed again
	noise      int    // see noiseMax
	pings      int
	pinged     time.Time // the last ping that came
	readBy     time.Time // the read deadline that is set
	partial    bool      // it is that of a frame that has begun
	asked      bool      // a ping of ours is not answered
	own        *stream   // the call that the leader is to run

	ran   atomic.Pointer[stream] // the call that the leader runs; taken away by who leads on
	watch *time.Timer            // takes over from a leader whose call takes long

	mu       sync.Mutex // guards what follows, and what says so in stream
	streams  map[uint32]*stream
	active   int   // calls whose message is arriving, or that run
	answered bool  // a call was, since the reader last looked
	spoke    bool  // the same of any answer's part
	window   int64 // what may be sent on the connection
	initial  int64 // and on a new call
	longest  int   // payload of a frame to the peer
	table    table
	out      []byte // frames to write
	spare    []byte // a buffer for the next ones
	writing  bool
	writeBy  time.Time
	turn     sync.Cond // somebody wrote
	err      error     // why the connection is over
	draining bool      // no new calls
}

func newConn(s *Server, whole net.Conn) *conn {
	c := &conn{server: s, whole: whole, raw: whole, credit: connWindow, streams: map[uint32]*stream{},
		window: windowBorn, initial: windowBorn, longest: frameMax}
	if watched, ok := whole.(interface{ Below() net.Conn }); ok {
		c.raw = watched.Below()
	}
	c.below = c.raw
	c.raw = socket.Poll(c.raw)
	c.turn.L = &c.mu
	c.watch = time.AfterFunc(time.Hour, c.takeOver)
	c.watch.Stop() // until there is something to watch
	c.in = bufio.NewReaderSize(c.raw, readBuffer)
	c.decoder = hpack.NewDecoder(tableExpected, c.emit)
	c.decoder.SetMaxStringLength(s.limits.HeaderBytes)
	return c
}

// serve leads until the connection is over, and ends its calls; or until another goroutine leads, and then reports false.
func (c *conn) serve(err error) (over bool) {
	for err == nil {
		if err = c.next(); c.own == nil {
			continue
		}
		own := c.own
		c.own = nil
		c.ran.Store(own)
		c.watch.Reset(leadOn)
		own.run()
		if !c.ran.CompareAndSwap(own, nil) {
			return false
		}
		c.watch.Stop()
	}
	c.part(err)
	c.watch.Stop()
	_ = c.whole.Close()
	return true
}

// part ends the connection's calls. What was said before reaches the peer, and so does why the connection ends.
func (c *conn) part(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	code, ours := errors.AsType[fault](err)
	if ours && c.err == nil {
		c.out = appendGoAway(c.out, c.last, code, reason(err))
	}
	if drained := errors.Is(err, errDrained); drained || ours {
		c.write()
		for c.writing && c.err == nil {
			c.turn.Wait()
		}
		if drained && c.err == nil {
			c.mu.Unlock()
			c.linger()
			c.mu.Lock()
		}
	}
	c.fail(err)
}

// linger gives the peer of a drained connection time to close it. Closing it here while frames of the peer's are on their way
// would reset it, and the peer would lose the ends of calls that it has not read yet (RFC 9112 section 9.6 has the same case).
func (c *conn) linger() {
	half, ok := c.below.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_ = c.raw.SetReadDeadline(time.Now().Add(lingering)) // fails on a closed connection, as the read will
	_, _ = io.CopyN(io.Discard, c.in, lingerBytes)       // it ends with the peer's end, the deadline or the limit: none is a fault
}

// takeOver lets another goroutine lead while the leader runs a call.
func (c *conn) takeOver() {
	if own := c.ran.Load(); own != nil && c.ran.CompareAndSwap(own, nil) {
		c.server.running.Go(func() { c.server.serve(c, nil) })
	}
}

// alone reports whether the leader may run the call that has come: nothing else waits for it.
func (c *conn) alone() bool { return c.active == 1 && !c.draining }

// reason is what the peer is told beside a code.
func reason(err error) string {
	var told *parting
	if errors.As(err, &told) {
		return told.text
	}
	return ""
}

// parting is a fault with words.
type parting struct {
	fault
	text string
}

// Unwrap gives the code.
func (p *parting) Unwrap() error { return p.fault }

// greet exchanges the first words.
func (c *conn) greet() error {
	limits := &c.server.limits
	c.mu.Lock()
	c.out = appendFrame(c.out, frameSettings, 0, 0, 4*6)
	c.out = appendSetting(c.out, settingStreams, uint32(limits.Streams))
	c.out = appendSetting(c.out, settingWindow, streamWindow)
	c.out = appendSetting(c.out, settingHeaderList, uint32(limits.HeaderBytes))
	c.out = appendSetting(c.out, settingFrame, frameMax)
	c.out = appendWindow(c.out, 0, connWindow-windowBorn)
	c.mu.Unlock()
	_ = c.raw.SetReadDeadline(time.Now().Add(limits.Handshake)) // fails on a closed connection, as the read will
	first, err := c.in.Peek(len(preface))
	if err != nil {
		return err
	}
	if string(first) != preface {
		return errNotHTTP2
	}
	_, err = c.in.Discard(len(preface))
	c.partial = true // the deadline is the preface's
	return err
}

var errNotHTTP2 = errors.New("rpc: the connection does not begin as HTTP/2 does")

// next reads one frame and does what it wants.
func (c *conn) next() error {
	start, err := c.peek(frameStart)
	if err != nil {
		return err
	}
	length := int(start[0])<<16 | int(start[1])<<8 | int(start[2])
	if length > frameMax {
		return faultFrameSize
	}
	b, err := c.peek(frameStart + length)
	if err != nil {
		return err
	}
	f := frame{kind: b[3], flags: b[4], stream: binary.BigEndian.Uint32(b[5:]) & windowMax, payload: b[frameStart:]}
	if err := c.take(&f); err != nil {
		return err
	}
	c.asked = false
	if _, err = c.in.Discard(frameStart + length); err == nil && c.own != nil && c.in.Buffered() > 0 {
		c.server.start(c.own)
		c.own = nil
	}
	return err
}

// peek waits for n bytes. Nobody waits with something left to write.
func (c *conn) peek(n int) ([]byte, error) {
	for c.in.Buffered() < n {
		if err := c.flush(); err != nil {
			return nil, err
		}
		c.await()
		_, err := c.in.Peek(n)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		if err := c.silent(); err != nil {
			return nil, err
		}
	}
	return c.in.Peek(n)
}

// flush writes what is queued before the reader waits. A peer that does not read its answers is not read either.
func (c *conn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write()
	for c.err == nil && c.writing && len(c.out) > outKept {
		c.turn.Wait()
	}
	if c.answered {
		c.answered, c.noise = false, 0
	}
	if c.spoke {
		c.spoke, c.pings, c.pinged = false, 0, time.Time{}
	}
	if c.draining && c.active == 0 {
		return errDrained
	}
	return c.err
}

var errDrained = errors.New("rpc: the server stops, and the connection has no calls")

// await sets the deadline of the next read: short behind a frame's beginning, else that of an idle connection.
func (c *conn) await() {
	limits := &c.server.limits
	if c.in.Buffered() > 0 {
		if !c.partial {
			c.partial = true
			c.readBy = time.Now().Add(limits.Handshake)
			_ = c.raw.SetReadDeadline(c.readBy)
		}
		return
	}
	if c.asked && !c.partial {
		return // the deadline is that of the answer to a ping
	}
	by := time.Now().Add(limits.Idle)
	if c.partial || by.Sub(c.readBy) > limits.Idle/4 {
		c.partial, c.readBy = false, by
		_ = c.raw.SetReadDeadline(by)
	}
}

// silent is called when nothing came in time. A connection without calls is ended; one with calls is asked once whether
// anybody is there.
func (c *conn) silent() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case c.draining && !c.partial:
		c.readBy = time.Time{} // the deadline was set to wake the reader
		return nil
	case c.partial:
		return &parting{faultProtocol, "a frame took too long"}
	case c.active == 0:
		return &parting{faultNone, "idle"}
	case c.asked:
		return &parting{faultNone, "no answer to a ping"}
	}
	c.asked = true
	c.out = append(appendFrame(c.out, framePing, 0, 0, 8), "penstock"...)
	c.readBy = time.Now().Add(c.server.limits.Handshake)
	_ = c.raw.SetReadDeadline(c.readBy)
	return nil
}

// take does what a frame wants.
func (c *conn) take(f *frame) error {
	if c.block != 0 && (f.kind != frameContinuation || f.stream != c.block) {
		return faultProtocol
	}
	switch f.kind {
	case frameData:
		return c.data(f)
	case frameHeaders:
		return c.headers(f)
	case frameContinuation:
		if c.block == 0 {
			return faultProtocol
		}
		return c.fragment(f, f.payload)
	case frameReset:
		return c.reset(f)
	case frameSettings:
		return c.settings(f)
	case framePing:
		return c.ping(f)
	case frameWindow:
		return c.widen(f)
	case framePush:
		return faultProtocol
	case frameGoAway:
		if f.stream != 0 {
			return faultProtocol
		}
	case framePriority:
		switch {
		case len(f.payload) != 5:
			return faultFrameSize
		case f.stream == 0 || binary.BigEndian.Uint32(f.payload)&windowMax == f.stream:
			return faultProtocol
		}
	}
	return nil // what is not known is passed over
}

// noisy counts a frame that only costs; a peer that sends nothing else is told to leave.
func (c *conn) noisy() error {
	if c.noise++; c.noise < noiseMax {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answered {
		c.answered, c.noise = false, 0
		return nil
	}
	return &parting{faultCalm, "too many frames that carry nothing"}
}

func (c *conn) headers(f *frame) error {
	if f.stream == 0 || f.stream%2 == 0 {
		return faultProtocol
	}
	b, err := f.strip()
	if err != nil {
		return err
	}
	c.block, c.blockEnds = f.stream, f.has(flagEndStream)
	c.fields, c.fieldBytes = c.fields[:0], 0
	return c.fragment(f, b)
}

// fragment reads a piece of a header. Only what is within the limit is kept of it.
func (c *conn) fragment(f *frame, b []byte) error {
	if len(b) == 0 {
		if err := c.noisy(); err != nil {
			return err
		}
	}
	if _, err := c.decoder.Write(b); err != nil {
		return faultCompression
	}
	if c.fieldBytes > 16*c.server.limits.HeaderBytes {
		return &parting{faultCalm, "a header without end"}
	}
	if !f.has(flagEndHeaders) {
		return nil
	}
	if err := c.decoder.Close(); err != nil {
		return faultCompression
	}
	id := c.block
	c.block = 0
	return c.open(id, c.blockEnds)
}

func (c *conn) reset(f *frame) error {
	if len(f.payload) != 4 {
		return faultFrameSize
	}
	if f.stream == 0 || f.stream > c.last {
		return faultProtocol
	}
	c.mu.Lock()
	if s := c.streams[f.stream]; s != nil {
		c.drop(s, errReset)
	}
	c.mu.Unlock()
	return c.noisy()
}

func (c *conn) settings(f *frame) error {
	if f.stream != 0 {
		return faultProtocol
	}
	if f.has(flagAck) {
		if len(f.payload) != 0 {
			return faultFrameSize
		}
		return nil
	}
	if len(f.payload)%6 != 0 {
		return faultFrameSize
	}
	c.mu.Lock()
	for b := f.payload; len(b) > 0; b = b[6:] {
		if err := c.set(binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])); err != nil {
			c.mu.Unlock()
			return err
		}
	}
	c.out = appendFrame(c.out, frameSettings, flagAck, 0, 0)
	full := len(c.out) > outKept
	c.mu.Unlock()
	return c.relieve(full)
}

// relieve counts a frame that made an answer necessary, and writes when many wait.
func (c *conn) relieve(full bool) error {
	if full {
		if err := c.flush(); err != nil {
			return err
		}
	}
	return c.noisy()
}

// set needs mu.
func (c *conn) set(id uint16, value uint32) error {
	switch id {
	case settingTable:
		c.table.shrink(value)
	case settingPush:
		if value > 1 {
			return faultProtocol
		}
	case settingWindow:
		if value > windowMax {
			return faultFlow
		}
		by := int64(value) - c.initial
		c.initial = int64(value)
		for _, s := range c.streams {
			if s.window += by; s.window > windowMax {
				return faultFlow
			}
			s.wake()
		}
	case settingFrame:
		if value < frameMax || value > 1<<24-1 {
			return faultProtocol
		}
		c.longest = int(min(value, 256<<10))
	}
	return nil
}

// ping answers. Who asks more often than every Handshake, without anything else going on, is sent away.
func (c *conn) ping(f *frame) error {
	if f.stream != 0 {
		return faultProtocol
	}
	if len(f.payload) != 8 {
		return faultFrameSize
	}
	if f.has(flagAck) {
		return nil
	}
	c.mu.Lock()
	if c.spoke {
		c.spoke, c.pings, c.pinged = false, 0, time.Time{}
	}
	c.out = append(appendFrame(c.out, framePing, flagAck, 0, 8), f.payload...)
	full := len(c.out) > outKept
	c.mu.Unlock()
	now := time.Now()
	if !c.pinged.IsZero() && now.Sub(c.pinged) < c.server.limits.Handshake {
		if c.pings++; c.pings > pingsMax {
			return &parting{faultCalm, "too_many_pings"}
		}
	}
	c.pinged = now
	return c.relieve(full)
}

// widen lets more be sent.
func (c *conn) widen(f *frame) error {
	if len(f.payload) != 4 {
		return faultFrameSize
	}
	by := int64(binary.BigEndian.Uint32(f.payload) & windowMax)
	if by == 0 {
		return faultProtocol
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.stream == 0 {
		if c.window += by; c.window > windowMax {
			return faultFlow
		}
		for _, s := range c.streams {
			s.wake()
		}
		return nil
	}
	if f.stream > c.last {
		return faultProtocol
	}
	s := c.streams[f.stream]
	if s == nil {
		return nil // it is over
	}
	if s.window += by; s.window > windowMax {
		c.cut(s, faultFlow)
		return nil
	}
	s.wake()
	return nil
}

// fail needs mu. It ends the connection's calls; the reader, or the closing, does the rest.
func (c *conn) fail(err error) {
	if c.err != nil {
		return
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = net.ErrClosed
	}
	c.err = err
	for _, s := range c.streams {
		c.drop(s, errLost)
	}
	c.turn.Broadcast()
	_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
}

// write needs mu, which it gives up while it writes. It sends what is queued, unless somebody does so already.
func (c *conn) write() {
	if c.writing || len(c.out) == 0 || c.err != nil {
		return
	}
	c.writing = true
	if c.active > 1 {
		// Others may be about to answer: what they have leaves with this.
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	for len(c.out) > 0 && c.err == nil {
		batch := c.out
		c.out, c.spare = c.spare[:0], nil
		c.put(net.Buffers{batch})
		if cap(batch) <= outKept {
			c.spare = batch[:0]
		}
	}
	c.writing = false
	c.turn.Broadcast()
}

// direct needs mu, which it gives up: it sends what is queued and then parts, which it only reads.
func (c *conn) direct(parts net.Buffers) {
	for c.writing && c.err == nil {
		c.turn.Wait()
	}
	if c.err != nil {
		return
	}
	c.writing = true
	batch := c.out
	c.out, c.spare = c.spare[:0], nil
	c.put(append(net.Buffers{batch}, parts...))
	if cap(batch) <= outKept {
		c.spare = batch[:0]
	}
	c.writing = false
	c.turn.Broadcast()
	c.write()
}

// put needs mu, which it gives up, and writing. A write that takes too long ends the connection.
func (c *conn) put(parts net.Buffers) {
	limit := c.server.limits.Write
	if by := time.Now().Add(limit); by.Sub(c.writeBy) > limit/4 {
		c.writeBy = by
		_ = c.raw.SetWriteDeadline(by)
	}
	c.mu.Unlock()
	var err error
	if len(parts) == 1 {
		_, err = c.raw.Write(parts[0])
	} else {
		_, err = parts.WriteTo(c.below)
	}
	c.mu.Lock()
	if err != nil {
		c.fail(err)
	}
	c.turn.Broadcast()
}
