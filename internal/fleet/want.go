package fleet

import (
	"slices"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/fleet/cache"
)

// want is one instance that somebody wants, and what became of it. It outlives its last claim until its copies are
// unloaded. Guarded by Controller.mu, but for set.
type want struct {
	api.Want  // what all claims ask for together
	claims    []claim
	set       *api.ReplicaSet
	entry     cache.Entry   // its worth and its bytes in the budget
	counted   int64         // uses of set that entry knows of
	copies    []*held       // ordered by slot
	size      cache.Size    // of one copy, estimated until one was loaded
	tallied   tally         // what the sums hold of it
	missed    int64         // of counted, those that had to wait
	worked    time.Duration // of set, at the last look
	rate      float64       // processors that it keeps busy, lately
	cool      time.Time     // since when it is not as hot as it was
	follow    follow
	hot       int       // copies that its load asks for; 0 and 1 are the same
	awaited   time.Time // since when a request waits for a sleeping model; zero: none does
	batch     *api.BatchPlan
	untried   bool       // batch was not found out, since a request waited
	err       *api.Error // why it cannot be loaded
	final     bool       // err stays until the want is withdrawn
	pool      int        // that its copies are in
	condemned bool       // it crashed while serving: what is loaded is taken away too
	faults    int        // passing faults in a row
	again     time.Time  // no attempt before
	avoid     *slot      // where the last attempt failed
}

// claim is what one owner asks for.
type claim struct {
	owner api.EndpointKey
	want  api.Want
}

// stage is where a copy is on its way.
type stage uint8

const (
	planned stage = iota // in its slot's queue
	loading
	ready
	leaving // being unloaded: it must not be reported again, even if it is wanted again
	gone
)

// held is one copy of a want, planned or loaded on one worker. Guarded by Controller.mu.
type held struct {
	want     *want
	slot     *slot
	digest   api.Digest
	stage    stage
	urgent   bool       // requests wait for it
	unwanted time.Time  // when it is to be unloaded, if nobody wants it again until then; zero while somebody does
	asked    time.Time  // when it was planned
	loaded   time.Time  // when it was ready
	retiring bool       // it serves until another does in its place
	began    time.Time  // when it was its turn first, and there may not have been memory
	loading  time.Time  // when its load began
	fetched  time.Time  // when its files were there
	frees    cache.Size // on its way out: what comes back
	first    int64      // bytes when it was loaded
	bytes    int64      // that its worker says it takes; 0: unknown
	why      string     // it was planned
	pending  bool       // slot.pending counts it
	untried  bool       // it was loaded without finding out what batching brings
}

// Why a copy was loaded.
const (
	loadedForAll     = "memory"  // there is memory for all
	loadedPinned     = "kept"    // its endpoint keeps it loaded, or a release waits for it
	loadedForRequest = "request" // a request asked for it
	loadedAgain      = "worker"  // its worker was lost
	loadedHot        = "load"    // its load asks for more copies
	loadedAnew       = "renewed" // another copy has to go
	loadedAhead      = "follows" // it usually follows one that was asked for
)

// serves reports whether requests may be sent to the copy.
func (h *held) serves() bool {
	return h.stage == ready && h.unwanted.IsZero() && !h.slot.life.lost && h.digest == h.want.Digest
}

// counts reports whether the copy stands for one of those that are wanted.
func (h *held) counts() bool {
	return h.stage <= ready && h.unwanted.IsZero() && h.digest == h.want.Digest && !h.retiring
}

// Claim says what an owner wants loaded from now on; it replaces what the owner said before. Wants of several owners with
// the same instance are one: the largest demand of each kind counts. It costs what the owner's own wants cost, however
// many others there are.
func (c *Controller) Claim(owner api.EndpointKey, wants []api.Want) {
	c.mu.Lock()
	before := c.owners[owner]
	var now []*want
	for _, asked := range wants {
		w := c.wants[asked.Instance]
		if w == nil {
			w = c.newWant(asked.Instance)
		}
		if !slices.Contains(now, w) {
			w.take(claim{owner, asked})
			now = append(now, w)
		}
	}
	for _, w := range before {
		if !slices.Contains(now, w) {
			w.drop(owner)
		}
	}
	c.owners[owner] = now
	if len(now) == 0 {
		delete(c.owners, owner)
	}
	for _, w := range slices.Concat(now, before) {
		c.merge(w)
	}
	c.mu.Unlock()
	c.hintAll()
}

// newWant needs mu. Nobody claims it yet.
func (c *Controller) newWant(instance string) *want {
	w := &want{Want: api.Want{Instance: instance}}
	w.entry.Owner = w
	w.set = api.NewReplicaSet(func(*api.ReplicaSet) { c.wake(w) })
	c.wants[instance] = w
	return w
}

func (w *want) take(next claim) {
	for i := range w.claims {
		if w.claims[i].owner == next.owner {
			w.claims[i] = next
			return
		}
	}
	w.claims = append(w.claims, next)
}

func (w *want) drop(owner api.EndpointKey) {
	w.claims = slices.DeleteFunc(w.claims, func(k claim) bool { return k.owner == owner })
}

// merge needs mu: it makes one want of all claims, and carries out what follows.
func (c *Controller) merge(w *want) {
	if len(w.claims) == 0 {
		w.err, w.final, w.faults, w.again, w.avoid, w.awaited = nil, false, 0, time.Time{}, nil, time.Time{}
		w.condemned = false
		c.forgetTrial(w.Digest)
	} else {
		next := w.claims[0].want
		for _, k := range w.claims[1:] {
			if next.Replicas == 0 || k.want.Replicas == 0 {
				next.Replicas = 0 // one per worker covers every number
			}
			next.Replicas = max(next.Replicas, k.want.Replicas)
			next.Loaded, next.Standby = next.Loaded || k.want.Loaded, next.Standby || k.want.Standby
			next.Priority = max(next.Priority, k.want.Priority)
		}
		if next.Digest != w.Digest {
			w.size = estimate(next.Size)
			w.err, w.final, w.faults, w.again, w.batch = nil, false, 0, time.Time{}, nil
			w.condemned = false
		}
		w.Want, w.entry.Priority = next, next.Priority
		switch full := c.enroll(w); {
		case full != nil:
			w.err, w.final = full, true
		case w.final && w.err.Code == api.CodeUnavailable: // there is a pool for it now
			w.err, w.final = nil, false
		}
	}
	c.count(w)
	c.settle(w)
}

// settle needs mu: it plans the copies that are missing and gives up those that are too many. Slots have to be hinted at
// afterwards.
func (c *Controller) settle(w *want) {
	now := time.Now()
	goal := c.goal(w)
	have := 0
	for _, h := range w.copies {
		if h.counts() {
			have++
		}
	}
	for _, h := range w.copies { // what is on its way out and not gone yet is the cheapest
		if have < goal && h.stage == ready && !h.unwanted.IsZero() && !h.retiring && h.digest == w.Digest {
			h.unwanted = time.Time{}
			have++
		}
	}
	for ; have < goal; have++ {
		s := c.choose(w)
		if s == nil {
			break
		}
		c.plan(w, s, c.reason(w))
	}
	for i := len(w.copies) - 1; i >= 0; i-- {
		h := w.copies[i]
		stale := h.digest != w.Digest && h.unwanted.IsZero()
		if !stale && (have <= goal || !h.counts()) {
			continue
		}
		if !stale {
			have--
		}
		switch h.stage {
		case planned:
			c.remove(h)
		case loading, ready:
			c.leave(h, now.Add(c.config.Drain))
		}
	}
	c.show(w)
	if len(w.claims) == 0 && len(w.copies) == 0 && c.wants[w.Instance] == w {
		delete(c.wants, w.Instance)
		c.dissolve(w.pool)
	}
}

// goal needs mu: the number of copies that should be loaded or planned. While everything fits, everything is loaded. When
// memory is short, what is not asked for sleeps.
func (c *Controller) goal(w *want) int {
	if len(w.claims) == 0 {
		return 0
	}
	have, serving, retiring := 0, 0, 0
	for _, h := range w.copies {
		if h.counts() {
			have++
		}
		if h.retiring && h.serves() {
			retiring = 1 // another has to come in its place
		}
		if h.serves() {
			serving++
		}
	}
	once, full := c.demand(w)
	have = max(have, retiring)
	switch {
	case w.condemned:
		return 0
	case w.final:
		return min(serving, full) // what it has it keeps
	case c.plenty == forAllCopies:
		return full
	case w.Loaded, c.plenty == forAll, !w.awaited.IsZero(), have > 0:
		return min(full, max(once, have, w.hot))
	}
	return 0
}

// demand is the number of copies that a want has at least while it is awake, and those that it has while there is memory
// for all.
func (c *Controller) demand(w *want) (once, full int) {
	if w.Replicas > 0 {
		n := min(w.Replicas, c.poolSize(w.pool))
		return n, n
	}
	return 1, c.poolSize(w.pool)
}

// reason needs mu.
func (c *Controller) reason(w *want) string {
	switch {
	case !w.awaited.IsZero():
		return loadedForRequest
	case w.Loaded:
		return loadedPinned
	case slices.ContainsFunc(w.copies, func(h *held) bool { return h.retiring }):
		return loadedAnew
	case w.hot > 1:
		return loadedHot
	}
	return loadedForAll
}

// plan needs mu: it puts a copy into a slot's queue.
func (c *Controller) plan(w *want, s *slot, why string) {
	h := &held{want: w, slot: s, digest: w.Digest, asked: time.Now(), urgent: !w.awaited.IsZero(), why: why}
	at, _ := slices.BinarySearchFunc(w.copies, s.number, func(h *held, n int) int { return h.slot.number - n })
	w.copies = slices.Insert(w.copies, at, h)
	s.queue(h)
	c.hint(s.name)
}

// leave needs mu: the copy gets no more requests, and is unloaded at a time unless it is wanted again before.
func (c *Controller) leave(h *held, at time.Time) {
	if h.unwanted.IsZero() {
		h.unwanted = at
		h.slot.going = append(h.slot.going, h)
		c.hint(unloadPrefix + h.slot.name)
	}
}

// depart needs mu: the copy is being unloaded, and its memory is on its way back.
func (c *Controller) depart(h *held) {
	if h.stage != leaving {
		h.stage, h.frees = leaving, h.want.size
		c.leaving = c.leaving.Add(h.frees)
	}
}

// remove needs mu: the copy is not there any more.
func (c *Controller) remove(h *held) {
	h.stage = gone
	c.leaving, h.frees = c.leaving.Sub(h.frees), cache.Size{}
	h.settled()
	if i := slices.Index(h.want.copies, h); i >= 0 {
		h.want.copies = slices.Delete(h.want.copies, i, i+1)
	}
	if h.slot.held[h.want.Instance] == h {
		delete(h.slot.held, h.want.Instance)
	}
	c.weigh(h.want)
}

// show needs mu: it makes the set say what is loaded.
func (c *Controller) show(w *want) {
	next := api.ReplicaState{Batch: w.batch}
	any := false // copy that is there or on its way
	for _, h := range w.copies {
		any = any || h.counts()
		if len(w.claims) > 0 && !c.stopped && h.serves() {
			next.Replicas = append(next.Replicas, api.Replica{Worker: h.slot.name, Instance: w.Instance, Load: &h.slot.load})
		}
	}
	if len(next.Replicas) == 0 && w.final {
		next.Err = w.err
	}
	next.Asleep = len(w.claims) > 0 && !any && !w.final
	if old := w.set.State(); old.Asleep != next.Asleep || old.Err != next.Err || old.Batch != next.Batch || !slices.Equal(old.Replicas, next.Replicas) {
		w.set.Set(next)
	}
}

// wake is called by a request that finds no replica. It never waits but for the lock.
func (c *Controller) wake(w *want) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped || len(w.claims) == 0 || w.final {
		return
	}
	now := time.Now()
	c.use(w)
	if w.awaited.IsZero() {
		w.awaited = now
		c.learn(w, now)
	}
	for _, h := range w.copies {
		switch {
		case h.serves():
			w.awaited = time.Time{}
			return // the request tried it in vain; it will see when something changes
		case h.stage == planned && !h.urgent:
			h.urgent, h.asked, h.why = true, now, loadedForRequest
			h.slot.queue(h)
			c.hint(h.slot.name)
		}
	}
	c.settle(w)
}

// Set gives the set that a plan names for an instance. It is the same as long as anybody wants the instance.
func (c *Controller) Set(instance string) *api.ReplicaSet {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.wants[instance]
	if w == nil {
		w = c.newWant(instance) // it is about to be claimed, or was until now: the plan and the claim may come in any order
	}
	return w.set
}

// State says what became of a want; the zero state is that of an instance nobody wants.
func (c *Controller) State(instance string) api.InstanceState {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.wants[instance]
	if w == nil || len(w.claims) == 0 {
		return api.InstanceState{}
	}
	now := w.set.State()
	state := api.InstanceState{Replicas: now.Replicas, Batch: w.batch, Err: w.err, Asleep: now.Asleep, Wanted: c.goal(w)}
	if once, _ := c.demand(w); w.final && state.Wanted == 0 {
		state.Wanted = once
	}
	return state
}

// Wake loads a sleeping instance without a request.
func (c *Controller) Wake(instance string) {
	if set := c.Set(instance); set != nil && set.State().Asleep {
		set.Wake()
	}
}
