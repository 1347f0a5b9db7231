package observe_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/observe"
)

// newRecorder makes a recorder that nobody runs: Recent, Follow and the handler drain it by themselves.
func newRecorder(t testing.TB, cfg observe.Config) *observe.Recorder {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r, err := observe.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run runs the recorder until the test ends or stop is called, which waits for Run to return.
func run(t testing.TB, r *observe.Recorder) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func exchange(n int) api.Exchange {
	return api.Exchange{RequestID: fmt.Sprintf("r%d", n), Tenant: "default", Key: "k1", Endpoint: "digits", Revision: 1,
		Variant: "main", Model: "digits", Version: 2, Worker: "w1", Protocol: "oip-http", Start: api.Time(1e15 + n),
		Total: 3 * time.Millisecond, Queue: time.Millisecond, Compute: time.Millisecond, BytesIn: 256, BytesOut: 40, Batch: 1}
}

// scrape reads the metrics as one scraper would, in the format that the Accept header asks for.
func scrape(t testing.TB, r *observe.Recorder, accept string) (map[string]*dto.MetricFamily, string) {
	t.Helper()
	server := httptest.NewServer(r.Handler())
	defer server.Close()
	req := httptest.NewRequest("GET", server.URL, nil)
	req.RequestURI = ""
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	res, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		t.Fatalf("status %d", res.StatusCode)
	}
	families := map[string]*dto.MetricFamily{}
	format := expfmt.ResponseFormat(res.Header)
	if format.FormatType() == expfmt.TypeOpenMetrics || strings.Contains(res.Header.Get("Content-Type"), "openmetrics") {
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return nil, string(body)
	}
	decoder := expfmt.NewDecoder(res.Body, format)
	for {
		f := new(dto.MetricFamily)
		if err := decoder.Decode(f); errors.Is(err, io.EOF) {
			return families, res.Header.Get("Content-Type")
		} else if err != nil {
			t.Fatal(err)
		}
		families[f.GetName()] = f
	}
}

// sum adds up a family's counters or gauges whose labels contain all of want ("name=value").
func sum(f *dto.MetricFamily, want ...string) float64 {
	total := 0.0
	for _, m := range f.GetMetric() {
		labels := map[string]bool{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()+"="+l.GetValue()] = true
		}
		matches := true
		for _, w := range want {
			matches = matches && labels[w]
		}
		if matches {
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return total
}

const protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

func TestMetricsReachEveryKindOfScraper(t *testing.T) {
	r := newRecorder(t, observe.Config{Version: "1.2.3"})
	for n := range 10 {
		r.Record(exchange(n))
	}
	failed := exchange(10)
	failed.Code, failed.Error, failed.Retries, failed.Unretried = api.CodeWorkerLost, "gone", 2, true
	r.Record(failed)
	unknown := exchange(11)
	unknown.Code = "no such code"
	r.Record(unknown)
	r.WorkerStarted("w1")
	r.WorkerLost("w1", "signal_killed")
	r.WorkerLost("w1", "signal: killed")
	r.WorkerLost("w1", "signal: segmentation fault (core dumped)")
	r.WorkerLost("w1", "exit status 3: \n what")
	r.ModelLoaded("digits@2", 20*time.Millisecond, time.Millisecond)
	r.LoadFailed("digits@3", api.CodeModelCrashes)
	r.ReleaseEnded(api.Release{Kind: api.ReleaseRollback, State: api.ReleaseSucceeded, EffectUS: 4000})
	r.Watch(func() []api.Worker {
		return []api.Worker{{State: "ready", Instances: []string{"a", "b"}}, {State: "lost", Instances: []string{"c"}}}
	})

	for _, c := range []struct{ name, accept, content string }{
		{"text", "", "text/plain"}, {"protobuf", protobuf, "protobuf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, content := scrape(t, r, c.accept)
			if !strings.Contains(content, c.content) {
				t.Fatalf("content type %q", content)
			}
			for _, w := range []struct {
				family string
				labels []string
				want   float64
			}{
				{"penstock_requests_total", []string{"code=ok", "tenant=default", "endpoint=digits", "variant=main", "model=digits", "version=2"}, 10},
				{"penstock_requests_total", []string{"code=worker_lost"}, 1},
				{"penstock_requests_total", []string{"code=internal"}, 1},
				{"penstock_retries_total", nil, 2},
				{"penstock_retries_denied_total", nil, 1},
				{"penstock_request_bytes_total", nil, 12 * 256},
				{"penstock_response_bytes_total", nil, 12 * 40},
				{"penstock_request_duration_seconds", nil, 12},
				{"penstock_queue_duration_seconds", nil, 12},
				{"penstock_compute_duration_seconds", []string{"endpoint=digits"}, 12},
				{"penstock_exchanges_dropped_total", nil, 0},
				{"penstock_worker_starts_total", nil, 1},
				{"penstock_worker_lost_total", []string{"reason=signal_killed"}, 2},
				{"penstock_worker_lost_total", []string{"reason=signal_segmentation_fault"}, 1},
				{"penstock_worker_lost_total", []string{"reason=other"}, 1},
				{"penstock_model_loads_total", nil, 1},
				{"penstock_model_load_duration_seconds", nil, 1},
				{"penstock_model_warm_duration_seconds", nil, 1},
				{"penstock_load_failures_total", []string{"code=model_crashes_runtime"}, 1},
				{"penstock_releases_total", []string{"kind=rollback", "state=succeeded"}, 1},
				{"penstock_rollback_effect_seconds", nil, 1},
				{"penstock_workers_ready", nil, 1},
				{"penstock_replicas_loaded", nil, 2},
				{"penstock_build_info", []string{"version=1.2.3"}, 1},
			} {
				if f[w.family] == nil {
					t.Errorf("%s is missing", w.family)
				} else if got := sum(f[w.family], w.labels...); got != w.want {
					t.Errorf("%s%v = %v, want %v", w.family, w.labels, got, w.want)
				}
			}
			for _, name := range []string{"go_goroutines", "process_start_time_seconds"} {
				if f[name] == nil {
					t.Errorf("%s is missing", name)
				}
			}
			h := f["penstock_request_duration_seconds"].GetMetric()[0].GetHistogram()
			if len(h.GetBucket()) < 15 {
				t.Errorf("only %d classic buckets", len(h.GetBucket()))
			}
			if native := len(h.GetPositiveSpan()) > 0 && h.GetSchema() == 3; native != (c.accept != "") {
				t.Errorf("native %v: schema %d, %d spans", native, h.GetSchema(), len(h.GetPositiveSpan()))
			}
		})
	}
	if _, body := scrape(t, r, "application/openmetrics-text;version=1.0.0"); !strings.HasSuffix(body, "# EOF\n") ||
		!strings.Contains(body, `penstock_requests_total{code="ok"`) {
		t.Errorf("openmetrics: %.200s", body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	response := httptest.NewRecorder()
	r.Handler().ServeHTTP(response, httptest.NewRequest("GET", "/metrics", nil))
	if _, err := parser.TextToMetricFamilies(response.Body); err != nil {
		t.Errorf("strict parser: %v", err)
	}
}

func TestSampledExchangesLeaveExemplars(t *testing.T) {
	r := newRecorder(t, observe.Config{})
	e := exchange(1)
	e.Sampled, e.TraceID = true, "0af7651916cd43dd8448eb211c80319c"
	r.Record(e)
	e.TraceID = strings.Repeat("x", 500) // must not reach the registry, which panics on it
	r.Record(e)
	if _, body := scrape(t, r, "application/openmetrics-text"); !strings.Contains(body, `trace_id="0af7651916cd43dd8448eb211c80319c"`) {
		t.Error("no exemplar")
	}
}

func TestReasonsOfLossAreBounded(t *testing.T) {
	r := newRecorder(t, observe.Config{})
	for n := range 200 {
		r.WorkerLost("w", fmt.Sprintf("exit status %d", n))
		r.WorkerLost("w", fmt.Sprintf("exit status %d: %s", n, strings.Repeat("stack ", 100)))
	}
	f, _ := scrape(t, r, "")
	if lost := f["penstock_worker_lost_total"]; len(lost.GetMetric()) != 17 || sum(lost) != 400 {
		t.Errorf("%d classes, %v lost", len(lost.GetMetric()), sum(lost))
	}
}

func TestLabelsAreBounded(t *testing.T) {
	const limit = 40
	r := newRecorder(t, observe.Config{Series: limit})
	for tenant := range 100 {
		for endpoint := range 30 {
			e := exchange(endpoint)
			e.Tenant, e.Endpoint = api.TenantID(fmt.Sprint("t", tenant)), api.EndpointName(fmt.Sprint("e", endpoint))
			r.Record(e)
		}
	}
	bad := exchange(0)
	bad.Endpoint = "\xff\x00\nworse"
	r.Record(bad)
	f, _ := scrape(t, r, "")
	requests := f["penstock_requests_total"]
	if n := len(requests.GetMetric()); n > 2*limit {
		t.Errorf("%d label sets over the limit %d", n, limit)
	}
	if got := sum(requests); got != 100*30+1 {
		t.Errorf("counted %v of 3001", got)
	}
	if got := sum(requests, "tenant=t0"); got != 30 {
		t.Errorf("the first tenant's requests are %v, want all 30 under its own name", got)
	}
	if sum(requests, "tenant=t0", "endpoint=other") == 0 || sum(requests, "tenant=other") == 0 {
		t.Error("nothing is labelled other")
	}
}

func TestInventedNamesMakeNoLabels(t *testing.T) {
	r := newRecorder(t, observe.Config{})
	for n := range 500 {
		r.Record(api.Exchange{Tenant: "default", Endpoint: api.EndpointName(fmt.Sprint("guess", n)), Code: api.CodeEndpointNotFound, Start: 1})
	}
	f, _ := scrape(t, r, "")
	if n := len(f["penstock_requests_total"].GetMetric()); n != 1 {
		t.Errorf("%d label sets for endpoints that do not exist", n)
	}
	if got := sum(f["penstock_request_duration_seconds"]); got != 0 {
		t.Errorf("%v refusals count into the latency", got)
	}
}

// TestStepsAreCounted: every step of a chain has its runs and times; label sets that endpoints share have one for all.
func TestStepsAreCounted(t *testing.T) {
	r := newRecorder(t, observe.Config{Series: 4})
	record := func(endpoint api.EndpointName, steps ...string) {
		e := exchange(1)
		e.Endpoint = endpoint
		for _, name := range steps {
			e.Steps = append(e.Steps, api.StepTime{Name: name, Queue: time.Second, Compute: 2 * time.Second})
		}
		r.Record(e)
		r.Recent("default", observe.Filter{}) // drains
	}
	record("a", "one", "two")
	record("a", "one")
	for n := range 3 {
		record("b", fmt.Sprint("step", n)) // a tenant's second label set is shared
	}
	f, _ := scrape(t, r, "")
	for _, want := range []struct {
		family, label string
		value         float64
	}{{"penstock_step_runs_total", "step=one", 2}, {"penstock_step_runs_total", "step=two", 1}, {"penstock_step_queue_seconds_total", "step=one", 2},
		{"penstock_step_compute_seconds_total", "step=one", 4}, {"penstock_step_runs_total", "step=other", 3}, {"penstock_step_runs_total", "step=step0", 0}} {
		if got := sum(f[want.family], want.label); got != want.value {
			t.Errorf("%s{%s} is %v, want %v", want.family, want.label, got, want.value)
		}
	}
}

func TestSilentSeriesMakeRoom(t *testing.T) {
	r := newRecorder(t, observe.Config{Series: 8})
	hour := api.Time(time.Hour.Microseconds())
	for n := range 2 {
		e := exchange(0)
		e.Version = api.VersionNumber(n + 1)
		r.Record(e)
	}
	r.Recent("default", observe.Filter{}) // drains: the ring itself keeps no order
	late := exchange(0)
	late.Version, late.Start = 3, late.Start+2*hour
	r.Record(late)
	f, _ := scrape(t, r, "")
	if got := sum(f["penstock_requests_total"], "version=3"); got != 1 || len(f["penstock_requests_total"].GetMetric()) != 1 {
		t.Errorf("old versions keep their place: %v", f["penstock_requests_total"])
	}
}

// TestRingLosesNothingItHasRoomFor compares against a plain model: what is not counted as dropped was seen once.
func TestRingLosesNothingItHasRoomFor(t *testing.T) {
	const writers, each = 8, 2000
	for _, c := range []struct {
		name    string
		size    int
		running bool
		dropped float64
	}{
		{"room for all", writers * each, false, 0},
		{"room for all, drained meanwhile", writers * each, true, 0},
		{"nobody drains", 1001, false, writers*each - 1001},
		{"smaller than its shards", 3, false, writers*each - 3},
		{"overflows while drained", 64, true, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRecorder(t, observe.Config{Ring: c.size})
			stop := func() {}
			if c.running {
				stop = run(t, r)
			}
			var wait sync.WaitGroup
			for w := range writers {
				wait.Go(func() {
					for n := range each {
						r.Record(exchange(w*each + n))
					}
				})
			}
			wait.Wait()
			stop()
			f, _ := scrape(t, r, "")
			seen, dropped := sum(f["penstock_requests_total"]), sum(f["penstock_exchanges_dropped_total"])
			if seen+dropped != writers*each {
				t.Errorf("%v seen and %v dropped of %d", seen, dropped, writers*each)
			}
			if c.dropped >= 0 && dropped != c.dropped {
				t.Errorf("dropped %v, want %v", dropped, c.dropped)
			}
		})
	}
}

func TestRecentKeepsTenantsApart(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	const keep = 50
	r := newRecorder(t, observe.Config{Keep: keep})
	plain := map[api.TenantID][]api.Exchange{}
	for n := range 3000 {
		e := exchange(n)
		e.Tenant = api.TenantID([]string{"a", "b", "b", "b", "b", "c"}[random.IntN(6)])
		e.Endpoint = api.EndpointName([]string{"x", "y"}[random.IntN(2)])
		if random.IntN(40) == 0 {
			e.Code = api.CodeDeadline
		}
		r.Record(e)
		r.Recent("", observe.Filter{}) // drains: the ring itself keeps no order
		plain[e.Tenant] = append(plain[e.Tenant], e)
		if random.IntN(20) > 0 {
			continue
		}
		f := observe.Filter{Limit: random.IntN(keep), Endpoint: []api.EndpointName{"", "x", "z"}[random.IntN(3)]}
		tenant := api.TenantID([]string{"a", "b", "c", "", "A"}[random.IntN(5)])
		want := plain[tenant][max(0, len(plain[tenant])-keep):]
		var chosen []string
		for _, e := range want {
			if f.Endpoint == "" || f.Endpoint == e.Endpoint {
				chosen = append(chosen, e.RequestID)
			}
		}
		if f.Limit > 0 {
			chosen = chosen[max(0, len(chosen)-f.Limit):]
		}
		var got []string
		for _, e := range r.Recent(tenant, f) {
			if e.Tenant != tenant {
				t.Fatalf("tenant %q sees %q", tenant, e.Tenant)
			}
			got = append(got, e.RequestID)
		}
		if fmt.Sprint(got) != fmt.Sprint(chosen) {
			t.Fatalf("step %d, %+v of %q: got %v, want %v", n, f, tenant, got, chosen)
		}
	}
}

func TestFailuresOutlastSuccesses(t *testing.T) {
	r := newRecorder(t, observe.Config{Keep: 8})
	e := exchange(0)
	e.Code, e.Error = api.CodeDeadline, strings.Repeat("é", 5000)
	r.Record(e)
	for n := range 100 {
		r.Record(exchange(n + 1))
	}
	got := r.Recent("default", observe.Filter{ErrorsOnly: true})
	if len(got) != 1 || got[0].RequestID != "r0" {
		t.Fatalf("got %v", got)
	}
	if len(got[0].Error) > 600 || !strings.HasSuffix(got[0].Error, "é…") {
		t.Errorf("the message is %d bytes long", len(got[0].Error))
	}
}

func TestKeptTenantsAreBounded(t *testing.T) {
	r := newRecorder(t, observe.Config{KeepTenants: 3})
	for n := range 10 {
		e := exchange(n)
		e.Tenant = api.TenantID(fmt.Sprint("t", n))
		r.Record(e)
		r.Recent("t0", observe.Filter{}) // drains, so that the order between tenants is known
	}
	for n := range 10 {
		if got := len(r.Recent(api.TenantID(fmt.Sprint("t", n)), observe.Filter{})); (got == 1) != (n >= 7) {
			t.Errorf("tenant %d has %d", n, got)
		}
	}
}

func TestFollow(t *testing.T) {
	r := newRecorder(t, observe.Config{FollowerLag: 4, Followers: 2})
	stop := run(t, r)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.Record(exchange(99)) // before anybody follows
	mine := r.Follow(ctx, "default", observe.Filter{ErrorsOnly: true})
	slow := r.Follow(context.Background(), "default", observe.Filter{})
	if line, open := <-r.Follow(ctx, "default", observe.Filter{}); !open || !strings.Contains(line.Error, "2 followers are the limit") {
		t.Errorf("third follower: %v %+v", open, line)
	}
	foreign := exchange(0)
	foreign.Tenant, foreign.Code = "other", api.CodeDeadline
	r.Record(foreign)
	failed := exchange(1)
	failed.Code = api.CodeDeadline
	r.Record(failed)
	if got := <-mine; got.RequestID != "r1" {
		t.Errorf("got %+v", got)
	}
	for n := range 20 {
		r.Record(exchange(n + 2))
	}
	r.Recent("default", observe.Filter{}) // all 21 are told, as far as there was room
	seen, lost := 0, int64(0)
	for seen+int(lost) < 21 {
		e := <-slow
		if e.Tenant != "default" {
			t.Fatalf("foreign line %+v", e)
		}
		if n, is := observe.Lost(e); is {
			lost += n
		} else {
			seen++
		}
	}
	if seen < 4 || lost == 0 {
		t.Errorf("%d seen, %d lost", seen, lost)
	}
	cancel()
	for range mine {
		t.Error("a line after the end")
	}
	stop()
	for range slow {
		t.Error("a line after the end")
	}
	if _, open := <-r.Follow(context.Background(), "default", observe.Filter{}); open {
		t.Error("a follower after the end hears something")
	}
}

// TestNothingWaitsForTheNextRequest records at every moment around the drain's rest and sleep; a missed bell is a
// deadlock here.
func TestNothingWaitsForTheNextRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(t, observe.Config{})
		run(t, r)
		lines := r.Follow(t.Context(), "default", observe.Filter{})
		for n := range 100 {
			<-time.After(time.Duration(n%50) * time.Millisecond)
			r.Record(exchange(n))
			if got := <-lines; got.RequestID != fmt.Sprint("r", n) {
				t.Fatalf("got %s at %d", got.RequestID, n)
			}
		}
	})
}

func TestRecordMakesNoGarbage(t *testing.T) {
	r := newRecorder(t, observe.Config{})
	e := exchange(1)
	for range 3 { // both buffers of every shard grow to what is needed here
		for range 1000 {
			r.Record(e)
		}
		r.Recent("nobody", observe.Filter{})
	}
	if n := testing.AllocsPerRun(500, func() { r.Record(e) }); n != 0 {
		t.Errorf("%v allocations per exchange", n)
	}
}

// TestBurstsGiveTheirMemoryBack fills the ring once; two quiet drains later the burst must not weigh any more.
func TestBurstsGiveTheirMemoryBack(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	r := newRecorder(t, observe.Config{Keep: 10})
	before := heap()
	e := exchange(1)
	for range observe.DefaultRing {
		r.Record(e)
	}
	full := heap() - before
	for range 3 {
		r.Recent("default", observe.Filter{})
	}
	if quiet := heap() - before; full < 10<<20 || quiet > 5<<20 {
		t.Errorf("full %d KiB, quiet %d KiB", full>>10, quiet>>10)
	}
	runtime.KeepAlive(r)
}

func BenchmarkRecord(b *testing.B) {
	r := newRecorder(b, observe.Config{})
	run(b, r)
	e := exchange(1)
	b.ReportAllocs()
	for b.Loop() {
		r.Record(e)
	}
}

func BenchmarkRecordParallel(b *testing.B) {
	r := newRecorder(b, observe.Config{})
	run(b, r)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		e := exchange(1)
		for pb.Next() {
			r.Record(e)
		}
	})
}

// BenchmarkDrain measures what one exchange costs behind the request: metrics, history and, in one case, a follower.
func BenchmarkDrain(b *testing.B) {
	for _, c := range []struct {
		name     string
		followed bool
	}{{"alone", false}, {"followed", true}} {
		b.Run(c.name, func(b *testing.B) {
			r := newRecorder(b, observe.Config{})
			if c.followed {
				go func() {
					for range r.Follow(b.Context(), "default", observe.Filter{}) {
					}
				}()
			}
			batch := make([]api.Exchange, 1000)
			for n := range batch {
				batch[n] = exchange(n)
				batch[n].Total = time.Duration(rand.IntN(1e7))
			}
			for n := 0; b.Loop(); n++ {
				r.Record(batch[n%len(batch)])
				if n%len(batch) == len(batch)-1 {
					r.Recent("nobody", observe.Filter{})
				}
			}
		})
	}
}
