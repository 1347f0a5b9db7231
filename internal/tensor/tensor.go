// Package tensor is typed, shaped bytes: what gateway, hop and engine pass to each other without a copy. It knows no
// model and no protocol; every package may use it.
package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Type is a tensor's element type, by its Open Inference Protocol name.
type Type uint8

// The element types. BYTES elements vary in length.
const (
	Invalid Type = iota
	Bool
	Uint8
	Uint16
	Uint32
	Uint64
	Int8
	Int16
	Int32
	Int64
	FP16
	FP32
	FP64
	BF16
	Bytes
)

var (
	names = [...]string{"", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES"}
	sizes = [...]int{0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 2, 0}
)

// ParseType finds a type by its name, FP32 for example.
func ParseType(name string) (Type, bool) {
	for i, n := range names {
		if i > 0 && n == name {
			return Type(i), true
		}
	}
	return Invalid, false
}

// String is the protocol's name of the type.
func (t Type) String() string {
	if int(t) < len(names) {
		return names[t]
	}
	return ""
}

// Size is the bytes of one element; 0 for BYTES.
func (t Type) Size() int {
	if int(t) < len(sizes) {
		return sizes[t]
	}
	return 0
}

// MaxRank is the most dimensions that a tensor may have.
const MaxRank = 32

// Tensor is a named block of elements: little-endian, row-major. BYTES data is, for every element, a little-endian
// uint32 length and that many bytes. Data may be shared: nobody writes to it after the tensor was handed on.
type Tensor struct {
	Name  string
	Type  Type
	Shape []int64
	Data  []byte
}

// Elements multiplies the shape; it refuses negative sizes, more than MaxRank dimensions and products over 2^40.
func Elements(shape []int64) (int64, error) {
	const limit = 1 << 40
	if len(shape) > MaxRank {
		return 0, fmt.Errorf("shape has %d dimensions, limit %d", len(shape), MaxRank)
	}
	n, zero := int64(1), false
	for _, d := range shape {
		switch {
		case d < 0:
			return 0, fmt.Errorf("shape %v has a negative dimension", shape)
		case d == 0:
			zero = true
		case n > limit/d:
			return 0, fmt.Errorf("shape %v has more than 2^40 elements", shape)
		default:
			n *= d
		}
	}
	if zero {
		return 0, nil
	}
	return n, nil
}

// Check reports whether shape, type and data fit together. It allocates nothing when they do.
func (t *Tensor) Check() error {
	n, err := Elements(t.Shape)
	if err != nil {
		return err
	}
	if t.Type == Bytes {
		return t.checkBytes(n)
	}
	size := int64(t.Type.Size())
	if size == 0 {
		return fmt.Errorf("unknown datatype")
	}
	switch got := int64(len(t.Data)); {
	case got == n*size:
		return nil
	case got%size == 0:
		return t.Miscount(got / size)
	default:
		return fmt.Errorf("shape %v of %s needs %d bytes, got %d", t.Shape, t.Type, n*size, got)
	}
}

// Miscount says that a tensor has another number of elements than its shape, which was checked, asks for. It is the one
// wording for all encodings.
func (t *Tensor) Miscount(got int64) error {
	n, _ := Elements(t.Shape) // checked before
	return fmt.Errorf("shape %v needs %d elements of %s, got %d", t.Shape, n, t.Type, got)
}

func (t *Tensor) checkBytes(n int64) error {
	var seen int64
	for rest := t.Data; len(rest) > 0; seen++ {
		if len(rest) < 4 {
			return fmt.Errorf("BYTES element %d: length prefix cut off", seen)
		}
		size := binary.LittleEndian.Uint32(rest)
		if uint64(size) > uint64(len(rest)-4) {
			return fmt.Errorf("BYTES element %d: %d bytes announced, %d left", seen, size, len(rest)-4)
		}
		rest = rest[4+size:]
	}
	if seen != n {
		return t.Miscount(seen)
	}
	return nil
}

// AppendBytes appends one BYTES element.
func AppendBytes(dst, element []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(element)))
	return append(dst, element...)
}

// NextBytes splits the first BYTES element off; ok is false at the end or when the data is cut off.
func NextBytes(data []byte) (element, rest []byte, ok bool) {
	if len(data) < 4 {
		return nil, nil, false
	}
	size := binary.LittleEndian.Uint32(data)
	if uint64(size) > uint64(len(data)-4) {
		return nil, nil, false
	}
	return data[4 : 4+size : 4+size], data[4+size:], true
}

// FromFloat32 makes an FP32 tensor; it copies the values.
func FromFloat32(name string, shape []int64, values []float32) Tensor {
	data := make([]byte, 0, 4*len(values))
	for _, v := range values {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
	}
	return Tensor{Name: name, Type: FP32, Shape: shape, Data: data}
}

// Float32s copies an FP32 tensor's values out.
func (t *Tensor) Float32s() []float32 {
	out := make([]float32, len(t.Data)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:]))
	}
	return out
}

// FromInt64 makes an INT64 tensor; it copies the values.
func FromInt64(name string, shape []int64, values []int64) Tensor {
	data := make([]byte, 0, 8*len(values))
	for _, v := range values {
		data = binary.LittleEndian.AppendUint64(data, uint64(v))
	}
	return Tensor{Name: name, Type: Int64, Shape: shape, Data: data}
}

// Int64s copies an INT64 tensor's values out.
func (t *Tensor) Int64s() []int64 {
	out := make([]int64, len(t.Data)/8)
	for i := range out {
		out[i] = int64(binary.LittleEndian.Uint64(t.Data[8*i:]))
	}
	return out
}
