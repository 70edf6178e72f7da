package peers_test

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourpass/hourpass/internal/peers"
)

// ask returns the one value that the last query of the database at the URL gives.
func ask(t *testing.T, url, query string) string {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	results, err := conn.Exec(t.Context(), query).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return string(results[len(results)-1].Rows[0][0])
}

func TestPostgres(t *testing.T) {
	a, b := peers.Postgres(t), peers.Postgres(t)
	ask(t, a, "CREATE TABLE t (); SELECT 1")
	for database, want := range map[string]string{a: "1", b: "0"} {
		if got := ask(t, database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"); got != want {
			t.Errorf("%s has %s tables, want %s", database, got, want)
		}
	}
	if got := ask(t, a, "SHOW fsync"); got != "on" {
		t.Errorf("fsync is %s, want on", got)
	}
	before := ask(t, a, "SELECT pg_postmaster_start_time()")
	if after := ask(t, b, "SELECT pg_postmaster_start_time()"); after != before {
		t.Error("two tests have two servers, want one")
	}
}

func TestPostgresIsKilledAndStartsAgain(t *testing.T) {
	server := peers.StartPostgres(t)
	database := server.Database(t)
	ask(t, database, "CREATE TABLE t (); SELECT 1")
	for range 2 {
		server.Kill(t)
		if conn, err := pgconn.Connect(t.Context(), database); err == nil {
			_ = conn.Close(t.Context())
			t.Error("it answers after Kill")
		}
		server.Start(t)
		if got := ask(t, database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"); got != "1" {
			t.Errorf("%s tables after a restart, want 1", got)
		}
	}
}

// TestPostgresEndsWithItsProcess: even when no clean-up was run.
func TestPostgresEndsWithItsProcess(t *testing.T) {
	const marker = "PEERS_TEST_PRINT_POSTGRES"
	if os.Getenv(marker) != "" { // The process of below.
		_, _ = os.Stdout.WriteString("at " + peers.Postgres(t) + "\n")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), marker+"=1")
	if _, err := child.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	database, err2 := url.Parse(strings.TrimSpace(strings.TrimPrefix(line, "at ")))
	_ = child.Process.Kill()
	_ = child.Wait()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	dir := database.Query().Get("host")
	if dir == "" {
		t.Fatalf("the process printed %q, want a URL with a host", line)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there a minute after its test was killed", dir)
		}
	}
}
