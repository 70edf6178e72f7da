package store_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/store/storetest"
)

// TestBackupOfALiveStore: a copy made while another process writes has all that
// was committed before, and is of one moment.
func TestBackupOfALiveStore(t *testing.T) {
	s := storetest.SQLite(t)
	w := startWriter(t, s.Where, 0)
	dir := t.TempDir()
	for range 3 {
		before := w.await(30)
		to := filepath.Join(dir, "copy.db")
		if err := store.Backup(t.Context(), s.Where, to); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("beside the copy there is more: %v, %v", entries, err)
		}
		if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the copy has mode %v, %v, want 0600", info.Mode(), err)
		}
		db, err := store.Open(t.Context(), to)
		if err != nil {
			t.Fatalf("opening the copy: %v", err)
		}
		if n, last := count(t, db, `SELECT count(*) FROM logins`), count(t, db, `SELECT max(expires_at) FROM logins`); n <= int(before) || n != last+1 {
			t.Errorf("the copy has %d rows up to number %d, want each up to %d at least", n, last, before)
		}
		var verdict string
		if err := db.QueryRowContext(t.Context(), `PRAGMA integrity_check`).Scan(&verdict); err != nil || verdict != "ok" {
			t.Errorf("the copy is %s, %v", verdict, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(to); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	w.rest(0)
}

func TestBackupRefuses(t *testing.T) {
	s := storetest.SQLite(t)
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	for name, content := range map[string]string{"there": "something", "empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	noStore := filepath.Join(dir, "no-store")
	if err := os.WriteFile(noStore, []byte(strings.Repeat("no store ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for situation, test := range map[string]struct {
		from, to string
		want     error
	}{
		"over a file":          {s.Where, there, fs.ErrExist},
		"over an empty file":   {s.Where, filepath.Join(dir, "empty"), fs.ErrExist},
		"over the store":       {s.Where, s.Where, fs.ErrExist},
		"of nothing":           {filepath.Join(dir, "nothing"), filepath.Join(dir, "new"), fs.ErrNotExist},
		"into no folder":       {s.Where, filepath.Join(dir, "no", "folder"), fs.ErrNotExist},
		"of what is no store":  {noStore, filepath.Join(dir, "new"), nil},
		"of another's keeping": {"postgres://ada:hunter2@db/hp", filepath.Join(dir, "new"), nil},
	} {
		err := store.Backup(t.Context(), test.from, test.to)
		if err == nil || (test.want != nil && !errors.Is(err, test.want)) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: Backup = %v, want an error that matches %v", situation, err, test.want)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.Backup(cancelled, s.Where, filepath.Join(dir, "new")); !errors.Is(err, context.Canceled) {
		t.Errorf("a backup that was called off: %v, want Canceled", err)
	}
	if b, err := os.ReadFile(there); err != nil || string(b) != "something" {
		t.Errorf("what was there is %q, %v now", b, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "new*")); len(left) > 0 {
		t.Errorf("refused backups left %v", left)
	}
}
