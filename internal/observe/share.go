package observe

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/api"
)

// sharesTop is how many tenants have series of their own: those that used most since the start. The rest is summed up
// as "_other", which is no tenant's name, so that ten thousand tenants do not make ten thousand series.
const sharesTop = 50

// shareMetrics tells what tenants have of the workers, at every scrape anew.
type shareMetrics struct {
	shares  atomic.Pointer[func() []api.TenantShare]
	spent   *prometheus.Desc
	waiting *prometheus.Desc
	running *prometheus.Desc
	refused *prometheus.Desc
}

func newShareMetrics() *shareMetrics {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("penstock_"+name, help, append([]string{"tenant"}, labels...), nil)
	}
	return &shareMetrics{
		spent:   describe("tenant_execution_seconds_total", "Execution time that a tenant was given in the workers."),
		waiting: describe("tenant_waiting", "Requests of a tenant that wait for their turn."),
		running: describe("tenant_running", "Requests of a tenant that are in workers."),
		refused: describe("tenant_refused_total", "Requests of a tenant that were refused before they ran, by reason.", "reason"),
	}
}

// WatchShares gives the recorder what tenants have of the workers, for metrics.
func (r *Recorder) WatchShares(shares func() []api.TenantShare) {
	r.metrics.shares.shares.Store(&shares)
}

// Describe tells which metrics there are.
func (m *shareMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.spent, m.waiting, m.running, m.refused} {
		to <- d
	}
}

// Collect sends the values of now.
func (m *shareMetrics) Collect(to chan<- prometheus.Metric) {
	shares := m.shares.Load()
	if shares == nil {
		return
	}
	all := (*shares)()
	slices.SortStableFunc(all, func(a, b api.TenantShare) int { return cmp.Compare(b.Total, a.Total) })
	rest := api.TenantShare{Tenant: "_" + other, Refused: map[string]int64{}}
	for _, s := range all[min(len(all), sharesTop):] {
		rest.Total, rest.Waiting, rest.Running = rest.Total+s.Total, rest.Waiting+s.Waiting, rest.Running+s.Running
		for reason, n := range s.Refused {
			rest.Refused[reason] += n
		}
	}
	if len(all) > sharesTop {
		all = append(all[:sharesTop:sharesTop], rest)
	}
	for _, s := range all {
		tenant := string(s.Tenant)
		to <- prometheus.MustNewConstMetric(m.spent, prometheus.CounterValue, float64(s.Total)/float64(time.Second), tenant)
		to <- prometheus.MustNewConstMetric(m.waiting, prometheus.GaugeValue, float64(s.Waiting), tenant)
		to <- prometheus.MustNewConstMetric(m.running, prometheus.GaugeValue, float64(s.Running), tenant)
		for reason, n := range s.Refused {
			to <- prometheus.MustNewConstMetric(m.refused, prometheus.CounterValue, float64(n), tenant, reason)
		}
	}
}
