package hop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The writer's limits.
const (
	// WriteStall is the longest that one flush may take before the other end counts as gone.
	WriteStall = 10 * time.Second
	// cancelGrace is how long a caller that gave up waits for the system to finish reading its tensors; the connection
	// is ended when it takes longer, because the memory may not be handed back before.
	cancelGrace = time.Second
	// maxBatch is the most frames that one flush joins into one system call.
	maxBatch = 64
	// maxQueue is the most frames that wait for a socket; with so many the other end counts as gone.
	maxQueue = 1 << 16
	// maxSegments is the most that the system takes in one call.
	maxSegments = 1024
	// keepHead is the largest head that is kept for another frame.
	keepHead = 64 << 10
)

// Writer sends frames on one connection. It may be used from many goroutines. Whoever finds the connection idle tries
// to write at once, without blocking: the usual frame leaves in one system call on the caller's own goroutine. What the
// socket does not take, and what others sent meanwhile, is flushed together by one goroutine that ends when nothing is
// left.
type Writer struct {
	conn   net.Conn
	raw    syscall.RawConn
	fail   func(error)
	frames sync.Pool

	mu     sync.Mutex // guards the fields below and Frame.waiting, Frame.queued
	busy   bool       // somebody writes
	queue  []*Frame
	err    error
	segs   [][]byte // the immediate attempt's segments; owned by who set busy
	sent   int      // the immediate attempt's result
	sysErr error
	try    func(fd uintptr) bool // made once: a closure per frame would allocate
	idle   chan struct{}         // closed when nothing is left to write; nil while nobody asked
}

// NewWriter makes a writer. fail is told once when the connection could not be written, and closes it; the writer itself
// does so only to get a caller's memory back.
func NewWriter(conn net.Conn, fail func(error)) *Writer {
	w := &Writer{conn: conn, fail: fail}
	if s, ok := conn.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			w.raw = raw
		}
	}
	w.try = func(fd uintptr) bool {
		if len(w.segs) == 1 {
			w.sent, w.sysErr = unix.Write(int(fd), w.segs[0])
		} else {
			w.sent, w.sysErr = unix.Writev(int(fd), w.segs[:min(len(w.segs), maxSegments)])
		}
		return true // done whatever came: the rest waits in flush
	}
	return w
}

// Frame takes an empty frame; Send, Post or Drop gives it back.
func (w *Writer) Frame() *Frame {
	if f, ok := w.frames.Get().(*Frame); ok {
		return f
	}
	return &Frame{written: make(chan error, 1)}
}

// Drop gives a frame back that was not sent.
func (w *Writer) Drop(f *Frame) {
	clear(f.parts)
	f.parts, f.waiting, f.queued = f.parts[:0], false, false
	if cap(f.head) <= keepHead {
		w.frames.Put(f)
	}
}

// Send writes a frame or queues it. When it returns, the memory under the message's tensors is not read any more. An
// error means that the frame was not sent whole: ctx's error when it never left, else the connection is broken.
func (w *Writer) Send(ctx context.Context, f *Frame) error {
	wait := len(f.parts) > 0
	w.mu.Lock()
	if w.err != nil {
		err := w.err
		w.mu.Unlock()
		w.Drop(f)
		return err
	}
	f.waiting = wait
	if w.busy {
		full := !w.enqueue(f)
		w.mu.Unlock()
		if full {
			w.Drop(f)
			return w.overrun()
		}
	} else {
		w.busy = true
		w.mu.Unlock()
		w.writeNow(f)
	}
	if !wait {
		return nil // what was not written yet lies in the frame's own memory
	}
	return w.await(ctx, f)
}

// Post queues a frame without tensors and never blocks, not even on a socket that is full.
func (w *Writer) Post(f *Frame) {
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		w.Drop(f)
		return
	}
	full := !w.enqueue(f)
	start := !w.busy
	w.busy = true
	w.mu.Unlock()
	switch {
	case full:
		w.Drop(f)
		_ = w.overrun()
	case start:
		go w.flush(nil)
	}
}

// enqueue needs mu; it reports whether there was room.
func (w *Writer) enqueue(f *Frame) bool {
	if len(w.queue) >= maxQueue {
		return false
	}
	f.queued = true
	w.queue = append(w.queue, f)
	return true
}

// overrun ends a connection whose other end asks without reading the answers.
func (w *Writer) overrun() error {
	err := fmt.Errorf("%w: %d frames wait for it", ErrStalled, maxQueue)
	w.Abort(err)
	if w.fail != nil {
		w.fail(err)
	}
	return err
}

// Idle gives a channel that is closed when all frames that were queued so far have left, or the connection is broken.
// Who ends a connection waits for it, bounded, so that the last answers are not cut off.
func (w *Writer) Idle() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.idle == nil {
		w.idle = make(chan struct{})
	}
	idle := w.idle
	if !w.busy || w.err != nil {
		w.rest()
	}
	return idle
}

// rest needs mu: nothing is left to write.
func (w *Writer) rest() {
	if w.idle != nil {
		close(w.idle)
		w.idle = nil
	}
}

// Abort makes every frame, queued or to come, fail with err. The caller closes the connection.
func (w *Writer) Abort(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.abort(err)
}

// abort needs mu.
func (w *Writer) abort(err error) {
	if w.err == nil {
		w.err = err
	}
	for _, f := range w.queue {
		w.settle(f, w.err)
	}
	clear(w.queue)
	w.queue = w.queue[:0]
	w.rest()
}

// settle needs mu. It hands the outcome to who waits, or else gives the frame back.
func (w *Writer) settle(f *Frame, err error) {
	f.queued = false
	if f.waiting {
		f.written <- err
		return
	}
	w.Drop(f)
}

// writeNow needs busy. It attempts one write that cannot block and leaves the rest to flush.
func (w *Writer) writeNow(f *Frame) {
	segs := append(w.segs[:0], f.head)
	segs = append(segs, f.parts...)
	w.segs, w.sent, w.sysErr = segs, 0, nil
	if w.raw != nil {
		if err := w.raw.Write(w.try); err != nil {
			w.sysErr = err
		}
	}
	sent := max(w.sent, 0)
	if w.sysErr != nil && !errors.Is(w.sysErr, unix.EAGAIN) && !errors.Is(w.sysErr, unix.EINTR) {
		w.broken([]*Frame{f}, fmt.Errorf("%w: %w", ErrClosed, w.sysErr))
		return
	}
	rest := skip(segs, sent)
	if len(rest) > 0 {
		begun := &partial{frame: f, rest: append(net.Buffers(nil), rest...)}
		clear(segs)
		go w.flush(begun)
		return
	}
	clear(segs)
	w.mu.Lock()
	w.settle(f, nil)
	more := len(w.queue) > 0
	w.busy = more
	if !more {
		w.rest()
	}
	w.mu.Unlock()
	if more {
		go w.flush(nil)
	}
}

// skip cuts n bytes off the front.
func skip(segs [][]byte, n int) [][]byte {
	for len(segs) > 0 && n >= len(segs[0]) {
		n -= len(segs[0])
		segs = segs[1:]
	}
	if len(segs) > 0 {
		segs[0] = segs[0][n:]
	}
	return segs
}

// partial is a frame whose beginning was written.
type partial struct {
	frame *Frame
	rest  net.Buffers
}

// flush owns busy. It writes begun, then whatever is queued, until nothing is left.
func (w *Writer) flush(begun *partial) {
	batch := make([]*Frame, 0, 8)
	var segs net.Buffers
	if begun != nil {
		batch, segs = append(batch, begun.frame), begun.rest
	}
	for {
		if len(batch) > 0 {
			err := w.conn.SetWriteDeadline(time.Now().Add(WriteStall))
			if err == nil {
				_, err = segs.WriteTo(w.conn)
			}
			if err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					err = fmt.Errorf("%w for %v", ErrStalled, WriteStall)
				}
				w.broken(batch, fmt.Errorf("%w: %w", ErrClosed, err))
				return
			}
		}
		w.mu.Lock()
		for _, f := range batch {
			w.settle(f, nil)
		}
		n := min(len(w.queue), maxBatch)
		if n == 0 {
			// A deadline that passes later would fail the next immediate attempt.
			_ = w.conn.SetWriteDeadline(time.Time{})
			w.busy = false
			w.rest()
			w.mu.Unlock()
			return
		}
		batch = append(batch[:0], w.queue[:n]...)
		w.queue = append(w.queue[:0], w.queue[n:]...)
		segs = segs[:0:0]
		for _, f := range batch {
			f.queued = false
			segs = append(append(segs, f.head), f.parts...)
		}
		w.mu.Unlock()
	}
}

// broken owns busy and keeps it: nothing is written after a fault.
func (w *Writer) broken(batch []*Frame, err error) {
	w.mu.Lock()
	first := w.err == nil
	w.abort(err)
	for _, f := range batch {
		w.settle(f, w.err)
	}
	w.mu.Unlock()
	if first && w.fail != nil {
		w.fail(err)
	}
}

// await waits until f's memory is free again.
func (w *Writer) await(ctx context.Context, f *Frame) error {
	select {
	case err := <-f.written:
		w.Drop(f)
		return err
	case <-ctx.Done():
	}
	w.mu.Lock()
	if f.queued { // nobody reads it yet: take it back
		for i, q := range w.queue {
			if q == f {
				w.queue = append(w.queue[:i], w.queue[i+1:]...)
				break
			}
		}
		w.mu.Unlock()
		w.Drop(f)
		return ctx.Err()
	}
	w.mu.Unlock()
	grace := time.NewTimer(cancelGrace)
	defer grace.Stop()
	select {
	case err := <-f.written:
		w.Drop(f)
		return err
	case <-grace.C:
	}
	// Ending the connection is the only way to make the system let go of the memory.
	_ = w.conn.Close()
	err := <-f.written
	w.Drop(f)
	return err
}
