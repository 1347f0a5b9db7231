package fleet

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/process"
	"github.com/penstock/penstock/internal/fleet/cache"
)

// States of a worker, for people.
const (
	stateStarting = "starting"
	stateReady    = "ready"
	stateLost     = "lost"
)

// slot is the place of one worker; processes come and go in it. Its fields are guarded by Controller.mu; only tend,
// which never runs twice for one slot, starts lives and loads.
type slot struct {
	name       string
	number     int
	pool       int            // 0: everybody's
	exit       string         // how the last life ended
	stale      bool           // its worker is of who had the pool before
	load       api.WorkerLoad // what this process has the worker do; not guarded
	life       *life
	processors []int // nil: all
	state      string
	held       map[string]*held // what is loaded, or on its way in or out, by instance
	urgent     []*held          // to be loaded: those that requests wait for
	later      []*held          // to be loaded when nothing is urgent
	delayed    []*held          // of both, those that could not be loaded when it was their turn
	going      []*held          // to be unloaded
	pending    int              // urgent loads that are not done
	restarts   int64
	faults     int       // short lives in a row
	again      time.Time // no start before
	ending     bool      // its worker is to be replaced: nothing is loaded any more
	bloated    int       // looks in a row at which it took too much
	ended      time.Time // when it was replaced last
	checked    time.Time // when it was asked how it is; tend's alone
}

func (s *slot) alive() bool { return s.life != nil && !s.life.lost }

// queue needs Controller.mu. A copy may stand in both queues; what it is by then decides.
func (s *slot) queue(h *held) {
	if !h.urgent {
		s.later = append(s.later, h)
		return
	}
	s.urgent = append(s.urgent, h)
	if !h.pending {
		h.pending = true
		s.pending++
	}
}

// settled needs Controller.mu: the copy's load is over, or will not be.
func (h *held) settled() {
	if h.pending {
		h.pending = false
		h.slot.pending--
	}
}

// tend takes the one step that the slot needs most, and says when to look again.
func (c *Controller) tend(ctx context.Context, s *slot) (again time.Duration, err error) {
	c.mu.Lock()
	l := s.life
	lost := l != nil && l.lost
	pause := time.Until(s.again)
	used := c.used(s) && (!s.stale || l == nil)
	c.mu.Unlock()
	switch {
	case !used && l == nil:
		return c.config.Resync, nil
	case !used && !lost:
		c.retire(s, l)
		return c.config.Resync, nil
	case lost:
		return c.config.Resync, nil // its watcher hints when the slot is free
	case l == nil && pause > 0:
		return min(pause, c.config.Resync), nil
	case l == nil:
		return c.start(ctx, s), nil
	}
	h, after := c.next(s)
	if h == nil {
		rest := c.config.Resync/checks - time.Since(s.checked)
		if rest > 0 { // it is asked often already
			return min(after, rest), nil
		}
		s.checked = time.Now()
		c.check(ctx, s, l)
		return after, nil
	}
	c.load(ctx, s, l, h)
	return atOnce, nil // there may be more to do
}

// checks is how often an idle worker is asked how it is, at most, within Resync.
const checks = 5

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
		s.state = stateLost
		c.publish()
		c.empty(s)
		c.mu.Unlock()
		c.hintAll()
		c.config.Changed()
	})
	c.mu.Lock()
	stopped := c.stopped
	s.ending = false
	s.exit = l.exit
	if !stopped && l.process != nil { // an engine in this process does not come back
		s.life = nil
		s.restarts++
		if time.Since(l.started) >= stableLife {
			s.faults = 0
		}
		s.state = stateStarting
		if l.retired {
			s.restarts, s.faults, s.stale = 0, 0, false
			if !c.used(s) {
				s.state = statePooled
			}
		} else {
			s.failed()
		}
	}
	retired := l.retired
	c.mu.Unlock()
	c.hint(s.name)
	var stuck *process.StuckError
	if errors.As(l.fault(), &stuck) {
		c.Blame(api.Replica{Worker: s.name, Instance: stuck.Instance}, stuck.Error())
	}
	if !stopped && !retired {
		c.config.Meter.WorkerLost(s.name, l.exit)
		c.tell("", "worker.lost", s.name, "worker %s (process %d) ended: %s", s.name, l.pid, l.exit)
	}
}

// empty needs mu: the slot's worker is lost, and what it held with it. What is still wanted is planned anew, elsewhere or
// for the next life: each worker loads one at a time, so that no loss makes a stampede, and what requests wait for first.
func (c *Controller) empty(s *slot) {
	lost := slices.SortedFunc(maps.Values(s.held), func(a, b *held) int {
		return cmp.Or(b.want.entry.Last().Compare(a.want.entry.Last()), cmp.Compare(a.want.Instance, b.want.Instance))
	})
	s.held, s.going = nil, nil
	for _, h := range lost {
		again := h.stage == ready && h.unwanted.IsZero() // also where memory is short: there is some again
		c.remove(h)
		if w := h.want; again && len(w.claims) > 0 && !w.final && c.goal(w) == 0 {
			if to := c.choose(w); to != nil {
				c.plan(w, to, loadedAgain)
			}
		}
		c.settle(h.want)
	}
}

// next chooses what to load, or nothing until after.
func (c *Controller) next(s *slot) (h *held, after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	after = c.config.Resync
	if !s.alive() || s.ending {
		return nil, after
	}
	delayed := s.delayed
	s.delayed = nil
	for _, h := range delayed {
		if h.urgent {
			s.urgent = append(s.urgent, h)
		} else {
			s.later = append(s.later, h)
		}
	}
	for _, queue := range []*[]*held{&s.urgent, &s.later} {
		for len(*queue) > 0 {
			h := (*queue)[0]
			(*queue)[0] = nil
			*queue = (*queue)[1:]
			wait, ok := c.turn(s, h, now)
			if ok {
				return h, after
			}
			if wait > 0 {
				after = min(after, wait)
			}
		}
		*queue = nil
	}
	return nil, after
}

// turn needs mu. It says whether a copy can be loaded now, or else when to look again; 0: when something happens.
func (c *Controller) turn(s *slot, h *held, now time.Time) (wait time.Duration, ok bool) {
	w := h.want
	if h.stage != planned {
		return 0, false
	}
	if h.began.IsZero() {
		h.began = now
	}
	delay := func(wait time.Duration) (time.Duration, bool) {
		s.delayed = append(s.delayed, h)
		return wait, false
	}
	switch {
	case s.held[w.Instance] != nil: // it is still on its way out
		return delay(0)
	case now.Before(w.again):
		return delay(w.again.Sub(now))
	case !c.mayLoad(w.Digest):
		return delay(0)
	case h.why == loadedForAll && !h.urgent && c.plenty == forSome:
		c.remove(h) // there is not memory for all any more: it sleeps
		c.show(w)
		return 0, false
	case !c.room(h, now):
		if h.urgent || w.Loaded || c.cache.Used().Add(w.size).Fits(c.cache.Budget()) {
			return delay(roomPatience / 20)
		}
		c.remove(h)
		c.show(w)
		return 0, false
	}
	c.trial(w.Digest).loading++
	h.stage, h.loading = loading, now
	s.held[w.Instance] = h
	c.weigh(w)
	if h.why == loadedForRequest {
		c.ahead(w, now)
	}
	return 0, true
}

// clear unloads what is due, and says when to look again.
func (c *Controller) clear(ctx context.Context, s *slot) (again time.Duration, err error) {
	for {
		h, l, wait := c.due(s)
		if h == nil {
			return wait, nil
		}
		c.unload(ctx, s, l, h)
	}
}

// due takes the next copy to unload out of the slot's list, or says when one will be due; 0: none is there.
func (c *Controller) due(s *slot) (h *held, l *life, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	kept := s.going[:0]
	for _, one := range s.going {
		switch {
		case one.stage == gone || one.unwanted.IsZero(): // wanted again
		case h == nil && one.stage != loading && !now.Before(one.unwanted):
			h = one
		default:
			left := max(one.unwanted.Sub(now), time.Millisecond)
			if wait == 0 || left < wait {
				wait = left
			}
			kept = append(kept, one)
		}
	}
	clear(s.going[len(kept):])
	s.going = kept
	if h != nil {
		c.depart(h)
		c.weigh(h.want)
	}
	return h, s.life, wait
}

// unload takes a copy away that nobody wants here. A request that runs on may hold it for as long as its own deadline
// allows; the worker's other work does not wait for that, and the attempt is repeated after a drain.
func (c *Controller) unload(ctx context.Context, s *slot, l *life, h *held) {
	limited, cancel := context.WithTimeout(ctx, c.config.Unload)
	defer cancel()
	c.mu.Lock()
	instance := h.want.Instance
	c.mu.Unlock()
	err := l.engine.Unload(limited, instance)
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.stage == gone || s.life != l || l.lost || ctx.Err() != nil {
		return
	}
	if err == nil {
		c.remove(h)
		c.settle(h.want)
		for _, other := range c.slots {
			c.hint(other.name) // the room, or the place, may be waited for
		}
		return
	}
	h.unwanted = time.Now().Add(c.config.Drain)
	s.going = append(s.going, h)
	c.config.Log.Warn("instance not unloaded yet", "worker", s.name, "instance", instance, "error", err)
}

// load makes one copy ready. Loads on one worker follow each other, so that a death has one suspect.
func (c *Controller) load(ctx context.Context, s *slot, l *life, h *held) {
	c.mu.Lock()
	w := h.want.Want
	c.mu.Unlock()
	defer c.loaded(h, w.Digest)
	load, err := c.prepare(ctx, w)
	if err != nil {
		c.fault(ctx, h, w, err)
		return
	}
	c.spare(h, load)
	h.fetched = time.Now() // it is this goroutine's until it is ready
	if load == nil {       // under suspicion: it has to pass alone first
		return
	}
	limited, cancel := context.WithTimeout(ctx, c.config.LoadTimeout)
	defer cancel()
	loaded, err := l.engine.Load(limited, *load)
	switch {
	case err == nil:
		c.keep(s, l, h, w, &loaded)
		c.config.Meter.ModelLoaded(w.Subject, loaded.LoadTime, loaded.WarmTime)
		if h.urgent {
			c.config.Meter.ColdStart(api.ColdStart{Subject: w.Subject, Queue: h.began.Sub(h.asked), Place: h.loading.Sub(h.began),
				Fetch: h.fetched.Sub(h.loading), Load: loaded.LoadTime, Warm: loaded.WarmTime})
		}
	case ctx.Err() != nil:
	case api.Is(err, api.CodeWorkerLost):
		<-l.gone
		c.suspectLoss(ctx, h, w, l.exit)
	case api.Is(err, api.CodeDeadline):
		// The runtime cannot be told to stop loading. The process's end is what stops it and frees its memory.
		c.suspect(w.Digest)
		l.kill()
		c.fault(ctx, h, w, c.tooSlow(w))
		if l.process != nil {
			<-l.gone
		}
	default:
		c.fault(ctx, h, w, err)
	}
}

func (c *Controller) tooSlow(w api.Want) *api.Error {
	return api.Fail(api.CodeLoadFailed, w.Subject, "loading and warming took longer than the limit of %v", c.config.LoadTimeout)
}

// keep records a loaded copy and clears what was held against its file.
func (c *Controller) keep(s *slot, l *life, h *held, w api.Want, loaded *engine.Loaded) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.trial(w.Digest)
	t.proven, t.suspect, t.losses = true, false, 0
	to := h.want
	if to.Digest == w.Digest && !to.condemned { // which it may have been while it was loaded
		to.err, to.final, to.faults, to.again, to.avoid = nil, false, 0, time.Time{}, nil
		to.awaited = time.Time{}
		if known := w.Options.Chain == nil && h.untried; !known || to.batch == nil {
			to.batch = loaded.Batch
		}
		to.untried = h.untried
		if loaded.Bytes > 0 {
			h.first, h.bytes = loaded.Bytes, loaded.Bytes
			to.size = cache.Size{RAM: loaded.Bytes}
			c.count(to)
			c.weigh(to)
		}
	}
	if s.life != l || l.lost || h.stage != loading {
		return
	}
	h.stage, h.loaded = ready, time.Now()
	c.settle(to)
	if to.Loaded || len(to.claims) == 0 {
		c.config.Changed()
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
func (c *Controller) fault(ctx context.Context, h *held, w api.Want, err error) {
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
	if now == nil || now.Digest != w.Digest || len(now.claims) == 0 {
		c.mu.Unlock()
		return
	}
	if h != nil {
		now.avoid = h.slot
	}
	if now.set.Use().Waiting == 0 {
		now.awaited = time.Time{} // nobody asks for it any more
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
	tells := !crashed && (now.final || now.faults == faultsShown) // a crash has an event of its own
	c.settle(now)
	c.mu.Unlock()
	c.hintAll()
	if tells {
		c.tell(w.Tenant, "model.load_failed", w.Subject, "%s cannot be loaded: %s", w.Subject, told.Message)
	}
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
	asked := time.Now()
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
	l.runtime, l.resident, l.private = stats.Runtime, stats.Resident, stats.Private
	if s.life != l || l.lost {
		return
	}
	c.measure(s, l, stats.Instances, asked)
	if s.faults > 0 && time.Since(l.started) >= stableLife {
		s.faults = 0
	}
}
