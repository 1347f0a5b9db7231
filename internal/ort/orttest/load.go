package orttest

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// The models of this file have work to do, for those who measure. Their weights are made up, always the same ones.

// Layered multiplies rows x width floats with the same matrix, layers times over: as long a run as is asked for, whose
// weights fit the processor's cache, so that its time is computing and does not depend on who else uses the memory.
func Layered(rows, width, layers int) Model {
	shape := []any{rows, width}
	g := Graph{Initializers: []Tensor{weights("w", width, width)},
		Inputs: []Value{{Name: "x", Type: Float, Shape: shape}}, Outputs: []Value{{Name: "y", Type: Float, Shape: shape}}}
	from := "x"
	for i := range layers {
		product, to := fmt.Sprintf("p%d", i), fmt.Sprintf("l%d", i)
		if i == layers-1 {
			to = "y"
		}
		g.Nodes = append(g.Nodes, Node{Op: "MatMul", Inputs: []string{from, "w"}, Outputs: []string{product}},
			Node{Op: "Relu", Inputs: []string{product}, Outputs: []string{to}})
		from = to
	}
	return Model{Graph: g}
}

// Convolutions is a small picture classifier's body: layers of 3x3 convolutions over channels planes of size x size.
func Convolutions(channels, size, layers int) Model {
	shape := []any{"batch", channels, size, size}
	g := Graph{Inputs: []Value{{Name: "x", Type: Float, Shape: shape}}, Outputs: []Value{{Name: "y", Type: Float, Shape: shape}}}
	from := "x"
	for i := range layers {
		w := weights(fmt.Sprintf("w%d", i), channels, channels*9)
		w.Dims = []int64{int64(channels), int64(channels), 3, 3}
		g.Initializers = append(g.Initializers, w)
		sum, to := fmt.Sprintf("c%d", i), fmt.Sprintf("l%d", i)
		if i == layers-1 {
			to = "y"
		}
		g.Nodes = append(g.Nodes, Node{Op: "Conv", Inputs: []string{from, w.Name}, Outputs: []string{sum},
			Attributes: []Attribute{{Name: "pads", Value: []int64{1, 1, 1, 1}}}},
			Node{Op: "Relu", Inputs: []string{sum}, Outputs: []string{to}})
		from = to
	}
	return Model{Graph: g}
}

// Picture has hardly any work but much data: y = relu(x), both [batch, 3, side, side] floats.
func Picture(side int) Model {
	shape := []any{"batch", 3, side, side}
	return Model{Graph: Graph{
		Nodes:   []Node{{Op: "Relu", Inputs: []string{"x"}, Outputs: []string{"y"}}},
		Inputs:  []Value{{Name: "x", Type: Float, Shape: shape}},
		Outputs: []Value{{Name: "y", Type: Float, Shape: shape}},
	}}
}

// weights keep the size of numbers from layer to layer.
func weights(name string, from, to int) Tensor {
	random := rand.New(rand.NewPCG(1, 1))
	values := make([]float32, from*to)
	for i := range values {
		values[i] = float32(random.NormFloat64() * math.Sqrt(2/float64(max(from, to))))
	}
	return Tensor{Name: name, Type: Float, Dims: []int64{int64(from), int64(to)}, Raw: Floats(values...)}
}
