package oip

import (
	"encoding/base64"
	"unicode/utf8"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// DecodeV1 reads the body of a predict request of the older protocol, TensorFlow Serving's and KServe's: "instances" is a list
// of items, each a value or an object of values by input; "inputs" is a value or an object of them, items and all.
// It has no shapes and no datatypes: the shape is that of the nested lists, the types are the model's.
func (r *Request) DecodeV1(body []byte, inputs []api.TensorSpec) error {
	r.Reset()
	d := &r.json
	d.scanner, d.r = scanner{b: body, scratch: d.scratch}, r
	if err := d.expect('{', "'{' of the request"); err != nil {
		return err
	}
	read := 0
	seen := map[string]bool{}
	for first := true; ; first = false {
		more, err := d.more(first, '}')
		if err != nil {
			return err
		}
		if !more {
			break
		}
		key, err := d.key()
		if err != nil {
			return err
		}
		name := string(key)
		if seen[name] {
			return d.fail("the request has the field %q twice", clip(name))
		}
		seen[name] = true
		switch name {
		case "instances":
			read, err = read+1, d.instances(inputs)
		case "inputs":
			r.Columns = true
			read, err = read+1, d.columns(inputs)
		case "signature_name", "parameters":
			err = d.skip(1)
		default:
			return d.fail("the request has no field %q", clip(name))
		}
		if err != nil {
			return err
		}
	}
	if d.peek(); d.i < len(d.b) {
		return d.fail("something follows the request")
	}
	if read != 1 {
		return d.fail("the request needs either instances or inputs")
	}
	return r.finish()
}

// instances reads the row form.
func (d *decoder) instances(specs []api.TensorSpec) error {
	start := d.i
	if err := d.expect('[', "'[' of the instances"); err != nil {
		return err
	}
	if d.peek() == '{' && !d.encoded() {
		return d.objects(specs)
	}
	d.i = start
	return d.only(specs)
}

// only reads a value for a model with one input.
func (d *decoder) only(specs []api.TensorSpec) error {
	if len(specs) != 1 {
		return d.fail("the model has %d inputs: name them in objects", len(specs))
	}
	return d.column(&specs[0])
}

// encoded reports whether the object that comes next is a value, bytes as base64, and not a set of them.
func (d *decoder) encoded() bool {
	look := scanner{b: d.b, i: d.i + 1}
	key, err := look.key()
	return err == nil && string(key) == "b64"
}

// columns reads the column form.
func (d *decoder) columns(specs []api.TensorSpec) error {
	if d.peek() != '{' || d.encoded() {
		return d.only(specs)
	}
	d.i++
	for n := 0; ; n++ {
		more, err := d.more(n == 0, '}')
		if err != nil || !more {
			return err
		}
		spec, err := d.inputKey(specs)
		if err != nil {
			return err
		}
		if n == len(specs) { // one of them twice
			return d.fail("more inputs than the model's %d", len(specs))
		}
		if err := d.column(spec); err != nil {
			return err
		}
	}
}

// inputKey reads a member's name, which must be an input's.
func (d *decoder) inputKey(specs []api.TensorSpec) (*api.TensorSpec, error) {
	key, err := d.key()
	if err != nil {
		return nil, err
	}
	for i := range specs {
		if specs[i].Name == string(key) {
			return &specs[i], nil
		}
	}
	return nil, api.Fail(api.CodeSignatureMismatch, "", "the model has no input %q", clip(string(key)))
}

// begin adds an input of the model's type.
func (d *decoder) begin(spec *api.TensorSpec) (*tensor.Tensor, error) {
	kind, ok := tensor.ParseType(spec.Datatype)
	if !ok || kind == tensor.FP16 || kind == tensor.BF16 {
		return nil, api.Fail(api.CodeUnsupported, "", "input %q is %s, which JSON cannot carry: use /v2 or gRPC", clip(spec.Name), spec.Datatype)
	}
	t := d.r.nextInput()
	t.Name, t.Type = spec.Name, kind
	return t, nil
}

// column reads one whole input.
func (d *decoder) column(spec *api.TensorSpec) error {
	t, err := d.begin(spec)
	if err != nil {
		return err
	}
	d.space()
	start := d.i
	if t.Shape, err = d.measure(t.Shape); err != nil {
		return err
	}
	d.i = start
	out, err := d.room(t)
	if err != nil {
		return err
	}
	t.Data = out
	rest, err := d.fill(t, t.Shape, out)
	if t.Type == tensor.Bytes {
		t.Data = rest
	}
	return err
}

// measure steps over a value and appends the sizes of its nested lists. The first of each is measured, the others must
// be like it, which filling finds out.
func (d *decoder) measure(shape []int64) ([]int64, error) {
	if d.peek() != '[' {
		return shape, d.skip(len(shape) + 1)
	}
	d.i++
	at := len(shape)
	if at == tensor.MaxRank {
		return shape, d.fail("lists are nested deeper than the limit of %d", tensor.MaxRank)
	}
	shape = append(shape, 0)
	for n := int64(0); ; n++ {
		more, err := d.more(n == 0, ']')
		if err != nil {
			return shape, err
		}
		if !more {
			shape[at] = n
			return shape, nil
		}
		if n == 0 {
			shape, err = d.measure(shape)
		} else {
			err = d.skip(at + 2)
		}
		if err != nil {
			return shape, err
		}
	}
}

// room takes memory for a tensor, once it is clear that the rest of the body can fill it. BYTES grow as they come.
func (d *decoder) room(t *tensor.Tensor) ([]byte, error) {
	n, err := tensor.Elements(t.Shape)
	switch {
	case err != nil:
		return nil, badTensor(t.Name, err)
	case n > int64(len(d.b)-d.i)/2+1:
		return nil, api.Fail(api.CodeBadTensor, "", "input %q: its lists differ in length", clip(t.Name))
	case t.Type == tensor.Bytes:
		return nil, nil
	}
	return d.r.take(int(n) * t.Type.Size()), nil
}

// fill reads a value of the given shape into out and gives what is left of it, or for BYTES what there is now.
func (d *decoder) fill(t *tensor.Tensor, shape []int64, out []byte) ([]byte, error) {
	e := &d.data
	e.scanner, e.t, e.out, e.base64, e.whole, e.start = &d.scanner, t, out, true, 0, -1
	if len(shape) == 0 {
		if err := e.element(); err != nil {
			return e.out, e.placed(err)
		}
		return e.out, nil
	}
	if err := d.expect('[', "'[' of a list"); err != nil {
		return out, err
	}
	err := e.array(shape)
	return e.out, err
}

// objects reads rows that name their inputs; the bracket before them was read.
func (d *decoder) objects(specs []api.TensorSpec) error {
	start := d.i
	count, err := d.measureObjects(specs)
	if err != nil {
		return err
	}
	outs := make([][]byte, len(d.r.Inputs))
	d.i = start
	total := int64(0)
	for i := range outs {
		t := &d.r.Inputs[i]
		t.Shape = append(t.Shape, 0)
		copy(t.Shape[1:], t.Shape)
		t.Shape[0] = count
		if outs[i], err = d.room(t); err != nil {
			return err
		}
		n, _ := tensor.Elements(t.Shape) // checked by room
		if total += n; total > int64(len(d.b)-start)/2+1 {
			return d.fail("the instances differ in length")
		}
		t.Data = outs[i]
	}
	for n := int64(0); n < count; n++ {
		if n > 0 {
			if err := d.expect(',', "','"); err != nil {
				return err
			}
		}
		if err := d.object(specs, outs); err != nil {
			return err
		}
	}
	for i := range outs {
		if t := &d.r.Inputs[i]; t.Type == tensor.Bytes {
			t.Data = outs[i]
		}
	}
	return d.expect(']', "']' of the instances")
}

// measureObjects makes the inputs that the first row names, with the shapes of its values, and counts the rows.
func (d *decoder) measureObjects(specs []api.TensorSpec) (count int64, err error) {
	for {
		more, err := d.more(count == 0, ']')
		if err != nil || !more {
			return count, err
		}
		if count++; count > 1 {
			if err := d.skip(2); err != nil {
				return 0, err
			}
			continue
		}
		d.i++ // the brace
		for first := true; ; first = false {
			more, err := d.more(first, '}')
			if err != nil {
				return 0, err
			}
			if !more {
				break
			}
			spec, err := d.inputKey(specs)
			if err != nil {
				return 0, err
			}
			t, err := d.begin(spec)
			if err != nil {
				return 0, err
			}
			if t.Shape, err = d.measure(t.Shape); err != nil {
				return 0, err
			}
			if len(d.r.Inputs) > len(specs) {
				return 0, d.fail("an instance has more inputs than the model's %d", len(specs))
			}
		}
	}
}

// object reads one row.
func (d *decoder) object(specs []api.TensorSpec, outs [][]byte) error {
	if err := d.expect('{', "'{' of an instance"); err != nil {
		return err
	}
	seen := make(map[int]bool, len(outs))
	for first := true; ; first = false {
		more, err := d.more(first, '}')
		if err != nil {
			return err
		}
		if !more {
			break
		}
		spec, err := d.inputKey(specs)
		if err != nil {
			return err
		}
		at := -1
		for i := range d.r.Inputs {
			if d.r.Inputs[i].Name == spec.Name {
				at = i
			}
		}
		if at < 0 || seen[at] {
			return d.fail("instances must have the same inputs, each once; %q is one too many", clip(spec.Name))
		}
		seen[at] = true
		t := &d.r.Inputs[at]
		if outs[at], err = d.fill(t, t.Shape[1:], outs[at]); err != nil {
			return err
		}
	}
	if len(seen) != len(outs) {
		return d.fail("instances must have the same inputs")
	}
	return nil
}

// bytesOf reads a BYTES element that is written as base64.
func (e *elements) bytesOf() error {
	e.i++ // the brace
	key, err := e.key()
	if err != nil {
		return err
	}
	if string(key) != "b64" {
		return e.fail("an object in BYTES must have the one field b64")
	}
	text, err := e.str()
	if err != nil {
		return err
	}
	decoded, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil {
		return e.fail("b64 is not valid base64")
	}
	e.out = tensor.AppendBytes(e.out, decoded)
	return e.expect('}', "'}' behind b64")
}

// maxEmpty is the most empty lists that an answer is written with: they have no data that would bound them.
const maxEmpty = 1 << 16

// AppendV1 appends the answer to a predict request, in rows or columns as it was asked.
func (a *Response) AppendV1(dst []byte, columns bool) ([]byte, error) {
	dst = append(dst, `{"predictions":`...)
	nests := make([]nest, len(a.Outputs))
	for i := range a.Outputs {
		t := &a.Outputs[i]
		if len(t.Data) == 0 && emptyLists(t.Shape) > maxEmpty {
			return dst, notJSON(t, "has too many empty lists")
		}
		nests[i] = nest{t: *t}
	}
	var err error
	switch {
	case len(nests) == 1:
		dst, err = nests[0].value(dst, nests[0].t.Shape)
	case columns:
		dst, err = appendObject(dst, nests, 0)
	default:
		dst, err = appendRows(dst, nests)
	}
	return append(dst, '}'), err
}

// emptyLists multiplies the sizes before the first nought, as far as the limit needs.
func emptyLists(shape []int64) int64 {
	n := int64(1)
	for _, size := range shape {
		if size == 0 || n > maxEmpty {
			break
		}
		n *= min(size, maxEmpty+1)
	}
	return n
}

// appendRows appends an object for each item of the batch; without outputs none is known.
func appendRows(dst []byte, nests []nest) ([]byte, error) {
	if len(nests) == 0 {
		return append(dst, "[]"...), nil
	}
	for i := range nests {
		if t := &nests[i].t; len(t.Shape) == 0 || t.Shape[0] != nests[0].t.Shape[0] {
			return dst, api.Fail(api.CodeBadTensor, "", "output %q has the shape %v: the outputs cannot be told apart by instance", clip(t.Name), t.Shape).
				WithCure("Send the request in columns: {\"inputs\": ...}.")
		}
	}
	dst = append(dst, '[')
	var err error
	for row := range nests[0].t.Shape[0] {
		if row > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendObject(dst, nests, 1); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

// appendObject appends the next value of each output by its name, without the first dimensions.
func appendObject(dst []byte, nests []nest, without int) (_ []byte, err error) {
	dst = append(dst, '{')
	for i := range nests {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, nests[i].t.Name), ':')
		if dst, err = nests[i].value(dst, nests[i].t.Shape[without:]); err != nil {
			return dst, err
		}
	}
	return append(dst, '}'), nil
}

// nest writes a tensor as nested lists, from its first element on.
type nest struct {
	t tensor.Tensor // Data is what is still to be written
}

func (n *nest) value(dst []byte, shape []int64) (_ []byte, err error) {
	if len(shape) == 0 {
		return n.run(dst, 1)
	}
	dst = append(dst, '[')
	if len(shape) == 1 {
		dst, err = n.run(dst, shape[0])
		return append(dst, ']'), err
	}
	for i := range shape[0] {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = n.value(dst, shape[1:]); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

// run writes some elements with commas between them.
func (n *nest) run(dst []byte, count int64) ([]byte, error) {
	if n.t.Type == tensor.Bytes {
		return n.texts(dst, count)
	}
	part := n.t
	size := min(int(count)*n.t.Type.Size(), len(n.t.Data))
	part.Data, n.t.Data = n.t.Data[:size], n.t.Data[size:]
	return appendData(dst, &part)
}

// texts writes BYTES elements: as text where they are, else as base64 in an object.
func (n *nest) texts(dst []byte, count int64) ([]byte, error) {
	for i := range count {
		element, rest, ok := tensor.NextBytes(n.t.Data)
		if !ok {
			return dst, notJSON(&n.t, "is damaged")
		}
		n.t.Data = rest
		if i > 0 {
			dst = append(dst, ',')
		}
		if utf8.Valid(element) {
			dst = appendString(dst, element)
			continue
		}
		dst = append(dst, `{"b64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, element)
		dst = append(dst, `"}`...)
	}
	return dst, nil
}
