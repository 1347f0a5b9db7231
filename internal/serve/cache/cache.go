// Package cache keeps the answers of one variant by the content of the requests, within an exact number of bytes, and
// lets identical requests that come at once share one run. It knows no endpoint, no tenant and no engine: whoever holds
// a Cache has one variant's answers and nothing else. Caller: serve.
package cache

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/tensor"
)

// The shares of a cache's bytes.
const (
	entryShare = 4  // an answer above this part of the limit is not kept: it would push out everything else
	youngShare = 10 // this part is for answers that were not asked for again yet
)

// freqMax is how many times an entry asked for again may pass the end of its queue before it has to go.
const freqMax = 3

// Budget counts the bytes of several caches together.
type Budget struct{ used atomic.Int64 }

// Used is the bytes counted.
func (b *Budget) Used() int64 { return b.used.Load() }

// take counts n bytes more, unless that goes over the limit.
func (b *Budget) take(n, limit int64) bool {
	for {
		used := b.used.Load()
		if used+n > limit {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// Limits bound a Cache. They may change while it serves.
type Limits struct {
	Bytes int64         // of all entries with what they cost beside their tensors, also of those let go that somebody still reads
	Total int64         // of all caches with the same Budget
	TTL   time.Duration // an entry older than this is not given; 0 for any age
}

// Cache holds the answers of one variant. It is S3-FIFO: a small queue for what came once, a large one for what was
// asked for again, and a memory of what left the small one. Requests that never come again, the common case for a model,
// pass through the small queue and leave what is hot alone; and a hit moves nothing, it adds to one counter.
type Cache struct {
	now    func() time.Time
	budget *Budget
	used   atomic.Int64 // bytes of entries that are kept or still read

	mu      sync.Mutex // guards the fields below
	limits  Limits
	entries map[Key]*Entry
	young   queue
	old     queue
	ghosts  []uint64 // what left young lately, each in the one place that its key gives it
	flights map[Key]*Flight
	closed  bool
}

// New makes an empty cache whose bytes count in the budget too.
func New(limits Limits, budget *Budget, now func() time.Time) *Cache {
	return &Cache{now: now, budget: budget, limits: limits, entries: map[Key]*Entry{}, flights: map[Key]*Flight{}}
}

// Stats is a moment's view of a cache.
type Stats struct {
	Entries int
	Bytes   int64 // with entries that were let go and are still read
	Limit   int64
}

// Stats tells what the cache holds.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{Entries: len(c.entries), Bytes: c.used.Load(), Limit: c.limits.Bytes}
}

// Get gives the answer kept for a request, to be released when it was read; nil when there is none. A hit allocates nothing.
func (c *Cache) Get(k Key) *Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.get(k)
}

// get needs mu.
func (c *Cache) get(k Key) *Entry {
	e := c.entries[k]
	if e == nil {
		return nil
	}
	if c.limits.TTL > 0 && c.now().Sub(e.born) >= c.limits.TTL {
		c.drop(e)
		return nil
	}
	e.freq = min(e.freq+1, freqMax)
	e.refs.Add(1)
	return e
}

// Put copies an answer in, in place of what is kept for the same request, and gives the copy, to be released when it was
// read. What finds no room is not kept, and then nil is given.
func (c *Cache) Put(k Key, outputs []tensor.Tensor) *Entry {
	if !c.fits(sizeOf(outputs)) {
		return nil
	}
	e := copied(outputs)
	c.keep(k, e)
	return e
}

func (c *Cache) fits(size int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.closed && size <= c.limits.Bytes/entryShare
}

// keep makes room for an entry and takes it in. The entry is told whether it was.
func (c *Cache) keep(k Key, e *Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || e.size > c.limits.Bytes/entryShare {
		return
	}
	if before := c.entries[k]; before != nil {
		c.drop(before)
	}
	if !c.room(e.size) || !c.budget.take(e.size, c.limits.Total) {
		return
	}
	c.used.Add(e.size)
	e.cache, e.key, e.kept = c, k, true
	if c.limits.TTL > 0 {
		e.born = c.now()
	}
	e.refs.Add(1)
	c.entries[k] = e
	if c.remembered(k) {
		c.old.push(e)
	} else {
		c.young.push(e)
	}
}

// room lets entries go until there is room for size bytes more. Entries that are being read stay: letting them go would
// give nothing back now. Needs mu.
func (c *Cache) room(size int64) bool {
	for steps := (freqMax + 2) * len(c.entries); c.used.Load()+size > c.limits.Bytes; steps-- {
		if steps < 0 || len(c.entries) == 0 {
			return false
		}
		if c.young.bytes > c.limits.Bytes/youngShare || c.old.last == nil {
			c.passYoung()
		} else {
			c.passOld()
		}
	}
	return true
}

// passYoung decides on the oldest of the young: to the old ones when it was asked for again, else out. Needs mu.
func (c *Cache) passYoung() {
	e := c.young.last
	if e.freq > 0 || e.read() {
		c.young.remove(e)
		e.freq = 0
		c.old.push(e)
		return
	}
	c.remember(e.key)
	c.drop(e)
}

// passOld decides on the oldest of the old: once more around for each time it was asked for, else out. Needs mu.
func (c *Cache) passOld() {
	e := c.old.last
	if e.freq == 0 && !e.read() {
		c.drop(e)
		return
	}
	c.old.remove(e)
	e.freq = max(e.freq, 1) - 1
	c.old.push(e)
}

// drop lets an entry go; its bytes count until nobody reads it. Needs mu.
func (c *Cache) drop(e *Entry) {
	delete(c.entries, e.key)
	e.in.remove(e)
	e.Release()
}

// Set changes the limits; what is over them goes at once.
func (c *Cache) Set(limits Limits) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limits == limits {
		return
	}
	if c.limits.TTL == 0 && limits.TTL > 0 { // nobody knows how old these are
		c.clear()
	}
	if c.limits.Bytes != limits.Bytes {
		c.ghosts = nil // their number goes with the bytes
	}
	c.limits = limits
	c.room(0)
	for c.young.bytes+c.old.bytes > limits.Bytes { // what is left is being read, and must not be kept either
		if c.young.last != nil {
			c.drop(c.young.last)
		} else {
			c.drop(c.old.last)
		}
	}
}

// Close lets everything go. What runs now ends as it would have, and is not kept.
func (c *Cache) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.clear()
	c.ghosts = nil
}

// clear needs mu.
func (c *Cache) clear() {
	for _, e := range c.entries {
		c.drop(e)
	}
	c.entries = map[Key]*Entry{} // the memory of the old one goes, too
}

// The memory of keys that left is a table with one place for each: the newest there wins. It forgets a key now and then
// that a queue would still have; it costs eight bytes for every 4 KiB of the cache, and a key that somebody made to fall
// on another's place does no more harm than being remembered.
const (
	ghostEvery = 4 << 10
	ghostsMax  = 1 << 18
)

// remember needs mu.
func (c *Cache) remember(k Key) {
	if c.ghosts == nil {
		c.ghosts = make([]uint64, min(c.limits.Bytes/ghostEvery+1, ghostsMax))
	}
	c.ghosts[k.word()%uint64(len(c.ghosts))] = k.word()
}

// remembered needs mu. It forgets what it tells of.
func (c *Cache) remembered(k Key) bool {
	if c.ghosts == nil {
		return false
	}
	place := &c.ghosts[k.word()%uint64(len(c.ghosts))]
	if *place != k.word() {
		return false
	}
	*place = 0
	return true
}
