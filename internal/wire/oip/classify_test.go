package oip_test

import (
	"math"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/oip"
)

func texts(t tensor.Tensor) string {
	var list []string
	for element, rest, ok := tensor.NextBytes(t.Data); ok; element, rest, ok = tensor.NextBytes(rest) {
		list = append(list, string(element))
	}
	return strings.Join(list, " ")
}

func TestClassify(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		name  string
		k     string
		in    tensor.Tensor
		shape []int64
		want  string
	}{
		{"one item", "2", tensor.FromFloat32("y", []int64{4}, []float32{0.5, -1, 3, 0.5}), []int64{2}, "3.000000:2 0.500000:0"},
		{"a batch", "1", tensor.FromFloat32("y", []int64{2, 2}, []float32{1, 2, 4, 3}), []int64{2, 1}, "2.000000:1 4.000000:0"},
		{"more than there are", "9", tensor.FromInt64("y", []int64{1, 3}, []int64{7, 9, 8}), []int64{1, 3}, "9:1 8:2 7:0"},
		{"equal ones keep their order", "3", tensor.FromInt64("y", []int64{3}, []int64{1, 1, 1}), []int64{3}, "1:0 1:1 1:2"},
		{"NaN is last", "3", tensor.FromFloat32("y", []int64{3}, []float32{nan, -1, 1}), []int64{3}, "1.000000:2 -1.000000:1 NaN:0"},
		{"empty batch", "1", tensor.FromFloat32("y", []int64{0, 3}, nil), []int64{0, 0}, ""},
		{"FP16", "1", tensor.Tensor{Name: "y", Type: tensor.FP16, Shape: []int64{2}, Data: []byte{0x00, 0x3c, 0x00, 0x38}}, []int64{1}, "1.000000:0"},
		{"UINT64", "1", tensor.Tensor{Name: "y", Type: tensor.Uint64, Shape: []int64{2}, Data: []byte("\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff")}, []int64{1}, "18446744073709551615:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r oip.Request
			body := strings.Replace(one("[1]", "FP32", "[1]"), "{", `{"outputs":[{"name":"y","parameters":{"classification":`+c.k+`}}],`, 1)
			if err := r.DecodeHTTP([]byte(body), -1); err != nil {
				t.Fatal(err)
			}
			got, err := r.Classify([]tensor.Tensor{c.in, tensor.FromInt64("z", []int64{1}, []int64{1})})
			if err != nil {
				t.Fatal(err)
			}
			y := got[0]
			if err := y.Check(); err != nil {
				t.Error(err)
			}
			if texts(y) != c.want || y.Type != tensor.Bytes || len(y.Shape) != len(c.shape) || got[1].Type != tensor.Int64 {
				t.Errorf("%s %v, want %s %v", texts(y), y.Shape, c.want, c.shape)
			}
			for i := range c.shape {
				if y.Shape[i] != c.shape[i] {
					t.Errorf("shape %v, want %v", y.Shape, c.shape)
				}
			}
		})
	}
	var r oip.Request
	body := strings.Replace(one("[1]", "FP32", "[1]"), "{", `{"outputs":[{"name":"y","parameters":{"classification":1}}],`, 1)
	if err := r.DecodeHTTP([]byte(body), -1); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Classify([]tensor.Tensor{{Name: "y", Type: tensor.Bytes, Shape: []int64{0}}}); err == nil {
		t.Error("classes of BYTES")
	}
}

// TestNumberedParameters are the ones that all encodings take the same way.
func TestNumberedParameters(t *testing.T) {
	for _, c := range []struct{ parameters, want string }{
		{`"priority":1`, ""}, {`"priority":0,"timeout":5,"sequence_id":0,"sequence_start":false,"sequence_end":false`, ""},
		{`"sequence_id":""`, ""}, {`"triton_enable_empty_final_response":true,"headers":"x","mine":1.5`, ""}, {`"priority":null`, ""},
		{`"priority":-1`, "whole number"}, {`"priority":"high"`, "whole number"}, {`"timeout":1.5`, "microseconds"}, {`"timeout":true`, "microseconds"},
		{`"sequence_id":7`, "sequences"}, {`"sequence_id":"a"`, "sequences"}, {`"sequence_start":true`, "sequences"}, {`"sequence_end":1`, "sequences"},
	} {
		var r oip.Request
		err := r.DecodeHTTP([]byte(strings.Replace(one("[1]", "FP32", "[1]"), "{", `{"parameters":{`+c.parameters+`},`, 1)), -1)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.parameters, err, c.want)
		}
	}
}
