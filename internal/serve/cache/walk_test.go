package cache_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/serve/cache"
	"github.com/penstock/penstock/internal/tensor"
)

// plain is the cache as one would write it without caring for speed: two slices, oldest first, and no entry shared.
type plain struct {
	limits     cache.Limits
	now        time.Time
	young, old []*row
	ghosts     []uint64
	leaving    int64 // bytes of rows that are gone and still read
	closed     bool
}

type row struct {
	key   cache.Key
	text  string
	size  int64
	freq  int
	reads int
	born  time.Time
	gone  bool
}

func sum(rows []*row) (n int64) {
	for _, r := range rows {
		n += r.size
	}
	return n
}

func (p *plain) used() int64 { return sum(p.young) + sum(p.old) + p.leaving }

func (p *plain) find(k cache.Key) *row {
	for _, r := range slices.Concat(p.young, p.old) {
		if r.key == k {
			return r
		}
	}
	return nil
}

func (p *plain) drop(r *row) {
	not := func(o *row) bool { return o == r }
	p.young, p.old = slices.DeleteFunc(p.young, not), slices.DeleteFunc(p.old, not)
	r.gone = true
	if r.reads > 0 {
		p.leaving += r.size
	}
}

func (p *plain) get(k cache.Key) *row {
	r := p.find(k)
	if r == nil {
		return nil
	}
	if p.limits.TTL > 0 && p.now.Sub(r.born) >= p.limits.TTL {
		p.drop(r)
		return nil
	}
	r.freq = min(r.freq+1, 3)
	r.reads++
	return r
}

func (p *plain) word(k cache.Key) (uint64, int) {
	if p.ghosts == nil {
		p.ghosts = make([]uint64, min(p.limits.Bytes/4096+1, 1<<18))
	}
	w := uint64(0)
	for i := range 8 {
		w |= uint64(k[i]) << (8 * i)
	}
	w |= 1
	return w, int(w % uint64(len(p.ghosts)))
}

func (p *plain) put(k cache.Key, text string, size int64) *row {
	r := &row{key: k, text: text, size: size, reads: 1, born: p.now, gone: true}
	if p.closed || size > p.limits.Bytes/4 {
		return r
	}
	if before := p.find(k); before != nil {
		p.drop(before)
	}
	if !p.room(size) {
		return r
	}
	r.gone = false
	if w, at := p.word(k); p.ghosts[at] == w {
		p.ghosts[at] = 0
		p.old = append(p.old, r)
	} else {
		p.young = append(p.young, r)
	}
	return r
}

func (p *plain) room(size int64) bool {
	steps := 5 * (len(p.young) + len(p.old))
	for p.used()+size > p.limits.Bytes {
		if steps < 0 || len(p.young)+len(p.old) == 0 {
			return false
		}
		steps--
		if sum(p.young) > p.limits.Bytes/10 || len(p.old) == 0 {
			r := p.young[0]
			if r.freq > 0 || r.reads > 0 {
				p.young, p.old = p.young[1:], append(p.old, r)
				r.freq = 0
				continue
			}
			w, at := p.word(r.key)
			p.ghosts[at] = w
			p.drop(r)
			continue
		}
		r := p.old[0]
		if r.freq == 0 && r.reads == 0 {
			p.drop(r)
			continue
		}
		p.old = append(p.old[1:], r)
		r.freq = max(r.freq, 1) - 1
	}
	return true
}

// TestWalk does at random what callers do, to a cache and to the plain model of it, and holds them beside each other after
// every step: what is kept, what is counted, and that an answer which is being read never changes.
func TestWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for round := range 20 {
		synctest.Test(t, func(t *testing.T) { walk(t, rng, round) })
	}
}

// reading is an answer in a reader's hands.
type reading struct {
	entry *cache.Entry
	row   *row
}

func walk(t *testing.T, rng *rand.Rand, round int) {
	limits := cache.Limits{Bytes: 8<<10 + rng.Int64N(64<<10), Total: 1 << 30}
	if round%2 == 1 {
		limits.TTL = time.Duration(1+rng.IntN(50)) * time.Millisecond
	}
	var budget cache.Budget
	c, p := cache.New(limits, &budget, time.Now), &plain{limits: limits, now: time.Now()}
	keys := make([]cache.Key, 60)
	for i := range keys {
		keys[i] = cache.KeyOf([]tensor.Tensor{tensor.FromInt64("x", []int64{1}, []int64{int64(i)})}, nil)
	}
	pick := func() cache.Key { return keys[min(rng.IntN(len(keys)), rng.IntN(len(keys)))] } // some are wanted more
	var readers []reading
	for step := range 3000 {
		switch n := rng.IntN(100); {
		case n < 45:
			k := pick()
			e, r := c.Get(k), p.get(k)
			if (e == nil) != (r == nil) {
				t.Fatalf("step %d: get gives %v, the model %v", step, e, r)
			}
			if e != nil {
				readers = append(readers, reading{e, r})
			}
		case n < 75:
			readers = put(t, rng, c, p, pick(), readers, step)
		case n < 97 && len(readers) > 0:
			i := rng.IntN(len(readers))
			one := readers[i]
			readers = slices.Delete(readers, i, i+1)
			if got := string(one.entry.Outputs()[0].Data); got != one.row.text {
				t.Fatalf("step %d: a reader's answer became %.20q, was %.20q", step, got, one.row.text)
			}
			one.entry.Release()
			if one.row.reads--; one.row.gone && one.row.reads == 0 && one.row.size > 0 && one.entry.Kept() {
				p.leaving -= one.row.size
			}
		case n < 99:
			<-time.After(time.Duration(rng.IntN(10)) * time.Millisecond)
			p.now = time.Now()
		}
		check(t, c, p, &budget, limits, step)
	}
	for _, r := range readers {
		r.entry.Release()
	}
	c.Close()
	if s := c.Stats(); s.Bytes != 0 || s.Entries != 0 || budget.Used() != 0 {
		t.Errorf("after Close: %+v, budget %d", s, budget.Used())
	}
}

func put(t *testing.T, rng *rand.Rand, c *cache.Cache, p *plain, k cache.Key, readers []reading, step int) []reading {
	text := fmt.Sprintf("%d:%x", step, make([]byte, rng.IntN(1+rng.IntN(6000))))
	out := []tensor.Tensor{{Name: "y", Type: tensor.Uint8, Shape: []int64{int64(len(text))}, Data: []byte(text)}}
	e := c.Put(k, out)
	if e == nil {
		if int64(len(text)) <= p.limits.Bytes/5 {
			t.Fatalf("step %d: %d bytes do not fit into %d", step, len(text), p.limits.Bytes)
		}
		return readers
	}
	r := p.put(k, text, e.Size())
	if e.Kept() == r.gone {
		t.Fatalf("step %d: kept %v, the model %v", step, e.Kept(), !r.gone)
	}
	if !r.gone && e.Kept() {
		return append(readers, reading{e, r})
	}
	e.Release()
	return readers
}

func check(t *testing.T, c *cache.Cache, p *plain, budget *cache.Budget, limits cache.Limits, step int) {
	t.Helper()
	s := c.Stats()
	if s.Bytes > limits.Bytes || s.Bytes != p.used() || s.Bytes != budget.Used() || s.Entries != len(p.young)+len(p.old) {
		t.Fatalf("step %d: %d entries of %d bytes (budget %d, limit %d), the model has %d of %d", step, s.Entries, s.Bytes,
			budget.Used(), limits.Bytes, len(p.young)+len(p.old), p.used())
	}
}

// TestHeap fills a cache and looks at what the process really holds: what is counted must be what it costs, give or take a
// tenth for the allocator.
func TestHeap(t *testing.T) {
	const limit = 32 << 20
	for _, size := range []int{1, 40, 700, 5000, 200_000} {
		var budget cache.Budget
		c := cache.New(cache.Limits{Bytes: limit, Total: limit}, &budget, time.Now)
		before := heap()
		for i := range 3 * limit / (size + 400) {
			k := cache.KeyOf([]tensor.Tensor{tensor.FromInt64("x", []int64{1}, []int64{int64(i)})}, nil)
			c.Put(k, []tensor.Tensor{{Name: "y", Type: tensor.Uint8, Shape: []int64{1, int64(size)}, Data: make([]byte, size)}}).Release()
		}
		s := c.Stats()
		real := heap() - before
		t.Logf("answers of %d bytes: %d kept, %d bytes counted, %d held", size, s.Entries, s.Bytes, real)
		if s.Bytes > limit || s.Bytes < limit*9/10 || real > limit*11/10 {
			t.Errorf("answers of %d bytes: %d counted, %d held, limit %d", size, s.Bytes, real, limit)
		}
		c.Close()
		if left := heap() - before; left > limit/50 {
			t.Errorf("answers of %d bytes: %d held after Close", size, left)
		}
		runtime.KeepAlive(c)
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestScan: what is asked for again and again stays while ten times the cache of requests that never come again passes. An
// LRU would lose all of it.
func TestScan(t *testing.T) {
	var budget cache.Budget
	c := cache.New(cache.Limits{Bytes: 1 << 20, Total: 1 << 20}, &budget, time.Now)
	key := func(kind string, i int) cache.Key {
		return cache.KeyOf([]tensor.Tensor{tensor.FromInt64(kind, []int64{1}, []int64{int64(i)})}, nil)
	}
	answer := []tensor.Tensor{{Name: "y", Type: tensor.Uint8, Shape: []int64{700}, Data: make([]byte, 700)}}
	const hot = 500
	for range 2 {
		for i := range hot {
			if e := c.Get(key("hot", i)); e != nil {
				e.Release()
				continue
			}
			c.Put(key("hot", i), answer).Release()
		}
	}
	for i := range 10_000 {
		c.Put(key("once", i), answer).Release()
	}
	found := 0
	for i := range hot {
		if e := c.Get(key("hot", i)); e != nil {
			found++
			e.Release()
		}
	}
	if found < hot*9/10 {
		t.Errorf("%d of %d hot answers are left", found, hot)
	}
}
