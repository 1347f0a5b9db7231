package serve

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/serve/cache"
)

// A worker that crashes takes every request with it that was inside: one may be the reason, the others are bystanders.
// All of them become suspects. A suspect, and whatever has its content, runs in a worker with nothing beside it: when it
// is answered it is none, and when that worker crashes too nobody else can have done it. It is poison then, and neither it
// nor its like is sent again.
const (
	// poisonKeep is how long a suspect's content is remembered, and how long poison is refused at once, on the endpoint and
	// version that it crashed.
	poisonKeep = 10 * time.Minute
	// poisonMost bounds how many are remembered. Beyond it a suspect is not, and of those who are poison the one that would be
	// forgotten first makes room.
	poisonMost = 1024
)

// poison remembers the contents that were in workers that crashed.
type poison struct {
	size atomic.Int64 // of known; read on every request, so that the usual one neither locks nor hashes

	mu    sync.Mutex // guards all below
	known map[dose]mark
	next  time.Time // when the first of known is over, at the earliest
}

// mark is what is held against a content.
type mark struct {
	convicted bool // it crashed a worker that had nothing else in it; else it is a suspect
	until     time.Time
}

// dose is one request's content, for one version on one endpoint: another tenant's or version's are others.
type dose struct {
	endpoint api.EndpointKey
	digest   api.Digest
	body     cache.Key
}

// dose hashes the request's content once for each variant that it is meant for.
func (to *target) dose(c *Call) dose {
	if v := to.variant; to.weighed != v {
		to.weighed, to.content = v, dose{endpoint: v.key, digest: v.Digest, body: cache.KeyOf(v.inputs(c), c.Outputs)}
	}
	return to.content
}

// look says what is held against a request's content: an error when it is poison.
func (p *poison) look(c *Call, to *target, clock func() time.Time) (suspect bool, err error) {
	if p.size.Load() == 0 {
		return false, nil
	}
	d := to.dose(c)
	now := clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !now.Before(p.next) {
		p.room(now)
	}
	m, known := p.known[d]
	switch {
	case !known:
		return false, nil
	case m.convicted:
		return false, poisoned(c, to.variant, "the same request crashed two workers, and is not sent again before %s", m.until.UTC().Format(time.RFC3339))
	}
	return true, nil
}

// suspect remembers a request that was in a worker that crashed, perhaps among others.
func (p *poison) suspect(d dose, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.known[d]; m.convicted || len(p.known) >= poisonMost && !p.room(now) {
		return
	}
	p.put(d, mark{until: now.Add(poisonKeep)})
}

// acquit forgets a suspect that was answered.
func (p *poison) acquit(d dose) {
	if p.size.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if m, known := p.known[d]; known && !m.convicted {
		p.drop(d)
	}
}

// convict remembers a request that crashed a worker in which it was alone, after its like had been in one that crashed.
func (p *poison) convict(c *Call, to *target, now time.Time) error {
	d := to.dose(c)
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.known[d]; !known && len(p.known) >= poisonMost && !p.room(now) {
		p.drop(p.least())
	}
	p.put(d, mark{convicted: true, until: now.Add(poisonKeep)})
	return poisoned(c, to.variant, "two workers crashed while they ran this request; it is not sent again for %v", poisonKeep)
}

// room forgets what is over, and reports whether that made room. Needs mu.
func (p *poison) room(now time.Time) bool {
	p.next = now.Add(poisonKeep)
	for d, m := range p.known {
		if !now.Before(m.until) {
			delete(p.known, d)
		} else if m.until.Before(p.next) {
			p.next = m.until
		}
	}
	p.size.Store(int64(len(p.known)))
	return len(p.known) < poisonMost
}

// least finds what is forgotten first: a suspect before one who is poison, the older before the newer. Needs mu.
func (p *poison) least() (least dose) {
	var worth *mark
	for d, m := range p.known {
		if worth == nil || m.convicted == worth.convicted && m.until.Before(worth.until) || worth.convicted && !m.convicted {
			least, worth = d, &m
		}
	}
	return least
}

// put needs mu.
func (p *poison) put(d dose, m mark) {
	if p.known == nil {
		p.known = map[dose]mark{}
	}
	if len(p.known) == 0 || m.until.Before(p.next) {
		p.next = m.until
	}
	p.known[d] = m
	p.size.Store(int64(len(p.known)))
}

// drop needs mu.
func (p *poison) drop(d dose) {
	delete(p.known, d)
	p.size.Store(int64(len(p.known)))
}

func poisoned(c *Call, v *variant, format string, args ...any) error {
	return api.Fail(api.CodePoison, string(c.Endpoint), format, args...).
		WithCure("Send other inputs to %s, or deploy a version that bears these.", v.Subject())
}

// crashed reports whether a request's error says that its worker was lost under it. A worker that was told to stop says so,
// and is nobody's fault.
func crashed(err error) bool {
	if !api.Is(err, api.CodeWorkerLost) {
		return false
	}
	var told *api.Error
	return !errors.As(api.AsError(err).Err, &told)
}

// blame draws the lesson from what became of a request that a worker had: an answer clears one that ran alone, a crash makes
// it a suspect, and ends it when nothing else was in the worker.
func (p *Path) blame(c *Call, to *target, r *api.Replica, s sending, err error) error {
	switch {
	case err == nil && s.place.Alone():
		p.poison.acquit(to.dose(c))
	case !crashed(err):
	case s.sole:
		if p.Blame != nil {
			p.Blame(*r, "two workers crashed under one request")
		}
		return p.poison.convict(c, to, p.Now())
	default:
		to.alone = true
		p.poison.suspect(to.dose(c), p.Now())
	}
	return err
}

// cannotServe is the answer while nothing can answer because the version cannot be held: it says why instead of waiting for
// what will not come.
func cannotServe(c *Call, v *variant, why *api.Error) error {
	return api.Fail(api.CodeUnavailable, string(c.Endpoint), "version %d cannot serve: %s", v.Version, why.Message).Because(why).
		WithCure("Roll back (`penstock rollback %s`) or deploy another version.", c.Endpoint)
}
