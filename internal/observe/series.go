package observe

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/api"
)

const (
	seriesIdle     = time.Hour   // a label set silent for so long may go when room is needed
	sweepPause     = time.Minute // at most one search for silent ones in this time
	tenantFraction = 4           // one tenant may hold this part of all label sets
)

// requestFamilies are the metrics of requests; the labels of all but the first are those of labelNames.
type requestFamilies struct {
	requests, bytesIn, bytesOut, copied, retries, unretried, cacheHits, cacheMisses *prometheus.CounterVec
	stepRuns, stepQueue, stepCompute                                                *prometheus.CounterVec
	total, queue, compute                                                           *prometheus.HistogramVec
	rows, wait                                                                      *prometheus.HistogramVec
}

func newRequestFamilies(reg *prometheus.Registry) requestFamilies {
	labels := []string{"tenant", "endpoint", "variant", "model", "version"}
	counter := func(name, help string, more ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "penstock", Name: name, Help: help},
			append(labels[:len(labels):len(labels)], more...))
		reg.MustRegister(v)
		return v
	}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(histogramOpts(name, help, buckets), labels)
		reg.MustRegister(v)
		return v
	}
	return requestFamilies{
		requests:    counter("requests_total", "Inference requests that ended, by code: ok or an error code.", "code"),
		bytesIn:     counter("request_bytes_total", "Tensor bytes received."),
		bytesOut:    counter("response_bytes_total", "Tensor bytes answered."),
		copied:      counter("copied_bytes_total", "Tensor bytes copied inside the server."),
		cacheHits:   counter("cache_hits_total", "Requests answered without a run of their own, from the response cache or with an identical request."),
		cacheMisses: counter("cache_misses_total", "Requests that ran after the response cache had no answer, failed ones included."),
		retries:     counter("retries_total", "Times a request was sent again to another worker."),
		unretried:   counter("retries_denied_total", "Requests not sent again after their worker was lost, since their endpoint's retry budget was spent."),
		stepRuns:    counter("step_runs_total", "Runs of one step of a chain.", "step"),
		stepQueue:   counter("step_queue_seconds_total", "Waiting of one step of a chain, in seconds.", "step"),
		stepCompute: counter("step_compute_seconds_total", "Running of one step of a chain, in seconds.", "step"),
		total:       histogram("request_duration_seconds", "From the request read to its answer, of requests that reached a variant.", requestBuckets),
		queue:       histogram("queue_duration_seconds", "Waiting in gateway and worker, of requests that reached a variant.", requestBuckets),
		compute:     histogram("compute_duration_seconds", "Inside the runtime, of requests that ran.", requestBuckets),
		rows:        histogram("batch_rows", "Rows of the batch that a request was run in, of requests run together with others.", rowBuckets),
		wait:        histogram("batch_wait_seconds", "Waiting for a batch, of requests that did not find their instance idle.", requestBuckets),
	}
}

// seriesKey names a label set; it is compared as it stands in the exchange, so that the common case makes no string.
type seriesKey struct {
	tenant   api.TenantID
	endpoint api.EndpointName
	variant  api.VariantName
	model    api.ModelName
	version  api.VersionNumber
}

// series is a label set with its metrics found already.
type series struct {
	labels                          []string
	codes                           map[api.Code]prometheus.Counter
	bytesIn, bytesOut, retries      prometheus.Counter
	copied, hits, misses, unretried prometheus.Counter // nil until there is something to count
	total, queue, compute           prometheus.Observer
	steps                           map[string]stepSeries // of a chain; nil else
	rows, wait                      prometheus.Observer   // nil until the first
	last                            api.Time
}

// stepSeries counts one step. The names of steps come from deployed chains; a label set holds those of one chain.
type stepSeries struct{ runs, queue, compute prometheus.Counter }

// step finds the counters of a step. Label sets that several endpoints share count all steps as one.
func (s *series) step(f *requestFamilies, name string) stepSeries {
	if s.labels[1] == other || len(s.steps) >= api.ChainStepsMax && s.steps[name].runs == nil {
		name = other
	}
	if found, ok := s.steps[name]; ok {
		return found
	}
	labels := append(s.labels[:len(s.labels):len(s.labels)], strings.ToValidUTF8(clip(name, textLimit), "\uFFFD"))
	made := stepSeries{f.stepRuns.WithLabelValues(labels...), f.stepQueue.WithLabelValues(labels...), f.stepCompute.WithLabelValues(labels...)}
	if s.steps == nil {
		s.steps = map[string]stepSeries{}
	}
	s.steps[name] = made
	return made
}

// seriesCache bounds the label sets: a tenant beyond its part shares one set under its own name, tenants beyond all
// of them share one set. Only the drain touches it.
type seriesCache struct {
	limit    int
	families *requestFamilies
	series   map[seriesKey]*series
	perOwner map[api.TenantID]int
	swept    api.Time
}

func newSeriesCache(limit int, families *requestFamilies) *seriesCache {
	return &seriesCache{limit: limit, families: families, series: map[seriesKey]*series{}, perOwner: map[api.TenantID]int{}}
}

// keyOf chooses the label set. Names that nobody has confirmed (an endpoint that does not exist, a caller without a
// key) must not become labels: they are the caller's invention.
func keyOf(e *api.Exchange) seriesKey {
	k := seriesKey{e.Tenant, e.Endpoint, e.Variant, e.Model, e.Version}
	if e.Code == "" || e.Revision != 0 {
		return k
	}
	switch e.Code.Kind() {
	case api.NotFound, api.Unauthenticated, api.Forbidden:
		return seriesKey{tenant: e.Tenant, endpoint: other}
	case api.Invalid:
		if e.Variant == "" {
			return seriesKey{tenant: e.Tenant, endpoint: other}
		}
	}
	return k
}

func (c *seriesCache) find(e *api.Exchange) *series {
	k := keyOf(e)
	if s := c.series[k]; s != nil {
		return s
	}
	if len(c.series) >= c.limit || c.perOwner[k.tenant] >= max(1, c.limit/tenantFraction) {
		c.sweep(e.Start)
	}
	if c.perOwner[k.tenant] >= max(1, c.limit/tenantFraction) {
		k = seriesKey{k.tenant, other, other, other, 0}
	}
	if s := c.series[k]; s != nil {
		return s
	}
	// The sets named "other" come on top of the limit: one for all, and one for each tenant within it.
	if len(c.series) >= c.limit && c.perOwner[k.tenant] == 0 {
		k = seriesKey{other, other, other, other, 0}
	} else if len(c.series) >= c.limit {
		k = seriesKey{k.tenant, other, other, other, 0}
	}
	if s := c.series[k]; s != nil {
		return s
	}
	return c.add(k)
}

func (c *seriesCache) add(k seriesKey) *series {
	version := versionLabel(k.version)
	if k.variant == other && k.model == other {
		version = other
	}
	f := c.families
	labels := []string{string(k.tenant), string(k.endpoint), string(k.variant), string(k.model), version}
	for i, l := range labels {
		labels[i] = strings.ToValidUTF8(clip(l, textLimit), "\uFFFD") // the registry refuses anything else
	}
	s := &series{labels: labels, codes: map[api.Code]prometheus.Counter{},
		bytesIn: f.bytesIn.WithLabelValues(labels...), bytesOut: f.bytesOut.WithLabelValues(labels...),
		retries: f.retries.WithLabelValues(labels...),
		total:   f.total.WithLabelValues(labels...), queue: f.queue.WithLabelValues(labels...),
		compute: f.compute.WithLabelValues(labels...)}
	c.series[k] = s
	c.perOwner[k.tenant]++
	return s
}

// sweep lets go of label sets that were silent for long: versions that serve no more.
func (c *seriesCache) sweep(now api.Time) {
	if now-c.swept < api.Time(sweepPause.Microseconds()) {
		return
	}
	c.swept = now
	for k, s := range c.series {
		if now-s.last < api.Time(seriesIdle.Microseconds()) {
			continue
		}
		delete(c.series, k)
		if c.perOwner[k.tenant]--; c.perOwner[k.tenant] == 0 {
			delete(c.perOwner, k.tenant)
		}
		names := prometheus.Labels{"tenant": s.labels[0], "endpoint": s.labels[1], "variant": s.labels[2],
			"model": s.labels[3], "version": s.labels[4]}
		for _, v := range []*prometheus.CounterVec{c.families.requests, c.families.stepRuns, c.families.stepQueue, c.families.stepCompute} {
			v.DeletePartialMatch(names)
		}
		for _, v := range []*prometheus.CounterVec{c.families.bytesIn, c.families.bytesOut, c.families.retries, c.families.unretried, c.families.copied,
			c.families.cacheHits, c.families.cacheMisses} {
			v.Delete(names)
		}
		for _, v := range []*prometheus.HistogramVec{c.families.total, c.families.queue, c.families.compute, c.families.rows, c.families.wait} {
			v.Delete(names)
		}
	}
}

// observe updates the request metrics. Called by the drain alone.
func (m *metrics) observe(e *api.Exchange) {
	s := m.series.find(e)
	s.last = max(s.last, e.Start)
	m.count(s, e.Code)
	s.bytesIn.Add(float64(max(0, e.BytesIn)))
	s.bytesOut.Add(float64(max(0, e.BytesOut)))
	if e.Retries > 0 {
		s.retries.Add(float64(e.Retries))
	}
	for i := range e.Steps {
		step := s.step(m.series.families, e.Steps[i].Name)
		step.runs.Inc()
		step.queue.Add(max(0, e.Steps[i].Queue.Seconds()))
		step.compute.Add(max(0, e.Steps[i].Compute.Seconds()))
	}
	f := &m.requests
	s.some(&s.copied, f.copied, e.Copied)
	if e.Unretried {
		s.some(&s.unretried, f.unretried, 1)
	}
	switch {
	case e.Cached:
		s.some(&s.hits, f.cacheHits, 1)
	case e.Lookup > 0:
		s.some(&s.misses, f.cacheMisses, 1)
	}
	if e.Variant == "" {
		return // refused at the door: its microseconds would flatter the latency
	}
	if seconds := e.Total.Seconds(); e.Sampled && e.TraceID != "" {
		exemplar(s.total, seconds, e.TraceID)
	} else {
		s.total.Observe(seconds)
	}
	s.queue.Observe(e.Queue.Seconds())
	if e.Compute > 0 {
		s.compute.Observe(e.Compute.Seconds())
	}
	m.batch(s, e)
}

// batch observes what batching did. Most series never see any, so theirs are made when they do.
func (m *metrics) batch(s *series, e *api.Exchange) {
	if e.Executed > 0 {
		if s.rows == nil {
			s.rows = m.requests.rows.WithLabelValues(s.labels...)
		}
		s.rows.Observe(float64(e.Executed))
	}
	if e.Wait > 0 {
		if s.wait == nil {
			s.wait = m.requests.wait.WithLabelValues(s.labels...)
		}
		s.wait.Observe(e.Wait.Seconds())
	}
}

// some adds to a counter that most label sets have no use for: it is made with the first thing to count.
func (s *series) some(counter *prometheus.Counter, family *prometheus.CounterVec, n int64) {
	if n <= 0 {
		return
	}
	if *counter == nil {
		*counter = family.WithLabelValues(s.labels...)
	}
	(*counter).Add(float64(n))
}

// count adds to the counter of a code; the empty code is success.
func (m *metrics) count(s *series, code api.Code) {
	if counter := s.codes[code]; counter != nil {
		counter.Inc()
		return
	}
	label := m.code(code)
	if label == string(api.CodeInternal) {
		code = api.CodeInternal // codes that nobody knows share one entry
	}
	counter := s.codes[code]
	if counter == nil {
		counter = m.requests.requests.WithLabelValues(append(s.labels[:len(s.labels):len(s.labels)], label)...)
		s.codes[code] = counter
	}
	counter.Inc()
}

// exemplar observes with the trace beside the figure. The registry takes at most 128 characters of exemplar, and panics
// on more, so only a real trace id goes in.
func exemplar(o prometheus.Observer, seconds float64, traceID string) {
	if _, ok := parseID(traceID, 16); !ok {
		o.Observe(seconds)
		return
	}
	if with, able := o.(prometheus.ExemplarObserver); able {
		with.ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": traceID})
	}
}
