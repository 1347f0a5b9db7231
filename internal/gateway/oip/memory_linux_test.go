package oip_test

import (
	"bytes"
	"fmt"
	"testing"
	"unsafe"

	"github.com/penstock/penstock/internal/serve"
	"github.com/penstock/penstock/internal/tensor"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// TestLargeBodiesLieInSharedMemory: through both doors the tensor that serve gets is a view of the memory that workers
// see, aligned, and what does not fit there is served all the same.
func TestLargeBodiesLieInSharedMemory(t *testing.T) {
	b := start(t, nil)
	client := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key"))
	for _, c := range []struct {
		rows   int
		inside bool
	}{{100, false}, {2_000, true}, {37_632, true}, {200_001, true}, {1_000_000, false}} {
		data := make([]byte, 16*c.rows)
		for i := range data {
			data[i] = byte(i * 13)
		}
		var inside, aligned bool
		b.walk.output = func(call *serve.Call) []tensor.Tensor {
			in := call.Inputs[0].Data
			inside = b.memory.Contains(in)
			aligned = uintptr(unsafe.Pointer(&in[0]))%16 == 0 // the last one may have any multiple of its size
			return call.Inputs
		}
		check := func(t *testing.T, out []byte) {
			t.Helper()
			if !bytes.Equal(out, data) {
				t.Error("the answer differs")
			}
			if inside != c.inside || inside && !aligned {
				t.Errorf("in shared memory: %v, aligned: %v", inside, aligned)
			}
		}
		t.Run(fmt.Sprintf("HTTP, %d rows", c.rows), func(t *testing.T) {
			head := fmt.Sprintf(`{"inputs":[{"name":"x","shape":[%d,4],"datatype":"FP32","parameters":{"binary_data_size":%d}}],"outputs":[{"name":"x","parameters":{"binary_data":true}}]}`, c.rows, len(data))
			r := b.request(t, "POST", "/v2/models/echo/infer", head+string(data))
			r.Header.Set("Inference-Header-Content-Length", fmt.Sprint(len(head)))
			answer, body := send(t, r)
			if answer.StatusCode != 200 || len(body) < len(data) {
				t.Fatalf("%s: %.200s", answer.Status, body)
			}
			check(t, []byte(body)[len(body)-len(data):])
		})
		t.Run(fmt.Sprintf("gRPC, %d rows", c.rows), func(t *testing.T) {
			if c.rows > 200_000 {
				t.Log("larger than a client takes by default")
				return
			}
			answer, err := client.ModelInfer(t.Context(), &wire.ModelInferRequest{ModelName: "echo", RawInputContents: [][]byte{data},
				Inputs: []*wire.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{int64(c.rows), 4}}}})
			if err != nil {
				t.Fatal(err)
			}
			check(t, answer.RawOutputContents[0])
		})
	}
}
