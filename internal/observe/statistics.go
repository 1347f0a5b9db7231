package observe

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/api"
)

// batchSizes is how many sizes of batch are counted apart per version; runs with further sizes count in the totals alone.
const batchSizes = 64

// statisticsKey names what is counted together: a version under an endpoint's name, whichever arm it stands in.
type statisticsKey struct {
	tenant   api.TenantID
	endpoint api.EndpointName
	version  api.VersionNumber
}

// statistics counts per version since the start. Whoever touches it holds the recorder's draining. Its size is bounded: at
// the limit the version of the same tenant, or else of all, that was silent longest is forgotten.
type statistics struct {
	limit    int
	counts   map[statisticsKey]*tally
	perOwner map[api.TenantID]int
}

// tally is one version's counts.
type tally struct {
	api.ModelStatistics
	seen    api.Time // start of the newest exchange, failures included
	runs    float64  // each request adds its part of the run that it shared
	batches map[uint64]*portion
}

// portion counts the runs of one size of batch. Of a run that requests share, each adds its part, by its rows.
type portion struct{ runs, ns float64 }

func (p *portion) spent() api.Spent {
	return api.Spent{Count: uint64(math.Round(p.runs)), NS: uint64(math.Round(p.ns))}
}

func newStatistics(limit int) *statistics {
	return &statistics{limit: limit, counts: map[statisticsKey]*tally{}, perOwner: map[api.TenantID]int{}}
}

// add counts one exchange. One that reached no version counts nowhere: its endpoint's name may be the caller's invention.
func (s *statistics) add(e *api.Exchange) {
	if e.Version == 0 {
		return
	}
	k := statisticsKey{e.Tenant, e.Endpoint, e.Version}
	t := s.counts[k]
	if t == nil {
		t = s.make(k)
	}
	t.seen = max(t.seen, e.Start)
	if e.Code != "" {
		spend(&t.Failed, e.Total)
		return
	}
	t.Last = max(t.Last, e.Start)
	if e.Cached {
		// Triton counts a hit as a request that succeeded, not as an inference.
		spend(&t.Succeeded, e.Total)
		spend(&t.Queue, e.Queue)
		spend(&t.CacheHit, e.Lookup)
		return
	}
	if e.Lookup > 0 {
		spend(&t.CacheMiss, e.Lookup)
	}
	rows := uint64(max(1, e.Batch))
	size := max(rows, uint64(max(0, e.Executed)))
	part := float64(rows) / float64(size)
	t.Items = saturate(t.Items, rows)
	t.runs += part
	spend(&t.Succeeded, e.Total)
	spend(&t.Queue, e.Queue)
	spend(&t.Compute, e.Compute)
	batch := t.batches[size]
	if batch == nil {
		if len(t.batches) >= batchSizes {
			return
		}
		batch = &portion{}
		t.batches[size] = batch
	}
	batch.runs += part
	batch.ns += part * float64(max(0, e.Compute))
}

func spend(s *api.Spent, d time.Duration) {
	s.Count++
	s.NS = saturate(s.NS, uint64(max(0, d)))
}

// saturate adds without wrapping: a counter that went back to little would look like a restart.
func saturate(a, b uint64) uint64 {
	sum, carry := bits.Add64(a, b, 0)
	return sum | -carry
}

// make begins a version's counts, in place of another's when there are too many.
func (s *statistics) make(k statisticsKey) *tally {
	if s.perOwner[k.tenant] >= max(1, s.limit/tenantFraction) {
		s.forget(func(o statisticsKey) bool { return o.tenant == k.tenant })
	} else if len(s.counts) >= s.limit {
		s.forget(func(statisticsKey) bool { return true })
	}
	t := &tally{batches: map[uint64]*portion{}}
	t.Tenant, t.Endpoint, t.Version = k.tenant, k.endpoint, k.version
	s.counts[k] = t
	s.perOwner[k.tenant]++
	return t
}

func (s *statistics) forget(among func(statisticsKey) bool) {
	var oldest *statisticsKey
	var since api.Time
	for k, t := range s.counts {
		if among(k) && (oldest == nil || t.seen < since) {
			oldest, since = &k, t.seen
		}
	}
	if oldest == nil {
		return
	}
	delete(s.counts, *oldest)
	if s.perOwner[oldest.tenant]--; s.perOwner[oldest.tenant] == 0 {
		delete(s.perOwner, oldest.tenant)
	}
}

// pick copies the counts of those that pass, by tenant, endpoint and version.
func (s *statistics) pick(pass func(statisticsKey) bool) []api.ModelStatistics {
	var list []api.ModelStatistics
	for k, t := range s.counts {
		if !pass(k) {
			continue
		}
		one := t.ModelStatistics
		one.Runs = uint64(math.Round(t.runs))
		for size, of := range t.batches {
			one.Batches = append(one.Batches, api.BatchStatistics{Size: size, Compute: of.spent()})
		}
		slices.SortFunc(one.Batches, func(a, b api.BatchStatistics) int { return cmp.Compare(a.Size, b.Size) })
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b api.ModelStatistics) int {
		return cmp.Or(strings.Compare(string(a.Tenant), string(b.Tenant)),
			strings.Compare(string(a.Endpoint), string(b.Endpoint)), cmp.Compare(a.Version, b.Version))
	})
	return list
}

// Statistics gives what the tenant's versions have answered since the start, by endpoint and version: those of one endpoint,
// or of all when it is empty. What was recorded before the call is in it. A version that was never called is not.
func (r *Recorder) Statistics(t api.TenantID, endpoint api.EndpointName) []api.ModelStatistics {
	r.drain()
	r.draining.Lock()
	defer r.draining.Unlock()
	return r.statistics.pick(func(k statisticsKey) bool {
		return k.tenant == t && (endpoint == "" || k.endpoint == endpoint)
	})
}

// aliases gives the statistics under the names that dashboards made for Triton look for. They are made when somebody
// scrapes, so that they cost a request nothing.
type aliases struct {
	recorder *Recorder
	families []aliasFamily
}

type aliasFamily struct {
	desc  *prometheus.Desc
	value func(*api.ModelStatistics) float64
}

func newAliases(r *Recorder) *aliases {
	a := &aliases{recorder: r}
	family := func(name, help string, value func(*api.ModelStatistics) float64) {
		desc := prometheus.NewDesc("nv_inference_"+name, help, []string{"model", "version", "tenant"}, nil)
		a.families = append(a.families, aliasFamily{desc, value})
	}
	micros := func(name, help string, spent func(*api.ModelStatistics) uint64) {
		family(name+"_duration_us", help, func(s *api.ModelStatistics) float64 { return float64(spent(s) / 1000) })
	}
	family("request_success", "Requests answered; model is the endpoint.", func(s *api.ModelStatistics) float64 { return float64(s.Succeeded.Count) })
	family("request_failure", "Requests that reached a version and failed.", func(s *api.ModelStatistics) float64 { return float64(s.Failed.Count) })
	family("count", "Inferences, each item of a batch for itself.", func(s *api.ModelStatistics) float64 { return float64(s.Items) })
	family("exec_count", "Runs of the model.", func(s *api.ModelStatistics) float64 { return float64(s.Runs) })
	micros("request", "From the request read to its answer.", func(s *api.ModelStatistics) uint64 { return saturate(s.Succeeded.NS, s.Failed.NS) })
	micros("queue", "Waiting in gateway and worker.", func(s *api.ModelStatistics) uint64 { return s.Queue.NS })
	micros("compute_input", "Not measured apart: 0.", func(*api.ModelStatistics) uint64 { return 0 })
	micros("compute_infer", "Inside the runtime.", func(s *api.ModelStatistics) uint64 { return s.Compute.NS })
	micros("compute_output", "Not measured apart: 0.", func(*api.ModelStatistics) uint64 { return 0 })
	family = func(name, help string, value func(*api.ModelStatistics) float64) {
		desc := prometheus.NewDesc("nv_cache_"+name, help, []string{"model", "version", "tenant"}, nil)
		a.families = append(a.families, aliasFamily{desc, value})
	}
	family("num_hits_per_model", "Requests answered from the response cache.", func(s *api.ModelStatistics) float64 { return float64(s.CacheHit.Count) })
	family("num_misses_per_model", "Requests that the response cache had no answer for.", func(s *api.ModelStatistics) float64 { return float64(s.CacheMiss.Count) })
	family("hit_duration_per_model", "Looking up, of hits, in microseconds.", func(s *api.ModelStatistics) float64 { return float64(s.CacheHit.NS / 1000) })
	family("miss_duration_per_model", "Looking up and keeping, of misses, in microseconds.", func(s *api.ModelStatistics) float64 { return float64(s.CacheMiss.NS / 1000) })
	return a
}

// Describe implements prometheus.Collector.
func (a *aliases) Describe(to chan<- *prometheus.Desc) {
	for _, f := range a.families {
		to <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (a *aliases) Collect(to chan<- prometheus.Metric) {
	a.recorder.draining.Lock()
	list := a.recorder.statistics.pick(func(statisticsKey) bool { return true })
	a.recorder.draining.Unlock()
	for i := range list {
		s := &list[i]
		labels := []string{string(s.Endpoint), versionLabel(s.Version), string(s.Tenant)}
		for j, l := range labels {
			labels[j] = strings.ToValidUTF8(l, "\uFFFD") // the registry refuses anything else
		}
		for _, f := range a.families {
			to <- prometheus.MustNewConstMetric(f.desc, prometheus.CounterValue, f.value(s), labels...)
		}
	}
}
