package chain

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/penstock/penstock/internal/tensor"
)

// number is one element, in the widest type of its kind, so that a cast loses nothing on the way.
type number struct {
	kind numberKind
	i    int64
	u    uint64
	f    float64
}

type numberKind uint8

const (
	signed numberKind = iota
	unsigned
	floating
)

// numeric reports types that are numbers of fixed size; BOOL counts as 0 and 1.
func numeric(t tensor.Type) bool { return t.Size() > 0 }

// readNumber gives the function that reads elements of a type.
func readNumber(t tensor.Type) func(data []byte, i int) number {
	le := binary.LittleEndian
	ofInt := func(v int64) number { return number{kind: signed, i: v} }
	ofUint := func(v uint64) number { return number{kind: unsigned, u: v} }
	ofFloat := func(v float64) number { return number{kind: floating, f: v} }
	switch t {
	case tensor.Bool, tensor.Uint8:
		return func(b []byte, i int) number { return ofUint(uint64(b[i])) }
	case tensor.Uint16:
		return func(b []byte, i int) number { return ofUint(uint64(le.Uint16(b[2*i:]))) }
	case tensor.Uint32:
		return func(b []byte, i int) number { return ofUint(uint64(le.Uint32(b[4*i:]))) }
	case tensor.Uint64:
		return func(b []byte, i int) number { return ofUint(le.Uint64(b[8*i:])) }
	case tensor.Int8:
		return func(b []byte, i int) number { return ofInt(int64(int8(b[i]))) }
	case tensor.Int16:
		return func(b []byte, i int) number { return ofInt(int64(int16(le.Uint16(b[2*i:])))) }
	case tensor.Int32:
		return func(b []byte, i int) number { return ofInt(int64(int32(le.Uint32(b[4*i:])))) }
	case tensor.Int64:
		return func(b []byte, i int) number { return ofInt(int64(le.Uint64(b[8*i:]))) }
	case tensor.FP16:
		return func(b []byte, i int) number { return ofFloat(float64(halfToFloat(le.Uint16(b[2*i:])))) }
	case tensor.BF16:
		return func(b []byte, i int) number {
			return ofFloat(float64(math.Float32frombits(uint32(le.Uint16(b[2*i:])) << 16)))
		}
	case tensor.FP32:
		return func(b []byte, i int) number { return ofFloat(float64(math.Float32frombits(le.Uint32(b[4*i:])))) }
	default:
		return func(b []byte, i int) number { return ofFloat(math.Float64frombits(le.Uint64(b[8*i:]))) }
	}
}

// writeNumber gives the function that writes elements of a type. What does not fit becomes the nearest that does, and
// NaN becomes 0 among integers: a cast that wraps around would answer with nonsense.
func writeNumber(t tensor.Type) func(data []byte, i int, n number) {
	le := binary.LittleEndian
	switch t {
	case tensor.Bool:
		return func(b []byte, i int, n number) {
			b[i] = 0
			if n.i != 0 || n.u != 0 || n.f != 0 {
				b[i] = 1
			}
		}
	case tensor.Uint8:
		return func(b []byte, i int, n number) { b[i] = byte(n.toUint(math.MaxUint8)) }
	case tensor.Uint16:
		return func(b []byte, i int, n number) { le.PutUint16(b[2*i:], uint16(n.toUint(math.MaxUint16))) }
	case tensor.Uint32:
		return func(b []byte, i int, n number) { le.PutUint32(b[4*i:], uint32(n.toUint(math.MaxUint32))) }
	case tensor.Uint64:
		return func(b []byte, i int, n number) { le.PutUint64(b[8*i:], n.toUint(math.MaxUint64)) }
	case tensor.Int8:
		return func(b []byte, i int, n number) { b[i] = byte(n.toInt(math.MinInt8, math.MaxInt8)) }
	case tensor.Int16:
		return func(b []byte, i int, n number) { le.PutUint16(b[2*i:], uint16(n.toInt(math.MinInt16, math.MaxInt16))) }
	case tensor.Int32:
		return func(b []byte, i int, n number) { le.PutUint32(b[4*i:], uint32(n.toInt(math.MinInt32, math.MaxInt32))) }
	case tensor.Int64:
		return func(b []byte, i int, n number) { le.PutUint64(b[8*i:], uint64(n.toInt(math.MinInt64, math.MaxInt64))) }
	case tensor.FP16:
		return func(b []byte, i int, n number) { le.PutUint16(b[2*i:], floatToHalf(float32(n.toFloat()))) }
	case tensor.BF16:
		return func(b []byte, i int, n number) { le.PutUint16(b[2*i:], floatToBrain(float32(n.toFloat()))) }
	case tensor.FP32:
		return func(b []byte, i int, n number) { le.PutUint32(b[4*i:], math.Float32bits(float32(n.toFloat()))) }
	default:
		return func(b []byte, i int, n number) { le.PutUint64(b[8*i:], math.Float64bits(n.toFloat())) }
	}
}

func (n number) toFloat() float64 {
	switch n.kind {
	case signed:
		return float64(n.i)
	case unsigned:
		return float64(n.u)
	}
	return n.f
}

func (n number) toInt(least, most int64) int64 {
	switch n.kind {
	case signed:
		return min(max(n.i, least), most)
	case unsigned:
		if n.u > uint64(most) {
			return most
		}
		return int64(n.u)
	}
	switch {
	case math.IsNaN(n.f):
		return 0
	case n.f <= float64(least):
		return least
	case n.f >= float64(most):
		return most
	}
	return int64(n.f)
}

func (n number) toUint(most uint64) uint64 {
	switch n.kind {
	case signed:
		return min(uint64(max(n.i, 0)), most)
	case unsigned:
		return min(n.u, most)
	}
	switch {
	case math.IsNaN(n.f) || n.f <= 0:
		return 0
	case n.f >= float64(most):
		return most
	}
	return uint64(n.f)
}

// halfToFloat widens an IEEE 754 half.
func halfToFloat(h uint16) float32 {
	sign, exponent, fraction := uint32(h>>15)<<31, uint32(h>>10)&0x1f, uint32(h)&0x3ff
	switch exponent {
	case 0x1f:
		return math.Float32frombits(sign | 0xff<<23 | fraction<<13)
	case 0: // zero and the subnormals
		v := float32(fraction) / (1 << 24)
		return math.Float32frombits(math.Float32bits(v) | sign)
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
}

// floatToHalf narrows to the nearest half, ties to even.
func floatToHalf(f float32) uint16 {
	bits := math.Float32bits(f)
	sign, rest := uint16(bits>>16)&0x8000, bits&0x7fffffff
	switch {
	case rest > 0x7f800000:
		return sign | 0x7e00 // NaN
	case rest >= 0x477ff000:
		return sign | 0x7c00 // rounds to infinity
	case rest < 0x38800000: // subnormal or zero: adding 0.5 leaves the rounded fraction in the low bits
		return sign | uint16(math.Float32bits(math.Float32frombits(rest)+0.5)-0x3f000000)
	}
	rest += 0xfff + rest>>13&1
	return sign | uint16((rest-0x38000000)>>13)
}

// floatToBrain narrows to the nearest bfloat16, ties to even.
func floatToBrain(f float32) uint16 {
	bits := math.Float32bits(f)
	if bits&0x7fffffff > 0x7f800000 {
		return uint16(bits>>16) | 0x40 // a NaN stays one
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// cast changes the datatype.
type cast struct{ to tensor.Type }

func newCast(o *options) (operation, []string, error) {
	var s struct {
		To string `json:"to"`
	}
	if err := o.into(&s); err != nil {
		return nil, nil, err
	}
	to, ok := tensor.ParseType(s.To)
	if !ok || !numeric(to) {
		return nil, nil, fmt.Errorf("with.to: %q is not a datatype of numbers", clip(s.To))
	}
	return cast{to}, []string{"x"}, nil
}

func (c cast) infer(in []port) ([]port, error) {
	if !numeric(in[0].typ) {
		return nil, fmt.Errorf("tensor \"x\" is %s; numbers are taken", in[0].typ)
	}
	out := in[0]
	out.typ = c.to
	return []port{out}, nil
}

func (c cast) run(_ context.Context, in, out []tensor.Tensor) error {
	if in[0].Type == c.to {
		out[0].Data = in[0].Data
		return nil
	}
	read, write, data := readNumber(in[0].Type), writeNumber(c.to), allocate(&out[0])
	for i := range len(in[0].Data) / in[0].Type.Size() {
		write(data, i, read(in[0].Data, i))
	}
	return nil
}

// normalise gives (x*scale + shift - mean[c]) / std[c] as FP32, c along an axis.
type normalise struct {
	scale, shift float32
	mean, std    []float32
	axis         int
}

type normaliseSettings struct {
	Scale float32   `json:"scale"`
	Shift float32   `json:"shift"`
	Mean  []float32 `json:"mean,omitempty"`
	Std   []float32 `json:"std,omitempty"`
	Axis  int       `json:"axis"`
}

func newNormalise(o *options) (operation, []string, error) {
	s := normaliseSettings{Scale: 1, Axis: 1}
	if err := o.into(&s); err != nil {
		return nil, nil, err
	}
	mean, std, err := meanAndStd(s.Mean, s.Std)
	if err != nil {
		return nil, nil, err
	}
	return normalise{s.Scale, s.Shift, mean, std, s.Axis}, []string{"x"}, nil
}

// meanAndStd makes two lists of one length; one that is missing is 0s or 1s.
func meanAndStd(mean, std []float32) (_, _ []float32, _ error) {
	n := max(len(mean), len(std))
	fill := func(list []float32, value float32) []float32 {
		if len(list) > 0 {
			return list
		}
		list = make([]float32, n)
		for i := range list {
			list[i] = value
		}
		return list
	}
	mean, std = fill(mean, 0), fill(std, 1)
	if len(mean) != len(std) {
		return nil, nil, fmt.Errorf("with.mean has %d values and with.std %d", len(mean), len(std))
	}
	for i, s := range std {
		if s == 0 {
			return nil, nil, fmt.Errorf("with.std[%d] is 0, which divides", i)
		}
	}
	return mean, std, nil
}

func (n normalise) infer(in []port) ([]port, error) {
	p := in[0]
	if !numeric(p.typ) {
		return nil, fmt.Errorf("tensor \"x\" is %s; numbers are taken", p.typ)
	}
	out := p
	out.typ = tensor.FP32
	if len(n.mean) == 0 || p.open {
		return []port{out}, nil
	}
	axis, err := p.axis(n.axis)
	if err != nil {
		return nil, err
	}
	if _, ok := meet(p.dims[axis], fixed(int64(len(n.mean)))); !ok {
		return nil, fmt.Errorf("tensor \"x\" is %s; mean and std have %d values for its axis %d", p, len(n.mean), axis)
	}
	return []port{out}, nil
}

func (n normalise) run(_ context.Context, in, out []tensor.Tensor) error {
	data := allocate(&out[0])
	put := func(i int, v float32) { binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(v)) }
	count := len(data) / 4
	get := float32s(&in[0])
	if len(n.mean) == 0 {
		for i := range count {
			put(i, get(i)*n.scale+n.shift)
		}
		return nil
	}
	axis, err := actual(&in[0]).axis(n.axis)
	if err != nil {
		return err
	}
	inner := 1
	for _, d := range in[0].Shape[axis+1:] {
		inner *= int(d)
	}
	for i := range count {
		c := i / inner % len(n.mean)
		put(i, (get(i)*n.scale+n.shift-n.mean[c])/n.std[c])
	}
	return nil
}

// float32s reads a tensor of numbers as FP32; the common types without a detour.
func float32s(t *tensor.Tensor) func(i int) float32 {
	data := t.Data
	switch t.Type {
	case tensor.FP32:
		return func(i int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])) }
	case tensor.Uint8:
		return func(i int) float32 { return float32(data[i]) }
	}
	read := readNumber(t.Type)
	return func(i int) float32 { return float32(read(data, i).toFloat()) }
}
