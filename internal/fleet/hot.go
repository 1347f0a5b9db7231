package fleet

import (
	"cmp"
	"slices"
	"time"

	"github.com/penstock/penstock/internal/fleet/cache"
)

// A model that keeps hotFrom of a processor busy per copy gets one more, where there is another worker; it loses one when
// what is left would be below coldBelow each, for coolTime. The gap between the two keeps copies from coming and going.
const (
	hotFrom   = 0.6
	coldBelow = 0.3
	coolTime  = 30 * time.Second
	// rateWeight is how much of the load, in parts of 8, is that of the last look.
	rateWeight = 3
)

// tidy looks at all that is loaded: how much it is used, whether it is within the budget, and what has to be loaded anew.
func (c *Controller) tidy() {
	c.mu.Lock()
	c.look(time.Now())
	news := c.news
	c.news = nil
	c.mu.Unlock()
	for _, e := range news {
		c.tell("", e.Kind, e.Subject, "%s", e.Text)
	}
}

// look needs mu.
func (c *Controller) look(now time.Time) {
	span := now.Sub(c.tidied)
	c.tidied = now
	if to := c.sums.measure(c.cache.Budget().Part(riseAt, 100)); to > c.plenty {
		c.plenty = to
		for _, w := range c.wants {
			c.settle(w)
		}
	}
	awake := c.awake()
	c.spares = c.spares[:0]
	for _, w := range awake {
		c.use(w)
		c.heat(w, now, span)
		c.renew(w, now)
		c.spares = append(c.spares, c.spareCopies(w)...)
	}
	slices.SortFunc(c.spares, func(a, b *held) int { return b.want.entry.Last().Compare(a.want.entry.Last()) }) // taken from the end
	c.replace(now)
	ask := cache.Ask{Now: now, Held: c.mustStay}
	for !c.cache.Used().Fits(c.cache.Budget()) && c.takeSpare(now) {
	}
	for v := c.cache.Victim(ask); v != nil; v = c.cache.Victim(ask) {
		c.evict(v.Owner.(*want), now, evictedForLess)
	}
	c.tellEvictions(now)
}

// heat needs mu: it follows a model's load, and gives it copies by it.
func (c *Controller) heat(w *want, now time.Time, span time.Duration) {
	work := w.set.Use().Work
	if span > 0 {
		rate := float64(work-w.worked) / float64(span)
		w.rate += (rate - w.rate) * rateWeight / 8
	}
	w.worked = work
	once, full := c.demand(w)
	if c.plenty == forAllCopies || once == full || len(w.claims) == 0 || w.final {
		w.hot = 0
		return
	}
	n := max(1, w.hot)
	switch {
	case w.rate > hotFrom*float64(n) && n < full:
		w.hot, w.cool = n+1, now
		c.settle(w)
	case n > 1 && w.rate < coldBelow*float64(n-1):
		if now.Sub(w.cool) > coolTime {
			w.hot, w.cool = n-1, now
		}
	default:
		w.cool = now
	}
}

// spareCopies needs mu: the copies that a want has beyond what its load asks for. They go first when memory is short.
func (c *Controller) spareCopies(w *want) []*held {
	once, _ := c.demand(w)
	if c.plenty == forAllCopies || w.Replicas > 0 {
		return nil
	}
	var serving []*held
	for _, h := range w.copies {
		if h.serves() {
			serving = append(serving, h)
		}
	}
	keep := max(once, w.hot)
	if len(serving) <= keep {
		return nil
	}
	slices.SortFunc(serving, func(a, b *held) int { return cmp.Compare(a.slot.load.Work(), b.slot.load.Work()) })
	return serving[keep:]
}

// takeSpare needs mu: it takes one copy away that is not needed; false when there is none.
func (c *Controller) takeSpare(now time.Time) bool {
	for len(c.spares) > 0 {
		h := c.spares[len(c.spares)-1]
		c.spares = c.spares[:len(c.spares)-1]
		if !h.serves() || len(c.spareCopies(h.want)) == 0 {
			continue
		}
		// Requests that hold it there end there: unloading waits for them, and others go to the copy that stays.
		c.leave(h, now)
		c.depart(h)
		c.show(h.want)
		c.weigh(h.want)
		c.evicted[evictedSpare]++
		return true
	}
	return false
}

// A copy has grown when a large request has made it take grownTimes of what it took when it was loaded, and grownLeast more.
// The runtime keeps such memory until the session ends.
const (
	grownTimes = 2
	grownLeast = 16 << 20
)

func (h *held) grown() bool {
	return h.first > 0 && h.bytes > grownTimes*h.first && h.bytes > h.first+grownLeast
}

// busyUntried is the load from which a model is worth finding out what batching brings that was loaded in haste.
const busyUntried = 0.05

// renew needs mu: a copy that has grown, that is on a worker about to end, or that was loaded in haste and is used much, is
// loaded anew: elsewhere while it serves on, and where there is no elsewhere when no request holds it.
func (c *Controller) renew(w *want, now time.Time) {
	hasty := w.untried && w.rate > busyUntried
	var old, other *held
	for _, h := range w.copies {
		switch {
		case !h.serves() || h.stage != ready:
		case h.grown() || h.slot.ending || hasty && h.untried:
			h.retiring, old = true, h
		default:
			other = h
		}
	}
	if old == nil || now.Sub(old.loaded) < c.config.Guard {
		return
	}
	switch {
	case other != nil:
		c.leave(old, now)
		c.evicted[evictedRenewed]++
		c.settle(w)
	case !c.elsewhere(w):
		if w.set.Use().Users == 0 {
			c.evict(w, now, evictedRenewed)
			w.awaited = now // it comes back at once
			c.settle(w)
		}
	default:
		c.settle(w)
	}
}

// elsewhere needs mu: whether there is a worker where the want has no copy and that stays.
func (c *Controller) elsewhere(w *want) bool {
	return slices.ContainsFunc(c.slots, func(s *slot) bool { return s.alive() && !s.ending && !w.on(s) })
}
