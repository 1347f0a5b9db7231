package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/expiry"
	"github.com/penstock/penstock/internal/gateway"
)

// mirror answers with all that it was told, in the form that the request's path asks for.
func mirror(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the caller is gone") // the system's words for it name ports
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s host=%s length=%d err=%v\n", r.Method, r.URL.Path, r.RequestURI, r.Host, r.ContentLength, err)
	r.Header.Del("Upgrade") // what makes a request odd must not move the bytes that the answer's type is told by
	for _, key := range slices.Sorted(maps.Keys(r.Header)) {
		fmt.Fprintf(&b, "%s=%q\n", key, r.Header[key])
	}
	b.Write(body)
	w.Header().Set("X-Last", "a\r\nb: injected")
	switch {
	case strings.HasSuffix(r.URL.Path, "/length"):
		w.Header()["Content-Length"] = []string{fmt.Sprint(b.Len())}
		w.Header()["Content-Type"] = []string{"text/plain"}
	case strings.HasSuffix(r.URL.Path, "/big"):
		b.Write(bytes.Repeat([]byte("0123456789abcdef"), 5000)) // over what is gathered: chunks
	case strings.HasSuffix(r.URL.Path, "/none"):
		w.WriteHeader(http.StatusNoContent)
		return
	case strings.HasSuffix(r.URL.Path, "/close"):
		w.Header().Set("Connection", "close")
	case strings.HasSuffix(r.URL.Path, "/error"):
		w.WriteHeader(http.StatusBadRequest)
	}
	for text := b.Bytes(); len(text) > 0; {
		n, _ := w.Write(text[:min(len(text), 20_000)])
		text = text[n:]
	}
}

// addresses of the server under test, and of net/http behind the same guard with the same limits.
func both(t testing.TB) (lean, full string) {
	t.Helper()
	config := gateway.DefaultConfig()
	serve := func(handler http.HandlerFunc) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := config.HTTP(handler, slog.New(slog.DiscardHandler))
		go func() { _ = s.Serve(config.Listen(l)) }()
		t.Cleanup(func() { _ = s.Close() })
		return l.Addr().String()
	}
	return serve(mirror), serve(func(w http.ResponseWriter, r *http.Request) { mirror(w, r) })
}

// tell sends text in pieces and reads answers until the connection ends or count have come.
func tell(t testing.TB, address string, text []byte, count int, cut func() int) (answers []string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		for rest := text; len(rest) > 0; {
			n := min(len(rest), cut())
			if _, err := c.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
	}()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	in := bufio.NewReader(c)
	for len(answers) < count {
		a, err := http.ReadResponse(in, nil)
		if err != nil {
			return append(answers, "end")
		}
		body, err := io.ReadAll(a.Body)
		if err != nil {
			return append(answers, "broken: "+err.Error())
		}
		a.Header.Del("Date")
		a.Header.Del("Content-Length") // net/http names it in other cases; the body is compared
		answers = append(answers, fmt.Sprintf("%d close=%v %v\n%s", a.StatusCode, a.Close, a.Header, body))
		if a.Close {
			return append(answers, "end")
		}
	}
	return answers
}

// behind makes what lean would take go to net/http, without a change of meaning: an upgrade that nobody answers.
func behind(request []byte) []byte {
	return bytes.Replace(request, []byte("\r\n"), []byte("\r\nUpgrade: nothing\r\n"), 1)
}

// TestLeanIsNetHTTP sends random requests, plain ones and odd ones, in random pieces and pipelined, to a server that may
// answer them itself and, made odd, to the same through net/http: the answers must be the same.
func TestLeanIsNetHTTP(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	lean, full := both(t)
	for range 400 {
		var text, odd []byte
		count := 1 + random.IntN(4)
		for range count {
			method := pick("GET", "POST", "POST", "POST")
			body := ""
			header := "Host: " + pick("x", "x", "example.org:80") + "\r\n"
			if method == "POST" && random.IntN(4) > 0 {
				body = strings.Repeat(pick("a", "{}", "\r\n\r\n", "\x00\xff"), random.IntN(1<<random.IntN(14)))
				header += fmt.Sprintf("%s: %d\r\n", pick("Content-Length", "content-length"), len(body))
			}
			for range random.IntN(5) {
				header += pick("X-A: 1\r\n", "x-a:2 \r\n", "X-A:\t\r\n", "Penstock-Unit: u\r\n", "Connection: keep-alive\r\n", "Accept: */*\r\n",
					"X-B: \xc3\xa4\r\n", "Te: trailers\r\n", "X-C: "+strings.Repeat("c", random.IntN(3000))+"\r\n")
			}
			path := "/v2/models/" + pick("e/length", "e/big", "e/error", "e", "e/none", "e/length", "e/close", "e%41", "e?q=1")
			request := []byte(method + " " + path + " HTTP/1.1\r\n" + header + "\r\n" + body)
			text, odd = append(text, request...), append(odd, behind(request)...)
		}
		pieces := rand.New(rand.NewPCG(seed, random.Uint64()))
		cut := func() int { return 1 + pieces.IntN(1<<pieces.IntN(16)) }
		got := tell(t, lean, text, count, cut)
		want := tell(t, full, odd, count, func() int { return 1 << 20 })
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || got[i] != want[i] {
				t.Fatalf("answer %d of %.3000q:\ngot  %.1000q\nwant %.1000q", i, text, got[min(i, len(got)):], want[min(i, len(want)):])
			}
		}
	}
}

// FuzzLean: whatever the bytes, the server's answers are those that net/http gives to them.
func FuzzLean(f *testing.F) {
	for _, seed := range []string{
		"POST /v2/models/e/length HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
		"GET /v2/a HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/b HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /v2/a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
		"POST /v2/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
		"GET /v2/a HTTP/1.1\r\nHost: x\r\nX : 1\r\n\r\n", "GET /v2/a HTTP/1.1\nHost: x\n\n", "GET /v2/a HTTP/1.1\r\nHost:\r\n\r\n",
		"POST /v2/a HTTP/1.1\r\nHost: x\r\n Content-Length: 3\r\n\r\nabc", "GET /v2/../a HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	lean, full := both(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 4096 || bytes.Contains(text, []byte("Upgrade")) {
			return
		}
		// Both get an end that closes the connection, so that nobody waits for more.
		end := "\r\n\r\n\r\n"
		got := tellAll(t, lean, append(bytes.Clone(text), end...))
		want := tellAll(t, full, append([]byte("GET /v2/first HTTP/1.1\r\nHost: x\r\nUpgrade: nothing\r\n\r\n"), append(bytes.Clone(text), end...)...))
		if len(want) == 0 || !slices.Equal(got, want[1:]) {
			t.Fatalf("got  %q\nwant %q", got, want)
		}
	})
}

// tellAll sends text, ends the sending half and reads all answers.
func tellAll(t testing.TB, address string, text []byte) (answers []string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		_, _ = c.Write(text)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	in := bufio.NewReader(c)
	for {
		a, err := http.ReadResponse(in, nil)
		if err != nil {
			return answers
		}
		body, _ := io.ReadAll(a.Body)
		ends := a.Close || bytes.Contains(body, []byte("unexpected EOF")) // which net/http sees only afterwards
		answers = append(answers, fmt.Sprintf("%d close=%v\n%s", a.StatusCode, ends, body))
	}
}

// TestShutdown: connections that wait are closed, a request under way is answered first.
func TestShutdown(t *testing.T) {
	config := gateway.DefaultConfig()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	entered, leave := make(chan struct{}), make(chan struct{})
	s := config.HTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/slow" {
			close(entered)
			<-leave
		}
		_, _ = w.Write([]byte("done"))
	}), slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(config.Listen(l)) }()
	dial := func(path string) (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		return c, bufio.NewReader(c)
	}
	for _, path := range []string{"/v2/quick", "/v2/quick?through=net/http"} {
		_, in := dial(path)
		if a, err := http.ReadResponse(in, nil); err != nil || a.Close {
			t.Fatalf("%v %v", a, err)
		}
		defer func() {
			if rest, err := io.ReadAll(in); string(rest) != "done" || err != nil {
				t.Errorf("the idle connection ended with %q %v", rest, err)
			}
		}()
	}
	_, slow := dial("/v2/slow")
	<-entered
	over := make(chan error, 1)
	go func() { over <- s.Shutdown(context.Background()) }()
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("Serve ended with %v", err)
	}
	close(leave)
	a, err := http.ReadResponse(slow, nil)
	if err != nil || !a.Close {
		t.Fatalf("%v %v: a server that stops must say that the connection ends", a, err)
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("a second Serve: %v", err)
	}
}

// TestStopBeforeShutdown: the listener is closed a moment before net/http is told to stop, and Serve ends as net/http's does.
func TestStopBeforeShutdown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := gateway.DefaultConfig().HTTP(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/v2")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s.StopTaking()
	select { // that moment, and long enough for a Serve that ends in it
	case err := <-ended:
		t.Errorf("Serve ended before net/http was told to stop: %v", err)
		ended <- err
	case <-time.After(50 * time.Millisecond):
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("Serve ended with %v", err)
	}
}

// TestLeanHangUp: a caller who goes away ends its request; one that asks ahead does not.
func TestLeanHangUp(t *testing.T) {
	config := gateway.DefaultConfig()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	entered, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	leave := make(chan struct{})
	s := config.HTTP(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		entered <- struct{}{}
		select {
		case <-r.Context().Done():
			gone <- struct{}{}
		case <-leave:
		}
	}), slog.New(slog.DiscardHandler))
	go func() { _ = s.Serve(config.Listen(l)) }()
	t.Cleanup(func() { _ = s.Close() })
	const ask = "POST /v2/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
	for range 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, ask); err != nil {
			t.Fatal(err)
		}
		<-entered
		c.Close()
		<-gone                               // the test's own limit bounds the wait
		<-time.After(3 * gateway.HangUpTick) // nothing is under way, and the watch ends
	}

	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for round := range 2 {
		if _, err := io.WriteString(c, ask); err != nil {
			t.Fatal(err)
		}
		<-entered
		if _, err := io.WriteString(c, ask); err != nil { // ahead of the answer
			t.Fatal(err)
		}
		<-time.After(3 * gateway.HangUpTick) // it was looked at
		leave <- struct{}{}
		if a, err := http.ReadResponse(in, nil); err != nil || a.StatusCode != 200 {
			t.Fatalf("round %d: %v %v", round, a, err)
		}
		<-entered
		leave <- struct{}{}
		if a, err := http.ReadResponse(in, nil); err != nil || a.StatusCode != 200 {
			t.Fatalf("round %d, asked ahead: %v %v", round, a, err)
		}
	}
}

// TestLeanTimeIsOver: a request whose deadline was set in place ends with it, and the next one on the connection has a life of
// its own.
func TestLeanTimeIsOver(t *testing.T) {
	t.Parallel()
	config := gateway.DefaultConfig()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := config.HTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		life, ok := r.Context().(*expiry.Context)
		if !ok || life.Err() != nil || !life.Within(time.Now(), 20*gateway.HangUpTick) {
			t.Error("the context takes no deadline")
			return
		}
		defer life.Free()
		if r.URL.Path != "/v2/wait" {
			return
		}
		<-r.Context().Done()
		if !errors.Is(context.Cause(r.Context()), context.DeadlineExceeded) {
			t.Errorf("the request ended by %v", context.Cause(r.Context()))
		}
		w.WriteHeader(http.StatusGatewayTimeout)
	}), slog.New(slog.DiscardHandler))
	go func() { _ = s.Serve(config.Listen(l)) }()
	t.Cleanup(func() { _ = s.Close() })
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for _, step := range []struct {
		path   string
		status int
	}{{"/v2/x", 200}, {"/v2/wait", 504}, {"/v2/x", 200}, {"/v2/wait", 504}, {"/v2/x", 200}} {
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", step.path); err != nil {
			t.Fatal(err)
		}
		a, err := http.ReadResponse(in, nil)
		if err != nil || a.StatusCode != step.status {
			t.Fatalf("%s: %+v, %v", step.path, a, err)
		}
		_ = a.Body.Close()
	}
}
