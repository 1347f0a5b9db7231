package server

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/admin"
	"github.com/penstock/penstock/internal/engine/chain"
	"github.com/penstock/penstock/internal/fleet"
	"github.com/penstock/penstock/internal/hook"
	"github.com/penstock/penstock/internal/lineage"
	"github.com/penstock/penstock/internal/observe"
	"github.com/penstock/penstock/internal/rollout"
	"github.com/penstock/penstock/internal/store"
)

// Where two rooms say the same thing in words of their own, the words meet here.

// artifacts lets the fleet ask the catalog, which is made after it.
type artifacts struct{ s *System }

func (a artifacts) Materialize(ctx context.Context, manifest api.Digest) (string, error) {
	return a.s.catalog.Materialize(ctx, manifest)
}

func (a artifacts) Entry(ctx context.Context, manifest api.Digest) (api.Digest, error) {
	return a.s.catalog.Entry(ctx, manifest)
}

// chains lets rollout ask the engine that will run them.
type chains struct{}

func (chains) Resolve(spec *api.ChainSpec, version func(string) (api.Version, error), file func(string, string, int64) ([]byte, error)) (*api.Chain, error) {
	return chain.Resolve(spec, shelf{version, file})
}

type shelf struct {
	version func(ref string) (api.Version, error)
	file    func(ref, path string, limit int64) ([]byte, error)
}

func (s shelf) Version(ref string) (api.Version, error) { return s.version(ref) }

func (s shelf) File(ref, path string, limit int64) ([]byte, error) { return s.file(ref, path, limit) }

// prober lets rollout try a chain.
type prober struct{ s *System }

func (p prober) Probe(ctx context.Context, w api.Want) error { return p.s.probe(ctx, w) }

// replicas lets publish ask the fleet.
type replicas struct{ fleet *fleet.Controller }

func (r replicas) Set(v *api.Variant) *api.ReplicaSet { return r.fleet.Set(rollout.Instance(v)) }

// exchanges lets admin ask the recorder.
type exchanges struct{ recorder *observe.Recorder }

func (e exchanges) Recent(t api.TenantID, f admin.LogFilter) []api.Exchange {
	return e.recorder.Recent(t, observe.Filter{Endpoint: f.Endpoint, Variant: f.Variant, ErrorsOnly: f.OnlyErrors, Limit: f.Limit})
}

func (e exchanges) Follow(ctx context.Context, t api.TenantID) <-chan api.Exchange {
	return e.recorder.Follow(ctx, t, observe.Filter{})
}

// statistics lets admin ask everybody who knows a part of what goes on.
type statistics struct{ s *System }

func (a statistics) Statistics(t api.TenantID, span time.Duration) api.Statistics {
	out := a.s.recorder.RecentStatistics(t, span)
	places := make(map[api.EndpointName]int, len(out.Endpoints))
	for i := range out.Endpoints {
		places[out.Endpoints[i].Endpoint] = i
	}
	live := make([]api.EndpointStatistics, 0, len(out.Endpoints))
	for _, u := range a.s.path.Usage(t) {
		one := api.EndpointStatistics{Endpoint: u.Key.Endpoint}
		if i, known := places[u.Key.Endpoint]; known {
			one = out.Endpoints[i]
		}
		one.InFlight, one.CacheEntries, one.CacheBytes, one.CacheLimit = u.InFlight, u.CacheEntries, u.CacheBytes, u.CacheLimit
		live = append(live, one)
	}
	out.Endpoints = live // one that was deleted a moment ago is not told of
	out.Shares = a.shares()
	for _, w := range a.s.fleet.Workers() {
		out.Workers = append(out.Workers, api.WorkerStatistics{Worker: w, InFlight: a.s.fleet.InFlight(w.Name)})
	}
	memory := a.s.fleet.Memory()
	out.Memory = &memory
	return out
}

// shares tells what every tenant has of the workers, who had most in front.
func (a statistics) shares() []api.TenantShare {
	var sum time.Duration
	var all []api.TenantShare
	for _, s := range a.s.path.Shares() {
		sum += s.Spent
		one := api.TenantShare{Tenant: s.Tenant, Weight: s.Weight, Spent: s.Spent, Total: s.Total, Waiting: s.Waiting, Running: s.Running}
		for reason, n := range s.Refused() {
			if one.Refused == nil {
				one.Refused = map[string]int64{}
			}
			one.Refused[reason] = n
		}
		all = append(all, one)
	}
	for i := range all {
		all[i].Part = float64(all[i].Spent) / float64(max(1, sum))
	}
	slices.SortStableFunc(all, func(a, b api.TenantShare) int { return cmp.Compare(b.Spent, a.Spent) })
	return all
}

// idempotency lets admin ask the store.
type idempotency struct{ *store.DB }

func (i idempotency) ClaimIdempotency(ctx context.Context, t api.TenantID, key, requestHash string, at api.Time) (*admin.Reply, error) {
	reply, err := i.DB.ClaimIdempotency(ctx, t, key, requestHash, at)
	if reply == nil || err != nil {
		return nil, err
	}
	return &admin.Reply{Status: reply.Status, Body: reply.Body}, nil
}

// outbox lets the courier ask the store.
type outbox struct{ *store.DB }

func (o outbox) WebhookSecrets(ctx context.Context, t api.TenantID, id api.WebhookID) (hook.Secrets, error) {
	kept, err := o.DB.WebhookSecrets(ctx, t, id)
	return hook.Secrets(kept), err
}

// settings are what callers of the data plane may change while the server runs.
type settings struct {
	level *slog.LevelVar
	*observe.Recorder
}

func (s settings) LogLevel() slog.Level { return s.level.Level() }

func (s settings) SetLogLevel(level slog.Level) { s.level.Set(level) }

// origins lets admin ask the desk and have its answers drawn.
type origins struct{ *lineage.Desk }

func (o origins) Lineage(ctx context.Context, t api.TenantID, of, direction string) (api.Lineage, error) {
	return o.Desk.Lineage(ctx, t, of, lineage.Direction(direction))
}

func (o origins) Drawing(l *api.Lineage) []byte { return lineage.SVG(l) }
