package onnx_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/penstock/penstock/internal/onnx"
	"github.com/penstock/penstock/test/backend"
)

// TestEveryCase reads each of ONNX's own cases: what these hold is read, except operators of a domain that nobody runs.
func TestEveryCase(t *testing.T) {
	for _, c := range backend.Read(t) {
		_, err := onnx.Read(bytes.NewReader(c.Model), int64(len(c.Model)), onnx.Limits{})
		refusal := (*onnx.Refusal)(nil)
		if preview := bytes.Contains(c.Model, []byte("ai.onnx.preview.training")); err != nil && (!preview || !errors.As(err, &refusal) || refusal.Rule != onnx.RuleDomain) {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

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
	for _, c := range backend.Corpus(f) {
		f.Add(c.Model)
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
