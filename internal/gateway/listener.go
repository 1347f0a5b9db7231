package gateway

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// Listen wraps a listener with the limit on connections per address. Connections over it are closed at once.
func (c Config) Listen(l net.Listener) net.Listener {
	return &listener{Listener: l, limit: c.ConnsPerAddress, open: map[string]int{}}
}

// listener counts what is open per address.
type listener struct {
	net.Listener
	limit int

	mu   sync.Mutex // guards open
	open map[string]int
}

// Accept gives the next connection that is within its address's limit.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address := hostOf(c.RemoteAddr())
		if l.enter(address) {
			return &conn{Conn: c, leave: func() { l.leave(address) }}, nil
		}
		c.Close()
	}
}

func (l *listener) enter(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[address] >= l.limit {
		return false
	}
	l.open[address]++
	return true
}

func (l *listener) leave(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[address]--; l.open[address] <= 0 {
		delete(l.open, address)
	}
}

// hostOf is the address without its port.
func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// conn counts itself out when it is closed, and watches the HTTP/1 requests that pass.
type conn struct {
	net.Conn
	once  sync.Once
	leave func()
	ahead []byte       // read already, and to be read again
	watch watch        // touched by the reading side alone
	doubt atomic.Int64 // which request of the connection is in doubt, from 1; 0 for none
	asked atomic.Int64 // requests that the guard saw
}

func (c *conn) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}

// Read lets the watch see what the server reads, before the server does: when a request reaches the guard, its whole header
// has been followed.
func (c *conn) Read(b []byte) (int, error) {
	var n int
	var err error
	if len(c.ahead) > 0 {
		n = copy(b, c.ahead)
		c.ahead = c.ahead[n:]
	} else {
		n, err = c.Conn.Read(b)
	}
	if c.watch.feed(b[:n]) {
		c.doubt.Store(c.watch.requests)
	}
	return n, err
}

// Below is the connection without the watch, for who does not speak HTTP/1. It must be closed by Close.
func (c *conn) Below() net.Conn { return c.Conn }

// CloseWrite ends the sending half. net/http asks for it when it gives up on a request, so that the caller can read why before
// the connection is reset.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// ReadFrom leaves large copies to the system, which can do them without this process's memory.
func (c *conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// connKey finds the connection in a request's context.
type connKey struct{}

func connContext(ctx context.Context, c net.Conn) context.Context {
	if own, ok := c.(*conn); ok {
		return context.WithValue(ctx, connKey{}, own)
	}
	return ctx
}

// smuggled reports whether the request is one whose length is in doubt, or comes behind one. It is asked once a request.
func smuggled(r *http.Request) bool {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return false
	}
	asked, doubt := c.asked.Add(1), c.doubt.Load()
	return doubt != 0 && asked >= doubt
}
