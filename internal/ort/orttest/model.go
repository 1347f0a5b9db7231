// Package orttest writes small ONNX files for tests, field by field. It checks nothing: a test may ask for a broken model.
// Only tests use it.
package orttest

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Element types, by ONNX's number.
const (
	Float  = 1
	Int64  = 7
	String = 8
	Bool   = 9
)

// Model is an ONNX file.
type Model struct {
	IR     int64 // IR version; 0: 8
	Opset  int64 // of the default domain; 0: 17
	Domain string
	Graph  Graph
}

// Graph is operators between inputs and outputs.
type Graph struct {
	Name         string
	Nodes        []Node
	Inputs       []Value
	Outputs      []Value
	Initializers []Tensor
}

// Node is one operator.
type Node struct {
	Op, Domain string
	Inputs     []string
	Outputs    []string
	Attributes []Attribute
}

// Attribute is a setting of an operator. Value is an int64, float32, string, []int64, Tensor or Graph.
type Attribute struct {
	Name  string
	Value any
}

// Value is an input or output. Each entry of Shape is an int (fixed size), or a string (symbol; "" for none). A nil
// Shape leaves even the rank open. Sequence makes it a sequence of such tensors.
type Value struct {
	Name     string
	Type     int32
	Shape    []any
	Sequence bool
}

// Tensor is an initializer. Raw is its data, little-endian; File names external data in its place.
type Tensor struct {
	Name string
	Type int32
	Dims []int64
	Raw  []byte
	File string
}

// Floats is the raw data of floats.
func Floats(values ...float32) []byte {
	var raw []byte
	for _, v := range values {
		raw = protowire.AppendFixed32(raw, math.Float32bits(v))
	}
	return raw
}

// Int64s is the raw data of integers.
func Int64s(values ...int64) []byte {
	var raw []byte
	for _, v := range values {
		raw = protowire.AppendFixed64(raw, uint64(v))
	}
	return raw
}

// Encode writes the file.
func (m Model) Encode() []byte {
	if m.IR == 0 {
		m.IR = 8
	}
	if m.Opset == 0 {
		m.Opset = 17
	}
	var b []byte
	b = number(b, 1, m.IR)
	b = text(b, 2, "orttest")
	b = block(b, 7, m.Graph.encode())
	b = block(b, 8, number(text(nil, 1, ""), 2, m.Opset))
	if m.Domain != "" {
		b = block(b, 8, number(text(nil, 1, m.Domain), 2, 1))
	}
	return b
}

func (g Graph) encode() []byte {
	if g.Name == "" {
		g.Name = "test"
	}
	var b []byte
	for _, n := range g.Nodes {
		b = block(b, 1, n.encode())
	}
	b = text(b, 2, g.Name)
	for _, t := range g.Initializers {
		b = block(b, 5, t.encode())
	}
	for _, v := range g.Inputs {
		b = block(b, 11, v.encode())
	}
	for _, v := range g.Outputs {
		b = block(b, 12, v.encode())
	}
	return b
}

func (n Node) encode() []byte {
	var b []byte
	for _, name := range n.Inputs {
		b = text(b, 1, name)
	}
	for _, name := range n.Outputs {
		b = text(b, 2, name)
	}
	b = text(b, 4, n.Op)
	for _, a := range n.Attributes {
		b = block(b, 5, a.encode())
	}
	return text(b, 7, n.Domain)
}

func (a Attribute) encode() []byte {
	b := text(nil, 1, a.Name)
	switch v := a.Value.(type) {
	case float32:
		b = protowire.AppendTag(b, 2, protowire.Fixed32Type)
		return number(protowire.AppendFixed32(b, math.Float32bits(v)), 20, 1)
	case int64:
		return number(number(b, 3, v), 20, 2)
	case string:
		return number(text(b, 4, v), 20, 3)
	case Tensor:
		return number(block(b, 5, v.encode()), 20, 4)
	case Graph:
		return number(block(b, 6, v.encode()), 20, 5)
	case []int64:
		for _, i := range v {
			b = number(b, 8, i)
		}
		return number(b, 20, 7)
	}
	panic("orttest: attribute " + a.Name + " has a value of an unknown Go type")
}

func (v Value) encode() []byte {
	tensor := number(nil, 1, int64(v.Type))
	if v.Shape != nil {
		var shape []byte
		for _, d := range v.Shape {
			switch d := d.(type) {
			case int:
				shape = block(shape, 1, number(nil, 1, int64(d)))
			case string:
				shape = block(shape, 1, text(nil, 2, d))
			default:
				panic("orttest: a dimension is an int or a string")
			}
		}
		tensor = block(tensor, 2, shape)
	}
	kind := block(nil, 1, tensor)
	if v.Sequence {
		kind = block(nil, 4, block(nil, 1, kind))
	}
	return block(text(nil, 1, v.Name), 2, kind)
}

func (t Tensor) encode() []byte {
	var b []byte
	for _, d := range t.Dims {
		b = number(b, 1, d)
	}
	b = number(b, 2, int64(t.Type))
	b = text(b, 8, t.Name)
	if t.File == "" {
		return block(b, 9, t.Raw)
	}
	b = block(b, 13, text(text(nil, 1, "location"), 2, t.File))
	return number(b, 14, 1)
}

func number(b []byte, field protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(v))
}

// text leaves an empty string out, except where a list needs the place: fields 1 and 2 hold names of inputs and outputs.
func text(b []byte, field protowire.Number, s string) []byte {
	if s == "" && field > 2 {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func block(b []byte, field protowire.Number, inner []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), inner)
}
