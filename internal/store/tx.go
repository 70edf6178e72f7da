package store

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
)

// Bounds of how often [Tx] tries again, and for how long.
const (
	maxTries    = 10
	maxTrying   = 10 * time.Second
	firstPause  = 4 * time.Millisecond // At most; it doubles each time.
	longestWait = 250 * time.Millisecond
)

// Tx runs do in a transaction: committed if do returns nil, undone otherwise. A
// transaction that lost against another is run again, a bounded number of times,
// so do must have no effect but through its *sql.Tx. If it keeps losing, the
// error is [Retryable].
//
// Each statement sees what was committed before it began: READ COMMITTED.
func Tx(ctx context.Context, db *sql.DB, do func(*sql.Tx) error) error {
	return retry(ctx, db, nil, do)
}

// Serializable is [Tx] for transactions that decide by what they read: the
// outcome is as if they ran one after the other.
func Serializable(ctx context.Context, db *sql.DB, do func(*sql.Tx) error) error {
	return retry(ctx, db, &sql.TxOptions{Isolation: sql.LevelSerializable}, do)
}

func retry(ctx context.Context, db *sql.DB, opts *sql.TxOptions, do func(*sql.Tx) error) error {
	enough := time.NewTimer(maxTrying)
	defer enough.Stop()
	pause := firstPause
	for try := 1; ; try++ {
		err := once(ctx, db, opts, do)
		if !Retryable(err) || try == maxTries {
			return err
		}
		select {
		case <-time.After(rand.N(pause)): //nolint:gosec // Who waits longer is no secret.
			pause = min(2*pause, longestWait)
		case <-enough.C:
			return err
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

func once(ctx context.Context, db *sql.DB, opts *sql.TxOptions, do func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // Of nothing after a commit; when do panics too.
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// Error codes: https://sqlite.org/rescode.html and
// https://www.postgresql.org/docs/current/errcodes-appendix.html.
const (
	sqliteBusy, sqliteLocked                       = 5, 6
	sqliteConstraintPrimaryKey, sqliteUniqueFailed = 1555, 2067

	pgUniqueViolation      = "23505"
	pgSerializationFailure = "40001"
	pgDeadlockDetected     = "40P01"
	pgLockNotAvailable     = "55P03" // After lock_timeout.
)

// IsConflict tells whether err says that a row with that unique value is there
// already.
func IsConflict(err error) bool {
	lite, pg := codes(err)
	return lite == sqliteConstraintPrimaryKey || lite == sqliteUniqueFailed || pg == pgUniqueViolation
}

// Retryable tells whether err says that another transaction was in the way: this
// one changed nothing and may be run again, whole. An error that leaves open
// whether a commit was done is not among them.
func Retryable(err error) bool {
	lite, pg := codes(err)
	switch lite & 0xff { // The primary code.
	case sqliteBusy, sqliteLocked:
		return true
	}
	return pg == pgSerializationFailure || pg == pgDeadlockDetected || pg == pgLockNotAvailable
}

// codes returns the engine's code of err, 0 and "" if it has none.
func codes(err error) (lite int, pg string) {
	var l *sqlite.Error
	if errors.As(err, &l) {
		lite = l.Code()
	}
	var p *pgconn.PgError
	if errors.As(err, &p) {
		pg = p.Code
	}
	return lite, pg
}
