// Package ring holds the issuer's private signing keys: it makes them, replaces
// them in time, keeps them sealed, signs with them and says what their public
// halves are. It is the one place where their bytes exist, unless a [Vault] has
// them; no method gives them out, and no way of printing a [Ring] shows them.
//
// It knows nothing of what it signs, of HTTP, of the key that seals the ring
// (that is behind [Sealer]), or of who else must hear that a key is tainted.
//
// Start with [Create], [Open] and [Ring.Run], then [Ring.Sign]. How a key lives
// is told at [State].
package ring

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hourpass/hourpass/internal/token"
)

// Sealer encrypts and decrypts small secrets. What is sealed for one purpose
// opens for no other.
type Sealer interface {
	Seal(purpose string, plain []byte) ([]byte, error)
	Open(purpose string, sealed []byte) ([]byte, error)
}

// Config says where a ring is kept and how its keys live. Storage and Sealer are
// required. Several rings, in as many processes, may share one storage; their
// clocks may differ by seconds, not minutes.
type Config struct {
	// Storage keeps the sealed ring: a [File] or a [Table].
	Storage Storage

	// Sealer seals it as a whole: whoever can write the storage but lacks the
	// key-encryption key changes no key, no state and no time.
	Sealer Sealer

	// Alg is the algorithm of new keys: [ES256], [EdDSA] or [RS256]. Empty means
	// ES256, the one that most verifiers, HSMs and cloud key services know. Keys
	// that are there already keep theirs.
	Alg string

	// Vault makes new keys outside of the ring, such as in an HSM. Nil means in
	// the ring. Keys of both kinds can be in one ring.
	Vault Vault

	// Every is how long a key signs until the next one takes over. Zero means
	// 30 days.
	Every time.Duration

	// Lead is how long a key is published before it signs: the max-age of the
	// published document, and the time between two fetches of the slowest
	// verifier, and some more for clocks and slow writes. Zero means 15 minutes.
	Lead time.Duration

	// Hold is how long a key stays published after its last signature: the
	// longest life of a token, and some more for clocks. Zero means 65 minutes;
	// less than [token.MaxLifetime] is refused.
	Hold time.Duration

	// MaxStale is how long a ring that can't read its storage goes on. After
	// that it neither signs nor publishes: another process may have tainted the
	// key since. Nor can it know of new keys, so a key counts as published only
	// MaxStale after it was stored. Zero means 1 minute. [Ring.Run] reads six
	// times as often.
	MaxStale time.Duration

	Log *slog.Logger     // Nil means no log.
	Now func() time.Time // The wall clock. Nil means [time.Now].
}

const (
	defaultEvery    = 30 * 24 * time.Hour
	defaultLead     = 15 * time.Minute
	defaultHold     = token.MaxLifetime + 5*time.Minute
	defaultMaxStale = time.Minute
	readsPerStale   = 6
)

// complete puts the defaults in place and returns all that is wrong with c.
func (c *Config) complete() error {
	if c.Alg == "" {
		c.Alg = ES256
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	var errs []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	for _, d := range []struct {
		name   string
		span   *time.Duration
		preset time.Duration
	}{{"Every", &c.Every, defaultEvery}, {"Lead", &c.Lead, defaultLead}, {"Hold", &c.Hold, defaultHold}, {"MaxStale", &c.MaxStale, defaultMaxStale}} {
		if *d.span == 0 {
			*d.span = d.preset
		}
		want(*d.span >= time.Second, "%s is less than a second", d.name)
	}
	want(c.Storage != nil, "it has no storage")
	want(c.Sealer != nil, "it has no sealer")
	want(algorithms[c.Alg] != nil, "algorithm %q is not one of ES256, EdDSA, RS256", c.Alg)
	want(c.Hold >= token.MaxLifetime, "Hold is %s: keys would be dropped while their tokens live, want at least %s", c.Hold, token.MaxLifetime)
	want(c.Every > c.Lead+c.MaxStale, "Every is %s: want more than Lead and MaxStale together", c.Every)
	want(c.Every <= 0 || c.Hold/c.Every+3 <= MaxKeys, "Hold and Every together make more than %d keys", MaxKeys)
	return errors.Join(errs...)
}

// Ring is a set of signing keys, of which one signs at a time. A Ring is safe
// for concurrent use.
type Ring struct {
	c        Config
	changing sync.Mutex // Of those who read and write the storage.
	signs    string     // The active key's kid when that was last logged.
	// An atomic pointer, for readers without a lock. It also hides the private
	// keys: fmt shows an address, reflection an unsafe.Pointer.
	held atomic.Pointer[held]

	asked chan struct{} // Holds one request to read the storage early.
}

// held is a ring as it was read. It never changes.
type held struct {
	life
	document []byte // The JWKS.
	serial   int64  // Counts the writes of this ring. Sealed with it.
	version  int64  // The storage's.
	at       time.Time
}

// ErrStale means that the ring could not be read for longer than MaxStale, and
// so neither signs nor publishes.
var ErrStale = errors.New("the signing keys could not be read from their storage for too long")

// Create makes a ring with one fresh key, which signs at once, and opens it. If
// the storage holds a ring already it is left alone, and the error matches
// [os.ErrExist]: its keys may have signed what is still out.
func Create(ctx context.Context, c Config) (*Ring, error) {
	r, err := newRing(c)
	if err == nil {
		err = r.create(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("creating a key ring: %w", err)
	}
	return Open(ctx, c) // What was written can be read, or we say so now.
}

func (r *Ring) create(ctx context.Context) error {
	k, err := r.generate(ctx)
	if err != nil {
		return err
	}
	now := r.c.Now()
	k.Published, k.ActiveFrom = floor(now), floor(now)
	data, err := encode(life{keys: []key{k}}, 1, r.c.Sealer)
	if err != nil {
		return err
	}
	err = r.c.Storage.Save(ctx, data, 0)
	if errors.Is(err, ErrChanged) {
		r.destroy(ctx, k)
		return fmt.Errorf("there is one: %w", os.ErrExist)
	}
	return err
}

// Open reads the ring that c's storage holds. If there is none the error matches
// [os.ErrNotExist]: an issuer that lost its keys must not start over with others
// by surprise. A ring in which anything is not as this package writes it is
// refused, a key whose vault is out of reach is not: it can still be replaced,
// and [Ring.Ready] tells.
func Open(ctx context.Context, c Config) (*Ring, error) {
	r, err := newRing(c)
	if err != nil {
		return nil, fmt.Errorf("opening the key ring: %w", err)
	}
	h, err := r.load(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening the key ring%s: %w", r.where(), err)
	}
	r.held.Store(h)
	return r, nil
}

func newRing(c Config) (*Ring, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	return &Ring{c: c, asked: make(chan struct{}, 1)}, nil
}

// Sign returns payload as a compact JWS under the key that is active now. Its
// header holds alg, kid and typ and nothing else; typ must not be empty. It
// takes no lock and reads no storage. The error matches [ErrStale] if the
// storage could not be read for long.
func (r *Ring) Sign(payload []byte, typ string) (string, error) {
	if typ == "" {
		return "", errors.New("signing: no typ, so that one kind of token could pass for another")
	}
	h, now := r.held.Load(), r.c.Now()
	if r.stale(h, now) {
		return "", fmt.Errorf("signing: %w", ErrStale)
	}
	k := h.keys[h.signing(now)].material
	if k.signer == nil {
		return "", fmt.Errorf("signing: %w", k.trouble)
	}
	b64 := base64.RawURLEncoding
	header := k.header(typ)
	jws := make([]byte, 0, len(header)+b64.EncodedLen(len(payload))+1+b64.EncodedLen(k.signature))
	jws = append(jws, header...)
	jws = b64.AppendEncode(jws, payload)
	signature, err := k.signer.Sign(jws)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	jws = append(jws, '.')
	return string(b64.AppendEncode(jws, signature)), nil
}

// stale tells whether h is too old at now; if so it asks [Ring.Run] to read the
// storage at once, because a machine that wakes need not wait for a tick.
func (r *Ring) stale(h *held, now time.Time) bool {
	// By the wall clock, because the monotonic one stands still while a machine
	// sleeps. By the monotonic clock too where both times have it, because a wall
	// clock that is set back would make an old ring young.
	if max(now.Sub(h.at), now.Round(0).Sub(h.at.Round(0))) <= r.c.MaxStale {
		return false
	}
	select {
	case r.asked <- struct{}{}:
	default: // Somebody has asked already.
	}
	return true
}

// Document returns the JWK Set of all published keys, from memory. The caller
// must not change it. It is nil, which is fit for no publication, when the ring
// is stale: verifiers keep what they have.
func (r *Ring) Document() []byte {
	h := r.held.Load()
	if r.stale(h, r.c.Now()) {
		return nil
	}
	return h.document
}

// Ready returns nil if the ring can sign, or else why not. It is safe to show.
func (r *Ring) Ready() error {
	h, now := r.held.Load(), r.c.Now()
	if r.stale(h, now) {
		return ErrStale
	}
	return h.keys[h.signing(now)].material.trouble
}

// List returns what may be told of the keys, by the time that they sign.
func (r *Ring) List() []Key {
	h, now := r.held.Load(), r.c.Now()
	list := make([]Key, 0, len(h.keys))
	for i, k := range h.keys {
		k.State = h.state(i, now)
		list = append(list, k.Key)
	}
	return list
}

// Tainted returns the tainted keys of which tokens may live still, oldest first.
func (r *Ring) Tainted() []Tainted {
	return append([]Tainted(nil), r.held.Load().tainted...)
}

// String names the ring by its storage and its active key.
func (r *Ring) String() string {
	h := r.held.Load()
	return fmt.Sprintf("key ring%s, active key %s", r.where(), h.keys[h.signing(r.c.Now())].KID)
}

// where names the storage, if it names itself: printing another one could show
// a database's password.
func (r *Ring) where() string {
	if s, ok := r.c.Storage.(fmt.Stringer); ok {
		return " " + s.String()
	}
	return ""
}

// Format shows the same for every verb, so that no %+v walks into the keys.
func (r *Ring) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(r.String())) }

// LogValue logs what String says.
func (r *Ring) LogValue() slog.Value { return slog.StringValue(r.String()) }

// MarshalText makes encoders write what String says.
func (r *Ring) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
