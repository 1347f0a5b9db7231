package conformance_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/ort/orttest"
	"github.com/penstock/penstock/internal/wire/oip"
	"github.com/penstock/penstock/test/live"
)

// sent is an input as a caller says it, fitting or not.
type sent struct {
	name     string
	datatype string // FP32 or INT32
	shape    []int64
	elements int // how many are sent
}

func floats(name string, elements int, shape ...int64) sent {
	return sent{name, "FP32", shape, elements}
}

func (s *sent) floats() []float32 {
	all := make([]float32, s.elements)
	for i := range all {
		all[i] = float32(i + 1)
	}
	return all
}

func (s *sent) ints() []int32 {
	all := make([]int32, s.elements)
	for i := range all {
		all[i] = int32(i + 1)
	}
	return all
}

func (s *sent) bytes() (all []byte) {
	for _, v := range s.floats() {
		bits := math.Float32bits(v)
		if s.datatype == "INT32" {
			bits = uint32(int32(v))
		}
		all = binary.LittleEndian.AppendUint32(all, bits)
	}
	return all
}

// violations are what a request to the model pair, which takes FP32 a and b of [batch, 2] and gives y, may do wrong, with the
// code and the message that every protocol must answer. The message names the tensor and the rule. The model's name stands before
// it where the model had to be asked, and what to do behind it.
var violations = []struct {
	name    string
	inputs  []sent
	outputs []string
	code    api.Code // empty: it is right
	message string
	cure    string // empty: the code's own
}{
	{name: "right", inputs: []sent{floats("a", 4, 2, 2), floats("b", 4, 2, 2)}, outputs: []string{"y"}},
	{name: "right, in the other order, all outputs", inputs: []sent{floats("b", 2, 1, 2), floats("a", 2, 1, 2)}},
	{name: "missing input", inputs: []sent{floats("a", 2, 1, 2)}, code: api.CodeSignatureMismatch,
		message: `input "b" is missing: FP32 of shape [-1 2]`},
	{name: "no input", code: api.CodeSignatureMismatch, message: `input "a" is missing: FP32 of shape [-1 2]`},
	{name: "unknown input", inputs: []sent{floats("a", 2, 1, 2), floats("b", 2, 1, 2), floats("c", 2, 1, 2)}, code: api.CodeSignatureMismatch,
		message: `the model has no input "c"; it takes ["a" "b"]`},
	{name: "duplicated input", inputs: []sent{floats("a", 2, 1, 2), floats("b", 2, 1, 2), floats("a", 2, 1, 2)}, code: api.CodeBadTensor,
		message: `input "a" is given twice`, cure: "Give each input once."},
	{name: "wrong datatype", inputs: []sent{floats("a", 2, 1, 2), {"b", "INT32", []int64{1, 2}, 2}}, code: api.CodeSignatureMismatch,
		message: `input "b" has datatype "INT32", the model takes FP32`},
	{name: "unknown datatype", inputs: []sent{{"a", "FP99", []int64{1, 2}, 2}, floats("b", 2, 1, 2)}, code: api.CodeBadTensor,
		message: `input "a": "FP99" is not a datatype of the protocol`},
	{name: "wrong rank", inputs: []sent{floats("a", 2, 2), floats("b", 2, 1, 2)}, code: api.CodeSignatureMismatch,
		message: `input "a" has shape [2] of 1 dimensions, the model takes 2: [-1 2]`},
	{name: "wrong rank, of none", inputs: []sent{floats("a", 1), floats("b", 2, 1, 2)}, code: api.CodeSignatureMismatch,
		message: `input "a" has shape [] of 0 dimensions, the model takes 2: [-1 2]`},
	{name: "wrong fixed dimension", inputs: []sent{floats("a", 2, 1, 2), floats("b", 3, 1, 3)}, code: api.CodeSignatureMismatch,
		message: `input "b" has 3 in dimension 1, the model takes 2: shape [-1 2]`},
	{name: "symbolic dimension of two sizes", inputs: []sent{floats("a", 2, 1, 2), floats("b", 4, 2, 2)}, code: api.CodeSignatureMismatch,
		message: `input "b" has 2 in dimension 0, which the model calls "batch"; input "a" has 1 there`},
	{name: "negative dimension", inputs: []sent{floats("a", 2, -1, 2), floats("b", 2, 1, 2)}, code: api.CodeBadTensor,
		message: `input "a": shape [-1 2] has a negative dimension`},
	{name: "too few elements", inputs: []sent{floats("a", 4, 2, 2), floats("b", 3, 2, 2)}, code: api.CodeBadTensor,
		message: `input "b": shape [2 2] needs 4 elements of FP32, got 3`},
	{name: "too many elements", inputs: []sent{floats("a", 5, 2, 2), floats("b", 4, 2, 2)}, code: api.CodeBadTensor,
		message: `input "a": shape [2 2] needs 4 elements of FP32, got 5`},
	{name: "no elements", inputs: []sent{floats("a", 4, 2, 2), floats("b", 0, 2, 2)}, code: api.CodeBadTensor,
		message: `input "b": shape [2 2] needs 4 elements of FP32, got 0`},
	{name: "elements for a dimension of nought", inputs: []sent{floats("a", 1, 0, 2), floats("b", 0, 0, 2)}, code: api.CodeBadTensor,
		message: `input "a": shape [0 2] needs 0 elements of FP32, got 1`},
	{name: "far fewer elements than the shape", inputs: []sent{floats("a", 2, 1000000, 2), floats("b", 2, 1, 2)}, code: api.CodeBadTensor,
		message: `input "a": shape [1000000 2] needs 2000000 elements of FP32, got 2`},
	{name: "too few elements of another datatype", inputs: []sent{{"a", "INT32", []int64{2, 2}, 3}, floats("b", 4, 2, 2)}, code: api.CodeBadTensor,
		message: `input "a": shape [2 2] needs 4 elements of INT32, got 3`},
	{name: "too many elements of another datatype", inputs: []sent{{"a", "INT32", []int64{2, 2}, 5}, floats("b", 4, 2, 2)}, code: api.CodeBadTensor,
		message: `input "a": shape [2 2] needs 4 elements of INT32, got 5`},
	{name: "overflowed product", inputs: []sent{floats("a", 2, 1<<62, 4), floats("b", 2, 1, 2)}, code: api.CodeBadTensor,
		message: `input "a": shape [4611686018427387904 4] has more than 2^40 elements`},
	{name: "overflowed product that wraps to what is sent", inputs: []sent{floats("a", 0, 1<<32, 1<<32), floats("b", 2, 1, 2)}, code: api.CodeBadTensor,
		message: `input "a": shape [4294967296 4294967296] has more than 2^40 elements`},
	{name: "unknown output", inputs: []sent{floats("a", 2, 1, 2), floats("b", 2, 1, 2)}, outputs: []string{"y", "z"}, code: api.CodeSignatureMismatch,
		message: `the model has no output "z"`},
	{name: "duplicated output", inputs: []sent{floats("a", 2, 1, 2), floats("b", 2, 1, 2)}, outputs: []string{"y", "y"}, code: api.CodeBadTensor,
		message: `output "y" is asked for twice`, cure: "Ask for each output once."},
}

// TestSignatureOverEveryProtocol sends each violation by every way in. All are refused as the caller's fault, with one text,
// and what is right is answered.
func TestSignatureOverEveryProtocol(t *testing.T) {
	a := signatureAsker(t)
	ways := []struct {
		name string
		ask  func(inputs []sent, outputs []string) (sum float32, _ error)
	}{{"HTTP JSON", a.json}, {"HTTP binary", a.binary}, {"gRPC typed contents", a.typed}, {"gRPC raw contents", a.raw}}
	for _, v := range violations {
		t.Run(v.name, func(t *testing.T) {
			for _, way := range ways {
				sum, err := way.ask(v.inputs, v.outputs)
				if v.code == "" {
					if err != nil || sum != 2 {
						t.Errorf("%s: the first sum is %v, want 2; %v", way.name, sum, err)
					}
					continue
				}
				message := v.message
				if v.code == api.CodeSignatureMismatch {
					message = "pair: " + message
				}
				a.same(t, way.name, err, v.code, told(message, v.code, v.cure))
			}
		})
	}
}

// TestSignatureOfRawBodies does the same where the whole body is the data of a model's only input: shape and datatype are
// the model's, so only the number of bytes can be wrong.
func TestSignatureOfRawBodies(t *testing.T) {
	a := signatureAsker(t)
	for _, c := range []struct {
		name, endpoint string
		bytes          int
		code           api.Code
		message        string
	}{
		{name: "right", endpoint: "lone", bytes: 8},
		{name: "too few elements", endpoint: "lone", bytes: 4, code: api.CodeBadTensor, message: `input "x": shape [1 2] needs 2 elements of FP32, got 1`},
		{name: "too many elements", endpoint: "lone", bytes: 12, code: api.CodeBadTensor, message: `input "x": shape [1 2] needs 2 elements of FP32, got 3`},
		{name: "no elements", endpoint: "lone", bytes: 0, code: api.CodeBadTensor, message: `input "x": shape [1 2] needs 2 elements of FP32, got 0`},
		{name: "part of an element", endpoint: "lone", bytes: 7, code: api.CodeBadTensor, message: `input "x": shape [1 2] of FP32 needs 8 bytes, got 7`},
		{name: "a model of two inputs", endpoint: "pair", bytes: 8, code: api.CodeBadRequest, message: `a raw body needs a model with one input; this one takes 2: ["a" "b"]`},
	} {
		answer, tail, err := a.post(t.Context(), c.endpoint, make([]byte, c.bytes), 0)
		if c.code != "" {
			a.same(t, c.name, err, c.code, told(c.message, c.code, ""))
		} else if err != nil || len(answer) != 1 || answer[0].Name != "y" || len(tail) != 8 {
			t.Errorf("%s: %+v with %d bytes, %v", c.name, answer, len(tail), err)
		}
	}
}

// told is a message as callers see it, with what to do.
func told(message string, code api.Code, cure string) string {
	if cure == "" {
		i := slices.IndexFunc(api.Catalogue, func(c api.CodeInfo) bool { return c.Code == code })
		cure = api.Catalogue[i].Cure
	}
	return message + " (" + cure + ")"
}

// asker asks a server that has the endpoints pair and lone.
type asker struct {
	*caller
	context.Context
}

func signatureAsker(t *testing.T) *asker {
	s := live.Start(t, t.TempDir())
	batched := func(name string) orttest.Value {
		return orttest.Value{Name: name, Type: orttest.Float, Shape: []any{"batch", 2}}
	}
	for name, inputs := range map[string][]string{"pair": {"a", "b"}, "lone": {"x"}} {
		g := orttest.Graph{Outputs: []orttest.Value{batched("y")}, Nodes: []orttest.Node{{Op: "Add", Inputs: []string{inputs[0], inputs[len(inputs)-1]}, Outputs: []string{"y"}}}}
		for _, input := range inputs {
			g.Inputs = append(g.Inputs, batched(input))
		}
		model := orttest.Model{Graph: g}
		if _, err := s.Push(t.Context(), name, model.Encode()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Release(t.Context(), name, name+"@1"); err != nil {
			t.Fatal(err)
		}
	}
	connection, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return &asker{&caller{http: &http.Client{Transport: &http.Transport{}}, address: s.HTTP, grpc: oip.NewGRPCInferenceServiceClient(connection)}, t.Context()}
}

// same checks that an answer refuses in the project's words for the code: its HTTP status, or its gRPC code.
func (a *asker) same(t *testing.T, way string, err error, code api.Code, message string) {
	t.Helper()
	var no *refusal
	if !errors.As(err, &no) {
		t.Errorf("%s: got %v, want %q", way, err, message)
		return
	}
	wanted := code.Kind().HTTPStatus()
	if strings.HasPrefix(way, "gRPC") {
		wanted = int(codes.InvalidArgument)
	}
	if no.status != wanted || no.reason != message {
		t.Errorf("%s: status %d, want %d\n got %s\nwant %s", way, no.status, wanted, no.reason, message)
	}
}

// header is the JSON of a request; data gives what stands in an input beside name, shape and datatype.
func header(inputs []sent, outputs []string, data func(*sent) (parameters map[string]any, data any)) []byte {
	request := map[string]any{}
	type input struct { // in the order in which callers write it
		Name       string         `json:"name"`
		Shape      []int64        `json:"shape"`
		Datatype   string         `json:"datatype"`
		Parameters map[string]any `json:"parameters,omitempty"`
		Data       any            `json:"data,omitempty"`
	}
	all := []input{}
	for i := range inputs {
		in := input{Name: inputs[i].name, Shape: append([]int64{}, inputs[i].shape...), Datatype: inputs[i].datatype}
		in.Parameters, in.Data = data(&inputs[i])
		all = append(all, in)
	}
	request["inputs"] = all
	if outputs != nil {
		named := []any{}
		for _, name := range outputs {
			named = append(named, map[string]any{"name": name})
		}
		request["outputs"] = named
	}
	text, err := json.Marshal(request)
	if err != nil {
		panic(err) // it is of texts and numbers alone
	}
	return text
}

func (a *asker) json(inputs []sent, outputs []string) (float32, error) {
	body := header(inputs, outputs, func(s *sent) (map[string]any, any) { return nil, s.ints() })
	answer, _, err := a.post(a, "pair", body, -1)
	if err != nil {
		return 0, err
	}
	y, err := parse(answer[0])
	if err != nil || y.Name != "y" {
		return 0, fmt.Errorf("output %q: %w", y.Name, err)
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(y.Data)), nil
}

func (a *asker) binary(inputs []sent, outputs []string) (float32, error) {
	body := header(inputs, outputs, func(s *sent) (map[string]any, any) {
		return map[string]any{"binary_data_size": 4 * s.elements}, nil
	})
	length := len(body)
	for i := range inputs {
		body = append(body, inputs[i].bytes()...)
	}
	answer, _, err := a.post(a, "pair", body, length)
	if err != nil {
		return 0, err
	}
	y, err := parse(answer[0]) // outputs that are not asked for as binary come as JSON
	if err != nil {
		return 0, err
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(y.Data)), nil
}

func message(inputs []sent, outputs []string) *oip.ModelInferRequest {
	m := &oip.ModelInferRequest{ModelName: "pair"}
	for _, in := range inputs {
		m.Inputs = append(m.Inputs, &oip.ModelInferRequest_InferInputTensor{Name: in.name, Datatype: in.datatype, Shape: in.shape})
	}
	for _, name := range outputs {
		m.Outputs = append(m.Outputs, &oip.ModelInferRequest_InferRequestedOutputTensor{Name: name})
	}
	return m
}

func (a *asker) typed(inputs []sent, outputs []string) (float32, error) {
	m := message(inputs, outputs)
	for i := range inputs {
		m.Inputs[i].Contents = &oip.InferTensorContents{Fp32Contents: inputs[i].floats()}
		if inputs[i].datatype == "INT32" {
			m.Inputs[i].Contents = &oip.InferTensorContents{IntContents: inputs[i].ints()}
		}
	}
	return a.infer(m)
}

func (a *asker) raw(inputs []sent, outputs []string) (float32, error) {
	m := message(inputs, outputs)
	for i := range inputs {
		m.RawInputContents = append(m.RawInputContents, inputs[i].bytes())
	}
	return a.infer(m)
}

func (a *asker) infer(m *oip.ModelInferRequest) (float32, error) {
	answer, err := a.grpc.ModelInfer(a, m)
	if err != nil {
		s, _ := status.FromError(err)
		return 0, &refusal{int(s.Code()), s.Message()}
	}
	if len(answer.RawOutputContents) == 0 || len(answer.RawOutputContents[0]) < 4 {
		return 0, errors.New("the answer has no output")
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(answer.RawOutputContents[0])), nil
}
