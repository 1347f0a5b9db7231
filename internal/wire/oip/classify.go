package oip

import (
	"encoding/binary"
	"math"
	"slices"
	"strconv"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// Classify gives the outputs as the request wants them: those that it asks classes of become BYTES tensors whose elements
// are "value:index", largest first, the others stay as they are. The first dimension of an output with several is its
// batch. What it makes is the request's memory.
func (r *Request) Classify(outputs []tensor.Tensor) ([]tensor.Tensor, error) {
	wanted := false
	for i := range r.Outputs {
		wanted = wanted || r.Outputs[i].Classes > 0
	}
	if !wanted {
		return outputs, nil
	}
	r.made = append(r.made[:0], outputs...)
	for i := range r.made {
		t := &r.made[i]
		k := r.classesOf(t.Name)
		if k == 0 {
			continue
		}
		if t.Type == tensor.Bytes || t.Type == tensor.Bool {
			return nil, api.Fail(api.CodeBadRequest, "", "output %q is %s: classification needs numbers", clip(t.Name), t.Type)
		}
		if err := t.Check(); err != nil {
			return nil, badTensor(t.Name, err)
		}
		classify(t, k)
	}
	return r.made, nil
}

func (r *Request) classesOf(name string) int {
	for i := range r.Outputs {
		if r.Outputs[i].Name == name {
			return r.Outputs[i].Classes
		}
	}
	return 0
}

// classify replaces a tensor by the k largest elements of each item.
func classify(t *tensor.Tensor, k int) {
	size := t.Type.Size()
	count, batch := len(t.Data)/size, 1
	shape := []int64{0}
	if len(t.Shape) > 1 {
		batch = int(t.Shape[0])
		shape = []int64{t.Shape[0], 0}
	}
	if batch > 0 {
		count /= batch
	}
	k = min(k, count)
	shape[len(shape)-1] = int64(k)
	var out []byte
	best := make([]int, 0, k+1)
	var text []byte
	for item := range batch {
		data := t.Data[item*count*size:][:count*size]
		best = best[:0]
		for i := range count {
			if len(best) == k && (k == 0 || descending(t.Type, data, best[k-1], i) <= 0) {
				continue
			}
			at, _ := slices.BinarySearchFunc(best, i, func(one, i int) int {
				if descending(t.Type, data, one, i) <= 0 {
					return -1 // of equal ones the first stays before
				}
				return 1
			})
			best = slices.Insert(best, at, i)
			best = best[:min(len(best), k)]
		}
		for _, i := range best {
			text = appendElement(text[:0], t.Type, data[i*size:])
			text = strconv.AppendInt(append(text, ':'), int64(i), 10)
			out = tensor.AppendBytes(out, text)
		}
	}
	t.Type, t.Shape, t.Data = tensor.Bytes, shape, out
}

// descending compares two elements, the larger first; NaN comes last.
func descending(kind tensor.Type, data []byte, a, b int) int {
	size := kind.Size()
	if kind == tensor.Uint64 {
		x, y := binary.LittleEndian.Uint64(data[a*size:]), binary.LittleEndian.Uint64(data[b*size:])
		return order(x > y, x < y)
	}
	if kind == tensor.Int64 {
		x, y := int64(binary.LittleEndian.Uint64(data[a*size:])), int64(binary.LittleEndian.Uint64(data[b*size:]))
		return order(x > y, x < y)
	}
	x, y := element(kind, data[a*size:]), element(kind, data[b*size:])
	return order(x > y || y != y && x == x, x < y || x != x && y == y)
}

func order(before, after bool) int {
	switch {
	case before:
		return -1
	case after:
		return 1
	}
	return 0
}

// element gives the first element of data as a float64, which holds all types but the 64-bit whole ones exactly.
func element(kind tensor.Type, data []byte) float64 {
	switch kind {
	case tensor.Uint8:
		return float64(data[0])
	case tensor.Int8:
		return float64(int8(data[0]))
	case tensor.Uint16:
		return float64(binary.LittleEndian.Uint16(data))
	case tensor.Int16:
		return float64(int16(binary.LittleEndian.Uint16(data)))
	case tensor.Uint32:
		return float64(binary.LittleEndian.Uint32(data))
	case tensor.Int32:
		return float64(int32(binary.LittleEndian.Uint32(data)))
	case tensor.FP16:
		return half(binary.LittleEndian.Uint16(data))
	case tensor.BF16:
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(data)) << 16))
	case tensor.FP32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(data)))
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(data))
}

// half gives the value of an FP16.
func half(v uint16) float64 {
	exponent, fraction := int(v>>10&31), float64(v&1023)
	size := math.Ldexp(1024+fraction, exponent-25)
	switch {
	case exponent == 0:
		size = math.Ldexp(fraction, -24)
	case exponent == 31 && fraction == 0:
		size = math.Inf(1)
	case exponent == 31:
		size = math.NaN()
	}
	if v>>15 != 0 {
		size = -size
	}
	return size
}

// appendElement writes an element as classification's clients know it: six places behind the point.
func appendElement(dst []byte, kind tensor.Type, data []byte) []byte {
	switch kind {
	case tensor.Uint64:
		return strconv.AppendUint(dst, binary.LittleEndian.Uint64(data), 10)
	case tensor.Int64:
		return strconv.AppendInt(dst, int64(binary.LittleEndian.Uint64(data)), 10)
	case tensor.FP16, tensor.BF16, tensor.FP32, tensor.FP64:
		return strconv.AppendFloat(dst, element(kind, data), 'f', 6, 64)
	}
	return strconv.AppendInt(dst, int64(element(kind, data)), 10)
}
