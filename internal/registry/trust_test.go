package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob/files"
	"github.com/penstock/penstock/internal/dsse"
	"github.com/penstock/penstock/internal/registry"
	"github.com/penstock/penstock/internal/store"
)

// shelf is a catalog on a real database, with a clock that the test sets.
type shelf struct {
	*registry.Catalog
	testing.TB
	now time.Time
}

var root = &api.Principal{Tenant: "default", Name: "root", Scopes: []api.Scope{api.ScopeAdmin}}

func newShelf(t testing.TB) *shelf {
	t.Helper()
	s := &shelf{TB: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	dir := t.TempDir()
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "p.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.PutTenant(t.Context(), api.Tenant{ID: "default", Created: api.TimeOf(s.now)}); err != nil && !api.Is(err, api.CodeExists) {
		t.Fatal(err)
	}
	blobs, err := files.Open(files.Config{Dir: filepath.Join(dir, "blobs")})
	if err != nil {
		t.Fatal(err)
	}
	s.Catalog, err = registry.New(registry.Config{Store: db, Blobs: blobs, CacheDir: filepath.Join(dir, "cache"), Now: func() time.Time { return s.now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); blobs.Close(); db.Close() })
	return s
}

func (s *shelf) upload(body []byte) (api.Digest, int64) {
	s.Helper()
	digest, size, err := s.PutBlob(s.Context(), root, bytes.NewReader(body), "", int64(len(body)))
	if err != nil {
		s.Fatal(err)
	}
	return digest, size
}

func (s *shelf) push(name string, aliases ...api.AliasName) (api.Version, error) {
	s.Helper()
	digest, size := s.upload([]byte(net{name: name}.onnx()))
	v, _, err := s.Commit(s.Context(), root, "m", api.Upload{Files: []api.UploadFile{{Path: "model.onnx", Digest: digest, Size: size}}, Aliases: aliases})
	return v, err
}

func (s *shelf) mustPush(name string) api.Version {
	s.Helper()
	v, err := s.push(name)
	if err != nil {
		s.Fatal(err)
	}
	return v
}

func statement(v *api.Version) dsse.Statement {
	all := map[string]api.Digest{}
	for _, a := range v.Artifacts {
		all[a.Path] = a.Digest
	}
	return dsse.About(v.Ref().String(), v.Digest, all)
}

func (s *shelf) envelope(st dsse.Statement, key *dsse.PrivateKey) []byte {
	s.Helper()
	e, err := st.Sign(key)
	if err != nil {
		s.Fatal(err)
	}
	text, err := e.Encode()
	if err != nil {
		s.Fatal(err)
	}
	return text
}

func (s *shelf) attachSignature(v *api.Version, text []byte) error {
	s.Helper()
	digest, size := s.upload(text)
	_, err := s.Attach(s.Context(), root, v.Ref(), api.ReferrerRequest{Type: api.ReferrerSignature, Digest: digest, Size: size})
	return err
}

// smuggle attaches what Attach would refuse, as an OCI client can.
func (s *shelf) smuggle(v *api.Version, text []byte) {
	s.Helper()
	repo := api.Repository{Tenant: "default", Name: "m"}
	subject, err := s.ManifestByDigest(s.Context(), repo, api.ContentDigest(v.Digest))
	if err != nil {
		s.Fatal(err)
	}
	layer, err := s.KeepBlob(s.Context(), root, repo, "", bytes.NewReader(text), int64(len(text)))
	if err != nil {
		s.Fatal(err)
	}
	config, err := s.KeepBlob(s.Context(), root, repo, "", strings.NewReader("{}"), 2)
	if err != nil {
		s.Fatal(err)
	}
	part := func(media string, b api.RepositoryBlob) map[string]any {
		return map[string]any{"mediaType": media, "digest": b.Digest, "size": b.Size}
	}
	body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": api.ReferrerSignature,
		"config": part(api.ReferrerEmpty, config), "layers": []any{part(api.ReferrerSignature, layer)}, "subject": part(subject.MediaType, subject.RepositoryBlob)})
	if err != nil {
		s.Fatal(err)
	}
	if _, err := s.PutManifest(s.Context(), root, repo, api.ManifestUpload{MediaType: "application/vnd.oci.image.manifest.v1+json", Body: body}); err != nil {
		s.Fatal(err)
	}
}

func newKey(t testing.TB, algorithm string) *dsse.PrivateKey {
	t.Helper()
	key, err := dsse.Generate(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (s *shelf) trust(in api.TrustRequest) {
	s.Helper()
	if _, err := s.SetTrust(s.Context(), root, "default", in, -1); err != nil {
		s.Fatal(err)
	}
}

func trustedKey(name string, key *dsse.PrivateKey) api.TrustedKey {
	return api.TrustedKey{Name: name, PublicKey: string(key.Public().PEM())}
}

// Every way in which a signature does not count, case 75 of the project's list.
func TestOnlySignaturesThatCountOpenTheWay(t *testing.T) {
	s := newShelf(t)
	key, stranger := newKey(t, dsse.Ed25519), newKey(t, dsse.ECDSAP256)
	v, other := s.mustPush("one"), s.mustPush("two")
	ctx := t.Context()
	if err := s.MayDeploy(ctx, &v); err != nil {
		t.Errorf("without a policy: %v", err)
	}
	until := s.now.Add(time.Hour)
	expiring := trustedKey("release", key)
	expiring.Expires = api.TimeOf(until)
	s.trust(api.TrustRequest{Require: true, Keys: []api.TrustedKey{expiring}})
	refused := func(what, want string) {
		t.Helper()
		err := s.MayDeploy(ctx, &v)
		if !api.Is(err, api.CodeSignatureMissing) || !strings.Contains(err.Error(), want) || api.AsError(err).Cure == "" {
			t.Errorf("%s: %v; want %q", what, err, want)
		}
	}
	refused("no signature", "none of its 0 signatures counts")

	// A valid envelope for another digest, with a file too many, with one too few: the door refuses them, and smuggled in
	// they count for nothing.
	extra, fewer := statement(&v), statement(&v)
	extra.Subject = append(extra.Subject, dsse.Subject{Name: "evil.json", Digest: map[string]string{"sha256": strings.Repeat("0", 64)}})
	extra.Predicate.Resources = append(extra.Predicate.Resources, dsse.Resource{Name: "evil.json", Algorithm: "sha256", Digest: strings.Repeat("0", 64)})
	fewer.Subject, fewer.Predicate.Resources = fewer.Subject[:1], nil
	for what, c := range map[string]struct {
		text []byte
		want string
	}{
		"another version's": {s.envelope(statement(&other), key), "was made for the manifest"},
		"a file too many":   {s.envelope(extra, key), "is missing"},
		"a file too few":    {s.envelope(fewer, key), "never signed"},
		"not an envelope":   {[]byte(`{"payload":"x"}`), ""},
		"nothing at all":    {[]byte(` `), ""},
	} {
		if err := s.attachSignature(&v, c.text); !api.Is(err, api.CodeSignatureInvalid) {
			t.Errorf("%s was attached: %v", what, err)
		}
		s.smuggle(&v, c.text)
		refused(what, "counts")
	}

	// A signature of these files by a key that nobody named.
	if err := s.attachSignature(&v, s.envelope(statement(&v), stranger)); err != nil {
		t.Fatal(err)
	}
	refused("a stranger's", "signatures counts")

	// One that counts is found among all of these.
	if err := s.attachSignature(&v, s.envelope(statement(&v), key)); err != nil {
		t.Fatal(err)
	}
	if err := s.MayDeploy(ctx, &v); err != nil {
		t.Errorf("signed: %v", err)
	}
	s.now = until
	refused("an expired key", "the key release expired at")
	s.trust(api.TrustRequest{Require: true, Keys: []api.TrustedKey{expiring, trustedKey("second", stranger)}})
	if err := s.MayDeploy(ctx, &v); err != nil {
		t.Errorf("the second key: %v", err)
	}
	s.trust(api.TrustRequest{})
	if err := s.MayDeploy(ctx, &other); err != nil {
		t.Errorf("without a policy again: %v", err)
	}
}

// The referrer of a version holds only in its own tenant and repository; a version of the same bytes elsewhere is unsigned.
func TestGuardedAliases(t *testing.T) {
	s := newShelf(t)
	key := newKey(t, dsse.Ed25519)
	v := s.mustPush("one")
	s.trust(api.TrustRequest{Aliases: []api.AliasName{"champion"}, Keys: []api.TrustedKey{trustedKey("release", key)}})
	ctx := t.Context()
	if err := s.MayDeploy(ctx, &v); err != nil {
		t.Errorf("the policy asks before aliases only: %v", err)
	}
	if _, err := s.MoveAlias(ctx, root, api.AliasChange{Model: "m", Alias: "champion", To: v.Number, Moves: -1}); !api.Is(err, api.CodeSignatureMissing) {
		t.Errorf("moved by hand: %v", err)
	}
	if _, err := s.push("two", "champion"); !api.Is(err, api.CodeSignatureMissing) || !strings.Contains(api.AsError(err).Cure, "without the alias") {
		t.Errorf("moved by a push: %v", err)
	}
	if _, err := s.MoveAlias(ctx, root, api.AliasChange{Model: "m", Alias: "challenger", To: v.Number, Moves: -1}); err != nil {
		t.Errorf("another alias: %v", err)
	}
	repo := api.Repository{Tenant: "default", Name: "m"}
	m, err := s.ManifestByDigest(ctx, repo, api.ContentDigest(v.Digest))
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.OpenBlob(ctx, m.Blob)
	if err != nil {
		t.Fatal(err)
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	up := api.ManifestUpload{MediaType: m.MediaType, Body: body.Bytes(), Tags: []string{"champion"}}
	if _, err := s.PutManifest(ctx, root, repo, up); !api.Is(err, api.CodeSignatureMissing) {
		t.Errorf("moved by an OCI client: %v", err)
	}
	if err := s.attachSignature(&v, s.envelope(statement(&v), key)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutManifest(ctx, root, repo, up); err != nil {
		t.Errorf("signed, by an OCI client: %v", err)
	}
	if _, err := s.MoveAlias(ctx, root, api.AliasChange{Model: "m", Alias: "champion", To: 0, Moves: -1}); err != nil {
		t.Errorf("deleted: %v", err)
	}
}

func TestPoliciesThatCannotBeMeant(t *testing.T) {
	s := newShelf(t)
	key := trustedKey("release", newKey(t, dsse.Ed25519))
	bad := func(k api.TrustedKey, change func(*api.TrustedKey)) api.TrustedKey {
		change(&k)
		return k
	}
	for name, in := range map[string]api.TrustRequest{
		"no key":              {Require: true},
		"no key for an alias": {Aliases: []api.AliasName{"champion"}},
		"a key twice":         {Keys: []api.TrustedKey{key, key}},
		"a key without name":  {Keys: []api.TrustedKey{bad(key, func(k *api.TrustedKey) { k.Name = "" })}},
		"a key that is none":  {Keys: []api.TrustedKey{bad(key, func(k *api.TrustedKey) { k.PublicKey = "ssh-ed25519 AAAA" })}},
		"a number as alias":   {Keys: []api.TrustedKey{key}, Aliases: []api.AliasName{"7"}},
		"too many keys":       {Keys: make([]api.TrustedKey, 33)},
	} {
		if _, err := s.SetTrust(t.Context(), root, "default", in, -1); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	writer := &api.Principal{Tenant: "default", Name: "w", Scopes: []api.Scope{api.ScopeWrite}}
	if _, err := s.SetTrust(t.Context(), writer, "default", api.TrustRequest{}, -1); !api.Is(err, api.CodeForbidden) {
		t.Errorf("by a writer: %v", err)
	}
	if _, err := s.SetTrust(t.Context(), root, "default", api.TrustRequest{Keys: []api.TrustedKey{key}}, 3); !api.Is(err, api.CodeStale) {
		t.Errorf("a change of what was not read: %v", err)
	}
}

// Every commit leaves a scan report; the same content again leaves no second one. It is a paper like any other.
func TestScanReportAndBillOfMaterials(t *testing.T) {
	s := newShelf(t)
	v := s.mustPush("one")
	s.mustPush("one")
	ctx := t.Context()
	all, err := s.VersionReferrers(ctx, "default", v.Ref(), api.ReferrerScan, "", 10)
	if err != nil || len(all) != 1 || all[0].PushedBy != "penstock" {
		t.Fatalf("%+v, %v", all, err)
	}
	var r registry.ScanReport
	readPaper(t, s.Catalog, v.Ref(), all[0].Digest, &r)
	if r.Verdict != "passed" || r.Subject != v.Digest || r.Format != "onnx" || len(r.Files) != 1 || r.Limits["Files"] != 256 {
		t.Errorf("%+v", r)
	}
	digest, size := s.upload([]byte(`{"auto_map":{"AutoModel":"modeling.X"},"trust_remote_code":true}`))
	weights, bytes := s.upload([]byte(safetensorsFile("a", 16)))
	llm, _, err := s.Commit(ctx, root, "llm", api.Upload{Files: []api.UploadFile{{Path: "config.json", Digest: digest, Size: size}, {Path: "a.safetensors", Digest: weights, Size: bytes}}})
	if err != nil {
		t.Fatal(err)
	}
	if all, err = s.VersionReferrers(ctx, "default", llm.Ref(), api.ReferrerScan, "", 10); err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	r = registry.ScanReport{}
	readPaper(t, s.Catalog, llm.Ref(), all[0].Digest, &r)
	if len(r.Findings) != 2 || r.Findings[0].Rule != "remote-code" || r.Findings[1].Rule != "remote-code" || len(r.Tensors) != 1 || r.Tensors[0].Name != "a" {
		t.Errorf("%+v", r)
	}

	for form, want := range map[string]string{"cyclonedx": `"bomFormat": "CycloneDX"`, "spdx": `"spdxVersion": "SPDX-2.3"`, "": `"machine-learning-model"`} {
		text, err := s.SBOM(ctx, "default", v.Ref(), form)
		again, _ := s.SBOM(ctx, "default", v.Ref(), form)
		if err != nil || !strings.Contains(string(text), want) || !strings.Contains(string(text), v.Artifacts[0].Digest.Hex()) || string(again) != string(text) {
			t.Errorf("%q: %v\n%s", form, err, text)
		}
	}
	if _, err := s.SBOM(ctx, "default", v.Ref(), "xml"); !api.Is(err, api.CodeBadRequest) {
		t.Errorf("another form: %v", err)
	}
	// A paper of one version is not another's.
	if _, _, err := s.OpenReferrer(ctx, "default", v.Ref(), all[0].Digest); !api.Is(err, api.CodeManifestNotFound) {
		t.Errorf("another version's paper: %v", err)
	}
	for name, in := range map[string]api.ReferrerRequest{
		"no type":        {Digest: digest, Size: size},
		"a version's":    {Type: "application/vnd.cncf.model.manifest.v1+json", Digest: digest, Size: size},
		"a path as name": {Type: "text/plain", Digest: digest, Size: size, Name: "../x"},
		"never uploaded": {Type: "text/plain", Digest: "sha256:" + api.Digest(strings.Repeat("1", 64)), Size: size},
		"another size":   {Type: "text/plain", Digest: digest, Size: size + 1},
		"odd annotation": {Type: "text/plain", Digest: digest, Size: size, Annotations: map[string]string{"a\nb": "x"}},
	} {
		if _, err := s.Attach(ctx, root, v.Ref(), in); err == nil {
			t.Errorf("%s: attached", name)
		}
	}
}

func readPaper(t testing.TB, c *registry.Catalog, ref api.Ref, d api.Digest, into any) {
	t.Helper()
	_, f, err := c.OpenReferrer(context.Background(), "default", ref, d)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := json.NewDecoder(f).Decode(into); err != nil {
		t.Fatal(err)
	}
}
