// Package verifier stands in front of model servers and lets through the calls
// that carry a good token with the right scope. It is a reverse proxy
// ([Verifier.Handler]) and a library for Go servers ([Verifier.Middleware]);
// both decide alike.
//
// It owns the decision about a call: which request-targets it takes, where the
// credential stands, what routes there are, what a body may say, what reaches
// the upstream and what comes back. It refuses to know where public keys come
// from ([KeySet]), how a token is got, and the machine keys behind it. Nothing
// of a request reaches an upstream unless it was read, judged and written anew:
// the body member by member, the headers by allow-list.
//
// Start with [Config], then decide in call.go, which walks the steps in order;
// each step has the file of its name.
package verifier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/body"
	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

// KeySet is what the verifier needs of the issuer's public keys.
type KeySet interface {
	// Verify returns the payload of a compact token whose header and signature
	// are good, and the kid of the key that signed it. Errors match the sentinels of internal/token;
	// [token.ErrKeysStale] says that the keys are to blame, not the token.
	Verify(compact string, now time.Time) (payload []byte, kid string, err error)

	// Generation changes whenever the accepted keys do. The error matches
	// [token.ErrKeysStale].
	Generation(now time.Time) (uint64, error)
}

// Config is what a verifier is made from. Issuer, Audience and Keys are
// required; the zero value of every other field is its default.
type Config struct {
	// Issuer and Audience are what tokens must say in iss and aud, byte for
	// byte. A token for another verifier is no token here.
	Issuer   string
	Audience string

	// Skew is how far the issuer's clock may run ahead of ours. Zero means 30 s.
	// Expiry gets none.
	Skew time.Duration

	// Keys verifies signatures. It is asked for its generation at every call and
	// for a verdict about each token that is not in the cache.
	Keys KeySet

	// TrustedProxies are the networks of the proxies in front of the verifier,
	// whose X-Forwarded-For says who calls. Nil: the peer is the client.
	TrustedProxies []netip.Prefix

	// Revocations tell which tokens are refused before they expire. They are
	// asked at every call. Nil: each token lives out its hour, whatever happens to
	// the key behind it.
	Revocations *Revocations

	// Upstreams are the model servers behind Handler. Middleware needs none.
	Upstreams []Upstream

	// MaxBody bounds a request's body, in bytes, before anything reads it. Zero
	// means 10 MiB.
	MaxBody int64

	// BodyTimeout is how long a body may take to arrive. It frees what a slow
	// sender would hold. Zero means 1 minute.
	BodyTimeout time.Duration

	// CacheSize is how many verified tokens are remembered, about 1 KiB each.
	// Zero means 8192. Only good tokens are stored: junk evicts nothing.
	CacheSize int

	// CacheTTL is how long a verdict about a signature is believed, at most
	// 1 minute, which zero means. Expiry and client address are checked at
	// every call all the same, and a change of keys ends it at once.
	CacheTTL time.Duration

	// Audit gets one record per request. While it cannot keep them, calls are
	// refused with 503. Nil: records go to Log instead.
	Audit *audit.Log

	// Log gets what an operator must look into; never a token, credential or
	// body. Nil: none.
	Log *slog.Logger

	// Now is the wall clock. Nil means [time.Now].
	Now func() time.Time
}

// Upstream is one model server, or what stands before several.
type Upstream = upstream.Config

// Defaults of [Config].
const (
	defaultSkew        = 30 * time.Second
	defaultMaxBody     = 10 << 20
	defaultBodyTimeout = time.Minute
	defaultCacheSize   = 8192
	maxCacheTTL        = time.Minute
)

// Verifier decides about calls. It is safe for concurrent use.
type Verifier struct {
	c         Config // With the defaults in place.
	expect    token.Expect
	seen      *lru.Cache[seen, verified]
	upstreams *upstream.Set
	proxy     *httputil.ReverseProxy
	records   *records
	disk      body.Disk
}

// New checks c, all of it at once. It starts nothing and fetches nothing.
func New(c Config) (*Verifier, error) {
	upstreams, err := upstream.NewSet(c.Upstreams)
	if err := errors.Join(c.check(), err); err != nil {
		return nil, fmt.Errorf("configuring the verifier: %w", err)
	}
	orDefault(&c.Skew, defaultSkew)
	orDefault(&c.MaxBody, defaultMaxBody)
	orDefault(&c.BodyTimeout, defaultBodyTimeout)
	orDefault(&c.CacheSize, defaultCacheSize)
	orDefault(&c.CacheTTL, maxCacheTTL)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	cache, err := lru.New[seen, verified](c.CacheSize)
	if err != nil {
		return nil, fmt.Errorf("configuring the verifier: %w", err)
	}
	v := &Verifier{
		c: c, seen: cache, upstreams: upstreams,
		expect:  token.Expect{Issuer: c.Issuer, Audience: c.Audience, Skew: c.Skew},
		records: &records{to: c.Audit, log: c.Log},
	}
	v.disk.Max = maxDisk
	v.proxy = v.newProxy()
	return v, nil
}

func orDefault[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

func (c *Config) check() error {
	var errs []error
	want := func(ok bool, problem string) {
		if !ok {
			errs = append(errs, errors.New(problem))
		}
	}
	want(c.Issuer != "", "the issuer is missing")
	want(c.Audience != "", "the audience is missing")
	want(c.Keys != nil, "the key set is missing")
	want(c.Skew >= 0, "the skew is negative")
	want(c.MaxBody >= 0, "the bound of bodies is negative")
	want(c.BodyTimeout >= 0, "the time for bodies is negative")
	want(c.CacheSize >= 0, "the size of the cache is negative")
	want(c.CacheTTL >= 0 && c.CacheTTL <= maxCacheTTL, "the cache's time to live is not between 0 and 1m")
	return errors.Join(errs...)
}

// Handler is the proxy: calls that pass go to an upstream. It must see requests
// as they came, not behind a router that cleans paths.
func (v *Verifier) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.serve(w, r, v.forward)
	})
}

// Middleware lets the calls that pass through to next, in this process, with the
// body written anew and without the credential. [FromContext] tells next who
// calls. What next lists at GET /v1/models is cut down to what the token covers.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.serve(w, r, func(w *answer, r *http.Request, c *call) error {
			r = c.inProcess(r)
			if c.route.List {
				return v.listModels(w, c, []source{handlerSource(next, r)})
			}
			w.Header().Set(requestID, c.record.Decision)
			next.ServeHTTP(w, r)
			if w.status == 0 {
				w.WriteHeader(http.StatusOK) // As net/http would.
			}
			return nil
		})
	})
}

// Ready tells whether calls can be decided and written down; the error is fit
// for a readiness page. After an audit failure it tries to keep what was not
// kept, so that the verifier gets well without a call.
func (v *Verifier) Ready() error { return v.records.ready() }

type contextKey struct{}

// FromContext returns the claims of the token behind a request that
// [Verifier.Middleware] let through. They are shared: do not change them.
func FromContext(ctx context.Context) (token.Claims, bool) {
	c, ok := ctx.Value(contextKey{}).(*call)
	if !ok {
		return token.Claims{}, false
	}
	return *c.claims, true
}
