package registry_test

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/registry"
	"google.golang.org/protobuf/encoding/protowire"
)

// net describes a small model y = x · W of the tests' own; the zero value is a good one.
type net struct {
	name     string // tells one model from another
	external string // location of W's bytes, when they lie in another file
	rows     int64  // of W; 0: 4. With more, its bytes must lie in another file
	input    []byte // type of x, when it is not the good one
}

const weightBytes = 4 * 4 * 2 // W is 4 by 2, FP32

// onnx writes the model as a file.
func (n net) onnx() string {
	var node, weight []byte
	node = text(node, 1, "x")
	node = text(node, 1, "W")
	node = text(node, 2, "y")
	node = text(node, 4, "MatMul")
	rows := max(n.rows, 4)
	weight = number(weight, 1, uint64(rows))
	weight = number(weight, 1, 2)
	weight = number(weight, 2, 1)
	weight = text(weight, 8, "W")
	if n.external == "" {
		weight = text(weight, 9, weights())
	} else {
		for _, pair := range [][2]string{{"location", n.external}, {"offset", "0"}, {"length", decimal(rows * 8)}} {
			weight = message(weight, 13, text(text(nil, 1, pair[0]), 2, pair[1]))
		}
		weight = number(weight, 14, 1)
	}
	input := n.input
	if input == nil {
		input = tensorType(1, "batch", uint64(rows))
	}
	var graph []byte
	graph = message(graph, 1, node)
	graph = text(graph, 2, "net "+n.name)
	graph = message(graph, 5, weight)
	graph = message(graph, 11, message(text(nil, 1, "x"), 2, input))
	graph = message(graph, 12, message(text(nil, 1, "y"), 2, tensorType(1, "batch", 2)))
	var model []byte
	model = number(model, 1, 8)
	model = text(model, 2, "registry test")
	model = message(model, 7, graph)
	model = message(model, 8, number(text(nil, 1, ""), 2, 17))
	return string(model)
}

func weights() string {
	var b []byte
	for i := range 8 {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(i)))
	}
	return string(b)
}

// tensorType is a TypeProto of a dense tensor with two dimensions, the first one named.
func tensorType(element uint64, symbol string, size uint64) []byte {
	shape := message(message(nil, 1, text(nil, 2, symbol)), 1, number(nil, 1, size))
	return message(nil, 1, message(number(nil, 1, element), 2, shape))
}

func text(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func message(b []byte, field protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), m)
}

func number(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func TestRefusedContent(t *testing.T) {
	good := net{}.onnx()
	pickles := map[string]string{
		"protocol 0 calls os.system":             "cos\nsystem\n(S'echo pwned'\ntR.",
		"protocol 0 by INST":                     "(S'echo pwned'\nios\nsystem\n.",
		"protocol 0 by OBJ":                      "(cos\nsystem\nS'echo pwned'\no.",
		"protocol 0 with value below the call":   "I1\n0cos\nsystem\n(S'x'\ntR.",
		"protocol 2":                             "\x80\x02cos\nsystem\nq\x00X\x01\x00\x00\x00xq\x01\x85q\x02Rq\x03.",
		"protocol 4 with a frame":                "\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x01x\x94\x85\x94R\x94.",
		"protocol 5, broken after the call":      "\x80\x05\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R\xff\xff\xff\xff",
		"protocol 2, a plain list":               "\x80\x02]q\x00(K\x01K\x02e.",
		"protocol 0, call from the memo":         "cos\nsystem\np0\n0g0\n(S'x'\ntR.",
		"a call hidden behind a long value":      "\x80\x04B" + "\x00\x00\x10\x00" + strings.Repeat("A", 1<<20) + "0\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",
		"a legacy checkpoint's magic number":     "\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
		"a call with a list of arguments":        "cos\nsystem\n(lS'x'\naR.",
		"a call with a set's members":            "\x80\x04cos\nsystem\n\x8f(\x8c\x01x\x90R",
		"a call hidden behind a long line":       "S'" + strings.Repeat("A", 100_000) + "'\n0cos\nsystem\n(S'x'\ntR.",
		"an endless row of values before a call": strings.Repeat("N0", 1<<19) + "cos\nsystem\n(tR.",
	}
	zipped := zipOf(t, "archive/data.pkl", pickles["protocol 2"])
	front := strings.Repeat("\x01", 64)
	bodies := map[string]string{
		"torch zip":                   zipped,
		"zip behind a model":          good + zipped,
		"joblib zlib":                 deflated(t, strings.Repeat(pickles["protocol 2"], 3)),
		"gzip":                        gzipped(t, pickles["protocol 2"]),
		"joblib lz4":                  "\x04\x22\x4d\x18rest of it",
		"xz":                          "\xfd7zXZ\x00rest",
		"bzip2":                       "BZh91AY&SYrest",
		"nullifAI's 7z":               "7z\xbc\xaf\x27\x1crest",
		"tar, as .nemo is":            strings.Repeat("\x00", 257) + "ustar\x0000" + strings.Repeat("\x00", 300),
		"keras hdf5":                  "\x89HDF\r\n\x1a\nrest",
		"numpy with objects":          "\x93NUMPY\x01\x00v\x00{'descr': '|O'}",
		"a shared library":            "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 64),
		"a script":                    "#!/bin/sh\nrm -rf /\n",
		"a Git LFS pointer":           "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
		"an .ort file":                "\x20\x00\x00\x00ORTM" + strings.Repeat("\x00", 64),
		"a picture":                   "\x89PNG\r\n\x1a\nrest of the picture",
		"nothing at all":              "",
		"HTML of an error page":       "<html>404</html>",
		"a Windows program":           windowsProgram(),
		"a TorchScript with preamble": "preamble" + zipped,
		"zip64 behind numbers":        front + zip64Of(zipped, len(front)),
		"zip of a lying length":       front + lyingZip(zipped, len(front)),
	}
	for _, name := range []string{"zip64 behind numbers", "zip of a lying length"} {
		if _, err := zip.NewReader(strings.NewReader(bodies[name]), int64(len(bodies[name]))); err != nil {
			t.Fatalf("%s: nobody opens it, so this test shows nothing: %v", name, err)
		}
	}
	for name, body := range pickles {
		bodies["pickle, "+name] = body
	}
	b := setUp(t, nil)
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) { b.refusesAs(t, body, name != "a script" && name != "a picture") })
	}
	if _, err := b.Model(t.Context(), "acme", "bad"); !api.Is(err, api.CodeModelNotFound) {
		t.Errorf("something bad was taken: %v", err)
	}
}

// refusesAs pushes content that is none of a model under the name of one, of weights, of its own format, of a paper, and, unless
// it may as well be numbers, of a model's data.
func (b *bench) refusesAs(t *testing.T, body string, asData bool) {
	t.Helper()
	good := net{}.onnx()
	files := map[string]map[string]string{}
	for _, name := range []string{"model.onnx", "model", "model.safetensors", "model.gguf", "model.pt", "model.pth", "pytorch_model.bin", "model.joblib", "model.keras", "model.nemo"} {
		files[name] = map[string]string{name: body}
	}
	if body != "" && !strings.HasPrefix(body, "<html") { // a paper may be empty or hold markup
		files["README.md"] = map[string]string{"model.onnx": good, "README.md": body}
		if len(body) >= weightBytes && asData {
			files["external data"] = map[string]string{"model.onnx": net{external: "w.bin"}.onnx(), "w.bin": body}
		}
	}
	for as, push := range files {
		if _, _, err := b.push(t, alice, "bad", push); !api.Is(err, api.CodeFormatRefused) {
			t.Errorf("as %s: %v", as, err)
		}
	}
}

// TestPapers must pass: texts that look a little like something else.
func TestPapers(t *testing.T) {
	b := setUp(t, nil)
	for name, body := range map[string]string{
		"labels.txt":  "cat\ndog\nRabbit\n",
		"classes.txt": "Ibis\nLion\nSeal\nRabbit\n.\n",
		"viper.txt":   "Viper\nVulture\nRabbit\n",
		"label.txt":   "classes\nfoo\nbar\n",
		"numbers.csv": "1,2\n3,4\n",
		"card.md":     "(in brackets) N.\n\nPK is not an archive.\n",
		"LICENSE":     "Copyright ©\f\n",
		"config.json": "{\"a\": [1, 2]}",
		"empty.md":    "",
	} {
		if _, _, err := b.push(t, alice, "good", map[string]string{"model.onnx": net{name: name}.onnx(), name: body}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, body := range map[string]string{
		"latin1.md": "caf\xe9", "nul.txt": "a\x00b", "binary.json": "\x01\x02\x03", "escape.md": "\x1b[31mred",
	} {
		_, _, err := b.push(t, alice, "good", map[string]string{"model.onnx": net{name: name}.onnx(), name: body})
		wantCode(t, name, err, api.CodeFormatRefused)
	}
	small := setUp(t, func(cfg *registry.Config) { cfg.Limits.DocBytes = 10 })
	_, _, err := small.push(t, alice, "good", map[string]string{"model.onnx": net{}.onnx(), "a.md": "eleven byte"})
	wantCode(t, "a long paper", err, api.CodeTooLarge)
}

func TestRefusedModels(t *testing.T) {
	b := setUp(t, nil)
	good, data := net{}.onnx(), weights()
	sequence := message(nil, 4, message(nil, 1, tensorType(1, "n", 4)))
	unranked := message(nil, 1, number(nil, 1, 1))
	for _, test := range []struct {
		name  string
		files map[string]string
		code  api.Code
		says  string
	}{
		{"cut short", map[string]string{"m.onnx": good[:len(good)-5]}, api.CodeModelRefused, "wire"},
		{"a graph that uses what nobody made", map[string]string{"m.onnx": strings.Replace(good, "\x0a\x01W", "\x0a\x01V", 1)}, api.CodeModelRefused, "graph"},
		{"external data missing", map[string]string{"m.onnx": net{external: "w.bin"}.onnx()}, api.CodeModelRefused, "w.bin"},
		{"external data too short", map[string]string{"m.onnx": net{external: "w.bin"}.onnx(), "w.bin": data[:31]}, api.CodeModelRefused, "31"},
		{"external data outside", map[string]string{"m.onnx": net{external: "../../etc/passwd"}.onnx()}, api.CodeModelRefused, "external"},
		{"external data absolute", map[string]string{"m.onnx": net{external: "/etc/passwd"}.onnx()}, api.CodeModelRefused, "external"},
		{"external data of another case", map[string]string{"m.onnx": net{external: "W.bin"}.onnx(), "w.bin": data}, api.CodeModelRefused, "W.bin"},
		{"external data in the model's parent", map[string]string{"net/m.onnx": net{external: "w.bin"}.onnx(), "w.bin": data}, api.CodeModelRefused, "w.bin"},
		{"a file that the model does not name", map[string]string{"m.onnx": good, "w.bin": data}, api.CodeFormatRefused, "w.bin"},
		{"external data named as a paper", map[string]string{"m.onnx": net{external: "w.txt"}.onnx(), "w.txt": strings.Repeat("w", weightBytes)}, api.CodeFormatRefused, "w.txt"},
		{"a model as its own data", map[string]string{"m.onnx": net{external: "m.onnx"}.onnx()}, api.CodeModelRefused, "m.onnx"},
		{"the code of a package", map[string]string{"m.onnx": good, "__init__.py": "import os\n"}, api.CodeFormatRefused, "__init__.py"},
		{"a line that Python runs at its start", map[string]string{"m.onnx": good, "start.pth": "import os\n"}, api.CodeFormatRefused, "start.pth"},
		{"a list of submodules", map[string]string{"m.onnx": good, ".gitmodules": "[submodule \"x\"]\n\turl = https://example.com/x\n"}, api.CodeFormatRefused, ".gitmodules"},
		{"the code of a submodule", map[string]string{"m.onnx": good, "x/modeling.py": "import os\n"}, api.CodeFormatRefused, "modeling.py"},
		{"two models", map[string]string{"a.onnx": good, "b.onnx": net{name: "b"}.onnx()}, api.CodeFormatRefused, "exactly one"},
		{"no model", map[string]string{"README.md": "# nothing"}, api.CodeFormatRefused, "exactly one"},
		{"a sequence as input", map[string]string{"m.onnx": net{input: sequence}.onnx()}, api.CodeModelRefused, "sequence"},
		{"an input without rank", map[string]string{"m.onnx": net{input: unranked}.onnx()}, api.CodeModelRefused, "rank"},
		{"an input of a type that nobody can send", map[string]string{"m.onnx": net{input: tensorType(14, "n", 4)}.onnx()}, api.CodeModelRefused, "x"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := b.push(t, alice, "bad", test.files)
			if !api.Is(err, test.code) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v, want %s that says %q", err, test.code, test.says)
			}
		})
	}
}

func TestRefusedUploads(t *testing.T) {
	b := setUp(t, nil)
	model := b.upload(t, alice, "m.onnx", net{}.onnx())
	paper := b.upload(t, alice, "a.md", "paper")
	at := func(path string) []api.UploadFile {
		moved := paper
		moved.Path = path
		return []api.UploadFile{model, moved}
	}
	many := make(map[string]string)
	for i := range 65 {
		many[decimal(int64(i))] = "x"
	}
	manyFiles := make([]api.UploadFile, 257)
	for i := range manyFiles {
		manyFiles[i] = api.UploadFile{Path: decimal(int64(i)) + ".md", Digest: paper.Digest, Size: paper.Size}
	}
	wrongSize := model
	wrongSize.Size++
	for _, test := range []struct {
		name string
		up   api.Upload
		code api.Code
	}{
		{"no files", api.Upload{}, api.CodeBadRequest},
		{"too many files", api.Upload{Files: manyFiles}, api.CodeTooLarge},
		{"a size that lies", api.Upload{Files: []api.UploadFile{wrongSize}}, api.CodeDigestMismatch},
		{"a negative size", api.Upload{Files: []api.UploadFile{{Path: "m.onnx", Digest: model.Digest, Size: -1}}}, api.CodeTooLarge},
		{"a short digest", api.Upload{Files: []api.UploadFile{{Path: "m.onnx", Digest: model.Digest[:20], Size: model.Size}}}, api.CodeBadName},
		{"a digest that is a path", api.Upload{Files: []api.UploadFile{{Path: "m.onnx", Digest: "sha256:../../../../etc/passwd", Size: 1}}}, api.CodeBadName},
		{"bytes that nobody sent", api.Upload{Files: []api.UploadFile{{Path: "m.onnx", Digest: api.Digest("sha256:" + strings.Repeat("0", 64)), Size: 1}}}, api.CodeBlobNotFound},
		{"the same path twice", api.Upload{Files: []api.UploadFile{model, model}}, api.CodeBadName},
		{"paths that differ in case", api.Upload{Files: append(at("a.md"), at("A.md")[1])}, api.CodeBadName},
		{"paths that differ by the Kelvin sign", api.Upload{Files: append(at("k.md"), at("\u212a.md")[1])}, api.CodeBadName},
		{"a file that is also a folder", api.Upload{Files: at("M.onnx/a.md")}, api.CodeBadName},
		{"a path out", api.Upload{Files: at("../a.md")}, api.CodeBadName},
		{"a path out and in", api.Upload{Files: at("x/../a.md")}, api.CodeBadName},
		{"a dot", api.Upload{Files: at("./a.md")}, api.CodeBadName},
		{"an absolute path", api.Upload{Files: at("/etc/cron.d/a.md")}, api.CodeBadName},
		{"a drive", api.Upload{Files: at("C:a.md")}, api.CodeBadName},
		{"a backslash", api.Upload{Files: at(`x\a.md`)}, api.CodeBadName},
		{"a NUL", api.Upload{Files: at("a\x00.md")}, api.CodeBadName},
		{"a line end", api.Upload{Files: at("a\n.md")}, api.CodeBadName},
		{"right to left", api.Upload{Files: at("a\u202edm.exe.md")}, api.CodeBadName},
		{"not UTF-8", api.Upload{Files: at("a\xff.md")}, api.CodeBadName},
		{"an option", api.Upload{Files: at("-rf.md")}, api.CodeBadName},
		{"a trailing dot", api.Upload{Files: at("x./a.md")}, api.CodeBadName},
		{"a leading space", api.Upload{Files: at(" a.md")}, api.CodeBadName},
		{"an empty part", api.Upload{Files: at("x//a.md")}, api.CodeBadName},
		{"an empty path", api.Upload{Files: at("")}, api.CodeBadName},
		{"five levels", api.Upload{Files: at("1/2/3/4/a.md")}, api.CodeBadName},
		{"a long path", api.Upload{Files: at(strings.Repeat("a", 253) + ".md")}, api.CodeBadName},
		{"a bad alias", api.Upload{Files: at("a.md"), Aliases: []api.AliasName{"Champion!"}}, api.CodeBadName},
		{"an alias that is a number", api.Upload{Files: at("a.md"), Aliases: []api.AliasName{"7"}}, api.CodeBadName},
		{"an alias named latest", api.Upload{Files: at("a.md"), Aliases: []api.AliasName{"latest"}}, api.CodeBadName},
		{"many aliases", api.Upload{Files: at("a.md"), Aliases: make([]api.AliasName, 17)}, api.CodeTooLarge},
		{"many tags", api.Upload{Files: at("a.md"), Tags: many}, api.CodeTooLarge},
		{"a tag with a line end", api.Upload{Files: at("a.md"), Tags: map[string]string{"a\nb": "x"}}, api.CodeBadName},
		{"a tag's value with a line end", api.Upload{Files: at("a.md"), Tags: map[string]string{"a": "x\ny"}}, api.CodeBadRequest},
		{"a tag's long value", api.Upload{Files: at("a.md"), Tags: map[string]string{"a": strings.Repeat("x", 257)}}, api.CodeTooLarge},
		{"a metric that is no number", api.Upload{Files: at("a.md"), Metrics: map[string]float64{"a": math.NaN()}}, api.CodeBadRequest},
		{"an endless metric", api.Upload{Files: at("a.md"), Metrics: map[string]float64{"a": math.Inf(-1)}}, api.CodeBadRequest},
		{"a metric without name", api.Upload{Files: at("a.md"), Metrics: map[string]float64{"": 1}}, api.CodeBadName},
		{"a long card", api.Upload{Files: at("a.md"), Card: strings.Repeat("x", 256<<10+1)}, api.CodeTooLarge},
		{"a card that is not UTF-8", api.Upload{Files: at("a.md"), Card: "\xff"}, api.CodeBadRequest},
		{"two cards", api.Upload{Files: at("model_card.md"), Card: "x"}, api.CodeBadRequest},
		{"a long reason", api.Upload{Files: at("a.md"), Why: strings.Repeat("x", 1025)}, api.CodeTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := b.Commit(t.Context(), alice, "bad", test.up)
			wantCode(t, "commit", err, test.code)
			if e := api.AsError(err); e.Cure == "" || e.Message == "" {
				t.Errorf("no cause or cure: %+v", e)
			}
		})
	}
	for _, name := range []api.ModelName{"", "..", "../x", "Upper", "con\n", "-rf", "%s", "a\u202eb", "\U0001F4A7", "\u212aelvin", "a ", "tag\nname",
		api.ModelName(strings.Repeat("a", 64)), api.ModelName(strings.Repeat("a", 300))} {
		_, _, err := b.Commit(t.Context(), alice, name, api.Upload{Files: at("a.md")})
		wantCode(t, "model "+string(name), err, api.CodeBadName)
	}
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func zipOf(t testing.TB, name, body string) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// zip64Of is a zip archive, behind so many bytes, whose directory is to be found only by the records of zip64.
func zip64Of(zipped string, before int) string {
	const record = 22
	at := len(zipped) - record
	end := []byte(zipped[at:])
	length, place := binary.LittleEndian.Uint32(end[12:]), binary.LittleEndian.Uint32(end[16:])
	for i := 8; i < 20; i++ {
		end[i] = 0xff
	}
	large := append([]byte("PK\x06\x06\x2c"), make([]byte, 51)...)
	binary.LittleEndian.PutUint64(large[24:], 1)
	binary.LittleEndian.PutUint64(large[32:], 1)
	binary.LittleEndian.PutUint64(large[40:], uint64(length))
	binary.LittleEndian.PutUint64(large[48:], uint64(place)+uint64(before))
	locator := append([]byte("PK\x06\x07"), make([]byte, 16)...)
	binary.LittleEndian.PutUint64(locator[8:], uint64(before+at))
	locator[16] = 1
	return zipped[:at] + string(large) + string(locator) + string(end)
}

// lyingZip is a zip archive, behind so many bytes, that readers open which go by the directory's place and not by its length.
func lyingZip(zipped string, before int) string {
	const record = 22
	b := []byte(zipped)
	end := b[len(b)-record:]
	binary.LittleEndian.PutUint32(end[12:], binary.LittleEndian.Uint32(end[12:])-1)
	binary.LittleEndian.PutUint32(end[16:], binary.LittleEndian.Uint32(end[16:])+uint32(before))
	return string(b)
}

func deflated(t testing.TB, body string) string {
	t.Helper()
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	if _, err := z.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func gzipped(t testing.TB, body string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func windowsProgram() string {
	b := make([]byte, 0x80)
	copy(b, "MZ")
	b[0x3c] = 0x40
	copy(b[0x40:], "PE\x00\x00")
	return string(b)
}
