package foreign

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"

	"github.com/penstock/penstock/internal/onnx"
)

// mlmodel is what is read of the file MLmodel.
type mlmodel struct {
	RunID   string                    `yaml:"run_id"`
	UUID    string                    `yaml:"model_uuid"`
	Version string                    `yaml:"mlflow_version"`
	Flavors map[string]map[string]any `yaml:"flavors"`
	Sign    struct {
		Inputs  string `yaml:"inputs"`
		Outputs string `yaml:"outputs"`
		Params  string `yaml:"params"`
	} `yaml:"signature"`
}

// mlColumn is one input or output of an MLflow signature.
type mlColumn struct {
	Name string `json:"name"`
	Type string `json:"type"`
	Spec struct {
		Type  string  `json:"dtype"`
		Shape []int64 `json:"shape"`
	} `json:"tensor-spec"`
}

// mlflow reads a model folder as MLflow writes it. Only the flavor onnx can be run here; the Python that lies beside it in
// other flavors is never taken.
func mlflow(dir, source string) Candidate {
	c := Candidate{Kind: KindMLflow, Source: source, Model: nameOf(source + "."), Serve: true}
	m, err := readMLmodel(filepath.Join(dir, "MLmodel"))
	if err != nil {
		c.Refused = "its MLmodel cannot be read: " + err.Error()
		return c
	}
	flavor, is := m.Flavors["onnx"]
	if !is {
		c.Refused = fmt.Sprintf("its flavors are %s; only onnx is taken: the others are Python objects, so log the model with mlflow.onnx", strings.Join(slices.Sorted(maps.Keys(m.Flavors)), ", "))
		return c
	}
	data, _ := flavor["data"].(string)
	if data == "" {
		data = "model.onnx"
	}
	if !filepath.IsLocal(filepath.FromSlash(data)) || !has(dir, filepath.FromSlash(data)) {
		c.Refused = fmt.Sprintf("its model file %.80q is not a plain file of the folder", data)
		return c
	}
	path := filepath.Join(dir, filepath.FromSlash(data))
	c.Files = append(c.Files, File{path, filepath.Base(path)})
	c.addData(path, "")
	c.Run = m.RunID
	c.Tags = map[string]string{}
	for key, text := range map[string]string{"mlflow.run_id": m.RunID, "mlflow.model_uuid": m.UUID, "mlflow.version": m.Version} {
		if text != "" && len(text) <= 256 {
			c.Tags[key] = text
		}
	}
	c.compare(path, m)
	for _, name := range slices.Sorted(maps.Keys(m.Flavors)) {
		if name != "onnx" {
			c.note("the flavor %.40s is not taken over", name)
		}
	}
	if m.Sign.Params != "" && m.Sign.Params != "null" {
		c.note("the signature's params are not taken over")
	}
	return c
}

// readMLmodel takes no anchors and aliases: MLflow writes none, and by them a small file becomes a large one.
func readMLmodel(path string) (m mlmodel, _ error) {
	text, err := readConfig(path)
	if err != nil {
		return m, err
	}
	for _, t := range lexer.Tokenize(string(text)) {
		if t.Type == token.AnchorType || t.Type == token.AliasType || t.Type == token.TagType || t.Type == token.MergeKeyType {
			return m, errors.New("it holds an anchor, an alias or a tag")
		}
	}
	if err := yaml.Unmarshal(text, &m); err != nil {
		return m, errors.New("it is not the YAML that MLflow writes")
	}
	return m, nil
}

// compare holds the signature that MLflow wrote down against the file's own, which is the one that counts.
func (c *Candidate) compare(path string, m mlmodel) {
	model, err := readONNX(path)
	if err != nil {
		return // the server says why
	}
	for _, side := range []struct {
		what, text string
		values     []onnx.Value
	}{{"input", m.Sign.Inputs, model.FreeInputs()}, {"output", m.Sign.Outputs, model.Outputs}} {
		var columns []mlColumn
		if side.text == "" {
			c.note("MLmodel has no signature of the %ss; the file's own counts", side.what)
			continue
		}
		if err := json.Unmarshal([]byte(side.text), &columns); err != nil {
			c.note("the signature of the %ss in MLmodel cannot be read; the file's own counts", side.what)
			continue
		}
		if len(columns) != len(side.values) {
			c.note("MLmodel has %d %ss, the file %d; the file's count", len(columns), side.what, len(side.values))
			continue
		}
		for i, column := range columns {
			v := side.values[i]
			if column.Name != "" {
				at := slices.IndexFunc(side.values, func(v onnx.Value) bool { return v.Name == column.Name })
				if at < 0 {
					c.note("the %s %.40q of MLmodel is not in the file", side.what, column.Name)
					continue
				}
				v = side.values[at]
			}
			c.compareOne(side.what, column, v)
		}
	}
}

// mlTypes are numpy's names for what the Open Inference Protocol calls otherwise.
var mlTypes = map[string]string{"float16": "FP16", "float32": "FP32", "float64": "FP64", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
	"uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "bool": "BOOL", "str": "BYTES", "object": "BYTES"}

func (c *Candidate) compareOne(what string, column mlColumn, v onnx.Value) {
	datatype, known := v.Datatype()
	if want := mlTypes[column.Spec.Type]; want != "" && known && want != datatype.String() {
		c.note("the %s %.40q is %s in MLmodel and %s in the file; the file's counts", what, v.Name, column.Spec.Type, datatype)
	}
	if column.Spec.Shape != nil && v.Ranked && len(column.Spec.Shape) != len(v.Dims) {
		c.note("the %s %.40q has %d dimensions in MLmodel and %d in the file; the file's count", what, v.Name, len(column.Spec.Shape), len(v.Dims))
	}
}
