package fleet

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
)

// States of a worker, for people.
const (
	stateStarting = "starting"
	stateReady    = "ready"
	stateLost     = "lost"
)

// slot is the place of one worker; processes come and go in it. Its fields are guarded by Controller.mu; only tend,
// which never runs twice for one slot, starts lives and changes held.
type slot struct {
	name       string
	life       *life
	processors []int // nil: all
	state      string
	held       map[string]*held
	restarts   int64
	faults     int       // short lives in a row
	again      time.Time // no start before
}

// held is one instance that a worker holds.
type held struct {
	digest   api.Digest
	unwanted time.Time // since when nobody wants it here; zero while somebody does
	leaving  bool      // being unloaded: it must not be reported again, even if it is wanted again
}

// answers reports whether the slot holds w, loaded and warm.
func (s *slot) answers(w *want) bool {
	h := s.held[w.Instance]
	return s.life != nil && !s.life.lost && h != nil && !h.leaving && h.digest == w.Digest && slices.Contains(w.places, s.name)
}

// mark notes since when each held instance is unwanted.
func (s *slot) mark(wants map[string]*want, now time.Time) {
	for instance, h := range s.held {
		w := wants[instance]
		switch {
		case w != nil && w.Digest == h.digest && slices.Contains(w.places, s.name) && !h.leaving:
			h.unwanted = time.Time{}
		case h.unwanted.IsZero():
			h.unwanted = now
		}
	}
}

// tend takes the one step that the slot needs most, and says when to look again.
func (c *Controller) tend(ctx context.Context, s *slot) (again time.Duration, err error) {
	c.mu.Lock()
	l := s.life
	lost := l != nil && l.lost
	pause := time.Until(s.again)
	c.mu.Unlock()
	switch {
	case lost:
		return c.config.Resync, nil // its watcher hints when the slot is free
	case l == nil && pause > 0:
		return min(pause, c.config.Resync), nil
	case l == nil:
		return c.start(ctx, s), nil
	}
	instance, load, after := c.next(s)
	switch {
	case load != nil:
		c.load(ctx, s, l, *load)
	case instance != "":
		c.unload(ctx, s, l, instance)
	default:
		c.check(ctx, s, l)
		return after, nil
	}
	return atOnce, nil // there may be more to do
}

// atOnce makes the loop come back without anybody's hint.
const atOnce = time.Nanosecond

// A worker that lived shorter than stableLife counts as crashed at start: the first restart is at once, then pauses
// double from restartFirst to restartMax.
const (
	stableLife   = 10 * time.Second
	restartFirst = 100 * time.Millisecond
	restartMax   = 10 * time.Second
)

func (c *Controller) start(ctx context.Context, s *slot) (again time.Duration) {
	l, err := c.born(ctx, birth{name: s.name, processors: s.processors, hop: c.config.Hop})
	if err != nil {
		c.mu.Lock()
		s.state = stateLost
		pause := s.failed()
		c.mu.Unlock()
		if ctx.Err() == nil {
			c.config.Log.Error("worker not started", "worker", s.name, "again_in", pause, "error", err)
		}
		return max(pause, atOnce)
	}
	c.mu.Lock()
	s.life, s.state, s.held = l, stateReady, map[string]*held{}
	c.publish()
	c.lives.Go(func() { c.watch(s, l) })
	c.mu.Unlock()
	c.config.Meter.WorkerStarted(s.name)
	c.config.Changed()
	return atOnce
}

// failed needs Controller.mu. It counts a short life and returns the pause before the next.
func (s *slot) failed() (pause time.Duration) {
	if s.faults > 0 {
		pause = min(restartMax, restartFirst<<min(s.faults-1, 10))
	}
	s.faults++
	s.again = time.Now().Add(pause)
	return pause
}

// watch empties the slot when its worker is lost, at once, and frees it when the process is gone.
func (c *Controller) watch(s *slot, l *life) {
	l.watch(c.stop, func() {
		c.mu.Lock()
		l.lost = true
		s.state, s.held = stateLost, nil
		c.publish()
		c.mu.Unlock()
		c.config.Changed()
	})
	c.mu.Lock()
	stopped := c.stopped
	if !stopped && l.process != nil { // an engine in this process does not come back
		s.life = nil
		s.restarts++
		if time.Since(l.started) >= stableLife {
			s.faults = 0
		}
		s.failed()
		s.state = stateStarting
	}
	c.mu.Unlock()
	c.hint(s.name)
	if !stopped {
		c.config.Meter.WorkerLost(s.name, l.exit)
		c.tell("", "worker.lost", s.name, "worker %s (process %d) ended: %s", s.name, l.pid, l.exit)
	}
}

// next chooses what to do: an instance to unload, a want to load, or nothing until after.
func (c *Controller) next(s *slot) (unload string, load *api.Want, after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	after = c.config.Resync
	soon := func(at time.Time) { after = min(after, max(at.Sub(now), time.Millisecond)) }
	s.mark(c.wants, now)
	for instance, h := range s.held {
		if h.unwanted.IsZero() {
			continue
		}
		due := h.unwanted.Add(c.config.Drain)
		if !now.Before(due) {
			h.leaving = true
			return instance, nil, after
		}
		soon(due)
	}
	var best *want
	for _, w := range c.wants {
		switch {
		case w.final || s.held[w.Instance] != nil || !slices.Contains(w.places, s.name):
			continue
		case now.Before(w.again):
			soon(w.again)
			continue
		case !c.mayLoad(w.Digest):
			continue
		}
		if best == nil || cmp.Compare(w.Instance, best.Instance) < 0 {
			best = w
		}
	}
	if best == nil {
		return "", nil, after
	}
	c.trial(best.Digest).loading++
	w := best.Want
	return "", &w, after
}

// unload takes an instance away that nobody wants here. A request that runs on may hold it for as long as its own
// deadline allows; the worker's other work does not wait for that, and the attempt is repeated after a drain.
func (c *Controller) unload(ctx context.Context, s *slot, l *life, instance string) {
	limited, cancel := context.WithTimeout(ctx, c.config.Unload)
	defer cancel()
	err := l.engine.Unload(limited, instance)
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.life != l || l.lost || ctx.Err() != nil {
		return
	}
	if err == nil {
		delete(s.held, instance)
		return
	}
	s.held[instance].unwanted = time.Now()
	c.config.Log.Warn("instance not unloaded yet", "worker", s.name, "instance", instance, "error", err)
}

// load makes one want ready on one worker. Loads on one worker follow each other, so that a death has one suspect.
func (c *Controller) load(ctx context.Context, s *slot, l *life, w api.Want) {
	defer c.loaded(w.Digest)
	load, err := c.prepare(ctx, w)
	if err != nil {
		c.fault(ctx, w, err)
		return
	}
	if load == nil { // under suspicion: it has to pass alone first
		return
	}
	limited, cancel := context.WithTimeout(ctx, c.config.LoadTimeout)
	defer cancel()
	loaded, err := l.engine.Load(limited, *load)
	switch {
	case err == nil:
		c.keep(s, l, w, loaded.Batch)
		c.config.Meter.ModelLoaded(w.Subject, loaded.LoadTime, loaded.WarmTime)
		c.config.Changed()
	case ctx.Err() != nil:
	case api.Is(err, api.CodeWorkerLost):
		<-l.gone
		c.suspectLoss(ctx, w, l.exit)
	case api.Is(err, api.CodeDeadline):
		// The runtime cannot be told to stop loading. The process's end is what stops it and frees its memory.
		c.suspect(w.Digest)
		l.kill()
		c.fault(ctx, w, c.tooSlow(w))
		if l.process != nil {
			<-l.gone
		}
	default:
		c.fault(ctx, w, err)
	}
}

func (c *Controller) tooSlow(w api.Want) *api.Error {
	return api.Fail(api.CodeLoadFailed, w.Subject, "loading and warming took longer than the limit of %v", c.config.LoadTimeout)
}

// keep records a loaded instance and clears what was held against it.
func (c *Controller) keep(s *slot, l *life, w api.Want, batch *api.BatchPlan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.trial(w.Digest)
	t.proven, t.suspect, t.losses = true, false, 0
	if now := c.wants[w.Instance]; now != nil && now.Digest == w.Digest {
		now.err, now.final, now.faults, now.again = nil, false, 0, time.Time{}
		now.batch = batch
	}
	if s.life == l && !l.lost {
		s.held[w.Instance] = &held{digest: w.Digest}
		s.mark(c.wants, time.Now())
	}
}

// Passing faults are tried again with pauses that double from faultFirst to faultMax; after faultsShown in a row the
// state tells of them.
const (
	faultFirst  = 50 * time.Millisecond
	faultMax    = 30 * time.Second
	faultsShown = 5
)

// fault records why a want could not be loaded. A file that was blamed for a crash, or that never loaded and is refused,
// stays refused until the want is withdrawn; anything else (a disk, a store, a worker short of memory) may pass.
func (c *Controller) fault(ctx context.Context, w api.Want, err error) {
	if ctx.Err() != nil {
		return
	}
	e := api.AsError(err)
	told := *e
	told.Subject = w.Subject
	c.config.Meter.LoadFailed(w.Subject, told.Code)
	c.config.Log.Warn("instance not loaded", "subject", w.Subject, "instance", w.Instance, "code", told.Code, "error", err, "cause", e.Err)
	c.mu.Lock()
	now := c.wants[w.Instance]
	if now == nil || now.Digest != w.Digest {
		c.mu.Unlock()
		return
	}
	crashed := told.Code == api.CodeModelCrashes || told.Code == api.CodeQuarantined
	if crashed || permanent(told.Code) && !c.trial(w.Digest).proven {
		now.err, now.final = &told, true
	} else {
		now.faults++
		now.again = time.Now().Add(min(faultMax, faultFirst<<min(now.faults-1, 16)))
		if now.faults >= faultsShown {
			now.err = &told
		}
	}
	changed := now.err != nil
	c.mu.Unlock()
	if changed {
		c.config.Changed()
	}
}

// permanent reports whether trying the same file again is of no use.
func permanent(code api.Code) bool {
	switch code.Kind() {
	case api.Refused, api.Invalid, api.TooLarge, api.NotFound, api.Unsupported:
		return true
	}
	return false
}

// check asks an idle worker how it is. One that does not answer is killed: a stopped or looping process is worse than
// a dead one.
func (c *Controller) check(ctx context.Context, s *slot, l *life) {
	limited, cancel := context.WithTimeout(ctx, c.config.Health)
	defer cancel()
	stats, err := l.engine.Stats(limited)
	switch {
	case ctx.Err() != nil || api.Is(err, api.CodeWorkerLost):
		return
	case api.Is(err, api.CodeDeadline):
		c.config.Log.Error("worker does not answer and is killed", "worker", s.name, "waited", c.config.Health)
		l.kill()
		return
	case err != nil:
		c.config.Log.Warn("worker does not tell how it is", "worker", s.name, "error", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l.runtime, l.resident = stats.Runtime, stats.Resident
	if s.life == l && !l.lost && s.faults > 0 && time.Since(l.started) >= stableLife {
		s.faults = 0
	}
}
