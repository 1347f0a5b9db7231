package hop

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/socket"
)

// Lanes are a link's sockets for one answer at a time, beside the one that all other answers share: who waits for the answer
// reads it there, and nobody has to be woken by somebody else who read it.
const Lanes = 4

// Ways are one side's sockets for answers: the shared one, then the lanes.
type Ways []*os.File

// NewWays makes the sockets for answers: the worker's ends, to be sent with SendRights, and the gateway's.
func NewWays() (theirs, ours Ways, err error) {
	for range 1 + Lanes {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("hop: socket for answers: %w", err), theirs.Close(), ours.Close())
		}
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
		theirs, ours = append(theirs, os.NewFile(uintptr(fds[0]), "hop")), append(ours, os.NewFile(uintptr(fds[1]), "hop"))
	}
	return theirs, ours, nil
}

// Close closes the files; what was made of them stays.
func (w Ways) Close() (err error) {
	for _, f := range w {
		err = errors.Join(err, f.Close())
	}
	return err
}

// Pair is one end of a link that has sockets of their own for answers. On one socket for both directions, whoever reads wakes
// the other end, to which it gave room to write: two wake-ups more for every request. See decision 039. As a net.Conn it is
// the requests' socket and that of the shared answers.
type Pair struct {
	requests *socket.Blocking
	answers  net.Conn           // what the gateway reads, in Go's poller
	Lanes    []net.Conn         // the same
	out      []*socket.Blocking // or what the worker writes: shared answers, then the lanes
}

var _ net.Conn = (*Pair)(nil)

// Caller makes the gateway's end: requests leave by conn, which belongs to the pair then, also when there is an error, and
// answers come by duplicates of ways.
func Caller(conn *net.UnixConn, ways Ways) (p *Pair, err error) {
	p = &Pair{}
	if p.requests, err = socket.TakeOut(conn); err != nil {
		return nil, err
	}
	for _, f := range ways {
		in, err := net.FileConn(f)
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		if in = socket.Poll(in); p.answers == nil {
			p.answers = in
		} else {
			p.Lanes = append(p.Lanes, in)
		}
	}
	return p, nil
}

// Worker makes the worker's end: requests come by conn, which belongs to the pair then, also when there is an error, and
// answers leave by duplicates of ways. A thread waits in the read of conn.
func Worker(conn *net.UnixConn, ways Ways) (p *Pair, err error) {
	p = &Pair{}
	if p.requests, err = socket.TakeOut(conn); err != nil {
		return nil, err
	}
	for _, f := range ways {
		c, err := net.FileConn(f)
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		out, err := socket.TakeOut(c.(*net.UnixConn))
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		p.out = append(p.out, out)
	}
	return p, nil
}

// Read reads requests, or shared answers.
func (p *Pair) Read(b []byte) (int, error) {
	if p.answers != nil {
		return p.answers.Read(b)
	}
	return p.requests.Read(b)
}

// Look has the worker's next read look for requests before it waits; see socket.Look. It is the reader's to call.
func (p *Pair) Look(most time.Duration) { p.requests.Look(most) }

// writes is where Write writes to.
func (p *Pair) writes() *socket.Blocking {
	if len(p.out) > 0 {
		return p.out[0]
	}
	return p.requests
}

// Write writes all of b, or until the write deadline.
func (p *Pair) Write(b []byte) (int, error) { return p.writes().Write(b) }

// Send writes what the system takes at once, and reports unix.EAGAIN when that is nothing.
func (p *Pair) Send(segs [][]byte) (int, error) { return p.writes().Send(segs) }

// Writers makes the writers of the worker's lanes.
func (p *Pair) Writers(fail func(error)) (all []*Writer) {
	for i := range p.out[1:] {
		all = append(all, NewWriter(&Pair{requests: p.requests, out: p.out[1+i : 2+i]}, fail))
	}
	return all
}

// Close ends all directions, and whoever waits in them.
func (p *Pair) Close() error {
	err := p.requests.Close()
	if p.answers != nil {
		err = errors.Join(err, p.answers.Close())
	}
	for _, c := range p.Lanes {
		err = errors.Join(err, c.Close())
	}
	for _, c := range p.out {
		err = errors.Join(err, c.Close())
	}
	return err
}

// SetReadDeadline works on the gateway's end; the worker's reads last until Close.
func (p *Pair) SetReadDeadline(t time.Time) error {
	if p.answers == nil {
		return os.ErrNoDeadline
	}
	return p.answers.SetReadDeadline(t)
}

// SetWriteDeadline bounds writes that begin after it.
func (p *Pair) SetWriteDeadline(t time.Time) error { return p.writes().SetWriteDeadline(t) }

// SetDeadline sets both.
func (p *Pair) SetDeadline(t time.Time) error {
	return errors.Join(p.SetReadDeadline(t), p.SetWriteDeadline(t))
}

// LocalAddr has nothing to tell: the sockets have no names.
func (p *Pair) LocalAddr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// RemoteAddr has nothing to tell either.
func (p *Pair) RemoteAddr() net.Addr { return &net.UnixAddr{Net: "unix"} }
