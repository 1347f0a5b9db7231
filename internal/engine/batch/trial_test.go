package batch_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/ort/orttest"
)

func floats(n int, random *rand.Rand) []float32 {
	list := make([]float32, n)
	for i := range list {
		list[i] = float32(random.NormFloat64()) / 8
	}
	return list
}

// layers is a network of dense layers of random weights with tanh between: sizes are its inputs and outputs.
func layers(random *rand.Rand, sizes ...int) orttest.Model {
	var g orttest.Graph
	g.Inputs = []orttest.Value{{Name: "x", Type: orttest.Float, Shape: []any{"batch", sizes[0]}}}
	name := "x"
	for i, n := range sizes[1:] {
		k, w, b, h := sizes[i], fmt.Sprint("w", i), fmt.Sprint("b", i), fmt.Sprint("h", i)
		g.Initializers = append(g.Initializers,
			orttest.Tensor{Name: w, Type: orttest.Float, Dims: []int64{int64(k), int64(n)}, Raw: orttest.Floats(floats(k*n, random)...)},
			orttest.Tensor{Name: b, Type: orttest.Float, Dims: []int64{int64(n)}, Raw: orttest.Floats(floats(n, random)...)})
		g.Nodes = append(g.Nodes, orttest.Node{Op: "Gemm", Inputs: []string{name, w, b}, Outputs: []string{h}},
			orttest.Node{Op: "Tanh", Inputs: []string{h}, Outputs: []string{h + "t"}})
		name = h + "t"
	}
	g.Outputs = []orttest.Value{{Name: name, Type: orttest.Float, Shape: []any{"batch", sizes[len(sizes)-1]}}}
	return orttest.Model{Graph: g}
}

// convolution is one of 3x3 over images of any size.
func convolution(random *rand.Rand, channels, filters int) orttest.Model {
	return orttest.Model{Graph: orttest.Graph{
		Nodes:        []orttest.Node{{Op: "Conv", Inputs: []string{"x", "w"}, Outputs: []string{"c"}}, {Op: "GlobalAveragePool", Inputs: []string{"c"}, Outputs: []string{"y"}}},
		Inputs:       []orttest.Value{{Name: "x", Type: orttest.Float, Shape: []any{"batch", channels, "height", "width"}}},
		Outputs:      []orttest.Value{{Name: "y", Type: orttest.Float, Shape: []any{"batch", filters, 1, 1}}},
		Initializers: []orttest.Tensor{{Name: "w", Type: orttest.Float, Dims: []int64{int64(filters), int64(channels), 3, 3}, Raw: orttest.Floats(floats(9*filters*channels, random)...)}},
	}}
}

// one is a graph of one operator from x to y, [batch, 4] floats unless said.
func one(op string, attributes []orttest.Attribute, out ...any) orttest.Model {
	if out == nil {
		out = []any{"batch", 4}
	}
	return orttest.Model{Graph: orttest.Graph{
		Nodes:   []orttest.Node{{Op: op, Inputs: []string{"x"}, Outputs: []string{"y"}, Attributes: attributes}},
		Inputs:  []orttest.Value{{Name: "x", Type: orttest.Float, Shape: []any{"batch", 4}}},
		Outputs: []orttest.Value{{Name: "y", Type: orttest.Float, Shape: out}},
	}}
}

func write(t testing.TB, m orttest.Model) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, m.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t testing.TB, e engine.Engine, path string, settings *api.Batching) api.BatchPlan {
	t.Helper()
	loaded, err := e.Load(t.Context(), engine.Load{Instance: "m", Format: "onnx", Path: path, Warm: true, Options: api.LoadOptions{Batching: settings}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v in %v", *loaded.Batch, loaded.WarmTime)
	return *loaded.Batch
}

// TestWhatIsBatched loads real models. Whether it pays depends on the machine, so these ask for batching, apart from
// those that must never be batched, which say why.
func TestWhatIsBatched(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	constant := orttest.Model{Graph: orttest.Graph{
		Nodes:   []orttest.Node{{Op: "Identity", Inputs: []string{"x"}, Outputs: []string{"y"}}},
		Inputs:  []orttest.Value{{Name: "x", Type: orttest.Float, Shape: []any{1, 4}}},
		Outputs: []orttest.Value{{Name: "y", Type: orttest.Float, Shape: []any{1, 4}}},
	}}
	column := orttest.Model{Graph: orttest.Graph{
		Nodes:        []orttest.Node{{Op: "Reshape", Inputs: []string{"x", "shape"}, Outputs: []string{"y"}}},
		Inputs:       []orttest.Value{{Name: "x", Type: orttest.Float, Shape: []any{"batch", 4}}},
		Outputs:      []orttest.Value{{Name: "y", Type: orttest.Float, Shape: []any{"", 1}}},
		Initializers: []orttest.Tensor{{Name: "shape", Type: orttest.Int64, Dims: []int64{2}, Raw: orttest.Int64s(-1, 1)}},
	}}
	two := func(a, b string) orttest.Model {
		return orttest.Model{Graph: orttest.Graph{
			Nodes:   []orttest.Node{{Op: "Add", Inputs: []string{"x", "z"}, Outputs: []string{"y"}}},
			Inputs:  []orttest.Value{{Name: "x", Type: orttest.Float, Shape: []any{a, 4}}, {Name: "z", Type: orttest.Float, Shape: []any{b, 4}}},
			Outputs: []orttest.Value{{Name: "y", Type: orttest.Float, Shape: []any{"", 4}}},
		}}
	}
	for name, tc := range map[string]struct {
		model orttest.Model
		why   string // "" when it is batched
	}{
		"dense":                  {layers(random, 64, 64, 10), ""},
		"dense, larger":          {layers(random, 512, 512, 512), ""},
		"images":                 {convolution(random, 3, 8), ""},
		"identity":               {orttest.Identity(orttest.Int64), ""},
		"text":                   {orttest.Identity(orttest.String), ""},
		"softmax over a row":     {one("Softmax", []orttest.Attribute{{Name: "axis", Value: int64(1)}}), ""},
		"two inputs":             {two("batch", "batch"), ""},
		"no batch dimension":     {constant, "no batch dimension"},
		"slow":                   {orttest.Count(), "no batch dimension"},
		"softmax over the batch": {one("Softmax", []orttest.Attribute{{Name: "axis", Value: int64(0)}}), "depends on the rows beside it"},
		"transposed":             {one("Transpose", nil, 4, "batch"), "no batch dimension"},
		"more rows than came":    {column, "has shape [4 1]"},
		"two dimensions":         {two("rows", "columns"), "need not be equal"},
		"random":                 {one("RandomUniformLike", nil), "equal requests do not give equal answers"},
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t)
			defer func() { _ = e.Close() }()
			plan := load(t, e, write(t, tc.model), &api.Batching{Mode: api.BatchOn, MaxSize: 16})
			if batched := plan.MaxSize > 1; batched != (tc.why == "") || !strings.Contains(plan.Why, tc.why) {
				t.Errorf("%+v, want %q", plan, tc.why)
			}
			loaded := load(t, e, write(t, tc.model), nil)
			if stats, err := e.Stats(t.Context()); err != nil || stats.Instances[0].Requests != 0 || stats.Instances[0].Failures != 0 {
				t.Errorf("the trial is counted: %+v, %v (%+v)", stats, err, loaded)
			}
		})
	}
}
