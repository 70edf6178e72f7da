package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/hourpass/hourpass/internal/store"
)

func TestNoStoreBySurprise(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c#d.db") // What a URL would take for more than a path.
	if _, err := store.Open(t.Context(), path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Open of nothing: %v, want ErrNotExist", err)
	}
	db, err := store.Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v, want 0600", info.Mode(), err)
	}
	if _, err := store.Create(t.Context(), path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a store: %v, want ErrExist", err)
	}
	again, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatalf("Open of an existing store: %v", err)
	}
	defer again.Close()
}

func TestIsConflict(t *testing.T) {
	db, err := store.Create(t.Context(), filepath.Join(t.TempDir(), "issuer.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	insert := `INSERT INTO logins (state_mac, sealed, expires_at) VALUES ('a', 'b', $1)`
	if _, err := db.ExecContext(t.Context(), insert, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), insert, 1); !store.IsConflict(err) {
		t.Errorf("the same key again: %v is no conflict", err)
	}
	if _, err := db.ExecContext(t.Context(), insert, nil); err == nil || store.IsConflict(err) {
		t.Errorf("a null where none may be: %v, want another error than a conflict", err)
	}
	if _, err := db.ExecContext(t.Context(), `INSERT INTO machine_key_secrets (key_id, number, mac, created_at, ends_at) VALUES ('nobody', 1, 'm', 0, 0)`); err == nil {
		t.Error("a secret of no key is taken: foreign keys are off")
	}
}
