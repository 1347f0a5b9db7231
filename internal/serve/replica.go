package serve

import (
	"context"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
)

// replica picks the least loaded replica as the fleet knows it now, and waits for one while there is none that has not
// failed the request. Whoever gets one holds the variant's set, and so the model in memory, until let.
func (p *Path) replica(ctx context.Context, c *Call, to *target) (*api.Replica, time.Duration, error) {
	if err := to.renew(p.table.Load(), c); err != nil {
		return nil, 0, err
	}
	to.variant.Set.Enter(c.Start)
	if r := to.pick(); r != nil {
		return r, 0, nil
	}
	begin := p.Now()
	r, err := p.await(ctx, c, to)
	return r, p.Now().Sub(begin), err
}

// let ends the hold on a set; answer may be nil.
func let(set *api.ReplicaSet, answer *engine.Answer) {
	if answer == nil {
		set.Leave(0)
		return
	}
	set.Leave(answer.Compute)
}

// pick chooses among the replicas that are loaded now. What failed the request before the set changed may be another by
// now: the same worker can have loaded the model again.
func (to *target) pick() *api.Replica {
	state := to.variant.Set.State()
	if state != to.seen {
		to.seen, to.failed = state, to.failed[:0]
	}
	return balance(state.Replicas, to.failed)
}

// await holds the request until the fleet, or a new plan, brings a replica, at most Limits.Wake. That it waits wakes a
// model that sleeps. It holds the set of to.variant when it returns one, and nothing when it fails.
func (p *Path) await(ctx context.Context, c *Call, to *target) (*api.Replica, error) {
	limit := time.NewTimer(p.Limits.wake())
	defer limit.Stop()
	set := to.variant.Set
	stop := set.Wait()
	for {
		var err error
		if failed := to.seen.Err; failed != nil {
			err = cannotServe(c, to.variant, failed)
		}
		if err == nil {
			select {
			case <-to.table.replaced:
				err = to.renew(p.table.Load(), c)
			case <-to.seen.Changed:
			case <-ctx.Done():
				err = ended(ctx, c)
			case <-limit.C:
				err = api.Fail(api.CodeLoading, string(c.Endpoint), "no replica of version %d became ready within the limit of %v",
					to.variant.Version, p.Limits.wake())
			}
		}
		if next := to.variant.Set; err != nil || next != set {
			stop()
			set.Leave(0)
			if err != nil {
				return nil, err
			}
			set = next
			set.Enter(p.Now())
			stop = set.Wait()
		}
		if r := to.pick(); r != nil {
			stop()
			return r, nil
		}
	}
}
