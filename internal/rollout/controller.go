// Package rollout is the only writer of traffic: it turns a spec into a revision, waits until the fleet has it loaded
// and warm beside the current one, swaps, and goes back on command. It loads nothing itself (fleet does) and compiles no
// plan (publish does). Callers: admin by way of server; publish reads its routes.
package rollout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/reconcile"
)

// Store is the part of the database that the controller writes. SaveRelease is idempotent by the release's number.
type Store interface {
	AllEndpoints(ctx context.Context) ([]api.Endpoint, error)
	NewestRevisions(ctx context.Context) ([]api.Revision, error)
	NewestReleases(ctx context.Context) ([]api.Release, error)
	StartRelease(ctx context.Context, spec api.EndpointSpec, ifGeneration int64, rev api.Revision, rel api.Release) (api.Endpoint, error)
	SaveRelease(ctx context.Context, rel api.Release, traffic *api.Traffic) error
	SaveTraffic(ctx context.Context, ev api.Event, e api.EndpointName, traffic api.Traffic) error
	DeleteEndpoint(ctx context.Context, t api.TenantID, e api.EndpointName, at api.Time, by string) error
	Revision(ctx context.Context, t api.TenantID, e api.EndpointName, n api.RevisionNumber) (api.Revision, error)
	Revisions(ctx context.Context, t api.TenantID, e api.EndpointName, before api.RevisionNumber, limit int) ([]api.Revision, error)
	Releases(ctx context.Context, t api.TenantID, e api.EndpointName, before int64, limit int) ([]api.Release, error)
}

// Catalog resolves references to versions.
type Catalog interface {
	Resolve(ctx context.Context, t api.TenantID, ref api.Ref) (api.Version, error)
}

// Trust says whether a version may go into production. Its refusal says what the version lacks.
type Trust interface {
	MayDeploy(ctx context.Context, v *api.Version) error
}

// Fleet holds versions loaded.
type Fleet interface {
	Claim(owner api.EndpointKey, wants []api.Want)
	State(instance string) api.InstanceState
	Set(instance string) *api.ReplicaSet
}

// Meter counts what ended.
type Meter interface {
	ReleaseEnded(rel api.Release)
}

// Config holds the controller's settings.
type Config struct {
	JournalDir     string           // rollbacks that the database could not take are written here
	RollbackWindow time.Duration    // how long a revision that left stays loaded; default 24 h
	ReleaseTimeout time.Duration    // a release that is not loaded by then fails; default 10 min
	RecordTimeout  time.Duration    // how long a rollback, already effective, waits for the database; default 2 s
	Now            func() time.Time // the clock
	Log            *slog.Logger
	Store          Store
	Catalog        Catalog
	Trust          Trust    // nil: every version may be deployed
	Formats        []string // formats of versions that an engine of this server runs; nil: onnx
	Chains         Chains   // nil: no chains
	Files          Files    // for chains
	Prober         Prober   // for chains; nil: they are not tried
	Fleet          Fleet
	Meter          Meter
}

// Controller moves endpoints between revisions. Make it with New, fill it with Open, then call Run.
type Controller struct {
	Config
	publish func() // compiles and swaps the plan before it returns
	loop    *reconcile.Loop[api.EndpointKey]

	wanting   sync.Mutex // held by want, so that the fleet gets the newest wants last; taken before mu
	mu        sync.Mutex // guards what follows; never held over a call to the store, the catalog or the fleet's Claim
	endpoints map[api.EndpointKey]*endpoint
	ordered   map[api.TenantID][]*endpoint // by name, of the tenants that were listed since theirs changed
	changed   chan struct{}                // closed and replaced whenever a release changes state
	drained   bool                         // no load begins any more
	renames   int64                        // of models, so far
}

// endpoint is the controller's memory of one endpoint. The database holds the same, but for unsaved.
type endpoint struct {
	api.Endpoint
	revisions    revisions // those that are wanted loaded
	lastRevision api.RevisionNumber
	lastRelease  int64
	active       *api.Release      // not final yet
	recording    bool              // active is being written for the first time
	ended        *api.Release      // the last one that ended, for those who wait for it
	effective    int64             // number of the last one whose end the data plane has seen
	load         *load             // makes an unloaded endpoint serve again; nil when nobody asked
	refused      string            // why the last load failed
	unsaved      []api.Release     // rollbacks in effect that the database does not hold yet; oldest first
	sets         []*api.ReplicaSet // of the current revision's variants, when setsOf is that
	setsOf       *api.Revision
	wanted       time.Time     // when want looked last
	writing      chan struct{} // holds one token while this endpoint's records are written, so that they land in order; taken before mu
}

// How many endpoints are looked at in parallel, and how often one with an open release is looked at without a hint.
const (
	concurrency = 4
	recheck     = time.Second
	stepLimit   = 30 * time.Second // a database that hangs holds up one look no longer than this
	historyMax  = 100
)

// New makes a controller. publish must compile the plan from Routes and swap it before it returns.
func New(cfg Config, publish func()) *Controller {
	if cfg.RollbackWindow == 0 {
		cfg.RollbackWindow = 24 * time.Hour
	}
	if cfg.ReleaseTimeout == 0 {
		cfg.ReleaseTimeout = 10 * time.Minute
	}
	if cfg.RecordTimeout == 0 {
		cfg.RecordTimeout = 2 * time.Second
	}
	if cfg.Formats == nil {
		cfg.Formats = []string{api.FormatONNX}
	}
	c := &Controller{Config: cfg, publish: publish, endpoints: map[api.EndpointKey]*endpoint{}, ordered: map[api.TenantID][]*endpoint{}, changed: make(chan struct{})}
	c.loop = reconcile.New("rollout", concurrency, c.step)
	return c
}

// Open reads every endpoint, replays the journal and asks the fleet for what must be loaded. Call it once, before Run.
func (c *Controller) Open(ctx context.Context) error {
	all, err := c.Store.AllEndpoints(ctx)
	if err != nil {
		return err
	}
	revisions, err := c.Store.NewestRevisions(ctx)
	if err != nil {
		return err
	}
	releases, err := c.Store.NewestReleases(ctx)
	if err != nil {
		return err
	}
	newest := make(map[api.EndpointKey]*latest, len(all))
	of := func(t api.TenantID, name api.EndpointName) *latest {
		key := api.EndpointKey{Tenant: t, Endpoint: name}
		if newest[key] == nil {
			newest[key] = &latest{}
		}
		return newest[key]
	}
	for i := range revisions {
		of(revisions[i].Tenant, revisions[i].Endpoint).revision = &revisions[i]
	}
	for i := range releases {
		of(releases[i].Tenant, releases[i].Endpoint).release = &releases[i]
	}
	for i := range all {
		if err := c.open(ctx, all[i], *of(all[i].Tenant, all[i].Name)); err != nil {
			return err
		}
		c.want(api.EndpointKey{Tenant: all[i].Tenant, Endpoint: all[i].Name})
	}
	c.publish()
	return nil
}

// latest is the newest revision and release of an endpoint; nil where there is none.
type latest struct {
	revision *api.Revision
	release  *api.Release
}

func (c *Controller) open(ctx context.Context, ep api.Endpoint, newest latest) error {
	e := newEndpoint()
	e.Endpoint = ep
	e.Spec.Variants = slices.Clone(ep.Spec.Variants) // without the room for more that reading JSON leaves: there may be 10,000
	if newest.revision != nil {
		e.lastRevision = newest.revision.Number
	}
	if newest.release != nil {
		e.lastRelease = newest.release.Number
		if !newest.release.State.Final() {
			open := *newest.release
			e.active = &open
		}
	}
	c.replay(e)
	for _, n := range e.window() {
		if newest.revision != nil && newest.revision.Number == n {
			e.revisions.put(trimmed(*newest.revision)) // a copy: the list of all is let go
			continue
		}
		rev, err := c.Store.Revision(ctx, ep.Tenant, ep.Name, n)
		if err != nil {
			return err
		}
		e.revisions.put(trimmed(rev))
	}
	key := api.EndpointKey{Tenant: ep.Tenant, Endpoint: ep.Name}
	c.mu.Lock()
	c.endpoints[key] = e
	delete(c.ordered, key.Tenant)
	c.mu.Unlock()
	c.loop.Hint(key)
	return nil
}

// trimmed gives a copy without the room for more that reading JSON leaves behind its lists: there may be 10,000.
func trimmed(rev api.Revision) *api.Revision {
	rev.Variants = slices.Clone(rev.Variants)
	for i := range rev.Variants {
		sig := &rev.Variants[i].Signature
		sig.Inputs, sig.Outputs = slices.Clone(sig.Inputs), slices.Clone(sig.Outputs)
	}
	return &rev
}

// revisions are the few of one endpoint that are at hand, in no order. What one holds is never changed, but replaced.
type revisions []*api.Revision

// get gives nil for one that is not at hand.
func (r revisions) get(n api.RevisionNumber) *api.Revision {
	for _, rev := range r {
		if rev.Number == n {
			return rev
		}
	}
	return nil
}

func (r *revisions) put(rev *api.Revision) {
	for i := range *r {
		if (*r)[i].Number == rev.Number {
			(*r)[i] = rev
			return
		}
	}
	*r = append(*r, rev)
}

func newEndpoint() *endpoint {
	return &endpoint{writing: make(chan struct{}, 1)}
}

// write takes the right to write the endpoint's records; a database that hangs holds up the next writer, but never longer
// than that one's own context.
func (e *endpoint) write(ctx context.Context) (done func(), err error) {
	select {
	case e.writing <- struct{}{}:
		return func() { <-e.writing }, nil
	case <-ctx.Done():
		return nil, api.Fail(api.CodeStorage, string(e.Name), "the record before this one is still being written").Because(ctx.Err())
	}
}

// window lists the revisions that must be at hand: the current one, those kept warm, and the one being released.
func (e *endpoint) window() []api.RevisionNumber {
	list := append([]api.RevisionNumber{e.Traffic.Current, e.Traffic.Previous}, e.Traffic.Warm...)
	if e.active != nil {
		list = append(list, e.active.To)
	}
	slices.Sort(list)
	list = slices.Compact(list)
	return slices.DeleteFunc(list, func(n api.RevisionNumber) bool { return n == 0 })
}

// Run carries out releases until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// FleetChanged hints that replicas came or went.
func (c *Controller) FleetChanged() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, e := range c.endpoints {
		if e.active != nil || e.load != nil {
			c.loop.Hint(key)
		}
	}
}

// want tells the fleet what an endpoint needs: its current revision, the warm ones and the next one; of an unloaded one the
// next alone. Those that somebody waits for are kept loaded, and what the spec says so of; the others may sleep while memory
// is short.
func (c *Controller) want(key api.EndpointKey) {
	c.wanting.Lock()
	defer c.wanting.Unlock()
	c.mu.Lock()
	var wants []api.Want
	var current *api.Revision
	e := c.endpoints[key]
	if e != nil {
		now := c.Now()
		e.wanted = now
		if !e.Traffic.Unloaded || e.load != nil {
			wants = addWants(wants, e.revisions.get(e.Traffic.Current), e.load != nil)
		}
		if !e.Traffic.Unloaded && now.Sub(e.Traffic.Changed.Std()) < c.RollbackWindow {
			for _, n := range e.Traffic.Warm {
				wants = addWants(wants, e.revisions.get(n), false)
			}
			for i := range wants {
				wants[i].Standby = true // the current one, too: a rollback of a rollback
			}
		}
		if e.active != nil {
			wants = addWants(wants, e.revisions.get(e.active.To), true)
		}
		if current = e.revisions.get(e.Traffic.Current); current != nil {
			for i := range wants {
				wants[i].Loaded = wants[i].Loaded || keeps(current, wants[i].Instance)
			}
		}
	}
	c.mu.Unlock()
	c.Fleet.Claim(key, wants)
	if current == nil || len(wants) == 0 {
		return
	}
	sets := make([]*api.ReplicaSet, len(current.Variants))
	for i := range current.Variants {
		sets[i] = c.Fleet.Set(Instance(&current.Variants[i]))
	}
	c.mu.Lock()
	e.sets, e.setsOf = sets, current
	c.mu.Unlock()
}

// want is what the fleet must hold for a variant.
func want(v *api.Variant) api.Want {
	return api.Want{Instance: Instance(v), Digest: v.Digest, Format: v.Format, Subject: v.Subject(), Pool: v.Pool,
		Replicas: v.Serving.Replicas, Size: v.Size, Priority: v.Serving.KeepPriority, Options: v.LoadOptions()}
}

// addWants adds what a revision needs; nil needs nothing. Variants with one instance are one.
func addWants(wants []api.Want, rev *api.Revision, loaded bool) []api.Want {
	if rev == nil {
		return wants
	}
	for i := range rev.Variants {
		w := want(&rev.Variants[i])
		w.Tenant, w.Loaded = rev.Tenant, loaded
		at := slices.IndexFunc(wants, func(o api.Want) bool { return o.Instance == w.Instance })
		if at < 0 {
			wants = append(wants, w)
			continue
		}
		old := &wants[at]
		old.Loaded = old.Loaded || loaded
		old.Priority = max(old.Priority, w.Priority)
		if old.Replicas == 0 || w.Replicas == 0 {
			old.Replicas = 0 // one per worker covers every number
			continue
		}
		old.Replicas = max(w.Replicas, old.Replicas)
	}
	return wants
}

// keeps reports whether a revision's spec says that an instance stays loaded.
func keeps(rev *api.Revision, instance string) bool {
	for i := range rev.Variants {
		if v := &rev.Variants[i]; v.Serving.Keep == api.KeepLoaded && Instance(v) == instance {
			return true
		}
	}
	return false
}

// Instance names the loaded form of a variant: its digest, so that revisions with the same version share it, and of
// options that are not the defaults, and of a pool, a digest of theirs. A chain's digest tells its steps already.
func Instance(v *api.Variant) string {
	options := v.Serving.LoadOptions()
	text := options.Text()
	if v.Pool != "" {
		text += "\x00" + v.Pool // workers of its own, so an instance of its own
	}
	if text == "" {
		return v.Digest.Hex()
	}
	sum := sha256.Sum256([]byte(text))
	return v.Digest.Hex() + "-" + hex.EncodeToString(sum[:6])
}

// step carries one endpoint a step further.
func (c *Controller) step(ctx context.Context, key api.EndpointKey) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	c.mu.Lock()
	e := c.endpoints[key]
	c.mu.Unlock()
	if e == nil {
		return 0, nil
	}
	if err := c.save(ctx, e); err != nil {
		return 0, err
	}
	c.mu.Lock()
	rel, recording, open := e.active, e.recording, e.load
	until := c.RollbackWindow - c.Now().Sub(e.Traffic.Changed.Std())
	idle := len(e.Traffic.Warm) > 0
	over := idle && e.wanted.Sub(e.Traffic.Changed.Std()) < c.RollbackWindow // want has counted the warm ones in so far
	c.mu.Unlock()
	switch {
	case rel == nil && open != nil:
		return recheck, c.carry(ctx, key, e, open)
	case rel == nil && idle && until > 0:
		return until, nil
	case rel == nil:
		if over {
			c.want(key) // the window is over: the warm ones may go
		}
		return 0, nil
	case recording:
		return recheck, nil
	}
	return recheck, c.advance(ctx, key, e, *rel)
}

// notify needs mu. It wakes everybody who waits for a release.
func (c *Controller) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}
