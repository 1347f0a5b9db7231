package oip

import (
	"bytes"
	"strconv"

	"github.com/penstock/penstock/api"
)

// place is where a parameter stands.
type place uint8

const (
	requestParameter place = iota
	inputParameter
	outputParameter
)

// value is what a parameter was set to: kind is 's' for a string, 'n' for a number, 't', 'f', or '0' for null.
type value struct {
	kind   byte
	text   []byte
	number decimal
}

// parameters reads a parameters object. Those that the server does not know are read and left alone, as the protocol
// wants; those that would change the answer, and that it does not do, are refused. binary receives binary_data_size.
func (d *decoder) parameters(where place, binary *int64) error {
	if err := d.expect('{', "'{' of the parameters"); err != nil {
		return err
	}
	d.seen = d.seen[:0]
	for first := true; ; first = false {
		more, err := d.more(first, '}')
		if err != nil || !more {
			return err
		}
		key, err := d.parameterName()
		if err != nil {
			return err
		}
		v, err := d.value(key)
		if err != nil {
			return err
		}
		switch where {
		case requestParameter:
			err = d.requestParameter(key, v)
		case inputParameter:
			err = d.inputParameter(key, v, binary)
		case outputParameter:
			err = d.outputParameter(key, v)
		}
		if err != nil {
			return err
		}
	}
}

// parameterName reads the name, which may stand once.
func (d *decoder) parameterName() ([]byte, error) {
	key, err := d.key()
	if err != nil {
		return nil, err
	}
	if len(key) > MaxName {
		return nil, d.fail("a parameter's name has %d bytes, limit %d", len(key), MaxName)
	}
	if len(d.seen) == MaxParameters {
		return nil, d.fail("more parameters than the limit of %d", MaxParameters)
	}
	if len(key) > 0 && len(d.scratch) > 0 && &key[0] == &d.scratch[0] {
		key = bytes.Clone(key) // the next string with escapes would overwrite it
	}
	for _, before := range d.seen {
		if bytes.Equal(before, key) {
			return nil, d.fail("parameter %q is given twice", clip(string(key)))
		}
	}
	d.seen = append(d.seen, key)
	return key, nil
}

// value reads a parameter's value. Objects and arrays are refused: the protocol has none here, and what nobody reads must not
// be a place to hide a second meaning in.
func (d *decoder) value(key []byte) (v value, err error) {
	switch c := d.peek(); {
	case c == '"':
		v.kind = 's'
		v.text, err = d.str()
	case c == '-' || '0' <= c && c <= '9':
		v.kind = 'n'
		err = d.number(&v.number)
	case c == '[' || c == '{':
		err = d.fail("parameter %q must be a string, a number or a boolean", clip(string(key)))
	default:
		v.kind, err = d.word()
		if v.kind == 'n' {
			v.kind = '0'
		}
	}
	return v, err
}

// requestParameter takes the parameters that the server honours on the whole request.
func (d *decoder) requestParameter(key []byte, v value) error {
	if string(key) == "binary_data_output" {
		return d.boolean(key, v, &d.r.BinaryOutput)
	}
	if !isNumbered(key) {
		d.keep(key, v)
		return nil
	}
	if v.kind == '0' {
		return nil
	}
	n, ok := v.number.unsigned(64)
	switch {
	case v.kind == 'n' && ok:
	case v.kind == 's' && string(key) == "sequence_id": // a sequence may be named
		n = uint64(len(v.text))
	case (v.kind == 't' || v.kind == 'f') && (string(key) == "sequence_start" || string(key) == "sequence_end"):
		n = 0
		if v.kind == 't' {
			n = 1
		}
	default:
		return notNumbered(key)
	}
	return d.r.numberedParameter(string(key), n)
}

// keep hands a parameter on that means nothing here: texts, whole numbers, true and false.
func (d *decoder) keep(key []byte, v value) {
	switch v.kind {
	case 's':
		if len(v.text) <= MaxText {
			d.r.keep(key, string(v.text))
		}
	case 't':
		d.r.keep(key, "true")
	case 'f':
		d.r.keep(key, "false")
	case 'n':
		if n, ok := v.number.signed(64); ok {
			d.r.keep(key, strconv.FormatInt(n, 10))
		}
	}
}

// inputParameter takes those of an input. Shared memory is refused rather than ignored: the input has no other data.
func (d *decoder) inputParameter(key []byte, v value, binary *int64) error {
	switch string(key) {
	case "binary_data_size":
		size, ok := v.number.signed(64)
		if v.kind != 'n' || !ok || size < 0 {
			return d.fail("parameter \"binary_data_size\" must be a whole number of bytes")
		}
		*binary = size
	case "shared_memory_region":
		return unsupported("shared memory")
	}
	return nil
}

// outputParameter takes those of a wanted output.
func (d *decoder) outputParameter(key []byte, v value) error {
	o := &d.r.Outputs[len(d.r.Outputs)-1]
	switch string(key) {
	case "binary_data":
		o.said = true
		return d.boolean(key, v, &o.Binary)
	case "classification":
		n, ok := v.number.unsigned(64)
		return o.classes(n, ok && v.kind == 'n')
	case "shared_memory_region":
		return unsupported("shared memory")
	}
	return nil
}

func (d *decoder) boolean(key []byte, v value, into *bool) error {
	if v.kind != 't' && v.kind != 'f' {
		return d.fail("parameter %q must be true or false", string(key))
	}
	*into = v.kind == 't'
	return nil
}

// classes takes the number of classes that an output is asked for.
func (o *Output) classes(n uint64, whole bool) error {
	if !whole || n == 0 || n > MaxClasses {
		return api.Fail(api.CodeBadRequest, "", "parameter \"classification\" of output %q must be a whole number from 1 to %d", clip(o.Name), MaxClasses)
	}
	o.Classes = int(n)
	return nil
}

func unsupported(what string) error {
	return api.Fail(api.CodeUnsupported, "", "this server does not do %s; see the extensions in its metadata", what)
}
