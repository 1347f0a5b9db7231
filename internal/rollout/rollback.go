package rollout

import (
	"context"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
)

// Rollback makes an earlier revision current; to 0 means the one that served before. When that revision is loaded it
// takes effect before anything is written, so that neither a database that is away nor a blob store that is gone can
// hold it up; then it is made durable, in the database or else in the journal. A release under way is aborted.
// It returns when the rollback is effective.
func (c *Controller) Rollback(ctx context.Context, p *api.Principal, name api.EndpointName, to api.RevisionNumber, why string) (api.Release, error) {
	begin := c.Now()
	key := api.EndpointKey{Tenant: p.Tenant, Endpoint: name}
	e, rev, err := c.target(ctx, key, to)
	if err != nil {
		return api.Release{}, err
	}
	if !c.rouse(ctx, rev) {
		return c.rollbackCold(ctx, p, key, e, rev, why)
	}

	c.mu.Lock()
	if e.Traffic.Current == rev.Number && e.active == nil && !e.Traffic.Unloaded {
		c.mu.Unlock()
		return api.Release{}, api.Fail(api.CodeExists, string(name), "revision %d serves already", rev.Number).
			WithCure("Name another revision; see them with `penstock rollout status %s`.", name)
	}
	closed := c.abort(e, "a rollback came first")
	rel := api.Release{Tenant: key.Tenant, Endpoint: name, Number: e.lastRelease + 1, Kind: api.ReleaseRollback,
		From: e.Traffic.Current, To: rev.Number, Strategy: api.StrategyDirect, State: api.ReleaseSucceeded,
		By: p.Name, Why: why, Started: api.TimeOf(begin), Ended: api.TimeOf(c.Now()), Durable: true}
	e.lastRelease = rel.Number
	e.revisions.put(rev)
	e.Traffic = move(e.Traffic, rel)
	c.mu.Unlock()
	c.publish()
	rel.EffectUS = c.Now().Sub(begin).Microseconds()

	c.mu.Lock()
	if closed != nil {
		e.unsaved = append(e.unsaved, *closed)
	}
	e.unsaved = append(e.unsaved, rel)
	c.mu.Unlock()
	rel.Durable = c.makeDurable(ctx, e, rel)
	c.mu.Lock()
	ended := rel
	e.ended = &ended
	c.mu.Unlock()
	c.settled(e, rel)
	c.loop.Hint(key)
	return rel, nil
}

// target finds the endpoint and the revision to go back to, in memory when it is one of the warm ones.
func (c *Controller) target(ctx context.Context, key api.EndpointKey, to api.RevisionNumber) (*endpoint, *api.Revision, error) {
	c.mu.Lock()
	e := c.endpoints[key]
	if e == nil || e.Generation == 0 {
		c.mu.Unlock()
		return nil, nil, endpointNotFound(key.Endpoint)
	}
	if to == 0 {
		to = e.Traffic.Previous
	}
	if to == 0 {
		current := e.Traffic.Current
		c.mu.Unlock()
		return nil, nil, api.Fail(api.CodeNothingEarlier, string(key.Endpoint), "revision %d serves and none served before it", current)
	}
	rev, last := e.revisions.get(to), e.lastRevision
	c.mu.Unlock()
	if rev != nil {
		return e, rev, nil
	}
	if to < 0 || to > last {
		return nil, nil, api.Fail(api.CodeRevisionNotFound, string(key.Endpoint), "no revision %d; the newest is %d", to, last)
	}
	found, err := c.Store.Revision(ctx, key.Tenant, key.Endpoint, to)
	if err != nil {
		return nil, nil, err
	}
	return e, &found, nil
}

// answering reports whether every variant that takes traffic has a replica; a rollback does not wait for the last one.
func (c *Controller) answering(rev *api.Revision) bool {
	for i := range rev.Variants {
		if v := &rev.Variants[i]; v.Weight > 0 && len(c.Fleet.State(Instance(v)).Replicas) == 0 {
			return false
		}
	}
	return true
}

// roused bounds the wait for a revision that sleeps.
const roused = 10 * time.Second

// rouse wakes what sleeps of a revision, and reports whether it answers: the way back does not become a slow one because
// memory was short.
func (c *Controller) rouse(ctx context.Context, rev *api.Revision) bool {
	if c.answering(rev) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, roused)
	defer cancel()
	for i := range rev.Variants {
		v := &rev.Variants[i]
		if v.Weight == 0 || !c.Fleet.State(Instance(v)).Asleep {
			continue
		}
		set := c.Fleet.Set(Instance(v))
		for {
			state := set.State()
			if state.Err != nil || len(state.Replicas) > 0 {
				break
			}
			set.Wake()
			select {
			case <-state.Changed:
			case <-ctx.Done():
				return false
			}
		}
	}
	return c.answering(rev)
}

// rollbackCold goes back to a revision that is not loaded any more: as a release that loads it first.
func (c *Controller) rollbackCold(ctx context.Context, p *api.Principal, key api.EndpointKey, e *endpoint, rev *api.Revision, why string) (api.Release, error) {
	if err := c.save(ctx, e); err != nil {
		return api.Release{}, err
	}
	c.mu.Lock()
	if e.active != nil {
		open := *e.active
		c.mu.Unlock()
		return api.Release{}, api.Fail(api.CodeBusy, string(key.Endpoint), "release %d to revision %d is under way, and revision %d is not loaded", open.Number, open.To, rev.Number)
	}
	rel := api.Release{Tenant: key.Tenant, Endpoint: key.Endpoint, Number: e.lastRelease + 1, Kind: api.ReleaseRollback,
		From: e.Traffic.Current, To: rev.Number, Strategy: api.StrategyBlueGreen, State: api.ReleaseLoading,
		By: p.Name, Why: why, Started: api.TimeOf(c.Now()), Durable: true}
	active := rel
	e.active, e.recording = &active, true
	c.mu.Unlock()

	err := c.saveRelease(ctx, e, rel)
	c.mu.Lock()
	e.recording = false
	if err != nil {
		if e.active != nil && e.active.Number == rel.Number {
			e.active = nil
		}
		c.mu.Unlock()
		return api.Release{}, err
	}
	e.lastRelease = max(e.lastRelease, rel.Number)
	e.revisions.put(rev)
	c.mu.Unlock()
	c.want(key)
	c.loop.Hint(key)
	return c.Await(ctx, key.Tenant, key.Endpoint, rel.Number)
}

func (c *Controller) saveRelease(ctx context.Context, e *endpoint, rel api.Release) error {
	done, err := e.write(ctx)
	if err != nil {
		return err
	}
	defer done()
	return c.Store.SaveRelease(ctx, rel, nil)
}

// abort needs mu. It closes the release under way in memory and gives its record, still to be saved.
func (c *Controller) abort(e *endpoint, reason string) *api.Release {
	if e.active == nil {
		return nil
	}
	closed := *e.active
	closed.State, closed.Reason, closed.Ended = api.ReleaseAborted, reason, api.TimeOf(c.Now())
	e.lastRelease = max(e.lastRelease, closed.Number)
	e.active, e.ended = nil, &closed
	c.prune(e)
	return &closed
}

// Abort ends the release under way; the current revision keeps serving.
func (c *Controller) Abort(ctx context.Context, p *api.Principal, name api.EndpointName) (api.Release, error) {
	key := api.EndpointKey{Tenant: p.Tenant, Endpoint: name}
	c.mu.Lock()
	e := c.endpoints[key]
	if e == nil || e.Generation == 0 {
		c.mu.Unlock()
		return api.Release{}, endpointNotFound(name)
	}
	if e.active == nil || e.recording {
		c.mu.Unlock()
		return api.Release{}, api.Fail(api.CodeNoRelease, string(name), "no release is under way")
	}
	rel := *e.active
	c.mu.Unlock()
	rel.State, rel.Reason = api.ReleaseAborted, "aborted by "+p.Name
	if err := c.end(ctx, key, e, rel); err != nil {
		return api.Release{}, err
	}
	return c.Await(ctx, p.Tenant, name, rel.Number)
}

// makeDurable saves what is unsaved within RecordTimeout, or else writes the journal. False means that neither worked:
// the rollback serves, but a restart before the loop has saved it would undo it.
func (c *Controller) makeDurable(ctx context.Context, e *endpoint, rel api.Release) bool {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.RecordTimeout)
	defer cancel()
	saved := make(chan error, 1)
	go func() { saved <- c.save(bounded, e) }()
	select {
	case err := <-saved:
		if err == nil {
			return true
		}
		c.Log.Warn("rollback not in the database yet, it is kept in the journal", "endpoint", rel.Endpoint, "release", rel.Number, "error", err)
	case <-bounded.Done():
		c.Log.Warn("rollback not in the database yet, it is kept in the journal", "endpoint", rel.Endpoint, "release", rel.Number, "error", "no answer within "+c.RecordTimeout.String())
	}
	c.mu.Lock()
	entry := journalEntry{Releases: slices.Clone(e.unsaved), Traffic: e.Traffic}
	c.mu.Unlock()
	if len(entry.Releases) == 0 {
		return true // saved just now
	}
	if err := c.writeJournal(entry); err != nil {
		c.Log.Error("rollback is effective, but neither database nor journal could take its record", "endpoint", rel.Endpoint, "release", rel.Number, "error", err)
		return false
	}
	return true
}

// save writes what is unsaved to the database, oldest first, with the traffic as it is now.
func (c *Controller) save(ctx context.Context, e *endpoint) error {
	done, err := e.write(ctx)
	if err != nil {
		return err
	}
	defer done()
	for {
		c.mu.Lock()
		if len(e.unsaved) == 0 {
			c.mu.Unlock()
			return nil
		}
		rel, traffic := e.unsaved[0], e.Traffic
		c.mu.Unlock()
		if err := c.Store.SaveRelease(ctx, rel, &traffic); err != nil {
			return err
		}
		c.mu.Lock()
		e.unsaved = e.unsaved[1:]
		last := len(e.unsaved) == 0
		c.mu.Unlock()
		if last {
			c.removeJournal(rel.Tenant, rel.Endpoint)
		}
	}
}

func endpointNotFound(name api.EndpointName) error {
	return api.Fail(api.CodeEndpointNotFound, string(name), "no such endpoint in this tenant")
}
