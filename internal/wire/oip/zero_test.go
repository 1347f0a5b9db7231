package oip_test

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/oip"
)

// TestMinusNoughtIsAFloat: Python reads "-0" as the integer nought, which has no sign.
func TestMinusNoughtIsAFloat(t *testing.T) {
	for _, c := range []struct {
		name string
		typ  tensor.Type
		data []byte
	}{
		{"FP32", tensor.FP32, binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(math.Copysign(0, -1))))},
		{"FP64", tensor.FP64, binary.LittleEndian.AppendUint64(nil, math.Float64bits(math.Copysign(0, -1)))},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer := oip.Response{Model: "m", Outputs: []tensor.Tensor{{Name: "y", Type: c.typ, Shape: []int64{1}, Data: c.data}}}
			out, _, err := answer.AppendHTTP(nil, &oip.Request{Outputs: []oip.Output{{Name: "y"}}})
			if err != nil || !strings.Contains(string(out), `[-0.0]`) {
				t.Errorf("%s, %v", out, err)
			}
		})
	}
}
