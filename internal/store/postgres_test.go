package store_test

import (
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/peers"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/store/storetest"
)

const password = "hunter2/secret"

func TestURLRefused(t *testing.T) {
	pass := url.QueryEscape(password)
	for situation, test := range map[string]struct{ where, want string }{
		"an unknown setting":            {"postgres://ada:" + pass + "@db/hp?sslmod=verify-full", `"sslmod"`},
		"a setting that stands twice":   {"postgres://ada:" + pass + "@db/hp?sslmode=disable&sslmode=verify-full", `"sslmode"`},
		"a password among the settings": {"postgres://ada@db/hp?password=" + pass, `"password"`},
		"TLS that gives way":            {"postgres://ada:" + pass + "@db/hp?sslmode=prefer", "sslmode=prefer"},
		"an unknown way of TLS":         {"postgres://ada:" + pass + "@db/hp?sslmode=verify", "sslmode"},
		"roots that are not there":      {"postgres://ada:" + pass + "@db/hp?sslrootcert=/nowhere/ca.pem", "/nowhere/ca.pem"},
		"a pool of none":                {"postgres://ada:" + pass + "@db/hp?pool_max_conns=0", "pool_max_conns"},
		"a pool without bounds":         {"postgres://ada:" + pass + "@db/hp?pool_max_conns=100000", "pool_max_conns"},
		"a port that is none":           {"postgres://ada:" + pass + "@db:port/hp", "want postgres://"},
		"a password with a slash":       {"postgres://ada:" + password + "@db/hp", "want postgres://"},
		"a query that is none":          {"postgres://ada:" + pass + "@db/hp?%zz" + pass, "want postgres://"},
		"a fragment":                    {"postgres://ada:" + pass + "@db/hp#" + pass, "want postgres://"},
		"nobody there":                  {"postgres://ada:" + pass + "@127.0.0.1:1/hp?sslmode=disable", "127.0.0.1"},
	} {
		t.Run(situation, func(t *testing.T) {
			_, err := store.Open(t.Context(), test.where)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("Open: %v, want an error about %s", err, test.want)
			}
			if known := store.Validate(test.where); (known == nil) != (situation == "nobody there") {
				t.Errorf("Validate: %v", known)
			}
			for _, secret := range []string{password, pass, "hunter2", "secret"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error tells the password: %v", err)
				}
			}
		})
	}
}

// TestNoWordInTheClear: a server, or whoever answers for it, that says it has no
// TLS gets no further byte unless the URL says so.
func TestNoWordInTheClear(t *testing.T) {
	for query, want := range map[string]int{"": 0, "?sslmode=require": 0, "?sslmode=disable": 8} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		heard := make(chan int, 1)
		go func() {
			defer l.Close()
			conn, err := l.Accept()
			if err != nil {
				heard <- -1
				return
			}
			defer conn.Close()
			first := make([]byte, 8) // An SSLRequest is as long.
			_, _ = io.ReadFull(conn, first)
			if query == "?sslmode=disable" {
				heard <- len(first)
				return
			}
			_, _ = conn.Write([]byte("N"))
			rest, _ := io.Copy(io.Discard, conn)
			heard <- int(rest)
		}()
		if _, err := store.Open(t.Context(), "postgres://ada:hunter2@"+l.Addr().String()+"/hp"+query); err == nil {
			t.Errorf("%q: Open of nothing: no error", query)
		}
		if got := <-heard; got != want {
			t.Errorf("%q: the server heard %d bytes, want %d", query, got, want)
		}
	}
}

func TestPasswords(t *testing.T) {
	s := storetest.Postgres(t)
	at, err := url.Parse(s.Where)
	if err != nil {
		t.Fatal(err)
	}
	database := databaseOf(t, s.Where)
	role := database + "_ada" // Roles are the server's, not the database's.
	for _, statement := range []string{
		`CREATE ROLE ` + role + ` LOGIN PASSWORD '` + password + `'`,
		`GRANT ALL ON ALL TABLES IN SCHEMA public TO ` + role,
	} {
		if _, err := s.DB.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, err := s.DB.Exec(`DROP OWNED BY ` + role + `; DROP ROLE ` + role); err != nil {
			t.Error(err)
		}
	})
	passfile := filepath.Join(t.TempDir(), "passfile")
	if err := os.WriteFile(passfile, []byte("*:*:"+database+":"+role+":"+password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	where := func(user *url.Userinfo, passfile string) string {
		u := *at
		u.User = user
		if passfile != "" {
			u.RawQuery += "&passfile=" + url.QueryEscape(passfile)
		}
		return u.String()
	}
	for situation, good := range map[string]string{
		"in the URL": where(url.UserPassword(role, password), ""),
		"in a file":  where(url.User(role), passfile),
	} {
		db, err := store.Open(t.Context(), good)
		if err != nil {
			t.Errorf("%s: %v", situation, err)
			continue
		}
		_ = db.Close()
	}
	for situation, bad := range map[string]string{
		"none":                    where(url.User(role), ""),
		"another":                 where(url.UserPassword(role, "hunter2/sekret"), ""),
		"another before a file's": where(url.UserPassword(role, "hunter2/sekret"), passfile),
	} {
		if _, err := store.Open(t.Context(), bad); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: Open = %v, want an error without a password", situation, err)
		}
	}
	t.Setenv("PGPASSFILE", passfile)
	db, err := store.Open(t.Context(), where(url.User(role), ""))
	if err != nil {
		t.Fatalf("in the file of PGPASSFILE: %v", err)
	}
	_ = db.Close()
}

// TestSession: every wait has a bound, and a commit that was answered is kept.
func TestSession(t *testing.T) {
	where := peers.Postgres(t)
	first, err := store.Create(t.Context(), where)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := first.ExecContext(t.Context(), `ALTER ROLE postgres IN DATABASE `+databaseOf(t, where)+` SET synchronous_commit = off`); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]map[string]string{
		"": {
			"application_name": "hourpass", "synchronous_commit": "on", "lock_timeout": "10s", "statement_timeout": "30s",
			"idle_in_transaction_session_timeout": "1min", "transaction_isolation": "read committed",
		},
		"&application_name=issuer-2&statement_timeout=5000&pool_max_conns=3": {
			"application_name": "issuer-2", "statement_timeout": "5s", "lock_timeout": "10s",
		},
	} {
		db, err := store.Open(t.Context(), where+query)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for setting, value := range want {
			var got string
			if err := db.QueryRowContext(t.Context(), `SHOW `+setting).Scan(&got); err != nil || got != value {
				t.Errorf("with %q, %s is %q, %v, want %q", query, setting, got, err, value)
			}
		}
		if n := db.Stats().MaxOpenConnections; query != "" && n != 3 {
			t.Errorf("up to %d connections, want 3", n)
		}
	}
}

func databaseOf(t *testing.T, where string) string {
	t.Helper()
	u, err := url.Parse(where)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}
