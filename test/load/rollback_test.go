// Package load_test holds the tests and benchmarks that put a whole server under load.
package load_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/test/live"
)

func TestMain(m *testing.M) { live.Main(m) }

// load is a number of clients that ask without pause and count what went wrong.
type load struct {
	asked, failed atomic.Int64
	newest        atomic.Int64 // version that answered last
	versions      [64]atomic.Int64
	stop          context.CancelFunc
	done          sync.WaitGroup
}

// clients of the load test, as the first story promises.
const clients = 32

func startLoad(t testing.TB, s *live.Server, endpoint string) *load {
	body, err := os.ReadFile("../../demo/three.json")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel}
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	h := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	for range clients {
		l.done.Go(func() {
			for ctx.Err() == nil {
				version, label, err := live.Ask(context.Background(), h, s.HTTP, endpoint, body)
				l.asked.Add(1)
				if err != nil || label != 3 {
					if l.failed.Add(1) < 5 {
						t.Errorf("a request failed: label %v, %v", label, err)
					}
					continue
				}
				n, err := strconv.ParseInt(version, 10, 64)
				if err != nil {
					t.Error(err)
				}
				l.versions[n].Add(1)
				l.newest.Store(n)
			}
		})
	}
	t.Cleanup(func() { l.end(); transport.CloseIdleConnections() })
	return l
}

func (l *load) end() {
	l.stop()
	l.done.Wait()
}

// more waits until n more requests were asked, so that the load is really there.
func (l *load) more(t testing.TB, n int64) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for until := l.asked.Load() + n; l.asked.Load() < until; {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("the load does not get through")
		}
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestRollbackUnderLoad releases and rolls back 50 times under 32 clients: no request may fail, and after a rollback
// was answered no new request is answered by the version that it took away.
func TestRollbackUnderLoad(t *testing.T) {
	rounds := 50
	switch {
	case os.Getenv("PENSTOCK_SOAK") != "":
		rounds = 500
	case testing.Short():
		rounds = 6
	}
	ctx := t.Context()
	s := live.Start(t, t.TempDir())
	for i := range 4 {
		must(s.Push(ctx, "digits", live.Model(t, "digits-v1.onnx", fmt.Sprint(i))))(t)
	}
	must(s.Release(ctx, "digits", "digits@1"))(t)
	l := startLoad(t, s, "digits")
	var effects []time.Duration
	stack := []int64{1}
	for i := range rounds {
		l.more(t, 50)
		if i%2 == 0 {
			next := 1 + (stack[len(stack)-1] % 4)
			must(s.Release(ctx, "digits", fmt.Sprintf("digits@%d", next)))(t)
			stack = append(stack, next)
		} else {
			begin := time.Now()
			rel := must(s.Rollback(ctx, "digits", api.RollbackRequest{Why: "test"}))(t)
			effects = append(effects, time.Duration(rel.EffectUS)*time.Microsecond)
			stack = stack[:len(stack)-1]
			t.Logf("rollback %d: in effect after %d us, answered after %v", i, rel.EffectUS, time.Since(begin).Round(time.Microsecond))
		}
		// A request that begins now must be answered by the version released.
		body := must(os.ReadFile("../../demo/three.json"))(t)
		version, _, err := live.Ask(ctx, http.DefaultClient, s.HTTP, "digits", body)
		if err != nil || version != fmt.Sprint(stack[len(stack)-1]) {
			t.Fatalf("round %d: version %s answers, want %d: %v", i, version, stack[len(stack)-1], err)
		}
	}
	l.end()
	slices.Sort(effects)
	t.Logf("%d requests by %d clients, %d failed, over %d deploys and rollbacks; time to effect: median %v, longest %v",
		l.asked.Load(), clients, l.failed.Load(), rounds, effects[len(effects)/2], effects[len(effects)-1])
	if l.failed.Load() > 0 {
		t.Errorf("%d requests failed", l.failed.Load())
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

// TestWorkersKilledUnderLoad kills workers again and again: no request may fail, and each worker is back and warm.
func TestWorkersKilledUnderLoad(t *testing.T) {
	kills := 10
	switch {
	case os.Getenv("PENSTOCK_SOAK") != "":
		kills = 50
	case testing.Short():
		kills = 3
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 4))
	ctx := t.Context()
	s := live.Start(t, t.TempDir())
	must(s.Push(ctx, "digits", live.Model(t, "digits-v1.onnx", "")))(t)
	must(s.Release(ctx, "digits", "digits@1"))(t)
	l := startLoad(t, s, "digits")
	killed := map[int]bool{}
	for i := range kills {
		l.more(t, int64(20+random.IntN(200)))
		workers := allReady(t, s, killed) // one at a time: a request that loses two workers is rightly given up
		victim := workers[random.IntN(len(workers))]
		if err := live.Signal(victim.PID, syscall.SIGKILL); err != nil {
			t.Fatalf("kill %d: worker %s: %v", i, victim.Name, err)
		}
		killed[victim.PID] = true
	}
	allReady(t, s, killed)
	l.end()
	t.Logf("%d requests by %d clients, %d failed, over %d killed workers", l.asked.Load(), clients, l.failed.Load(), kills)
	if l.failed.Load() > 0 {
		t.Errorf("%d requests failed", l.failed.Load())
	}
	select {
	case <-s.Exited():
		t.Error("the server ended")
	default:
	}
}

// allReady waits until every worker answers, holds the model, and is none of the killed processes.
func allReady(t testing.TB, s *live.Server, killed map[int]bool) []api.Worker {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		workers, err := s.Workers(ctx)
		if err == nil && !slices.ContainsFunc(workers, func(w api.Worker) bool {
			return w.State != "ready" || len(w.Instances) == 0 || killed[w.PID]
		}) {
			return workers
		}
		select {
		case <-ctx.Done():
			t.Fatalf("workers are not back: %+v %v", workers, err)
		case <-tick.C:
		}
	}
}
