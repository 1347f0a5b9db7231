package gateway

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway/rpc"
)

// PrincipalOf gives the caller of a gRPC call; nil for methods that need no key.
func PrincipalOf(ctx context.Context) *api.Principal {
	p, _ := rpc.Admitted(ctx).(*api.Principal)
	return p
}

// Authorize resolves the caller of a gRPC call anew: a stream may live longer than its key.
func (s *Server) Authorize(ctx context.Context) (*api.Principal, error) {
	return s.guard.Authenticate(rpc.Values(ctx, "authorization"))
}

// admit sees every call when its metadata has come and its message has not: whoever has no key is turned away before anything
// is kept for them.
func (s *Server) admit(ctx context.Context, method string) (any, error) {
	if s.open[method] {
		return nil, nil
	}
	p, err := s.Authorize(ctx)
	if err != nil {
		return nil, s.status(ctx, method, err)
	}
	return p, nil
}

// unary stands before every unary method: it turns errors into statuses and survives panics.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (answer any, err error) {
	defer s.recovered(ctx, info.FullMethod, &err)
	answer, err = next(ctx, req)
	return answer, s.status(ctx, info.FullMethod, err)
}

// stream stands before every streaming method; those bound the time between messages by themselves.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer s.recovered(stream.Context(), info.FullMethod, &err)
	return s.status(stream.Context(), info.FullMethod, next(srv, stream))
}

// recovered turns a panic into an internal error: one request fails, the server does not.
func (s *Server) recovered(ctx context.Context, method string, err *error) {
	if p := recover(); p != nil {
		*err = s.status(ctx, method, Panicked(p))
	}
}

// Panicked is the error of a request whose handling panicked; p is what was recovered.
func Panicked(p any) error {
	cause := fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	return api.Fail(api.CodeInternal, "", "internal error").Because(cause)
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
