package enginetest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/ort/orttest"
	"github.com/penstock/penstock/internal/tensor"
)

// Model is a file, what to ask it, and the answer to expect.
type Model struct {
	Path   string
	Inputs []tensor.Tensor
	Want   []tensor.Tensor
}

// Models are the files that the suite loads. Quick answers at once. Slow, asked with its Inputs, answers only when it is
// told to stop. Broken cannot be loaded; empty leaves that out. Refused are requests to Quick and their error codes.
type Models struct {
	Quick, Slow Model
	Broken      string
	Refused     []Refusal
}

// Refusal is a request that an engine must refuse.
type Refusal struct {
	Name    string
	Inputs  []tensor.Tensor
	Outputs []string
	Code    api.Code
}

// WriteModels writes ONNX files for engines that run real ones. Quick adds up three floats, twice.
func WriteModels(t testing.TB) Models {
	t.Helper()
	folder := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	x := tensor.FromFloat32("x", []int64{1, 3}, []float32{1, 2, 3})
	ints := tensor.FromInt64("x", []int64{1, 3}, []int64{1, 2, 3})
	flat := tensor.FromFloat32("x", []int64{3}, []float32{1, 2, 3})
	wide := tensor.FromFloat32("x", []int64{1, 4}, []float32{1, 2, 3, 4})
	short := tensor.FromFloat32("x", []int64{2, 3}, []float32{1, 2, 3})
	other := tensor.FromFloat32("z", []int64{1, 3}, []float32{1, 2, 3})
	return Models{
		Quick: Model{
			Path:   write("quick.onnx", orttest.Linear(3, 2, false).Encode()),
			Inputs: []tensor.Tensor{x},
			Want:   []tensor.Tensor{tensor.FromFloat32("y", []int64{1, 2}, []float32{6.5, 6.5})},
		},
		Slow: Model{
			Path:   write("slow.onnx", orttest.Count().Encode()),
			Inputs: []tensor.Tensor{tensor.FromInt64("n", []int64{}, []int64{1 << 60}), tensor.FromFloat32("x", []int64{1}, []float32{0})},
		},
		Broken: write("broken.onnx", []byte("this is no model")),
		Refused: []Refusal{
			{Name: "missing input", Code: api.CodeSignatureMismatch},
			{Name: "unknown input", Inputs: []tensor.Tensor{other}, Code: api.CodeSignatureMismatch},
			{Name: "unknown input beside", Inputs: []tensor.Tensor{x, other}, Code: api.CodeSignatureMismatch},
			{Name: "duplicate input", Inputs: []tensor.Tensor{x, x}, Code: api.CodeSignatureMismatch},
			{Name: "datatype", Inputs: []tensor.Tensor{ints}, Code: api.CodeSignatureMismatch},
			{Name: "rank", Inputs: []tensor.Tensor{flat}, Code: api.CodeSignatureMismatch},
			{Name: "fixed dimension", Inputs: []tensor.Tensor{wide}, Code: api.CodeSignatureMismatch},
			{Name: "too little data", Inputs: []tensor.Tensor{short}, Code: api.CodeBadTensor},
			{Name: "unknown output", Inputs: []tensor.Tensor{x}, Outputs: []string{"nope"}, Code: api.CodeSignatureMismatch},
		},
	}
}

func (m Model) load(instance string) engine.Load {
	return engine.Load{Instance: instance, Format: "onnx", Path: m.Path, Warm: true}
}

func (m Model) request(instance string) engine.Request {
	return engine.Request{Instance: instance, Inputs: m.Inputs}
}
