package fleet

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
)

// trial is what is known of a file's behaviour under load. A file that never loaded here is loaded by one worker at a
// time, so that a bad one takes down one and not all. A file that was being loaded when its worker died is suspect: it
// has to load alone in a throw-away worker before a serving one touches it again. So blame is exact, also when the
// worker was killed from outside. Guarded by Controller.mu.
type trial struct {
	loading int  // workers that load it now
	proven  bool // it loaded in this life of the controller
	suspect bool // it has to pass alone first
	passed  bool // it did, since it was last suspect
	cold    bool // warming it ended a worker, loading it alone did not
	losses  int  // workers lost under it since it last loaded well
}

const (
	trialPrefix = "trial " // before a digest in a key of the loop
	// maxLosses is how often a file that passes alone may be loading when a serving worker dies. Then it is blamed after
	// all: something in it needs company to crash.
	maxLosses = 5
	// quarantineAt is the count of crashes from which a file is never loaded again.
	quarantineAt = 2
	// maxTrials bounds what is remembered of files that nobody wants any more.
	maxTrials = 4096
)

// trial needs mu.
func (c *Controller) trial(digest api.Digest) *trial {
	t := c.trials[digest]
	if t == nil {
		t = &trial{}
		c.trials[digest] = t
	}
	return t
}

// mayLoad needs mu. It says whether one more worker may load the file now, and sees to it that a suspect's trial is held.
func (c *Controller) mayLoad(digest api.Digest) bool {
	t := c.trials[digest]
	switch {
	case t == nil:
		return true
	case t.suspect:
		c.loop.Hint(trialPrefix + string(digest))
		return false
	}
	return t.proven && t.losses == 0 || t.loading == 0
}

// loaded ends a copy's turn; others that waited for the file's outcome may go on. A copy that came to nothing is planned
// again, if it is still wanted.
func (c *Controller) loaded(h *held, digest api.Digest) {
	c.mu.Lock()
	if t := c.trials[digest]; t != nil {
		t.loading--
	}
	h.settled()
	if h.stage == loading {
		c.remove(h)
		c.settle(h.want)
	}
	if len(h.want.claims) == 0 {
		c.forgetTrial(digest)
	}
	c.mu.Unlock()
	c.hintAll()
}

// forgetTrial needs mu: somebody does not want the file any more. Suspects are remembered longer than the others: they may
// come back. Who else wants the file finds out about it again.
func (c *Controller) forgetTrial(digest api.Digest) {
	t := c.trials[digest]
	if t != nil && t.loading == 0 && (!t.suspect || len(c.trials) > maxTrials) {
		delete(c.trials, digest)
	}
}

func (c *Controller) suspect(digest api.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// In process there is no throw-away worker to try it in.
	t := c.trial(digest)
	t.suspect, t.passed = c.config.InProcess == nil, false
}

// suspectLoss is called when a serving worker died while it loaded the file.
func (c *Controller) suspectLoss(ctx context.Context, h *held, w api.Want, exit string) {
	c.suspect(w.Digest)
	c.mu.Lock()
	t := c.trial(w.Digest)
	t.losses++
	blame := t.losses >= maxLosses || c.config.InProcess != nil
	if blame {
		t.losses = 0
	}
	c.mu.Unlock()
	if blame {
		c.fault(ctx, h, w, c.blame(ctx, w, exit))
		return
	}
	c.loop.Hint(trialPrefix + string(w.Digest))
}

// prepare checks the record and finds the files. No load without error means: it is under suspicion now.
func (c *Controller) prepare(ctx context.Context, w api.Want) (*engine.Load, error) {
	c.mu.Lock()
	t := c.trial(w.Digest)
	known, sound := t.proven || t.passed, t.proven && t.losses == 0
	c.mu.Unlock()
	if sound && !c.isBarred(ctx, w) { // it loaded here, and nothing happened since: the record has nothing to add
		return c.materialize(ctx, w)
	}
	count, reason, err := c.crashes(ctx, w)
	if err == nil && count >= quarantineAt {
		return nil, quarantined(w, count, reason)
	}
	if !known && (count > 0 || err != nil) && c.config.InProcess == nil {
		// It crashed once, or nobody can tell: the serving worker is not the place to find out.
		c.suspect(w.Digest)
		c.loop.Hint(trialPrefix + string(w.Digest))
		return nil, nil
	}
	return c.materialize(ctx, w)
}

// materialize brings what the want needs onto this machine: one version, or every member of a chain.
func (c *Controller) materialize(ctx context.Context, w api.Want) (*engine.Load, error) {
	load := &engine.Load{Instance: w.Instance, Format: w.Format, Warm: c.warms(w.Digest), Options: w.Options}
	if w.Options.Chain == nil {
		var err error
		load.Path, err = c.config.Artifacts.Materialize(ctx, w.Digest)
		return load, err
	}
	for _, m := range w.Options.Chain.Members() {
		path, err := c.config.Artifacts.Materialize(ctx, m.Digest)
		if err != nil {
			return nil, err
		}
		load.Members = append(load.Members, engine.Member{Digest: m.Digest, Path: path})
	}
	return load, nil
}

// crashes reads the record, for a bounded time. A chain is as bad as the worst of its members and itself.
func (c *Controller) crashes(ctx context.Context, w api.Want) (count int, reason string, err error) {
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	count, reason, err = c.record(ctx, w.Tenant, w.Digest)
	if w.Options.Chain == nil {
		return count, reason, err
	}
	for _, m := range w.Options.Chain.Members() {
		n, why, memberErr := c.record(ctx, w.Tenant, m.Digest)
		if err = errors.Join(err, memberErr); n > count {
			count, reason = n, fmt.Sprintf("step %s: %s", m.Name, why)
		}
	}
	return count, reason, err
}

func quarantined(w api.Want, count int, reason string) *api.Error {
	return api.Fail(api.CodeQuarantined, w.Subject, "the file crashed the runtime %d times and is not loaded again; last: %s", count, reason)
}

// blame records a crash and makes the error that names it.
func (c *Controller) blame(ctx context.Context, w api.Want, exit string) *api.Error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storePatience) // a crash is a crash, also for a caller who left
	defer cancel()
	count, err := c.config.Crashes.RecordCrash(ctx, c.file(ctx, w.Digest), exit, api.TimeOf(time.Now()))
	if err != nil {
		c.config.Log.Error("crash not recorded", "subject", w.Subject, "digest", w.Digest, "error", err)
	}
	if count >= quarantineAt {
		c.tell(w.Tenant, "model.quarantined", w.Subject, "%s crashed the runtime %d times and is quarantined: %s", w.Subject, count, exit)
		return quarantined(w, count, exit)
	}
	c.tell(w.Tenant, "model.crashed", w.Subject, "loading %s ended the worker process: %s", w.Subject, exit)
	return api.Fail(api.CodeModelCrashes, w.Subject, "loading it ended the worker process: %s", exit)
}

// try holds the trial of a suspect, for the wants that wait for it.
func (c *Controller) try(ctx context.Context, digest api.Digest) {
	var waiting []api.Want
	now := time.Now()
	c.mu.Lock()
	t := c.trials[digest]
	for _, w := range c.wants {
		if len(w.claims) > 0 && w.Digest == digest && !w.final && !now.Before(w.again) {
			waiting = append(waiting, w.Want)
		}
	}
	due := t != nil && t.suspect && len(waiting) > 0
	c.mu.Unlock()
	if !due {
		return
	}
	_, err := c.alone(ctx, waiting[0])
	if err == nil {
		c.mu.Lock()
		t.suspect, t.passed = false, true
		c.mu.Unlock()
		c.hintAll()
		return
	}
	c.mu.Lock()
	t.proven = t.proven && !permanent(api.AsError(err).Code)
	c.mu.Unlock()
	for _, w := range waiting {
		c.fault(ctx, nil, w, err) // when it may pass, a worker asks for another trial after a pause
	}
}

// Probe loads a want's file in a throw-away worker, warms it, and says what the runtime makes of it, or how the worker
// crashed. It needs Run to be running. In process it loads the file beside the others and takes it away again.
func (c *Controller) Probe(ctx context.Context, w api.Want) (api.Signature, error) {
	c.mu.Lock()
	if c.dir == "" || c.stopped {
		c.mu.Unlock()
		return api.Signature{}, api.Fail(api.CodeUnavailable, w.Subject, "the fleet is not running")
	}
	c.lives.Add(1)
	c.mu.Unlock()
	defer c.lives.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-c.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	loaded, err := c.alone(ctx, w)
	return loaded.Signature, err
}

// alone loads a file where nothing else is loaded. A file that dies in warming is tried again without: the inputs that
// are made up may be what it cannot bear, and say nothing about those of callers.
func (c *Controller) alone(ctx context.Context, w api.Want) (engine.Loaded, error) {
	select {
	case c.probes <- struct{}{}:
		defer func() { <-c.probes }()
	case <-ctx.Done():
		return engine.Loaded{}, stoppedWaiting(ctx, w)
	}
	if count, reason, err := c.crashes(ctx, w); err == nil && count >= quarantineAt {
		return engine.Loaded{}, quarantined(w, count, reason)
	}
	load, err := c.materialize(ctx, w)
	if err != nil {
		return engine.Loaded{}, err
	}
	loaded, exit, err := c.attempt(ctx, w, *load)
	if api.Is(err, api.CodeWorkerLost) && ctx.Err() == nil && c.config.InProcess == nil && c.warms(w.Digest) {
		warming := exit
		load.Warm = false
		if loaded, exit, err = c.attempt(ctx, w, *load); err == nil {
			c.chill(ctx, w, warming)
		}
	}
	switch {
	case err == nil:
		return loaded, nil
	case ctx.Err() != nil:
		return loaded, stoppedWaiting(ctx, w)
	case api.Is(err, api.CodeWorkerLost):
		return loaded, c.blame(ctx, w, exit)
	case api.Is(err, api.CodeDeadline):
		return loaded, c.tooSlow(w)
	}
	refused := *api.AsError(err)
	refused.Subject = w.Subject
	return loaded, &refused
}

// attempt loads a file in a throw-away worker, and says how the worker ended when that was not by its own doing.
func (c *Controller) attempt(ctx context.Context, w api.Want, load engine.Load) (loaded engine.Loaded, exit string, err error) {
	hop := c.config.Hop
	hop.Memory = nil // a file that nobody has tried yet shall see no requests
	l, err := c.born(ctx, birth{name: "probe-" + strconv.FormatInt(c.serial.Add(1), 36), hop: hop})
	if err != nil {
		return loaded, "", api.Fail(api.CodeUnavailable, w.Subject, "no worker could be started to try it").Because(err)
	}
	limited, cancel := context.WithTimeout(ctx, c.config.LoadTimeout)
	defer cancel()
	load.Instance += "~probe"
	loaded, err = l.engine.Load(limited, load)
	if l.process == nil {
		_ = l.engine.Unload(ctx, load.Instance)
		return loaded, "", err
	}
	if !api.Is(err, api.CodeWorkerLost) {
		l.kill() // it holds nothing worth an orderly end
	}
	l.watch(c.stop, func() {})
	return loaded, l.exit, err
}

// warms says whether a file is to be warmed when it is loaded.
func (c *Controller) warms(digest api.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.trials[digest]
	return t == nil || !t.cold
}

// chill remembers that a file is to be loaded without warming. One crash is recorded, once: it makes the file pass alone
// before a serving worker touches it also when this controller has forgotten why.
func (c *Controller) chill(ctx context.Context, w api.Want, exit string) {
	c.mu.Lock()
	c.trial(w.Digest).cold = true
	c.mu.Unlock()
	if count, _, err := c.crashes(ctx, w); err != nil || count > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	if _, err := c.config.Crashes.RecordCrash(ctx, c.file(ctx, w.Digest), "warming: "+exit, api.TimeOf(time.Now())); err != nil {
		c.config.Log.Error("crash not recorded", "subject", w.Subject, "digest", w.Digest, "error", err)
	}
	c.tell(w.Tenant, "model.cold", w.Subject, "warming %s on made-up inputs ended the worker process (%s); it is loaded without, and a request with such inputs may end a worker too", w.Subject, exit)
}

func stoppedWaiting(ctx context.Context, w api.Want) *api.Error {
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return api.Fail(api.CodeDeadline, w.Subject, "the time was over before it was tried")
	}
	return api.Fail(api.CodeCanceled, w.Subject, "the trial was stopped")
}
