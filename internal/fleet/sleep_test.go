package fleet_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/fleet"
	"github.com/penstock/penstock/internal/fleet/cache"
	"github.com/penstock/penstock/internal/serve"
)

// nobody records nothing.
type nobody struct{}

func (nobody) Record(api.Exchange) {}

// gate is the request's walk over the rig's fleet, with one endpoint per want.
func (r *rig) gate(wants []api.Want) *serve.Path {
	p := &serve.Path{Engines: r.Controller, Recorder: nobody{}, Now: time.Now, Limits: serve.Limits{Wake: patience}}
	plan := &api.Plan{Endpoints: map[api.EndpointKey]*api.PlanEndpoint{}}
	for _, w := range wants {
		key := api.EndpointKey{Tenant: "default", Endpoint: api.EndpointName(w.Instance)}
		v := api.PlanVariant{Variant: &api.Variant{Name: "main", Version: 1, Digest: w.Digest, Weight: 1}, Set: r.Set(w.Instance)}
		plan.Endpoints[key] = &api.PlanEndpoint{Key: key, Revision: 1, Variants: []api.PlanVariant{v}}
	}
	p.SetPlan(plan)
	return p
}

func ask(ctx context.Context, p *serve.Path, w api.Want) error {
	answer, err := p.Infer(ctx, &serve.Call{Principal: &api.Principal{Tenant: "default", Scopes: []api.Scope{api.ScopeInfer}},
		Endpoint: api.EndpointName(w.Instance), RequestID: "r", Start: time.Now()})
	answer.Release()
	return err
}

// small is a file's size whose estimate is all that these tests count with, and room for n of them.
const small = 1 << 20

func roomFor(n int) cache.Size { return cache.Size{RAM: int64(n) * (small/2*3 + 256<<10)} }

func (f *files) many(t *testing.T, n int) []api.Want {
	wants := make([]api.Want, n)
	for i := range wants {
		wants[i] = f.want(t, fmt.Sprintf("m%03d", i), "ok")
		wants[i].Size = small
	}
	return wants
}

func (r *rig) awake(wants []api.Want) (n int) {
	for _, w := range wants {
		if len(r.State(w.Instance).Replicas) > 0 {
			n++
		}
	}
	return n
}

// TestSleepingModelsWake: of many models with memory for few, each answers, and no more are in memory than fit.
func TestSleepingModelsWake(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, func(c *fleet.Config) { c.Memory = roomFor(5) })
	wants := f.many(t, 20)
	kept := &wants[7]
	kept.Loaded = true
	r.SetWants(wants)
	p := r.gate(wants)
	for round := range 3 {
		for _, w := range wants {
			if err := ask(t.Context(), p, w); err != nil {
				t.Fatalf("round %d: %s: %v", round, w.Subject, err)
			}
			if n := r.awake(wants); n > 5 {
				t.Errorf("%d models are loaded, there is memory for 5", n)
			}
		}
	}
	if n := len(r.State(kept.Instance).Replicas); n != 1 {
		t.Errorf("the one that is kept loaded has %d replicas", n)
	}
	if s := r.State(wants[0].Instance); !s.Asleep || s.Wanted != 0 || s.Err != nil {
		t.Errorf("the one asked for first is %+v", s)
	}
	r.SetWants(wants[:2]) // there is memory for all copies of these
	r.awaitLoaded(t, wants[0], 2)
	r.awaitLoaded(t, wants[1], 2)
}

// TestChurnFailsNothing asks for models at random, far more than fit, while workers are killed: no request may fail, and no
// model may be taken away under one.
func TestChurnFailsNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	f := newFiles(t)
	r := run(t, f, func(c *fleet.Config) { c.Memory = roomFor(6); c.Guard = 10 * time.Millisecond })
	wants := f.many(t, 40)
	r.SetWants(wants)
	p := r.gate(wants)
	var clients sync.WaitGroup
	for i := range 8 {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		clients.Go(func() {
			for range 400 {
				w := wants[min(random.IntN(len(wants)), random.IntN(len(wants)))] // the first are asked for more
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				if err := ask(ctx, p, w); err != nil && !api.Is(err, api.CodeWorkerLost) {
					t.Errorf("%s: %v", w.Subject, err)
				}
				cancel()
			}
		})
	}
	random := rand.New(rand.NewPCG(seed, 99))
	for range 3 {
		<-time.After(time.Duration(random.IntN(200)) * time.Millisecond)
		_ = r.kill([]string{"w1", "w2"}[random.IntN(2)]) // one that is being started again is not there to be killed
	}
	clients.Wait()
	if len(f.crashes) > 0 {
		t.Errorf("files were blamed: %v", f.crashes)
	}
	r.await(t, "no more is loaded than fits", func() bool { return r.awake(wants) <= 6 })
}

// quick makes looks frequent, and the guard short.
func quick(c *fleet.Config) {
	c.Resync, c.Tidy, c.Guard = 50*time.Millisecond, 10*time.Millisecond, time.Millisecond
}

// keepAsking asks for all wants from several goroutines until the function returned is called; none may fail.
func keepAsking(t *testing.T, p *serve.Path, wants []api.Want) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				if err := ask(context.WithoutCancel(ctx), p, wants[n%len(wants)]); err != nil {
					t.Errorf("%s: %v", wants[n%len(wants)].Subject, err)
					return
				}
			}
		})
	}
	return func() { cancel(); clients.Wait() }
}

// TestGrowthIsGivenBack: a copy that a request has made large is loaded anew elsewhere, and no request fails meanwhile.
func TestGrowthIsGivenBack(t *testing.T) {
	for _, workers := range []int{1, 2} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			f := newFiles(t)
			r := run(t, f, func(c *fleet.Config) { quick(c); c.Workers = workers })
			w := f.want(t, "grows", "grows")
			w.Replicas = 1
			r.SetWants([]api.Want{w})
			r.awaitLoaded(t, w, 1)
			p := r.gate([]api.Want{w})
			if err := ask(t.Context(), p, w); err != nil {
				t.Fatal(err)
			}
			r.await(t, "it is loaded anew", func() bool {
				list := r.Loaded("")
				return f.loadCount() >= 2 && len(list) == 1 && len(list[0].Copies) == 1 && list[0].Copies[0].Bytes == 1<<20
			})
			if err := ask(t.Context(), p, w); err != nil {
				t.Error(err)
			}
			if f.lostCount() > 0 {
				t.Errorf("a worker was lost: %v", f.lost)
			}
		})
	}
}

// TestAWorkerThatKeepsMemoryIsReplaced: its models move while they are asked for, then it ends, and another process has its
// place.
func TestAWorkerThatKeepsMemoryIsReplaced(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, func(c *fleet.Config) { quick(c); c.Bloat = 100 << 20 })
	leaks := f.want(t, "leaks", "leaks")
	wants := append(f.many(t, 5), leaks)
	for i := range wants {
		wants[i].Replicas = 1
	}
	r.SetWants(wants)
	for _, w := range wants {
		r.awaitLoaded(t, w, 1)
	}
	p := r.gate(wants)
	stop := keepAsking(t, p, wants[:5])
	leaking := r.workersOf(leaks)[0]
	before := r.pid(leaking)
	if err := ask(t.Context(), p, leaks); err != nil {
		t.Fatal(err)
	}
	r.await(t, "the worker is replaced", func() bool {
		pid := r.pid(leaking)
		return pid != 0 && pid != before && slices.Contains(f.eventKinds(), "worker.replaced "+leaking)
	})
	stop()
	if f.lostCount() > 0 {
		t.Errorf("it counts as lost: %v", f.lost)
	}
	for _, w := range wants {
		if len(r.State(w.Instance).Replicas) != 1 {
			t.Errorf("%s has %d replicas", w.Subject, len(r.State(w.Instance).Replicas))
		}
	}
}

// TestBusyModelsGetCopies while memory is short, and lose them when it is needed.
func TestBusyModelsGetCopies(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, func(c *fleet.Config) { quick(c); c.Memory = roomFor(5) })
	wants := f.many(t, 20)
	busy := f.want(t, "busy", "works")
	busy.Size = small
	wants = append(wants, busy)
	r.SetWants(wants)
	p := r.gate(wants)
	stop := keepAsking(t, p, []api.Want{busy})
	r.awaitLoaded(t, busy, 2)
	stop()
	for _, w := range wants[:8] {
		if err := ask(t.Context(), p, w); err != nil {
			t.Error(err)
		}
	}
	if n := r.awake(wants); n > 5 {
		t.Errorf("%d models are loaded, there is memory for 5", n)
	}
}
