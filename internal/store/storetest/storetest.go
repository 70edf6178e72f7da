// Package storetest gives tests stores of each engine. Only tests import it.
package storetest

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/hourpass/hourpass/internal/peers"
	"github.com/hourpass/hourpass/internal/store"
)

// Store is a new store that is closed and removed when the test ends.
type Store struct {
	DB    *sql.DB
	Where string // For [store.Open].
}

// Each runs the test on each engine, as a subtest with a new store.
func Each(t *testing.T, test func(*testing.T, Store)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, Postgres(t)) })
}

// SQLite makes a store that is a file.
func SQLite(t testing.TB) Store {
	t.Helper()
	return create(t, filepath.Join(t.TempDir(), "issuer.db"))
}

// Postgres makes a store that is a database of the tests' server.
func Postgres(t testing.TB) Store {
	t.Helper()
	return create(t, peers.Postgres(t))
}

func create(t testing.TB, where string) Store {
	t.Helper()
	db, err := store.Create(t.Context(), where)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return Store{db, where}
}
