package fleet

import (
	"slices"
	"time"
)

// follow is what is known of which model is woken after another: one successor for each, and how often it came.
type follow struct {
	next    *want
	hits    int8      // how often it came, less how often another did
	guessed time.Time // when it was thought to come, and nobody knows yet whether it did; else zero
}

// A model that was woken within followSpan after another of its tenant followed it. It is loaded ahead when it came
// followFrom times more often than others did; more than followMost times are not counted, so that habits can change.
const (
	followSpan = 5 * time.Second
	followFrom = 3
	followMost = 8
)

// woken is the last model that a tenant had woken.
type woken struct {
	want  *want
	at    time.Time
	guess *want // what was loaded ahead of being asked for, nil for nothing
}

// learn needs mu: a model is woken, and follows the tenant's last one. What was loaded ahead is not woken: where it was asked
// for in between, this one follows it.
func (c *Controller) learn(w *want, now time.Time) {
	before := c.woken[w.Tenant]
	c.woken[w.Tenant] = woken{want: w, at: now}
	if g := before.guess; g != nil && g != w {
		c.use(g)
		if last := g.entry.Last(); last.After(before.at) {
			before = woken{want: g, at: last}
		}
	}
	if before.want == nil || before.want == w || now.Sub(before.at) > followSpan {
		return
	}
	f := &before.want.follow
	switch {
	case f.next == w:
		f.hits = min(followMost, f.hits+1)
	case f.hits > 0:
		f.hits--
	default:
		*f = follow{next: w, hits: 1}
	}
}

// hindsight needs mu: it learns from the guess that was made when a model was woken before. One that is not asked for any more
// is not loaded for long.
func (c *Controller) hindsight(f *follow) {
	if f.guessed.IsZero() {
		return
	}
	c.use(f.next)
	if last := f.next.entry.Last(); last.After(f.guessed) {
		f.hits = min(followMost, f.hits+1)
	} else {
		f.hits = max(0, f.hits-1)
	}
	f.guessed = time.Time{}
}

// expected reports that the want was loaded ahead a moment ago: another guess is no reason to take it away again.
func (w *want) expected(now time.Time) bool {
	return slices.ContainsFunc(w.copies, func(h *held) bool { return h.why == loadedAhead && now.Sub(h.asked) < followSpan })
}

// ahead needs mu: a model that was woken is about to be loaded, and has its room. What usually follows it is planned too,
// when it sleeps; it gets the room that is left, or that of what was not used lately.
func (c *Controller) ahead(w *want, now time.Time) {
	f := &w.follow
	c.hindsight(f)
	next := f.next
	if next == nil || f.hits < followFrom || len(next.claims) == 0 || next.final || len(next.copies) > 0 {
		return
	}
	if s := c.choose(next); s != nil && s.alive() {
		f.guessed = now
		c.plan(next, s, loadedAhead)
		c.show(next)
		if last := c.woken[next.Tenant]; last.want == w {
			c.woken[next.Tenant] = woken{want: w, at: last.at, guess: next}
		}
	}
}
