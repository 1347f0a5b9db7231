package oip

import (
	"context"
	"strconv"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
	"github.com/penstock/penstock/internal/gateway/rpc"
	"github.com/penstock/penstock/internal/serve"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// service answers the gRPC methods. Those that the embedded value answers are UNIMPLEMENTED.
type service struct {
	wire.UnimplementedGRPCInferenceServiceServer
	p *protocol
}

// register puts the service on a gRPC server, with a way of its own for ModelInfer: the generated one would copy every
// tensor into messages first.
func register(server grpc.ServiceRegistrar, p *protocol) {
	own := wire.GRPCInferenceService_ServiceDesc
	own.Methods = append([]grpc.MethodDesc(nil), own.Methods...)
	for i := range own.Methods {
		if own.Methods[i].MethodName == "ModelInfer" {
			own.Methods[i].Handler = modelInfer
		}
	}
	server.RegisterService(&own, &service{p: p})
}

// ServerLive answers as soon as the process serves.
func (s *service) ServerLive(context.Context, *wire.ServerLiveRequest) (*wire.ServerLiveResponse, error) {
	return &wire.ServerLiveResponse{Live: true}, nil
}

// ServerReady tells whether the whole server can answer.
func (s *service) ServerReady(context.Context, *wire.ServerReadyRequest) (*wire.ServerReadyResponse, error) {
	return &wire.ServerReadyResponse{Ready: s.p.gateway.Ready()}, nil
}

// ModelReady tells whether an endpoint can answer. An unknown one is not ready, which is no error to clients that wait for
// it.
func (s *service) ModelReady(ctx context.Context, r *wire.ModelReadyRequest) (*wire.ModelReadyResponse, error) {
	if err := checkTarget(r.GetName(), r.GetVersion()); err != nil {
		return nil, err
	}
	view, err := s.p.server.Describe(gateway.PrincipalOf(ctx), api.EndpointName(r.GetName()), r.GetVersion())
	if kind := api.KindOf(err); err != nil && kind != api.NotFound && kind != api.Unavailable {
		return nil, err
	}
	return &wire.ModelReadyResponse{Ready: err == nil && view.Ready}, nil
}

// ServerMetadata names the server and its extensions.
func (s *service) ServerMetadata(context.Context, *wire.ServerMetadataRequest) (*wire.ServerMetadataResponse, error) {
	return &wire.ServerMetadataResponse{Name: s.p.name, Version: s.p.version, Extensions: s.p.offers}, nil
}

// ModelMetadata describes an endpoint.
func (s *service) ModelMetadata(ctx context.Context, r *wire.ModelMetadataRequest) (*wire.ModelMetadataResponse, error) {
	if err := checkTarget(r.GetName(), r.GetVersion()); err != nil {
		return nil, err
	}
	view, err := s.p.server.Describe(gateway.PrincipalOf(ctx), api.EndpointName(r.GetName()), r.GetVersion())
	if err != nil {
		return nil, named(err, r.GetName(), r.GetVersion())
	}
	return &wire.ModelMetadataResponse{
		Name: r.GetName(), Versions: view.Versions, Platform: view.Platform,
		Inputs: tensorMetadata(view.Signature.Inputs), Outputs: tensorMetadata(view.Signature.Outputs),
	}, nil
}

func tensorMetadata(specs []api.TensorSpec) []*wire.ModelMetadataResponse_TensorMetadata {
	out := make([]*wire.ModelMetadataResponse_TensorMetadata, 0, len(specs))
	for _, spec := range specs {
		out = append(out, &wire.ModelMetadataResponse_TensorMetadata{Name: spec.Name, Datatype: spec.Datatype, Shape: spec.Shape})
	}
	return out
}

// ModelConfig gives an endpoint's configuration as Triton's clients know it.
func (s *service) ModelConfig(ctx context.Context, r *wire.ModelConfigRequest) (*wire.ModelConfigResponse, error) {
	if err := checkTarget(r.GetName(), r.GetVersion()); err != nil {
		return nil, err
	}
	view, err := s.p.server.Describe(gateway.PrincipalOf(ctx), api.EndpointName(r.GetName()), r.GetVersion())
	if err != nil {
		return nil, named(err, r.GetName(), r.GetVersion())
	}
	return &wire.ModelConfigResponse{Config: configOf(r.GetName(), view)}, nil
}

// modelInfer is the method's handler: it receives the message's bytes and gives an encoded reply. The order of its
// parameters is grpc-go's.
//
//revive:disable-next-line:context-as-argument
func modelInfer(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
	p := srv.(*service).p
	start := time.Now()
	s := p.take()
	defer p.give(s)
	if err := decode(&s.request); err != nil {
		return nil, err
	}
	handle := func(ctx context.Context, _ any) (any, error) { return p.inferGRPC(ctx, s, start) }
	if interceptor == nil {
		return handle(ctx, &s.request)
	}
	info := &grpc.UnaryServerInfo{Server: srv, FullMethod: wire.GRPCInferenceService_ModelInfer_FullMethodName}
	return interceptor(ctx, &s.request, info, handle)
}

// inferGRPC decodes, calls and encodes. It runs behind the interceptor, so the caller is known before any tensor is looked at;
// the reply is encoded here because the answer's memory is the engine's and goes back when this returns.
func (p *protocol) inferGRPC(ctx context.Context, s *scratch, start time.Time) (any, error) {
	id := ulid.Make().String()
	rpc.SetHeader(ctx, "penstock-request-id", id)
	size := int64(len(s.request.Message().Bytes()))
	if err := p.gateway.Hold(size); err != nil {
		return nil, err
	}
	defer p.gateway.Free(size)
	s.call.Principal, s.call.RequestID, s.call.Start, s.call.Life = gateway.PrincipalOf(ctx), id, start, rpc.Life(ctx)
	answer, out, err := p.callGRPC(ctx, s)
	if err != nil {
		return nil, err
	}
	defer answer.Release()
	if status := cacheStatus(answer.Recall); status != nil {
		rpc.SetHeader(ctx, "cache-status", status[0])
	}
	rpc.SetHeader(ctx, "penstock-variant", string(answer.Variant), "penstock-version", out.Version)
	return out.Reply(), nil
}

// callGRPC decodes a received message and has it answered; who calls, when and under which id is in the call already. The
// answer must be released.
func (p *protocol) callGRPC(ctx context.Context, s *scratch) (*serve.Answer, wire.Response, error) {
	request, call := &s.request, &s.call
	var none wire.Response
	if err := request.DecodeProto(request.Message().Bytes()); err != nil {
		return nil, none, err
	}
	if err := checkTarget(request.Model, request.Version); err != nil {
		return nil, none, err
	}
	call.Endpoint, call.Version, call.Protocol = api.EndpointName(request.Model), request.Version, "oip-grpc"
	call.Inputs, call.Outputs = request.Inputs, request.Wanted()
	l := labels{unit: rpc.Values(ctx, "penstock-unit"),
		variant:      rpc.Values(ctx, "penstock-variant"),
		traceparent:  rpc.Values(ctx, "traceparent"),
		cacheControl: rpc.Values(ctx, "cache-control"),
		band:         rpc.Values(ctx, "penstock-band")}
	if err := l.put(call); err != nil {
		return nil, none, err
	}
	call.Priority, call.Parameters = request.Priority, request.Parameters
	if request.Timeout > 0 {
		limited, cancel := context.WithDeadline(ctx, call.Start.Add(request.Timeout))
		defer cancel()
		ctx = limited
	}
	answer, err := p.server.Infer(ctx, call)
	if err != nil {
		return nil, none, named(err, request.Model, request.Version)
	}
	outputs, err := request.Classify(answer.Outputs)
	if err != nil {
		answer.Release()
		return nil, none, err
	}
	version := strconv.FormatInt(int64(answer.Version), 10)
	return answer, wire.Response{Model: request.Model, Version: version, ID: request.ID, Outputs: outputs}, nil
}
