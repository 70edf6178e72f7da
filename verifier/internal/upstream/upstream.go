// Package upstream is the model servers behind the verifier: which of them serves
// a model, and how a request gets there. It refuses to know what was judged, and
// by whom. Start with [Config]; [Set] finds, [Server] sends.
package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/reqtarget"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// Defaults of [Config].
const (
	defaultResponseTimeout = 10 * time.Minute
	defaultIdleTimeout     = 5 * time.Minute
)

// Config is one model server, or what stands before several. Name, URL and
// Models are required.
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

	// Models are served here: exact names, patterns of the scope grammar, or "*"
	// for all. Of several upstreams that fit, the one with the exact name has the
	// call, otherwise the one with the longest pattern. Each may stand in one
	// upstream only.
	Models []string

	// Header and Credential are how the verifier shows itself to the upstream:
	// the header's name, Authorization unless said, and its whole value, such as
	// "Bearer sk-…". Empty: it shows nothing.
	Header     string
	Credential string

	// ResponseTimeout bounds the wait for the head of an answer. Servers that
	// don't stream send it after the last word, so it must be long. Zero means
	// 10 minutes.
	ResponseTimeout time.Duration

	// IdleTimeout bounds the wait for the next bytes of an answer, and the wait
	// for the client to take them. There is no bound on the whole. Zero means 5
	// minutes.
	IdleTimeout time.Duration

	// Transport sends requests. Nil means one of our own, without a proxy from
	// the environment, as the credential would pass through it.
	Transport http.RoundTripper
}

// Server is an upstream that calls can be sent to.
type Server struct {
	Config
	Family *route.Family

	base *url.URL
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
	r.URL.Scheme, r.URL.Host, r.URL.Path, r.Host = s.base.Scheme, s.base.Host, s.base.Path+r.URL.Path, s.base.Host
	if s.Credential != "" {
		r.Header[s.Header] = []string{s.Credential}
	}
	return s.Transport.RoundTrip(r)
}

func newServer(u Config) (*Server, error) {
	var errs []error
	want := func(ok bool, problem string) {
		if !ok {
			errs = append(errs, errors.New(problem))
		}
	}
	base, err := url.Parse(strings.TrimSuffix(u.URL, "/"))
	want(err == nil && (base.Scheme == "http" || base.Scheme == "https") && base.Hostname() != "" && base.User == nil &&
		base.RawQuery == "" && base.Fragment == "", "its URL is not an http or https URL without user, query and fragment")
	if err == nil {
		_, _, err := reqtarget.Split("/" + strings.TrimPrefix(base.EscapedPath(), "/"))
		want(err == nil, "its URL's path is not canonical")
		want(!strings.HasSuffix(base.Path, "/v1"), "its URL ends in /v1, which is appended to it")
	}
	if u.API == "" {
		u.API = "openai"
	}
	family := route.FamilyOf(u.API)
	want(family != nil, "its API is none that the verifier speaks")
	for _, name := range u.Open {
		want(family != nil && family.HasAdmin(name), fmt.Sprintf("%q, to be opened, is no route that rules such a server", name))
	}
	if u.Header == "" {
		u.Header = "Authorization"
	}
	u.Header = http.CanonicalHeaderKey(u.Header)
	want(u.Name != "", "it has no name")
	want(len(u.Models) > 0, "it has no models")
	want(isHeaderName(u.Header) && !slices.Contains(ours, u.Header), "its credential's header cannot be used for that")
	want(strings.IndexFunc(u.Credential, func(r rune) bool { return r < ' ' || r > '~' }) < 0, "its credential is not printable ASCII")
	want(u.ResponseTimeout >= 0 && u.IdleTimeout >= 0, "a timeout is negative")
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if u.ResponseTimeout == 0 {
		u.ResponseTimeout = defaultResponseTimeout
	}
	if u.IdleTimeout == 0 {
		u.IdleTimeout = defaultIdleTimeout
	}
	if u.Transport == nil {
		u.Transport = newTransport()
	}
	return &Server{Config: u, Family: family, base: base}, nil
}

// ours are headers that we or net/http set ourselves, give a meaning to, or take
// away: a credential in one of the last would silently not be sent.
var ours = []string{
	"Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Connection", "Te", "Trailer", "Upgrade",
	"Accept", "Accept-Encoding", "Expect", "User-Agent", "X-Request-Id",
	"Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
}

func isHeaderName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-'
	}) < 0
}
