// Package fleet makes the running replicas match what is wanted: it keeps worker processes alive, loads and warms
// instances on them, watches them, and names the file that crashes one. It is level-triggered: every hint may be lost.
// It moves no traffic (rollout does), compiles no plan (publish does) and knows no model format (engines do). Callers:
// server; rollout and publish through interfaces of their own.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/process"
	"github.com/penstock/penstock/internal/fleet/cache"
	"github.com/penstock/penstock/internal/provider"
	"github.com/penstock/penstock/internal/reconcile"
)

// Artifacts finds a version's files on this machine.
type Artifacts interface {
	// Materialize returns the path of the entry file; its companions lie beside it. It may fetch and may fail.
	Materialize(ctx context.Context, manifest api.Digest) (path string, err error)
}

// Crashes remembers which files crashed the runtime, beyond this process's life.
type Crashes interface {
	RecordCrash(ctx context.Context, digest api.Digest, reason string, at api.Time) (count int, err error)
	Crashes(ctx context.Context, digest api.Digest) (count int, reason string, err error)
}

// Events takes what people want to know.
type Events interface {
	AppendEvent(ctx context.Context, e api.Event) error
}

// Meter counts. Its methods return at once.
type Meter interface {
	WorkerStarted(worker string)
	WorkerLost(worker, reason string)
	ModelLoaded(subject string, load, warm time.Duration)
	LoadFailed(subject string, code api.Code)
	ModelEvicted(reason string)
	ColdStart(phases api.ColdStart)
}

// The environment of a worker: what it has to know and must not stand on a command line that others can read.
const (
	TokenVariable = "PENSTOCK_WORKER_TOKEN" // the hop's shared secret
	CacheVariable = "PENSTOCK_CACHE"        // directory where the runtime's library is unpacked
)

// InProcess is the name of the one pseudo worker of the in-process mode.
const InProcess = "inproc"

// Config tunes a controller. Zero fields take their defaults.
type Config struct {
	Workers     int      // worker processes; default 2
	Pools       int      // most pools of workers that hold one tenant's or endpoint's models alone; default 0
	PoolWorkers int      // worker processes of each pool; default 1
	Processors  [][]int  // of each worker, in order, that it alone runs on; nil or short: all of this process
	Executable  string   // program of the workers, run as `worker --socket PATH`
	Env         []string // added to the workers' environment, KEY=value
	CacheDir    string   // given to workers as CacheVariable
	Dir         string   // directory for sockets, made private; default a temporary one, since socket paths are short

	InProcess engine.Engine // instead of workers; stays its giver's to close

	Limits provider.Limits // of each worker
	// Sandbox, when set, is what workers may read; the folder of their sockets is added. nil: whatever this process may.
	Sandbox *provider.Sandbox
	Hop     process.Config // connections to each worker

	Drain        time.Duration // from unwanted to unloaded; default 2 s
	Unload       time.Duration // of one attempt to unload, while requests hold the instance; default 5 s
	LoadTimeout  time.Duration // of loading and warming one model; default 60 s
	StartTimeout time.Duration // from a worker's start to its first answer; default 20 s
	StopGrace    time.Duration // from asking a worker to end to killing it; default 6 s
	Resync       time.Duration // longest pause between two looks at a worker; default 5 s
	Health       time.Duration // a worker that does not answer for so long is killed; default 10 s
	Probes       int           // throw-away workers at the same time; default 2

	Bloat  int64         // bytes that a worker may take beside its models before it is replaced; default an eighth of Memory, at least 256 MiB
	Memory cache.Size    // what all loaded models may take together; zero: as much as they want
	Tidy   time.Duration // between two looks at what is loaded; default 1 s
	Guard  time.Duration // a model used so shortly ago is not taken away for one used less, nor a copy loaded so shortly ago for a better one; default 10 s

	Provider  provider.Provider
	Artifacts Artifacts
	Crashes   Crashes
	Events    Events
	Meter     Meter
	// Entry finds the entry file's digest of a manifest, under which crashes are counted; nil counts by manifest.
	Entry   func(ctx context.Context, manifest api.Digest) (api.Digest, error)
	Changed func()       // hint that State may answer otherwise now; must not block or call back
	Log     *slog.Logger // default slog.Default()
}

func (c Config) orDefault() Config {
	setTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	if c.Workers <= 0 {
		c.Workers = 2
	}
	if c.PoolWorkers <= 0 {
		c.PoolWorkers = 1
	}
	if c.Probes <= 0 {
		c.Probes = 2
	}
	if c.Memory == (cache.Size{}) {
		c.Memory = unlimited
	}
	setTime(&c.Drain, 2*time.Second)
	setTime(&c.Unload, 5*time.Second)
	setTime(&c.LoadTimeout, 60*time.Second)
	setTime(&c.StartTimeout, 20*time.Second)
	setTime(&c.StopGrace, 6*time.Second)
	setTime(&c.Resync, 5*time.Second)
	setTime(&c.Tidy, time.Second)
	setTime(&c.Health, 10*time.Second)
	if c.Changed == nil {
		c.Changed = func() {}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// validate reports all faults at once.
func (c *Config) validate() error {
	var faults []error
	need := func(ok bool, text string) {
		if !ok {
			faults = append(faults, errors.New("fleet: "+text))
		}
	}
	need(c.Artifacts != nil, "no artifacts")
	need(c.Crashes != nil, "no crash record")
	need(c.Events != nil, "no events")
	need(c.Meter != nil, "no meter")
	need(c.InProcess != nil || c.Provider != nil, "neither a provider nor an engine in this process")
	need(c.InProcess != nil || c.Executable != "", "no executable for the workers")
	return errors.Join(faults...)
}

// Controller owns the workers. Make it with New, then call Run once; every other method may be called at any time.
type Controller struct {
	config  Config
	loop    *reconcile.Loop[string] // keys: a worker's name, unloadPrefix and one, or trialPrefix and a digest
	hint    func(key string)        // an event's: may be lost
	slots   []*slot                 // fixed
	engines atomic.Pointer[map[string]engine.Engine]
	probes  chan struct{} // a place for a throw-away worker
	serial  atomic.Int64  // numbers sockets and throw-away workers
	started chan struct{} // closed when Run takes work
	stop    chan struct{} // closed when Run's ctx ends
	lives   sync.WaitGroup

	mu      sync.Mutex // guards the fields below and those of slots, lives, wants and trials that say so
	dir     string     // of the sockets; empty while Run does not run
	stopped bool
	wants   map[string]*want // by instance
	owners  map[api.EndpointKey][]*want
	trials  map[api.Digest]*trial
	blames  []blame                   // crashes while serving that nobody has looked at
	struck  map[api.Digest]strike     // files that crashed once while serving, by the name that served gives them
	entries map[api.Digest]api.Digest // entry files by manifest
	pools   []string                  // who uses each, by number; empty for nobody, and for pool 0
	barred  map[api.Digest]bool       // files quarantined for serving in this life, by the same name as struck
	cache   *cache.Cache              // what is loaded, and what it may take
	sums    tally                     // what all wants would take
	plenty  plenty                    // what there is memory for
	tidied  time.Time                 // when tidy looked last
	leaving cache.Size                // of copies that are being unloaded
	spares  []*held                   // copies that go first when memory is short, as tidy found them; taken from the end
	woken   map[api.TenantID]woken
	asked   int64            // requests
	missed  int64            // of these, those that waited for a load
	evicted map[string]int64 // by reason
	told    int64            // of evicted, what events told of
	toldAt  time.Time
	news    []api.Event // to be told when mu is given back
}

// New makes a controller; it starts nothing.
func New(config Config) (*Controller, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	c := &Controller{config: config.orDefault(), started: make(chan struct{}), stop: make(chan struct{}),
		wants: map[string]*want{}, owners: map[api.EndpointKey][]*want{}, trials: map[api.Digest]*trial{},
		struck: map[api.Digest]strike{}, entries: map[api.Digest]api.Digest{}, barred: map[api.Digest]bool{}}
	c.cache = cache.New(cache.Config{Budget: c.config.Memory, Guard: c.config.Guard})
	c.plenty, c.evicted, c.woken = forAllCopies, map[string]int64{}, map[api.TenantID]woken{}
	c.probes = make(chan struct{}, c.config.Probes)
	c.engines.Store(&map[string]engine.Engine{})
	names := []string{InProcess}
	if c.config.InProcess == nil {
		names = names[:0]
		for i := range c.config.Workers {
			names = append(names, "w"+strconv.Itoa(i+1))
		}
	}
	for i, name := range names {
		s := &slot{name: name, number: i, state: stateStarting}
		if i < len(c.config.Processors) {
			s.processors = c.config.Processors[i]
		}
		c.slots = append(c.slots, s)
	}
	c.addPools()
	c.pools = make([]string, c.config.Pools+1)
	c.loop = reconcile.New("fleet", 2*len(c.slots)+c.config.Probes+2, c.step)
	c.hint = c.loop.Hint
	return c, nil
}

// Run keeps the workers until ctx ends, then stops reporting replicas, stops all workers together and returns when
// their processes are gone.
func (c *Controller) Run(ctx context.Context) error {
	dir, remove, err := c.makeDir()
	if err != nil {
		return fmt.Errorf("fleet: make the socket directory: %w", err)
	}
	defer remove()
	c.mu.Lock()
	c.dir = dir
	c.mu.Unlock()
	close(c.started)
	for _, s := range c.slots {
		c.loop.Hint(s.name) // from here on each slot says itself when to come back
	}
	c.loop.Hint(blameKey)
	c.loop.Hint(memoryKey)
	err = c.loop.Run(ctx)

	c.mu.Lock()
	c.stopped = true
	close(c.stop)
	c.engines.Store(&map[string]engine.Engine{})
	var running []*life
	for _, s := range c.slots {
		if s.life != nil {
			running = append(running, s.life)
		}
		for _, h := range s.held {
			c.show(h.want)
		}
	}
	c.mu.Unlock()
	c.config.Changed()
	for _, l := range running {
		c.lives.Go(func() { l.end(c.config.StopGrace) })
	}
	c.lives.Wait()
	return err
}

// Started is closed when Run takes work: Probe is refused before.
func (c *Controller) Started() <-chan struct{} { return c.started }

func (c *Controller) hintAll() {
	for _, s := range c.slots {
		c.hint(s.name)
	}
}

// unloadPrefix stands before a worker's name in the key that unloads: loads do not wait for it.
const unloadPrefix = "unload "

// InFlight counts the requests that this process has a worker do.
func (c *Controller) InFlight(worker string) int64 {
	for _, s := range c.slots {
		if s.name == worker {
			return s.load.InFlight()
		}
	}
	return 0
}

// Engine finds a worker's engine. It is on the path of every request: one atomic load and one look-up.
func (c *Controller) Engine(worker string) (engine.Engine, bool) {
	e, ok := (*c.engines.Load())[worker]
	return e, ok
}

// publish needs mu: it makes Engine answer what the slots hold now.
func (c *Controller) publish() {
	engines := make(map[string]engine.Engine, len(c.slots))
	for _, s := range c.slots {
		if s.life != nil && !s.life.lost && !c.stopped {
			engines[s.name] = s.life.engine
		}
	}
	c.engines.Store(&engines)
}

// Workers describes the workers, for people.
func (c *Controller) Workers() []api.Worker {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]api.Worker, 0, len(c.slots))
	for _, s := range c.slots {
		if !c.used(s) && s.life == nil {
			continue
		}
		w := api.Worker{Name: s.name, Pool: c.pools[s.pool], State: s.state, Restarts: s.restarts, LastExit: s.exit, Instances: []string{}, Processors: s.processors}
		if l := s.life; l != nil {
			w.PID, w.Runtime, w.Resident, w.Started = l.pid, l.runtime, l.resident, api.TimeOf(l.started)
			w.Confinement = l.confinement()
		}
		for instance, h := range s.held {
			if h.stage >= ready {
				w.Instances = append(w.Instances, instance)
			}
		}
		slices.Sort(w.Instances)
		list = append(list, w)
	}
	return list
}

// step looks at one worker, or at one digest under suspicion.
func (c *Controller) step(ctx context.Context, key string) (time.Duration, error) {
	if digest, ok := strings.CutPrefix(key, trialPrefix); ok {
		c.try(ctx, api.Digest(digest))
		return 0, nil
	}
	switch key {
	case blameKey:
		c.judge(ctx)
		return c.config.Resync, nil
	case memoryKey:
		c.tidy()
		return c.config.Tidy, nil
	}
	name, unloading := strings.CutPrefix(key, unloadPrefix)
	i := slices.IndexFunc(c.slots, func(s *slot) bool { return s.name == name })
	switch {
	case i < 0:
		return 0, nil
	case unloading:
		return c.clear(ctx, c.slots[i])
	}
	return c.tend(ctx, c.slots[i])
}

// storePatience bounds the wait for the store, which may be away: the fleet works without it.
const storePatience = 2 * time.Second

func (c *Controller) tell(tenant api.TenantID, kind, subject, format string, args ...any) {
	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()
	text := fmt.Sprintf(format, args...)
	c.config.Log.Info(text, "event", kind, "subject", subject, "tenant", tenant)
	err := c.config.Events.AppendEvent(ctx, api.Event{Tenant: tenant, At: api.TimeOf(time.Now()), Kind: kind, Subject: subject, Text: text})
	if err != nil {
		c.config.Log.Warn("event not recorded", "event", kind, "subject", subject, "error", err)
	}
}
