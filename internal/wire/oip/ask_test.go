package oip_test

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/oip"
)

// TestWhatIsAskedIsWhatIsRead encodes random requests as a caller does and decodes them as the server does.
func TestWhatIsAskedIsWhatIsRead(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 5))
	for range 500 {
		want := randomAsk(random)
		for name, trip := range map[string]func(into *oip.Request) error{
			"binary": func(into *oip.Request) error {
				body, header, err := want.EncodeHTTP(true)
				if err != nil {
					t.Fatal(err)
				}
				return into.DecodeHTTP(body, header)
			},
			"JSON": func(into *oip.Request) error {
				body, header, err := want.EncodeHTTP(false)
				if err != nil {
					t.Fatal(err)
				}
				return into.DecodeHTTP(body, header)
			},
			"protobuf": func(into *oip.Request) error { return into.DecodeProto(want.EncodeProto()) },
		} {
			var got oip.Request
			if err := trip(&got); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got.ID != want.ID || got.Timeout != want.Timeout || len(got.Inputs) != len(want.Inputs) || !reflect.DeepEqual(got.Wanted(), want.Wanted()) {
				t.Fatalf("%s: got %+v, want %+v", name, &got, want)
			}
			if name == "protobuf" && got.Model != want.Model {
				t.Fatalf("the model is %q, want %q", got.Model, want.Model)
			}
			for i := range want.Inputs {
				a, b := &got.Inputs[i], &want.Inputs[i]
				if a.Name != b.Name || a.Type != b.Type || len(a.Shape) != len(b.Shape) || string(a.Data) != string(b.Data) {
					t.Fatalf("%s: input %d is %+v, want %+v", name, i, a, b)
				}
				for j := range b.Shape {
					if a.Shape[j] != b.Shape[j] {
						t.Fatalf("%s: shape %v, want %v", name, a.Shape, b.Shape)
					}
				}
			}
			for i := range want.Outputs {
				if got.Outputs[i].Classes != want.Outputs[i].Classes {
					t.Fatalf("%s: output %+v, want %+v", name, got.Outputs[i], want.Outputs[i])
				}
			}
		}
	}
}

func randomAsk(random *rand.Rand) *oip.Request {
	text := func() string { return []string{"x", "an \"input\"", "größe", "a\\b\n", "input_ids"}[random.IntN(5)] }
	r := &oip.Request{Model: "m", Timeout: time.Duration(random.IntN(3)) * time.Second}
	if random.IntN(2) == 0 {
		r.ID = text()
	}
	kinds := []tensor.Type{tensor.Bool, tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint64, tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64, tensor.FP32, tensor.FP64, tensor.Bytes}
	for i := range 1 + random.IntN(3) {
		in := tensor.Tensor{Name: strings.Repeat("i", i) + text(), Type: kinds[random.IntN(len(kinds))], Shape: []int64{int64(random.IntN(3)), int64(1 + random.IntN(4))}}
		for range in.Shape[0] * in.Shape[1] {
			switch in.Type {
			case tensor.Bytes:
				in.Data = tensor.AppendBytes(in.Data, []byte(text()))
			case tensor.Bool:
				in.Data = append(in.Data, byte(random.IntN(2)))
			case tensor.FP32:
				in.Data = append(in.Data, (tensorOf(float32(random.NormFloat64())))...)
			case tensor.FP64:
				in.Data = append(in.Data, 0, 0, 0, 0, 0, 0, byte(random.IntN(256)), 0x3f)
			default:
				for range in.Type.Size() {
					in.Data = append(in.Data, byte(random.IntN(256)))
				}
			}
		}
		r.Inputs = append(r.Inputs, in)
	}
	for i := range random.IntN(3) {
		r.Outputs = append(r.Outputs, oip.Output{Name: strings.Repeat("o", i) + text(), Classes: random.IntN(4)})
	}
	return r
}

func tensorOf(v float32) []byte {
	t := tensor.FromFloat32("", []int64{1}, []float32{v})
	return t.Data
}

func TestWhatJSONCannotCarryIsRefusedToTheCaller(t *testing.T) {
	half := &oip.Request{Inputs: []tensor.Tensor{{Name: "x", Type: tensor.FP16, Shape: []int64{1}, Data: []byte{0, 0}}}}
	if _, _, err := half.EncodeHTTP(false); err == nil {
		t.Error("FP16 became JSON")
	}
	if _, _, err := half.EncodeHTTP(true); err != nil {
		t.Error(err)
	}
}
