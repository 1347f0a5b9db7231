package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/admin/admintest"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// desk is a person at a terminal beside a server.
type desk struct {
	*testing.T
	rooms *admintest.Rooms
	env   map[string]string
	dir   string
}

func sit(t *testing.T) desk {
	t.Helper()
	d := desk{t, admintest.New(), make(map[string]string), t.TempDir()}
	cfg := d.rooms.Config()
	cfg.Logger = slog.New(slog.DiscardHandler)
	server, mux := d.rooms.Start(t, cfg)
	mux.HandleFunc("GET /v2/models/digits", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"name":"digits","inputs":[{"name":"x","datatype":"FP32","shape":[-1,3]}],"outputs":[]}`)
	})
	mux.HandleFunc("POST /v2/models/digits/infer", func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if want := `{"inputs":[{"name":"x","shape":[2,3],"datatype":"FP32","data":[1,2,3,4,5,6.5]}]}`; err != nil || string(text) != want {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"got `+strings.ReplaceAll(string(text), `"`, `'`)+`"}`)
			return
		}
		_, _ = io.WriteString(w, `{"model_name":"digits","outputs":[{"name":"label","datatype":"INT64","shape":[2],"data":[7,1]},{"name":"scores","datatype":"FP32","shape":[2,2],"data":[0.25,0.75,0.123456789,1]}]}`)
	})
	d.env["PENSTOCK_SERVER"], d.env["PENSTOCK_KEY"] = server.URL, admintest.AdminKey
	return d
}

func (d desk) file(name, text string) string {
	d.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		d.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.Fatal(err)
	}
	return path
}

func (d desk) run(stdin string, args ...string) (code int, out, errs string) {
	d.Helper()
	var o, e bytes.Buffer
	code = run(d.Context(), args, surroundings{in: strings.NewReader(stdin), out: &o, err: &e, env: func(k string) string { return d.env[k] }})
	return code, o.String(), e.String()
}

// TestStory runs commands one after another and compares all that they print with testdata/story.golden.
func TestStory(t *testing.T) {
	d := sit(t)
	one, two := d.file("one.onnx", "first model"), d.file("two/model.onnx", "second model")
	d.file("two/weights.bin", "weights")
	d.file("two/.hidden", "not pushed")
	declared := d.file("endpoints.yaml", "kind: Endpoint\nname: digits\nspec:\n  variants:\n    - {name: old, model: \"digits@1\", weight: 90}\n    - {name: new, model: \"digits:champion\", weight: 10}\n---\nkind: Alias\nmodel: digits\nname: champion\nversion: 2\n")
	rows := d.file("rows.csv", "a,b,c\n1,2,3\n4,5,6.5\n")
	d.rooms.Logs = []api.Exchange{{RequestID: "R1", Tenant: "default", Endpoint: "digits", Variant: "main", Model: "digits", Version: 1, Protocol: "oip-http", Start: admintest.Clock, Total: 1_500_000, Queue: 100_000, Compute: 900_000},
		{RequestID: "R2", Tenant: "default", Endpoint: "digits", Protocol: "oip-grpc", Start: admintest.Clock + 1, Code: api.CodeBadTensor, Error: "x"},
		{RequestID: "R3", Tenant: "default", Endpoint: "digits", Variant: "main", Model: "digits", Version: 1, Protocol: "oip-http", Start: admintest.Clock + 2, Total: 20_000, Lookup: 1_000, Cached: true}}
	d.rooms.AppendEvent(api.Event{Tenant: "default", Kind: "version.pushed", Subject: "digits@1", Text: "pushed \x1b[31mred", By: "admin"})
	d.rooms.BackupBytes = []byte("a backup")
	story := [][]string{
		{"models"}, {"push", one, "digits", "--alias", "champion", "--tag", "data=jan", "--metric", "accuracy=0.95"}, {"push", one, "digits"},
		{"push", filepath.Dir(two), "digits"}, {"versions", "digits"}, {"show", "digits"}, {"show", "digits@2"}, {"show", "digits@2", "-o", "yaml"},
		{"tag", "digits@1", "reviewed=yes", "data-"}, {"alias", "digits", "champion", "2", "--why", "better"}, {"alias", "digits", "champion", "--history"},
		{"deploy", "digits@1"}, {"deploy", "digits:champion", "--why", "v2"}, {"endpoints"}, {"endpoints", "digits"},
		{"predict", "digits", "-f", rows}, {"predict", "digits", "--input", "x=1,2,3,4,5,6.5"}, {"predict", "digits", "--input", "1,2"},
		{"deploy", "digits@2", "--cache", "64MiB", "--cache-ttl", "10m"}, {"endpoints", "digits", "-o", "yaml"}, {"deploy", "digits@2", "--cache", "much"}, {"deploy", "digits@2", "--endpoint", "none", "--cache-ttl", "1s"}, {"deploy", "digits@2", "--cache", "0"}, {"rollback", "digits", "--why", "bad"}, {"rollback", "digits", "-o", "json"}, {"rollout", "status", "digits"}, {"rollout", "abort", "digits"},
		{"alias", "digits", "champion", "1"}, {"diff", "-f", declared}, {"apply", "-f", declared}, {"diff", "-f", declared}, {"apply", "-f", declared},
		{"alias", "digits", "champion", "1"}, {"diff", "-f", declared, "-o", "json"},
		{"tenant", "create", "umbrella"}, {"tenant", "list"}, {"key", "create", "ci", "--scope", "read,write"}, {"key", "list"}, {"key", "revoke", "K1"}, {"key", "revoke", "K9"},
		{"logs"}, {"logs", "--errors", "-o", "json"}, {"events"}, {"workers"}, {"top"}, {"top", "--once", "--window", "1m", "-o", "yaml"}, {"top", "--every", "1ms"}, {"top", "--window", "1h"}, {"backup", filepath.Join(d.dir, "b.tar")},
		{"pull", "digits@2", "--to", filepath.Join(d.dir, "pulled")}, {"delete", "endpoint", "digits"}, {"delete", "endpoint", "digits"},
		{"show", "absent"}, {"deploy", "absent@1"}, {"show", "Bad Name"}, {"deploy"}, {"rollback"}, {"nonsense"}, {"models", "-o", "xml"}, {"rollout"},
	}
	var b strings.Builder
	for _, args := range story {
		code, out, errs := d.run("", args...)
		b.WriteString("$ penstock " + strings.Join(args, " ") + "\n" + out)
		for line := range strings.Lines(errs) {
			b.WriteString("2> " + line)
		}
		if code != 0 {
			b.WriteString("exit " + string(rune('0'+code)) + "\n")
		}
		b.WriteString("\n")
	}
	got := strings.ReplaceAll(b.String(), d.dir, "DIR")
	golden := filepath.Join("testdata", "story.golden")
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != got {
		t.Errorf("the story differs (go test -rewrite, then read the diff): %v\n%s", err, strings.Join(changed(strings.Split(string(want), "\n"), strings.Split(got, "\n")), "\n"))
	}
	for path, want := range map[string]string{"b.tar": "a backup", "pulled/model.onnx": "second model", "pulled/weights.bin": "weights"} {
		if text, err := os.ReadFile(filepath.Join(d.dir, path)); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
}

func changed(have, want []string) (lines []string) {
	for _, line := range lineDiff(have, want) {
		if line[0] != ' ' {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestExitCodes(t *testing.T) {
	d := sit(t)
	d.rooms.Fail["Deploy"] = api.Fail(api.CodeBusy, "digits", "another release is under way")
	model := d.file("m.onnx", "x")
	d.run("", "push", model, "digits")
	cases := []struct {
		name string
		args []string
		env  map[string]string
		code int
		says string
	}{
		{"done", []string{"models"}, nil, 0, ""},
		{"busy", []string{"deploy", "digits@1"}, nil, 4, "cure: Wait"},
		{"wrong key", []string{"models"}, map[string]string{"PENSTOCK_KEY": "wrong"}, 4, "Bearer"},
		{"missing scope", []string{"push", model, "other"}, map[string]string{"PENSTOCK_KEY": admintest.ReaderKey}, 4, "scope"},
		{"foreign tenant", []string{"models", "--tenant", "acme"}, nil, 3, "reach"},
		{"no server", []string{"models"}, map[string]string{"PENSTOCK_SERVER": "127.0.0.1:1"}, 1, "penstock serve"},
		{"no address", []string{"models", "--server", "ftp://x"}, nil, 2, "not a server's address"},
		{"unknown flag", []string{"models", "--bogus"}, nil, 2, "bogus"},
		{"absent file", []string{"push", "absent.onnx", "digits"}, nil, 2, "absent.onnx"},
		{"no input", []string{"predict", "digits"}, nil, 2, "--input"},
		{"absent config", []string{"models", "--config", "absent.yaml"}, nil, 2, "config file"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sub := desk{t, d.rooms, map[string]string{}, d.dir}
			for _, env := range []map[string]string{d.env, c.env} {
				for k, v := range env {
					sub.env[k] = v
				}
			}
			code, out, errs := sub.run("", c.args...)
			if code != c.code || !strings.Contains(errs, c.says) || c.code != 0 && !strings.HasPrefix(errs, "error: ") {
				t.Errorf("exit %d, out %q, err %q; want exit %d and %q", code, out, errs, c.code, c.says)
			}
		})
	}
}

// The server and the key come from flags, the environment, the config file and the data directory, in this order, and a
// key is not sent to a server that it was not meant for.
func TestConnectionOrder(t *testing.T) {
	d := sit(t)
	url, key := d.env["PENSTOCK_SERVER"], admintest.AdminKey
	config := func(server, key string) string {
		return d.file("config.yaml", "server: "+server+"\nkey: "+key+"\n")
	}
	address := strings.TrimPrefix(url, "http://")
	d.file("data/run/server.json", `{"http":"`+address+`"}`)
	d.file("data/secrets/admin.key", key+"\n")
	data := filepath.Join(d.dir, "data")
	_, port, _ := strings.Cut(address, ":")
	d.file("everywhere/run/server.json", `{"http":"[::]:`+port+`"}`)
	d.file("everywhere/secrets/admin.key", key+"\n")
	everywhere := filepath.Join(d.dir, "everywhere")
	cases := []struct {
		name string
		env  map[string]string
		args []string
		code int
	}{
		{"data directory", nil, []string{"--data", data}, 0},
		{"data directory of a server that listens everywhere", nil, []string{"--data", everywhere}, 0},
		{"flags before the environment", map[string]string{"PENSTOCK_SERVER": "127.0.0.1:1", "PENSTOCK_KEY": "bad"}, []string{"--server", url, "--key", key}, 0},
		{"environment before the file", map[string]string{"PENSTOCK_SERVER": url, "PENSTOCK_KEY": key}, []string{"--config", config("127.0.0.1:1", "bad")}, 0},
		{"file's key stays with the file's server", map[string]string{"PENSTOCK_SERVER": url}, []string{"--config", config("127.0.0.1:1", key), "--data", d.dir}, 4},
		{"file with a fault", nil, []string{"--config", d.file("bad.yaml", "sever: x\nkey: "+key)}, 2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sub := desk{t, d.rooms, c.env, d.dir}
			if c.name == "environment before the file" {
				config("127.0.0.1:1", "bad")
			} else {
				config("127.0.0.1:1", key)
			}
			code, _, errs := sub.run("", append([]string{"models"}, c.args...)...)
			if code != c.code || strings.Contains(errs, key) {
				t.Errorf("exit %d, want %d: %s", code, c.code, errs)
			}
		})
	}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	a := &app{surroundings: surroundings{out: io.Discard, err: io.Discard, env: func(string) string { return "" }}}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if !strings.Contains(cmd.Example, "penstock") || cmd.Short == "" {
			t.Errorf("%s: example %q, short %q", cmd.CommandPath(), cmd.Example, cmd.Short)
		}
		for line := range strings.Lines(cmd.Example) {
			if strings.Contains(line, "penstock ") && !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: the example is not indented: %q", cmd.CommandPath(), line)
			}
		}
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	walk(a.root())
	if code := run(context.Background(), []string{"completion", "bash"}, a.surroundings); code != 0 {
		t.Errorf("completion: exit %d", code)
	}
}

func TestDocumentsAreStrict(t *testing.T) {
	const good = "kind: Endpoint\nname: digits\nspec:\n  variants:\n  - model: digits@1\n"
	cases := []struct{ name, text, says string }{
		{"good", good, ""},
		{"JSON", `{"kind":"Endpoint","name":"digits","spec":{"variants":[{"model":"digits@1"}]}}`, ""},
		{"empty documents", "---\n" + good + "---\n", ""},
		{"unknown field", good + "    wait: 1\n", "f.yaml:6: spec.variants[0].wait"},
		{"case variant", strings.Replace(good, "model", "Model", 1), `f.yaml:5: spec.variants[0].Model: there is no field "Model"; it is written "model"`},
		{"twice", good + "name: other\n", "f.yaml:6"},
		{"wrong type", strings.Replace(good, "digits\n", "7\n", 1), "f.yaml:2: name: a string is wanted"},
		{"unknown kind", strings.Replace(good, "Endpoint", "Pod", 1), "kind is \"Pod\""},
		{"no variants", "kind: Endpoint\nname: x\nspec: {variants: []}\n", "one or more"},
		{"bad reference", strings.Replace(good, "digits@1", "digits@x", 1), "digits@x"},
		{"anchor", "a: &a [x,x]\nb: [*a,*a]\n", "anchors"},
		{"bomb", "a: &a [x,x]\nb: &b [*a,*a]\nkind: Endpoint\n", "anchors"},
		{"merge", "<<: {kind: Endpoint}\nname: x\n", "f.yaml:1"},
		{"tag", "kind: !!str Endpoint\n", "tags"},
		{"deep", strings.Repeat("[", 100_000), "deeper"},
		{"deep blocks", strings.Repeat("- ", 100_000), "deeper"},
		{"not YAML", "kind: [\n", "f.yaml"},
		{"no object", "- 1\n", "object"},
		{"not UTF-8", "kind: \xff\n", "UTF-8"},
		{"too large", strings.Repeat("#", manifestMax+1), "limit"},
		{"alias without a version", "kind: Alias\nmodel: m\nname: a\n", "version"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseDocuments("f.yaml", []byte(c.text))
			if c.says == "" && err == nil {
				return
			}
			if err == nil || c.says == "" || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

func TestVariantFlag(t *testing.T) {
	digest := "sha256:" + strings.Repeat("1", 64)
	cases := map[string]api.VariantSpec{
		"new=fraud@2:10":             {Name: "new", Model: "fraud@2", Weight: 10},
		"new=fraud:champion:10":      {Name: "new", Model: "fraud:champion", Weight: 10},
		"new=fraud:champion":         {Name: "new", Model: "fraud:champion"},
		"new=fraud@" + digest:        {Name: "new", Model: "fraud@" + digest},
		"new=fraud@" + digest + ":3": {Name: "new", Model: "fraud@" + digest, Weight: 3},
		"fraud@2":                    {}, "new=": {}, "N=fraud@1": {}, "new=fraud@2:0": {}, "new=fraud@2:-1": {},
	}
	for text, want := range cases {
		got, err := parseVariant(text)
		if (err == nil) != (want.Name != "") || err == nil && got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}
