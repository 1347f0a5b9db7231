// Package backend reads the ONNX project's own cases for backends, as Debian's package libonnx-testdata brings them: about
// a thousand small models, each with inputs. It does not run them. It is for tests and the corpora of fuzz targets.
package backend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/penstock/penstock/internal/tensor"
)

// Folder is where the package puts the cases: in each of Sets a folder for each case.
const Folder = "/usr/share/libonnx-testdata/data"

// Sets are the kinds of cases that come with their model. The package has one more, of models to be downloaded.
func Sets() []string { return []string{"node", "pytorch-converted", "pytorch-operator", "simple"} }

// Case is one folder: a model of mostly one operator, and sets of inputs for it.
type Case struct {
	Set      string // one of Sets
	Name     string // of the folder, without the "test_" that all have; behind its set when that is not the first
	Path     string // of the model
	Model    []byte
	Operator string            // of the first node
	Foreign  string            // why it cannot be asked by tensors: "sequence input"; empty when it can
	Inputs   [][]tensor.Tensor // of each data set; none when Foreign
}

// Endpoint is the case's name as a name of the server: in lower case.
func (c *Case) Endpoint() string { return strings.ToLower(c.Name) }

// Read reads every folder. One that it does not understand fails the test: nothing is left out.
func Read(t testing.TB) []*Case {
	t.Helper()
	seen := map[string]bool{}
	var all []*Case
	for _, set := range Sets() {
		folders, err := os.ReadDir(filepath.Join(Folder, set))
		if err != nil {
			t.Fatalf("%v: the cases come with Debian's package libonnx-testdata; run `make system-packages`", err)
		}
		for _, folder := range folders {
			c, err := readCase(filepath.Join(Folder, set, folder.Name()))
			if err != nil {
				t.Fatalf("%s: %v", folder.Name(), err)
			}
			if c.Set = set; set != Sets()[0] {
				c.Name = set + "-" + c.Name
			}
			if seen[c.Endpoint()] {
				t.Fatalf("two cases are named %s", c.Endpoint())
			}
			seen[c.Endpoint()] = true
			all = append(all, c)
		}
	}
	return all
}

// Corpus gives seeds for a fuzz target: the first two cases of each operator, as more of them would take longer to look at
// than a short run of a target has. It gives nothing when the package is not installed.
func Corpus(t testing.TB) []*Case {
	t.Helper()
	if _, err := os.Stat(Folder); errors.Is(err, os.ErrNotExist) {
		t.Logf("no cases of ONNX among the seeds: libonnx-testdata is not installed")
		return nil
	}
	some, had := []*Case{}, map[string]int{}
	for _, c := range Read(t) {
		if had[c.Operator]++; had[c.Operator] <= 2 {
			some = append(some, c)
		}
	}
	return some
}

func readCase(folder string) (*Case, error) {
	c := &Case{Name: strings.TrimPrefix(filepath.Base(folder), "test_"), Path: filepath.Join(folder, "model.onnx")}
	var err error
	if c.Model, err = os.ReadFile(c.Path); err != nil {
		return nil, err
	}
	names, types, err := c.outline()
	if err != nil || c.Foreign != "" {
		return c, err
	}
	sets, err := filepath.Glob(filepath.Join(folder, "test_data_set_*"))
	if err != nil || len(sets) == 0 {
		return nil, fmt.Errorf("no data sets: %w", err)
	}
	for _, set := range sets {
		inputs := []tensor.Tensor{}
		for i, name := range names {
			data, err := os.ReadFile(filepath.Join(set, fmt.Sprintf("input_%d.pb", i)))
			if errors.Is(err, os.ErrNotExist) {
				break // what follows has a default in the model
			}
			if err != nil {
				return nil, err
			}
			input, err := readTensor(data)
			if err != nil {
				return nil, fmt.Errorf("input %d: %w", i, err)
			}
			// The cases' authors had no BF16 in NumPy, and wrote its bits as UINT16.
			if types[i] == tensor.BF16 && input.Type == tensor.Uint16 {
				input.Type = tensor.BF16
			}
			input.Name = name
			inputs = append(inputs, input)
		}
		c.Inputs = append(c.Inputs, inputs)
	}
	return c, nil
}

// outline reads names and types of the model's inputs, and whether inputs and outputs are tensors.
func (c *Case) outline() (inputs []string, types []tensor.Type, err error) {
	const graphField, nodeField, inputField, outputField = 7, 1, 11, 12
	err = each(c.Model, func(field protowire.Number, _ uint64, graph []byte) error {
		if field != graphField {
			return nil
		}
		return each(graph, func(field protowire.Number, _ uint64, part []byte) error {
			switch field {
			case nodeField:
				return each(part, func(field protowire.Number, _ uint64, text []byte) error {
					if field == 4 && c.Operator == "" {
						c.Operator = string(text)
					}
					return nil
				})
			case inputField, outputField:
				name, kind, datatype, err := value(part)
				role := map[protowire.Number]string{inputField: "input", outputField: "output"}[field]
				if kind != "tensor" && c.Foreign == "" {
					c.Foreign = kind + " " + role
				}
				if field == inputField {
					inputs, types = append(inputs, name), append(types, datatype)
				}
				return err
			}
			return nil
		})
	})
	return inputs, types, err
}

// value reads name, kind and element type of an input or output.
func value(part []byte) (name, kind string, datatype tensor.Type, err error) {
	kinds := map[protowire.Number]string{1: "tensor", 4: "sequence", 5: "map", 7: "opaque", 8: "sparse tensor", 9: "optional"}
	err = each(part, func(field protowire.Number, _ uint64, content []byte) error {
		switch field {
		case 1:
			name = string(content)
		case 2:
			return each(content, func(field protowire.Number, _ uint64, held []byte) error {
				if kinds[field] == "" {
					return nil
				}
				kind = kinds[field]
				return each(held, func(field protowire.Number, number uint64, _ []byte) error {
					if field == 1 && number < uint64(len(Types)) {
						datatype = Types[number]
					}
					return nil
				})
			})
		}
		return nil
	})
	return name, kind, datatype, err
}

// each visits the fields of one message: a number, or bytes.
func each(message []byte, visit func(field protowire.Number, number uint64, content []byte) error) error {
	for len(message) > 0 {
		field, wire, size := protowire.ConsumeTag(message)
		if size < 0 {
			return protowire.ParseError(size)
		}
		message = message[size:]
		var number uint64
		var content []byte
		switch wire {
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			content, size = protowire.ConsumeBytes(message)
		case protowire.Fixed32Type:
			var v uint32
			v, size = protowire.ConsumeFixed32(message)
			content = binary.LittleEndian.AppendUint32(nil, v)
		case protowire.Fixed64Type:
			number, size = protowire.ConsumeFixed64(message)
			content = binary.LittleEndian.AppendUint64(nil, number)
		default:
			return fmt.Errorf("wire type %d", wire)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		message = message[size:]
		if err := visit(field, number, content); err != nil {
			return err
		}
	}
	return nil
}

// Types are the protocol's names of ONNX's element types, by ONNX's number.
var Types = []tensor.Type{1: tensor.FP32, 2: tensor.Uint8, 3: tensor.Int8, 4: tensor.Uint16, 5: tensor.Int16, 6: tensor.Int32,
	7: tensor.Int64, 8: tensor.Bytes, 9: tensor.Bool, 10: tensor.FP16, 11: tensor.FP64, 12: tensor.Uint32, 13: tensor.Uint64, 16: tensor.BF16}

// readTensor reads a TensorProto: its content is raw bytes or numbers in a field that depends on the type.
func readTensor(message []byte) (tensor.Tensor, error) {
	t := tensor.Tensor{Shape: []int64{}}
	var numbers []uint64
	var floats, raw []byte
	var text [][]byte
	err := each(message, func(field protowire.Number, number uint64, content []byte) (err error) {
		switch field {
		case 1, 5, 7, 11:
			list := []uint64{number}
			if content != nil {
				list, err = varints(content)
			}
			if field != 1 {
				numbers = append(numbers, list...)
				return err
			}
			for _, size := range list {
				t.Shape = append(t.Shape, int64(size))
			}
		case 2:
			if number < uint64(len(Types)) {
				t.Type = Types[number]
			}
		case 4, 10:
			floats = append(floats, content...)
		case 6:
			text = append(text, content)
		case 9:
			raw = content
		}
		return err
	})
	if err != nil {
		return t, err
	}
	t.Data = slices.Concat(raw, floats)
	for _, number := range numbers {
		t.Data = append(t.Data, binary.LittleEndian.AppendUint64(nil, number)[:t.Type.Size()]...)
	}
	for _, element := range text {
		t.Data = tensor.AppendBytes(t.Data, element)
	}
	return t, t.Check()
}

func varints(packed []byte) (list []uint64, err error) {
	for len(packed) > 0 {
		v, size := protowire.ConsumeVarint(packed)
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		list, packed = append(list, v), packed[size:]
	}
	return list, nil
}
