package fault_test

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/penstock/penstock/internal/ort/orttest"
)

// The element types of ONNX tensors that these models use.
const (
	onnxFloat = 1
	onnxInt32 = 6
	onnxInt64 = 7
	onnxHalf  = 10
)

// message is a protobuf message under construction; the field numbers below are those of onnx.proto.
type message []byte

func (m message) num(field protowire.Number, value int64) message {
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), uint64(value))
}

func (m message) text(field protowire.Number, value string) message {
	return protowire.AppendString(protowire.AppendTag(m, field, protowire.BytesType), value)
}

func (m message) sub(field protowire.Number, value message) message {
	return protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), value)
}

// graph is a model under construction.
type graph struct{ body message }

func (g *graph) node(op string, in []string, out string, attributes ...message) {
	var n message
	for _, name := range in {
		n = n.text(1, name)
	}
	n = n.text(2, out).text(4, op)
	for _, a := range attributes {
		n = n.sub(5, a)
	}
	g.body = g.body.sub(1, n)
}

// whole is an attribute with one integer.
func whole(name string, value int64) message { return message{}.text(1, name).num(3, value).num(20, 2) }

// initializer adds a constant; data are its elements as they lie in memory.
func (g *graph) initializer(name string, element int64, dims []int64, data []byte, more ...message) {
	var t message
	for _, d := range dims {
		t = t.num(1, d)
	}
	t = t.num(2, element).text(8, name)
	if data != nil {
		t = t.text(9, string(data))
	}
	for _, m := range more {
		t = append(t, m...)
	}
	g.body = g.body.sub(5, t)
}

func value(name string, element int64, dims ...int64) message {
	var shape message
	for _, d := range dims {
		shape = shape.sub(1, message{}.num(1, d))
	}
	return message{}.text(1, name).sub(2, message{}.sub(1, message{}.num(1, element).sub(2, shape)))
}

func (g *graph) input(name string, element int64, dims ...int64) {
	g.body = g.body.sub(11, value(name, element, dims...))
}

func (g *graph) output(name string, element int64, dims ...int64) {
	g.body = g.body.sub(12, value(name, element, dims...))
}

// model gives the file: IR version 8, operator set 17.
func (g *graph) model() []byte {
	return message{}.num(1, 8).text(2, "test").sub(7, message{}.text(2, "g")[:].join(g.body)).sub(8, message{}.num(2, 17))
}

func (m message) join(other message) message { return append(m, other...) }

func int32s(values ...int32) (data []byte) {
	for _, v := range values {
		data = binary.LittleEndian.AppendUint32(data, uint32(v))
	}
	return data
}

func int64s(values ...int64) (data []byte) {
	for _, v := range values {
		data = binary.LittleEndian.AppendUint64(data, uint64(v))
	}
	return data
}

func float32s(values ...float32) (data []byte) {
	for _, v := range values {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
	}
	return data
}

// slowModel is a small file whose products of large constants the runtime works out while it loads it.
func slowModel(size int64, products int) []byte {
	var g graph
	g.input("x", onnxFloat, 1)
	g.initializer("shape", onnxInt64, []int64{2}, int64s(size, size))
	g.node("ConstantOfShape", []string{"shape"}, "m0", message{}.text(1, "value").
		sub(5, message{}.num(1, 1).num(2, onnxFloat).text(9, string(float32s(0.001)))).num(20, 4))
	for i := range products {
		g.node("MatMul", []string{fmt.Sprintf("m%d", i), "m0"}, fmt.Sprintf("m%d", i+1))
	}
	g.node("ReduceMean", []string{fmt.Sprintf("m%d", products)}, "mean", whole("keepdims", 0))
	g.node("Add", []string{"x", "mean"}, "y")
	g.output("y", onnxFloat, 1)
	return g.model()
}

// dividingModel divides constants by zero, which the runtime does while it loads the file.
func dividingModel(op string, element int64, a, b []byte) []byte {
	var g graph
	kind := int64(onnxInt32)
	if element != 0 {
		kind = element
	}
	g.input("x", kind, 1)
	g.initializer("a", kind, []int64{1}, a)
	g.initializer("b", kind, []int64{1}, b)
	g.node(op, []string{"a", "b"}, "q")
	g.node("Add", []string{"x", "q"}, "y")
	g.output("y", kind, 1)
	return g.model()
}

// nestedIf is a small file with branches in branches, of the kind for which a runtime's time to load may double with each.
func nestedIf(depth int) []byte {
	branch := func(name string, n orttest.Node) orttest.Graph {
		n.Outputs = []string{name}
		return orttest.Graph{Name: name, Nodes: []orttest.Node{n}, Outputs: []orttest.Value{{Name: name, Type: orttest.Float, Shape: []any{1}}}}
	}
	same := orttest.Node{Op: "Identity", Inputs: []string{"x"}}
	deep := branch("then0", same)
	for i := range depth {
		choice := orttest.Node{Op: "If", Inputs: []string{"c"}, Attributes: []orttest.Attribute{
			{Name: "then_branch", Value: deep}, {Name: "else_branch", Value: branch(fmt.Sprint("else", i), same)}}}
		deep = branch(fmt.Sprint("then", i+1), choice)
	}
	deep.Inputs = []orttest.Value{{Name: "c", Type: orttest.Bool, Shape: []any{}}, {Name: "x", Type: orttest.Float, Shape: []any{1}}}
	return orttest.Model{Graph: deep}.Encode()
}

// scanned goes through as many empty rows as its input n says: [rows, 0].
func scanned() []byte {
	body := orttest.Graph{
		Nodes:   []orttest.Node{{Op: "Identity", Inputs: []string{"total"}, Outputs: []string{"total_out"}}},
		Inputs:  []orttest.Value{{Name: "total", Type: orttest.Float, Shape: []any{1}}, {Name: "row", Type: orttest.Float, Shape: []any{""}}},
		Outputs: []orttest.Value{{Name: "total_out", Type: orttest.Float, Shape: []any{1}}},
	}
	return orttest.Model{Graph: orttest.Graph{
		Nodes: []orttest.Node{{Op: "ConstantOfShape", Inputs: []string{"n"}, Outputs: []string{"rows"}},
			{Op: "Scan", Inputs: []string{"zero", "rows"}, Outputs: []string{"y"}, Attributes: []orttest.Attribute{
				{Name: "body", Value: body}, {Name: "num_scan_inputs", Value: int64(1)}}}},
		Inputs:       []orttest.Value{{Name: "n", Type: orttest.Int64, Shape: []any{2}}},
		Outputs:      []orttest.Value{{Name: "y", Type: orttest.Float, Shape: []any{1}}},
		Initializers: []orttest.Tensor{{Name: "zero", Type: orttest.Float, Dims: []int64{1}, Raw: orttest.Floats(0)}},
	}}.Encode()
}

// vast makes a tensor of the size that n says by one operator, and gives its greatest element. With a constant, the size
// stands in the file.
func vast(op string, constant []int64) []byte {
	rank := map[string]int{"ConstantOfShape": 1, "Expand": 1, "Resize": 4}[op]
	ones := make([]int64, rank)
	for i := range ones {
		ones[i] = 1
	}
	g := orttest.Graph{
		Nodes: []orttest.Node{{Op: op, Inputs: map[string][]string{"ConstantOfShape": {"n"}, "Expand": {"one", "n"}, "Resize": {"one", "", "", "n"}}[op],
			Outputs: []string{"m"}}, {Op: "ReduceMax", Inputs: []string{"m"}, Outputs: []string{"max"}, Attributes: []orttest.Attribute{{Name: "keepdims", Value: int64(0)}}},
			{Op: "Add", Inputs: []string{"max", "x"}, Outputs: []string{"y"}}},
		Inputs:       []orttest.Value{{Name: "x", Type: orttest.Float, Shape: []any{1}}},
		Outputs:      []orttest.Value{{Name: "y", Type: orttest.Float, Shape: []any{1}}},
		Initializers: []orttest.Tensor{{Name: "one", Type: orttest.Float, Dims: ones, Raw: orttest.Floats(1)}},
	}
	if constant == nil {
		g.Inputs = append(g.Inputs, orttest.Value{Name: "n", Type: orttest.Int64, Shape: []any{rank}})
	} else {
		g.Initializers = append(g.Initializers, orttest.Tensor{Name: "n", Type: orttest.Int64, Dims: []int64{int64(rank)}, Raw: orttest.Int64s(constant...)})
	}
	return orttest.Model{Graph: g}.Encode()
}
