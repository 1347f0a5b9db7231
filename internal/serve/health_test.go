package serve_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/serve"
)

// TestEjection has one of two replicas fail in every way: what is its own fault takes it out, what is the caller's never does.
func TestEjection(t *testing.T) {
	for name, tc := range map[string]struct {
		fault   func(ctx context.Context) error
		ejected bool
	}{
		"internal":           {func(context.Context) error { return api.Fail(api.CodeInternal, "", "broken") }, true},
		"away":               {func(context.Context) error { return api.Fail(api.CodeUnavailable, "", "away") }, true},
		"a bad tensor":       {func(context.Context) error { return api.Fail(api.CodeBadTensor, "", "bad") }, false},
		"a failed inference": {func(context.Context) error { return api.Fail(api.CodeInferenceFailed, "", "bad") }, false},
		"it never ends": {func(ctx context.Context) error {
			<-ctx.Done()
			return api.Fail(api.CodeDeadline, "", "late")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, f, _ := newPath()
				bad, good := f.add("w1"), f.add("w2")
				broken := true
				bad.answer = func(ctx context.Context, _ engine.Request) (*engine.Answer, error) {
					if broken {
						return nil, tc.fault(ctx)
					}
					return engine.NewAnswer(nil, nil), nil
				}
				p.SetPlan(plan(false, arm("a", 1, 1, "w1", "w2")))
				ask := func() {
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
					defer cancel()
					answer, _ := p.Infer(ctx, call())
					answer.Release()
				}
				for range 40 {
					ask()
				}
				if !tc.ejected {
					if bad.calls.Load() != 40 {
						t.Errorf("the replica was asked %d times of 40", bad.calls.Load())
					}
					return
				}
				if bad.calls.Load() != 5 || good.calls.Load() != 35 {
					t.Errorf("asked %d and %d times", bad.calls.Load(), good.calls.Load())
				}
				_ = after(t.Context(), 40*time.Second)
				ask() // tries it, and fails
				ask()
				if bad.calls.Load() != 6 {
					t.Errorf("asked %d times after its time was over", bad.calls.Load())
				}
				broken = false
				_ = after(t.Context(), 40*time.Second)
				ask()
				if bad.calls.Load() != 6 {
					t.Error("the second time is not longer than the first")
				}
				_ = after(t.Context(), 30*time.Second)
				ask()
				ask()
				if bad.calls.Load() != 8 {
					t.Errorf("asked %d times when it was well again", bad.calls.Load())
				}
			})
		})
	}
}

// TestTheLastReplicaStays never takes out the only replica, and never more than half.
func TestTheLastReplicaStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newPath()
		workers := []string{"w1", "w2", "w3"}
		for _, w := range workers {
			f.add(w).answer = func(context.Context, engine.Request) (*engine.Answer, error) {
				return nil, api.Fail(api.CodeInternal, "", "broken")
			}
		}
		for n := 1; n <= 3; n++ {
			p.SetPlan(plan(false, arm("a", 1, 1, workers[:n]...)))
			for range 50 {
				if _, err := p.Infer(t.Context(), call()); !api.Is(err, api.CodeInternal) {
					t.Fatalf("%d replicas: %v", n, err)
				}
			}
		}
	})
}

var _ serve.Recorder = (*ledger)(nil)
