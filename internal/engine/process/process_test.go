package process_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
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

const token = "a shared secret"

// mirror answers every request with its own inputs, without a copy. Some instances behave: "hang" waits for its
// context, "deaf" for the test whatever its context says, "panic" panics, "torn" answers a tensor without its bytes.
type mirror struct {
	done    chan struct{}
	entered chan string // told when a request to "hang" runs; nil is not told
	left    chan error  // told how the hang ended
	deaf    chan struct{}
}

func newMirror() *mirror {
	return &mirror{done: make(chan struct{}), entered: make(chan string, 64), left: make(chan error, 64)}
}

func (m *mirror) Load(_ context.Context, load engine.Load) (engine.Loaded, error) {
	if load.Path == "/bad" {
		return engine.Loaded{}, api.Fail(api.CodeLoadFailed, load.Instance, "bad file").WithCure("cure it")
	}
	return engine.Loaded{LoadTime: time.Second, WarmTime: time.Millisecond, Signature: api.Signature{
		Inputs:  []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 4}, Symbols: []string{"batch", ""}}},
		Outputs: []api.TensorSpec{{Name: "y", Datatype: "INT64", Shape: []int64{-1}}}}}, nil
}
func (m *mirror) Unload(context.Context, string) error { return nil }
func (m *mirror) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	switch req.Instance {
	case "absent":
		return nil, api.Fail(api.CodeNotLoaded, req.Instance, "not here")
	case "panic":
		panic("as told")
	case "torn":
		return engine.NewAnswer([]tensor.Tensor{{Name: "t", Type: tensor.FP32, Shape: []int64{4}}}, nil), nil
	case "plain":
		return nil, errors.New("secret detail")
	case "deaf":
		m.entered <- req.Instance
		<-m.deaf
	case "hang":
		m.entered <- req.Instance
		<-ctx.Done()
		m.left <- ctx.Err()
		return nil, ctx.Err()
	}
	a := engine.NewAnswer(req.Inputs, nil)
	a.Compute = 7 * time.Microsecond
	return a, nil
}
func (m *mirror) Stats(context.Context) (engine.Stats, error) {
	return engine.Stats{PID: 42, Runtime: "mirror 1", Resident: 7, Instances: []engine.InstanceStats{
		{Instance: "a", Requests: 1, Failures: 2, InFlight: 3, Compute: 4}}}, nil
}
func (m *mirror) Done() <-chan struct{} { return m.done }
func (m *mirror) Close() error          { close(m.done); return nil }

// serve starts a worker around eng and returns its address and what ends it.
func serve(t testing.TB, eng engine.Engine, config worker.Config) (address string, stop func()) {
	t.Helper()
	address = filepath.Join(t.TempDir(), "w.sock")
	listener, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	config.Token = token
	config.Log = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- worker.Serve(ctx, listener, eng, config) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-over; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return address, stop
}

func dial(t testing.TB, address string, config process.Config) *process.Engine {
	t.Helper()
	e, err := process.Dial(t.Context(), address, token, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func bytesOf(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func raw(name string, data []byte) tensor.Tensor {
	return tensor.Tensor{Name: name, Type: tensor.Uint8, Shape: []int64{int64(len(data))}, Data: data}
}

func TestCalls(t *testing.T) {
	address, _ := serve(t, newMirror(), worker.Config{})
	e := dial(t, address, process.Config{})
	ctx := t.Context()
	loaded, err := e.Load(ctx, engine.Load{Instance: "a", Format: "onnx", Path: "/x", Warm: true})
	if err != nil || loaded.LoadTime != time.Second || loaded.Signature.Inputs[0].Symbols[0] != "batch" {
		t.Fatalf("load: %+v %v", loaded, err)
	}
	_, err = e.Load(ctx, engine.Load{Instance: "a", Path: "/bad"})
	if got := api.AsError(err); got.Code != api.CodeLoadFailed || got.Message != "bad file" || got.Subject != "a" || got.Cure != "cure it" {
		t.Fatalf("load of a bad file: %+v", got)
	}
	if err := e.Unload(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if err := e.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	s, err := e.Stats(ctx)
	if err != nil || s.PID != 42 || s.Runtime != "mirror 1" || s.Instances[0].Compute != 4 {
		t.Fatalf("stats: %+v %v", s, err)
	}
	for _, size := range []int{0, 1, 64, 16 << 10, 16<<10 + 1, 600 << 10, 9 << 20, 20 << 20} {
		in := []tensor.Tensor{raw("a", bytesOf(size, 1)), raw("b", bytesOf(3, 2)), raw("c", bytesOf(size/2, 3))}
		answer, err := e.Infer(ctx, engine.Request{Instance: "a", Inputs: in})
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if len(answer.Outputs) != 3 || answer.Compute != 7*time.Microsecond {
			t.Fatalf("%d bytes: %d outputs, compute %v", size, len(answer.Outputs), answer.Compute)
		}
		for i := range in {
			if !bytes.Equal(answer.Outputs[i].Data, in[i].Data) || !slices.Equal(answer.Outputs[i].Shape, in[i].Shape) {
				t.Fatalf("%d bytes: output %d differs", size, i)
			}
		}
		answer.Release()
	}
}

func TestFailures(t *testing.T) {
	address, _ := serve(t, newMirror(), worker.Config{})
	e := dial(t, address, process.Config{})
	for _, c := range []struct {
		name, instance string
		inputs         []tensor.Tensor
		want           api.Code
	}{
		{"not loaded", "absent", nil, api.CodeNotLoaded},
		{"a panic is one request's failure", "panic", nil, api.CodeInternal},
		{"an answer without its bytes", "torn", nil, api.CodeInternal},
		{"a foreign error", "plain", nil, api.CodeInternal},
		{"bytes that do not fit the shape never leave", "a", []tensor.Tensor{{Name: "x", Type: tensor.FP32, Shape: []int64{3}, Data: []byte{1}}}, api.CodeBadTensor},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := e.Infer(t.Context(), engine.Request{Instance: c.instance, Inputs: c.inputs})
			if !api.Is(err, c.want) {
				t.Fatalf("got %v, want %s", err, c.want)
			}
			if bytes.Contains([]byte(err.Error()), []byte("secret")) {
				t.Fatalf("a foreign error's text crossed the hop: %v", err)
			}
			if err := e.Ping(t.Context()); err != nil {
				t.Fatalf("the connection did not survive: %v", err)
			}
		})
	}
}

func TestOnlyTheTokenOpens(t *testing.T) {
	address, _ := serve(t, newMirror(), worker.Config{})
	if _, err := process.Dial(t.Context(), address, "another", process.Config{}); err == nil {
		t.Fatal("a wrong token was taken")
	}
	conn, err := net.Dial("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w := hop.NewWriter(conn, nil)
	f := w.Frame()
	if err := f.Encode(&hop.Message{Kind: hop.KindStats, ID: 1}, hop.Limits{}); err != nil {
		t.Fatal(err)
	}
	_ = w.Send(t.Context(), f, false)
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatalf("a request before hello was answered with %d bytes", n)
	}
}

func TestCancelReachesTheWorker(t *testing.T) {
	m := newMirror()
	address, _ := serve(t, m, worker.Config{})
	e := dial(t, address, process.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		_, err := e.Infer(ctx, engine.Request{Instance: "hang"})
		got <- err
	}()
	<-m.entered
	cancel()
	if err := <-got; !api.Is(err, api.CodeCanceled) {
		t.Fatalf("got %v", err)
	}
	if err := <-m.left; !errors.Is(err, context.Canceled) {
		t.Fatalf("the worker's request ended with %v", err)
	}
	// The deadline travels too.
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := e.Infer(ctx, engine.Request{Instance: "hang"}); !api.Is(err, api.CodeDeadline) {
		t.Fatalf("got %v", err)
	}
	<-m.entered
	if err := <-m.left; err == nil {
		t.Fatal("the worker's request did not end")
	}
	if err := e.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestBusyCountsRunsGivenUp: a worker goes on for a while with what nobody waits for any more.
func TestBusyCountsRunsGivenUp(t *testing.T) {
	m := newMirror()
	m.deaf = make(chan struct{})
	address, _ := serve(t, m, worker.Config{})
	e := dial(t, address, process.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		_, err := e.Infer(ctx, engine.Request{Instance: "deaf"})
		got <- err
	}()
	<-m.entered
	if n := engine.Busy(e); n != 1 {
		t.Errorf("%d runs while one waits", n)
	}
	cancel()
	if err := <-got; !api.Is(err, api.CodeCanceled) {
		t.Fatal(err)
	}
	if n := engine.Busy(e); n != 1 {
		t.Errorf("%d runs after its caller left", n)
	}
	close(m.deaf)
	for engine.Busy(e) > 0 {
		if err := e.Ping(t.Context()); err != nil { // what comes after it in the stream says that it was answered
			t.Fatal(err)
		}
	}
	if n := engine.Busy(m); n != 0 {
		t.Errorf("an engine that cannot tell has %d", n)
	}
}

func TestLostWorkerEndsEveryRequestOnce(t *testing.T) {
	m := newMirror()
	address, stop := serve(t, m, worker.Config{Drain: time.Millisecond})
	e := dial(t, address, process.Config{})
	const n = 32
	got := make(chan error, n)
	for range n {
		go func() {
			_, err := e.Infer(t.Context(), engine.Request{Instance: "hang"})
			got <- err
		}()
	}
	for range 4 { // the worker takes a few at a time; the others wait in it
		<-m.entered
	}
	stop()
	for range n {
		if err := <-got; !api.Is(err, api.CodeWorkerLost) {
			t.Fatalf("got %v", err)
		}
	}
	<-e.Done()
	if _, err := e.Infer(t.Context(), engine.Request{Instance: "a"}); !api.Is(err, api.CodeWorkerLost) {
		t.Fatalf("after the end: %v", err)
	}
}

func TestWorkerLimits(t *testing.T) {
	m := newMirror()
	address, _ := serve(t, m, worker.Config{Requests: 2, Bytes: 1 << 20})
	e := dial(t, address, process.Config{})
	_, err := e.Infer(t.Context(), engine.Request{Instance: "a", Inputs: []tensor.Tensor{raw("x", make([]byte, 2<<20))}})
	if !api.Is(err, api.CodeQueueFull) {
		t.Fatalf("over the bytes: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := e.Infer(ctx, engine.Request{Instance: "hang"})
			got <- err
		}()
		<-m.entered
	}
	if _, err := e.Infer(t.Context(), engine.Request{Instance: "a"}); !api.Is(err, api.CodeQueueFull) {
		t.Fatalf("over the requests: %v", err)
	}
	cancel()
	for range 2 {
		if err := <-got; err == nil {
			t.Error("a cancelled request was answered")
		}
		t.Log("left with", <-m.left)
	}
}

// TestBadWorkers puts a hostile worker at the other end: every fault ends the connection and each request once.
func TestBadWorkers(t *testing.T) {
	encode := func(m hop.Message) []byte {
		f := hop.NewWriter(nil, nil).Frame()
		if err := f.Encode(&m, hop.Limits{}); err != nil {
			t.Fatal(err)
		}
		return f.Bytes()
	}
	of := func(m *hop.Message, instance string) []byte {
		asked := *m
		asked.Instance = instance
		reply := hop.Message{Kind: hop.KindInfer.Result(), Tensors: []tensor.Tensor{raw("y", []byte{1, 2, 3})}}
		reply.Answers(&asked)
		return encode(reply)
	}
	answer := func(m *hop.Message) []byte { return of(m, m.Instance) }
	other := func(m *hop.Message, id uint64) []byte { // whole, but for its id
		b := answer(m)
		binary.LittleEndian.PutUint64(b[16:], id)
		return b
	}
	huge := answer(&hop.Message{ID: 1})
	huge[12] = 0xff // payload length in the petabytes
	for _, c := range []struct {
		name  string
		reply func(m *hop.Message) []byte
		want  error
		okay  bool // the request itself may have been answered first
	}{
		{"wrong id", func(m *hop.Message) []byte { return other(m, m.ID+100) }, hop.ErrUnknownID, false},
		{"the answer of another instance", func(m *hop.Message) []byte { return of(m, "b") }, hop.ErrOrder, false},
		{"the mark of another id", func(m *hop.Message) []byte {
			b := of(&hop.Message{Kind: hop.KindInfer, ID: m.ID + 1}, m.Instance)
			binary.LittleEndian.PutUint64(b[16:], m.ID)
			return b
		}, hop.ErrOrder, false},
		{"duplicate answer", func(m *hop.Message) []byte { return append(answer(m), answer(m)...) }, hop.ErrUnknownID, true},
		{"wrong kind", func(m *hop.Message) []byte {
			return encode(hop.Message{Kind: hop.KindPing.Result(), ID: m.ID, Check: m.Mark()})
		}, hop.ErrOrder, false},
		{"oversize", func(*hop.Message) []byte { return huge }, hop.ErrOversize, false},
		{"truncated", func(m *hop.Message) []byte { b := answer(m); return b[:len(b)-1] }, hop.ErrTruncated, false},
		{"no frame", func(*hop.Message) []byte { return bytes.Repeat([]byte("x"), 64) }, hop.ErrMagic, false},
		{"hangs up", func(*hop.Message) []byte { return nil }, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
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
				defer conn.Close()
				r := hop.NewReader(conn, new(hop.Pool), hop.Limits{})
				hello, err := r.Next()
				if err != nil {
					return
				}
				_, _ = conn.Write(encode(hop.Message{Kind: hop.KindHello.Result(), ID: hello.ID, Check: hello.Mark()}))
				m, err := r.Next()
				if err != nil {
					return
				}
				_, _ = conn.Write(c.reply(m))
			}()
			e := dial(t, address, process.Config{Connections: 1})
			_, err = e.Infer(t.Context(), engine.Request{Instance: "a"})
			if !api.Is(err, api.CodeWorkerLost) && (!c.okay || err != nil) {
				t.Fatalf("got %v", err)
			}
			<-e.Done()
			if c.want != nil && !errors.Is(e.Err(), c.want) {
				t.Fatalf("reason %v, want %v", e.Err(), c.want)
			}
			if lives := c.want != nil && !errors.Is(c.want, hop.ErrTruncated); lives != (e.Fault() != nil) {
				t.Errorf("fault %v", e.Fault())
			}
		})
	}
}

// TestManyClients mixes sizes and cancellations over shared connections: every answer is its own request's.
func TestManyClients(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	address, _ := serve(t, newMirror(), worker.Config{})
	e := dial(t, address, process.Config{})
	var clients sync.WaitGroup
	for client := range uint64(16) {
		clients.Go(func() {
			r := rand.New(rand.NewPCG(seed, client))
			for range 200 {
				size := r.IntN(200)
				if r.IntN(8) == 0 {
					size = r.IntN(1 << 20)
				}
				in := raw("x", bytesOf(size, r.Uint64()))
				limit := time.Hour
				if r.IntN(4) == 0 {
					limit = time.Duration(r.IntN(300)) * time.Microsecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				answer, err := e.Infer(ctx, engine.Request{Instance: "a", Inputs: []tensor.Tensor{in}})
				switch {
				case err == nil:
					if !bytes.Equal(answer.Outputs[0].Data, in.Data) {
						t.Errorf("an answer is not its request's")
					}
				case !api.Is(err, api.CodeDeadline):
					t.Errorf("got %v", err)
				}
				clear(in.Data) // the caller's again
				answer.Release()
				cancel()
			}
		})
	}
	clients.Wait()
	if err := e.Ping(t.Context()); err != nil {
		t.Fatalf("%v: %v", err, e.Err())
	}
}

func BenchmarkInfer(b *testing.B) {
	address, _ := serve(b, newMirror(), worker.Config{})
	e := dial(b, address, process.Config{})
	for _, c := range []struct {
		name string
		size int
	}{{"small", 256}, {"600KB", 600 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			in := []tensor.Tensor{raw("x", bytesOf(c.size, 1))}
			ctx := b.Context()
			took := make([]time.Duration, 0, b.N)
			b.ReportAllocs()
			b.SetBytes(int64(2 * c.size))
			for b.Loop() {
				start := time.Now()
				answer, err := e.Infer(ctx, engine.Request{Instance: "a", Inputs: in})
				if err != nil {
					b.Fatal(err)
				}
				answer.Release()
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
		})
	}
}
