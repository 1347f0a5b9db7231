package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxSegments is the most that the system takes in one call.
const maxSegments = 1024

// Blocking is a socket outside Go's poller. It is closed when nobody is inside a call any more; before that, Close has
// shut it down, which ends the calls.
type Blocking struct {
	fd      int
	uses    atomic.Int64 // twice the calls inside, and the owner's; odd: closed
	writeBy atomic.Int64 // Unix nanoseconds; 0 is none
	vector  []unix.Iovec // the one writer's
	look    look         // the one reader's
}

// TakeOut takes a connection out of Go's poller. Its reads block a thread from then on. The connection is of no use
// any more, also when there is an error.
func TakeOut(conn *net.UnixConn) (*Blocking, error) {
	file, err := conn.File() // a duplicate
	if err = errors.Join(err, conn.Close()); err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0) // Fd makes them block; the poller does not know this one
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return newBlocking(fd), nil
}

func newBlocking(fd int) *Blocking {
	s := &Blocking{fd: fd}
	s.uses.Store(2)
	return s
}

func (s *Blocking) enter() bool {
	for {
		n := s.uses.Load()
		if n&1 != 0 {
			return false
		}
		if s.uses.CompareAndSwap(n, n+2) {
			return true
		}
	}
}

func (s *Blocking) leave() {
	if s.uses.Add(-2) == 1 {
		_ = unix.Close(s.fd) // a socket's close has nothing to report
	}
}

// Close ends both directions and whoever waits.
func (s *Blocking) Close() error {
	if s.uses.Or(1)&1 != 0 {
		return nil
	}
	_ = unix.Shutdown(s.fd, unix.SHUT_RDWR) // not connected any more is what is wanted
	s.leave()
	return nil
}

// Read blocks its thread until something has come.
func (s *Blocking) Read(b []byte) (int, error) {
	if !s.enter() {
		return 0, net.ErrClosed
	}
	defer s.leave()
	if s.look.most > 0 && len(b) > 0 {
		if n := s.attempt(b); n > 0 {
			return n, nil
		}
	}
	for {
		n, err := syscall.Read(s.fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// attempt reads as long as it may look; 0 says to wait, which also tells what is wrong.
func (s *Blocking) attempt(b []byte) int {
	var begun time.Time
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == 0:
			s.look.found()
			return int(n)
		case errno == unix.EINTR || errno == unix.EAGAIN && s.look.again(&begun):
		default:
			return 0
		}
	}
}

// SetWriteDeadline bounds writes that begin after it.
func (s *Blocking) SetWriteDeadline(t time.Time) error {
	by := int64(0)
	if !t.IsZero() {
		by = t.UnixNano()
	}
	s.writeBy.Store(by)
	return nil
}

// Send writes what the system takes at once, and reports unix.EAGAIN for the rest.
func (s *Blocking) Send(segs [][]byte) (int, error) {
	if !s.enter() {
		return 0, net.ErrClosed
	}
	defer s.leave()
	segs = segs[:min(len(segs), maxSegments)]
	s.vector = s.vector[:0]
	for _, seg := range segs {
		if len(seg) > 0 {
			v := unix.Iovec{Base: &seg[0]}
			v.SetLen(len(seg))
			s.vector = append(s.vector, v)
		}
	}
	if len(s.vector) == 0 {
		return 0, nil
	}
	header := unix.Msghdr{Iov: &s.vector[0]}
	header.SetIovlen(len(s.vector))
	if raced {
		_, _ = syscall.Write(s.fd, nil) // nothing: for what it tells the detector
	}
	// Raw: it cannot wait, so Go's scheduler need not prepare for that; see sysmon in its proc.go.
	n, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&header)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	clear(s.vector)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Write writes all of b, waiting for room until the deadline.
func (s *Blocking) Write(b []byte) (written int, err error) {
	for {
		n, err := s.Send([][]byte{b[written:]})
		if written += n; written == len(b) {
			return written, nil
		}
		switch {
		case err == nil, errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if err := s.room(); err != nil {
				return written, err
			}
		default:
			return written, os.NewSyscallError("sendmsg", err)
		}
	}
}

// roomLook is the longest single wait for room: how late a deadline is seen that was set meanwhile.
const roomLook = 20 * time.Millisecond

// room waits until the socket takes more.
func (s *Blocking) room() error {
	if !s.enter() {
		return net.ErrClosed
	}
	defer s.leave()
	wait := roomLook
	if by := s.writeBy.Load(); by != 0 {
		if wait = min(wait, time.Until(time.Unix(0, by))); wait <= 0 {
			return os.ErrDeadlineExceeded
		}
	}
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
	if _, err := unix.Poll(fds, int(wait.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
		return os.NewSyscallError("poll", err)
	}
	return nil // the next write tells
}
