package verifierd

import (
	"net/url"
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

	// Issuer is the one whose tokens are accepted, as its tokens write it.
	// Required.
	Issuer string `yaml:"issuer"`

	// Audience is this verifier's name, or its fleet's: tokens for others are
	// refused. Required.
	Audience string `yaml:"audience"`

	// Skew is how far the issuer's clock may run ahead. Defaults to 30s.
	Skew time.Duration `yaml:"skew"`

	// KeySet says where the issuer's public keys are and how they are kept.
	KeySet struct {
		// URL defaults to the issuer's /jwks.json.
		URL string `yaml:"url"`
		// Snapshot is a file with the last good key set, so that the verifier can
		// start while the issuer is down. Empty: none.
		Snapshot string `yaml:"snapshot"`
		// Refresh is how often they are fetched. Defaults to 5m.
		Refresh time.Duration `yaml:"refresh"`
		// MaxStale is how old they may get before calls are refused. Defaults to
		// 1h.
		MaxStale time.Duration `yaml:"max_stale"`
	} `yaml:"key_set"`

	// Revocations says where the issuer's revocations are and how they are kept.
	Revocations struct {
		// URL defaults to the issuer's /revocations.
		URL string `yaml:"url"`
		// MaxStale is how old they may get before calls are refused: how long a
		// verifier that is cut off lets in what was revoked. Defaults to 10m.
		MaxStale time.Duration `yaml:"max_stale"`
		// Snapshot is a file that keeps them, to start while the issuer is down.
		Snapshot string `yaml:"snapshot"`
		// Key is a machine key with verifier_for, and Name the verifier's name, by
		// default the host's, to tell the issuer what is enforced.
		Key  config.Secret `yaml:"key"`
		Name string        `yaml:"name"`
		// Off lets each token live out its hour, whatever happens to its key.
		Off bool `yaml:"off"`
	} `yaml:"revocations"`

	// Upstreams are the model servers. At least one.
	Upstreams []upstreamSettings `yaml:"upstreams"`

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

	// Audit is the path of the audit log. Required.
	Audit string `yaml:"audit"`

	// DrainTimeout is how long streams may go on after SIGTERM. Defaults to 30s.
	DrainTimeout time.Duration `yaml:"drain_timeout"`
}

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
	p.Check(isURL(c.Issuer), "issuer", "want the issuer's URL")
	p.Check(c.Audience != "", "audience", "is required")
	p.Check(c.Audit != "", "audit", "is required")
	p.Check(c.Skew >= 0 && c.Skew <= 5*time.Minute, "skew", "want 0 to 5m")
	p.Check(c.DrainTimeout >= 0, "drain_timeout", "must not be negative")
	p.Check(c.MaxBody >= 0, "max_body", "must not be negative")
	if c.KeySet.URL == "" {
		c.KeySet.URL = c.Issuer + "/jwks.json"
	}
	p.Check(isURL(c.KeySet.URL), "key_set.url", "want a URL")
	if c.Revocations.URL == "" {
		c.Revocations.URL = c.Issuer + "/revocations"
	}
	p.Check(isURL(c.Revocations.URL), "revocations.url", "want a URL")
	p.Check(c.Revocations.MaxStale >= 0, "revocations.max_stale", "must not be negative")
	c.checkUpstreams(p)
	if c.Assertions.Issuer == "" {
		c.Assertions.Issuer = c.Audience
	}
	return c, p.Err()
}

func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
}
