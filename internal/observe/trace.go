package observe

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/penstock/penstock/api"
)

// collector is the exporter's client, over HTTP or gRPC.
type collector interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error
}

// tracer makes spans of exchanges after the fact, with the times that were measured, and sends them in batches. It
// speaks to the exporter's client itself rather than through the OpenTelemetry SDK: an exchange brings its own ids and
// times, and faults come back here instead of to a global handler.
type tracer struct {
	client   collector
	resource *resourcepb.Resource
	scope    *commonpb.InstrumentationScope
	log      *sparse
	queue    chan *tracepb.Span // bounded by SpanQueue; the drain never waits for it
	quit     chan struct{}
	batch    int
	interval time.Duration
	timeout  time.Duration
	every    atomic.Int64 // one trace of so many exchanges that bring none; negative for none
	count    int64        // the drain's alone

	sent, dropped atomic.Uint64
}

func newTracer(cfg Config) (*tracer, error) {
	client, err := newCollector(cfg)
	if err != nil {
		return nil, err
	}
	t := &tracer{client: client, log: newSparse(cfg.Log),
		resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{
			text("service.name", "penstock"), text("service.version", cfg.Version)}},
		scope: &commonpb.InstrumentationScope{Name: "github.com/penstock/penstock", Version: cfg.Version},
		queue: make(chan *tracepb.Span, cfg.SpanQueue), quit: make(chan struct{}),
		batch: cfg.SpanBatch, interval: cfg.SpanInterval, timeout: cfg.SpanTimeout}
	t.every.Store(int64(cfg.TraceEvery))
	return t, nil
}

// ownTransport is the HTTP client with connections of its own, which end with it instead of staying behind in the
// process-wide pool.
type ownTransport struct {
	collector
	transport *http.Transport
}

// Stop implements collector.
func (o ownTransport) Stop(ctx context.Context) error {
	err := o.collector.Stop(ctx)
	o.transport.CloseIdleConnections()
	return err
}

// newCollector chooses the protocol by the URL's scheme. A path that is missing over HTTP is the standard one.
func newCollector(cfg Config) (collector, error) {
	u, err := url.Parse(cfg.OTLP)
	if err != nil {
		return nil, fmt.Errorf("read the URL: %w", err)
	}
	if u.Host == "" {
		return nil, fmt.Errorf("the URL has no host")
	}
	retry := cfg.SpanTimeout
	switch u.Scheme {
	case "http", "https":
		path := u.Path
		if strings.Trim(path, "/") == "" {
			path = "/v1/traces"
		}
		options := []otlptracehttp.Option{otlptracehttp.WithEndpoint(u.Host), otlptracehttp.WithURLPath(path),
			otlptracehttp.WithTimeout(cfg.SpanTimeout), otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
			otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: retry / 10,
				MaxInterval: retry / 2, MaxElapsedTime: retry})}
		if u.Scheme == "http" {
			options = append(options, otlptracehttp.WithInsecure())
		}
		transport := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxConnsPerHost: 2,
			IdleConnTimeout: time.Minute}
		options = append(options, otlptracehttp.WithHTTPClient(&http.Client{Transport: transport, Timeout: cfg.SpanTimeout}))
		return ownTransport{otlptracehttp.NewClient(options...), transport}, nil
	case "grpc", "grpcs":
		options := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(u.Host), otlptracegrpc.WithTimeout(cfg.SpanTimeout),
			otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: retry / 10,
				MaxInterval: retry / 2, MaxElapsedTime: retry})}
		if u.Scheme == "grpc" {
			options = append(options, otlptracegrpc.WithInsecure())
		}
		return otlptracegrpc.NewClient(options...), nil
	}
	return nil, fmt.Errorf("the scheme %q is none of http, https, grpc, grpcs", u.Scheme)
}

// choose gives a trace to exchanges that brought none: to every failure that is not the caller's, and to one of every
// so many others, the first included. A caller that sent a trace context has decided for itself.
func (t *tracer) choose(e *api.Exchange) {
	every := t.every.Load()
	if e.TraceID != "" || every < 0 {
		return
	}
	t.count++
	e.Sampled = t.count%every == 1%every || ourFault(e.Code)
	if e.Sampled {
		e.TraceID = hex.EncodeToString(append(newSpanID(), newSpanID()...))
	}
}

// TraceEvery tells of how many exchanges that bring no context one is traced, -1 for none; ok is false without a collector.
func (r *Recorder) TraceEvery() (every int, ok bool) {
	if r.tracer == nil {
		return -1, false
	}
	return int(r.tracer.every.Load()), true
}

// SetTraceEvery changes it, from the next exchange on: -1 for none, or 1 and more. It reports whether there is a collector.
func (r *Recorder) SetTraceEvery(every int) bool {
	if r.tracer == nil {
		return false
	}
	if every < 1 {
		every = -1
	}
	r.tracer.every.Store(int64(every))
	return true
}

// ourFault reports failures that somebody who runs the server will want to look into.
func ourFault(c api.Code) bool {
	switch c.Kind() {
	case api.Internal, api.Unavailable, api.Deadline, api.Storage:
		return c != ""
	}
	return false
}

// add makes the spans of an exchange: the gateway's, and below it those of the queue and of the runtime, with those
// of a chain's steps. Exchanges say
// how long these took, not when they began: the queue is taken to begin with the request, the runtime right after it.
func (t *tracer) add(e *api.Exchange) {
	trace, ok := parseID(e.TraceID, 16)
	if !ok {
		return
	}
	self, ok := parseID(e.SpanID, 8)
	if !ok {
		self = newSpanID()
	}
	parent, _ := parseID(e.ParentID, 8)
	start := e.Start.Std()
	end := start.Add(max(0, e.Total))
	root := span(trace, self, parent, "penstock.infer", start, end)
	root.Kind, root.Attributes = tracepb.Span_SPAN_KIND_SERVER, attributes(e)
	if e.Code != "" {
		root.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: valid(e.Error)}
		root.Attributes = append(root.Attributes, text("error.type", string(e.Code)))
	}
	t.offer(root)
	clamp := func(at time.Time) time.Time {
		if at.After(end) {
			return end
		}
		return at
	}
	var inside time.Duration // waiting of a chain's steps, which is part of Queue and lies inside the chain's run
	for i := range e.Steps {
		inside += max(0, e.Steps[i].Queue)
	}
	inside = min(inside, max(0, e.Queue))
	running := clamp(start.Add(max(0, e.Queue) - inside))
	if e.Queue > inside {
		t.offer(span(trace, newSpanID(), self, "queue", start, running))
	}
	if e.Compute > 0 {
		id := newSpanID()
		compute := span(trace, id, self, "compute", running, clamp(running.Add(e.Compute+inside)))
		compute.Attributes = []*commonpb.KeyValue{text("penstock.worker", e.Worker)}
		t.offer(compute)
		for i := range e.Steps {
			s := &e.Steps[i]
			begin := clamp(running.Add(max(0, s.Start)))
			step := span(trace, newSpanID(), id, "step "+valid(s.Name), begin, clamp(begin.Add(max(0, s.Queue)+max(0, s.Compute))))
			step.Attributes = []*commonpb.KeyValue{text("penstock.step", s.Name), text("penstock.step.queue", s.Queue.String())}
			t.offer(step)
		}
	}
}

func (t *tracer) offer(s *tracepb.Span) {
	select {
	case t.queue <- s:
	default:
		t.dropped.Add(1)
	}
}

// run sends batches until stop; then it sends what waits, within one timeout, and returns.
func (t *tracer) run() {
	if err := t.client.Start(context.Background()); err != nil {
		t.log.warn("start the trace exporter", "error", err)
	}
	ticker := time.NewTicker(t.interval)
	defer ticker.Stop()
	batch := make([]*tracepb.Span, 0, t.batch)
	for open := true; open; {
		select {
		case s := <-t.queue:
			if batch = append(batch, s); len(batch) == t.batch {
				batch = t.send(batch, t.quit)
			}
		case <-ticker.C:
			batch = t.send(batch, t.quit)
		case <-t.quit:
			open = false
		}
	}
	last := make(chan struct{})
	deadline := time.AfterFunc(t.timeout, func() { close(last) })
	defer deadline.Stop()
	for waiting := true; waiting; {
		select {
		case s := <-t.queue:
			if batch = append(batch, s); len(batch) == t.batch {
				batch = t.send(batch, last)
			}
		default:
			waiting = false
		}
	}
	t.send(batch, last)
	ctx, cancel := context.WithTimeout(context.Background(), t.timeout)
	defer cancel()
	if err := t.client.Stop(ctx); err != nil {
		t.log.warn("stop the trace exporter", "error", err)
	}
}

func (t *tracer) stop() { close(t.quit) }

// send exports a batch and gives it back empty. Closing giveUp cuts it short.
func (t *tracer) send(batch []*tracepb.Span, giveUp <-chan struct{}) []*tracepb.Span {
	if len(batch) == 0 {
		return batch
	}
	ctx, cancel := context.WithTimeout(context.Background(), t.timeout)
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-giveUp:
			cancel()
		case <-over:
		}
	}()
	err := t.client.UploadTraces(ctx, []*tracepb.ResourceSpans{{Resource: t.resource,
		ScopeSpans: []*tracepb.ScopeSpans{{Scope: t.scope, Spans: batch}}}})
	if err != nil {
		t.dropped.Add(uint64(len(batch)))
		t.log.warn("send spans", "spans", len(batch), "error", err)
	} else {
		t.sent.Add(uint64(len(batch)))
	}
	clear(batch)
	return batch[:0]
}

func span(trace, id, parent []byte, name string, start, end time.Time) *tracepb.Span {
	return &tracepb.Span{TraceId: trace, SpanId: id, ParentSpanId: parent, Name: name,
		Kind:              tracepb.Span_SPAN_KIND_INTERNAL,
		StartTimeUnixNano: uint64(start.UnixNano()), EndTimeUnixNano: uint64(end.UnixNano()),
		Flags: 0x101} // sampled; and "known whether the parent is remote": it is not, or there is none
}

func attributes(e *api.Exchange) []*commonpb.KeyValue {
	all := []*commonpb.KeyValue{text("penstock.request_id", e.RequestID), text("penstock.tenant", string(e.Tenant)),
		text("penstock.endpoint", string(e.Endpoint)), text("penstock.variant", string(e.Variant)),
		text("penstock.model", string(e.Model)), text("penstock.version", versionLabel(e.Version)),
		text("penstock.protocol", e.Protocol), text("penstock.worker", e.Worker),
		text("penstock.batch", strconv.FormatInt(e.Batch, 10))}
	if e.Cached {
		all = append(all, text("penstock.cached", "true"))
	}
	if e.Retries > 0 {
		all = append(all, text("penstock.retries", strconv.Itoa(e.Retries)))
	}
	kept := all[:0]
	for _, kv := range all {
		if kv.Value.GetStringValue() != "" {
			kept = append(kept, kv)
		}
	}
	return kept
}

func text(key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{
		Value: &commonpb.AnyValue_StringValue{StringValue: valid(value)}}}
}

// valid makes text that protobuf takes: one bad byte of a caller would lose the whole batch.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// parseID reads a W3C id of so many bytes; all zero is none.
func parseID(s string, size int) ([]byte, bool) {
	if len(s) != 2*size {
		return nil, false
	}
	id, err := hex.DecodeString(s)
	if err != nil || strings.Trim(s, "0") == "" {
		return nil, false
	}
	return id, true
}

func newSpanID() []byte {
	id := make([]byte, 8)
	for {
		if n := rand.Uint64(); n != 0 {
			for i := range id {
				id[i] = byte(n >> (8 * i))
			}
			return id
		}
	}
}
