package files

import (
	"runtime"
	"sync"
	"testing"
)

// TestSpareProcessors: two syncs at once lend processors, the end of the last takes them back, and so does any mix of them.
func TestSpareProcessors(t *testing.T) {
	usual := runtime.GOMAXPROCS(0)
	var s spare
	for i, step := range []struct {
		do   func()
		lent bool
	}{{s.begin, false}, {s.begin, true}, {s.end, true}, {s.begin, true}, {s.end, true}, {s.end, false}, {s.begin, false}, {s.end, false}} {
		step.do()
		if now := runtime.GOMAXPROCS(0); now > usual != step.lent || !step.lent && now != usual {
			t.Fatalf("step %d: %d processors, usually %d", i, now, usual)
		}
	}
	var syncing sync.WaitGroup
	for range 8 {
		syncing.Go(func() {
			for range 200 {
				s.begin()
				runtime.Gosched()
				s.end()
			}
		})
	}
	syncing.Wait()
	if now := runtime.GOMAXPROCS(0); now != usual || s.lent {
		t.Errorf("%d processors in the end, usually %d", now, usual)
	}
}
