package serve

import (
	"cmp"
	"context"
	"math/bits"
	"reflect"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/serve/cache"
)

// CacheUse is what a caller allows of a response cache, in the words of HTTP's Cache-Control.
type CacheUse uint8

// The uses. The zero value asks for nothing special.
const (
	CacheUsed    CacheUse = iota // answer from the cache, share a run, keep the answer
	CacheRenewed                 // "no-cache": run anew; the answer takes the place of the one kept
	CachePassed                  // "no-store": as if there were no cache
)

// Recall is what a response cache had to do with an answer.
type Recall uint8

// The recalls, in the words of HTTP's Cache-Status.
const (
	RecallNone      Recall = iota // the endpoint has no cache
	RecallHit                     // answered from the cache
	RecallCollapsed               // answered with the run of an identical request
	RecallStored                  // run, and kept
	RecallMissed                  // run, and not kept: there is no room for it
	RecallPassed                  // run because the caller wanted it so, and not kept
	RecallRenewed                 // run because the caller wanted it so, and kept
)

// recall answers from the variant's cache, or gives nil. It is all that a hit passes through: no queue, no engine.
func (p *Path) recall(c *Call, to *target, x *api.Exchange) *Answer {
	if to.variant.cache == nil || c.Cache == CachePassed {
		return nil
	}
	begin := p.Now()
	to.asked, to.key = to.variant.cache, cache.KeyOf(to.variant.inputs(c), c.Outputs)
	var entry *cache.Entry
	if c.Cache == CacheUsed {
		entry = to.asked.Get(to.key)
	}
	// A clock may stand still; what asked the cache must be seen to have.
	x.Lookup = max(p.Now().Sub(begin), 1)
	if entry == nil {
		return nil
	}
	x.Cached = true
	return to.kept(entry, RecallHit)
}

// kept makes an answer of an entry, which goes back with it.
func (to *target) kept(entry *cache.Entry, how Recall) *Answer {
	v := to.variant
	return &Answer{Outputs: entry.Outputs(), Model: v.Model, Version: v.Version, Variant: v.Name, Recall: how, entry: entry}
}

// share has identical requests run once: the first leads, the others wait in the queue for its answer.
func (p *Path) share(ctx context.Context, c *Call, to *target, x *api.Exchange) (*Answer, error) {
	if to.asked == nil {
		return p.alone(ctx, c, to, x)
	}
	if c.Cache == CacheRenewed {
		return p.renewed(ctx, c, to, x)
	}
	entry, flight, lead := to.asked.Join(to.key)
	if entry == nil && !lead {
		var err error
		begin := p.Now()
		entry, lead, err = flight.Wait(ctx)
		x.Queue += p.Now().Sub(begin)
		if err != nil && ctx.Err() != nil {
			return nil, ended(ctx, c)
		}
		if err != nil {
			return nil, about(err, c)
		}
	}
	switch {
	case entry != nil:
		x.Cached = true
		return to.kept(entry, RecallCollapsed), nil
	case lead:
		return p.lead(ctx, c, to, x, flight)
	default:
		return p.alone(ctx, c, to, x)
	}
}

// alone runs the request as if there were no cache.
func (p *Path) alone(ctx context.Context, c *Call, to *target, x *api.Exchange) (*Answer, error) {
	answer, err := p.infer(ctx, c, to, x)
	if err == nil && to.variant.cache != nil {
		answer.Recall = RecallMissed
		if c.Cache != CacheUsed {
			answer.Recall = RecallPassed
		}
	}
	return answer, err
}

// renewed runs the request and puts its answer in the place of the one kept.
func (p *Path) renewed(ctx context.Context, c *Call, to *target, x *api.Exchange) (*Answer, error) {
	answer, err := p.alone(ctx, c, to, x)
	if err != nil || to.variant.cache != to.asked {
		return answer, err
	}
	begin := p.Now()
	entry := to.asked.Put(to.key, answer.Outputs)
	x.Lookup += p.Now().Sub(begin)
	if entry == nil {
		return answer, nil
	}
	x.Copied += bytesOf(entry)
	answer.Release()
	how := RecallPassed
	if entry.Kept() {
		how = RecallRenewed
	}
	return to.kept(entry, how), nil
}

// lead runs the request for itself and for those who wait on the flight.
func (p *Path) lead(ctx context.Context, c *Call, to *target, x *api.Exchange, flight *cache.Flight) (*Answer, error) {
	landed := false
	defer func() {
		if !landed { // it panicked; the others go on without it
			flight.Part()
		}
	}()
	answer, err := p.infer(ctx, c, to, x)
	landed = true
	switch {
	case err != nil && (ctx.Err() != nil || api.Is(err, api.CodeDeadline) || api.Is(err, api.CodeCanceled)):
		flight.Leave() // the caller's own end is no answer for the others
		return nil, err
	case err != nil:
		flight.Fail(err)
		return nil, err
	case to.variant.cache != to.asked:
		flight.Part() // another version answered, which the others may not have asked for
		return answer, nil
	}
	begin := p.Now()
	entry := flight.Land(answer.Outputs)
	x.Lookup += p.Now().Sub(begin)
	if entry == nil {
		answer.Recall = RecallMissed
		return answer, nil
	}
	x.Copied += bytesOf(entry)
	answer.Release()
	how := RecallMissed
	if entry.Kept() {
		how = RecallStored
	}
	return to.kept(entry, how), nil
}

func bytesOf(entry *cache.Entry) (n int64) {
	for i := range entry.Outputs() {
		n += int64(len(entry.Outputs()[i].Data))
	}
	return n
}

// openCaches gives every variant that asks for one its cache: the one it had, when the variant is the same in all that an
// answer depends on, else an empty one.
func (p *Path) openCaches(next, old *table) {
	asking := next.caching
	// In one order, so that what rounding leaves over does not move from plan to plan.
	slices.SortFunc(asking, func(a, b *variant) int {
		return cmp.Or(cmp.Compare(a.key.Tenant, b.key.Tenant), cmp.Compare(a.key.Endpoint, b.key.Endpoint), cmp.Compare(a.Name, b.Name))
	})
	total := p.Limits.cache()
	shares := divide(asking, total)
	for i, v := range asking {
		limits := cache.Limits{Bytes: shares[i], Total: total, TTL: time.Duration(v.Serving.Cache.TTLMS) * time.Millisecond}
		if v.cache = old.cacheOf(v); v.cache != nil {
			v.cache.Set(limits)
			continue
		}
		v.cache = cache.New(limits, &p.kept, p.Now)
	}
}

// closeCaches empties those that the newer table does not go on with.
func closeCaches(old, next *table) {
	if len(old.caching) == 0 {
		return
	}
	going := make(map[*cache.Cache]bool, len(next.caching))
	for _, v := range next.caching {
		going[v.cache] = true
	}
	for _, v := range old.caching {
		if !going[v.cache] {
			v.cache.Close()
		}
	}
}

// cacheOf finds the cache of the same arm of the same endpoint, if it answers the same.
func (t *table) cacheOf(v *variant) *cache.Cache {
	if t == nil || t.routes[v.key] == nil {
		return nil
	}
	for _, before := range t.routes[v.key].variants {
		if before.cache != nil && before.Name == v.Name && reflect.DeepEqual(answering(before), answering(v)) {
			return before.cache
		}
	}
	return nil
}

// answering is what of a variant its answers depend on. What is not named here as harmless counts.
func answering(v *variant) api.Variant {
	a := *v.Variant
	a.Weight = 0
	a.Serving.Replicas, a.Serving.TimeoutMS, a.Serving.Cache, a.Serving.Band = 0, 0, nil, ""
	a.Serving.Keep, a.Serving.KeepPriority = "", 0
	if a.Chain != nil {
		a.Version = 0 // the revision's number; the digest says what answers
	}
	return a
}

// divide shares the server's bytes out, so that no tenant's caches are small because another's are large: each tenant
// gets what it asks for up to an equal part, what some leave is shared out among the others, and a tenant's part goes to
// its variants by what they ask for. Variants come ordered by tenant.
func divide(asking []*variant, total int64) []int64 {
	type part struct {
		first, end int // of asking
		wants      int64
	}
	var tenants []*part
	wants := func(v *variant) int64 { return min(v.Serving.Cache.Bytes, total) }
	for i, v := range asking {
		if i == 0 || asking[i-1].key.Tenant != v.key.Tenant {
			tenants = append(tenants, &part{first: i})
		}
		last := tenants[len(tenants)-1]
		last.end, last.wants = i+1, last.wants+wants(v)
	}
	slices.SortStableFunc(tenants, func(a, b *part) int { return cmp.Compare(a.wants, b.wants) })
	shares := make([]int64, len(asking))
	left := total
	for i, t := range tenants {
		gets := min(t.wants, left/int64(len(tenants)-i))
		left -= gets
		for j := t.first; j < t.end; j++ {
			high, low := bits.Mul64(uint64(gets), uint64(wants(asking[j])))
			share, _ := bits.Div64(high, low, uint64(t.wants))
			shares[j] = int64(share)
		}
	}
	return shares
}
