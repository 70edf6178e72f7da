// Package issuer is the authorization server: it logs people in through the
// company's identity provider and swaps a machine key plus an identity for a
// token of at most an hour.
//
// A request to POST /token passes through these files, in order: routes.go finds
// the handler, token.go parses the form once and authenticates the machine key,
// exchange.go or session.go establishes the identity of that grant, policy.Decide
// decides, and mint.go writes the audit record and only then lets the token out.
// login.go is the way of a browser, device.go that of a device without one,
// internal/idp all talk with identity providers, and api.go with its siblings what
// a person may do.
//
// It holds no private key and no key's secret: it sees them through [Signer] and
// [Keys].
package issuer

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourpass/hourpass/internal/alert"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/issuer/internal/idp"
)

// Signer turns a payload into a compact JWS whose header says typ.
type Signer interface {
	Sign(payload []byte, typ string) (string, error)
}

// Keys is where machine keys are kept. What is passed as also is done in the
// transaction of the change. Errors are those of [policy].
type Keys interface {
	// Authenticate returns the key that has the presented text as a live secret,
	// whatever its state, and the secret's number. The key may be as of a moment
	// ago; Stale tells, and Forget makes the next look a fresh one.
	Authenticate(ctx context.Context, presented string, now time.Time) (policy.Key, int64, error)
	Stale(ctx context.Context, tx *sql.Tx, keys []policy.Key) ([]string, error)
	Forget(id string)
	Used(id string, secret int64, network string, now time.Time)
	Flush(ctx context.Context) error

	Get(ctx context.Context, id string) (policy.Key, error)
	List(ctx context.Context, f policy.KeyFilter, now time.Time) (policy.KeyPage, error)
	Create(ctx context.Context, k policy.Key, life time.Duration, now time.Time, also func(*sql.Tx) error) (policy.Key, string, error)
	Update(ctx context.Context, id string, version int64, change func(*policy.Key) error, also func(*sql.Tx) error) (policy.Key, error)
	Rotate(ctx context.Context, id string, version int64, overlap time.Duration, now time.Time, also func(*sql.Tx) error) (policy.Key, string, error)
	EndSecret(ctx context.Context, id string, version, number int64, now time.Time, also func(*sql.Tx) error) (policy.Key, error)
	Enrol(ctx context.Context, id string, version int64, jwks string, now time.Time, also func(*sql.Tx) error) (policy.Key, error)
}

// Ring is where the signing keys live.
type Ring interface {
	Keys() []SigningKey
	// Rotate prepares a key that takes over in time.
	Rotate(ctx context.Context) error
	// Taint drops a key that is in the wrong hands. Errors match [ErrNoSigningKey].
	Taint(ctx context.Context, kid string) error
}

// A SigningKey is what may be told of one.
type SigningKey struct {
	KID        string    `json:"kid"`
	Alg        string    `json:"alg"`
	State      string    `json:"state"`
	Created    time.Time `json:"created_at"`
	Published  time.Time `json:"published_at"`
	ActiveFrom time.Time `json:"active_from"`
	Retires    time.Time `json:"retires_at,omitzero"`
	GoneAt     time.Time `json:"gone_at,omitzero"`
}

// Sealer keeps small secrets at rest: sealed ones can be opened again, those
// under a MAC only recognised. Each purpose has keys of its own.
type Sealer interface {
	Seal(purpose string, plain []byte) ([]byte, error)
	Open(purpose string, sealed []byte) ([]byte, error)
	MAC(purpose string, message []byte) []byte
}

// Config is everything that a [Server] needs. All fields are required unless
// their comment says otherwise.
type Config struct {
	// URL is the issuer's own public address, scheme and host without a path,
	// and the "iss" of every token. Verifiers compare it byte for byte.
	URL string

	// Audiences are the names of the verifiers that tokens can be for. The first
	// is meant where a request names none.
	Audiences []string

	// Resources are the addresses that a request may name in the place of an
	// audience (RFC 8707). Each is the audience's that it maps to.
	Resources map[string]string

	// Lifetime is how long tokens live where nothing shortens it. Zero is
	// token.MaxLifetime, and more is refused.
	Lifetime time.Duration

	// Session is how long a browser login can be refreshed. Zero is 12 hours.
	Session time.Duration

	// RotationGrace is how long after its rotation is due a machine key still
	// gets tokens. Negative is for ever: what is overdue is only reported.
	RotationGrace time.Duration

	// OwnerAbsence is how long ago at most a provider has vouched for a key's
	// owner; beyond it the key gets no tokens. Zero asks for nothing.
	OwnerAbsence time.Duration

	// Rates bound how fast the issuer is asked.
	Rates Rates

	// Watch says what becomes of keys that spend far more than they used to.
	Watch Watch

	// TrustedProxies are the networks whose word on a client's address is taken.
	TrustedProxies []netip.Prefix

	// Admins may do everything to keys, Auditors see everything. None: nobody.
	Admins, Auditors []policy.Members

	// Grants by name. A key's grant that is not here gives nothing.
	Grants map[string]policy.Grant

	// Providers are the identity providers to believe: a static list, whatever a
	// token says of itself.
	Providers []*Provider

	Keys   Keys
	Signer Signer
	KeySet http.Handler // Serves the public keys.

	// Ring is where the signing keys live.
	Ring Ring

	// OwnTokens verifies a token that this issuer signed, and returns its payload
	// and the kid of the key.
	OwnTokens func(compact string, now time.Time) (payload []byte, kid string, err error)
	// VerifyClient verifies what a client signed with one of the public keys that
	// it was enrolled with, and returns its payload.
	VerifyClient func(jwks, compact string, now time.Time) (payload []byte, err error)
	// CheckClientKeys says why a set of public keys can't be enrolled, or nil.
	CheckClientKeys func(jwks string) error

	Ledger Ledger  // What is spent of budgets.
	DB     *sql.DB // Holds logins, sessions and used assertions.
	Sealer Sealer
	Audit  *audit.Log
	Alert  *alert.Outbox // Takes what people must hear of to them.
	Log    *slog.Logger
	Now    func() time.Time
}

// Server is the issuer. Serve [Server.Handler], and run [Server.Run] beside it.
type Server struct {
	Config
	handler   http.Handler
	sessions  sessionLocks
	throttles throttles
	uses      *committer
	watch     *spendWatch
	feed      *feed
	stopping  chan struct{} // Closed when Run ends.
}

// New returns a server, or all that is wrong with c at once. It starts nothing.
func New(c Config) (*Server, error) {
	if c.Lifetime == 0 {
		c.Lifetime = token.MaxLifetime
	}
	if c.Session == 0 {
		c.Session = 12 * time.Hour
	}
	var bad []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Errorf(format, args...))
		}
	}
	u, err := url.Parse(c.URL)
	check(err == nil && u.Host != "" && u.Path == "" && u.RawQuery == "" && u.Fragment == "" && u.User == nil &&
		(u.Scheme == "https" || idp.IsLoopbackHTTP(u)), "url: want https://host[:port], without a path; http for loopback only")
	check(c.Lifetime > 0 && c.Lifetime <= token.MaxLifetime, "lifetime: want more than 0 and at most %s", token.MaxLifetime)
	check(c.Session > 0 && c.Session <= 30*24*time.Hour, "session: want more than 0 and at most 30 days")
	check(len(c.Audiences) > 0 && !slices.Contains(c.Audiences, ""), "audiences: want at least one, none empty")
	for resource, audience := range c.Resources {
		u, err := url.Parse(resource)
		check(err == nil && u.IsAbs() && u.Fragment == "", "resource %s: want an absolute URI without a fragment", resource)
		check(slices.Contains(c.Audiences, audience), "resource %s: %s is no audience", resource, audience)
	}
	c.Rates.defaults()
	check(c.Rates.PerAddress > 0 && c.Rates.PerKey > 0 && c.Rates.Failures > 0, "rates: want more than 0")
	if c.Watch.Mode == "" {
		c.Watch.Mode = WatchEnforce
	}
	check(slices.Contains([]string{WatchEnforce, WatchWarn, WatchOff}, c.Watch.Mode), "watch: want the mode enforce, warn or off")
	check(len(c.Grants) > 0, "grants: none, so nobody could get a token")
	check(len(c.Providers) > 0, "providers: none, so nobody could be known")
	for name, g := range c.Grants {
		check(g.MaxLifetime > 0 && g.MaxLifetime <= token.MaxLifetime, "grant %s: its lifetime must be more than 0 and at most %s", name, token.MaxLifetime)
		check(g.Default.Within(g.Scopes), "grant %s: its default scope is wider than its scopes", name)
	}
	seen := map[string]bool{}
	for _, p := range c.Providers {
		check(p.Issuer != c.URL, "provider %s: our own tokens are no identity", p.Name)
		check(!seen[p.Issuer] && !seen["name "+p.Name], "provider %s: its name or issuer stands twice", p.Name)
		seen[p.Issuer], seen["name "+p.Name] = true, true
	}
	check(c.Keys != nil && c.Signer != nil && c.KeySet != nil && c.Ring != nil && c.OwnTokens != nil && c.VerifyClient != nil && c.CheckClientKeys != nil && c.Ledger != nil && c.DB != nil && c.Sealer != nil && c.Audit != nil && c.Alert != nil && c.Log != nil && c.Now != nil, "a part is missing")
	if err := errors.Join(bad...); err != nil {
		return nil, err
	}
	s := &Server{Config: c, throttles: newThrottles(c.Rates), uses: &committer{db: c.DB, keys: c.Keys}, stopping: make(chan struct{})}
	s.feed, s.watch = newFeed(s), newSpendWatch(s)
	s.handler = s.routes()
	return s, nil
}

// Handler serves the issuer's public endpoints.
func (s *Server) Handler() http.Handler { return s.handler }

// Run keeps the providers' metadata and keys fresh, forgets what has expired, and
// tells people what they must hear of, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.stopping)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.feed.run(ctx) })
	group.Go(func() error { return s.noteUses(ctx) })
	group.Go(func() error { return s.watchKeys(ctx) })
	group.Go(func() error { return s.watch.run(ctx) })
	group.Go(func() error { return s.Alert.Run(ctx) })
	for _, p := range s.Providers {
		group.Go(func() error { return p.Run(ctx, s.Log) })
	}
	group.Go(func() error { return s.forget(ctx) })
	return group.Wait()
}

// Ready says what keeps the issuer from minting: the store, or that no identity
// provider at all is known yet. One that is away leaves the others working.
func (s *Server) Ready(ctx context.Context) error {
	if err := s.DB.PingContext(ctx); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// ProvidersReady is nil while at least one identity provider can be asked.
func (s *Server) ProvidersReady() error {
	var down []error
	for _, p := range s.Providers {
		if err := p.Ready(); err != nil {
			down = append(down, err)
		}
	}
	if len(down) < len(s.Providers) {
		return nil
	}
	return errors.Join(down...)
}

// ForgetEvery is how often expired rows are deleted.
const ForgetEvery = time.Minute

// forget deletes logins, sessions and used assertions that no longer matter.
func (s *Server) forget(ctx context.Context) error {
	tick := time.NewTicker(ForgetEvery)
	defer tick.Stop()
	for {
		now := s.Now()
		for _, f := range []struct {
			query  string
			before int64
		}{
			// A device that asks too late is told so for a while.
			{`DELETE FROM device_logins WHERE expires_at < $1`, now.Add(-deviceLife).Unix()},
			{`DELETE FROM verifiers WHERE seen_at < $1`, now.Add(-forgetVerifier).Unix()},
			{`DELETE FROM revocations WHERE until < $1`, now.Unix()},
			{`DELETE FROM logins WHERE expires_at < $1`, now.Unix()},
			{`DELETE FROM sessions WHERE ends_at < $1`, now.Unix()},
			{`DELETE FROM used_assertions WHERE forget_at < $1`, now.Unix()},
			{`DELETE FROM usage WHERE hour < $1`, now.Add(-usageKept).Unix()},
			{`DELETE FROM usage_batches WHERE seen_at < $1`, now.Add(-batchesKept).Unix()},
		} {
			if _, err := s.DB.ExecContext(ctx, f.query, f.before); err != nil && ctx.Err() == nil {
				s.Log.Error("forgetting expired rows", "err", err.Error())
			}
		}
		if l, ok := s.Ledger.(interface{ Forget(context.Context) error }); ok {
			if err := l.Forget(ctx); err != nil && ctx.Err() == nil {
				s.Log.Error("forgetting old budgets", "err", err.Error())
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// flushEvery is how old the note of a key's last use may get before it is kept.
const flushEvery = 5 * time.Second

// noteUses keeps the notes of keys' last uses, the last ones included.
func (s *Server) noteUses(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		if err := s.Keys.Flush(context.WithoutCancel(ctx)); err != nil {
			s.Log.Error("noting keys' uses", "err", err.Error())
		}
		select {
		case <-ctx.Done():
			return s.Keys.Flush(context.WithoutCancel(ctx))
		case <-tick.C:
		}
	}
}

func digest(parts ...string) []byte {
	h := sha256.New()
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(p), p) // A hash never fails to be written.
	}
	return h.Sum(nil)
}
