package queue_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/serve/queue"
)

// crowd is a queue in which every one of many tenants has a request that waits, and every run is taken.
type crowd struct {
	fair    *queue.Fair
	rng     *rand.Rand
	now     time.Time
	pool    *queue.Pool
	flows   []*queue.Flow
	waiters map[*queue.Flow]*queue.Waiter // what each tenant has waiting
	running []queue.Place
	oldest  int // of the running
}

func newCrowd(tb testing.TB, tenants int) *crowd {
	tb.Helper()
	c := &crowd{rng: rand.New(rand.NewPCG(1, 2)), now: time.Unix(1_000_000_000, 0), waiters: map[*queue.Flow]*queue.Waiter{}}
	c.fair = queue.New(queue.Config{Now: func() time.Time { return c.now }})
	c.pool = c.fair.Pool([]string{"w1", "w2"})
	for i := range tenants {
		flow := c.fair.Flow(api.TenantID(fmt.Sprintf("tenant-%05d", i)))
		c.fair.SetWeight(flow, 1+i%4)
		c.flows = append(c.flows, flow)
	}
	for i := 0; len(c.waiters) < tenants; i++ {
		c.enter(tb, c.flows[i%tenants])
	}
	return c
}

// enter asks for a tenant's next run, which takes 5 to 15 ms.
func (c *crowd) enter(tb testing.TB, flow *queue.Flow) {
	place, w, refusal := c.fair.Enter(&queue.Request{Flow: flow, Pool: c.pool, Band: queue.Standard, Cost: 5*time.Millisecond + time.Duration(c.rng.IntN(10_000_000))})
	switch {
	case place.Granted():
		c.running = append(c.running, place)
	case w != nil:
		c.waiters[flow] = w
	default:
		tb.Fatalf("refused: %+v", refusal)
	}
}

// turn ends the oldest run, which took a little longer than expected; whose turn it is gets its place and asks again.
func (c *crowd) turn(tb testing.TB) {
	c.now = c.now.Add(5 * time.Millisecond)
	flow := c.pool.Next()
	c.fair.Leave(c.running[c.oldest], 10*time.Millisecond)
	for i := 0; len(c.waiters[flow].Granted()) == 0; i++ { // what the run took more has put another first
		if i == len(c.flows) {
			tb.Fatal("nobody's turn came")
		}
		flow = c.flows[i]
	}
	w := c.waiters[flow]
	<-w.Granted()
	place, evicted := c.fair.Take(w)
	if evicted {
		tb.Fatal("a turn was lost")
	}
	c.running[c.oldest] = place
	c.oldest = (c.oldest + 1) % len(c.running)
	c.enter(tb, flow)
}

// TestTurnsAllocateNothing holds a whole turn among 10,000 tenants that all wait - a run ends, the next tenant gets its place
// and asks again - at no allocation.
func TestTurnsAllocateNothing(t *testing.T) {
	c := newCrowd(t, 10_000)
	for range 20_000 { // so that what is kept for reuse has grown
		c.turn(t)
	}
	if n := testing.AllocsPerRun(20_000, func() { c.turn(t) }); n != 0 {
		t.Errorf("%v allocations a turn", n)
	}
}

// BenchmarkTurn is a whole turn of a queue in which all tenants wait: Leave, which finds who is next, Take and Enter.
func BenchmarkTurn(b *testing.B) {
	for _, tenants := range []int{2, 100, 10_000} {
		b.Run(fmt.Sprintf("tenants=%d", tenants), func(b *testing.B) {
			c := newCrowd(b, tenants)
			b.ReportAllocs()
			for b.Loop() {
				c.turn(b)
			}
		})
	}
}

// BenchmarkRefuse is the refusal of a tenant that is over its share, among 10,000.
func BenchmarkRefuse(b *testing.B) {
	c := newCrowd(b, 10_000)
	for range 49 {
		c.enter(b, c.flows[0])
	}
	b.ReportAllocs()
	for b.Loop() {
		if r := c.fair.Overdue(c.flows[0], c.pool); r.Reason != queue.OverShare {
			b.Fatalf("%+v", r)
		}
	}
}

// BenchmarkFree is a place that is given at once and given back, to one of 10,000 tenants after the other.
func BenchmarkFree(b *testing.B) {
	c := newCrowd(b, 10_000)
	fair := queue.New(queue.Config{})
	pool := fair.Pool([]string{"w1", "w2"})
	for i := range c.flows {
		c.flows[i] = fair.Flow(api.TenantID(fmt.Sprintf("tenant-%05d", i)))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		place, _, _ := fair.Enter(&queue.Request{Flow: c.flows[i%len(c.flows)], Pool: pool, Cost: time.Millisecond})
		if !place.Granted() {
			b.Fatal("it had to wait")
		}
		fair.Leave(place, time.Millisecond)
		i++
	}
}
