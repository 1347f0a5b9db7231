package process_test

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/arena"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/process"
	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/worker"
)

// workerSocket makes the test's program a worker whose requests never end.
const workerSocket = "PENSTOCK_TEST_WORKER"

func TestMain(m *testing.M) {
	if address := os.Getenv(workerSocket); address != "" {
		listener, err := net.Listen("unix", address)
		if err != nil {
			panic(err)
		}
		eng := newMirror()
		eng.entered = nil // nobody listens
		panic(worker.Serve(context.Background(), listener, &stubborn{mirror: eng, gate: make(chan struct{})},
			worker.Config{Token: token, Log: slog.New(slog.DiscardHandler)}))
	}
	goleak.VerifyTestMain(m)
}

// stubborn goes on with a request when its context has ended, like an operator that cannot be interrupted, and then tells
// whether the input was the same from end to end all the time.
type stubborn struct {
	*mirror
	gate   chan struct{}
	intact chan bool
}

func (s *stubborn) Infer(_ context.Context, req engine.Request) (*engine.Answer, error) {
	data := req.Inputs[0].Data
	mark := data[0]
	if s.entered != nil {
		s.entered <- req.Instance
	}
	<-s.gate
	s.intact <- len(bytes.Trim(data, string(rune(mark)))) == 0
	return engine.NewAnswer(nil, nil), nil
}

func lend(t testing.TB, size int64) *arena.Arena {
	t.Helper()
	memory, err := arena.New(arena.Config{Bytes: size})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if use := memory.Use(); use.Bytes != 0 {
			t.Errorf("%d bytes of shared memory are still held", use.Bytes)
		}
		if err := memory.Close(); err != nil {
			t.Error(err)
		}
	})
	return memory
}

// marked takes a block and fills it.
func marked(memory *arena.Arena, n int, mark byte) []byte {
	b := memory.Take(n)
	for i := range b {
		b[i] = mark
	}
	return b
}

// await waits until a block of the size can be had again.
func await(t *testing.T, memory *arena.Arena, n int) {
	t.Helper()
	for {
		if b := memory.Take(n); b != nil {
			memory.Give(b)
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("the block never came back")
		}
	}
}

func TestSharedTensors(t *testing.T) {
	memory := lend(t, 64*arena.Slot)
	address, _ := serve(t, newMirror(), worker.Config{})
	e := dial(t, address, process.Config{Memory: memory})
	block := memory.Take(40 * arena.Slot)
	defer memory.Give(block)
	copy(block, bytesOf(len(block), 7))
	text := tensor.AppendBytes(nil, bytesOf(100_000, 1))
	floats := func(name string, data []byte) tensor.Tensor {
		return tensor.Tensor{Name: name, Type: tensor.FP32, Shape: []int64{int64(len(data) / 4)}, Data: data}
	}
	words := block[30*arena.Slot:][:copy(block[30*arena.Slot:], text)]
	for name, in := range map[string][]tensor.Tensor{
		"one":                       {floats("x", block[:600_000])},
		"at an offset":              {floats("x", block[arena.Slot+64:][:800_000])},
		"not aligned":               {floats("x", block[3:][:800_000])},
		"two of one block":          {floats("x", block[:600_000]), raw("y", block[600_000:][:600_001])},
		"beside one on the heap":    {floats("x", block[:600_000]), raw("y", bytesOf(50_000, 2)), floats("z", block[700_000:][:600_000])},
		"beside a large one":        {floats("x", block[:600_000]), raw("y", bytesOf(500_000, 2))},
		"beside small and empty":    {raw("e", nil), floats("x", block[:600_000]), raw("y", block[:3])},
		"bytes are never shared":    {{Name: "b", Type: tensor.Bytes, Shape: []int64{1}, Data: words}},
		"bytes beside shared":       {{Name: "b", Type: tensor.Bytes, Shape: []int64{1}, Data: words}, floats("x", block[:600_000])},
		"all of what was taken":     {raw("x", block)},
		"the last byte of a block":  {raw("x", block[len(block)-100_000:])},
		"overlapping, both reading": {raw("x", block[:200_000]), raw("y", block[100_000:300_000])},
	} {
		t.Run(name, func(t *testing.T) {
			answer, err := e.Infer(t.Context(), engine.Request{Instance: "a", Inputs: in})
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Release()
			for i := range in {
				if !bytes.Equal(answer.Outputs[i].Data, in[i].Data) {
					t.Errorf("output %d differs", i)
				}
			}
		})
	}
}

// TestLateAnswer: a caller gives up, the worker reads on; the block is nobody else's before the worker has answered.
func TestLateAnswer(t *testing.T) {
	const size = 4 * arena.Slot
	memory := lend(t, size)
	eng := &stubborn{mirror: newMirror(), gate: make(chan struct{}), intact: make(chan bool, 1)}
	address, _ := serve(t, eng, worker.Config{})
	release := sync.OnceFunc(func() { close(eng.gate) })
	defer release()
	e := dial(t, address, process.Config{Memory: memory})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	block := marked(memory, size, 1)
	go func() {
		_, err := e.Infer(ctx, engine.Request{Instance: "a", Inputs: []tensor.Tensor{raw("x", block)}})
		got <- err
	}()
	<-eng.entered
	cancel()
	if err := <-got; !api.Is(err, api.CodeCanceled) {
		t.Fatalf("got %v", err)
	}
	memory.Give(block) // as the gateway does when the request is over for it
	if b := marked(memory, 1, 2); b != nil {
		t.Fatal("the block was given away while the worker reads it")
	}
	release()
	if !<-eng.intact {
		t.Error("the input changed under the worker")
	}
	await(t, memory, size)
}

// TestBrokenConnection: the connection ends, the worker reads on; the block is nobody else's before the worker is done.
func TestBrokenConnection(t *testing.T) {
	const size = 4 * arena.Slot
	memory := lend(t, size)
	eng := &stubborn{mirror: newMirror(), gate: make(chan struct{}), intact: make(chan bool, 1)}
	address, _ := serve(t, eng, worker.Config{})
	release := sync.OnceFunc(func() { close(eng.gate) })
	defer release()
	e := dial(t, address, process.Config{Memory: memory})
	got := make(chan error, 1)
	block := marked(memory, size, 1)
	go func() {
		_, err := e.Infer(t.Context(), engine.Request{Instance: "a", Inputs: []tensor.Tensor{raw("x", block)}})
		got <- err
	}()
	<-eng.entered
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !api.Is(err, api.CodeWorkerLost) {
		t.Fatalf("got %v", err)
	}
	memory.Give(block)
	if b := marked(memory, 1, 2); b != nil {
		t.Fatal("the block was given away while the worker reads it")
	}
	release()
	if !<-eng.intact {
		t.Error("the input changed under the worker")
	}
	await(t, memory, size)
}

// TestKilledWorker: of a worker that died in the middle of a request nothing stays held.
func TestKilledWorker(t *testing.T) {
	const size = 4 * arena.Slot
	memory := lend(t, size)
	address := filepath.Join(t.TempDir(), "w.sock")
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), workerSocket+"="+address)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var e *process.Engine
	for e == nil {
		var err error
		if e, err = process.Dial(t.Context(), address, token, process.Config{Memory: memory}); err != nil {
			select {
			case <-time.After(10 * time.Millisecond): // it does not listen yet
			case <-t.Context().Done():
				t.Fatal(err)
			}
		}
	}
	defer e.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	block := marked(memory, size, 1)
	if _, err := e.Infer(ctx, engine.Request{Instance: "a", Inputs: []tensor.Tensor{raw("x", block)}}); !api.Is(err, api.CodeDeadline) {
		t.Fatalf("got %v", err)
	}
	memory.Give(block)
	if b := memory.Take(1); b != nil {
		t.Fatal("the block was given away while the worker reads it")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	await(t, memory, size)
}

// TestRefusedMemory: a worker that cannot map the memory is sent everything, and nothing stays open for it.
func TestRefusedMemory(t *testing.T) {
	memory := lend(t, 16*arena.Slot)
	address, _ := serve(t, newMirror(), worker.Config{})
	if _, err := process.Dial(t.Context(), address, "another", process.Config{Memory: memory}); err == nil {
		t.Fatal("a wrong token was taken")
	}
	e := dial(t, address, process.Config{Memory: memory, Connections: 1})
	block := marked(memory, 600_000, 1)
	defer memory.Give(block)
	answer, err := e.Infer(t.Context(), engine.Request{Instance: "a", Inputs: []tensor.Tensor{raw("x", block)}})
	if err != nil {
		t.Fatal(err)
	}
	answer.Release()
}

// patient reads its input for a while, whatever becomes of the request.
type patient struct {
	*mirror
	seed  uint64
	count atomic.Uint64
	torn  atomic.Int64
}

func (p *patient) Infer(_ context.Context, req engine.Request) (*engine.Answer, error) {
	r := rand.New(rand.NewPCG(p.seed, p.count.Add(1)))
	data := req.Inputs[0].Data
	mark := data[0]
	for range r.IntN(10) {
		<-time.After(time.Duration(r.IntN(200)) * time.Microsecond)
		for _, at := range []int{0, r.IntN(len(data)), len(data) - 1} {
			if data[at] != mark {
				p.torn.Add(1)
			}
		}
	}
	return engine.NewAnswer(nil, nil), nil
}

// TestSharedWalk has callers send, give up and break connections in any order, in an arena that is always nearly full. No
// request may see another's bytes at any time.
func TestSharedWalk(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	memory := lend(t, 24*arena.Slot)
	eng := &patient{mirror: newMirror(), seed: seed}
	address, stop := serve(t, eng, worker.Config{})
	for round := range 3 {
		e := dial(t, address, process.Config{Memory: memory})
		var callers sync.WaitGroup
		for caller := range 8 {
			callers.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(100*round+caller)))
				for request := range 40 {
					if caller == 0 && request == 30 {
						_ = e.Close()
					}
					n := 70_000 + r.IntN(8*arena.Slot)
					block := memory.Take(n)
					for ; block == nil; block = memory.Take(n) {
						<-time.After(100 * time.Microsecond)
					}
					for i := range block {
						block[i] = byte(caller*40 + request)
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(2000))*time.Microsecond)
					answer, _ := e.Infer(ctx, engine.Request{Instance: "a", Inputs: []tensor.Tensor{raw("x", block[:n])}})
					answer.Release()
					cancel()
					memory.Give(block)
				}
			})
		}
		callers.Wait()
		_ = e.Close()
	}
	stop()
	await(t, memory, 24*arena.Slot)
	if torn := eng.torn.Load(); torn > 0 {
		t.Errorf("%d times a request's input was another's", torn)
	}
	if eng.count.Load() < 100 {
		t.Errorf("only %d requests reached the worker", eng.count.Load())
	}
}
