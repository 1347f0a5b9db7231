package bench_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/bench"
)

// search ramps over a fresh model for each step.
func search(t *testing.T, p bench.RampPlan, fresh func() *model) *bench.Ramp {
	t.Helper()
	r, err := bench.Search(t.Context(), p, func(ctx context.Context, level int) (*bench.Result, error) {
		plan := bench.Plan{Clients: 64, Backlog: 1000, Warmup: time.Second, Duration: 3 * time.Second}
		if p.Open {
			plan.Rate = float64(level)
		} else {
			plan.Clients = level
		}
		return bench.Run(ctx, fresh().dial, plan)
	}, func(s bench.Step) { t.Log(s.Row()) })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRampFindsAKnownCapacity: 4 places of 4 ms answer 1000 a second from 4 clients on, and each further client waits 1 ms
// more, so that p99 stays within 20 ms up to 20 clients.
func TestRampFindsAKnownCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fresh := func() *model { return newModel(4, 4*time.Millisecond) }
		p := bench.RampPlan{First: 1, Most: 256, P99: 20_500, Precision: .05, Steps: 24}
		r := search(t, p, fresh)
		if r.Best == nil || r.Best.PerSecond < 990 || r.Best.PerSecond > 1010 || !strings.HasPrefix(r.LimitedBy, "p99") {
			t.Fatalf("%+v by %s", r.Best, r.LimitedBy)
		}
		highest := 0
		for _, s := range r.Steps {
			if s.Good {
				highest = max(highest, s.Level)
			}
		}
		if highest != 20 {
			t.Errorf("the highest good level is %d, want 20", highest)
		}

		p = bench.RampPlan{Open: true, First: 10, Most: 100_000, P99: 20_000, Precision: .02, Steps: 24}
		r = search(t, p, fresh)
		if r.Best == nil || r.Best.PerSecond < 970 || r.Best.PerSecond > 1010 {
			t.Errorf("open loop: %+v by %s", r.Best, r.LimitedBy)
		}
	})
}

func TestRampSaysWhatLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := bench.RampPlan{First: 1, Most: 64, P99: 1e6, Precision: .05, Steps: 24}
		open := bench.RampPlan{Open: true, First: 10, Most: 100_000, P99: 10e6, Precision: .05, Steps: 24}
		failing := func() *model {
			m := newModel(4, 4*time.Millisecond)
			m.fail = func(int) error {
				if time.Now().Before(m.free[0]) && time.Now().Before(m.free[1]) && time.Now().Before(m.free[2]) && time.Now().Before(m.free[3]) {
					return &bench.AnswerError{Code: "http 503", Text: "busy"}
				}
				return nil
			}
			return m
		}
		for name, tc := range map[string]struct {
			plan  bench.RampPlan
			fresh func() *model
			want  string
		}{
			"throughput": {closed, func() *model { return newModel(1, 4*time.Millisecond) }, "throughput:"},
			"most":       {bench.RampPlan{First: 1, Most: 3, P99: 1e6, Precision: .05, Steps: 24}, func() *model { return newModel(8, 4*time.Millisecond) }, "the highest level of 3 clients"},
			"steps":      {bench.RampPlan{First: 1, Most: 64, P99: 1e6, Precision: .05, Steps: 2}, func() *model { return newModel(64, 4*time.Millisecond) }, "the number of steps (2)"},
			"rate":       {open, func() *model { return newModel(4, 4*time.Millisecond) }, "rate:"},
			"errors":     {closed, failing, "errors:"},
			"at once":    {bench.RampPlan{First: 1, Most: 64, P99: 3000, Precision: .05, Steps: 24}, func() *model { return newModel(1, 4*time.Millisecond) }, "p99:"},
		} {
			r := search(t, tc.plan, tc.fresh)
			if !strings.HasPrefix(r.LimitedBy, tc.want) || len(r.Steps) > tc.plan.Steps {
				t.Errorf("%s: limited by %q after %d steps, want %q", name, r.LimitedBy, len(r.Steps), tc.want)
			}
			if (r.Best == nil) != (name == "at once") {
				t.Errorf("%s: best %+v", name, r.Best)
			}
		}
	})
}

func TestRampRepeatsWhatIsNotSteady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		r := search(t, bench.RampPlan{First: 1, Most: 1, P99: 1e9, Precision: .05, Steps: 24}, func() *model {
			calls++
			m := newModel(1, time.Millisecond)
			if calls == 1 {
				m.stall = [2]time.Duration{1200 * time.Millisecond, 2200 * time.Millisecond}
			}
			return m
		})
		if len(r.Steps) != 2 || r.Steps[0].Steady || !r.Steps[1].Steady {
			t.Errorf("%+v", r.Steps)
		}
	})
}

func TestRampStopsWhenItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		steps := 0
		r, err := bench.Search(ctx, bench.RampPlan{First: 1, Most: 64, P99: 1e9, Precision: .05, Steps: 24}, func(ctx context.Context, level int) (*bench.Result, error) {
			if steps++; steps == 3 {
				cancel()
			}
			return bench.Run(ctx, newModel(64, time.Millisecond).dial, bench.Plan{Clients: level, Duration: time.Second})
		}, nil)
		if err != nil || len(r.Steps) != 2 || r.LimitedBy != "interrupted" || r.Best == nil {
			t.Errorf("%v, %+v", err, r)
		}
		want := errors.New("gone")
		if _, err := bench.Search(t.Context(), bench.RampPlan{First: 1, Most: 64, P99: 1, Steps: 24}, func(context.Context, int) (*bench.Result, error) { return nil, want }, nil); !errors.Is(err, want) {
			t.Errorf("got %v", err)
		}
	})
}

func TestSillyRampsAreRefused(t *testing.T) {
	for name, p := range map[string]bench.RampPlan{
		"no limit":   {First: 1, Most: 2, Steps: 5},
		"backwards":  {First: 5, Most: 2, P99: 1, Steps: 5},
		"no steps":   {First: 1, Most: 2, P99: 1},
		"many steps": {First: 1, Most: 2, P99: 1, Steps: bench.StepsMax + 1},
	} {
		if err := p.Validate(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
