package cloud

import (
	"context"
	"net"
	"net/http"
	"time"
)

// watched is a connection that breaks when nothing moves on it for too long. There is no limit for a whole request: a
// large blob takes what it takes, as long as it moves. Writing moves the limit of reading, too: while a request is being
// sent, nothing can be read yet.
type watched struct {
	net.Conn

	stall time.Duration
}

func (c *watched) Read(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *watched) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// watch makes a transport break connections on which nothing moves.
func watch(t *http.Transport, stall time.Duration) {
	dialer := &net.Dialer{Timeout: min(stall, 10*time.Second), KeepAlive: 30 * time.Second}
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &watched{conn, stall}, nil
	}
	t.MaxIdleConnsPerHost = 32
	t.IdleConnTimeout = stall
}
