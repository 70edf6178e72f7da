package issuerd

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/internal/config"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/issuer"
)

// settings is the issuer's configuration file.
type settings struct {
	// Listen is where clients and browsers are served. Defaults to
	// 127.0.0.1:8080.
	Listen string `yaml:"listen"`

	// OpsListen is where /livez and /readyz are served, apart from the public
	// endpoints. Defaults to 127.0.0.1:8081.
	OpsListen string `yaml:"ops_listen"`

	// URL is the issuer's public address, without a path: the "iss" of tokens,
	// and where the identity provider sends browsers back to. Required.
	URL string `yaml:"url"`

	// TLS serves HTTPS on Listen. Without it, something in front must, unless
	// URL is on loopback.
	TLS program.TLS `yaml:"tls"`

	// Audiences names the verifiers that tokens can be for; the first is meant
	// where a request names none. Required.
	Audiences []string `yaml:"audiences"`

	// Store is the path of a SQLite file, or the URL of a PostgreSQL database:
	// postgres://USER@HOST/DATABASE. Its password can be in the URL, in a file
	// of libpq's form (?passfile=PATH, PGPASSFILE), or in PGPASSWORD. Required.
	Store config.Secret `yaml:"store"`

	// SigningKeys is the path of the signing keys, encrypted under
	// KeyEncryptionKey, a file with 32 random bytes in base64. Both required.
	SigningKeys      string `yaml:"signing_keys"`
	KeyEncryptionKey string `yaml:"key_encryption_key"`

	// Pepper is the path of the secret under which machine keys are hashed, of
	// the same form. It must not lie with backups of the store. Required.
	Pepper string `yaml:"pepper"`

	// Audit is the path of the audit log. Required.
	Audit string `yaml:"audit"`

	// TokenLifetime is how long tokens live at most. Defaults to 1h, the longest.
	TokenLifetime time.Duration `yaml:"token_lifetime"`

	// SessionLifetime is how long one browser login can be refreshed. Defaults to
	// 12h.
	SessionLifetime time.Duration `yaml:"session_lifetime"`

	// DrainTimeout is how long requests in flight may take after SIGTERM.
	// Defaults to 10s.
	DrainTimeout time.Duration `yaml:"drain_timeout"`

	// Providers are the identity providers to believe. At least one.
	Providers []providerSettings `yaml:"providers"`

	// Grants are the named bundles of scopes that keys refer to. At least one.
	Grants []grantSettings `yaml:"grants"`

	believed []*issuer.Provider // Made of Providers.
}

// grantSettings are as policy.Grant says.
type grantSettings struct {
	Name        string            `yaml:"name"`
	Tier        string            `yaml:"tier"`
	Scopes      []string          `yaml:"scopes"`
	Default     []string          `yaml:"default"` // Absent: all of Scopes.
	MaxLifetime time.Duration     `yaml:"max_lifetime"`
	IPRanges    *[]string         `yaml:"ip_ranges"` // Absent: anywhere. []: nowhere.
	Members     []membersSettings `yaml:"members"`
}

type membersSettings struct {
	Provider string                    `yaml:"provider"`
	Groups   []string                  `yaml:"groups"`
	Subjects []string                  `yaml:"subjects"`
	Claims   map[string]policy.Pattern `yaml:"claims"`
}

func load(o program.Options) (*settings, map[string]policy.Grant, error) {
	c := &settings{Listen: "127.0.0.1:8080", OpsListen: "127.0.0.1:8081", DrainTimeout: 10 * time.Second}
	source, err := config.Load(o.Config, o.Env, o.Sets, c)
	if err != nil {
		return nil, nil, err
	}
	p := source.Problems()
	for _, required := range []struct{ path, value string }{
		{"url", c.URL},
		{"store", c.Store.Reveal()},
		{"signing_keys", c.SigningKeys},
		{"key_encryption_key", c.KeyEncryptionKey},
		{"pepper", c.Pepper},
		{"audit", c.Audit},
	} {
		p.Check(required.value != "", required.path, "is required")
	}
	if err := store.Validate(c.Store.Reveal()); err != nil {
		p.Add("store", "%v", err)
	}
	program.CheckAddr(p, "listen", c.Listen)
	program.CheckAddr(p, "ops_listen", c.OpsListen)
	c.TLS.Check(p, "tls")
	p.Check(len(c.Audiences) > 0, "audiences", "name at least one")
	p.Check(c.TokenLifetime >= 0 && c.TokenLifetime <= token.MaxLifetime, "token_lifetime", "want up to %s", token.MaxLifetime)
	p.Check(c.SessionLifetime >= 0, "session_lifetime", "must not be negative")
	p.Check(c.DrainTimeout >= 0, "drain_timeout", "must not be negative")
	p.Check(len(c.Providers) > 0, "providers", "name at least one")
	c.believed = c.openProviders(p, o.Clock())
	grants := map[string]policy.Grant{}
	p.Check(len(c.Grants) > 0, "grants", "name at least one")
	for i, g := range c.Grants {
		path := "grants[" + strconv.Itoa(i) + "]"
		_, twice := grants[g.Name]
		p.Check(!twice, path+".name", "stands twice")
		grants[g.Name] = g.grant(p, path, c)
	}
	return c, grants, p.Err()
}

func (s grantSettings) grant(p *config.Problems, path string, c *settings) policy.Grant {
	g := policy.Grant{Name: s.Name, Tier: s.Tier, MaxLifetime: s.MaxLifetime}
	if g.MaxLifetime == 0 {
		g.MaxLifetime = token.MaxLifetime
	}
	p.Check(s.Name != "" && len(s.Name) <= 64, path+".name", "want 1 to 64 characters")
	p.Check(g.MaxLifetime > 0 && g.MaxLifetime <= token.MaxLifetime, path+".max_lifetime", "want up to %s", token.MaxLifetime)
	var err error
	g.Scopes, err = token.NewScopes(s.Scopes...)
	p.Check(err == nil && len(g.Scopes) > 0, path+".scopes", "want scopes such as chat:faq-bot, each once")
	if g.Default = g.Scopes; s.Default != nil {
		g.Default, err = token.NewScopes(s.Default...)
		p.Check(err == nil && g.Default.Within(g.Scopes), path+".default", "want scopes that scopes covers")
	}
	if s.IPRanges != nil {
		g.IPRanges = []netip.Prefix{}
		for i, text := range *s.IPRanges {
			network, err := token.ParseNetwork(text)
			if err != nil {
				p.Add(path+".ip_ranges["+strconv.Itoa(i)+"]", "%v", err)
			}
			g.IPRanges = append(g.IPRanges, network)
		}
	}
	p.Check(len(s.Members) > 0, path+".members", "nobody may hold this grant")
	for i, m := range s.Members {
		at := path + ".members[" + strconv.Itoa(i) + "]"
		m.check(p, at, c)
		g.Members = append(g.Members, policy.Members(m))
	}
	return g
}
