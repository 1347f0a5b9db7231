package server

import (
	"math/bits"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

const (
	// roomyHeap is the size that the heap may reach before it is collected, however little of it is in use. A server in use keeps a
	// few MiB and makes 100 MiB a second; by Go's own rule it would be collected 20 times a second.
	roomyHeap = 32 << 20
	// leastPercent is Go's rule: the heap may grow by as much as is in use.
	leastPercent = 100
	// mostPercent bounds the first collections, when next to nothing is in use.
	mostPercent = 1600
)

// collectLess has the collector wait until the heap is worth it, for the process's life. Where the environment says how it shall
// collect (GOGC) that holds, and a limit on memory (GOMEMLIMIT) always does.
var collectLess = sync.OnceFunc(func() {
	if os.Getenv("GOGC") == "" {
		afterCollection(&collection{percent: leastPercent})
	}
})

// collection is garbage from when it is made, so that its finalizer runs after the next collection.
type collection struct {
	percent int
	_       *byte // an object without pointers may share its memory, and its end, with others
}

// afterCollection sets the percentage anew after every collection.
func afterCollection(c *collection) {
	runtime.SetFinalizer(c, func(c *collection) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		// Setting it stops the process for a moment, so it is done only when it changes.
		if percent := percentFor(live[0].Value.Uint64()); percent != c.percent {
			c.percent = percent
			debug.SetGCPercent(percent)
		}
		afterCollection(c)
	})
}

// percentFor is by how much a heap may grow of which live bytes are in use: to about roomyHeap, or by as much again. It is
// a power of two times 100, and so seldom changes.
func percentFor(live uint64) int {
	times := roomyHeap / max(live, 1)
	if times <= 1 {
		return leastPercent
	}
	return min(leastPercent<<(bits.Len64(times)-1), mostPercent)
}
