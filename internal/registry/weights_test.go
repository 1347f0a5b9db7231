package registry_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
)

// safetensorsFile is a file with one tensor of so many bytes; ggufFile one without any.
func safetensorsFile(name string, bytes int) string {
	header := `{"__metadata__":{"format":"pt"},"` + name + `":{"dtype":"U8","shape":[` + decimal(int64(bytes)) + `],"data_offsets":[0,` + decimal(int64(bytes)) + `]}}`
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header + strings.Repeat("\x01", bytes)
}

func ggufFile(architecture string) string {
	b := binary.LittleEndian.AppendUint32([]byte("GGUF"), 3)
	for _, n := range []uint64{0, 1, uint64(len("general.architecture"))} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	b = binary.LittleEndian.AppendUint32(append(b, "general.architecture"...), 8)
	return string(append(binary.LittleEndian.AppendUint64(b, uint64(len(architecture))), architecture...))
}

// Weights of the two formats that hold nothing but numbers are kept, and what they hold is told.
func TestWeightsAreKept(t *testing.T) {
	b := setUp(t, nil)
	v := b.mustPush(t, alice, "llm", map[string]string{"model-00002-of-00002.safetensors": safetensorsFile("b", 64), "model-00001-of-00002.safetensors": safetensorsFile("a", 16),
		"config.json": `{"architectures":["X"]}`, "model.safetensors.index.json": `{"weight_map":{}}`})
	if v.Format != "safetensors" || v.Info.Parameters != 80 || v.Info.Weights.Files != 2 || v.Info.Weights.Types["U8"] != 80 || v.Info.Weights.Metadata["format"] != "pt" {
		t.Errorf("got %+v, %+v", v, v.Info.Weights)
	}
	if entry, ok := v.Entry(); !ok || entry.Path != "model-00001-of-00002.safetensors" {
		t.Errorf("the first file is %+v", entry)
	}
	v = b.mustPush(t, alice, "llm", map[string]string{"tiny.gguf": ggufFile("llama")})
	if v.Format != "gguf" || v.Info.Weights.Architecture != "llama" || v.Number != 2 {
		t.Errorf("got %+v, %+v", v, v.Info.Weights)
	}
}

// A name that says otherwise, a mixture and a disguise are refused, each for its reason.
func TestWeightsInDisguiseAreRefused(t *testing.T) {
	good, onnx := safetensorsFile("a", 64), net{}.onnx()
	pickle := "\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x01x\x94\x85\x94R\x94."
	zipped := zipOf(t, "archive/data.pkl", pickle)
	// A header that covers a zip archive as if it were a tensor: both readers would be content.
	hidden := func(archive func(before int) string) string {
		n := len(archive(0))
		covering := safetensorsFile("a", n)
		return covering[:len(covering)-n] + archive(len(covering)-n)
	}
	polyglot := hidden(func(int) string { return zipped })
	b := setUp(t, nil)
	for name, c := range map[string]struct {
		files map[string]string
		code  api.Code
		want  string
	}{
		"safetensors named ONNX":     {map[string]string{"model.onnx": good}, api.CodeFormatRefused, "its name says otherwise"},
		"safetensors named text":     {map[string]string{"a.safetensors": good, "notes.txt": good}, api.CodeFormatRefused, "its name says otherwise"},
		"GGUF named safetensors":     {map[string]string{"a.safetensors": ggufFile("llama")}, api.CodeFormatRefused, "its name says otherwise"},
		"two formats":                {map[string]string{"a.safetensors": good, "b.gguf": ggufFile("llama")}, api.CodeFormatRefused, "one format"},
		"ONNX beside weights":        {map[string]string{"a.safetensors": good, "b.onnx": onnx}, api.CodeFormatRefused, "not safetensors like"},
		"a package beside weights":   {map[string]string{"a.safetensors": good, "__init__.py": "import os\n"}, api.CodeFormatRefused, "not safetensors like"},
		"a line that Python runs":    {map[string]string{"a.safetensors": good, "start.pth": "import os\n"}, api.CodeFormatRefused, "not safetensors like"},
		"a list of submodules":       {map[string]string{"a.safetensors": good, ".gitmodules": "[submodule \"x\"]\n"}, api.CodeFormatRefused, "not safetensors like"},
		"a submodule's code":         {map[string]string{"a.safetensors": good, "x/run.py": "import os\n"}, api.CodeFormatRefused, "not safetensors like"},
		"code beside weights":        {map[string]string{"a.safetensors": good, "modeling.py": "import os\n"}, api.CodeFormatRefused, "not safetensors like"},
		"pickle beside weights":      {map[string]string{"a.safetensors": good, "optimizer.bin": pickle}, api.CodeFormatRefused, "pickle"},
		"pickle named safetensors":   {map[string]string{"a.safetensors": pickle}, api.CodeFormatRefused, "pickle"},
		"a zip named safetensors":    {map[string]string{"a.safetensors": zipped}, api.CodeFormatRefused, "zip"},
		"a zip named GGUF":           {map[string]string{"a.gguf": zipped}, api.CodeFormatRefused, "zip"},
		"a zip as a tensor":          {map[string]string{"a.safetensors": polyglot}, api.CodeFormatRefused, "zip"},
		"a zip behind safetensors":   {map[string]string{"a.safetensors": good + zipped}, api.CodeFormatRefused, "zip"},
		"bytes behind safetensors":   {map[string]string{"a.safetensors": good + "more"}, api.CodeModelRefused, "follow the last tensor"},
		"a cut GGUF":                 {map[string]string{"a.gguf": ggufFile("llama")[:30]}, api.CodeModelRefused, "gguf"},
		"a path as architecture":     {map[string]string{"a.gguf": ggufFile("../llama")}, api.CodeModelRefused, "no name"},
		"zip64 as a tensor":          {map[string]string{"a.safetensors": hidden(func(n int) string { return zip64Of(zipped, n) })}, api.CodeFormatRefused, "zip"},
		"a lying zip as a tensor":    {map[string]string{"a.safetensors": hidden(func(n int) string { return lyingZip(zipped, n) })}, api.CodeFormatRefused, "zip"},
		"an LFS pointer beside":      {map[string]string{"a.safetensors": good, "b.safetensors": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"}, api.CodeFormatRefused, "git lfs pull"},
		"an LFS pointer":             {map[string]string{"a.safetensors": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"}, api.CodeFormatRefused, "git lfs pull"},
		"keras' zip named as data":   {map[string]string{"a.gguf": zipOf(t, "config.json", `{"class_name":"Lambda"}`)}, api.CodeFormatRefused, "zip"},
		"nothing named safetensors":  {map[string]string{"a.safetensors": ""}, api.CodeFormatRefused, ""},
		"a promise of a huge header": {map[string]string{"a.safetensors": "\xff\xff\xff\xff\xff\xff\xff\x7f{}"}, api.CodeFormatRefused, ""},
	} {
		_, _, err := b.push(t, alice, "bad", c.files)
		if !api.Is(err, c.code) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %s, %q", name, err, c.code, c.want)
		}
	}
	if _, err := b.Model(t.Context(), "acme", "bad"); !api.Is(err, api.CodeModelNotFound) {
		t.Errorf("something was taken: %v", err)
	}
}
