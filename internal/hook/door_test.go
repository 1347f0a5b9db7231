package hook_test

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/hook"
)

// TestURLs: which URLs a webhook may have, before any name is looked up.
func TestURLs(t *testing.T) {
	p := open(t, func(cfg *hook.Config) {
		cfg.Allow, cfg.PerTenant = []string{"inside.example", "10.1.0.0/16", "::1"}, 1000
	})
	for url, good := range map[string]bool{
		"https://example.com/hook?a=b": true, "https://example.com:8443/": true, "https://93.184.216.34/": true, "https://[2606:4700::1111]/": true,
		"http://inside.example/": true, "http://INSIDE.example:8080/x": true, "https://10.1.2.3/": true, "http://[::1]:9/": true,
		"http://example.com/": false, "ftp://example.com/": false, "file:///etc/passwd": false, "gopher://example.com/": false, "unix:/run/x": false,
		"https:example.com": false, "https:///x": false, "example.com": false, "": false, "https://": false,
		"https://user:pw@example.com/": false, "https://user@example.com/": false, "https://a\\@example.com/": false, "https://example.com/#x": false, "https://exa mple.com/": false,
		"https://127.0.0.1/": false, "https://127.1/": false, "https://0x7f.1/": false, "https://2130706433/": false, "https://0x7f000001/": false, "https://017700000001/": false,
		"https://0.0.0.0/": false, "https://10.0.0.1/": false, "https://172.16.0.1/": false, "https://192.168.1.1/": false, "https://169.254.169.254/latest/meta-data": false,
		"https://100.64.0.1/": false, "https://198.18.0.1/": false, "https://224.0.0.1/": false, "https://255.255.255.255/": false, "https://240.0.0.1/": false, "https://168.63.129.16/": false,
		"https://[::]/": false, "https://[::ffff:127.0.0.1]/": false, "https://[::ffff:10.0.0.1]/": false, "https://[fe80::1]/": false, "https://[fc00::1]/": false,
		"https://[64:ff9b::7f00:1]/": false, "https://[2002:7f00:1::]/": false, "https://[::127.0.0.1]/": false, "https://[ff02::1]/": false, "https://[fe80::1%25eth0]/": false,
	} {
		_, _, err := p.CreateWebhook(t.Context(), admin, api.WebhookRequest{URL: url})
		if good && err != nil || !good && !api.Is(err, api.CodeAddressRefused) {
			t.Errorf("%s: %v, want taken: %v", url, err, good)
		}
	}
	for _, filter := range [][]string{{""}, {"a b"}, {"é"}, {"*****"}, {strings.Repeat("x", 129)}, make([]string, 17)} {
		if _, _, err := p.CreateWebhook(t.Context(), admin, api.WebhookRequest{URL: "https://example.com/", Kinds: filter}); err == nil {
			t.Errorf("the filter %.40q was taken", filter)
		}
	}
	if _, err := hook.New(hook.Config{Key: make([]byte, 32), Allow: []string{"http://x/"}}); err == nil {
		t.Error("a URL was taken for an allowed host")
	}
}

// names is a resolver whose answers change: the first is given once, the others then.
type names struct {
	asked atomic.Int64
	first []netip.Addr
	then  []netip.Addr
}

func (n *names) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	if n.asked.Add(1) == 1 {
		return n.first, nil
	}
	return n.then, nil
}

// TestNames: what a name resolves to is looked at for each attempt, and what is dialled is what was looked at.
func TestNames(t *testing.T) {
	// 127.0.0.2 plays the public host: it is allowed, and nobody listens there.
	loopback, public := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	for _, c := range []struct {
		name   string
		names  *names
		allow  []string
		called bool
	}{
		{"internal", &names{first: []netip.Addr{loopback}, then: []netip.Addr{loopback}}, nil, false},
		{"mapped", &names{first: []netip.Addr{netip.MustParseAddr("::ffff:127.0.0.1")}, then: []netip.Addr{loopback}}, nil, false},
		{"one of two", &names{first: []netip.Addr{netip.MustParseAddr("93.184.216.34"), loopback}, then: []netip.Addr{loopback}}, nil, false},
		{"rebinding", &names{first: []netip.Addr{public}, then: []netip.Addr{loopback}}, []string{"127.0.0.2"}, false},
		{"allowed by address only", &names{first: []netip.Addr{loopback}, then: []netip.Addr{loopback}}, []string{"127.0.0.0/8"}, false}, // reached, but it speaks no TLS
		{"allowed by name", &names{first: []netip.Addr{loopback}, then: []netip.Addr{loopback}}, []string{"trap.example"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := open(t, func(cfg *hook.Config) { cfg.Allow, cfg.Resolver, cfg.Attempts = c.allow, c.names, 3 })
			r := receive(t, ok)
			_, port, _ := strings.Cut(strings.TrimPrefix(r.URL, "http://"), ":")
			url := "https://trap.example:" + port + "/"
			if c.called {
				url = "http://trap.example:" + port + "/"
			}
			w, _ := p.subscribe(api.WebhookRequest{URL: url})
			p.event(api.Event{Kind: "k", Subject: "s"})
			d := p.settled(w)
			if called := len(r.got()) > 0; called != c.called {
				t.Errorf("the internal receiver was called: %v; %+v", called, d)
			}
			if !c.called && c.name != "allowed by address only" && !strings.Contains(d.Tries[len(d.Tries)-1].Error, "internal address") {
				t.Errorf("the reason is %q", d.Tries[len(d.Tries)-1].Error)
			}
		})
	}
}

// TestNoProxy: a proxy of the environment is not asked.
func TestNoProxy(t *testing.T) {
	proxy := receive(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) })
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("http_proxy", proxy.URL)
	loopback := netip.MustParseAddr("127.0.0.1")
	r := receive(t, ok)
	_, port, _ := strings.Cut(strings.TrimPrefix(r.URL, "http://"), ":")
	p := open(t, func(cfg *hook.Config) {
		cfg.Allow, cfg.Resolver = []string{"receiver.example"}, &names{first: []netip.Addr{loopback}, then: []netip.Addr{loopback}}
	})
	w, _ := p.subscribe(api.WebhookRequest{URL: "http://receiver.example:" + port})
	p.event(api.Event{Kind: "k", Subject: "s"})
	if d := p.settled(w); d.State != api.DeliveryDelivered || len(proxy.got()) != 0 || len(r.got()) != 1 {
		t.Errorf("%+v, %d at the proxy", d, len(proxy.got()))
	}
}
