package store

import (
	"context"
	"maps"
	"slices"

	"github.com/penstock/penstock/api"
)

// gathered is what the jobs of a group have together beside their transaction: sums, each written once at its end instead of
// by every job, and what need not be asked or written again. What a job adds counts when it has ended well. It is the
// writer's alone.
type gathered struct {
	terms  terms
	group  sums
	job    sums                  // what the job that runs adds to them
	silent map[api.TenantID]bool // tenants without a webhook that would be told of an event
	free   map[api.TenantID]bool // tenants without a limit on what they hold
}

// sums are by tenant.
type sums struct {
	held   map[api.TenantID]amount
	events map[api.TenantID]int64
}

type amount struct{ bytes, blobs int64 }

func (a amount) plus(b amount) amount { return amount{a.bytes + b.bytes, a.blobs + b.blobs} }

func newSums() sums {
	return sums{held: map[api.TenantID]amount{}, events: map[api.TenantID]int64{}}
}

func (s sums) clear() {
	clear(s.held)
	clear(s.events)
}

func newGathered() *gathered {
	return &gathered{group: newSums(), job: newSums(), silent: map[api.TenantID]bool{}, free: map[api.TenantID]bool{}}
}

// use counts what a tenant holds.
func (g *gathered) use(t api.TenantID, more amount) { g.job.held[t] = g.job.held[t].plus(more) }

// event counts an event that is kept.
func (g *gathered) event(t api.TenantID) { g.job.events[t]++ }

// used is what a tenant holds beside its row. A session that only reads has nothing gathered.
func (g *gathered) used(t api.TenantID) amount {
	if g == nil {
		return amount{}
	}
	return g.group.held[t].plus(g.job.held[t])
}

// undo forgets what the job added.
func (g *gathered) undo() {
	g.terms.undo()
	g.job.clear()
	clear(g.silent) // it may have deleted the webhook that is there again
	clear(g.free)
}

// keep ends the job.
func (g *gathered) keep() {
	g.terms.keep()
	for t, more := range g.job.held {
		g.group.held[t] = g.group.held[t].plus(more)
	}
	for t, n := range g.job.events {
		g.group.events[t] += n
	}
	g.job.clear()
}

// end ends the transaction.
func (g *gathered) end(committed bool) {
	g.terms.end(committed)
	g.group.clear()
	g.job.clear()
	clear(g.silent)
	clear(g.free)
}

// write writes the sums, and removes the oldest events of a tenant that has more than are kept.
func (g *gathered) write(ctx context.Context, s session, eventsKept int64) error {
	for _, t := range slices.Sorted(maps.Keys(g.group.held)) {
		more := g.group.held[t]
		if err := s.put(ctx, `INSERT INTO tenant_usage (tenant, bytes, blobs) VALUES (?, ?, ?)
			ON CONFLICT (tenant) DO UPDATE SET bytes = tenant_usage.bytes + excluded.bytes, blobs = tenant_usage.blobs + excluded.blobs`,
			t, more.bytes, more.blobs); err != nil {
			return err
		}
	}
	tenants := slices.Sorted(maps.Keys(g.group.events))
	counted, kept := make([]bool, len(tenants)), make([]int64, len(tenants))
	for i, t := range tenants {
		if err := s.askOne(ctx, &counted[i], `INSERT INTO event_tallies (tenant, kept) VALUES (?, ?)
			ON CONFLICT (tenant) DO UPDATE SET kept = event_tallies.kept + excluded.kept RETURNING kept`, []any{t, g.group.events[t]}, &kept[i]); err != nil {
			return err
		}
	}
	if err := s.answers(ctx); err != nil {
		return err
	}
	for i, t := range tenants {
		old := kept[i] - eventsKept
		if old <= eventSlack {
			continue
		}
		if err := s.put(ctx, `DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE tenant = ? ORDER BY seq LIMIT ?)`, t, old); err != nil {
			return err
		}
		if err := s.put(ctx, `UPDATE event_tallies SET kept = kept - ? WHERE tenant = ?`, old, t); err != nil {
			return err
		}
	}
	return s.answers(ctx)
}
