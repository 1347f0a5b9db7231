// Package server builds the house: it reads the configuration, makes every room, passes each what it needs, and starts
// and stops them in order. It is the only package that knows all rooms, and holds nothing but wiring, the data
// directory's layout, and backup. Callers: cmd/penstock.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/admin"
	"github.com/penstock/penstock/internal/arena"
	"github.com/penstock/penstock/internal/audit"
	"github.com/penstock/penstock/internal/egress"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/onnxruntime"
	"github.com/penstock/penstock/internal/engine/process"
	"github.com/penstock/penstock/internal/fleet"
	"github.com/penstock/penstock/internal/fleet/cache"
	"github.com/penstock/penstock/internal/gateway"
	"github.com/penstock/penstock/internal/gateway/oip"
	"github.com/penstock/penstock/internal/hook"
	"github.com/penstock/penstock/internal/lineage"
	"github.com/penstock/penstock/internal/mirror"
	"github.com/penstock/penstock/internal/observe"
	"github.com/penstock/penstock/internal/provider/local"
	"github.com/penstock/penstock/internal/publish"
	"github.com/penstock/penstock/internal/registry"
	"github.com/penstock/penstock/internal/registry/oci"
	"github.com/penstock/penstock/internal/rollout"
	"github.com/penstock/penstock/internal/serve"
	"github.com/penstock/penstock/internal/serve/queue"
	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/internal/tenancy"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// roles says which services a process of a role runs, in the order of their start. A role is a row, not an if.
var roles = map[string][]string{
	"all": {"callers", "recorder", "fleet", "rollout", "publish", "collect", "mirror", "audit", "webhooks", "memory", "metrics", "grpc", "oci", "http"},
}

func roleNames() []string {
	names := make([]string, 0, len(roles))
	for name := range roles {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// System is one running server.
type System struct {
	cfg   Config
	log   *slog.Logger
	hints chan struct{} // the fleet changed
	lock  *os.File

	store    *store.DB
	blobs    blobs
	recorder *observe.Recorder
	callers  *lineage.Callers
	guard    *tenancy.Guard
	courier  *hook.Courier
	audit    *audit.Ledger
	began    api.Time      // what happened before is another process's
	inside   engine.Engine // nil with worker processes
	memory   *arena.Arena  // nil without shared memory
	places   *local.Provider
	fleet    *fleet.Controller
	catalog  *registry.Catalog
	collect  *registry.Collector
	pepper   []byte
	mirror   *mirror.Controller
	rollout  *rollout.Controller
	publish  *publish.Publisher
	path     *serve.Path
	gateway  *gateway.Server
	admin    *admin.Server
	oci      *oci.Server
	doors    *doors

	draining atomic.Bool // stopping: readiness is denied, so that balancers send no more

	closers []func() error // in the order of construction; closed in reverse
}

// New builds every room, in the order of the start, and listens. Close gives everything back; Run does so itself.
func New(ctx context.Context, cfg Config, log *slog.Logger) (_ *System, err error) {
	if cfg.level == nil {
		cfg.level = new(slog.LevelVar) // the caller's logger has a level of its own
	}
	s := &System{cfg: cfg, log: log, hints: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, build := range []func(context.Context) error{s.floor, s.seams, s.rooms, s.hall} {
		if err := build(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// floor opens what everything stands on: the data directory, the database, the blobs, the keys.
func (s *System) floor(ctx context.Context) (err error) {
	if s.lock, err = openData(s.cfg.Data); err != nil {
		return err
	}
	s.closing(s.lock.Close)
	if s.store, err = store.Open(ctx, s.cfg.storeURL()); err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	s.closing(s.store.Close)
	if err := s.openAudit(ctx); err != nil {
		return err
	}
	if s.blobs, err = openBlobs(ctx, &s.cfg, s.log); err != nil {
		return err
	}
	s.closing(s.blobs.Close)
	if s.pepper, err = tenancy.LoadPepper(s.secret("pepper")); err != nil {
		return fmt.Errorf("read the key pepper: %w", err)
	}
	if s.courier, err = hook.New(hook.Config{Store: outbox{s.store}, Key: s.pepper, Allow: s.cfg.WebhookAllow, Log: s.log, Name: s.cfg.Name}); err != nil {
		return err
	}
	s.guard = tenancy.New(s.store, s.pepper, s.cfg.Dev)
	if err := s.guard.Load(ctx); err != nil {
		return err
	}
	return s.guard.EnsureAdmin(ctx, s.secret("admin.key"))
}

// seams makes the recorder and what runs models.
func (s *System) seams(context.Context) (err error) {
	s.callers = lineage.NewCallers(s.store, s.log)
	s.recorder, err = observe.New(observe.Config{Also: s.callers.Take, Version: s.cfg.Version, OTLP: s.cfg.OTLP, TraceEvery: s.cfg.TraceEvery,
		NoAliases: s.cfg.NoTritonMetrics, Log: s.log})
	if err != nil {
		return err
	}
	s.places = local.New(s.log)
	s.closing(s.places.Close)
	s.share()
	executable := s.cfg.Executable
	if executable == "" {
		if executable, err = os.Executable(); err != nil {
			return fmt.Errorf("find the program for workers: %w", err)
		}
	}
	processors, err := s.cfg.processors()
	if err != nil {
		return err
	}
	cfg := fleet.Config{Workers: s.cfg.Workers, Pools: s.cfg.Pools, PoolWorkers: s.cfg.PoolWorkers, Processors: processors, Executable: executable, CacheDir: s.cfg.Cache,
		Env:      []string{fmt.Sprintf("%s=%d", threadsVariable, s.cfg.threads())},
		Memory:   cache.Size{RAM: s.cfg.modelMemory()},
		Limits:   s.limits(),
		Hop:      process.Config{Memory: s.memory, RunGrace: s.cfg.RunGrace},
		Provider: s.places, Artifacts: artifacts{s}, Crashes: s.store, Events: s.store, Meter: s.recorder,
		Entry:   artifacts{s}.Entry,
		Changed: s.changed, Log: s.log}
	if s.cfg.InProcess {
		s.inside = runtimeOf(onnxruntime.Config{CacheDir: s.cfg.Cache, IntraThreads: s.cfg.threads(), Log: s.log})
		s.closing(s.inside.Close)
		cfg.InProcess = s.inside
	}
	if cfg.Sandbox, err = s.sandbox(executable); err != nil {
		return err
	}
	if s.fleet, err = fleet.New(cfg); err != nil {
		return err
	}
	s.recorder.Watch(s.fleet.Workers)
	s.recorder.WatchModels(s.fleet.Memory, func() []api.LoadedModel { return s.fleet.Loaded("") })
	return nil
}

// share makes the memory that large requests are read to and the workers see. Where there is none, they are sent.
func (s *System) share() {
	if s.cfg.SharedMemoryMB <= 0 || s.cfg.InProcess {
		return
	}
	memory, err := arena.New(arena.Config{Bytes: s.cfg.SharedMemoryMB << 20})
	if err != nil {
		s.log.Warn("no shared memory: large requests are copied to the workers", "error", err)
		return
	}
	s.memory = memory
	s.closing(memory.Close)
}

// rooms makes registry, rollout, publish and the request's walk.
func (s *System) rooms(ctx context.Context) (err error) {
	s.catalog, err = registry.New(registry.Config{Store: s.store, Blobs: s.blobs, CacheDir: filepath.Join(s.cfg.Data, "cache", "models"),
		GrantDir: filepath.Join(s.cfg.Data, "grants"), Holder: s.holder(), Window: s.cfg.RestoreWindow, Probe: s.probe, Now: time.Now,
		CacheMax: s.cfg.FileCacheMB << 20, Busy: s.fleet.Files,
		Renamed: func(t api.TenantID, from, to api.ModelName) { s.rollout.Renamed(t, from, to) }})
	if err != nil {
		return err
	}
	s.closing(s.catalog.Close)
	s.collect, err = registry.NewCollector(registry.CollectorConfig{Store: s.store, Blobs: s.blobs, Holder: s.holder(), Every: s.cfg.CollectEvery,
		Window: s.cfg.RestoreWindow, Grace: s.cfg.CollectGrace, Now: time.Now, Log: s.log, Settle: s.catalog.Settle})
	if err != nil {
		return err
	}
	if err := s.catalog.Shelve(ctx); err != nil {
		return err
	}
	policy, err := egress.Parse(s.cfg.Egress)
	if err != nil {
		return err
	}
	s.mirror, err = mirror.New(mirror.Config{Local: s.catalog, Store: s.store, Dir: filepath.Join(s.cfg.Data, "copies"), Secret: s.pepper, Egress: policy,
		Version: s.cfg.Version, Now: time.Now, Log: s.log})
	if err != nil {
		return err
	}
	s.path = &serve.Path{Engines: s.fleet, Recorder: s.recorder, Now: time.Now, Blame: s.fleet.Blame,
		Limits: serve.Limits{Queue: s.cfg.Queue, Timeout: s.cfg.Timeout, Cache: s.cfg.CacheMB << 20,
			Fair: queue.Config{Runs: s.cfg.threads()}}}
	s.recorder.WatchCaches(s.path.CacheBytes)
	s.recorder.WatchShares(statistics{s}.shares)
	s.rollout = rollout.New(rollout.Config{JournalDir: filepath.Join(s.cfg.Data, "journal"), RollbackWindow: s.cfg.RollbackWindow,
		Now: time.Now, Log: s.log, Store: s.store, Catalog: s.catalog, Trust: s.catalog,
		Chains: chains{}, Files: s.catalog, Prober: prober{s}, Fleet: s.fleet, Meter: s.recorder}, s.republish)
	s.publish = publish.New(time.Now, s.rollout, replicas{s.fleet}, s.path.SetPlan)
	s.publish.Weights, s.guard.Changed = s.guard.Weights, s.republish
	return s.rollout.Open(ctx)
}

// hall makes the doors and listens at them.
func (s *System) hall(ctx context.Context) (err error) {
	options := gateway.Options{Config: gateway.DefaultConfig(), Guard: watched{s.guard, s.audit, "inference"}, Ready: s.ready, Codec: wire.Codec{}, Log: s.log}
	if s.memory != nil {
		options.Memory, options.Codec = s.memory, wire.Codec{Memory: s.memory}
	}
	s.gateway, err = gateway.New(options)
	if err != nil {
		return err
	}
	oip.Attach(s.gateway, oip.Options{Server: s.path, Name: s.cfg.Name, Version: s.cfg.Version,
		Repository: s.rollout, Statistics: s.recorder, Settings: settings{s.cfg.level, s.recorder}, Audit: s.audit})
	s.admin, err = admin.New(admin.Config{Guard: s.guard, Tenants: s.guard, Keys: s.guard, Blobs: s.catalog, Models: s.catalog,
		Versions: s.catalog, Aliases: s.catalog, Search: s.catalog, Referrers: s.catalog, Trust: s.catalog,
		Lineage:   origins{&lineage.Desk{Store: s.store, Catalog: s.catalog, Endpoints: s.rollout, Keys: s.guard}},
		Endpoints: s.rollout, Releases: s.rollout, Collections: s.collect, Keeping: s.catalog, Events: s.store,
		Exchanges: exchanges{s.recorder}, Workers: s.fleet, Loaded: s.fleet, Statistics: statistics{s}, Transfers: s.mirror, Mirrors: s.mirror,
		Webhooks: s.courier, Audit: s.audit, Idempotency: idempotency{s.store},
		Backup: s.Backup, Name: s.cfg.Name, Version: s.cfg.Version, Logger: s.log})
	if err != nil {
		return err
	}
	s.oci, err = oci.New(oci.Config{Guard: watched{s.guard, s.audit, "oci"}, Audit: s.audit, Blobs: s.catalog, Manifests: s.catalog, Listings: s.catalog,
		Images: s.catalog, Upstream: s.mirror,
		StageDir: filepath.Join(s.cfg.Data, "uploads"), Now: time.Now, Log: s.log})
	if err != nil {
		return err
	}
	s.closing(s.oci.Close)
	if err := s.oci.TakeUp(ctx); err != nil {
		return err
	}
	s.doors, err = s.open(ctx)
	return err
}

func (s *System) closing(f func() error) { s.closers = append(s.closers, f) }

// holder names this server in the database: by its data directory, of which no two servers run.
func (s *System) holder() string {
	dir, err := filepath.Abs(s.cfg.Data)
	if err != nil {
		dir = s.cfg.Data
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return host + ":" + dir
}

func (s *System) secret(name string) string { return filepath.Join(s.cfg.Data, "secrets", name) }

// Close gives everything back, in reverse order. It is for a System that was not run; Run closes itself.
func (s *System) Close() error {
	var faults []error
	for _, f := range slices.Backward(s.closers) {
		if err := f(); err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed) {
			faults = append(faults, err)
		}
	}
	s.closers = nil
	return errors.Join(faults...)
}

// changed is the fleet's hint; it may be called with the fleet's locks held.
func (s *System) changed() {
	select {
	case s.hints <- struct{}{}:
	default:
	}
}

// republish is the rollout's way to the publisher, which is made after it.
func (s *System) republish() {
	if s.publish != nil {
		s.publish.Publish()
	}
}

// follow looks at the releases that wait for the fleet when it hints, and without a hint now and then: hints may be lost. No
// plan has to be compiled: the sets of replicas in it change by themselves.
func (s *System) follow(ctx context.Context) error {
	const resync = 10 * time.Second
	ticker := time.NewTicker(resync)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.hints:
		case <-ticker.C:
		}
		s.rollout.FleetChanged()
	}
}

// Run serves until ctx ends, then stops in reverse order: doors first, so that requests in hand still find their workers.
func Run(ctx context.Context, cfg Config, stdout, stderr io.Writer) error {
	cfg.orDefault()
	if err := cfg.Validate(); err != nil {
		return err
	}
	log, err := cfg.logger(stderr)
	if err != nil {
		return err
	}
	slog.SetDefault(log)
	collectLess()
	s, err := New(ctx, cfg, log)
	if err != nil {
		return err
	}
	return s.run(ctx, stdout, stderr)
}

func (s *System) run(ctx context.Context, stdout, stderr io.Writer) error {
	running, failed := s.start()
	err := s.wait(ctx, failed, stdout, stderr)
	s.drain(running)
	for _, r := range slices.Backward(running) {
		err = errors.Join(err, r.stop())
	}
	return errors.Join(err, s.Close())
}

// ready reports whether the server wants requests.
func (s *System) ready() bool { return s.path.Ready() && !s.draining.Load() }

// drain begins the end: readiness is denied first, and requests are still taken for as long as a balancer may need to hear
// of it. Then all doors take no more at once, so that those who come by one do not see the others' requests out.
func (s *System) drain(services []running) {
	s.draining.Store(true)
	if s.cfg.DrainDelay > 0 {
		s.log.Info("not ready any more; requests are still taken", "for", s.cfg.DrainDelay)
		lag := time.NewTimer(s.cfg.DrainDelay)
		<-lag.C
	}
	s.admin.Drain()
	s.rollout.Drain()
	for _, r := range services {
		if slices.Contains([]string{"http", "oci", "grpc"}, r.name) {
			r.cancel()
		}
	}
}

// wait tells that the server is ready, when it is, and returns at its end: nil when ctx ends, or the error of a service.
func (s *System) wait(ctx context.Context, failed <-chan error, stdout, stderr io.Writer) error {
	select {
	case <-s.fleet.Started(): // the doors listen since New
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
	if err := s.announce(stdout, stderr); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		s.log.Info("stopping", "grace", s.cfg.Grace)
		return nil
	case err := <-failed:
		return err
	}
}

// running is a service under way.
type running struct {
	name   string
	cancel context.CancelFunc
	done   chan error
}

func (r running) stop() error {
	r.cancel()
	if err := <-r.done; err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	return nil
}

// start runs the services of the role. failed gets the error of one that ends by itself.
func (s *System) start() (list []running, failed chan error) {
	services := map[string]func(context.Context) error{
		"callers":  s.callers.Run,
		"recorder": s.recorder.Run,
		"fleet":    s.fleet.Run,
		"rollout":  s.rollout.Run,
		"publish":  s.follow,
		"memory":   s.watchMemory,
		"collect":  s.collect.Run,
		"mirror":   s.mirror.Run,
		"webhooks": s.courier.Run,
		"audit":    s.runAudit,
		"metrics":  s.doors.serveMetrics,
		"grpc":     s.doors.serveGRPC,
		"oci":      s.doors.serveOCI,
		"http":     s.doors.serveHTTP,
	}
	failed = make(chan error, len(services))
	for _, name := range roles[s.cfg.Role] {
		ctx, cancel := context.WithCancel(context.Background())
		r := running{name: name, cancel: cancel, done: make(chan error, 1)}
		go func() {
			err := services[name](ctx)
			if err != nil {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
			r.done <- err
		}()
		list = append(list, r)
	}
	return list, failed
}

// probe loads a pushed version in a throw-away worker. Batches are tried there too: a model that dies of the rows that the
// trial makes up shall not do so first in a worker that serves others.
func (s *System) probe(ctx context.Context, want api.Want) error {
	_, err := s.fleet.Probe(ctx, want)
	return err
}
