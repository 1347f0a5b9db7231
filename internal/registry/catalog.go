// Package registry keeps models: it takes files in, checks them, writes each version as an OCI manifest in ModelPack's
// words, and finds versions by number, alias or digest. It does not decide who is calling, what is deployed or where
// models run. Callers: server, which hands the Catalog to admin, rollout and fleet.
package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
)

// VersionStore is what the catalog needs of the database for models and versions.
type VersionStore interface {
	PutManifest(ctx context.Context, push api.ManifestPush) (_ api.Version, created bool, _ error)
	Version(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber) (api.Version, error)
	VersionByDigest(ctx context.Context, t api.TenantID, m api.ModelName, d api.Digest) (api.Version, error)
	Versions(ctx context.Context, t api.TenantID, m api.ModelName, before api.VersionNumber, limit int) ([]api.Version, error)
	SetTags(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber, set map[string]string, remove []string, by string, at api.Time) (api.Version, error)
}

// ModelStore is what the catalog needs of the database for models, their aliases and known crashes.
type ModelStore interface {
	Model(ctx context.Context, t api.TenantID, m api.ModelName) (api.Model, error)
	Models(ctx context.Context, t api.TenantID, after api.ModelName, limit int) ([]api.Model, error)
	MoveAlias(ctx context.Context, move api.AliasChange) (api.Alias, error)
	AliasHistory(ctx context.Context, t api.TenantID, m api.ModelName, a api.AliasName, limit int) ([]api.AliasMove, error)

	// Crashes counts how often the runtime died of a version, by the digest of its manifest.
	Tried(ctx context.Context, t api.TenantID, m api.ModelName, d api.Digest) (api.Tried, error)
}

// RepositoryStore is what the catalog needs of the database for what OCI clients see.
type RepositoryStore interface {
	LinkBlob(ctx context.Context, repo api.Repository, b api.RepositoryBlob, at api.Time) error
	RepositoryBlob(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.RepositoryBlob, error)
	MountBlob(ctx context.Context, repo api.Repository, from string, d api.ContentDigest, at api.Time) (bool, error)
	UnlinkBlob(ctx context.Context, repo api.Repository, d api.ContentDigest) error
	ManifestByDigest(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.Manifest, error)
	ManifestByTag(ctx context.Context, repo api.Repository, tag string) (api.Manifest, error)
	DeleteManifest(ctx context.Context, repo api.Repository, d api.ContentDigest, by string, at api.Time) error
	DeleteTag(ctx context.Context, repo api.Repository, tag string, by *api.Principal, at api.Time) error
	RepositoryTags(ctx context.Context, repo api.Repository, after string, limit int) ([]string, error)
	Referrers(ctx context.Context, repo api.Repository, subject api.ContentDigest, artifactType string, after api.ContentDigest, limit int) ([]api.Manifest, error)
	Repositories(ctx context.Context, t api.TenantID, after string, limit int) ([]string, error)
	VersionsWithoutManifest(ctx context.Context, limit int) ([]api.Version, error)
}

// SearchStore is what the catalog needs of the database to search it.
type SearchStore interface {
	Search(ctx context.Context, q api.Search) ([]api.Found, error)
	SearchWords(ctx context.Context, t api.TenantID, field, prefix string, limit int) ([]string, error)
	SearchFields(ctx context.Context, t api.TenantID, limit int) ([]string, error)
}

// MetadataStore is what the catalog needs of the database for labels, what may change about a version, and rules of aliases.
type MetadataStore interface {
	VersionByLabel(ctx context.Context, t api.TenantID, m api.ModelName, label string) (api.Version, error)
	VersionInRange(ctx context.Context, t api.TenantID, m api.ModelName, r api.LabelRange) (api.Version, error)
	EditVersion(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber, edit func(*api.Version) (api.Event, error)) (api.Version, error)
	PutModelReader(ctx context.Context, t api.TenantID, m api.ModelName, r api.ModelReader) error
	DeleteModelReader(ctx context.Context, t api.TenantID, m api.ModelName, reader api.TenantID, at api.Time, by string) error
	ModelReaders(ctx context.Context, t api.TenantID, m api.ModelName) ([]api.ModelReader, error)
	PutAliasRule(ctx context.Context, t api.TenantID, m api.ModelName, rule api.AliasRule) error
	AliasRules(ctx context.Context, t api.TenantID, m api.ModelName) ([]api.AliasRule, error)
}

// Store is the part of the database that the catalog needs.
type Store interface {
	VersionStore
	SearchStore
	MetadataStore
	ModelStore
	RepositoryStore
	HoldStore
	TrashStore
	RetentionStore
	DerivedStore
	TrustStore
	RenameStore
}

// Probe loads a version in a process that may die of it. Its error refuses the push: CodeLoadFailed when the runtime said
// no, CodeModelCrashes when it died. The probe itself counts crashes, under Want.Digest: always the manifest's digest.
type Probe func(ctx context.Context, want api.Want) error

// Config holds what a Catalog is made of.
type Config struct {
	Store    Store
	Blobs    blob.Store
	CacheDir string                     // where Materialize keeps versions as plain files; made when missing
	CacheMax int64                      // most bytes that CacheDir takes beside links to blobs, as far as nothing in use is over it; 0: no limit
	Busy     func() map[api.Digest]bool // versions whose files must stay in CacheDir; nil: none
	GrantDir string                     // where earlier releases remembered uploads per tenant; "": `grants` beside CacheDir
	Holder   string                     // names this process in reservations, the same after each start; "": CacheDir
	Limits   Limits                     // zero fields take their defaults
	Window   time.Duration              // how long deleted things can be restored, for people to know; default 7 days
	Probe    Probe                      // nil: versions are not loaded before they are committed
	Renamed  Renamed                    // nil: nobody is told of renames
	Now      func() time.Time           // nil: time.Now
}

// Catalog is the registry. All methods may be called from many goroutines.
type Catalog struct {
	store    Store
	blobs    blob.Store
	limits   Limits
	probe    Probe
	renamed  Renamed
	now      func() time.Time
	tried    seen[[sha256.Size]byte] // ONNX files that the runtime loaded: see keyOf
	written  seen[api.Digest]        // configs that were made durable
	cacheDir string
	grantDir string
	holder   string
	window   time.Duration

	renaming sync.Mutex // held from a rename until it was told of, so that the last name is told last; never taken with mu
	owedMu   sync.Mutex // guards owed; nothing else is taken under it
	owed     []string   // reservations that could not be ended yet

	mu         sync.Mutex // guards filling and making, and what of kept says so
	cacheBytes int64
	busy       func() map[api.Digest]bool
	scanning   sync.Once
	shrinking  sync.Mutex                   // held while versions are taken away; taken before mu
	kept       map[api.Digest]*kept         // guarded by mu
	keptBytes  int64                        // sum of kept; guarded by mu
	filling    map[api.Digest]chan struct{} // versions that are being materialized; closed when that ended
	making     map[api.Digest]chan struct{} // versions whose image is being made; closed when that ended
}

// New makes the directories and a Catalog on them.
func New(cfg Config) (*Catalog, error) {
	if cfg.Store == nil || cfg.Blobs == nil || cfg.CacheDir == "" {
		return nil, errors.New("registry needs a store, a blob store and a cache directory")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.GrantDir == "" {
		cfg.GrantDir = filepath.Join(filepath.Dir(filepath.Clean(cfg.CacheDir)), "grants")
	}
	cacheDir, err := filepath.Abs(cfg.CacheDir)
	if err != nil {
		return nil, fmt.Errorf("find the cache directory: %w", err)
	}
	setDefault(&cfg.Window, 7*24*time.Hour)
	if cfg.Holder == "" {
		cfg.Holder = cacheDir
	}
	if err := os.MkdirAll(cacheDir, 0o700); err != nil {
		return nil, storage("make the registry's directories", err)
	}
	c := &Catalog{store: cfg.Store, blobs: cfg.Blobs, limits: cfg.Limits.withDefaults(), probe: cfg.Probe, renamed: cfg.Renamed,
		now: cfg.Now, cacheDir: cacheDir, grantDir: cfg.GrantDir, holder: cfg.Holder, window: cfg.Window, filling: map[api.Digest]chan struct{}{},
		making: map[api.Digest]chan struct{}{}, cacheBytes: cfg.CacheMax, busy: cfg.Busy, kept: map[api.Digest]*kept{}}
	return c, c.dropUnfinished()
}

// Close ends a catalog. It holds nothing that outlives its last call.
func (c *Catalog) Close() error { return nil }

// Resolve finds the version that a reference names in a tenant: by number, alias or digest, and the latest one when it
// names none. The version may be a rejected one; who deploys looks at its state.
func (c *Catalog) Resolve(ctx context.Context, t api.TenantID, ref api.Ref) (api.Version, error) {
	if ref.Tenant != "" && ref.Tenant != t {
		// The same answer as for a model that does not exist.
		return api.Version{}, api.Fail(api.CodeModelNotFound, string(ref.Model), "no such model in this tenant")
	}
	switch {
	case ref.Version != 0:
		return c.store.Version(ctx, t, ref.Model, ref.Version)
	case ref.Digest != "":
		return c.store.VersionByDigest(ctx, t, ref.Model, ref.Digest)
	case ref.Label != "":
		v, err := c.byLabel(ctx, t, ref)
		if ref.Alias == "" || !api.Is(err, api.CodeVersionNotFound) {
			return v, err
		} // an alias may look like a label, such as one that was pushed as an OCI tag
	}
	model, err := c.store.Model(ctx, t, ref.Model)
	if err != nil {
		return api.Version{}, err
	}
	if ref.Alias == "" {
		return c.store.Version(ctx, t, ref.Model, model.Latest)
	}
	for _, alias := range model.Aliases {
		if alias.Name == ref.Alias {
			return c.store.Version(ctx, t, ref.Model, alias.Version)
		}
	}
	return api.Version{}, api.Fail(api.CodeAliasNotFound, ref.String(), "the model has no alias %q", ref.Alias)
}

// Model shows a model with its aliases.
func (c *Catalog) Model(ctx context.Context, t api.TenantID, name api.ModelName) (api.Model, error) {
	return c.store.Model(ctx, t, name)
}

// Models lists a tenant's models by name, those after the cursor.
func (c *Catalog) Models(ctx context.Context, t api.TenantID, after api.ModelName, limit int) ([]api.Model, error) {
	return c.store.Models(ctx, t, after, clampList(limit))
}

// Versions lists a model's versions, newest first, those before the cursor; 0 begins with the newest.
func (c *Catalog) Versions(ctx context.Context, t api.TenantID, m api.ModelName, before api.VersionNumber, limit int) ([]api.Version, error) {
	return c.store.Versions(ctx, t, m, before, clampList(limit))
}

// SetTags changes the only mutable part of a version.
func (c *Catalog) SetTags(ctx context.Context, p *api.Principal, m api.ModelName, n api.VersionNumber, set map[string]string, remove []string) (api.Version, error) {
	if err := mayWrite(p); err != nil {
		return api.Version{}, err
	}
	if len(remove) > c.limits.Tags {
		return api.Version{}, api.Fail(api.CodeTooLarge, "", "%d tags to remove are over the limit of %d", len(remove), c.limits.Tags)
	}
	v, err := c.store.Version(ctx, p.Tenant, m, n)
	if err != nil {
		return api.Version{}, err
	}
	after := make(map[string]string, len(v.Tags)+len(set))
	for key, value := range v.Tags {
		after[key] = value
	}
	for _, key := range remove {
		delete(after, key)
	}
	for key, value := range set {
		after[key] = value
	}
	if err := c.limits.checkTags(after); err != nil {
		return api.Version{}, err
	}
	return c.store.SetTags(ctx, p.Tenant, m, n, set, remove, p.Name, api.TimeOf(c.now()))
}

// MoveAlias makes an alias name a version, or deletes it when To is 0, if it is as the change expects and its rule lets the
// caller and the version through. The change's tenant, mover and time are filled in here.
func (c *Catalog) MoveAlias(ctx context.Context, p *api.Principal, move api.AliasChange) (api.Alias, error) {
	if err := mayWrite(p); err != nil {
		return api.Alias{}, err
	}
	check := checkAlias
	if move.To == 0 { // an odd one that is there already can be deleted
		check = func(a api.AliasName) error { return api.CheckName("alias", string(a)) }
	}
	if err := check(move.Alias); err != nil {
		return api.Alias{}, err
	}
	if err := c.limits.checkWhy(move.Why); err != nil {
		return api.Alias{}, err
	}
	if move.To != 0 {
		v, err := c.store.Version(ctx, p.Tenant, move.Model, move.To)
		if err != nil {
			return api.Alias{}, err
		}
		if v.State != api.VersionReady {
			return api.Alias{}, api.Fail(api.CodeModelRefused, v.Ref().String(), "the version is %s: %s", v.State, v.Reason).
				WithCure("Move the alias to a version that is ready.")
		}
		if err := c.mayMove(ctx, &v, []api.AliasName{move.Alias}); err != nil {
			return api.Alias{}, err
		}
	}
	move.Tenant, move.By, move.At = p.Tenant, p, api.TimeOf(c.now())
	return c.store.MoveAlias(ctx, move)
}

// AliasHistory lists an alias's moves, newest first. It is there also after the alias was deleted.
func (c *Catalog) AliasHistory(ctx context.Context, t api.TenantID, m api.ModelName, a api.AliasName, limit int) ([]api.AliasMove, error) {
	return c.store.AliasHistory(ctx, t, m, a, clampList(limit))
}

// OpenArtifact opens one file of a version; the caller closes it. Only a path that the version itself lists is opened.
func (c *Catalog) OpenArtifact(ctx context.Context, t api.TenantID, ref api.Ref, path string) (api.Artifact, io.ReadSeekCloser, error) {
	v, err := c.Resolve(ctx, t, ref)
	if err != nil {
		return api.Artifact{}, nil, err
	}
	for _, a := range v.Artifacts {
		if a.Path == path {
			f, err := c.blobs.Open(ctx, a.Digest)
			if err != nil {
				return api.Artifact{}, nil, fmt.Errorf("open %s of %s: %w", path, v.Ref(), err)
			}
			return a, f, nil
		}
	}
	return api.Artifact{}, nil, api.Fail(api.CodeNotFound, v.Ref().String(), "the version has no file %q", shown(path)).
		WithCure("List its files with `penstock show %s`.", v.Ref())
}

// ReadArtifact reads one file of a version whole, when it is no larger than limit.
func (c *Catalog) ReadArtifact(ctx context.Context, t api.TenantID, ref api.Ref, path string, limit int64) ([]byte, error) {
	a, f, err := c.OpenArtifact(ctx, t, ref, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if a.Size > limit {
		return nil, api.Fail(api.CodeTooLarge, ref.String(), "the file %q has %d bytes; the limit is %d", shown(path), a.Size, limit)
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) != a.Size {
		err = errors.New("it has another size than its version says")
	}
	if err != nil {
		return nil, storage("read a version's file", err)
	}
	return text, nil
}

func mayWrite(p *api.Principal) error {
	if !p.Allows(api.ScopeWrite) {
		return api.Fail(api.CodeForbidden, "", "this needs a key with the scope %q", api.ScopeWrite)
	}
	return nil
}

// clampList bounds what a caller may ask of a list.
func clampList(limit int) int {
	const most = 1000
	if limit < 1 || limit > most {
		return most
	}
	return limit
}

// storage hides the machine's paths from callers and keeps them for the log.
func storage(act string, err error) error {
	return api.Fail(api.CodeStorage, "", "the registry could not %s", act).Because(err)
}
