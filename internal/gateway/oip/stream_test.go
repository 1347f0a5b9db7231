package oip_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/internal/gateway"
	"github.com/penstock/penstock/internal/serve"
	"github.com/penstock/penstock/internal/tensor"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

type inferStream = grpc.BidiStreamingClient[wire.ModelInferRequest, wire.ModelStreamInferResponse]

func (b *bench) stream(t *testing.T, pairs ...string) inferStream {
	t.Helper()
	stream, err := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key")).ModelStreamInfer(metadata.AppendToOutgoingContext(t.Context(), pairs...))
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// TestStream sends many requests before it reads: the answers come in order, those of bad ones as messages in their turn.
func TestStream(t *testing.T) {
	b := start(t, nil)
	stream := b.stream(t)
	const count = 100
	sent := make(chan error, 1)
	go func() {
		for i := range count {
			model := "echo"
			if i%10 == 3 {
				model = "nosuch"
			}
			request := inferRequest(model)
			request.Id = fmt.Sprint(i)
			request.RawInputContents[0] = floats(float32(i), 2, 3, 4)
			if i%10 == 5 {
				request.RawInputContents[0] = nil
			}
			request.Parameters = map[string]*wire.InferParameter{"triton_enable_empty_final_response": {ParameterChoice: &wire.InferParameter_BoolParam{BoolParam: true}}}
			if err := stream.Send(request); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	for i := range count {
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		infer := answer.GetInferResponse()
		switch {
		case infer.GetId() != fmt.Sprint(i):
			t.Fatalf("answer %d has the id %q", i, infer.GetId())
		case i%10 == 3:
			if answer.GetErrorMessage() != "Request for unknown model: 'nosuch' is not found" {
				t.Errorf("%d: %v", i, answer)
			}
		case i%10 == 5:
			if !strings.Contains(answer.GetErrorMessage(), "needs 4 elements of FP32") {
				t.Errorf("%d: %v", i, answer)
			}
		case answer.GetErrorMessage() != "" || string(infer.GetRawOutputContents()[0]) != string(floats(float32(i), 2, 3, 4)) ||
			!infer.GetParameters()["triton_final_response"].GetBoolParam() || infer.GetModelVersion() != "3" || infer.GetOutputs()[0].GetName() != "x":
			t.Errorf("%d: %v", i, answer)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestStreamEnds(t *testing.T) {
	b := start(t, func(c *gateway.Config) { c.StreamIdle = 300 * time.Millisecond })
	t.Run("strict", func(t *testing.T) {
		stream := b.stream(t, "triton_grpc_error", "true")
		_ = stream.Send(inferRequest("nosuch"))
		if _, err := stream.Recv(); status.Code(err) != codes.NotFound {
			t.Errorf("%v", err)
		}
	})
	t.Run("idle", func(t *testing.T) {
		stream := b.stream(t)
		_ = stream.Send(inferRequest("echo"))
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "300ms") {
			t.Errorf("%v", err)
		}
	})
	t.Run("panic", func(t *testing.T) {
		b.walk.output = func(*serve.Call) []tensor.Tensor { panic("broken") }
		stream := b.stream(t)
		_ = stream.Send(inferRequest("echo"))
		if answer, err := stream.Recv(); err != nil || !strings.HasPrefix(answer.GetErrorMessage(), "internal error") || strings.Contains(answer.GetErrorMessage(), "broken") {
			t.Errorf("%v %v", answer, err)
		}
		b.walk.output = nil
	})
	t.Run("key revoked", func(t *testing.T) {
		stream := b.stream(t)
		_ = stream.Send(inferRequest("echo"))
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		b.walk.revoked.Store(true)
		_ = stream.Send(inferRequest("echo"))
		if _, err := stream.Recv(); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%v", err)
		}
		b.walk.revoked.Store(false)
	})
	t.Run("caller gone", func(t *testing.T) {
		b.walk.wait = make(chan error, 8)
		ctx, hangUp := context.WithCancel(t.Context())
		stream, err := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key")).ModelStreamInfer(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			_ = stream.Send(inferRequest("echo"))
		}
		timed := inferRequest("echo")
		timed.Parameters = map[string]*wire.InferParameter{"timeout": {ParameterChoice: &wire.InferParameter_Int64Param{Int64Param: 1000}}}
		_ = stream.Send(timed)
		if err := <-b.walk.wait; !errors.Is(err, context.DeadlineExceeded) { // the fourth runs beside the first three
			t.Errorf("timed: %v", err)
		}
		hangUp()
		for range 3 {
			if err := <-b.walk.wait; !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		}
	})
}

// TestStreamNotRead sends without reading the answers: the server gives the stream up.
func TestStreamNotRead(t *testing.T) {
	b := start(t, func(c *gateway.Config) { c.WriteTimeout = 50 * time.Millisecond })
	b.walk.output = func(*serve.Call) []tensor.Tensor {
		return []tensor.Tensor{{Name: "x", Type: tensor.Uint8, Shape: []int64{1 << 20}, Data: make([]byte, 1<<20)}}
	}
	stream := b.stream(t)
	const count = 50
	for range count {
		if err := stream.Send(inferRequest("echo")); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(time.Second) // what the caller does in the meantime is the test: nothing
	for n := 0; ; n++ {
		if _, err := stream.Recv(); err != nil {
			if code := status.Code(err); n >= count || code != codes.Canceled && code != codes.DeadlineExceeded {
				t.Errorf("after %d answers: %v", n, err)
			}
			return
		}
		if n == count {
			t.Fatal("all answers came")
		}
	}
}

func TestModelConfig(t *testing.T) {
	b := start(t, nil)
	client := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key"))
	r, err := client.ModelConfig(t.Context(), &wire.ModelConfigRequest{Name: "echo"})
	if err != nil {
		t.Fatal(err)
	}
	c := r.GetConfig()
	if c.GetPlatform() != "onnxruntime_onnx" || c.GetMaxBatchSize() != 0 || c.GetInput()[0].GetDataType() != wire.DataType_TYPE_FP32 || len(c.GetInput()[0].GetDims()) != 2 {
		t.Errorf("%v", c)
	}
	if _, err := client.ModelConfig(t.Context(), &wire.ModelConfigRequest{Name: "secret"}); status.Code(err) != codes.NotFound {
		t.Errorf("foreign: %v", err)
	}
	if _, err := client.ModelConfig(t.Context(), &wire.ModelConfigRequest{Name: "../x"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("path: %v", err)
	}
}
