package bench

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/wire/oip"
)

// Protocol is how an endpoint is asked.
type Protocol string

// The protocols.
const (
	Binary Protocol = "http" // HTTP with binary tensors
	JSON   Protocol = "http-json"
	Remote Protocol = "grpc"
)

// Request is one request as a caller means it, before it is encoded.
type Request = oip.Request

// Target is an endpoint and the way to it.
type Target struct {
	Protocol Protocol
	Address  string      // host and port
	TLS      *tls.Config // nil: none
	Path     string      // before /v2, for servers behind a proxy
	Endpoint string
	Key      string // API key; may be empty
	Unit     string // Penstock-Unit; may be empty
	Variant  string // Penstock-Variant; may be empty
	Timeout  time.Duration
}

// Dialer encodes the requests once and makes callers that send them in turn.
func (t Target) Dialer(requests []*Request) (Dial, error) {
	if len(requests) == 0 {
		return nil, api.Fail(api.CodeBadRequest, "", "there is no request to send")
	}
	for _, value := range []string{t.Key, t.Unit, t.Variant} {
		if strings.ContainsAny(value, "\r\n\x00") {
			return nil, api.Fail(api.CodeBadRequest, "", "a header's value holds a line break")
		}
	}
	encoded := make([][]byte, 0, len(requests))
	total := 0
	for i, r := range requests {
		one, err := t.encode(r)
		if err != nil {
			return nil, api.Fail(api.CodeBadTensor, "", "request %d: %w", i+1, err).WithCure("Use binary tensors (--protocol http) or gRPC.")
		}
		if total += len(one); total > dataMax {
			return nil, api.Fail(api.CodeTooLarge, "", "the requests take more than %d MiB together", dataMax>>20).WithCure("Send fewer different ones.")
		}
		encoded = append(encoded, one)
	}
	if t.Protocol == Remote {
		to := GRPC{Address: t.Address, TLS: t.TLS, Requests: encoded, Timeout: t.Timeout, Metadata: t.metadata()}
		return func(context.Context) (Caller, error) { return DialGRPC(to) }, nil
	}
	to := HTTP{Address: t.Address, TLS: t.TLS, Requests: encoded, Timeout: t.Timeout}
	if t.TLS != nil {
		to.TLS = t.TLS.Clone()
		to.TLS.NextProtos = []string{"http/1.1"}
	}
	return func(ctx context.Context) (Caller, error) { return DialHTTP(ctx, to) }, nil
}

func (t Target) metadata() map[string]string {
	all := map[string]string{}
	for name, value := range map[string]string{"authorization": bearer(t.Key), "penstock-unit": t.Unit, "penstock-variant": t.Variant} {
		if value != "" {
			all[name] = value
		}
	}
	return all
}

func bearer(key string) string {
	if key == "" {
		return ""
	}
	return "Bearer " + key
}

func (t Target) encode(r *Request) ([]byte, error) {
	if t.Protocol == Remote {
		r.Model = t.Endpoint
		return r.EncodeProto(), nil
	}
	body, header, err := r.EncodeHTTP(t.Protocol == Binary)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "POST %s/v2/models/%s/infer HTTP/1.1\r\nHost: %s\r\nUser-Agent: penstock-bench\r\nContent-Length: %d\r\n", t.Path, url.PathEscape(t.Endpoint), t.Address, len(body))
	if header >= 0 {
		fmt.Fprintf(&b, "Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n", header)
	} else {
		b.WriteString("Content-Type: application/json\r\n")
	}
	for _, field := range [][2]string{{"Authorization", bearer(t.Key)}, {"Penstock-Unit", t.Unit}, {"Penstock-Variant", t.Variant}} {
		if field[1] != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", field[0], field[1])
		}
	}
	b.WriteString("\r\n")
	return append([]byte(b.String()), body...), nil
}
