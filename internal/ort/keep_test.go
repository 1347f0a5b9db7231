package ort_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/ort/orttest"
)

// graph is a model of the walk, what to ask it, and what must come out, by output name.
type graph struct {
	name  string
	model orttest.Model
	ask   func(random *rand.Rand) (inputs []ort.Tensor, want map[string][]byte)
}

func values(random *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(random.IntN(1000))
	}
	return v
}

// graphs have what a run that writes into memory of an earlier run could stumble over: outputs that are inputs or
// initializers, whose shape depends on what is in the inputs, that a branch or a loop hands through, and sizes on both
// sides of the limit up to which tensors are kept.
func graphs() []graph {
	rows := func(random *rand.Rand) int {
		if random.IntN(20) == 0 {
			return 2000 // over the limit
		}
		return random.IntN(4)
	}
	same := func(name string) func(random *rand.Rand) ([]ort.Tensor, map[string][]byte) {
		return func(random *rand.Rand) ([]ort.Tensor, map[string][]byte) {
			n := rows(random)
			x := floats("x", []int64{int64(n), 4}, values(random, 4*n)...)
			return []ort.Tensor{x}, map[string][]byte{name: x.Data}
		}
	}
	linear := orttest.Linear(3, 2, true)
	linear.Graph.Outputs = append(linear.Graph.Outputs, orttest.Value{Name: "b", Type: orttest.Float, Shape: []any{2}})
	return []graph{
		{"identity", orttest.Identity(orttest.Float), same("y")},
		{"through", orttest.Through(orttest.Float), same("x")},
		{"linear with its bias as an output", linear, func(random *rand.Rand) ([]ort.Tensor, map[string][]byte) {
			n, b := rows(random), []float32{0.5, 0.5}
			v := values(random, 3*n)
			inputs := []ort.Tensor{floats("x", []int64{int64(n), 3}, v...)}
			if random.IntN(2) == 0 {
				b = values(random, 2)
				inputs = append(inputs, floats("b", []int64{2}, b...))
			}
			if random.IntN(2) == 0 && len(inputs) > 1 {
				inputs[0], inputs[1] = inputs[1], inputs[0]
			}
			var y []float32
			for ; len(v) > 0; v = v[3:] {
				y = append(y, v[0]+v[1]+v[2]+b[0], v[0]+v[1]+v[2]+b[1])
			}
			return inputs, map[string][]byte{"y": orttest.Floats(y...), "b": orttest.Floats(b...)}
		}},
		{"transposed", orttest.Model{Graph: orttest.Graph{
			Nodes:   []orttest.Node{{Op: "Transpose", Inputs: []string{"x"}, Outputs: []string{"y"}}},
			Inputs:  []orttest.Value{{Name: "x", Type: orttest.Float, Shape: []any{"a", "b"}}},
			Outputs: []orttest.Value{{Name: "y", Type: orttest.Float, Shape: []any{"b", "a"}}},
		}}, func(random *rand.Rand) ([]ort.Tensor, map[string][]byte) {
			shape := [][2]int{{2, 3}, {3, 2}, {6, 1}, {1, 6}}[random.IntN(4)] // of one size
			x := values(random, 6)
			y := make([]float32, 6)
			for i := range x {
				y[i%shape[1]*shape[0]+i/shape[1]] = x[i]
			}
			return []ort.Tensor{floats("x", []int64{int64(shape[0]), int64(shape[1])}, x...)}, map[string][]byte{"y": orttest.Floats(y...)}
		}},
		{"branch", orttest.Branch(), func(random *rand.Rand) ([]ort.Tensor, map[string][]byte) {
			x := values(random, 1+random.IntN(3))
			double := ort.Tensor{Name: "double", Type: ort.Bool, Data: []byte{byte(random.IntN(2))}}
			y := x
			if double.Data[0] == 1 {
				y = append(append([]float32{}, x...), x...)
			}
			return []ort.Tensor{double, floats("x", []int64{int64(len(x))}, x...)}, map[string][]byte{"y": orttest.Floats(y...)}
		}},
		{"loop", orttest.Count(), func(random *rand.Rand) ([]ort.Tensor, map[string][]byte) {
			n, x := random.Int64N(3), values(random, 1)
			return []ort.Tensor{{Name: "n", Type: ort.Int64, Data: orttest.Int64s(n)}, floats("x", []int64{1}, x...)},
				map[string][]byte{"y": orttest.Floats(x[0] + float32(n))}
		}},
	}
}

// TestWalkOverKeptMemory runs each graph from several goroutines with inputs of few shapes, so that memory of earlier
// runs is used again and again, and holds answers for a while before it compares them.
func TestWalkOverKeptMemory(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rt := open(t)
	for _, g := range graphs() {
		t.Run(g.name, func(t *testing.T) {
			s := load(t, rt, g.model, ort.SessionOptions{})
			var all sync.WaitGroup
			for i := range 3 {
				all.Go(func() { walkKept(t, s, g, rand.New(rand.NewPCG(seed, uint64(i)))) })
			}
			all.Wait()
		})
	}
}

func walkKept(t *testing.T, s *ort.Session, g graph, random *rand.Rand) {
	type held struct {
		result *ort.Result
		want   map[string][]byte
	}
	var holding []held
	check := func(h held) {
		for _, o := range h.result.Outputs {
			if want, ok := h.want[o.Name]; !ok || !bytes.Equal(o.Data, want) {
				t.Errorf("output %q, shape %v: got % .40x, want % .40x", o.Name, o.Shape, o.Data, want)
			}
		}
		h.result.Release()
	}
	options, err := (*ort.Runtime)(nil).NewRunOptions()
	if err != nil {
		t.Error(err)
		return
	}
	defer options.Close()
	if err := options.SetLogLevel(4); err != nil { // shapes that do not fit are an error to the log
		t.Error(err)
	}
	for range 600 {
		inputs, want := g.ask(random)
		var names []string
		if random.IntN(3) == 0 {
			for name := range want {
				names = append(names, name)
			}
			names = names[:1]
		}
		stop := random.IntN(30) == 0
		if stop {
			if err := options.Terminate(); err != nil {
				t.Error(err)
			}
		}
		result, err := s.Run(inputs, names, options)
		if stop {
			if err := options.Resume(); err != nil {
				t.Error(err)
			}
		}
		if native := (*ort.Error)(nil); stop && errors.As(err, &native) {
			continue // else it had no operator to stop at
		}
		if err != nil {
			t.Error(err)
			return
		}
		// What was given may be used again by its owner as soon as Run has returned.
		for _, in := range inputs {
			clone := bytes.Clone(in.Data)
			for name, data := range want {
				if len(data) > 0 && len(in.Data) > 0 && &data[0] == &in.Data[0] {
					want[name] = clone
				}
			}
			clear(in.Data)
		}
		holding = append(holding, held{result, want})
		for len(holding) > random.IntN(4) {
			at := random.IntN(len(holding))
			check(holding[at])
			holding = append(holding[:at], holding[at+1:]...)
		}
	}
	for _, h := range holding {
		check(h)
	}
}
