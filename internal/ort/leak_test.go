package ort_test

import (
	"bufio"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/ort/orttest"
)

const (
	// leakSessions are opened, run and closed one after the other; memory is read after each leakRound of them.
	leakSessions = 10_000
	leakRound    = 1_000
	// leakBound is how much more memory may be resident in the second half of the rounds than in the first, in KiB. The
	// least of each half counts: a leak lifts it, while what the C allocator holds for a while does not.
	leakBound = 8 << 10
	// leakChild marks the process that measures; it is started with the allocator's settings of a worker.
	leakChild = "PENSTOCK_TEST_LEAK"
)

// TestSessionsLeaveNothing opens and closes many sessions in a process of its own, so that no other test's memory counts.
func TestSessionsLeaveNothing(t *testing.T) {
	if os.Getenv(leakChild) != "" {
		openAndClose(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSessionsLeaveNothing$", "-test.v")
	// The collector runs often and there is one arena, so that neither Go's garbage nor free blocks spread over many
	// arenas hide what is measured.
	cmd.Env = append(os.Environ(), leakChild+"=1", "MALLOC_MMAP_THRESHOLD_=65536", "MALLOC_ARENA_MAX=1", "GOGC=20")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("measuring process: %v", err)
	}
}

func openAndClose(t *testing.T) {
	rt := open(t)
	model := orttest.Linear(16, 16, false).Encode()
	in := []ort.Tensor{{Name: "x", Type: ort.Float32, Shape: []int64{4, 16}, Data: make([]byte, 4*16*4)}}
	began := time.Now()
	var threads, resident []int
	for i := range leakSessions {
		s, err := rt.LoadBytes(t.Context(), model, ort.SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Run(in, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Release()
		s.Close()
		if (i+1)%leakRound == 0 {
			now := settled(t)
			threads, resident = append(threads, now["Threads"]), append(resident, now["VmRSS"])
		}
	}
	t.Logf("%d sessions in %v: threads %v, resident KiB %v", leakSessions, time.Since(began).Round(time.Millisecond), threads, resident)
	half := len(resident) / 2
	// Go may add a thread of its own at any time.
	if first, last := threads[0], threads[len(threads)-1]; last > first+2 {
		t.Errorf("threads grew from %d to %d", first, last)
	}
	if first, second := slices.Min(resident[:half]), slices.Min(resident[half:]); second > first+leakBound {
		t.Errorf("resident memory grew from %d to %d KiB, bound %d", first, second, leakBound)
	}
}

// settled gives free memory back first: pages that the C allocator keeps between sessions come and go with the threads
// that happen to run, by tens of MiB.
func settled(t *testing.T) map[string]int {
	t.Helper()
	debug.FreeOSMemory()
	ort.TrimMemory()
	return status(t)
}

// status reads the numbers of this process's status file; sizes are in KiB.
func status(t *testing.T) map[string]int {
	t.Helper()
	file, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	numbers := map[string]int{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(value, " kB"))); err == nil {
			numbers[name] = n
		}
	}
	return numbers
}
