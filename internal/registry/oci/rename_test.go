package oci_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
)

// TestRenamedModel pulls a model by the name that it had: every answer is the same, byte for byte, as by the new one, and
// nothing new can be pushed under the old name.
func TestRenamedModel(t *testing.T) {
	b := setUp(t, nil)
	_, version := b.put(http.StatusCreated, "acme", "acme/m", "v1", b.artifact("acme", "acme/m", "application/example", "model.onnx", model(t), "README.md", "# A card\n"))
	paper := b.artifact("acme", "acme/m", "application/vnd.example.note", "note.txt", "read me")
	paper.Subject = &descriptor{MediaType: mediaManifest, Digest: sha(version), Size: len(version)}
	b.put(http.StatusCreated, "acme", "acme/m", "", paper)
	image := b.do(http.StatusOK, "reader", "GET", "/v2/acme/m/manifests/v1-image", nil)
	acme := &api.Principal{Tenant: "acme", Name: "acme", Scopes: []api.Scope{api.ScopeAdmin}}
	for _, to := range []api.ModelName{"n", "o"} {
		if _, err := b.catalog.RenameModel(t.Context(), acme, "m", api.RenameRequest{To: to}); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"manifests/v1", "manifests/1", "manifests/latest", "manifests/" + sha(version), "blobs/" + sha([]byte("# A card\n")), "referrers/" + sha(version),
		"manifests/v1-image", "manifests/latest?as=image", "manifests/" + sha(image.body)} {
		now := b.do(http.StatusOK, "reader", "GET", "/v2/acme/o/"+path, nil)
		for _, old := range []string{"m", "n"} {
			was := b.do(http.StatusOK, "reader", "GET", "/v2/acme/"+old+"/"+path, nil)
			if !bytes.Equal(was.body, now.body) || was.Header.Get("Content-Type") != now.Header.Get("Content-Type") {
				t.Errorf("%s/%s answers\n%s, %s by its new name", old, path, was.body, now.body)
			}
		}
	}
	if tags := b.do(http.StatusOK, "reader", "GET", "/v2/acme/m/tags/list", nil); !bytes.Contains(tags.body, []byte(`"v1"`)) {
		t.Errorf("tags %s", tags.body)
	}
	if body := b.do(http.StatusOK, "reader", "GET", "/v2/_catalog", nil).body; bytes.Contains(body, []byte("acme/m")) || !bytes.Contains(body, []byte("acme/o")) {
		t.Errorf("repositories %s", body)
	}
	b.do(http.StatusNotFound, "evil", "GET", "/v2/evil/m/manifests/v1", nil)

	refused := b.do(http.StatusConflict, "acme", "PUT", "/v2/acme/m/manifests/v2", version, "Content-Type", mediaManifest)
	for _, part := range []string{`"DENIED"`, `"name_redirected"`, "the model o had this name", "penstock rename --forget m"} {
		if !strings.Contains(string(refused.body), part) {
			t.Errorf("the refusal lacks %s: %s", part, refused.body)
		}
	}
	b.do(http.StatusConflict, "acme", "POST", "/v2/acme/m/blobs/uploads/?digest="+sha([]byte("new")), []byte("new"), "Content-Type", "application/octet-stream")
	b.do(http.StatusAccepted, "acme", "DELETE", "/v2/acme/m/manifests/v1", nil)
	b.do(http.StatusNotFound, "reader", "GET", "/v2/acme/o/manifests/v1", nil)

	if err := b.catalog.ForgetRedirect(t.Context(), acme, "m"); err != nil {
		t.Fatal(err)
	}
	b.do(http.StatusNotFound, "reader", "GET", "/v2/acme/m/manifests/1", nil)
	b.put(http.StatusCreated, "acme", "acme/m", "v1", b.artifact("acme", "acme/m", "application/example", "note.txt", "another"))
}
