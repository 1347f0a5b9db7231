package chain_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/tensor"
)

// matrix is a tensor of the plain model.
type matrix struct {
	rows, columns int
	values        []float32
}

func (m matrix) tensor(name string) tensor.Tensor {
	return tensor.FromFloat32(name, []int64{int64(m.rows), int64(m.columns)}, m.values)
}

// plain is the plain model of a chain: every tensor is a function, evaluated anew whenever it is asked for.
type plain struct {
	sources map[string]func(e *evaluation) matrix // by source, "step.tensor" or an input
}

// evaluation is one request to the plain model.
type evaluation struct {
	inputs map[string]matrix
	mode   int64
	ran    map[string]bool // steps that were evaluated
}

func (p *plain) of(source string) func(*evaluation) matrix {
	return func(e *evaluation) matrix { return p.sources[source](e) }
}

// grown is a chain that grows step by step, with its plain model.
type grown struct {
	*rand.Rand
	plain
	spec    api.ChainSpec
	columns map[string]int // by source
	read    map[string]bool
	depth   map[string]int
}

// pick chooses a source; of a given width when columns is not 0.
func (g *grown) pick(columns int) string {
	var list []string
	for source, c := range g.columns {
		if (columns == 0 || c == columns) && g.depth[source] < api.ChainDepthMax-2 {
			list = append(list, source)
		}
	}
	sort.Strings(list)
	source := list[g.IntN(len(list))]
	g.read[source] = true
	return source
}

// add puts a step with one output into both.
func (g *grown) add(step api.ChainStepSpec, output string, columns int, f func(*evaluation) matrix) {
	step.Name = fmt.Sprintf("s%d", len(g.spec.Steps))
	g.spec.Steps = append(g.spec.Steps, step)
	g.give(step, output, columns, f)
}

func (g *grown) give(step api.ChainStepSpec, output string, columns int, f func(*evaluation) matrix) {
	source := step.Name + "." + output
	for _, from := range step.Inputs {
		g.depth[source] = max(g.depth[source], g.depth[from]+1)
	}
	g.columns[source] = columns
	g.sources[source] = func(e *evaluation) matrix { e.ran[step.Name] = true; return f(e) }
}

func apply(f func(float32) float32, of func(*evaluation) matrix) func(*evaluation) matrix {
	return func(e *evaluation) matrix {
		m := of(e)
		m.values = slices.Clone(m.values)
		for i := range m.values {
			m.values[i] = f(m.values[i])
		}
		return m
	}
}

// grow adds one random step.
func (g *grown) grow() {
	from := g.pick(0)
	c, of := g.columns[from], g.of(from)
	switch g.IntN(11) {
	case 0, 1:
		g.add(api.ChainStepSpec{Model: "add@1", Inputs: in("x=" + from)}, "y", c, apply(func(v float32) float32 { return v + 1 }, of))
	case 2:
		step := api.ChainStepSpec{Model: "pair@1", Inputs: in("x=" + from)}
		g.add(step, "double", c, apply(func(v float32) float32 { return 2 * v }, of))
		step.Name = g.spec.Steps[len(g.spec.Steps)-1].Name
		g.give(step, "half", c, apply(func(v float32) float32 { return v / 2 }, of))
	case 3:
		g.add(api.ChainStepSpec{Op: "normalise", With: map[string]any{"scale": 0.5, "shift": -1.}, Inputs: in("x=" + from)}, "x", c,
			apply(func(v float32) float32 { return v*0.5 + -1 }, of))
	case 4:
		g.add(api.ChainStepSpec{Op: "cast", With: map[string]any{"to": "FP32"}, Inputs: in("x=" + from)}, "x", c, of)
	case 5:
		g.add(api.ChainStepSpec{Op: "reshape", With: map[string]any{"shape": []any{0., -1.}}, Inputs: in("x=" + from)}, "x", c, of)
	case 6:
		other := g.pick(0)
		second := g.of(other)
		g.add(api.ChainStepSpec{Op: "concat", With: map[string]any{"axis": -1.}, Inputs: in("a="+from, "b="+other)}, "out", c+g.columns[other], func(e *evaluation) matrix {
			a, b := of(e), second(e)
			m := matrix{rows: a.rows, columns: a.columns + b.columns}
			for r := range a.rows {
				m.values = append(m.values, a.values[r*a.columns:(r+1)*a.columns]...)
				m.values = append(m.values, b.values[r*b.columns:(r+1)*b.columns]...)
			}
			return m
		})
	case 7:
		k := 1 + g.IntN(4)
		g.add(api.ChainStepSpec{Op: "top_k", With: map[string]any{"k": float64(k)}, Inputs: in("scores=" + from)}, "values", min(k, c), func(e *evaluation) matrix {
			a := of(e)
			m := matrix{rows: a.rows, columns: min(k, a.columns)}
			for r := range a.rows {
				row := slices.Clone(a.values[r*a.columns : (r+1)*a.columns])
				slices.Sort(row)
				slices.Reverse(row)
				m.values = append(m.values, row[:m.columns]...)
			}
			return m
		})
	case 8:
		other := g.pick(c)
		second := g.of(other)
		g.add(api.ChainStepSpec{Op: "average", With: map[string]any{"weights": map[string]any{"a": 3., "b": 1.}}, Inputs: in("a="+from, "b="+other)}, "out", c, func(e *evaluation) matrix {
			a, b := of(e), second(e)
			m := matrix{rows: a.rows, columns: a.columns, values: slices.Clone(a.values)}
			for i := range m.values {
				m.values[i] = float32(0.75*float64(a.values[i]) + 0.25*float64(b.values[i]))
			}
			return m
		})
	default:
		other := g.pick(c)
		second := g.of(other)
		g.add(api.ChainStepSpec{Op: "route", With: map[string]any{"cases": map[string]any{"0": "a"}, "default": "b"}, Inputs: in("by=mode", "a="+from, "b="+other)}, "out", c, func(e *evaluation) matrix {
			if e.mode == 0 {
				return of(e)
			}
			return second(e)
		})
	}
}

func growChain(random *rand.Rand) *grown {
	g := &grown{Rand: random, plain: plain{sources: map[string]func(*evaluation) matrix{}}, columns: map[string]int{}, read: map[string]bool{}, depth: map[string]int{}}
	for i := range 1 + g.IntN(3) {
		name := fmt.Sprintf("in%d", i)
		c := 1 + g.IntN(3)
		g.spec.Inputs = append(g.spec.Inputs, api.ChainInput{Name: name, Datatype: "FP32", Shape: []int64{-1, int64(c)}})
		g.columns[name] = c
		g.sources[name] = func(e *evaluation) matrix { return e.inputs[name] }
	}
	for range 1 + g.IntN(20) {
		g.grow()
	}
	g.spec.Inputs = append(g.spec.Inputs, api.ChainInput{Name: "mode", Datatype: "INT64", Shape: []int64{1}})
	g.spec.Outputs = append(g.spec.Outputs, api.ChainOutput{Name: "mode", From: "mode"})
	var ends []string
	for source := range g.columns { // what nobody reads must come out, and some of the rest may
		if !g.read[source] || g.IntN(8) == 0 {
			ends = append(ends, source)
		}
	}
	sort.Strings(ends)
	for i, source := range ends {
		g.spec.Outputs = append(g.spec.Outputs, api.ChainOutput{Name: fmt.Sprintf("out%d", i), From: source})
	}
	g.Shuffle(len(g.spec.Steps), func(i, j int) { g.spec.Steps[i], g.spec.Steps[j] = g.spec.Steps[j], g.spec.Steps[i] })
	return g
}

// TestRandomWalk grows random chains and asks each, with random inputs and for random outputs, beside the plain model.
// The answers must be the same to the bit, only the steps that the plain model needed may have run, and all memory must
// be given back.
func TestRandomWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	b := newBench(t)
	for round := range 150 {
		g := growChain(random)
		name := fmt.Sprint("chain", round)
		b.put(t, name, &g.spec)
		for range 6 {
			ask(t, b, g, name)
		}
		if err := b.Unload(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if held := b.paper.held(); len(held) > 0 {
			t.Fatalf("round %d: still loaded: %v", round, held)
		}
	}
}

func ask(t *testing.T, b bench, g *grown, name string) {
	t.Helper()
	e := &evaluation{inputs: map[string]matrix{}, mode: int64(g.IntN(2)), ran: map[string]bool{}}
	rows := 1 + g.IntN(3)
	req := engine.Request{Instance: name}
	for _, input := range g.spec.Inputs {
		if input.Name == "mode" {
			req.Inputs = append(req.Inputs, tensor.FromInt64("mode", []int64{1}, []int64{e.mode}))
			continue
		}
		m := matrix{rows: rows, columns: int(input.Shape[1])}
		for range m.rows * m.columns {
			m.values = append(m.values, float32(g.IntN(100))/8)
		}
		e.inputs[input.Name] = m
		req.Inputs = append(req.Inputs, m.tensor(input.Name))
	}
	g.Shuffle(len(req.Inputs), func(i, j int) { req.Inputs[i], req.Inputs[j] = req.Inputs[j], req.Inputs[i] })
	wanted := slices.Clone(g.spec.Outputs)
	if g.IntN(2) == 0 {
		g.Shuffle(len(wanted), func(i, j int) { wanted[i], wanted[j] = wanted[j], wanted[i] })
		wanted = wanted[:1+g.IntN(len(wanted))]
		for _, o := range wanted {
			req.Outputs = append(req.Outputs, o.Name)
		}
	}
	answer, err := b.Infer(t.Context(), req)
	if err != nil {
		t.Fatalf("%v\n%+v", err, g.spec)
	}
	for i := range req.Inputs { // the request's memory is the caller's again
		clear(req.Inputs[i].Data)
	}
	for i, o := range wanted {
		got := answer.Outputs[i]
		if o.From == "mode" {
			continue
		}
		want := g.sources[o.From](e)
		if w := want.tensor(o.Name); got.Name != o.Name || !slices.Equal(got.Shape, w.Shape) || !bytes.Equal(got.Data, w.Data) {
			t.Fatalf("output %s from %s: %v %v, want %v\n%+v", o.Name, o.From, got.Shape, got.Float32s(), want, g.spec)
		}
	}
	var ran []string
	for _, step := range answer.Steps {
		ran = append(ran, step.Name)
		if step.Start < 0 || step.Compute < 0 || step.Queue < 0 {
			t.Errorf("step %+v", step)
		}
	}
	want := []string{}
	for step := range e.ran {
		want = append(want, step)
	}
	slices.Sort(ran)
	slices.Sort(want)
	if !slices.Equal(ran, want) {
		t.Fatalf("the steps %v ran, %v were needed\n%+v", ran, want, g.spec)
	}
	answer.Release()
	b.paper.mu.Lock()
	defer b.paper.mu.Unlock()
	if b.paper.out != 0 {
		t.Fatalf("%d answers were not given back", b.paper.out)
	}
}

// near compares floats of operations that may round otherwise.
func near(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Abs(float64(x-y)) <= 1e-5*max(1, math.Abs(float64(y))) })
}
