package verifier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hourpass/hourpass/internal/revocation"
	"github.com/hourpass/hourpass/internal/token"
)

// RevocationsConfig says where revocations come from. URL, Issuer and Verify are
// required.
type RevocationsConfig struct {
	// URL is where the issuer publishes them: https, or http on a loopback
	// address. What comes from it is believed for its signature alone.
	URL    string
	Issuer string // Must stand in the document.

	// Verify returns the payload of a compact JWS of the type
	// [revocation.Type] that one of the issuer's keys signed.
	Verify func(compact string, now time.Time) (payload []byte, err error)

	// MaxStale is how old the last document may get, by its own date, before
	// calls are refused: how long a verifier that is cut off may go on letting in
	// what was revoked. Zero means 10 minutes.
	MaxStale time.Duration

	// Name, KeyID and Key let the verifier tell the issuer which generation it
	// enforces: a name of its own, and a machine key that is for verifiers.
	// Without a key it tells nobody.
	Name, KeyID, Key string

	// Snapshot, if not empty, is a file that keeps the last document, for a
	// restart while the issuer is down. It is verified like any other.
	Snapshot string

	Client *http.Client     // Nil means one of our own.
	Log    *slog.Logger     // Nil means no log.
	Now    func() time.Time // Nil means [time.Now].
}

const (
	defaultRevocationsStale = 10 * time.Minute
	pollWait                = 40 * time.Second // Of one question: the issuer answers within 25 s.
	minPause                = time.Second
	firstPause              = 200 * time.Millisecond
	maxPause                = 10 * time.Second
)

// Revocations keeps the issuer's revocations. [Revocations.Run] pulls; the other
// methods read what it last accepted, take no lock and wait for nothing.
type Revocations struct {
	c    RevocationsConfig // With the defaults in place.
	held atomic.Pointer[revocation.Set]
	acks chan int64 // The generation to tell. Holds the latest alone.

	mu   sync.Mutex
	news []func() // Called after each later generation.
}

// NewRevocations checks c and reads the snapshot. It starts nothing.
func NewRevocations(c RevocationsConfig) (*Revocations, error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "":
		return nil, errors.New("keeping revocations: want a URL without a query")
	case c.Issuer == "" || c.Verify == nil:
		return nil, errors.New("keeping revocations: issuer or verification is missing")
	case c.MaxStale < 0:
		return nil, errors.New("keeping revocations: max_stale is negative")
	case (c.Key == "") != (c.KeyID == "") || c.Key != "" && c.Name == "":
		return nil, errors.New("keeping revocations: name, key id and key go together")
	}
	orDefault(&c.MaxStale, defaultRevocationsStale)
	if c.Client == nil {
		c.Client = &http.Client{
			Timeout:       pollWait,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	r := &Revocations{c: c, acks: make(chan int64, 1)}
	if c.Snapshot != "" {
		signed, err := os.ReadFile(c.Snapshot)
		if err == nil && len(signed) <= revocation.MaxBytes {
			// It may be of keys that are not there yet: then it is fetched anew.
			_, _ = r.accept(string(signed))
		}
	}
	return r, nil
}

// Revoked tells whether the token, signed by the key of that kid, is refused
// though it has not expired. The error matches [token.ErrRevocationsStale].
func (r *Revocations) Revoked(c *token.Claims, kid string, now time.Time) (bool, error) {
	set := r.held.Load()
	if err := r.stale(set, now); err != nil {
		return false, err
	}
	return set.Revokes(c, kid), nil
}

// Ready says why revocations can't be told at now, or nil.
func (r *Revocations) Ready(now time.Time) error { return r.stale(r.held.Load(), now) }

func (r *Revocations) stale(set *revocation.Set, now time.Time) error {
	if set == nil {
		return fmt.Errorf("%w: none were fetched yet", token.ErrRevocationsStale)
	}
	if age := now.Sub(set.IssuedAt); age > r.c.MaxStale {
		return fmt.Errorf("%w: the last are %s old", token.ErrRevocationsStale, age.Round(time.Second))
	}
	return nil
}

// Generation is that of the last accepted document, -1 before the first.
func (r *Revocations) Generation() int64 {
	if set := r.held.Load(); set != nil {
		return set.Generation
	}
	return -1
}

// Run pulls until ctx ends. The issuer holds a question until there is news, so
// that a revocation is here as fast as the network is.
func (r *Revocations) Run(ctx context.Context) error {
	if r.c.Key != "" {
		go r.tell(ctx)
	}
	pause := firstPause
	for {
		began, before := time.Now(), r.Generation()
		err := r.pull(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // We are stopping; the issuer is not to blame.
		}
		wait := time.Duration(0)
		if r.Generation() == before && time.Since(began) < minPause {
			wait = minPause // A cache that does not hold questions is not to be flooded with them.
		}
		if err != nil {
			r.c.Log.Warn("fetching revocations", "url", r.c.URL, "err", err.Error())
			wait = time.Duration(float64(pause) * (0.5 + rand.Float64())) //nolint:gosec // Chance, not secrecy.
			pause = min(2*pause, maxPause)
		} else {
			pause = firstPause
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// pull asks once for a document later than the one that is held.
func (r *Revocations) pull(ctx context.Context) error {
	address := r.c.URL
	if generation := r.Generation(); generation >= 0 && r.stale(r.held.Load(), r.c.Now()) == nil {
		address += "?after=" + strconv.FormatInt(generation, 10)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	res, err := r.c.Client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %d", res.StatusCode)
	}
	signed, err := io.ReadAll(io.LimitReader(res.Body, revocation.MaxBytes+1))
	switch {
	case err != nil:
		return err
	case len(signed) > revocation.MaxBytes:
		return errors.New("the document is too long")
	}
	newer, err := r.accept(string(signed))
	if err == nil && newer {
		r.save(signed)
	}
	return err
}

// accept holds a document if it is genuine and not older than the one that is
// held: an old one would let in again what was revoked since.
func (r *Revocations) accept(signed string) (newer bool, err error) {
	now := r.c.Now()
	payload, err := r.c.Verify(signed, now)
	if err != nil {
		return false, err
	}
	d, err := revocation.Parse(payload)
	switch {
	case err != nil:
		return false, err
	case d.Issuer != r.c.Issuer:
		return false, errors.New("the document is another issuer's")
	case d.IssuedAt.After(now.Add(maxCacheTTL)):
		return false, errors.New("the document is from the future")
	}
	old := r.held.Load()
	if old != nil && !r.follows(&d, old, now) {
		return false, errors.New("the document is older than the last")
	}
	r.held.Store(revocation.NewSet(d))
	if old == nil || d.Generation != old.Generation {
		select {
		case <-r.acks: // Not told yet, and no longer the latest.
		default:
		}
		r.acks <- d.Generation
		r.spread()
		r.c.Log.Info("accepted revocations", "generation", d.Generation, "entries", len(d.Entries))
	}
	return true, nil
}

// notify has f called after each later generation.
func (r *Revocations) notify(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.news = append(r.news, f)
}

func (r *Revocations) spread() {
	r.mu.Lock()
	news := slices.Clone(r.news)
	r.mu.Unlock()
	for _, f := range news {
		f()
	}
}

// follows tells whether d may take the place of old. Generations say which is
// newer, whatever the clocks of two issuers say; of one generation, the dates.
// A generation goes back only where the issuer's store was restored: then what is
// held is believed until it is stale, and nothing would be let in without d.
func (r *Revocations) follows(d *revocation.Document, old *revocation.Set, now time.Time) bool {
	if d.Generation < old.Generation {
		return r.stale(old, now) != nil && d.IssuedAt.After(old.IssuedAt)
	}
	return d.Generation > old.Generation || !d.IssuedAt.Before(old.IssuedAt)
}

// save keeps the document for a restart. A verifier that can't is as good as one
// that was not told to.
func (r *Revocations) save(signed []byte) {
	if r.c.Snapshot == "" {
		return
	}
	part := r.c.Snapshot + ".part"
	err := os.WriteFile(part, signed, 0o600)
	if err == nil {
		err = os.Rename(part, r.c.Snapshot)
	}
	if err != nil {
		r.c.Log.Warn("keeping revocations", "err", err.Error())
	}
}

// tell acknowledges generations, again each minute so that the issuer knows that
// the verifier lives.
func (r *Revocations) tell(ctx context.Context) {
	generation, retry := int64(-1), time.NewTicker(time.Minute)
	defer retry.Stop()
	for {
		select {
		case generation = <-r.acks:
		case <-retry.C:
		case <-ctx.Done():
			return
		}
		if generation < 0 {
			continue
		}
		if err := r.acknowledge(ctx, generation); err != nil && ctx.Err() == nil {
			r.c.Log.Warn("acknowledging revocations", "err", err.Error())
		}
	}
}

func (r *Revocations) acknowledge(ctx context.Context, generation int64) error {
	body, err := json.Marshal(map[string]any{"name": r.c.Name, "generation": generation})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.c.URL+"/ack", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth(r.c.KeyID, r.c.Key)
	res, err := r.c.Client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusNoContent {
		return fmt.Errorf("the issuer answers %d", res.StatusCode)
	}
	return nil
}
