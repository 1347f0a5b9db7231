// Package mirror copies between this registry and others: a transfer is one copy, which goes on by itself after a cut or a
// restart until it is done; a mirror is a policy that keeps repositories alike on both sides. It decides nothing about models, which the registry does when it is given a manifest, and it is
// the only room that speaks to other registries. Callers: server, which hands the Controller to admin.
package mirror

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/egress"
	"github.com/penstock/penstock/internal/reconcile"
)

// Local is this registry. Errors are *api.Error.
type Local interface {
	RepositoryBlob(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.RepositoryBlob, error)
	OpenBlob(ctx context.Context, d api.Digest) (io.ReadSeekCloser, error)
	KeepFile(ctx context.Context, p *api.Principal, repo api.Repository, b api.RepositoryBlob, path, upload string) error
	ReleaseUpload(ctx context.Context, upload string)
	MountBlob(ctx context.Context, p *api.Principal, repo api.Repository, from string, d api.ContentDigest) (bool, error)
	PutManifest(ctx context.Context, p *api.Principal, repo api.Repository, up api.ManifestUpload) (api.ManifestReceipt, error)
	ManifestByDigest(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.Manifest, error)
	ManifestByTag(ctx context.Context, repo api.Repository, tag string) (api.Manifest, error)
	Referrers(ctx context.Context, repo api.Repository, subject api.ContentDigest, artifactType string, after api.ContentDigest, limit int) ([]api.Manifest, error)
	Resolve(ctx context.Context, t api.TenantID, ref api.Ref) (api.Version, error)
	Versions(ctx context.Context, t api.TenantID, m api.ModelName, before api.VersionNumber, limit int) ([]api.Version, error)
	Repositories(ctx context.Context, t api.TenantID, after string, limit int) ([]string, error)
	RepositoryTags(ctx context.Context, repo api.Repository, after string, limit int) ([]string, error)
	DeleteTag(ctx context.Context, p *api.Principal, repo api.Repository, tag string) error
}

// Store keeps what was asked for. Errors are *api.Error.
type Store interface {
	PutTransfer(ctx context.Context, t api.Transfer, sealed string) error
	// SaveTransfer writes a transfer down unless it has ended; it gives it as it stands then.
	SaveTransfer(ctx context.Context, t api.Transfer) (api.Transfer, error)
	Transfer(ctx context.Context, tenant api.TenantID, id api.TransferID) (_ api.Transfer, sealed string, _ error)
	Transfers(ctx context.Context, tenant api.TenantID, before api.TransferID, limit int) ([]api.Transfer, error)
	OpenTransfers(ctx context.Context, after api.TransferID, limit int) ([]api.Transfer, error)

	PutMirror(ctx context.Context, m api.Mirror, sealed string) error
	DeleteMirror(ctx context.Context, t api.TenantID, name api.MirrorName, by string, at api.Time) error
	SaveMirrorStatus(ctx context.Context, t api.TenantID, name api.MirrorName, status api.MirrorStatus) error
	Mirror(ctx context.Context, t api.TenantID, name api.MirrorName) (_ api.Mirror, sealed string, _ error)
	// Mirrors lists those of a tenant, or of all when it is empty.
	Mirrors(ctx context.Context, t api.TenantID) ([]api.Mirror, error)
}

// Config is what a Controller is made of. Zero fields take their defaults.
type Config struct {
	Local   Local
	Store   Store
	Dir     string        // where unfinished copies lie; on the blobs' filesystem a finished one is moved, not copied
	Secret  []byte        // seals what other registries know us by; at least 32 bytes
	Egress  egress.Policy // where this server may go; the zero value: public addresses only
	AtOnce  int           // transfers under way; 4
	Tries   int           // of one transfer without getting further before it fails; 20
	Pause   time.Duration // after the first try that failed; doubles up to PauseMax; 1 s
	Most    time.Duration // longest pause; 5 min
	Pace    time.Duration // in which a body must move 32 KiB; 30 s
	Resync  time.Duration // how often the store is looked at without a hint; 30 s
	Version string        // of Penstock, told to other registries
	Now     func() time.Time
	Log     *slog.Logger
}

// Controller carries transfers out. All methods may be called from many goroutines.
type Controller struct {
	cfg      Config
	way      *http.Transport
	seal     *seal
	arrivals *arrivals
	loop     *reconcile.Loop[transferKey]
	rounds   *reconcile.Loop[mirrorKey]
	policies atomic.Pointer[[]api.Mirror] // of all tenants, for pull-through

	mu      sync.Mutex // guards the fields below
	active  map[transferKey]*progress
	syncing map[mirrorKey]context.CancelCauseFunc
	through map[throughKey]time.Time // copies begun by pull-through, so that one miss begins one copy
}

type transferKey struct {
	tenant api.TenantID
	id     api.TransferID
}

// mirrorsAtOnce is how many mirrors have a round under way.
const mirrorsAtOnce = 2

// nonePrefixes blocks nothing: see reach.
var nonePrefixes = []netip.Prefix{}

// New makes a Controller. Run carries out what the store holds.
func New(cfg Config) (*Controller, error) {
	if cfg.Local == nil || cfg.Store == nil || cfg.Dir == "" {
		return nil, errors.New("mirror needs a registry, a store and a directory")
	}
	cfg.AtOnce, cfg.Tries = cmp.Or(cfg.AtOnce, 4), cmp.Or(cfg.Tries, 20)
	cfg.Pause, cfg.Most = cmp.Or(cfg.Pause, time.Second), cmp.Or(cfg.Most, 5*time.Minute)
	cfg.Pace, cfg.Resync = cmp.Or(cfg.Pace, paceWindow), cmp.Or(cfg.Resync, 30*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, storage("find the directory for copies", err)
	}
	c := &Controller{cfg: cfg, way: transport(cfg.Egress), active: map[transferKey]*progress{},
		syncing: map[mirrorKey]context.CancelCauseFunc{}, through: map[throughKey]time.Time{}}
	c.policies.Store(&[]api.Mirror{})
	if c.seal, err = newSeal(cfg.Secret); err != nil {
		return nil, err
	}
	if c.arrivals, err = openArrivals(dir, cfg.Now()); err != nil {
		return nil, err
	}
	c.loop = reconcile.New("transfers", cfg.AtOnce, c.step)
	c.rounds = reconcile.New("mirrors", mirrorsAtOnce, c.round)
	return c, nil
}

// Run carries transfers out until ctx ends. What it leaves unfinished goes on at the next start.
func (c *Controller) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	loops.Go(func() { _ = c.loop.Run(ctx) }) // they never fail
	loops.Go(func() { _ = c.rounds.Run(ctx) })
	defer loops.Wait()
	defer c.way.CloseIdleConnections()
	ticker := time.NewTicker(c.cfg.Resync)
	defer ticker.Stop()
	for first := true; ; first = false {
		if err := errors.Join(c.look(ctx, first), c.lookAtMirrors(ctx, first)); err != nil && ctx.Err() == nil {
			c.cfg.Log.WarnContext(ctx, "transfers and mirrors cannot be looked up", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// look hints at every transfer that has not ended: hints may be lost, and an earlier process may have left some. One that
// waits for its next try is left to its time.
func (c *Controller) look(ctx context.Context, first bool) error {
	const some = 1000
	after := api.TransferID("")
	for {
		open, err := c.cfg.Store.OpenTransfers(ctx, after, some)
		if err != nil {
			return err
		}
		for _, t := range open {
			if first || t.Tries == 0 {
				c.loop.Hint(transferKey{t.Tenant, t.ID})
			}
		}
		if len(open) < some {
			return nil
		}
		after = open[len(open)-1].ID
	}
}
