package onnxruntime

import (
	"encoding/binary"
	"slices"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/tensor"
)

// input is what a request's tensor must fit. An optional one has a default in the model.
type input struct {
	name     string
	typ      tensor.Type
	ranked   bool
	shape    []int64
	optional bool

	names   []string // of the free dimensions, as the model has them
	symbols []int    // by dimension: the place in instance.symbols of a name that several dimensions have, or -1; nil: none has
}

func newInput(info ort.Info, optional bool) input {
	return input{name: info.Name, typ: fromNative(info.Type), ranked: info.Ranked, shape: info.Shape, optional: optional, names: info.Symbols}
}

// tie finds the names that several free dimensions share: in one request all of a name must have one size.
func (in *instance) tie() {
	uses := map[string]int{}
	for i := range in.inputs {
		for _, name := range in.inputs[i].names {
			if name != "" {
				uses[name]++
			}
		}
	}
	places := map[string]int{}
	for i := range in.inputs {
		want := &in.inputs[i]
		for at, name := range want.names {
			if uses[name] < 2 || at >= len(want.shape) || want.shape[at] >= 0 {
				continue
			}
			if want.symbols == nil {
				want.symbols = slices.Repeat([]int{-1}, len(want.shape))
			}
			place, known := places[name]
			if !known {
				place = len(in.symbols)
				places[name], in.symbols = place, append(in.symbols, name)
			}
			want.symbols[at] = place
		}
	}
}

// bound is the size of a shared name in the request at hand, and the input that gave it.
type bound struct {
	size int64
	by   string
}

// bind holds an input's shared dimensions against those of the inputs before it.
func (in *instance) bind(r *runner, want *input, t *tensor.Tensor) error {
	for at, place := range want.symbols {
		if place < 0 {
			continue
		}
		switch b := &r.bounds[place]; {
		case b.by == "":
			*b = bound{t.Shape[at], t.Name}
		case b.size != t.Shape[at]:
			return api.Fail(api.CodeSignatureMismatch, in.name, "input %q has %d in dimension %d, which the model calls %q; input %q has %d there",
				t.Name, t.Shape[at], at, in.symbols[place], b.by, b.size)
		}
	}
	return nil
}

func toSpec(info ort.Info, typ tensor.Type) api.TensorSpec {
	spec := api.TensorSpec{Name: info.Name, Datatype: typ.String(), Shape: info.Shape}
	for _, symbol := range info.Symbols {
		if symbol != "" {
			spec.Symbols = info.Symbols
		}
	}
	return spec
}

// pairs of ONNX Runtime's types and ours, at our number.
var native = [...]ort.ElementType{tensor.Bool: ort.Bool, tensor.Uint8: ort.Uint8, tensor.Uint16: ort.Uint16, tensor.Uint32: ort.Uint32,
	tensor.Uint64: ort.Uint64, tensor.Int8: ort.Int8, tensor.Int16: ort.Int16, tensor.Int32: ort.Int32, tensor.Int64: ort.Int64,
	tensor.FP16: ort.Float16, tensor.FP32: ort.Float32, tensor.FP64: ort.Float64, tensor.BF16: ort.BFloat16, tensor.Bytes: ort.String}

func toNative(t tensor.Type) ort.ElementType {
	if int(t) < len(native) {
		return native[t]
	}
	return ort.Undefined
}

// fromNative gives tensor.Invalid for types that the protocol does not know.
func fromNative(t ort.ElementType) tensor.Type {
	if i := slices.Index(native[:], t); i > 0 {
		return tensor.Type(i)
	}
	return tensor.Invalid
}

// accept checks a request's tensors against the model and gives them to the runner as ONNX Runtime's.
func (in *instance) accept(r *runner, given []tensor.Tensor) error {
	seen := r.seen
	clear(seen)
	clear(r.bounds)
	for i := range given {
		t := &given[i]
		at, ok := in.byName[t.Name]
		if !ok {
			return api.Fail(api.CodeSignatureMismatch, in.name, "the model has no input %q; it takes %q", t.Name, in.names())
		}
		if seen[at] {
			return api.Fail(api.CodeSignatureMismatch, in.name, "input %q is given twice", t.Name)
		}
		seen[at] = true
		if err := in.inputs[at].check(in.name, t); err != nil {
			return err
		}
		if err := in.bind(r, &in.inputs[at], t); err != nil {
			return err
		}
		r.inputs = append(r.inputs, ort.Tensor{Name: t.Name, Type: toNative(t.Type), Shape: t.Shape, Data: t.Data})
	}
	for i := range in.inputs {
		want := &in.inputs[i]
		if !want.optional && !seen[i] {
			return api.Fail(api.CodeSignatureMismatch, in.name, "input %q is missing: %s of shape %v", want.name, want.typ, want.shape)
		}
	}
	return nil
}

// namesTold is the most names that an error message lists.
const namesTold = 16

// names lists inputs that a request must give.
func (in *instance) names() []string {
	var names []string
	for i := range in.inputs {
		if !in.inputs[i].optional && len(names) < namesTold {
			names = append(names, in.inputs[i].name)
		}
	}
	return names
}

func (want *input) check(subject string, t *tensor.Tensor) error {
	if t.Type != want.typ {
		return api.Fail(api.CodeSignatureMismatch, subject, "input %q has datatype %q, the model takes %s", t.Name, t.Type, want.typ)
	}
	if len(t.Shape) > tensor.MaxRank {
		return api.Fail(api.CodeBadTensor, subject, "input %q has %d dimensions, limit %d", t.Name, len(t.Shape), tensor.MaxRank)
	}
	if want.ranked && len(t.Shape) != len(want.shape) {
		return api.Fail(api.CodeSignatureMismatch, subject, "input %q has shape %v of %d dimensions, the model takes %d: %v",
			t.Name, t.Shape, len(t.Shape), len(want.shape), want.shape)
	}
	for i, size := range want.shape {
		if size >= 0 && t.Shape[i] != size {
			return api.Fail(api.CodeSignatureMismatch, subject, "input %q has %d in dimension %d, the model takes %d: shape %v",
				t.Name, t.Shape[i], i, size, want.shape)
		}
	}
	if err := t.Check(); err != nil {
		return api.Fail(api.CodeBadTensor, subject, "input %q: %w", t.Name, err)
	}
	if t.Type == tensor.Bool && !areBools(t.Data) {
		return api.Fail(api.CodeBadTensor, subject, "input %q: a BOOL element is neither 0 nor 1", t.Name)
	}
	return nil
}

// areBools looks at eight elements at once. Kernels are compiled for bools of 0 and 1; with another byte they may do
// anything.
func areBools(data []byte) bool {
	var seen uint64
	for ; len(data) >= 8; data = data[8:] {
		seen |= binary.LittleEndian.Uint64(data)
	}
	for _, b := range data {
		seen |= uint64(b)
	}
	return seen&^0x0101010101010101 == 0
}

// wanted checks the names of the outputs asked for.
func (in *instance) wanted(names []string) error {
	outputs := in.loaded.Signature.Outputs
	for i, name := range names {
		if !slices.ContainsFunc(outputs, func(s api.TensorSpec) bool { return s.Name == name }) {
			return api.Fail(api.CodeSignatureMismatch, in.name, "the model has no output %q", name)
		}
		if slices.Contains(names[:i], name) {
			return api.Fail(api.CodeSignatureMismatch, in.name, "output %q is asked for twice", name)
		}
	}
	return nil
}

// samples makes up inputs for warming; false when they would take more than limit bytes. Floats are 0, integers and
// booleans 1: ONNX Runtime divides integers in hardware, and a zero divisor would end the process.
func (in *instance) samples(limit int64) ([]tensor.Tensor, bool) {
	var all []tensor.Tensor
	for _, want := range in.inputs {
		if want.optional {
			continue
		}
		shape := slices.Clone(want.shape)
		for i := range shape {
			if shape[i] < 0 {
				shape[i] = 1
			}
		}
		count, err := tensor.Elements(shape)
		if err != nil {
			return nil, false
		}
		size := int64(want.typ.Size())
		if want.typ == tensor.Bytes {
			size = 4 // an empty string is its length alone
		}
		if count > limit/size {
			return nil, false
		}
		limit -= count * size
		data := make([]byte, count*size)
		if want.typ <= tensor.Int64 {
			for at := int64(0); at < int64(len(data)); at += size {
				data[at] = 1 // little-endian
			}
		}
		all = append(all, tensor.Tensor{Name: want.name, Type: want.typ, Shape: shape, Data: data})
	}
	return all, true
}
