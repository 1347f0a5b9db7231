package oip_test

import (
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/oip"
)

// sound checks what holds for every request that a decoder accepts from size bytes.
func sound(t *testing.T, r *oip.Request, size int) {
	t.Helper()
	total := 0
	for i := range r.Inputs {
		in := &r.Inputs[i]
		if err := in.Check(); err != nil {
			t.Errorf("input %d: %v", i, err)
		}
		if in.Type == tensor.Invalid || len(in.Name) > oip.MaxName || strings.Contains(in.Name, "\x00") {
			t.Errorf("input %d: type %v, name %q", i, in.Type, in.Name)
		}
		total += len(in.Data)
	}
	// The shortest text of 8 bytes is "1,"; the shortest of 4 is `"",` or a protobuf tag and a length.
	if total > 4*size+8 {
		t.Errorf("%d bytes of tensors from %d bytes", total, size)
	}
}

func FuzzDecodeJSON(f *testing.F) {
	for _, seed := range []string{
		one("[2,2]", "FP32", "[[1,2.5],[-3e-7,4]]"), one("[2]", "BYTES", `["é\ud83d\ude00","\n"]`), one("[1]", "BOOL", "[true]"),
		one("[2,0]", "INT8", "[[],[]]"), one("[]", "UINT64", "[18446744073709551615]"),
		`{"id":"1","parameters":{"timeout":5,"x":null},"outputs":[{"name":"y","parameters":{"binary_data":true}}],"inputs":[{"data":[1],"name":"x","shape":[1],"datatype":"FP64"}]}`,
	} {
		f.Add([]byte(seed))
	}
	corpus(f, func(body, _ []byte, _ int, _ []byte) { f.Add(body) })
	f.Fuzz(func(t *testing.T, body []byte) {
		var r oip.Request
		if err := r.DecodeHTTP(body, -1); err != nil {
			return
		}
		if !json.Valid(body) {
			t.Errorf("accepted what is not JSON: %q", body)
		}
		sound(t, &r, len(body))
	})
}

func FuzzDecodeBinary(f *testing.F) {
	head := `{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}`
	f.Add([]byte(head+"12345678"), len(head))
	head = `{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}},{"name":"b","shape":[1],"datatype":"BOOL","parameters":{"binary_data_size":1}}]}`
	f.Add([]byte(head+"\x01\x00\x00\x00a\x01"), len(head))
	f.Add([]byte(head), 0)
	corpus(f, func(_, body []byte, header int, _ []byte) { f.Add(body, header) })
	f.Fuzz(func(t *testing.T, body []byte, header int) {
		var r oip.Request
		if err := r.DecodeHTTP(body, header); err == nil {
			sound(t, &r, len(body))
		}
	})
}

// FuzzDecodeProto holds the hand-written reader against the generated one: what it accepts, the other accepts too and
// reads the same way.
func FuzzDecodeProto(f *testing.F) {
	for _, message := range []*oip.ModelInferRequest{
		{ModelName: "m", ModelVersion: "1", Id: "i", RawInputContents: [][]byte{[]byte("12345678")},
			Inputs: []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{2}}}},
		{ModelName: "m", Inputs: []*oip.ModelInferRequest_InferInputTensor{
			{Name: "x", Datatype: "INT8", Shape: []int64{2}, Contents: &oip.InferTensorContents{IntContents: []int32{-1, 7}}},
			{Name: "y", Datatype: "FP64", Shape: []int64{1}, Contents: &oip.InferTensorContents{Fp64Contents: []float64{1}}},
			{Name: "z", Datatype: "BYTES", Shape: []int64{1}, Contents: &oip.InferTensorContents{BytesContents: [][]byte{[]byte("a")}}}},
			Parameters: map[string]*oip.InferParameter{"timeout": {ParameterChoice: &oip.InferParameter_Int64Param{Int64Param: 5}}}},
	} {
		b, err := proto.Marshal(message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	corpus(f, func(_, _ []byte, _ int, message []byte) { f.Add(message) })
	f.Fuzz(func(t *testing.T, b []byte) {
		var r oip.Request
		if err := r.DecodeProto(b); err != nil {
			return
		}
		sound(t, &r, len(b))
		var other oip.ModelInferRequest
		if err := proto.Unmarshal(b, &other); err != nil {
			t.Skipf("the generated code is stricter about fields that do not matter here: %v", err)
		}
		if other.ModelName != r.Model || other.ModelVersion != r.Version || other.Id != r.ID || len(other.Inputs) != len(r.Inputs) || len(other.Outputs) != len(r.Outputs) {
			t.Errorf("%+v\n%v", r, &other)
		}
		for i, in := range other.Inputs {
			if in.Name != r.Inputs[i].Name || in.Datatype != r.Inputs[i].Type.String() || len(in.Shape) != len(r.Inputs[i].Shape) {
				t.Errorf("input %d: %v\n%v", i, r.Inputs[i], in)
			}
			if len(other.RawInputContents) > 0 && string(other.RawInputContents[i]) != string(r.Inputs[i].Data) {
				t.Errorf("input %d: %x, want %x", i, r.Inputs[i].Data, other.RawInputContents[i])
			}
		}
	})
}

func TestHostileProto(t *testing.T) {
	good, err := proto.Marshal(&oip.ModelInferRequest{ModelName: "m", RawInputContents: [][]byte{[]byte("12345678")},
		Inputs: []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{2}}}})
	if err != nil {
		t.Fatal(err)
	}
	input := func(datatype string, shape []int64, contents *oip.InferTensorContents) []byte {
		b, err := proto.Marshal(&oip.ModelInferRequest{Inputs: []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: datatype, Shape: shape, Contents: contents}}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ints := &oip.InferTensorContents{IntContents: []int32{300, 1}}
	for _, c := range []struct {
		name string
		b    []byte
		want string
	}{
		{"cut off", good[:len(good)-1], "protobuf"},
		{"length over the end", []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, "protobuf"},
		{"field 0", []byte{0x02, 0x00}, "protobuf"},
		{"name as a number", []byte{0x08, 0x01}, "wire type"},
		{"name not UTF-8", []byte{0x0a, 0x01, 0xff}, "UTF-8"},
		{"deep groups", []byte(strings.Repeat("\x63", 100000)), "protobuf"},
		{"INT8 over", input("INT8", []int64{2}, ints), "INT8"},
		{"contents of another type", input("FP32", []int64{2}, ints), "another type"},
		{"FP16 contents", input("FP16", []int64{2}, ints), "raw_input_contents"},
		{"too few", input("INT32", []int64{3}, ints), "needs"},
		{"too many", input("INT32", []int64{1}, ints), "needs"},
		{"2^40 elements", input("INT32", []int64{1 << 40}, ints), "needs"},
		{"no datatype", input("", []int64{1}, ints), "datatype"},
		{"BYTES over the end", func() []byte {
			b, _ := proto.Marshal(&oip.ModelInferRequest{RawInputContents: [][]byte{{0xff, 0xff, 0xff, 0xff, 'a'}},
				Inputs: []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "BYTES", Shape: []int64{1}}}})
			return b
		}(), "announced"},
		{"BOOL of 2", func() []byte {
			b, _ := proto.Marshal(&oip.ModelInferRequest{RawInputContents: [][]byte{{2}},
				Inputs: []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "BOOL", Shape: []int64{1}}}})
			return b
		}(), "BOOL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r oip.Request
			if err := r.DecodeProto(c.b); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	// Ten million unknown fields are passed over in one walk, without memory for any of them.
	var r oip.Request
	if err := r.DecodeProto(append([]byte(strings.Repeat("\x78\x01", 10_000_000)), good...)); err != nil {
		t.Errorf("unknown fields: %v", err)
	}
}

func FuzzDecodeV1(f *testing.F) {
	for _, seed := range []string{
		`{"instances":[[1,2],[3,4.5]]}`, `{"instances":[{"x":[1,2],"s":"a"},{"s":{"b64":"/w=="},"x":[3,4]}]}`,
		`{"inputs":{"x":[[1,2]],"s":["a"]},"signature_name":"s"}`, `{"inputs":[[]]}`, `{"instances":[1,2]}`, `{"instances":[]}`, `{"instances":[{}]}`,
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	inputs := []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 2}}, {Name: "s", Datatype: "BYTES", Shape: []int64{-1}}}
	f.Fuzz(func(t *testing.T, body []byte, both bool) {
		specs := inputs[:1]
		if both {
			specs = inputs
		}
		var r oip.Request
		if err := r.DecodeV1(body, specs); err != nil {
			return
		}
		if !json.Valid(body) {
			t.Errorf("accepted what is not JSON: %q", body)
		}
		sound(t, &r, len(body))
		out, err := (&oip.Response{Outputs: r.Inputs}).AppendV1(nil, r.Columns)
		if err == nil && !json.Valid(out) {
			t.Errorf("answered what is not JSON: %s", out)
		}
	})
}
