package ort_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/ort/orttest"
)

func open(t testing.TB) *ort.Runtime {
	t.Helper()
	rt, err := ort.Open(t.TempDir(), ort.Options{IntraThreads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	return rt
}

func load(t testing.TB, rt *ort.Runtime, m orttest.Model, options ort.SessionOptions) *ort.Session {
	t.Helper()
	s, err := rt.LoadBytes(t.Context(), m.Encode(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func floats(name string, shape []int64, values ...float32) ort.Tensor {
	return ort.Tensor{Name: name, Type: ort.Float32, Shape: shape, Data: orttest.Floats(values...)}
}

func run(t testing.TB, s *ort.Session, inputs ...ort.Tensor) []ort.Tensor {
	t.Helper()
	r, err := s.Run(inputs, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Release)
	return r.Outputs
}

func TestVersion(t *testing.T) {
	rt := open(t)
	if v := rt.Version(); !strings.HasPrefix(v, "1.") {
		t.Errorf("Version() = %q", v)
	}
	if b := rt.Build(); !strings.Contains(b, "ORT Build Info") {
		t.Errorf("Build() = %q", b)
	}
}

func TestLinear(t *testing.T) {
	s := load(t, open(t), orttest.Linear(3, 2, false), ort.SessionOptions{})
	out := run(t, s, floats("x", []int64{2, 3}, 1, 2, 3, 4, 5, 6))
	want := orttest.Floats(6.5, 6.5, 15.5, 15.5)
	if len(out) != 1 || out[0].Name != "y" || out[0].Type != ort.Float32 || !slices.Equal(out[0].Shape, []int64{2, 2}) || !bytes.Equal(out[0].Data, want) {
		t.Errorf("got %+v", out)
	}
}

func TestEveryTypeRoundTrips(t *testing.T) {
	rt := open(t)
	types := []ort.ElementType{ort.Bool, ort.Uint8, ort.Uint16, ort.Uint32, ort.Uint64, ort.Int8, ort.Int16, ort.Int32, ort.Int64,
		ort.Float16, ort.Float32, ort.Float64, ort.BFloat16, ort.String}
	models := map[string]func(int32) orttest.Model{"identity": orttest.Identity, "through": orttest.Through}
	for name, model := range models {
		for _, typ := range types {
			t.Run(name+"/"+typ.String(), func(t *testing.T) {
				s := load(t, rt, model(int32(typ)), ort.SessionOptions{})
				if in := s.Inputs()[0]; in.Type != typ || in.Kind != ort.KindTensor {
					t.Errorf("input is %v %v", in.Kind, in.Type)
				}
				for _, rows := range []int64{0, 1, 5} {
					data := payload(typ, int(4*rows))
					out := run(t, s, ort.Tensor{Name: "x", Type: typ, Shape: []int64{rows, 4}, Data: data})
					if out[0].Type != typ || !slices.Equal(out[0].Shape, []int64{rows, 4}) || !bytes.Equal(out[0].Data, data) {
						t.Errorf("%d rows: got %v %v, %d bytes %q, want %q", rows, out[0].Type, out[0].Shape, len(out[0].Data), out[0].Data, data)
					}
				}
			})
		}
	}
}

func payload(typ ort.ElementType, count int) []byte {
	data := make([]byte, count*typ.Size())
	for i := range data {
		data[i] = byte(i) & 1
		if typ != ort.Bool {
			data[i] = byte(i*7 + 1)
		}
	}
	if typ == ort.String {
		for i := range count {
			element := strings.Repeat("a\x00é", i%5)
			data = binary.LittleEndian.AppendUint32(data, uint32(len(element)))
			data = append(data, element...)
		}
	}
	return data
}

func TestBadModels(t *testing.T) {
	rt := open(t)
	cases := map[string][]byte{
		"empty":      {},
		"not onnx":   []byte("hello, this is no protobuf at all"),
		"truncated":  orttest.Linear(8, 8, false).Encode()[:100],
		"unknown op": orttest.Model{Graph: orttest.Graph{Nodes: []orttest.Node{{Op: "Nonsense", Inputs: []string{"x"}, Outputs: []string{"y"}}}, Inputs: orttest.Identity(1).Graph.Inputs, Outputs: orttest.Identity(1).Graph.Outputs}}.Encode(),
	}
	for name, model := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := rt.LoadBytes(t.Context(), model, ort.SessionOptions{})
			var e *ort.Error
			if !errors.As(err, &e) || e.Code == 0 || e.Message == "" {
				t.Errorf("LoadBytes: %v", err)
			}
		})
	}
	_, err := rt.LoadFile(t.Context(), filepath.Join(t.TempDir(), "none.onnx"), ort.SessionOptions{})
	var e *ort.Error
	if !errors.As(err, &e) || e.Code != ort.NoSuchFile {
		t.Errorf("LoadFile of a file that is not there: %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := rt.LoadBytes(canceled, orttest.Identity(1).Encode(), ort.SessionOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("LoadBytes with an ended context: %v", err)
	}
}

func TestTerminate(t *testing.T) {
	rt := open(t)
	s := load(t, rt, orttest.Count(), ort.SessionOptions{})
	n := ort.Tensor{Name: "n", Type: ort.Int64, Data: orttest.Int64s(1 << 60)}
	options, err := rt.NewRunOptions()
	if err != nil {
		t.Fatal(err)
	}
	defer options.Close()
	ended := make(chan error)
	go func() {
		_, err := s.Run([]ort.Tensor{n, floats("x", []int64{1}, 0)}, nil, options)
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("ended by itself: %v", err)
	default:
	}
	if err := options.Terminate(); err != nil {
		t.Fatal(err)
	}
	var e *ort.Error
	if err := <-ended; !errors.As(err, &e) || e.Code != ort.Fail {
		t.Errorf("Run after Terminate: %v", err)
	}
	if err := options.Resume(); err != nil {
		t.Fatal(err)
	}
	n.Data = orttest.Int64s(3)
	r, err := s.Run([]ort.Tensor{n, floats("x", []int64{1}, 0)}, nil, options)
	if err != nil || !bytes.Equal(r.Outputs[0].Data, orttest.Floats(3)) {
		t.Errorf("Run after Resume: %v %v", r, err)
	}
	r.Release()
}

func BenchmarkRun(b *testing.B) {
	s := load(b, open(b), orttest.Linear(4, 4, false), ort.SessionOptions{})
	in := []ort.Tensor{floats("x", []int64{1, 4}, 1, 2, 3, 4)}
	b.ReportAllocs()
	for b.Loop() {
		r, err := s.Run(in, nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		r.Release()
	}
}
