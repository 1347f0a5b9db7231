package oip

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// target is what a path under /v2 names.
type target struct {
	act      string // "", "health/live", "health/ready", "model", "ready", "infer"
	endpoint string
	version  string
}

// parseTarget reads a path; ok is false when no route has its form.
func parseTarget(path string) (t target, ok bool) {
	rest, ok := strings.CutPrefix(path, "/v2")
	if !ok {
		return t, false
	}
	switch rest {
	case "", "/":
		return t, true
	case "/health/live", "/health/ready":
		t.act = rest[1:]
		return t, true
	}
	if rest, ok = strings.CutPrefix(rest, "/models/"); !ok {
		return t, false
	}
	t.endpoint, rest, _ = strings.Cut(rest, "/")
	if after, versioned := strings.CutPrefix(rest, "versions/"); versioned {
		if t.version, rest, _ = strings.Cut(after, "/"); t.version == "" {
			return t, false
		}
	}
	switch rest {
	case "":
		t.act = "model"
	case "ready", "infer":
		t.act = rest
	default:
		return t, false
	}
	return t, t.endpoint != ""
}

// ServeHTTP answers one REST request.
func (p *protocol) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := ulid.Make().String()
	w.Header()["Penstock-Request-Id"] = []string{id}
	t, ok := parseTarget(r.URL.Path)
	if !ok || t == (target{act: "model", endpoint: "stats"}) {
		if c, known := parseControl(r.URL.Path); known {
			p.controls.serve(p, w, r, c, id)
			return
		}
	}
	if !ok {
		gateway.NotFound(w)
		return
	}
	if allow := methods(t.act); r.Method != allow && (r.Method != http.MethodHead || allow != http.MethodGet) {
		gateway.MethodNotAllowed(w, allow)
		return
	}
	defer p.recovered(w, r, id)
	if err := p.answer(w, r, t, id); err != nil {
		p.gateway.Fail(w, r, id, err)
	}
}

// recovered turns a panic into an internal error: one request fails, the server does not.
func (p *protocol) recovered(w http.ResponseWriter, r *http.Request, id string) {
	if v := recover(); v != nil {
		cause := fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		p.gateway.Fail(w, r, id, api.Fail(api.CodeInternal, "", "internal error").Because(cause))
	}
}

// methods is the method that an act takes; HEAD goes with GET.
func methods(act string) string {
	if act == "infer" {
		return http.MethodPost
	}
	return http.MethodGet
}

// answer writes the answer, or gives the error to write in its place.
func (p *protocol) answer(w http.ResponseWriter, r *http.Request, t target, id string) error {
	switch t.act {
	case "health/live":
		writeJSON(w, []byte(`{"live":true}`))
		return nil
	case "health/ready":
		if !p.gateway.Ready() {
			return api.Fail(api.CodeUnavailable, "", "the server is not ready")
		}
		writeJSON(w, []byte(`{"ready":true}`))
		return nil
	}
	principal, err := p.gateway.Authenticate(r)
	if err != nil {
		return err
	}
	if t.act == "" {
		writeJSON(w, wire.AppendServerMetadata(nil, p.name, p.version, p.offers))
		return nil
	}
	if err := checkTarget(t.endpoint, t.version); err != nil {
		return err
	}
	if t.act == "infer" {
		return p.infer(w, r, t, id, principal)
	}
	view, err := p.server.Describe(principal, api.EndpointName(t.endpoint), t.version)
	if err != nil {
		return named(err, t.endpoint, t.version)
	}
	if t.act == "model" {
		writeJSON(w, wire.AppendModelMetadata(nil, t.endpoint, view.Versions, view.Platform, view.Signature))
		return nil
	}
	if !view.Ready {
		return api.Fail(api.CodeNotReady, "", "model '%s' is not ready", t.endpoint)
	}
	writeJSON(w, wire.AppendModelReady(nil, t.endpoint))
	return nil
}

// infer reads, calls and writes.
func (p *protocol) infer(w http.ResponseWriter, r *http.Request, t target, id string, principal *api.Principal) error {
	start := time.Now()
	s := p.take()
	defer p.give(s)
	body, err := p.read(w, r, s, t, principal)
	defer body.Release()
	if err != nil {
		return err
	}
	call := &s.call
	call.Principal, call.Endpoint, call.Version = principal, api.EndpointName(t.endpoint), t.version
	call.RequestID, call.Protocol, call.Start = id, "oip-http", start
	call.Inputs, call.Outputs = s.request.Inputs, s.request.Wanted()
	l := labels{unit: r.Header["Penstock-Unit"], variant: r.Header["Penstock-Variant"], traceparent: r.Header["Traceparent"]}
	if err := l.put(call); err != nil {
		return err
	}
	ctx := r.Context()
	if s.request.Timeout > 0 {
		limited, cancel := context.WithDeadline(ctx, start.Add(s.request.Timeout))
		defer cancel()
		ctx = limited
	}
	answer, err := p.server.Infer(ctx, call)
	if err != nil {
		return named(err, t.endpoint, t.version)
	}
	defer answer.Release()
	version := strconv.FormatInt(int64(answer.Version), 10)
	out := wire.Response{Model: t.endpoint, Version: version, ID: s.request.ID, Outputs: answer.Outputs}
	var size int64
	if s.out, size, err = out.AppendHTTP(s.out[:0], &s.request); err != nil {
		return err
	}
	header := w.Header()
	header["Penstock-Variant"] = []string{string(answer.Variant)}
	header["Penstock-Version"] = []string{version}
	p.write(w, s, &out, size)
	return nil
}

// read takes the body in and decodes it. The body is never nil.
func (p *protocol) read(w http.ResponseWriter, r *http.Request, s *scratch, t target, principal *api.Principal) (*gateway.Body, error) {
	config := p.gateway.Config()
	header, limit := int64(-1), config.JSONBytes
	if values := r.Header["Inference-Header-Content-Length"]; len(values) > 0 {
		limit = config.TensorBytes
		var err error
		if header, err = headerLength(values); err != nil {
			return new(gateway.Body), err
		}
		if header > config.JSONBytes {
			return new(gateway.Body), api.Fail(api.CodeTooLarge, "", "Inference-Header-Content-Length is %d, the limit for JSON is %d bytes", header, config.JSONBytes)
		}
	}
	body, err := p.gateway.ReadBody(w, r, limit, max(header, 0))
	if err != nil {
		return body, err
	}
	if header != 0 {
		return body, s.request.DecodeHTTP(body.Data, int(header))
	}
	view, err := p.server.Describe(principal, api.EndpointName(t.endpoint), t.version)
	if err != nil {
		return body, named(err, t.endpoint, t.version)
	}
	if len(view.Signature.Inputs) != 1 {
		return body, api.Fail(api.CodeBadRequest, "", "a raw body needs a model with one input; this one has %d", len(view.Signature.Inputs))
	}
	return body, s.request.DecodeRaw(body.Data, view.Signature.Inputs[0])
}

// headerLength reads Inference-Header-Content-Length: digits, once.
func headerLength(values []string) (int64, error) {
	n, err := strconv.ParseUint(values[0], 10, 62)
	if err != nil || len(values) != 1 || values[0][0] == '+' {
		return 0, api.Fail(api.CodeBadRequest, "", "Inference-Header-Content-Length must be one number of bytes")
	}
	return int64(n), nil
}

var (
	typeJSON   = []string{"application/json"}
	typeBinary = []string{"application/octet-stream"}
)

// writeChunk is the most that one write deadline covers.
const writeChunk = 1 << 20

// write sends the JSON, then the binary outputs from the engine's memory.
func (p *protocol) write(w http.ResponseWriter, s *scratch, out *wire.Response, size int64) {
	header := w.Header()
	header["Content-Type"] = typeJSON
	if size >= 0 {
		header["Content-Type"] = typeBinary
		header["Inference-Header-Content-Length"] = []string{strconv.Itoa(len(s.out))}
	}
	header["Content-Length"] = []string{strconv.FormatInt(int64(len(s.out))+max(size, 0), 10)}
	control := http.NewResponseController(w)
	timeout := p.gateway.Config().WriteTimeout
	if !send(w, control, timeout, s.out) {
		return
	}
	for i := range out.Outputs {
		if out.Binary(&s.request, i) && !send(w, control, timeout, out.Outputs[i].Data) {
			return
		}
	}
}

// send writes with a deadline for every step; false means that the caller is gone, which the connection knows already.
func send(w http.ResponseWriter, control *http.ResponseController, timeout time.Duration, data []byte) bool {
	for len(data) > 0 {
		n := min(len(data), writeChunk)
		_ = control.SetWriteDeadline(time.Now().Add(timeout)) // a recorder in a test has none
		if _, err := w.Write(data[:n]); err != nil {
			return false
		}
		data = data[n:]
	}
	return true
}

// writeJSON answers with a small document.
func writeJSON(w http.ResponseWriter, body []byte) {
	header := w.Header()
	header["Content-Type"] = typeJSON
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	_, _ = w.Write(body) // the caller may be gone
}
