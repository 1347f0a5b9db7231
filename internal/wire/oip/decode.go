package oip

import (
	"bytes"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// DecodeHTTP reads the body of an infer request: header bytes of JSON, then the binary tensors. A negative header means
// that all of it is JSON. Binary inputs are views of the body.
func (r *Request) DecodeHTTP(body []byte, header int) error {
	r.Reset()
	if header < 0 {
		header = len(body)
	}
	if header > len(body) {
		return api.Fail(api.CodeBadRequest, "", "Inference-Header-Content-Length is %d, the body has only %d bytes", header, len(body))
	}
	d := &r.json
	d.scanner, d.r, d.tail = scanner{b: body[:header], scratch: d.scratch}, r, body[header:]
	if err := d.request(); err != nil {
		return err
	}
	if len(d.tail) > 0 {
		return api.Fail(api.CodeBadRequest, "", "%d bytes follow the binary tensors: the sizes in binary_data_size must add up to the rest of the body", len(d.tail))
	}
	return r.finish()
}

// DecodeRaw takes the whole body as the data of the one input that the model has, with the shape filled from the body's
// size: the protocol's form for a header of length 0. All outputs come back as binary.
func (r *Request) DecodeRaw(body []byte, input api.TensorSpec) error {
	r.Reset()
	r.BinaryOutput = true
	t := r.nextInput()
	t.Name, t.Data = input.Name, body
	kind, ok := tensor.ParseType(input.Datatype)
	if !ok {
		return api.Fail(api.CodeUnsupported, "", "input %q has no datatype that a raw body can carry", clip(input.Name))
	}
	t.Type = kind
	open, known := -1, int64(1)
	for i, size := range input.Shape {
		if size < 0 && i == 0 && len(input.Shape) > 1 {
			size = 1 // the batch
		}
		if size < 0 && open >= 0 {
			return api.Fail(api.CodeBadTensor, "", "input %q has more than one dimension of any size: a raw body does not say which is which", clip(input.Name))
		}
		if size < 0 {
			open, size = i, 1
		}
		t.Shape = append(t.Shape, size)
		known *= max(size, 1)
	}
	if kind == tensor.Bytes {
		t.Data = tensor.AppendBytes(r.take(4 + len(body))[:0], body)
	} else if unit := known * int64(kind.Size()); open >= 0 && unit > 0 {
		t.Shape[open] = int64(len(body)) / unit
	}
	return r.finish()
}

// decoder reads one request. Objects are read in the order that they are written, whatever it is.
type decoder struct {
	scanner
	r    *Request
	tail []byte   // binary data not yet given to an input
	seen [][]byte // names of the parameters of one object
	data elements
}

// forget lets go of the body.
func (d *decoder) forget() {
	clear(d.seen[:cap(d.seen)])
	*d = decoder{scanner: scanner{scratch: d.scratch[:0]}, seen: d.seen[:0]}
	if cap(d.scratch) > firstBlock {
		d.scratch = nil
	}
}

// The fields of the objects, as bits: each may stand once.
const (
	fieldID = 1 << iota
	fieldParameters
	fieldInputs
	fieldOutputs
	fieldName
	fieldShape
	fieldDatatype
	fieldData
)

var fields = map[string]int{"id": fieldID, "parameters": fieldParameters, "inputs": fieldInputs, "outputs": fieldOutputs,
	"name": fieldName, "shape": fieldShape, "datatype": fieldDatatype, "data": fieldData}

// field reads a member's name: one of the allowed, not seen before.
func (d *decoder) field(seen *int, allowed int, where string) (int, error) {
	key, err := d.key()
	if err != nil {
		return 0, err
	}
	bit := fields[string(key)] & allowed
	if bit == 0 {
		if bit = fields[strings.ToLower(string(key))] & allowed; bit != 0 {
			return 0, d.fail("%s has the field %q, which must be written in lower case", where, clip(string(key)))
		}
		return 0, d.fail("%s has no field %q", where, clip(string(key)))
	}
	if *seen&bit != 0 {
		return 0, d.fail("%s has the field %q twice", where, string(key))
	}
	*seen |= bit
	return bit, nil
}

// request reads the whole document.
func (d *decoder) request() error {
	if err := d.expect('{', "'{' of the request"); err != nil {
		return err
	}
	seen := 0
	for first := true; ; first = false {
		more, err := d.more(first, '}')
		if err != nil {
			return err
		}
		if !more {
			break
		}
		bit, err := d.field(&seen, fieldID|fieldParameters|fieldInputs|fieldOutputs, "the request")
		if err != nil {
			return err
		}
		if bit != fieldInputs && d.null() {
			continue // clients that write every field write null for the absent ones
		}
		switch bit {
		case fieldID:
			err = d.name(&d.r.ID, "the request's id")
		case fieldParameters:
			err = d.parameters(requestParameter, nil)
		case fieldInputs:
			err = d.list(true)
		case fieldOutputs:
			err = d.list(false)
		}
		if err != nil {
			return err
		}
	}
	if d.peek(); d.i < len(d.b) {
		return d.fail("something follows the request")
	}
	if seen&fieldInputs == 0 {
		return d.fail("the request has no inputs")
	}
	d.settle()
	return nil
}

// settle gives outputs without a wish of their own the request's, which may stand behind them.
func (d *decoder) settle() {
	for i := range d.r.Outputs {
		if o := &d.r.Outputs[i]; !o.said {
			o.Binary = d.r.BinaryOutput
		}
	}
}

// list reads the array of inputs, or of outputs.
func (d *decoder) list(inputs bool) error {
	what, one := "outputs", (*decoder).output
	if inputs {
		what, one = "inputs", (*decoder).input
	}
	if err := d.expect('[', "'[' of a list"); err != nil {
		return err
	}
	for n := 0; ; n++ {
		more, err := d.more(n == 0, ']')
		if err != nil || !more {
			return err
		}
		if n == MaxTensors {
			return d.fail("more %s than the limit of %d", what, MaxTensors)
		}
		if err := d.expect('{', "'{' of an input or output"); err != nil {
			return err
		}
		if err := one(d); err != nil {
			return err
		}
	}
}

// name reads a name or an id.
func (d *decoder) name(into *string, what string) error {
	text, err := d.str()
	if err != nil {
		return err
	}
	if len(text) > MaxName {
		return d.fail("%s has %d bytes, limit %d", what, len(text), MaxName)
	}
	if bytes.IndexByte(text, 0) >= 0 {
		return d.fail("%s holds a NUL character", what)
	}
	keep(into, text)
	return nil
}

// input reads one input, whose brace was read. Data that stand before shape or datatype are passed over and read last.
func (d *decoder) input() error {
	t := d.r.nextInput()
	seen, later, binary := 0, -1, int64(-1)
	for first := true; ; first = false {
		more, err := d.more(first, '}')
		if err != nil {
			return err
		}
		if !more {
			break
		}
		bit, err := d.field(&seen, fieldName|fieldShape|fieldDatatype|fieldParameters|fieldData, "an input")
		if err != nil {
			return err
		}
		switch {
		case bit == fieldName:
			err = d.name(&t.Name, "an input's name")
		case bit == fieldShape:
			err = d.shape(t)
		case bit == fieldDatatype:
			err = d.datatype(t)
		case bit == fieldParameters && !d.null():
			err = d.parameters(inputParameter, &binary)
		case bit == fieldData && seen&(fieldName|fieldShape|fieldDatatype) == fieldName|fieldShape|fieldDatatype:
			err = d.elements(t)
		case bit == fieldData:
			d.space()
			later = d.i
			err = d.skip(1)
		}
		if err != nil {
			return err
		}
	}
	if missing := (fieldName | fieldShape | fieldDatatype) &^ seen; missing != 0 {
		return d.fail("an input needs the fields name, shape and datatype")
	}
	if binary >= 0 {
		return d.binaryData(t, binary, seen&fieldData != 0)
	}
	if seen&fieldData == 0 {
		return d.fail("input %q has neither data nor the parameter binary_data_size", clip(t.Name))
	}
	if later < 0 {
		return nil
	}
	end := d.i
	d.i = later
	if err := d.elements(t); err != nil {
		return err
	}
	d.i = end
	return nil
}

// binaryData gives the input the next size bytes behind the JSON.
func (d *decoder) binaryData(t *tensor.Tensor, size int64, hasData bool) error {
	if hasData {
		return d.fail("input %q has both data and binary_data_size", clip(t.Name))
	}
	if size > int64(len(d.tail)) {
		return api.Fail(api.CodeBadRequest, "", "input %q: binary_data_size is %d, %d bytes are left in the body", clip(t.Name), size, len(d.tail))
	}
	t.Data, d.tail = d.tail[:size:size], d.tail[size:]
	return nil
}

// output reads one wanted output, whose brace was read.
func (d *decoder) output() error {
	o := d.r.nextOutput()
	o.Binary, o.said, o.Classes = false, false, 0
	seen := 0
	for first := true; ; first = false {
		more, err := d.more(first, '}')
		if err != nil {
			return err
		}
		if !more {
			break
		}
		bit, err := d.field(&seen, fieldName|fieldParameters, "an output")
		if err != nil {
			return err
		}
		switch {
		case bit == fieldName:
			err = d.name(&o.Name, "an output's name")
		case !d.null():
			err = d.parameters(outputParameter, nil)
		}
		if err != nil {
			return err
		}
	}
	if seen&fieldName == 0 {
		return d.fail("an output has no name")
	}
	return nil
}

// shape reads the sizes; their product is checked when the data are.
func (d *decoder) shape(t *tensor.Tensor) error {
	if err := d.expect('[', "'[' of the shape"); err != nil {
		return err
	}
	for first := true; ; first = false {
		more, err := d.more(first, ']')
		if err != nil || !more {
			return err
		}
		if len(t.Shape) == tensor.MaxRank {
			return d.fail("a shape has more dimensions than the limit of %d", tensor.MaxRank)
		}
		var n decimal
		if err := d.number(&n); err != nil {
			return err
		}
		size, ok := n.signed(64)
		if !ok { // a negative one is refused with the product, when the tensor's name is known
			return d.fail("a shape holds %s, which is not a size", clip(string(n.text)))
		}
		t.Shape = append(t.Shape, size)
	}
}

func (d *decoder) datatype(t *tensor.Tensor) error {
	text, err := d.str()
	if err != nil {
		return err
	}
	t.Type, err = datatype(t.Name, text)
	return err
}

// datatype finds the type of an input, whose name may not be known yet, without making a string of it.
func datatype(input string, text []byte) (tensor.Type, error) {
	for kind := tensor.Bool; kind <= tensor.Bytes; kind++ {
		if kind.String() == string(text) {
			return kind, nil
		}
	}
	if input == "" {
		return tensor.Invalid, api.Fail(api.CodeBadTensor, "", "%q is not a datatype of the protocol", clip(string(text)))
	}
	return tensor.Invalid, api.Fail(api.CodeBadTensor, "", "input %q: %q is not a datatype of the protocol", clip(input), clip(string(text)))
}
