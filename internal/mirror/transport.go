package mirror

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/egress"
)

// The bounds of what this server does at another registry.
const (
	dialTimeout   = 10 * time.Second
	headerTimeout = 5 * time.Minute // from a request's end to the answer's header: some registries hash first what they took
	headerBytes   = 64 << 10
	redirectsMax  = 5
	hostConns     = 16 // connections to one registry
)

// transport makes the one way out. The address is looked at when the name has become one, right before the connection is
// made to that very address: a name that resolves differently a moment later leads nowhere else. It holds for redirects and
// for the places where tokens are had alike, since all go through here. Proxies of the environment are not used: they
// would resolve names themselves.
func transport(policy egress.Policy) *http.Transport {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		d := net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
		if host, _, err := net.SplitHostPort(address); err != nil || !policy.AllowsHost(host) {
			d.Control = func(_, address string, _ syscall.RawConn) error { return inspect(policy, address) }
		}
		return d.DialContext(ctx, network, address)
	}
	return &http.Transport{DialContext: dial, TLSHandshakeTimeout: dialTimeout, ResponseHeaderTimeout: headerTimeout, MaxResponseHeaderBytes: headerBytes,
		MaxIdleConnsPerHost: 4, MaxConnsPerHost: hostConns, IdleConnTimeout: time.Minute, DisableCompression: true, ForceAttemptHTTP2: true,
		WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10}
}

// inspect looks at what a socket is about to be connected to.
func inspect(policy egress.Policy, address string) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !policy.Permits(to.Addr()) {
		return api.Fail(api.CodeEgress, "", "the address lies inside the network, where this server does not go")
	}
	return nil
}
