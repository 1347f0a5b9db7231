package fault_test

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
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
