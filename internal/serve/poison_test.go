package serve_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
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

// body makes a call whose one input holds text.
func body(text string) func(*serve.Call) {
	return func(c *serve.Call) {
		c.Inputs = []tensor.Tensor{{Name: "x", Type: tensor.Uint8, Shape: []int64{int64(len(text))}, Data: []byte(text)}}
	}
}

// mortal is a worker that dies with all that is inside when it is sent poison, and is back a moment later.
type mortal struct {
	fakes *fakes
	name  string
	took  time.Duration // of a run that ends
	risen func()        // told of every new life; nil for nobody

	mu     sync.Mutex
	dead   chan struct{} // closed when the present life ends
	sent   map[string]int
	killed map[string]int // how often a content was the reason
	deaths int
}

func newMortal(f *fakes, name string) *mortal {
	m := &mortal{fakes: f, name: name, took: 10 * time.Millisecond, sent: map[string]int{}, killed: map[string]int{}}
	m.rise()
	return m
}

func (m *mortal) rise() {
	dead := make(chan struct{})
	m.mu.Lock()
	m.dead = dead
	m.mu.Unlock()
	m.fakes.put(&fake{name: m.name, done: make(chan struct{}), answer: func(ctx context.Context, req engine.Request) (*engine.Answer, error) {
		text := string(req.Inputs[0].Data)
		m.mu.Lock()
		m.sent[text]++
		m.mu.Unlock()
		tr, _ := ctx.Value(trackKey{}).(*track)
		if tr == nil {
			tr = &track{}
		}
		tr.sent.Add(1)
		end := time.NewTimer(m.took)
		defer end.Stop()
		select {
		case <-end.C:
			if strings.HasPrefix(text, "poison") {
				m.die(dead, text)
				break
			}
			return engine.NewAnswer(req.Inputs, nil), nil
		case <-dead:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		tr.lost.Add(1)
		return nil, api.Fail(api.CodeWorkerLost, "", "the worker died")
	}})
}

// die ends a life once, and begins the next.
func (m *mortal) die(life chan struct{}, text string) {
	m.mu.Lock()
	first := m.dead == life
	if first {
		m.dead = nil
		m.deaths++
		m.killed[text]++
	}
	m.mu.Unlock()
	if first {
		close(life)
		m.rise()
		if m.risen != nil {
			m.risen()
		}
	}
}

func TestPoisonIsSentTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, l := newPath()
		var told []api.Replica
		p.Blame = func(r api.Replica, _ string) { told = append(told, r) }
		w1, w2 := newMortal(f, "w1"), newMortal(f, "w2")
		p.SetPlan(plan(false, arm("a", 1, 1, "w1", "w2")))
		_, err := p.Infer(t.Context(), call(body("poison")))
		if e := api.AsError(err); e.Code != api.CodePoison || e.Kind() != api.Refused || !strings.Contains(e.Cure, "m@1") {
			t.Fatalf("%+v", e)
		}
		if w1.deaths != 1 || w2.deaths != 1 || l.last().Retries != 1 {
			t.Errorf("deaths %d and %d, retries %d", w1.deaths, w2.deaths, l.last().Retries)
		}
		if len(told) != 1 || told[0].Worker != "w2" || told[0].Instance != "a" {
			t.Errorf("blamed %v", told)
		}
		for range 3 {
			if _, err := p.Infer(t.Context(), call(body("poison"))); !api.Is(err, api.CodePoison) {
				t.Errorf("sent again: %v", err)
			}
		}
		a, err := p.Infer(t.Context(), call(body("harmless")))
		if err != nil {
			t.Errorf("another request: %v", err)
		}
		a.Release()
		if w1.sent["poison"]+w2.sent["poison"] != 2 {
			t.Errorf("poison was sent %d times", w1.sent["poison"]+w2.sent["poison"])
		}
		p.SetPlan(plan(false, arm("b", 2, 1, "w1", "w2"))) // another version may bear it
		if _, err = p.Infer(t.Context(), call(body("poison"))); w1.deaths != 2 || !api.Is(err, api.CodePoison) {
			t.Errorf("the next version was not asked: %v", err)
		}
		p.SetPlan(plan(false, arm("a", 1, 1, "w1", "w2")))
		<-time.After(11 * time.Minute)
		if _, err = p.Infer(t.Context(), call(body("poison"))); w1.deaths != 3 || !api.Is(err, api.CodePoison) {
			t.Errorf("it is still refused unheard: %v", err)
		}
	})
}

// track counts how often one request is sent, and how many workers died with it inside.
type track struct{ sent, lost atomic.Int64 }

type trackKey struct{}

// tracked sends a request whose way the workers note in the track.
func tracked(ctx context.Context, p *serve.Path, text string) (*track, error) {
	tr := &track{}
	a, err := p.Infer(context.WithValue(ctx, trackKey{}, tr), call(body(text)))
	a.Release()
	return tr, err
}

// ward is a few workers that are sent poison among what is harmless.
type ward struct {
	*testing.T
	random  *rand.Rand
	p       *serve.Path
	workers []*mortal

	mu    sync.Mutex // guards the fields below
	found map[string]bool
	asked int
	twice int // requests of innocents that were sent again
}

func newWard(t *testing.T, seed, walk uint64) *ward {
	w := &ward{T: t, random: rand.New(rand.NewPCG(seed, walk)), found: map[string]bool{}}
	p, f, _ := newPath()
	w.p = p
	var names []string
	for i := range 1 + w.random.IntN(4) {
		m := newMortal(f, fmt.Sprint("w", i))
		m.took = time.Duration(1+w.random.IntN(10)) * time.Millisecond
		w.workers, names = append(w.workers, m), append(names, m.name)
	}
	p.Limits.Fair.Runs = 1 + w.random.IntN(4)
	p.Limits.Queue = 1 << 20
	p.Limits.Fair.Waiting = 1 << 20
	a := arm("a", 1, 1, names...)
	for _, m := range w.workers {
		m.risen = reload(a)
	}
	p.SetPlan(plan(false, a))
	return w
}

// reload tells those who wait that a worker which died holds the variant again.
func reload(a api.PlanVariant) func() {
	return func() { a.Set.Set(api.ReplicaState{Replicas: a.Set.State().Replicas}) }
}

// caller asks for contents at random, few of which are many times the same.
func (w *ward) caller(poisons, innocents, calls int, random *rand.Rand) {
	for range calls {
		<-time.After(time.Duration(random.IntN(20)) * time.Millisecond)
		i := random.IntN(poisons + 4*innocents)
		text := fmt.Sprint("poison ", i)
		if i >= poisons {
			text = fmt.Sprint("harmless ", (i-poisons)%innocents)
		}
		tr, err := tracked(w.Context(), w.p, text)
		w.mu.Lock()
		w.asked++
		switch {
		case i < poisons:
			w.found[text] = true
			if !api.Is(err, api.CodePoison) {
				w.Errorf("%s: %v", text, err)
			}
		case err != nil:
			w.Errorf("%s: %v", text, err)
		case tr.sent.Load() > 1:
			w.twice++
		}
		if tr.sent.Load() > 2 || tr.lost.Load() > 2 || i >= poisons && tr.lost.Load() > 1 {
			w.Errorf("%s was sent %d times, and %d workers crashed with it inside", text, tr.sent.Load(), tr.lost.Load())
		}
		w.mu.Unlock()
	}
}

// check sees that no content killed more workers than its copies can, however many there were: those that every worker had
// when the first died, those that went out in that moment, and those that then ran alone, at most one in each worker.
func (w *ward) check() (worst int) {
	killed := map[string]int{}
	for _, m := range w.workers {
		for text, n := range m.killed {
			killed[text] += n
		}
	}
	for text := range w.found {
		if n := killed[text]; n < 1 || n > 3*len(w.workers) {
			w.Errorf("%s killed %d workers of %d before it was found", text, n, len(w.workers))
		}
		worst = max(worst, killed[text]-len(w.workers))
	}
	return worst
}

// TestBystandersOfPoison sends poison and harmless requests at random, each content many times, to workers that die of
// the one: whatever is poison is found within a few crashes, no harmless content is ever refused, and no request is sent a
// third time.
func TestBystandersOfPoison(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("PENSTOCK_POISON_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	t.Logf("seed %d (PENSTOCK_POISON_SEED)", seed)
	twice, found, worst := 0, 0, 0
	for walk := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			w := newWard(t, seed, walk)
			poisons, innocents, callers := 1+w.random.IntN(8), 1+w.random.IntN(6), 1+w.random.IntN(60)
			var all sync.WaitGroup
			for i := range callers {
				random := rand.New(rand.NewPCG(seed, walk<<16+uint64(i)))
				all.Go(func() { w.caller(poisons, innocents, 30, random) })
			}
			all.Wait()
			worst = max(worst, w.check())
			twice, found = twice+w.twice, found+len(w.found)
			if t.Failed() {
				t.Fatalf("walk %d: %d workers, %d runs, %d poisons, %d innocents, %d callers", walk, len(w.workers), w.p.Limits.Fair.Runs, poisons, innocents, callers)
			}
		})
	}
	if twice < 100 || found < 100 {
		t.Errorf("%d bystanders and %d poisons show nothing", twice, found)
	}
	t.Logf("%d contents found, at worst after %d crashes more than there are workers; %d bystanders answered", found, worst, twice)
}

// TestBystanderOfTwoCrashes has a request of a common content inside two workers that two others crash, one after the other.
func TestBystanderOfTwoCrashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newPath()
		w1, w2 := newMortal(f, "w1"), newMortal(f, "w2")
		p.Limits.Fair.Runs = 8
		p.SetPlan(plan(false, arm("a", 1, 1, "w1", "w2")))
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				<-time.After(time.Duration(i) * 3 * time.Millisecond)
				if tr, err := tracked(t.Context(), p, "common"); err != nil || tr.sent.Load() > 2 {
					t.Errorf("sent %d times: %v", tr.sent.Load(), err)
				}
			})
		}
		for i, text := range []string{"poison a", "poison b", "poison c"} {
			all.Go(func() {
				<-time.After(time.Duration(10+12*i) * time.Millisecond)
				if tr, err := tracked(t.Context(), p, text); !api.Is(err, api.CodePoison) || tr.sent.Load() != 2 {
					t.Errorf("%s was sent %d times: %v", text, tr.sent.Load(), err)
				}
			})
		}
		all.Wait()
		if n := w1.deaths + w2.deaths; n < 4 || n > 6 { // two that meet in one worker share its death
			t.Errorf("%d deaths", n)
		}
	})
}

// TestPoisonThatWaited has many of one content in the queue when the first of them is found out: no other is sent.
func TestPoisonThatWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newPath()
		w1 := newMortal(f, "w1")
		a := arm("a", 1, 1, "w1")
		w1.risen = reload(a)
		p.SetPlan(plan(false, a))
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if _, err := tracked(t.Context(), p, "poison"); !api.Is(err, api.CodePoison) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if w1.deaths != 2 {
			t.Errorf("%d deaths", w1.deaths)
		}
	})
}

// TestSuspicionOutlivesTheCaller: one whose caller leaves after the first crash is not forgotten, and its like runs alone.
func TestSuspicionOutlivesTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newPath()
		w1 := newMortal(f, "w1")
		a := arm("a", 1, 1, "w1")
		w1.risen = reload(a)
		p.SetPlan(plan(false, a))
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Millisecond)
		defer cancel()
		if _, err := tracked(ctx, p, "poison"); !api.Is(err, api.CodeDeadline) || w1.deaths != 1 {
			t.Fatalf("%d deaths: %v", w1.deaths, err)
		}
		<-time.After(time.Second) // the run that goes on kills the worker too
		deaths := w1.deaths
		if tr, err := tracked(t.Context(), p, "poison"); !api.Is(err, api.CodePoison) || tr.sent.Load() != 1 || w1.deaths != deaths+1 {
			t.Errorf("sent %d times, %d deaths: %v", tr.sent.Load(), w1.deaths, err)
		}
	})
}

// TestACrashBesideOthersIsNoProof: the worker still has a run in it whose caller gave up, which may be the reason as well, or it
// was ended because its answers could not be trusted.
func TestACrashBesideOthersIsNoProof(t *testing.T) {
	p, f, _ := newPath()
	busy := 1
	var workers []*fake
	for _, name := range []string{"w1", "w2"} {
		e := f.add(name)
		e.busy = func() int { return busy }
		workers = append(workers, e)
		e.answer = func(context.Context, engine.Request) (*engine.Answer, error) {
			return nil, api.Fail(api.CodeWorkerLost, "", "the worker died")
		}
	}
	p.SetPlan(plan(false, arm("a", 1, 1, "w1", "w2")))
	for range 3 {
		if _, err := p.Infer(t.Context(), call(body("x"))); !api.Is(err, api.CodeWorkerLost) {
			t.Error(err)
		}
	}
	busy = 0
	for _, e := range workers {
		e.fault = errors.New("its answers cannot be trusted")
	}
	if _, err := p.Infer(t.Context(), call(body("x"))); !api.Is(err, api.CodeWorkerLost) {
		t.Errorf("from a worker at fault: %v", err)
	}
	for _, e := range workers {
		e.fault = nil
	}
	if _, err := p.Infer(t.Context(), call(body("x"))); !api.Is(err, api.CodePoison) {
		t.Errorf("with nothing beside it: %v", err)
	}
}

// TestPoisonIsForgottenFirstInFirstOut sends more kinds of poison than are remembered.
func TestPoisonIsForgottenFirstInFirstOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newPath()
		w1, w2 := newMortal(f, "w1"), newMortal(f, "w2")
		p.Limits.Retry.Burst = 1 << 20
		w1.took, w2.took = time.Millisecond, time.Millisecond
		p.SetPlan(plan(false, arm("a", 1, 1, "w1", "w2")))
		const most = 1024
		send := func(i int) (asked bool) {
			before := w1.deaths + w2.deaths
			if _, err := p.Infer(t.Context(), call(body(fmt.Sprintf("poison %d", i)))); !api.Is(err, api.CodePoison) {
				t.Fatalf("poison %d: %v", i, err)
			}
			return w1.deaths+w2.deaths > before
		}
		for i := range most + 1 {
			if !send(i) {
				t.Fatalf("poison %d was refused unheard", i)
			}
		}
		if send(1) || send(most) {
			t.Error("forgotten too early")
		}
		if !send(0) {
			t.Error("the oldest is remembered beyond the limit")
		}
	})
}

func TestAStoppingWorkerIsNoCrash(t *testing.T) {
	p, f, l := newPath()
	var workers []string
	stopping := func(context.Context, engine.Request) (*engine.Answer, error) {
		return nil, api.Fail(api.CodeWorkerLost, "", "it stopped").Because(api.Fail(api.CodeShuttingDown, "", "stopping"))
	}
	for _, name := range []string{"w1", "w2"} {
		f.add(name).answer = stopping
		workers = append(workers, name)
	}
	p.SetPlan(plan(false, arm("a", 1, 1, workers...)))
	for range 2 {
		if _, err := p.Infer(t.Context(), call(body("x"))); !api.Is(err, api.CodeWorkerLost) || l.last().Retries != 1 {
			t.Errorf("retries %d: %v", l.last().Retries, err)
		}
	}
}

// TestAVersionThatCannotBeHeldSaysSoAtOnce: nobody waits for a replica that will not come.
func TestAVersionThatCannotBeHeldSaysSoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, _ := newPath()
		bad := arm("a", 1, 1)
		fails := api.ReplicaState{Err: api.Fail(api.CodeQuarantined, "m@1", "the file crashed the runtime 2 times")}
		bad.Set = api.NewReplicaSet(nil)
		bad.Set.Set(fails)
		p.SetPlan(plan(false, bad))
		begin := time.Now()
		_, err := p.Infer(t.Context(), call(body("x")))
		e := api.AsError(err)
		if e.Kind() != api.Unavailable || !strings.Contains(e.Message, "crashed the runtime 2 times") || !strings.Contains(e.Cure, "rollback e") || time.Since(begin) > 0 {
			t.Errorf("%+v after %v", e, time.Since(begin))
		}
		waiting := make(chan error)
		bad.Set.Set(api.ReplicaState{})
		go func() {
			_, err := p.Infer(t.Context(), call(body("x")))
			waiting <- err
		}()
		synctest.Wait()
		bad.Set.Set(fails)
		if err := <-waiting; !api.Is(err, api.CodeUnavailable) || time.Since(begin) > 0 {
			t.Errorf("one that waited already: %v", err)
		}
	})
}

func TestPoisonNamesNoOtherTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newPath()
		w1, w2 := newMortal(f, "w1"), newMortal(f, "w2")
		mine := plan(false, arm("a", 1, 1, "w1", "w2"))
		theirs := api.EndpointKey{Tenant: "other", Endpoint: "e"}
		mine.Endpoints[theirs] = &api.PlanEndpoint{Key: theirs, Salt: "s", Variants: []api.PlanVariant{arm("a", 1, 1, "w1", "w2")}}
		p.SetPlan(mine)
		tenants := []*api.Principal{anyone, {Tenant: "other", Key: "o", Scopes: slices.Clone(anyone.Scopes)}}
		for i, who := range tenants {
			_, err := p.Infer(t.Context(), call(body("poison"), func(c *serve.Call) { c.Principal = who }))
			if !api.Is(err, api.CodePoison) || w1.deaths != i+1 || w2.deaths != i+1 {
				t.Errorf("%s: %v; deaths %d and %d", who.Tenant, err, w1.deaths, w2.deaths)
			}
		}
	})
}
