package oip_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/arena"
	"github.com/penstock/penstock/internal/gateway"
	"github.com/penstock/penstock/internal/gateway/oip"
	"github.com/penstock/penstock/internal/serve"
	"github.com/penstock/penstock/internal/tensor"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// walk stands for serve: tenant acme has the endpoint "echo", which answers each input under its own name, and "loading",
// which is not ready; tenant beta has "secret".
type walk struct {
	mu      sync.Mutex
	last    serve.Call
	dead    bool // whether the last call's context had a deadline
	fail    error
	once    bool // fail once
	output  func(*serve.Call) []tensor.Tensor
	ready   bool
	quiet   bool        // remember nothing
	revoked atomic.Bool // no key is valid any more
	wait    chan error  // when set: calls wait for their context's end and send its cause here
}

var (
	acme        = &api.Principal{Tenant: "acme", Key: "k1", Scopes: []api.Scope{api.ScopeInfer}}
	quietAnswer = serve.Answer{Model: "digits", Version: 3, Variant: "main"}
)

var echoSignature = api.Signature{
	Inputs:  []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 4}}},
	Outputs: []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 4}}},
}

func (f *walk) Infer(ctx context.Context, call *serve.Call) (*serve.Answer, error) {
	if f.wait != nil {
		<-ctx.Done()
		f.wait <- ctx.Err()
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.quiet {
		answer := quietAnswer
		answer.Outputs = call.Inputs
		return &answer, nil
	}
	if _, err := f.Describe(call.Principal, call.Endpoint, call.Version); err != nil {
		return nil, err
	}
	if err := f.fail; err != nil {
		if f.once {
			f.fail = nil
		}
		return nil, err
	}
	f.last = *call
	_, f.dead = ctx.Deadline()
	outputs := call.Inputs
	if f.output != nil {
		outputs = f.output(call)
	}
	f.last.Inputs = nil
	for _, t := range call.Inputs {
		t.Data, t.Shape = slices.Clone(t.Data), slices.Clone(t.Shape)
		f.last.Inputs = append(f.last.Inputs, t)
	}
	return &serve.Answer{Outputs: outputs, Model: "digits", Version: 3, Variant: "main"}, nil
}

// Overdue refuses nothing.
func (f *walk) Overdue(*serve.Call) error { return nil }

func (f *walk) Describe(p *api.Principal, endpoint api.EndpointName, version string) (serve.View, error) {
	if p == nil {
		return serve.View{}, errors.New("no principal")
	}
	view := serve.View{Endpoint: endpoint, Versions: []string{"3"}, Platform: "onnxruntime_onnx", Signature: echoSignature, Ready: true}
	switch key := string(p.Tenant) + "/" + string(endpoint); {
	case key == "acme/loading":
		view.Ready = false
		return view, nil
	case key != "acme/echo" && key != "beta/secret":
		return serve.View{}, api.Fail(api.CodeEndpointNotFound, string(endpoint), "no endpoint %q in tenant %s", endpoint, p.Tenant)
	case version != "" && version != "3":
		return serve.View{}, api.Fail(api.CodeVersionNotFound, string(endpoint), "no version")
	}
	return view, nil
}

// Endpoints lists the tenant's two, or one.
func (f *walk) Endpoints(p *api.Principal) []api.EndpointName {
	if p.Tenant == "acme" {
		return []api.EndpointName{"echo", "loading"}
	}
	return []api.EndpointName{"secret"}
}

// Authenticate knows two keys.
func (f *walk) Authenticate(authorization []string) (*api.Principal, error) {
	if len(authorization) == 1 && !f.revoked.Load() {
		switch authorization[0] {
		case "Bearer acme-key":
			return acme, nil
		case "Bearer beta-key":
			return &api.Principal{Tenant: "beta", Key: "k2", Scopes: []api.Scope{api.ScopeInfer}}, nil
		}
	}
	return nil, api.Fail(api.CodeUnauthenticated, "", "no valid key was sent")
}

// bench is a running gateway with both doors.
type bench struct {
	walk    *walk
	gateway *gateway.Server
	memory  *arena.Arena // of large bodies; small, so that some bodies find no room. nil where the system has none
	http    string       // address
	url     string
	grpc    string
}

func start(tb testing.TB, change func(*gateway.Config)) *bench {
	tb.Helper()
	config := gateway.DefaultConfig()
	if change != nil {
		change(&config)
	}
	f := &walk{ready: true}
	options := gateway.Options{Config: config, Guard: f, Ready: func() bool { return f.ready }, Codec: wire.Codec{}}
	memory, err := arena.New(arena.Config{Bytes: 8 << 20})
	if err == nil {
		options.Memory, options.Codec = memory, wire.Codec{Memory: memory}
	}
	g, err := gateway.New(options)
	if err != nil {
		tb.Fatal(err)
	}
	oip.Attach(g, oip.Options{Server: f, Name: "penstock", Version: "1.0"})
	web, rpc := listen(tb), listen(tb)
	server := config.HTTP(g.Handler(), nil)
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(config.Listen(web)) })
	running.Go(func() { _ = g.GRPC().Serve(config.Listen(rpc)) })
	tb.Cleanup(func() {
		server.Close()
		g.GRPC().Stop()
		running.Wait()
		if use := memory.Use(); use.Bytes != 0 {
			tb.Errorf("%d bytes of large bodies are still held", use.Bytes)
		}
		if err := memory.Close(); err != nil {
			tb.Error(err)
		}
	})
	return &bench{walk: f, gateway: g, memory: memory, http: web.Addr().String(), url: "http://" + web.Addr().String(), grpc: rpc.Addr().String()}
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// key is a client's credential that goes with every call.
type key string

func (k key) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if k == "" {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + string(k)}, nil
}

func (key) RequireTransportSecurity() bool { return false }

func (b *bench) dial(tb testing.TB, k key, options ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	c, err := grpc.NewClient(b.grpc, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(k))...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

// request makes a request with acme's key; pairs are headers.
func (b *bench) request(tb testing.TB, method, path, body string, pairs ...string) *http.Request {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer acme-key")
	for i := 0; i < len(pairs); i += 2 {
		r.Header.Set(pairs[i], pairs[i+1])
		if pairs[i+1] == "" {
			r.Header.Del(pairs[i])
		}
	}
	return r
}
