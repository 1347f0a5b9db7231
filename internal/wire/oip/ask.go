package oip

import (
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/penstock/penstock/internal/tensor"
)

// The caller's side: a request as it is sent. What decoding reads out of these bytes is the request again.

// EncodeHTTP gives the body of an infer request. With binary the tensors follow the JSON, of which header is the length,
// and answers come in the same form; without it all is JSON and header is -1.
func (r *Request) EncodeHTTP(binary bool) (body []byte, header int, err error) {
	dst := []byte{'{'}
	if r.ID != "" {
		dst = append(appendString(append(dst, `"id":`...), r.ID), ',')
	}
	dst = r.appendParameters(dst, binary)
	dst = append(dst, `"inputs":[`...)
	for i := range r.Inputs {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendInput(dst, &r.Inputs[i], binary); err != nil {
			return nil, 0, err
		}
	}
	dst = append(dst, ']')
	if len(r.Outputs) > 0 {
		dst = appendWanted(append(dst, `,"outputs":`...), r.Outputs)
	}
	dst = append(dst, '}')
	if !binary {
		return dst, -1, nil
	}
	header = len(dst)
	for i := range r.Inputs {
		dst = append(dst, r.Inputs[i].Data...)
	}
	return dst, header, nil
}

func (r *Request) appendParameters(dst []byte, binary bool) []byte {
	if !binary && r.Timeout == 0 {
		return dst
	}
	dst = append(dst, `"parameters":{`...)
	if r.Timeout > 0 {
		dst = append(dst, `"timeout":`...)
		dst = append(strconv.AppendInt(dst, int64(r.Timeout/time.Microsecond), 10), ',')
	}
	if binary {
		dst = append(dst, `"binary_data_output":true,`...)
	}
	return append(dst[:len(dst)-1], "},"...)
}

func appendInput(dst []byte, t *tensor.Tensor, binary bool) ([]byte, error) {
	dst = appendString(append(dst, `{"name":`...), t.Name)
	dst = append(append(dst, `,"datatype":"`...), t.Type.String()...)
	dst = appendShape(append(dst, `","shape":`...), t.Shape)
	if binary {
		dst = append(dst, `,"parameters":{"binary_data_size":`...)
		return append(strconv.AppendInt(dst, int64(len(t.Data)), 10), "}}"...), nil
	}
	dst, err := appendData(append(dst, `,"data":[`...), t)
	return append(dst, "]}"...), err
}

func appendWanted(dst []byte, outputs []Output) []byte {
	dst = append(dst, '[')
	for i := range outputs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(append(dst, `{"name":`...), outputs[i].Name)
		if n := outputs[i].Classes; n > 0 {
			dst = append(dst, `,"parameters":{"classification":`...)
			dst = append(strconv.AppendInt(dst, int64(n), 10), '}')
		}
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

// EncodeProto gives a ModelInferRequest with raw contents.
func (r *Request) EncodeProto() []byte {
	dst := appendText(nil, 1, r.Model)
	dst = appendText(dst, 2, r.Version)
	dst = appendText(dst, 3, r.ID)
	if r.Timeout > 0 {
		dst = protowire.AppendBytes(protowire.AppendTag(dst, 4, protowire.BytesType), wholeParameter("timeout", int64(r.Timeout/time.Microsecond)))
	}
	for i := range r.Inputs {
		t := &r.Inputs[i]
		inner := appendText(nil, 1, t.Name)
		inner = appendText(inner, 2, t.Type.String())
		var shape []byte
		for _, n := range t.Shape {
			shape = protowire.AppendVarint(shape, uint64(n))
		}
		if len(shape) > 0 {
			inner = protowire.AppendBytes(protowire.AppendTag(inner, 3, protowire.BytesType), shape)
		}
		dst = protowire.AppendBytes(protowire.AppendTag(dst, 5, protowire.BytesType), inner)
	}
	for i := range r.Outputs {
		inner := appendText(nil, 1, r.Outputs[i].Name)
		if n := r.Outputs[i].Classes; n > 0 {
			inner = protowire.AppendBytes(protowire.AppendTag(inner, 2, protowire.BytesType), wholeParameter("classification", int64(n)))
		}
		dst = protowire.AppendBytes(protowire.AppendTag(dst, 6, protowire.BytesType), inner)
	}
	for i := range r.Inputs {
		dst = protowire.AppendBytes(protowire.AppendTag(dst, 7, protowire.BytesType), r.Inputs[i].Data)
	}
	return dst
}

// wholeParameter is one entry of a parameters map: a key and an int64.
func wholeParameter(key string, n int64) []byte {
	value := protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), uint64(n))
	dst := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), key)
	return protowire.AppendBytes(protowire.AppendTag(dst, 2, protowire.BytesType), value)
}
