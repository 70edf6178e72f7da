// Package clientip tells where a request comes from: the peer, or, behind
// proxies that the configuration trusts, the address that they vouch for.
package clientip

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// maxHops bounds how many addresses of X-Forwarded-For are looked at.
const maxHops = 32

// From returns the address of the client, unmapped and without a zone; the
// invalid address where there is none to believe. Behind trusted proxies it is
// the rightmost address of X-Forwarded-For that is not one of theirs: what stands
// left of it, the client may have made up. An entry that is no plain address
// makes all unbelievable.
func From(r *http.Request, trusted []netip.Prefix) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr := clean(peer.Addr())
	if !isTrusted(addr, trusted) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		text := strings.TrimSpace(hops[i])
		if text == "" && len(hops) == 1 {
			return addr // The proxy itself asks, as for its health checks.
		}
		hop, err := netip.ParseAddr(text)
		if err != nil || len(hops)-i > maxHops {
			return netip.Addr{}
		}
		if addr = clean(hop); !isTrusted(addr, trusted) {
			break
		}
	}
	return addr
}

func isTrusted(addr netip.Addr, trusted []netip.Prefix) bool {
	return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func clean(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// Network is the network that an address is likely to share with its owner's
// others: its /24 for IPv4, its /64 for IPv6.
func Network(addr netip.Addr) netip.Prefix {
	bits := 64
	if addr.Is4() {
		bits = 24
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
