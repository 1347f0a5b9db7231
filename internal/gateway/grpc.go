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
	"google.golang.org/grpc/tap"

	"github.com/penstock/penstock/api"
)

// admission is what the door found out about a gRPC call: who calls, and the clock that its first message runs against.
type admission struct {
	principal *api.Principal
	arrival   *time.Timer // ends the call
	unwatch   func() bool // stops looking out for the stream's end
}

// admissionKey finds the admission in a call's context.
type admissionKey struct{}

// PrincipalOf gives the caller of a gRPC call; nil for methods that need no key.
func PrincipalOf(ctx context.Context) *api.Principal {
	if a, ok := ctx.Value(admissionKey{}).(*admission); ok {
		return a.principal
	}
	return nil
}

// arrived stops the clock: the first message is there.
func arrived(ctx context.Context) {
	if a, ok := ctx.Value(admissionKey{}).(*admission); ok {
		a.arrival.Stop()
		a.unwatch()
	}
}

// Authorize resolves the caller of a gRPC call anew: a stream may live longer than its key.
func (s *Server) Authorize(ctx context.Context) (*api.Principal, error) {
	return s.guard.Authenticate(metadata.ValueFromIncomingContext(ctx, "authorization"))
}

// Limit ends the call unless stop is called within the time that an answer of size bytes has to be taken by the caller: a
// write's time-out for each MiB.
func (s *Server) Limit(ctx context.Context, size int) (stop func() bool) {
	a, ok := ctx.Value(admissionKey{}).(*admission)
	if !ok {
		return func() bool { return false }
	}
	a.arrival.Reset(time.Duration(1+size>>20) * s.config.WriteTimeout)
	return a.arrival.Stop
}

// smallAnswer is what gRPC takes from a handler without waiting for the caller to read.
const smallAnswer = 32 << 10

// tap sees every call when its metadata has come and its message has not: whoever has no key is turned away before anything
// is kept for them, and who announces a message must send it.
func (s *Server) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	a := new(admission)
	if !s.open[info.FullMethodName] {
		var err error
		if a.principal, err = s.guard.Authenticate(info.Header.Get("authorization")); err != nil {
			return ctx, s.status(ctx, info.FullMethodName, err)
		}
	}
	// The context ends with the stream; canceling it any earlier would cut the answer off.
	limited, cancel := context.WithCancel(ctx)
	a.arrival = time.AfterFunc(s.config.MessageTimeout, cancel)
	// A stream that is reset before its message came must not leave its clock behind: a caller who resets as fast as it opens
	// would fill the memory with them.
	a.unwatch = context.AfterFunc(ctx, func() { a.arrival.Stop() })
	return context.WithValue(limited, admissionKey{}, a), nil
}

// unary stands before every unary method: it turns errors into statuses and survives panics.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (answer any, err error) {
	defer s.recovered(ctx, info.FullMethod, &err)
	arrived(ctx)
	answer, err = next(ctx, req)
	if sized, ok := answer.(interface{ Size() int }); ok && sized.Size() > smallAnswer {
		// gRPC sends it after this returns, and its context ends then: a caller that does not read is cut off.
		stop := s.Limit(ctx, sized.Size())
		context.AfterFunc(ctx, func() { stop() })
	}
	return answer, s.status(ctx, info.FullMethod, err)
}

// stream stands before every streaming method; those bound the time between messages by themselves.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer s.recovered(stream.Context(), info.FullMethod, &err)
	arrived(stream.Context())
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
