package foreign_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/foreign"
)

const digits = "../../demo/digits-v1.onnx"

// tree writes files below a folder; a content that begins with @ is a copy of that file, one with -> a link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, link := strings.CutPrefix(content, "->"); link {
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		body := []byte(content)
		if from, copied := strings.CutPrefix(content, "@"); copied {
			var err error
			if body, err = os.ReadFile(from); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// described writes candidates as text: one line each, notes below.
func described(all []foreign.Candidate) string {
	var b strings.Builder
	for _, c := range all {
		var names []string
		for _, f := range c.Files {
			names = append(names, f.Name)
		}
		settings, _ := json.Marshal(c.Serving)
		fmt.Fprintf(&b, "%s %s -> %s %v serve=%v %s", c.Kind, c.Source, c.Model, names, c.Serve, settings)
		if c.Refused != "" {
			fmt.Fprintf(&b, " REFUSED %s", c.Refused)
		}
		b.WriteByte('\n')
		for _, n := range c.Notes {
			fmt.Fprintf(&b, "  %s\n", n)
		}
	}
	return b.String()
}

// named is the smallest model with data in another file.
func named(location string) string {
	field := func(b []byte, number protowire.Number, value string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), value)
	}
	whole := func(b []byte, number protowire.Number, value uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), value)
	}
	at := field(field(nil, 1, "location"), 2, location)
	weight := whole(field(field(whole(whole(nil, 1, 1), 2, 1), 8, "w"), 13, string(at)), 14, 1)
	output := field(field(nil, 1, "w"), 2, string(field(nil, 1, string(field(whole(nil, 1, 1), 2, "")))))
	graph := field(field(field(nil, 2, "g"), 5, string(weight)), 12, string(output))
	return string(field(field(whole(nil, 1, 8), 7, string(graph)), 8, string(whole(nil, 2, 17))))
}

func TestTritonRepositories(t *testing.T) {
	outside := tree(t, map[string]string{"model.onnx": "@" + digits, "secret.bin": "1234"})
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"two versions, batching and instances": {map[string]string{"digits/1/model.onnx": "@" + digits, "digits/2/model.onnx": "@" + digits, "digits/config.pbtxt": `
# comment
name: "digits"
platform: "onnxruntime_onnx"
max_batch_size: 32
input [ { name: "x" data_type: TYPE_FP32 dims: [ 64 ] } ]
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0 ] }, { count: 1 } ]
dynamic_batching { preferred_batch_size: [ 8, 16 ] max_queue_delay_microseconds: 500 preserve_ordering: true
  default_queue_policy { timeout_action: DELAY, default_timeout_microseconds: 1000; max_queue_size: 64 } }
optimization { execution_accelerators { gpu_execution_accelerator: [ { name: "tensorrt" } ] } }
`}, []string{
			"triton digits/1 -> digits [model.onnx] serve=false", "triton digits/2 -> digits [model.onnx] serve=true",
			`"replicas":3`, `"max_size":32,"preferred_sizes":[8,16],"delay_us":500,"queue_size":64,"timeout_us":1000,"timeout_action":"delay"`,
			"instance_group KIND_GPU: models run on the processor here", "preserve_ordering is not taken over", "optimization is not taken over"}},
		"no batching asked for": {map[string]string{"m/1/model.onnx": "@" + digits, "m/config.pbtxt": `backend: "onnxruntime" max_batch_size: 8`},
			[]string{`{"batching":{"mode":"off"}}`}},
		"no configuration":           {map[string]string{"m/1/model.onnx": "@" + digits}, []string{"serve=true", "has no config.pbtxt"}},
		"all versions serve":         {map[string]string{"m/1/model.onnx": "@" + digits, "m/3/model.onnx": "@" + digits, "m/config.pbtxt": `version_policy: { all {} }`}, []string{"m/1 -> m [model.onnx] serve=true", "m/3 -> m [model.onnx] serve=true"}},
		"one version serves":         {map[string]string{"m/1/model.onnx": "@" + digits, "m/3/model.onnx": "@" + digits, "m/config.pbtxt": `version_policy: { specific { versions: [1] } }`}, []string{"m/1 -> m [model.onnx] serve=true", "m/3 -> m [model.onnx] serve=false"}},
		"another file":               {map[string]string{"m/1/net.onnx": "@" + digits, "m/config.pbtxt": `default_model_filename: "net.onnx"`}, []string{"[net.onnx]"}},
		"TensorRT":                   {map[string]string{"m/1/model.plan": "x", "m/config.pbtxt": `platform: "tensorrt_plan"`}, []string{"REFUSED", "tensorrt_plan"}},
		"Python":                     {map[string]string{"m/1/model.py": "x", "m/config.pbtxt": `backend: "python"`}, []string{"REFUSED", "python"}},
		"an ensemble":                {map[string]string{"m/1/x": "x", "m/config.pbtxt": `platform: "ensemble" ensemble_scheduling { step [] }`}, []string{"REFUSED", "chain"}},
		"sequences":                  {map[string]string{"m/1/model.onnx": "@" + digits, "m/config.pbtxt": `sequence_batching { }`}, []string{"REFUSED", "state"}},
		"no version":                 {map[string]string{"m/config.pbtxt": ``, "m/01/model.onnx": "@" + digits}, []string{"REFUSED it has no numbered"}},
		"no model":                   {map[string]string{"m/1/other.onnx": "@" + digits}, []string{"REFUSED there is no model.onnx"}},
		"a link":                     {map[string]string{"m/1/model.onnx": "->/etc/passwd"}, []string{"REFUSED", "links are not followed"}},
		"a folder that is a link":    {map[string]string{"m/1/model.onnx": "->/etc", "m/config.pbtxt": ""}, []string{"REFUSED", "links are not followed"}},
		"a link on the way":          {map[string]string{"m/1/d": "->" + outside, "m/config.pbtxt": `default_model_filename: "d/model.onnx"`}, []string{"REFUSED", "links are not followed"}},
		"data by a link on the way":  {map[string]string{"m/1/d": "->" + outside, "m/1/model.onnx": named("d/secret.bin")}, []string{"REFUSED", "not a plain file beside it"}},
		"a file name that leads out": {map[string]string{"m/1/model.onnx": "@" + digits, "m/config.pbtxt": `default_model_filename: "../../../etc/passwd"`}, []string{"REFUSED", "leads out"}},
		"not text format":            {map[string]string{"m/1/model.onnx": "@" + digits, "m/config.pbtxt": `{{{`}, []string{"REFUSED", "line 1"}},
		"a number that is a word":    {map[string]string{"m/1/model.onnx": "@" + digits, "m/config.pbtxt": `max_batch_size: many`}, []string{"REFUSED", "no whole number"}},
	} {
		all, err := foreign.Look(tree(t, c.files))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := described(all)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s:\n%swant %q", name, got, want)
			}
		}
	}
}

// mlModel is a file as MLflow 3 writes it.
const mlModel = `artifact_path: mlflow-artifacts:/1/models/m-0a1b/artifacts
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_version: 1.17.0
    providers:
    - CPUExecutionProvider
    save_as_external_data: true
  python_function:
    data: model.onnx
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.onnx
    python_version: 3.11.9
mlflow_version: 3.1.0
model_id: m-0a1b
model_size_bytes: 11215
model_uuid: m-0a1b
prompts: null
run_id: 0123456789abcdef0123456789abcdef
signature:
  inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 64]}, "name": "%s"}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]'
  params: null
utc_time_created: '2026-01-02 03:04:05.000000'
`

func TestMLflowModels(t *testing.T) {
	outside := tree(t, map[string]string{"model.onnx": "@" + digits})
	with := func(model string) map[string]string {
		return map[string]string{"MLmodel": model, "model.onnx": "@" + digits, "conda.yaml": "x", "python_env.yaml": "x", "requirements.txt": "mlflow\n"}
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"as MLflow writes it":   {with(fmt.Sprintf(mlModel, "pixels")), []string{"mlflow", "[model.onnx] serve=true", "the flavor python_function is not taken over"}},
		"another input's name":  {with(fmt.Sprintf(mlModel, "nobody")), []string{`the input "nobody" of MLmodel is not in the file`}},
		"another type":          {with(strings.Replace(fmt.Sprintf(mlModel, ""), "float32", "float64", 1)), []string{"is float64 in MLmodel and FP32 in the file"}},
		"only Python":           {with("flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n  sklearn:\n    pickled_model: model.pkl\n"), []string{"REFUSED", "python_function, sklearn", "mlflow.onnx"}},
		"a path that leads out": {with("flavors:\n  onnx:\n    data: ../../etc/passwd\n"), []string{"REFUSED", "not a plain file"}},
		"an alias":              {with("a: &x 1\nflavors:\n  onnx:\n    data: *x\n"), []string{"REFUSED", "anchor"}},
		"not YAML":              {with("\t{["), []string{"REFUSED", "MLmodel cannot be read"}},
		"a link":                {map[string]string{"MLmodel": fmt.Sprintf(mlModel, "x"), "model.onnx": "->/etc/passwd"}, []string{"REFUSED"}},
		"a link on the way":     {map[string]string{"MLmodel": "flavors:\n  onnx:\n    data: d/model.onnx\n", "d": "->" + outside}, []string{"REFUSED", "not a plain file"}},
		"data that is a link":   {map[string]string{"MLmodel": "flavors:\n  onnx:\n    data: model.onnx\n", "model.onnx": named("w.bin"), "w.bin": "->/etc/passwd"}, []string{"REFUSED", "not a plain file beside it"}},
	} {
		all, err := foreign.Look(tree(t, c.files))
		if err != nil || len(all) != 1 {
			t.Fatalf("%s: %v, %v", name, all, err)
		}
		got := described(all)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s:\n%swant %q", name, got, want)
			}
		}
		if name == "as MLflow writes it" && (all[0].Run != "0123456789abcdef0123456789abcdef" || all[0].Tags["mlflow.version"] != "3.1.0") {
			t.Errorf("%+v", all[0])
		}
	}
}

func TestFolders(t *testing.T) {
	root := tree(t, map[string]string{"Digits V1.onnx": "@" + digits, "notes.txt": "x", ".hidden.onnx": "@" + digits, "cancer/model.onnx": "@" + digits, "cancer/README.md": "# x",
		"data.onnx": named("d/w.bin"), "d/w.bin": "1234", "stolen.onnx": named("way/w.bin"), "way": "->d", "bare.onnx": named("w.bin"), "w.bin": "->d/w.bin",
		"hub/model.safetensors": "x", "hub/config.json": `{"auto_map":{}}`, "hub/.gitmodules": "x", "hub/.git/config": "x", "hub/part/.git": "gitdir: ../.git/modules/part", "hub/part/run.py": "x",
		"snapshot/model.safetensors": "->../hub/model.safetensors",
		"papers/readme.md":           "x", "link.onnx": "->/etc/passwd", "repo/1/model.onnx": "@" + digits})
	all, err := foreign.Look(root)
	if err != nil {
		t.Fatal(err)
	}
	got := described(all)
	for _, want := range []string{"file Digits V1.onnx -> digits-v1 [Digits V1.onnx]", "folder cancer -> cancer [README.md model.onnx]", "link.onnx ->  [] serve=false {} REFUSED", "triton repo/1 -> repo",
		// The data of a file goes with it, and no link leads to it. Of a hub's folder nothing of git is taken; its code is, for the
		// server to refuse by name.
		"file data.onnx -> data [data.onnx d/w.bin] serve=false {}\n", "stolen.onnx -> stolen [stolen.onnx] serve=false {} REFUSED its data \"way/w.bin\"",
		"bare.onnx -> bare [bare.onnx] serve=false {} REFUSED its data \"w.bin\"", "folder hub -> hub [config.json model.safetensors part/run.py] serve=false {}\n",
		"folder snapshot -> snapshot [] serve=false {} REFUSED model.safetensors is a link"} {
		if !strings.Contains(got, want) {
			t.Errorf("%swant %q", got, want)
		}
	}
	if strings.Contains(got, "hidden") || strings.Contains(got, "papers") || len(all) != 11 {
		t.Errorf("got %s", got)
	}
	if _, err := foreign.Look(tree(t, map[string]string{"a.txt": "x"})); err == nil {
		t.Error("a folder without models was taken")
	}
	if _, err := foreign.Look(filepath.Join(root, "nowhere")); err == nil {
		t.Error("nothing was taken")
	}
	for _, c := range all {
		if c.Refused == "" && api.CheckName("model", string(c.Model)) != nil {
			t.Errorf("%q is no name", c.Model)
		}
	}
}

// FuzzPBTXT asks of any text: a model or a refusal, no crash.
func FuzzPBTXT(f *testing.F) {
	for _, seed := range []string{``, `name: "a"`, `a { b: 1 }`, `a < b: [1, 2] >`, `a: "x" 'y'`, `a: "\x41\101\n"`, `a: [`, `#`, strings.Repeat("a{", 100), `version_policy { specific { versions: 1 } }`,
		`dynamic_batching { preferred_batch_size: 4 } max_batch_size: 8 instance_group [ { count: -5 } ]`} {
		f.Add(seed)
	}
	dir := f.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "m", "1"), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(filepath.Join(dir, "m", "config.pbtxt"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		all, err := foreign.Look(filepath.Join(dir, "m"))
		if err != nil || len(all) != 1 {
			t.Fatalf("%v, %v", all, err)
		}
		if all[0].Refused == "" {
			t.Error("a model without a file was taken")
		}
		if b := all[0].Serving.Batching; b.Check("m") != nil {
			t.Errorf("settings that the server refuses: %+v", b)
		}
	})
}
