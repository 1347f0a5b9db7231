package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	_ "google.golang.org/grpc/encoding/proto" // the codec
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/penstock/penstock/internal/arena"
	"github.com/penstock/penstock/internal/gateway/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func limits() rpc.Limits {
	return rpc.Limits{HeaderBytes: 16 << 10, MessageBytes: 4 << 20, Streams: 100, Handshake: 10 * time.Second, Idle: time.Minute,
		Message: time.Minute, Write: 30 * time.Second}
}

// service answers each message with itself. Metadata of the call say what else it does.
type service struct{}

func echo(ctx context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	switch act := strings.Join(rpc.Values(ctx, "act"), ","); act {
	case "":
	case "wait":
		<-ctx.Done()
		return nil, ctx.Err()
	case "within":
		if life := rpc.Life(ctx); life == nil || !life.Within(time.Now(), 2*time.Second) {
			return nil, status.Error(codes.Internal, "the context takes no deadline")
		}
		<-ctx.Done()
		return nil, ctx.Err()
	case "deadline":
		by, has := ctx.Deadline()
		left := time.Until(by)
		return wrapperspb.Bytes(fmt.Appendf(nil, "%v %v %v", has, left.Round(time.Minute), rpc.Life(ctx) != nil)), nil
	case "panic":
		panic("broken")
	case "later":
		return nil, rpc.Failure(status.New(codes.Unavailable, act), "again", "in a while", "when", "5")
	default:
		return nil, status.Error(codes.FailedPrecondition, act)
	}
	rpc.SetHeader(ctx, "size", fmt.Sprint(len(in.GetValue())))
	return in, nil
}

var desc = grpc.ServiceDesc{
	ServiceName: "test.Echo", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "One", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // grpc-go's order
		in := new(wrapperspb.BytesValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		return echo(ctx, in)
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Many", ClientStreams: true, ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
		for {
			in := new(wrapperspb.BytesValue)
			if err := stream.RecvMsg(in); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			out, err := echo(stream.Context(), in)
			if err != nil {
				return err
			}
			if err := stream.SendMsg(out); err != nil {
				return err
			}
		}
	}}},
}

func start(tb testing.TB, o rpc.Options) (server *rpc.Server, address string) {
	tb.Helper()
	server = rpc.New(o)
	server.RegisterService(&desc, service{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	tb.Cleanup(func() {
		server.Stop()
		if err := <-ended; !errors.Is(err, grpc.ErrServerStopped) {
			tb.Error(err)
		}
	})
	return server, l.Addr().String()
}

func dial(tb testing.TB, address string, options ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	c, err := grpc.NewClient(address, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

func ask(ctx context.Context, c *grpc.ClientConn, message []byte, options ...grpc.CallOption) ([]byte, error) {
	out := new(wrapperspb.BytesValue)
	err := c.Invoke(ctx, "/test.Echo/One", wrapperspb.Bytes(message), out, options...)
	return out.GetValue(), err
}

func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// TestWalk lets several grpc-go clients do what clients do, in random order, beside each other and on shared connections. The
// model is plain: an answer is its request, a call ends once, and as it was asked to.
func TestWalk(t *testing.T) {
	random := seeded(t)
	memory, err := arena.New(arena.Config{Bytes: 16 << 20})
	if err != nil {
		t.Logf("no shared memory: %v", err)
	}
	o := rpc.Options{Limits: limits()}
	if memory != nil {
		o.Memory = memory
	}
	server, address := start(t, o)
	var clients []*grpc.ClientConn
	for i := range 4 {
		window := int32(64<<10) << (2 * i) // grpc-go takes nothing smaller
		clients = append(clients, dial(t, address, grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8<<20))))
	}
	var all sync.WaitGroup
	for range 12 {
		own, client := rand.New(rand.NewPCG(random.Uint64(), 1)), clients[random.IntN(len(clients))]
		all.Go(func() {
			for range 60 {
				step(t, own, client)
			}
		})
	}
	all.Wait()
	for _, c := range clients {
		c.Close()
	}
	server.Stop()
	if memory != nil {
		if use := memory.Use(); use.Bytes != 0 {
			t.Errorf("%d bytes of messages are still held", use.Bytes)
		}
		if err := memory.Close(); err != nil {
			t.Error(err)
		}
	}
}

// message is mostly small, at times large or empty.
func message(random *rand.Rand) []byte {
	size := random.IntN(200)
	switch random.IntN(8) {
	case 0:
		size = random.IntN(3 << 20)
	case 1:
		size = random.IntN(40 << 10)
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * size)
	}
	return b
}

func step(t *testing.T, random *rand.Rand, client *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var options []grpc.CallOption
	if random.IntN(5) == 0 {
		options = append(options, grpc.UseCompressor(gzip.Name))
	}
	switch random.IntN(10) {
	case 0: // the caller goes away
		ctx, leave := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "act", "wait"))
		time.AfterFunc(time.Duration(random.IntN(2000))*time.Microsecond, leave)
		if _, err := ask(ctx, client, message(random), options...); status.Code(err) != codes.Canceled {
			t.Errorf("left: %v", err)
		}
	case 1: // its time is over
		ctx, done := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "act", "wait"), time.Duration(1+random.IntN(30))*time.Millisecond)
		defer done()
		if _, err := ask(ctx, client, message(random), options...); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("late: %v", err)
		}
	case 2:
		text := "it is 100 % broken,\nsays \u00fc"
		if _, err := ask(metadata.AppendToOutgoingContext(ctx, "act", "broken, 100%"), client, message(random), options...); status.Code(err) != codes.FailedPrecondition || !strings.HasPrefix(status.Convert(err).Message(), "broken, 100%") {
			t.Errorf("failed: %v (%q)", err, text)
		}
	case 3, 4:
		stream(ctx, t, random, client, options)
	default:
		b := message(random)
		var header metadata.MD
		got, err := ask(ctx, client, b, append(options, grpc.Header(&header))...)
		if err != nil || !bytes.Equal(got, b) || header.Get("size")[0] != fmt.Sprint(len(b)) {
			t.Errorf("%d bytes: %v, %d bytes back, header %v", len(b), err, len(got), header)
		}
	}
}

func stream(ctx context.Context, t *testing.T, random *rand.Rand, client *grpc.ClientConn, options []grpc.CallOption) {
	s, err := client.NewStream(ctx, &desc.Streams[0], "/test.Echo/Many", options...)
	if err != nil {
		t.Error(err)
		return
	}
	var sent [][]byte
	for range random.IntN(12) {
		sent = append(sent, message(random))
	}
	go func() {
		for _, b := range sent {
			if s.SendMsg(wrapperspb.Bytes(b)) != nil {
				return // Recv tells why
			}
		}
		_ = s.CloseSend()
	}()
	for i, b := range sent {
		out := new(wrapperspb.BytesValue)
		if err := s.RecvMsg(out); err != nil || !bytes.Equal(out.GetValue(), b) {
			t.Errorf("message %d of %d: %v, %d bytes for %d", i, len(sent), err, len(out.GetValue()), len(b))
			return
		}
	}
	if err := s.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
}

// TestStatuses asks for what must be refused, each with its status.
func TestStatuses(t *testing.T) {
	o := rpc.Options{Limits: limits(), Panicked: func(any) error { return status.Error(codes.Internal, "it failed") },
		Admit: func(_ context.Context, method string) (any, error) {
			if strings.HasSuffix(method, "/Many") {
				return nil, status.Error(codes.Unauthenticated, "no key")
			}
			return method, nil
		}}
	_, address := start(t, o)
	client := dial(t, address)
	one := func(act string, size int) error {
		_, err := ask(metadata.AppendToOutgoingContext(t.Context(), "act", act), client, make([]byte, size))
		return err
	}
	call := func(path string) error {
		return client.Invoke(t.Context(), path, wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
	}
	for _, c := range []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"panic", one("panic", 1), codes.Internal, "it failed"},
		{"error", one("no\x7f% \u00fc", 1), codes.Internal, ""}, // grpc-go sends no such metadata
		{"too large", one("", 5<<20), codes.ResourceExhausted, "limit of 4194304"},
		{"unknown method", call("/test.Echo/Other"), codes.Unimplemented, "unknown method Other"},
		{"unknown service", call("/test.Other/One"), codes.Unimplemented, "unknown service test.Other"},
		{"not admitted", call("/test.Echo/Many"), codes.Unauthenticated, "no key"},
	} {
		if status.Code(c.err) != c.code || !strings.Contains(status.Convert(c.err).Message(), c.text) {
			t.Errorf("%s: %v", c.name, c.err)
		}
	}
	if got, err := ask(t.Context(), client, []byte("on")); err != nil || string(got) != "on" {
		t.Errorf("afterwards: %q %v", got, err)
	}
}

// TestGracefulStop stops while calls are under way: they end well, new ones are refused, and it returns.
func TestGracefulStop(t *testing.T) {
	server, address := start(t, rpc.Options{Limits: limits()})
	client := dial(t, address)
	s, err := client.NewStream(t.Context(), &desc.Streams[0], "/test.Echo/Many")
	if err != nil {
		t.Fatal(err)
	}
	say := func(text string) {
		t.Helper()
		out := new(wrapperspb.BytesValue)
		if err := s.SendMsg(wrapperspb.Bytes([]byte(text))); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(out); err != nil || string(out.GetValue()) != text {
			t.Fatal(err)
		}
	}
	say("before")
	stopped := make(chan struct{})
	go func() { server.GracefulStop(); close(stopped) }()
	for open := true; open; { // until the listener is closed
		c, err := net.Dial("tcp", address)
		if open = err == nil; open {
			c.Close()
		}
	}
	say("meanwhile")
	select {
	case <-stopped:
		t.Fatal("it stopped with a call under way")
	default:
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
	<-stopped
}

// slowEnd is a listener whose connections write late, and which tells how they are closed.
type slowEnd struct {
	net.Listener
	ends chan string
}

type slowConn struct {
	net.Conn
	ends chan string
}

func (l slowEnd) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return slowConn{c, l.ends}, err
}

func (c slowConn) Write(b []byte) (int, error) {
	<-time.After(10 * time.Millisecond)
	return c.Conn.Write(b)
}

func (c slowConn) CloseWrite() error {
	c.ends <- "half"
	return c.Conn.(*net.TCPConn).CloseWrite()
}

func (c slowConn) Close() error {
	c.ends <- "whole"
	return c.Conn.Close()
}

// TestLastWords drains a connection while its last answer is being written. The answer reaches a caller that goes on
// writing, and the caller has time to close the connection first.
func TestLastWords(t *testing.T) {
	server := rpc.New(rpc.Options{Limits: limits()})
	server.RegisterService(&desc, service{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ends := make(chan string, 10)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(slowEnd{l, ends}) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	var header bytes.Buffer
	encoder := hpack.NewEncoder(&header)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/test.Echo/Many"}, {":authority", "here"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := errors.Join(f.WriteSettings(), f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: header.Bytes(), EndHeaders: true}),
		f.WritePing(false, [8]byte{1})); err != nil {
		t.Fatal(err)
	}
	until := func(what string, is func(http2.Frame) bool) {
		t.Helper()
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if is(frame) {
				return
			}
		}
	}
	until("the call is there", func(f http2.Frame) bool { p, ok := f.(*http2.PingFrame); return ok && p.IsAck() })
	stopped := make(chan struct{})
	go func() { server.GracefulStop(); close(stopped) }()
	until("the server stops", func(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok })
	if err := f.WriteData(1, true, nil); err != nil {
		t.Fatal(err)
	}
	if end := <-ends; end != "half" {
		t.Errorf("the connection was closed first as a %s", end)
	}
	if err := f.WritePing(false, [8]byte{2}); err != nil {
		t.Error(err)
	}
	until("the call's end", func(f http2.Frame) bool {
		h, ok := f.(*http2.MetaHeadersFrame)
		return ok && h.StreamEnded() && slices.Contains(h.Fields, hpack.HeaderField{Name: "grpc-status", Value: "0"})
	})
	if _, err := f.ReadFrame(); !errors.Is(err, io.EOF) {
		t.Errorf("afterwards: %v", err)
	}
	c.Close()
	<-stopped
	if err := <-ended; !errors.Is(err, grpc.ErrServerStopped) {
		t.Error(err)
	}
}

// TestSlow gives callers a short time for everything: those that take longer are ended, by the server.
func TestSlow(t *testing.T) {
	l := limits()
	l.Handshake, l.Idle, l.Write = 100*time.Millisecond, 100*time.Millisecond, 200*time.Millisecond
	ended := make(chan error, 1)
	_, address := start(t, rpc.Options{Limits: l, Stream: func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		err := next(srv, stream)
		ended <- err
		return err
	}})
	settings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for name, text := range map[string]string{
		"nothing":        "",
		"half a preface": "PRI * HTT",
		"another":        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"idle":           "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings,
		"half a frame":   "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + "\x00\x00\x08\x06",
	} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, text)
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the server waits on", name)
		}
	}
	// A caller that does not take its answer: the message is larger than its windows.
	client := dial(t, address, grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8<<20)))
	s, err := client.NewStream(t.Context(), &desc.Streams[0], "/test.Echo/Many")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SendMsg(wrapperspb.Bytes(make([]byte, 3<<20))); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("the answer for who did not read it: %v", err)
	}
	if err := s.RecvMsg(new(wrapperspb.BytesValue)); err == nil {
		t.Error("it came all the same")
	}
}

// TestRandomBytes sends frames with random faults behind the preface: the server neither panics nor hangs, and still answers.
func TestRandomBytes(t *testing.T) {
	random := seeded(t)
	header := func(fields ...string) string {
		var b strings.Builder
		for i := 0; i < len(fields); i += 2 {
			fmt.Fprintf(&b, "\x00%c%s%c%s", len(fields[i]), fields[i], len(fields[i+1]), fields[i+1])
		}
		return b.String()
	}
	call := header(":method", "POST", ":scheme", "http", ":path", "/test.Echo/One", "content-type", "application/grpc", "te", "trailers")
	many := strings.Replace(strings.Replace(call, "/test.Echo/One", "/test.Echo/Many", 1), "\x05:path\x0e", "\x05:path\x0f", 1)
	head := func(block string, flags byte) string {
		return fmt.Sprintf("\x00\x00%c\x01%c\x00\x00\x00\x01%s", len(block), flags, block)
	}
	data := "\x00\x00\x07\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x02\x0a\x00"
	pieces := []string{head(call, 4) + data, head(many, 4), head(many, 5), data, "\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08",
		"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00", "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
		"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff"}
	_, address := start(t, rpc.Options{Limits: limits()})
	for range 500 {
		var b []byte
		for range 1 + random.IntN(4) {
			b = append(b, pieces[random.IntN(len(pieces))]...)
		}
		for range random.IntN(4) {
			b[random.IntN(len(b))] = byte(random.Uint32())
		}
		b = b[:len(b)-random.IntN(3)]
		hurl(t, address, b)
	}
	if got, err := ask(t.Context(), dial(t, address), []byte("still there")); err != nil || string(got) != "still there" {
		t.Errorf("afterwards: %q %v", got, err)
	}
}

// hurl sends bytes on a connection of their own, which the server has to end.
func hurl(t *testing.T, address string, b []byte) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return
	}
	_, _ = c.Write(b) // the server may have hung up
	_ = c.(*net.TCPConn).CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is not ended after %q", b)
	}
}

// TestFailureBringsMetadata: a call that fails ends with names and values of its own.
func TestFailureBringsMetadata(t *testing.T) {
	_, address := start(t, rpc.Options{Limits: limits()})
	c := dial(t, address)
	later := metadata.AppendToOutgoingContext(t.Context(), "act", "later")
	check := func(err error, trailer metadata.MD) {
		t.Helper()
		if st := status.Convert(err); st.Code() != codes.Unavailable || st.Message() != "later" ||
			strings.Join(trailer.Get("again"), "") != "in a while" || strings.Join(trailer.Get("when"), "") != "5" {
			t.Errorf("%v, trailer %v", err, trailer)
		}
	}
	var trailer metadata.MD
	_, err := ask(later, c, []byte("x"), grpc.Trailer(&trailer))
	check(err, trailer)
	stream, err := c.NewStream(later, &desc.Streams[0], "/test.Echo/Many")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(wrapperspb.Bytes([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	err = stream.RecvMsg(new(wrapperspb.BytesValue))
	check(err, stream.Trailer())
	if _, err = ask(t.Context(), c, []byte("x"), grpc.Trailer(&trailer)); err != nil || len(trailer) > 0 {
		t.Errorf("the next call: %v, trailer %v", err, trailer)
	}
}

// TestTimeIsOver: a call ends with the deadline that was set in place, and has the caller's own.
func TestTimeIsOver(t *testing.T) {
	t.Parallel()
	_, address := start(t, rpc.Options{Limits: limits()})
	client := dial(t, address)
	acting := func(act string) context.Context { return metadata.AppendToOutgoingContext(t.Context(), "act", act) }
	if _, err := ask(acting("within"), client, nil); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call over its time: %v", err)
	}
	for timeout, want := range map[time.Duration]string{0: "false", time.Second: "true 0s false", time.Hour: "true 1h0m0s true"} {
		ctx := acting("deadline")
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		if got, err := ask(ctx, client, nil); err != nil || !strings.HasPrefix(string(got), want) {
			t.Errorf("with a timeout of %v the call's deadline is %q, not %q: %v", timeout, got, want, err)
		}
	}
}
