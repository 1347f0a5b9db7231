// Package onnx reads ONNX files within bounds: what a model takes and gives, which operators it uses, where its weights
// lie, and whether anything in it breaks a safety rule. It reads the protobuf wire format itself, from offsets, and
// never loads weights; memory is bounded by Limits and not by the file. It does not run models, follow external
// data or touch the file system: the caller hands it bytes and the sizes of the files beside them. Callers: registry,
// pipeline, engine.
package onnx

import (
	"slices"

	"github.com/penstock/penstock/internal/tensor"
)

// Model is what Read found in a file that broke no rule.
type Model struct {
	IRVersion  int64
	Opsets     map[string]int64 // by domain; the default domain is "ai.onnx"
	Producer   string           // name and version of the tool that wrote the file
	Graph      string           // name of the main graph
	Inputs     []Value          // in graph order, initializers with a default among them
	Outputs    []Value
	Constants  []Tensor         // initializers of the main graph, dense ones and then sparse ones
	Nodes      int64            // operators as written: subgraphs and function bodies included, calls not expanded
	Ops        map[string]int64 // nodes per operator, "ai.onnx::MatMul"
	Parameters int64            // elements of Constants; a sparse one counts its stored values
	Functions  int              // functions that the file defines
	External   []External       // every tensor anywhere in the file whose bytes are in another file
}

// FreeInputs are the inputs that a caller has to give: those without an initializer of the same name.
func (m *Model) FreeInputs() []Value {
	constant := make(map[string]bool, len(m.Constants))
	for i := range m.Constants {
		constant[m.Constants[i].Name] = true
	}
	return slices.DeleteFunc(slices.Clone(m.Inputs), func(v Value) bool { return constant[v.Name] })
}

// ExternalFiles are the locations of the external tensors, sorted, each once.
func (m *Model) ExternalFiles() []string {
	files := make([]string, 0, len(m.External))
	for i := range m.External {
		files = append(files, m.External[i].Location)
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// Kind is what sort of value an input or output is.
type Kind uint8

// The kinds. Only dense tensors can travel in the Open Inference Protocol.
const (
	KindUnknown Kind = iota // no type written, as inside subgraphs
	KindTensor
	KindSparse
	KindSequence
	KindMap
	KindOptional
	KindOpaque
)

var kindNames = [...]string{"unknown", "tensor", "sparse tensor", "sequence", "map", "optional", "opaque"}

// String is the kind in words.
func (k Kind) String() string { return kindNames[k] }

// Value is an input or output of the main graph. For a sequence or an optional, Type and Dims are those of the innermost
// tensor, when there is one. Ranked tells a scalar (true, no Dims) from a tensor of any rank (false).
type Value struct {
	Name   string
	Kind   Kind
	Type   Element
	Ranked bool
	Dims   []Dim
}

// Dim is one dimension: a size, or -1 and the symbol that names it ("batch", or empty when it has no name).
type Dim struct {
	Size   int64
	Symbol string
}

// Datatype is the tensor's type in the Open Inference Protocol; ok is false for what the protocol cannot carry.
func (v *Value) Datatype() (t tensor.Type, ok bool) {
	if v.Kind != KindTensor {
		return tensor.Invalid, false
	}
	return v.Type.Datatype()
}

// Tensor is an initializer without its content. Bytes is the length of the content wherever it lies.
type Tensor struct {
	Name  string
	Type  Element
	Dims  []int64
	Bytes int64
}

// External says where in another file a tensor's bytes lie. Length is always set: the file's, or the one that type and
// dimensions ask for.
type External struct {
	Tensor   string
	Location string
	Offset   int64
	Length   int64
}
