package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// unloaded is the state of an endpoint whose replicas were let go.
const unloaded = "unloaded"

// load is the wait until an endpoint serves, which makes it serve again when it was unloaded. It lives in memory alone: a restart in the middle leaves the
// endpoint unloaded, and nobody was told anything else.
type load struct {
	by      string
	started api.Time
	done    chan struct{} // closed when it is over; err is set before
	err     error
}

// Unload lets the replicas of an endpoint go: it stays, with its revisions and its history, but answers nothing until it is
// loaded, deployed or rolled back. It is durable when this returns. An endpoint that is not loaded is no error. Requests
// under way finish.
func (c *Controller) Unload(ctx context.Context, p *api.Principal, name api.EndpointName) error {
	key := api.EndpointKey{Tenant: p.Tenant, Endpoint: name}
	e, err := c.settle(ctx, key)
	if err != nil {
		return err
	}
	done, err := e.write(ctx)
	if err != nil {
		return err
	}
	defer done()
	c.mu.Lock()
	if err := c.free(e); err != nil {
		c.mu.Unlock()
		return err
	}
	c.endLoad(e, api.Fail(api.CodeLoadFailed, string(name), "unloaded meanwhile by %s", p.Name))
	e.refused = ""
	before := e.Traffic
	c.mu.Unlock()
	if before.Current != 0 && !before.Unloaded {
		if err := c.mark(ctx, key, e, before, true, p.Name); err != nil {
			return err
		}
		c.publish()
		c.Log.Info("endpoint unloaded", "tenant", p.Tenant, "endpoint", name, "by", p.Name)
	}
	c.want()
	return nil
}

// Load makes an unloaded endpoint serve its current revision again, and returns when it does and the record is durable, or
// with the reason why it cannot. When ctx ends first the loading goes on. An endpoint that serves is no error.
func (c *Controller) Load(ctx context.Context, p *api.Principal, name api.EndpointName) error {
	key := api.EndpointKey{Tenant: p.Tenant, Endpoint: name}
	e, err := c.settle(ctx, key)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if err := c.free(e); err != nil {
		c.mu.Unlock()
		return err
	}
	if e.Traffic.Current == 0 {
		c.mu.Unlock()
		return api.Fail(api.CodeNotReady, string(name), "nothing was released on this endpoint yet")
	}
	rev, off := e.revisions[e.Traffic.Current], e.Traffic.Unloaded
	c.mu.Unlock()
	if !off && c.answering(rev) {
		return nil
	}
	c.mu.Lock()
	open := e.load
	if open == nil {
		open = &load{by: p.Name, started: api.TimeOf(c.Now()), done: make(chan struct{})}
		e.load, e.refused = open, ""
	}
	c.mu.Unlock()
	c.want()
	c.loop.Hint(key)
	select {
	case <-open.done:
		return open.err
	case <-ctx.Done():
		return api.Fail(api.CodeLoading, string(name), "still loading").Because(ctx.Err())
	}
}

// settle finds an endpoint and saves what the database does not hold of it yet.
func (c *Controller) settle(ctx context.Context, key api.EndpointKey) (*endpoint, error) {
	c.mu.Lock()
	e := c.endpoints[key]
	if e == nil || e.Generation == 0 {
		c.mu.Unlock()
		return nil, endpointNotFound(key.Endpoint)
	}
	c.mu.Unlock()
	return e, c.save(ctx, e)
}

// free needs mu. It refuses while a release is under way, which decides by itself what will be loaded.
func (c *Controller) free(e *endpoint) error {
	if e.active != nil {
		return api.Fail(api.CodeBusy, string(e.Name), "release %d to revision %d is under way", e.active.Number, e.active.To)
	}
	return nil
}

// mark writes whether the endpoint is unloaded, then puts it into effect. It needs the right to write. A rollback that
// came while the database wrote is in effect already and saves its own traffic; it wins.
func (c *Controller) mark(ctx context.Context, key api.EndpointKey, e *endpoint, before api.Traffic, off bool, by string) error {
	after := before
	after.Unloaded = off
	ev := api.Event{Tenant: key.Tenant, At: api.TimeOf(c.Now()), Kind: "endpoint.loaded", Subject: string(key.Endpoint),
		Text: fmt.Sprintf("Endpoint %s was loaded.", key.Endpoint), By: by}
	if off {
		ev.Kind, ev.Text = "endpoint.unloaded", fmt.Sprintf("Endpoint %s was unloaded.", key.Endpoint)
	}
	if err := c.Store.SaveTraffic(ctx, ev, key.Endpoint, after); err != nil {
		return fmt.Errorf("record that %s is loaded or not: %w", key.Endpoint, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Traffic.Current != before.Current || e.Traffic.Changed != before.Changed || e.Traffic.Unloaded != before.Unloaded {
		return api.Fail(api.CodeBusy, string(key.Endpoint), "a rollback came first")
	}
	e.Traffic.Unloaded = off
	return nil
}

// carry takes a load a step further: when every replica is there the record is written and the plan swapped.
func (c *Controller) carry(ctx context.Context, key api.EndpointKey, e *endpoint, open *load) error {
	done, err := e.write(ctx)
	if err != nil {
		return err
	}
	defer done()
	c.mu.Lock()
	if e.load != open {
		c.mu.Unlock()
		return nil
	}
	before, rev := e.Traffic, e.revisions[e.Traffic.Current]
	c.mu.Unlock()
	ready, failed := c.loaded(rev)
	late := c.Now().Sub(open.started.Std()) > c.ReleaseTimeout
	switch {
	case !before.Unloaded && c.answering(rev): // it only had to start, or a release or a rollback came first
	case failed != nil:
		err = failed
	case ready && before.Unloaded:
		err = c.mark(ctx, key, e, before, false, open.by)
	case late:
		err = api.Fail(api.CodeLoadFailed, string(key.Endpoint), "not loaded within the limit of %v", c.ReleaseTimeout)
	default:
		return nil
	}
	if err == nil {
		c.publish()
	}
	c.mu.Lock()
	if err != nil {
		e.refused = api.AsError(err).Error()
	}
	c.endLoad(e, err)
	c.mu.Unlock()
	c.want()
	c.Log.Info("load ended", "tenant", key.Tenant, "endpoint", key.Endpoint, "by", open.by, "error", err)
	return nil
}

// endLoad needs mu: it ends the load under way, if there is one.
func (c *Controller) endLoad(e *endpoint, err error) {
	if e.load != nil {
		e.load.err = err
		close(e.load.done)
		e.load = nil
	}
}

// Index lists what a tenant's endpoints serve, by endpoint and version, from memory alone.
func (c *Controller) Index(t api.TenantID) []api.ModelIndex {
	type row struct {
		name    api.EndpointName
		rev     *api.Revision
		off     bool
		loading bool
		refused string
	}
	c.mu.Lock()
	rows := make([]row, 0, len(c.endpoints))
	for key, e := range c.endpoints {
		if key.Tenant != t || e.Generation == 0 {
			continue
		}
		r := row{name: key.Endpoint, rev: e.revisions[e.Traffic.Current], off: e.Traffic.Unloaded, refused: e.refused}
		r.loading = e.load != nil || e.active != nil && (r.rev == nil || r.off)
		rows = append(rows, r)
	}
	c.mu.Unlock()
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(string(a.name), string(b.name)) })
	list := make([]api.ModelIndex, 0, len(rows))
	for _, r := range rows {
		if r.rev != nil && !r.off {
			list = c.indexLoaded(list, r.name, r.rev)
			continue
		}
		one := api.ModelIndex{Endpoint: r.name, State: api.ModelUnavailable, Reason: "nothing was released yet"}
		if r.off {
			one.Reason = unloaded
		}
		if r.off && r.refused != "" {
			one.Reason = "unloaded; the last load failed: " + r.refused
		}
		if r.loading {
			one.State, one.Reason = api.ModelLoading, ""
		}
		for _, version := range versionsOf(r.rev) {
			one.Version = version
			list = append(list, one)
		}
	}
	return list
}

// indexLoaded adds the rows of an endpoint that serves.
func (c *Controller) indexLoaded(list []api.ModelIndex, name api.EndpointName, rev *api.Revision) []api.ModelIndex {
	for _, version := range versionsOf(rev) {
		one := api.ModelIndex{Endpoint: name, Version: version, State: api.ModelReady}
		for i := range rev.Variants {
			if rev.Variants[i].Version != version {
				continue
			}
			switch s := c.Fleet.State(Instance(&rev.Variants[i])); {
			case len(s.Replicas) > 0:
			case s.Err != nil:
				one.State, one.Reason = api.ModelUnavailable, s.Err.Error()
			case one.State == api.ModelReady:
				one.State, one.Reason = api.ModelLoading, "no replica is loaded yet"
			}
		}
		list = append(list, one)
	}
	return list
}

// versionsOf lists the versions of a revision once each, in order; the one version 0 when there is no revision.
func versionsOf(rev *api.Revision) []api.VersionNumber {
	if rev == nil {
		return []api.VersionNumber{0}
	}
	list := make([]api.VersionNumber, 0, len(rev.Variants))
	for i := range rev.Variants {
		if !slices.Contains(list, rev.Variants[i].Version) {
			list = append(list, rev.Variants[i].Version)
		}
	}
	slices.Sort(list)
	return list
}
