package ort_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/ort/orttest"
)

func TestDescribe(t *testing.T) {
	rt := open(t)
	m := orttest.Linear(3, 2, true)
	m.Graph.Outputs[0].Shape = nil
	s := load(t, rt, m, ort.SessionOptions{})
	in, out, def := s.Inputs(), s.Outputs(), s.Initializers()
	if len(in) != 1 || in[0].Name != "x" || !in[0].Ranked || !slices.Equal(in[0].Shape, []int64{-1, 3}) || !slices.Equal(in[0].Symbols, []string{"batch", ""}) {
		t.Errorf("inputs: %+v", in)
	}
	if len(out) != 1 || out[0].Name != "y" || out[0].Type != ort.Float32 {
		t.Errorf("outputs: %+v", out)
	}
	if len(def) != 1 || def[0].Name != "b" || !slices.Equal(def[0].Shape, []int64{2}) {
		t.Errorf("initializers: %+v", def)
	}
	seq := load(t, rt, orttest.Sequence(), ort.SessionOptions{})
	if out := seq.Outputs(); len(out) != 1 || out[0].Kind != ort.KindSequence || out[0].Name != "s" {
		t.Errorf("outputs of a sequence: %+v", out)
	}
	r, err := seq.Run([]ort.Tensor{floats("x", []int64{1}, 1)}, nil, nil)
	if err == nil {
		t.Error("a sequence came out as a tensor")
	}
	r.Release()
}

func TestUnranked(t *testing.T) {
	m := orttest.Identity(orttest.Float)
	m.Graph.Inputs[0].Shape, m.Graph.Outputs[0].Shape = nil, nil
	s := load(t, open(t), m, ort.SessionOptions{})
	if in := s.Inputs()[0]; in.Ranked || in.Shape != nil {
		t.Errorf("input: %+v", in)
	}
	for _, shape := range [][]int64{{}, {2}, {1, 2, 1}} {
		values := make([]float32, 2)[:max(1, min(2, 2*len(shape)))]
		out := run(t, s, floats("x", shape, values...))
		if !slices.Equal(out[0].Shape, shape) {
			t.Errorf("shape %v came out as %v", shape, out[0].Shape)
		}
	}
}

func TestOptionalInput(t *testing.T) {
	s := load(t, open(t), orttest.Linear(3, 2, true), ort.SessionOptions{})
	x := floats("x", []int64{1, 3}, 1, 1, 1)
	if out := run(t, s, x); !bytes.Equal(out[0].Data, orttest.Floats(3.5, 3.5)) {
		t.Errorf("with the default: % x", out[0].Data)
	}
	if out := run(t, s, floats("b", []int64{2}, 10, 20), x); !bytes.Equal(out[0].Data, orttest.Floats(13, 23)) {
		t.Errorf("with a value: % x", out[0].Data)
	}
}

func TestFreeDimensions(t *testing.T) {
	rt := open(t)
	s := load(t, rt, orttest.Linear(3, 2, false), ort.SessionOptions{FreeDimensions: map[string]int64{"batch": 4}})
	if in := s.Inputs()[0]; !slices.Equal(in.Shape, []int64{4, 3}) {
		t.Errorf("input: %+v", in)
	}
	if _, err := s.Run([]ort.Tensor{floats("x", []int64{1, 3}, 1, 1, 1)}, nil, nil); err == nil {
		t.Error("a batch of 1 was taken where 4 is fixed")
	}
}

func TestOptimizedModelIsSaved(t *testing.T) {
	rt := open(t)
	for _, name := range []string{"fast.onnx", "fast.ort"} {
		path := filepath.Join(t.TempDir(), name)
		load(t, rt, orttest.Linear(3, 2, false), ort.SessionOptions{OptimizedModelPath: path, Optimization: ort.OptimizeExtended})
		s, err := rt.LoadFile(t.Context(), path, ort.SessionOptions{Optimization: ort.OptimizeNone})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer s.Close()
		if out := run(t, s, floats("x", []int64{1, 3}, 1, 2, 3)); !bytes.Equal(out[0].Data, orttest.Floats(6.5, 6.5)) {
			t.Errorf("%s: % x", name, out[0].Data)
		}
	}
}

func TestPrepackedWeights(t *testing.T) {
	rt := open(t)
	p, err := rt.NewPrepackedWeights()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	for range 3 {
		s := load(t, rt, orttest.Linear(64, 64, false), ort.SessionOptions{Prepacked: p})
		out := run(t, s, ort.Tensor{Name: "x", Type: ort.Float32, Shape: []int64{1, 64}, Data: make([]byte, 256)})
		if !bytes.Equal(out[0].Data[:4], orttest.Floats(0.5)) {
			t.Errorf("% x", out[0].Data[:4])
		}
	}
}

func TestProfile(t *testing.T) {
	s := load(t, open(t), orttest.Linear(3, 2, false), ort.SessionOptions{ProfilePrefix: filepath.Join(t.TempDir(), "profile")})
	run(t, s, floats("x", []int64{1, 3}, 1, 2, 3))
	path, err := s.EndProfiling()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(content, []byte("MatMul")) && !bytes.Contains(content, []byte("Gemm")) {
		t.Errorf("profile %s: %v\n%s", path, err, content)
	}
}

func TestOptionsAreTaken(t *testing.T) {
	rt := open(t)
	s := load(t, rt, orttest.Linear(3, 2, false), ort.SessionOptions{
		OwnThreads: true, IntraThreads: 1, InterThreads: 1, Parallel: true, NoMemoryPattern: true, NoArena: true,
		Deterministic: true, LogID: "test", Config: map[string]string{"session.disable_prepacking": "1"},
	})
	options, err := rt.NewRunOptions()
	if err != nil {
		t.Fatal(err)
	}
	defer options.Close()
	if err := options.SetTag("run"); err != nil {
		t.Error(err)
	}
	if err := options.SetLogLevel(2); err != nil {
		t.Error(err)
	}
	if err := options.AddConfig("", "x"); err == nil {
		t.Error("an entry without a name was taken")
	}
	r, err := s.Run([]ort.Tensor{floats("x", []int64{1, 3}, 1, 2, 3)}, nil, options)
	if err != nil {
		t.Fatal(err)
	}
	r.Release()
	if _, err := rt.LoadBytes(t.Context(), orttest.Identity(1).Encode(), ort.SessionOptions{Optimization: 17}); err == nil {
		t.Error("an unknown optimization level was taken")
	}
	keeps := ort.SessionOptions{Config: map[string]string{"session.use_ort_model_bytes_directly": "1"}}
	if _, err := rt.LoadBytes(t.Context(), orttest.Identity(1).Encode(), keeps); err == nil {
		t.Error("an option that keeps the model's bytes was taken")
	}
}

func TestAllocatorStats(t *testing.T) {
	rt := open(t)
	s := load(t, rt, orttest.Linear(64, 64, false), ort.SessionOptions{})
	run(t, s, ort.Tensor{Name: "x", Type: ort.Float32, Shape: []int64{1, 64}, Data: make([]byte, 256)})
	stats, err := s.AllocatorStats()
	if err != nil {
		t.Fatal(err)
	}
	if stats["InUse"] == "" || stats["TotalAllocated"] == "" {
		t.Errorf("statistics: %v", stats)
	}
	shrink, err := rt.NewRunOptions()
	if err != nil {
		t.Fatal(err)
	}
	defer shrink.Close()
	if err := shrink.AddConfig("memory.enable_memory_arena_shrinkage", "cpu:0"); err != nil {
		t.Error(err)
	}
	r, err := s.Run([]ort.Tensor{{Name: "x", Type: ort.Float32, Shape: []int64{1, 64}, Data: make([]byte, 256)}}, nil, shrink)
	if err != nil {
		t.Fatal(err)
	}
	r.Release()
}

func TestRunInto(t *testing.T) {
	s := load(t, open(t), orttest.Linear(3, 2, false), ort.SessionOptions{})
	x := []ort.Tensor{floats("x", []int64{2, 3}, 1, 2, 3, 4, 5, 6)}
	y := floats("y", []int64{2, 2}, 0, 0, 0, 0)
	if err := s.RunInto(x, []ort.Tensor{y}, nil); err != nil {
		t.Fatal(err)
	}
	if want := orttest.Floats(6.5, 6.5, 15.5, 15.5); !bytes.Equal(y.Data, want) {
		t.Errorf("got % x, want % x", y.Data, want)
	}
	cases := map[string]ort.Tensor{
		"shape of another result": floats("y", []int64{1, 2}, 0, 0),
		"type of another result":  {Name: "y", Type: ort.Int32, Shape: []int64{2, 2}, Data: make([]byte, 16)},
		"too little memory":       {Name: "y", Type: ort.Float32, Shape: []int64{2, 2}, Data: make([]byte, 8)},
		"strings":                 {Name: "y", Type: ort.String, Shape: []int64{0}},
		"unknown output":          floats("z", []int64{2, 2}, 0, 0, 0, 0),
		"not aligned":             {Name: "y", Type: ort.Float32, Shape: []int64{2, 2}, Data: make([]byte, 17)[1:]},
	}
	for name, bad := range cases {
		if err := s.RunInto(x, []ort.Tensor{bad}, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if out := run(t, s, x...); !bytes.Equal(out[0].Data, y.Data) {
		t.Errorf("afterwards: % x", out[0].Data)
	}
}

func TestBadInputs(t *testing.T) {
	s := load(t, open(t), orttest.Linear(3, 2, false), ort.SessionOptions{})
	x := floats("x", []int64{1, 3}, 1, 2, 3)
	cases := map[string][]ort.Tensor{
		"none":                  nil,
		"unknown":               {floats("z", []int64{1, 3}, 1, 2, 3)},
		"one too many":          {x, x},
		"wrong type":            {{Name: "x", Type: ort.Int32, Shape: []int64{1, 3}, Data: make([]byte, 12)}},
		"undefined type":        {{Name: "x", Shape: []int64{1, 3}, Data: make([]byte, 12)}},
		"wrong size":            {floats("x", []int64{1, 4}, 1, 2, 3, 4)},
		"wrong rank":            {floats("x", []int64{3}, 1, 2, 3)},
		"negative size":         {floats("x", []int64{-1, -3}, 1, 2, 3)},
		"sizes that overflow":   {floats("x", []int64{1 << 62, 1 << 62}, 1, 2, 3)},
		"too little data":       {floats("x", []int64{2, 3}, 1, 2, 3)},
		"too much data":         {floats("x", []int64{1, 3}, 1, 2, 3, 4)},
		"too many dimensions":   {floats("x", make([]int64, 33))},
		"strings without end":   {{Name: "x", Type: ort.String, Shape: []int64{1}, Data: []byte{9, 0, 0, 0, 'a'}}},
		"strings, half a size":  {{Name: "x", Type: ort.String, Shape: []int64{1}, Data: []byte{9, 0}}},
		"strings, huge promise": {{Name: "x", Type: ort.String, Shape: []int64{1 << 35}, Data: []byte{0, 0, 0, 0}}},
	}
	for name, in := range cases {
		r, err := s.Run(in, nil, nil)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		r.Release()
	}
	if _, err := s.Run([]ort.Tensor{x}, []string{"nope"}, nil); err == nil {
		t.Error("unknown output: no error")
	}
	if _, err := s.Run([]ort.Tensor{x}, []string{"y", "y"}, nil); err == nil {
		t.Error("more outputs than the model has: no error")
	}
	run(t, s, x)
}

func TestUnalignedInput(t *testing.T) {
	s := load(t, open(t), orttest.Linear(3, 2, false), ort.SessionOptions{})
	data := append(make([]byte, 1, 16), orttest.Floats(1, 2, 3)...)[1:]
	out := run(t, s, ort.Tensor{Name: "x", Type: ort.Float32, Shape: []int64{1, 3}, Data: data})
	if !bytes.Equal(out[0].Data, orttest.Floats(6.5, 6.5)) {
		t.Errorf("% x", out[0].Data)
	}
}

func TestResultOutlivesAll(t *testing.T) {
	rt, err := ort.Open(t.TempDir(), ort.Options{IntraThreads: 2})
	if err != nil {
		t.Fatal(err)
	}
	m := orttest.Linear(3, 2, false)
	// The second output is an initializer: memory of the session, not of the result.
	m.Graph.Outputs = append(m.Graph.Outputs, orttest.Value{Name: "b", Type: orttest.Float, Shape: []any{2}})
	s, err := rt.LoadBytes(t.Context(), m.Encode(), ort.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Run([]ort.Tensor{floats("x", []int64{1, 3}, 1, 2, 3)}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	s.Close()
	rt.Close()
	rt.Close()
	if !bytes.Equal(r.Outputs[0].Data, orttest.Floats(6.5, 6.5)) || !bytes.Equal(r.Outputs[1].Data, orttest.Floats(0.5, 0.5)) {
		t.Errorf("got %+v", r.Outputs)
	}
	if _, err := s.Run(nil, nil, nil); !errors.Is(err, ort.ErrClosed) {
		t.Errorf("Run after Close: %v", err)
	}
	if _, err := s.AllocatorStats(); !errors.Is(err, ort.ErrClosed) {
		t.Errorf("AllocatorStats after Close: %v", err)
	}
	if _, err := rt.LoadBytes(t.Context(), m.Encode(), ort.SessionOptions{}); !errors.Is(err, ort.ErrClosed) {
		t.Errorf("LoadBytes after Close: %v", err)
	}
	r.Release()
	r.Release()
}

func TestManyRunsAtOnce(t *testing.T) {
	s := load(t, open(t), orttest.Linear(3, 2, false), ort.SessionOptions{})
	stop := make(chan struct{})
	var collector, group sync.WaitGroup
	collector.Go(func() { // what is not pinned would move or go
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	})
	for i := range 8 {
		group.Go(func() {
			v := float32(i)
			for range 200 {
				r, err := s.Run([]ort.Tensor{floats("x", []int64{1, 3}, v, v, v)}, []string{"y"}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if want := orttest.Floats(3*v+0.5, 3*v+0.5); !bytes.Equal(r.Outputs[0].Data, want) {
					t.Errorf("got % x, want % x", r.Outputs[0].Data, want)
				}
				r.Release()
			}
		})
	}
	group.Wait()
	close(stop)
	collector.Wait()
}

func TestOpenAgain(t *testing.T) {
	first := open(t)
	second, err := ort.Open("", ort.Options{IntraThreads: 2})
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
	if _, err := ort.Open("", ort.Options{IntraThreads: 3}); err == nil {
		t.Error("other threads were taken")
	}
	if _, err := ort.Open("", ort.Options{IntraThreads: -1}); err == nil {
		t.Error("negative threads were taken")
	}
	load(t, first, orttest.Identity(orttest.Float), ort.SessionOptions{})
}

func TestLog(t *testing.T) {
	var text bytes.Buffer
	rt, err := ort.Open(t.TempDir(), ort.Options{IntraThreads: 2, Log: slog.New(slog.NewTextHandler(&text, nil))})
	if err != nil {
		t.Fatal(err)
	}
	m := orttest.Identity(orttest.Float)
	m.Graph.Initializers = []orttest.Tensor{{Name: "nobody_uses_this", Type: orttest.Float, Dims: []int64{1}, Raw: orttest.Floats(1)}}
	s, err := rt.LoadBytes(t.Context(), m.Encode(), ort.SessionOptions{LogID: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	rt.Close()
	if got := text.String(); !strings.Contains(got, "nobody_uses_this") || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "log_id=mine") {
		t.Errorf("log: %s", got)
	}
}

func TestExternalData(t *testing.T) {
	rt := open(t)
	outer := t.TempDir()
	folder := filepath.Join(outer, "model")
	write := func(path string, content []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := orttest.Linear(3, 2, false)
	write(filepath.Join(folder, "w.bin"), m.Graph.Initializers[0].Raw)
	write(filepath.Join(outer, "secret.bin"), m.Graph.Initializers[0].Raw)
	for name, link := range map[string]func(from, to string) error{"link.bin": os.Symlink, "hard.bin": os.Link} {
		if err := link(filepath.Join(outer, "secret.bin"), filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outer, filepath.Join(folder, "way")); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, file string
		ok         bool
	}{
		{"beside", "w.bin", true},
		{"not there", "v.bin", false},
		{"above", "../secret.bin", false},
		{"absolute", filepath.Join(outer, "secret.bin"), false},
		{"above and back", "../model/../secret.bin", false},
		{"symbolic link", "link.bin", false},
		{"symbolic link on the way", "way/secret.bin", false},
		{"hard link", "hard.bin", true}, // as the registry places blobs; nobody else writes there
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m.Graph.Initializers[0].File = c.file
			path := filepath.Join(folder, "model.onnx")
			write(path, m.Encode())
			s, err := rt.LoadFile(t.Context(), path, ort.SessionOptions{})
			if (err == nil) != c.ok {
				t.Fatalf("LoadFile: %v", err)
			}
			if err != nil {
				return
			}
			defer s.Close()
			if out := run(t, s, floats("x", []int64{1, 3}, 1, 2, 3)); !bytes.Equal(out[0].Data, orttest.Floats(6.5, 6.5)) {
				t.Errorf("% x", out[0].Data)
			}
		})
	}
}

// TestInputsThatComeAndGo gives ever new small inputs while the garbage collector runs without pause. An address that a
// call leaves behind in C's memory must never be seen by the collector again: its object may be gone by then. (Writing
// over it as a pointer shows it to the collector's write barrier, which ends the process.)
func TestInputsThatComeAndGo(t *testing.T) {
	rt := open(t)
	s := load(t, rt, orttest.Identity(orttest.Float), ort.SessionOptions{})
	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	})
	defer all.Wait()
	defer close(stop)
	rounds := 20_000
	if testing.Short() {
		rounds = 4_000
	}
	for i := range rounds {
		batch := 1 + int64(i*7%97) // of many sizes, so that a gone object's place is not taken at once by the next
		input := ort.Tensor{Name: "x", Type: orttest.Float, Shape: []int64{batch, 4}, Data: make([]byte, batch*16)}
		result, err := s.Run([]ort.Tensor{input}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		result.Release()
	}
}
