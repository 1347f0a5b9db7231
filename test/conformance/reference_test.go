package conformance_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"testing"

	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/tensor"
)

// workers is how many workers the server has, and with it the threads that each computes with: a sum may round
// differently when it is spread over more of them.
const workers = 2

// repeats is how often ONNX Runtime is asked the same, to find out whether it gives the same bits each time.
const repeats = 4

// drawing are operators whose answers are drawn by lot. A case may hold few enough numbers for several runs to agree.
var drawing = []string{"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}

// truth is what ONNX Runtime itself makes of a case, with the settings of a worker.
type truth struct {
	refused string // why it does not load or run the case; empty: it does
	random  bool   // it gives other bits each time
	outputs [][]tensor.Tensor
}

// reference runs cases in this process, through the binding and nothing else of ours.
type reference struct{ runtime *ort.Runtime }

func openReference(t testing.TB) *reference {
	t.Helper()
	opened, err := ort.Open(t.TempDir(), ort.Options{IntraThreads: max(1, runtime.NumCPU()/workers), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(opened.Close)
	return &reference{runtime: opened}
}

// run gives the truth about a case. Cases that tensors cannot ask are only loaded.
func (r *reference) run(t testing.TB, n *node) truth {
	session, err := r.runtime.LoadFile(t.Context(), n.path, ort.SessionOptions{})
	if err != nil {
		return truth{refused: "load: " + native(err)}
	}
	defer session.Close()
	found := truth{random: slices.Contains(drawing, n.operator)}
	for _, inputs := range n.inputs {
		first, err := ask(session, inputs)
		if err != nil {
			return truth{refused: "run: " + native(err)}
		}
		for range repeats - 1 {
			again, err := ask(session, inputs)
			if err != nil {
				return truth{refused: "run again: " + native(err)}
			}
			found.random = found.random || differ(first, again, false) != ""
		}
		found.outputs = append(found.outputs, first)
	}
	return found
}

// ask runs a session once and copies what it gives.
func ask(session *ort.Session, inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	given := make([]ort.Tensor, len(inputs))
	for i, in := range inputs {
		number := ort.ElementType(slices.Index(datatypes, in.Type))
		given[i] = ort.Tensor{Name: in.Name, Type: number, Shape: in.Shape, Data: in.Data}
	}
	result, err := session.Run(given, nil, nil)
	if err != nil {
		return nil, err
	}
	defer result.Release()
	outputs := make([]tensor.Tensor, len(result.Outputs))
	for i, out := range result.Outputs {
		outputs[i] = tensor.Tensor{Name: out.Name, Type: datatypes[out.Type], Shape: slices.Clone(out.Shape), Data: bytes.Clone(out.Data)}
	}
	return outputs, nil
}

// native is ONNX Runtime's own words.
func native(err error) string {
	if e := (*ort.Error)(nil); errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}

// differ says where two answers differ, bit for bit; for random ones only name, type and shape count.
func differ(want, got []tensor.Tensor, random bool) string {
	if len(want) != len(got) {
		return fmt.Sprintf("%d outputs, want %d", len(got), len(want))
	}
	for i := range want {
		w, g := &want[i], &got[i]
		if w.Name != g.Name || w.Type != g.Type || !slices.Equal(w.Shape, g.Shape) {
			return fmt.Sprintf("output %q is %s %v, want %q %s %v", g.Name, g.Type, g.Shape, w.Name, w.Type, w.Shape)
		}
		if len(w.Data) != len(g.Data) || !random && !bytes.Equal(w.Data, g.Data) {
			return fmt.Sprintf("output %q is % .64x, want % .64x", g.Name, g.Data, w.Data)
		}
	}
	return ""
}
