package server_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/gateway"
)

// TestHostileScrapers meets the metrics port, which asks for no key, as nobody should: it must go on answering others.
func TestHostileScrapers(t *testing.T) {
	l := start(t, t.TempDir())
	alive := func(when string) {
		t.Helper()
		if text := l.metrics(t); !strings.Contains(text, "penstock_build_info") {
			t.Errorf("%s: no metrics: %.200q", when, text)
		}
	}
	limits := gateway.DefaultConfig()
	t.Run("huge header", func(t *testing.T) {
		status, closed := l.scrape(t, "GET /metrics HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("a", 2*limits.HeaderBytes)+"\r\n\r\n")
		if status != http.StatusRequestHeaderFieldsTooLarge || !closed {
			t.Errorf("status %d, closed %v", status, closed)
		}
		alive("after it")
	})
	t.Run("huge target", func(t *testing.T) {
		if status, _ := l.scrape(t, "GET /metrics?name[]="+strings.Repeat("a", 2*limits.HeaderBytes)+" HTTP/1.1\r\nHost: x\r\n\r\n"); status < 400 {
			t.Errorf("status %d", status)
		}
		alive("after it")
	})
	t.Run("bodies", func(t *testing.T) {
		for _, head := range []string{"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n",
			"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n",
			"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n"} {
			l.pour(t, head)
			alive(head[:13])
		}
	})
	t.Run("odd requests", func(t *testing.T) {
		for _, request := range []string{"GET /metrics/../debug/pprof/ HTTP/1.1\r\nHost: x\r\n\r\n", "TRACE /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET http://other/metrics HTTP/1.1\r\nHost: x\r\n\r\n", "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"} {
			if status, closed := l.scrape(t, request); status < 400 || !closed {
				t.Errorf("%.40q: status %d, closed %v", request, status, closed)
			}
		}
	})
	t.Run("many connections", func(t *testing.T) {
		var open []net.Conn
		for range limits.ConnsPerAddress + 40 {
			c, err := net.Dial("tcp", l.Metrics)
			if err != nil {
				break
			}
			open = append(open, c)
		}
		ended := 0
		for _, c := range open[len(open)-20:] { // those over the limit are closed at once
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := c.Read(make([]byte, 1)); err != nil && !strings.Contains(err.Error(), "timeout") {
				ended++
			}
		}
		if ended != 20 {
			t.Errorf("%d of the last 20 connections were ended", ended)
		}
		for _, c := range open {
			c.Close()
		}
	})
	t.Run("many at once", func(t *testing.T) {
		var all sync.WaitGroup
		var mu sync.Mutex // guards seen
		seen := map[int]int{}
		for range 64 {
			all.Go(func() {
				status, _ := l.scrape(t, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
				mu.Lock()
				defer mu.Unlock()
				seen[status]++
			})
		}
		all.Wait()
		if seen[200] == 0 || seen[200]+seen[503] != 64 {
			t.Errorf("answers by status: %v", seen)
		}
		alive("after them")
	})
}

// scrape sends a request as it is and tells the answer's status, and whether the server hung up behind it.
func (l *live) scrape(t *testing.T, request string) (status int, closed bool) {
	t.Helper()
	for range 100 { // connections of the case before may still count
		c, err := net.Dial("tcp", l.Metrics)
		if err != nil {
			t.Error(err)
			return 0, false
		}
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(c, request) // the server may have hung up before it was all sent
		r := bufio.NewReader(c)
		answer, err := http.ReadResponse(r, nil)
		if err != nil {
			c.Close()
			continue
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		_, err = r.ReadByte()
		c.Close()
		return answer.StatusCode, err != nil && !strings.Contains(err.Error(), "timeout")
	}
	return 0, true
}

// pour sends a body without end until the server hangs up.
func (l *live) pour(t *testing.T, head string) {
	t.Helper()
	c, err := net.Dial("tcp", l.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { _, _ = io.Copy(io.Discard, c) }()
	if _, err := io.WriteString(c, head); err != nil {
		t.Fatal(err)
	}
	_ = c.SetWriteDeadline(time.Now().Add(30 * time.Second))
	block := make([]byte, 1<<20)
	for sent := 0; sent < 4096; sent++ {
		if _, err = c.Write(block); err != nil {
			break
		}
	}
	if err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("%s: the body was taken: %v", fmt.Sprintf("%.13s", head), err)
	}
}
