// Package keys keeps machine keys: their form, the hashing of their secrets,
// their life and what they are bound to.
//
// It knows nothing of HTTP, tokens or identity providers. What a key is, apart
// from its secret, is [policy.Key]; what it may do is decided elsewhere.
//
// Start with [Store.Authenticate].
package keys

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
)

// Bounds of a key's life.
const (
	MinPepper   = 32                   // Bytes of pepper.
	MaxLife     = 366 * 24 * time.Hour // From creation to expiry.
	RotateEvery = 90 * 24 * time.Hour  // How old a secret gets before a new one is due.
)

// Store keeps machine keys in a database. It is safe for concurrent use.
type Store struct {
	db     *sql.DB
	pepper []byte
}

// New returns a store of keys in db, whose schema is up to date. The pepper, at
// least [MinPepper] random bytes, lives outside the database: without it a
// stolen table opens nothing, and a row written into it forges nothing.
func New(db *sql.DB, pepper []byte) (*Store, error) {
	if len(pepper) < MinPepper {
		return nil, fmt.Errorf("the pepper has %d bytes, want at least %d", len(pepper), MinPepper)
	}
	return &Store{db, pepper}, nil
}

// mac is what is stored of a key. It covers the id too, so that a secret's row
// copied under another id is worthless.
func (s *Store) mac(key string) []byte {
	h := hmac.New(sha256.New, s.pepper)
	h.Write([]byte("hourpass machine key v1\x00"))
	h.Write([]byte(key))
	return h.Sum(nil)
}

// Create keeps a new key that is like k, with an id and times of its own, and
// returns it with its one secret text, which is never to be had again. The
// caller has decided that k's owner may have it.
func (s *Store) Create(ctx context.Context, k policy.Key, life time.Duration, now time.Time) (policy.Key, string, error) {
	if life <= 0 || life > MaxLife {
		return policy.Key{}, "", fmt.Errorf("a key lives up to %s", MaxLife)
	}
	k.ID = newID()
	k.State, k.DisabledReason, k.LastUsedAt = policy.Active, "", time.Time{}
	k.CreatedAt = now.Truncate(time.Second)
	k.ExpiresAt = k.CreatedAt.Add(life)
	k.RotateAfter = k.CreatedAt.Add(min(RotateEvery, life))
	key := newSecret(k.ID)

	columns, err := encode(k)
	if err != nil {
		return policy.Key{}, "", fmt.Errorf("creating a key: %w", err)
	}
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO machine_keys (id, owner, team, description, grants, bindings, ip_ranges,
			state, disabled_reason, created_at, expires_at, rotate_after, last_used_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', $9, $10, $11, 0)`,
			k.ID, k.Owner, k.Team, k.Description, columns.grants, columns.bindings, columns.ipRanges,
			string(k.State), k.CreatedAt.Unix(), k.ExpiresAt.Unix(), k.RotateAfter.Unix()); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO machine_key_secrets (key_id, number, mac, created_at, ends_at)
			VALUES ($1, 1, $2, $3, 0)`, k.ID, s.mac(key), k.CreatedAt.Unix())
		return err
	})
	if err != nil {
		return policy.Key{}, "", fmt.Errorf("creating a key: %w", err)
	}
	return k, key, nil
}

// Authenticate returns the key whose live secret is presented. It does not ask
// whether the key is active: that is a decision, and its refusal may be told to
// whoever proved to hold the secret. Errors match [policy.ErrUnknownKey] unless the
// database failed; an unknown id costs the same work as a wrong secret.
func (s *Store) Authenticate(ctx context.Context, presented string, now time.Time) (policy.Key, error) {
	id, err := ParseID(presented)
	if err != nil {
		return policy.Key{}, fmt.Errorf("%w: %w", policy.ErrUnknownKey, err)
	}
	rows, err := s.db.QueryContext(ctx, `SELECT mac, ends_at FROM machine_key_secrets WHERE key_id = $1`, id)
	if err != nil {
		return policy.Key{}, fmt.Errorf("reading key secrets: %w", err)
	}
	defer func() { _ = rows.Close() }()
	got, match := s.mac(presented), false
	for rows.Next() {
		var mac []byte
		var endsAt int64
		if err := rows.Scan(&mac, &endsAt); err != nil {
			return policy.Key{}, fmt.Errorf("reading key secrets: %w", err)
		}
		if hmac.Equal(mac, got) && (endsAt == 0 || now.Unix() < endsAt) {
			match = true
		}
	}
	if err := rows.Err(); err != nil {
		return policy.Key{}, fmt.Errorf("reading key secrets: %w", err)
	}
	// The key is read either way, so that the answer's time does not tell
	// whether the id is known.
	k, err := scan(s.db.QueryRowContext(ctx, selectKey+` WHERE id = $1`, id))
	switch {
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return policy.Key{}, fmt.Errorf("reading a key: %w", err)
	case !match || err != nil:
		return policy.Key{}, policy.ErrUnknownKey
	}
	return k, nil
}

// Used notes that the key was just used for an exchange.
func (s *Store) Used(ctx context.Context, id string, now time.Time) error {
	_, err := s.db.ExecContext(ctx, `UPDATE machine_keys SET last_used_at = $1 WHERE id = $2 AND last_used_at < $1`, now.Unix(), id)
	if err != nil {
		return fmt.Errorf("noting a key's use: %w", err)
	}
	return nil
}

// MaxList bounds how many keys [Store.List] returns.
const MaxList = 500

// List returns the owner's keys, newest first.
func (s *Store) List(ctx context.Context, owner string) ([]policy.Key, error) {
	rows, err := s.db.QueryContext(ctx, selectKey+` WHERE owner = $1 ORDER BY created_at DESC, id LIMIT $2`, owner, MaxList)
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var list []policy.Key
	for rows.Next() {
		k, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("listing keys: %w", err)
		}
		list = append(list, k)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	return list, nil
}

// Disable ends the use of the owner's key, with a reason for whoever wonders.
// To disable what is disabled changes nothing. Errors match [policy.ErrNoSuchKey] where
// the owner has no such key.
func (s *Store) Disable(ctx context.Context, owner, id, reason string) error {
	res, err := s.db.ExecContext(ctx, `UPDATE machine_keys
		SET disabled_reason = CASE state WHEN 'disabled' THEN disabled_reason ELSE $1 END, state = 'disabled'
		WHERE id = $2 AND owner = $3`, reason, id, owner)
	if err != nil {
		return fmt.Errorf("disabling a key: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(policy.ErrNoSuchKey, err)
	}
	return nil
}

func (s *Store) inTx(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

const selectKey = `SELECT id, owner, team, description, grants, bindings, ip_ranges, state, disabled_reason,
	created_at, expires_at, rotate_after, last_used_at FROM machine_keys`

// lists are a key's columns that hold JSON.
type lists struct {
	grants, bindings string
	ipRanges         sql.NullString
}

func encode(k policy.Key) (lists, error) {
	grants, err := json.Marshal(k.Grants)
	if err != nil {
		return lists{}, err
	}
	bindings, err := json.Marshal(k.Bindings)
	if err != nil {
		return lists{}, err
	}
	ranges, err := json.Marshal(k.IPRanges)
	if err != nil {
		return lists{}, err
	}
	return lists{string(grants), string(bindings), sql.NullString{String: string(ranges), Valid: k.IPRanges != nil}}, nil
}

func scan(row interface{ Scan(...any) error }) (policy.Key, error) {
	var k policy.Key
	var l lists
	var created, expires, rotate, used int64
	if err := row.Scan(&k.ID, &k.Owner, &k.Team, &k.Description, &l.grants, &l.bindings, &l.ipRanges,
		&k.State, &k.DisabledReason, &created, &expires, &rotate, &used); err != nil {
		return policy.Key{}, err
	}
	if err := errors.Join(json.Unmarshal([]byte(l.grants), &k.Grants), json.Unmarshal([]byte(l.bindings), &k.Bindings)); err != nil {
		return policy.Key{}, fmt.Errorf("key %s: %w", k.ID, err)
	}
	if l.ipRanges.Valid {
		k.IPRanges = []netip.Prefix{}
		if err := json.Unmarshal([]byte(l.ipRanges.String), &k.IPRanges); err != nil {
			return policy.Key{}, fmt.Errorf("key %s: %w", k.ID, err)
		}
	}
	k.CreatedAt, k.ExpiresAt, k.RotateAfter = time.Unix(created, 0).UTC(), time.Unix(expires, 0).UTC(), time.Unix(rotate, 0).UTC()
	if used > 0 {
		k.LastUsedAt = time.Unix(used, 0).UTC()
	}
	return k, nil
}
