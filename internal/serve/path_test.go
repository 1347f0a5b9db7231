package serve_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/serve"
	"github.com/penstock/penstock/internal/tensor"
)

// fake is an engine at the seam: it answers with its own name, or as the test tells it.
type fake struct {
	engine.Engine // panics on what the path must not call
	name          string
	done          chan struct{}
	answer        func(ctx context.Context, req engine.Request) (*engine.Answer, error)
	calls         atomic.Int64
	released      atomic.Int64
	busy          func() int // runs whose callers gave up; nil for none
	fault         error
}

func (f *fake) Busy() int {
	if f.busy == nil {
		return 0
	}
	return f.busy()
}

func (f *fake) Fault() error { return f.fault }

func (f *fake) Done() <-chan struct{} { return f.done }

func (f *fake) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	f.calls.Add(1)
	if f.answer != nil {
		return f.answer(ctx, req)
	}
	return engine.NewAnswer([]tensor.Tensor{{Name: f.name + "/" + req.Instance}}, func() { f.released.Add(1) }), nil
}

type fakes struct {
	mu   sync.Mutex
	live map[string]*fake
}

func (f *fakes) Engine(worker string) (engine.Engine, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.live[worker]
	return e, ok
}

func (f *fakes) add(name string) *fake {
	e := &fake{name: name, done: make(chan struct{})}
	f.put(e)
	return e
}

func (f *fakes) put(e *fake) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live[e.name] = e
}

type ledger struct {
	mu   sync.Mutex
	list []api.Exchange
}

func (l *ledger) Record(x api.Exchange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, x)
}

func (l *ledger) last() api.Exchange {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.list[len(l.list)-1]
}

var anyone = &api.Principal{Tenant: "default", Key: "k", Scopes: []api.Scope{api.ScopeInfer}}

func newPath() (*serve.Path, *fakes, *ledger) {
	f, l := &fakes{live: map[string]*fake{}}, &ledger{}
	return &serve.Path{Engines: f, Recorder: l, Now: time.Now}, f, l
}

// plan makes a plan with one endpoint "e": each arm is "name@version:weight" on the workers given.
func plan(sticky bool, arms ...api.PlanVariant) *api.Plan {
	key := api.EndpointKey{Tenant: "default", Endpoint: "e"}
	return &api.Plan{Endpoints: map[api.EndpointKey]*api.PlanEndpoint{key: {Key: key, Revision: 1, Salt: "s", Sticky: sticky, Variants: arms}}}
}

func arm(name string, version int64, weight int64, workers ...string) api.PlanVariant {
	v := api.PlanVariant{Variant: &api.Variant{Name: api.VariantName(name), Model: "m", Version: api.VersionNumber(version), Weight: weight,
		Digest: api.Digest("sha256:" + name)}}
	var replicas []api.Replica
	for _, w := range workers {
		replicas = append(replicas, replica(w, name))
	}
	v.Set = api.Loaded(replicas...)
	return v
}

// loads are those of the tests' workers, by name: replicas on one share it.
var loads sync.Map

func replica(worker, instance string) api.Replica {
	load, _ := loads.LoadOrStore(worker, &api.WorkerLoad{})
	return api.Replica{Worker: worker, Instance: instance, Load: load.(*api.WorkerLoad)}
}

func call(mods ...func(*serve.Call)) *serve.Call {
	c := &serve.Call{Principal: anyone, Endpoint: "e", RequestID: "r", Protocol: "test", Start: time.Now()}
	for _, m := range mods {
		m(c)
	}
	return c
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		plan *api.Plan
		call *serve.Call
		want api.Code
	}{
		"no plan":              {nil, call(), api.CodeNotReady},
		"unknown endpoint":     {plan(false), call(func(c *serve.Call) { c.Endpoint = "x" }), api.CodeEndpointNotFound},
		"foreign tenant":       {plan(false), call(func(c *serve.Call) { c.Principal = &api.Principal{Tenant: "other", Scopes: anyone.Scopes} }), api.CodeEndpointNotFound},
		"no principal":         {plan(false), call(func(c *serve.Call) { c.Principal = nil }), api.CodeForbidden},
		"no scope":             {plan(false), call(func(c *serve.Call) { c.Principal = &api.Principal{Tenant: "default"} }), api.CodeForbidden},
		"variant needs scope":  {plan(false, arm("a", 1, 1, "w")), call(func(c *serve.Call) { c.Variant = "a" }), api.CodeForbidden},
		"nothing released":     {plan(false), call(), api.CodeNotReady},
		"version not serving":  {plan(false, arm("a", 1, 1, "w")), call(func(c *serve.Call) { c.Version = "2" }), api.CodeVersionNotFound},
		"version not a number": {plan(false, arm("a", 1, 1, "w")), call(func(c *serve.Call) { c.Version = "01" }), api.CodeVersionNotFound},
		"all weights zero":     {plan(false, arm("a", 1, 0, "w"), arm("b", 2, 0, "w")), call(), api.CodeNotReady},
	} {
		t.Run(name, func(t *testing.T) {
			p, f, l := newPath()
			f.add("w")
			if tc.plan != nil {
				p.SetPlan(tc.plan)
			}
			_, err := p.Infer(t.Context(), tc.call)
			if !api.Is(err, tc.want) {
				t.Fatalf("got %v, want %s", err, tc.want)
			}
			if x := l.last(); x.Code != tc.want || len(l.list) != 1 {
				t.Errorf("recorded %d exchanges, last with code %q", len(l.list), x.Code)
			}
		})
	}
}

// TestErrorsNameTheEndpoint turns the instance's name in an engine's error, a digest, into the name that the caller used.
func TestErrorsNameTheEndpoint(t *testing.T) {
	p, f, _ := newPath()
	f.add("w").answer = func(_ context.Context, req engine.Request) (*engine.Answer, error) {
		return nil, api.Fail(api.CodeSignatureMismatch, req.Instance, "input %q is missing", "x")
	}
	p.SetPlan(plan(false, arm("a", 1, 1, "w")))
	_, err := p.Infer(t.Context(), call())
	if e := api.AsError(err); e.Code != api.CodeSignatureMismatch || e.Subject != "e" || e.Message != `input "x" is missing` {
		t.Errorf("got %+v", e)
	}
}

func TestStickyUnitsAndWeights(t *testing.T) {
	p, f, _ := newPath()
	f.add("w")
	p.SetPlan(plan(true, arm("a", 1, 75, "w"), arm("b", 2, 25, "w")))
	first := map[string]api.VariantName{}
	counts := map[api.VariantName]int{}
	for round := range 2 {
		for i := range 2000 {
			unit := "user-" + strconv.Itoa(i)
			a, err := p.Infer(t.Context(), call(func(c *serve.Call) { c.Unit, c.RequestID = unit, fmt.Sprint(round, i) }))
			if err != nil {
				t.Fatal(err)
			}
			if round == 0 {
				first[unit] = a.Variant
				counts[a.Variant]++
			} else if first[unit] != a.Variant {
				t.Fatalf("unit %s moved from %s to %s", unit, first[unit], a.Variant)
			}
			a.Release()
		}
	}
	if counts["b"] < 420 || counts["b"] > 580 {
		t.Errorf("arm b of weight 25 %% took %d of 2000", counts["b"])
	}
}

func TestLostWorkerIsRetriedOnceElsewhere(t *testing.T) {
	p, f, l := newPath()
	bad, good := f.add("w1"), f.add("w2")
	die := func(context.Context, engine.Request) (*engine.Answer, error) {
		return nil, api.Fail(api.CodeWorkerLost, "", "the worker died")
	}
	bad.answer = die
	p.SetPlan(plan(false, arm("a", 1, 1, "w1", "w2")))
	for range 10 {
		a, err := p.Infer(t.Context(), call())
		if err != nil {
			t.Fatal(err)
		}
		if a.Outputs[0].Name != "w2/a" {
			t.Errorf("answered by %s", a.Outputs[0].Name)
		}
		a.Release()
		a.Release()
	}
	if bad.calls.Load() == 0 || good.released.Load() != 10 {
		t.Errorf("bad worker asked %d times, good one released %d of 10", bad.calls.Load(), good.released.Load())
	}
	good.answer = die
	if _, err := p.Infer(t.Context(), call()); !api.Is(err, api.CodePoison) {
		t.Errorf("both died: got %v", err)
	}
	if x := l.last(); x.Retries != 1 {
		t.Errorf("sent again %d times, want once", x.Retries)
	}
}

func TestHoldsTheRequestUntilAReplicaIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, l := newPath()
		only := f.add("w1")
		only.answer = func(context.Context, engine.Request) (*engine.Answer, error) {
			return nil, api.Fail(api.CodeWorkerLost, "", "the worker died")
		}
		p.SetPlan(plan(false, arm("a", 1, 1, "w1")))
		result := make(chan error)
		go func() {
			a, err := p.Infer(t.Context(), call())
			a.Release()
			result <- err
		}()
		synctest.Wait()
		p.SetPlan(plan(false, arm("a", 1, 1)))
		<-time.After(3 * time.Second)
		f.add("w1") // the restarted worker has the same name
		p.SetPlan(plan(false, arm("a", 1, 1, "w1")))
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		if x := l.last(); x.Retries != 1 || x.Queue != 3*time.Second {
			t.Errorf("retries %d, queue %v; want 1 and 3s", x.Retries, x.Queue)
		}
	})
}

func TestNoRequestOutlivesItsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newPath()
		hang := f.add("w")
		hang.answer = func(ctx context.Context, _ engine.Request) (*engine.Answer, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		slow := arm("a", 1, 1, "w")
		slow.Serving.TimeoutMS = 1500
		p.SetPlan(plan(false, slow))
		begin := time.Now()
		if _, err := p.Infer(t.Context(), call()); !api.Is(err, api.CodeDeadline) || time.Since(begin) != 1500*time.Millisecond {
			t.Errorf("hanging worker: %v after %v", err, time.Since(begin))
		}
		p.SetPlan(plan(false, arm("a", 1, 1)))
		begin = time.Now()
		if _, err := p.Infer(t.Context(), call()); !api.Is(err, api.CodeLoading) || time.Since(begin) != 30*time.Second {
			t.Errorf("no replica: %v after %v", err, time.Since(begin))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.Infer(ctx, call()); !api.Is(err, api.CodeCanceled) {
			t.Errorf("caller gone: %v", err)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newPath()
		p.Limits.Queue = 4
		open := make(chan struct{})
		w := f.add("w")
		w.answer = func(context.Context, engine.Request) (*engine.Answer, error) {
			<-open
			return engine.NewAnswer(nil, nil), nil
		}
		p.SetPlan(plan(false, arm("a", 1, 1, "w")))
		var ok, full atomic.Int64
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				_, err := p.Infer(context.Background(), call())
				switch {
				case err == nil:
					ok.Add(1)
				case api.Is(err, api.CodeQueueFull) && api.AsError(err).RetryAfter > 0:
					full.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		p.SetPlan(plan(false, arm("a", 1, 1, "w"))) // a new plan must not forget who is inside
		if _, err := p.Infer(t.Context(), call()); !api.Is(err, api.CodeQueueFull) {
			t.Errorf("after a new plan: %v", err)
		}
		close(open)
		all.Wait()
		if ok.Load() != 4 || full.Load() != 6 {
			t.Errorf("%d answered, %d refused; want 4 and 6", ok.Load(), full.Load())
		}
	})
}

// TestRandomPlansNeverFailARequest swaps plans and replaces workers at random while requests run. Every request that
// always has one live replica somewhere must be answered by a replica of the version that some plan named.
func TestRandomPlansNeverFailARequest(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	p, f, l := newPath()
	f.add("w1")
	f.add("w2")
	p.SetPlan(plan(false, arm("a", 1, 1, "w1", "w2")))
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var sent atomic.Int64
	for range 8 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := p.Infer(context.Background(), call())
				if err != nil {
					t.Error(err)
					return
				}
				a.Release()
				sent.Add(1)
			}
		})
	}
	random := rand.New(rand.NewPCG(seed, 2))
	for i := 0; i < 300 || sent.Load() < 5000; i++ {
		name := "w" + strconv.Itoa(1+random.IntN(2))
		other := map[string]string{"w1": "w2", "w2": "w1"}[name]
		version := int64(1 + random.IntN(2))
		old, _ := f.Engine(name)
		close(old.(*fake).done) // dies; its requests are not sent
		p.SetPlan(plan(false, arm("v"+strconv.FormatInt(version, 10), version, 1, other)))
		f.add(name)
		p.SetPlan(plan(false, arm("v"+strconv.FormatInt(version, 10), version, 1, other, name)))
	}
	close(stop)
	clients.Wait()
	if int64(len(l.list)) != sent.Load() {
		t.Errorf("%d requests left %d exchanges", sent.Load(), len(l.list))
	}
}

type nothing struct{}

func (nothing) Record(api.Exchange) {}

func BenchmarkInfer(b *testing.B) {
	for _, endpoints := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("endpoints=%d", endpoints), func(b *testing.B) {
			p, f, _ := newPath()
			p.Recorder = nothing{}
			w := f.add("w")
			answer := engine.NewAnswer(nil, nil)
			w.answer = func(context.Context, engine.Request) (*engine.Answer, error) { return answer, nil }
			pl := plan(false, arm("a", 1, 1, "w"))
			for i := range endpoints {
				key := api.EndpointKey{Tenant: "default", Endpoint: api.EndpointName("e" + strconv.Itoa(i))}
				pl.Endpoints[key] = &api.PlanEndpoint{Key: key, Variants: []api.PlanVariant{arm("a", 1, 1, "w")}}
			}
			p.SetPlan(pl)
			c := call()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Infer(b.Context(), c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestBalanceCountsTheWorker sends one request to each of two endpoints whose replicas lie in the same two workers:
// while the first is in hand, the second goes to the other worker; alone, a request always finds the same one.
func TestBalanceCountsTheWorker(t *testing.T) {
	p, f, l := newPath()
	entered, leave := make(chan struct{}), make(chan struct{})
	for _, name := range []string{"w1", "w2"} {
		f.add(name).answer = func(_ context.Context, req engine.Request) (*engine.Answer, error) {
			if req.Instance == "slow" {
				close(entered)
				<-leave
			}
			return engine.NewAnswer(nil, nil), nil
		}
	}
	both := plan(false, arm("slow", 1, 1, "w1", "w2"))
	quick := api.EndpointKey{Tenant: "default", Endpoint: "quick"}
	both.Endpoints[quick] = &api.PlanEndpoint{Key: quick, Revision: 1, Salt: "s", Variants: []api.PlanVariant{arm("quick", 1, 1, "w1", "w2")}}
	p.SetPlan(both)
	ask := func() string {
		if _, err := p.Infer(t.Context(), call(func(c *serve.Call) { c.Endpoint = "quick" })); err != nil {
			t.Fatal(err)
		}
		return l.last().Worker
	}
	for range 3 {
		if w := ask(); w != "w1" {
			t.Errorf("alone, the request went to %s", w)
		}
	}
	done := make(chan error)
	go func() {
		_, err := p.Infer(t.Context(), call())
		done <- err
	}()
	<-entered
	for range 3 {
		if w := ask(); w != "w2" {
			t.Errorf("while w1 is at work, the request went to %s", w)
		}
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
