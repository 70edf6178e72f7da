package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/peers"
	"github.com/hourpass/hourpass/internal/store"
)

// configure writes a configuration in dir with the store at where.
func configure(t *testing.T, dir, where string) (config string) {
	t.Helper()
	config = filepath.Join(dir, "issuer.yaml")
	text := fmt.Sprintf(`
url: http://127.0.0.1:8080
audiences: [models]
store: %q
signing_keys: %[2]s/state/signing-keys.json
key_encryption_key: %[2]s/state/kek
pepper: %[2]s/state/pepper
audit: %[2]s/audit.jsonl
providers: [{name: corp, issuer: "https://idp.example", client_id: hourpass}]
grants: [{name: faq, scopes: ["chat:faq-bot"], members: [{provider: corp, groups: [all]}]}]
`, where, dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

// run is the program with these arguments; printed is all it printed.
func run(t *testing.T, args ...string) (printed string, err error) {
	t.Helper()
	var out bytes.Buffer
	cmd := command()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestBackupAndRestore(t *testing.T) {
	dir := t.TempDir()
	where, to := filepath.Join(dir, "state", "issuer.db"), filepath.Join(dir, "copy.db")
	config := configure(t, dir, where)
	if out, err := run(t, "init", "--config", config); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	live, err := store.Open(t.Context(), where)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	if _, err := live.ExecContext(t.Context(), `INSERT INTO logins (state_mac, sealed, expires_at) VALUES ($1, $1, 7)`, []byte("a")); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "backup", "--config", config, "--to", to); err != nil || !strings.Contains(out, to) {
		t.Fatalf("backup: %v\n%s", err, out)
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy has mode %v, %v, want 0600", info.Mode(), err)
	}
	if _, err := run(t, "backup", "--config", config, "--to", to); err == nil {
		t.Error("backup over a copy: no error")
	}
	if _, err := run(t, "backup", "--config", config); err == nil || !strings.Contains(err.Error(), `"to"`) {
		t.Errorf("backup to nowhere: %v, want it to ask for --to", err)
	}

	restored, err := store.Open(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer restored.Close()
	var got int
	if err := restored.QueryRowContext(t.Context(), `SELECT expires_at FROM logins`).Scan(&got); err != nil || got != 7 {
		t.Errorf("the copy's row is %d, %v, want 7", got, err)
	}
}

// TestInitOnPostgres: the second of two replicas takes the secrets of the first
// and must not make its own.
func TestInitOnPostgres(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	// The server trusts this user, so the password is never looked at.
	where := strings.Replace(peers.Postgres(t), "postgres@", "postgres:hunter2@", 1)
	out, err := run(t, "init", "--config", configure(t, first, where))
	if err != nil || !strings.Contains(out, "made the store: postgres://postgres@/") || strings.Contains(out, "hunter2") {
		t.Fatalf("init: %v, want the store's name without the password\n%s", err, out)
	}
	out, err = run(t, "init", "--config", configure(t, second, where))
	if err == nil || strings.Contains(err.Error()+out, "hunter2") {
		t.Errorf("init of another with the same database: %v, want an error without the password\n%s", err, out)
	}
	if made, _ := filepath.Glob(filepath.Join(second, "state", "*")); len(made) > 0 {
		t.Errorf("the refused init made %v", made)
	}
	if out, err := run(t, "backup", "--config", configure(t, first, where), "--to", filepath.Join(first, "copy")); err == nil || !strings.Contains(err.Error(), "pg_dump") {
		t.Errorf("backup: %v, want it to name pg_dump\n%s", err, out)
	}
	out, err = run(t, "validate", "--config", configure(t, first, "postgres://ada:hunter2@db/hp?sslmod=disable"))
	if err == nil || !strings.Contains(err.Error(), "sslmod") || strings.Contains(err.Error()+out, "hunter2") {
		t.Errorf("validate of a bad URL: %v, want it told without the password\n%s", err, out)
	}
}
