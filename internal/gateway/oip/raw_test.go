package oip_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/gateway"
)

// raw sends bytes over a connection of its own and gives the first answer's status and body, and whether the server closed
// the connection behind it.
func raw(t *testing.T, address, text string) (status int, body string, closed bool) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(c)
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		return 0, err.Error(), true
	}
	content, err := io.ReadAll(answer.Body)
	if err != nil { // also when the server refuses what is still being sent, the answer must arrive
		t.Fatal(err)
	}
	answer.Body.Close()
	if !answer.Close {
		// The connection is said to stay: it must answer again.
		if _, err := io.WriteString(c, "GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return answer.StatusCode, string(content), true
		}
		again, err := http.ReadResponse(reader, nil)
		if err != nil {
			return answer.StatusCode, string(content), true
		}
		again.Body.Close()
	}
	return answer.StatusCode, string(content), answer.Close
}

func TestRawHTTP(t *testing.T) {
	b := start(t, nil)
	post := func(headers, body string) string {
		return "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\n" + headers + "\r\n" + body
	}
	length := fmt.Sprintf("Content-Length: %d\r\n", len(echoBody))
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(echoBody), echoBody)
	get := func(target string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\n\r\n"
	}
	for _, c := range []struct {
		name, text string
		status     int
		closed     bool
	}{
		{"well-formed", post(length, echoBody), 200, false},
		{"well-formed chunks", post("Transfer-Encoding: chunked\r\n", chunked), 200, false},
		{"CL and TE", post(length+"Transfer-Encoding: chunked\r\n", chunked), 400, true},
		{"TE and CL", post("Transfer-Encoding: chunked\r\n"+length, chunked), 400, true},
		{"CL and TE in other cases", post(strings.ToLower(length)+"TRANSFER-ENCODING: chunked\r\n", chunked), 400, true},
		{"two CL that differ", post(length+"Content-Length: 3\r\n", echoBody), 400, true},
		{"CL list", post("Content-Length: 3, 3\r\n", "abc"), 400, true},
		{"CL plus", post("Content-Length: +3\r\n", "abc"), 400, true},
		{"CL minus", post("Content-Length: -1\r\n", "abc"), 400, true},
		{"CL of 20 digits", post("Content-Length: 18446744073709551619\r\n", "abc"), 400, true},
		{"CL larger than allowed", post("Content-Length: 99999999999\r\n", "abc"), 413, true},
		{"TE unknown", post("Transfer-Encoding: xchunked\r\n", chunked), 501, true},
		{"TE list", post("Transfer-Encoding: identity, chunked\r\n", chunked), 501, true},
		{"TE with a space", post("Transfer-Encoding : chunked\r\n", chunked), 400, true},
		{"chunk size with 0x", post("Transfer-Encoding: chunked\r\n", "0x3\r\nabc\r\n0\r\n\r\n"), 400, true},
		{"chunk size of 17 digits", post("Transfer-Encoding: chunked\r\n", "10000000000000003\r\nabc\r\n0\r\n\r\n"), 400, true},
		{"chunk size negative", post("Transfer-Encoding: chunked\r\n", "-3\r\nabc\r\n0\r\n\r\n"), 400, true},
		{"chunk without its end", post("Transfer-Encoding: chunked\r\n", "3\r\nabcd\r\n0\r\n\r\n"), 400, true},
		{"folded header", post("X-A: 1\r\n 2\r\n"+length, echoBody), 400, true},
		{"no Host", "GET /v2/health/live HTTP/1.1\r\n\r\n", 400, true},
		{"two Hosts", "GET /v2/health/live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, true},
		{"absolute form", "GET http://other/v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n", 400, true},
		{"CONNECT", "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", 405, true},
		{"TRACE", "TRACE /v2 HTTP/1.1\r\nHost: x\r\n\r\n", 405, true},
		{"unknown method", "FLY /v2 HTTP/1.1\r\nHost: x\r\n\r\n", 405, true},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400, true},
		{"dot segments", get("/a/../../etc/passwd"), 400, true},
		{"dot segment at the end", get("/v2/models/.."), 400, true},
		{"single dot", get("/v2/./models/echo"), 400, true},
		{"escaped slash", get("/v2/models/..%2f..%2fx"), 400, true},
		{"escaped dots", get("/v2/%2e%2e/x"), 400, true},
		{"escaped NUL", get("/v2/models/a%00"), 400, true},
		{"escaped backslash", get("/v2/models/a%5C"), 400, true},
		{"double slash", get("//v2/models/echo"), 400, true},
		{"double slash inside", get("/v2//models/echo"), 400, true},
		{"path parameter", get("/v2/models/echo;a=b"), 400, true},
		{"escaped path parameter", get("/v2/models/echo%3b"), 400, true},
		{"bad escape", get("/v2/models/%zz"), 400, true},
		{"semicolon in the query", get("/v2/models/echo?a;b=%zz"), 200, false},
		{"other case", get("/V2/models/echo"), 404, false},
		{"HTTP/0.9", "GET /v2\r\n\r\n", 400, true},
		{"HTTP/3.0", "GET /v2 HTTP/3.0\r\nHost: x\r\n\r\n", 505, true},
		{"large header", get("/v2")[:len(get("/v2"))-2] + "X-A: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", 431, true},
		{"64 KiB key", "GET /v2 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + strings.Repeat("k", 64<<10) + "\r\n\r\n", 431, true},
		{"10,000 headers", "GET /v2 HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-A: aaa\r\n", 10000) + "\r\n", 431, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body, closed := raw(t, b.http, c.text)
			if status != c.status || closed != c.closed {
				t.Errorf("%d, closed %v: %.200s\nwant %d, closed %v", status, closed, body, c.status, c.closed)
			}
		})
	}
}

// TestOddControlPaths are refused by the same guard, in the control API's own form.
func TestOddControlPaths(t *testing.T) {
	b := start(t, nil)
	for _, path := range []string{"/api/v1//whoami", "/api/v1/../v1/whoami", "/api/v1/tenants/a%2fb", "/api/v1/whoami;x"} {
		status, body, closed := raw(t, b.http, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if status != 400 || !closed || !strings.Contains(body, `"code":"bad_request"`) || strings.Contains(body, `"error"`) {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

// TestWatchFollows sends requests in one go, to see that the framing is followed through bodies that look like requests.
func TestWatchFollows(t *testing.T) {
	b := start(t, nil)
	trap := "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
	head := "POST /v2/models/nosuch/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\n"
	one := head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(trap), trap)
	two := head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x;ext=1\r\n%s\r\n%x\r\n%s\r\n0\r\nTrailer: x\r\n\r\n", len(trap), trap, 4, trap[:4])
	c, err := net.Dial("tcp", b.http)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text := strings.Repeat(one+two, 5) + head + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
	done := make(chan error, 1)
	go func() { // a few bytes at a time, so that lines are cut everywhere
		var err error
		for i := 0; i < len(text) && err == nil; i += 7 {
			_, err = io.WriteString(c, text[i:min(i+7, len(text))])
		}
		done <- err
	}()
	reader := bufio.NewReader(c)
	for i := range 11 {
		answer, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		doubtful := strings.Contains(string(body), "in doubt")
		if doubtful && i < 10 || !doubtful && i == 10 {
			t.Fatalf("answer %d: %d %s", i, answer.StatusCode, body)
		}
	}
	if err := <-done; err != nil {
		t.Logf("writing: %v", err) // the server may close before the last bytes
	}
}

func TestConnectionsPerAddress(t *testing.T) {
	b := start(t, func(c *gateway.Config) { c.ConnsPerAddress = 2 })
	live := "GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
	var open []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", b.http)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, live)
		if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	c, err := net.Dial("tcp", b.http)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, live)
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("the third connection read %d bytes", n)
	}
	open[0].Close()
	for { // the server notices the closed connection in its own time
		if status, _, _ := raw(t, b.http, strings.Replace(live, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)); status == 200 {
			return
		}
	}
}

func TestSlowBody(t *testing.T) {
	b := start(t, func(c *gateway.Config) { c.BodyGrace = 50 * time.Millisecond })
	for _, authorization := range []string{"Authorization: Bearer acme-key\r\n", ""} {
		c, err := net.Dial("tcp", b.http)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\n"+authorization+"Content-Length: 1000\r\n\r\n{")
		answer, err := io.ReadAll(c) // ends because the server closes
		if authorization != "" && (err != nil || !strings.Contains(string(answer), "slower than the minimum rate")) {
			t.Errorf("%v: %s", err, answer)
		}
	}
}

func TestInFlightBytes(t *testing.T) {
	b := start(t, func(c *gateway.Config) { c.InFlightBytes = 1 << 20 })
	big := strings.Replace(echoBody, "[1,2.5", "["+strings.Repeat(" ", 2<<20)+"1,2.5", 1)
	answer, body := send(t, b.request(t, "POST", "/v2/models/echo/infer", big))
	if answer.StatusCode != 503 || !strings.Contains(body, "1048576") {
		t.Errorf("%d %s", answer.StatusCode, body)
	}
	for range 3 {
		if answer, body := send(t, b.request(t, "POST", "/v2/models/echo/infer", echoBody)); answer.StatusCode != 200 {
			t.Errorf("afterwards: %d %s", answer.StatusCode, body)
		}
	}
}
