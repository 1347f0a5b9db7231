// Package admintest holds the rooms that admin asks, kept in memory: real enough for the tests of admin, client and
// the command line to speak HTTP with. It is no reference for the rooms' own rules. Callers: tests.
package admintest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/admin"
)

// The keys of every Rooms: an admin and a reader of tenant default, and an admin of tenant acme.
const (
	AdminKey  = "admin-key"
	ReaderKey = "reader-key"
	InferKey  = "infer-key"
	AcmeKey   = "acme-key"
)

// Clock is the one time in these rooms.
const Clock = api.Time(1767323045_000000)

// Rooms is everything that admin asks, in memory. Its zero value is not usable; call New.
type Rooms struct {
	mu         sync.Mutex // guards all below
	principals map[string]*api.Principal
	tenants    []api.Tenant
	trust      api.TrustPolicy
	keys       []api.Key
	blobs      map[api.Digest][]byte
	models     map[string]*model
	redirects  []api.Redirect
	endpoints  map[string]*endpoint
	events     []api.Event
	replies    map[string]*reply
	webhooks   []api.Webhook
	deliveries []api.Delivery
	audit      []api.AuditRecord

	collections []api.Collection
	keeping     keeping

	// Settings of a test; set before the requests that they are for.
	Fail          map[string]error // by method name: what the room answers instead
	ReleaseState  api.ReleaseState // of new releases; succeeded when empty
	ReleaseReason string
	Logs          []api.Exchange
	Live          chan api.Exchange // what Follow gives
	BackupBytes   []byte
	BackupErr     error // after BackupBytes
	Panic         bool  // in Workers
}

type model struct {
	api.Model
	versions []api.Version
	history  map[api.AliasName][]api.AliasMove
	moves    map[api.AliasName]int64
	rules    []api.AliasRule
	readers  []api.ModelReader
}

type endpoint struct {
	api.Endpoint
	revisions []api.Revision
	releases  []api.Release
}

type reply struct {
	hash string
	done *admin.Reply
}

// New makes empty rooms with the tenants default and acme.
func New() *Rooms {
	all := []api.Scope{api.ScopeAdmin}
	return &Rooms{
		principals: map[string]*api.Principal{
			AdminKey:  {Tenant: api.DefaultTenant, Key: "k-admin", Name: "admin", Scopes: all},
			ReaderKey: {Tenant: api.DefaultTenant, Key: "k-reader", Name: "reader", Scopes: []api.Scope{api.ScopeRead}},
			InferKey:  {Tenant: api.DefaultTenant, Key: "k-infer", Name: "infer", Scopes: []api.Scope{api.ScopeInfer}},
			AcmeKey:   {Tenant: "acme", Key: "k-acme", Name: "acme", Scopes: all},
		},
		tenants: []api.Tenant{{ID: "acme", Created: Clock, Weight: 1, Generation: 1}, {ID: api.DefaultTenant, Created: Clock, Weight: 1, Generation: 1}},
		blobs:   make(map[api.Digest][]byte), models: make(map[string]*model), endpoints: make(map[string]*endpoint),
		replies: make(map[string]*reply), Fail: make(map[string]error), Live: make(chan api.Exchange),
	}
}

// Config is admin's configuration with these rooms everywhere.
func (r *Rooms) Config() admin.Config {
	return admin.Config{Guard: r, Tenants: r, Keys: r, Blobs: r, Models: r, Versions: r, Aliases: r, Search: r, Referrers: r, Trust: r, Lineage: r, Endpoints: r,
		Releases: r, Collections: r, Keeping: r, Events: r, Exchanges: r, Workers: r, Loaded: r, Statistics: r, Webhooks: r, Audit: r, Idempotency: r,
		Backup: r.Backup, Name: "test", Version: "v0.0.0-test"}
}

// Start serves the API on a loopback port until the test ends. The data plane's answers can be added to the mux.
func (r *Rooms) Start(t testing.TB, cfg admin.Config) (*httptest.Server, *http.ServeMux) {
	t.Helper()
	s, err := admin.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	mux, control := http.NewServeMux(), s.Handler()
	// Not on the mux: it would redirect paths that the API refuses.
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, admin.Prefix+"/") {
			control.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.Drain()
		server.Close()
	})
	return server, mux
}

// Authenticate knows the four keys and those that were made.
func (r *Rooms) Authenticate(authorization []string) (*api.Principal, error) {
	if len(authorization) == 1 {
		r.mu.Lock()
		defer r.mu.Unlock()
		if p, ok := r.principals[strings.TrimPrefix(authorization[0], "Bearer ")]; ok {
			return p, nil
		}
	}
	return nil, api.Fail(api.CodeUnauthenticated, "", "the key is not valid")
}

// CreateTenant keeps a tenant.
func (r *Rooms) CreateTenant(_ context.Context, _ *api.Principal, id api.TenantID) (api.Tenant, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.Fail["CreateTenant"]; err != nil {
		return api.Tenant{}, err
	}
	for _, t := range r.tenants {
		if t.ID == id {
			return t, api.Fail(api.CodeExists, string(id), "the tenant exists already")
		}
	}
	t := api.Tenant{ID: id, Created: Clock, Weight: api.WeightDefault, Generation: 1}
	r.tenants = append(r.tenants, t)
	return t, nil
}

// SetWeight changes a tenant, and minds the generation as the real one does.
func (r *Rooms) SetWeight(_ context.Context, _ *api.Principal, id api.TenantID, weight int, ifGeneration int64) (api.Tenant, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.tenants {
		t := &r.tenants[i]
		switch {
		case t.ID != id:
		case ifGeneration >= 0 && ifGeneration != t.Generation:
			return *t, api.Fail(api.CodeStale, string(id), "the tenant has changed")
		default:
			t.Weight, t.Generation = weight, t.Generation+1
			return *t, nil
		}
	}
	return api.Tenant{}, api.Fail(api.CodeNotFound, string(id), "no such tenant")
}

// Tenants lists them.
func (r *Rooms) Tenants(context.Context) ([]api.Tenant, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.tenants), nil
}

// CreateKey keeps a key whose secret is "secret-" and its number.
func (r *Rooms) CreateKey(_ context.Context, _ *api.Principal, k api.Key) (api.Key, string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k.ID, k.Created = api.KeyID(fmt.Sprintf("K%d", len(r.keys)+1)), Clock
	k.Hint = "pst_…cret"
	r.keys = append(r.keys, k)
	secret := fmt.Sprintf("secret-%d", len(r.keys))
	r.principals[secret] = &api.Principal{Tenant: k.Tenant, Key: k.ID, Name: k.Name, Scopes: k.Scopes}
	return k, secret, nil
}

// Keys lists a tenant's keys.
func (r *Rooms) Keys(_ context.Context, t api.TenantID) ([]api.Key, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.ContainsFunc(r.tenants, func(x api.Tenant) bool { return x.ID == t }) {
		return nil, api.Fail(api.CodeNotFound, string(t), "no such tenant")
	}
	return slices.DeleteFunc(slices.Clone(r.keys), func(k api.Key) bool { return k.Tenant != t }), nil
}

// RevokeKey takes a key back.
func (r *Rooms) RevokeKey(_ context.Context, _ *api.Principal, t api.TenantID, id api.KeyID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, k := range r.keys {
		if k.Tenant == t && k.ID == id {
			r.keys[i].Revoked = Clock
			maps.DeleteFunc(r.principals, func(_ string, p *api.Principal) bool { return p.Key == id })
			return nil
		}
	}
	return api.Fail(api.CodeNotFound, string(id), "no such key")
}

// PutBlob keeps bytes.
func (r *Rooms) PutBlob(_ context.Context, _ *api.Principal, body io.Reader, want api.Digest, _ int64) (api.Digest, int64, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return "", 0, err
	}
	sum := sha256.Sum256(data)
	digest := api.Digest("sha256:" + hex.EncodeToString(sum[:]))
	if want != "" && want != digest {
		return "", 0, api.Fail(api.CodeDigestMismatch, string(want), "the bytes have the digest %s", digest)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[digest] = data
	return digest, int64(len(data)), nil
}

// StatBlob gives the size of a blob.
func (r *Rooms) StatBlob(_ context.Context, _ *api.Principal, d api.Digest) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	data, ok := r.blobs[d]
	if !ok {
		return 0, api.Fail(api.CodeBlobNotFound, string(d), "no such blob")
	}
	return int64(len(data)), nil
}

// Commit makes a version; the same files again give the one that exists.
func (r *Rooms) Commit(_ context.Context, p *api.Principal, name api.ModelName, up api.Upload) (api.Version, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.Fail["Commit"]; err != nil {
		return api.Version{}, false, err
	}
	m := r.models[string(p.Tenant)+"/"+string(name)]
	if m == nil {
		m = &model{Model: api.Model{Tenant: p.Tenant, Name: name, Created: Clock}, history: make(map[api.AliasName][]api.AliasMove), moves: make(map[api.AliasName]int64)}
	}
	v := api.Version{Tenant: p.Tenant, Model: name, Number: api.VersionNumber(len(m.versions) + 1), State: api.VersionReady, Format: "onnx",
		Tags: up.Tags, Metrics: up.Metrics, Card: up.Card, Origin: up.Origin, Notes: up.Notes, Label: up.Label, Created: Clock, CreatedBy: p.Name, Signature: api.Signature{
			Inputs:  []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 3}, Symbols: []string{"batch", ""}}},
			Outputs: []api.TensorSpec{{Name: "label", Datatype: "INT64", Shape: []int64{-1}}}}}
	hash := sha256.New()
	for i, f := range up.Files {
		if _, ok := r.blobs[f.Digest]; !ok {
			return v, false, api.Fail(api.CodeBlobNotFound, string(f.Digest), "no such blob")
		}
		role := api.RoleModel
		if i > 0 {
			role = api.RoleData
		}
		v.Artifacts = append(v.Artifacts, api.Artifact{Path: f.Path, Digest: f.Digest, Size: f.Size, Role: role, MediaType: "application/octet-stream"})
		v.Size += f.Size
		fmt.Fprint(hash, f.Path, f.Digest)
	}
	v.Digest = api.Digest("sha256:" + hex.EncodeToString(hash.Sum(nil)))
	r.models[string(p.Tenant)+"/"+string(name)] = m
	created := true
	for _, old := range m.versions {
		if old.Digest == v.Digest {
			v, created = old, false
		}
	}
	if created {
		m.versions = append(m.versions, v)
		m.Latest = v.Number
	}
	for _, a := range up.Aliases {
		m.move(a, v.Number, p.Name, up.Why)
	}
	return v, created, nil
}

func (m *model) move(a api.AliasName, to api.VersionNumber, by, why string) api.Alias {
	i := slices.IndexFunc(m.Aliases, func(x api.Alias) bool { return x.Name == a })
	var from api.VersionNumber
	if i >= 0 {
		from = m.Aliases[i].Version
		m.Aliases = slices.Delete(slices.Clone(m.Aliases), i, i+1)
	}
	m.moves[a]++
	m.history[a] = append(m.history[a], api.AliasMove{Seq: m.moves[a], From: from, To: to, At: Clock, By: by, Why: why})
	moved := api.Alias{Name: a, Version: to, Moved: Clock, MovedBy: by, Moves: m.moves[a]}
	if to != 0 {
		m.Aliases = append(slices.Clone(m.Aliases), moved)
		slices.SortFunc(m.Aliases, func(a, b api.Alias) int { return cmp.Compare(a.Name, b.Name) })
	}
	return moved
}

func (r *Rooms) find(t api.TenantID, name api.ModelName) (*model, error) {
	if m, ok := r.models[string(t)+"/"+string(name)]; ok {
		return m, nil
	}
	return nil, api.Fail(api.CodeModelNotFound, string(name), "there is no such model")
}

// Model reads a model.
func (r *Rooms) Model(_ context.Context, t api.TenantID, name api.ModelName) (api.Model, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, err := r.find(t, name)
	if err != nil {
		return api.Model{}, err
	}
	return m.Model, nil
}

// Models lists models by name.
func (r *Rooms) Models(_ context.Context, t api.TenantID, after api.ModelName, limit int) ([]api.Model, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []api.Model
	for _, key := range slices.Sorted(maps.Keys(r.models)) {
		if m := r.models[key]; m.Tenant == t && m.Name > after && len(all) < limit {
			all = append(all, m.Model)
		}
	}
	return all, nil
}

// Resolve finds a version.
func (r *Rooms) Resolve(_ context.Context, t api.TenantID, ref api.Ref) (api.Version, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.resolve(t, ref)
}

func (r *Rooms) resolve(t api.TenantID, ref api.Ref) (api.Version, error) {
	m, err := r.find(t, ref.Model)
	if err != nil {
		return api.Version{}, err
	}
	want := ref.Version
	if ref.Alias != "" {
		i := slices.IndexFunc(m.Aliases, func(a api.Alias) bool { return a.Name == ref.Alias })
		if i < 0 {
			return api.Version{}, api.Fail(api.CodeAliasNotFound, ref.String(), "there is no such alias")
		}
		want = m.Aliases[i].Version
	}
	if want == 0 && ref.Digest == "" {
		want = m.Latest
	}
	for _, v := range m.versions {
		if v.Number == want || ref.Digest != "" && v.Digest == ref.Digest {
			return v, nil
		}
	}
	return api.Version{}, api.Fail(api.CodeVersionNotFound, ref.String(), "there is no such version")
}

// Versions lists versions, newest first.
func (r *Rooms) Versions(_ context.Context, t api.TenantID, name api.ModelName, before api.VersionNumber, limit int) ([]api.Version, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, err := r.find(t, name)
	if err != nil {
		return nil, err
	}
	return newest(m.versions, func(v api.Version) int64 { return int64(v.Number) }, int64(before), limit), nil
}

// SetTags changes tags.
func (r *Rooms) SetTags(_ context.Context, p *api.Principal, name api.ModelName, n api.VersionNumber, set map[string]string, remove []string) (api.Version, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, err := r.find(p.Tenant, name)
	if err != nil {
		return api.Version{}, err
	}
	v := &m.versions[n-1]
	tags := maps.Clone(v.Tags)
	if tags == nil {
		tags = make(map[string]string)
	}
	maps.Copy(tags, set)
	for _, k := range remove {
		delete(tags, k)
	}
	v.Tags = tags
	return *v, nil
}

// OpenArtifact opens a file of a version.
func (r *Rooms) OpenArtifact(_ context.Context, t api.TenantID, ref api.Ref, path string) (api.Artifact, io.ReadSeekCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, err := r.resolve(t, ref)
	if err != nil {
		return api.Artifact{}, nil, err
	}
	for _, a := range v.Artifacts {
		if a.Path == path {
			return a, nopCloser{bytes.NewReader(r.blobs[a.Digest])}, nil
		}
	}
	return api.Artifact{}, nil, api.Fail(api.CodeNotFound, path, "the version has no such file")
}

type nopCloser struct{ io.ReadSeeker }

// Close does nothing.
func (nopCloser) Close() error { return nil }

// MoveAlias moves or deletes an alias.
func (r *Rooms) MoveAlias(_ context.Context, p *api.Principal, move api.AliasChange) (api.Alias, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name, a, to, ifMoves, why := move.Model, move.Alias, move.To, move.Moves, move.Why
	m, err := r.find(p.Tenant, name)
	if err != nil {
		return api.Alias{}, err
	}
	at := slices.IndexFunc(m.Aliases, func(x api.Alias) bool { return x.Name == a })
	exists := at >= 0
	switch {
	case move.Expect != nil && (!exists && *move.Expect != 0 || exists && m.Aliases[at].Version != *move.Expect):
		return api.Alias{}, api.Fail(api.CodeStale, string(a), "the alias does not name version %d", *move.Expect)
	case to == 0 && !exists:
		return api.Alias{}, api.Fail(api.CodeAliasNotFound, string(a), "there is no such alias")
	case ifMoves > 0 && ifMoves != m.moves[a], ifMoves == 0 && exists:
		return api.Alias{}, api.Fail(api.CodeStale, string(a), "the alias has moved %d times", m.moves[a])
	case int(to) > len(m.versions):
		return api.Alias{}, api.Fail(api.CodeVersionNotFound, fmt.Sprintf("%s@%d", name, to), "there is no such version")
	}
	return m.move(a, to, p.Name, why), nil
}

// AliasHistory lists moves, newest first.
func (r *Rooms) AliasHistory(_ context.Context, t api.TenantID, name api.ModelName, a api.AliasName, limit int) ([]api.AliasMove, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, err := r.find(t, name)
	if err != nil {
		return nil, err
	}
	return newest(m.history[a], func(x api.AliasMove) int64 { return x.Seq }, 0, limit), nil
}

// newest pages a list that is kept oldest first.
func newest[T any](all []T, number func(T) int64, before int64, limit int) []T {
	var page []T
	for _, x := range slices.Backward(all) {
		if (before == 0 || number(x) < before) && len(page) < limit {
			page = append(page, x)
		}
	}
	return page
}
