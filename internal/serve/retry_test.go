package serve

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
)

// TestRetryBudget walks at random and compares with plain account, which earns and spends one by one. It stands inside the
// package since the budget has no door of its own.
func TestRetryBudget(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	granted, denied := 0, 0
	for range 100 {
		l := Limits{Queue: 1 + random.IntN(300), Retry: RetryLimits{Percent: random.IntN(60), Floor: random.IntN(6)}}
		l.Retry.Burst = random.IntN(2) * (1 + random.IntN(20))
		percent, floor, burst := l.Retry.Percent, l.Retry.Floor, l.Retry.Burst
		if percent == 0 {
			percent = 20
		}
		if floor == 0 {
			floor = 3
		}
		if burst == 0 {
			burst = l.Queue
		}
		var r retries
		now := time.Unix(random.Int64N(1e9), 0)
		const parts = 100_000 // of one
		has, latest := burst*parts, time.Time{}
		for range 2000 {
			switch random.IntN(4) {
			case 0:
				now = now.Add(time.Duration(random.IntN(300)) * time.Millisecond)
				if random.IntN(20) == 0 {
					now = now.Add(-time.Second) // a clock that is put back earns nothing, and nothing twice
				}
			case 1:
				for range random.IntN(10) {
					r.requests.Add(1)
					has = min(burst*parts, has+percent*parts/100)
				}
			default:
				if now.After(latest) && latest.IsZero() {
					latest = now // full so far
				}
				if now.After(latest) {
					has = min(burst*parts, has+int(now.Sub(latest)/time.Millisecond)*floor*parts/1000)
					latest = now
				}
				ok, wait := r.take(l, now)
				if ok != (has >= parts) {
					t.Fatalf("limits %+v: granted %v with %d of %d parts", l, ok, has, parts)
				}
				if !ok {
					denied++
					short := time.Duration(parts-has) * time.Second / time.Duration(parts*floor)
					if wait < short || wait > short+time.Microsecond {
						t.Fatalf("limits %+v: come again in %v, want %v", l, wait, short)
					}
					continue
				}
				granted++
				has -= parts
			}
		}
	}
	if granted < 1000 || denied < 1000 {
		t.Errorf("%d granted and %d denied show nothing", granted, denied)
	}
}

type unused = engine.Engine

// lostWorker is an engine whose worker dies under every request, and one that stands for its successor at once.
type lostWorker struct {
	unused
	sent atomic.Int64
}

func (w *lostWorker) Engine(string) (engine.Engine, bool) { return w, true }
func (w *lostWorker) Done() <-chan struct{}               { return nil }
func (w *lostWorker) Infer(context.Context, engine.Request) (*engine.Answer, error) {
	w.sent.Add(1)
	return nil, api.Fail(api.CodeWorkerLost, "", "it stopped").Because(api.Fail(api.CodeShuttingDown, "", "stopping"))
}

type lastExchange struct{ api.Exchange }

func (l *lastExchange) Record(x api.Exchange) { l.Exchange = x }

// TestRetriesAreBounded sends many requests to workers that are lost under all of them: what is sent again is the burst, a part
// of the requests and the floor. What is not gets an error that says why and when, and whoever is another endpoint is not
// concerned.
func TestRetriesAreBounded(t *testing.T) {
	w, last, now := &lostWorker{}, &lastExchange{}, time.Unix(1000, 0)
	p := &Path{Engines: w, Recorder: last, Now: func() time.Time { return now }}
	p.Limits = Limits{Queue: 40, Retry: RetryLimits{Percent: 10, Floor: 2}}
	set := func() *api.ReplicaSet {
		return api.Loaded(api.Replica{Worker: "w1", Instance: "i", Load: &api.WorkerLoad{}},
			api.Replica{Worker: "w2", Instance: "i", Load: &api.WorkerLoad{}})
	}
	plan := &api.Plan{Endpoints: map[api.EndpointKey]*api.PlanEndpoint{}}
	for _, name := range []api.EndpointName{"e", "f"} {
		key := api.EndpointKey{Tenant: "default", Endpoint: name}
		only := api.PlanVariant{Variant: &api.Variant{Name: "main", Model: "m", Version: 1, Weight: 1}, Set: set()}
		plan.Endpoints[key] = &api.PlanEndpoint{Key: key, Revision: 1, Variants: []api.PlanVariant{only}}
	}
	p.SetPlan(plan)
	ask := func(name api.EndpointName) *api.Error {
		c := &Call{Principal: &api.Principal{Tenant: "default", Scopes: []api.Scope{api.ScopeInfer}}, Endpoint: name, RequestID: "r", Start: now}
		_, err := p.Infer(t.Context(), c)
		if !api.Is(err, api.CodeWorkerLost) {
			t.Fatal(err)
		}
		return api.AsError(err)
	}
	const asked = 200
	for range asked {
		_ = ask("e") // it is lost every time; ask looks
	}
	// A full budget does not grow: the requests before the first that was sent again earn nothing.
	if again := w.sent.Load() - asked; again < 40+asked/10-2 || again > 40+asked/10 {
		t.Errorf("%d of %d were sent again", again, asked)
	}
	err := ask("e")
	if !last.Unretried {
		err = ask("e") // that one was the tenth
	}
	if err.RetryAfter < 100*time.Millisecond || err.RetryAfter > 500*time.Millisecond || !last.Unretried || last.Retries != 0 || err.Cure == "" {
		t.Errorf("%+v; exchange %+v", err, last.Exchange)
	}
	p.SetPlan(plan) // the budget is the endpoint's, whatever the plan
	before := w.sent.Load()
	if _ = ask("e"); w.sent.Load() != before+1 {
		t.Error("a new plan filled the budget")
	}
	if _ = ask("f"); w.sent.Load() != before+3 || last.Unretried {
		t.Error("another endpoint's budget is spent")
	}
	now = now.Add(3 * time.Second)
	before = w.sent.Load()
	for range 20 {
		_ = ask("e") // it is lost every time; ask looks
	}
	if again := w.sent.Load() - before - 20; again < 7 || again > 9 {
		t.Errorf("%d were sent again after three seconds, want 6 and a tenth of 20", again)
	}
}
