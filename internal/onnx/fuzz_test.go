package onnx_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/penstock/penstock/internal/onnx"
)

// FuzzRead asks of any bytes: an answer or a refusal, no crash, and memory in proportion.
func FuzzRead(f *testing.F) {
	for _, name := range demoNames {
		f.Add(demo(f, name))
	}
	f.Add(modelOf(plain(calling("A", "x", "z")), opset("f", 1), function("f", "A", node("Relu", names("a"), names("b")))))
	f.Add(modelOf(nestedIf(3)))
	for _, c := range hostileFiles() {
		if len(c.file) < 1<<14 {
			f.Add(c.file)
		}
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		onnx.Sniff(file)
		got, model, err := allocated(bytes.NewReader(file), int64(len(file)))
		if got > readBudget(int64(len(file))) {
			t.Errorf("%d bytes of file, %d allocated", len(file), got)
		}
		if refusal := (*onnx.Refusal)(nil); err != nil && !errors.As(err, &refusal) {
			t.Errorf("not a refusal: %v", err)
		}
		if err == nil && model.CheckFiles(nil) == nil && len(model.External) > 0 {
			t.Error("external data was taken without a file")
		}
	})
}
