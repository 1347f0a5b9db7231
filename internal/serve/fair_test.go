package serve_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/serve"
)

// house is a path over workers that carry out one run at a time, each of which takes so long.
type house struct {
	*testing.T
	path   *serve.Path
	ledger *ledger
	ran    atomic.Int64
	most   atomic.Int64 // requests in one worker at once
}

// after waits, or until ctx ends.
func after(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func newHouse(t *testing.T, workers int, took func() time.Duration, plan *api.Plan) *house {
	h := &house{T: t}
	fakes := &fakes{live: map[string]*fake{}}
	h.ledger = &ledger{}
	h.path = &serve.Path{Engines: fakes, Recorder: h.ledger, Now: time.Now}
	for i := range workers {
		run := make(chan struct{}, 1)
		var within atomic.Int64
		fakes.add(fmt.Sprint("w", i)).answer = func(ctx context.Context, req engine.Request) (*engine.Answer, error) {
			h.most.Store(max(h.most.Load(), within.Add(1)))
			defer within.Add(-1)
			select {
			case run <- struct{}{}:
			case <-ctx.Done():
				return nil, api.Fail(api.CodeCanceled, req.Instance, "gone")
			}
			defer func() { <-run }()
			d := took()
			if err := after(ctx, d); err != nil {
				return nil, api.Fail(api.CodeCanceled, req.Instance, "gone")
			}
			h.ran.Add(1)
			answer := engine.NewAnswer(nil, nil)
			answer.Compute = d
			return answer, nil
		}
	}
	h.path.SetPlan(plan)
	return h
}

// planFor gives every tenant an endpoint "e" of its own on these workers.
func planFor(workers int, tenants ...string) *api.Plan {
	p := &api.Plan{Endpoints: map[api.EndpointKey]*api.PlanEndpoint{}, Weights: map[api.TenantID]int{}}
	for _, t := range tenants {
		var names []string
		for i := range workers {
			names = append(names, fmt.Sprint("w", i))
		}
		key := api.EndpointKey{Tenant: api.TenantID(t), Endpoint: "e"}
		p.Endpoints[key] = &api.PlanEndpoint{Key: key, Revision: 1, Salt: "s", Variants: []api.PlanVariant{arm("of-"+t, 1, 1, names...)}}
	}
	return p
}

func (h *house) ask(ctx context.Context, tenant string, mods ...func(*serve.Call)) error {
	c := call(mods...)
	c.Principal = &api.Principal{Tenant: api.TenantID(tenant), Key: "k", Scopes: anyone.Scopes}
	answer, err := h.path.Infer(ctx, c)
	answer.Release()
	return err
}

func steady(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// closed has so many clients of a tenant ask again and again until ctx ends; it counts what is answered.
func (h *house) closed(ctx context.Context, wait *sync.WaitGroup, tenant string, clients int, count *atomic.Int64, mods ...func(*serve.Call)) {
	for range clients {
		wait.Go(func() {
			for ctx.Err() == nil {
				if err := h.ask(context.WithoutCancel(ctx), tenant, mods...); err == nil && ctx.Err() == nil {
					count.Add(1)
				} else if err != nil {
					h.Errorf("%s: %v", tenant, err)
					return
				}
			}
		})
	}
}

// TestWeights has three tenants of weights 1, 2 and 4 always have something waiting for ten seconds.
func TestWeights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := planFor(2, "a", "b", "c")
		plan.Weights = map[api.TenantID]int{"b": 2, "c": 4}
		h := newHouse(t, 2, steady(7*time.Millisecond), plan)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var wait sync.WaitGroup
		var got [3]atomic.Int64
		for i, tenant := range []string{"a", "b", "c"} {
			h.closed(ctx, &wait, tenant, 16, &got[i])
		}
		wait.Wait()
		sum := float64(got[0].Load() + got[1].Load() + got[2].Load())
		for i := range got {
			if share, due := float64(got[i].Load())/sum, float64(int(1)<<i)/7; math.Abs(share/due-1) > .02 {
				t.Errorf("weight %d got %.4f of what was run, due %.4f", 1<<i, share, due)
			}
		}
		if sum < 0.98*2*10/.007 || h.most.Load() > 2 {
			t.Errorf("%.0f runs in ten seconds, at most %d requests in a worker at once", sum, h.most.Load())
		}
		shares := h.path.Shares()
		if len(shares) != 3 || shares[2].Weight != 4 || shares[2].Spent < shares[1].Spent || shares[1].Waiting != 0 || shares[0].Running != 0 {
			t.Errorf("shares %+v", shares)
		}
	})
}

// open asks at random times, so many a second, whatever becomes of those before.
func (h *house) open(ctx context.Context, wait *sync.WaitGroup, tenant string, rate float64, seed uint64, ended func(took time.Duration, err error), mods ...func(*serve.Call)) {
	wait.Go(func() {
		random := rand.New(rand.NewPCG(seed, 1))
		for {
			if after(ctx, time.Duration(random.ExpFloat64()/rate*1e9)) != nil {
				return
			}
			wait.Go(func() {
				began := time.Now()
				limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
				defer cancel()
				err := h.ask(limited, tenant, mods...)
				ended(time.Since(began), err)
			})
		}
	})
}

// TestNoisyNeighbour has one tenant offer ten times its share beside another that stays within its own.
func TestNoisyNeighbour(t *testing.T) {
	p99 := func(noisy bool) (p time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			const share = 100.0 // requests a second of half of two workers
			h := newHouse(t, 2, steady(10*time.Millisecond), planFor(2, "loud", "still"))
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
			defer cancel()
			var wait sync.WaitGroup
			var mu sync.Mutex
			var times []time.Duration
			h.open(ctx, &wait, "still", share/2, 1, func(took time.Duration, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Errorf("the still one: %v", err)
				}
				times = append(times, took)
			})
			var answered, refused int
			if noisy {
				h.open(ctx, &wait, "loud", 10*share, 2, func(_ time.Duration, err error) {
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil:
						answered++
					case api.Is(err, api.CodeOverShare) && api.AsError(err).RetryAfter > 0:
						refused++
					default:
						t.Errorf("the loud one: %v", err)
					}
				})
			}
			wait.Wait()
			slices.Sort(times)
			p = times[len(times)*99/100]
			t.Logf("noisy %v: p50 %v, p99 %v; the loud one: %d answered, %d refused", noisy, times[len(times)/2], p, answered, refused)
			if noisy && (float64(answered) < 0.9*share*100 || refused == 0) {
				t.Errorf("the loud one got %d answers, its share is %.0f", answered, share*100)
			}
		})
		return p
	}
	alone, beside := p99(false), p99(true)
	if ratio := float64(beside) / float64(alone); ratio > 1.3 {
		t.Errorf("p99 %v beside the loud one, %v alone: %.2f x", beside, alone, ratio)
	}
}

// TestOverload offers three times what the workers can do for a minute, with a deadline of a second, and then a little.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const capacity = 200.0
		random := rand.New(rand.NewPCG(3, 4))
		var mu sync.Mutex
		took := func() time.Duration { // 10 ms on average, a long tail
			mu.Lock()
			defer mu.Unlock()
			return 5*time.Millisecond + time.Duration(random.ExpFloat64()*5e6)
		}
		h := newHouse(t, 2, took, planFor(2, "a"))
		codes := map[api.Code]int{}
		var good int
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wait sync.WaitGroup
		ended := func(_ time.Duration, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				good++
				return
			}
			codes[api.AsError(err).Code]++
			if e := api.AsError(err); e.Code != api.CodeDeadline && e.RetryAfter <= 0 {
				t.Errorf("no time to retry after: %v", err)
			}
		}
		h.timed(ctx, &wait, "a", 3*capacity, time.Second, ended)
		<-ctx.Done()
		wait.Wait()
		if float64(good) < 0.9*capacity*60 {
			t.Errorf("%d answers in time of %.0f possible; refused %v", good, capacity*60, codes)
		}
		if late := codes[api.CodeDeadline]; late > good/200 {
			t.Errorf("%d requests were let in and had no answer by their deadline", late)
		}
		t.Logf("%d answers in time of %.0f possible; refused %v; %d runs", good, capacity*60, codes, h.ran.Load())
		began := time.Now()
		if err := h.ask(t.Context(), "a"); err != nil || time.Since(began) > 100*time.Millisecond {
			t.Errorf("after the overload: %v in %v", err, time.Since(began))
		}
	})
}

// timed is open with a deadline for each request.
func (h *house) timed(ctx context.Context, wait *sync.WaitGroup, tenant string, rate float64, deadline time.Duration, ended func(time.Duration, error)) {
	wait.Go(func() {
		random := rand.New(rand.NewPCG(9, 1))
		for after(ctx, time.Duration(random.ExpFloat64()/rate*1e9)) == nil {
			wait.Go(func() {
				began := time.Now()
				limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), deadline)
				defer cancel()
				err := h.ask(limited, tenant)
				ended(time.Since(began), err)
			})
		}
	})
}

// TestHangUps has callers of several tenants go away at random moments, while the plan changes: each call ends exactly
// once and leaves one exchange, nobody runs after it was given up in the queue, and nothing is left behind.
func TestHangUps(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		tenants := []string{"a", "b", "c"}
		h := newHouse(t, 2, steady(3*time.Millisecond), planFor(2, tenants...))
		random := rand.New(rand.NewPCG(seed, 1))
		var wait sync.WaitGroup
		var ends atomic.Int64
		const calls = 4000
		for i := range calls {
			if i%400 == 399 {
				h.path.SetPlan(planFor(1+random.IntN(2), tenants...))
			}
			_ = after(t.Context(), time.Duration(random.Int64N(int64(2*time.Millisecond))))
			patience := time.Duration(random.Int64N(int64(60 * time.Millisecond)))
			tenant := tenants[random.IntN(3)]
			band := []api.Band{"", api.BandBatch}[random.IntN(2)]
			wait.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				_ = h.ask(ctx, tenant, func(c *serve.Call) { c.Band = band })
				ends.Add(1)
			})
		}
		wait.Wait()
		if ends.Load() != calls || len(h.ledger.list) != calls {
			t.Errorf("%d calls: %d ends, %d exchanges", calls, ends.Load(), len(h.ledger.list))
		}
		for _, s := range h.path.Shares() {
			if s.Waiting != 0 || s.Running != 0 {
				t.Errorf("left behind: %+v", s)
			}
		}
		for _, u := range h.path.Usage("") {
			if u.InFlight != 0 {
				t.Errorf("left behind: %+v", u)
			}
		}
	})
}

// TestBands has one tenant's urgent requests pass its others, and its batch work get what they leave, but never nothing.
func TestBands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := planFor(1, "a")
		key := api.EndpointKey{Tenant: "a", Endpoint: "e"}
		plan.Endpoints[key].Variants[0].Serving.Band = api.BandCritical
		h := newHouse(t, 1, steady(5*time.Millisecond), plan)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // the usual ones wait for the end of it
		defer cancel()
		var wait sync.WaitGroup
		var urgent, usual, batch atomic.Int64
		h.closed(ctx, &wait, "a", 4, &urgent)
		h.closed(ctx, &wait, "a", 4, &usual, func(c *serve.Call) { c.Band = api.BandStandard })
		h.closed(ctx, &wait, "a", 4, &batch, func(c *serve.Call) { c.Band = api.BandBatch })
		wait.Wait()
		sum := urgent.Load() + usual.Load() + batch.Load()
		if part := float64(batch.Load()) / float64(sum); part < .045 || part > .06 || usual.Load() > 4 { // each of the usual ones may have come before the first urgent one
			t.Errorf("%d critical, %d standard, %d batch: %.3f", urgent.Load(), usual.Load(), batch.Load(), part)
		}
	})
}

// TestNobodyAsksForMore refuses to move a request up by its own wish.
func TestNobodyAsksForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 1, steady(5*time.Millisecond), planFor(1, "a"))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var wait sync.WaitGroup
		var wishful, usual atomic.Int64
		h.closed(ctx, &wait, "a", 4, &wishful, func(c *serve.Call) { c.Band = api.BandCritical })
		h.closed(ctx, &wait, "a", 4, &usual)
		wait.Wait()
		if a, b := wishful.Load(), usual.Load(); a > b+8 || b > a+8 {
			t.Errorf("%d that call themselves critical, %d that do not", a, b)
		}
	})
}

// TestTooLate refuses at once what would not be done in time, and runs nothing whose caller has gone.
func TestTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 1, steady(100*time.Millisecond), planFor(1, "a"))
		if err := h.ask(t.Context(), "a"); err != nil { // the time that a run takes is known from here on
			t.Fatal(err)
		}
		var wait sync.WaitGroup
		for range 5 {
			wait.Go(func() {
				if err := h.ask(t.Context(), "a"); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		err := h.ask(ctx, "a")
		if e := api.AsError(err); !api.Is(err, api.CodeTooLate) || time.Since(began) != 0 || e.RetryAfter < 300*time.Millisecond || e.RetryAfter > time.Second {
			t.Errorf("after %v: %v, retry after %v", time.Since(began), err, e.RetryAfter)
		}
		wait.Wait()
		if h.ran.Load() != 6 {
			t.Errorf("%d runs", h.ran.Load())
		}
	})
}

// TestTight refuses new work while the memory is nearly used up, and says when to come again.
func TestTight(t *testing.T) {
	p, f, _ := newPath()
	f.add("w")
	p.SetPlan(plan(false, arm("a", 1, 1, "w")))
	p.Tighten(true)
	if _, err := p.Infer(t.Context(), call()); !api.Is(err, api.CodeOverloaded) || api.AsError(err).RetryAfter <= 0 {
		t.Errorf("while it is tight: %v", err)
	}
	p.Tighten(false)
	answer, err := p.Infer(t.Context(), call())
	if err != nil {
		t.Errorf("afterwards: %v", err)
	}
	answer.Release()
}

// TestOverdue refuses a tenant that is over its share before its body is read, and leaves one exchange of it; whoever is
// not is let through, and so is everybody while there is room.
func TestOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 1, steady(10*time.Millisecond), planFor(1, "loud", "still"))
		early := func(tenant string) error {
			return h.path.Overdue(call(func(c *serve.Call) { c.Principal = &api.Principal{Tenant: api.TenantID(tenant), Scopes: anyone.Scopes} }))
		}
		if err := early("loud"); err != nil {
			t.Errorf("while nothing is to be done: %v", err)
		}
		var wait sync.WaitGroup
		for i := range 80 {
			tenant := "loud"
			if i == 0 {
				tenant = "still"
			}
			wait.Go(func() {
				if err := h.ask(t.Context(), tenant); err != nil && !api.Is(err, api.CodeOverShare) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		before := len(h.ledger.list)
		if err := early("loud"); !api.Is(err, api.CodeOverShare) || api.AsError(err).RetryAfter <= 0 {
			t.Errorf("the loud one: %v", err)
		}
		if err := early("still"); err != nil {
			t.Errorf("the still one: %v", err)
		}
		if n := len(h.ledger.list) - before; n != 1 || h.ledger.last().Code != api.CodeOverShare {
			t.Errorf("%d exchanges, the last %+v", n, h.ledger.last())
		}
		wait.Wait()
	})
}
