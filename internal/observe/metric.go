package observe

import (
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/penstock/penstock/api"
)

const (
	other = "other" // label of everything beyond a limit

	nativeFactor    = 1.1       // each native bucket at most 10 % wider than the one before
	nativeBuckets   = 160       // native buckets per series; beyond, resolution is halved
	nativeReset     = time.Hour // soonest a series may start again instead
	scrapesAtOnce   = 4         // more answer 503
	scrapeTimeout   = 10 * time.Second
	reasonLimit     = 16 // distinct classes of worker loss
	reasonLengthMax = 32
)

// The classic buckets beside the native ones, in seconds: requests from 100 us to a minute, loads up to ten minutes,
// rollbacks around their promise of 100 ms.
var (
	requestBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	rowBuckets     = []float64{2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}
	loadBuckets    = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}
	effectBuckets  = []float64{.0005, .001, .0025, .005, .01, .025, .05, .075, .1, .25, .5, 1, 5, 30}
)

// metrics owns the registry. Its request series are touched by the drain alone, everything else from anywhere.
type metrics struct {
	registry *prometheus.Registry
	requests requestFamilies
	series   *seriesCache

	workerStarts, workerLost, loads, loadFailures, releases family
	evictions                                               family
	coldStart                                               *prometheus.HistogramVec
	loadTime, warmTime, effect                              prometheus.Histogram
	reasons                                                 words
	codes                                                   map[api.Code]string // the catalogue; anything else is "internal"
	fleet                                                   atomic.Pointer[func() []api.Worker]
	shares                                                  *shareMetrics
}

// family is a counter by one set of labels.
type family struct{ *prometheus.CounterVec }

func (f family) add(labels ...string) { f.WithLabelValues(labels...).Inc() }

func newMetrics(cfg Config, r *Recorder) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), codes: map[api.Code]string{"": "ok"}}
	for _, c := range api.Catalogue {
		m.codes[c.Code] = string(c.Code)
	}
	m.requests = newRequestFamilies(m.registry)
	m.series = newSeriesCache(cfg.Series, &m.requests)
	m.workerStarts = m.counter("worker_starts_total", "Worker processes started.")
	m.workerLost = m.counter("worker_lost_total", "Worker processes that ended unasked, by class of reason.", "reason")
	m.loads = m.counter("model_loads_total", "Models loaded into a worker.")
	m.loadFailures = m.counter("load_failures_total", "Loads of a model that failed, by error code.", "code")
	m.releases = m.counter("releases_total", "Releases that ended, by kind and final state.", "kind", "state")
	m.loadTime = m.histogram("model_load_duration_seconds", "Time to load a model into a worker.", loadBuckets)
	m.warmTime = m.histogram("model_warm_duration_seconds", "Time to warm a loaded model.", loadBuckets)
	m.evictions = m.counter("model_evictions_total", "Models put to sleep, by reason.", "reason")
	m.coldStart = prometheus.NewHistogramVec(histogramOpts("cold_start_seconds", "What a request that woke a model waited for, by phase: queue, place, fetch, load, warm.", loadBuckets), []string{"phase"})
	m.registry.MustRegister(m.coldStart)
	m.effect = m.histogram("rollback_effect_seconds", "From the command of a rollback to its effect.", effectBuckets)
	m.workerStarts.WithLabelValues() // exists from the start, so that rate() sees the first one
	m.loads.WithLabelValues()

	m.function("exchanges_dropped_total", "Exchanges lost because the ring was full.", &r.ring.dropped)
	if r.tracer != nil {
		m.function("spans_sent_total", "Spans that the collector took.", &r.tracer.sent)
		m.function("spans_dropped_total", "Spans lost because the collector was slow or away.", &r.tracer.dropped)
	}
	m.gauge("workers_ready", "Worker processes that can answer.", func(*api.Worker) int { return 1 })
	m.gauge("replicas_loaded", "Models loaded in ready workers.", func(w *api.Worker) int { return len(w.Instances) })
	build := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "penstock", Name: "build_info", Help: "Always 1.",
		ConstLabels: prometheus.Labels{"version": cfg.Version, "go_version": runtime.Version()}})
	build.Set(1)
	m.shares = newShareMetrics()
	m.registry.MustRegister(m.shares, build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) counter(name, help string, labels ...string) family {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "penstock", Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return family{v}
}

func (m *metrics) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(histogramOpts(name, help, buckets))
	m.registry.MustRegister(h)
	return h
}

func (m *metrics) function(name, help string, count *atomic.Uint64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(
		prometheus.CounterOpts{Namespace: "penstock", Name: name, Help: help},
		func() float64 { return float64(count.Load()) }))
}

// gauge sums over the workers that are ready, whenever somebody scrapes.
func (m *metrics) gauge(name, help string, each func(*api.Worker) int) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Namespace: "penstock", Name: name, Help: help}, func() float64 {
			workers := m.fleet.Load()
			if workers == nil {
				return 0
			}
			sum := 0
			for _, w := range (*workers)() {
				if w.State == "ready" {
					sum += each(&w)
				}
			}
			return float64(sum)
		}))
}

// histogramOpts makes every histogram native and classic at once: old scrapers and new ones both get theirs.
func histogramOpts(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Namespace: "penstock", Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: nativeFactor, NativeHistogramMaxBucketNumber: nativeBuckets,
		NativeHistogramMinResetDuration: nativeReset}
}

func (m *metrics) handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true,
		ErrorHandling: promhttp.ContinueOnError, ErrorLog: &scrapeLog{log: newSparse(log)},
		MaxRequestsInFlight: scrapesAtOnce, Timeout: scrapeTimeout})
}

// scrapeLog lets promhttp speak through slog.
type scrapeLog struct{ log *sparse }

// Println implements promhttp.Logger.
func (l *scrapeLog) Println(v ...any) { l.log.warn("scrape of metrics", "fault", v) }

// Watch names where the gauges of workers and replicas come from; it is asked at every scrape.
func (r *Recorder) Watch(workers func() []api.Worker) { r.metrics.fleet.Store(&workers) }

// WatchCaches names where the gauge of the response caches' memory comes from; it is asked at every scrape.
func (r *Recorder) WatchCaches(bytes func() int64) {
	r.metrics.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "penstock", Name: "cache_bytes",
		Help: "Memory of all response caches."}, func() float64 { return float64(bytes()) }))
}

// WorkerStarted counts a worker process that was started.
func (r *Recorder) WorkerStarted(_ string) { r.metrics.workerStarts.add() }

// WorkerLost counts a worker process that ended unasked. The reason is a process's end ("exit status 2", "signal:
// killed") or a class such as "unresponsive" in lower case and underscores; anything else counts as "other".
func (r *Recorder) WorkerLost(_, reason string) {
	r.metrics.workerLost.add(r.metrics.reasons.class(reason))
}

// ModelLoaded counts a model that was loaded and warmed, and how long each took.
func (r *Recorder) ModelLoaded(_ string, load, warm time.Duration) {
	r.metrics.loads.add()
	r.metrics.loadTime.Observe(load.Seconds())
	r.metrics.warmTime.Observe(warm.Seconds())
}

// LoadFailed counts a load that failed.
func (r *Recorder) LoadFailed(_ string, code api.Code) {
	if code == "" {
		code = api.CodeLoadFailed
	}
	r.metrics.loadFailures.add(r.metrics.code(code))
}

// ReleaseEnded counts a release in its final state, and the time a rollback took to have effect.
func (r *Recorder) ReleaseEnded(rel api.Release) {
	kind, state := other, other
	if rel.Kind == api.ReleaseDeploy || rel.Kind == api.ReleaseRollback {
		kind = string(rel.Kind)
	}
	if rel.State.Final() {
		state = string(rel.State)
	}
	r.metrics.releases.add(kind, state)
	if rel.Kind == api.ReleaseRollback && rel.State == api.ReleaseSucceeded && rel.EffectUS > 0 {
		r.metrics.effect.Observe(float64(rel.EffectUS) / 1e6)
	}
}

// code gives the label of a code; one that is not in the catalogue is a fault of ours.
func (m *metrics) code(c api.Code) string {
	if label, known := m.codes[c]; known {
		return label
	}
	return string(api.CodeInternal)
}

// words admits a bounded number of distinct well-formed labels.
type words struct {
	mu   sync.Mutex // guards seen
	seen map[string]struct{}
}

func (w *words) class(s string) string {
	s = strings.TrimSuffix(s, " (core dumped)")
	if strings.HasPrefix(s, "exit status ") || strings.HasPrefix(s, "signal: ") {
		s = strings.ReplaceAll(strings.Replace(s, ":", "", 1), " ", "_")
	}
	if s == "" || len(s) > reasonLengthMax {
		return other
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return other
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.seen[s]; known {
		return s
	}
	if len(w.seen) >= reasonLimit {
		return other
	}
	if w.seen == nil {
		w.seen = map[string]struct{}{}
	}
	w.seen[s] = struct{}{}
	return s
}

func versionLabel(v api.VersionNumber) string {
	if v == 0 {
		return ""
	}
	return strconv.FormatInt(int64(v), 10)
}
