// Package cache decides which models stay in memory under a budget: it counts bytes by dimension, ranks models by how
// often and how lately they were used, and names the one to take away. It is pure: no clock, no goroutine, no model; the
// caller tells it what happened and when, and does what it says. Callers: fleet, which guards it with its own lock.
package cache

import (
	"container/heap"
	"math"
	"time"
)

// Config tunes a cache. Zero fields take their defaults.
type Config struct {
	Budget Size // what all entries in memory may take together

	// Guard is how long after its last use an entry is not taken away to make room for one that is used less; default 10 s.
	Guard time.Duration
	// HalfLife is how long it takes until a use counts half; default 10 min. Much shorter makes the cache take away what was
	// not used for longest, much longer what was used least often.
	HalfLife time.Duration
	// Window is the part of the budget, in percent, where entries begin whose worth is not known yet; default 5. It always
	// has room for one.
	Window int
}

func (c Config) orDefault() Config {
	if c.Guard == 0 {
		c.Guard = 10 * time.Second
	}
	if c.HalfLife <= 0 {
		c.HalfLife = 10 * time.Minute
	}
	if c.Window <= 0 {
		c.Window = 5
	}
	return c
}

// Entry is one model, in memory or not. Out of memory it remembers how much it was used, so that it comes back with what
// it is worth. The zero value is one that was never used. Only its cache touches it.
type Entry struct {
	// Owner leads from an entry that Victim names to what it stands for.
	Owner any
	// Priority moves the entry up by so many doublings of its use.
	Priority int

	score  float64 // log2 of its uses, each counted twice as much as one a half-life before
	scored bool    // whether it was ever used
	last   time.Time
	size   Size
	place  place
	index  int // in the heap of the main part
	newer  *Entry
	older  *Entry
}

type place uint8

const (
	outside place = iota
	inWindow
	inMain
)

// In reports whether the entry counts as in memory.
func (e *Entry) In() bool { return e.place != outside }

// Last is when it was last used; zero: never.
func (e *Entry) Last() time.Time { return e.last }

// Cache is the state of the budget. Its methods must not run at the same time.
type Cache struct {
	config Config
	zero   time.Time // the first moment that it was told of; scores count from there
	used   Size
	window recency
	main   rank
	lately recency // the main part, by last use
}

// New makes an empty cache.
func New(config Config) *Cache { return &Cache{config: config.orDefault()} }

// Used is what the entries in memory take.
func (c *Cache) Used() Size { return c.used }

// Budget is what they may take.
func (c *Cache) Budget() Size { return c.config.Budget }

// SetBudget changes it; what is over it from then on, Victim names.
func (c *Cache) SetBudget(budget Size) { c.config.Budget = budget }

// Len counts the entries in memory.
func (c *Cache) Len() int { return c.window.count + len(c.main) }

// Use counts n uses, the last of them at a time. Times may come out of order; an earlier one counts less.
func (c *Cache) Use(e *Entry, n int64, at time.Time) {
	if n <= 0 {
		return
	}
	if c.zero.IsZero() {
		c.zero = at
	}
	lives := float64(at.Sub(c.zero)) / float64(c.config.HalfLife)
	use := lives + math.Log2(float64(n))
	if e.scored {
		low, high := min(e.score, use), max(e.score, use)
		use = high + math.Log2(1+math.Exp2(low-high))
	}
	e.score, e.scored = use, true
	if at.After(e.last) {
		e.last = at
	}
	switch e.place {
	case inWindow:
		c.window.touch(e)
	case inMain:
		c.lately.touch(e)
		heap.Fix(&c.main, e.index)
	}
}

// worth ranks entries; one that was never used is worth least.
func (e *Entry) worth() float64 {
	if !e.scored {
		return math.Inf(-1)
	}
	return e.score + float64(e.Priority)
}

// Enter counts an entry as in memory with a size. It begins in the window.
func (c *Cache) Enter(e *Entry, size Size) {
	if e.In() {
		c.Resize(e, size)
		return
	}
	e.size, e.place = size, inWindow
	c.used = c.used.Add(size)
	c.window.push(e)
}

// Resize says what an entry in memory takes now.
func (c *Cache) Resize(e *Entry, size Size) {
	if !e.In() {
		return
	}
	c.used = c.used.Add(size).Sub(e.size)
	list := &c.lately
	if e.place == inWindow {
		list = &c.window
	}
	list.bytes = list.bytes.Add(size).Sub(e.size)
	e.size = size
}

// Leave counts an entry as out of memory.
func (c *Cache) Leave(e *Entry) {
	switch e.place {
	case inWindow:
		c.window.remove(e)
	case inMain:
		c.lately.remove(e)
		heap.Remove(&c.main, e.index)
	default:
		return
	}
	c.used = c.used.Sub(e.size)
	e.place, e.size = outside, Size{}
}

// promote moves an entry from the window to the main part.
func (c *Cache) promote(e *Entry) {
	c.window.remove(e)
	e.place = inMain
	c.lately.insert(e)
	heap.Push(&c.main, e)
}

// Ask is what Victim needs to know.
type Ask struct {
	Now  time.Time
	Need Size   // what is about to be loaded, on top of what is used
	For  *Entry // the entry that is about to be loaded; nil when only the budget is to be kept
	// Held reports entries that must stay: pinned ones, and those that requests hold. It may call Use on its entry.
	Held func(*Entry) bool
}

// Victim names the entry to take away next so that Need fits, nil when it fits already or when everything is held. The
// caller calls Leave on it, and asks again.
//
// Newcomers pass through the window. When it is over its part, the one of them that was not used for longest is compared
// with what is worth least in the main part: the one worth less is taken away, the other has its place in the main part.
// So a model that is asked for once takes the place of another such, and of nobody else.
func (c *Cache) Victim(ask Ask) *Entry {
	c.settle()
	if c.used.Add(ask.Need).Fits(c.config.Budget) || c.Passing(ask) {
		return nil
	}
	if c.windowFull(ask.Need) {
		if victim := c.contest(ask); victim != nil {
			return victim
		}
	}
	if rival := c.least(ask, c.guarded(ask.Now)); rival != nil {
		return rival
	}
	if candidate := c.window.oldest(ask.Held); candidate != nil {
		return candidate
	}
	// Everything left was used just now, and something has to give: a request is waiting.
	return c.least(ask, free)
}

// Passing reports whether a newcomer may be loaded over the budget, where the window's part has no room for one and nothing in memory is
// worth less: one at a time. It goes when the next one comes, or when the caller asks with no need of its own.
func (c *Cache) Passing(ask Ask) bool {
	if ask.For == nil || c.window.count > 0 || !c.used.Fits(c.config.Budget) || !ask.Need.Fits(c.config.Budget.Part(1, passing)) ||
		ask.Need.Fits(c.config.Budget.Part(int64(c.config.Window), 100)) {
		return false
	}
	rival := c.least(ask, free)
	return rival == nil || ask.For.worth() <= rival.worth()
}

// passing is the part of the budget, one in so many, that a newcomer may be over it.
const passing = 10

// contest compares the oldest of the window with the least of the main part. One that was used within the guard has to be
// worth half as much, to be taken away. nil: everything in the window is held.
func (c *Cache) contest(ask Ask) *Entry {
	candidate := c.window.oldest(ask.Held)
	if candidate == nil {
		return nil
	}
	rival := c.least(ask, free)
	if rival == nil {
		return candidate
	}
	bar := rival.worth()
	if c.guarded(ask.Now)(rival) {
		bar++
	}
	if candidate.worth() <= bar {
		return candidate
	}
	c.promote(candidate)
	return rival
}

// Lately reports whether an entry was used within the guard.
func (c *Cache) Lately(e *Entry, now time.Time) bool { return c.guarded(now)(e) }

func (c *Cache) guarded(now time.Time) func(*Entry) bool {
	return func(e *Entry) bool { return now.Sub(e.last) < c.config.Guard }
}

func free(*Entry) bool { return false }

// windowFull reports whether the window is over its part with what is about to come. Alone, it may be larger.
func (c *Cache) windowFull(need Size) bool {
	return c.window.count > 0 && !c.window.bytes.Add(need).Fits(c.config.Budget.Part(int64(c.config.Window), 100).most(need))
}

// settle moves what the window holds over its part to the main part while there is room. A window whose part has no room
// for an entry holds only those that pass.
func (c *Cache) settle() {
	for c.window.count > 0 && c.used.Fits(c.config.Budget) && !c.window.bytes.Fits(c.config.Budget.Part(int64(c.config.Window), 100)) {
		c.promote(c.window.last)
	}
}

// looks bounds how many entries that must stay are passed over in the order of their worth. After that the one that was not
// used for longest is as good.
const looks = 64

// least finds what is worth least in the main part, of what is neither held nor guarded.
func (c *Cache) least(ask Ask, guarded func(*Entry) bool) *Entry {
	if c.lately.last == nil || guarded(c.lately.last) {
		return nil // then all of them are
	}
	var passed []*Entry
	defer func() {
		for _, e := range passed {
			heap.Push(&c.main, e)
		}
	}()
	for len(passed) < looks && len(c.main) > 0 {
		e := c.main[0]
		before := e.worth()
		held := ask.Held(e)
		if e.worth() != before {
			continue // it was used since: Use has moved it
		}
		if !held && !guarded(e) {
			return e
		}
		passed = append(passed, heap.Pop(&c.main).(*Entry))
	}
	for e := c.lately.last; e != nil; {
		newer := e.newer
		if e.index >= 0 && !guarded(e) && !ask.Held(e) {
			return e
		}
		e = newer
	}
	return nil
}
