package bench_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/bench"
	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/oip"
)

func askX() []*oip.Request {
	return []*oip.Request{{Inputs: []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 2}, []float32{1.5, -2})}}}
}

// TestRequestsReachAServerAsTheyShould lets net/http and the server's own decoder read what the generator sends.
func TestRequestsReachAServerAsTheyShould(t *testing.T) {
	var fault error
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		header := -1
		if n := r.Header.Get("Inference-Header-Content-Length"); n != "" && err == nil {
			header, err = strconv.Atoi(n)
		}
		var got oip.Request
		if err == nil {
			err = got.DecodeHTTP(body, header)
		}
		switch {
		case err != nil:
			fault = err
		case r.URL.Path != "/gate/v2/models/digits/infer" || r.Header.Get("Authorization") != "Bearer psk_1" || r.Header.Get("Penstock-Unit") != "u" || r.Header.Get("Penstock-Variant") != "v":
			fault = errors.New("wrong path or headers: " + r.URL.Path)
		case len(got.Inputs) != 1 || got.Inputs[0].Float32s()[1] != -2:
			fault = errors.New("wrong inputs")
		}
		_, _ = w.Write(bytes.Repeat([]byte("y"), 10_000)) // chunked
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	for _, protocol := range []bench.Protocol{bench.Binary, bench.JSON} {
		target := bench.Target{Protocol: protocol, Address: server.Listener.Addr().String(), Path: "/gate", Endpoint: "digits", Key: "psk_1", Unit: "u", Variant: "v",
			TLS: &tls.Config{RootCAs: roots}, Timeout: 10 * time.Second}
		dial, err := target.Dialer(askX())
		if err != nil {
			t.Fatal(err)
		}
		if err := bench.Probe(t.Context(), dial); err != nil || fault != nil {
			t.Errorf("%s: %v, %v", protocol, err, fault)
		}
	}
}

// echo checks what it gets over gRPC.
type echo struct {
	oip.UnimplementedGRPCInferenceServiceServer
	fail error
}

func (e *echo) ModelInfer(ctx context.Context, r *oip.ModelInferRequest) (*oip.ModelInferResponse, error) {
	meta, _ := metadata.FromIncomingContext(ctx)
	if e.fail == nil && (r.GetModelName() != "digits" || len(r.GetRawInputContents()) != 1 || strings.Join(meta.Get("authorization"), "") != "Bearer psk_1") {
		return nil, status.Errorf(codes.InvalidArgument, "got %v with %v", r, meta)
	}
	if _, ok := ctx.Deadline(); !ok {
		return nil, status.Error(codes.InvalidArgument, "there is no deadline")
	}
	return &oip.ModelInferResponse{ModelName: "digits", RawOutputContents: [][]byte{make([]byte, 100)}}, e.fail
}

func TestGRPCReachesAServer(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, service := grpc.NewServer(), &echo{}
	oip.RegisterGRPCInferenceServiceServer(server, service)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	target := bench.Target{Protocol: bench.Remote, Address: listener.Addr().String(), Endpoint: "digits", Key: "psk_1", Timeout: 10 * time.Second}
	dial, err := target.Dialer(askX())
	if err != nil {
		t.Fatal(err)
	}
	if err := bench.Probe(t.Context(), dial); err != nil {
		t.Error(err)
	}
	service.fail = status.Error(codes.ResourceExhausted, "the queue is full")
	r, err := bench.Run(t.Context(), dial, bench.Plan{Clients: 2, Duration: time.Minute, Count: 20})
	if err != nil || r.OK != 0 || r.Failed != 20 || r.Faults[0].Code != "grpc ResourceExhausted" || r.Faults[0].Example != "the queue is full" {
		t.Errorf("%v, %+v", err, r)
	}
	service.fail = nil
	if r, err := bench.Run(t.Context(), dial, bench.Plan{Clients: 2, Duration: time.Minute, Count: 20}); err != nil || r.OK != 20 {
		t.Errorf("%v, %+v", err, r)
	}
}

func TestProbeTellsWhatIsWrongWithAll(t *testing.T) {
	closed, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := closed.Addr().String()
	_ = closed.Close()
	refusing := scripted(t, "HTTP/1.1 400 Bad Request\r\nContent-Length: 17\r\n\r\n{\"error\":\"wrong\"}")
	for name, tc := range map[string]struct {
		target bench.Target
		want   string
	}{
		"http, nobody there": {bench.Target{Protocol: bench.Binary, Address: address, Endpoint: "x", Timeout: time.Second}, "connection refused"},
		"grpc, nobody there": {bench.Target{Protocol: bench.Remote, Address: address, Endpoint: "x", Timeout: 10 * time.Second}, "connection refused"},
		"bad request":        {bench.Target{Protocol: bench.JSON, Address: refusing, Endpoint: "x", Timeout: 10 * time.Second}, `http 400: {"error":"wrong"}`},
	} {
		dial, err := tc.target.Dialer(askX())
		if err != nil {
			t.Fatal(err)
		}
		if err := bench.Probe(t.Context(), dial); err == nil || !strings.Contains(err.Error(), tc.want) || api.AsError(err).Cure == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (bench.Target{Protocol: bench.Binary, Key: "a\r\nb"}).Dialer(askX()); err == nil {
		t.Error("a header with a line break was taken")
	}
	if _, err := (bench.Target{Protocol: bench.Binary}).Dialer(nil); err == nil {
		t.Error("no requests were taken")
	}
}
