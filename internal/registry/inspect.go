package registry

import (
	"errors"
	"fmt"
	"io"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/onnx"
)

// graph is what a version keeps of its model file.
type graph struct {
	signature api.Signature
	info      api.ModelInfo // ExternalData: slash-separated, relative to the model's own folder
}

// inspect reads a model with the bounded reader of package onnx and checks the whole of it. The files beside the model
// come with their sizes, by path relative to the model's folder.
func inspect(file io.ReaderAt, size int64, beside map[string]int64, limits onnx.Limits) (graph, error) {
	head := make([]byte, min(onnx.SniffBytes, size))
	if _, err := file.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return graph{}, fmt.Errorf("read model: %w", err)
	}
	if format := onnx.Sniff(head); format != onnx.FormatONNX {
		return graph{}, api.Fail(api.CodeFormatRefused, "", "%s", format.Reason())
	}
	model, err := onnx.Read(file, size, limits)
	if err == nil {
		err = model.CheckFiles(beside)
	}
	if refusal := (*onnx.Refusal)(nil); errors.As(err, &refusal) {
		return graph{}, api.Fail(api.CodeModelRefused, "", "%s", refusal.Error())
	}
	if err != nil {
		return graph{}, fmt.Errorf("read model: %w", err)
	}
	return describe(model)
}

// describe puts a model into the words of the API. A caller must be able to send every input, so those must be tensors
// that the Open Inference Protocol can carry. Outputs that it cannot carry are left out: a classifier's list of maps
// beside its label, for one.
func describe(m *onnx.Model) (graph, error) {
	g := graph{info: api.ModelInfo{IRVersion: m.IRVersion, Opsets: m.Opsets, Producer: m.Producer, Parameters: m.Parameters,
		Nodes: m.Nodes, Ops: m.Ops, Graph: m.Graph, ExternalData: m.ExternalFiles()}}
	for _, value := range m.FreeInputs() {
		spec, ok := tensorSpec(value)
		if !ok || !value.Ranked {
			return graph{}, api.Fail(api.CodeModelRefused, "", "the input %q is of the kind %s (%s), which cannot be sent as a tensor of known rank",
				shown(value.Name), value.Kind, value.Type).WithCure("Export the model with dense tensor inputs that have a shape.")
		}
		g.signature.Inputs = append(g.signature.Inputs, spec)
	}
	for _, value := range m.Outputs {
		if spec, ok := tensorSpec(value); ok {
			g.signature.Outputs = append(g.signature.Outputs, spec)
		}
	}
	if len(g.signature.Outputs) == 0 {
		return graph{}, api.Fail(api.CodeModelRefused, "", "none of the model's %d outputs is a dense tensor of a known type", len(m.Outputs)).
			WithCure("Export the model with tensor outputs; for scikit-learn, with zipmap off.")
	}
	return g, nil
}

// tensorSpec describes a dense tensor; an output of unknown rank is shown with one free dimension.
func tensorSpec(value onnx.Value) (api.TensorSpec, bool) {
	datatype, ok := value.Datatype()
	if !ok {
		return api.TensorSpec{}, false
	}
	spec := api.TensorSpec{Name: value.Name, Datatype: datatype.String(), Shape: make([]int64, len(value.Dims))}
	symbols := make([]string, len(value.Dims))
	named := false
	for i, dim := range value.Dims {
		spec.Shape[i], symbols[i] = dim.Size, dim.Symbol
		named = named || dim.Symbol != ""
	}
	if named {
		spec.Symbols = symbols
	}
	if !value.Ranked {
		spec.Shape = []int64{-1}
	}
	return spec, true
}
