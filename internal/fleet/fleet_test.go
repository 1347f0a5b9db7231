package fleet_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/fleet"
	"github.com/penstock/penstock/internal/provider/local"
)

// run starts a controller with real child processes; change may adjust its config.
func run(t testing.TB, f *files, change func(*fleet.Config)) *rig {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("FLEET_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	places := local.New(log)
	r := &rig{files: f, changed: make(chan struct{}, 1)}
	config := fleet.Config{Executable: program, Env: []string{workerVariable + "=1"}, Drain: 20 * time.Millisecond,
		Provider: places, Artifacts: f, Crashes: f, Events: f, Meter: f, Log: log, Changed: func() {
			select {
			case r.changed <- struct{}{}:
			default:
			}
		}}
	if change != nil {
		change(&config)
	}
	if r.Controller, err = fleet.New(config); err != nil {
		t.Fatal(err)
	}
	start(t, r, places)
	return r
}

func start(t testing.TB, r *rig, places *local.Provider) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Errorf("Run: %v", err)
		}
		for _, w := range r.Workers() {
			if _, ok := r.Engine(w.Name); ok {
				t.Errorf("%s is still reported after the end", w.Name)
			}
		}
		if err := places.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestConfigTellsAllFaults(t *testing.T) {
	_, err := fleet.New(fleet.Config{})
	if err == nil || !strings.Contains(err.Error(), "no artifacts") || !strings.Contains(err.Error(), "neither a provider") {
		t.Fatalf("got %v", err)
	}
}

func TestLoadsAndUnloads(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, nil)
	a, b, few := f.want(t, "a", "ok"), f.want(t, "b", "ok"), f.want(t, "few", "ok")
	few.Replicas = 1
	r.SetWants([]api.Want{a, b, few, a})
	r.awaitLoaded(t, a, 2)
	r.awaitLoaded(t, b, 2)
	r.awaitLoaded(t, few, 1)
	if state := r.State(few.Instance); state.Wanted != 1 || state.Err != nil {
		t.Errorf("state %+v", state)
	}
	for _, name := range r.workersOf(a) {
		if err := r.infer(a, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.SetWants([]api.Want{b})
	if state := r.State(a.Instance); len(state.Replicas) > 0 || state.Wanted > 0 {
		t.Errorf("an instance nobody wants is reported: %+v", state)
	}
	r.await(t, "a and few are unloaded", func() bool {
		for _, name := range []string{"w1", "w2"} {
			if !api.Is(r.infer(a, name), api.CodeNotLoaded) || !api.Is(r.infer(few, name), api.CodeNotLoaded) {
				return false
			}
		}
		return true
	})
	if err := r.infer(b, "w1"); err != nil {
		t.Error(err)
	}
	r.await(t, "the workers tell what they hold", func() bool {
		for _, w := range r.Workers() {
			if w.State != "ready" || w.Runtime != "scripted 1" || !slices.Equal(w.Instances, []string{b.Instance}) {
				return false
			}
		}
		return true
	})
}

func TestAnInstanceThatClingsHoldsNobodyUp(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, func(c *fleet.Config) { c.Unload = 50 * time.Millisecond })
	clings, other := f.want(t, "clings", "clings"), f.want(t, "other", "ok")
	r.SetWants([]api.Want{clings})
	r.awaitLoaded(t, clings, 2)
	r.SetWants(nil)
	r.await(t, "unloading has begun", func() bool {
		return slices.ContainsFunc(r.Workers(), func(w api.Worker) bool { return len(w.Instances) == 1 })
	})
	r.SetWants([]api.Want{other})
	r.awaitLoaded(t, other, 2)
	if f.lostCount() > 0 {
		t.Errorf("workers were lost: %v", f.lost)
	}
}

func TestKilledWorkerComesBackWarm(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, nil)
	var wants []api.Want
	for i := range 5 {
		wants = append(wants, f.want(t, fmt.Sprintf("m%d", i), "ok"))
	}
	r.SetWants(wants)
	for _, w := range wants {
		r.awaitLoaded(t, w, 2)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() { hammer(ctx, t, r, wants[i%len(wants)]) })
	}
	for range 5 {
		lost := f.lostCount()
		killed := time.Now()
		if err := r.kill("w1"); err != nil {
			t.Fatal(err)
		}
		r.await(t, "the loss is seen", func() bool { return f.lostCount() > lost })
		for _, w := range wants {
			r.awaitLoaded(t, w, 2)
			if err := r.infer(w, "w1"); err != nil {
				t.Errorf("reported, but: %v", err)
			}
		}
		t.Logf("back and warm with %d models %v after the kill", len(wants), time.Since(killed))
	}
	stop()
	clients.Wait()
	if f.lost[0] != "signal: killed" {
		t.Errorf("the loss is told as %q", f.lost[0])
	}
	if len(f.crashes) > 0 {
		t.Errorf("files were blamed for a kill from outside: %v", f.crashes)
	}
}

// hammer asks what is reported, and retries elsewhere once when the worker was lost, as the data plane does.
func hammer(ctx context.Context, t *testing.T, r *rig, w api.Want) {
	for ctx.Err() == nil {
		names := r.workersOf(w)
		var err error
		for _, name := range names {
			if err = r.infer(w, name); err == nil {
				break
			}
			if !api.Is(err, api.CodeWorkerLost) && err.Error() != "no such worker" {
				t.Errorf("%s on %s: %v", w.Subject, name, err)
			}
		}
		if len(names) == 0 {
			t.Errorf("%s has no replica, though one worker lives", w.Subject)
		}
	}
}

func TestCrashingFileIsRefusedThenQuarantined(t *testing.T) {
	for script, how := range map[string]string{"segv": "SIGSEGV", "exit": "exit status 3, terminate called"} {
		t.Run(script, func(t *testing.T) {
			f := newFiles(t)
			r := run(t, f, nil)
			good, bad := f.want(t, "good", "ok"), f.want(t, "bad", script)
			r.SetWants([]api.Want{good})
			r.awaitLoaded(t, good, 2)
			r.SetWants([]api.Want{good, bad})
			err := r.awaitErr(t, bad, api.CodeModelCrashes)
			if err.Subject != "bad@1" || !strings.Contains(err.Message, how) {
				t.Errorf("told as %v, want the end %q", err, how)
			}
			r.awaitLoaded(t, good, 2)
			if lost := f.lostCount(); lost != 1 {
				t.Errorf("%d serving workers were lost to it, want 1", lost)
			}
			r.SetWants([]api.Want{good})
			r.SetWants([]api.Want{good, bad})
			_ = r.awaitErr(t, bad, api.CodeQuarantined)
			if lost := f.lostCount(); lost != 1 {
				t.Errorf("a file known to crash was loaded beside others: %d losses", lost)
			}
			asked := f.askedFor(bad)
			r.SetWants([]api.Want{good})
			r.SetWants([]api.Want{good, bad})
			_ = r.awaitErr(t, bad, api.CodeQuarantined)
			if f.askedFor(bad) != asked {
				t.Error("a quarantined file was loaded again")
			}
			if got := f.eventKinds(); !slices.Contains(got, "model.crashed bad@1") || !slices.Contains(got, "model.quarantined bad@1") {
				t.Errorf("events %q", got)
			}
			if _, err := r.Probe(t.Context(), bad); !api.Is(err, api.CodeQuarantined) {
				t.Errorf("probe: %v", err)
			}
		})
	}
}

// TestCrashInWarmingIsNoBlame loads a file that dies of the inputs that warming makes up, and serves it without.
func TestCrashInWarmingIsNoBlame(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, nil)
	r.await(t, "a worker is ready", func() bool { _, ok := r.Engine("w1"); return ok })
	cold := f.want(t, "c", "cold")
	for range 3 { // as often as it is pushed
		if signature, err := r.Probe(t.Context(), cold); err != nil || len(signature.Inputs) != 1 {
			t.Fatalf("probe: %+v %v", signature, err)
		}
	}
	for range 2 {
		r.SetWants([]api.Want{cold})
		r.awaitLoaded(t, cold, 2)
		r.SetWants(nil)
	}
	if n, lost := f.crashCount(cold), f.lostCount(); n != 1 || lost != 0 {
		t.Errorf("%d crashes recorded, want 1; %d serving workers lost", n, lost)
	}
	if got := f.eventKinds(); !slices.Equal(got, []string{"model.cold c@1"}) {
		t.Errorf("events %q", got)
	}
	// Another controller knows of the crash only: the file passes alone first.
	again := run(t, f, nil)
	again.SetWants([]api.Want{cold})
	again.awaitLoaded(t, cold, 2)
	if n, lost := f.crashCount(cold), f.lostCount(); n != 1 || lost != 0 {
		t.Errorf("after a restart: %d crashes recorded, want 1; %d serving workers lost", n, lost)
	}
}

func TestCrashInCompanyIsBlamedInTheEnd(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, nil)
	good, bad := f.want(t, "a", "ok"), f.want(t, "b", "company")
	// The bad one loads alone, and serves, on the worker that has nothing else; it is blamed where it has company.
	bad.Replicas = 1
	r.SetWants([]api.Want{bad})
	r.awaitLoaded(t, bad, 1)
	bad.Replicas = 2
	r.SetWants([]api.Want{good})
	r.awaitLoaded(t, good, 2)
	r.SetWants([]api.Want{good, bad})
	_ = r.awaitErr(t, bad, api.CodeModelCrashes)
	r.awaitLoaded(t, good, 2)
	if n := f.crashCount(bad); n != 1 {
		t.Errorf("one incident was recorded as %d crashes", n)
	}
}

func TestRefusedSlowAndAbsent(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, func(c *fleet.Config) { c.LoadTimeout = 300 * time.Millisecond })
	good, refused, slow := f.want(t, "good", "ok"), f.want(t, "refused", "refuse"), f.want(t, "slow", "hang")
	r.SetWants([]api.Want{good, refused, slow})
	if err := r.awaitErr(t, refused, api.CodeLoadFailed); err.Subject != "refused@1" || err.Message != "refused as told" {
		t.Errorf("told as %v", err)
	}
	if err := r.awaitErr(t, slow, api.CodeLoadFailed); !strings.Contains(err.Message, "300ms") {
		t.Errorf("told as %v", err)
	}
	r.awaitLoaded(t, good, 2)
	if len(f.crashes) > 0 {
		t.Errorf("slowness counted as a crash: %v", f.crashes)
	}
	// A store that is away is told after a while, and forgiven.
	f.mu.Lock()
	f.away = true
	f.mu.Unlock()
	late := f.want(t, "late", "ok")
	r.SetWants([]api.Want{good, late})
	_ = r.awaitErr(t, late, api.CodeStorage)
	f.mu.Lock()
	f.away = false
	f.mu.Unlock()
	r.awaitLoaded(t, late, 2)
	if err := r.State(late.Instance).Err; err != nil {
		t.Errorf("still %v", err)
	}
}

func TestPoisonedRequestAndDeafWorker(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, func(c *fleet.Config) { c.Health, c.Resync = 300*time.Millisecond, 50*time.Millisecond })
	poison := f.want(t, "poison", "poison")
	r.SetWants([]api.Want{poison})
	r.awaitLoaded(t, poison, 2)
	if err := r.infer(poison, "w2"); !api.Is(err, api.CodeWorkerLost) {
		t.Errorf("got %v", err)
	}
	r.await(t, "the loss is seen", func() bool { return f.lostCount() == 1 })
	r.awaitLoaded(t, poison, 2)
	if len(f.crashes) > 0 {
		t.Errorf("a death in a request was blamed on loading: %v", f.crashes)
	}
	if err := r.signal("w1", unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.await(t, "the stopped worker is replaced", func() bool { return f.lostCount() == 2 })
	r.awaitLoaded(t, poison, 2)
}

func TestProbe(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, func(c *fleet.Config) { c.LoadTimeout = 500 * time.Millisecond })
	r.await(t, "a worker is ready", func() bool { _, ok := r.Engine("w1"); return ok })
	for _, c := range []struct {
		script string
		want   api.Code
	}{{"ok", ""}, {"refuse", api.CodeLoadFailed}, {"segv", api.CodeModelCrashes}, {"hang", api.CodeLoadFailed}} {
		signature, err := r.Probe(t.Context(), f.want(t, "p-"+c.script, c.script))
		if c.want == "" && (err != nil || len(signature.Inputs) != 1) || c.want != "" && !api.Is(err, c.want) {
			t.Errorf("%s: %+v %v", c.script, signature, err)
		}
	}
	if f.lostCount() > 0 {
		t.Errorf("serving workers were lost: %v", f.lost)
	}
}

func TestInProcess(t *testing.T) {
	f := newFiles(t)
	eng := newScripted()
	r := run(t, f, func(c *fleet.Config) { c.InProcess, c.Provider, c.Executable = eng, nil, "" })
	a, bad := f.want(t, "a", "ok"), f.want(t, "bad", "refuse")
	r.SetWants([]api.Want{a, bad})
	r.awaitLoaded(t, a, 1)
	_ = r.awaitErr(t, bad, api.CodeLoadFailed)
	if got, ok := r.Engine(fleet.InProcess); !ok || got != engine.Engine(eng) {
		t.Errorf("engine %v %v", got, ok)
	}
	if _, err := r.Probe(t.Context(), a); err != nil {
		t.Error(err)
	}
	r.SetWants(nil)
	r.await(t, "it is unloaded", func() bool { return api.Is(r.infer(a, fleet.InProcess), api.CodeNotLoaded) })
}

func TestWorkerThatCannotStart(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, func(c *fleet.Config) { c.Executable = "/bin/false" })
	w := f.want(t, "a", "ok")
	r.SetWants([]api.Want{w})
	r.await(t, "the workers are told to be lost", func() bool {
		return !slices.ContainsFunc(r.Workers(), func(w api.Worker) bool { return w.State != "lost" })
	})
	if _, err := r.Probe(t.Context(), w); !api.Is(err, api.CodeUnavailable) {
		t.Errorf("probe: %v", err)
	}
}

// TestSweepsWhatKilledServersLeft: a directory whose owner died is removed at the next start; one that is held, or young,
// or another's by name, is not.
func TestSweepsWhatKilledServersLeft(t *testing.T) {
	parent, err := os.MkdirTemp("", "sweep") // short: sockets go below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	f := newFiles(t)
	t.Setenv("TMPDIR", parent)
	long := time.Now().Add(-time.Hour)
	for _, name := range []string{"penstock-fleet-dead", "penstock-fleet-held", "penstock-fleet-young", "penstock-other"} {
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		lock, err := os.Create(filepath.Join(dir, "lock"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { lock.Close() })
		if name == "penstock-fleet-held" {
			if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
				t.Fatal(err)
			}
		}
		if name != "penstock-fleet-young" {
			if err := os.Chtimes(dir, long, long); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("a life", func(t *testing.T) {
		r := run(t, f, nil)
		w := f.want(t, "a", "ok")
		r.SetWants([]api.Want{w})
		r.awaitLoaded(t, w, 2)
	})
	entries, err := os.ReadDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"penstock-fleet-held", "penstock-fleet-young", "penstock-other"}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
}

// TestLostHints drops every event; the periodic look alone has to bring everything about.
func TestLostHints(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, func(c *fleet.Config) { c.Resync = 20 * time.Millisecond })
	r.await(t, "both workers are ready", func() bool {
		_, one := r.Engine("w1")
		_, two := r.Engine("w2")
		return one && two
	})
	walk(t, r, 1, func() { r.DropHints() })
}

// TestRandomWalk moves wants, kills workers and breaks loads at random. Whenever it comes to rest, what is reported is
// what a plain model says: every wanted good file on its workers, every bad one refused.
func TestRandomWalk(t *testing.T) {
	f := newFiles(t)
	walk(t, run(t, f, func(c *fleet.Config) { c.Resync = 500 * time.Millisecond }), 6, func() {})
}

func walk(t *testing.T, r *rig, rounds int, before func()) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 7))
	pool := []api.Want{}
	scripts := map[string]string{}
	for i := range 10 {
		script := "ok"
		switch i {
		case 3:
			script = "refuse"
		case 6:
			script = "segv"
		}
		w := r.files.want(t, fmt.Sprintf("m%d", i), script)
		w.Replicas = random.IntN(3)
		scripts[w.Instance] = script
		pool = append(pool, w)
	}
	before()
	for round := range rounds {
		var wanted []api.Want
		for range 1 + random.IntN(6) {
			wanted = wanted[:0]
			for _, w := range pool {
				if random.IntN(2) == 0 {
					wanted = append(wanted, w)
				}
			}
			r.SetWants(wanted)
			if victims := r.Workers(); random.IntN(2) == 0 {
				_ = r.kill(victims[random.IntN(len(victims))].Name)
			}
			<-time.After(time.Duration(random.IntN(30)) * time.Millisecond) // lets things begin, so that moves meet them half way
		}
		r.await(t, fmt.Sprintf("round %d comes to rest", round), func() bool { return settled(r, wanted, scripts) })
		for _, w := range pool {
			if !slices.ContainsFunc(wanted, func(x api.Want) bool { return x.Instance == w.Instance }) {
				if s := r.State(w.Instance); len(s.Replicas) > 0 || s.Err != nil {
					t.Errorf("%s is not wanted, but has %+v", w.Subject, s)
				}
			}
		}
	}
}

func settled(r *rig, wanted []api.Want, scripts map[string]string) bool {
	for _, w := range wanted {
		s := r.State(w.Instance)
		n := 2
		if w.Replicas == 1 {
			n = 1
		}
		switch scripts[w.Instance] {
		case "ok":
			if len(s.Replicas) != n || s.Err != nil {
				return false
			}
			for _, replica := range s.Replicas {
				if r.infer(w, replica.Worker) != nil {
					return false
				}
			}
		case "refuse":
			if s.Err == nil || s.Err.Code != api.CodeLoadFailed || len(s.Replicas) > 0 {
				return false
			}
		default:
			if s.Err == nil || (s.Err.Code != api.CodeModelCrashes && s.Err.Code != api.CodeQuarantined) {
				return false
			}
		}
	}
	return true
}
