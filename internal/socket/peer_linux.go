package socket

import (
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Peer is the other end of a connection.
type Peer struct {
	raw  syscall.RawConn
	look func(fd uintptr) // made once: a closure per look would allocate
	gone bool
}

// PeerOf gives the other end of a socket, also below TLS; nil where there is no socket.
func PeerOf(conn net.Conn) *Peer {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = over.NetConn()
	}
	s, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	p := &Peer{raw: raw}
	p.look = func(fd uintptr) {
		fds := unix.PollFd{Fd: int32(fd), Events: unix.POLLRDHUP}
		var now unix.Timespec // not at all
		n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
		p.gone = errno == 0 && n > 0
	}
	return p
}

// Gone reports that the other end sends nothing any more, whatever it sent before that was not read yet; also when this end
// is closed. It does not wait, and is for one goroutine at a time.
func (p *Peer) Gone() bool {
	if p == nil {
		return false
	}
	return p.raw.Control(p.look) != nil || p.gone
}
