package mirror_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob/files"
	"github.com/penstock/penstock/internal/egress"
	"github.com/penstock/penstock/internal/mirror"
	"github.com/penstock/penstock/internal/registry"
	"github.com/penstock/penstock/internal/registry/oci"
	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/internal/tenancy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a registry with everything real around it but a fleet, and the controller that copies to and from it.
type site struct {
	t       testing.TB
	dir     string
	key     string // of tenant acme
	db      *store.DB
	blobs   *files.Store
	guard   *tenancy.Guard
	catalog *registry.Catalog
	door    *oci.Server
	server  *httptest.Server
	mirror  *mirror.Controller
	stop    func()
	config  func(*mirror.Config)

	mu    sync.Mutex // guards front
	front func(w http.ResponseWriter, r *http.Request, through http.Handler)
}

var acme = &api.Principal{Tenant: "acme", Name: "ci", Scopes: []api.Scope{api.ScopeRead, api.ScopeWrite}}

func newSite(t testing.TB, config func(*mirror.Config)) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), config: config}
	s.open()
	admin := &api.Principal{Tenant: api.DefaultTenant, Name: "admin", Scopes: []api.Scope{api.ScopeAdmin}}
	_, err := s.guard.CreateTenant(t.Context(), admin, "acme")
	s.must(err)
	_, s.key, err = s.guard.CreateKey(t.Context(), admin, api.Key{Tenant: "acme", Name: "ci", Scopes: acme.Scopes})
	s.must(err)
	t.Cleanup(s.close)
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// open starts everything on the site's directory; called again after close, it is a restart.
func (s *site) open() {
	s.t.Helper()
	var err error
	s.db, err = store.Open(s.t.Context(), "sqlite:"+filepath.Join(s.dir, "penstock.db"))
	s.must(err)
	s.blobs, err = files.Open(files.Config{Dir: filepath.Join(s.dir, "blobs")})
	s.must(err)
	pepper, err := tenancy.LoadPepper(filepath.Join(s.dir, "pepper"))
	s.must(err)
	s.guard = tenancy.New(s.db, pepper, false)
	s.must(s.guard.Load(s.t.Context()))
	s.must(s.guard.EnsureAdmin(s.t.Context(), filepath.Join(s.dir, "admin.key")))
	s.catalog, err = registry.New(registry.Config{Store: s.db, Blobs: s.blobs, CacheDir: filepath.Join(s.dir, "cache")})
	s.must(err)
	inside, err := egress.Parse([]string{"127.0.0.1"})
	s.must(err)
	cfg := mirror.Config{Local: s.catalog, Store: s.db, Dir: filepath.Join(s.dir, "copies"), Secret: pepper, Egress: inside, Pause: time.Millisecond,
		Most: 10 * time.Millisecond, Version: "test", Log: slog.New(slog.DiscardHandler)}
	if s.config != nil {
		s.config(&cfg)
	}
	s.mirror, err = mirror.New(cfg)
	s.must(err)
	s.door, err = oci.New(oci.Config{Guard: s.guard, Blobs: s.catalog, Manifests: s.catalog, Listings: s.catalog, Images: s.catalog, Upstream: s.mirror,
		StageDir: filepath.Join(s.dir, "uploads"),
		Log:      slog.New(slog.DiscardHandler)})
	s.must(err)
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		front := s.front
		s.mu.Unlock()
		if front == nil {
			s.door.Handler().ServeHTTP(w, r)
			return
		}
		front(w, r, s.door.Handler())
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.mirror.Run(ctx) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
}

func (s *site) close() {
	s.stop()
	s.server.CloseClientConnections()
	s.server.Close()
	for _, c := range []io.Closer{s.door, s.catalog, s.blobs, s.db} {
		if err := c.Close(); err != nil {
			s.t.Error(err)
		}
	}
}

// through puts a handler before the site's own.
func (s *site) through(front func(w http.ResponseWriter, r *http.Request, through http.Handler)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.front = front
}

func (s *site) host() string { return strings.TrimPrefix(s.server.URL, "http://") }

// login is how others come in.
func (s *site) login() api.RemoteLogin {
	return api.RemoteLogin{Username: "any", Password: s.key, PlainHTTP: true}
}

func (s *site) name(rest string) string { return "oci://" + s.host() + "/" + rest }

// put pushes a blob or manifest as its owner, and gives its digest.
func (s *site) put(path string, media string, body []byte) string {
	s.t.Helper()
	method := http.MethodPost
	if media != "" {
		method = http.MethodPut
	}
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.server.URL+path, bytes.NewReader(body))
	s.must(err)
	r.Header.Set("Authorization", "Bearer "+s.key)
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	answer, err := http.DefaultClient.Do(r)
	s.must(err)
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(answer.Body)
		s.t.Fatalf("%s %s: %d %s", method, path, answer.StatusCode, text)
	}
	return sha(body)
}

func sha(body []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(body)) }

const (
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
	mediaEmpty    = "application/vnd.oci.empty.v1+json"
)

type described struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type listed struct {
	SchemaVersion int         `json:"schemaVersion"`
	MediaType     string      `json:"mediaType"`
	ArtifactType  string      `json:"artifactType,omitempty"`
	Config        *described  `json:"config,omitempty"`
	Layers        []described `json:"layers,omitempty"`
	Manifests     []described `json:"manifests,omitempty"`
	Subject       *described  `json:"subject,omitempty"`
}

func describe(media string, body []byte) described {
	return described{MediaType: media, Digest: sha(body), Size: len(body)}
}

// artifact pushes files as one artifact, under a tag or by its digest, and gives the manifest's bytes.
func (s *site) artifact(repo, tag, kind string, subject *described, files ...string) []byte {
	s.t.Helper()
	empty := []byte("{}")
	s.put("/v2/"+repo+"/blobs/uploads/?digest="+sha(empty), "", empty)
	config := describe(mediaEmpty, empty)
	m := listed{SchemaVersion: 2, MediaType: mediaManifest, ArtifactType: kind, Config: &config, Subject: subject}
	for i := 0; i < len(files); i += 2 {
		body := []byte(files[i+1])
		s.put("/v2/"+repo+"/blobs/uploads/?digest="+sha(body), "", body)
		layer := describe("application/octet-stream", body)
		layer.Annotations = map[string]string{"org.opencontainers.image.title": files[i]}
		m.Layers = append(m.Layers, layer)
	}
	return s.manifest(repo, tag, m)
}

func (s *site) manifest(repo, tag string, m listed) []byte {
	s.t.Helper()
	text, err := json.Marshal(m)
	s.must(err)
	if tag == "" {
		tag = sha(text)
	}
	s.put("/v2/"+repo+"/manifests/"+tag, m.MediaType, text)
	return text
}

// ends waits for a transfer's end.
func (s *site) ends(t api.Transfer, want api.TransferState) api.Transfer {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	got, err := s.mirror.Transfer(ctx, t.Tenant, t.ID, true)
	s.must(err)
	if got.State != want {
		s.t.Fatalf("the transfer of %s is %s after %d tries, want %s: %s %s", got.Remote, got.State, got.Tries, want, got.Code, got.Error)
	}
	return got
}

func (s *site) imports(model api.ModelName, in api.ImportRequest) api.Transfer {
	s.t.Helper()
	t, err := s.mirror.Import(s.t.Context(), acme, model, in)
	s.must(err)
	return t
}

// digest is what a tag of a repository names here.
func (s *site) digest(repo, tag string) string {
	s.t.Helper()
	m, err := s.catalog.ManifestByTag(s.t.Context(), api.Repository{Tenant: "acme", Name: repo}, tag)
	s.must(err)
	return string(m.Digest)
}

// holds checks that a blob is here, whole.
func (s *site) holds(repo string, body []byte) {
	s.t.Helper()
	b, err := s.catalog.RepositoryBlob(s.t.Context(), api.Repository{Tenant: "acme", Name: repo}, api.ContentDigest(sha(body)))
	s.must(err)
	f, err := s.catalog.OpenBlob(s.t.Context(), b.Blob)
	s.must(err)
	defer f.Close()
	got, err := io.ReadAll(f)
	s.must(err)
	if !bytes.Equal(got, body) {
		s.t.Errorf("%d other bytes are here, want %d", len(got), len(body))
	}
}

// left lists what lies among unfinished copies.
func (s *site) left() (names []string) {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "copies"))
	s.must(err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func model(t testing.TB) string {
	t.Helper()
	body, err := os.ReadFile("../../demo/digits-v1.onnx")
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func content(size int, seed string) string { return strings.Repeat(seed, size/len(seed)+1)[:size] }
