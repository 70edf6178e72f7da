// Package upstream is the model servers behind the verifier: which of them serves
// a model, and how a request gets there. It refuses to know what was judged, and
// by whom. Start with [Config]; [Set] finds, [Server] sends.
//
// check.go is what a configuration may be, replicas.go which of several servers
// gets a request, headers.go what a server learns of the caller, credential.go
// and transport.go how the verifier shows itself.
package upstream

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hourpass/hourpass/verifier/internal/assertion"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// Defaults of [Config].
const (
	defaultConnectTimeout  = 5 * time.Second
	defaultResponseTimeout = 10 * time.Minute
	defaultIdleTimeout     = 5 * time.Minute
	defaultHealthEvery     = 10 * time.Second
	defaultAssertionHeader = "X-Hourpass-Assertion"
	defaultMaxOutput       = 4096
)

// Config is one model server, or several that are alike, or what stands before
// them. Name, Models and one of URL and URLs are required.
type Config struct {
	// Name stands in logs and records.
	Name string

	// API is the kind of server, as [route.Family] calls it: which routes it has
	// and how it names models. Empty means openai.
	API string

	// Open are the names of the routes that rule such servers, "POST /api/pull" and
	// the like, which calls may take with a scope for the action admin. All others
	// stay closed.
	Open []string

	// URL is what the paths of routes, /v1/…, are appended to: http or https,
	// without them.
	URL string

	// URLs are those of replicas, instead of URL: at most 256 servers any of which
	// can answer any call. Each request goes to the one with the fewest at work.
	// One that can't be reached, or fails three times in a row, is left alone for
	// a while, from a second up to a minute, unless all are.
	URLs []string

	// Health is a path under each of URLs, asked every HealthEvery, that answers
	// 2xx if the server is fit to be used. One that twice did not is left alone
	// until it does. Empty: none is asked. HealthEvery zero means 10 seconds.
	Health      string
	HealthEvery time.Duration

	// Models are served here: exact names, patterns of the scope grammar, or "*"
	// for all. Of several upstreams that fit, the one with the exact name has the
	// call, otherwise the one with the longest pattern. Each may stand in one
	// upstream only.
	Models []string

	// MaxOutput is how many tokens an answer is let have where a token limits what
	// may be spent and the request does not say how many: that much is reserved for
	// it. Zero means 4096.
	MaxOutput int64

	// Header and Credential are how the verifier shows itself to the upstream.
	// Header defaults to what such servers want, Template to the same: for most,
	// Authorization and "Bearer {credential}". A credential with a space in it is
	// the header's whole value. Empty: it shows nothing.
	Header     string
	Template   string
	Credential string

	// CredentialFile holds the credential instead, and is read again while in use,
	// once a second. If it then holds none that can be sent, the last one stays.
	CredentialFile string

	// Headers are sent beside those that the verifier sets itself: from name to
	// value, with {sub}, {client_id}, {team}, {tier}, {grant}, {jti} and {decision}
	// in it for what the token says and the call's id in the audit. In their
	// place stands nothing but letters, digits and -._~:/@; every other byte is
	// %XX. A header with a placeholder for which there is nothing is not sent.
	Headers map[string]string

	// Assertions sign who calls, for the upstream to check: a JWT for
	// AssertionAudience, by default Name, in AssertionHeader, by default
	// X-Hourpass-Assertion. Nil: there is none.
	Assertions        *assertion.Keys
	AssertionHeader   string
	AssertionAudience string

	// CA is a PEM file with the only authorities that may vouch for the server.
	// Empty: the system's. Cert and Key are PEM files that the verifier shows
	// itself with. ServerName is the name that the server's certificate must have.
	// Empty: that of the URL. TLS is 1.2 or later.
	CA, Cert, Key, ServerName string

	// NoHTTP2 keeps to HTTP/1.1 where TLS would let both agree on HTTP/2. H2C
	// speaks HTTP/2, and nothing else, without TLS.
	NoHTTP2, H2C bool

	// ConnectTimeout bounds the wait for a connection, and that for TLS on it.
	// Zero means 5 seconds.
	ConnectTimeout time.Duration

	// ResponseTimeout bounds the wait for the head of an answer. Servers that
	// don't stream send it after the last word, so it must be long. Zero means
	// 10 minutes.
	ResponseTimeout time.Duration

	// IdleTimeout bounds the wait for the next bytes of an answer, and the wait
	// for the client to take them. There is no bound on the whole. Zero means 5
	// minutes.
	IdleTimeout time.Duration

	// Transport sends requests. Nil means one of our own that does as the settings
	// above say, without a proxy from the environment, as the credential would
	// pass through it.
	Transport http.RoundTripper

	// Log gets replicas that go and come back, and credentials that can't be read;
	// never a credential. Nil: none.
	Log *slog.Logger

	// Now is the wall clock. Nil means [time.Now].
	Now func() time.Time
}

// Server is an upstream that calls can be sent to.
type Server struct {
	Config
	Family *route.Family

	replicas []*replica
	pool     pool
	secret   *secret
	headers  []header
	epoch    time.Time // Times in replicas count from here.
}

// Serves tells whether the server has the route, and calls may take it.
func (s *Server) Serves(r *route.Route) bool {
	return s.Family.Serves(r) && (!r.Admin() || slices.Contains(s.Open, r.Name()))
}

// Lists tells whether the server can be asked which models it has, in OpenAI's
// dialect.
func (s *Server) Lists() bool { return s.Family.Lists() }

// RoundTrip sends a request whose URL has only path and query.
func (s *Server) RoundTrip(r *http.Request) (*http.Response, error) {
	s.authorize(r.Header)
	if len(s.replicas) > 1 {
		return s.balance(r)
	}
	address(r, r.URL, s.replicas[0].base)
	return s.Transport.RoundTrip(r)
}

func (s *Server) authorize(h http.Header) {
	if s.secret != nil {
		h[s.Header] = []string{s.secret.value(s.Now())}
	}
}

// address gives a request the address of base, and target below it.
func address(r *http.Request, target, base *url.URL) {
	to := *target
	to.Scheme, to.Host, to.Path = base.Scheme, base.Host, base.Path+target.Path
	if target.RawPath != "" {
		to.RawPath = base.EscapedPath() + target.RawPath
	}
	r.URL, r.Host = &to, base.Host
}

func newServer(c Config) (*Server, error) {
	var errs []error
	c.Check(func(setting, problem string) { errs = append(errs, fmt.Errorf("%s: %s", setting, problem)) })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	c.setDefaults()
	s := &Server{Config: c, Family: route.FamilyOf(c.API), epoch: c.Now()}
	for _, u := range append(slices.Clone(c.URLs), c.URL) {
		if u != "" {
			base, _ := parseBase(u)
			s.replicas = append(s.replicas, &replica{base: base})
		}
	}
	for _, name := range sortedNames(c.Headers) {
		parts, _ := parseTemplate(c.Headers[name])
		s.headers = append(s.headers, header{http.CanonicalHeaderKey(name), parts})
	}
	var err error
	if s.secret, err = newSecret(&c); err != nil {
		return nil, fmt.Errorf("credential_file: %w", err)
	}
	if c.Transport == nil {
		if s.Transport, err = newTransport(&c); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (c *Config) setDefaults() {
	if c.API == "" {
		c.API = route.Families[0].Name
	}
	c.Header, c.Template = c.shown()
	if c.AssertionHeader == "" {
		c.AssertionHeader = defaultAssertionHeader
	}
	c.AssertionHeader = http.CanonicalHeaderKey(c.AssertionHeader)
	if c.AssertionAudience == "" {
		c.AssertionAudience = c.Name
	}
	for field, value := range map[*time.Duration]time.Duration{
		&c.ConnectTimeout: defaultConnectTimeout, &c.ResponseTimeout: defaultResponseTimeout,
		&c.IdleTimeout: defaultIdleTimeout, &c.HealthEvery: defaultHealthEvery,
	} {
		if *field == 0 {
			*field = value
		}
	}
	if c.MaxOutput == 0 {
		c.MaxOutput = defaultMaxOutput
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Log = c.Log.With("upstream", c.Name)
	if c.Now == nil {
		c.Now = time.Now
	}
}

// shown returns the header of the credential and its template: what is set, then
// what the family wants, then what most do.
func (c *Config) shown() (name, template string) {
	wanted, word := "Authorization", "Bearer"
	if f := route.FamilyOf(c.API); f != nil && f.Credential != "" {
		wanted, word, _ = strings.Cut(f.Credential, " ")
	}
	wanted = http.CanonicalHeaderKey(wanted)
	name, template = http.CanonicalHeaderKey(c.Header), c.Template
	if name == "" {
		name = wanted
	}
	switch {
	case template != "":
	case name == wanted && word != "":
		template = word + " " + credentialPlace
	case name == "Authorization":
		template = "Bearer " + credentialPlace
	default:
		template = credentialPlace
	}
	return name, template
}
