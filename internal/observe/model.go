package observe

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/api"
)

// topModels is how many models have series of their own, those that take most memory; the others are summed up.
const topModels = 20

// ModelEvicted counts a model that was put to sleep.
func (r *Recorder) ModelEvicted(reason string) { r.metrics.evictions.add(reason) }

// ColdStart counts how long a request's model took until it answered.
func (r *Recorder) ColdStart(p api.ColdStart) {
	for phase, took := range map[string]time.Duration{"queue": p.Queue, "place": p.Place, "fetch": p.Fetch, "load": p.Load, "warm": p.Warm} {
		r.metrics.coldStart.WithLabelValues(phase).Observe(took.Seconds())
	}
}

// WatchModels names where the figures of what is in memory come from; they are asked at every scrape.
func (r *Recorder) WatchModels(memory func() api.ModelMemory, loaded func() []api.LoadedModel) {
	r.metrics.registry.MustRegister(&modelCollector{memory, loaded})
}

// modelCollector makes the series of what is in memory.
type modelCollector struct {
	memory func() api.ModelMemory
	loaded func() []api.LoadedModel
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("penstock_"+name, help, labels, nil)
}

var (
	memoryBytes  = describe("model_memory_bytes", "Memory of the workers, by dimension and kind: limit, budget (of models), used (by models), beside (models).", "dimension", "kind")
	modelsNow    = describe("models", "Models that are deployed, by state: loaded or asleep.", "state")
	modelAsked   = describe("model_requests_total", "Requests, by whether their model was in memory: hit or miss.", "result")
	modelBytes   = describe("model_bytes", "Memory by model: those that take most, and the others together.", "tenant", "model")
	modelMissing = describe("model_misses_total", "Requests that waited for their model to be loaded, by model: those that take most memory.", "tenant", "model")
)

// Describe implements prometheus.Collector.
func (c *modelCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{memoryBytes, modelsNow, modelAsked, modelBytes, modelMissing} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *modelCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	count := func(d *prometheus.Desc, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	m := c.memory()
	for kind, v := range map[string]int64{"limit": m.Limit, "budget": m.Budget, "used": m.Used, "beside": m.Beside} {
		gauge(memoryBytes, v, "ram", kind)
	}
	gauge(modelsNow, int64(m.Loaded), "loaded")
	gauge(modelsNow, int64(m.Asleep), "asleep")
	count(modelAsked, m.Requests-m.Misses, "hit")
	count(modelAsked, m.Misses, "miss")
	type key struct {
		tenant api.TenantID
		model  string
	}
	bytes, misses := map[key]int64{}, map[key]int64{}
	for _, l := range c.loaded() {
		k := key{l.Tenant, l.Model} // instances of one model differ in settings alone
		bytes[k] += l.Bytes * int64(len(l.Copies))
		misses[k] += l.Misses
	}
	keys := make([]key, 0, len(bytes))
	for k := range bytes {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b key) int { return int(bytes[b]>>10 - bytes[a]>>10) })
	rest := int64(0)
	for i, k := range keys {
		if i >= topModels {
			rest += bytes[k]
			continue
		}
		gauge(modelBytes, bytes[k], string(k.tenant), k.model)
		count(modelMissing, misses[k], string(k.tenant), k.model)
	}
	gauge(modelBytes, rest, other, other)
}
