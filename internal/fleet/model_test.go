package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/chain"
	"github.com/penstock/penstock/internal/fleet"
	"github.com/penstock/penstock/internal/worker"
)

const workerVariable = "FLEET_TEST_WORKER"

// TestMain runs this binary as a worker when the fleet starts it as one.
func TestMain(m *testing.M) {
	if os.Getenv(workerVariable) != "" {
		if err := runWorker(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func runWorker() error {
	if len(os.Args) != 4 || os.Args[1] != "worker" || os.Args[2] != "--socket" {
		return fmt.Errorf("arguments %q", os.Args)
	}
	if len(os.Environ()) != 3 { // token, malloc, workerVariable
		return fmt.Errorf("environment %q", os.Environ())
	}
	listener, err := net.Listen("unix", os.Args[3])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	return worker.Serve(ctx, listener, chain.New(newScripted(), chain.Config{}), worker.Config{Token: os.Getenv(fleet.TokenVariable)})
}

// scripted is an engine whose model files are scripts of one word: ok, refuse, segv, cold (dies when it is warmed), exit,
// hang, deaf, poison (dies when it is asked), company (dies when another instance is loaded already), clings (is never
// unloaded), grows (takes 100 MiB once it was asked), leaks (has its process take 400 MiB more, for ever, once it was
// asked), works (says that it computed for 20 ms).
type scripted struct {
	mu    sync.Mutex
	held  map[string]string
	grown map[string]bool
	leaks int64
	done  chan struct{}
}

func newScripted() *scripted {
	return &scripted{held: map[string]string{}, grown: map[string]bool{}, done: make(chan struct{})}
}

func (s *scripted) Load(ctx context.Context, load engine.Load) (engine.Loaded, error) {
	script, err := os.ReadFile(load.Path)
	if err != nil {
		return engine.Loaded{}, api.Fail(api.CodeLoadFailed, load.Instance, "%v", err)
	}
	s.mu.Lock()
	company := len(s.held) > 0
	s.mu.Unlock()
	switch word := string(script); {
	case word == "refuse":
		return engine.Loaded{}, api.Fail(api.CodeLoadFailed, load.Instance, "refused as told")
	case word == "segv", word == "cold" && load.Warm:
		_ = unix.Kill(os.Getpid(), unix.SIGSEGV)
		select {}
	case word == "exit", word == "company" && company:
		fmt.Fprintln(os.Stderr, "terminate called after throwing an instance")
		os.Exit(3)
	case word == "hang":
		<-ctx.Done()
		return engine.Loaded{}, ctx.Err()
	case word == "deaf":
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[load.Instance] = string(script)
	delete(s.grown, load.Instance)
	return engine.Loaded{Bytes: s.bytes(load.Instance), Signature: api.Signature{Inputs: []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1}}}}}, nil
}

func (s *scripted) Unload(ctx context.Context, instance string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[instance] == "clings" {
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		return ctx.Err()
	}
	delete(s.held, instance)
	return nil
}

func (s *scripted) Infer(_ context.Context, req engine.Request) (*engine.Answer, error) {
	s.mu.Lock()
	script, ok := s.held[req.Instance]
	s.mu.Unlock()
	if !ok {
		return nil, api.Fail(api.CodeNotLoaded, req.Instance, "not loaded")
	}
	answer := engine.NewAnswer(req.Inputs, nil)
	switch script {
	case "poison":
		os.Exit(4)
	case "grows":
		s.mu.Lock()
		s.grown[req.Instance] = true
		s.mu.Unlock()
	case "leaks":
		s.mu.Lock()
		s.leaks = 400 << 20
		s.mu.Unlock()
	case "works":
		answer.Compute = 20 * time.Millisecond
	}
	return answer, nil
}

// bytes needs mu. Only the scripts that are about memory tell of it.
func (s *scripted) bytes(instance string) int64 {
	switch {
	case s.held[instance] == "grows" && s.grown[instance]:
		return 100 << 20
	case s.held[instance] == "grows", s.held[instance] == "leaks":
		return 1 << 20
	}
	return 0
}

func (s *scripted) Stats(context.Context) (engine.Stats, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := engine.Stats{PID: os.Getpid(), Runtime: "scripted 1", Resident: 1, Private: s.leaks}
	for instance := range s.held {
		stats.Instances = append(stats.Instances, engine.InstanceStats{Instance: instance, Bytes: s.bytes(instance)})
	}
	return stats, nil
}

func (s *scripted) Done() <-chan struct{} { return s.done }
func (s *scripted) Close() error          { return nil }

// files is the registry's and the store's part: artifacts, crash counts, events, meters.
type files struct {
	dir string

	mu      sync.Mutex // guards the fields below
	away    bool       // Materialize fails as a store that is away
	crashes map[api.Digest]int
	events  []api.Event
	lost    []string // reasons
	loads   int
	asked   map[api.Digest]int // calls of Materialize
}

func newFiles(t testing.TB) *files {
	return &files{dir: t.TempDir(), crashes: map[api.Digest]int{}, asked: map[api.Digest]int{}}
}

// want writes a script and returns the want that loads it.
func (f *files) want(t testing.TB, name, script string) api.Want {
	t.Helper()
	digest := api.Digest("sha256:" + name)
	if err := os.WriteFile(filepath.Join(f.dir, string(digest)), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	return api.Want{Instance: "i-" + name, Tenant: "default", Subject: name + "@1", Digest: digest, Format: "onnx"}
}

func (f *files) Materialize(_ context.Context, digest api.Digest) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[digest]++
	if f.away {
		return "", api.Fail(api.CodeStorage, "", "the store is away")
	}
	return filepath.Join(f.dir, string(digest)), nil
}

func (f *files) RecordCrash(_ context.Context, digest api.Digest, _ string, _ api.Time) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashes[digest]++
	return f.crashes[digest], nil
}

func (f *files) Crashes(_ context.Context, digest api.Digest) (int, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crashes[digest], "as recorded", nil
}

func (f *files) AppendEvent(_ context.Context, e api.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
	return nil
}

func (f *files) WorkerStarted(string) {}
func (f *files) WorkerLost(_, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost = append(f.lost, reason)
}
func (f *files) ModelLoaded(string, time.Duration, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loads++
}
func (f *files) LoadFailed(string, api.Code) {}
func (f *files) ModelEvicted(string)         {}
func (f *files) ColdStart(api.ColdStart)     {}

func (f *files) loadCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loads
}

func (f *files) lostCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.lost)
}

func (f *files) crashCount(w api.Want) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crashes[w.Digest]
}

func (f *files) askedFor(w api.Want) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[w.Digest]
}

func (f *files) eventKinds() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var kinds []string
	for _, e := range f.events {
		kinds = append(kinds, e.Kind+" "+e.Subject)
	}
	return kinds
}

// rig is a controller that runs, and what is around it.
type rig struct {
	*fleet.Controller
	files   *files
	changed chan struct{}
}

// workersOf lists the workers that report the want, in order.
func (r *rig) workersOf(w api.Want) []string {
	var names []string
	for _, replica := range r.State(w.Instance).Replicas {
		names = append(names, replica.Worker)
	}
	slices.Sort(names)
	return names
}

// kill ends a worker, where it runs. The number 0, which a worker that is being started has, would mean every process of
// the group that runs the tests.
func (r *rig) kill(worker string) error { return r.signal(worker, unix.SIGKILL) }

func (r *rig) signal(worker string, s unix.Signal) error {
	pid := r.pid(worker)
	if pid <= 0 {
		return unix.ESRCH
	}
	return unix.Kill(pid, s)
}

// pid is 0 while the worker does not run.
func (r *rig) pid(worker string) int {
	for _, w := range r.Workers() {
		if w.Name == worker {
			return w.PID
		}
	}
	return 0
}

const patience = 30 * time.Second

// lookAgain is the longest pause between two looks of await; Changed makes most of them earlier.
const lookAgain = 5 * time.Millisecond

func (r *rig) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	late := time.After(patience)
	for !ok() {
		select {
		case <-r.changed:
		case <-time.After(lookAgain):
		case <-late:
			t.Fatalf("waited in vain until %s; workers %+v; events %s", what, r.Workers(), strings.Join(r.files.eventKinds(), ", "))
		}
	}
}

func (r *rig) awaitErr(t testing.TB, w api.Want, code api.Code) *api.Error {
	t.Helper()
	r.await(t, fmt.Sprintf("%s fails with %s", w.Subject, code), func() bool {
		err := r.State(w.Instance).Err
		return err != nil && err.Code == code
	})
	return r.State(w.Instance).Err
}

func (r *rig) awaitLoaded(t testing.TB, w api.Want, n int) {
	t.Helper()
	r.await(t, fmt.Sprintf("%s has %d replicas", w.Subject, n), func() bool { return len(r.State(w.Instance).Replicas) == n })
}

func (r *rig) infer(w api.Want, name string) error {
	e, ok := r.Engine(name)
	if !ok {
		return errors.New("no such worker")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := e.Infer(ctx, engine.Request{Instance: w.Instance})
	answer.Release()
	return err
}
