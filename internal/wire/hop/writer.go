package hop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The writer's limits.
const (
	// WriteStall is the longest that one flush may take before the other end counts as gone.
	WriteStall = 10 * time.Second
	// maxBatch is the most frames that one flush joins into one system call.
	maxBatch = 64
	// drainRounds is the most calls that a sender makes for others before a goroutine of its own takes over.
	drainRounds = 4
	// maxQueue is the most frames that wait for a socket; with so many the other end counts as gone.
	maxQueue = 1 << 16
	// maxSegments is the most that the system takes in one call.
	maxSegments = 1024
	// keepHead is the largest head that is kept for another frame.
	keepHead = 64 << 10
)

// Writer sends frames on one connection. It may be used from many goroutines. Whoever finds the connection idle writes at
// once, without blocking: the usual frame leaves in one system call on the caller's own goroutine, and what others queued
// meanwhile leaves together in the next. What the socket does not take is flushed by a goroutine that ends when nothing
// is left.
type Writer struct {
	Stall time.Duration // in place of WriteStall; set before the first frame

	conn   net.Conn
	pair   *Pair           // the same, where it is one
	raw    syscall.RawConn // else
	fail   func(error)
	frames sync.Pool

	mu    sync.Mutex // guards the fields below and Frame.waiting, Frame.queued
	busy  bool       // somebody writes, or is about to
	queue []*Frame
	err   error
	idle  chan struct{} // closed when nothing is left to write; nil while nobody asked
	flows bool          // a flush is inside a write that may wait
	leave bool          // a caller whose frame is being written has given up

	// Owned by who set busy.
	batch  []*Frame
	segs   [][]byte              // of the batch
	sent   int                   // the immediate attempt's result
	sysErr error                 // the same
	try    func(fd uintptr) bool // made once: a closure per frame would allocate
}

// NewWriter makes a writer. fail is told once when the connection could not be written, and closes it.
func NewWriter(conn net.Conn, fail func(error)) *Writer {
	w := &Writer{Stall: WriteStall, conn: conn, fail: fail}
	if w.pair, _ = conn.(*Pair); w.pair != nil {
		return w
	}
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
// error means that the frame was not sent whole: ctx's error when it never left, else the connection is broken. crowd
// says that others are likely to send in this moment: they are let run first, so that the frames leave in one system
// call.
func (w *Writer) Send(ctx context.Context, f *Frame, crowd bool) error {
	wait := len(f.parts) > 0
	start, err := w.put(f, wait)
	if err != nil {
		return err
	}
	if start {
		if crowd {
			runtime.Gosched()
		}
		w.drain()
	}
	if !wait {
		return nil // what was not written yet lies in the frame's own memory
	}
	return w.await(ctx, f)
}

// Post queues a frame without tensors and never blocks, not even on a socket that is full.
func (w *Writer) Post(f *Frame) {
	if start, _ := w.put(f, false); start { // an error has been told to fail
		go w.flush(nil)
	}
}

// Hold queues a frame that leaves with the next Flush, or with what others send before it. A frame with tensors by
// reference does not wait: hold reports false, and it has to be sent.
func (w *Writer) Hold(f *Frame) (held bool) {
	if len(f.parts) > 0 {
		return false
	}
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		w.Drop(f)
		return true // like Send's frames that a broken connection takes with it
	}
	full := !w.enqueue(f)
	w.mu.Unlock()
	if full {
		w.Drop(f)
		_ = w.overrun()
	}
	return true
}

// Flush writes what is held, without blocking.
func (w *Writer) Flush() {
	w.mu.Lock()
	start := !w.busy && len(w.queue) > 0 && w.err == nil
	w.busy = w.busy || start
	w.mu.Unlock()
	if start {
		w.drain()
	}
}

// put queues a frame; start tells the caller to write, since nobody does. An error means that the frame was given back.
func (w *Writer) put(f *Frame, wait bool) (start bool, err error) {
	w.mu.Lock()
	if err = w.err; err != nil {
		w.mu.Unlock()
		w.Drop(f)
		return false, err
	}
	f.waiting = wait
	if !w.enqueue(f) {
		w.mu.Unlock()
		w.Drop(f)
		return false, w.overrun()
	}
	start = !w.busy
	w.busy = true
	w.mu.Unlock()
	return start, nil
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
	if !w.busy && len(w.queue) == 0 || w.err != nil {
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

// drain owns busy. It writes what is queued by attempts that cannot block, and leaves to flush what the socket does not
// take, or what keeps coming: the caller has its own work to do.
func (w *Writer) drain() {
	for range drainRounds {
		if !w.next() {
			return
		}
		w.sent, w.sysErr = 0, nil
		if w.pair != nil {
			w.sent, w.sysErr = w.pair.Send(w.segs)
		} else if w.raw != nil {
			if err := w.raw.Write(w.try); err != nil {
				w.sysErr = err
			}
		}
		if w.sysErr != nil && !errors.Is(w.sysErr, unix.EAGAIN) && !errors.Is(w.sysErr, unix.EINTR) {
			w.broken(fmt.Errorf("%w: %w", ErrClosed, w.sysErr))
			return
		}
		if rest := skip(w.segs, max(w.sent, 0)); len(rest) > 0 {
			begun := append(net.Buffers(nil), rest...)
			go w.flush(begun)
			return
		}
	}
	go w.flush(nil)
}

// next owns busy. It settles the batch that was written and takes the next; when there is none it gives busy back.
func (w *Writer) next() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.batch {
		w.settle(f, nil)
	}
	clear(w.batch)
	clear(w.segs)
	w.leave = false // it was settled
	n := min(len(w.queue), maxBatch)
	w.batch, w.segs = append(w.batch[:0], w.queue[:n]...), w.segs[:0]
	w.queue = slices.Delete(w.queue, 0, n)
	for _, f := range w.batch {
		f.queued = false
		w.segs = append(append(w.segs, f.head), f.parts...)
	}
	if n == 0 {
		w.busy = false
		w.rest()
	}
	return n > 0
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

// flush owns busy. It writes begun, the rest of the batch, then whatever is queued, until nothing is left.
func (w *Writer) flush(begun net.Buffers) {
	for segs := begun; ; {
		if err := w.write(segs); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = fmt.Errorf("%w for %v", ErrStalled, w.Stall)
			}
			w.broken(fmt.Errorf("%w: %w", ErrClosed, err))
			return
		}
		if !w.next() {
			return
		}
		segs = append(net.Buffers(nil), w.segs...)
	}
}

// write owns busy. It writes the rest of the batch, and may wait for the socket. When a caller gives up meanwhile, the rest
// goes on from a copy.
func (w *Writer) write(segs net.Buffers) error {
	if len(segs) == 0 {
		return nil
	}
	by := time.Now().Add(w.Stall)
	for {
		w.mu.Lock()
		if w.leave {
			segs = w.detach(segs)
		}
		w.flows = true
		err := w.conn.SetWriteDeadline(by)
		w.mu.Unlock()
		if err == nil {
			_, err = segs.WriteTo(w.conn)
		}
		w.mu.Lock()
		w.flows = false
		again := w.leave && errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(by)
		if err == nil {
			_ = w.conn.SetWriteDeadline(time.Time{}) // one that passes later would fail the next immediate attempt
		}
		w.mu.Unlock()
		if !again {
			return err
		}
	}
}

// detach needs mu, and owns busy. It copies what is left of the batch, so that nobody's memory is read any more.
func (w *Writer) detach(segs net.Buffers) net.Buffers {
	rest := bytes.Join(segs, nil)
	for _, f := range w.batch {
		w.settle(f, nil)
	}
	clear(w.batch)
	w.batch, w.leave = w.batch[:0], false
	return net.Buffers{rest}
}

// broken owns busy and keeps it: nothing is written after a fault.
func (w *Writer) broken(err error) {
	w.mu.Lock()
	first := w.err == nil
	w.abort(err)
	for _, f := range w.batch {
		w.settle(f, w.err)
	}
	w.batch = nil
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
	// A part of it has left, so the rest must; whoever writes copies that and lets the caller go.
	w.leave = true
	if w.flows {
		_ = w.conn.SetWriteDeadline(past) // fails on a closed connection, as the write does
	}
	w.mu.Unlock()
	err := <-f.written
	w.Drop(f)
	return err
}

// past is a deadline that ends a write at once.
var past = time.Unix(1, 0)
