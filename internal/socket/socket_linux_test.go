package socket_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair makes two ends of a connection.
func pair(t *testing.T, network string) (a, b net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if a, err = net.Dial(network, listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// copies sends random pieces one way and compares them at the other end.
func copies(t *testing.T, seed uint64, w io.Writer, closeWrite func() error, r io.Reader) {
	t.Helper()
	text := make([]byte, 3<<20)
	random := rand.New(rand.NewPCG(seed, 1))
	for i := range text {
		text[i] = byte(random.Uint32())
	}
	var writer sync.WaitGroup
	writer.Go(func() {
		for rest := text; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(1<<random.IntN(20)))
			if m, err := w.Write(rest[:n]); m != n || err != nil {
				t.Errorf("wrote %d of %d: %v", m, n, err)
				break
			}
			rest = rest[n:]
		}
		if err := closeWrite(); err != nil {
			t.Error(err)
		}
	})
	sizes := rand.New(rand.NewPCG(seed, 2))
	var got []byte
	for {
		b := make([]byte, 1+sizes.IntN(1<<sizes.IntN(18)))
		n, err := r.Read(b)
		got = append(got, b[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Error(err)
			break
		}
	}
	writer.Wait()
	if !bytes.Equal(got, text) {
		t.Errorf("%d bytes came of %d, or others", len(got), len(text))
	}
}

// looking reads, and looks before some of its reads.
type looking struct {
	io.Reader
	look   func(time.Duration)
	random *rand.Rand
}

func (l *looking) Read(b []byte) (int, error) {
	if l.random.IntN(2) == 0 {
		l.look(time.Duration(l.random.IntN(300)) * time.Microsecond)
	}
	return l.Reader.Read(b)
}

// TestLook: who looked in vain leaves the next looks out, more of them from time to time; on a single processor nobody looks.
func TestLook(t *testing.T) {
	var k socket.Looker
	rests := []int{1, 3, 7, 15, 15, 15}
	if !socket.Several {
		rests = nil
	}
	for range 2 {
		for round, rest := range rests {
			if !k.InVain(time.Millisecond) {
				t.Fatalf("round %d: it did not look", round)
			}
			for i := range rest {
				if k.InVain(time.Millisecond) {
					t.Fatalf("round %d: it looked again before %d were left out, by look %d", round, rest, i)
				}
			}
		}
		k.Found()
	}
	if k.InVain(time.Millisecond) != socket.Several || k.InVain(0) {
		t.Error("it did not look, or for no time, or on a single processor")
	}

	a, b := pair(t, "unix")
	r := socket.Poll(b)
	for i := range 100 { // in time, too late, or in vain
		socket.Look(r, 100*time.Microsecond)
		time.AfterFunc(time.Duration(2*i)*time.Microsecond, func() { _, _ = a.Write([]byte{byte(i)}) })
		got := make([]byte, 2)
		if n, err := r.Read(got); n != 1 || err != nil || got[0] != byte(i) {
			t.Fatalf("read %d: %d bytes, %v, %v", i, n, got, err)
		}
	}
	socket.Look(r, time.Minute)
	time.AfterFunc(10*time.Millisecond, func() { a.Close() })
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the peer's end while it looks: %v", err)
	}
	socket.Look(a, time.Second) // no polled one: nothing happens
}

// TestBytes sends random pieces through every kind of end.
func TestBytes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, network := range []string{"tcp", "unix"} {
		a, b := pair(t, network)
		polled := socket.Poll(a)
		if polled == a {
			t.Logf("%s: not polled, beside the race detector", network)
		}
		r := socket.Poll(b)
		copies(t, seed, polled, a.(interface{ CloseWrite() error }).CloseWrite, &looking{r, func(d time.Duration) { socket.Look(r, d) }, rand.New(rand.NewPCG(seed, 3))})
	}
	a, b := pair(t, "unix")
	out, err := socket.TakeOut(a.(*net.UnixConn))
	if err != nil {
		t.Fatal(err)
	}
	in, err := socket.TakeOut(b.(*net.UnixConn))
	if err != nil {
		t.Fatal(err)
	}
	copies(t, seed, out, out.Close, &looking{in, in.Look, rand.New(rand.NewPCG(seed, 3))})
	if err := in.Close(); err != nil {
		t.Error(err)
	}
}

// TestPolledEnds looks at deadlines, hang-ups and closing.
func TestPolledEnds(t *testing.T) {
	a, b := pair(t, "tcp")
	p := socket.Poll(a)
	if err := p.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after its deadline: %v", err)
	}
	if err := p.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := p.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for err := error(nil); ; {
		if _, err = p.Write(make([]byte, 60<<10)); err != nil { // until nothing more fits
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("write to who does not read: %v", err)
			}
			break
		}
	}
	time.AfterFunc(10*time.Millisecond, func() { p.Close() })
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read while it is closed: %v", err)
	}
	q := socket.Poll(b)
	if _, err := q.Read(nil); err != nil {
		t.Errorf("read of nothing: %v", err)
	}
}

// TestBlockingEnds closes sockets under those who read and write, and stalls a writer.
func TestBlockingEnds(t *testing.T) {
	take := func(c net.Conn) *socket.Blocking {
		t.Helper()
		s, err := socket.TakeOut(c.(*net.UnixConn))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b := pair(t, "unix")
	s, other := take(a), take(b)
	time.AfterFunc(10*time.Millisecond, func() { s.Close() })
	if n, err := s.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read while it is closed: %d %v", n, err)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after it was closed: %v", err)
	}
	if _, err := s.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after it was closed: %v", err)
	}
	if n, err := other.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read of a closed peer: %d %v", n, err)
	}
	if _, err := other.Write([]byte("x")); err == nil {
		t.Error("write to a closed peer")
	}
	if err := errors.Join(other.Close(), other.Close()); err != nil {
		t.Error(err)
	}

	a, b = pair(t, "unix")
	s, other = take(a), take(b)
	if err := s.SetWriteDeadline(time.Now().Add(30 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Write(make([]byte, 8<<20)); n == 0 || n == 8<<20 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write to who does not read: %d %v", n, err)
	}
	if err := s.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, func() { s.Close() })
	if _, err := s.Write(make([]byte, 8<<20)); err == nil {
		t.Error("write while it is closed")
	}
	other.Close()
}

// TestPeer: the other end is gone when it sends nothing any more, read or not, and not before.
func TestPeer(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		a, b := pair(t, network)
		p := socket.PeerOf(a)
		if p.Gone() {
			t.Errorf("%s: gone from the beginning", network)
		}
		if _, err := b.Write([]byte("unread")); err != nil {
			t.Fatal(err)
		}
		if p.Gone() {
			t.Errorf("%s: gone while it sends", network)
		}
		if err := b.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		for until := time.Now().Add(5 * time.Second); !p.Gone(); <-time.After(time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("%s: there after its end", network)
			}
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if !p.Gone() {
			t.Errorf("%s: there after this end was closed", network)
		}
	}
	if in, _ := net.Pipe(); socket.PeerOf(in).Gone() {
		t.Error("what is no socket is gone")
	}
}
