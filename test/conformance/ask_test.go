package conformance_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/oip"
)

// protocols are the ways in, in the order of the table.
var protocols = []string{"HTTP JSON", "HTTP binary", "gRPC"}

// refusal is an answer that says no, with the reason.
type refusal struct {
	status int // of HTTP, or a gRPC code
	reason string
}

func (r *refusal) Error() string { return r.reason }

// caller asks one server in every way.
type caller struct {
	http    *http.Client
	address string
	grpc    oip.GRPCInferenceServiceClient
}

func (c *caller) ask(ctx context.Context, protocol, endpoint string, inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	switch protocol {
	case "HTTP JSON":
		return c.askJSON(ctx, endpoint, inputs)
	case "HTTP binary":
		return c.askBinary(ctx, endpoint, inputs)
	default:
		return c.askGRPC(ctx, endpoint, inputs)
	}
}

// inputJSON announces a binary tensor in a request.
type inputJSON struct {
	Name       string           `json:"name"`
	Shape      []int64          `json:"shape"`
	Datatype   string           `json:"datatype"`
	Parameters map[string]int64 `json:"parameters"`
}

// outputJSON is a tensor as it stands in an answer.
type outputJSON struct {
	Name       string           `json:"name"`
	Shape      []int64          `json:"shape"`
	Datatype   string           `json:"datatype"`
	Parameters map[string]int64 `json:"parameters"`
	Data       json.RawMessage  `json:"data"`
}

func (c *caller) askJSON(ctx context.Context, endpoint string, inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	body := []byte(`{"inputs":[`)
	for i := range inputs {
		if i > 0 {
			body = append(body, ',')
		}
		in := &inputs[i]
		name, err := json.Marshal(in.Name)
		if err != nil {
			return nil, err
		}
		shape, err := json.Marshal(in.Shape)
		if err != nil {
			return nil, err
		}
		body = fmt.Appendf(body, `{"name":%s,"shape":%s,"datatype":%q,"data":`, name, shape, in.Type)
		elements := literals(in)
		// Nested and flat are both allowed: even ranks are sent nested.
		if rank := len(in.Shape); rank >= 2 && rank%2 == 0 && len(elements) > 0 {
			body = nested(body, in.Shape, &elements)
		} else {
			body = nested(body, []int64{int64(len(elements))}, &elements)
		}
		body = append(body, '}')
	}
	answer, tail, err := c.post(ctx, endpoint, append(body, "]}"...), -1)
	if err == nil && len(tail) > 0 {
		err = errors.New("binary data came unasked")
	}
	if err != nil {
		return nil, err
	}
	outputs := make([]tensor.Tensor, len(answer))
	for i, out := range answer {
		if outputs[i], err = parse(out); err != nil {
			return nil, fmt.Errorf("output %q: %w", out.Name, err)
		}
	}
	return outputs, nil
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

// parse reads an output's JSON back into the bits of its type.
func parse(out outputJSON) (tensor.Tensor, error) {
	kind, ok := tensor.ParseType(out.Datatype)
	t := tensor.Tensor{Name: out.Name, Type: kind, Shape: out.Shape}
	if !ok || out.Shape == nil || len(out.Parameters) > 0 {
		return t, fmt.Errorf("datatype %q, shape %v, parameters %v", out.Datatype, out.Shape, out.Parameters)
	}
	decoder := json.NewDecoder(bytes.NewReader(out.Data))
	decoder.UseNumber()
	var elements []any
	if err := decoder.Decode(&elements); err != nil {
		return t, err
	}
	for _, element := range elements {
		var err error
		if t.Data, err = appendElement(t.Data, kind, element); err != nil {
			return t, err
		}
	}
	return t, t.Check()
}

func appendElement(data []byte, kind tensor.Type, element any) ([]byte, error) {
	var bits uint64
	var err error
	switch v := element.(type) {
	case bool:
		if kind != tensor.Bool {
			return nil, fmt.Errorf("%v among %s", v, kind)
		}
		if v {
			bits = 1
		}
	case string:
		if kind != tensor.Bytes {
			return nil, fmt.Errorf("%q among %s", v, kind)
		}
		return tensor.AppendBytes(data, []byte(v)), nil
	case json.Number:
		width := 8 * kind.Size()
		switch kind {
		case tensor.FP32:
			var f float64
			f, err = strconv.ParseFloat(v.String(), 32)
			bits = uint64(math.Float32bits(float32(f)))
		case tensor.FP64:
			var f float64
			f, err = strconv.ParseFloat(v.String(), 64)
			bits = math.Float64bits(f)
		case tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint64:
			bits, err = strconv.ParseUint(v.String(), 10, width)
		case tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64:
			var i int64
			i, err = strconv.ParseInt(v.String(), 10, width)
			bits = uint64(i)
		default:
			err = fmt.Errorf("%s among %s", v, kind)
		}
	default:
		err = fmt.Errorf("%v among %s", v, kind)
	}
	return append(data, binary.LittleEndian.AppendUint64(nil, bits)[:kind.Size()]...), err
}

func (c *caller) askBinary(ctx context.Context, endpoint string, inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	type request struct {
		Parameters map[string]bool `json:"parameters"`
		Inputs     []inputJSON     `json:"inputs"`
	}
	r := request{Parameters: map[string]bool{"binary_data_output": true}, Inputs: []inputJSON{}}
	var tail []byte
	for _, in := range inputs {
		r.Inputs = append(r.Inputs, inputJSON{Name: in.Name, Shape: in.Shape, Datatype: in.Type.String(),
			Parameters: map[string]int64{"binary_data_size": int64(len(in.Data))}})
		tail = append(tail, in.Data...)
	}
	head, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	answer, tail, err := c.post(ctx, endpoint, append(head, tail...), len(head))
	if err != nil {
		return nil, err
	}
	outputs := make([]tensor.Tensor, len(answer))
	for i, out := range answer {
		kind, _ := tensor.ParseType(out.Datatype)
		size, binary := out.Parameters["binary_data_size"]
		if !binary || out.Data != nil || out.Shape == nil || size > int64(len(tail)) {
			return nil, fmt.Errorf("output %q: %+v, %d bytes are left", out.Name, out, len(tail))
		}
		outputs[i] = tensor.Tensor{Name: out.Name, Type: kind, Shape: out.Shape, Data: tail[:size]}
		tail = tail[size:]
		if err := outputs[i].Check(); err != nil {
			return nil, fmt.Errorf("output %q: %w", out.Name, err)
		}
	}
	if len(tail) > 0 {
		return nil, fmt.Errorf("%d bytes follow the last output", len(tail))
	}
	return outputs, nil
}

// post sends a body whose first header bytes are JSON, or all of it when header is negative.
func (c *caller) post(ctx context.Context, endpoint string, body []byte, header int) (outputs []outputJSON, tail []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.address+"/v2/models/"+endpoint+"/infer", bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if header >= 0 {
		req.Header.Set("Content-Type", "application/octet-stream")
		req.Header.Set("Inference-Header-Content-Length", strconv.Itoa(header))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		var told struct{ Error string }
		if err := json.Unmarshal(data, &told); err != nil || told.Error == "" {
			return nil, nil, fmt.Errorf("status %d without a reason: %q", resp.StatusCode, data)
		}
		return nil, nil, &refusal{status: resp.StatusCode, reason: told.Error}
	}
	if length := resp.Header.Get("Inference-Header-Content-Length"); length != "" {
		size, err := strconv.Atoi(length)
		if err != nil || size < 0 || size > len(data) {
			return nil, nil, fmt.Errorf("the answer's header has length %q of %d", length, len(data))
		}
		data, tail = data[:size], data[size:]
	}
	var answer struct{ Outputs []outputJSON }
	if err := json.Unmarshal(data, &answer); err != nil || answer.Outputs == nil {
		return nil, nil, fmt.Errorf("the answer is not one (%w): %.200q", err, data)
	}
	return answer.Outputs, tail, nil
}

func (c *caller) askGRPC(ctx context.Context, endpoint string, inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	req := &oip.ModelInferRequest{ModelName: endpoint}
	for _, in := range inputs {
		req.Inputs = append(req.Inputs, &oip.ModelInferRequest_InferInputTensor{Name: in.Name, Datatype: in.Type.String(), Shape: in.Shape})
		req.RawInputContents = append(req.RawInputContents, in.Data)
	}
	resp, err := c.grpc.ModelInfer(ctx, req, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if s, ok := status.FromError(err); err != nil && ok && s.Message() != "" {
		return nil, &refusal{status: int(s.Code()), reason: s.Message()}
	}
	if err != nil {
		return nil, err
	}
	if len(resp.RawOutputContents) != len(resp.Outputs) {
		return nil, fmt.Errorf("%d outputs with %d raw contents", len(resp.Outputs), len(resp.RawOutputContents))
	}
	outputs := make([]tensor.Tensor, len(resp.Outputs))
	for i, out := range resp.Outputs {
		kind, _ := tensor.ParseType(out.Datatype)
		outputs[i] = tensor.Tensor{Name: out.Name, Type: kind, Shape: out.Shape, Data: resp.RawOutputContents[i]}
		if err := outputs[i].Check(); err != nil {
			return nil, fmt.Errorf("output %q: %w", out.Name, err)
		}
	}
	return outputs, nil
}
