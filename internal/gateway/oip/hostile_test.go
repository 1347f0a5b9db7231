package oip_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/penstock/penstock/internal/gateway"
	"github.com/penstock/penstock/internal/serve"
	"github.com/penstock/penstock/internal/tensor"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// Clients that take their time, or too much room. Each test gives the limit that it is about a small value; the client
// then waits for the server to end it, so that nothing here depends on how fast the machine is.

// TestSlowHeader sends half a header and no more: both doors end the connection by themselves.
func TestSlowHeader(t *testing.T) {
	b := start(t, func(c *gateway.Config) { c.HeaderTimeout = 50 * time.Millisecond })
	for name, half := range map[string]struct{ address, text string }{
		"HTTP, nothing":      {b.http, ""},
		"HTTP, half a line":  {b.http, "GET /v2/health/li"},
		"HTTP, half a key":   {b.http, "GET /v2/health/live HTTP/1.1\r\nHost: x\r\nAuthorization: Bea"},
		"gRPC, nothing":      {b.grpc, ""},
		"gRPC, half preface": {b.grpc, "PRI * HTTP/2.0\r\n\r\nS"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", half.address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, half.text); err != nil {
				t.Fatal(err)
			}
			if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, c) // ends when the server closes
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				t.Error("the server waits on")
			}
		})
	}
}

// TestHugeHeader sends more header than the limit, in one line and in many.
func TestHugeHeader(t *testing.T) {
	b := start(t, func(c *gateway.Config) { c.HeaderBytes = 16 << 10 })
	var many strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&many, "X-%d: %d\r\n", i, i)
	}
	for name, header := range map[string]string{
		"one line":   "X: " + strings.Repeat("a", 32<<10) + "\r\n",
		"one name":   strings.Repeat("X", 32<<10) + ": a\r\n",
		"many lines": many.String(),
	} {
		status, _, closed := raw(t, b.http, "GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"+header+"\r\n")
		if status != http.StatusRequestHeaderFieldsTooLarge || !closed {
			t.Errorf("%s: status %d, closed %v", name, status, closed)
		}
	}
	client := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key"))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-much", strings.Repeat("a", 32<<10))
	if _, err := client.ServerLive(ctx, &wire.ServerLiveRequest{}); err == nil {
		t.Error("gRPC metadata over the limit was taken")
	}
	if _, err := client.ServerLive(t.Context(), &wire.ServerLiveRequest{}); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// TestAnswerNotRead asks for a large answer and does not read it: the server ends the connection instead of holding the
// answer, and others are served meanwhile.
func TestAnswerNotRead(t *testing.T) {
	b := start(t, func(c *gateway.Config) { c.WriteTimeout = 50 * time.Millisecond })
	const size = 64 << 20 // more than the sockets take
	b.walk.output = func(*serve.Call) []tensor.Tensor {
		return []tensor.Tensor{{Name: "x", Type: tensor.Uint8, Shape: []int64{size}, Data: make([]byte, size)}}
	}
	c, err := net.Dial("tcp", b.http)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	body := strings.Replace(echoBody, "{", `{"parameters":{"binary_data_output":true},`, 1)
	if _, err := fmt.Fprintf(c, "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(c)
	answer, err := http.ReadResponse(reader, nil) // the header, so that the answer is on its way
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer, err)
	}
	for range 20 { // the reader sleeps; others ask, until the write's time is surely over
		if status, _, _ := raw(t, b.http, "GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"); status != http.StatusOK {
			t.Fatal("nobody else is served")
		}
		<-time.After(10 * time.Millisecond)
	}
	n, err := io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	if err == nil {
		t.Errorf("all %d bytes were kept for a reader that slept", n)
	}
}

// TestStreamsPerConnection opens more streams than a connection may have: the others wait for a place, and get it.
func TestStreamsPerConnection(t *testing.T) {
	const most = 4
	b := start(t, func(c *gateway.Config) { c.StreamsPerConn = most })
	connection := b.dial(t, "acme-key")
	client := wire.NewGRPCInferenceServiceClient(connection)
	ctx, cancel := context.WithCancel(t.Context())
	var open []inferStream
	for range most {
		s, err := client.ModelStreamInfer(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(inferRequest("echo")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil { // so that the server has it
			t.Fatal(err)
		}
		open = append(open, s)
	}
	short, done := context.WithTimeout(ctx, 100*time.Millisecond)
	defer done()
	if _, err := client.ServerLive(short, &wire.ServerLiveRequest{}); err == nil {
		t.Errorf("a call beside %d streams was answered, the limit is %d", len(open), most)
	}
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if _, err := client.ServerLive(t.Context(), &wire.ServerLiveRequest{}); err != nil {
			t.Errorf("the call that waited: %v", err)
		}
	})
	cancel() // the streams end and give their places back
	waiting.Wait()
}
