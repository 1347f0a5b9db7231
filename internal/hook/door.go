package hook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/egress"
)

// door is the only way out: it says which URLs may be called, and dials only addresses that it looked at itself.
type door struct {
	resolver Resolver
	policy   egress.Policy
	client   *http.Client
}

// The bounds of an answer. Nothing of its body is kept: whoever may name a URL must not read through us what answers there.
const (
	answerHeadMax = 32 << 10
	addressesMax  = 8 // of one host that are tried
)

func newDoor(cfg Config) (*door, error) {
	d := &door{resolver: cfg.Resolver}
	if d.resolver == nil {
		d.resolver = net.DefaultResolver
	}
	var err error
	if d.policy, err = egress.Parse(cfg.Allow); err != nil {
		return nil, fmt.Errorf("--webhook-allow: %w", err)
	}
	d.client = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{ // no Proxy: the environment's would see the bodies and dial for us
			DialContext: d.dial, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: answerHeadMax,
			TLSHandshakeTimeout: cfg.Timeout, ResponseHeaderTimeout: cfg.Timeout, Protocols: onlyHTTP1()},
	}
	return d, nil
}

func onlyHTTP1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

// check reports a URL that may not be called, whatever its host resolves to.
func (d *door) check(text string) error {
	refuse := func(format string, args ...any) error {
		return api.Fail(api.CodeAddressRefused, "$.url", format, args...)
	}
	u, err := url.Parse(text)
	if err != nil || strings.ContainsAny(text, "\\ \t\r\n") || u.Opaque != "" || u.Host == "" {
		return refuse("this is not a URL such as https://host/path")
	}
	host := strings.ToLower(u.Hostname())
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return refuse("the scheme is %.20q; https is wanted", u.Scheme)
	case u.User != nil:
		return refuse("the URL holds a user or password; the signature shows who sends")
	case u.Fragment != "" || host == "":
		return refuse("the URL has a fragment or no host")
	}
	addr, err := netip.ParseAddr(host)
	allowed := d.policy.AllowsHost(host) || err == nil && d.policy.Allows(addr)
	switch {
	case u.Scheme == "http" && !allowed:
		return refuse("plain http shows the events to everybody on the way; https is wanted")
	case err == nil && !allowed && egress.Internal(addr):
		return refuse("%s is an internal address", addr)
	case err != nil && oddNumber(host):
		return refuse("the host is written like a number, which programs read in different ways")
	}
	return nil
}

// oddNumber finds hosts that some resolvers take for addresses: 2130706433, 0x7f.1, 127.1.
func oddNumber(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	return strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x")
}

// errInternal is why a connection was not made.
var errInternal = errors.New("internal address")

// dial resolves the host once, refuses it when any of its addresses is internal, and connects to one of those very
// addresses: a name that means something else a moment later is of no use. Control looks once more at what the socket
// is about to be connected to.
func (d *door) dial(ctx context.Context, network, hostport string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, err
	}
	addrs := []netip.Addr{}
	if literal, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, literal)
	} else if addrs, err = d.resolver.LookupNetIP(ctx, "ip", host); err != nil {
		return nil, fmt.Errorf("find %s: %w", host, err)
	}
	free := d.policy.AllowsHost(host)
	permitted := func(a netip.Addr) bool { return free || d.policy.Permits(a) }
	for _, a := range addrs {
		if !permitted(a) {
			return nil, fmt.Errorf("%s is at %s: %w", host, a, errInternal)
		}
	}
	dialer := net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		bound, err := netip.ParseAddrPort(address)
		if err != nil || !permitted(bound.Addr()) {
			return fmt.Errorf("%s: %w", address, errInternal)
		}
		return nil
	}}
	err = fmt.Errorf("%s has no address", host)
	for _, a := range addrs[:min(len(addrs), addressesMax)] {
		var conn net.Conn
		if conn, err = dialer.DialContext(ctx, network, net.JoinHostPort(a.Unmap().String(), port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}
