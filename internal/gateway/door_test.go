package gateway_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/gateway"
)

// TestSlowCallers sends half a request and no more to a server that Config.HTTP makes, as all HTTP ports are, the metrics' one
// among them: the server ends the connection by itself.
func TestSlowCallers(t *testing.T) {
	c := gateway.DefaultConfig()
	c.HeaderTimeout, c.IdleTimeout, c.BodyGrace = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := c.HTTP(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }), slog.New(slog.DiscardHandler))
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(c.Listen(l)) }()
	for name, text := range map[string]string{
		"nothing":          "",
		"half a line":      "GET /metr",
		"half a header":    "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: te",
		"idle afterwards":  "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
		"a body that ends": "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the server waits on")
			}
		})
	}
}
