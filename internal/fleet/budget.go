package fleet

import (
	"math"
	"time"

	"github.com/penstock/penstock/internal/fleet/cache"
)

// tally is what wants would take: with the copies that they have at least, and with those that they have while there is
// memory for all.
type tally struct {
	once cache.Size
	full cache.Size
}

// A model is thought to take estimateTimes of its files' bytes in halves, and estimateLeast more, until it was loaded once.
// Files of unknown size are thought to have estimateFile.
const (
	estimateHalves = 3
	estimateLeast  = 256 << 10
	estimateFile   = 8 << 20
)

func estimate(file int64) cache.Size {
	if file <= 0 {
		file = estimateFile
	}
	return cache.Size{RAM: file/2*estimateHalves + estimateLeast}
}

// unlimited is the budget of a fleet without one.
var unlimited = cache.Size{RAM: math.MaxInt64 / 4, GPU: math.MaxInt64 / 4}

// plenty is what there is memory for.
type plenty uint8

const (
	forSome      plenty = iota // models that are not asked for sleep
	forAll                     // each is loaded once
	forAllCopies               // each is loaded as often as it may be
)

// measure says what there is memory for, going by a budget.
func (t *tally) measure(budget cache.Size) plenty {
	switch {
	case t.full.Fits(budget):
		return forAllCopies
	case t.once.Fits(budget):
		return forAll
	}
	return forSome
}

// memoryKey is the loop's key of what tidy does.
const memoryKey = "memory"

// Memory counts as short as soon as the sums are over the budget, and as plenty again when they are riseAt percent of it:
// one model that comes and goes does not load and unload all others.
const riseAt = 90

// count needs mu: it brings the sums up to date with a want.
func (c *Controller) count(w *want) {
	next := tally{}
	if len(w.claims) > 0 {
		once, full := c.demand(w)
		next = tally{once: w.size.Times(once), full: w.size.Times(full)}
	}
	c.sums.once = c.sums.once.Add(next.once).Sub(w.tallied.once)
	c.sums.full = c.sums.full.Add(next.full).Sub(w.tallied.full)
	w.tallied = next
	c.plenty = min(c.plenty, c.sums.measure(c.cache.Budget()))
}

// weigh needs mu: it brings the budget up to date with a want's copies.
func (c *Controller) weigh(w *want) {
	n := 0
	for _, h := range w.copies {
		if h.stage == loading || h.stage == ready {
			n++
		}
	}
	if n == 0 {
		c.cache.Leave(&w.entry)
		return
	}
	c.cache.Enter(&w.entry, w.size.Times(n))
}

// use needs mu: it brings the worth up to date with what the set was used for.
func (c *Controller) use(w *want) {
	if u := w.set.Use(); u.Uses > w.counted {
		c.cache.Use(&w.entry, u.Uses-w.counted, u.Last)
		c.asked += u.Uses - w.counted
		c.missed += u.Misses - w.missed
		w.counted, w.missed = u.Uses, u.Misses
	}
}

// mustStay reports entries that cannot be taken away now. It needs mu.
func (c *Controller) mustStay(e *cache.Entry) bool {
	w := e.Owner.(*want)
	c.use(w)
	if w.Loaded || w.set.Use().Users > 0 {
		return true
	}
	for _, h := range w.copies {
		if h.stage == loading {
			return true
		}
	}
	return false
}

// roomPatience is how long a load waits for memory that requests hold before it goes over the budget: models in use are
// not taken away, and requests end.
const roomPatience = 200 * time.Millisecond

// Loads go on while no more than a part of the memory, one in leavingPart, is on its way back, and after leavingPatience
// whatever is: a model that clings holds nobody up for ever.
const (
	leavingPart     = 16
	leavingPatience = 5 * time.Second
)

// room needs mu: it makes room for one more copy, and reports whether it may be loaded now. A copy that no request waits
// for makes nobody leave; one that is loaded ahead only what was not used lately, since it may be a wrong guess.
func (c *Controller) room(h *held, now time.Time) (ok bool) {
	need := h.want.size
	over := func() bool { return !c.cache.Used().Add(need).Fits(c.cache.Budget()) }
	if !over() && c.leaving == (cache.Size{}) {
		return true
	}
	if over() && !h.urgent && !h.want.Loaded && h.why != loadedHot && h.why != loadedAnew && h.why != loadedAhead {
		return false
	}
	for over() && c.takeSpare(now) {
	}
	c.use(h.want)
	ask, why := cache.Ask{Now: now, Need: need, For: &h.want.entry, Held: c.mustStay}, evictedForRoom
	guess := h.why == loadedAhead && !h.urgent
	if guess {
		why = evictedAhead
		ask.Held = func(e *cache.Entry) bool {
			return c.mustStay(e) || c.cache.Lately(e, now) || e.Owner.(*want).expected(now)
		}
	}
	for over() {
		v := c.cache.Victim(ask)
		if v == nil {
			break
		}
		c.evict(v.Owner.(*want), now, why)
	}
	if guess && over() {
		return false
	}
	if !over() || c.cache.Passing(ask) {
		// What was taken away is in memory until it is unloaded. A little of that does no harm; much has to be gone first.
		return c.leaving.Fits(c.cache.Budget().Part(1, leavingPart)) || now.Sub(h.asked) > leavingPatience
	}
	return now.Sub(h.asked) > roomPatience
}

// Why a model was taken away.
const (
	evictedForRoom = "room"    // another was asked for
	evictedAhead   = "follows" // another usually follows one that was asked for
	evictedForLess = "budget"  // models or workers have grown
	evictedSpare   = "spare"   // a copy that its load does not ask for
	evictedRenewed = "renewed" // it is loaded anew
)

// evict needs mu: it takes every copy away, unless a request came first. What requests hold they entered before they read
// the set, so either they see that it is gone or this sees them.
func (c *Controller) evict(w *want, now time.Time, reason string) (done bool) {
	var taken []*held
	var before []time.Time // when each was to go anyway
	for _, h := range w.copies {
		if h.stage == ready {
			before = append(before, h.unwanted)
			h.unwanted = now
			taken = append(taken, h)
		}
	}
	c.show(w)
	if w.set.Use().Users > 0 {
		for i, h := range taken {
			h.unwanted = before[i]
		}
		c.show(w)
		c.use(w)
		return false
	}
	for _, h := range taken {
		c.depart(h)
		h.slot.going = append(h.slot.going, h)
		c.hint(unloadPrefix + h.slot.name)
	}
	c.weigh(w)
	if len(taken) > 0 {
		c.evicted[reason]++
		c.config.Meter.ModelEvicted(reason)
	}
	return true
}
