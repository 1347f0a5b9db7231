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
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	address, _ := serve(t, naps{newMirror()}, worker.Config{Concurrency: 8})
	e := dial(t, address, process.Config{Connections: 1})
	var callers sync.WaitGroup
	for i := range 6 {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		callers.Go(func() {
			for n := range 150 {
				own := fmt.Appendf(nil, "%d/%d", i, n)
				length := time.Duration(random.IntN(400)) * time.Microsecond
				if random.IntN(12) == 0 {
					length = time.Duration(random.IntN(60)) * time.Millisecond
				}
				ctx, cancel := context.WithCancel(t.Context())
				switch random.IntN(4) {
				case 0:
					time.AfterFunc(time.Duration(random.IntN(int(length)+int(time.Millisecond))), cancel)
				case 1:
					ctx, cancel = context.WithTimeout(t.Context(), time.Duration(1+random.IntN(100))*time.Millisecond)
				}
				a, err := e.Infer(ctx, engine.Request{Instance: "a", Inputs: nap(length, own), Expect: length})
				if err == nil && !bytes.Equal(a.Outputs[0].Data[4:], own) {
					t.Errorf("%s got %q", own, a.Outputs[0].Data[4:])
				}
				if err != nil && ctx.Err() == nil && !api.Is(err, api.CodeDeadline) { // the worker's clock may be a little ahead
					t.Errorf("%s: %v", own, err)
				}
				a.Release()
				cancel()
				if random.IntN(20) == 0 {
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
}

// TestWrongLane: an answer that comes by another way than was asked for ends the engine like every other that cannot be trusted.
func TestWrongLane(t *testing.T) {
	for _, by := range []string{"the shared socket", "another lane"} {
		t.Run(by, func(t *testing.T) {
			address := filepath.Join(t.TempDir(), "w.sock")
			listener, err := net.Listen("unix", address)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				rights := hop.NewRights(conn.(*net.UnixConn))
				hello, err := hop.NewReader(rights, new(hop.Pool), hop.Limits{}).Next()
				if err != nil {
					return
				}
				write := func(w net.Conn, m *hop.Message) {
					f := hop.NewWriter(nil, nil).Frame()
					if err := f.Encode(m, hop.Limits{}); err == nil {
						_, _ = w.Write(f.Bytes())
					}
				}
				write(conn, &hop.Message{Kind: hop.KindHello.Result(), ID: hello.ID, Check: hello.Mark(), Split: true})
				ways := hop.Ways(rights.Take())
				pair, err := hop.Worker(conn.(*net.UnixConn), ways)
				if err != nil {
					return
				}
				defer pair.Close()
				in := hop.NewReader(pair, new(hop.Pool), hop.Limits{})
				first, err := in.Next()
				if err != nil {
					return
				}
				reply := hop.Message{Kind: hop.KindInfer.Result()}
				reply.Answers(first)
				to := net.Conn(pair)
				if by == "another lane" {
					second, err := in.Next()
					if err != nil {
						return
					}
					if to, err = net.FileConn(ways[second.Lane]); err != nil {
						return
					}
				}
				write(to, &reply)
				_ = ways.Close()
				<-t.Context().Done()
			}()
			e := dial(t, address, process.Config{Connections: 1})
			var late sync.WaitGroup
			if by == "another lane" { // whose caller reads what is not its own
				late.Go(func() { _, _ = e.Infer(t.Context(), engine.Request{Instance: "a", Expect: process.LaneFrom}) })
			}
			_, err = e.Infer(t.Context(), engine.Request{Instance: "a", Expect: process.LaneFrom})
			if !api.Is(err, api.CodeWorkerLost) || !errors.Is(e.Err(), hop.ErrOrder) && !errors.Is(e.Err(), hop.ErrUnknownID) {
				t.Errorf("got %v, and the engine ended with %v", err, e.Err())
			}
			late.Wait()
		})
	}
}
