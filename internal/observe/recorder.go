// Package observe turns exchanges into what people look at: Prometheus metrics, the log of recent exchanges and its
// followers, OpenTelemetry spans; it also makes the structured logger. It decides nothing about a request, stores
// nothing on disk and never makes a request wait. Callers: server, which hands its methods to the rooms that need them.
package observe

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
)

// Defaults of Config.
const (
	DefaultRing         = 65536
	DefaultKeep         = 1000
	DefaultKeepTenants  = 64
	DefaultFollowers    = 256
	DefaultFollowerLag  = 256
	DefaultSeries       = 2000
	DefaultTraceEvery   = 100
	DefaultSpanQueue    = 2048
	DefaultSpanBatch    = 512
	DefaultSpanInterval = time.Second
	DefaultSpanTimeout  = 5 * time.Second
)

// drainPause is the rest between two drains: long enough that a drain finds many exchanges, short enough that a
// follower does not notice.
const drainPause = 20 * time.Millisecond

// Config sets a Recorder up. Zero fields take the defaults.
type Config struct {
	Version string // Penstock's version, for build_info and spans
	Ring    int    // exchanges that may wait for the drain; more are dropped and counted; default 65,536

	Keep        int // newest exchanges kept per tenant for Recent, and a quarter as many failures beside them; default 1,000
	KeepTenants int // tenants whose exchanges are kept; the longest silent is forgotten first; default 64
	Followers   int // followers at the same time; default 256
	FollowerLag int // lines that may wait for one follower before it loses some; default 256

	Series    int  // label sets of the request metrics, and a quarter as many per tenant; more share the label "other"; also versions in the statistics and endpoints in their recent past; default 2,000
	NoAliases bool // leave out the statistics as nv_inference_* metrics

	OTLP         string        // collector: http://, https://, grpc:// or grpcs:// URL; empty makes no spans
	TraceEvery   int           // one trace of so many exchanges that bring no context, beside all failures of ours; -1 none; default 100
	SpanQueue    int           // spans that may wait for the collector; more are dropped and counted; default 2,048
	SpanBatch    int           // spans per export; default 512
	SpanInterval time.Duration // longest wait for a full batch; default 1 s
	SpanTimeout  time.Duration // longest export, retries included; default 5 s

	// Also is called with every exchange, by the drain alone; it must not block and keeps nothing of it. nil: nobody.
	Also func(*api.Exchange)

	Log *slog.Logger // default slog.Default()
}

func (c Config) withDefaults() Config {
	for field, value := range map[*int]int{&c.Ring: DefaultRing, &c.Keep: DefaultKeep, &c.KeepTenants: DefaultKeepTenants,
		&c.Followers: DefaultFollowers, &c.FollowerLag: DefaultFollowerLag, &c.Series: DefaultSeries,
		&c.SpanQueue: DefaultSpanQueue, &c.SpanBatch: DefaultSpanBatch} {
		if *field <= 0 {
			*field = value
		}
	}
	if c.TraceEvery == 0 {
		c.TraceEvery = DefaultTraceEvery
	}
	if c.SpanInterval <= 0 {
		c.SpanInterval = DefaultSpanInterval
	}
	if c.SpanTimeout <= 0 {
		c.SpanTimeout = DefaultSpanTimeout
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Recorder takes one exchange per inference and makes everything else of it later, in Run. Its methods may be called
// from any goroutine.
type Recorder struct {
	cfg     Config
	ring    ring
	idle    atomic.Bool // the drain sleeps; the writer that clears it rings the bell
	bell    chan struct{}
	metrics *metrics
	handler http.Handler
	tracer  *tracer // nil without a collector

	draining sync.Mutex // one drain at a time: guards history's writes, the statistics and windows, the ring's spares and the metrics' cache
	history  *history
	audience *audience

	statistics *statistics
	windows    *windows
}

// New makes a recorder; it fails only on a collector URL that cannot be one.
func New(cfg Config) (*Recorder, error) {
	cfg = cfg.withDefaults()
	r := &Recorder{cfg: cfg, bell: make(chan struct{}, 1)}
	r.ring.init(cfg.Ring)
	r.history = newHistory(cfg.Keep, cfg.KeepTenants)
	r.statistics = newStatistics(cfg.Series)
	r.windows = newWindows(cfg.Series)
	r.audience = newAudience(cfg.Followers, cfg.FollowerLag)
	if cfg.OTLP != "" {
		t, err := newTracer(cfg)
		if err != nil {
			return nil, fmt.Errorf("trace to %q: %w", cfg.OTLP, err)
		}
		r.tracer = t
	}
	r.metrics = newMetrics(cfg, r)
	if !cfg.NoAliases {
		r.metrics.registry.MustRegister(newAliases(r))
	}
	r.handler = r.metrics.handler(cfg.Log)
	return r, nil
}

// Record takes the exchange and returns at once: it waits for no reader, disk or network, and allocates nothing in the
// steady state. When the ring is full the exchange is dropped and counted in penstock_exchanges_dropped_total.
func (r *Recorder) Record(e api.Exchange) {
	if r.ring.push(&e) && r.idle.Load() && r.idle.CompareAndSwap(true, false) {
		select {
		case r.bell <- struct{}{}:
		default:
		}
	}
}

// Run drains the ring and exports spans until the context ends; then it drains once more, sends what spans it can
// within SpanTimeout, closes the followers' channels and returns. Run may be called once.
func (r *Recorder) Run(ctx context.Context) error {
	var exporter sync.WaitGroup
	if r.tracer != nil {
		exporter.Go(r.tracer.run)
	}
	pause := time.NewTimer(drainPause)
	defer pause.Stop()
	for ctx.Err() == nil {
		more := r.drain()
		pause.Reset(drainPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			continue
		}
		// An exchange that came before idle was set rings no bell, so look once more before sleeping.
		r.idle.Store(true)
		if r.drain() || more {
			r.idle.Store(false)
			continue
		}
		select {
		case <-r.bell:
		case <-ctx.Done():
		}
	}
	r.drain()
	r.audience.close()
	if r.tracer != nil {
		r.tracer.stop()
		exporter.Wait()
	}
	return nil
}

// drain empties the ring now and reports whether there is a reason to come back without being woken: something was
// there, or a follower has yet to be told what it lost.
func (r *Recorder) drain() bool {
	r.draining.Lock()
	defer r.draining.Unlock()
	n := r.ring.drain(r.take)
	return r.audience.settle() || n > 0
}

// take makes everything of one exchange. Called by the drain alone.
func (r *Recorder) take(e *api.Exchange) {
	bound(e)
	if r.tracer != nil {
		r.tracer.choose(e)
	}
	r.metrics.observe(e)
	r.statistics.add(e)
	r.windows.add(e)
	r.history.add(e)
	r.audience.tell(e)
	if r.cfg.Also != nil {
		r.cfg.Also(e)
	}
	if r.tracer != nil && e.Sampled {
		r.tracer.add(e)
	}
}

// textLimit bounds each free text of a kept exchange, in bytes: callers choose some of them.
const textLimit = 512

// bound cuts the texts that a caller or a runtime chose, so that what is kept has a known size.
func bound(e *api.Exchange) {
	for _, text := range []*string{&e.RequestID, &e.Unit, &e.Error, (*string)(&e.Endpoint), (*string)(&e.Variant)} {
		if len(*text) > textLimit {
			*text = clip(*text, textLimit)
		}
	}
}

// Handler serves the metrics as Prometheus text, OpenMetrics or protobuf, whichever the scraper asks for; native
// histograms travel in protobuf only. What was recorded before the scrape is in its answer.
func (r *Recorder) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.drain()
		r.handler.ServeHTTP(w, req)
	})
}

// Recent gives the newest exchanges of the tenant that pass the filter, oldest first; never another tenant's. What was
// recorded before the call is among them.
func (r *Recorder) Recent(t api.TenantID, f Filter) []api.Exchange {
	r.drain()
	r.draining.Lock()
	defer r.draining.Unlock()
	return r.history.recent(t, f)
}

// Follow sends the tenant's exchanges that pass the filter, from now on, until the context ends or Run does; then the
// channel is closed. A follower that does not keep up loses lines; how many it lost comes as a line of its own that
// Lost recognises. With too many followers the channel holds one line that says so, and is closed.
func (r *Recorder) Follow(ctx context.Context, t api.TenantID, f Filter) <-chan api.Exchange {
	r.drain() // what came before is not "from now on"
	return r.audience.follow(ctx, t, f)
}
