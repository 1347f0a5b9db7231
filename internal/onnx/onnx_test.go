package onnx_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/penstock/penstock/internal/onnx"
	"github.com/penstock/penstock/internal/tensor"
)

// demo reads one of the committed demo models.
func demo(t testing.TB, name string) []byte {
	t.Helper()
	file, err := os.ReadFile(filepath.Join("..", "..", "demo", name))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

var demoNames = []string{"digits-v1.onnx", "digits-v2.onnx", "cancer-v1.onnx"}

func read(t testing.TB, file []byte) *onnx.Model {
	t.Helper()
	model, err := onnx.Read(bytes.NewReader(file), int64(len(file)), onnx.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return model
}

func TestReadDemoModels(t *testing.T) {
	batch := onnx.Dim{Size: -1, Symbol: "batch"}
	value := func(name string, element onnx.Element, dims ...onnx.Dim) onnx.Value {
		return onnx.Value{Name: name, Kind: onnx.KindTensor, Type: element, Ranked: true, Dims: dims}
	}
	image := []onnx.Value{value("image", onnx.Float, batch, onnx.Dim{Size: 64})}
	digit := []onnx.Value{value("label", onnx.Int64, batch), value("probabilities", onnx.Float, batch, onnx.Dim{Size: 10})}
	for _, c := range []struct {
		file string
		want onnx.Model
	}{
		{"digits-v1.onnx", onnx.Model{IRVersion: 8, Opsets: map[string]int64{"ai.onnx": 17}, Producer: "penstock-demo", Graph: "digits_logistic",
			Inputs: image, Outputs: digit, Nodes: 4, Parameters: 1 + 640 + 10,
			Ops: map[string]int64{"ai.onnx::Div": 1, "ai.onnx::Gemm": 1, "ai.onnx::Softmax": 1, "ai.onnx::ArgMax": 1},
			Constants: []onnx.Tensor{{Name: "sixteen", Type: onnx.Float, Bytes: 4}, {Name: "weight", Type: onnx.Float, Dims: []int64{64, 10}, Bytes: 2560},
				{Name: "bias", Type: onnx.Float, Dims: []int64{10}, Bytes: 40}}}},
		{"digits-v2.onnx", onnx.Model{IRVersion: 8, Opsets: map[string]int64{"ai.onnx": 17}, Producer: "penstock-demo", Graph: "digits_convolutional",
			Inputs: image, Outputs: digit, Nodes: 11, Parameters: 1 + 4 + 12*9 + 12 + 24*12*9 + 24 + 3840 + 10,
			Ops: map[string]int64{"ai.onnx::Div": 1, "ai.onnx::Reshape": 1, "ai.onnx::Conv": 2, "ai.onnx::Relu": 2, "ai.onnx::MaxPool": 1,
				"ai.onnx::Flatten": 1, "ai.onnx::Gemm": 1, "ai.onnx::Softmax": 1, "ai.onnx::ArgMax": 1}}},
		{"cancer-v1.onnx", onnx.Model{IRVersion: 8, Opsets: map[string]int64{"ai.onnx": 17, "ai.onnx.ml": 1}, Producer: "skl2onnx 1.20.0", Graph: "cancer_boosted_trees",
			Inputs:  []onnx.Value{value("measurements", onnx.Float, batch, onnx.Dim{Size: 30})},
			Outputs: []onnx.Value{value("diagnosis", onnx.Int64, batch), value("probabilities", onnx.Float, batch, onnx.Dim{Size: 2})},
			Nodes:   2, Ops: map[string]int64{"ai.onnx.ml::TreeEnsembleClassifier": 1, "ai.onnx::Identity": 1}}},
	} {
		t.Run(c.file, func(t *testing.T) {
			got := read(t, demo(t, c.file))
			if c.want.Constants == nil {
				c.want.Constants = got.Constants
			}
			if !reflect.DeepEqual(*got, c.want) {
				t.Errorf("got  %+v\nwant %+v", *got, c.want)
			}
			if datatype, ok := got.Inputs[0].Datatype(); !ok || datatype != tensor.FP32 {
				t.Errorf("the input's datatype is %s, %v", datatype, ok)
			}
		})
	}
}

// An input with an initializer of its name has a default, so a caller need not give it.
func TestFreeInputs(t *testing.T) {
	model := read(t, modelOf(plain(input("w", floats(2)), msg{}.sub(5, tensorOf("w", 1, []int64{2}, raw(8))))))
	if free := model.FreeInputs(); len(free) != 1 || free[0].Name != "x" || len(model.Inputs) != 2 {
		t.Errorf("free inputs %v of %v", free, model.Inputs)
	}
}

func TestKinds(t *testing.T) {
	sequence := func(m msg) msg { return msg{}.sub(4, msg{}.sub(1, m)) }
	optional := func(m msg) msg { return msg{}.sub(9, msg{}.sub(1, m)) }
	for _, c := range []struct {
		kind   onnx.Kind
		words  string
		file   msg
		ranked bool
		served bool
	}{
		{onnx.KindTensor, "tensor", floats("n", nil, -1, 3), true, true},
		{onnx.KindTensor, "tensor", typeOf(8), true, true},
		{onnx.KindTensor, "tensor", msg{}.sub(1, msg{}.num(1, 1)), false, true},
		{onnx.KindTensor, "tensor", typeOf(14, 2), true, false},
		{onnx.KindSequence, "sequence", sequence(floats("n")), true, false},
		{onnx.KindOptional, "optional", optional(sequence(floats("n"))), true, false},
		{onnx.KindMap, "map", msg{}.sub(5, msg{}.num(1, 7).sub(2, floats())), true, false},
		{onnx.KindSparse, "sparse tensor", msg{}.sub(8, msg{}.num(1, 1).sub(2, msg{}.sub(1, msg{}.num(1, 9)))), true, false},
		{onnx.KindOpaque, "opaque", msg{}.sub(7, msg{}.str(1, "d").str(2, "n")), false, false},
	} {
		model := read(t, modelOf(plain(input("z", c.file))))
		z := model.Inputs[1]
		if _, served := z.Datatype(); z.Kind != c.kind || z.Kind.String() != c.words || z.Ranked != c.ranked || served != c.served {
			t.Errorf("%s: got %+v, served %v", c.words, z, served)
		}
	}
}

// Content can be written in several ways for each type; all that fit are taken.
func TestTensorStorage(t *testing.T) {
	for name, w := range map[string]msg{
		"floats unpacked":    tensorOf("w", 1, []int64{2}, msg{}.float(4, 1).float(4, 2)),
		"floats packed":      tensorOf("w", 1, []int64{2}, msg{}.str(4, "12345678")),
		"dims packed":        tensorOf("w", 1, nil, msg{}.packed(1, 2, 3), raw(24)),
		"ints packed":        tensorOf("w", 7, []int64{3}, msg{}.packed(7, -1, 0, 1<<62)),
		"ints in two runs":   tensorOf("w", 7, []int64{3}, msg{}.packed(7, 1, 2), msg{}.num(7, 3)),
		"bools":              tensorOf("w", 9, []int64{3}, msg{}.packed(5, 1, 0, 1)),
		"halves":             tensorOf("w", 10, []int64{2}, msg{}.packed(5, 0x3c00, 0)),
		"doubles":            tensorOf("w", 11, []int64{2}, msg{}.str(10, "0123456789abcdef")),
		"unsigned":           tensorOf("w", 12, []int64{2}, msg{}.packed(11, 1, 2)),
		"complex":            tensorOf("w", 14, []int64{1}, msg{}.str(4, "12345678")),
		"nibbles raw":        tensorOf("w", 21, []int64{3}, raw(2)),
		"nibbles in entries": tensorOf("w", 22, []int64{3}, msg{}.packed(5, 0x21, 3)),
		"two bits":           tensorOf("w", 25, []int64{5}, raw(2)),
		"six bits":           tensorOf("w", 27, []int64{5}, raw(4)),
		"strings":            tensorOf("w", 8, []int64{2}, msg{}.str(6, "a").str(6, "\xff")),
		"empty raw":          tensorOf("w", 1, []int64{0, 1 << 40}, raw(0)),
		"empty":              tensorOf("w", 1, []int64{5, 0}),
		"scalar":             tensorOf("w", 1, nil, raw(4)),
	} {
		model := read(t, modelOf(plain(msg{}.sub(5, w))))
		if len(model.Constants) != 1 || model.Constants[0].Name != "w" {
			t.Errorf("%s: %v", name, model.Constants)
		}
	}
	sparse := read(t, modelOf(plain(sparseOf(tensorOf("", 7, []int64{1, 2}, raw(16)), 3, 3))))
	want := onnx.Tensor{Name: "s", Type: onnx.Float, Dims: []int64{3, 3}, Bytes: 20}
	if !reflect.DeepEqual(sparse.Constants[0], want) || sparse.Parameters != 1 {
		t.Errorf("sparse: %+v", sparse.Constants[0])
	}
}

func TestFunctionsOfTheFile(t *testing.T) {
	file := modelOf(plain(calling("A", "x", "z"), calling("A", "z", "q")), opset("f", 1),
		function("f", "A", calling("B", "a", "m"), calling("B", "m", "b")), function("f", "B", node("Relu", names("a"), names("b"))))
	model := read(t, file)
	want := map[string]int64{"ai.onnx::Relu": 2, "f::A": 2, "f::B": 2}
	if model.Functions != 2 || model.Nodes != 6 || !reflect.DeepEqual(model.Ops, want) {
		t.Errorf("functions %d, nodes %d, operators %v", model.Functions, model.Nodes, model.Ops)
	}
	// A leftover import of a custom domain does no harm while nothing uses it.
	read(t, modelOf(plain(), opset("pkg.leftover", 1)))
}

// A model cut off anywhere is refused, except where the cut happens to leave a whole model: after its last field that
// matters.
func TestReadTruncatedAtEveryByte(t *testing.T) {
	for _, name := range demoNames {
		file := demo(t, name)
		for n := range file {
			_, err := onnx.Read(bytes.NewReader(file[:n]), int64(n), onnx.Limits{})
			if refusal := (*onnx.Refusal)(nil); !errors.As(err, &refusal) {
				t.Fatalf("%s cut off at byte %d of %d: %v", name, n, len(file), err)
			}
		}
	}
}

// A file that ends before the size that was announced is refused too.
func TestReadSourceShorterThanAnnounced(t *testing.T) {
	file := demo(t, "digits-v2.onnx")
	for n := 0; n < len(file); n += 97 {
		_, err := onnx.Read(bytes.NewReader(file[:n]), int64(len(file)), onnx.Limits{})
		if refusal := (*onnx.Refusal)(nil); !errors.As(err, &refusal) {
			t.Fatalf("%d of %d bytes: %v", n, len(file), err)
		}
	}
}
