// Package egress says where this server may go when somebody else names the address: whoever may ask for a copy, or name a
// webhook, could else reach what only this machine can reach. It is a tool: who dials is somebody else.
package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Policy says which addresses may be dialed. The zero value permits public ones only. It is not changed after Parse, so it
// may be used by many goroutines.
type Policy struct {
	hosts  []string       // allowed by name, lower case: they may resolve to anything
	ranges []netip.Prefix // allowed by address
}

// Parse reads what an operator allows: addresses, ranges such as 10.0.0.0/8, and hosts' names. Empty texts are left out.
func Parse(texts []string) (Policy, error) {
	var p Policy
	for _, text := range texts {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if prefix, err := netip.ParsePrefix(text); err == nil {
			p.ranges = append(p.ranges, prefix.Masked())
		} else if a, err := netip.ParseAddr(text); err == nil {
			p.ranges = append(p.ranges, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
		} else if strings.ContainsAny(text, "/:@ *") {
			return p, fmt.Errorf("%q is neither a host's name, nor an address, nor a range such as 10.0.0.0/8", text)
		} else {
			p.hosts = append(p.hosts, plain(text))
		}
	}
	return p, nil
}

// plain is the one spelling of a host's name.
func plain(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// AllowsHost reports a name that was allowed, whatever it resolves to.
func (p Policy) AllowsHost(name string) bool { return slices.Contains(p.hosts, plain(name)) }

// Allows reports an address that was allowed, although it may be internal.
func (p Policy) Allows(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(p.ranges, func(r netip.Prefix) bool { return r.Contains(a) })
}

// Permits reports whether an address may be dialed: it is public, or allowed.
func (p Policy) Permits(a netip.Addr) bool { return p.Allows(a) || !Internal(a) }

// special are ranges that lead into somebody's network or nowhere, beside those that netip knows by itself (IANA's
// registries of special-purpose addresses, and one that a cloud keeps for itself). Those that carry an IPv4 address inside
// (NAT64, 6to4, Teredo) could carry an internal one.
var special = func() (all []netip.Prefix) {
	for _, text := range []string{"0.0.0.0/8", "100.64.0.0/10", "168.63.129.16/32", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
		"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64",
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10"} {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}()

// Internal reports an address that is not a public host's.
func Internal(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsGlobalUnicast() || a.IsPrivate() { // neither valid, nor one host's, nor beyond this link
		return true
	}
	return slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
}
