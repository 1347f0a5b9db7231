package oip

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/expiry"
	"github.com/penstock/penstock/internal/gateway"
	"github.com/penstock/penstock/internal/serve"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// target is what a path under /v2 names.
type target struct {
	act      string // "", "health/live", "health/ready", "models", "model", "ready", "config", "infer"
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
	case "/health/live", "/health/ready", "/models":
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
	case "ready", "config", "infer":
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
		p.gateway.Fail(w, r, id, gateway.Panicked(v))
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
			notReady(w, "the server is not ready")
			return nil
		}
		writeJSON(w, []byte(`{"ready":true}`))
		return nil
	}
	principal, err := p.gateway.Authenticate(r)
	if err != nil {
		return err
	}
	switch t.act {
	case "":
		writeJSON(w, wire.AppendServerMetadata(nil, p.name, p.version, p.offers))
		return nil
	case "models":
		writeJSON(w, wire.AppendModels(nil, p.models(principal)))
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
	switch {
	case t.act == "model":
		writeJSON(w, wire.AppendModelMetadata(nil, t.endpoint, view.Versions, view.Platform, view.Signature))
	case t.act == "config":
		writeJSON(w, wire.AppendModelConfig(nil, configOf(t.endpoint, view)))
	case !view.Ready:
		notReady(w, "model '"+t.endpoint+"' is not ready")
	default:
		writeJSON(w, wire.AppendModelReady(nil, t.endpoint))
	}
	return nil
}

// models lists what the caller's tenant has, ready or not.
func (p *protocol) models(principal *api.Principal) []string {
	var names []string
	for _, name := range p.server.Endpoints(principal) {
		names = append(names, string(name))
	}
	return names
}

// notReady answers a probe. Triton's status is 400, where an inference that finds nothing ready gets 503.
func notReady(w http.ResponseWriter, text string) {
	w.Header()["Content-Type"] = typeJSON
	w.WriteHeader(http.StatusBadRequest)
	_, _ = w.Write(wire.AppendError(nil, text)) // the caller may be gone
}

// infer reads, calls and writes.
func (p *protocol) infer(w http.ResponseWriter, r *http.Request, t target, id string, principal *api.Principal) error {
	start := time.Now()
	s := p.take()
	defer p.give(s)
	s.call.Principal, s.call.Endpoint, s.call.RequestID, s.call.Protocol, s.call.Start = principal, api.EndpointName(t.endpoint), id, "oip-http", start
	if err := p.server.Overdue(&s.call); err != nil {
		return err
	}
	defer s.body.Release()
	if err := p.read(w, r, s, t, principal); err != nil {
		return err
	}
	answer, err := p.callHTTP(w, r, s, t, id, principal, start)
	if err != nil {
		return err
	}
	defer answer.Release()
	var size int64
	if s.out, size, err = s.response.AppendHTTP(s.out[:0], &s.request); err != nil {
		return err
	}
	p.write(w, r, s, size)
	return nil
}

// callHTTP has a decoded request answered, says who answered it, and fills s.response. The answer must be released.
func (p *protocol) callHTTP(w http.ResponseWriter, r *http.Request, s *scratch, t target, id string, principal *api.Principal, start time.Time) (*serve.Answer, error) {
	call := &s.call
	call.Principal, call.Endpoint, call.Version = principal, api.EndpointName(t.endpoint), t.version
	call.RequestID, call.Protocol, call.Start = id, "oip-http", start
	call.Inputs, call.Outputs = s.request.Inputs, s.request.Wanted()
	l := labels{unit: r.Header["Penstock-Unit"], variant: r.Header["Penstock-Variant"], traceparent: r.Header["Traceparent"],
		cacheControl: r.Header["Cache-Control"], band: r.Header["Penstock-Band"]}
	if err := l.put(call); err != nil {
		return nil, err
	}
	ctx := r.Context()
	call.Life, _ = ctx.(*expiry.Context)
	call.Priority, call.Parameters = s.request.Priority, s.request.Parameters
	if s.request.Timeout > 0 {
		limited, cancel := context.WithDeadline(ctx, start.Add(s.request.Timeout))
		defer cancel()
		ctx = limited
	}
	answer, err := p.server.Infer(ctx, call)
	if err != nil {
		return nil, named(err, t.endpoint, t.version)
	}
	outputs, err := s.request.Classify(answer.Outputs)
	if err != nil {
		answer.Release()
		return nil, err
	}
	version := strconv.FormatInt(int64(answer.Version), 10)
	header, values := w.Header(), []string{string(answer.Variant), version}
	header["Penstock-Variant"], header["Penstock-Version"] = values[:1:1], values[1:]
	if status := cacheStatus(answer.Recall); status != nil {
		header["Cache-Status"] = status
	}
	s.response = wire.Response{Model: t.endpoint, Version: version, ID: s.request.ID, Outputs: outputs}
	return answer, nil
}

// read takes the body in, which has to be released also after an error, and decodes it.
func (p *protocol) read(w http.ResponseWriter, r *http.Request, s *scratch, t target, principal *api.Principal) error {
	config := p.gateway.Config()
	header, limit := int64(-1), config.JSONBytes
	if values := r.Header["Inference-Header-Content-Length"]; len(values) > 0 {
		limit = config.TensorBytes
		var err error
		if header, err = headerLength(values); err != nil {
			return err
		}
		if header > config.JSONBytes {
			return api.Fail(api.CodeTooLarge, "", "Inference-Header-Content-Length is %d, the limit for JSON is %d bytes", header, config.JSONBytes)
		}
	}
	if err := p.gateway.ReadBody(&s.body, w, r, limit, max(header, 0)); err != nil {
		return err
	}
	if header != 0 {
		return s.request.DecodeHTTP(s.body.Data, int(header))
	}
	view, err := p.server.Describe(principal, api.EndpointName(t.endpoint), t.version)
	if err != nil {
		return named(err, t.endpoint, t.version)
	}
	if len(view.Signature.Inputs) != 1 {
		return api.Fail(api.CodeBadRequest, "", "a raw body needs a model with one input; this one takes %d: %q", len(view.Signature.Inputs), inputNames(view.Signature.Inputs))
	}
	return s.request.DecodeRaw(s.body.Data, view.Signature.Inputs[0])
}

// inputNames lists inputs for an error, the first few of many.
func inputNames(inputs []api.TensorSpec) (names []string) {
	const told = 16
	for _, in := range inputs[:min(told, len(inputs))] {
		names = append(names, in.Name)
	}
	return names
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
func (p *protocol) write(w http.ResponseWriter, r *http.Request, s *scratch, size int64) {
	header, values := w.Header(), make([]string, 2)
	header["Content-Type"] = typeJSON
	if size >= 0 {
		header["Content-Type"] = typeBinary
		values[0] = strconv.Itoa(len(s.out))
		header["Inference-Header-Content-Length"] = values[:1:1]
	}
	total := int64(len(s.out)) + max(size, 0)
	s.paced = pacedWriter{w: w, timeout: p.gateway.Config().WriteTimeout}
	packer := p.packer(r, total)
	if packer == nil {
		values[1] = strconv.FormatInt(total, 10)
		header["Content-Length"] = values[1:]
		_ = writeParts(&s.paced, s) // a caller that is gone is the connection's to notice
		return
	}
	header["Content-Encoding"] = []string{packer.coding}
	packer.Reset(&s.paced)
	if err := writeParts(packer, s); err == nil {
		_ = packer.Close() // as above
	}
	p.giveBack(packer)
}

func writeParts(w io.Writer, s *scratch) error {
	if _, err := w.Write(s.out); err != nil {
		return err
	}
	out := &s.response
	for i := range out.Outputs {
		if !out.Binary(&s.request, i) {
			continue
		}
		if _, err := w.Write(out.Outputs[i].Data); err != nil {
			return err
		}
	}
	return nil
}

// pacedWriter writes with a deadline for every step of writeChunk bytes.
type pacedWriter struct {
	w       http.ResponseWriter
	timeout time.Duration
	left    int // bytes of this step
}

// Write writes all of data, or as much as the caller takes in time.
func (p *pacedWriter) Write(data []byte) (written int, err error) {
	for len(data) > 0 && err == nil {
		if p.left == 0 {
			p.left = writeChunk
			_ = gateway.SetWriteDeadline(p.w, time.Now().Add(p.timeout)) // a recorder in a test has none
		}
		part := data[:min(len(data), p.left)]
		data = data[len(part):]
		p.left -= len(part)
		var n int
		n, err = p.w.Write(part)
		written += n
	}
	return written, err
}

// writeJSON answers with a small document.
func writeJSON(w http.ResponseWriter, body []byte) {
	header := w.Header()
	header["Content-Type"] = typeJSON
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	_, _ = w.Write(body) // the caller may be gone
}
