package cache_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/fleet/cache"
)

// plain is a model of the cache that only keeps account.
type plain struct {
	in     map[*cache.Entry]cache.Size
	pinned map[*cache.Entry]bool
	last   map[*cache.Entry]time.Time
}

func (p *plain) used() (sum cache.Size) {
	for _, s := range p.in {
		sum = sum.Add(s)
	}
	return sum
}

// TestRandomWalk does everything at random and compares with plain account: sums are right in every dimension, nothing that
// is held is named, what is named is in memory, and it goes on until the need fits or everything is held.
func TestRandomWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 3))
	for range 200 {
		walk(t, random)
	}
}

func walk(t *testing.T, random *rand.Rand) {
	budget := cache.Size{RAM: int64(50 + random.IntN(500)), GPU: int64(random.IntN(2) * 100)}
	c := cache.New(cache.Config{Budget: budget, Guard: time.Duration(1 + random.IntN(20)), HalfLife: time.Duration(1 + random.IntN(1000)), Window: 1 + random.IntN(30)})
	p := &plain{in: map[*cache.Entry]cache.Size{}, pinned: map[*cache.Entry]bool{}, last: map[*cache.Entry]time.Time{}}
	entries := make([]*cache.Entry, 40)
	for i := range entries {
		entries[i] = &cache.Entry{Priority: random.IntN(5) - 2}
	}
	now := time.Unix(1000, 0)
	held := func(e *cache.Entry) bool { return p.pinned[e] }
	for range 400 {
		now = now.Add(time.Duration(random.IntN(5)))
		e := entries[random.IntN(len(entries))]
		size := cache.Size{RAM: int64(1 + random.IntN(60))}
		if budget.GPU > 0 && random.IntN(3) == 0 {
			size.GPU = int64(random.IntN(30))
		}
		switch random.IntN(8) {
		case 0:
			c.Leave(e)
			delete(p.in, e)
		case 1:
			p.pinned[e] = !p.pinned[e]
		case 2:
			c.Resize(e, size)
			if _, in := p.in[e]; in {
				p.in[e] = size
			}
		case 3:
			budget.RAM = int64(50 + random.IntN(500))
			c.SetBudget(budget)
		default:
			c.Use(e, int64(1+random.IntN(3)), now)
			if e.In() {
				break
			}
			ask := cache.Ask{Now: now, Need: size, For: e, Held: held}
			for v := c.Victim(ask); v != nil; v = c.Victim(ask) {
				if _, in := p.in[v]; !in || p.pinned[v] {
					t.Fatalf("named an entry that is not in memory (%v), or is held (%v)", !in, p.pinned[v])
				}
				c.Leave(v)
				delete(p.in, v)
			}
			fits, passing := p.used().Add(size).Fits(budget), c.Passing(ask)
			free := slices.ContainsFunc(entries, func(e *cache.Entry) bool { _, in := p.in[e]; return in && !p.pinned[e] })
			if !fits && !passing && free {
				t.Fatalf("gave up with %v of %v used and %v needed, though something may go", p.used(), budget, size)
			}
			if fits || passing {
				c.Enter(e, size)
				p.in[e] = size
			}
		}
		if c.Used() != p.used() || c.Len() != len(p.in) {
			t.Fatalf("counts %v in %d entries, plain account %v in %d", c.Used(), c.Len(), p.used(), len(p.in))
		}
		for _, e := range entries {
			if _, in := p.in[e]; in != e.In() {
				t.Fatal("disagrees about what is in memory")
			}
		}
	}
}

// TestGuard: what was used seconds ago is not taken away for what is asked for once; later it is.
func TestGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cache.New(cache.Config{Budget: one.Times(20), Guard: 10 * time.Second, Window: 10})
		kept := make([]cache.Entry, 20)
		for i := range kept {
			c.Use(&kept[i], 1, time.Now())
			c.Enter(&kept[i], one)
		}
		load := func(e *cache.Entry) {
			c.Use(e, 1, time.Now())
			for v := c.Victim(cache.Ask{Now: time.Now(), Need: one, For: e, Held: none}); v != nil; v = c.Victim(cache.Ask{Now: time.Now(), Need: one, For: e, Held: none}) {
				c.Leave(v)
			}
			c.Enter(e, one)
		}
		in := func() (n int) {
			for i := range kept {
				if kept[i].In() {
					n++
				}
			}
			return n
		}
		for range 50 { // one-offs, one after the other
			load(&cache.Entry{})
			<-time.After(100 * time.Millisecond)
		}
		if n := in(); n < 18 {
			t.Errorf("%d of 20 are left after one-offs within the guard; the window holds 2", n)
		}
		<-time.After(time.Minute)
		twice := make([]cache.Entry, 18)
		for range 2 {
			for i := range twice {
				if twice[i].In() {
					c.Use(&twice[i], 1, time.Now())
					continue
				}
				load(&twice[i])
			}
		}
		if n := in(); n > 10 {
			t.Errorf("%d of 20 are left that nobody used for a minute, while others were used twice", n)
		}
	})
}

func none(*cache.Entry) bool { return false }
