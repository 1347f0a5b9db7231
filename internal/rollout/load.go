package rollout

import (
	"context"
	"fmt"

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
	c.want(key)
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
	rev, off := e.revisions.get(e.Traffic.Current), e.Traffic.Unloaded
	c.mu.Unlock()
	if !off && c.answering(rev) {
		return nil
	}
	c.mu.Lock()
	open := e.load
	if c.drained {
		c.mu.Unlock()
		return stopping(name)
	}
	if open == nil {
		open = &load{by: p.Name, started: api.TimeOf(c.Now()), done: make(chan struct{})}
		e.load, e.refused = open, ""
	}
	c.mu.Unlock()
	c.want(key)
	c.loop.Hint(key)
	select {
	case <-open.done:
		return open.err
	case <-ctx.Done():
		return api.Fail(api.CodeLoading, string(name), "still loading").Because(ctx.Err())
	}
}

// Drain ends every wait for a load, and lets none begin: a server that stops does not wait for a model.
func (c *Controller) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drained = true
	for _, e := range c.endpoints {
		c.endLoad(e, stopping(e.Name))
	}
}

func stopping(name api.EndpointName) error {
	return api.Fail(api.CodeShuttingDown, string(name), "the server is stopping")
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
	before, rev := e.Traffic, e.revisions.get(e.Traffic.Current)
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
	c.want(key)
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
