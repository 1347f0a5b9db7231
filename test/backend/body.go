package backend

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/oip"
)

// JSON writes an infer request with all inputs as JSON; what JSON has no word for stands there as people write it, for
// the server to refuse. Nested and flat data are both allowed: even ranks are nested.
func JSON(inputs []tensor.Tensor) []byte {
	body := []byte(`{"inputs":[`)
	for i := range inputs {
		if i > 0 {
			body = append(body, ',')
		}
		in := &inputs[i]
		body = append(append(body, '{'), head(in)...)
		body = append(body, `,"data":`...)
		elements := literals(in)
		if rank := len(in.Shape); rank >= 2 && rank%2 == 0 && len(elements) > 0 {
			body = nested(body, in.Shape, &elements)
		} else {
			body = nested(body, []int64{int64(len(elements))}, &elements)
		}
		body = append(body, '}')
	}
	return append(body, "]}"...)
}

// Binary writes an infer request whose first header bytes are JSON, with all inputs behind it, and asks for all outputs
// the same way.
func Binary(inputs []tensor.Tensor) (body []byte, header int) {
	body = []byte(`{"parameters":{"binary_data_output":true},"inputs":[`)
	var tail []byte
	for i := range inputs {
		if i > 0 {
			body = append(body, ',')
		}
		in := &inputs[i]
		body = fmt.Appendf(body, `{%s,"parameters":{"binary_data_size":%d}}`, head(in), len(in.Data))
		tail = append(tail, in.Data...)
	}
	body = append(body, "]}"...)
	return append(body, tail...), len(body)
}

// Message makes an infer request of gRPC with raw contents.
func Message(endpoint string, inputs []tensor.Tensor) *oip.ModelInferRequest {
	req := &oip.ModelInferRequest{ModelName: endpoint}
	for _, in := range inputs {
		req.Inputs = append(req.Inputs, &oip.ModelInferRequest_InferInputTensor{Name: in.Name, Datatype: in.Type.String(), Shape: in.Shape})
		req.RawInputContents = append(req.RawInputContents, in.Data)
	}
	return req
}

// head is name, shape and datatype of an input.
func head(in *tensor.Tensor) string {
	name, _ := json.Marshal(in.Name) // strings and numbers always have a form
	shape, _ := json.Marshal(in.Shape)
	return fmt.Sprintf(`"name":%s,"shape":%s,"datatype":%q`, name, shape, in.Type)
}

// nested writes elements as arrays of the shape.
func nested(body []byte, shape []int64, elements *[]string) []byte {
	body = append(body, '[')
	for i := range shape[0] {
		if i > 0 {
			body = append(body, ',')
		}
		if len(shape) > 1 {
			body = nested(body, shape[1:], elements)
			continue
		}
		body = append(body, (*elements)[0]...)
		*elements = (*elements)[1:]
	}
	return append(body, ']')
}

// literals writes every element as JSON, or in the way that people write what JSON has no word for.
func literals(t *tensor.Tensor) []string {
	var all []string
	if t.Type == tensor.Bytes {
		for element, rest, ok := tensor.NextBytes(t.Data); ok; element, rest, ok = tensor.NextBytes(rest) {
			text, err := json.Marshal(string(element))
			if err != nil || !utf8.Valid(element) {
				text = slices.Concat([]byte{'"'}, element, []byte{'"'}) // as it is, for the server to refuse
			}
			all = append(all, string(text))
		}
		return all
	}
	size := t.Type.Size()
	for data := t.Data; len(data) > 0; data = data[size:] {
		var wide [8]byte
		copy(wide[:], data[:size])
		bits := binary.LittleEndian.Uint64(wide[:])
		shift := 64 - 8*size
		switch t.Type {
		case tensor.Bool:
			all = append(all, strconv.FormatBool(bits != 0))
		case tensor.FP32:
			all = append(all, strconv.FormatFloat(float64(math.Float32frombits(uint32(bits))), 'g', -1, 32))
		case tensor.FP64:
			all = append(all, strconv.FormatFloat(math.Float64frombits(bits), 'g', -1, 64))
		case tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64:
			all = append(all, strconv.FormatInt(int64(bits<<shift)>>shift, 10))
		default: // the sixteen-bit floats by their bits; they are refused whatever stands there
			all = append(all, strconv.FormatUint(bits, 10))
		}
	}
	return all
}
