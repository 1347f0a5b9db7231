package server_test

import (
	"runtime"
	"testing"

	"github.com/penstock/penstock/internal/server"
)

func TestPercentFor(t *testing.T) {
	for live, want := range map[uint64]int{0: 1600, 1 << 20: 1600, 2 << 20: 1600, 3 << 20: 800, 4 << 20: 800, 5 << 20: 400, 10 << 20: 200, 16 << 20: 200, 17 << 20: 100,
		32 << 20: 100, 1 << 30: 100} {
		if got := server.PercentFor(live); got != want {
			t.Errorf("%d MiB in use: %d %%, not %d", live>>20, got, want)
		}
	}
	for live := uint64(1); live < 1<<36; live += live/7 + 1 {
		if heap := live + live*uint64(server.PercentFor(live))/100; heap > max(2*live, server.RoomyHeap+live) {
			t.Errorf("%d bytes in use may become %d", live, heap)
		}
	}
}

// TestCollectLess: a process that keeps little is collected once for some tens of MiB that it makes.
func TestCollectLess(t *testing.T) {
	t.Setenv("GOGC", "")
	server.CollectLess()
	runtime.GC()
	runtime.GC() // the finalizer of what the first found has run, or runs now
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 64 << 10 { // 256 MiB
		garbage = make([]byte, 4<<10)
	}
	runtime.ReadMemStats(&after)
	if n := after.NumGC - before.NumGC; n > 40 {
		t.Errorf("256 MiB were collected %d times", n)
	}
}

var garbage []byte
