package ort

// ElementType is the type of a tensor's elements, by ONNX's number.
type ElementType int32

// The element types of the Open Inference Protocol. ONNX has more (complex, 8-bit and smaller floats); those pass
// through Inputs and Outputs by number, but have no Size here and no place in a Run.
const (
	Undefined ElementType = 0
	Float32   ElementType = 1
	Uint8     ElementType = 2
	Int8      ElementType = 3
	Uint16    ElementType = 4
	Int16     ElementType = 5
	Int32     ElementType = 6
	Int64     ElementType = 7
	String    ElementType = 8
	Bool      ElementType = 9
	Float16   ElementType = 10
	Float64   ElementType = 11
	Uint32    ElementType = 12
	Uint64    ElementType = 13
	BFloat16  ElementType = 16
)

// Size is the bytes of one element; 0 for String, whose elements vary, and for types that Run does not take.
func (t ElementType) Size() int {
	switch t {
	case Uint8, Int8, Bool:
		return 1
	case Uint16, Int16, Float16, BFloat16:
		return 2
	case Float32, Int32, Uint32:
		return 4
	case Int64, Float64, Uint64:
		return 8
	}
	return 0
}

// String is ONNX's name of the type.
func (t ElementType) String() string {
	names := [...]string{"undefined", "float", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool",
		"float16", "double", "uint32", "uint64", "complex64", "complex128", "bfloat16", "float8e4m3fn", "float8e4m3fnuz",
		"float8e5m2", "float8e5m2fnuz", "uint4", "int4", "float4e2m1", "uint2", "int2"}
	if t >= 0 && int(t) < len(names) {
		return names[t]
	}
	return "unknown"
}

// Kind is what an input or output holds. Only a KindTensor can be fed to Run or read from it.
type Kind int32

// The kinds, by ONNX's number.
const (
	KindTensor   Kind = 1
	KindSequence Kind = 2
	KindMap      Kind = 3
	KindOpaque   Kind = 4
	KindSparse   Kind = 5
	KindOptional Kind = 6
)

// String names the kind.
func (k Kind) String() string {
	names := [...]string{"unknown", "tensor", "sequence", "map", "opaque", "sparse tensor", "optional"}
	if k >= 0 && int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}
