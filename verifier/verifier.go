// Package verifier stands in front of model servers: it lets through the calls
// that a token permits, and writes each decision down.
//
// A call passes through these files, in order, and nothing of it reaches an
// upstream before all have agreed: call.go (the request target, and the order of
// the steps), authn.go (the one credential, the token, the client's address),
// registry.go (what the route is; openai.go is the table of a family), body.go
// (what the body says, and the bytes that say the same to every parser),
// proxy.go (the upstream, its credential, headers by allow-list), stream.go (the
// answer, chunk by chunk). refusal.go says how each refusal looks.
//
// It fetches no keys and knows no identity provider: it sees the issuer's keys
// through [KeySet].
package verifier

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/token"
)

// KeySet is the issuer's public keys, as known on this side. Neither method
// waits for the network.
type KeySet interface {
	// Verify returns the payload of a compact token that one of the keys signed.
	// Errors match the reasons of package token.
	Verify(compact string, now time.Time) ([]byte, error)
	// Generation changes whenever the keys do. It fails with
	// [token.ErrKeysStale] when they are too old to judge by.
	Generation(now time.Time) (uint64, error)
}

// Defaults of [Config].
const (
	DefaultSkew            = 30 * time.Second
	DefaultMaxBody         = 10 << 20
	DefaultCacheSize       = 8192
	DefaultCacheTTL        = time.Minute
	DefaultResponseTimeout = 10 * time.Minute
	DefaultIdleTimeout     = 5 * time.Minute
)

// Config is what a [Verifier] needs. Fields without a stated default are
// required.
type Config struct {
	// Issuer is the "iss" of the tokens that are accepted, byte for byte.
	Issuer string

	// Audience is this verifier's name, or its fleet's. A token has one audience,
	// so one that leaks here is of no use elsewhere.
	Audience string

	// Skew is how far the issuer's clock may run ahead. Zero is DefaultSkew.
	Skew time.Duration

	Keys KeySet

	// Upstreams are asked in this order for one that has the model.
	Upstreams []Upstream

	// MaxBody bounds a call's body, in bytes: it is held in memory until all has
	// been checked. Zero is DefaultMaxBody.
	MaxBody int64

	// CacheSize is how many verified tokens are remembered, about 1 KiB each, and
	// CacheTTL for how long at most. Zero is the default.
	CacheSize int
	CacheTTL  time.Duration

	Audit *audit.Log
	Log   *slog.Logger
	Now   func() time.Time
}

// Upstream is a model server.
type Upstream struct {
	Name string // For audit and log.
	URL  string // http or https; a path is put before that of calls.

	// Models it has: exact names, patterns of the scope grammar, or "*" for any.
	Models []string

	// Header and Credential are what it wants to see: the header's name, by
	// default Authorization, and its whole value. An empty Credential sends none.
	Header, Credential string

	// ResponseTimeout is how long it may take to begin an answer, and IdleTimeout
	// how long it may pause within one. Zero is the default; there is no limit on
	// the whole.
	ResponseTimeout, IdleTimeout time.Duration
}

// Verifier judges and forwards calls. It is safe for concurrent use.
type Verifier struct {
	Config
	expect    token.Expect
	cache     *cache
	upstreams []*upstream

	// auditFailed is set while decisions can't be written down. Calls are refused
	// then: what nobody will see must not happen.
	auditFailed atomic.Bool
}

// New returns a verifier, or all that is wrong with c at once. It starts
// nothing.
func New(c Config) (*Verifier, error) {
	if c.Skew == 0 {
		c.Skew = DefaultSkew
	}
	if c.MaxBody == 0 {
		c.MaxBody = DefaultMaxBody
	}
	if c.CacheSize == 0 {
		c.CacheSize = DefaultCacheSize
	}
	if c.CacheTTL == 0 {
		c.CacheTTL = DefaultCacheTTL
	}
	var bad []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Errorf(format, args...))
		}
	}
	check(c.Issuer != "", "issuer: required")
	check(c.Audience != "", "audience: required")
	check(c.Skew > 0 && c.Skew <= 5*time.Minute, "skew: want up to 5m")
	check(c.MaxBody > 0 && c.CacheSize > 0 && c.CacheTTL > 0, "bounds: must not be negative")
	check(c.Keys != nil && c.Audit != nil && c.Log != nil && c.Now != nil, "a part is missing")
	check(len(c.Upstreams) > 0, "upstreams: want at least one")
	v := &Verifier{Config: c, expect: token.Expect{Issuer: c.Issuer, Audience: c.Audience, Skew: c.Skew}}
	for _, u := range c.Upstreams {
		up, err := newUpstream(u)
		if err != nil {
			bad = append(bad, fmt.Errorf("upstream %q: %w", u.Name, err))
			continue
		}
		v.upstreams = append(v.upstreams, up)
	}
	if err := errors.Join(bad...); err != nil {
		return nil, err
	}
	v.cache = newCache(c.CacheSize)
	return v, nil
}

// Handler serves calls.
func (v *Verifier) Handler() http.Handler { return http.HandlerFunc(v.serve) }

// errAudit is why a call is refused while decisions can't be written down.
var errAudit = errors.New("decisions can not be recorded at the moment")

// Ready says why calls are refused at the moment for a fault of our own, or nil.
func (v *Verifier) Ready() error {
	if v.auditFailed.Load() {
		return errAudit
	}
	return nil
}

// upstreamFor returns the first upstream that has the model.
func (v *Verifier) upstreamFor(model string) (*upstream, error) {
	i := slices.IndexFunc(v.upstreams, func(u *upstream) bool { return u.has(model) })
	if i < 0 {
		return nil, errNoModel
	}
	return v.upstreams[i], nil
}

func parseUpstreamURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, errors.New("url: want http:// or https://, without a query or credentials")
	}
	return u, nil
}
