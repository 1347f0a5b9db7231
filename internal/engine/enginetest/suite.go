// Package enginetest is the suite that every engine must pass. It knows only the seam, not how an engine does it. Tests
// of engines call it, with a function that opens one.
package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/expiry"
)

// patience is how long the suite waits for what must happen; it fails then.
const patience = 30 * time.Second

// Open makes an engine for one test. Closing it at the end of the test is the suite's work.
type Open func(t testing.TB) engine.Engine

// suite is what one test works on.
type suite struct {
	engine.Engine
	models Models
}

// Run runs the suite, each test on an engine of its own.
func Run(t *testing.T, open Open, models Models) {
	tests := []struct {
		name string
		test func(*testing.T, *suite)
	}{
		{"Answers", testAnswers},
		{"ChoosesOutputs", testChoosesOutputs},
		{"LoadsOnce", testLoadsOnce},
		{"LoadsOnceAtOnce", testLoadsOnceAtOnce},
		{"LoadAfterEnd", testLoadAfterEnd},
		{"RefusesBrokenFile", testRefusesBrokenFile},
		{"RefusesRequests", testRefusesRequests},
		{"UnknownInstance", testUnknownInstance},
		{"Unloads", testUnloads},
		{"UnloadWaits", testUnloadWaits},
		{"UnloadGivesUpWaiting", testUnloadGivesUpWaiting},
		{"ManyAtOnce", testManyAtOnce},
		{"ManyAtOnceWithUnloads", testManyAtOnceWithUnloads},
		{"Cancel", testCancel},
		{"Deadline", testDeadline},
		{"ReleaseTwice", testReleaseTwice},
		{"AnswerOutlivesInstance", testAnswerOutlivesInstance},
		{"Stats", testStats},
		{"CloseEndsAll", testCloseEndsAll},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &suite{Engine: open(t), models: models}
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			test.test(t, s)
		})
	}
}

func (s *suite) mustLoad(t testing.TB, m Model, instance string) engine.Loaded {
	t.Helper()
	loaded, err := s.Load(t.Context(), m.load(instance))
	if err != nil {
		t.Fatalf("Load %s: %v", instance, err)
	}
	return loaded
}

// ask runs the quick model and compares the answer.
func (s *suite) ask(ctx context.Context, instance string) error {
	answer, err := s.Infer(ctx, s.models.Quick.request(instance))
	if err != nil {
		return err
	}
	defer answer.Release()
	return same(answer, s.models.Quick)
}

func same(answer *engine.Answer, m Model) error {
	if len(answer.Outputs) != len(m.Want) {
		return fmt.Errorf("got %d outputs, want %d", len(answer.Outputs), len(m.Want))
	}
	for i := range m.Want {
		got, want := &answer.Outputs[i], &m.Want[i]
		if got.Name != want.Name || got.Type != want.Type || !slices.Equal(got.Shape, want.Shape) || !bytes.Equal(got.Data, want.Data) {
			return fmt.Errorf("got %q %s %v % x, want %q %s %v % x", got.Name, got.Type, got.Shape, got.Data, want.Name, want.Type, want.Shape, want.Data)
		}
	}
	return nil
}

// begin sends a request to the slow model and returns when the engine counts it as in flight. What it ended with comes
// through the channel.
func (s *suite) begin(ctx context.Context, t testing.TB, instance string) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		answer, err := s.Infer(ctx, s.models.Slow.request(instance))
		answer.Release()
		ended <- err
	}()
	s.await(t, "the request is in flight", func() bool {
		stats, err := s.Stats(t.Context())
		if err != nil {
			t.Fatalf("Stats: %v", err)
		}
		return slices.ContainsFunc(stats.Instances, func(i engine.InstanceStats) bool { return i.Instance == instance && i.InFlight > 0 })
	})
	return ended
}

// await asks until the answer is yes. An engine may live in another process, where nothing could tell this one.
func (s *suite) await(t testing.TB, what string, yes func() bool) {
	t.Helper()
	again, limit := time.NewTicker(2*time.Millisecond), time.After(patience)
	defer again.Stop()
	for !yes() {
		select {
		case <-again.C:
		case <-limit:
			t.Fatalf("waited %v until %s", patience, what)
		}
	}
}

func receive(t testing.TB, what string, from <-chan error) error {
	t.Helper()
	select {
	case err := <-from:
		return err
	case <-time.After(patience):
		t.Fatalf("waited %v for %s", patience, what)
		return nil
	}
}

func wantCode(t testing.TB, what string, err error, codes ...api.Code) {
	t.Helper()
	for _, code := range codes {
		if api.Is(err, code) {
			return
		}
	}
	t.Errorf("%s: got %v, want %v", what, err, codes)
}

func testAnswers(t *testing.T, s *suite) {
	s.mustLoad(t, s.models.Quick, "quick")
	for range 3 {
		if err := s.ask(t.Context(), "quick"); err != nil {
			t.Error(err)
		}
	}
}

func testChoosesOutputs(t *testing.T, s *suite) {
	s.mustLoad(t, s.models.Quick, "quick")
	req := s.models.Quick.request("quick")
	for _, want := range s.models.Quick.Want {
		req.Outputs = []string{want.Name}
		answer, err := s.Infer(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if len(answer.Outputs) != 1 || answer.Outputs[0].Name != want.Name || !bytes.Equal(answer.Outputs[0].Data, want.Data) {
			t.Errorf("asked for %q, got %+v", want.Name, answer.Outputs)
		}
		answer.Release()
	}
}

func testLoadsOnce(t *testing.T, s *suite) {
	first := s.mustLoad(t, s.models.Quick, "quick")
	second := s.mustLoad(t, s.models.Quick, "quick")
	if len(first.Signature.Inputs) != len(second.Signature.Inputs) || len(first.Signature.Outputs) != len(second.Signature.Outputs) {
		t.Errorf("the second Load found %+v, the first %+v", second, first)
	}
	if err := s.ask(t.Context(), "quick"); err != nil {
		t.Error(err)
	}
}

func testLoadsOnceAtOnce(t *testing.T, s *suite) {
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := s.Load(t.Context(), s.models.Quick.load("quick")); err != nil {
				t.Errorf("Load: %v", err)
			} else if err := s.ask(t.Context(), "quick"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	stats, err := s.Stats(t.Context())
	if err != nil || len(stats.Instances) != 1 {
		t.Errorf("Stats: %+v, %v; want one instance", stats, err)
	}
}

func testLoadAfterEnd(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Load(ctx, s.models.Quick.load("quick"))
	wantCode(t, "Load with an ended context", err, api.CodeCanceled)
	wantCode(t, "Infer after it", s.ask(t.Context(), "quick"), api.CodeNotLoaded)
	s.mustLoad(t, s.models.Quick, "quick")
}

func testRefusesBrokenFile(t *testing.T, s *suite) {
	if s.models.Broken == "" {
		t.Skip("this engine reads no files")
	}
	load := s.models.Quick.load("quick")
	load.Path = s.models.Broken
	_, err := s.Load(t.Context(), load)
	wantCode(t, "Load of a broken file", err, api.CodeLoadFailed)
	load.Path += ".not-there"
	_, err = s.Load(t.Context(), load)
	wantCode(t, "Load of no file", err, api.CodeLoadFailed)
	s.mustLoad(t, s.models.Quick, "quick")
	if err := s.ask(t.Context(), "quick"); err != nil {
		t.Error(err)
	}
}

func testRefusesRequests(t *testing.T, s *suite) {
	s.mustLoad(t, s.models.Quick, "quick")
	for _, refused := range s.models.Refused {
		answer, err := s.Infer(t.Context(), engine.Request{Instance: "quick", Inputs: refused.Inputs, Outputs: refused.Outputs})
		answer.Release()
		wantCode(t, refused.Name, err, refused.Code)
	}
	if err := s.ask(t.Context(), "quick"); err != nil {
		t.Errorf("after refused requests: %v", err)
	}
}

func testUnknownInstance(t *testing.T, s *suite) {
	wantCode(t, "Infer", s.ask(t.Context(), "nobody"), api.CodeNotLoaded)
	if err := s.Unload(t.Context(), "nobody"); err != nil {
		t.Errorf("Unload: %v", err)
	}
}

func testUnloads(t *testing.T, s *suite) {
	for range 3 {
		s.mustLoad(t, s.models.Quick, "quick")
		if err := s.ask(t.Context(), "quick"); err != nil {
			t.Error(err)
		}
		if err := s.Unload(t.Context(), "quick"); err != nil {
			t.Errorf("Unload: %v", err)
		}
		wantCode(t, "Infer after Unload", s.ask(t.Context(), "quick"), api.CodeNotLoaded)
	}
}

func testUnloadWaits(t *testing.T, s *suite) {
	s.mustLoad(t, s.models.Slow, "slow")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request := s.begin(ctx, t, "slow")
	unload := make(chan error, 1)
	go func() { unload <- s.Unload(t.Context(), "slow") }()
	// When a new request is refused, Unload has begun; it must not be over, as the first request is still there.
	s.await(t, "new requests are refused", func() bool {
		short, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer stop()
		answer, err := s.Infer(short, s.models.Slow.request("slow"))
		answer.Release()
		return api.Is(err, api.CodeNotLoaded)
	})
	select {
	case err := <-unload:
		t.Errorf("Unload did not wait: %v", err)
	case err := <-request:
		t.Errorf("Unload ended the request: %v", err)
	default:
	}
	cancel()
	wantCode(t, "the request", receive(t, "the request", request), api.CodeCanceled)
	if err := receive(t, "Unload", unload); err != nil {
		t.Errorf("Unload: %v", err)
	}
}

func testUnloadGivesUpWaiting(t *testing.T, s *suite) {
	s.mustLoad(t, s.models.Slow, "slow")
	request := s.begin(t.Context(), t, "slow")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	unload := make(chan error, 1)
	go func() { unload <- s.Unload(ctx, "slow") }()
	_ = receive(t, "Unload", unload) // with or without an error, but it must return
	wantCode(t, "the request", receive(t, "the request", request), api.CodeNotLoaded)
	wantCode(t, "Infer after it", s.ask(t.Context(), "slow"), api.CodeNotLoaded)
}

func testManyAtOnce(t *testing.T, s *suite) {
	const clients, requests = 16, 50
	s.mustLoad(t, s.models.Quick, "a")
	s.mustLoad(t, s.models.Quick, "b")
	var group sync.WaitGroup
	for i := range clients {
		instance := string(rune('a' + i%2))
		group.Go(func() {
			for range requests {
				if err := s.ask(t.Context(), instance); err != nil {
					t.Errorf("%s: %v", instance, err)
					return
				}
			}
		})
	}
	group.Wait()
}

func testManyAtOnceWithUnloads(t *testing.T, s *suite) {
	const clients, turns = 8, 20
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for ctx.Err() == nil {
				if err := s.ask(t.Context(), "quick"); err != nil && !api.Is(err, api.CodeNotLoaded) {
					t.Error(err)
					return
				}
			}
		})
	}
	for range turns {
		s.mustLoad(t, s.models.Quick, "quick")
		if err := s.ask(t.Context(), "quick"); err != nil {
			t.Errorf("between Load and Unload: %v", err)
		}
		if err := s.Unload(t.Context(), "quick"); err != nil {
			t.Errorf("Unload: %v", err)
		}
	}
	cancel()
	group.Wait()
}

func testCancel(t *testing.T, s *suite) {
	s.mustLoad(t, s.models.Slow, "slow")
	s.mustLoad(t, s.models.Quick, "quick")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var life expiry.Context
	life.Init(time.Now(), time.Second)
	for _, c := range []struct {
		ctx    context.Context
		cancel func()
	}{{ctx, cancel}, {&life, life.Cancel}} {
		first, second := s.begin(c.ctx, t, "slow"), s.begin(c.ctx, t, "slow")
		if err := s.ask(t.Context(), "quick"); err != nil {
			t.Errorf("beside slow requests: %v", err)
		}
		c.cancel()
		wantCode(t, "the first request", receive(t, "the first request", first), api.CodeCanceled)
		wantCode(t, "the second", receive(t, "the second", second), api.CodeCanceled)
		wantCode(t, "a request with an ended context", s.ask(c.ctx, "quick"), api.CodeCanceled)
		if err := s.ask(t.Context(), "quick"); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}

func testDeadline(t *testing.T, s *suite) {
	s.mustLoad(t, s.models.Slow, "slow")
	for range 3 { // more than once: what was stopped must not stop the next
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		answer, err := s.Infer(ctx, s.models.Slow.request("slow"))
		answer.Release()
		cancel()
		wantCode(t, "Infer", err, api.CodeDeadline)
	}
}

func testReleaseTwice(t *testing.T, s *suite) {
	s.mustLoad(t, s.models.Quick, "quick")
	answer, err := s.Infer(t.Context(), s.models.Quick.request("quick"))
	if err != nil {
		t.Fatal(err)
	}
	answer.Release()
	// The second Release must not free what the next answer holds.
	next, err := s.Infer(t.Context(), s.models.Quick.request("quick"))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Release()
	answer.Release()
	if err := s.ask(t.Context(), "quick"); err != nil {
		t.Error(err)
	}
	if err := same(next, s.models.Quick); err != nil {
		t.Errorf("after a second Release of another answer: %v", err)
	}
}

func testAnswerOutlivesInstance(t *testing.T, s *suite) {
	s.mustLoad(t, s.models.Quick, "quick")
	answer, err := s.Infer(t.Context(), s.models.Quick.request("quick"))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Release()
	if err := s.Unload(t.Context(), "quick"); err != nil {
		t.Fatal(err)
	}
	s.mustLoad(t, s.models.Quick, "quick")
	if err := s.ask(t.Context(), "quick"); err != nil {
		t.Error(err)
	}
	if err := same(answer, s.models.Quick); err != nil {
		t.Errorf("an answer that was not released, after Unload: %v", err)
	}
}

func testStats(t *testing.T, s *suite) {
	s.mustLoad(t, s.models.Quick, "b")
	s.mustLoad(t, s.models.Quick, "a")
	const requests = 5
	for range requests {
		if err := s.ask(t.Context(), "a"); err != nil {
			t.Error(err)
		}
	}
	stats, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if stats.PID <= 0 || stats.Runtime == "" || stats.Resident <= 0 {
		t.Errorf("Stats: %+v", stats)
	}
	if len(stats.Instances) != 2 || stats.Instances[0].Instance != "a" || stats.Instances[1].Instance != "b" {
		t.Fatalf("Stats: instances %+v, want a and b", stats.Instances)
	}
	if a, b := stats.Instances[0], stats.Instances[1]; a.Requests != requests || a.Failures != 0 || a.InFlight != 0 || b.Requests != 0 {
		t.Errorf("Stats: %+v and %+v, want %d requests and none", a, b, requests)
	}
}

func testCloseEndsAll(t *testing.T, s *suite) {
	s.mustLoad(t, s.models.Slow, "slow")
	s.mustLoad(t, s.models.Quick, "quick")
	select {
	case <-s.Done():
		t.Fatal("Done is closed before Close")
	default:
	}
	request := s.begin(t.Context(), t, "slow")
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	wantCode(t, "the request under way", receive(t, "the request", request), api.CodeWorkerLost)
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Error("Done is not closed")
	}
	wantCode(t, "Infer", s.ask(t.Context(), "quick"), api.CodeWorkerLost)
	_, err := s.Load(t.Context(), s.models.Quick.load("other"))
	wantCode(t, "Load", err, api.CodeWorkerLost)
	if err := s.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}
