package gateway

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/api"
)

// unary stands before every unary method: it finds the caller, turns errors into statuses and survives panics.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (answer any, err error) {
	defer s.recovered(ctx, info.FullMethod, &err)
	if ctx, err = s.admit(ctx, info.FullMethod); err != nil {
		return nil, s.status(ctx, info.FullMethod, err)
	}
	answer, err = next(ctx, req)
	return answer, s.status(ctx, info.FullMethod, err)
}

// stream stands before every streaming method.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	ctx := stream.Context()
	defer s.recovered(ctx, info.FullMethod, &err)
	if ctx, err = s.admit(ctx, info.FullMethod); err != nil {
		return s.status(ctx, info.FullMethod, err)
	}
	return s.status(ctx, info.FullMethod, next(srv, admitted{ServerStream: stream, ctx: ctx}))
}

// admitted is a stream that knows its caller.
type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

func (a admitted) Context() context.Context { return a.ctx }

// admit resolves the key of a call, unless its method is open.
func (s *Server) admit(ctx context.Context, method string) (context.Context, error) {
	if s.open[method] {
		return ctx, nil
	}
	p, err := s.guard.Authenticate(metadata.ValueFromIncomingContext(ctx, "authorization"))
	if err != nil {
		return ctx, err
	}
	return context.WithValue(ctx, principalKey{}, p), nil
}

// recovered turns a panic into an internal error: one request fails, the server does not.
func (s *Server) recovered(ctx context.Context, method string, err *error) {
	if p := recover(); p != nil {
		cause := fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		*err = s.status(ctx, method, api.Fail(api.CodeInternal, "", "internal error").Because(cause))
	}
}

// health answers grpc.health.v1 from the server's own readiness.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
	ready func() bool
}

// healthEvery is how often a watched status is looked at.
const healthEvery = time.Second

func (h *health) status() grpc_health_v1.HealthCheckResponse_ServingStatus {
	if h.ready() {
		return grpc_health_v1.HealthCheckResponse_SERVING
	}
	return grpc_health_v1.HealthCheckResponse_NOT_SERVING
}

// Check gives the status of the whole server, under its own name or the service's.
func (h *health) Check(_ context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if r.GetService() != "" && r.GetService() != "inference.GRPCInferenceService" {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	return &grpc_health_v1.HealthCheckResponse{Status: h.status()}, nil
}

// Watch sends the status now and whenever it changes.
func (h *health) Watch(_ *grpc_health_v1.HealthCheckRequest, stream grpc_health_v1.Health_WatchServer) error {
	last := grpc_health_v1.HealthCheckResponse_UNKNOWN
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
		if now := h.status(); now != last {
			if err := stream.Send(&grpc_health_v1.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-tick.C:
		}
	}
}
