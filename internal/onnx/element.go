package onnx

import (
	"fmt"

	"github.com/penstock/penstock/internal/tensor"
)

// Element is a tensor's element type, numbered as in ONNX. Zero is undefined.
type Element int32

// The element types that the rest of the code names.
const (
	Float  Element = 1
	String Element = 8
	Int64  Element = 7
)

// storage is the field of a TensorProto that may hold elements of a type, besides raw_data.
type storage int32

const (
	rawOnly  storage = 0
	inFloat  storage = 4
	inInt32  storage = 5
	inString storage = 6
	inInt64  storage = 7
	inDouble storage = 10
	inUint64 storage = 11
)

// elements says, for every type: its name, the bits of one element in raw and external data, the typed field with the
// number of that field's entries per 1 element (a complex number takes 2) or elements per entry (packed small ones), and
// the protocol's name of the type.
var elements = [...]struct {
	name     string
	bits     int64
	field    storage
	entries  int64 // field entries per element
	packed   int64 // elements per field entry, for types under a byte
	datatype tensor.Type
}{
	1:  {"float", 32, inFloat, 1, 1, tensor.FP32},
	2:  {"uint8", 8, inInt32, 1, 1, tensor.Uint8},
	3:  {"int8", 8, inInt32, 1, 1, tensor.Int8},
	4:  {"uint16", 16, inInt32, 1, 1, tensor.Uint16},
	5:  {"int16", 16, inInt32, 1, 1, tensor.Int16},
	6:  {"int32", 32, inInt32, 1, 1, tensor.Int32},
	7:  {"int64", 64, inInt64, 1, 1, tensor.Int64},
	8:  {"string", 0, inString, 1, 1, tensor.Bytes},
	9:  {"bool", 8, inInt32, 1, 1, tensor.Bool},
	10: {"float16", 16, inInt32, 1, 1, tensor.FP16},
	11: {"double", 64, inDouble, 1, 1, tensor.FP64},
	12: {"uint32", 32, inUint64, 1, 1, tensor.Uint32},
	13: {"uint64", 64, inUint64, 1, 1, tensor.Uint64},
	14: {"complex64", 64, inFloat, 2, 1, tensor.Invalid},
	15: {"complex128", 128, inDouble, 2, 1, tensor.Invalid},
	16: {"bfloat16", 16, inInt32, 1, 1, tensor.BF16},
	17: {"float8e4m3fn", 8, inInt32, 1, 1, tensor.Invalid},
	18: {"float8e4m3fnuz", 8, inInt32, 1, 1, tensor.Invalid},
	19: {"float8e5m2", 8, inInt32, 1, 1, tensor.Invalid},
	20: {"float8e5m2fnuz", 8, inInt32, 1, 1, tensor.Invalid},
	21: {"uint4", 4, inInt32, 1, 2, tensor.Invalid},
	22: {"int4", 4, inInt32, 1, 2, tensor.Invalid},
	23: {"float4e2m1", 4, inInt32, 1, 2, tensor.Invalid},
	24: {"float8e8m0", 8, inInt32, 1, 1, tensor.Invalid},
	25: {"uint2", 2, inInt32, 1, 4, tensor.Invalid},
	26: {"int2", 2, inInt32, 1, 4, tensor.Invalid},
	27: {"float6e2m3", 6, rawOnly, 0, 1, tensor.Invalid},
	28: {"float6e3m2", 6, rawOnly, 0, 1, tensor.Invalid},
}

func (e Element) known() bool { return e > 0 && int(e) < len(elements) }

// String is the type's ONNX name in lower case.
func (e Element) String() string {
	if !e.known() {
		return fmt.Sprintf("type %d", int32(e))
	}
	return elements[e].name
}

// Datatype is the type in the Open Inference Protocol; ok is false for what the protocol cannot carry.
func (e Element) Datatype() (t tensor.Type, ok bool) {
	if !e.known() {
		return tensor.Invalid, false
	}
	t = elements[e].datatype
	return t, t != tensor.Invalid
}

// bytes is the length of n elements in raw or external data. n is at most 2^40, so nothing overflows.
func (e Element) bytes(n int64) int64 { return (n*elements[e].bits + 7) / 8 }

// entries is how many entries of the typed field n elements take.
func (e Element) entries(n int64) int64 {
	return (n*elements[e].entries + elements[e].packed - 1) / elements[e].packed
}
