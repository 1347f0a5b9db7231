package registry

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gguf"
	"github.com/penstock/penstock/internal/safetensors"
)

// How much of a weight file's own notes a version keeps.
const (
	weightsNotes     = 64  // notes
	weightsNoteBytes = 256 // bytes of one; longer ones are cut
	weightsShown     = 256 // tensors that a scan report lists
)

// weightNames are the extensions that weight files have. A file of one format under the name of another is refused: whoever
// goes by names would open it with the wrong program.
var weightNames = map[string]string{".safetensors": api.FormatSafetensors, ".gguf": api.FormatGGUF, ".onnx": api.FormatONNX}

// weightFormat tells weights by their beginning; empty for anything else.
func weightFormat(head []byte, size int64) string {
	switch {
	case strings.HasPrefix(string(head), gguf.Magic):
		return api.FormatGGUF
	case safetensors.Is(head, size):
		return api.FormatSafetensors
	}
	return ""
}

// inspectWeights reads a whole weight file's header, adds what it holds to the version's, and lists its first tensors.
func inspectWeights(format string, file io.ReaderAt, size int64, into *api.WeightsInfo) (tensors []api.WeightTensor, _ error) {
	var notes map[string]string
	var err error
	if format == api.FormatGGUF {
		var m *gguf.Model
		if m, err = gguf.Read(file, size, gguf.Limits{}); err == nil {
			notes = m.Metadata
			into.Architecture = m.Architecture
			into.Tokenizer = &api.TokenizerInfo{Kind: shown(m.Tokenizer.Kind), Tokens: m.Tokenizer.Tokens, Merges: m.Tokenizer.Merges, ChatTemplateBytes: m.Tokenizer.ChatTemplate}
			addTypes(into, int64(len(m.Tensors)), m.Types)
			for _, t := range m.Tensors[:min(len(m.Tensors), weightsShown)] {
				tensors = append(tensors, api.WeightTensor{Name: shown(t.Name), Type: t.Type, Shape: t.Shape, Bytes: t.End - t.Begin})
			}
		}
	} else {
		var m *safetensors.Model
		if m, err = safetensors.Read(file, size, safetensors.Limits{}); err == nil {
			notes = m.Metadata
			addTypes(into, int64(len(m.Tensors)), m.Types)
			for _, t := range m.Tensors[:min(len(m.Tensors), weightsShown)] {
				tensors = append(tensors, api.WeightTensor{Name: shown(t.Name), Type: t.Type, Shape: t.Shape, Bytes: t.End - t.Begin})
			}
		}
	}
	st, gg := (*safetensors.Refusal)(nil), (*gguf.Refusal)(nil)
	if errors.As(err, &st) || errors.As(err, &gg) {
		return nil, api.Fail(api.CodeModelRefused, "", "%s", err.Error())
	}
	if err != nil {
		return nil, fmt.Errorf("read weights: %w", err)
	}
	into.Files++
	if into.Metadata == nil {
		into.Metadata = map[string]string{}
	}
	for _, key := range slices.Sorted(maps.Keys(notes)) {
		if len(into.Metadata) == weightsNotes {
			break
		}
		value := notes[key]
		if len(value) > weightsNoteBytes {
			value = strings.ToValidUTF8(value[:weightsNoteBytes], "") + "…"
		}
		into.Metadata[shown(key)] = value
	}
	return tensors, nil
}

func addTypes(into *api.WeightsInfo, tensors int64, types map[string]int64) {
	into.Tensors += tensors
	if into.Types == nil {
		into.Types = map[string]int64{}
	}
	for name, n := range types {
		into.Types[name] += n
	}
}

// checkWeightName holds a file's name against its content.
func checkWeightName(name, format string) error {
	promised := weightNames[strings.ToLower(path.Ext(name))]
	if _, paper := textKind(name); !paper && (promised == "" || promised == format) {
		return nil
	}
	return api.Fail(api.CodeFormatRefused, name, "the file's content is %s, and its name says otherwise", format).
		WithCure("Name it with the extension .%s.", format)
}

// takeWeights makes a version of weight files: the first by path is the model, the others its data. All are of one format.
func takeWeights(v *api.Version, weights []api.UploadFile, formats map[string]string) error {
	slices.SortFunc(weights, func(a, b api.UploadFile) int { return strings.Compare(a.Path, b.Path) })
	v.Format = formats[weights[0].Path]
	for i, f := range weights {
		if formats[f.Path] != v.Format {
			return api.Fail(api.CodeFormatRefused, f.Path, "the file is %s and %s is %s: a version has one format", formats[f.Path], shown(weights[0].Path), v.Format).
				WithCure("Push each as a model of its own.")
		}
		role := api.RoleData
		if i == 0 {
			role = api.RoleModel
		}
		v.Artifacts = append(v.Artifacts, artifact(f, role))
	}
	v.Signature = api.Signature{Inputs: []api.TensorSpec{}, Outputs: []api.TensorSpec{}}
	for _, n := range v.Info.Weights.Types {
		v.Info.Parameters += n
	}
	sortArtifacts(v.Artifacts)
	return nil
}
