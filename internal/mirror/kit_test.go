package mirror_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/mirror"
)

// shelf is a registry that holds one manifest of one layer and nothing else, whatever they are.
func shelf(t *testing.T, configType, layerType string, layer []byte, annotations string) string {
	t.Helper()
	config := []byte(`{"a":"kit"}`)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d%s}]}`,
		mediaManifest, configType, sha(config), len(config), layerType, sha(layer), len(layer), annotations)
	holds := map[string][]byte{"v1": manifest, sha(config): config, sha(layer): layer}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := holds[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", mediaManifest)
		_, _ = w.Write(body)
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return "oci://" + strings.TrimPrefix(server.URL, "http://") + "/kits/m:v1"
}

func archive(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		body := []byte(model(t))
		if h.Typeflag != tar.TypeReg {
			body = nil
		}
		h.Size, h.Mode = int64(len(body)), 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestImportKits imports what KitOps and ModelPack's tools push, as archives and as files, and refuses archives that would
// leave their place; what is refused says why.
func TestImportKits(t *testing.T) {
	const kit, pack = "application/vnd.kitops.modelkit.config.v1+json", "application/vnd.cncf.model.config.v1+json"
	const kitLayer, packLayer, raw = "application/vnd.kitops.modelkit.model.v1.tar", "application/vnd.cncf.model.weight.v1.tar", "application/vnd.cncf.model.weight.v1.raw"
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	for name, c := range map[string]struct {
		config, layer string
		body          []byte
		annotations   string
		code          api.Code
		says          string
	}{
		"a kit":                       {kit, kitLayer, archive(t, file("model.onnx")), "", "", ""},
		"a pack of archives":          {pack, packLayer, archive(t, file("./model.onnx")), "", "", ""},
		"a pack of files":             {pack, raw, []byte(model(t)), `,"annotations":{"org.cncf.model.filepath":"model.onnx"}`, "", ""},
		"a path that leads out":       {kit, kitLayer, archive(t, file("../../model.onnx")), "", api.CodeBadName, "'.' or '..'"},
		"an absolute path":            {pack, packLayer, archive(t, file("/etc/model.onnx")), "", api.CodeBadName, "absolute"},
		"a link":                      {kit, kitLayer, archive(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "model.onnx", Linkname: "/etc/passwd"}), "", api.CodeFormatRefused, "no plain file"},
		"a hard link":                 {kit, kitLayer, archive(t, tar.Header{Typeflag: tar.TypeLink, Name: "model.onnx", Linkname: "/etc/passwd"}), "", api.CodeFormatRefused, "no plain file"},
		"a device":                    {kit, kitLayer, archive(t, tar.Header{Typeflag: tar.TypeChar, Name: "model.onnx"}), "", api.CodeFormatRefused, "no plain file"},
		"the same file twice":         {kit, kitLayer, archive(t, file("model.onnx"), file("MODEL.onnx")), "", api.CodeBadName, "differ only in case"},
		"no archive":                  {kit, kitLayer, []byte(content(4096, "text ")), "", api.CodeFormatRefused, "not the archive that its type says"},
		"a pack of pickle":            {pack, raw, []byte("\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94\x8c\x05print\x94\x93\x94."), `,"annotations":{"org.cncf.model.filepath":"model.onnx"}`, api.CodeFormatRefused, "pickle"},
		"a pack of a file of no name": {pack, raw, []byte(model(t)), "", api.CodeBadRequest, "has neither"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			here := newSite(t, func(c *mirror.Config) { c.Tries = 1 })
			want := api.TransferDone
			if c.code != "" {
				want = api.TransferFailed
			}
			got := here.ends(here.imports("m", api.ImportRequest{From: shelf(t, c.config, c.layer, c.body, c.annotations), RemoteLogin: api.RemoteLogin{PlainHTTP: true}}), want)
			if got.Code != c.code || !strings.Contains(got.Error, c.says) {
				t.Fatalf("%s: %s; want %s with %q", got.Code, got.Error, c.code, c.says)
			}
			v, err := here.catalog.Resolve(t.Context(), "acme", api.Ref{Model: "m"})
			if c.code != "" {
				if err == nil {
					t.Errorf("it became %s", v.Ref())
				}
				return
			}
			if err != nil || v.Number != 1 || got.Version != 1 || len(v.Artifacts) != 1 || v.Artifacts[0].Path != "model.onnx" || v.Artifacts[0].Digest != api.Digest(sha([]byte(model(t)))) {
				t.Errorf("%+v, %v; %+v", v, err, got)
			}
		})
	}
}
