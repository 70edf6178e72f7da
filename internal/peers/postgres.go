package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Postgres returns the URL of an empty PostgreSQL database, which is dropped
// when the test ends. All tests of a process share one server, which ends with
// the process, however that ends. Its disk writes are real (fsync).
func Postgres(t testing.TB) string {
	t.Helper()
	shared.once.Do(func() { shared.server, shared.err = newPostgres() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server.Database(t)
}

var shared struct {
	once   sync.Once
	server *PostgresServer
	err    error
}

// PostgresServer is a PostgreSQL server of a test's own.
type PostgresServer struct {
	dir        string // Of the data and the socket; only the server's user gets in.
	postgres   string // The program.
	credential *syscall.Credential
	databases  atomic.Int64

	stdin io.Closer     // To close it ends the server and removes dir.
	ended chan struct{} // Closed when its processes have.
}

// StartPostgres starts a server that lives until the test ends.
func StartPostgres(t testing.TB) *PostgresServer {
	t.Helper()
	s, err := newPostgres()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

// Database makes an empty database, drops it when the test ends, and returns
// its URL. Its user is postgres, whom the server trusts; it asks every other
// user for a password.
func (s *PostgresServer) Database(t testing.TB) string {
	t.Helper()
	name := "test_" + strconv.FormatInt(s.databases.Add(1), 10)
	if err := s.exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Errorf("dropping a database: %v", err)
		}
	})
	return "postgres://postgres@/" + name + "?host=" + url.QueryEscape(s.dir)
}

// Kill ends the server by SIGKILL to each of its processes.
func (s *PostgresServer) Kill(t testing.TB) {
	t.Helper()
	conn, err := s.connect()
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	postmaster, _, _ := strings.Cut(string(lock), "\n")
	results, err := conn.Exec(context.Background(), "SELECT pid FROM pg_stat_activity").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	// Its parent, the supervisor, lives on to take note of its death: a dead
	// process that nobody took note of still counts as a running server.
	pids := []string{postmaster}
	for _, row := range results[0].Rows {
		pids = append(pids, string(row[0]))
	}
	for _, text := range pids {
		if pid, err := strconv.Atoi(text); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	_ = conn.Close(context.Background())
	<-s.ended
	_ = s.stdin.Close()
}

// Start starts the server again that was killed.
func (s *PostgresServer) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

func newPostgres() (_ *PostgresServer, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("starting PostgreSQL: %w", err)
		}
	}()
	bin, err := postgresFolder()
	if err != nil {
		return nil, err
	}
	s := &PostgresServer{postgres: filepath.Join(bin, "postgres")}
	if s.dir, err = os.MkdirTemp("", "postgres-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(s.dir)
		}
	}()
	if os.Geteuid() == 0 { // As whom PostgreSQL refuses to run.
		if s.credential, err = unprivileged(); err != nil {
			return nil, err
		}
		if err := os.Chown(s.dir, int(s.credential.Uid), int(s.credential.Gid)); err != nil {
			return nil, err
		}
	}
	initdb := s.command(filepath.Join(bin, "initdb"), "--pgdata="+s.data(), "--username=postgres", "--auth=trust",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(s.data(), "pg_hba.conf"), []byte("local all postgres trust\nlocal all all scram-sha-256\n"), 0o600); err != nil {
		return nil, err
	}
	return s, s.start()
}

// supervisor runs a server until standard input ends, which it does when the
// test's process does. Then it ends the server, without ceremony, and removes
// its folder.
const supervisor = `
exec 3<&0
trap 'over=1; kill -QUIT $server' USR1
"$@" & server=$!
{ read -r _ <&3; kill -USR1 $$; } & watcher=$!
wait $server; wait $server
kill $watcher 2>/dev/null; wait $watcher
if [ "$over" ]; then rm -rf "$0"; fi
`

// start starts the server and waits until it answers.
func (s *PostgresServer) start() error {
	var log output
	cmd := s.command("/bin/sh", "-c", supervisor, s.dir, s.postgres, "-D", s.data(), "-k", s.dir,
		"-c", "listen_addresses=", "-c", "unix_socket_permissions=0700", "-c", "fsync=on", "-c", "shared_buffers=16MB",
		"-c", "max_connections=200", "-c", "jit=off", "-c", "log_min_messages=warning")
	cmd.SysProcAttr.Setpgid = true // Ctrl-C at the terminal is not for it.
	cmd.Stdout, cmd.Stderr = &log, &log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // Until the last of its processes let go of the log.
		close(ended)
	}()
	s.stdin, s.ended = stdin, ended
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		conn, err := s.connect()
		if err == nil {
			return conn.Close(context.Background())
		}
		select {
		case <-ended:
			return fmt.Errorf("it ended:\n%s", &log)
		default:
		}
		if time.Now().After(deadline) {
			s.stop()
			return fmt.Errorf("it is not ready: %w\n%s", err, &log)
		}
	}
}

func (s *PostgresServer) stop() {
	_ = s.stdin.Close()
	<-s.ended
	_ = os.RemoveAll(s.dir) // What the supervisor of a killed server left.
}

func (s *PostgresServer) data() string { return filepath.Join(s.dir, "data") }

func (s *PostgresServer) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential}
	return cmd
}

func (s *PostgresServer) connect() (*pgconn.PgConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return pgconn.Connect(ctx, "postgres://postgres@/postgres?host="+url.QueryEscape(s.dir))
}

func (s *PostgresServer) exec(query string) error {
	conn, err := s.connect()
	if err != nil {
		return err
	}
	_, err = conn.Exec(context.Background(), query).ReadAll()
	return errors.Join(err, conn.Close(context.Background()))
}

// postgresFolder is where the server's programs are. Debian keeps them out of
// the PATH, by version.
func postgresFolder() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // The pattern is good.
	if path, err := exec.LookPath("postgres"); err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		return "", errors.New("postgres is missing: run `make test` (it installs the test peers)")
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// unprivileged is a user that owns nothing of worth.
func unprivileged() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}
