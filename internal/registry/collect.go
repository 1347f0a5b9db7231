package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/crash"
	"github.com/penstock/penstock/internal/reconcile"
)

// CollectStore is what the collector needs of the database. What is dead is decided there, in transactions.
type CollectStore interface {
	TakeLease(ctx context.Context, name, holder string, at api.Time, life time.Duration) error
	EndLease(ctx context.Context, name, holder string) error

	// Collect removes some dead rows of one step, beginning at from, and tells where the step goes on; empty: it is over.
	Collect(ctx context.Context, step string, terms api.CollectTerms, from string) (found []api.Collected, next string, _ error)
	CollectSteps() []string
	// Rehearse takes all steps, tells what they found, and takes them back.
	Rehearse(ctx context.Context, terms api.CollectTerms, orphans []api.BlobInfo) ([]api.Collected, error)

	Unheld(ctx context.Context, blobs []api.BlobInfo) ([]api.BlobInfo, error)
	MarkDead(ctx context.Context, blobs []api.BlobInfo, at api.Time) (dead int64, _ error)
	ClaimDead(ctx context.Context, run string, terms api.CollectTerms, after api.Digest) (dead []api.BlobInfo, waiting int64, _ error)
	FinishDead(ctx context.Context, run string, gone, left []api.Digest) error

	// Retained lists the models that have a policy, some at a time.
	Retained(ctx context.Context, after api.Repository, limit int) ([]api.Repository, error)
	ApplyRetention(ctx context.Context, t api.TenantID, m api.ModelName, at api.Time, dry bool) ([]api.RetentionVerdict, error)

	SaveCollection(ctx context.Context, c api.Collection) error
	Collections(ctx context.Context, limit int) ([]api.Collection, error)
	Collection(ctx context.Context, id api.CollectionID) (api.Collection, error)
}

// The collector's own bounds.
const (
	collectLease  = "collect"
	leaseLife     = time.Minute // without word from its holder; renewed three times as often
	leasePause    = 200 * time.Millisecond
	failedPause   = 15 * time.Minute // before the loop tries again what failed
	listedAtOnce  = 1024             // blobs of the store compared at once with what is held
	itemsMost     = 1000             // things that a report names
	orphansMost   = 10_000           // orphans that a dry run looks at
	blobsAtOnce   = 8                // deletions under way; a bucket answers each slowly
	collectByLoop = "loop"
	settleKey     = "settle" // of the loop: what a run that failed left half done is taken up, until it is ended
)

// CollectorConfig holds what a Collector is made of.
type CollectorConfig struct {
	Store  CollectStore
	Blobs  blob.Store
	Holder string           // names this process; the same after each start, and of no other that runs
	Every  time.Duration    // between runs of the loop; default 24 h, negative: only when asked for
	Window time.Duration    // how long deleted things can be restored, and unnamed manifests are kept; default 7 days
	Grace  time.Duration    // how long bytes are kept that nothing needs; default 24 h, negative: none
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger     // nil: the default

	// Settle ends what calls that failed could not end themselves, before each run looks for what is dead. nil: nothing is left.
	Settle func(context.Context) error
}

// pendingAge is how long a reservation stands whose process never came back.
const pendingAge = 7 * 24 * time.Hour

// Collector frees what is dead, beside everything else that goes on. One runs at a time on one database.
type Collector struct {
	CollectorConfig
	loop *reconcile.Loop[string]

	turn sync.Mutex // held by a run, and by the end of an earlier process's; taken before mu

	mu      sync.Mutex // guards what follows
	running *api.Collection
	unsaved *api.Collection // the last run whose end the database did not take
	changed chan struct{}   // closed and replaced when running changes state
	life    context.Context
	runs    sync.WaitGroup
}

// NewCollector makes a collector; call Run to have it work.
func NewCollector(cfg CollectorConfig) (*Collector, error) {
	if cfg.Store == nil || cfg.Blobs == nil || cfg.Holder == "" {
		return nil, errors.New("the collector needs a store, blobs and a name")
	}
	setDefault(&cfg.Every, 24*time.Hour)
	setDefault(&cfg.Window, 7*24*time.Hour)
	setDefault(&cfg.Grace, 24*time.Hour)
	cfg.Grace, cfg.Window = max(cfg.Grace, 0), max(cfg.Window, 0)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	c := &Collector{CollectorConfig: cfg, changed: make(chan struct{})}
	c.loop = reconcile.New("collect", 1, c.step)
	return c, nil
}

func setDefault(d *time.Duration, otherwise time.Duration) {
	if *d == 0 {
		*d = otherwise
	}
}

// Run works until ctx ends: it ends what an earlier process began, and then collects now and then.
func (c *Collector) Run(ctx context.Context) error {
	c.turn.Lock()
	c.mu.Lock()
	c.life = ctx
	c.mu.Unlock()
	err := c.recover(ctx)
	c.turn.Unlock()
	if err != nil && ctx.Err() == nil {
		c.Log.WarnContext(ctx, "an earlier collection could not be ended yet", "error", err)
		c.loop.Hint(settleKey)
	}
	if c.Every > 0 {
		c.loop.Hint(collectLease)
	}
	err = c.loop.Run(ctx)
	c.runs.Wait()
	return err
}

// step is one look of the loop: it asks the records when a run was last, so that restarts neither hasten nor delay it.
func (c *Collector) step(ctx context.Context, key string) (time.Duration, error) {
	if key == settleKey {
		c.turn.Lock()
		defer c.turn.Unlock()
		return 0, c.recover(ctx)
	}
	last, err := c.Store.Collections(ctx, 10)
	if err != nil {
		return 0, err
	}
	due := time.Duration(0)
	for _, run := range last {
		if run.State == api.CollectionDone && !run.DryRun {
			due = run.Started.Std().Add(c.Every).Sub(c.Now())
			break
		}
	}
	if due > 0 {
		return due, nil
	}
	run, err := c.collect(ctx, c.begin(collectByLoop, false))
	if api.Is(err, api.CodeCollecting) {
		return leaseLife, nil
	}
	if err != nil && run.State == api.CollectionFailed { // it did what it could: what stays may stay for long
		c.Log.WarnContext(ctx, "a collection failed", "id", run.ID, "error", err)
		return min(c.Every, failedPause), nil
	}
	if err != nil {
		return 0, err
	}
	return c.Every, nil
}

// recover takes up a sweep that a crash or a fault of the database cut off: nobody can hold its blobs until it is ended. It
// also closes its record.
func (c *Collector) recover(ctx context.Context) error {
	done, err := c.lease(ctx)
	if err != nil {
		return err
	}
	defer done()
	last, err := c.Store.Collections(ctx, 10)
	if err != nil {
		return err
	}
	for _, run := range last {
		if run.State == api.CollectionRunning {
			if err := c.Store.SaveCollection(ctx, c.ended(run)); err != nil {
				return err
			}
		}
	}
	c.mu.Lock()
	c.unsaved = nil
	c.mu.Unlock()
	run := c.begin(collectByLoop, false)
	terms := c.terms()
	terms.Grace = 100 * 365 * 24 * time.Hour // only what was claimed before
	return c.sweep(ctx, &run, terms)
}

// ended is what is known of a run that the database takes for one under way.
func (c *Collector) ended(run api.Collection) api.Collection {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unsaved != nil && c.unsaved.ID == run.ID {
		return *c.unsaved
	}
	run.State, run.Ended, run.Phase, run.Error = api.CollectionFailed, api.TimeOf(c.Now()), "", "the server ended before it did"
	return run
}

func (c *Collector) begin(by string, dry bool) api.Collection {
	return api.Collection{ID: api.CollectionID(ulid.Make().String()), DryRun: dry, State: api.CollectionRunning, By: by, Started: api.TimeOf(c.Now())}
}

func (c *Collector) terms() api.CollectTerms {
	return api.CollectTerms{Now: api.TimeOf(c.Now()), Window: c.Window, Grace: c.Grace, Pending: pendingAge}
}

// lease makes this collector the only one. done gives the lease back.
func (c *Collector) lease(ctx context.Context) (done func(), _ error) {
	if err := c.Store.TakeLease(ctx, collectLease, c.Holder, api.TimeOf(c.Now()), leaseLife); err != nil {
		return nil, err
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), letGo)
		defer cancel()
		_ = c.Store.EndLease(ctx, collectLease, c.Holder) // else it ends by itself
	}, nil
}

// Collect begins a run for a caller, and gives it as it stands. It goes on when the caller goes away.
func (c *Collector) Collect(p *api.Principal, dry bool) (api.Collection, error) {
	if p.Tenant != api.DefaultTenant || !p.Allows(api.ScopeAdmin) {
		return api.Collection{}, api.Fail(api.CodeForbidden, "", "this needs a key of tenant %q with the scope %q", api.DefaultTenant, api.ScopeAdmin)
	}
	c.mu.Lock()
	life := c.life
	c.mu.Unlock()
	if life == nil || life.Err() != nil {
		return api.Collection{}, api.Fail(api.CodeShuttingDown, "", "the collector does not run")
	}
	run := c.begin(p.Name, dry)
	begun := make(chan error, 1)
	c.runs.Go(func() {
		if _, err := c.collectNow(life, run, begun); err != nil && life.Err() == nil {
			c.Log.Warn("a collection failed", "id", run.ID, "error", err)
		}
	})
	return run, <-begun
}

// Collection gives a run once it is over, or as it stands when ctx ends.
func (c *Collector) Collection(ctx context.Context, id api.CollectionID) (api.Collection, error) {
	for {
		c.mu.Lock()
		running, changed, unsaved := c.running, c.changed, c.unsaved
		if running == nil || running.ID != id {
			c.mu.Unlock()
			if unsaved != nil && unsaved.ID == id {
				return *unsaved, nil
			}
			return c.Store.Collection(context.WithoutCancel(ctx), id)
		}
		now := *running
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return now, nil
		case <-changed:
		}
	}
}

// Collections lists the last runs, newest first.
func (c *Collector) Collections(ctx context.Context, limit int) ([]api.Collection, error) {
	return c.Store.Collections(ctx, limit)
}

func (c *Collector) collect(ctx context.Context, run api.Collection) (api.Collection, error) {
	return c.collectNow(ctx, run, make(chan error, 1))
}

// collectNow carries a run out. begun gets its first error, or nil when it has begun.
func (c *Collector) collectNow(ctx context.Context, run api.Collection, begun chan<- error) (api.Collection, error) {
	c.mu.Lock()
	if c.running != nil {
		other := c.running.ID
		c.mu.Unlock()
		err := api.Fail(api.CodeCollecting, string(other), "a collection is under way")
		begun <- err
		return run, err
	}
	now := run // for those who ask, while this goes on with its own
	c.running = &now
	c.mu.Unlock()
	defer c.over(run.ID)
	c.turn.Lock()
	defer c.turn.Unlock()
	done, err := c.lease(ctx)
	if err == nil {
		defer done()
		if err = c.Store.SaveCollection(ctx, run); err != nil {
			c.loop.Hint(settleKey) // it may have been kept all the same, as one under way
		}
	}
	begun <- err
	if err != nil {
		return run, err
	}
	work := c.free
	if run.DryRun {
		work = c.rehearse
	}
	err = work(ctx, &run)
	run.State, run.Phase, run.Ended = api.CollectionDone, "", api.TimeOf(c.Now())
	if err != nil {
		e := api.AsError(err)
		run.State, run.Code, run.Error = api.CollectionFailed, e.Code, e.Error()
	}
	err = errors.Join(err, c.save(ctx, run))
	c.over(run.ID)
	c.Log.Info("collection ended", "id", run.ID, "dry_run", run.DryRun, "state", run.State, "versions", run.Versions, "manifests", run.Manifests,
		"links", run.Links, "blobs", run.Blobs, "bytes", run.Bytes, "waiting", run.Waiting, "left", run.Left, "error", run.Error)
	return run, err
}

// save keeps the end of a run, also when the call that began it is over. What the database does not take now it is given again.
func (c *Collector) save(ctx context.Context, run api.Collection) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), letGo)
	defer cancel()
	err := c.Store.SaveCollection(ctx, run)
	if err != nil {
		c.mu.Lock()
		c.unsaved = &run
		c.mu.Unlock()
		c.loop.Hint(settleKey)
	}
	return err
}

// over tells those who wait that the run has ended. It may be called again.
func (c *Collector) over(id api.CollectionID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running != nil && c.running.ID == id {
		c.running = nil
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// report counts what was found.
func report(run *api.Collection, found ...api.Collected) {
	for _, f := range found {
		switch f.Kind {
		case api.CollectedVersion:
			run.Versions++
		case api.CollectedManifest:
			run.Manifests++
		case api.CollectedLink:
			run.Links++
		case api.CollectedBlob:
			run.Blobs++
			run.Bytes += f.Bytes
		}
		if len(run.Items) < itemsMost {
			run.Items = append(run.Items, f)
		}
	}
}

// progress keeps a copy of the run where those who ask find it.
func (c *Collector) progress(run *api.Collection, phase string) {
	run.Phase = phase
	now := *run
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running != nil && c.running.ID == now.ID {
		c.running = &now
	}
}

// free removes what is dead: rows first, then what the store holds for nobody, then the bytes. A fault in one part does not
// keep the others from their work; it is what the run ends with.
func (c *Collector) free(ctx context.Context, run *api.Collection) error {
	terms := c.terms()
	var failed error
	if c.Settle != nil {
		failed = c.Settle(ctx)
	}
	kept, err := c.retain(ctx, run)
	failed = errors.Join(failed, kept)
	if err != nil {
		return errors.Join(failed, err)
	}
	for _, step := range c.Store.CollectSteps() {
		if err := c.take(ctx, run, step, terms); err != nil {
			return errors.Join(failed, err)
		}
	}
	c.progress(run, "orphans")
	failed = errors.Join(failed, c.compare(ctx, run, func(blobs []api.BlobInfo) error {
		_, err := c.Store.MarkDead(ctx, blobs, terms.Now)
		return err
	}))
	if err := c.renew(ctx); err != nil { // another's turn, or the end
		return errors.Join(failed, err)
	}
	return errors.Join(failed, c.sweep(ctx, run, terms))
}

// take goes through one step of the rows.
func (c *Collector) take(ctx context.Context, run *api.Collection, step string, terms api.CollectTerms) error {
	for from := ""; ; {
		c.progress(run, step)
		found, next, err := c.Store.Collect(ctx, step, terms, from)
		if err != nil {
			return err
		}
		report(run, found...)
		if from = next; from == "" {
			return nil
		}
		if err := c.renew(ctx); err != nil {
			return err
		}
	}
}

// retain applies the policies of all models. One that fails does not keep the others from theirs; failed tells of it.
func (c *Collector) retain(ctx context.Context, run *api.Collection) (failed, _ error) {
	const some = 100
	var after api.Repository
	for {
		c.progress(run, "retention")
		models, err := c.Store.Retained(ctx, after, some)
		if err != nil {
			return failed, err
		}
		for _, m := range models {
			after = m
			verdicts, err := c.Store.ApplyRetention(ctx, m.Tenant, api.ModelName(m.Name), api.TimeOf(c.Now()), false)
			if err != nil && !api.Is(err, api.CodeModelNotFound) {
				c.Log.WarnContext(ctx, "a retention could not be applied", "tenant", m.Tenant, "model", m.Name, "error", err)
				failed = cmp.Or(failed, fmt.Errorf("apply the retention of %s: %w", m.Name, err))
			}
			for _, v := range verdicts {
				if v.Delete {
					run.Deleted++
				}
			}
		}
		if err := c.renew(ctx); err != nil {
			return failed, err
		}
		if len(models) < some {
			return failed, nil
		}
	}
}

func (c *Collector) renew(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return api.Fail(api.CodeCanceled, "", "the collection was broken off").Because(err)
	}
	return c.Store.TakeLease(ctx, collectLease, c.Holder, api.TimeOf(c.Now()), leaseLife)
}

// compare lists the store, some blobs at a time.
func (c *Collector) compare(ctx context.Context, run *api.Collection, some func([]api.BlobInfo) error) error {
	batch := make([]api.BlobInfo, 0, listedAtOnce)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := some(batch); err != nil {
			return err
		}
		run.Looked += int64(len(batch))
		batch = batch[:0]
		c.progress(run, "orphans")
		return c.renew(ctx)
	}
	if err := c.Blobs.List(ctx, func(b blob.Info) error {
		if batch = append(batch, api.BlobInfo{Digest: b.Digest, Size: b.Size}); len(batch) == listedAtOnce {
			return flush()
		}
		return nil
	}); err != nil {
		return fmt.Errorf("list the blobs: %w", err)
	}
	return flush()
}

// sweep deletes bytes. They are claimed in a transaction first: from then on nobody can hold them, so nobody misses them.
// A blob that cannot be deleted is let go of and left to the next run; the sweep goes on behind it while anything is freed.
func (c *Collector) sweep(ctx context.Context, run *api.Collection, terms api.CollectTerms) error {
	var failed error
	for after := api.Digest(""); ; {
		c.progress(run, "bytes")
		dead, waiting, err := c.Store.ClaimDead(ctx, string(run.ID), terms, after)
		if err != nil {
			c.loop.Hint(settleKey) // it may have claimed them all the same
			return errors.Join(failed, err)
		}
		run.Waiting = waiting
		if len(dead) == 0 {
			return failed
		}
		crash.Point("collect: claimed, nothing deleted")
		d := deletion{deadline: time.Now().Add(leaseLife / 2)} // of this machine's own clock, which nobody sets back
		d.run(ctx, c.Blobs, dead)
		crash.Point("collect: deleted, not yet forgotten")
		finishing, cancel := context.WithTimeout(context.WithoutCancel(ctx), letGo)
		err = c.Store.FinishDead(finishing, string(run.ID), digests(d.gone), digests(slices.Concat(d.left, d.late)))
		cancel()
		for _, b := range d.gone {
			report(run, api.Collected{Kind: api.CollectedBlob, Subject: string(b.Digest), Bytes: b.Size, Why: "no tenant holds it"})
		}
		run.Left += int64(len(d.left))
		if d.err != nil {
			failed = cmp.Or(failed, fmt.Errorf("delete blobs: %w", d.err))
		}
		if err != nil {
			c.loop.Hint(settleKey) // nobody can hold them until it is told
			return errors.Join(failed, err)
		}
		if err := c.renew(ctx); err != nil {
			return errors.Join(failed, err)
		}
		if tried := len(dead) - len(d.late); tried > 0 {
			after = dead[tried-1].Digest
		}
		if len(d.gone) == 0 && (len(d.late) > 0 || isAway(d.err)) {
			return cmp.Or(failed, error(api.Fail(api.CodeUnavailable, "", "the blob store deletes too slowly")))
		}
	}
}

// isAway tells a store that answers nothing from one that refuses this or that.
func isAway(err error) bool {
	return err != nil && (api.KindOf(err) == api.Unavailable || api.KindOf(err) == api.Deadline)
}

// deletion deletes some blobs in their order, and begins with none after its deadline, well before the lease could end: what is
// deleted later might be somebody's again.
type deletion struct {
	deadline time.Time
	late     []api.BlobInfo // not tried

	mu   sync.Mutex     // guards the rest
	gone []api.BlobInfo // deleted
	left []api.BlobInfo // could not be deleted
	err  error          // of the first that is left
}

func (d *deletion) run(ctx context.Context, blobs blob.Store, dead []api.BlobInfo) {
	var all sync.WaitGroup
	slots := make(chan struct{}, blobsAtOnce)
	for i, b := range dead {
		slots <- struct{}{}
		if ctx.Err() != nil || time.Now().After(d.deadline) {
			d.late = dead[i:]
			break
		}
		all.Go(func() {
			defer func() { <-slots }()
			err := blobs.Delete(ctx, b.Digest)
			d.mu.Lock()
			defer d.mu.Unlock()
			if err != nil {
				d.left, d.err = append(d.left, b), cmp.Or(d.err, err)
				return
			}
			d.gone = append(d.gone, b)
		})
	}
	all.Wait()
}

func digests(blobs []api.BlobInfo) []api.Digest {
	all := make([]api.Digest, len(blobs))
	for i, b := range blobs {
		all[i] = b.Digest
	}
	return all
}

// rehearse tells what free would do.
func (c *Collector) rehearse(ctx context.Context, run *api.Collection) error {
	var orphans []api.BlobInfo
	if err := c.compare(ctx, run, func(blobs []api.BlobInfo) error {
		some, err := c.Store.Unheld(ctx, blobs)
		orphans = append(orphans, some[:min(len(some), orphansMost-len(orphans))]...)
		return err
	}); err != nil {
		return err
	}
	c.progress(run, "rehearsal")
	found, err := c.Store.Rehearse(ctx, c.terms(), orphans)
	report(run, found...)
	return err
}

// Exclusively keeps collections away while do reads what a collection may delete, such as for a backup.
func (c *Collector) Exclusively(ctx context.Context, do func(context.Context) error) error {
	holder := c.Holder + " backup " + ulid.Make().String()
	for {
		err := c.Store.TakeLease(ctx, collectLease, holder, api.TimeOf(c.Now()), leaseLife)
		if err == nil {
			break
		}
		if !api.Is(err, api.CodeCollecting) {
			return err
		}
		timer := time.NewTimer(leasePause) // a collection ends, or its lease does
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		ticker := time.NewTicker(leaseLife / 3)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if err := c.Store.TakeLease(ctx, collectLease, holder, api.TimeOf(c.Now()), leaseLife); err != nil && ctx.Err() == nil {
					cancel(err)
				}
			}
		}
	}()
	err := do(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	cancel(nil)
	<-renewed
	last, end := context.WithTimeout(context.WithoutCancel(ctx), letGo)
	defer end()
	_ = c.Store.EndLease(last, collectLease, holder) // else it ends by itself
	return err
}
