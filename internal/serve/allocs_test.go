package serve

import (
	"testing"
	"time"

	"github.com/penstock/penstock/api"
)

// TestRoutingAllocatesNothing holds the walk's own part, from the caller's scope to the replica, at no allocation at all. It
// stands inside the package because that part has no door of its own.
func TestRoutingAllocatesNothing(t *testing.T) {
	key := api.EndpointKey{Tenant: "default", Endpoint: "e"}
	arm := func(name string) api.PlanVariant {
		return api.PlanVariant{Variant: &api.Variant{Name: api.VariantName(name), Model: "m", Version: 1, Weight: 50},
			Set: api.Loaded(api.Replica{Worker: "w1", Instance: "i"}, api.Replica{Worker: "w2", Instance: "i"})}
	}
	for _, arms := range [][]api.PlanVariant{{arm("a")}, {arm("a"), arm("b")}} {
		p := &Path{Now: time.Now}
		p.SetPlan(&api.Plan{Endpoints: map[api.EndpointKey]*api.PlanEndpoint{key: {Key: key, Revision: 1, Salt: "s", Sticky: true, Variants: arms}}})
		c := &Call{Principal: &api.Principal{Tenant: "default", Scopes: []api.Scope{api.ScopeInfer}}, Endpoint: "e", RequestID: "r", Unit: "u"}
		var x api.Exchange
		ctx := t.Context()
		allocated := testing.AllocsPerRun(1000, func() {
			if err := admit(c); err != nil {
				t.Fatal(err)
			}
			to, err := p.route(c)
			if err != nil {
				t.Fatal(err)
			}
			if err := to.variant.gate.enter(p.Limits.queue()); err != nil {
				t.Fatal(err)
			}
			_, place, err := p.turn(ctx, c, &to, &x)
			if err != nil {
				t.Fatal(err)
			}
			p.fair.Leave(place, time.Millisecond)
			to.variant.gate.leave()
		})
		if allocated != 0 {
			t.Errorf("%d arms: %v allocations", len(arms), allocated)
		}
	}
}
