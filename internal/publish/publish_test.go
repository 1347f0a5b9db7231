package publish_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/publish"
)

// house is a rollout and a fleet whose state the test changes.
type house struct {
	version atomic.Int64
	fleet   sync.Map // digest -> *api.ReplicaSet
}

func (h *house) Routes() []api.PlanEndpoint {
	v := api.Variant{Name: "main", Version: api.VersionNumber(h.version.Load()), Digest: "sha256:d", Weight: 1}
	key := api.EndpointKey{Tenant: "default", Endpoint: "e"}
	return []api.PlanEndpoint{{Key: key, Variants: []api.PlanVariant{{Variant: &v}}}}
}

func (h *house) Set(v *api.Variant) *api.ReplicaSet {
	s, _ := h.fleet.LoadOrStore(v.Digest, api.NewReplicaSet(nil))
	return s.(*api.ReplicaSet)
}

func TestPlanHoldsRoutesAndReplicas(t *testing.T) {
	h := &house{}
	set := api.Loaded(api.Replica{Worker: "w1", Instance: "d"})
	h.fleet.Store(api.Digest("sha256:d"), set)
	var got *api.Plan
	p := publish.New(time.Now, h, h, func(plan *api.Plan) { got = plan })
	p.Publish()
	ep := got.Endpoints[api.EndpointKey{Tenant: "default", Endpoint: "e"}]
	if ep == nil || len(ep.Variants) != 1 || ep.Variants[0].Set != set || got.Generation != 1 {
		t.Errorf("%+v", got)
	}
	first := got
	h.version.Add(1)
	h.fleet.Store(api.Digest("sha256:d"), api.NewReplicaSet(nil))
	p.Publish()
	if was := first.Endpoints[ep.Key].Variants[0]; was.Set != set || was.Version == got.Endpoints[ep.Key].Variants[0].Version {
		t.Error("a plan that was handed over has changed")
	}
}

// TestTheNewestStateArrivesLast publishes from many goroutines while the state moves on: the last plan that a sink gets
// must hold the last state, and generations must rise.
func TestTheNewestStateArrivesLast(t *testing.T) {
	h := &house{}
	var last atomic.Pointer[api.Plan]
	p := publish.New(time.Now, h, h, func(plan *api.Plan) {
		if old := last.Swap(plan); old != nil && old.Generation >= plan.Generation {
			t.Errorf("generation %d after %d", plan.Generation, old.Generation)
		}
	})
	const goroutines, rounds = 8, 500
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for range rounds {
				h.version.Add(1)
				p.Publish()
			}
		})
	}
	all.Wait()
	v := last.Load().Endpoints[api.EndpointKey{Tenant: "default", Endpoint: "e"}].Variants[0]
	if v.Version != goroutines*rounds {
		t.Errorf("the last plan holds state %d of %d", v.Version, goroutines*rounds)
	}
}
