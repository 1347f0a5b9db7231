package oip

import (
	"bytes"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// wired holds the parts of a protobuf request that only make sense together.
type wired struct {
	raw      [][]byte // raw_input_contents
	contents [][]byte // of each input: its InferTensorContents message, nil when absent
	message  Message
}

func (w *wired) reset() {
	clear(w.raw)
	clear(w.contents)
	w.raw, w.contents = w.raw[:0], w.contents[:0]
	w.message.Free()
}

// DecodeProto reads a ModelInferRequest. It is done by hand because tensors are most of the message: raw contents and
// packed floats become views of b, where the generated code would copy them.
func (r *Request) DecodeProto(b []byte) error {
	message := r.wire.message // b is usually its bytes: it stays until the request is reset for good
	r.wire.message = Message{}
	r.Reset()
	r.wire.message = message
	hasModel, hasVersion := false, false
	err := eachField(b, func(f field) error {
		switch f.number {
		case 1:
			hasModel = true
			return f.name(&r.Model, "model_name")
		case 2:
			hasVersion = true
			return f.name(&r.Version, "model_version")
		case 3:
			return f.name(&r.ID, "id")
		case 4:
			return r.protoParameter(f, requestParameter)
		case 5:
			return r.protoInput(f)
		case 6:
			return r.protoOutput(f)
		case 7:
			if len(r.wire.raw) == MaxTensors {
				return api.Fail(api.CodeBadRequest, "", "more raw_input_contents than the limit of %d", MaxTensors)
			}
			r.wire.raw = append(r.wire.raw, f.bytes)
			return f.mustBe(protowire.BytesType)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !hasModel {
		r.Model = ""
	}
	if !hasVersion {
		r.Version = ""
	}
	if err := r.fill(); err != nil {
		return err
	}
	return r.finish()
}

// fill gives every input its data: all from the raw contents, or all from their own.
func (r *Request) fill() error {
	if raw := r.wire.raw; len(raw) > 0 {
		if len(raw) != len(r.Inputs) {
			return api.Fail(api.CodeBadTensor, "", "%d raw_input_contents for %d inputs", len(raw), len(r.Inputs))
		}
		for i := range r.Inputs {
			if len(r.wire.contents[i]) > 0 {
				return api.Fail(api.CodeBadTensor, "", "input %q has contents, though the request has raw_input_contents", clip(r.Inputs[i].Name))
			}
			r.Inputs[i].Data = raw[i]
		}
		return nil
	}
	for i := range r.Inputs {
		if err := r.contents(&r.Inputs[i], r.wire.contents[i]); err != nil {
			return err
		}
	}
	return nil
}

// protoInput reads one input. Its data are put in by fill, when it is known whether the message has raw contents: the
// fields of a message may come in any order.
func (r *Request) protoInput(f field) error {
	if len(r.Inputs) == MaxTensors {
		return api.Fail(api.CodeBadRequest, "", "more inputs than the limit of %d", MaxTensors)
	}
	t := r.nextInput()
	named := false
	var contents []byte
	err := f.message(func(f field) (err error) {
		switch f.number {
		case 1:
			named = true
			return f.name(&t.Name, "an input's name")
		case 2:
			t.Type, err = datatype(t.Name, f.bytes)
			return err
		case 3:
			return f.varints(func(v uint64) error {
				if len(t.Shape) == tensor.MaxRank {
					return api.Fail(api.CodeBadTensor, "", "a shape has more dimensions than the limit of %d", tensor.MaxRank)
				}
				t.Shape = append(t.Shape, int64(v))
				return nil
			})
		case 4:
			return r.protoParameter(f, inputParameter)
		case 5:
			if err := f.mustBe(protowire.BytesType); err != nil {
				return err
			}
			if contents == nil {
				contents = f.bytes[:len(f.bytes):len(f.bytes)]
				return nil
			}
			// Messages that are given in parts are the concatenation of the parts.
			contents = append(contents, f.bytes...)
		}
		return nil
	})
	if err == nil && (!named || t.Type == tensor.Invalid) {
		err = api.Fail(api.CodeBadTensor, "", "an input needs a name and a datatype")
	}
	r.wire.contents = append(r.wire.contents, contents)
	return err
}

// protoOutput reads one wanted output. All outputs of a gRPC answer are raw, so there is no choice to read.
func (r *Request) protoOutput(f field) error {
	if len(r.Outputs) == MaxTensors {
		return api.Fail(api.CodeBadRequest, "", "more outputs than the limit of %d", MaxTensors)
	}
	o := r.nextOutput()
	o.Binary, o.said, o.Classes = true, true, 0
	named := false
	err := f.message(func(f field) error {
		switch f.number {
		case 1:
			named = true
			return f.name(&o.Name, "an output's name")
		case 2:
			return r.protoParameter(f, outputParameter)
		}
		return nil
	})
	if err == nil && !named {
		err = api.Fail(api.CodeBadTensor, "", "an output has no name")
	}
	return err
}

// protoParameter reads one entry of a parameters map; those that are not known are left alone.
func (r *Request) protoParameter(f field, where place) error {
	var key []byte
	var v field // number is the kind of value
	err := f.message(func(f field) error {
		switch f.number {
		case 1:
			key = f.bytes
		case 2:
			return f.message(func(f field) error {
				v = f
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	const isBool, isInt64, isString, isUint64 = 1, 2, 3, 5
	whole := v.kind == protowire.VarintType && (v.number == isUint64 || v.number == isInt64 && int64(v.varint) >= 0)
	switch {
	case string(key) == "shared_memory_region" && where != requestParameter:
		return unsupported("shared memory")
	case string(key) == "classification" && where == outputParameter:
		return r.Outputs[len(r.Outputs)-1].classes(v.varint, whole)
	case where != requestParameter || len(key) > MaxName:
		return nil
	case !isNumbered(key):
		switch {
		case v.number == isString && len(v.bytes) <= MaxText && utf8.Valid(v.bytes):
			r.keep(key, string(v.bytes))
		case v.number == isBool && v.kind == protowire.VarintType:
			r.keep(key, strconv.FormatBool(v.varint != 0))
		case v.number == isInt64 && v.kind == protowire.VarintType:
			r.keep(key, strconv.FormatInt(int64(v.varint), 10))
		case whole:
			r.keep(key, strconv.FormatUint(v.varint, 10))
		}
		return nil
	case v.number == isString && string(key) == "sequence_id":
		return r.numberedParameter("sequence_id", uint64(len(v.bytes)))
	case v.number == isBool && string(key) != "timeout" && string(key) != "priority":
		whole = true
	}
	if !whole {
		return notNumbered(key)
	}
	return r.numberedParameter(string(key), v.varint)
}

// field is one field of a message: bytes of a length-delimited one, varint of the others.
type field struct {
	number protowire.Number
	kind   protowire.Type
	bytes  []byte
	varint uint64
}

// eachField walks over a message's fields. Fields that nobody knows cost the walk and nothing else; groups, which the protocol
// does not have, are passed over as unknown with the depth that the library allows.
func eachField(b []byte, visit func(field) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return malformed(n)
		}
		b = b[n:]
		f := field{number: number, kind: kind}
		switch kind {
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type, protowire.Fixed64Type:
			if n = protowire.ConsumeFieldValue(number, kind, b); n > 0 {
				f.bytes = b[:n]
			}
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return malformed(n)
		}
		if err := visit(f); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func malformed(n int) error {
	return api.Fail(api.CodeBadRequest, "", "the message is not valid protobuf: %w", protowire.ParseError(n))
}

// mustBe refuses a known field of another wire type. The generated code would take it for an unknown field; here that would
// only hide a broken client.
func (f field) mustBe(kind protowire.Type) error {
	if f.kind != kind {
		return api.Fail(api.CodeBadRequest, "", "field %d of the message has the wrong wire type", f.number)
	}
	return nil
}

// message walks over a field that is a message itself.
func (f field) message(visit func(field) error) error {
	if err := f.mustBe(protowire.BytesType); err != nil {
		return err
	}
	return eachField(f.bytes, visit)
}

// name reads a string field with the bounds that names and ids have in JSON, too.
func (f field) name(into *string, what string) error {
	switch {
	case f.kind != protowire.BytesType:
		return f.mustBe(protowire.BytesType)
	case len(f.bytes) > MaxName:
		return api.Fail(api.CodeBadRequest, "", "%s has %d bytes, limit %d", what, len(f.bytes), MaxName)
	case !utf8.Valid(f.bytes) || bytes.IndexByte(f.bytes, 0) >= 0:
		return api.Fail(api.CodeBadRequest, "", "%s is not UTF-8 without NUL", what)
	}
	keep(into, f.bytes)
	return nil
}

// varints visits a repeated whole-number field, packed or not.
func (f field) varints(visit func(uint64) error) error {
	if f.kind == protowire.VarintType {
		return visit(f.varint)
	}
	if err := f.mustBe(protowire.BytesType); err != nil {
		return err
	}
	for b := f.bytes; len(b) > 0; {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return malformed(n)
		}
		if err := visit(v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
