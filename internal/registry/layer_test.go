package registry_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/registry"
)

// FuzzManifest: whatever a client pushes as a manifest, reading it ends without a panic, and what is taken of it can be laid
// out below a folder: relative paths, whole digests, one model, no two files with one name.
func FuzzManifest(f *testing.F) {
	hex := strings.Repeat("ab", 32)
	good := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.cncf.model.manifest.v1+json",
		"config":{"mediaType":"application/vnd.cncf.model.config.v1+json","digest":"sha256:` + hex + `","size":2},
		"layers":[{"mediaType":"application/vnd.cncf.model.weight.v1.raw","digest":"sha256:` + hex + `","size":2,"annotations":{"org.cncf.model.filepath":"net/model.onnx"}},
		{"mediaType":"application/vnd.kitops.modelkit.docs.v1.tar","digest":"sha512:` + hex + hex + `","size":2,"annotations":{"org.opencontainers.image.title":"README.md"}}]}`
	for _, seed := range []string{good, "", "{}", "[]", strings.Repeat("[", 100), `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
		strings.Replace(good, "net/model.onnx", "../../model.onnx", 1), strings.Replace(good, `"layers"`, `"Layers"`, 1), strings.Replace(good, ".tar", ".raw", 1)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		artifacts, model, err := registry.ReadManifest(body)
		if err != nil || !model {
			return
		}
		names, models := map[string]bool{}, 0
		for _, a := range artifacts {
			if !filepath.IsLocal(a.Path) || names[strings.ToLower(a.Path)] || !a.Digest.Valid() || a.Size < 0 {
				t.Errorf("artifact %+v", a)
			}
			names[strings.ToLower(a.Path)] = true
			if a.Role == api.RoleModel {
				models++
			}
		}
		if models != 1 {
			t.Errorf("%d models in %+v", models, artifacts)
		}
	})
}
