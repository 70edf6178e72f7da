package peers

import (
	"bufio"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// RedisServer is a Redis server of a test's own. It keeps what it is told in a
// file, and has it again when it is started again.
type RedisServer struct {
	Addr string // On loopback.

	dir     string
	options []string
	process *process
}

// StartRedis starts a server that lives until the test ends, with further options
// of redis-server's command line. With the option --tls-port its value is
// replaced by the port.
func StartRedis(t testing.TB, options ...string) *RedisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		missing(t, "redis-server")
	}
	s := &RedisServer{dir: t.TempDir(), options: options}
	// A port that is free may be taken by the time the server wants it.
	for range 5 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s.Addr = l.Addr().String()
		_ = l.Close()
		if s.start(t) {
			return s
		}
	}
	t.Fatal("redis-server does not start")
	return nil
}

// start starts the server and tells whether it answers.
func (s *RedisServer) start(t testing.TB) bool {
	t.Helper()
	_, port, _ := strings.Cut(s.Addr, ":")
	args := []string{"--bind", "127.0.0.1", "--dir", s.dir, "--appendonly", "yes", "--save", "", "--port", port}
	for i := 0; i < len(s.options); i++ {
		args = append(args, s.options[i])
		if s.options[i] == "--tls-port" {
			args = append(args, port, "--port", "0")
			i++
		}
	}
	s.process = start(t, "redis-server", exec.Command("redis-server", args...))
	go func(lines <-chan string) {
		for range lines { // What it prints is of no use.
		}
	}(s.process.lines)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if s.answers() {
			return true
		}
		select {
		case <-s.process.done:
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return false
}

// answers tells whether something that speaks Redis, or TLS, is there and has
// read what it had kept.
func (s *RedisServer) answers() bool {
	conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	if strings.Contains(strings.Join(s.options, " "), "--tls-port") {
		return true
	}
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write([]byte("PING\r\n"))
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && !strings.HasPrefix(line, "-LOADING")
}

// Kill ends the server by SIGKILL.
func (s *RedisServer) Kill() { s.process.stop() }

// Start starts the server again that was killed, at the same address.
func (s *RedisServer) Start(t testing.TB) {
	t.Helper()
	if !s.start(t) {
		t.Fatal("redis-server does not start again")
	}
}

// StartRedisCluster starts three servers that share the slots of a cluster.
func StartRedisCluster(t testing.TB) []*RedisServer {
	t.Helper()
	var nodes []*RedisServer
	args := []string{"--cluster", "create"}
	for range 3 {
		s := StartRedis(t, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(freePort(t)))
		nodes, args = append(nodes, s), append(args, s.Addr)
	}
	if out, err := exec.Command("redis-cli", append(args, "--cluster-yes")...).CombinedOutput(); err != nil {
		t.Fatalf("making a cluster: %v\n%s", err, out)
	}
	for _, s := range nodes { // Each hears of it in its own time.
		for end := time.Now().Add(patience); ; {
			out, err := exec.Command("redis-cli", "-u", "redis://"+s.Addr, "CLUSTER", "INFO").CombinedOutput()
			if err == nil && strings.Contains(string(out), "cluster_state:ok") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the cluster does not come up: %v\n%s", err, out)
			}
		}
	}
	return nodes
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}
