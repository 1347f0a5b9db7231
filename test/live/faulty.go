package live

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Faulty is the name under which a worker goes wrong when it is told to: server.Config.Executable is then a link of that
// name, which FaultyWorker makes.
const Faulty = "faulty-worker"

// FaultyWorker makes the link.
func FaultyWorker(t testing.TB) string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), Faulty)
	if err := os.Symlink(program, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Fault is a way in which a worker's next answer goes wrong. It is told by a signal: a worker in its sandbox hears nothing
// else.
type Fault int

// The faults.
const (
	UnknownID Fault = iota // an id that nobody asked with
	OtherID                // the id of the request before, which may be in flight
	NextID                 // that of the one after
	Twice                  // the answer comes two times
	Truncated              // half of the frame, and then the connection ends
	Oversized              // the frame announces petabytes
	Garbage                // no frame at all
	Mute                   // nothing more is written, though requests are read
	Faults                 // how many there are
)

// firstFault is the signal of the first; the numbers below are the C library's.
const firstFault = 40

// Signal tells a worker of the fault.
func (f Fault) Signal() syscall.Signal { return syscall.Signal(firstFault + int(f)) }

func (f Fault) String() string {
	return [...]string{"unknown id", "another's id", "the next one's id", "twice", "truncated", "oversized", "garbage", "mute"}[f]
}

// listenFaulty is a worker's listener whose connections go wrong.
func listenFaulty(ctx context.Context, socket string) (net.Listener, error) {
	inner, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	l := &faultyListener{Listener: inner, told: make(chan os.Signal, 16)}
	for f := range Faults {
		signal.Notify(l.told, f.Signal())
	}
	return l, nil
}

type faultyListener struct {
	net.Listener
	told chan os.Signal
}

func (l *faultyListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &faultyConn{Conn: conn, told: l.told}, nil
}

// faultyConn hides that it is a unix socket, so that every frame passes through Write.
type faultyConn struct {
	net.Conn
	told chan os.Signal

	mu   sync.Mutex // one frame at a time
	mute bool
}

// A frame's head begins like this; see package hop.
const (
	headSize  = 32
	headMagic = 0x4850
)

func (c *faultyConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mute {
		return len(b), nil
	}
	if len(b) < headSize || binary.LittleEndian.Uint16(b) != headMagic {
		return c.Conn.Write(b) // a part of a frame that began before
	}
	select {
	case s := <-c.told:
		if s == Twice.Signal() && !whole(b) { // its payload follows: the head alone, twice, would be another fault, which nobody can notice
			select {
			case c.told <- s: // for the next frame
			default:
			}
			return c.Conn.Write(b)
		}
		return c.wrong(Fault(int(s.(syscall.Signal))-firstFault), b)
	default:
		return c.Conn.Write(b)
	}
}

// whole reports that a frame's head has everything that belongs to it.
func whole(b []byte) bool {
	return uint64(len(b)) == headSize+uint64(binary.LittleEndian.Uint32(b[4:]))+binary.LittleEndian.Uint64(b[8:])
}

func (c *faultyConn) wrong(f Fault, b []byte) (int, error) {
	bad := append([]byte(nil), b...)
	id := binary.LittleEndian.Uint64(bad[16:])
	switch f {
	case UnknownID:
		binary.LittleEndian.PutUint64(bad[16:], id+1<<40)
	case OtherID:
		binary.LittleEndian.PutUint64(bad[16:], id-1)
	case NextID:
		binary.LittleEndian.PutUint64(bad[16:], id+1)
	case Twice:
		if _, err := c.Conn.Write(b); err != nil {
			return 0, err
		}
	case Truncated:
		_, _ = c.Conn.Write(bad[:headSize/2+len(bad)/4])
		_ = c.Close()
		return 0, fmt.Errorf("truncated as told at %v: %w", time.Now(), net.ErrClosed)
	case Oversized:
		bad[13], bad[14] = 0xff, 0xff
	case Garbage:
		clear(bad)
	case Mute:
		c.mute = true
		return len(b), nil
	}
	_, err := c.Conn.Write(bad)
	return len(b), err
}
