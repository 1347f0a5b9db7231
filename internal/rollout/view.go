package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// Routes gives the traffic of every endpoint for the plan; publish adds the replicas.
func (c *Controller) Routes() []api.PlanEndpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	routes := make([]api.PlanEndpoint, 0, len(c.endpoints))
	for key, e := range c.endpoints {
		if e.Generation == 0 {
			continue // its first record is still being written
		}
		r := api.PlanEndpoint{Key: key, Salt: string(key.Tenant) + "/" + string(key.Endpoint)}
		r.Unloaded = e.Traffic.Unloaded
		if rev := e.revisions.get(e.Traffic.Current); rev != nil && !r.Unloaded {
			r.Revision, r.Sticky = rev.Number, rev.Sticky || len(rev.Variants) > 1
			r.Variants = make([]api.PlanVariant, len(rev.Variants))
			for i := range rev.Variants {
				r.Variants[i].Variant = &rev.Variants[i]
			}
		}
		routes = append(routes, r)
	}
	return routes
}

// Endpoint shows one endpoint with what serves and what is loaded. It works without the database.
func (c *Controller) Endpoint(_ context.Context, t api.TenantID, name api.EndpointName) (api.Endpoint, error) {
	c.mu.Lock()
	e := c.endpoints[api.EndpointKey{Tenant: t, Endpoint: name}]
	if e == nil || e.Generation == 0 {
		c.mu.Unlock()
		return api.Endpoint{}, endpointNotFound(name)
	}
	ep, rev := e.Endpoint, e.revisions.get(e.Traffic.Current)
	c.mu.Unlock()
	if ep.Traffic.Unloaded {
		ep.Status = api.Status{Problems: []string{unloaded}}
		return ep, nil
	}
	ep.Status = c.status(rev)
	return ep, nil
}

func (c *Controller) status(rev *api.Revision) api.Status {
	var s api.Status
	if rev == nil {
		s.Problems = []string{"nothing was released yet"}
		return s
	}
	s.Ready = true
	for i := range rev.Variants {
		v := &rev.Variants[i]
		state := c.Fleet.State(Instance(v))
		s.Replicas += len(state.Replicas)
		s.Wanted += state.Wanted
		s.Variants = append(s.Variants, api.VariantStatus{Name: v.Name, Model: v.Subject(),
			Weight: v.Weight, Replicas: len(state.Replicas), Wanted: state.Wanted, Asleep: state.Asleep, Batch: state.Batch})
		if len(state.Replicas) == 0 && !state.Asleep && v.Weight > 0 {
			s.Ready = false
		}
		switch {
		case state.Err != nil:
			s.Problems = append(s.Problems, fmt.Sprintf("variant %s: %s", v.Name, state.Err))
		case len(state.Replicas) < state.Wanted:
			s.Problems = append(s.Problems, fmt.Sprintf("variant %s: %d of %d replicas loaded", v.Name, len(state.Replicas), state.Wanted))
		}
	}
	return s
}

// Endpoints lists a tenant's endpoints by name, after the one named.
func (c *Controller) Endpoints(ctx context.Context, t api.TenantID, after api.EndpointName, limit int) ([]api.Endpoint, error) {
	c.mu.Lock()
	var names []api.EndpointName
	for key, e := range c.endpoints {
		if key.Tenant == t && key.Endpoint > after && e.Generation > 0 {
			names = append(names, key.Endpoint)
		}
	}
	c.mu.Unlock()
	slices.SortFunc(names, func(a, b api.EndpointName) int { return strings.Compare(string(a), string(b)) })
	names = names[:min(len(names), limit)]
	list := make([]api.Endpoint, 0, len(names))
	for _, n := range names {
		ep, err := c.Endpoint(ctx, t, n)
		if api.KindOf(err) == api.NotFound && err != nil {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, ep)
	}
	return list, nil
}

// Revisions lists revisions, newest first, before the one numbered; 0 begins at the newest.
func (c *Controller) Revisions(ctx context.Context, t api.TenantID, e api.EndpointName, before api.RevisionNumber, limit int) ([]api.Revision, error) {
	if _, err := c.Endpoint(ctx, t, e); err != nil {
		return nil, err
	}
	return c.Store.Revisions(ctx, t, e, before, limit)
}

// Releases lists releases, newest first, before the one numbered; 0 begins at the newest. Rollbacks that the database
// does not hold yet come first; with the database away they are all that is shown.
func (c *Controller) Releases(ctx context.Context, t api.TenantID, name api.EndpointName, before int64, limit int) ([]api.Release, error) {
	c.mu.Lock()
	e := c.endpoints[api.EndpointKey{Tenant: t, Endpoint: name}]
	if e == nil || e.Generation == 0 {
		c.mu.Unlock()
		return nil, endpointNotFound(name)
	}
	unsaved := slices.Clone(e.unsaved)
	c.mu.Unlock()
	stored, err := c.Store.Releases(ctx, t, name, before, limit)
	if err != nil && len(unsaved) == 0 {
		return nil, err
	}
	if before != 0 {
		return stored, err
	}
	for _, rel := range unsaved {
		if i := slices.IndexFunc(stored, func(r api.Release) bool { return r.Number == rel.Number }); i >= 0 {
			stored[i] = rel
			continue
		}
		stored = slices.Insert(stored, 0, rel)
	}
	return stored[:min(len(stored), limit)], nil
}

// Await gives a release when it has ended, or as it stands when ctx ends first.
func (c *Controller) Await(ctx context.Context, t api.TenantID, name api.EndpointName, number int64) (api.Release, error) {
	for {
		c.mu.Lock()
		e := c.endpoints[api.EndpointKey{Tenant: t, Endpoint: name}]
		changed := c.changed
		if e == nil {
			c.mu.Unlock()
			return api.Release{}, endpointNotFound(name)
		}
		var present api.Release
		switch {
		case e.active != nil && e.active.Number == number:
			present = *e.active
		case e.ended != nil && e.ended.Number == number:
			present = *e.ended
			if e.effective < number {
				present.State = api.ReleaseLoading // ended on paper, but the data plane has not seen it yet
			}
		}
		for _, rel := range e.unsaved {
			if rel.Number == number && present.Number == 0 {
				present = rel
			}
		}
		c.mu.Unlock()
		if present.Number == 0 {
			return c.stored(ctx, t, name, number)
		}
		if present.State.Final() {
			return present, nil
		}
		select {
		case <-ctx.Done():
			return present, nil
		case <-changed:
		}
	}
}

func (c *Controller) stored(ctx context.Context, t api.TenantID, name api.EndpointName, number int64) (api.Release, error) {
	list, err := c.Store.Releases(context.WithoutCancel(ctx), t, name, number+1, 1)
	if err != nil {
		return api.Release{}, err
	}
	if len(list) == 0 || list[0].Number != number {
		return api.Release{}, api.Fail(api.CodeNotFound, string(name), "no release %d", number)
	}
	return list[0], nil
}

// Delete takes an endpoint away with its history. Requests under way finish.
func (c *Controller) Delete(ctx context.Context, p *api.Principal, name api.EndpointName) error {
	key := api.EndpointKey{Tenant: p.Tenant, Endpoint: name}
	c.mu.Lock()
	e := c.endpoints[key]
	if e == nil || e.Generation == 0 {
		c.mu.Unlock()
		return endpointNotFound(name)
	}
	if e.active != nil {
		open := e.active.Number
		c.mu.Unlock()
		return api.Fail(api.CodeBusy, string(name), "release %d is under way", open)
	}
	c.mu.Unlock()
	if err := c.Store.DeleteEndpoint(ctx, key.Tenant, name, api.TimeOf(c.Now()), p.Name); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.endpoints, key)
	delete(c.ordered, key.Tenant)
	c.endLoad(e, endpointNotFound(name))
	c.notify()
	c.mu.Unlock()
	c.removeJournal(key.Tenant, name)
	c.publish()
	c.want(key)
	return nil
}
