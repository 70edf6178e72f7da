package verifierd

import (
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/internal/config"
)

// settings is the verifier's configuration file.
type settings struct {
	// Listen is where calls arrive. Defaults to 127.0.0.1:9090.
	Listen string `yaml:"listen"`

	// OpsListen is where /livez and /readyz are served, apart from the calls.
	// Defaults to 127.0.0.1:9091.
	OpsListen string `yaml:"ops_listen"`

	// TLS serves HTTPS on Listen.
	TLS program.TLS `yaml:"tls"`

	// H2C takes HTTP/2 without TLS on Listen, beside HTTP/1.1: for a proxy in front
	// that speaks it.
	H2C bool `yaml:"h2c"`

	// Issuer, Audience, KeySet and Revocations are the one issuer whose tokens are
	// accepted; Issuers, in their place, are several.
	Issuer      string             `yaml:"issuer"`
	Audience    string             `yaml:"audience"`
	KeySet      keySetSettings     `yaml:"key_set"`
	Revocations revocationSettings `yaml:"revocations"`
	Issuers     []issuerSettings   `yaml:"issuers"`

	// Skew is how far the issuer's clock may run ahead. Defaults to 30s.
	Skew time.Duration `yaml:"skew"`

	// TrustedProxies are the networks of the proxies in front of the verifier,
	// whose X-Forwarded-For says who calls. None: the peer is the client.
	TrustedProxies []string `yaml:"trusted_proxies"`

	// Upstreams are the model servers. At least one.
	Upstreams []upstreamSettings `yaml:"upstreams"`

	// ForwardAuth answers a proxy in front that forwards calls itself.
	ForwardAuth forwardAuthSettings `yaml:"forward_auth"`

	// ExtAuthz answers Envoy.
	ExtAuthz extAuthzSettings `yaml:"ext_authz"`

	// Ledger says where it is counted what tokens with limits have spent.
	Ledger ledgerSettings `yaml:"ledger"`

	// UsageSpool is a folder of the verifier's own, where what calls cost waits for
	// the issuer. It wants revocations.key. Empty: usage stands in the audit alone.
	UsageSpool string `yaml:"usage_spool"`

	// Streams says what becomes of answers that outlive their token.
	Streams struct {
		// AtExpiry and AtRevocation are finish, the default, or cut.
		AtExpiry     string `yaml:"at_expiry"`
		AtRevocation string `yaml:"at_revocation"`
		// MaxAge ends every answer. Defaults to 1h.
		MaxAge time.Duration `yaml:"max_age"`
		// KeepAlive is how often a client hears a comment while it waits for the
		// first event of a stream. 0, the default: it hears none.
		KeepAlive time.Duration `yaml:"keep_alive"`
	} `yaml:"streams"`

	// Assertions say how calls are signed for upstreams that want it.
	Assertions struct {
		// Keys is a file with private keys for P-256 in PEM, mode 0600. The first
		// signs; all are published at /jwks.json of OpsListen.
		Keys string `yaml:"keys"`
		// Issuer is their iss. Defaults to the verifier's audience.
		Issuer string `yaml:"issuer"`
	} `yaml:"assertions"`

	// MaxBody bounds a call's body, in bytes. Defaults to 10 MiB.
	MaxBody int64 `yaml:"max_body"`

	// MaxForm bounds forms with files, and MaxDisk what all of them together take
	// on the disk while they are judged, in bytes. Default to 512 MiB and 4 GiB.
	MaxForm int64 `yaml:"max_form"`
	MaxDisk int64 `yaml:"max_disk"`

	// Audit is the path of the audit log. Required.
	Audit string `yaml:"audit"`

	// DrainTimeout is how long streams may go on after SIGTERM. Defaults to 30s.
	DrainTimeout time.Duration `yaml:"drain_timeout"`
}

// What becomes of an answer that outlives its token.
const (
	finish = "finish"
	cut    = "cut"
)

func load(o program.Options) (*settings, error) {
	c := &settings{Listen: "127.0.0.1:9090", OpsListen: "127.0.0.1:9091", DrainTimeout: 30 * time.Second}
	source, err := config.Load(o.Config, o.Env, o.Sets, c)
	if err != nil {
		return nil, err
	}
	p := source.Problems()
	program.CheckAddr(p, "listen", c.Listen)
	program.CheckAddr(p, "ops_listen", c.OpsListen)
	c.TLS.Check(p, "tls")
	p.Check(!c.H2C || c.TLS == program.TLS{}, "h2c", "is without TLS: HTTP/2 is there with it")
	if len(c.Issuers) == 0 {
		only := issuerSettings{Issuer: c.Issuer, Audience: c.Audience, KeySet: c.KeySet, Revocations: c.Revocations}
		only.check(p, "")
		c.Issuers = []issuerSettings{only}
	} else {
		p.Check(c.Issuer == "" && c.Audience == "" && c.KeySet == keySetSettings{} && c.Revocations == revocationSettings{}, "issuers", "stand in place of issuer, audience, key_set and revocations")
		for n := range c.Issuers {
			c.Issuers[n].check(p, "issuers["+strconv.Itoa(n)+"].")
		}
	}
	for n, network := range c.TrustedProxies {
		_, err := netip.ParsePrefix(network)
		p.Check(err == nil, "trusted_proxies["+strconv.Itoa(n)+"]", "want a network such as 10.0.0.0/8")
	}
	p.Check(c.Audit != "", "audit", "is required")
	p.Check(c.Skew >= 0 && c.Skew <= 5*time.Minute, "skew", "want 0 to 5m")
	p.Check(c.DrainTimeout >= 0, "drain_timeout", "must not be negative")
	p.Check(c.MaxBody >= 0, "max_body", "must not be negative")
	p.Check(c.MaxForm >= 0, "max_form", "must not be negative")
	p.Check(c.MaxDisk >= 0, "max_disk", "must not be negative")
	for name, end := range map[string]string{"at_expiry": c.Streams.AtExpiry, "at_revocation": c.Streams.AtRevocation} {
		p.Check(end == "" || end == finish || end == cut, "streams."+name, "want finish or cut")
	}
	p.Check(c.Streams.MaxAge >= 0, "streams.max_age", "must not be negative")
	p.Check(c.Streams.KeepAlive >= 0, "streams.keep_alive", "must not be negative")
	c.checkUpstreams(p)
	c.ForwardAuth.check(p)
	c.ExtAuthz.check(p)
	c.Ledger.check(p)
	p.Check(c.UsageSpool == "" || !c.Issuers[0].Revocations.Key.IsZero(), "usage_spool", "wants revocations.key, to tell the first issuer")
	if c.Assertions.Issuer == "" {
		c.Assertions.Issuer = c.Audience
	}
	return c, p.Err()
}

func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
}
