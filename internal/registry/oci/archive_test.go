package oci_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/penstock/penstock/api"
)

// pack makes a tar of headers with contents; a nil header means a plain file of that name.
type packed struct {
	name   string
	body   string
	header *tar.Header
}

func pack(t testing.TB, how string, entries ...packed) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.header
		if h == nil {
			h = &tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(e.body))}
		}
		h.Name = e.name
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var err error
	switch how {
	case "tar+gzip":
		z := gzip.NewWriter(&out)
		_, err = z.Write(b.Bytes())
		if closed := z.Close(); err == nil {
			err = closed
		}
	case "tar+zstd":
		var z *zstd.Encoder
		if z, err = zstd.NewWriter(&out); err == nil {
			_, err = z.Write(b.Bytes())
			if closed := z.Close(); err == nil {
				err = closed
			}
		}
	default:
		return b.Bytes()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

const (
	configPack = "application/vnd.cncf.model.config.v1+json"
	configKit  = "application/vnd.kitops.modelkit.config.v1+json"
	typePack   = "application/vnd.cncf.model.manifest.v1+json"
)

// layered pushes blobs, and gives a manifest of them with the config's type. Layers come in pairs of type and content.
func (b *bench) layered(repo, config, artifactType string, layers ...string) manifest {
	b.t.Helper()
	text := []byte("{}")
	b.blob("acme", repo, text)
	d := describe(config, text)
	m := manifest{SchemaVersion: 2, MediaType: mediaManifest, ArtifactType: artifactType, Config: &d}
	for i := 0; i < len(layers); i += 2 {
		b.blob("acme", repo, []byte(layers[i+1]))
		m.Layers = append(m.Layers, describe(layers[i], []byte(layers[i+1])))
	}
	return m
}

// TestArchives pushes what KitOps and ModelPack's tools write: files packed in layers. The version is made of what is inside,
// and OCI clients get back what was pushed.
func TestArchives(t *testing.T) {
	b := setUp(t, nil)
	onnx := model(t)
	folder := packed{name: "./model/", header: &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
	for i, c := range []struct {
		name string
		m    manifest
	}{
		{"a kit", b.layered("acme/m0", configKit, "",
			"application/vnd.kitops.modelkit.model.v1.tar+gzip", string(pack(t, "tar+gzip", folder, packed{name: "model/model.onnx", body: onnx}, packed{name: "model/train.py", body: "print()"})),
			"application/vnd.kitops.modelkit.docs.v1.tar", string(pack(t, "tar", packed{name: "./README.md", body: "# Kit 1"})),
			"application/vnd.kitops.modelkit.dataset.v1.tar+gzip", "not even an archive",
			"application/vnd.kitops.modelkit.code.v1.tar+gzip", "nor this")},
		{"a pack of tar", b.layered("acme/m1", configPack, typePack,
			"application/vnd.cncf.model.weight.v1.tar", string(pack(t, "tar", packed{name: "model/model.onnx", body: onnx})),
			"application/vnd.cncf.model.doc.v1.tar+zstd", string(pack(t, "tar+zstd", packed{name: "README.md", body: "# Kit 2"})))},
		{"a pack of zstd", b.layered("acme/m2", configPack, typePack,
			"application/vnd.cncf.model.weight.v1.tar+zstd", string(pack(t, "tar+zstd", packed{name: "model/model.onnx", body: onnx}, packed{name: "README.md", body: "# Kit 3"})))},
	} {
		repo := fmt.Sprintf("acme/m%d", i)
		a, body := b.put(http.StatusCreated, "acme", repo, "v1", c.m)
		if got := a.Header.Get("Penstock-Version"); got != fmt.Sprintf("m%d@1", i) {
			t.Errorf("%s: Penstock-Version is %q", c.name, got)
		}
		if got := b.do(http.StatusOK, "acme", "GET", "/v2/"+repo+"/manifests/v1", nil); !bytes.Equal(got.body, body) {
			t.Errorf("%s: the tag gives another manifest", c.name)
		}
		v, err := b.catalog.Resolve(t.Context(), "acme", api.Ref{Model: api.ModelName(fmt.Sprintf("m%d", i)), Alias: "v1"})
		if err != nil || len(v.Artifacts) != 2 || v.Artifacts[0].Path != "model/model.onnx" || v.Card != fmt.Sprintf("# Kit %d", i+1) {
			t.Fatalf("%s: %+v, %v", c.name, v, err)
		}
		entry, err := b.catalog.Materialize(t.Context(), v.Digest)
		if got, readErr := os.ReadFile(entry); err != nil || readErr != nil || string(got) != onnx {
			t.Errorf("%s: materialized %s: %v, %v", c.name, entry, err, readErr)
		}
		// The version itself can be pulled too, by its number.
		b.do(http.StatusOK, "acme", "GET", "/v2/"+repo+"/blobs/"+string(v.Artifacts[0].Digest), nil)
		if got := b.do(http.StatusOK, "acme", "GET", "/v2/"+repo+"/manifests/1", nil); sha(got.body) != string(v.Digest) {
			t.Errorf("%s: the number gives another manifest", c.name)
		}
		// Once more is the same version.
		if a, _ := b.put(http.StatusCreated, "acme", repo, "v2", c.m); a.Header.Get("Penstock-Version") != fmt.Sprintf("m%d@1", i) {
			t.Errorf("%s: again it is %q", c.name, a.Header.Get("Penstock-Version"))
		}
	}
	// A plain file that is known by its sha512 alone.
	m := b.layered("acme/long", configPack, typePack)
	b.do(http.StatusCreated, "acme", "POST", "/v2/acme/long/blobs/uploads/?digest="+sha2([]byte(onnx)), []byte(onnx))
	m.Layers = []descriptor{{MediaType: "application/vnd.cncf.model.weight.v1.raw", Digest: sha2([]byte(onnx)), Size: len(onnx), Annotations: map[string]string{"org.cncf.model.filepath": "model.onnx"}}}
	if a, _ := b.put(http.StatusCreated, "acme", "acme/long", sha2(encode(t, m)), m); a.Header.Get("Penstock-Version") != "long@1" {
		t.Errorf("by sha512 it is %q", a.Header.Get("Penstock-Version"))
	}
}

// block is an entry of a tar archive as no writer would make it.
func block(name string, kind byte, body string) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x0000000000000\x00", len(body)))
	copy(b[148:], "        ")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(b, body+strings.Repeat("\x00", (512-len(body)%512)%512)...)
}

// sparse is an archive of a file that is one hole.
func sparse() []byte {
	var records string
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=model.onnx", "GNU.sparse.realsize=1099511627776"} {
		records += fmt.Sprintf("%d %s\n", len(r)+4, r) // two digits, a space and the line's end
	}
	return slices.Concat(block("x", tar.TypeXHeader, records), block("GNUSparseFile.0/model.onnx", tar.TypeReg, "1\n1099511627776\n0\n"+strings.Repeat("\x00", 512-19)), make([]byte, 1024))
}

func folders(n int) []packed {
	all := make([]packed, n)
	for i := range all {
		all[i] = packed{name: fmt.Sprintf("d%d/", i), header: &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
	}
	return all
}

// TestHostileArchives pushes archives that would write elsewhere, or never end.
func TestHostileArchives(t *testing.T) {
	b := setUp(t, nil)
	onnx := packed{name: "model.onnx", body: model(t)}
	other := func(kind byte, link string) packed {
		return packed{name: "other", header: &tar.Header{Typeflag: kind, Linkname: link, Mode: 0o777}}
	}
	many := []packed{onnx}
	for i := range 300 {
		many = append(many, packed{name: fmt.Sprintf("n%d.md", i), body: "x"})
	}
	bomb := pack(t, "tar+gzip", packed{name: "zeros.bin", body: strings.Repeat("\x00", 80<<20)})
	for name, layer := range map[string][2]string{
		"a path out":                       {"tar", string(pack(t, "tar", onnx, packed{name: "../../evil", body: "x"}))},
		"a path out inside":                {"tar", string(pack(t, "tar", onnx, packed{name: "a/../../evil", body: "x"}))},
		"an absolute path":                 {"tar", string(pack(t, "tar", onnx, packed{name: "/etc/cron.d/evil", body: "x"}))},
		"a Windows path":                   {"tar", string(pack(t, "tar", onnx, packed{name: `C:\evil`, body: "x"}))},
		"a symbolic link":                  {"tar", string(pack(t, "tar", onnx, other(tar.TypeSymlink, "/etc/passwd")))},
		"a hard link":                      {"tar", string(pack(t, "tar", onnx, other(tar.TypeLink, "model.onnx")))},
		"a device":                         {"tar", string(pack(t, "tar", onnx, other(tar.TypeChar, "")))},
		"a pipe":                           {"tar", string(pack(t, "tar", onnx, other(tar.TypeFifo, "")))},
		"the same name twice":              {"tar", string(pack(t, "tar", onnx, onnx))},
		"names by case":                    {"tar", string(pack(t, "tar", onnx, packed{name: "Model.ONNX", body: "x"}))},
		"a long name":                      {"tar", string(pack(t, "tar", onnx, packed{name: strings.Repeat("n", 4096) + ".md", body: "x"}))},
		"too many files":                   {"tar", string(pack(t, "tar", many...))},
		"cut short":                        {"tar", string(pack(t, "tar", onnx)[:1500])},
		"not an archive":                   {"tar", "hello, this is not an archive at all"},
		"not gzip":                         {"tar+gzip", string(pack(t, "tar", onnx))},
		"not zstd":                         {"tar+zstd", string(pack(t, "tar", onnx))},
		"a bomb":                           {"tar+gzip", string(bomb)},
		"a size that lies":                 {"tar", strings.Replace(string(pack(t, "tar", onnx)), fmt.Sprintf("%011o", len(onnx.body)), "77777777777", 1)},
		"a model that is none":             {"tar", string(pack(t, "tar", packed{name: "model.onnx", body: "\x80\x04\x95."}))},
		"nothing":                          {"tar", string(pack(t, "tar"))},
		"a dot":                            {"tar", string(pack(t, "tar", onnx, packed{name: ".", body: "x"}))},
		"two dots":                         {"tar", string(pack(t, "tar", onnx, packed{name: "..", body: "x"}))},
		"a program that runs as its owner": {"tar", string(pack(t, "tar", onnx, packed{name: "tool", body: "\x7fELF", header: &tar.Header{Typeflag: tar.TypeReg, Mode: 0o4755, Size: 4}}))},
		"a NUL in a name":                  {"tar", string(block("x", tar.TypeXHeader, "20 path=model\x00.onnx\n")) + string(pack(t, "tar", onnx))},
		"an old sparse file":               {"tar", string(block("model.onnx", tar.TypeGNUSparse, "x"))},
		"a sparse file of 1 TiB":           {"tar", string(sparse())},
		"many folders":                     {"tar", string(pack(t, "tar", append(folders(5000), onnx)...))},
	} {
		m := b.layered("acme/m", configPack, typePack, "application/vnd.cncf.model.weight.v1."+layer[0], layer[1])
		a, err := b.try("acme", "PUT", "/v2/acme/m/manifests/v1", encode(t, m), "Content-Type", mediaManifest)
		if err != nil || a.StatusCode/100 != 4 {
			t.Errorf("%s: status %d, %v: %s", name, a.StatusCode, err, a.body)
		}
		b.do(http.StatusNotFound, "acme", "GET", "/v2/acme/m/manifests/v1", nil)
	}
	if _, err := b.catalog.Versions(t.Context(), "acme", "m", 0, 9); !api.Is(err, api.CodeModelNotFound) {
		t.Errorf("there is a version: %v", err)
	}
}
