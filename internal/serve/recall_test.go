package serve_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/serve"
	"github.com/penstock/penstock/internal/tensor"
)

// keeping is an arm that keeps its answers.
func keeping(name string, version int64, bytes, ttlMS int64, workers ...string) api.PlanVariant {
	v := arm(name, version, 1, workers...)
	v.Digest = api.Digest(fmt.Sprintf("sha256:%d", version))
	v.Serving.Cache = &api.ResponseCache{Bytes: bytes, TTLMS: ttlMS}
	return v
}

// question asks with one number as its only input.
func question(n int64, mods ...func(*serve.Call)) *serve.Call {
	c := call(mods...)
	c.Inputs = []tensor.Tensor{tensor.FromInt64("x", []int64{1}, []int64{n})}
	return c
}

// echoes makes a fake answer with its instance and the question, from memory that Release destroys.
func echoes(f *fake) {
	f.answer = func(_ context.Context, req engine.Request) (*engine.Answer, error) {
		data := fmt.Appendf(nil, "%s %d", req.Instance, req.Inputs[0].Int64s()[0])
		return engine.NewAnswer([]tensor.Tensor{{Name: "y", Type: tensor.Uint8, Shape: []int64{int64(len(data))}, Data: data}},
			func() { clear(data); f.released.Add(1) }), nil
	}
}

func told(t *testing.T, p *serve.Path, c *serve.Call) (string, serve.Recall) {
	t.Helper()
	a, err := p.Infer(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Release()
	return string(a.Outputs[0].Data), a.Recall
}

func TestRecall(t *testing.T) {
	p, f, l := newPath()
	w := f.add("w")
	echoes(w)
	p.SetPlan(plan(false, keeping("a", 1, 1<<20, 0, "w")))
	use := func(u serve.CacheUse) func(*serve.Call) { return func(c *serve.Call) { c.Cache = u } }
	other := func(c *serve.Call) { c.Outputs = []string{"y"} }
	for i, step := range []struct {
		call   *serve.Call
		recall serve.Recall
		runs   int64
	}{
		{question(1), serve.RecallStored, 1},
		{question(1), serve.RecallHit, 1},
		{question(2), serve.RecallStored, 2},
		{question(1, other), serve.RecallStored, 3},
		{question(1, use(serve.CachePassed)), serve.RecallPassed, 4},
		{question(3, use(serve.CachePassed)), serve.RecallPassed, 5},
		{question(3), serve.RecallStored, 6},
		{question(1, use(serve.CacheRenewed)), serve.RecallRenewed, 7},
		{question(1), serve.RecallHit, 7},
	} {
		got, recall := told(t, p, step.call)
		if want := fmt.Sprintf("a %d", step.call.Inputs[0].Int64s()[0]); got != want || recall != step.recall || w.calls.Load() != step.runs {
			t.Errorf("step %d: %q by recall %d after %d runs", i, got, recall, w.calls.Load())
		}
		if w.released.Load() != w.calls.Load() {
			t.Errorf("step %d: %d of %d answers given back to the engine", i, w.released.Load(), w.calls.Load())
		}
		x, passed := l.last(), step.call.Cache == serve.CachePassed
		if x.Cached != (step.recall == serve.RecallHit) || (x.Lookup == 0) != passed || x.BytesOut != 3 || x.Variant != "a" {
			t.Errorf("step %d: recorded %+v", i, x)
		}
	}
}

// TestHitNeedsNeitherQueueNorWorker answers from the cache while the queue is full and the only worker is gone.
func TestHitNeedsNeitherQueueNorWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newPath()
		p.Limits.Queue = 1
		echoes(f.add("w"))
		p.SetPlan(plan(false, keeping("a", 1, 1<<20, 0, "w")))
		told(t, p, question(1))
		p.SetPlan(plan(false, keeping("a", 1, 1<<20, 0)))
		ctx, cancel := context.WithCancel(t.Context())
		waiting := make(chan error)
		go func() { // takes the queue's only place
			_, err := p.Infer(ctx, question(2))
			waiting <- err
		}()
		synctest.Wait()
		if _, err := p.Infer(ctx, question(3)); !api.Is(err, api.CodeQueueFull) {
			t.Errorf("the queue is not full: %v", err)
		}
		if got, recall := told(t, p, question(1)); got != "a 1" || recall != serve.RecallHit {
			t.Errorf("%q by recall %d", got, recall)
		}
		cancel()
		if err := <-waiting; !api.Is(err, api.CodeCanceled) {
			t.Errorf("who waited: %v", err)
		}
	})
}

// TestOnlyItsOwn: another version, another tenant, another endpoint and another arm never see an answer, and what nobody
// can reach any more is gone from memory.
func TestOnlyItsOwn(t *testing.T) {
	p, f, _ := newPath()
	w := f.add("w")
	echoes(w)
	both := func(arms ...api.PlanVariant) *api.Plan {
		all := plan(false, arms...)
		for _, key := range []api.EndpointKey{{Tenant: "other", Endpoint: "e"}, {Tenant: "default", Endpoint: "e2"}} {
			all.Endpoints[key] = &api.PlanEndpoint{Key: key, Revision: 1, Salt: "s", Variants: []api.PlanVariant{keeping("a", 1, 1<<20, 0, "w")}}
		}
		return all
	}
	p.SetPlan(both(keeping("a", 1, 1<<20, 0, "w"), keeping("b", 1, 1<<20, 0, "w")))
	chosen := &api.Principal{Tenant: "default", Scopes: []api.Scope{api.ScopeInfer, api.ScopeVariant}}
	stranger := &api.Principal{Tenant: "other", Scopes: anyone.Scopes}
	ask := func() (hits int) {
		for _, mod := range []func(*serve.Call){
			func(c *serve.Call) { c.Principal, c.Variant = chosen, "a" },
			func(c *serve.Call) { c.Principal, c.Variant = chosen, "b" },
			func(c *serve.Call) { c.Principal = stranger },
			func(c *serve.Call) { c.Endpoint = "e2" },
		} {
			if _, recall := told(t, p, question(1, mod)); recall == serve.RecallHit {
				hits++
			}
		}
		return hits
	}
	if n := ask(); n != 0 {
		t.Errorf("%d of 4 saw another's answer", n)
	}
	if n := ask(); n != 4 {
		t.Errorf("%d of 4 found their own answer", n)
	}
	moved := keeping("a", 1, 1<<19, 0, "w", "w2") // more replicas, less memory, another limit: the same answers
	moved.Serving.TimeoutMS, moved.Weight = 5, 3
	p.SetPlan(both(moved, keeping("b", 2, 1<<20, 0, "w")))
	if n := ask(); n != 3 {
		t.Errorf("%d of 4 found their answer after one arm moved to another version", n)
	}
	p.SetPlan(both(moved, keeping("b", 1, 1<<20, 0, "w"))) // rolled back
	if n := ask(); n != 3 {
		t.Errorf("%d of 4 found their answer after the rollback", n)
	}
	p.SetPlan(&api.Plan{})
	if used := p.CacheBytes(); used != 0 {
		t.Errorf("%d bytes held for endpoints that are gone", used)
	}
}

// TestOneRun: identical requests that come at once are one run, and each gets the answer.
func TestOneRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, l := newPath()
		w := f.add("w")
		slowly(w)
		p.SetPlan(plan(false, keeping("a", 1, 1<<20, 0, "w")))
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if got, _ := told(t, p, question(7)); got != "a 7" {
					t.Errorf("got %q", got)
				}
			})
		}
		all.Wait()
		if w.calls.Load() != 1 || len(l.list) != 50 {
			t.Errorf("%d runs, %d exchanges", w.calls.Load(), len(l.list))
		}
		cached := 0
		for _, x := range l.list {
			if x.Cached {
				cached++
				if x.Queue != time.Second || x.Compute != 0 {
					t.Errorf("waited %v, computed %v", x.Queue, x.Compute)
				}
			}
		}
		if cached != 49 {
			t.Errorf("%d of 50 were answered without a run", cached)
		}
	})
}

// slowly makes a fake take a second, and stop when it is told to.
func slowly(w *fake) {
	echoes(w)
	quick := w.answer
	w.answer = func(ctx context.Context, req engine.Request) (*engine.Answer, error) {
		select {
		case <-time.After(time.Second):
			return quick(ctx, req)
		case <-ctx.Done():
			return nil, api.Fail(api.CodeCanceled, "", "told to stop")
		}
	}
}

// TestLeadersEnd: who goes away takes nobody along; one of those who wait runs in its place.
func TestLeadersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newPath()
		w := f.add("w")
		slowly(w)
		p.SetPlan(plan(false, keeping("a", 1, 1<<20, 0, "w")))
		var all sync.WaitGroup
		for i := range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*700*time.Millisecond)
			defer cancel()
			all.Go(func() {
				// The first has 0.7 s, which is too little. Whoever leads on begins anew.
				a, err := p.Infer(ctx, question(7))
				if err != nil && !api.Is(err, api.CodeDeadline) || err == nil && i == 0 {
					t.Errorf("request %d: %v", i, err)
				}
				a.Release()
			})
			synctest.Wait()
		}
		patient := question(7)
		if got, recall := told(t, p, patient); got != "a 7" || recall == serve.RecallHit {
			t.Errorf("the patient one got %q by recall %d", got, recall)
		}
		all.Wait()
	})
}

// TestErrorsAreNotKept: a failed run fails those who waited for it, each with an error of its own, and nobody after them.
func TestErrorsAreNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newPath()
		w := f.add("w")
		w.answer = func(context.Context, engine.Request) (*engine.Answer, error) {
			<-time.After(time.Second)
			return nil, api.Fail(api.CodeInferenceFailed, "instance", "no")
		}
		p.SetPlan(plan(false, keeping("a", 1, 1<<20, 0, "w")))
		faults := make(chan error, 3)
		for range 3 {
			go func() {
				_, err := p.Infer(t.Context(), question(1))
				faults <- err
			}()
		}
		seen := map[*api.Error]bool{}
		for range 3 {
			var e *api.Error
			if err := <-faults; !errors.As(err, &e) || e.Code != api.CodeInferenceFailed || e.Subject != "e" {
				t.Fatalf("got %v", err)
			}
			seen[e] = true
		}
		if len(seen) != 3 || w.calls.Load() != 1 {
			t.Errorf("%d errors of %d runs", len(seen), w.calls.Load())
		}
		echoes(w)
		if got, recall := told(t, p, question(1)); got != "a 1" || recall != serve.RecallStored {
			t.Errorf("%q by recall %d", got, recall)
		}
	})
}

// TestWaitersOfAnotherVersion: when the version went away while a request was held and another one answered, that answer is
// nobody else's and is not kept.
func TestWaitersOfAnotherVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newPath()
		echoes(f.add("w"))
		p.SetPlan(plan(false, keeping("a", 1, 1<<20, 0)))
		type outcome struct {
			text string
			err  error
		}
		ask := func(version string) chan outcome {
			done := make(chan outcome, 1)
			go func() {
				a, err := p.Infer(t.Context(), question(1, func(c *serve.Call) { c.Version = version }))
				if err != nil {
					done <- outcome{err: err}
					return
				}
				defer a.Release()
				done <- outcome{text: string(a.Outputs[0].Data)}
			}()
			synctest.Wait()
			return done
		}
		anyone, first := ask(""), ask("1")
		p.SetPlan(plan(false, keeping("b", 2, 1<<20, 0, "w")))
		if got := <-anyone; got.text != "b 1" {
			t.Errorf("who took any version got %+v", got)
		}
		if got := <-first; !api.Is(got.err, api.CodeVersionNotFound) {
			t.Errorf("who wanted version 1 got %+v", got)
		}
	})
}

// TestShares: tenants get equal parts of what is too little for all, and what one leaves goes to the others.
func TestShares(t *testing.T) {
	p, f, _ := newPath()
	echoes(f.add("w"))
	p.Limits.Cache = 1 << 20
	big := &api.Plan{Endpoints: map[api.EndpointKey]*api.PlanEndpoint{}}
	for tenant, endpoints := range map[api.TenantID][]int64{"small": {64 << 10}, "default": {1 << 40}, "many": {1 << 40, 1 << 30, 1 << 20, 1 << 19}} {
		for i, bytes := range endpoints {
			key := api.EndpointKey{Tenant: tenant, Endpoint: api.EndpointName(fmt.Sprint("e", i))}
			big.Endpoints[key] = &api.PlanEndpoint{Key: key, Variants: []api.PlanVariant{keeping("a", 1, bytes, 0, "w")}}
		}
	}
	p.SetPlan(big)
	limits, total := map[api.TenantID]int64{}, int64(0)
	for _, use := range p.Usage("") {
		limits[use.Key.Tenant] += use.CacheLimit
		total += use.CacheLimit
	}
	half := int64(1<<20-64<<10) / 2
	if total > 1<<20 || limits["small"] != 64<<10 || limits["default"] != half || limits["many"] > half || limits["many"] < half-4 {
		t.Errorf("%v, %d together", limits, total)
	}
	p.Limits.Cache = 1 << 10 // far too little for anything: everything still answers
	p.SetPlan(big)
	who := &api.Principal{Tenant: "many", Scopes: anyone.Scopes}
	if got, recall := told(t, p, question(1, func(c *serve.Call) { c.Principal, c.Endpoint = who, "e0" })); got != "a 1" || recall != serve.RecallMissed {
		t.Errorf("%q by recall %d", got, recall)
	}
}

// BenchmarkHit is the whole walk of a request that is answered from the cache, of an image's size and of a small one.
func BenchmarkHit(b *testing.B) {
	for _, size := range []int{64, 4 << 10, 600 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			p, f, _ := newPath()
			p.Recorder = nobody{}
			echoes(f.add("w"))
			p.SetPlan(plan(false, keeping("a", 1, 1<<20, 0, "w")))
			c := call()
			c.Inputs = []tensor.Tensor{{Name: "x", Type: tensor.Int64, Shape: []int64{1, int64(size / 8)}, Data: make([]byte, size)}}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				a, err := p.Infer(b.Context(), c)
				if err != nil {
					b.Fatal(err)
				}
				a.Release()
			}
		})
	}
}

// nobody records nothing.
type nobody struct{}

func (nobody) Record(api.Exchange) {}

// TestPlansMoveUnderIt changes plans as fast as it can while many ask the same few questions: an answer that says it is a
// version's must be that version's, however it came about, and in the end nothing is held.
func TestPlansMoveUnderIt(t *testing.T) {
	p, f, _ := newPath()
	p.Recorder = nobody{}
	echoes(f.add("w"))
	next := func(i int) *api.Plan {
		v := keeping("main", int64(1+i%3), []int64{64 << 10, 1 << 20}[i%2], 0, "w")
		v.Set = api.Loaded(replica("w", fmt.Sprint("v", v.Version)))
		if i%7 == 6 {
			v.Serving.Cache = nil
		}
		return plan(false, v)
	}
	p.SetPlan(next(0))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for n := int64(0); ctx.Err() == nil; n++ {
				a, err := p.Infer(t.Context(), question(n%5))
				if err != nil {
					t.Error(err)
					return
				}
				if got, want := string(a.Outputs[0].Data), fmt.Sprintf("v%d %d", a.Version, n%5); got != want {
					t.Errorf("got %q, want %q by recall %d", got, want, a.Recall)
				}
				a.Release()
			}
		})
	}
	for i := range 3000 {
		p.SetPlan(next(i))
	}
	cancel()
	all.Wait()
	p.SetPlan(&api.Plan{})
	if used := p.CacheBytes(); used != 0 {
		t.Errorf("%d bytes held for nobody", used)
	}
}
