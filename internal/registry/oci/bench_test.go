package oci_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/blob/files"
	"github.com/penstock/penstock/internal/gateway"
	"github.com/penstock/penstock/internal/registry"
	"github.com/penstock/penstock/internal/registry/oci"
	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/internal/tenancy"
)

// bench is a registry with everything real around it but a fleet: files, SQLite, keys, and the limits of the listener.
type bench struct {
	t       testing.TB
	dir     string
	keys    map[string]string // by tenant, with read and write; "reader" and "writer" are of tenant acme
	db      *store.DB
	blobs   *files.Store
	guard   *tenancy.Guard
	catalog *registry.Catalog
	door    *oci.Server
	server  *httptest.Server
	limits  oci.Limits
	dev     bool
	fault   func(files.Step) error // of the blob store
	ahead   time.Duration          // of the clock
	halfway bool                   // whether the store takes files over and the repository is not told
}

// halfBlobs ends KeepFile where a crash could: the store has the file, the repository does not know.
type halfBlobs struct {
	*registry.Catalog
	bench *bench
}

func (h halfBlobs) KeepFile(ctx context.Context, p *api.Principal, repo api.Repository, b api.RepositoryBlob, path, upload string) error {
	if !h.bench.halfway {
		return h.Catalog.KeepFile(ctx, p, repo, b, path, upload)
	}
	if err := h.bench.blobs.Keep(ctx, path, blob.Info{Digest: b.Blob, Size: b.Size}); err != nil {
		return err
	}
	return api.Fail(api.CodeStorage, "", "the database is away")
}

func setUp(t testing.TB, change func(*bench)) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), keys: map[string]string{}}
	if change != nil {
		change(b)
	}
	b.open()
	t.Cleanup(func() { b.close() })
	admin := &api.Principal{Tenant: api.DefaultTenant, Name: "admin", Scopes: []api.Scope{api.ScopeAdmin}}
	for _, tenant := range []api.TenantID{"acme", "evil"} {
		if _, err := b.guard.CreateTenant(t.Context(), admin, tenant); err != nil {
			t.Fatal(err)
		}
	}
	for name, k := range map[string]api.Key{
		"default": {Tenant: "default", Scopes: []api.Scope{api.ScopeRead, api.ScopeWrite}},
		"acme":    {Tenant: "acme", Scopes: []api.Scope{api.ScopeRead, api.ScopeWrite}},
		"evil":    {Tenant: "evil", Scopes: []api.Scope{api.ScopeAdmin}},
		"reader":  {Tenant: "acme", Scopes: []api.Scope{api.ScopeRead}},
		"writer":  {Tenant: "acme", Scopes: []api.Scope{api.ScopeWrite}},
		"infer":   {Tenant: "acme", Scopes: []api.Scope{api.ScopeInfer}},
	} {
		k.Name = name
		_, secret, err := b.guard.CreateKey(t.Context(), admin, k)
		if err != nil {
			t.Fatal(err)
		}
		b.keys[name] = secret
	}
	return b
}

// open starts everything on the bench's directory; called again after close, it is a restart.
func (b *bench) open() {
	b.t.Helper()
	must := func(err error) {
		b.t.Helper()
		if err != nil {
			b.t.Fatal(err)
		}
	}
	var err error
	b.db, err = store.Open(b.t.Context(), "sqlite:"+filepath.Join(b.dir, "penstock.db"))
	must(err)
	b.blobs, err = files.Open(files.Config{Dir: filepath.Join(b.dir, "blobs"), Fault: b.fault})
	must(err)
	pepper, err := tenancy.LoadPepper(filepath.Join(b.dir, "pepper"))
	must(err)
	now := func() time.Time { return time.Now().Add(b.ahead) }
	b.guard = tenancy.New(b.db, pepper, b.dev)
	b.guard.Now = now
	must(b.guard.Load(b.t.Context()))
	must(b.guard.EnsureAdmin(b.t.Context(), filepath.Join(b.dir, "admin.key")))
	b.catalog, err = registry.New(registry.Config{Store: b.db, Blobs: b.blobs, CacheDir: filepath.Join(b.dir, "cache"), Now: now})
	must(err)
	b.door, err = oci.New(oci.Config{Guard: b.guard, Blobs: halfBlobs{b.catalog, b}, Manifests: b.catalog, Listings: b.catalog, Images: b.catalog,
		StageDir: filepath.Join(b.dir, "uploads"), Limits: b.limits, Now: now})
	must(err)
	must(b.door.TakeUp(b.t.Context()))
	must(b.door.Recover(b.t.Context()))
	b.server = httptest.NewUnstartedServer(b.door.Handler())
	b.server.Config = gateway.DefaultConfig().Standard(b.door.Handler(), nil)
	b.server.Start()
}

func (b *bench) close() {
	b.server.Close()
	for _, c := range []io.Closer{b.door, b.catalog, b.blobs, b.db} {
		if err := c.Close(); err != nil {
			b.t.Error(err)
		}
	}
}

// answer is a response, read to its end.
type answer struct {
	*http.Response
	body []byte
}

// code is the first error code of the body.
func (a answer) code() string {
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(a.body, &e) != nil || len(e.Errors) == 0 {
		return ""
	}
	return e.Errors[0].Code
}

// do sends a request as the named key's owner; headers come in pairs. It fails the test on another status than wanted.
func (b *bench) do(want int, as, method, path string, body []byte, headers ...string) answer {
	b.t.Helper()
	a, err := b.try(as, method, path, body, headers...)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.StatusCode != want {
		b.t.Errorf("%s %s as %s: status %d, want %d: %s", method, path, as, a.StatusCode, want, a.body)
	}
	return a
}

func (b *bench) try(as, method, path string, body []byte, headers ...string) (answer, error) {
	var from io.Reader
	if body != nil {
		from = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(b.t.Context(), method, b.server.URL+path, from)
	if err != nil {
		return answer{}, err
	}
	if key := b.keys[as]; key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := b.server.Client().Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{response, text}, err
}

func sha(body []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(body)) }

func sha2(body []byte) string {
	sum := sha512.Sum512(body)
	return "sha512:" + hex.EncodeToString(sum[:])
}

// blob pushes a blob in one request.
func (b *bench) blob(as, repo string, body []byte) string {
	b.t.Helper()
	b.do(http.StatusCreated, as, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+sha(body), body)
	return sha(body)
}

const (
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
	mediaEmpty    = "application/vnd.oci.empty.v1+json"
	noteTitle     = "org.opencontainers.image.title"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        *descriptor       `json:"config,omitempty"`
	Layers        []descriptor      `json:"layers,omitempty"`
	Manifests     []descriptor      `json:"manifests,omitempty"`
	Subject       *descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

func describe(media string, body []byte) descriptor {
	return descriptor{MediaType: media, Digest: sha(body), Size: len(body)}
}

func encode(t testing.TB, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// artifact pushes the blobs of an artifact of plain files, and gives its manifest. Files come in pairs of title and content.
func (b *bench) artifact(as, repo string, artifactType string, files ...string) manifest {
	b.t.Helper()
	empty := []byte("{}")
	b.blob(as, repo, empty)
	config := describe(mediaEmpty, empty)
	m := manifest{SchemaVersion: 2, MediaType: mediaManifest, ArtifactType: artifactType, Config: &config}
	for i := 0; i < len(files); i += 2 {
		body := []byte(files[i+1])
		b.blob(as, repo, body)
		layer := describe("application/octet-stream", body)
		if files[i] != "" {
			layer.Annotations = map[string]string{noteTitle: files[i]}
		}
		m.Layers = append(m.Layers, layer)
	}
	return m
}

// put pushes a manifest by tag or digest.
func (b *bench) put(want int, as, repo, reference string, m manifest) (answer, []byte) {
	b.t.Helper()
	body := encode(b.t, m)
	if reference == "" {
		reference = sha(body)
	}
	return b.do(want, as, "PUT", "/v2/"+repo+"/manifests/"+reference, body, "Content-Type", m.MediaType), body
}

// begin starts an upload and gives its path.
func (b *bench) begin(as, repo string) string {
	b.t.Helper()
	return b.do(http.StatusAccepted, as, "POST", "/v2/"+repo+"/blobs/uploads/", nil).Header.Get("Location")
}

func content(size int, seed string) []byte {
	return []byte(strings.Repeat(seed, size/len(seed)+1)[:size])
}

// sweeping runs the sweeper until cancel.
func (b *bench) sweeping() (context.Context, func()) {
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	done := make(chan error, 1)
	go func() { done <- b.door.Sweep(ctx) }()
	return ctx, func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	}
}
