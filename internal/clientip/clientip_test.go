package clientip_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/clientip"
)

func TestFrom(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, row := range []struct {
		name, peer string
		forwarded  []string
		want       string
	}{
		{"no proxy", "203.0.113.9:1", nil, "203.0.113.9"},
		{"IPv4 in IPv6 clothes", "[::ffff:203.0.113.9]:1", nil, "203.0.113.9"},
		{"a zone", "[fe80::1%eth0]:1", nil, "fe80::1"},
		{"a stranger's word", "203.0.113.9:1", []string{"198.51.100.1"}, "203.0.113.9"},
		{"a proxy's word", "10.1.1.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"a proxy in IPv6 clothes", "[::ffff:10.1.1.1]:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"what the client made up", "10.1.1.1:1", []string{"1.2.3.4, 198.51.100.1"}, "198.51.100.1"},
		{"on a line of its own", "10.1.1.1:1", []string{"1.2.3.4", "198.51.100.1"}, "198.51.100.1"},
		{"two proxies", "10.1.1.1:1", []string{"1.2.3.4, 198.51.100.1, fd00::7"}, "198.51.100.1"},
		{"all of them proxies", "10.1.1.1:1", []string{"10.2.2.2, 10.3.3.3"}, "10.2.2.2"},
		{"the proxy itself", "10.1.1.1:1", nil, "10.1.1.1"},
		{"no address", "10.1.1.1:1", []string{"198.51.100.1, unknown"}, ""},
		{"a made-up one before is not looked at", "10.1.1.1:1", []string{"unknown, 198.51.100.1"}, "198.51.100.1"},
		{"a port", "10.1.1.1:1", []string{"198.51.100.1:80"}, ""},
		{"empty entries", "10.1.1.1:1", []string{"198.51.100.1,,10.1.1.2"}, ""},
		{"octal", "10.1.1.1:1", []string{"010.0.0.1"}, ""},
		{"more hops than anybody has", "10.1.1.1:1", []string{"198.51.100.1" + strings.Repeat(", 10.0.0.1", 40)}, ""},
		{"a Unix socket", "@", nil, ""},
	} {
		r := &http.Request{RemoteAddr: row.peer, Header: http.Header{"X-Forwarded-For": row.forwarded}}
		got := clientip.From(r, trusted)
		if row.want == "" && got.IsValid() || row.want != "" && got.String() != row.want {
			t.Errorf("%s: From = %v, want %q", row.name, got, row.want)
		}
	}
}

func TestNetwork(t *testing.T) {
	for addr, want := range map[string]string{"203.0.113.9": "203.0.113.0/24", "2001:db8:1:2:3::4": "2001:db8:1:2::/64"} {
		if got := clientip.Network(netip.MustParseAddr(addr)); got.String() != want {
			t.Errorf("Network(%s) = %v, want %s", addr, got, want)
		}
	}
	if got := clientip.Network(netip.Addr{}); got.IsValid() {
		t.Errorf("Network of nothing = %v", got)
	}
}
