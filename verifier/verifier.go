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
	"net/netip"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/body"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

// Config is what a verifier is made from. Issuers are required; the zero value of
// every other field is its default.
type Config struct {
	// Issuers are those whose tokens are accepted.
	Issuers []Issuer

	// Skew is how far the issuer's clock may run ahead of ours. Zero means 30 s.
	// Expiry gets none.
	Skew time.Duration

	// TrustedProxies are the networks of the proxies in front of the verifier,
	// whose X-Forwarded-For says who calls. Nil: the peer is the client.
	TrustedProxies []netip.Prefix

	// Upstreams are the model servers behind Handler. Middleware needs none.
	Upstreams []Upstream

	// Streams says what becomes of answers that outlive their token.
	Streams Streams

	// MaxBody bounds a request's body, in bytes, before anything reads it. Zero
	// means 10 MiB.
	MaxBody int64

	// MaxForm is what MaxBody is for forms with files, on the routes that take
	// some. What is larger than 1 MiB waits on the disk, in the folder for temporary
	// files. Zero means 512 MiB.
	MaxForm int64

	// MaxDisk bounds what all forms together take on the disk, in bytes. Zero means
	// 4 GiB.
	MaxDisk int64

	// BodyTimeout is how long a body may take to arrive, and a second more for each
	// MiB of a form with files. It frees what a slow sender would hold. Zero means
	// 1 minute.
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

	// Usage takes what calls cost. Nil: it stands in the audit alone.
	Usage UsageSink

	// Metrics counts calls. Nil: nobody counts.
	Metrics *Metrics

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
	defaultMaxForm     = 512 << 20
	defaultMaxDisk     = 4 << 30
	defaultBodyTimeout = time.Minute
	defaultCacheSize   = 8192
	maxCacheTTL        = time.Minute
	defaultMaxAge      = time.Hour
)

// Verifier decides about calls. It is safe for concurrent use.
type Verifier struct {
	c         Config // With the defaults in place.
	seen      *lru.Cache[seen, verified]
	upstreams *upstream.Set
	records   *records
	lives     lives
	sockets   sockets
	disk      body.Disk
}

// New checks c, all of it at once. It starts nothing and fetches nothing.
func New(c Config) (*Verifier, error) {
	upstreams, err := upstream.NewSet(c.Upstreams)
	if err := errors.Join(c.check(), err); err != nil {
		return nil, fmt.Errorf("configuring the verifier: %w", err)
	}
	c.Issuers = slices.Clone(c.Issuers)
	orDefault(&c.Skew, defaultSkew)
	orDefault(&c.MaxBody, defaultMaxBody)
	orDefault(&c.MaxForm, defaultMaxForm)
	orDefault(&c.MaxDisk, defaultMaxDisk)
	orDefault(&c.BodyTimeout, defaultBodyTimeout)
	orDefault(&c.CacheSize, defaultCacheSize)
	orDefault(&c.CacheTTL, maxCacheTTL)
	orDefault(&c.Streams.MaxAge, defaultMaxAge)
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
		records: &records{to: c.Audit, log: c.Log}, lives: lives{calls: map[*call]context.CancelCauseFunc{}},
		sockets: sockets{open: map[*context.CancelCauseFunc]struct{}{}},
	}
	for _, i := range c.Issuers {
		if i.Revocations != nil {
			i.Revocations.notify(v.endAllRevoked)
		}
	}
	v.disk.Max = c.MaxDisk
	return v, nil
}

func orDefault[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

func (c *Config) check() error {
	errs := []error{checkIssuers(c.Issuers)}
	want := func(ok bool, problem string) {
		if !ok {
			errs = append(errs, errors.New(problem))
		}
	}
	want(c.Skew >= 0, "the skew is negative")
	want(c.MaxBody >= 0 && c.MaxForm >= 0 && c.MaxDisk >= 0, "a bound of bodies is negative")
	want(c.BodyTimeout >= 0, "the time for bodies is negative")
	want(c.Streams.MaxAge >= 0 && c.Streams.KeepAlive >= 0, "a time span of streams is negative")
	want(c.CacheSize >= 0, "the size of the cache is negative")
	want(c.CacheTTL >= 0 && c.CacheTTL <= maxCacheTTL, "the cache's time to live is not between 0 and 1m")
	return errors.Join(errs...)
}

// Handler is the proxy: calls that pass go to an upstream. It must see requests
// as they came, not behind a router that cleans paths.
func (v *Verifier) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.serve(w, r, v.decide, v.forward)
	})
}

// Middleware lets the calls that pass through to next, in this process, with the
// body written anew and without the credential. [FromContext] tells next who
// calls. What next lists at GET /v1/models is cut down to what the token covers.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.serve(w, r, v.decide, func(w *answer, r *http.Request, c *call) error {
			r = c.inProcess(r)
			switch {
			case c.route.Socket:
				return refusal.ErrUpgrade // Its frames would pass unjudged.
			case c.route.Admin() && (c.upstream == nil || !c.upstream.Serves(c.route.Route)):
				return refusal.ErrNotServed // Closed until the configuration opens it.
			case c.route.List != nil:
				return v.listModels(w, c, []source{handlerSource(next, r)})
			}
			w.Header().Set(requestID, c.record.Decision)
			c.tellLimits(w.Header())
			w.call, c.life, c.spending.sent = c, c.client, true
			next.ServeHTTP(w, r)
			c.spending.whole = w.failed == nil
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
