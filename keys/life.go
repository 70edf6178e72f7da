package keys

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/keys/format"
)

// Create keeps a new key that is like k, with an id and times of its own, and
// returns it with its one secret text, which is never to be had again; a key
// with public keys has none. The caller has decided that k's owner may have it.
// also, if not nil, is done in the same transaction, as in all that follows.
func (s *Store) Create(ctx context.Context, k policy.Key, life time.Duration, now time.Time, also func(*sql.Tx) error) (policy.Key, string, error) {
	if life <= 0 || life > MaxLife {
		return policy.Key{}, "", fmt.Errorf("a key lives up to %s", MaxLife)
	}
	now = now.UTC().Truncate(time.Second)
	k.ID = format.NewID()
	k.State, k.StateReason, k.StateBy, k.LastUsedAt, k.Secrets, k.Version = policy.Active, "", "", time.Time{}, nil, 1
	k.CreatedAt, k.ExpiresAt, k.RotateAfter = now, now.Add(life), now.Add(min(RotateEvery, life))
	if k.Identity == "" {
		k.Identity = policy.Required
	}
	r := record{Key: k}
	secret := s.addSecret(&r, 1, now)
	if k.JWKS != "" {
		// Its row notes the uses of the public keys; no text opens it.
		secret, r.macs[0] = "", s.secretMAC("")
	}
	err := store.Tx(ctx, s.db, func(tx *sql.Tx) error { return errors.Join(s.write(ctx, tx, r), do(tx, also)) })
	if err != nil {
		return policy.Key{}, "", fmt.Errorf("creating a key: %w", err)
	}
	return r.Key, secret, nil
}

// addSecret gives the record a fresh secret and returns its text.
func (s *Store) addSecret(r *record, number int64, now time.Time) string {
	text := format.New(r.ID)
	r.Secrets = append(r.Secrets, policy.Secret{Number: number, CreatedAt: now})
	r.macs = append(r.macs, s.secretMAC(text))
	return text
}

// Update lets change alter the key's owner, team, description, grants, bindings,
// identity, networks, limits, parameters, verifier_for, state and expiry, and
// keeps the result; if change returns an error, nothing is altered. version is
// the one that the caller saw, or 0 for any. Errors match
// [policy.ErrNoSuchKey], [policy.ErrKeyChanged], [policy.ErrKeyFinal], or are change's.
func (s *Store) Update(ctx context.Context, id string, version int64, change func(*policy.Key) error, also func(*sql.Tx) error) (policy.Key, error) {
	return s.alter(ctx, id, version, func(r *record) error {
		k := r.Key
		if err := change(&k); err != nil {
			return err
		}
		k.ID, k.CreatedAt, k.Secrets, k.JWKS = r.ID, r.CreatedAt, r.Secrets, r.JWKS
		r.Key = k
		r.setRotation() // The key's end may have moved.
		if k.State == policy.Revoked || k.State == policy.Deleted {
			r.Secrets, r.macs, r.JWKS = nil, nil, "" // What is not there can't be opened.
		}
		return nil
	}, also)
}

// Rotate gives the key a fresh secret and returns its text. The one before works
// for overlap longer, up to [MaxOverlap], and ends by itself; an overlap of zero
// ends all others at once. Errors match [policy.ErrTwoSecrets] and [policy.ErrNoSecrets] too.
func (s *Store) Rotate(ctx context.Context, id string, version int64, overlap time.Duration, now time.Time, also func(*sql.Tx) error) (policy.Key, string, error) {
	if overlap < 0 || overlap > MaxOverlap {
		return policy.Key{}, "", fmt.Errorf("an overlap is up to %s", MaxOverlap)
	}
	now = now.UTC().Truncate(time.Second)
	secret := ""
	k, err := s.alter(ctx, id, version, func(r *record) error {
		if r.JWKS != "" || len(r.Secrets) == 0 {
			return policy.ErrNoSecrets
		}
		number := r.Version + 1 // Never that of one that was ended: a request that it opened may be on its way.
		r.dropEnded(now)
		switch {
		case overlap == 0:
			r.endSecrets(func(policy.Secret) bool { return true })
		case len(r.Secrets) > 1:
			return policy.ErrTwoSecrets
		}
		// An end that is set already stands: who rotates again and again would
		// otherwise keep one secret alive for ever.
		end := now.Add(overlap)
		for i, s := range r.Secrets {
			if s.EndsAt.IsZero() || end.Before(s.EndsAt) {
				r.Secrets[i].EndsAt = end
			}
		}
		secret = s.addSecret(r, number, now)
		r.setRotation()
		return nil
	}, also)
	if err != nil {
		return policy.Key{}, "", err
	}
	return k, secret, nil
}

// Enrol puts other public keys in the place of those that the key was enrolled
// with. An overlap is theirs to make: a set holds several. Errors match
// [policy.ErrSecrets] too.
func (s *Store) Enrol(ctx context.Context, id string, version int64, jwks string, now time.Time, also func(*sql.Tx) error) (policy.Key, error) {
	return s.alter(ctx, id, version, func(r *record) error {
		if r.JWKS == "" || jwks == "" {
			return policy.ErrSecrets
		}
		r.JWKS = jwks
		for i := range r.Secrets {
			r.Secrets[i].CreatedAt = now.UTC().Truncate(time.Second) // Stands for the public keys.
		}
		r.setRotation()
		return nil
	}, also)
}

// setRotation says when the newest secret is due to be replaced: in time, or when
// the key ends.
func (r *record) setRotation() {
	r.RotateAfter = r.ExpiresAt
	if n := len(r.Secrets); n > 0 {
		if due := r.Secrets[n-1].CreatedAt.Add(RotateEvery); due.Before(r.ExpiresAt) {
			r.RotateAfter = due
		}
	}
}

// EndSecret ends the secret of that number now. The last one is not ended: that
// is to disable the key.
func (s *Store) EndSecret(ctx context.Context, id string, version, number int64, now time.Time, also func(*sql.Tx) error) (policy.Key, error) {
	return s.alter(ctx, id, version, func(r *record) error {
		r.dropEnded(now)
		before := len(r.Secrets)
		r.endSecrets(func(secret policy.Secret) bool { return secret.Number == number && before > 1 })
		if len(r.Secrets) == before {
			return policy.ErrLastSecret
		}
		r.setRotation() // What is left may be the older one.
		return nil
	}, also)
}

// alter changes a record within a transaction.
func (s *Store) alter(ctx context.Context, id string, version int64, change func(*record) error, also func(*sql.Tx) error) (policy.Key, error) {
	var r record
	err := store.Tx(ctx, s.db, func(tx *sql.Tx) (err error) {
		if r, err = s.read(ctx, tx, id); err != nil {
			return err
		}
		if version != 0 && version != r.Version {
			return policy.ErrKeyChanged
		}
		before := r.State
		if err := change(&r); err != nil {
			return err
		}
		if before == policy.Deleted || before == policy.Revoked && r.State != policy.Deleted {
			return policy.ErrKeyFinal
		}
		// Claims the version, so that of two changes one wins and the other knows.
		res, err := tx.ExecContext(ctx, `UPDATE machine_keys SET version = version + 1 WHERE id = $1 AND version = $2`, id, r.Version)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(policy.ErrKeyChanged, err)
		}
		r.Version++
		return errors.Join(s.write(ctx, tx, r), do(tx, also))
	})
	s.Forget(id)
	if err != nil {
		return policy.Key{}, fmt.Errorf("changing a key: %w", err)
	}
	return r.Key, nil
}

// dropEnded forgets the secrets that have ended.
func (r *record) dropEnded(now time.Time) {
	r.endSecrets(func(secret policy.Secret) bool { return !secret.EndsAt.IsZero() && !now.Before(secret.EndsAt) })
}

func (r *record) endSecrets(ended func(policy.Secret) bool) {
	var live []policy.Secret
	var macs [][]byte
	for i, secret := range r.Secrets {
		if !ended(secret) {
			live, macs = append(live, secret), append(macs, r.macs[i])
		}
	}
	r.Secrets, r.macs = live, macs
}

func do(tx *sql.Tx, also func(*sql.Tx) error) error {
	if also == nil {
		return nil
	}
	return also(tx)
}
