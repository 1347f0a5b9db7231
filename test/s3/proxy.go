package s3

import (
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"
)

// Fault is what a proxy does to one request. The zero Fault passes it on.
type Fault struct {
	Status int           // answer so, with Code as S3 would name it, instead of passing the request on
	Code   string        //
	Delay  time.Duration // pass it on later
	Reset  bool          // break the connection before the request is read
	Lost   bool          // pass it on, and break the connection instead of giving the answer
	Cut    bool          // give half of the answer's body, then break the connection
	Stall  bool          // read the request and never answer
}

// The faults that pass by themselves.
var (
	InternalError = Fault{Status: http.StatusInternalServerError, Code: "InternalError"}
	SlowDown      = Fault{Status: http.StatusServiceUnavailable, Code: "SlowDown"}
	Slow          = Fault{Delay: 20 * time.Millisecond}
	Reset         = Fault{Reset: true}
	Lost          = Fault{Lost: true}
	Cut           = Fault{Cut: true}
)

// Proxy stands before a server and fails on demand.
type Proxy struct {
	URL string

	pass *httputil.ReverseProxy
	mu   sync.Mutex // guards the rest
	next func(*http.Request) Fault
	seen int
}

// NewProxy starts a proxy until the test ends. At first it passes everything on.
func NewProxy(t testing.TB, s *Server) *Proxy {
	t.Helper()
	to, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{pass: &httputil.ReverseProxy{ErrorLog: log.New(io.Discard, "", 0), Transport: &http.Transport{MaxIdleConnsPerHost: 64},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // it is signed
		}}}
	front := httptest.NewUnstartedServer(p)
	front.Config.ErrorLog = p.pass.ErrorLog
	front.Start()
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
	})
	p.URL = front.URL
	return p
}

// Fail sets what happens to each request from now on; nil passes all of them on.
func (p *Proxy) Fail(next func(*http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next, p.seen = next, 0
}

// Seen is how many requests came since Fail was called.
func (p *Proxy) Seen() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// Always fails every request alike.
func Always(f Fault) func(*http.Request) Fault { return func(*http.Request) Fault { return f } }

// Chance fails so many of a hundred requests, each in one of the ways given.
func Chance(random *rand.Rand, percent int, faults ...Fault) func(*http.Request) Fault {
	return func(*http.Request) Fault { // called with the proxy's lock held
		if random.IntN(100) >= percent {
			return Fault{}
		}
		return faults[random.IntN(len(faults))]
	}
}

func (p *Proxy) decide(r *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen++
	if p.next == nil {
		return Fault{}
	}
	return p.next(r)
}

// ServeHTTP passes a request on, or does worse.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := p.decide(r)
	switch {
	case f.Reset:
		reset(w)
	case f.Stall:
		_, _ = io.Copy(io.Discard, r.Body) // the client may go away
		<-r.Context().Done()
	case f.Status != 0:
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(f.Status)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>injected</Message></Error>", f.Code)
		}
	case f.Lost:
		p.pass.ServeHTTP(&partial{ResponseWriter: httptest.NewRecorder(), left: -1}, r)
		reset(w)
	case f.Cut:
		p.pass.ServeHTTP(&partial{ResponseWriter: w}, r)
	default:
		if f.Delay > 0 {
			timer := time.NewTimer(f.Delay)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-r.Context().Done():
			}
		}
		p.pass.ServeHTTP(w, r)
	}
}

// reset breaks a connection the hard way.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// partial lets half of an announced body through, or drops all of it.
type partial struct {
	http.ResponseWriter

	left int64 // -1: everything is dropped
}

func (c *partial) WriteHeader(status int) {
	if c.left == 0 {
		var length int64
		_, _ = fmt.Sscan(c.Header().Get("Content-Length"), &length)
		c.left = length / 2
		if length == 0 {
			c.left = 10
		}
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *partial) Write(b []byte) (int, error) {
	if c.left < 0 {
		return len(b), nil
	}
	if int64(len(b)) < c.left {
		c.left -= int64(len(b))
		return c.ResponseWriter.Write(b)
	}
	_, err := c.ResponseWriter.Write(b[:c.left])
	if err = errors.Join(err, http.NewResponseController(c.ResponseWriter).Flush()); err != nil {
		return 0, err
	}
	panic(http.ErrAbortHandler)
}

// Unwrap lets the proxy flush.
func (c *partial) Unwrap() http.ResponseWriter { return c.ResponseWriter }
