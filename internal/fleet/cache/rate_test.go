package cache_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/fleet/cache"
)

// alibaba is the popularity of the base models in Alibaba's published figures: 3 of 105 take 50 % of the requests, 16
// take 90 %, 55 take 99 %.
func alibaba() []float64 {
	steps := []struct {
		models int
		share  float64
	}{{3, 0.50}, {13, 0.40}, {39, 0.09}, {50, 0.01}}
	var weights []float64
	for _, s := range steps {
		for range s.models {
			weights = append(weights, s.share/float64(s.models))
		}
	}
	return weights
}

// draw makes a trace of independent requests.
func draw(random *rand.Rand, weights []float64, n int) []int {
	sums := make([]float64, len(weights))
	sum := 0.0
	for i, w := range weights {
		sum += w
		sums[i] = sum
	}
	trace := make([]int, n)
	for i := range trace {
		at := random.Float64() * sum
		for trace[i] < len(sums)-1 && sums[trace[i]] < at {
			trace[i]++
		}
	}
	return trace
}

// clairvoyant gives the hits of Belady's rule for models of one size, with leave not to keep a newcomer at all: no
// policy that does not see the future has more.
func clairvoyant(trace []int, models, room int) (hits int) {
	const never = 1 << 60
	next := make([]int, len(trace))
	seen := make([]int, models)
	for i := range seen {
		seen[i] = never
	}
	for i := len(trace) - 1; i >= 0; i-- {
		next[i] = seen[trace[i]]
		seen[trace[i]] = i
	}
	held := map[int]int{} // model -> its next use
	for i, m := range trace {
		if _, in := held[m]; in {
			hits++
		}
		held[m] = next[i]
		if len(held) <= room {
			continue
		}
		far, at := m, -1
		for k, use := range held {
			if use > at {
				far, at = k, use
			}
		}
		delete(held, far)
	}
	return hits
}

// replay gives the hits of the cache on a trace with a fixed pace.
func replay(trace []int, models int, config cache.Config, pace time.Duration) (hits int) {
	c := cache.New(config)
	entries := make([]cache.Entry, models)
	now := time.Unix(1_000_000, 0)
	for _, m := range trace {
		now = now.Add(pace)
		e := &entries[m]
		c.Use(e, 1, now)
		if e.In() {
			hits++
			continue
		}
		for {
			v := c.Victim(cache.Ask{Now: now, Need: one, For: e, Held: func(*cache.Entry) bool { return false }})
			if v == nil {
				break
			}
			c.Leave(v)
		}
		c.Enter(e, one)
	}
	return hits
}

var one = cache.Size{RAM: 1 << 20}

// TestHitRateOfPublishedPopularity compares with the clairvoyant rule at 15 % of the models in memory.
func TestHitRateOfPublishedPopularity(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	weights := alibaba()
	trace := draw(rand.New(rand.NewPCG(seed, 1)), weights, 100_000)
	room := len(weights) * 15 / 100
	best := clairvoyant(trace, len(weights), room)
	for _, pace := range []time.Duration{time.Millisecond, 100 * time.Millisecond, time.Second} {
		got := replay(trace, len(weights), cache.Config{Budget: one.Times(room)}, pace)
		t.Logf("one request every %v: %.2f %% of %d requests were hits, clairvoyant %.2f %%, ratio %.4f",
			pace, 100*float64(got)/float64(len(trace)), len(trace), 100*float64(best)/float64(len(trace)), float64(got)/float64(best))
		if float64(got) < 0.95*float64(best) {
			t.Errorf("one request every %v: less than 95 %% of the clairvoyant rate", pace)
		}
	}
}
