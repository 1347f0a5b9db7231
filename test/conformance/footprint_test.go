package conformance_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// tideWait is the longest wait for deleted endpoints' instances to be unloaded; tideLook the pause between two looks.
	tideWait = 20 * time.Second
	tideLook = 50 * time.Millisecond
	// mostResident is how much a worker may grow from the first cases to the last, in bytes: what the C allocator keeps.
	mostResident = 48 << 20
	// mostDescriptors and mostGoroutines are how many more the server may have at the end.
	mostDescriptors = 16
	mostGoroutines  = 32
)

// footprint is what the server holds while nothing is deployed.
type footprint struct {
	descriptors, goroutines int
	resident                map[int]int64 // of the workers, by process
}

// footprint waits until the workers hold no model, and measures.
func (w *walk) footprint(t *testing.T) footprint {
	t.Helper()
	w.caller.http.CloseIdleConnections()
	w.empty(t)
	f := footprint{resident: map[int]int64{}}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.PID))
	if err != nil {
		t.Fatal(err)
	}
	f.descriptors = len(open)
	all, err := w.Workers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range all {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", one.PID))
		fields := strings.Fields(string(raw))
		if err != nil || len(fields) < 2 {
			t.Fatalf("memory of worker %s: %v", one.Name, err)
		}
		pages, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		f.resident[one.PID] = pages * int64(os.Getpagesize())
	}
	f.goroutines = w.goroutines(t)
	return f
}

// empty returns when no worker holds an instance.
func (w *walk) empty(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), tideWait)
	defer cancel()
	look := time.NewTicker(tideLook)
	defer look.Stop()
	for {
		held := []string{}
		all, err := w.Workers(ctx)
		for _, one := range all {
			held = append(held, one.Instances...)
		}
		if err == nil && len(all) == workers && len(held) == 0 {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("workers still hold %q after %v: %v", held, tideWait, err)
		}
	}
}

// goroutines reads the server's own metric.
func (w *walk) goroutines(t *testing.T) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.Metrics+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.caller.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if text, is := strings.CutPrefix(lines.Text(), "go_goroutines "); is {
			n, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no metric go_goroutines")
	return 0
}

// bounded fails the test when the cases left something behind. No worker may have died: none of the cases kills the
// runtime, and a throw-away worker would have met it first.
func (w *walk) bounded(t *testing.T, before, after footprint) {
	t.Helper()
	t.Logf("descriptors %d, then %d; goroutines %d, then %d; resident bytes of the workers %v, then %v",
		before.descriptors, after.descriptors, before.goroutines, after.goroutines, before.resident, after.resident)
	if after.descriptors > before.descriptors+mostDescriptors {
		t.Errorf("descriptors grew from %d to %d", before.descriptors, after.descriptors)
	}
	if after.goroutines > before.goroutines+mostGoroutines {
		t.Errorf("goroutines grew from %d to %d", before.goroutines, after.goroutines)
	}
	for pid, now := range after.resident {
		then, same := before.resident[pid]
		if !same {
			t.Errorf("worker %d is new: another one died", pid)
		} else if now > then+mostResident {
			t.Errorf("worker %d grew from %d to %d bytes", pid, then, now)
		}
	}
}
