package oip

import (
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// contentsField is the field of InferTensorContents that holds each type; 0 where there is none.
var contentsField = [...]protowire.Number{tensor.Bool: 1, tensor.Int8: 2, tensor.Int16: 2, tensor.Int32: 2, tensor.Int64: 3,
	tensor.Uint8: 4, tensor.Uint16: 4, tensor.Uint32: 4, tensor.Uint64: 5, tensor.FP32: 6, tensor.FP64: 7, tensor.Bytes: 8}

// contents turns an InferTensorContents message into the tensor's bytes.
func (r *Request) contents(t *tensor.Tensor, message []byte) error {
	n, err := tensor.Elements(t.Shape)
	if err != nil {
		return badTensor(t.Name, err)
	}
	want := contentsField[t.Type]
	if want == 0 {
		return api.Fail(api.CodeBadTensor, "", "input %q: %s has no typed contents; send it in raw_input_contents", clip(t.Name), t.Type)
	}
	c := typed{t: t, want: want, message: message}
	switch {
	case t.Type == tensor.Bytes:
		c.out = r.open()
	case t.Type == tensor.FP32 || t.Type == tensor.FP64:
		c.view = true // as long as they come packed and in one piece, which is how every client sends them
	case n > int64(len(message)):
		return c.miscount()
	default:
		c.out = r.take(int(n) * t.Type.Size())[:0]
	}
	if err := eachField(message, c.field); err != nil {
		return err
	}
	if t.Type == tensor.Bytes {
		r.done(c.out)
	}
	t.Data = c.out[:len(c.out):len(c.out)]
	return nil
}

// miscount tells how many elements there are, which is another number than the shape asks for.
func (c *typed) miscount() error {
	got := int64(0)
	err := eachField(c.message, func(f field) error {
		if f.number != c.want {
			return nil
		}
		return f.varints(func(uint64) error { got++; return nil })
	})
	if err != nil {
		return err
	}
	return badTensor(c.t.Name, c.t.Miscount(got))
}

// typed collects the elements of one tensor.
type typed struct {
	t    *tensor.Tensor
	want protowire.Number
	out  []byte
	view bool // out may still become a view of the message

	message []byte
}

func (c *typed) field(f field) error {
	if f.number != c.want {
		if f.number < 1 || f.number > 8 || f.kind == protowire.BytesType && len(f.bytes) == 0 {
			return nil
		}
		return api.Fail(api.CodeBadTensor, "", "input %q is %s, its contents are in a field of another type", clip(c.t.Name), c.t.Type)
	}
	switch c.t.Type {
	case tensor.FP32, tensor.FP64:
		return c.floats(f)
	case tensor.Bytes:
		c.out = tensor.AppendBytes(c.out, f.bytes)
		return f.mustBe(protowire.BytesType)
	}
	return f.varints(c.whole)
}

// floats takes fixed-width elements, whose packed form is the tensor's own.
func (c *typed) floats(f field) error {
	alone := protowire.Fixed32Type
	if c.t.Type == tensor.FP64 {
		alone = protowire.Fixed64Type
	}
	if f.kind != protowire.BytesType && f.kind != alone {
		return f.mustBe(alone)
	}
	if c.view && c.out == nil {
		c.out = f.bytes[:len(f.bytes):len(f.bytes)]
		return nil
	}
	c.out = append(c.out, f.bytes...) // moves: the view is full to its capacity
	return nil
}

// whole takes one element of a whole-number type or BOOL.
func (c *typed) whole(v uint64) error {
	size := c.t.Type.Size()
	if cap(c.out)-len(c.out) < size {
		return c.miscount()
	}
	fits := true
	switch c.t.Type {
	case tensor.Bool:
		fits = v <= 1
	case tensor.Int8:
		fits = int64(v) == int64(int8(v))
	case tensor.Int16:
		fits = int64(v) == int64(int16(v))
	case tensor.Int32:
		v = uint64(int64(int32(v))) // int_contents are 32 bits: readers drop the rest
	case tensor.Uint8, tensor.Uint16:
		fits = v < 1<<(8*size)
	case tensor.Uint32:
		v = uint64(uint32(v))
	}
	if !fits {
		return api.Fail(api.CodeBadTensor, "", "input %q: %d is not a number that %s holds", clip(c.t.Name), int64(v), c.t.Type)
	}
	switch size {
	case 1:
		c.out = append(c.out, byte(v))
	case 2:
		c.out = binary.LittleEndian.AppendUint16(c.out, uint16(v))
	case 4:
		c.out = binary.LittleEndian.AppendUint32(c.out, uint32(v))
	default:
		c.out = binary.LittleEndian.AppendUint64(c.out, v)
	}
	return nil
}
