// Package keys keeps machine keys: their form, the hashing of their secrets,
// their life and what they are bound to.
//
// It knows nothing of HTTP, tokens or identity providers. What a key is, apart
// from its secrets, is [policy.Key]; what it may do, and who may change it, is
// decided elsewhere.
//
// Start with [Store.Authenticate]; life.go changes keys, list.go finds them, and
// rows.go is how they stand in the database.
package keys

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/keys/format"
)

// Bounds of a key's life.
const (
	MinPepper   = 32                   // Bytes of pepper.
	MaxLife     = 366 * 24 * time.Hour // From creation to expiry.
	RotateEvery = 90 * 24 * time.Hour  // How old a secret gets before a new one is due.
	MaxOverlap  = 30 * 24 * time.Hour  // How long the secret before works beside a new one.
	maxCached   = 10_000               // Keys in memory.
)

// Store keeps machine keys in a database. It is safe for concurrent use, and so
// are several on one database.
type Store struct {
	db     *sql.DB
	pepper []byte
	cache  *lru.Cache[string, record]

	versions *sql.Stmt // See staleRows.

	mu   sync.Mutex
	uses map[secretID]use // Since the last [Store.Flush].
}

type secretID struct {
	key    string
	number int64
}

type use struct {
	at   int64
	from string
}

// New returns a store of keys in db, whose schema is up to date. The pepper, at
// least [MinPepper] random bytes, lives outside the database: without it a
// stolen table opens nothing, and a row written into it forges nothing.
func New(db *sql.DB, pepper []byte) (*Store, error) {
	if len(pepper) < MinPepper {
		return nil, fmt.Errorf("the pepper has %d bytes, want at least %d", len(pepper), MinPepper)
	}
	cache, err := lru.New[string, record](maxCached)
	if err != nil {
		return nil, err
	}
	versions, err := db.PrepareContext(context.Background(), strings.Replace(`SELECT id, version FROM machine_keys WHERE id IN (IDS)`, "IDS", placeholders(1, staleRows), 1))
	if err != nil {
		return nil, fmt.Errorf("preparing to read keys: %w", err)
	}
	return &Store{db: db, pepper: pepper, cache: cache, versions: versions, uses: map[secretID]use{}}, nil
}

// secretMAC is what is stored of a secret. It covers the id too, so that a
// secret's row copied under another id is worthless.
func (s *Store) secretMAC(key string) []byte {
	h := hmac.New(sha256.New, s.pepper)
	h.Write([]byte("hourpass machine key v1\x00"))
	h.Write([]byte(key))
	return h.Sum(nil)
}

// Authenticate returns the key whose live secret is presented, and the secret's
// number. It does not ask whether the key is active: that is a decision, and its
// refusal may be told to whoever proved to hold the secret. Errors match
// [policy.ErrUnknownKey] unless the database failed; an unknown id costs the same
// work as a wrong secret.
//
// The key may be as of a moment ago; [Store.Stale] tells, and [Store.Forget]
// makes the next look a fresh one.
func (s *Store) Authenticate(ctx context.Context, presented string, now time.Time) (policy.Key, int64, error) {
	id, err := format.ParseID(presented)
	if err != nil {
		return policy.Key{}, 0, fmt.Errorf("%w: %w", policy.ErrUnknownKey, err)
	}
	got := s.secretMAC(presented)
	if r, ok := s.cache.Get(id); ok {
		if number, live := r.match(got, now); live {
			return r.Key, number, nil
		}
	}
	// A secret that is new to us may have been made by another issuer.
	r, err := s.read(ctx, s.db, id)
	if err != nil && !errors.Is(err, policy.ErrNoSuchKey) {
		return policy.Key{}, 0, err
	}
	number, live := r.match(got, now)
	if !live {
		return policy.Key{}, 0, policy.ErrUnknownKey
	}
	s.cache.Add(id, r)
	return r.Key, number, nil
}

// match finds the live secret that has the MAC. It looks at all of them, and at
// one that nobody has where there is none, so that its time tells nothing.
func (r record) match(got []byte, now time.Time) (number int64, live bool) {
	_ = hmac.Equal(make([]byte, sha256.Size), got)
	for i, secret := range r.Secrets {
		if hmac.Equal(r.macs[i], got) && (secret.EndsAt.IsZero() || now.Before(secret.EndsAt)) {
			number, live = secret.Number, true
		}
	}
	return number, live
}

// Get returns the key of that id, or an error that matches
// [policy.ErrNoSuchKey].
func (s *Store) Get(ctx context.Context, id string) (policy.Key, error) {
	r, err := s.read(ctx, s.db, id)
	return r.Key, err
}

// Stale returns those of the keys that were changed since they were read, as of
// within tx: whoever acts on a key asks in the transaction in which they act.
func (s *Store) Stale(ctx context.Context, tx *sql.Tx, keys []policy.Key) ([]string, error) {
	versions := make(map[string]int64, len(keys))
	for chunk := range slices.Chunk(keys, staleRows) {
		if err := s.readVersions(ctx, tx, chunk, versions); err != nil {
			return nil, fmt.Errorf("reading keys' versions: %w", err)
		}
	}
	var stale []string
	for _, k := range keys {
		if versions[k.ID] != k.Version && !slices.Contains(stale, k.ID) {
			stale = append(stale, k.ID)
		}
	}
	return stale, nil
}

// staleRows is how many versions one statement reads. Its text is always the
// same, so that it is prepared once.
const staleRows = 16

func (s *Store) readVersions(ctx context.Context, tx *sql.Tx, keys []policy.Key, versions map[string]int64) error {
	ids := make([]any, staleRows)
	for i := range ids {
		ids[i] = keys[min(i, len(keys)-1)].ID
	}
	rows, err := tx.StmtContext(ctx, s.versions).QueryContext(ctx, ids...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id string
		var version int64
		if err := rows.Scan(&id, &version); err != nil {
			return err
		}
		versions[id] = version
	}
	return rows.Err()
}

// Forget has the next look at the key go to the database.
func (s *Store) Forget(id string) { s.cache.Remove(id) }

// Used notes that the key's secret of that number was just used from a network.
// The note reaches the database with the next [Store.Flush].
func (s *Store) Used(id string, number int64, from string, now time.Time) {
	s.note(secretID{id, number}, use{now.Unix(), from})
}

func (s *Store) note(secret secretID, u use) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.at >= s.uses[secret].at {
		s.uses[secret] = u
	}
}

// Flush writes the noted uses down. Those that it can't are noted still.
func (s *Store) Flush(ctx context.Context) error {
	s.mu.Lock()
	uses := s.uses
	s.uses = map[secretID]use{}
	s.mu.Unlock()
	if len(uses) == 0 {
		return nil
	}
	err := store.Tx(ctx, s.db, func(tx *sql.Tx) error {
		for secret, use := range uses {
			if _, err := tx.ExecContext(ctx, `UPDATE machine_key_secrets SET last_used_at = $1, last_used_from = $2
				WHERE key_id = $3 AND number = $4 AND last_used_at <= $1`, use.at, use.from, secret.key, secret.number); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		for secret, use := range uses {
			s.note(secret, use)
		}
		return fmt.Errorf("noting keys' uses: %w", err)
	}
	return nil
}
