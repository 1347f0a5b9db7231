package orttest

// Identity gives its input x back as y, whatever its shape in the first dimension: [batch, 4].
func Identity(elementType int32) Model {
	return Model{Graph: Graph{
		Nodes:   []Node{{Op: "Identity", Inputs: []string{"x"}, Outputs: []string{"y"}}},
		Inputs:  []Value{{Name: "x", Type: elementType, Shape: []any{"batch", 4}}},
		Outputs: []Value{{Name: "y", Type: elementType, Shape: []any{"batch", 4}}},
	}}
}

// Through has its input x as its output too, with no operator between.
func Through(elementType int32) Model {
	return Model{Graph: Graph{
		Inputs:  []Value{{Name: "x", Type: elementType, Shape: []any{"batch", 4}}},
		Outputs: []Value{{Name: "x", Type: elementType, Shape: []any{"batch", 4}}},
	}}
}

// Linear is y = x·w + b, x of [batch, inputs] and y of [batch, outputs] floats; w is all ones and b all one half. The
// bias is an optional input when withBias is set.
func Linear(inputs, outputs int, withBias bool) Model {
	ones := make([]float32, inputs*outputs)
	for i := range ones {
		ones[i] = 1
	}
	halves := make([]float32, outputs)
	for i := range halves {
		halves[i] = 0.5
	}
	m := Model{Graph: Graph{
		Nodes: []Node{
			{Op: "MatMul", Inputs: []string{"x", "w"}, Outputs: []string{"xw"}},
			{Op: "Add", Inputs: []string{"xw", "b"}, Outputs: []string{"y"}},
		},
		Inputs:  []Value{{Name: "x", Type: Float, Shape: []any{"batch", inputs}}},
		Outputs: []Value{{Name: "y", Type: Float, Shape: []any{"batch", outputs}}},
		Initializers: []Tensor{
			{Name: "w", Type: Float, Dims: []int64{int64(inputs), int64(outputs)}, Raw: Floats(ones...)},
			{Name: "b", Type: Float, Dims: []int64{int64(outputs)}, Raw: Floats(halves...)},
		},
	}}
	if withBias {
		m.Graph.Inputs = append(m.Graph.Inputs, Value{Name: "b", Type: Float, Shape: []any{outputs}})
	}
	return m
}

// Count adds one to the float x, n times, in a loop of as many turns: a model that runs as long as its input n says,
// and that can be stopped at each turn.
func Count() Model {
	body := Graph{
		Name: "body",
		Nodes: []Node{
			{Op: "Identity", Inputs: []string{"more"}, Outputs: []string{"more_out"}},
			{Op: "Add", Inputs: []string{"total", "one"}, Outputs: []string{"total_out"}},
		},
		Inputs: []Value{{Name: "turn", Type: Int64, Shape: []any{}}, {Name: "more", Type: Bool, Shape: []any{}},
			{Name: "total", Type: Float, Shape: []any{1}}},
		Outputs:      []Value{{Name: "more_out", Type: Bool, Shape: []any{}}, {Name: "total_out", Type: Float, Shape: []any{1}}},
		Initializers: []Tensor{{Name: "one", Type: Float, Dims: []int64{1}, Raw: Floats(1)}},
	}
	return Model{Graph: Graph{
		Nodes: []Node{{Op: "Loop", Inputs: []string{"n", "yes", "x"}, Outputs: []string{"y"},
			Attributes: []Attribute{{Name: "body", Value: body}}}},
		Inputs:       []Value{{Name: "n", Type: Int64, Shape: []any{}}, {Name: "x", Type: Float, Shape: []any{1}}},
		Outputs:      []Value{{Name: "y", Type: Float, Shape: []any{1}}},
		Initializers: []Tensor{{Name: "yes", Type: Bool, Raw: []byte{1}}},
	}}
}

// Sequence gives its input x as a sequence of one tensor, s: an output that is not a tensor.
func Sequence() Model {
	return Model{Graph: Graph{
		Nodes:   []Node{{Op: "SequenceConstruct", Inputs: []string{"x"}, Outputs: []string{"s"}}},
		Inputs:  []Value{{Name: "x", Type: Float, Shape: []any{1}}},
		Outputs: []Value{{Name: "s", Type: Float, Shape: []any{1}, Sequence: true}},
	}}
}

// Branch gives its input x back when its input double is false, and x twice over when it is true: an output whose shape
// depends on what is in the inputs, and that is nearly an input itself.
func Branch() Model {
	branch := func(name string, nodes ...Node) Graph {
		return Graph{Name: name, Nodes: nodes, Outputs: []Value{{Name: name, Type: Float, Shape: []any{""}}}}
	}
	return Model{Graph: Graph{
		Nodes: []Node{{Op: "If", Inputs: []string{"double"}, Outputs: []string{"y"}, Attributes: []Attribute{
			{Name: "then_branch", Value: branch("twice", Node{Op: "Concat", Inputs: []string{"x", "x"}, Outputs: []string{"twice"},
				Attributes: []Attribute{{Name: "axis", Value: int64(0)}}})},
			{Name: "else_branch", Value: branch("once", Node{Op: "Identity", Inputs: []string{"x"}, Outputs: []string{"once"}})},
		}}},
		Inputs:  []Value{{Name: "double", Type: Bool, Shape: []any{}}, {Name: "x", Type: Float, Shape: []any{"n"}}},
		Outputs: []Value{{Name: "y", Type: Float, Shape: []any{"m"}}},
	}}
}
