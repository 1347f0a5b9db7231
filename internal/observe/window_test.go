package observe_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/observe"
)

// TestRecentStatistics lets random requests end over ten minutes and compares what is told now and then with what a list of
// all of them says.
func TestRecentStatistics(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	synctest.Test(t, func(t *testing.T) {
		r, err := observe.New(observe.Config{NoAliases: true})
		if err != nil {
			t.Fatal(err)
		}
		var all []api.Exchange
		<-time.After(time.Second) // off the slots' edges
		for range 300 {
			<-time.After(2 * time.Second)
			for range rng.IntN(40) {
				e := api.Exchange{Tenant: "default", Endpoint: "e", Variant: "main", Version: 1, Revision: 1, Batch: 1 + rng.Int64N(8),
					Total: time.Duration(math.Exp(rng.Float64()*14)) * time.Microsecond, BytesIn: 100, BytesOut: 10}
				e.Queue, e.Compute, e.Start = e.Total/4, e.Total/2, api.TimeOf(time.Now().Add(-e.Total))
				switch rng.IntN(6) {
				case 0:
					e.Code = api.CodeInferenceFailed
				case 1:
					e.Cached, e.Lookup, e.Compute = true, 1, 0
				case 2:
					e.Lookup, e.Copied, e.Executed = 1, 10, 16
				}
				all = append(all, e)
				r.Record(e)
			}
			span := []time.Duration{2 * time.Second, 10 * time.Second, time.Minute}[rng.IntN(3)]
			compare(t, r.RecentStatistics("default", span), all, span)
			if len(r.RecentStatistics("other", span).Endpoints) != 0 {
				t.Fatal("another tenant sees the endpoint")
			}
		}
		<-time.After(2 * time.Minute)
		if s := r.RecentStatistics("default", time.Minute); len(s.Endpoints) != 0 {
			t.Errorf("two silent minutes later: %+v", s.Endpoints)
		}
	})
}

func compare(t *testing.T, got api.Statistics, all []api.Exchange, span time.Duration) {
	t.Helper()
	// The span's last slot is under way: it began at an even second.
	now := got.At.Std()
	from := now.Truncate(2 * time.Second).Add(2*time.Second - span)
	var latencies []time.Duration
	var failed, ran, hits, asked, rows, copied float64
	for _, e := range all {
		if e.Start.Std().Add(e.Total).Before(from) {
			continue
		}
		latencies = append(latencies, e.Total)
		if e.Code != "" {
			failed++
		} else if !e.Cached {
			ran++
			rows += float64(max(e.Batch, e.Executed))
		}
		if e.Cached {
			hits++
		}
		if e.Lookup > 0 {
			asked++
		}
		copied += float64(e.Copied)
	}
	if len(latencies) == 0 {
		return
	}
	slices.Sort(latencies)
	if first := all[0].Start.Std().Add(all[0].Total).Truncate(2 * time.Second); from.Before(first) { // nothing was known before
		from = first
	}
	seconds := now.Sub(from).Seconds()
	near := func(what string, got, want float64) {
		if math.Abs(got-want) > 1e-3+want*0.02 {
			t.Fatalf("%v: %s is %v, want %v", span, what, got, want)
		}
	}
	one := got.Endpoints[0]
	if all[0].Start != 0 && seconds > 0 {
		near("rate", one.Rate*seconds, float64(len(latencies)))
		near("errors", one.Errors*seconds, failed)
		near("copied", one.Copied*seconds, copied)
	}
	if ran > 0 {
		near("rows", one.Rows, rows/ran)
	}
	if asked > 0 {
		near("hits", one.CacheHits, hits/asked)
	}
	for q, have := range map[float64]time.Duration{.5: one.P50, .95: one.P95, .99: one.P99} {
		at := q * float64(len(latencies))
		low, high := latencies[max(0, int(at)-1)], latencies[min(len(latencies)-1, int(at)+1)]
		if float64(have) < float64(low)*0.87-1000 || float64(have) > float64(high)*1.13+1000 {
			t.Fatalf("%v: quantile %v is %v, want %v to %v of %d", span, q, have, low, high, len(latencies))
		}
	}
}

// TestRecentStatisticsAreBounded: names come and go, memory does not grow with them.
func TestRecentStatisticsAreBounded(t *testing.T) {
	r, err := observe.New(observe.Config{NoAliases: true, Series: 40})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		name := api.EndpointName("e" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)))
		r.Record(api.Exchange{Tenant: "busy", Endpoint: name, Variant: "main", Version: 1, Revision: 1, Start: api.TimeOf(time.Now())})
	}
	r.Record(api.Exchange{Tenant: "quiet", Endpoint: "e", Variant: "main", Version: 1, Revision: 1, Start: api.TimeOf(time.Now())})
	r.Record(api.Exchange{Tenant: "busy", Endpoint: "invented", Code: api.CodeEndpointNotFound, Start: api.TimeOf(time.Now())})
	if n := len(r.RecentStatistics("busy", time.Minute).Endpoints); n != 10 {
		t.Errorf("one tenant has %d endpoints of 40", n)
	}
	if n := len(r.RecentStatistics("quiet", time.Minute).Endpoints); n != 1 {
		t.Errorf("the quiet one has %d", n)
	}
}
