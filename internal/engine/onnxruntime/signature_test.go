package onnxruntime_test

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/enginetest"
	"github.com/penstock/penstock/internal/engine/onnxruntime"
	"github.com/penstock/penstock/internal/ort/orttest"
	"github.com/penstock/penstock/internal/tensor"
)

// load writes a model and loads it under the name "m".
func load(t testing.TB, e engine.Engine, m orttest.Model) (engine.Loaded, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, m.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e.Load(t.Context(), engine.Load{Instance: "m", Format: "onnx", Path: path, Warm: true})
}

func infer(t testing.TB, e engine.Engine, inputs ...tensor.Tensor) (*engine.Answer, error) {
	t.Helper()
	answer, err := e.Infer(t.Context(), engine.Request{Instance: "m", Inputs: inputs})
	t.Cleanup(answer.Release)
	return answer, err
}

func TestSignature(t *testing.T) {
	loaded, err := load(t, open(t), orttest.Linear(3, 2, true))
	if err != nil {
		t.Fatal(err)
	}
	in, out := loaded.Signature.Inputs, loaded.Signature.Outputs
	if len(in) != 1 || in[0].Name != "x" || in[0].Datatype != "FP32" || !slices.Equal(in[0].Shape, []int64{-1, 3}) || !slices.Equal(in[0].Symbols, []string{"batch", ""}) {
		t.Errorf("inputs: %+v", in)
	}
	if len(out) != 1 || out[0].Name != "y" || out[0].Datatype != "FP32" || !slices.Equal(out[0].Shape, []int64{-1, 2}) {
		t.Errorf("outputs: %+v", out)
	}
	if loaded.LoadTime <= 0 || loaded.WarmTime <= 0 {
		t.Errorf("times: %+v", loaded)
	}
	if loaded.InTurn {
		t.Error("several runs are said to go on one at a time")
	}
}

func TestEveryDatatype(t *testing.T) {
	// ONNX's numbers of the types.
	for number, typ := range map[int32]tensor.Type{9: tensor.Bool, 2: tensor.Uint8, 4: tensor.Uint16, 12: tensor.Uint32, 13: tensor.Uint64,
		3: tensor.Int8, 5: tensor.Int16, 6: tensor.Int32, 7: tensor.Int64, 10: tensor.FP16, 1: tensor.FP32, 11: tensor.FP64, 16: tensor.BF16, 8: tensor.Bytes} {
		t.Run(typ.String(), func(t *testing.T) {
			e := open(t)
			loaded, err := load(t, e, orttest.Identity(number))
			if err != nil {
				t.Fatal(err)
			}
			if got := loaded.Signature.Inputs[0].Datatype; got != typ.String() {
				t.Errorf("datatype %s", got)
			}
			data := make([]byte, 8*typ.Size())
			for i := range data {
				data[i] = byte(i) & 1
			}
			if typ == tensor.Bytes {
				for i := range 8 {
					data = tensor.AppendBytes(data, []byte(strings.Repeat("\x00ü", i)))
				}
			}
			answer, err := infer(t, e, tensor.Tensor{Name: "x", Type: typ, Shape: []int64{2, 4}, Data: data})
			if err != nil {
				t.Fatal(err)
			}
			if y := answer.Outputs[0]; y.Name != "y" || y.Type != typ || !slices.Equal(y.Shape, []int64{2, 4}) || string(y.Data) != string(data) {
				t.Errorf("got %+v, want data % x", y, data)
			}
		})
	}
}

func TestOptionalInput(t *testing.T) {
	e := open(t)
	if _, err := load(t, e, orttest.Linear(3, 2, true)); err != nil {
		t.Fatal(err)
	}
	x := tensor.FromFloat32("x", []int64{1, 3}, []float32{1, 1, 1})
	answer, err := infer(t, e, x)
	if err != nil || answer.Outputs[0].Float32s()[0] != 3.5 {
		t.Errorf("with the default: %+v, %v", answer, err)
	}
	answer, err = infer(t, e, x, tensor.FromFloat32("b", []int64{2}, []float32{10, 20}))
	if err != nil || !slices.Equal(answer.Outputs[0].Float32s(), []float32{13, 23}) {
		t.Errorf("with a value: %+v, %v", answer, err)
	}
	_, err = infer(t, e, tensor.FromFloat32("b", []int64{2}, []float32{10, 20}))
	if !api.Is(err, api.CodeSignatureMismatch) || !strings.Contains(err.Error(), `"x" is missing`) {
		t.Errorf("without x: %v", err)
	}
}

func TestErrorsNameTensorAndRule(t *testing.T) {
	models := enginetest.WriteModels(t)
	e := open(t)
	t.Cleanup(func() { e.Close() })
	if _, err := e.Load(t.Context(), engine.Load{Instance: "m", Format: "onnx", Path: models.Quick.Path}); err != nil {
		t.Fatal(err)
	}
	told := map[string]string{
		"missing input":        `"x" is missing: FP32 of shape [-1 3]`,
		"unknown input":        `no input "z"; it takes ["x"]`,
		"unknown input beside": `no input "z"`,
		"duplicate input":      `"x" is given twice`,
		"datatype":             `"x" has datatype "INT64", the model takes FP32`,
		"rank":                 `"x" has shape [3] of 1 dimensions, the model takes 2`,
		"fixed dimension":      `"x" has 4 in dimension 1, the model takes 3`,
		"too little data":      `"x": shape [2 3] needs 6 elements of FP32, got 3`,
		"unknown output":       `no output "nope"`,
	}
	for _, r := range models.Refused {
		_, err := e.Infer(t.Context(), engine.Request{Instance: "m", Inputs: r.Inputs, Outputs: r.Outputs})
		if want := told[r.Name]; err == nil || want == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", r.Name, err, want)
		}
	}
	x := tensor.FromFloat32("x", make([]int64, 33), nil)
	if _, err := infer(t, e, x); !api.Is(err, api.CodeBadTensor) {
		t.Errorf("33 dimensions: %v", err)
	}
}

func TestBoolsAreChecked(t *testing.T) {
	e := open(t)
	if _, err := load(t, e, orttest.Identity(orttest.Bool)); err != nil {
		t.Fatal(err)
	}
	for at := range 12 {
		data := make([]byte, 12)
		data[at] = 2
		_, err := infer(t, e, tensor.Tensor{Name: "x", Type: tensor.Bool, Shape: []int64{3, 4}, Data: data})
		if !api.Is(err, api.CodeBadTensor) {
			t.Errorf("2 at %d: %v", at, err)
		}
	}
}

func TestRefusedAtLoad(t *testing.T) {
	// A cast to an 8-bit float, which the protocol has no name for.
	small := orttest.Identity(orttest.Float)
	small.IR, small.Opset = 9, 19
	small.Graph.Nodes = []orttest.Node{{Op: "Cast", Inputs: []string{"x"}, Outputs: []string{"y"}, Attributes: []orttest.Attribute{{Name: "to", Value: int64(17)}}}}
	small.Graph.Outputs[0].Type = 17
	cases := []struct {
		name  string
		model orttest.Model
		told  string
	}{
		{"sequence output", orttest.Sequence(), `output "s" is a sequence`},
		{"elements of eight bits", small, `output "y" has elements of type float8e4m3fn`},
		{"unknown operator", orttest.Model{Graph: orttest.Graph{
			Nodes:  []orttest.Node{{Op: "Nonsense", Inputs: []string{"x"}, Outputs: []string{"y"}}},
			Inputs: orttest.Identity(1).Graph.Inputs, Outputs: orttest.Identity(1).Graph.Outputs}}, "Nonsense"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, open(t), c.model)
			if !api.Is(err, api.CodeLoadFailed) || !strings.Contains(err.Error(), c.told) || strings.Contains(err.Error(), os.TempDir()) {
				t.Errorf("Load: %v, want %q in it and no path", err, c.told)
			}
		})
	}
	e := open(t)
	defer e.Close()
	if _, err := e.Load(t.Context(), engine.Load{Instance: "m", Format: "pickle", Path: "/nowhere"}); !api.Is(err, api.CodeLoadFailed) {
		t.Errorf("another format: %v", err)
	}
}

func TestRuntimeErrorIsTheRequestsFault(t *testing.T) {
	e := open(t)
	m := orttest.Linear(3, 2, false)
	m.Graph.Inputs[0].Shape = []any{"batch", "free"} // the product does not fit then
	if _, err := load(t, e, m); err != nil {
		t.Fatal(err) // warming fails, which says nothing about real inputs
	}
	if _, err := infer(t, e, tensor.FromFloat32("x", []int64{1, 2}, []float32{1, 2})); !api.Is(err, api.CodeInferenceFailed) {
		t.Errorf("Infer: %v", err)
	}
	if _, err := infer(t, e, tensor.FromFloat32("x", []int64{1, 3}, []float32{1, 2, 3})); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	stats, err := e.Stats(t.Context())
	if err != nil || stats.Instances[0].Requests != 2 || stats.Instances[0].Failures != 1 || !strings.HasPrefix(stats.Runtime, "onnxruntime 1.") {
		t.Errorf("Stats: %+v, %v", stats, err)
	}
}

// TestWarmingEnds loads a model that turns for ever on the inputs that warming makes up, where booleans are true.
func TestWarmingEnds(t *testing.T) {
	m := orttest.Count()
	m.Graph.Nodes[0].Inputs = []string{"", "n", "x"} // no count of turns: only the condition ends them
	m.Graph.Inputs[0].Type, m.Graph.Initializers = orttest.Bool, nil
	e := onnxruntime.New(onnxruntime.Config{CacheDir: t.TempDir(), IntraThreads: 2, WarmWait: time.Millisecond})
	if _, err := load(t, e, m); err != nil {
		t.Fatal(err)
	}
	no := tensor.Tensor{Name: "n", Type: tensor.Bool, Shape: []int64{}, Data: []byte{0}}
	answer, err := infer(t, e, no, tensor.FromFloat32("x", []int64{1}, []float32{7}))
	if err != nil || !slices.Equal(answer.Outputs[0].Float32s(), []float32{7}) {
		t.Errorf("%+v, %v", answer, err)
	}
}

func TestWaitsForASlot(t *testing.T) {
	models := enginetest.WriteModels(t)
	e := onnxruntime.New(onnxruntime.Config{CacheDir: t.TempDir(), IntraThreads: 2, MaxRuns: 1})
	defer e.Close()
	if _, err := e.Load(t.Context(), engine.Load{Instance: "m", Format: "onnx", Path: models.Slow.Path}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	for range 2 { // one runs, one waits; both end as the caller wishes
		go func() {
			answer, err := e.Infer(ctx, engine.Request{Instance: "m", Inputs: models.Slow.Inputs})
			answer.Release()
			ended <- err
		}()
	}
	cancel()
	for range 2 {
		if err := <-ended; !api.Is(err, api.CodeCanceled) {
			t.Errorf("Infer: %v", err)
		}
	}
}

// TestInstanceRuns: runs of one model wait for each other where they would only share a processor; another model's do not wait
// for them.
func TestInstanceRuns(t *testing.T) {
	e := onnxruntime.New(onnxruntime.Config{CacheDir: t.TempDir(), IntraThreads: 1, MaxRuns: 3, InstanceRuns: 1})
	defer e.Close()
	for _, name := range []string{"a", "b"} {
		path := filepath.Join(t.TempDir(), name)
		write(t, path, orttest.Count())
		if loaded, err := e.Load(t.Context(), engine.Load{Instance: name, Format: "onnx", Path: path}); err != nil || !loaded.InTurn {
			t.Fatalf("%+v, %v", loaded, err)
		}
	}
	count := func(ctx context.Context, name string, turns uint64) error {
		n := tensor.Tensor{Name: "n", Type: tensor.Int64, Shape: []int64{}, Data: binary.LittleEndian.AppendUint64(nil, turns)}
		answer, err := e.Infer(ctx, engine.Request{Instance: name, Inputs: []tensor.Tensor{n, tensor.FromFloat32("x", []int64{1}, []float32{0})}})
		answer.Release()
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- count(ctx, "a", 1<<62) }()
	shut := false
	for until := time.Now().Add(20 * time.Second); !shut && time.Now().Before(until); <-time.After(time.Millisecond) { // the long run comes first once
		late, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
		shut = api.Is(count(late, "a", 1), api.CodeDeadline)
		stop()
	}
	if !shut {
		t.Error("a second run of a model does not wait for the first")
	}
	if err := count(t.Context(), "b", 1); err != nil {
		t.Errorf("another model's: %v", err)
	}
	cancel()
	if err := <-over; !api.Is(err, api.CodeCanceled) {
		t.Error(err)
	}
}

// TestSharedSymbols: dimensions that the model gives one name must have one size in a request, also where the runtime itself
// would take less, as this sum does.
func TestSharedSymbols(t *testing.T) {
	e := open(t)
	if _, err := load(t, e, orttest.Model{Graph: orttest.Graph{
		Nodes:   []orttest.Node{{Op: "Add", Inputs: []string{"a", "b"}, Outputs: []string{"c"}}},
		Inputs:  []orttest.Value{{Name: "a", Type: orttest.Float, Shape: []any{"batch", "", "n"}}, {Name: "b", Type: orttest.Float, Shape: []any{"batch", "", "m"}}},
		Outputs: []orttest.Value{{Name: "c", Type: orttest.Float, Shape: []any{"batch", "", ""}}}}}); err != nil {
		t.Fatal(err)
	}
	of := func(name string, shape ...int64) tensor.Tensor {
		count := shape[0] * shape[1] * shape[2]
		return tensor.FromFloat32(name, shape, make([]float32, count))
	}
	for range 2 { // what one request bound is forgotten by the next
		if _, err := infer(t, e, of("a", 2, 1, 3), of("b", 2, 4, 1)); err != nil {
			t.Errorf("one size: %v", err)
		}
		_, err := infer(t, e, of("b", 1, 1, 1), of("a", 3, 1, 1))
		if want := `input "a" has 3 in dimension 0, which the model calls "batch"; input "b" has 1 there`; !api.Is(err, api.CodeSignatureMismatch) || !strings.Contains(err.Error(), want) {
			t.Errorf("two sizes: %v, want %q", err, want)
		}
	}
}
