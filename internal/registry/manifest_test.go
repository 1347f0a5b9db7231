package registry_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// TestManifestGolden fixes the bytes of a version: a change here changes every digest, and makes every file that is
// pushed again a new version.
func TestManifestGolden(t *testing.T) {
	b := setUp(t, nil)
	up := goldenUpload(t, b)
	v, _, err := b.Commit(t.Context(), alice, "digits", up)
	if err != nil {
		t.Fatal(err)
	}
	body := b.read(t, v.Digest)
	var config struct{ Config struct{ Digest api.Digest } }
	if err := json.Unmarshal(body, &config); err != nil {
		t.Fatal(err)
	}
	golden(t, "manifest.json", body)
	golden(t, "config.json", b.read(t, config.Config.Digest))
}

// TestManifestIsDeterministic pushes the same things in another order, by another key of another tenant, as another model,
// on another machine.
func TestManifestIsDeterministic(t *testing.T) {
	one, two := setUp(t, nil), setUp(t, nil)
	v, _, err := one.Commit(t.Context(), alice, "digits", goldenUpload(t, one))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"x", "y"} { // so that nothing is numbered the same
		two.mustPush(t, mallet, "other", map[string]string{"m.onnx": net{name: f}.onnx()})
	}
	up := goldenUpload(t, two)
	for _, f := range up.Files {
		two.upload(t, mallet, f.Path, string(two.read(t, f.Digest)))
	}
	slices.Reverse(up.Files)
	up.Tags, up.Aliases, up.Why = map[string]string{"not": "part of it"}, []api.AliasName{"nor-this"}, "nor why"
	w, _, err := two.Commit(t.Context(), mallet, "other", up)
	if err != nil {
		t.Fatal(err)
	}
	if v.Digest != w.Digest || w.Number != 3 {
		t.Errorf("digests %s and %s of the same content", v.Digest, w.Digest)
	}
	up.Metrics["accuracy"] = 0.5
	x, _, err := two.Commit(t.Context(), mallet, "other", up)
	if err != nil || x.Digest == w.Digest {
		t.Errorf("other metrics, the same digest: %v", err)
	}
}

func goldenUpload(t testing.TB, b *bench) api.Upload {
	return api.Upload{
		Files: []api.UploadFile{
			b.upload(t, alice, "net/model.onnx", net{name: "golden", external: "w.bin"}.onnx()),
			b.upload(t, alice, "net/w.bin", weights()),
			b.upload(t, alice, "labels.json", `["<a>", "b & c"]`),
			b.upload(t, alice, "README.md", "# Read me\n"),
		},
		Metrics: map[string]float64{"loss": 0.25, "accuracy": 0.97, "n/large": 1e21},
		Card:    "# Card\n",
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
	}
}

// TestManifestIsReadByOthers reads a version the way an OCI client does that knows nothing of us: by the image
// specification's rules alone, strictly, and pulling each layer to the file that its title names.
func TestManifestIsReadByOthers(t *testing.T) {
	b := setUp(t, nil)
	up := goldenUpload(t, b)
	v, _, err := b.Commit(t.Context(), alice, "digits", up)
	if err != nil {
		t.Fatal(err)
	}
	type descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int64             `json:"size"`
		Annotations map[string]string `json:"annotations"`
	}
	var m struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		ArtifactType  string            `json:"artifactType"`
		Config        descriptor        `json:"config"`
		Layers        []descriptor      `json:"layers"`
		Annotations   map[string]string `json:"annotations"`
	}
	strictly(t, b.pull(t, string(v.Digest), -1), &m)
	if m.SchemaVersion != 2 || m.MediaType != "application/vnd.oci.image.manifest.v1+json" ||
		m.ArtifactType != "application/vnd.cncf.model.manifest.v1+json" || m.Config.MediaType != "application/vnd.cncf.model.config.v1+json" {
		t.Errorf("manifest %+v", m)
	}
	var config struct {
		Descriptor map[string]any `json:"descriptor"`
		Config     struct {
			Format    string `json:"format"`
			ParamSize string `json:"paramSize"`
		} `json:"config"`
		ModelFS struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diffIds"`
		} `json:"modelfs"`
	}
	strictly(t, b.pull(t, m.Config.Digest, m.Config.Size), &config)
	if config.Config.Format != "onnx" || config.Config.ParamSize != "8" || config.ModelFS.Type != "layers" {
		t.Errorf("config %+v", config)
	}
	kinds := map[string]string{"net/model.onnx": "weight", "net/w.bin": "weight", "labels.json": "weight.config", "README.md": "doc",
		"MODEL_CARD.md": "doc"}
	if len(m.Layers) != len(kinds) || len(config.ModelFS.DiffIDs) != len(kinds) {
		t.Fatalf("%d layers and %d diff ids, want %d", len(m.Layers), len(config.ModelFS.DiffIDs), len(kinds))
	}
	for i, layer := range m.Layers {
		title := layer.Annotations["org.opencontainers.image.title"]
		if layer.MediaType != "application/vnd.cncf.model."+kinds[title]+".v1.raw" || config.ModelFS.DiffIDs[i] != layer.Digest ||
			layer.Annotations["org.cncf.model.filepath"] != title {
			t.Errorf("layer %+v", layer)
		}
		var file struct {
			Name     string `json:"name"`
			Mode     uint32 `json:"mode"`
			UID      uint32 `json:"uid"`
			GID      uint32 `json:"gid"`
			Size     int64  `json:"size"`
			MTime    string `json:"mtime"`
			TypeFlag byte   `json:"typeflag"`
		}
		strictly(t, []byte(layer.Annotations["org.cncf.model.file.metadata+json"]), &file)
		if file.Name != title || file.Size != layer.Size || file.TypeFlag != '0' {
			t.Errorf("file of %s: %+v", title, file)
		}
		b.pull(t, layer.Digest, layer.Size)
	}
	var signature api.Signature
	strictly(t, []byte(m.Annotations["dev.penstock.signature"]), &signature)
	if in := signature.Inputs; len(in) != 1 || in[0].Name != "x" || in[0].Datatype != "FP32" || !slices.Equal(in[0].Shape, []int64{-1, 4}) ||
		!slices.Equal(in[0].Symbols, []string{"batch", ""}) {
		t.Errorf("signature %+v", signature)
	}
}

func strictly(t *testing.T, body []byte, into any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
}

// pull reads a blob and checks it against its descriptor.
func (b *bench) pull(t *testing.T, digest string, size int64) []byte {
	t.Helper()
	body := b.read(t, api.Digest(digest))
	sum := sha256.Sum256(body)
	if "sha256:"+hex.EncodeToString(sum[:]) != digest || size >= 0 && int64(len(body)) != size {
		t.Errorf("blob of %d bytes is not %s of %d", len(body), digest, size)
	}
	return body
}

func (b *bench) read(t testing.TB, digest api.Digest) []byte {
	t.Helper()
	f, err := b.blobs.Open(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	body, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// TestHostileManifest materializes manifests that a client could have put there as a blob.
func TestHostileManifest(t *testing.T) {
	b := setUp(t, nil)
	v, _, err := b.Commit(t.Context(), alice, "digits", goldenUpload(t, b))
	if err != nil {
		t.Fatal(err)
	}
	good := string(b.read(t, v.Digest))
	for name, body := range map[string]string{
		"a path out":           strings.ReplaceAll(good, "net/model.onnx", "../../model.onnx"),
		"an absolute path":     strings.ReplaceAll(good, "net/model.onnx", "/etc/cron.d/x"),
		"a digest as path":     strings.Replace(good, `"digest":"sha256:`, `"digest":"sha256:../../`, 2),
		"both image and index": strings.Replace(good, `"schemaVersion":2`, `"schemaVersion":2,"manifests":[]`, 1),
		"another type":         strings.Replace(good, "vnd.oci.image.manifest", "vnd.example.manifest", 1),
		"an archive":           strings.Replace(good, "model.weight.v1.raw", "model.weight.v1.tar", 1),
		"a field twice":        strings.Replace(good, `"schemaVersion":2`, `"layers":[],"schemaVersion":2`, 1),
		"a field in capitals":  strings.Replace(good, `"schemaVersion":2`, `"Layers":[],"schemaVersion":2`, 1),
		"an unknown role":      strings.Replace(good, `"dev.penstock.role":"model"`, `"dev.penstock.role":"code"`, 1),
		"no model":             strings.Replace(good, `"dev.penstock.role":"model"`, `"dev.penstock.role":"data"`, 1),
		"a size that lies":     strings.Replace(good, `"size":32`, `"size":33`, 1),
		"not JSON":             "manifest",
		"deep JSON":            strings.Repeat("[", 100_000),
		"too large":            `{"x":"` + strings.Repeat("x", 5<<20) + `"}`,
		"nothing":              "",
	} {
		t.Run(name, func(t *testing.T) {
			if body == good {
				t.Fatal("the manifest was not changed")
			}
			entry, err := b.Materialize(t.Context(), b.upload(t, mallet, "x", body).Digest)
			if err == nil {
				t.Errorf("materialized as %s", entry)
			}
		})
	}
	entries, err := os.ReadDir(filepath.Join(b.dir, "cache"))
	if err != nil || len(entries) != 0 {
		t.Errorf("%d things left in the cache, %v", len(entries), err)
	}
}
