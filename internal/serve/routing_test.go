package serve

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
)

// BenchmarkRouting is what a request pays for its way from the caller's scope to a replica: admit, route, enter the
// queue, balance. With one endpoint in use the others only lie there; with all in use, in random order, each is as cold
// as the caches make it. It stands inside the package because that part has no door of its own; `make bench` prints it
// and holds it to its floor.
func BenchmarkRouting(b *testing.B) {
	for _, endpoints := range []int{10, 100, 1_000, 10_000} {
		for _, used := range []string{"one", "all"} {
			b.Run(fmt.Sprintf("used=%s/endpoints=%d", used, endpoints), func(b *testing.B) {
				p := &Path{Now: time.Now}
				p.SetPlan(planOf(endpoints))
				calls := callsFor(endpoints)
				if used == "one" {
					calls = calls[:1]
				}
				ctx, n := b.Context(), 0
				var x api.Exchange
				b.ReportAllocs()
				for b.Loop() {
					c := calls[n]
					if n++; n == len(calls) {
						n = 0
					}
					if err := admit(c); err != nil {
						b.Fatal(err)
					}
					to, err := p.route(c)
					if err != nil {
						b.Fatal(err)
					}
					if err := to.variant.gate.enter(p.Limits.queue()); err != nil {
						b.Fatal(err)
					}
					_, place, err := p.turn(ctx, c, &to, &x)
					if err != nil {
						b.Fatal(err)
					}
					p.fair.Leave(place, time.Millisecond)
					to.variant.gate.leave()
				}
			})
		}
	}
}

func endpointName(i int) api.EndpointName { return api.EndpointName(fmt.Sprintf("endpoint-%05d", i)) }

// planOf has that many endpoints, each sticky and with two weighted arms on two workers: the longest way there is.
func planOf(endpoints int) *api.Plan {
	plan := &api.Plan{Endpoints: map[api.EndpointKey]*api.PlanEndpoint{}}
	for i := range endpoints {
		key := api.EndpointKey{Tenant: "default", Endpoint: endpointName(i)}
		arm := func(name string) api.PlanVariant {
			instance := fmt.Sprintf("sha256-%064d-%s", i, name)
			return api.PlanVariant{Variant: &api.Variant{Name: api.VariantName(name), Model: "m", Version: 1, Weight: 50},
				Set: api.Loaded(api.Replica{Worker: "w1", Instance: instance}, api.Replica{Worker: "w2", Instance: instance})}
		}
		plan.Endpoints[key] = &api.PlanEndpoint{Key: key, Revision: 1, Salt: "s", Sticky: true, Variants: []api.PlanVariant{arm("a"), arm("b")}}
	}
	return plan
}

// callsFor is a round over all endpoints in a random order that is always the same; at least 10,000 calls long.
func callsFor(endpoints int) []*Call {
	principal := &api.Principal{Tenant: "default", Scopes: []api.Scope{api.ScopeInfer}}
	random := rand.New(rand.NewPCG(1, 2))
	var calls []*Call
	for len(calls) < 10_000 {
		for _, i := range random.Perm(endpoints) {
			calls = append(calls, &Call{Principal: principal, Endpoint: endpointName(i), RequestID: "r", Unit: fmt.Sprint("unit-", len(calls))})
		}
	}
	return calls
}
