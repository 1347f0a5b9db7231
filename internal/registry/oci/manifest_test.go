package oci_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/registry/oci"
)

// model is a real one, small.
func model(t testing.TB) string {
	t.Helper()
	body, err := os.ReadFile("../../../demo/digits-v1.onnx")
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestManifests pushes and pulls what is no model.
func TestManifests(t *testing.T) {
	b := setUp(t, nil)
	m := b.artifact("acme", "acme/m", "application/example", "note.txt", "hello")
	a, body := b.put(http.StatusCreated, "acme", "acme/m", "v1", m)
	digest := sha(body)
	if got := a.Header.Get("Location"); got != "/v2/acme/m/manifests/"+digest {
		t.Errorf("location %q", got)
	}
	if a.Header.Get("Docker-Content-Digest") != digest || a.Header.Get("Penstock-Version") != "" {
		t.Errorf("headers %v", a.Header)
	}
	for _, reference := range []string{"v1", digest} {
		got := b.do(http.StatusOK, "acme", "GET", "/v2/acme/m/manifests/"+reference, nil, "Accept", "application/vnd.docker.distribution.manifest.v1+json")
		if !bytes.Equal(got.body, body) || got.Header.Get("Content-Type") != mediaManifest || got.Header.Get("Docker-Content-Digest") != digest {
			t.Errorf("%s: %v %s", reference, got.Header, got.body)
		}
		if head := b.do(http.StatusOK, "acme", "HEAD", "/v2/acme/m/manifests/"+reference, nil); head.ContentLength != int64(len(body)) {
			t.Errorf("HEAD of %s gives the length %d", reference, head.ContentLength)
		}
	}
	// By sha512, with tags as parameters; the same bytes are another manifest to clients.
	long := sha2(body)
	a = b.do(http.StatusCreated, "acme", "PUT", "/v2/acme/m/manifests/"+long+"?tag=x&tag=Y_2", body, "Content-Type", mediaManifest)
	if got := a.Header.Values("OCI-Tag"); !slices.Equal(got, []string{"x", "Y_2"}) {
		t.Errorf("OCI-Tag is %q", got)
	}
	if got := b.do(http.StatusOK, "acme", "GET", "/v2/acme/m/manifests/Y_2", nil).Header.Get("Docker-Content-Digest"); got != long {
		t.Errorf("the tag gives %q", got)
	}
	// A tag that moves, and everything that goes with a manifest.
	m.Annotations = map[string]string{"n": "2"}
	_, second := b.put(http.StatusCreated, "acme", "acme/m", "v1", m)
	if got := b.do(http.StatusOK, "acme", "GET", "/v2/acme/m/manifests/v1", nil); !bytes.Equal(got.body, second) {
		t.Error("the tag did not move")
	}
	b.do(http.StatusAccepted, "acme", "DELETE", "/v2/acme/m/manifests/"+sha(second), nil)
	b.do(http.StatusNotFound, "acme", "GET", "/v2/acme/m/manifests/v1", nil)
	b.do(http.StatusNotFound, "acme", "DELETE", "/v2/acme/m/manifests/v1", nil)
	// What a manifest needs stays as long as the manifest.
	layer := m.Layers[0].Digest
	if a := b.do(http.StatusConflict, "acme", "DELETE", "/v2/acme/m/blobs/"+layer, nil); a.code() != "DENIED" {
		t.Errorf("code %q", a.code())
	}
	b.do(http.StatusAccepted, "acme", "DELETE", "/v2/acme/m/manifests/x", nil)
	b.do(http.StatusAccepted, "acme", "DELETE", "/v2/acme/m/manifests/"+digest, nil)
	b.do(http.StatusAccepted, "acme", "DELETE", "/v2/acme/m/manifests/"+long, nil)
	b.do(http.StatusAccepted, "acme", "DELETE", "/v2/acme/m/blobs/"+layer, nil)
	b.do(http.StatusNotFound, "acme", "GET", "/v2/acme/m/blobs/"+layer, nil)
	b.do(http.StatusNotFound, "acme", "DELETE", "/v2/acme/m/blobs/"+layer, nil)
}

// TestIndexes pushes a manifest of manifests.
func TestIndexes(t *testing.T) {
	b := setUp(t, nil)
	child := b.artifact("acme", "acme/m", "application/example", "note.txt", "hello")
	index := manifest{SchemaVersion: 2, MediaType: mediaIndex, Manifests: []descriptor{describe(mediaManifest, encode(t, child))}}
	if a, _ := b.put(http.StatusNotFound, "acme", "acme/m", "all", index); a.code() != "MANIFEST_BLOB_UNKNOWN" {
		t.Errorf("code %q", a.code())
	}
	_, body := b.put(http.StatusCreated, "acme", "acme/m", "", child)
	_, whole := b.put(http.StatusCreated, "acme", "acme/m", "all", index)
	b.do(http.StatusConflict, "acme", "DELETE", "/v2/acme/m/manifests/"+sha(body), nil)
	b.do(http.StatusAccepted, "acme", "DELETE", "/v2/acme/m/manifests/"+sha(whole), nil)
	b.do(http.StatusAccepted, "acme", "DELETE", "/v2/acme/m/manifests/"+sha(body), nil)
}

// TestRefusedManifests sends what is wrong.
func TestRefusedManifests(t *testing.T) {
	b := setUp(t, nil)
	m := b.artifact("acme", "acme/m", "application/example", "note.txt", "hello")
	good := string(encode(t, m))
	edit := func(old, with string) string { return strings.Replace(good, old, with, 1) }
	missing := m
	missing.Layers = []descriptor{describe("application/octet-stream", []byte("never sent"))}
	for name, c := range map[string]struct {
		body, reference, media string
		status                 int
		code                   string
	}{
		"not JSON":                 {"manifest", "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"nothing":                  {"", "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"a list":                   {"[]", "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"deep":                     {strings.Repeat("[", 100_000), "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"too large":                {edit(`{`, `{"x":"`+strings.Repeat("x", 4<<20)+`",`), "v1", mediaManifest, 413, "MANIFEST_INVALID"},
		"both image and index":     {edit(`{`, `{"manifests":[],`), "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"an index with layers":     {edit(mediaManifest, mediaIndex), "v1", mediaIndex, 400, "MANIFEST_INVALID"},
		"a field twice":            {edit(`{`, `{"layers":[],`), "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"a field in another case":  {edit(`"layers"`, `"Layers"`), "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"a digest in another case": {strings.ReplaceAll(good, `"digest"`, `"Digest"`), "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"the Kelvin sign":          {edit(`{`, `{"mediaTy`+"\u212a"+`":"x",`), "v1", mediaManifest, 201, ""},
		"another type than said":   {good, "v1", mediaIndex, 400, "MANIFEST_INVALID"},
		"an unknown type":          {edit(mediaManifest, "text/html"), "v1", "text/html", 400, "MANIFEST_INVALID"},
		"schema 1":                 {edit(`"schemaVersion":2`, `"schemaVersion":1`), "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"no config":                {edit(`"config"`, `"cfg"`), "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"a digest that is a path":  {edit(`"digest":"sha256:`, `"digest":"sha256:../../`), "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"a size that lies":         {edit(`"size":5`, `"size":6`), "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"a size below zero":        {edit(`"size":5`, `"size":-5`), "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"a size that is a text":    {edit(`"size":5`, `"size":"5"`), "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"bad UTF-8":                {edit(`application/example`, "\xff"), "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"something behind":         {good + "{}", "v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"2000 layers":              {string(encode(t, manyLayers(m, 2000))), "v1", mediaManifest, 413, "SIZE_INVALID"},
		"a layer that is not here": {string(encode(t, missing)), "v1", mediaManifest, 404, "MANIFEST_BLOB_UNKNOWN"},
		"another digest":           {good, sha([]byte("other")), mediaManifest, 400, "DIGEST_INVALID"},
		"another sha512":           {good, sha2([]byte("other")), mediaManifest, 400, "DIGEST_INVALID"},
		"a broken digest":          {good, "sha256:baddigeststring", mediaManifest, 400, "DIGEST_INVALID"},
		"a tag that is none":       {good, "-v1", mediaManifest, 400, "MANIFEST_INVALID"},
		"a tag of 129":             {good, strings.Repeat("v", 129), mediaManifest, 400, "MANIFEST_INVALID"},
	} {
		if a := b.do(c.status, "acme", "PUT", "/v2/acme/m/manifests/"+c.reference, []byte(c.body), "Content-Type", c.media); a.code() != c.code {
			t.Errorf("%s: status %d, code %q: %s", name, a.StatusCode, a.code(), a.body)
		}
	}
}

func manyLayers(m manifest, n int) manifest {
	m.Layers = slices.Repeat(m.Layers, n)
	return m
}

// TestNames tries names that are odd, and paths that are none.
func TestNames(t *testing.T) {
	b := setUp(t, func(b *bench) { b.dev = true })
	for path, want := range map[string]struct {
		status int
		code   string
	}{
		"/v2/acme/m/tags/list":                                {404, "NAME_UNKNOWN"},
		"/v2/Acme/m/tags/list":                                {400, "NAME_INVALID"},
		"/v2/acme/..m/tags/list":                              {400, "NAME_INVALID"},
		"/v2/acme/m%00/tags/list":                             {400, ""},
		"/v2/acme/" + strings.Repeat("m/", 9) + "tags/list":   {400, "NAME_INVALID"},
		"/v2/acme/" + strings.Repeat("m", 300) + "/tags/list": {400, "NAME_INVALID"},
		"/v2/-rf/m/tags/list":                                 {400, "NAME_INVALID"},
		"/v2/acme/%F0%9F%92%A7/tags/list":                     {400, "NAME_INVALID"},
		"/v2/acme/m/tags/other":                               {405, "UNSUPPORTED"},
		"/v2/acme/m/nothing":                                  {404, "NAME_UNKNOWN"},
		"/v2/acme/m/blobs/sha256:..%2f..%2fpepper":            {400, ""},
		"/v2/acme/m/../../pepper":                             {400, ""},
		"/v2/acme/m/blobs/sha256:abc":                         {400, "DIGEST_INVALID"},
		"/v2/acme/m/blobs/" + sha(nil)[:40]:                   {400, "DIGEST_INVALID"},
		"/v2/acme/m/blobs/" + sha(nil):                        {404, "BLOB_UNKNOWN"},
		"/v2/acme/m/manifests/" + sha(nil):                    {404, "MANIFEST_UNKNOWN"},
		"/v2/acme/m/manifests/%2dv":                           {404, "MANIFEST_UNKNOWN"},
		"/v2/acme/m/referrers/latest":                         {400, "DIGEST_INVALID"},
		"/v2/acme/m/tags/list?n=-1":                           {400, "UNSUPPORTED"},
		"/v2/acme/m/tags/list?n=1e9":                          {400, "UNSUPPORTED"},
		"/v2/acme/m/tags/list?last=../x":                      {400, "UNSUPPORTED"},
		"/v1/":                                                {404, "UNSUPPORTED"},
	} {
		if a := b.do(want.status, "acme", "GET", path, nil); a.code() != want.code {
			t.Errorf("%s: code %q, want %q: %s", path, a.code(), want.code, a.body)
		}
	}
	// Names of the default tenant with and without it, and names of more parts.
	m := b.artifact("", "one", "application/example", "a.txt", "a")
	b.put(http.StatusCreated, "", "one", "v1", m)
	b.do(http.StatusOK, "", "GET", "/v2/default/one/manifests/v1", nil)
	m = b.artifact("acme", "acme/team/blobs/uploads", "application/example", "a.txt", "a")
	b.put(http.StatusCreated, "acme", "acme/team/blobs/uploads", "v1", m)
	if a := b.do(http.StatusOK, "acme", "GET", "/v2/acme/team/blobs/uploads/tags/list", nil); string(a.body) != `{"name":"acme/team/blobs/uploads","tags":["v1"]}` {
		t.Errorf("%s", a.body)
	}
	b.do(http.StatusNotFound, "acme", "GET", "/v2/acme/team/manifests/v1", nil)
	m = b.artifact("acme", "acme/team/fraud", "", "model.onnx", model(t))
	if a, _ := b.put(http.StatusBadRequest, "acme", "acme/team/fraud", "v1", m); a.code() != "MANIFEST_INVALID" || !bytes.Contains(a.body, []byte("TENANT/MODEL")) {
		t.Errorf("%s", a.body)
	}
}

// TestTags walks over the pages of a list.
func TestTags(t *testing.T) {
	b := setUp(t, func(b *bench) { b.limits = oci.Limits{TagsPage: 4} })
	m := b.artifact("acme", "acme/m", "application/example", "a.txt", "a")
	var want []string
	for i := range 10 {
		tag := fmt.Sprintf("T%02d", i)
		b.put(http.StatusCreated, "acme", "acme/m", tag, m)
		want = append(want, tag)
	}
	for query, size := range map[string]int{"": 4, "?n=3": 3, "?n=1000": 4, "?n=1": 1} {
		var all []string
		for path := "/v2/acme/m/tags/list" + query; path != ""; {
			a := b.do(http.StatusOK, "acme", "GET", path, nil)
			var page struct{ Tags []string }
			if err := json.Unmarshal(a.body, &page); err != nil || len(page.Tags) > size {
				t.Fatalf("%v: %s", err, a.body)
			}
			all = append(all, page.Tags...)
			path, _, _ = strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
		}
		if !slices.Equal(all, want) {
			t.Errorf("%q: %v", query, all)
		}
	}
	if a := b.do(http.StatusOK, "acme", "GET", "/v2/acme/m/tags/list?n=0", nil); string(a.body) != `{"name":"acme/m","tags":[]}` || a.Header.Get("Link") != "" {
		t.Errorf("%s, link %q", a.body, a.Header.Get("Link"))
	}
	if a := b.do(http.StatusOK, "acme", "GET", "/v2/acme/m/tags/list?last=T09", nil); string(a.body) != `{"name":"acme/m","tags":[]}` {
		t.Errorf("%s", a.body)
	}
}

// TestReferrers attaches things, to what is here and to what is not.
func TestReferrers(t *testing.T) {
	b := setUp(t, func(b *bench) { b.limits = oci.Limits{ReferrersPage: 2, ReferrersBytes: 600} })
	subject := b.artifact("acme", "acme/m", "application/example", "a.txt", "a")
	_, body := b.put(http.StatusCreated, "acme", "acme/m", "v1", subject)
	to := describe(mediaManifest, body)
	want := map[string]string{}
	for i := range 7 {
		kind := fmt.Sprintf("application/kind.%d", i%2)
		m := b.artifact("acme", "acme/m", kind, "", fmt.Sprint("signature ", i))
		m.Subject, m.Annotations = &to, map[string]string{"i": strings.Repeat(fmt.Sprint(i), 200)}
		if i == 6 { // without an artifactType, the config's media type is it
			m.ArtifactType, m.Config.MediaType, kind = "", "application/kind.0", "application/kind.0"
		}
		a, sent := b.put(http.StatusCreated, "acme", "acme/m", "", m)
		if a.Header.Get("OCI-Subject") != to.Digest {
			t.Errorf("OCI-Subject is %q", a.Header.Get("OCI-Subject"))
		}
		want[sha(sent)] = kind
	}
	for _, filter := range []string{"", "application/kind.1", "application/kind.0", "application/other"} {
		got := map[string]string{}
		path := "/v2/acme/m/referrers/" + to.Digest
		if filter != "" {
			path += "?artifactType=" + filter
		}
		for path != "" {
			a := b.do(http.StatusOK, "acme", "GET", path, nil)
			var index struct {
				SchemaVersion int
				MediaType     string
				Manifests     []struct {
					Digest, ArtifactType string
					Annotations          map[string]string
				}
			}
			if err := json.Unmarshal(a.body, &index); err != nil || index.SchemaVersion != 2 || index.MediaType != mediaIndex || a.Header.Get("Content-Type") != mediaIndex {
				t.Fatalf("%v: %s", err, a.body)
			}
			if filter != "" && a.Header.Get("OCI-Filters-Applied") != "artifactType" {
				t.Error("no OCI-Filters-Applied")
			}
			for _, m := range index.Manifests {
				got[m.Digest] = m.ArtifactType
				if len(m.Annotations["i"]) != 200 {
					t.Errorf("annotations %v", m.Annotations)
				}
			}
			path, _, _ = strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
		}
		for digest, kind := range want {
			if _, there := got[digest]; there != (filter == "" || filter == kind) {
				t.Errorf("filter %q: %s of %s is there: %v", filter, digest, kind, there)
			}
		}
	}
	if a := b.do(http.StatusOK, "acme", "GET", "/v2/acme/nothing/referrers/"+sha([]byte("x")), nil); string(a.body) != `{"schemaVersion":2,"mediaType":"`+mediaIndex+`","manifests":[]}` {
		t.Errorf("%s", a.body)
	}
}

// TestModels pushes what becomes a version, and what is refused to.
func TestModels(t *testing.T) {
	b := setUp(t, nil)
	ctx := t.Context()
	m := b.artifact("acme", "acme/fraud", "", "model.onnx", model(t), "README.md", "# Fraud")
	a, body := b.put(http.StatusCreated, "acme", "acme/fraud", "v3", m)
	if a.Header.Get("Penstock-Version") != "fraud@1" {
		t.Errorf("Penstock-Version is %q", a.Header.Get("Penstock-Version"))
	}
	v, err := b.catalog.Resolve(ctx, "acme", api.Ref{Model: "fraud", Alias: "v3"})
	if err != nil || v.Number != 1 || string(v.Digest) != sha(body) || v.Card != "# Fraud" || v.CreatedBy != "acme" || len(v.Artifacts) != 2 || len(v.Signature.Inputs) == 0 {
		t.Fatalf("%+v, %v", v, err)
	}
	entry, err := b.catalog.Materialize(ctx, v.Digest)
	if got, readErr := os.ReadFile(entry); err != nil || readErr != nil || string(got) != model(t) || filepath.Base(entry) != "model.onnx" {
		t.Errorf("materialized %s: %v, %v", entry, err, readErr)
	}
	// The version answers to its alias, to its number, and as the newest; the same bytes again are the same version.
	b.put(http.StatusCreated, "acme", "acme/fraud", "Prod.1", m)
	for _, tag := range []string{"v3", "1", "latest", "Prod.1", sha(body)} {
		if got := b.do(http.StatusOK, "acme", "GET", "/v2/acme/fraud/manifests/"+tag, nil); !bytes.Equal(got.body, body) {
			t.Errorf("%s gives other bytes", tag)
		}
	}
	if a := b.do(http.StatusOK, "acme", "GET", "/v2/acme/fraud/tags/list", nil); string(a.body) != `{"name":"acme/fraud","tags":["Prod.1","v3"]}` {
		t.Errorf("%s", a.body)
	}
	if a, _ := b.put(http.StatusCreated, "acme", "acme/fraud", "17", m); !strings.Contains(a.Header.Get("Warning"), `299 - "the tag 17`) {
		t.Errorf("Warning is %q", a.Header.Get("Warning"))
	}
	// A version that an alias names stays, also what it is made of; an alias can go.
	if a := b.do(http.StatusConflict, "acme", "DELETE", "/v2/acme/fraud/manifests/"+sha(body), nil); a.code() != "DENIED" {
		t.Errorf("code %q", a.code())
	}
	b.do(http.StatusConflict, "acme", "DELETE", "/v2/acme/fraud/blobs/"+m.Layers[0].Digest, nil)
	b.do(http.StatusAccepted, "acme", "DELETE", "/v2/acme/fraud/manifests/v3", nil)
	b.do(http.StatusNotFound, "acme", "GET", "/v2/acme/fraud/manifests/v3", nil)
	if history, err := b.catalog.AliasHistory(ctx, "acme", "fraud", "v3", 9); err != nil || len(history) != 2 || history[0].To != 0 {
		t.Errorf("history %+v, %v", history, err)
	}
	// A tag names one thing: a note takes it from the alias, and the alias takes it back.
	note := b.artifact("acme", "acme/fraud", "application/example", "a.txt", "a")
	b.put(http.StatusCreated, "acme", "acme/fraud", "x", m)
	b.put(http.StatusCreated, "acme", "acme/fraud", "x", note)
	if _, err := b.catalog.Resolve(ctx, "acme", api.Ref{Model: "fraud", Alias: "x"}); !api.Is(err, api.CodeAliasNotFound) {
		t.Errorf("the alias is still there: %v", err)
	}
	p := &api.Principal{Tenant: "acme", Name: "cli", Scopes: []api.Scope{api.ScopeWrite}}
	if _, err := b.catalog.MoveAlias(ctx, p, api.AliasChange{Model: "fraud", Alias: "x", To: 1, Moves: -1, Why: "by hand"}); err != nil {
		t.Fatal(err)
	}
	if got := b.do(http.StatusOK, "acme", "GET", "/v2/acme/fraud/manifests/x", nil); !bytes.Equal(got.body, body) {
		t.Error("the tag still gives the note")
	}
}

// TestPushedByHand pulls a version that no OCI client pushed.
func TestPushedByHand(t *testing.T) {
	b := setUp(t, nil)
	p := &api.Principal{Tenant: "acme", Name: "cli", Scopes: []api.Scope{api.ScopeWrite}}
	d, size, err := b.catalog.PutBlob(t.Context(), p, strings.NewReader(model(t)), "", -1)
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := b.catalog.Commit(t.Context(), p, "fraud", api.Upload{Files: []api.UploadFile{{Path: "model.onnx", Digest: d, Size: size}}, Aliases: []api.AliasName{"champion"}})
	if err != nil {
		t.Fatal(err)
	}
	a := b.do(http.StatusOK, "reader", "GET", "/v2/acme/fraud/manifests/champion", nil)
	var m manifest
	if err := json.Unmarshal(a.body, &m); err != nil || sha(a.body) != string(v.Digest) {
		t.Fatalf("%v: %s", err, a.body)
	}
	for _, d := range append(m.Layers, *m.Config) {
		if got := b.do(http.StatusOK, "reader", "GET", "/v2/acme/fraud/blobs/"+d.Digest, nil); sha(got.body) != d.Digest {
			t.Errorf("%s is broken", d.Digest)
		}
	}
	// It goes to another repository as it is, and is the same content there.
	for _, d := range append(m.Layers, *m.Config) {
		b.do(http.StatusCreated, "acme", "POST", "/v2/acme/copy/blobs/uploads/?mount="+d.Digest+"&from=acme/fraud", nil)
	}
	if got := b.do(http.StatusCreated, "acme", "PUT", "/v2/acme/copy/manifests/v1", a.body, "Content-Type", mediaManifest); got.Header.Get("Penstock-Version") != "copy@1" {
		t.Errorf("Penstock-Version is %q", got.Header.Get("Penstock-Version"))
	}
}

// TestShelve makes versions of before there were repositories known at a start.
func TestShelve(t *testing.T) {
	b := setUp(t, nil)
	m := b.artifact("acme", "acme/new", "", "model.onnx", model(t))
	_, body := b.put(http.StatusCreated, "acme", "acme/new", "v1", m)
	v, err := b.catalog.Resolve(t.Context(), "acme", api.Ref{Model: "new"})
	if err != nil {
		t.Fatal(err)
	}
	lost := v
	v.Model, lost.Model, lost.Digest = "old", "lost", api.Digest(sha([]byte("a manifest that is lost")))
	for _, version := range []api.Version{v, lost} {
		if _, _, err := b.db.CommitVersion(t.Context(), version, []api.AliasName{"champion"}, ""); err != nil {
			t.Fatal(err)
		}
	}
	b.do(http.StatusNotFound, "acme", "GET", "/v2/acme/old/manifests/champion", nil)
	if err := b.catalog.Shelve(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, reference := range []string{"champion", "1", "latest", sha(body)} {
		if got := b.do(http.StatusOK, "acme", "GET", "/v2/acme/old/manifests/"+reference, nil); !bytes.Equal(got.body, body) {
			t.Errorf("%s gives other bytes", reference)
		}
	}
	b.pulled("acme", "acme/old", m.Layers[0].Digest, []byte(model(t)))
	b.do(http.StatusNotFound, "acme", "GET", "/v2/acme/lost/manifests/champion", nil)
}

// TestRefusedModels pushes files that no version may hold. The answer says why, and nothing is left to pull.
func TestRefusedModels(t *testing.T) {
	b := setUp(t, nil)
	onnx := model(t)
	for name, c := range map[string]struct {
		files []string
		why   string
	}{
		"pickle":                    {[]string{"model.pkl", "\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94\x8c\x05print\x94\x93\x94."}, "pickle"},
		"pickle that says ONNX":     {[]string{"model.onnx", "\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94\x8c\x05print\x94\x93\x94."}, "pickle"},
		"zip":                       {[]string{"model.pt", "PK\x03\x04" + strings.Repeat("x", 100)}, "zip"},
		"two models":                {[]string{"a.onnx", onnx, "b.onnx", onnx + " "}, "exactly one"},
		"a script beside":           {[]string{"model.onnx", onnx, "run.sh", "#!/bin/sh\n"}, "a script"},
		"a path out":                {[]string{"../../etc/cron.d/model.onnx", onnx}, "file path"},
		"an absolute path":          {[]string{"/model.onnx", onnx}, "file path"},
		"a path of another kind":    {[]string{`C:\model.onnx`, onnx}, "file path"},
		"not ONNX":                  {[]string{"model.onnx", "hello"}, "ONNX"},
		"ONNX cut short":            {[]string{"model.onnx", onnx[:len(onnx)/2]}, ""},
		"names that differ by case": {[]string{"model.onnx", onnx, "README.md", "a", "readme.md", "b"}, "differ only in case"},
	} {
		m := b.artifact("acme", "acme/fraud", "", c.files...)
		a, body := b.put(http.StatusBadRequest, "acme", "acme/fraud", "bad", m)
		if a.code() != "MANIFEST_INVALID" || !strings.Contains(string(a.body), c.why) {
			t.Errorf("%s: %s", name, a.body)
		}
		b.do(http.StatusNotFound, "acme", "GET", "/v2/acme/fraud/manifests/bad", nil)
		b.do(http.StatusNotFound, "acme", "GET", "/v2/acme/fraud/manifests/"+sha(body), nil)
	}
	// What the manifest says of a file cannot put another in front of the engine.
	m := b.artifact("acme", "acme/fraud", "application/vnd.cncf.model.manifest.v1+json", "model.onnx", onnx, "other.bin", "data")
	for i, role := range []string{"data", "model"} {
		m.Layers[i].Annotations["dev.penstock.role"] = role
	}
	if a, _ := b.put(http.StatusBadRequest, "acme", "acme/fraud", "bad", m); a.code() != "MANIFEST_INVALID" {
		t.Errorf("%s", a.body)
	}
	if versions, err := b.catalog.Versions(t.Context(), "acme", "fraud", 0, 9); err == nil && len(versions) > 0 {
		t.Errorf("refused models are versions: %+v", versions)
	}
}
