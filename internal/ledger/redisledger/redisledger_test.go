package redisledger_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/ledger/ledgertest"
	"github.com/hourpass/hourpass/internal/ledger/redisledger"
	"github.com/hourpass/hourpass/internal/peers"
)

func open(t testing.TB, c redisledger.Config) *redisledger.Ledger {
	t.Helper()
	l, err := redisledger.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// subject is an engine on a server, with keys of its own.
func subject(t *testing.T, addr, prefix string) ledgertest.Subject {
	l := open(t, redisledger.Config{URL: "redis://" + addr, Prefix: prefix + ":" + t.Name() + ":"})
	return ledgertest.Subject{Engine: l, Now: time.Now, Checks: 1, Lapse: func() {
		for end := time.Now().Add(10 * time.Second); ; {
			b, err := l.Balances(t.Context(), []string{"a"})
			if err != nil || time.Now().After(end) {
				t.Fatalf("the lease does not end: %+v, %v", b, err)
			}
			if b[0].Held == 0 {
				return
			}
		}
	}}
}

func TestLedger(t *testing.T) {
	server := peers.StartRedis(t)
	ledgertest.Run(t, func(t *testing.T) ledgertest.Subject { return subject(t, server.Addr, "one") })
}

func TestCluster(t *testing.T) {
	nodes := peers.StartRedisCluster(t)
	ledgertest.Run(t, func(t *testing.T) ledgertest.Subject { return subject(t, nodes[1].Addr, "cluster") })
}

func claim(spent, need int64) []ledger.Claim {
	return []ledger.Claim{{Account: "a", Ends: time.Now().Add(time.Hour), Limit: 100, Spent: spent, Need: need, Want: need}}
}

func sync(t testing.TB, l ledger.Engine, holder string, spent, need int64, want ledger.Share) {
	t.Helper()
	got, err := l.Sync(t.Context(), holder, time.Minute, claim(spent, need))
	if err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("Sync(%s, spent %d, need %d) = %+v, %v, want %+v", holder, spent, need, got, err, want)
	}
}

// TestRestart kills the server: meanwhile each question fails in time, and then it
// has what it was told.
func TestRestart(t *testing.T) {
	server := peers.StartRedis(t)
	l := open(t, redisledger.Config{URL: "redis://" + server.Addr})
	sync(t, l, "v", 30, 10, ledger.Share{Hold: 10, Spent: 30})
	server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if got, err := l.Sync(ctx, "v", time.Minute, claim(40, 10)); err == nil || ctx.Err() != nil {
		t.Errorf("Sync with a dead server = %+v, %v, %v", got, err, ctx.Err())
	}
	server.Start(t)
	sync(t, l, "v", 40, 10, ledger.Share{Hold: 10, Spent: 40})
	if _, err := exec.Command("redis-cli", "-u", "redis://"+server.Addr, "SCRIPT", "FLUSH").CombinedOutput(); err != nil {
		t.Fatal(err)
	}
	sync(t, l, "w", 5, 10, ledger.Share{Hold: 10, Spent: 45, Held: 10})
	// All is lost: who lives tells it anew.
	if _, err := exec.Command("redis-cli", "-u", "redis://"+server.Addr, "FLUSHALL").CombinedOutput(); err != nil {
		t.Fatal(err)
	}
	sync(t, l, "v", 41, 10, ledger.Share{Hold: 10, Spent: 41})
	sync(t, l, "w", 5, 10, ledger.Share{Hold: 10, Spent: 46, Held: 10})
}

// TestForgotten has keys end an hour after their window.
func TestForgotten(t *testing.T) {
	server := peers.StartRedis(t)
	l := open(t, redisledger.Config{URL: "redis://" + server.Addr})
	sync(t, l, "v", 30, 10, ledger.Share{Hold: 10, Spent: 30})
	if _, err := l.Sync(t.Context(), "v", time.Minute, []ledger.Claim{{Account: "c", Limit: 5, Need: 1, Want: 1}}); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]time.Duration{"hourpass:ledger:{a}": 2 * time.Hour, "hourpass:ledger:{c}": time.Hour} {
		out, err := exec.Command("redis-cli", "-u", "redis://"+server.Addr, "PTTL", key).Output()
		left, err2 := time.ParseDuration(strings.TrimSpace(string(out)) + "ms")
		if errors.Join(err, err2) != nil || left > want || left < want-time.Minute {
			t.Errorf("%s ends in %s, %v, want %s", key, left, errors.Join(err, err2), want)
		}
	}
}

func TestPassword(t *testing.T) {
	const secret = "a-word-that-must-not-show"
	server := peers.StartRedis(t, "--requirepass", secret)
	l := open(t, redisledger.Config{URL: "redis://" + server.Addr, Password: secret})
	sync(t, l, "v", 30, 10, ledger.Share{Hold: 10, Spent: 30})
	for _, bad := range []redisledger.Config{
		{URL: "redis://" + server.Addr},
		{URL: "redis://default:" + secret + "x@" + server.Addr},
		{URL: "redis://" + server.Addr, Password: secret + "x"},
		{URL: "rediss://" + server.Addr, Password: secret},
		{URL: "redis://x:" + secret + "@[bad", Password: secret},
		{URL: "redis://" + server.Addr, Password: secret, CA: "x"},
	} {
		l, err := redisledger.Open(bad)
		if err == nil {
			l.Close()
			t.Errorf("%s opens", bad.URL)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir, "server")
	other, _ := certificate(t, dir, "other")
	server := peers.StartRedis(t, "--tls-port", "0", "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
	l := open(t, redisledger.Config{URL: "rediss://" + server.Addr, CA: cert})
	sync(t, l, "v", 30, 10, ledger.Share{Hold: 10, Spent: 30})
	for name, bad := range map[string]redisledger.Config{
		"another authority": {URL: "rediss://" + server.Addr, CA: other},
		"the system's":      {URL: "rediss://" + server.Addr},
		"no TLS":            {URL: "redis://" + server.Addr},
		"no authority":      {URL: "rediss://" + server.Addr, CA: filepath.Join(dir, "server.key")},
	} {
		if l, err := redisledger.Open(bad); err == nil {
			l.Close()
			t.Errorf("%s: it opens", name)
		}
	}
}

// certificate makes one for 127.0.0.1 that vouches for itself.
func certificate(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(suffix, kind string, b []byte) string {
		path := filepath.Join(dir, name+suffix)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write(".crt", "CERTIFICATE", der), write(".key", "PRIVATE KEY", raw)
}

func BenchmarkSync(b *testing.B) {
	server := peers.StartRedis(b)
	l := open(b, redisledger.Config{URL: "redis://" + server.Addr})
	ledgertest.Benchmark(b, l)
}
