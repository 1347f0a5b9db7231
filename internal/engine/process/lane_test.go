package process_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/process"
	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/hop"
	"github.com/penstock/penstock/internal/worker"
)

// naps answers with its own inputs, after as many microseconds as the first four bytes say, or when ctx ends.
type naps struct{ *mirror }

func (n naps) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	nap := time.NewTimer(time.Duration(binary.LittleEndian.Uint32(req.Inputs[0].Data)) * time.Microsecond)
	defer nap.Stop()
	select {
	case <-nap.C:
		return engine.NewAnswer(req.Inputs, nil), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func nap(d time.Duration, tail []byte) []tensor.Tensor {
	return []tensor.Tensor{raw("x", append(binary.LittleEndian.AppendUint32(nil, uint32(d.Microseconds())), tail...))}
}

// awaitIdle waits until all lanes are back.
func awaitIdle(t *testing.T, e *process.Engine) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); ; {
		idle, all := process.Lanes(e)
		if all != hop.Lanes {
			t.Fatalf("%d lanes", all)
		}
		if idle == all {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%d of %d lanes are back", idle, all)
		}
		<-time.After(time.Millisecond)
	}
}

// TestCallerLeavesLane: who waits in a lane for long is told that its time is over all the same, and the lane comes back when
// the answer does.
func TestCallerLeavesLane(t *testing.T) {
	address, _ := serve(t, naps{newMirror()}, worker.Config{})
	e := dial(t, address, process.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer time.AfterFunc(20*time.Millisecond, cancel).Stop()
	_, err := e.Infer(ctx, engine.Request{Instance: "a", Inputs: nap(10*time.Second, nil)}) // alone, so in a lane
	if !api.Is(err, api.CodeCanceled) {
		t.Fatalf("got %v", err)
	}
	awaitIdle(t, e) // the run was told to end
	short, stop := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer stop()
	if _, err := e.Infer(short, engine.Request{Instance: "a", Inputs: nap(10*time.Second, nil)}); !api.Is(err, api.CodeDeadline) {
		t.Fatalf("got %v", err)
	}
	awaitIdle(t, e)
	if a, err := e.Infer(t.Context(), engine.Request{Instance: "a", Inputs: nap(100*time.Millisecond, []byte("late"))}); err != nil || !bytes.HasSuffix(a.Outputs[0].Data, []byte("late")) {
		t.Fatalf("an answer after the caller was sent away from its lane: %v", err)
	}
	awaitIdle(t, e)
}

// TestLaneWalk has callers ask for runs of all lengths, alone and together, and give some of them up. Every answer is its
// caller's own, and at the end all lanes are back.
func TestLaneWalk(t *testing.T) {
	for _, c := range []struct{ connections, callers, pauses int }{{1, 6, 20}, {2, 6, 20}, {2, 2, 4}} {
		t.Run(fmt.Sprintf("%d callers by %d", c.callers, c.connections), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			address, _ := serve(t, naps{newMirror()}, worker.Config{Concurrency: 8})
			e := dial(t, address, process.Config{Connections: c.connections})
			var callers sync.WaitGroup
			for i := range c.callers {
				random := rand.New(rand.NewPCG(seed, uint64(i)))
				callers.Go(func() {
					for n := range 150 {
						laneRound(t, e, random, fmt.Appendf(nil, "%d/%d", i, n))
						if i > 0 && random.IntN(c.pauses) == 0 {
							<-time.After(time.Duration(random.IntN(30)) * time.Millisecond) // others are alone meanwhile
						}
					}
				})
			}
			callers.Wait()
			awaitIdle(t, e)
			if err := e.Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// laneRound is one request of the walk.
func laneRound(t *testing.T, e *process.Engine, random *rand.Rand, own []byte) {
	length := time.Duration(random.IntN(1000)) * time.Microsecond
	if random.IntN(12) == 0 {
		length = time.Duration(random.IntN(60)) * time.Millisecond
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	switch random.IntN(4) {
	case 0:
		defer time.AfterFunc(time.Duration(random.IntN(int(length)+int(time.Millisecond))), cancel).Stop()
	case 1:
		short, stop := context.WithTimeout(ctx, time.Duration(1+random.IntN(100))*time.Millisecond)
		defer stop()
		ctx = short
	}
	a, err := e.Infer(ctx, engine.Request{Instance: "a", Inputs: nap(length, own), Expect: length})
	defer a.Release()
	if err == nil && !bytes.Equal(a.Outputs[0].Data[4:], own) {
		t.Errorf("%s got %q", own, a.Outputs[0].Data[4:])
	}
	if err != nil && ctx.Err() == nil && !api.Is(err, api.CodeDeadline) { // the worker's clock may be a little ahead
		t.Errorf("%s: %v", own, err)
	}
}

// puppet is a worker that does only what the test does for it.
type puppet struct {
	address string
	asked   [2]chan *hop.Message // what came by each connection, behind hello
	shared  *hop.Writer          // the first connection's ways for answers, set when something was asked
	lanes   []*hop.Writer
}

func newPuppet(t *testing.T) *puppet {
	p := &puppet{address: filepath.Join(t.TempDir(), "w.sock")}
	listener, err := net.Listen("unix", p.address)
	if err != nil {
		t.Fatal(err)
	}
	var reads sync.WaitGroup
	t.Cleanup(func() { listener.Close(); reads.Wait() })
	for i := range p.asked {
		p.asked[i] = make(chan *hop.Message, 64)
	}
	reads.Go(func() {
		for _, asked := range p.asked {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			reads.Go(func() { p.read(conn.(*net.UnixConn), asked) })
		}
	})
	return p
}

func (p *puppet) read(conn *net.UnixConn, asked chan<- *hop.Message) {
	defer conn.Close()
	rights := hop.NewRights(conn)
	reader := hop.NewReader(rights, new(hop.Pool), hop.Limits{})
	hello, err := reader.Next()
	if err != nil {
		return
	}
	ways := hop.Ways(rights.Take())
	defer func() { _ = ways.Close() }()
	reply := hop.Message{Kind: hop.KindHello.Result(), Split: ways != nil}
	reply.Answers(hello)
	if err := say(hop.NewWriter(conn, nil), &reply); err != nil {
		return
	}
	if ways != nil {
		pair, err := hop.Worker(conn, ways)
		if err != nil {
			return
		}
		defer pair.Close()
		p.shared, p.lanes = hop.NewWriter(pair, nil), pair.Writers(nil)
		reader = hop.NewReader(pair, new(hop.Pool), hop.Limits{})
	}
	for {
		m, err := reader.Next()
		if err != nil {
			return
		}
		asked <- m
	}
}

func say(w *hop.Writer, m *hop.Message) error {
	f := w.Frame()
	if err := f.Encode(m, hop.Limits{}); err != nil {
		return err
	}
	return w.Send(context.Background(), f, false)
}

// answer answers a request, where it wants the answer.
func (p *puppet) answer(t *testing.T, m *hop.Message) {
	t.Helper()
	p.reply(t, m, hop.Message{})
}

// reply is an answer that says something.
func (p *puppet) reply(t *testing.T, m *hop.Message, reply hop.Message) {
	t.Helper()
	w := p.shared
	if m.Lane > 0 {
		w = p.lanes[m.Lane-1]
	}
	reply.Kind = m.Kind.Result()
	reply.Answers(m)
	if err := say(w, &reply); err != nil {
		t.Fatal(err)
	}
	m.Release()
}

// next is what comes next by a connection.
func (p *puppet) next(t *testing.T, by int, kind hop.Kind) *hop.Message {
	t.Helper()
	select {
	case m := <-p.asked[by]:
		if m.Kind != kind {
			t.Fatalf("asked %+v by connection %d, want kind %d", m, by, kind)
		}
		return m
	case <-time.After(10 * time.Second):
		t.Fatalf("nothing is asked by connection %d, want kind %d", by, kind)
		return nil
	}
}

// TestWrongLane: an answer that comes by another way than was asked for ends the engine like every other that cannot be trusted.
func TestWrongLane(t *testing.T) {
	for _, by := range []string{"the shared socket", "another lane"} {
		t.Run(by, func(t *testing.T) {
			p := newPuppet(t)
			e := dial(t, p.address, process.Config{})
			var callers sync.WaitGroup
			ask := func() *hop.Message {
				callers.Go(func() {
					_, err := e.Infer(t.Context(), engine.Request{Instance: "a", Expect: process.LaneFrom})
					if !api.Is(err, api.CodeWorkerLost) {
						t.Errorf("got %v", err)
					}
				})
				return p.next(t, 0, hop.KindInfer)
			}
			first := ask()
			to := p.shared
			if by == "another lane" { // whose caller reads what is not its own
				to = p.lanes[ask().Lane-1]
			}
			reply := hop.Message{Kind: hop.KindInfer.Result()}
			reply.Answers(first)
			if err := say(to, &reply); err != nil {
				t.Fatal(err)
			}
			callers.Wait()
			if !errors.Is(e.Err(), hop.ErrOrder) && !errors.Is(e.Err(), hop.ErrUnknownID) {
				t.Errorf("the engine ended with %v", e.Err())
			}
		})
	}
}
