package bench_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/bench"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const question = "POST /x HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nhi"

// scripted answers every request with the next text, on as many connections as come; "" closes the connection.
func scripted(t *testing.T, answers ...string) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	next := make(chan string, len(answers))
	for _, a := range answers {
		next <- a
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn)
			for {
				request, err := http.ReadRequest(in)
				if err != nil {
					break
				}
				if _, err := io.Copy(io.Discard, request.Body); err != nil {
					break
				}
				answer := <-next
				if answer == "" {
					break
				}
				if _, err := io.WriteString(conn, answer); err != nil || strings.HasSuffix(answer, "cut off") {
					break
				}
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return listener.Addr().String()
}

func dialTo(t *testing.T, address string) bench.Caller {
	t.Helper()
	c, err := bench.DialHTTP(t.Context(), bench.HTTP{Address: address, Requests: [][]byte{[]byte(question)}, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

func TestAnswersAreReadWhole(t *testing.T) {
	for name, answer := range map[string]string{
		"plain":            fine,
		"lower case":       "HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 5\r\n\r\nhello",
		"no reason":        "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
		"bare line ends":   "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
		"chunked":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n",
		"chunked, trailer": "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n1\r\nh\r\n0\r\nDigest: x\r\n\r\n",
		"told to go on":    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + fine,
		"large":            "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + strings.Repeat("x", 300_000),
		"closing":          "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
	} {
		t.Run(name, func(t *testing.T) {
			c := dialTo(t, scripted(t, answer, fine, answer, fine))
			for i := range 4 {
				if err := c.Ask(t.Context(), i); err != nil {
					t.Fatalf("request %d: %v", i, err)
				}
			}
		})
	}
}

func TestErrorsOfAServerAreNamedAndSurvived(t *testing.T) {
	full := "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 26\r\n\r\n{\"error\":\"queue is full\"}\n"
	c := dialTo(t, scripted(t, full, fine, "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", fine))
	var told *bench.AnswerError
	if err := c.Ask(t.Context(), 0); !errors.As(err, &told) || told.Code != "http 503" || told.Text != `{"error":"queue is full"}` {
		t.Errorf("got %v", err)
	}
	if err := c.Ask(t.Context(), 1); err != nil {
		t.Errorf("after an error: %v", err)
	}
	if err := c.Ask(t.Context(), 2); !errors.As(err, &told) || told.Code != "http 404" {
		t.Errorf("got %v", err)
	}
	if err := c.Ask(t.Context(), 3); err != nil {
		t.Errorf("after a closed connection: %v", err)
	}
}

func TestBrokenAnswersAreErrors(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":          "",
		"no HTTP":          "SSH-2.0-OpenSSH\r\n cut off",
		"HTTP/2":           "HTTP/2.0 200 OK\r\n cut off",
		"no status":        "HTTP/1.1 OK fine\r\n cut off",
		"no length":        "HTTP/1.1 200 OK\r\n\r\nhello cut off",
		"negative length":  "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello cut off",
		"huge length":      "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello cut off",
		"short body":       "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhello cut off",
		"bad chunk":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n cut off",
		"negative chunk":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n cut off",
		"unknown encoding": "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n cut off",
		"endless header":   "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 100_000) + " cut off",
		"many headers":     "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 1000) + " cut off",
	} {
		t.Run(name, func(t *testing.T) {
			c := dialTo(t, scripted(t, answer, fine))
			if err := c.Ask(t.Context(), 0); err == nil {
				t.Error("taken")
			}
			if err := c.Ask(t.Context(), 1); err != nil {
				t.Errorf("the next request fails, too: %v", err)
			}
		})
	}
}

// TestAnEndOfTheRunWakesAClient that waits for an answer which never comes.
func TestAnEndOfTheRunWakesAClient(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() // the kernel accepts, nobody answers
	ctx, cancel := context.WithCancel(t.Context())
	c, err := bench.DialHTTP(ctx, bench.HTTP{Address: listener.Addr().String(), Requests: [][]byte{[]byte(question)}, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ended := make(chan error, 1)
	go func() { ended <- c.Ask(ctx, 0) }()
	cancel()
	if err := <-ended; err == nil {
		t.Error("answered by nobody")
	}
	short, err := bench.DialHTTP(t.Context(), bench.HTTP{Address: listener.Addr().String(), Requests: [][]byte{[]byte(question)}, Timeout: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer short.Close()
	var wait net.Error
	if err := short.Ask(t.Context(), 0); !errors.As(err, &wait) || !wait.Timeout() {
		t.Errorf("a timeout is %v", err)
	}
}

// instant is a connection to a server that answers at once and costs nothing: what remains is the generator.
type instant struct {
	net.Conn
	text [len(fine)]byte
	rest []byte
}

func (c *instant) Write(b []byte) (int, error) {
	copy(c.text[:], fine)
	c.rest = c.text[:]
	return len(b), nil
}

func (c *instant) Read(b []byte) (int, error) {
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (*instant) SetDeadline(time.Time) error { return nil }

func (*instant) Close() error { return nil }

func toInstant(ctx context.Context) (bench.Caller, error) {
	return bench.DialHTTP(ctx, bench.HTTP{Requests: [][]byte{[]byte(question)}, Timeout: 30 * time.Second,
		Connect: func(context.Context) (net.Conn, error) { return &instant{}, nil }})
}

func TestTheHTTPClientAllocatesNothing(t *testing.T) {
	c, err := toInstant(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() {
		if err := c.Ask(ctx, 1); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations a request", n)
	}
}

// BenchmarkGenerator is the generator's own cost a request: one client against a server that costs nothing.
func BenchmarkGenerator(b *testing.B) {
	for name, plan := range map[string]bench.Plan{
		"closed": {Clients: 1, Duration: time.Hour},
		"open":   {Clients: 1, Rate: bench.RateMax, Backlog: bench.BacklogMax, Duration: time.Hour},
	} {
		b.Run(name, func(b *testing.B) {
			plan.Count = int64(b.N)
			r, err := bench.Run(b.Context(), toInstant, plan)
			if err != nil || int64(r.OK) != plan.Count {
				b.Fatalf("%v, %d of %d", err, r.OK, plan.Count)
			}
		})
	}
}

// TestIdleConnectionsAreMadeAnew: a server may have closed them, and a request on them would be lost.
func TestIdleConnectionsAreMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		c, err := bench.DialHTTP(t.Context(), bench.HTTP{Requests: [][]byte{[]byte(question)}, Timeout: time.Second,
			Connect: func(context.Context) (net.Conn, error) { made++; return &instant{}, nil }})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for i, pause := range []time.Duration{time.Second, 3 * time.Second, 10 * time.Second, time.Second, time.Minute} {
			if err := c.Ask(t.Context(), i); err != nil {
				t.Fatal(err)
			}
			<-time.After(pause)
		}
		if made != 2 {
			t.Errorf("%d connections were made, want 2", made)
		}
	})
}
