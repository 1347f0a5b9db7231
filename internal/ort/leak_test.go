package ort_test

import (
	"bufio"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/ort/orttest"
)

const (
	// leakSessions are opened, run and closed one after the other.
	leakSessions = 10_000
	// leakSettled of them come before the first measurement: caches and arenas of the process have their size then.
	leakSettled = 1_000
	// leakBound is how much more memory may be resident at the end than at the first measurement, in KiB: what ONNX
	// Runtime and the C allocator hold swings by some MiB either way, in 40,000 sessions no more than in 10,000.
	leakBound = 16 << 10
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
	// The collector runs often, so that Go's own garbage does not hide what is measured.
	cmd.Env = append(os.Environ(), leakChild+"=1", "MALLOC_MMAP_THRESHOLD_=65536", "GOGC=20")
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
	var before map[string]int
	began := time.Now()
	for i := range leakSessions {
		if i == leakSettled {
			before = settled(t)
		}
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
	}
	after := settled(t)
	t.Logf("%d sessions in %v: threads %d -> %d, resident %d -> %d KiB", leakSessions, time.Since(began).Round(time.Millisecond),
		before["Threads"], after["Threads"], before["VmRSS"], after["VmRSS"])
	// Go may add a thread of its own at any time.
	if after["Threads"] > before["Threads"]+2 {
		t.Errorf("threads grew from %d to %d", before["Threads"], after["Threads"])
	}
	if after["VmRSS"] > before["VmRSS"]+leakBound {
		t.Errorf("resident memory grew from %d to %d KiB, bound %d", before["VmRSS"], after["VmRSS"], leakBound)
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
