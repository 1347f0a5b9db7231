package bench_test

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/bench"
)

// model is a server in the bubble's time: so many requests at once, each for its service time, in the order that they come.
type model struct {
	mu      sync.Mutex // guards the rest
	began   time.Time
	service time.Duration
	free    []time.Time // when each of its places is free again
	stall   [2]time.Duration
	asked   int
	fail    func(n int) error
}

func newModel(places int, service time.Duration) *model {
	return &model{began: time.Now(), service: service, free: make([]time.Time, places)}
}

// accept gives the time when a request that comes now is answered.
func (m *model) accept() (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	place := 0
	for i, f := range m.free {
		if f.Before(m.free[place]) {
			place = i
		}
	}
	at := time.Now()
	if m.free[place].After(at) {
		at = m.free[place]
	}
	if since := at.Sub(m.began); since >= m.stall[0] && since < m.stall[1] {
		at = m.began.Add(m.stall[1])
	}
	at = at.Add(m.service)
	m.free[place] = at
	if m.fail != nil {
		return at, m.fail(m.asked)
	}
	return at, nil
}

func (m *model) dial(context.Context) (bench.Caller, error) { return &guest{m}, nil }

type guest struct{ m *model }

func (g *guest) Ask(ctx context.Context, _ int) error {
	at, err := g.m.accept()
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (*guest) Close() {}

func run(t *testing.T, m *model, p bench.Plan) *bench.Result {
	t.Helper()
	r, err := bench.Run(t.Context(), m.dial, p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestAStallIsSeen is the reason for open loops: a server that stands still for a second makes all that is due in that
// second wait, but a client that waits for its answer sends only one request meanwhile, and counts one.
func TestAStallIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stalling := func() *model {
			m := newModel(1, time.Millisecond)
			m.stall = [2]time.Duration{5 * time.Second, 6 * time.Second}
			return m
		}
		open := run(t, stalling(), bench.Plan{Clients: 1, Rate: 100, Backlog: 1000, Duration: 10 * time.Second})
		naive := run(t, stalling(), bench.Plan{Clients: 1, Duration: 10 * time.Second})
		if open.OK != 1000 || open.Lateness.Due != 1000 || open.Lateness.NeverSent != 0 {
			t.Errorf("%d answered, lateness %+v", open.OK, open.Lateness)
		}
		// Of 1000 requests 100 were due in the stall; the hundredth part that waited longest waited for 0.9 s and more.
		if p99 := open.Latency.P99; p99 < 0.85e6 || p99 > 1.05e6 {
			t.Errorf("open loop: p99 is %v µs", p99)
		}
		if p90 := open.Latency.P90; p90 > 0.2e6 {
			t.Errorf("open loop: p90 is %v µs", p90)
		}
		if p99 := naive.Latency.P99; p99 > 2000 {
			t.Errorf("closed loop: p99 is %v µs; the comparison has lost its point", p99)
		}
		if max := naive.Latency.Max; max < 1e6 {
			t.Errorf("closed loop: the longest is %v µs", max)
		}
		if open.Lateness.Late < 95 || open.Lateness.LateMax < 0.9e6 {
			t.Errorf("lateness is hidden: %+v", open.Lateness)
		}
	})
}

func TestABacklogIsBoundedAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel(1, time.Millisecond)
		m.stall = [2]time.Duration{5 * time.Second, 6 * time.Second}
		r := run(t, m, bench.Plan{Clients: 1, Rate: 100, Backlog: 10, Duration: 10 * time.Second})
		l := r.Lateness
		if l.Due != 1000 || int64(r.OK)+l.NeverSent != l.Due || l.NeverSent < 85 || l.NeverSent > 95 || l.Overflowed != l.NeverSent {
			t.Errorf("%d answered, %+v", r.OK, l)
		}
		// A server at half the rate: what still waits at the end was never sent either.
		slow := run(t, newModel(1, 20*time.Millisecond), bench.Plan{Clients: 1, Rate: 100, Backlog: 1000, Duration: 10 * time.Second})
		if l := slow.Lateness; slow.OK < 495 || slow.OK > 505 || int64(slow.OK)+l.NeverSent != 1000 || l.Overflowed != 0 {
			t.Errorf("%d answered, %+v", slow.OK, l)
		}
		if math.Abs(slow.PerSecond-50) > 1 {
			t.Errorf("%v a second", slow.PerSecond)
		}
	})
}

func TestAnOpenLoopKeepsItsRate(t *testing.T) {
	for name, poisson := range map[string]bool{"constant": false, "poisson": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := run(t, newModel(64, 10*time.Millisecond), bench.Plan{Clients: 64, Rate: 500, Poisson: poisson, Seed: 7, Backlog: 100, Warmup: time.Second, Duration: 20 * time.Second})
				spread := 0.5
				if poisson {
					spread = 400 // four deviations of 10,000
				}
				if math.Abs(float64(r.OK)-10_000) > spread || r.Lateness.NeverSent != 0 || r.Failed != 0 {
					t.Errorf("%d answered, %+v", r.OK, r.Lateness)
				}
				if r.Latency.P50 < 9900 || r.Latency.P50 > 10_100 {
					t.Errorf("p50 %v µs", r.Latency.P50)
				}
				again := run(t, newModel(64, 10*time.Millisecond), bench.Plan{Clients: 64, Rate: 500, Poisson: poisson, Seed: 7, Backlog: 100, Warmup: time.Second, Duration: 20 * time.Second})
				if again.OK != r.OK {
					t.Errorf("equal seeds give %d and %d", r.OK, again.OK)
				}
			})
		})
	}
}

func TestAClosedLoopCountsRateWithoutEdges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 8 clients on 4 places of 300 ms: 13.3 a second, though neither warm-up nor measuring is a multiple of it.
		r := run(t, newModel(4, 300*time.Millisecond), bench.Plan{Clients: 8, Warmup: 500 * time.Millisecond, Duration: 2 * time.Second})
		if math.Abs(r.PerSecond-4/0.3) > 0.2 {
			t.Errorf("%v a second", r.PerSecond)
		}
		if r.Latency.P50 < 598e3 || r.Latency.P50 > 602e3 {
			t.Errorf("p50 %v µs", r.Latency.P50)
		}
	})
}

func TestCountEndsARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, p := range []bench.Plan{{Clients: 7, Duration: time.Hour, Count: 1000}, {Clients: 7, Rate: 100, Backlog: 10, Duration: time.Hour, Count: 1000}} {
			m := newModel(7, 10*time.Millisecond)
			r := run(t, m, p)
			if r.OK != 1000 || m.asked != 1000 {
				t.Errorf("rate %v: %d answered of %d asked", p.Rate, r.OK, m.asked)
			}
			if r.Elapsed > 11 || r.Interrupted {
				t.Errorf("rate %v: took %v s", p.Rate, r.Elapsed)
			}
		}
	})
}

func TestWarmingUpIsNotMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel(1, time.Millisecond)
		m.stall = [2]time.Duration{0, 900 * time.Millisecond}
		var begun atomic.Int64
		r := run(t, m, bench.Plan{Clients: 1, Warmup: time.Second, Duration: time.Second, Begin: func() { begun.Store(int64(time.Since(m.began))) }})
		if r.Latency.Max > 1100 || r.OK < 995 || r.OK > 1001 {
			t.Errorf("%d answered, longest %v µs", r.OK, r.Latency.Max)
		}
		if at := time.Duration(begun.Load()); at != time.Second {
			t.Errorf("Begin was called after %v", at)
		}
		if r.Generator.Asked <= int64(r.OK) {
			t.Errorf("%d asked in all", r.Generator.Asked)
		}
	})
}

func TestErrorsAreCountedByCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel(4, time.Millisecond)
		m.fail = func(n int) error {
			switch {
			case n%10 == 0:
				return &bench.AnswerError{Code: "http 503", Text: "the queue is full"}
			case n%100 == 1:
				return context.DeadlineExceeded
			case n%100 == 2:
				return errors.New("strange")
			}
			return nil
		}
		r := run(t, m, bench.Plan{Clients: 4, Duration: 10 * time.Second})
		if len(r.Faults) != 3 || r.Faults[0].Code != "http 503" || r.Faults[0].Example != "the queue is full" || r.Faults[1].Code != "error" || r.Faults[2].Code != "timeout" {
			t.Fatalf("%+v", r.Faults)
		}
		var sum int64
		for _, f := range r.Faults {
			sum += f.Count
		}
		if sum != r.Failed || int(r.OK)+int(r.Failed) != m.asked || math.Abs(r.FailedShare()-.12) > .01 {
			t.Errorf("%d answered, %d failed, %d asked: %+v", r.OK, r.Failed, m.asked, r.Faults)
		}
	})
}

// TestAServerThatIsGoneIsNotHammered: refused connections come back at once.
func TestAServerThatIsGoneIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel(4, 0)
		m.fail = func(int) error { return errors.New("connection refused") }
		r := run(t, m, bench.Plan{Clients: 4, Duration: 10 * time.Second})
		if r.OK != 0 || r.Failed < 40 || r.Failed > 120 {
			t.Errorf("%d failed", r.Failed)
		}
	})
}

func TestAnInterruptedRunTellsWhatItMeasured(t *testing.T) {
	for name, plan := range map[string]bench.Plan{
		"closed": {Clients: 4, Duration: time.Hour},
		"open":   {Clients: 4, Rate: 200, Backlog: 100, Duration: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second+time.Millisecond)
				defer cancel()
				m := newModel(4, 10*time.Millisecond)
				r, err := bench.Run(ctx, m.dial, plan)
				if err != nil || !r.Interrupted || r.Failed != 0 || math.Abs(r.Elapsed-5) > .01 {
					t.Fatalf("%v, %+v", err, r)
				}
				want := 2000.0
				if plan.Rate > 0 {
					want = 1000
				}
				if math.Abs(float64(r.OK)-want) > 8 || math.Abs(r.PerSecond-want/5) > 3 {
					t.Errorf("%d answered, %v a second", r.OK, r.PerSecond)
				}
			})
		})
	}
}

// TestPreciseTimesAreKept in real time, since the kernel knows no bubbles: nothing is sent before it is due, and all is sent.
func TestPreciseTimesAreKept(t *testing.T) {
	r := run(t, newModel(4, 0), bench.Plan{Clients: 4, Rate: 2000, Backlog: 10_000, Duration: time.Hour, Count: 500, Precise: true})
	if r.OK != 500 || r.Lateness.Due != 500 || r.Latency.Min < 0 {
		t.Errorf("%d answered, %+v", r.OK, r.Lateness)
	}
	if r.Elapsed < 499.0/2000 {
		t.Errorf("500 requests at 2000 a second were sent within %v s", r.Elapsed)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	m := newModel(1, 0)
	if r, err := bench.Run(ctx, m.dial, bench.Plan{Clients: 4, Rate: .001, Backlog: 1, Duration: time.Hour, Precise: true}); err != nil || !r.Interrupted {
		t.Errorf("%v, %+v", err, r)
	}
}

func TestProgressIsToldWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []bench.Snapshot
		run(t, newModel(2, 10*time.Millisecond), bench.Plan{Clients: 2, Warmup: time.Second, Duration: 4 * time.Second, Every: time.Second, Progress: func(s bench.Snapshot) { told = append(told, s) }})
		if len(told) < 4 || told[0].Count != 0 || told[3].Count < 350 || told[3].P50 < 9*time.Millisecond || told[3].Measured != 3*time.Second {
			t.Errorf("%+v", told)
		}
	})
}

func TestSlicesHoldAllThatWasMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, d := range []time.Duration{300 * time.Millisecond, 5 * time.Second, 100 * time.Second, 10 * time.Minute} {
			r := run(t, newModel(2, 50*time.Millisecond), bench.Plan{Clients: 2, Warmup: time.Second, Duration: d})
			var sum uint64
			for _, s := range r.Slices {
				sum += s.Latency.Count()
			}
			if sum != r.OK || len(r.Slices) > 64 || r.SliceS*float64(len(r.Slices)) < d.Seconds()-r.SliceS {
				t.Errorf("%v: %d in %d slices of %v s, %d answered", d, sum, len(r.Slices), r.SliceS, r.OK)
			}
		}
	})
}

func TestSillyPlansAreRefused(t *testing.T) {
	good := bench.Plan{Clients: 1, Duration: time.Second}
	for name, change := range map[string]func(*bench.Plan){
		"no clients":        func(p *bench.Plan) { p.Clients = 0 },
		"too many clients":  func(p *bench.Plan) { p.Clients = bench.ClientsMax + 1 },
		"negative rate":     func(p *bench.Plan) { p.Rate = -1 },
		"no number":         func(p *bench.Plan) { p.Rate = math.NaN() },
		"endless rate":      func(p *bench.Plan) { p.Rate = math.Inf(1) },
		"gaps without rate": func(p *bench.Plan) { p.Poisson = true },
		"backlog":           func(p *bench.Plan) { p.Rate, p.Backlog = 1, -1 },
		"no duration":       func(p *bench.Plan) { p.Duration = 0 },
		"endless":           func(p *bench.Plan) { p.Duration = 1000 * time.Hour },
		"negative warm-up":  func(p *bench.Plan) { p.Warmup = -1 },
		"negative count":    func(p *bench.Plan) { p.Count = -1 },
	} {
		p := good
		change(&p)
		if err := p.Validate(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}
