package lineage

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
)

// The bounds of counting.
const (
	talliesMax    = 10_000           // callers of different things between two writes; what is over it is counted as "other"
	tallyInterval = 5 * time.Second  // between two writes
	tallyTimeout  = 10 * time.Second // for one write
	otherKey      = api.KeyID("other")
	noKey         = api.KeyID("no-key") // of callers that a server with --dev let in without one
)

// tallyKey is what is counted by itself.
type tallyKey struct {
	tenant   api.TenantID
	endpoint api.EndpointName
	revision api.RevisionNumber
	model    api.ModelName
	version  api.VersionNumber
	key      api.KeyID
}

// Callers adds exchanges up by key. Take is for the recorder's own goroutine; it only counts in memory, so that no request
// waits for the database. Run writes the sums down. A server that dies loses the sums of a few seconds, never more.
type Callers struct {
	store CallerStore
	log   *slog.Logger

	mu      sync.Mutex // guards tallies
	tallies map[tallyKey]*api.CallerTally
}

// CallerStore keeps tallies.
type CallerStore interface {
	AddCallers(ctx context.Context, tallies []api.CallerTally) error
}

// NewCallers makes a counter without anything counted.
func NewCallers(store CallerStore, log *slog.Logger) *Callers {
	return &Callers{store: store, log: log, tallies: map[tallyKey]*api.CallerTally{}}
}

// Take counts an exchange that reached a version. One that was refused before called nothing.
func (c *Callers) Take(x *api.Exchange) {
	if x.Revision == 0 {
		return
	}
	key := x.Key
	if key == "" {
		key = noKey
	}
	k := tallyKey{x.Tenant, x.Endpoint, x.Revision, x.Model, x.Version, key}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tallies[k]
	if t == nil && len(c.tallies) >= talliesMax {
		k.key = otherKey
		t = c.tallies[k]
	}
	if t == nil {
		if len(c.tallies) >= 2*talliesMax {
			return // as many revisions as there may be callers: no place is left even for the rest of them
		}
		t = &api.CallerTally{Tenant: k.tenant, Endpoint: k.endpoint, Revision: k.revision, Model: k.model, Version: k.version, Key: k.key, First: x.Start}
		c.tallies[k] = t
	}
	t.Requests++
	t.Last = max(t.Last, x.Start)
}

// Run writes what was counted every few seconds, and once more at the end.
func (c *Callers) Run(ctx context.Context) error {
	ticker := time.NewTicker(tallyInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			c.Flush(ctx)
		case <-ctx.Done():
			c.Flush(context.WithoutCancel(ctx))
			return nil
		}
	}
}

// Flush writes what was counted now. What could not be written is counted on, and written with the next.
func (c *Callers) Flush(ctx context.Context) {
	c.mu.Lock()
	taken := c.tallies
	c.tallies = make(map[tallyKey]*api.CallerTally, len(taken))
	c.mu.Unlock()
	if len(taken) == 0 {
		return
	}
	all := make([]api.CallerTally, 0, len(taken))
	for _, t := range taken {
		all = append(all, *t)
	}
	for len(all) > 0 {
		n := min(len(all), talliesWritten)
		if err := c.write(ctx, all[:n]); err != nil {
			c.log.Warn("callers are not written down yet", "error", err, "tallies", len(all))
			c.keep(all)
			return
		}
		all = all[n:]
	}
}

// talliesWritten is how many are written in one transaction: others wait for the store meanwhile.
const talliesWritten = 200

func (c *Callers) write(ctx context.Context, tallies []api.CallerTally) error {
	ctx, cancel := context.WithTimeout(ctx, tallyTimeout)
	defer cancel()
	return c.store.AddCallers(ctx, tallies)
}

// keep counts what could not be written on.
func (c *Callers) keep(tallies []api.CallerTally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range tallies {
		t := &tallies[i]
		k := tallyKey{t.Tenant, t.Endpoint, t.Revision, t.Model, t.Version, t.Key}
		if now := c.tallies[k]; now != nil {
			now.Requests, now.First, now.Last = now.Requests+t.Requests, min(now.First, t.First), max(now.Last, t.Last)
		} else if len(c.tallies) < 2*talliesMax {
			c.tallies[k] = t
		}
	}
}
