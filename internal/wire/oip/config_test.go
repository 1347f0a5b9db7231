package oip_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/wire/oip"
)

// TestModelConfigOfBatches: with a batch size the dimensions leave the first out, as Triton's do.
func TestModelConfigOfBatches(t *testing.T) {
	signature := api.Signature{Inputs: []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 4}}, {Name: "n", Datatype: "INT64", Shape: []int64{-1}}},
		Outputs: []api.TensorSpec{{Name: "y", Datatype: "BYTES", Shape: []int64{-1, 2, 3}}}}
	type batching struct {
		Preferred []int `json:"preferred_batch_size"`
		Delay     int   `json:"max_queue_delay_microseconds"`
		Levels    int   `json:"priority_levels"`
		Default   int   `json:"default_priority_level"`
	}
	type config struct {
		Max    int `json:"max_batch_size"`
		Inputs []struct {
			Dims []int `json:"dims"`
		} `json:"input"`
		Outputs []struct {
			Dims []int `json:"dims"`
		} `json:"output"`
		Batching *batching `json:"dynamic_batching"`
	}
	settings := api.Batching{PreferredSizes: []int{4, 8}, DelayUS: 500, PriorityLevels: 3}
	for name, tc := range map[string]struct {
		plan api.BatchPlan
		dims [][]int
		want *batching
	}{
		"not batched": {api.BatchPlan{Why: "nothing to gain"}, [][]int{{-1, 4}, {-1}, {-1, 2, 3}}, nil},
		"batched":     {api.BatchPlan{MaxSize: 16}, [][]int{{4}, {1}, {2, 3}}, &batching{[]int{4, 8}, 500, 3, 2}},
	} {
		var got config
		text := oip.AppendModelConfig(nil, oip.NewModelConfig("m", "onnxruntime_onnx", signature, tc.plan, settings))
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v in %s", name, err, text)
		}
		dims := [][]int{got.Inputs[0].Dims, got.Inputs[1].Dims, got.Outputs[0].Dims}
		if got.Max != tc.plan.MaxSize || !reflect.DeepEqual(dims, tc.dims) || !reflect.DeepEqual(got.Batching, tc.want) {
			t.Errorf("%s: %s", name, text)
		}
	}
}
