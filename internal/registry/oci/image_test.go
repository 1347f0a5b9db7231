package oci_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

const (
	mediaImageConfig = "application/vnd.oci.image.config.v1+json"
	mediaImageLayer  = "application/vnd.oci.image.layer.v1.tar"
)

type imageIndex struct {
	MediaType string
	Manifests []struct {
		descriptor
		Platform struct{ OS, Architecture string }
	}
}

// TestImage pulls a version as an image, and unpacks it.
func TestImage(t *testing.T) {
	b := setUp(t, nil)
	files := map[string]string{"model.onnx": model(t), "README.md": "# A card\n", "docs/" + strings.Repeat("long-", 40) + ".txt": strings.Repeat("x", 512)}
	var pairs []string
	for _, name := range []string{"model.onnx", "README.md", "docs/" + strings.Repeat("long-", 40) + ".txt"} {
		pairs = append(pairs, name, files[name])
	}
	_, version := b.put(http.StatusCreated, "acme", "acme/m", "v1", b.artifact("acme", "acme/m", "application/example", pairs...))
	var digests []string
	var index imageIndex
	for _, reference := range []string{"v1-image", "1-image", "latest-image", "v1?as=image", "1?as=image", "latest?as=image", sha(version) + "?as=image"} {
		a := b.do(http.StatusOK, "reader", "GET", "/v2/acme/m/manifests/"+reference, nil)
		if a.Header.Get("Content-Type") != mediaIndex || a.Header.Get("Docker-Content-Digest") != sha(a.body) {
			t.Errorf("%s: %v", reference, a.Header)
		}
		digests = append(digests, sha(a.body))
		if err := json.Unmarshal(a.body, &index); err != nil {
			t.Fatal(err)
		}
		if digests[0] != sha(a.body) {
			t.Errorf("%s has the digest %s, the first had %s", reference, sha(a.body), digests[0])
		}
	}
	for _, one := range index.Manifests {
		a := b.do(http.StatusOK, "reader", "GET", "/v2/acme/m/manifests/"+one.Digest, nil)
		var m manifest
		if err := json.Unmarshal(a.body, &m); err != nil || sha(a.body) != one.Digest || a.Header.Get("Content-Type") != mediaManifest {
			t.Fatalf("%v %s, %v", a.Header, a.body, err)
		}
		if head := b.do(http.StatusOK, "reader", "HEAD", "/v2/acme/m/manifests/"+one.Digest, nil); head.ContentLength != int64(len(a.body)) {
			t.Errorf("HEAD gives the length %d", head.ContentLength)
		}
		var config struct {
			Architecture, OS string
			RootFS           struct {
				DiffIDs []string `json:"diff_ids"`
			}
		}
		text := b.do(http.StatusOK, "reader", "GET", "/v2/acme/m/blobs/"+m.Config.Digest, nil).body
		if err := json.Unmarshal(text, &config); err != nil || config.OS != "linux" || config.Architecture != one.Platform.Architecture || m.Config.MediaType != mediaImageConfig {
			t.Errorf("config %s of %+v, %v", text, m.Config, err)
		}
		got := map[string]string{}
		for i, layer := range m.Layers {
			body := b.do(http.StatusOK, "reader", "GET", "/v2/acme/m/blobs/"+layer.Digest, nil).body
			if sha(body) != layer.Digest || len(body) != layer.Size || layer.MediaType != mediaImageLayer || config.RootFS.DiffIDs[i] != layer.Digest {
				t.Fatalf("layer %+v has %d bytes that hash to %s", layer, len(body), sha(body))
			}
			part := b.do(http.StatusPartialContent, "reader", "GET", "/v2/acme/m/blobs/"+layer.Digest, nil, "Range", "bytes=100-1499")
			if !bytes.Equal(part.body, body[100:1500]) {
				t.Error("a range gives other bytes")
			}
			unpackInto(t, got, body)
		}
		if len(got) != len(files) {
			t.Errorf("%d files came out, want %d", len(got), len(files))
		}
		for name, want := range files {
			if got[name] != want {
				t.Errorf("%s has other bytes", name)
			}
		}
	}
	// The same again after a restart, also for another tenant's eyes: it has none.
	b.close()
	b.open()
	if a := b.do(http.StatusOK, "reader", "GET", "/v2/acme/m/manifests/v1-image", nil); sha(a.body) != digests[0] {
		t.Error("another digest after a restart")
	}
	b.do(http.StatusNotFound, "evil", "GET", "/v2/acme/m/manifests/v1-image", nil)
	b.do(http.StatusNotFound, "evil", "GET", "/v2/evil/m/manifests/"+digests[0], nil)
	b.do(http.StatusNotFound, "reader", "GET", "/v2/acme/other/manifests/"+digests[0], nil)
	// What has no image, and a tag that was pushed with that name.
	b.put(http.StatusCreated, "acme", "acme/m", "Note", b.artifact("acme", "acme/m", "application/example", "note.txt", "hello"))
	for _, reference := range []string{"Note-image", "none-image", "Note?as=image", "9?as=image", "-image"} {
		b.do(http.StatusNotFound, "reader", "GET", "/v2/acme/m/manifests/"+reference, nil)
	}
	_, own := b.put(http.StatusCreated, "acme", "acme/m", "v1-image", b.artifact("acme", "acme/m", "application/example", "note.txt", "hello"))
	if a := b.do(http.StatusOK, "reader", "GET", "/v2/acme/m/manifests/v1-image", nil); !bytes.Equal(a.body, own) {
		t.Error("a tag that was pushed does not go first")
	}
}

func unpackInto(t *testing.T, got map[string]string, archive []byte) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag != tar.TypeReg || header.Mode != 0o644 || header.ModTime.Unix() != 0 {
			t.Errorf("%+v", header)
		}
		got[header.Name] = string(body)
	}
}
