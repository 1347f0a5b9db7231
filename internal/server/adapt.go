package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/admin"
	"github.com/penstock/penstock/internal/engine/chain"
	"github.com/penstock/penstock/internal/fleet"
	"github.com/penstock/penstock/internal/observe"
	"github.com/penstock/penstock/internal/registry"
	"github.com/penstock/penstock/internal/rollout"
	"github.com/penstock/penstock/internal/store"
)

// Where two rooms say the same thing in words of their own, the words meet here.

// artifacts lets the fleet ask the catalog, which is made after it.
type artifacts struct{ s *System }

func (a artifacts) Materialize(ctx context.Context, manifest api.Digest) (string, error) {
	return a.s.catalog.Materialize(ctx, manifest)
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

func (r replicas) Replicas(v *api.Variant) ([]api.Replica, *api.BatchPlan) {
	state := r.fleet.State(rollout.Instance(v))
	return state.Replicas, state.Batch
}

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
	for _, w := range a.s.fleet.Workers() {
		out.Workers = append(out.Workers, api.WorkerStatistics{Worker: w, InFlight: a.s.path.InFlight(w.Name)})
	}
	return out
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

// settings are what callers of the data plane may change while the server runs.
type settings struct {
	level *slog.LevelVar
	*observe.Recorder
}

func (s settings) LogLevel() slog.Level { return s.level.Level() }

func (s settings) SetLogLevel(level slog.Level) { s.level.Set(level) }

type versions struct{ *registry.Catalog }

func (v versions) SetTags(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber, set map[string]string, remove []string) (api.Version, error) {
	return v.Catalog.SetTags(ctx, &api.Principal{Tenant: t, Scopes: []api.Scope{api.ScopeWrite}}, m, n, set, remove)
}
