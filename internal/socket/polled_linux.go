package socket

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// polled is a socket that waits in Go's poller. It may have one reader and one writer at a time.
type polled struct {
	net.Conn
	raw     syscall.RawConn
	in, out half
}

// half is one direction's call.
type half struct {
	try   func(fd uintptr) bool // made once: a closure per call would allocate
	b     []byte
	n     int
	errno syscall.Errno
	look  look
}

// Poll gives a connection whose reads and writes of little are not announced to Go's scheduler: they cannot wait, since
// waiting is the poller's. It may have one reader and one writer at a time. What is no socket itself, such as TLS, is
// returned as it is.
func Poll(conn net.Conn) net.Conn {
	if raced {
		return conn
	}
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return conn
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return conn
	}
	p := &polled{Conn: conn, raw: raw}
	p.in.try = func(fd uintptr) bool { return p.in.call(unix.SYS_RECVFROM, fd, unix.MSG_DONTWAIT) }
	p.out.try = func(fd uintptr) bool { return p.out.call(unix.SYS_SENDTO, fd, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) }
	return p
}

// call receives or sends; false says that it would have to wait.
func (h *half) call(trap, fd, flags uintptr) (done bool) {
	var begun time.Time
	for {
		n, _, errno := unix.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(&h.b[0])), uintptr(len(h.b)), flags, 0, 0)
		if errno == unix.EINTR || errno == unix.EAGAIN && h.look.again(&begun) {
			continue
		}
		if h.n, h.errno = int(n), errno; errno == 0 {
			h.look.found()
		}
		return errno != unix.EAGAIN
	}
}

// Read reads what is there, or waits.
func (p *polled) Read(b []byte) (int, error) {
	if len(b) == 0 || len(b) > rawMax {
		return p.Conn.Read(b)
	}
	p.in.b = b
	err := p.raw.Read(p.in.try)
	p.in.b = nil
	switch {
	case err != nil:
		return 0, err
	case p.in.errno != 0:
		return 0, os.NewSyscallError("recvfrom", p.in.errno)
	case p.in.n == 0:
		return 0, io.EOF
	}
	return p.in.n, nil
}

// Write writes all of b.
func (p *polled) Write(b []byte) (written int, err error) {
	if len(b) > rawMax {
		return p.Conn.Write(b)
	}
	for written < len(b) {
		p.out.b = b[written:]
		err := p.raw.Write(p.out.try)
		p.out.b = nil
		if err == nil && p.out.errno != 0 {
			err = os.NewSyscallError("sendto", p.out.errno)
		}
		if err != nil {
			return written, err
		}
		written += p.out.n
	}
	return written, nil
}
