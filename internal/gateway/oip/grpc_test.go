package oip_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
	"github.com/penstock/penstock/internal/serve"
	"github.com/penstock/penstock/internal/tensor"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

func inferRequest(model string) *wire.ModelInferRequest {
	return &wire.ModelInferRequest{
		ModelName: model, Id: "g1",
		Inputs:           []*wire.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{1, 4}}},
		RawInputContents: [][]byte{floats(1, 2, 3, 4)},
	}
}

func TestGRPCInfer(t *testing.T) {
	b := start(t, nil)
	client := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key"))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "penstock-unit", "u1", "penstock-variant", "b",
		"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, coding := range []string{"", gzip.Name, "deflate", "deflate"} {
		var options []grpc.CallOption
		if coding != "" {
			options = append(options, grpc.UseCompressor(coding))
		}
		var header metadata.MD
		answer, err := client.ModelInfer(ctx, inferRequest("echo"), append(options, grpc.Header(&header))...)
		if err != nil {
			t.Fatal(err)
		}
		if answer.ModelName != "echo" || answer.ModelVersion != "3" || answer.Id != "g1" || len(answer.Outputs) != 1 ||
			answer.Outputs[0].Name != "x" || answer.Outputs[0].Datatype != "FP32" || answer.Outputs[0].Shape[1] != 4 ||
			!bytes.Equal(answer.RawOutputContents[0], floats(1, 2, 3, 4)) {
			t.Errorf("answer %v", answer)
		}
		call := b.walk.last
		if header.Get("penstock-variant")[0] != "main" || header.Get("penstock-version")[0] != "3" || header.Get("penstock-request-id")[0] != call.RequestID {
			t.Errorf("metadata %v", header)
		}
		if call.Unit != "u1" || call.Variant != "b" || call.Protocol != "oip-grpc" || call.TraceID == "" || call.Sampled || !b.walk.dead {
			t.Errorf("call %+v", call)
		}
	}
}

func TestGRPCErrors(t *testing.T) {
	b := start(t, func(c *gateway.Config) { c.TensorBytes = 1 << 20 })
	mixed := inferRequest("echo")
	mixed.Inputs[0].Contents = &wire.InferTensorContents{Fp32Contents: []float32{1, 2, 3, 4}}
	short := inferRequest("echo")
	short.RawInputContents[0] = short.RawInputContents[0][:15]
	overflow := inferRequest("echo")
	overflow.Inputs[0].Shape = []int64{1 << 33, 1 << 33}
	negative := inferRequest("echo")
	negative.Inputs[0].Shape = []int64{-1, -4}
	rank := inferRequest("echo")
	rank.Inputs[0].Shape = make([]int64, 1000)
	version := inferRequest("echo")
	version.ModelVersion = "latest/../.."
	missing := inferRequest("echo")
	missing.RawInputContents = nil
	two := inferRequest("echo")
	two.Inputs = append(two.Inputs, two.Inputs[0])
	two.RawInputContents = append(two.RawInputContents, two.RawInputContents[0])
	large := inferRequest("echo")
	large.RawInputContents[0] = make([]byte, 2<<20)
	for _, c := range []struct {
		name    string
		key     key
		request *wire.ModelInferRequest
		code    codes.Code
		want    string
	}{
		{"no key", "", inferRequest("echo"), codes.Unauthenticated, "key"},
		{"wrong key", "zzz", inferRequest("echo"), codes.Unauthenticated, "key"},
		{"missing", "acme-key", inferRequest("nosuch"), codes.NotFound, "Request for unknown model: 'nosuch' is not found"},
		{"foreign", "acme-key", inferRequest("secret"), codes.NotFound, "Request for unknown model: 'secret' is not found"},
		{"path for a name", "acme-key", inferRequest("../x"), codes.InvalidArgument, "model name"},
		{"no name", "acme-key", inferRequest(""), codes.InvalidArgument, "model name"},
		{"path for a version", "acme-key", version, codes.InvalidArgument, "version"},
		{"raw and contents", "acme-key", mixed, codes.InvalidArgument, "raw_input_contents"},
		{"short", "acme-key", short, codes.InvalidArgument, "16 bytes"},
		{"overflow", "acme-key", overflow, codes.InvalidArgument, "elements"},
		{"negative", "acme-key", negative, codes.InvalidArgument, "negative"},
		{"rank", "acme-key", rank, codes.InvalidArgument, "32"},
		{"no data", "acme-key", missing, codes.InvalidArgument, ""},
		{"twice", "acme-key", two, codes.InvalidArgument, "twice"},
		{"too large", "acme-key", large, codes.ResourceExhausted, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := wire.NewGRPCInferenceServiceClient(b.dial(t, c.key)).ModelInfer(t.Context(), c.request)
			if status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), c.want) {
				t.Errorf("%v, want %v with %q", err, c.code, c.want)
			}
		})
	}
	client := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key"))
	b.walk.fail = api.Fail(api.CodeQueueFull, "", "queue full")
	if _, err := client.ModelInfer(t.Context(), inferRequest("echo")); status.Code(err) != codes.Unavailable {
		t.Errorf("queue full: %v", err)
	}
	if _, err := client.ModelStatistics(t.Context(), &wire.ModelStatisticsRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("statistics: %v", err)
	}
}

func TestGRPCLimits(t *testing.T) {
	b := start(t, func(c *gateway.Config) { c.TensorBytes = 1 << 20 })
	client := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key"))
	bomb := inferRequest("echo")
	bomb.RawInputContents[0] = make([]byte, 8<<20)
	for _, coding := range []string{gzip.Name, "deflate"} {
		if _, err := client.ModelInfer(t.Context(), bomb, grpc.UseCompressor(coding)); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("bomb in %s: %v", coding, err)
		}
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "penstock-unit", strings.Repeat("u", 1<<20))
	if _, err := client.ModelInfer(ctx, inferRequest("echo")); err == nil {
		t.Error("metadata of 1 MiB went through")
	}
	ctx = metadata.AppendToOutgoingContext(t.Context(), "penstock-unit", "a", "penstock-unit", "b")
	if _, err := client.ModelInfer(ctx, inferRequest("echo")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("two units: %v", err)
	}
	ctx = metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer beta-key")
	if _, err := client.ModelInfer(ctx, inferRequest("echo")); status.Code(err) != codes.Unauthenticated {
		t.Errorf("two keys: %v", err)
	}
	b.walk.output = func(*serve.Call) []tensor.Tensor { panic("broken") }
	if _, err := client.ModelInfer(t.Context(), inferRequest("echo")); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "broken") {
		t.Errorf("panic: %v", err)
	}
	b.walk.output = nil
	if _, err := client.ModelInfer(t.Context(), inferRequest("echo")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestGRPCStalled opens calls and never sends their message.
func TestGRPCStalled(t *testing.T) {
	b := start(t, func(c *gateway.Config) { c.MessageTimeout = 500 * time.Millisecond })
	for k, want := range map[key]codes.Code{"acme-key": codes.Canceled, "": codes.Unauthenticated} {
		stream, err := b.dial(t, k).NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, wire.GRPCInferenceService_ModelInfer_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(new(wire.ModelInferResponse)); status.Code(err) != want {
			t.Errorf("key %q: %v", k, err)
		}
	}
	// A message that has arrived is not on the clock any more: the call ends by its own, longer timeout.
	b.walk.wait = make(chan error, 1)
	long := inferRequest("echo")
	long.Parameters = map[string]*wire.InferParameter{"timeout": {ParameterChoice: &wire.InferParameter_Int64Param{Int64Param: 800_000}}}
	_, err := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key")).ModelInfer(t.Context(), long)
	if ended := <-b.walk.wait; status.Code(err) != codes.DeadlineExceeded || !errors.Is(ended, context.DeadlineExceeded) {
		t.Errorf("%v, %v", err, ended)
	}
}

func TestGRPCInFlightBytes(t *testing.T) {
	b := start(t, func(c *gateway.Config) { c.InFlightBytes = 1 << 20 })
	client := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key"))
	large := inferRequest("echo")
	large.RawInputContents[0] = make([]byte, 2<<20)
	if _, err := client.ModelInfer(t.Context(), large); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "1048576") {
		t.Errorf("%v", err)
	}
	for range 3 {
		if _, err := client.ModelInfer(t.Context(), inferRequest("echo")); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}

func TestGRPCMetadata(t *testing.T) {
	b := start(t, nil)
	open := wire.NewGRPCInferenceServiceClient(b.dial(t, ""))
	if r, err := open.ServerLive(t.Context(), &wire.ServerLiveRequest{}); err != nil || !r.Live {
		t.Errorf("live: %v %v", r, err)
	}
	if r, err := open.ServerReady(t.Context(), &wire.ServerReadyRequest{}); err != nil || !r.Ready {
		t.Errorf("ready: %v %v", r, err)
	}
	if _, err := open.ServerMetadata(t.Context(), &wire.ServerMetadataRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("metadata without a key: %v", err)
	}
	client := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key"))
	if r, err := client.ServerMetadata(t.Context(), &wire.ServerMetadataRequest{}); err != nil || r.Name != "penstock" || len(r.Extensions) != 4 {
		t.Errorf("metadata: %v %v", r, err)
	}
	if r, err := client.ModelMetadata(t.Context(), &wire.ModelMetadataRequest{Name: "echo"}); err != nil || r.Inputs[0].Shape[0] != -1 || r.Versions[0] != "3" {
		t.Errorf("model metadata: %v %v", r, err)
	}
	if _, err := client.ModelMetadata(t.Context(), &wire.ModelMetadataRequest{Name: "secret"}); status.Code(err) != codes.NotFound {
		t.Errorf("foreign metadata: %v", err)
	}
	for name, want := range map[string]bool{"echo": true, "loading": false, "secret": false, "nosuch": false} {
		if r, err := client.ModelReady(t.Context(), &wire.ModelReadyRequest{Name: name}); err != nil || r.Ready != want {
			t.Errorf("%s ready: %v %v", name, r, err)
		}
	}
}

func TestGRPCHealthAndReflection(t *testing.T) {
	b := start(t, nil)
	health := grpc_health_v1.NewHealthClient(b.dial(t, ""))
	for _, service := range []string{"", "inference.GRPCInferenceService"} {
		r, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || r.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("check %q: %v %v", service, r, err)
		}
	}
	watch, err := health.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := watch.Recv(); err != nil || r.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("watch: %v %v", r, err)
	}
	for k, want := range map[key]codes.Code{"": codes.Unauthenticated, "acme-key": codes.OK} {
		stream, err := grpc_reflection_v1.NewServerReflectionClient(b.dial(t, k)).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}})
		r, err := stream.Recv()
		if status.Code(err) != want || want == codes.OK && !strings.Contains(r.String(), "inference.GRPCInferenceService") {
			t.Errorf("reflection with key %q: %v %v", k, r, err)
		}
	}
}

// TestGRPCRetryAfter: a refusal says when to come again in its trailer and in its details, and other errors do not.
func TestGRPCRetryAfter(t *testing.T) {
	b := start(t, nil)
	client := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key"))
	for _, c := range []struct {
		err             error
		seconds, millis string
		delay           time.Duration
	}{
		{&api.Error{Code: api.CodeQueueFull, Message: "full", RetryAfter: 2500 * time.Millisecond}, "3", "2500", 2500 * time.Millisecond},
		{&api.Error{Code: api.CodeOverShare, Message: "much", RetryAfter: 100100 * time.Microsecond}, "1", "101", 100100 * time.Microsecond},
		{api.Fail(api.CodeNotReady, "", "nothing"), "1", "1000", time.Second},
		{api.Fail(api.CodeSignatureMismatch, "", "unknown input"), "", "", 0},
		{api.Fail(api.CodeForbidden, "", "needs scope variant"), "", "", 0},
	} {
		b.walk.fail = c.err
		var trailer metadata.MD
		_, err := client.ModelInfer(t.Context(), inferRequest("echo"), grpc.Trailer(&trailer))
		var delay time.Duration
		for _, d := range status.Convert(err).Details() {
			if info, ok := d.(*errdetails.RetryInfo); ok {
				delay = info.GetRetryDelay().AsDuration()
			}
		}
		seconds, millis := strings.Join(trailer.Get("retry-after"), ","), strings.Join(trailer.Get("grpc-retry-pushback-ms"), ",")
		if err == nil || delay != c.delay || seconds != c.seconds || millis != c.millis {
			t.Errorf("%v: details %v, retry-after %q, pushback %q: %v", c.err, delay, seconds, millis, err)
		}
	}
}

// TestGRPCClientKeepsToRetryAfter has grpc-go try again by itself: its own pause is a minute, the refusal's a moment.
func TestGRPCClientKeepsToRetryAfter(t *testing.T) {
	b := start(t, nil)
	client := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key", grpc.WithDefaultServiceConfig(`{"methodConfig":[{"name":[{}],
		"retryPolicy":{"maxAttempts":3,"initialBackoff":"60s","maxBackoff":"60s","backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE"]}}]}`)))
	const pause = 150 * time.Millisecond
	b.walk.fail, b.walk.once = &api.Error{Code: api.CodeQueueFull, Message: "full", RetryAfter: pause}, true
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	begin := time.Now()
	if _, err := client.ModelInfer(ctx, inferRequest("echo")); err != nil || time.Since(begin) < pause || b.walk.fail != nil {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
}
