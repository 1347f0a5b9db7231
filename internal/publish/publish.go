// Package publish compiles what the controllers decided into an immutable plan and hands it to the data plane. It
// decides nothing itself: traffic comes from the rollout, replicas from the fleet. Callers: rollout, by way of server,
// whenever traffic changed.
package publish

import (
	"sync"
	"time"

	"github.com/penstock/penstock/api"
)

// Routes gives the traffic of every endpoint; the slice and its variants belong to the caller.
type Routes interface {
	Routes() []api.PlanEndpoint
}

// Sets gives the set of replicas that answers for a variant. The fleet keeps it up to date by itself: a plan is compiled
// when traffic changes, not when a model is loaded.
type Sets interface {
	Set(v *api.Variant) *api.ReplicaSet
}

// Sink takes a compiled plan; it must be quick, and must not change the plan.
type Sink func(*api.Plan)

// Publisher compiles plans. Publish may be called from many goroutines.
type Publisher struct {
	now    func() time.Time
	routes Routes
	fleet  Sets
	sinks  []Sink

	// Weights gives the tenants' weights that are not 1; set it before the first Publish, or leave it nil.
	Weights func() map[api.TenantID]int

	mu         sync.Mutex // held while compiling and handing over, so that the newest plan arrives last
	generation uint64
}

// New makes a publisher.
func New(now func() time.Time, routes Routes, fleet Sets, sinks ...Sink) *Publisher {
	return &Publisher{now: now, routes: routes, fleet: fleet, sinks: sinks}
}

// Publish compiles the plan from the present state and hands it to every sink. When it returns the plan is in effect.
func (p *Publisher) Publish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	routes := p.routes.Routes()
	p.generation++
	plan := &api.Plan{Generation: p.generation, Compiled: api.TimeOf(p.now()), Endpoints: make(map[api.EndpointKey]*api.PlanEndpoint, len(routes))}
	if p.Weights != nil {
		plan.Weights = p.Weights()
	}
	for i := range routes {
		r := &routes[i]
		for j := range r.Variants {
			v := &r.Variants[j]
			v.Set = p.fleet.Set(v.Variant)
		}
		plan.Endpoints[r.Key] = r
	}
	for _, sink := range p.sinks {
		sink(plan)
	}
}
