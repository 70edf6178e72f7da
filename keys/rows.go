package keys

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
)

// record is a key as it stands in the database.
type record struct {
	policy.Key
	macs   [][]byte // Of Key.Secrets, one each.
	mac    []byte   // Of all of it.
	forged bool     // It is not as it was written. Nothing in it is true.
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

const columns = `id, owner, team, description, grants, bindings, identity, ip_ranges, limits, params, verifier_for, jwks, ` +
	`state, state_reason, state_by, created_at, expires_at, rotate_after, version, mac`

// errForged means that a row was written by somebody without the pepper.
var errForged = errors.New("the key's row is not as it was written")

// read returns the key of that id. Errors match [policy.ErrNoSuchKey] unless the
// database failed or was written to by a stranger.
func (s *Store) read(ctx context.Context, q querier, id string) (record, error) {
	list, err := s.query(ctx, q, `k.id = $1`, id)
	switch {
	case err != nil:
		return record{}, err
	case len(list) == 0:
		return record{}, policy.ErrNoSuchKey
	case list[0].forged:
		return record{}, fmt.Errorf("reading key %s: %w", id, errForged)
	}
	return list[0], nil
}

// query returns the keys for which the condition holds, newest first, forged ones
// too: a row that is bad must not hide those that are good. Keys and secrets are
// read in one statement, so that they are of one moment.
func (s *Store) query(ctx context.Context, q querier, where string, args ...any) ([]record, error) {
	rows, err := q.QueryContext(ctx, `SELECT k.`+strings.ReplaceAll(columns, ", ", ", k.")+`,
		s.number, s.mac, s.created_at, s.ends_at, s.last_used_at, s.last_used_from
		FROM machine_keys k LEFT JOIN machine_key_secrets s ON s.key_id = k.id
		WHERE `+where+` ORDER BY k.created_at DESC, k.id DESC, s.number`, args...)
	if err != nil {
		return nil, fmt.Errorf("reading keys: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var list []record
	for rows.Next() {
		var secret secretRow
		r := scan(rows, &secret)
		n := len(list)
		if n == 0 || list[n-1].ID != r.ID {
			list, n = append(list, r), n+1
		}
		list[n-1].hold(secret)
		list[n-1].forged = list[n-1].forged || r.forged
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading keys: %w", err)
	}
	for i, r := range list {
		want, err := s.rowMAC(r)
		if err != nil || !hmac.Equal(r.mac, want) {
			list[i].forged = true
		}
	}
	return list, nil
}

// secretRow is a secret's row, or NULLs where a key has none.
type secretRow struct {
	number, created, ends, used sql.NullInt64
	mac                         []byte
	usedFrom                    sql.NullString
}

func (r *record) hold(row secretRow) {
	if !row.number.Valid {
		return
	}
	secret := policy.Secret{
		Number: row.number.Int64, CreatedAt: unix(row.created.Int64), EndsAt: unix(row.ends.Int64),
		LastUsedAt: unix(row.used.Int64), LastUsedFrom: row.usedFrom.String,
	}
	if secret.LastUsedAt.After(r.LastUsedAt) {
		r.LastUsedAt = secret.LastUsedAt
	}
	r.Secrets, r.macs = append(r.Secrets, secret), append(r.macs, row.mac)
}

const upsert = `INSERT INTO machine_keys (` + columns + `) VALUES ()
		ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, team = excluded.team, description = excluded.description,
		grants = excluded.grants, bindings = excluded.bindings, identity = excluded.identity, ip_ranges = excluded.ip_ranges,
		limits = excluded.limits, params = excluded.params, verifier_for = excluded.verifier_for, jwks = excluded.jwks,
		state = excluded.state, state_reason = excluded.state_reason, state_by = excluded.state_by, expires_at = excluded.expires_at,
		rotate_after = excluded.rotate_after, version = excluded.version, mac = excluded.mac`

// write inserts the row, or updates it where it is there.
func (s *Store) write(ctx context.Context, tx *sql.Tx, r record) error {
	values, err := r.values()
	if err != nil {
		return err
	}
	mac, err := s.rowMAC(r)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, strings.Replace(upsert, "VALUES ()", "VALUES ("+placeholders(1, len(values)+1)+")", 1), append(values, mac)...)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM machine_key_secrets WHERE key_id = $1`, r.ID); err != nil {
		return err
	}
	for i, secret := range r.Secrets {
		if _, err := tx.ExecContext(ctx, `INSERT INTO machine_key_secrets (key_id, number, mac, created_at, ends_at, last_used_at, last_used_from)
			VALUES ($1, $2, $3, $4, $5, $6, $7)`, r.ID, secret.Number, r.macs[i], secret.CreatedAt.Unix(), toUnix(secret.EndsAt),
			toUnix(secret.LastUsedAt), secret.LastUsedFrom); err != nil {
			return err
		}
	}
	return nil
}

// values are the row's columns, apart from its MAC.
func (r record) values() ([]any, error) {
	var err error
	text := func(v any) string {
		b, e := json.Marshal(v)
		err = errors.Join(err, e)
		return string(b)
	}
	values := []any{
		r.ID, r.Owner, r.Team, r.Description, text(r.Grants), text(r.Bindings), string(r.Identity), text(r.IPRanges), text(r.Limits),
		text(r.Params), text(r.VerifierFor), r.JWKS, string(r.State), r.StateReason, r.StateBy, r.CreatedAt.Unix(), r.ExpiresAt.Unix(), r.RotateAfter.Unix(), r.Version,
	}
	return values, err
}

// rowMAC covers every column and what limits the secrets, so that who can write
// into the database can neither widen a key nor prolong a secret. When a secret
// was last used is no limit.
func (s *Store) rowMAC(r record) ([]byte, error) {
	values, err := r.values()
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	for i, secret := range r.Secrets {
		values = append(values, secret.Number, string(r.macs[i]), secret.CreatedAt.Unix(), toUnix(secret.EndsAt))
	}
	h := hmac.New(sha256.New, s.pepper)
	h.Write([]byte("hourpass machine key row v1\x00"))
	for _, v := range values {
		text, ok := v.(string)
		if n, isNumber := v.(int64); isNumber {
			text, ok = strconv.FormatInt(n, 10), true
		}
		if !ok {
			return nil, fmt.Errorf("encoding a key: a column of type %T", v)
		}
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
		h.Write([]byte(text))
	}
	return h.Sum(nil), nil
}

// scan reads a row of a key and a secret of it. What is not of the form that
// write gives it was not written here.
func scan(rows *sql.Rows, secret *secretRow) (r record) {
	var grants, bindings, ipRanges, limits, params, verifierFor []byte
	var created, expires, rotate int64
	err := rows.Scan(&r.ID, &r.Owner, &r.Team, &r.Description, &grants, &bindings, &r.Identity, &ipRanges, &limits, &params, &verifierFor, &r.JWKS,
		&r.State, &r.StateReason, &r.StateBy, &created, &expires, &rotate, &r.Version, &r.mac,
		&secret.number, &secret.mac, &secret.created, &secret.ends, &secret.used, &secret.usedFrom)
	for _, column := range []struct {
		text []byte
		into any
	}{{grants, &r.Grants}, {bindings, &r.Bindings}, {ipRanges, &r.IPRanges}, {limits, &r.Limits}, {params, &r.Params}, {verifierFor, &r.VerifierFor}} {
		err = errors.Join(err, json.Unmarshal(column.text, column.into))
	}
	r.forged = err != nil // The error quotes what stands there.
	r.CreatedAt, r.ExpiresAt, r.RotateAfter = unix(created), unix(expires), unix(rotate)
	return r
}

// unix is the time of a column, where 0 is none.
func unix(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

func toUnix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// placeholders is "$1, $2, …" for n arguments from the first on.
func placeholders(first, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(first + i))
	}
	return b.String()
}
