package issuerd

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/internal/alert"
	"github.com/hourpass/hourpass/internal/config"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/issuer"
	"github.com/hourpass/hourpass/jwks/ring"
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

	// Resources are addresses that a request may name in the place of an audience
	// (RFC 8707): from address to audience.
	Resources map[string]string `yaml:"resources"`

	// Store is the path of a SQLite file, or the URL of a PostgreSQL database:
	// postgres://USER@HOST/DATABASE. Its password can be in the URL, in a file
	// of libpq's form (?passfile=PATH, PGPASSFILE), or in PGPASSWORD. Required.
	Store config.Secret `yaml:"store"`

	// KeyEncryptionKey is the path of a file with 32 random bytes in base64. It
	// seals the signing keys and login sessions. Required.
	KeyEncryptionKey string `yaml:"key_encryption_key"`

	// SigningKeys is the path of the signing keys. Empty: they are in the store,
	// where several issuers share them.
	SigningKeys string `yaml:"signing_keys"`

	// Signing says how signing keys live.
	Signing signingSettings `yaml:"signing"`

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

	// RotationGrace is how long after the rotation of a machine key is due it
	// still gets tokens. Absent: for ever, what is overdue is only reported.
	RotationGrace *time.Duration `yaml:"rotation_grace"`

	// OwnerAbsence is how long ago at most the identity provider has vouched for
	// the owner of a machine key. Absent: that is not asked.
	OwnerAbsence time.Duration `yaml:"owner_absence"`

	// Rates bound how fast one client may ask.
	Rates struct {
		PerAddress int `yaml:"per_address"` // Requests a second. Defaults to 50.
		PerKey     int `yaml:"per_key"`     // Tokens a minute. Defaults to 600.
		Failures   int `yaml:"failures"`    // A minute, of an address and of a key. Defaults to 30.
	} `yaml:"rates"`

	// TrustedProxies are the networks whose X-Forwarded-For is believed.
	TrustedProxies []string `yaml:"trusted_proxies"`

	// Admins may do everything to machine keys, Auditors see everything.
	Admins   []membersSettings `yaml:"admins"`
	Auditors []membersSettings `yaml:"auditors"`

	// Ledger is the Redis or Valkey that has what is spent of budgets. Defaults to
	// the store.
	Ledger struct {
		URL      config.Secret `yaml:"url"` // It may hold a password.
		Password config.Secret `yaml:"password"`
		CA       string        `yaml:"ca"`
	} `yaml:"ledger"`

	// Watch says what becomes of keys that spend far more than they used to.
	Watch watchSettings `yaml:"watch"`

	// Alerts say where notices go.
	Alerts alertSettings `yaml:"alerts"`

	// DrainTimeout is how long requests in flight may take after SIGTERM.
	// Defaults to 10s.
	DrainTimeout time.Duration `yaml:"drain_timeout"`

	// Providers are the identity providers to believe. At least one.
	Providers []providerSettings `yaml:"providers"`

	// Grants are the named bundles of scopes that keys refer to. At least one.
	Grants []grantSettings `yaml:"grants"`

	believed []*issuer.Provider // Made of Providers.
	proxies  []netip.Prefix     // Made of TrustedProxies.
}

// signingSettings are as ring.Config says.
type signingSettings struct {
	Algorithm string        `yaml:"algorithm"` // ES256, EdDSA or RS256. Defaults to ES256.
	Every     time.Duration `yaml:"every"`     // How long a key signs. Defaults to 720h.
	Lead      time.Duration `yaml:"lead"`      // How long a key is published before. Defaults to 15m.

	// PKCS11 names the device that makes new keys and signs with them, for a
	// program that was built with the tag pkcs11.
	PKCS11 pkcs11Settings `yaml:"pkcs11"`
}

// pkcs11Settings are as pkcs11.Config says.
type pkcs11Settings struct {
	Module string        `yaml:"module"`
	Token  string        `yaml:"token"`
	PIN    config.Secret `yaml:"pin"`
}

// watchSettings are as issuer.Watch and watch.Rule say.
type watchSettings struct {
	Mode        string  `yaml:"mode"`         // enforce, warn or off. Defaults to enforce.
	Factor      float64 `yaml:"factor"`       // Times what is usual. Defaults to 10.
	Floor       int64   `yaml:"floor"`        // Tokens an hour that are never too much. Defaults to 100000.
	ColdHours   int     `yaml:"cold_hours"`   // Hours of spending until something is usual. Defaults to 24.
	ColdCeiling int64   `yaml:"cold_ceiling"` // Tokens an hour until then. Defaults to no ceiling.
}

func (w watchSettings) check(p *config.Problems) {
	p.Check(slices.Contains([]string{"", issuer.WatchEnforce, issuer.WatchWarn, issuer.WatchOff}, w.Mode), "watch.mode", "want enforce, warn or off")
	p.Check(w.Factor == 0 || w.Factor >= 1, "watch.factor", "want 1 or more")
	p.Check(w.Floor >= 0, "watch.floor", "must not be negative")
	p.Check(w.ColdHours >= 0, "watch.cold_hours", "must not be negative")
	p.Check(w.ColdCeiling >= 0, "watch.cold_ceiling", "must not be negative")
}

// alertSettings are as the configurations of internal/alert say. Alerts are logged
// in any case.
type alertSettings struct {
	Webhook config.Secret `yaml:"webhook"` // Whoever knows the URL of some may post there.
	Secret  config.Secret `yaml:"secret"`
	Timeout time.Duration `yaml:"timeout"`

	// Slack is the URL of an incoming webhook of Slack, or of what takes the same.
	Slack config.Secret `yaml:"slack"`

	Mail mailSettings `yaml:"mail"`
}

// mailSettings are as alert.MailConfig says.
type mailSettings struct {
	Server   string        `yaml:"server"` // HOST:PORT
	From     string        `yaml:"from"`
	To       []string      `yaml:"to"`
	User     string        `yaml:"user"`
	Password config.Secret `yaml:"password"`
	TLS      string        `yaml:"tls"` // starttls, the default, or implicit. none is for loopback.
}

func (m mailSettings) config() alert.MailConfig {
	return alert.MailConfig{Server: m.Server, From: m.From, To: m.To, User: m.User, Password: m.Password.Reveal(), TLS: m.TLS}
}

// check adds what is wrong with them, each under its setting.
func (a alertSettings) check(p *config.Problems) {
	if !a.Slack.IsZero() {
		if _, err := alert.NewSlack(a.Slack.Reveal(), a.Timeout); err != nil {
			p.Add("alerts.slack", "%v", err)
		}
	}
	if a.Mail.Server != "" || a.Mail.From != "" || len(a.Mail.To) > 0 {
		if _, err := alert.NewMail(a.Mail.config()); err != nil {
			p.Add("alerts.mail", "%v", err)
		}
	}
	if a.Webhook.IsZero() {
		p.Check(a.Secret.IsZero(), "alerts.secret", "signs what is sent to a webhook, and there is none")
		return
	}
	if _, err := a.webhook(); err != nil {
		for problem := range strings.SplitSeq(err.Error(), "\n") {
			name, text, _ := strings.Cut(problem, ": ")
			p.Add("alerts."+name, "%s", text)
		}
	}
}

func (a alertSettings) webhook() (*alert.Webhook, error) {
	return alert.NewWebhook(alert.WebhookConfig{URL: a.Webhook.Reveal(), Secret: a.Secret.Reveal(), Timeout: a.Timeout})
}

// outbox is the way to all sinks: the log, and what is configured.
func (a alertSettings) outbox(p parts) (*alert.Outbox, error) {
	sinks := []alert.Sink{alert.Log{Logger: p.log}}
	if !a.Webhook.IsZero() {
		w, err := a.webhook()
		if err != nil {
			return nil, err
		}
		sinks = append(sinks, w)
	}
	if !a.Slack.IsZero() {
		s, err := alert.NewSlack(a.Slack.Reveal(), a.Timeout)
		if err != nil {
			return nil, err
		}
		sinks = append(sinks, s)
	}
	if a.Mail.Server != "" {
		m, err := alert.NewMail(a.Mail.config())
		if err != nil {
			return nil, err
		}
		sinks = append(sinks, m)
	}
	mac := func(message []byte) []byte { return p.sealer.MAC("alert outbox", message) }
	return alert.NewOutbox(p.db, mac, p.log, p.now, sinks...)
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
	p.Check(c.RotationGrace == nil || *c.RotationGrace >= 0, "rotation_grace", "must not be negative")
	p.Check(c.OwnerAbsence >= 0, "owner_absence", "must not be negative")
	p.Check(c.Rates.PerAddress >= 0 && c.Rates.PerKey >= 0 && c.Rates.Failures >= 0, "rates", "must not be negative")
	p.Check(slices.Contains([]string{"", ring.ES256, ring.EdDSA, ring.RS256}, c.Signing.Algorithm), "signing.algorithm", "want ES256, EdDSA or RS256")
	p.Check(c.Signing.Every >= 0 && c.Signing.Lead >= 0, "signing", "must not be negative")
	device := c.Signing.PKCS11
	p.Check(device.Module == "" || device.Token != "" && device.PIN.Reveal() != "", "signing.pkcs11", "want module, token and pin")
	p.Check(device.Module == "" || havePKCS11, "signing.pkcs11", "this program was built without PKCS #11; build it with -tags pkcs11")
	c.Alerts.check(p)
	c.Watch.check(p)
	ledger := c.Ledger.URL.Reveal()
	p.Check(ledger == "" || strings.HasPrefix(ledger, "redis://") || strings.HasPrefix(ledger, "rediss://"), "ledger.url", "want redis:// or rediss://")
	for i, text := range c.TrustedProxies {
		network, err := token.ParseNetwork(text)
		if err != nil {
			p.Add("trusted_proxies["+strconv.Itoa(i)+"]", "%v", err)
		}
		c.proxies = append(c.proxies, network)
	}
	p.Check(len(c.Providers) > 0, "providers", "name at least one")
	c.believed = c.openProviders(p, o.Clock())
	grants := map[string]policy.Grant{}
	p.Check(len(c.Grants) > 0, "grants", "name at least one")
	for i, g := range c.Grants {
		path := "grants[" + strconv.Itoa(i) + "]"
		_, twice := grants[g.Name]
		p.Check(!twice, path+".name", "stands twice")
		grants[g.Name] = g.grant(p, path, c, grants)
	}
	members(c.Admins, p, "admins", c)
	members(c.Auditors, p, "auditors", c)
	return c, grants, p.Err()
}
