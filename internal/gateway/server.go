// Package gateway is the data plane's door: the limits on connections, headers and bodies, the keys asked for, and the
// one place each where an error becomes an HTTP answer or a gRPC status. It speaks no inference protocol itself: those
// stand in folders below it and are attached to a Server. It decides nothing about a request's fate (serve does).
// Callers: server, and the protocols below.
package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway/rpc"
)

// Guard knows the keys.
type Guard interface {
	// Authenticate resolves the values of the Authorization header. Errors are *api.Error.
	Authenticate(authorization []string) (*api.Principal, error)
}

// Memory is where large bodies are read to, so that they need not be copied on their way to a worker.
type Memory interface {
	// Take gives a block of at least n bytes; nil when there is none, and other memory has to do.
	Take(n int) []byte

	// Grow makes a block at least n bytes large where it lies; nil when there is no room behind it.
	Grow(block []byte, n int) []byte

	// Give takes a block back.
	Give(block []byte)
}

// Options is what a Server is made of.
type Options struct {
	Config Config
	Memory Memory // for large bodies; nil for none
	Guard  Guard
	Ready  func() bool      // whether the whole server can answer
	Codec  encoding.CodecV2 // for gRPC messages; nil means protobuf's own
	Log    *slog.Logger     // nil means the default
}

// Server holds the data plane's limits and its gRPC server. Protocols are attached before it serves.
type Server struct {
	config   Config
	guard    Guard
	ready    func() bool
	memory   Memory
	log      *slog.Logger
	mounts   []mount
	grpc     *rpc.Server
	open     map[string]bool // gRPC methods that need no key
	inFlight atomic.Int64    // bytes of bodies held
	bodies   [len(bodyClasses)]sync.Pool
}

// New makes a Server without protocols.
func New(o Options) (*Server, error) {
	if err := o.Config.Validate(); err != nil {
		return nil, fmt.Errorf("gateway's limits: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Server{config: o.Config, guard: o.Guard, ready: o.Ready, memory: o.Memory, log: o.Log}
	s.open = map[string]bool{
		grpc_health_v1.Health_Check_FullMethodName: true,
		grpc_health_v1.Health_Watch_FullMethodName: true,
		grpc_health_v1.Health_List_FullMethodName:  true,
	}
	s.grpc = rpc.New(rpc.Options{
		Limits: rpc.Limits{
			HeaderBytes:  o.Config.HeaderBytes,
			MessageBytes: int(min(o.Config.TensorBytes+int64(o.Config.HeaderBytes), math.MaxInt32)),
			Streams:      int(o.Config.StreamsPerConn),
			Handshake:    o.Config.HeaderTimeout,
			Idle:         o.Config.IdleTimeout,
			Message:      o.Config.MessageTimeout,
			Write:        o.Config.WriteTimeout,
		},
		Codec: o.Codec, Memory: o.Memory, Admit: s.admit, Unary: s.unary, Stream: s.stream,
		Panicked: func(p any) error { return s.status(context.Background(), "gRPC", Panicked(p)) },
	})
	grpc_health_v1.RegisterHealthServer(s.grpc, &health{ready: o.Ready})
	reflection.Register(s.grpc)
	return s, nil
}

// mount is an HTTP protocol and the prefix of its paths.
type mount struct {
	prefix  string
	handler http.Handler
}

// Handle attaches an HTTP protocol to a path and everything below it. It must not be called once the server serves.
func (s *Server) Handle(prefix string, h http.Handler) {
	s.mounts = append(s.mounts, mount{prefix: prefix, handler: h})
}

// Open lets a gRPC method be called without a key. It must not be called once the server serves.
func (s *Server) Open(fullMethod string) { s.open[fullMethod] = true }

// Handler answers the attached HTTP protocols' paths.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.route) }

// route finds the protocol of a path. There are a handful, and each routes below its prefix by itself.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	for i := range s.mounts {
		rest, ok := strings.CutPrefix(r.URL.Path, s.mounts[i].prefix)
		if ok && (rest == "" || rest[0] == '/') {
			s.mounts[i].handler.ServeHTTP(w, r)
			return
		}
	}
	NotFound(w)
}

// GRPC is the gRPC server that protocols register on and that server starts.
func (s *Server) GRPC() *rpc.Server { return s.grpc }

// Ready reports whether the whole server can answer.
func (s *Server) Ready() bool { return s.ready() }

// Config gives the limits.
func (s *Server) Config() Config { return s.config }

// Log is the server's log.
func (s *Server) Log() *slog.Logger { return s.log }

// Authenticate resolves the caller of an HTTP request.
func (s *Server) Authenticate(r *http.Request) (*api.Principal, error) {
	return s.guard.Authenticate(r.Header["Authorization"])
}
