package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/hourpass/hourpass/internal/revocation"
	"github.com/hourpass/hourpass/internal/token"
)

// lone is a verifier without an issuer: the key set is a file, and the tests sign
// the tokens.
type lone struct {
	t      testing.TB
	dir    string
	key    *ecdsa.PrivateKey
	issuer *httptest.Server // Its revocations: none.
	tokens atomic.Int64     // How many were signed.

	issuers  string // Settings; empty for the tests' one issuer.
	starts   int    // So far.
	url, ops string
	process  *os.Process
}

const loneIssuer = "https://issuer.test"

func newLone(t testing.TB) *lone {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := &lone{t: t, dir: t.TempDir(), key: key}
	l.issuer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "" {
			select { // It holds the question, as the issuer does.
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Second):
			}
		}
		doc, err := revocation.Document{Issuer: loneIssuer, Generation: 1, IssuedAt: time.Now()}.Encode()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, l.sign(revocation.Type, doc))
	}))
	t.Cleanup(l.issuer.Close)
	return l
}

func (l *lone) keySet() []byte {
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &l.key.PublicKey, KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		l.t.Fatal(err)
	}
	return set
}

func (l *lone) sign(typ string, payload []byte) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: l.key}, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)).WithHeader("kid", "k"))
	if err != nil {
		l.t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		l.t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		l.t.Fatal(err)
	}
	return compact
}

// token is a good one, with what edits change.
func (l *lone) token(scope string, edits ...func(claims)) string {
	now := time.Now().Unix()
	c := claims{
		"iss": loneIssuer, "sub": "corp:ada", "aud": "models", "client_id": "key0123456789abc", "iat": now, "nbf": now, "exp": now + 3600,
		"jti": "jti-" + strconv.FormatInt(l.tokens.Add(1), 10), "scope": scope, "grant": "faq", "tier": "free", "team": "support",
	}
	for _, edit := range edits {
		edit(c)
	}
	payload, err := json.Marshal(c)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.sign(token.Type, payload)
}

func (l *lone) write(name string, content []byte) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// auditLog is of one verifier alone: two can't write to one.
func (l *lone) auditLog() string {
	l.starts++
	return filepath.Join(l.dir, fmt.Sprintf("audit-%d.jsonl", l.starts))
}

// start starts the verifier's binary; settings are upstreams and what else there
// is to configure.
func (l *lone) start(settings string) {
	l.t.Helper()
	addr, ops := freeAddr(l.t), freeAddr(l.t)
	l.url, l.ops = "http://"+addr, "http://"+ops
	if l.issuers == "" {
		l.issuers = fmt.Sprintf(`
issuer: %s
audience: models
key_set: {file: %s}
revocations: {url: %s/revocations}
`, loneIssuer, l.write("keys.json", l.keySet()), l.issuer.URL)
	}
	config := l.write("verifier.yaml", fmt.Appendf(nil, `
listen: %s
ops_listen: %s
audit: %s
%s
%s`, addr, ops, l.auditLog(), l.issuers, settings))
	l.process = run(l.t, l.ops+"/readyz", binary(l.t, "hourpass-verifier"), nil, "--config", config)
}

// run runs a program until the test ends, and waits until it answers.
func run(t testing.TB, ready, path string, env []string, args ...string) *os.Process {
	t.Helper()
	var logs bytes.Buffer
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), path, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = &logs, &logs, append(os.Environ(), env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // Its end is tested elsewhere.
		if t.Failed() {
			t.Logf("%s: %s", filepath.Base(path), logs.String())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		res, err := http.Get(ready)
		if err == nil {
			res.Body.Close()
			if res.StatusCode < http.StatusInternalServerError {
				return cmd.Process
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not ready: %v", path, err)
		}
	}
}
