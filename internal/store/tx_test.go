package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/store/storetest"
)

const insertLogin = `INSERT INTO logins (state_mac, sealed, expires_at) VALUES ($1, $2, $3)`

func count(t *testing.T, db *sql.DB, query string, args ...any) (n int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestIsConflict(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s storetest.Store) {
		insert := func(expires any) error {
			_, err := s.DB.ExecContext(t.Context(), insertLogin, []byte("a"), []byte("b"), expires)
			return err
		}
		if err := insert(1); err != nil {
			t.Fatal(err)
		}
		if err := insert(1); !store.IsConflict(fmt.Errorf("wrapped: %w", err)) || store.Retryable(err) {
			t.Errorf("the same primary key again: %v, want a conflict that is not retryable", err)
		}
		if err := insert(nil); err == nil || store.IsConflict(err) {
			t.Errorf("a null where none may be: %v, want another error than a conflict", err)
		}
		session := func(id string) error {
			_, err := s.DB.ExecContext(t.Context(), `INSERT INTO sessions (id, client_id, identity_mac, sealed, code_mac, code_challenge, redirect_uri, code_ends_at,
				code_used, access_ends_at, rotated_at, ends_at, ended) VALUES ($1, 'c', $2, $2, $2, 'c', 'r', 0, 0, 0, 0, 0, 0)`, id, []byte("same"))
			return err
		}
		if err := session("one"); err != nil {
			t.Fatal(err)
		}
		if err := session("two"); !store.IsConflict(err) {
			t.Errorf("the same unique value again: %v is no conflict", err)
		}
		if store.IsConflict(nil) || store.IsConflict(sql.ErrNoRows) {
			t.Error("any error is a conflict")
		}
	})
}

func TestTxIsAllOrNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s storetest.Store) {
		in := func(tx *sql.Tx, mac string) {
			t.Helper()
			if _, err := tx.ExecContext(t.Context(), insertLogin, []byte(mac), []byte("b"), 1); err != nil {
				t.Error(err)
			}
		}
		if err := store.Tx(t.Context(), s.DB, func(tx *sql.Tx) error { in(tx, "kept"); return nil }); err != nil {
			t.Fatal(err)
		}
		changed := errors.New("changed my mind")
		if err := store.Tx(t.Context(), s.DB, func(tx *sql.Tx) error { in(tx, "undone"); return changed }); !errors.Is(err, changed) {
			t.Errorf("Tx = %v, want the error of its function", err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = store.Tx(t.Context(), s.DB, func(tx *sql.Tx) error { in(tx, "undone by panic"); panic("oh") })
		}()
		if n := count(t, s.DB, `SELECT count(*) FROM logins`); n != 1 {
			t.Errorf("%d rows, want the one that was committed", n)
		}
		if n := s.DB.Stats().InUse; n != 0 {
			t.Errorf("%d connections are still in use", n)
		}
	})
}

// TestSerializable: of transactions that read, decide and write at once, each
// sees what the one before it wrote.
func TestSerializable(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s storetest.Store) {
		if _, err := s.DB.ExecContext(t.Context(), insertLogin, []byte("counter"), []byte("b"), 0); err != nil {
			t.Fatal(err)
		}
		increment := func(ctx context.Context, tx *sql.Tx) error {
			var n int64
			if err := tx.QueryRowContext(ctx, `SELECT expires_at FROM logins WHERE state_mac = $1`, []byte("counter")).Scan(&n); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `UPDATE logins SET expires_at = $1 WHERE state_mac = $2`, n+1, []byte("counter"))
			return err
		}
		const workers, times = 4, 25
		var group sync.WaitGroup
		for range workers {
			group.Go(func() {
				for range times {
					if err := store.Serializable(t.Context(), s.DB, func(tx *sql.Tx) error { return increment(t.Context(), tx) }); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		if n := count(t, s.DB, `SELECT expires_at FROM logins`); n != workers*times {
			t.Errorf("counted to %d, want %d", n, workers*times)
		}
	})
}

// TestTxGivesUp: it tries again what may be tried again, not for ever.
func TestTxGivesUp(t *testing.T) {
	s := storetest.SQLite(t)
	tries := 0
	fail := func(err error) error {
		tries = 0
		return store.Tx(t.Context(), s.DB, func(*sql.Tx) error { tries++; return err })
	}
	if err := fail(&pgconn.PgError{Code: "40001"}); !store.Retryable(err) || tries < 2 || tries > 20 {
		t.Errorf("a transaction that always loses: %v after %d tries", err, tries)
	}
	if err := fail(errors.New("no")); err == nil || tries != 1 {
		t.Errorf("a transaction that fails: %v after %d tries, want 1", err, tries)
	}
	ctx, cancel := context.WithCancel(t.Context())
	tries = 0
	err := store.Tx(ctx, s.DB, func(*sql.Tx) error { tries++; cancel(); return &pgconn.PgError{Code: "40P01"} })
	if !errors.Is(err, context.Canceled) || tries != 1 {
		t.Errorf("a transaction whose caller left: %v after %d tries, want Canceled after 1", err, tries)
	}
}

func TestRetryable(t *testing.T) {
	lite := storetest.SQLite(t)
	tx, err := lite.DB.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	conn, err := lite.DB.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), `PRAGMA busy_timeout = 1`); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), `BEGIN IMMEDIATE`); !store.Retryable(err) {
		t.Errorf("a busy file: %v, want it retryable", err)
	}

	pg := storetest.Postgres(t)
	holder, err := pg.DB.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Rollback() }()
	if _, err := holder.ExecContext(t.Context(), `LOCK TABLE logins`); err != nil {
		t.Fatal(err)
	}
	impatient, err := store.Open(t.Context(), pg.Where+"&lock_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	defer impatient.Close()
	if _, err := impatient.ExecContext(t.Context(), `DELETE FROM logins`); !store.Retryable(err) {
		t.Errorf("a locked table: %v, want it retryable", err)
	}
	if store.Retryable(nil) || store.Retryable(sql.ErrNoRows) || store.Retryable(&pgconn.PgError{Code: "08006"}) {
		t.Error("an error that leaves open what was done is retryable")
	}
}
