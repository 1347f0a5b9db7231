package onnx_test

import (
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/onnx"
)

func TestSniff(t *testing.T) {
	pad := func(n int, rest string) string { return strings.Repeat("\x00", n) + rest }
	for _, c := range []struct {
		name string
		head string
		want onnx.Format
	}{
		{"nothing", "", onnx.FormatEmpty},
		{"onnx", string(modelOf(plain())), onnx.FormatONNX},
		{"onnx, graph first", string(msg{}.sub(7, plain()).num(1, 8)), onnx.FormatONNX},
		{"onnx with a graph longer than the head", string(modelOf(plain(msg{}.str(10, strings.Repeat("d", 10_000))))), onnx.FormatONNX},
		{"onnx with a long doc before the graph", string(msg{}.num(1, 8).str(6, strings.Repeat("d", 10_000)).sub(7, plain())), onnx.FormatONNX},

		// Beginnings as Python's pickle module writes them.
		{"pickle 0 dictionary", "(dp0\nVa\np1\nI1\ns.", onnx.FormatPickle},
		{"pickle 0 list", "(lp0\nI1\naI2\na.", onnx.FormatPickle},
		{"pickle 0 object", "ccopy_reg\n_reconstructor\np0\n(csklearn.linear_model", onnx.FormatPickle},
		{"pickle 0 array", "cnumpy._core.multiarray\n_reconstruct\np0\n(c", onnx.FormatPickle},
		{"pickle 0 number", "I7\n.", onnx.FormatPickle},
		{"pickle 0 text", "Vx\np0\n.", onnx.FormatPickle},
		{"pickle 0 tuple", "(I1\nI2\ntp0\n.", onnx.FormatPickle},
		{"pickle 0 command", "cos\nsystem\n(S'id'\ntR.", onnx.FormatPickle},
		{"pickle 1 dictionary", "}q\x00X\x01\x00\x00\x00aq\x01K\x01s.", onnx.FormatPickle},
		{"pickle 1 list", "]q\x00(K\x01K\x02e.", onnx.FormatPickle},
		{"pickle 1 object", "ccopy_reg\n_reconstructor\nq\x00(c", onnx.FormatPickle},
		{"pickle 1 command", "c__builtin__\nprint\nq\x00(X\x01\x00\x00\x00xtR.", onnx.FormatPickle},
		{"pickle 2", "\x80\x02csklearn.linear_model._logistic\nLogisticRegression", onnx.FormatPickle},
		{"pickle 2 of old torch", "\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", onnx.FormatPickle},
		{"pickle 3", "\x80\x03cbuiltins\nprint\nq\x00X\x01", onnx.FormatPickle},
		{"pickle 4, as joblib writes", "\x80\x04\x95\x03\x02\x00\x00\x00\x00\x00\x00\x8c\x1esklearn.lin", onnx.FormatPickle},
		{"pickle 5", "\x80\x05\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94\x8c\x05", onnx.FormatPickle},

		{"torch archive", "PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x12\x00archive/data.pkl", onnx.FormatTorch},
		{"keras archive", "PK\x03\x04\x14\x00\x00\x00\x00\x00metadata.json", onnx.FormatZip},
		{"empty archive", "PK\x05\x06" + pad(18, ""), onnx.FormatZip},
		{"7z", "7z\xbc\xaf\x27\x1c\x00\x04", onnx.FormatArchive},
		{"tar", "model.onnx" + pad(247, "ustar\x0000"), onnx.FormatArchive},
		{"gzip", "\x1f\x8b\x08\x00", onnx.FormatCompressed},
		{"joblib zlib", "\x78\x5e\x7d\x53\xcd\x6a", onnx.FormatCompressed},
		{"joblib bz2", "BZh31AY&SY", onnx.FormatCompressed},
		{"joblib lzma", "\x5d\x00\x00\x40\x00\xff", onnx.FormatCompressed},
		{"joblib xz", "\xfd7zXZ\x00\x00\x04", onnx.FormatCompressed},
		{"lz4", "\x04\x22\x4d\x18\x64", onnx.FormatCompressed},
		{"zstd", "\x28\xb5\x2f\xfd\x04", onnx.FormatCompressed},
		{"keras 2", "\x89HDF\r\n\x1a\n\x00\x00", onnx.FormatHDF5},
		{"keras 2 behind a block", pad(512, "\x89HDF\r\n\x1a\n"), onnx.FormatHDF5},
		{"numpy", "\x93NUMPY\x01\x00v\x00{'descr': '|O'", onnx.FormatNumPy},
		{"safetensors", "\x40\x00\x00\x00\x00\x00\x00\x00{\"w\":{\"dtype\":\"F32\"", onnx.FormatSafetensors},
		{"safetensors with an ONNX-like length", "\x08\x01\x00\x00\x00\x00\x00\x00{\"w\":{", onnx.FormatSafetensors},
		{"gguf", "GGUF\x03\x00\x00\x00", onnx.FormatGGUF},
		{"ort", "\x18\x00\x00\x00ORTM", onnx.FormatORT},
		{"tflite", "\x1c\x00\x00\x00TFL3", onnx.FormatTFLite},
		{"elf", "\x7fELF\x02\x01\x01", onnx.FormatProgram},
		{"exe", "MZ\x90\x00\x03", onnx.FormatProgram},
		{"lfs pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", onnx.FormatLFS},
		{"error page", "<!DOCTYPE html><title>404</title>", onnx.FormatText},
		{"json", "{\"error\": \"not found\"}\n", onnx.FormatText},
		{"text in another language", "Модель не найдена", onnx.FormatText},
		{"zeros", pad(100, ""), onnx.FormatUnknown},
		{"noise", "\xde\xad\xbe\xef\x00\x01", onnx.FormatUnknown},
		{"protobuf of something else", string(msg{}.str(1, "a").str(2, "b")), onnx.FormatUnknown},
	} {
		got := onnx.Sniff([]byte(c.head))
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if reason := got.Reason(); (reason == "") != (got == onnx.FormatONNX) {
			t.Errorf("%s: the reason is %q", c.name, reason)
		}
	}
	for _, name := range demoNames {
		if got := onnx.Sniff(demo(t, name)); got != onnx.FormatONNX {
			t.Errorf("%s: %s", name, got)
		}
	}
}
