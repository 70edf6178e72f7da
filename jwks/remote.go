package jwks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hourpass/hourpass/internal/token"
)

// Config describes the key set of one issuer. URL and Profile are required.
type Config struct {
	// URL is where the issuer publishes its keys: https, or http on a loopback
	// address, because whoever can answer in its place can sign any token.
	URL string

	// Client fetches. Nil means one of our own with sane timeouts. Redirects
	// are refused and the whole fetch is cut after 10 s whatever it says.
	Client *http.Client

	// Profile says which tokens are accepted.
	Profile Profile

	// Refresh is the time between two fetches, give or take 10 %, so that many
	// verifiers started together do not stay together. Zero means 5 minutes: a
	// key that the issuer withdraws is refused that soon, and one document in
	// five minutes is nothing to a server. After a failure the next try comes
	// in 1 s, then 2 s, doubling up to a minute.
	Refresh time.Duration

	// Cooldown is the least time between two fetches that tokens with an
	// unknown kid bring about. Zero means 30 s: a key that is used before we
	// know it waits at most that long, and a flood of made-up kids costs the
	// issuer two fetches a minute.
	Cooldown time.Duration

	// MaxStale is how long a set is used after its last good fetch. Zero means
	// 1 hour, the longest life of a token: an outage of the issuer that is
	// shorter is not noticed, and a verifier that is cut off trusts no key
	// longer than it would trust a token.
	MaxStale time.Duration

	// Snapshot, if not empty, is a file that keeps the last good document, so
	// that a restart while the issuer is down finds keys. It counts towards
	// MaxStale from its fetch, not from the restart. Whoever can write it can
	// sign any token: if its mode lets others, it is not read.
	Snapshot string

	Log *slog.Logger     // Nil means no log.
	Now func() time.Time // The wall clock. Nil means [time.Now].
}

const (
	defaultRefresh  = 5 * time.Minute
	defaultCooldown = 30 * time.Second
	defaultMaxStale = time.Hour
	firstBackoff    = time.Second
	maxBackoff      = time.Minute
)

// check returns all that is wrong with c.
func (c *Config) check() error {
	var errs []error
	if err := checkURL(c.URL); err != nil {
		errs = append(errs, err)
	}
	if err := c.Profile.check(); err != nil {
		errs = append(errs, err)
	}
	if c.Refresh < 0 || c.Cooldown < 0 || c.MaxStale < 0 {
		errs = append(errs, errors.New("a time span is negative"))
	}
	return errors.Join(errs...)
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return errors.New("the key set's URL is missing or no URL")
	case u.User != nil:
		return errors.New("the key set's URL holds a user name or password, which would get into logs")
	case u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return errors.New("the key set's URL is neither https nor http on a loopback address")
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// Remote keeps the key set of an issuer and verifies tokens with it. [Remote.Run]
// fetches; all other methods read what it last accepted, take no lock, wait for
// nothing, and may be called by any number of goroutines, before Run too.
type Remote struct {
	c       Config // With the defaults in place.
	client  *http.Client
	held    atomic.Pointer[held] // Never nil. Only Run replaces it.
	asked   chan struct{}        // Holds one request for an early refresh.
	urged   chan struct{}        // Holds one request that does not wait for the cooldown.
	running atomic.Bool
	failed  [len(reasons)]atomic.Uint64
}

// held is the last accepted document. It never changes.
type held struct {
	set        *Set // Nil: none was accepted yet.
	doc        []byte
	etag       string
	at         time.Time // When its last good fetch was begun.
	generation uint64
	trouble    string // Why the last fetch failed, "" if it did not.
}

// NewRemote checks c and loads the snapshot. It starts nothing and fetches
// nothing: until [Remote.Run] does, all there is is the snapshot.
func NewRemote(c Config) (*Remote, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("keeping a key set: %w", err) // Without the URL, which may hold a password.
	}
	orDefault(&c.Refresh, defaultRefresh)
	orDefault(&c.Cooldown, defaultCooldown)
	orDefault(&c.MaxStale, defaultMaxStale)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	r := &Remote{c: c, client: newClient(c.Client), asked: make(chan struct{}, 1), urged: make(chan struct{}, 1)}
	r.held.Store(r.restore())
	return r, nil
}

func orDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Run fetches the key set until ctx ends, then returns nil. It is the one owner
// of what the other methods read; a second Run at the same time is an error.
//
// All waiting is done by timers, which run on the monotonic clock: a jump of the
// wall clock brings about neither a storm of fetches nor a pause.
func (r *Remote) Run(ctx context.Context) error {
	if !r.running.CompareAndSwap(false, true) {
		return fmt.Errorf("keeping the key set %s: it is being kept already", r.c.URL)
	}
	defer r.running.Store(false)
	next, backoff := time.NewTimer(0), firstBackoff
	defer next.Stop()
	var cooling <-chan time.Time // Not nil after an early refresh, until the cooldown ends.
	for {
		early := r.asked
		if cooling != nil {
			early = nil // A request that comes now waits for the end of the cooldown.
		}
		select {
		case <-ctx.Done():
			return nil
		case <-cooling:
			cooling = nil
			continue
		case <-early:
			cooling = time.After(r.c.Cooldown)
		case <-r.urged:
		case <-next.C:
		}
		wait := r.c.Refresh
		if err := r.refresh(ctx); err != nil {
			wait, backoff = min(backoff, r.c.Refresh), min(2*backoff, maxBackoff)
		} else {
			backoff = firstBackoff
		}
		next.Reset(jitter(wait))
	}
}

// jitter returns d, give or take 10 %.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64())) //nolint:gosec // Chance, not secrecy.
}

// refresh fetches once and holds what it accepts, or else the trouble.
func (r *Remote) refresh(ctx context.Context) error {
	old, at := r.held.Load(), r.c.Now()
	got, err := r.fetch(ctx, old)
	if ctx.Err() != nil {
		return ctx.Err() // We are stopping; the issuer is not to blame.
	}
	if err != nil {
		h := *old
		h.trouble = err.Error()
		r.held.Store(&h)
		r.failed[slices.Index(reasons[:], reasonOf(err))].Add(1)
		r.c.Log.Warn("fetching a key set", "url", r.c.URL, "err", h.trouble, "last_good", old.at)
		return err
	}
	got.at = at
	r.held.Store(got)
	select {
	case <-r.asked: // Whoever asked meanwhile has been served.
	default:
	}
	if got.generation != old.generation {
		r.c.Log.Info("accepted a key set", "url", r.c.URL, "keys", got.set.Len(), "skipped", got.set.Skipped(), "generation", got.generation)
	}
	r.save(got)
	return nil
}

// Verify returns the payload of a token that is good by the [Profile] and signed
// by a key of the set; see [Set.Verify] for the errors. If the set is older than
// MaxStale at now, the error matches [token.ErrKeysStale].
//
// An unknown kid asks for an early refresh, because the issuer may have a new
// key. A bad signature does not: the key is known, and anybody can send one.
func (r *Remote) Verify(compact string, now time.Time) (payload []byte, err error) {
	payload, _, err = r.VerifyAs(r.c.Profile, compact, now)
	return payload, err
}

// VerifyAs is [Remote.Verify] under another profile, as for another kind of
// document by the same issuer, and returns the kid of the key too.
func (r *Remote) VerifyAs(p Profile, compact string, now time.Time) (payload []byte, kid string, err error) {
	h := r.held.Load()
	if err := r.stale(h, now); err != nil {
		r.ask()
		return nil, "", err
	}
	payload, kid, err = h.set.VerifyKeyID(p, compact)
	if errors.Is(err, token.ErrUnknownKey) {
		r.ask()
	}
	return payload, kid, err
}

// Urge asks Run for a refresh at once, cooldown or not: for who knows from the
// issuer itself, and not from a token that anybody may send, that there is a key
// it does not know. It never blocks.
func (r *Remote) Urge() {
	select {
	case r.urged <- struct{}{}:
	default: // Somebody has urged already.
	}
}

// ask asks Run for an early refresh. It never blocks.
func (r *Remote) ask() {
	select {
	case r.asked <- struct{}{}:
	default: // Somebody has asked already.
	}
}

// stale returns an error that matches [token.ErrKeysStale] if h can't be used at
// now.
func (r *Remote) stale(h *held, now time.Time) error {
	if h.set == nil {
		return fmt.Errorf("%w: none was fetched yet", token.ErrKeysStale)
	}
	// By the wall clock, because the monotonic one stands still while a machine
	// sleeps. By the monotonic clock too where both times have it, because a
	// wall clock that is set back would make an old set young.
	age := max(now.Sub(h.at), now.Round(0).Sub(h.at.Round(0)))
	if age > r.c.MaxStale {
		return fmt.Errorf("%w: the last good fetch was %s ago", token.ErrKeysStale, age.Round(time.Second))
	}
	return nil
}

// Generation returns a number that changes when, and only when, the accepted
// keys do. Who caches a verdict keeps the generation with it and asks again for
// it at each hit: a removed key's tokens die at once. Errors match
// [token.ErrKeysStale], as those of [Remote.Verify].
func (r *Remote) Generation(now time.Time) (uint64, error) {
	h := r.held.Load()
	if err := r.stale(h, now); err != nil {
		r.ask()
		return 0, err
	}
	return h.generation, nil
}

// Status is the state of a [Remote], fit for a readiness page and metrics.
type Status struct {
	Ready      bool      // There are keys, and they are not older than MaxStale.
	Keys       int       // Usable keys.
	Skipped    int       // Keys in the document that are not used.
	Generation uint64    // As Remote.Generation says, also when stale. 0: no keys yet.
	LastGood   time.Time // When the last good fetch was begun. Zero: never.
	LastError  string    // Why the last fetch failed; empty if it did not. Safe to show.

	// Failed counts the fetches that brought nothing, by reason.
	Failed map[string]uint64
}

// Status returns the state at now.
func (r *Remote) Status(now time.Time) Status {
	h := r.held.Load()
	s := Status{Ready: r.stale(h, now) == nil, Generation: h.generation, LastGood: h.at, LastError: h.trouble}
	if h.set != nil {
		s.Keys, s.Skipped = h.set.Len(), len(h.set.skipped)
	}
	s.Failed = make(map[string]uint64, len(reasons))
	for i, reason := range reasons {
		s.Failed[reason] = r.failed[i].Load()
	}
	return s
}
