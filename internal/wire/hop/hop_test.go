package hop_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/hop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func encode(t testing.TB, m *hop.Message) []byte {
	t.Helper()
	f := hop.NewWriter(nil, nil).Frame()
	if err := f.Encode(m, hop.Limits{}); err != nil {
		t.Fatalf("%+v: %v", m, err)
	}
	return f.Bytes()
}

// plain is a message's content without the memory under it, in a form that compares.
func plain(m *hop.Message) hop.Message {
	p := hop.Message{Kind: m.Kind, ID: m.ID, Check: m.Check, Budget: m.Budget, Token: m.Token, PID: m.PID, Load: m.Load, Loaded: m.Loaded,
		Instance: m.Instance, Queue: m.Queue, Compute: m.Compute, Stats: m.Stats, Failure: m.Failure, Refused: m.Refused}
	p.Shares, p.Shared, p.Split, p.Priority, p.Lane, p.InTurn = m.Shares, m.Shared, m.Split, m.Priority, m.Lane, m.InTurn
	p.Offsets = append(p.Offsets, m.Offsets...)
	if m.Outputs != nil {
		p.Outputs = append([]string{}, m.Outputs...)
	}
	for _, t := range m.Tensors {
		p.Tensors = append(p.Tensors, tensor.Tensor{Name: t.Name, Type: t.Type, Shape: append([]int64{}, t.Shape...),
			Data: append([]byte{}, t.Data...)})
	}
	return p
}

// ram is shared memory that counts its references.
type ram struct {
	memory     []byte
	references int
}

func newRAM(size int) *ram {
	m := &ram{memory: make([]byte, size)}
	for i := range m.memory {
		m.memory[i] = byte(i * 11)
	}
	return m
}

func (r *ram) Bytes() []byte { return r.memory }
func (r *ram) Retain()       { r.references++ }
func (r *ram) Release()      { r.references-- }

// place puts some of a request's tensors there.
func (r *ram) place(g guess, m *hop.Message) {
	if m.Kind != hop.KindInfer || len(m.Tensors) == 0 {
		return
	}
	some := false
	for i := range m.Tensors {
		x := &m.Tensors[i]
		m.Offsets = append(m.Offsets, -1)
		if room := len(r.memory) - len(x.Data); x.Type != tensor.Bytes && room >= 0 && g.IntN(2) == 0 {
			at := g.IntN(room+1) &^ 7
			x.Data = r.memory[at : at+len(x.Data)]
			m.Offsets[i], some = int64(at), true
		}
	}
	if !some {
		m.Offsets = nil
	}
}

// guess makes random messages of every kind.
type guess struct{ *rand.Rand }

func (g guess) text() string {
	b := make([]byte, g.IntN(20))
	for i := range b {
		b[i] = byte(g.Uint32()) // any bytes: the codec does not ask for UTF-8
	}
	return string(b)
}

func (g guess) tensors() (list []tensor.Tensor) {
	for range g.IntN(5) {
		t := tensor.Tensor{Name: g.text(), Type: tensor.Type(1 + g.IntN(int(tensor.Bytes))), Shape: []int64{}, Data: []byte{}}
		for range g.IntN(4) {
			t.Shape = append(t.Shape, int64(g.IntN(9)))
		}
		if g.IntN(20) == 0 {
			t.Shape = []int64{int64(g.IntN(40_000))}
		}
		n, _ := tensor.Elements(t.Shape)
		for range n {
			if t.Type == tensor.Bytes {
				t.Data = tensor.AppendBytes(t.Data, []byte(g.text()))
			}
		}
		if t.Type != tensor.Bytes {
			t.Data = make([]byte, n*int64(t.Type.Size()))
			for i := range t.Data {
				t.Data[i] = byte(i * 7)
			}
		}
		list = append(list, t)
	}
	return list
}

func (g guess) specs() (list []api.TensorSpec) {
	for range g.IntN(4) {
		s := api.TensorSpec{Name: g.text(), Datatype: g.text()}
		for range g.IntN(3) {
			s.Shape = append(s.Shape, int64(g.IntN(9)-1))
			s.Symbols = append(s.Symbols, g.text())
		}
		list = append(list, s)
	}
	return list
}

var kinds = []hop.Kind{hop.KindHello, hop.KindLoad, hop.KindUnload, hop.KindInfer, hop.KindStats, hop.KindCancel, hop.KindPing, hop.KindRelieve,
	hop.KindHello.Result(), hop.KindLoad.Result(), hop.KindUnload.Result(), hop.KindInfer.Result(), hop.KindStats.Result(),
	hop.KindPing.Result(), hop.KindFailure}

func (g guess) message() *hop.Message {
	m := &hop.Message{Kind: kinds[g.IntN(len(kinds))], ID: g.Uint64()}
	if m.Kind.Request() {
		m.Budget = time.Duration(g.IntN(1e6)) * time.Microsecond
	} else {
		m.Check = g.Uint64()
	}
	switch m.Kind {
	case hop.KindHello:
		m.Token, m.Shares = g.text(), g.Int64()
	case hop.KindHello.Result():
		m.PID, m.Shared, m.Split = g.Int64(), g.IntN(2) == 0, g.IntN(2) == 0
	case hop.KindLoad:
		m.Load = hop.Load{Instance: g.text(), Format: g.text(), Path: g.text(), Warm: g.IntN(2) == 0, Options: g.text()}
		for range g.IntN(3) {
			m.Load.Members = append(m.Load.Members, hop.Member{Digest: g.text(), Path: g.text()})
		}
	case hop.KindLoad.Result():
		m.Loaded = hop.Loaded{Signature: api.Signature{Inputs: g.specs(), Outputs: g.specs()},
			LoadTime: time.Duration(g.Int64()), WarmTime: time.Duration(g.Int64()), InTurn: g.IntN(2) == 0}
		if m.Loaded.Batched = g.IntN(2) == 0; m.Loaded.Batched {
			m.Loaded.Batch = api.BatchPlan{MaxSize: int(g.Int64()), Exact: g.IntN(2) == 0, Why: g.text()}
		}
	case hop.KindUnload:
		m.Instance = g.text()
	case hop.KindInfer:
		m.Instance, m.Tensors, m.Priority, m.Lane, m.InTurn = g.text(), g.tensors(), g.Int64(), g.IntN(1+hop.Lanes), g.IntN(2) == 0
		if g.IntN(2) == 0 {
			m.Outputs = []string{}
			for range g.IntN(3) {
				m.Outputs = append(m.Outputs, g.text())
			}
		}
	case hop.KindInfer.Result():
		m.Tensors, m.Queue, m.Compute = g.tensors(), time.Duration(g.Int64()), time.Duration(g.Int64())
		m.Batch, m.Wait = g.Int64(), time.Duration(g.Int64())
		for range g.IntN(3) {
			m.Steps = append(m.Steps, api.StepTime{Name: g.text(), Start: time.Duration(g.Int64()), Queue: time.Duration(g.Int64()), Compute: time.Duration(g.Int64())})
		}
	case hop.KindStats.Result():
		m.Stats = hop.Stats{PID: g.Int64(), Runtime: g.text(), Resident: g.Int64()}
		for range g.IntN(4) {
			m.Stats.Instances = append(m.Stats.Instances, hop.InstanceStats{Instance: g.text(), InFlight: g.Int64(),
				Requests: g.Int64(), Failures: g.Int64(), Compute: time.Duration(g.Int64())})
		}
	case hop.KindFailure:
		m.Failure = hop.Failure{Code: g.text(), Subject: g.text(), Message: g.text(), Cure: g.text(), RetryAfter: time.Duration(g.Int64())}
	}
	return m
}

// TestWalk sends random messages through one stream and reads them back, holding some for a while: what was decoded
// must stay as it was until it is released, also while buffers are recycled under others.
func TestWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	g := guess{rand.New(rand.NewPCG(seed, 3))}
	var stream bytes.Buffer
	var sent []hop.Message
	shared := newRAM(200 << 10)
	for range 3000 {
		m := g.message()
		if g.IntN(3) == 0 {
			shared.place(g, m)
		}
		stream.Write(encode(t, m))
		sent = append(sent, plain(m))
	}
	type kept struct {
		got  *hop.Message
		want *hop.Message
	}
	var held []kept
	r := hop.NewReader(&stream, new(hop.Pool), hop.Limits{})
	r.Shared = shared
	for i := range sent {
		m, err := r.Next()
		if err != nil {
			t.Fatalf("message %d of %+v: %v", i, sent[i], err)
		}
		held = append(held, kept{m, &sent[i]})
		for len(held) > g.IntN(8) {
			k := g.IntN(len(held))
			if got := plain(held[k].got); !reflect.DeepEqual(got, *held[k].want) {
				t.Fatalf("got  %+v\nwant %+v", got, *held[k].want)
			}
			held[k].got.Release()
			held = slices.Delete(held, k, k+1)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Fatalf("at the end: %v", err)
	}
	for _, k := range held {
		k.got.Release()
	}
	if shared.references != 0 {
		t.Fatalf("%d references to the shared memory are left", shared.references)
	}
}

// TestSharedTensorsAreChecked: a tensor lies inside the memory, aligned, and its elements have one size.
func TestSharedTensorsAreChecked(t *testing.T) {
	shared := newRAM(4096)
	floats := tensor.Tensor{Name: "x", Type: tensor.FP32, Shape: []int64{16}, Data: shared.memory[:64]}
	text := tensor.Tensor{Name: "x", Type: tensor.Bytes, Shape: []int64{1}, Data: tensor.AppendBytes(nil, make([]byte, 60))}
	for name, c := range map[string]struct {
		kind   hop.Kind
		tensor tensor.Tensor
		at     int64
		shared hop.Shared
		want   error
	}{
		"the beginning":     {hop.KindInfer, floats, 0, shared, nil},
		"the end":           {hop.KindInfer, floats, 4096 - 64, shared, nil},
		"over the end":      {hop.KindInfer, floats, 4096 - 60, shared, hop.ErrMalformed},
		"behind the end":    {hop.KindInfer, floats, 1 << 62, shared, hop.ErrMalformed},
		"an overflow":       {hop.KindInfer, floats, 1<<63 - 4, shared, hop.ErrMalformed},
		"not aligned":       {hop.KindInfer, floats, 2, shared, hop.ErrMalformed},
		"of varying size":   {hop.KindInfer, text, 0, shared, hop.ErrMalformed},
		"an answer":         {hop.KindInfer.Result(), floats, 0, shared, hop.ErrMalformed},
		"nothing is shared": {hop.KindInfer, floats, 0, nil, hop.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			stream := encode(t, &hop.Message{Kind: c.kind, ID: 1, Tensors: []tensor.Tensor{c.tensor}, Offsets: []int64{c.at}})
			r := hop.NewReader(bytes.NewReader(stream), new(hop.Pool), hop.Limits{})
			r.Shared = c.shared
			m, err := r.Next()
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err == nil && &m.Tensors[0].Data[0] != &shared.memory[c.at] {
				t.Error("the tensor is no view of the memory")
			}
			m.Release()
			if shared.references != 0 {
				t.Errorf("%d references are left", shared.references)
			}
		})
	}
}

func TestViewsAreAligned(t *testing.T) {
	m := &hop.Message{Kind: hop.KindInfer}
	for i := range 9 {
		m.Tensors = append(m.Tensors, tensor.Tensor{Type: tensor.Uint8, Shape: []int64{int64(i * 13)}, Data: make([]byte, i*13)})
	}
	got, err := hop.NewReader(bytes.NewReader(encode(t, m)), new(hop.Pool), hop.Limits{}).Next()
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range got.Tensors[1:] {
		if at := reflect.ValueOf(x.Data).Pointer(); at%64 != 0 {
			t.Errorf("tensor %d lies at %#x", i+1, at)
		}
	}
}

func TestWrongStreams(t *testing.T) {
	good := encode(t, &hop.Message{Kind: hop.KindInfer, ID: 1, Budget: time.Second, Instance: "a", Tensors: []tensor.Tensor{
		{Name: "x", Type: tensor.FP32, Shape: []int64{2}, Data: make([]byte, 8)}, {Name: "y", Type: tensor.Uint8, Shape: []int64{1}, Data: []byte{1}}}})
	put := func(at int, v ...byte) []byte {
		b := slices.Clone(good)
		copy(b[at:], v)
		return b
	}
	full := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	header := int(binary.LittleEndian.Uint32(good[4:]))
	pad := 32 + header + 8 // first padding byte
	for _, c := range []struct {
		name   string
		stream []byte
		want   error
	}{
		{"not a frame", put(0, 'X'), hop.ErrMagic},
		{"another version", put(2, 99), hop.ErrVersion},
		{"unknown kind", put(3, 0x33), hop.ErrKind},
		{"kind zero", put(3, 0), hop.ErrKind},
		{"a result of cancel", put(3, byte(hop.KindCancel.Result())), hop.ErrKind},
		{"a result of relieve", put(3, byte(hop.KindRelieve.Result())), hop.ErrKind},
		{"a huge header", put(4, full[:4]...), hop.ErrOversize},
		{"a huge payload", put(8, full...), hop.ErrOversize},
		{"a payload where none may be", put(3, byte(hop.KindPing)), hop.ErrMalformed},
		{"a budget beyond all time", put(24, full...), hop.ErrMalformed},
		{"an instance longer than the header", put(32, full[:4]...), hop.ErrMalformed},
		{"a lane that is not there", put(45, 5), hop.ErrMalformed},
		{"a flag of 2", put(53, 2), hop.ErrMalformed},
		{"more tensors than bytes", put(54, full[:4]...), hop.ErrMalformed},
		{"padding that is not zero", put(pad, 1), hop.ErrMalformed},
		{"a cut prefix", good[:31], hop.ErrTruncated},
		{"a cut header", good[:40], hop.ErrTruncated},
		{"a cut payload", good[:len(good)-1], hop.ErrTruncated},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := hop.NewReader(bytes.NewReader(c.stream), new(hop.Pool), hop.Limits{}).Next()
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestEncodeRefusesWhatTheOtherEndWould(t *testing.T) {
	small := hop.Limits{Header: 64, Payload: 128, Tensors: 2}
	one := tensor.Tensor{Type: tensor.Uint8, Shape: []int64{100}, Data: make([]byte, 100)}
	for name, c := range map[string]struct {
		m    hop.Message
		want error
	}{
		"tensors":       {hop.Message{Kind: hop.KindInfer, Tensors: make([]tensor.Tensor, 3)}, hop.ErrOversize},
		"payload":       {hop.Message{Kind: hop.KindInfer, Tensors: []tensor.Tensor{one, one}}, hop.ErrOversize},
		"header":        {hop.Message{Kind: hop.KindHello, Token: string(make([]byte, 80))}, hop.ErrOversize},
		"budget":        {hop.Message{Kind: hop.KindPing, Budget: -1}, hop.ErrMalformed},
		"a torn tensor": {hop.Message{Kind: hop.KindInfer, Tensors: []tensor.Tensor{{Type: tensor.FP32, Shape: []int64{1}}}}, hop.ErrMalformed},
		"no type":       {hop.Message{Kind: hop.KindInfer, Tensors: []tensor.Tensor{{Shape: []int64{0}}}}, hop.ErrMalformed},
	} {
		if err := hop.NewWriter(nil, nil).Frame().Encode(&c.m, small); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestAdmitSkipsThePayload(t *testing.T) {
	big := &hop.Message{Kind: hop.KindInfer, ID: 1, Tensors: []tensor.Tensor{{Type: tensor.Uint8, Shape: []int64{1 << 20}, Data: make([]byte, 1<<20)}}}
	stream := append(encode(t, big), encode(t, &hop.Message{Kind: hop.KindPing, ID: 2})...)
	r := hop.NewReader(bytes.NewReader(stream), new(hop.Pool), hop.Limits{})
	r.Admit = func(_ hop.Kind, payload int) bool { return payload < 1<<20 }
	m, err := r.Next()
	if err != nil || !m.Refused || m.ID != 1 || m.Payload() != 0 {
		t.Fatalf("%+v %v", m, err)
	}
	if m, err = r.Next(); err != nil || m.ID != 2 || m.Refused {
		t.Fatalf("%+v %v", m, err)
	}
}

// TestAnnouncedIsNotAllocated: a prefix that announces the limit and stops costs Step, not the limit.
func TestAnnouncedIsNotAllocated(t *testing.T) {
	frame := encode(t, &hop.Message{Kind: hop.KindInfer, ID: 1, Tensors: []tensor.Tensor{{Type: tensor.Uint8, Shape: []int64{200 << 20}, Data: make([]byte, 200<<20)}}})
	const step = 1 << 20
	for _, arrived := range []int{200, 3 << 20} {
		got := allocated(func() {
			_, err := hop.NewReader(bytes.NewReader(frame[:arrived]), new(hop.Pool), hop.Limits{Step: step}).Next()
			if !errors.Is(err, hop.ErrTruncated) {
				t.Errorf("got %v", err)
			}
		})
		if limit := uint64(4*arrived + step + 1<<18); got > limit {
			t.Errorf("%d bytes arrived, %d were allocated", arrived, got)
		}
	}
}

func allocated(act func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	act()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestWriters lets many goroutines write to one socket that is read slowly: every frame arrives whole, and a caller's
// memory is its own again when Send returns.
func TestWriters(t *testing.T) {
	a, b := pair(t)
	w := hop.NewWriter(a, func(err error) { t.Errorf("broken: %v", err) })
	const writers, frames = 8, 60
	var all sync.WaitGroup
	for id := range writers {
		all.Go(func() {
			for i := range frames {
				size := i * i * 200 // up to 700 KB
				data := bytes.Repeat([]byte{byte(id + 1)}, size)
				f := w.Frame()
				m := hop.Message{Kind: hop.KindInfer, ID: uint64(id), Instance: fmt.Sprint(i),
					Tensors: []tensor.Tensor{{Type: tensor.Uint8, Shape: []int64{int64(size)}, Data: data}}}
				if err := f.Encode(&m, hop.Limits{}); err != nil {
					t.Error(err)
				}
				if err := w.Send(t.Context(), f, i%2 == 0); err != nil {
					t.Error(err)
				}
				clear(data)
			}
		})
	}
	r := hop.NewReader(b, new(hop.Pool), hop.Limits{})
	next := map[uint64]int{}
	for range writers * frames {
		m, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if m.Instance != fmt.Sprint(next[m.ID]) {
			t.Fatalf("writer %d: frame %s, want %d: one writer's frames keep their order", m.ID, m.Instance, next[m.ID])
		}
		next[m.ID]++
		if i := slices.IndexFunc(m.Tensors[0].Data, func(v byte) bool { return v != byte(m.ID+1) }); i >= 0 {
			t.Fatalf("writer %d frame %s: byte %d was overwritten", m.ID, m.Instance, i)
		}
		m.Release()
	}
	all.Wait()
}

// TestGivingUpOnAFullSocket: nobody reads for a while. A queued frame is taken back. The one under way goes on without its
// caller, whose memory is its own again at once; so does the connection. One that nobody reads at all ends.
func TestGivingUpOnAFullSocket(t *testing.T) {
	for name, ends := range map[string]func(t *testing.T) (w, r net.Conn){"one socket": pair, "a pair": split} {
		t.Run(name, func(t *testing.T) {
			a, b := ends(t)
			w := hop.NewWriter(a, func(error) {})
			w.Stall = 20 * time.Second
			data := bytes.Repeat([]byte{7}, 8<<20)
			send := func(ctx context.Context, id uint64, data []byte) error {
				f := w.Frame()
				m := hop.Message{Kind: hop.KindInfer, ID: id, Tensors: []tensor.Tensor{{Type: tensor.Uint8, Shape: []int64{int64(len(data))}, Data: data}}}
				if err := f.Encode(&m, hop.Limits{}); err != nil {
					return err
				}
				return w.Send(ctx, f, false)
			}
			first, giveUp := context.WithCancel(t.Context())
			over := make(chan error, 1)
			go func() { over <- send(first, 1, data) }()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			<-ctx.Done()
			if err := send(ctx, 2, data); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the queued one: %v", err)
			}
			post := w.Frame()
			if err := post.Encode(&hop.Message{Kind: hop.KindCancel, ID: 1}, hop.Limits{}); err != nil {
				t.Fatal(err)
			}
			w.Post(post) // does not block
			giveUp()
			if err := <-over; err != nil {
				t.Errorf("the one under way: %v", err)
			}
			clear(data)
			reader := hop.NewReader(b, new(hop.Pool), hop.Limits{})
			m, err := reader.Next()
			if err != nil || m.ID != 1 || len(m.Tensors[0].Data) != 8<<20 || slices.Contains(m.Tensors[0].Data, 0) {
				t.Fatalf("what arrived of it: %v", err)
			}
			m.Release()
			if m, err = reader.Next(); err != nil || m.Kind != hop.KindCancel {
				t.Fatalf("behind it: %v", err)
			}
			go func() { over <- send(t.Context(), 3, []byte{3}) }()
			if m, err = reader.Next(); err != nil || m.ID != 3 {
				t.Fatalf("at last: %v", err)
			}
			m.Release()
			if err := <-over; err != nil {
				t.Error(err)
			}
			w.Stall = 50 * time.Millisecond
			if err := send(t.Context(), 4, bytes.Repeat([]byte{7}, 8<<20)); !errors.Is(err, hop.ErrClosed) || !errors.Is(err, hop.ErrStalled) {
				t.Errorf("to nobody: %v", err)
			}
		})
	}
}

// split makes a pair that writes, and what reads it.
func split(t *testing.T) (w, r net.Conn) {
	a, b := pair(t)
	theirs, ours, err := hop.NewWays()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	defer ours.Close()
	writes, err := hop.Caller(a.(*net.UnixConn), ours)
	if err != nil {
		t.Fatal(err)
	}
	reads, err := hop.Worker(b.(*net.UnixConn), theirs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		writes.Close()
		reads.Close()
	})
	return writes, reads
}

// TestOverrun: frames without tensors do not wait for the socket, so their number has a limit of its own.
func TestOverrun(t *testing.T) {
	a, _ := pair(t)
	broken := make(chan error, 1)
	w := hop.NewWriter(a, func(err error) {
		select {
		case broken <- err:
			a.Close()
		default:
		}
	})
	for {
		f := w.Frame()
		if err := f.Encode(&hop.Message{Kind: hop.KindPing}, hop.Limits{}); err != nil {
			t.Fatal(err)
		}
		if err := w.Send(t.Context(), f, false); err != nil {
			if !errors.Is(err, hop.ErrStalled) || !errors.Is(<-broken, hop.ErrStalled) {
				t.Errorf("got %v", err)
			}
			return
		}
	}
}

func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	listener, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if a, err = net.Dial("unix", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// FuzzFrame: whatever arrives, decoding neither panics nor allocates far beyond what is there; what decodes is the one
// encoding of its message.
func FuzzFrame(f *testing.F) {
	g := guess{rand.New(rand.NewPCG(1, 1))}
	for range 60 {
		f.Add(encode(f, g.message()))
	}
	shared := newRAM(64 << 10)
	for range 20 {
		m := &hop.Message{Kind: hop.KindInfer, Tensors: g.tensors()}
		shared.place(g, m)
		f.Add(encode(f, m))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, stream []byte) {
		const step = 4 << 10
		limits := hop.Limits{Header: 1 << 20, Payload: 16 << 20, Step: step}
		r := hop.NewReader(bytes.NewReader(stream), new(hop.Pool), limits)
		r.Shared = newRAM(64 << 10)
		for at := 0; ; {
			var m *hop.Message
			var err error
			got := allocated(func() { m, err = r.Next() })
			// A header's byte can become at most a few dozen of structure: a spec of 16 bytes takes 80.
			if limit := uint64(64*len(stream) + 1<<17); got > limit {
				t.Fatalf("%d bytes allocated for a stream of %d", got, len(stream))
			}
			if err != nil {
				return
			}
			again := encode(t, m)
			if !bytes.Equal(again, stream[at:at+len(again)]) {
				t.Fatalf("decodes to %+v, which encodes otherwise", plain(m))
			}
			at += len(again)
			m.Release()
		}
	})
}
