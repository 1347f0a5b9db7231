package egress_test

import (
	"net/netip"
	"testing"

	"github.com/penstock/penstock/internal/egress"
)

// TestPermits looks at addresses in every way of writing them, with nothing allowed and with something.
func TestPermits(t *testing.T) {
	some, err := egress.Parse([]string{"10.1.0.0/16", " 127.0.0.1", "", "Hub.internal."})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string][2]bool{
		"8.8.8.8": {true, true}, "2606:4700::1111": {true, true}, "127.0.0.1": {false, true}, "::ffff:127.0.0.1": {false, true}, "127.0.0.2": {},
		"::1": {}, "0.0.0.0": {}, "::": {}, "10.1.2.3": {false, true}, "10.2.0.1": {}, "172.16.0.1": {}, "192.168.1.1": {}, "169.254.169.254": {},
		"100.64.0.1": {}, "224.0.0.1": {}, "255.255.255.255": {}, "fe80::1%eth0": {}, "fc00::1": {}, "fd00:ec2::254": {}, "64:ff9b::7f00:1": {},
		"2002:7f00:1::": {}, "2001::1": {}, "ff02::1": {}, "168.63.129.16": {}, "198.18.0.1": {}, "192.88.99.1": {}, "::127.0.0.1": {}, "3fff::1": {}, "5f00::1": {},
	} {
		a := netip.MustParseAddr(address)
		if got := [2]bool{egress.Policy{}.Permits(a), some.Permits(a)}; got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
	if (egress.Policy{}).Permits(netip.Addr{}) {
		t.Error("no address is permitted")
	}
	for host, want := range map[string]bool{"hub.internal": true, "HUB.internal": true, "hub.internal.": true, "xhub.internal": false, "": false} {
		if some.AllowsHost(host) != want {
			t.Errorf("%q: not %v", host, want)
		}
	}
	for _, bad := range []string{"http://x", "a b", "10.0.0.0/33", "user@host", "host:80", "*.internal"} {
		if _, err := egress.Parse([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
