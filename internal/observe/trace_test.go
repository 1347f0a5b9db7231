package observe_test

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/observe"
)

const (
	traceID  = "0af7651916cd43dd8448eb211c80319c"
	spanID   = "b7ad6b7169203331"
	parentID = "00f067aa0ba902b7"
)

// otlp is a collector: it takes OTLP over HTTP and gRPC and hands the requests on.
type otlp struct {
	collectorpb.UnimplementedTraceServiceServer
	got chan *collectorpb.ExportTraceServiceRequest
}

func (o *otlp) Export(_ context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	o.got <- r
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func (o *otlp) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body := io.Reader(req.Body)
	if req.Header.Get("Content-Encoding") == "gzip" {
		var err error
		if body, err = gzip.NewReader(req.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	data, err := io.ReadAll(body)
	r := new(collectorpb.ExportTraceServiceRequest)
	if err != nil || proto.Unmarshal(data, r) != nil || req.URL.Path != "/v1/traces" {
		http.Error(w, "not OTLP", http.StatusBadRequest)
		return
	}
	o.got <- r
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func startCollector(t *testing.T, scheme string) (*otlp, string) {
	t.Helper()
	o := &otlp{got: make(chan *collectorpb.ExportTraceServiceRequest, 100)}
	if scheme == "http" {
		server := httptest.NewServer(o)
		t.Cleanup(server.Close)
		return o, server.URL
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, o)
	go func() {
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(server.Stop)
	return o, "grpc://" + listener.Addr().String()
}

func sampled(n int) api.Exchange {
	e := exchange(n)
	e.TraceID, e.SpanID, e.ParentID, e.Sampled = traceID, spanID, parentID, true
	return e
}

func TestSpansReachTheCollector(t *testing.T) {
	for _, scheme := range []string{"http", "grpc"} {
		t.Run(scheme, func(t *testing.T) {
			collector, url := startCollector(t, scheme)
			r := newRecorder(t, observe.Config{Version: "1.2.3", OTLP: url, TraceEvery: -1, SpanInterval: 10 * time.Millisecond})
			stop := run(t, r)
			e := sampled(1)
			e.Code, e.Error, e.Endpoint = api.CodeDeadline, "too late \xff", "digits"
			r.Record(e)
			r.Record(exchange(2)) // not sampled
			stop()                // sends what waits

			spans := map[string]*tracepb.Span{}
			for len(spans) < 3 {
				for _, rs := range (<-collector.got).ResourceSpans {
					if got := rs.Resource.Attributes[0].Value.GetStringValue(); got != "penstock" {
						t.Errorf("service %q", got)
					}
					for _, s := range rs.ScopeSpans[0].Spans {
						spans[s.Name] = s
						if hex.EncodeToString(s.TraceId) != traceID {
							t.Errorf("%s: trace %x", s.Name, s.TraceId)
						}
					}
				}
			}
			root, queue, compute := spans["penstock.infer"], spans["queue"], spans["compute"]
			if hex.EncodeToString(root.SpanId) != spanID || hex.EncodeToString(root.ParentSpanId) != parentID {
				t.Errorf("root %x below %x", root.SpanId, root.ParentSpanId)
			}
			if root.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR || root.Status.Message != "too late \uFFFD" {
				t.Errorf("status %v", root.Status)
			}
			for _, child := range []*tracepb.Span{queue, compute} {
				if hex.EncodeToString(child.ParentSpanId) != spanID || len(child.SpanId) != 8 {
					t.Errorf("%s: %x below %x", child.Name, child.SpanId, child.ParentSpanId)
				}
			}
			begin := uint64(e.Start.Std().UnixNano())
			for _, want := range []struct {
				span     *tracepb.Span
				from, to time.Duration
			}{{root, 0, e.Total}, {queue, 0, e.Queue}, {compute, e.Queue, e.Queue + e.Compute}} {
				if s := want.span; s.StartTimeUnixNano != begin+uint64(want.from) || s.EndTimeUnixNano != begin+uint64(want.to) {
					t.Errorf("%s: from %d to %d after the start", s.Name, s.StartTimeUnixNano-begin, s.EndTimeUnixNano-begin)
				}
			}
			if got := fmt.Sprint(root.Attributes); !strings.Contains(got, "penstock.endpoint") || !strings.Contains(got, "deadline_exceeded") {
				t.Errorf("attributes %s", got)
			}
		})
	}
}

// TestSpansOfSteps: a chain's steps lie below its run, where they were; their waiting is not counted before it.
func TestSpansOfSteps(t *testing.T) {
	collector, url := startCollector(t, "http")
	r := newRecorder(t, observe.Config{OTLP: url, TraceEvery: -1, SpanInterval: 10 * time.Millisecond})
	stop := run(t, r)
	e := sampled(1)
	e.Queue, e.Compute, e.Total = 5*time.Microsecond, 20*time.Microsecond, 30*time.Microsecond
	e.Steps = []api.StepTime{{Name: "one", Start: 0, Queue: 2 * time.Microsecond, Compute: 8 * time.Microsecond}, {Name: "two", Start: 10 * time.Microsecond, Compute: 9 * time.Microsecond}}
	r.Record(e)
	stop()
	spans := map[string]*tracepb.Span{}
	for len(spans) < 5 {
		for _, rs := range (<-collector.got).ResourceSpans {
			for _, s := range rs.ScopeSpans[0].Spans {
				spans[s.Name] = s
			}
		}
	}
	begin := uint64(e.Start.Std().UnixNano())
	for name, want := range map[string][2]time.Duration{"queue": {0, 3000}, "compute": {3000, 25000}, "step one": {3000, 13000}, "step two": {13000, 22000}} {
		s := spans[name]
		if s.StartTimeUnixNano != begin+uint64(want[0]) || s.EndTimeUnixNano != begin+uint64(want[1]) {
			t.Errorf("%s: from %d to %d after the start", name, s.StartTimeUnixNano-begin, s.EndTimeUnixNano-begin)
		}
		if below := hex.EncodeToString(s.ParentSpanId) == hex.EncodeToString(spans["compute"].SpanId); below != strings.HasPrefix(name, "step") {
			t.Errorf("%s is below %x", name, s.ParentSpanId)
		}
	}
}

func TestBrokenIDsMakeNoBrokenSpans(t *testing.T) {
	collector, url := startCollector(t, "http")
	r := newRecorder(t, observe.Config{OTLP: url, TraceEvery: -1})
	stop := run(t, r)
	for n, trace := range []string{"", "zz", strings.Repeat("0", 32), strings.Repeat("g", 32), traceID} {
		e := sampled(n)
		e.TraceID, e.SpanID, e.ParentID = trace, "", "nonsense"
		e.Queue, e.Compute, e.Total = time.Hour, time.Hour, time.Millisecond // longer than the whole
		r.Record(e)
	}
	stop()
	spans := (<-collector.got).ResourceSpans[0].ScopeSpans[0].Spans
	if len(spans) != 3 {
		t.Fatalf("%d spans", len(spans))
	}
	for _, s := range spans {
		if s.EndTimeUnixNano > spans[0].EndTimeUnixNano || s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("%s ends after its parent or before itself", s.Name)
		}
	}
	if len(spans[0].ParentSpanId) != 0 || len(spans[0].SpanId) != 8 {
		t.Errorf("root %x below %x", spans[0].SpanId, spans[0].ParentSpanId)
	}
}

func TestTracesWithoutACaller(t *testing.T) {
	collector, url := startCollector(t, "http")
	r := newRecorder(t, observe.Config{OTLP: url, TraceEvery: 10})
	stop := run(t, r)
	for n := range 30 { // three of these, among them the first
		r.Record(exchange(n))
		r.Recent("default", observe.Filter{}) // drains, so that the order is known
	}
	for n, code := range []api.Code{api.CodeWorkerLost, api.CodeDeadline, api.CodeBadTensor, api.CodeQueueFull} {
		e := exchange(100 + n) // one is sampled by its turn, two by their code
		e.Code = code
		r.Record(e)
		r.Recent("default", observe.Filter{})
	}
	refused := exchange(200)
	refused.TraceID, refused.Code = traceID, api.CodeDeadline // the caller said not to
	r.Record(refused)
	stop()
	traces := map[string]bool{}
	var requests []string
	for _, s := range (<-collector.got).ResourceSpans[0].ScopeSpans[0].Spans {
		traces[hex.EncodeToString(s.TraceId)] = true
		if s.Name == "penstock.infer" {
			requests = append(requests, s.Attributes[0].Value.GetStringValue())
		}
	}
	if got := strings.Join(requests, " "); got != "r0 r10 r20 r100 r101" || len(traces) != 5 {
		t.Errorf("traced %s in %d traces", got, len(traces))
	}
	if kept := r.Recent("default", observe.Filter{ErrorsOnly: true}); !traces[kept[0].TraceID] {
		t.Errorf("the log does not name the trace: %q", kept[0].TraceID)
	}
}

// TestTraceEveryChanged turns the sampling off and up while exchanges come.
func TestTraceEveryChanged(t *testing.T) {
	collector, url := startCollector(t, "http")
	r := newRecorder(t, observe.Config{OTLP: url, TraceEvery: 1})
	stop := run(t, r)
	for n, every := range []int{-1, 1, 0, 5} { // 0 means none, too; after one exchange the fifth is four away
		if !r.SetTraceEvery(every) {
			t.Fatal("there is a collector")
		}
		r.Record(exchange(n))
		r.Recent("default", observe.Filter{}) // drains
	}
	if every, ok := r.TraceEvery(); every != 5 || !ok {
		t.Errorf("one of %d, %v", every, ok)
	}
	stop()
	var requests []string
	for _, s := range (<-collector.got).ResourceSpans[0].ScopeSpans[0].Spans {
		if s.Name == "penstock.infer" {
			requests = append(requests, s.Attributes[0].Value.GetStringValue())
		}
	}
	if len(requests) != 1 || requests[0] != "r1" {
		t.Errorf("traced %v", requests)
	}
	if r := newRecorder(t, observe.Config{}); r.SetTraceEvery(1) {
		t.Error("without a collector nothing can be traced")
	}
}

// lines counts log lines.
type lines struct{ n atomic.Int32 }

func (l *lines) Write(p []byte) (int, error) { l.n.Add(1); return len(p), nil }

func TestADeadCollectorHurtsNobody(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := closed.Addr().String()
	_ = closed.Close()
	release := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-release:
		case <-req.Context().Done():
		}
	}))
	defer hanging.Close()
	defer close(release)
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, strings.Repeat("no ", 1000), http.StatusServiceUnavailable)
	}))
	defer refusing.Close()
	for name, url := range map[string]string{"dead": "http://" + dead, "dead grpc": "grpc://" + dead,
		"hanging": hanging.URL, "refusing": refusing.URL} {
		t.Run(name, func(t *testing.T) {
			var log lines
			r := newRecorder(t, observe.Config{OTLP: url, SpanQueue: 100, SpanBatch: 10, SpanInterval: time.Millisecond,
				SpanTimeout: 50 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&log, nil))})
			stop := run(t, r)
			const count = 5000
			for n := range count {
				r.Record(sampled(n))
			}
			f, _ := scrape(t, r, "")
			if got := sum(f["penstock_requests_total"]); got != count {
				t.Errorf("%v exchanges observed", got)
			}
			stop() // does not wait for the collector either
			f, _ = scrape(t, r, "")
			if got := sum(f["penstock_spans_dropped_total"]); got != 3*count {
				t.Errorf("%v spans counted as dropped", got)
			}
			if got := log.n.Load(); got < 1 || got > 2 {
				t.Errorf("%d log lines about it", got)
			}
		})
	}
}

func TestCollectorURLs(t *testing.T) {
	for url, ok := range map[string]bool{"": true, "http://localhost:4318": true, "https://c.example/x": true,
		"grpc://localhost:4317": true, "grpcs://localhost:4317": true, "localhost:4318": false, "ftp://x": false,
		"http://": false, "http://\x7f": false} {
		if _, err := observe.New(observe.Config{OTLP: url}); (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		}
	}
}
