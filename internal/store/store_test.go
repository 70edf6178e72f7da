package store_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/hourpass/hourpass/internal/peers"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/store/storetest"
)

func TestNoFileBySurprise(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a b?c#d%20e.db") // What a URL would take for more than a path.
	if _, err := store.Open(t.Context(), path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Open of nothing: %v, want ErrNotExist", err)
	}
	db, err := store.Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || info.Size() == 0 {
		t.Errorf("the file is %+v, %v, want a store with mode 0600", info, err)
	}
	if _, err := store.Create(t.Context(), path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a store: %v, want ErrExist", err)
	}
	again, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatalf("Open of an existing store: %v", err)
	}
	defer again.Close()

	empty := filepath.Join(dir, "empty.db")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), empty); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of an empty file: %v, want ErrNotExist", err)
	}
	t.Chdir(dir)
	relative, err := store.Create(t.Context(), "relative.db")
	if err != nil {
		t.Fatalf("Create with a relative path: %v", err)
	}
	defer relative.Close()
	if _, err := os.Stat(filepath.Join(dir, "relative.db")); err != nil {
		t.Error(err)
	}
}

func TestNoDatabaseBySurprise(t *testing.T) {
	where := peers.Postgres(t)
	if _, err := store.Open(t.Context(), where); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Open of an empty database: %v, want ErrNotExist", err)
	}
	db, err := store.Create(t.Context(), where)
	if err != nil {
		t.Fatalf("Create after Open refused: %v", err)
	}
	defer db.Close()
	if _, err := store.Create(t.Context(), where); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a store: %v, want ErrExist", err)
	}
	again, err := store.Open(t.Context(), where)
	if err != nil {
		t.Fatalf("Open of an existing store: %v", err)
	}
	defer again.Close()

	foreign := storetest.Postgres(t)
	if _, err := foreign.DB.ExecContext(t.Context(), `DROP TABLE goose_db_version`); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Create(t.Context(), foreign.Where); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create among somebody else's tables: %v, want ErrExist", err)
	}
	if _, err := store.Open(t.Context(), foreign.Where); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of somebody else's tables: %v, want ErrNotExist", err)
	}
}

// TestManyCreate: of programs that start at once one makes the schema.
func TestManyCreate(t *testing.T) {
	where := peers.Postgres(t)
	const programs = 6
	results := make(chan error, programs)
	for range programs {
		go func() {
			db, err := store.Create(t.Context(), where)
			if err == nil {
				err = db.Close()
			}
			results <- err
		}()
	}
	made := 0
	for range programs {
		switch err := <-results; {
		case err == nil:
			made++
		case !errors.Is(err, fs.ErrExist):
			t.Errorf("Create beside others: %v, want nil or ErrExist", err)
		}
	}
	if made != 1 {
		t.Errorf("%d of %d made the store, want 1", made, programs)
	}
}

func TestNewer(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s storetest.Store) {
		if _, err := s.DB.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, $1)`, true); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(t.Context(), s.Where); !errors.Is(err, store.ErrNewer) {
			t.Errorf("Open of a later release's store: %v, want ErrNewer", err)
		}
	})
}

// TestBytes: what looks like a number stays bytes, whatever a column's type makes
// of texts.
func TestBytes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s storetest.Store) {
		for _, b := range [][]byte{[]byte("00123"), []byte("1e3"), {0, 0xff}, {}} {
			if _, err := s.DB.ExecContext(t.Context(), `INSERT INTO logins (state_mac, sealed, expires_at) VALUES ($1, $1, 0)`, b); err != nil {
				t.Fatal(err)
			}
			var got []byte
			if err := s.DB.QueryRowContext(t.Context(), `SELECT sealed FROM logins WHERE state_mac = $1`, b).Scan(&got); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%q comes back as %q, %v", b, got, err)
			}
		}
	})
}

func TestForeignKeys(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s storetest.Store) {
		if _, err := s.DB.ExecContext(t.Context(), `INSERT INTO machine_key_secrets (key_id, number, mac, created_at, ends_at) VALUES ('nobody', 1, $1, 0, 0)`, []byte("m")); err == nil || store.IsConflict(err) {
			t.Errorf("a secret of no key: %v, want it refused, and not as a conflict", err)
		}
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s storetest.Store) {
		if n := s.DB.Stats().MaxOpenConnections; n != 16 {
			t.Errorf("up to %d connections, want 16", n)
		}
	})
}

func TestName(t *testing.T) {
	for where, want := range map[string]string{
		"/var/lib/issuer.db":                          "/var/lib/issuer.db",
		"postgres://ada:hunter2@db/hp?passfile=/x":    "postgres://ada@db/hp",
		"postgresql://db:5433/hp":                     "postgresql://db:5433/hp",
		"postgres://ada:hunter2@db:port/hp":           "a PostgreSQL database",
		"postgres://ada@/hp?host=%2Frun%2Fpostgresql": "postgres://ada@/hp",
	} {
		if got := store.Name(where); got != want {
			t.Errorf("Name(%q) = %q, want %q", where, got, want)
		}
	}
}
