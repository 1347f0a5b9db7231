// Package rpc is a gRPC server of its own over HTTP/2, for methods as protoc-gen-go-grpc describes them: a unary call costs a
// third of what it costs in grpc-go's transport. Compression, deadlines, metadata, streams, keep-alive and orderly ends are as
// clients expect them; TLS is the listener's. It knows no method by itself and no keys: both are given to it. It speaks no
// plain HTTP. Callers: gateway.
//
// RFC 9113 is HTTP/2, RFC 7541 its header compression, and gRPC's PROTOCOL-HTTP2.md what stands above.
package rpc

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
)

// Limits bound what a peer can cost. All must be set.
type Limits struct {
	HeaderBytes  int           // bytes of a call's metadata, 32 added for each field
	MessageBytes int           // bytes of one message, decompressed
	Streams      int           // calls at once on one connection
	Handshake    time.Duration // for a connection's first bytes, for a frame that has begun, and for the answer to a ping
	Idle         time.Duration // how long nothing may come: without calls the connection ends, with calls the peer is asked
	Message      time.Duration // from a call's beginning to its first message being there
	Write        time.Duration // for one write, and for each MiB of a message that the peer takes
}

// Options is what a Server is made of.
type Options struct {
	Limits Limits
	Codec  encoding.CodecV2 // of messages; nil is protobuf's
	Memory Memory           // for large messages; nil for none

	// Admit sees a call before any of its message is kept; its error ends the call, and what it gives is Admitted's. It must not
	// block.
	Admit func(ctx context.Context, method string) (any, error)

	// Panicked makes the error of a call whose method panicked outside the interceptors; nil hides the panic behind INTERNAL.
	Panicked func(p any) error

	Unary  grpc.UnaryServerInterceptor  // around every unary method; nil for none
	Stream grpc.StreamServerInterceptor // around every streaming method; nil for none
}

// Server answers calls. Services are registered before it serves; afterwards all methods may be called at any time.
type Server struct {
	limits   Limits
	codec    encoding.CodecV2
	memory   Memory
	admit    func(context.Context, string) (any, error)
	recover  func(any) error
	unary    grpc.UnaryServerInterceptor
	stream   grpc.StreamServerInterceptor
	methods  map[string]*method
	services map[string]grpc.ServiceInfo

	calls   chan *stream  // to goroutines that ran one before, whose stacks have grown
	resting atomic.Int64  // how many of these wait
	stopped chan struct{} // closed when the server is over
	once    sync.Once
	running sync.WaitGroup // connections and calls
	armed   atomic.Bool    // a look is on its way
	looks   *time.Timer

	mu        sync.Mutex // guards what follows
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	closing   bool
	idle      chan struct{} // closed when closing and the last connection is gone
}

// restingMax bounds the goroutines that wait for the next call.
const restingMax = 256

// method is one that can be called.
type method struct {
	name    string // /package.Service/Method
	service any
	unary   *grpc.MethodDesc
	stream  *grpc.StreamDesc
}

// New makes a server without services.
func New(o Options) *Server {
	s := &Server{limits: o.Limits, codec: o.Codec, memory: o.Memory, admit: o.Admit, recover: o.Panicked, unary: o.Unary, stream: o.Stream,
		methods: map[string]*method{}, services: map[string]grpc.ServiceInfo{}, calls: make(chan *stream), stopped: make(chan struct{}),
		listeners: map[net.Listener]struct{}{}, conns: map[*conn]struct{}{}, idle: make(chan struct{})}
	s.looks = time.AfterFunc(time.Hour, s.look)
	s.looks.Stop() // until there is a call
	if s.codec == nil {
		s.codec = encoding.GetCodecV2("proto")
	}
	return s
}

// RegisterService adds a service's methods.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	info := grpc.ServiceInfo{Metadata: desc.Metadata}
	for i := range desc.Methods {
		d := &desc.Methods[i]
		name := "/" + desc.ServiceName + "/" + d.MethodName
		s.methods[name] = &method{name: name, service: impl, unary: d}
		info.Methods = append(info.Methods, grpc.MethodInfo{Name: d.MethodName})
	}
	for i := range desc.Streams {
		d := &desc.Streams[i]
		name := "/" + desc.ServiceName + "/" + d.StreamName
		s.methods[name] = &method{name: name, service: impl, stream: d}
		info.Methods = append(info.Methods, grpc.MethodInfo{Name: d.StreamName, IsClientStream: d.ClientStreams, IsServerStream: d.ServerStreams})
	}
	s.services[desc.ServiceName] = info
}

// GetServiceInfo tells what is registered, for reflection.
func (s *Server) GetServiceInfo() map[string]grpc.ServiceInfo { return s.services }

// unknown is the status of a call to a method that is not there.
func (s *Server) unknown(path string) error {
	service, name, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch _, known := s.services[service]; {
	case !ok || !strings.HasPrefix(path, "/"):
		return status.Errorf(codes.Unimplemented, "malformed method name %.200q", path)
	case known:
		return status.Errorf(codes.Unimplemented, "unknown method %.200s for service %s", name, service)
	}
	return status.Errorf(codes.Unimplemented, "unknown service %.200s", service)
}

// Serve answers on the listener until Stop or GracefulStop, and then returns grpc.ErrServerStopped. It closes the listener.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		_ = l.Close()
		return grpc.ErrServerStopped
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer l.Close()
	for pause := time.Duration(0); ; {
		c, err := l.Accept()
		if err == nil {
			pause = 0
			s.take(c)
			continue
		}
		s.mu.Lock()
		closing := s.closing
		s.mu.Unlock()
		var passing interface{ Temporary() bool }
		switch {
		case closing:
			return grpc.ErrServerStopped
		case errors.As(err, &passing) && passing.Temporary():
			// Out of descriptors, most likely: some will be free in a moment.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			wait := time.NewTimer(pause)
			select {
			case <-wait.C:
			case <-s.stopped:
				wait.Stop()
			}
		default:
			return err
		}
	}
}

func (s *Server) take(whole net.Conn) {
	c := newConn(s, whole)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		_ = whole.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.running.Go(func() { s.serve(c, c.greet()) })
}

// serve leads a connection, and forgets it when it is over.
func (s *Server) serve(c *conn, err error) {
	if !c.serve(err) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.rest()
}

// rest needs mu.
func (s *Server) rest() {
	if s.closing && len(s.conns) == 0 {
		select {
		case <-s.idle:
		default:
			close(s.idle)
		}
	}
}

func (s *Server) panicked(call *stream, p any) error {
	if s.recover != nil {
		return s.recover(p)
	}
	return status.Errorf(codes.Internal, "%s failed", call.method.name)
}

// start runs a call, on a goroutine that ran one before if there is one.
func (s *Server) start(call *stream) {
	select {
	case s.calls <- call:
	default:
		s.running.Go(func() { s.work(call) })
	}
}

func (s *Server) work(call *stream) {
	for call.run(); s.resting.Add(1) <= restingMax; call.run() {
		select {
		case call = <-s.calls:
			s.resting.Add(-1)
		case <-s.stopped:
			s.resting.Add(-1)
			return
		}
	}
	s.resting.Add(-1)
}

// lookEvery is the time between two looks at the calls, while there are any.
const lookEvery = 100 * time.Millisecond

// arm sees to it that a look comes.
func (s *Server) arm() {
	if !s.armed.Load() && s.armed.CompareAndSwap(false, true) {
		s.looks.Reset(min(max(s.limits.Message/8, 10*time.Millisecond), lookEvery))
	}
}

// look ends calls whose message does not come, or whose time is over. It comes again as long as there are calls.
func (s *Server) look() {
	s.armed.Store(false) // before the look: a call that it does not see any more arms the next
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	now := time.Now()
	for _, c := range conns {
		if c.expire(now, s.limits.Message) {
			s.arm()
		}
	}
}

// shut takes no connection any more.
func (s *Server) shut() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for l := range s.listeners {
		_ = l.Close()
	}
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.rest()
	return conns
}

// Stop ends every connection and returns when all calls are over: their contexts have ended.
func (s *Server) Stop() {
	for _, c := range s.shut() {
		c.mu.Lock()
		c.fail(net.ErrClosed)
		c.mu.Unlock()
		_ = c.whole.Close()
	}
	s.once.Do(func() { close(s.stopped) })
	s.running.Wait()
}

// GracefulStop takes no new calls, and returns when those under way have ended, at the latest with Stop.
func (s *Server) GracefulStop() {
	for _, c := range s.shut() {
		c.drain()
	}
	<-s.idle
	s.Stop()
}

// drain tells the peer to make its next calls elsewhere, and ends the connection when the last one here is over.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	c.out = appendGoAway(c.out, c.last, faultNone, "the server stops")
	c.write()
	_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
}
