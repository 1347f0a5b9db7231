package oip

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// elements parses the "data" of an input, nested as its shape or flat, straight into the tensor's little-endian bytes. The
// scanner stands at the value; shape and type are known and checked.
func (d *decoder) elements(t *tensor.Tensor) error {
	n, err := tensor.Elements(t.Shape)
	if err != nil {
		return badTensor(t.Name, err)
	}
	if t.Type == tensor.FP16 || t.Type == tensor.BF16 {
		return api.Fail(api.CodeBadTensor, "", "input %q: %s cannot be written as JSON; send it as binary data (binary_data_size)", clip(t.Name), t.Type)
	}
	// An element takes at least a character and a comma: a shape that the rest of the body cannot fill is refused
	// before memory is taken for it.
	few := n > int64(len(d.b)-d.i)/2+1
	if err := d.expect('[', "'[' of the data"); err != nil {
		return err
	}
	e := &d.data
	e.scanner, e.t, e.base64, e.whole, e.start = &d.scanner, t, false, n, d.i-1
	if few {
		return e.count()
	}
	if t.Type != tensor.Bytes {
		e.out = d.r.take(int(n) * t.Type.Size())
		t.Data = e.out
	} else {
		// BYTES grow as they come; they cannot outgrow four bytes an element more than the body.
		e.out = d.r.open()
	}
	dims := t.Shape
	if d.peek() != '[' || len(dims) < 2 {
		err = e.run(n)
	} else {
		err = e.array(dims)
	}
	if err != nil {
		return err
	}
	if t.Type == tensor.Bytes {
		t.Data = e.out[:len(e.out):len(e.out)]
		d.r.done(e.out)
	}
	return nil
}

// elements fills a tensor: out is what is still to be written, or for BYTES what was.
type elements struct {
	*scanner
	t      *tensor.Tensor
	out    []byte
	number decimal // the last
	base64 bool    // BYTES may be written as {"b64":"..."}, as V1 has it
	whole  int64   // elements of the whole tensor, when out is for all of them; else 0
	start  int     // where the data of the whole tensor begin; -1 when they are in pieces
}

// array reads one array whose opening bracket was read, and the arrays in it.
func (e *elements) array(dims []int64) error {
	if len(dims) == 1 {
		return e.run(dims[0])
	}
	for i := int64(0); ; i++ {
		more, err := e.more(i == 0, ']')
		if err != nil {
			return err
		}
		if !more && i == dims[0] {
			return nil
		}
		if !more || i == dims[0] {
			return e.count()
		}
		if err := e.expect('[', "'[' of a nested array"); err != nil {
			return err
		}
		if err := e.array(dims[1:]); err != nil {
			return err
		}
	}
}

// run reads n elements and the closing bracket.
func (e *elements) run(n int64) error {
	quick := e.t.Type == tensor.FP32 || e.t.Type == tensor.FP64
	for i := int64(0); i < n; i++ {
		if quick {
			if i += e.floats(n-i, i == 0); i == n {
				break
			}
		}
		c := e.peek()
		if i > 0 {
			if c != ',' {
				if c == ']' {
					return e.count()
				}
				return e.unexpected("',' or ']'")
			}
			e.i++
		} else if c == ']' {
			return e.count()
		}
		if err := e.element(); err != nil {
			return e.placed(err)
		}
	}
	if c := e.peek(); c != ']' {
		if c == ',' || n == 0 {
			return e.count()
		}
		return e.unexpected("']'")
	}
	e.i++
	return nil
}

// count says that there are more or fewer elements than the shape asks for: how many, or where the lists differ from it.
func (e *elements) count() error {
	n, _ := tensor.Elements(e.t.Shape) // checked before
	if again := *e.scanner; e.start >= 0 {
		again.i = e.start
		if got, ok := again.leaves(1); ok && got != n {
			return badTensor(e.t.Name, e.t.Miscount(got))
		}
	}
	return api.Fail(api.CodeBadTensor, "", "input %q: the data do not have the shape %v (%d elements); the difference is at byte %d", clip(e.t.Name), e.t.Shape, n, e.i)
}

// leaves counts what lists hold, on every level; not ok when they cannot be read to their end.
func (s *scanner) leaves(depth int) (n int64, ok bool) {
	if s.peek() != '[' {
		return 1, s.skip(depth) == nil
	}
	if depth > MaxDepth {
		return 0, false
	}
	s.i++
	for first := true; ; first = false {
		more, err := s.more(first, ']')
		if err != nil || !more {
			return n, err == nil
		}
		inner, ok := s.leaves(depth + 1)
		if n += inner; !ok {
			return n, false
		}
	}
}

// placed says which element of which input an error is about, in row-major order from 0.
func (e *elements) placed(err error) error {
	known := *api.AsError(err)
	if e.whole == 0 {
		known.Message = fmt.Sprintf("input %q: %s", clip(e.t.Name), known.Message)
		return &known
	}
	at := int64(0)
	if size := e.t.Type.Size(); size > 0 {
		at = e.whole - int64(len(e.out)/size)
	} else {
		for _, rest, ok := tensor.NextBytes(e.out); ok; _, rest, ok = tensor.NextBytes(rest) {
			at++
		}
	}
	known.Message = fmt.Sprintf("input %q, element %d: %s", clip(e.t.Name), at, known.Message)
	return &known
}

// element reads one element of any type. The type is asked anew for each: the branch is always the same one, and costs less
// than a loop per type would in lines.
func (e *elements) element() error {
	switch e.t.Type {
	case tensor.Bytes:
		if e.base64 && e.peek() == '{' {
			return e.bytesOf()
		}
		text, err := e.str()
		if err != nil {
			return err
		}
		e.out = tensor.AppendBytes(e.out, text)
		return nil
	case tensor.Bool:
		switch w, err := e.word(); {
		case err != nil || w == 'n':
			return e.fail("a BOOL is true or false")
		case w == 't':
			e.out[0] = 1
		default:
			e.out[0] = 0
		}
		e.out = e.out[1:]
		return nil
	}
	d := &e.number
	if err := e.scanner.number(d); err != nil {
		return err
	}
	if room := e.out; !e.store(d) {
		e.out = room
		return api.Fail(api.CodeBadTensor, "", "%s is not a number that %s holds (byte %d)", clip(string(d.text)), e.t.Type, e.i)
	}
	return nil
}

// store writes one number in the tensor's type; false when the type does not hold it.
func (e *elements) store(d *decimal) (ok bool) {
	size := e.t.Type.Size()
	out := e.out
	e.out = out[size:]
	var f32 float32
	var f64 float64
	var bits uint64
	switch e.t.Type {
	case tensor.FP32:
		f32, ok = d.float32()
		binary.LittleEndian.PutUint32(out, math.Float32bits(f32))
		return ok
	case tensor.FP64:
		f64, ok = d.float64()
		bits = math.Float64bits(f64)
	case tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint64:
		bits, ok = d.unsigned(8 * size)
	default:
		var v int64
		v, ok = d.signed(8 * size)
		bits = uint64(v)
	}
	switch size {
	case 1:
		out[0] = byte(bits)
	case 2:
		binary.LittleEndian.PutUint16(out, uint16(bits))
	case 4:
		binary.LittleEndian.PutUint32(out, uint32(bits))
	default:
		binary.LittleEndian.PutUint64(out, bits)
	}
	return ok
}
