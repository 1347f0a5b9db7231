package registry_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob/files"
	"github.com/penstock/penstock/internal/registry"
)

var (
	alice  = &api.Principal{Tenant: "acme", Key: "k1", Name: "alice", Scopes: []api.Scope{api.ScopeWrite, api.ScopeRead}}
	mallet = &api.Principal{Tenant: "evil", Key: "k2", Name: "mallet", Scopes: []api.Scope{api.ScopeAdmin}}
	reader = &api.Principal{Tenant: "acme", Key: "k3", Name: "reader", Scopes: []api.Scope{api.ScopeRead}}
)

// bench is a catalog on real files with what a test wants to reach around it.
type bench struct {
	*registry.Catalog
	store *memoryStore
	blobs *files.Store
	dir   string
}

func setUp(t testing.TB, change func(*registry.Config)) *bench {
	t.Helper()
	b := &bench{store: newMemoryStore(), dir: t.TempDir()}
	b.open(t, change)
	return b
}

// open makes a catalog on the bench's directory; called again, it is a restart.
func (b *bench) open(t testing.TB, change func(*registry.Config)) {
	t.Helper()
	var err error
	if b.blobs, err = files.Open(files.Config{Dir: filepath.Join(b.dir, "blobs")}); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	cfg := registry.Config{Store: b.store, Blobs: b.blobs, CacheDir: filepath.Join(b.dir, "cache"), Now: func() time.Time { return at }}
	if change != nil {
		change(&cfg)
	}
	if b.Catalog, err = registry.New(cfg); err != nil {
		t.Fatal(err)
	}
	blobs, catalog := b.blobs, b.Catalog
	t.Cleanup(func() { blobs.Close(); catalog.Close() })
}

func (b *bench) upload(t testing.TB, p *api.Principal, name, body string) api.UploadFile {
	t.Helper()
	digest, size, err := b.PutBlob(t.Context(), p, strings.NewReader(body), "", -1)
	if err != nil {
		t.Fatalf("upload %s: %v", name, err)
	}
	return api.UploadFile{Path: name, Digest: digest, Size: size}
}

func (b *bench) push(t testing.TB, p *api.Principal, model api.ModelName, files map[string]string) (api.Version, bool, error) {
	t.Helper()
	var up api.Upload
	for name, body := range files {
		up.Files = append(up.Files, b.upload(t, p, name, body))
	}
	return b.Commit(t.Context(), p, model, up)
}

func (b *bench) mustPush(t testing.TB, p *api.Principal, model api.ModelName, files map[string]string) api.Version {
	t.Helper()
	v, _, err := b.push(t, p, model, files)
	if err != nil {
		t.Fatalf("push %s: %v", model, err)
	}
	return v
}

func TestPushAndFind(t *testing.T) {
	b := setUp(t, nil)
	model := b.upload(t, alice, "net/model.onnx", net{name: "one", external: "weights.bin"}.onnx())
	data := b.upload(t, alice, "net/weights.bin", weights())
	readme := b.upload(t, alice, "README.md", "# Digits\n")
	up := api.Upload{Files: []api.UploadFile{readme, data, model}, Tags: map[string]string{"team": "vision"},
		Metrics: map[string]float64{"accuracy": 0.97}, Card: "A *card*.", Aliases: []api.AliasName{"champion"}, Why: "first"}
	v, created, err := b.Commit(t.Context(), alice, "digits", up)
	if err != nil || !created || v.Number != 1 {
		t.Fatalf("commit: %+v, %v, %v", v, created, err)
	}
	if entry, ok := v.Entry(); !ok || entry.Path != "net/model.onnx" || entry.MediaType != "application/vnd.cncf.model.weight.v1.raw" {
		t.Errorf("entry %+v", entry)
	}
	if len(v.Artifacts) != 4 || v.Card != "A *card*." || v.State != api.VersionReady || v.CreatedBy != "alice" {
		t.Errorf("version %+v", v)
	}
	again, created, err := b.Commit(t.Context(), alice, "digits", up)
	if err != nil || created || again.Number != 1 {
		t.Errorf("the same push again: %+v, %v, %v", again, created, err)
	}
	b.mustPush(t, alice, "digits", map[string]string{"m.onnx": net{name: "two"}.onnx()})

	for text, want := range map[string]api.VersionNumber{"digits": 2, "digits@1": 1, "digits:champion": 1, "acme/digits@2": 2,
		"digits@" + string(v.Digest): 1} {
		ref, err := api.ParseRef(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := b.Resolve(t.Context(), "acme", ref); err != nil || got.Number != want {
			t.Errorf("%s is version %d, %v; want %d", text, got.Number, err, want)
		}
	}
	for text, want := range map[string]api.Code{"nothing": api.CodeModelNotFound, "digits@3": api.CodeVersionNotFound,
		"digits:none": api.CodeAliasNotFound, "evil/digits@1": api.CodeModelNotFound} {
		ref, _ := api.ParseRef(text)
		_, err := b.Resolve(t.Context(), "acme", ref)
		wantCode(t, text, err, want)
	}
	a, f, err := b.OpenArtifact(t.Context(), "acme", v.Ref(), "net/weights.bin")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if body, err := io.ReadAll(f); err != nil || string(body) != weights() || a.Size != weightBytes || a.Role != api.RoleData {
		t.Errorf("artifact %+v: %q, %v", a, body, err)
	}
	for _, name := range []string{"", "weights.bin", "../blobs", "net", "NET/weights.bin"} {
		_, _, err := b.OpenArtifact(t.Context(), "acme", v.Ref(), name)
		wantCode(t, "artifact "+name, err, api.CodeNotFound)
	}
}

// TestDemoModels takes what real exporters write.
func TestDemoModels(t *testing.T) {
	models, err := filepath.Glob("../../demo/*.onnx")
	if err != nil || len(models) == 0 {
		t.Fatalf("no demo models: %v", err)
	}
	b := setUp(t, nil)
	for _, name := range models {
		body, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		v := b.mustPush(t, alice, "demo", map[string]string{filepath.Base(name): string(body)})
		if len(v.Signature.Inputs) == 0 || len(v.Signature.Outputs) == 0 || v.Info.Nodes == 0 || v.Info.Opsets["ai.onnx"] == 0 {
			t.Errorf("%s: signature %+v, info %+v", name, v.Signature, v.Info)
		}
		t.Logf("%s: %+v", filepath.Base(name), v.Signature)
	}
}

func TestMaterialize(t *testing.T) {
	b := setUp(t, nil)
	model := net{external: "w.bin"}.onnx()
	v := b.mustPush(t, alice, "digits", map[string]string{"net/model.onnx": model, "net/w.bin": weights(), "a.md": "doc"})
	entry, err := b.Materialize(t.Context(), v.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{entry: model, filepath.Join(filepath.Dir(entry), "w.bin"): weights()} {
		if body, err := os.ReadFile(name); err != nil || string(body) != want {
			t.Errorf("%s: %q, %v", name, body, err)
		}
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o400 {
			t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
		}
	}
	// Without blobs and database, also after a restart.
	if err := os.RemoveAll(filepath.Join(b.dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	b.open(t, func(cfg *registry.Config) { cfg.Store = newMemoryStore() })
	again, err := b.Materialize(t.Context(), v.Digest)
	if err != nil || again != entry {
		t.Errorf("materialized again: %s, %v", again, err)
	}
	// A damaged cache is noticed, and cannot be mended without the blobs.
	if err := os.Truncate(filepath.Join(filepath.Dir(entry), "w.bin"), 3); err != nil {
		t.Fatal(err)
	}
	_, err = b.Materialize(t.Context(), v.Digest)
	wantCode(t, "damaged", err, api.CodeBlobNotFound)
}

func wantCode(t testing.TB, what string, err error, code api.Code) {
	t.Helper()
	if !api.Is(err, code) {
		t.Errorf("%s: error %v, want code %s", what, err, code)
	}
}
