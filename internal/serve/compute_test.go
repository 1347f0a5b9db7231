package serve

import (
	"testing"
	"time"
)

// TestMean: single runs of a tiny model that were interrupted do not make those behind them look like much work, and a model that
// changes is seen soon.
func TestMean(t *testing.T) {
	const short, long, interrupted = 10 * time.Microsecond, 5 * time.Millisecond, time.Millisecond
	var c compute
	learn := func(n int, took time.Duration) {
		for range n {
			c.learn(took)
		}
	}
	learn(1000, short)
	most := time.Duration(0)
	for range 50 {
		learn(99, short)
		c.learn(interrupted)
		most = max(most, c.expect())
	}
	if mean := (99*short + interrupted) / 100; most > 2*mean || c.expect() < mean/2 {
		t.Errorf("interrupted once in a hundred runs: expected %v, and %v at most, while they take %v on average", c.expect(), most, mean)
	}
	learn(32, long)
	if c.expect() < long/2 {
		t.Errorf("after 32 runs of %v expected %v", long, c.expect())
	}
	learn(600, short)
	if c.expect() > 2*short {
		t.Errorf("after 600 runs of %v expected %v", short, c.expect())
	}
}
