//go:build pkcs11

package pkcs11_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	raw "github.com/miekg/pkcs11"

	"github.com/hourpass/hourpass/internal/seal"
	"github.com/hourpass/hourpass/jwks"
	"github.com/hourpass/hourpass/jwks/ring"
	"github.com/hourpass/hourpass/jwks/ring/pkcs11"
)

const pin = "7391-user-pin"

// module is SoftHSM's, where Debian and Fedora put it.
var module = func() string {
	for _, path := range []string{
		os.Getenv("SOFTHSM2_MODULE"), "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so",
	} {
		if _, err := os.Stat(path); path != "" && err == nil {
			return path
		}
	}
	return ""
}()

// TestMain makes a token in a folder of its own: a process can load a module
// once, with one configuration. Where there is no SoftHSM it fails, because a
// test that is skipped is one that nobody misses.
func TestMain(m *testing.M) {
	code, err := withToken(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withToken(run func() int) (code int, err error) {
	if module == "" {
		return 1, errors.New("SoftHSM is not installed: apt-get install softhsm2, or set SOFTHSM2_MODULE")
	}
	dir, err := os.MkdirTemp("", "hourpass-softhsm-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600); err != nil {
		return 1, err
	}
	if err := os.Setenv("SOFTHSM2_CONF", conf); err != nil {
		return 1, err
	}
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "hourpass", "--so-pin", "1234-so", "--pin", pin).CombinedOutput()
	if err != nil {
		return 1, fmt.Errorf("initialising a token: %w: %s", err, out)
	}
	return run(), nil
}

func open(t testing.TB, sessions int) *pkcs11.Vault {
	t.Helper()
	v, err := pkcs11.Open(pkcs11.Config{Module: module, Token: "hourpass", PIN: pin, Sessions: sessions})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// memory is a storage for a ring.
type memory struct {
	data    []byte
	version int64
}

func (m *memory) Load(context.Context) (data []byte, version int64, err error) {
	if m.version == 0 {
		return nil, 0, os.ErrNotExist
	}
	return m.data, m.version, nil
}

func (m *memory) Save(_ context.Context, data []byte, ifVersion int64) error {
	if ifVersion != m.version {
		return ring.ErrChanged
	}
	m.data, m.version = data, m.version+1
	return nil
}

func sealer(t testing.TB) *seal.Sealer {
	t.Helper()
	key := make([]byte, seal.KeySize)
	_, _ = rand.Read(key)
	s, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var profile = jwks.Profile{Types: []string{"at+jwt"}, Algorithms: []string{"ES256", "RS256"}, ExactHeader: true}

func signAndVerify(t testing.TB, r *ring.Ring) string {
	t.Helper()
	raw, err := r.Sign([]byte(`{"sub":"alice"}`), "at+jwt")
	if err != nil {
		t.Fatal(err)
	}
	set, err := jwks.Parse(r.Document())
	if err != nil {
		t.Fatal(err)
	}
	if payload, err := set.Verify(profile, raw); err != nil || string(payload) != `{"sub":"alice"}` {
		t.Errorf("Verify = %q, %v", payload, err)
	}
	return raw
}

// A ring in a token: made, rotated, restarted, tainted, for each algorithm.
func TestRingInAToken(t *testing.T) {
	for _, alg := range []string{"ES256", "RS256"} {
		t.Run(alg, func(t *testing.T) {
			now := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
			m := &memory{}
			c := ring.Config{Storage: m, Sealer: sealer(t), Alg: alg, Vault: open(t, 0), Now: func() time.Time { return now }}
			r, err := ring.Create(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			before := count(t)
			for range 300 { // ECDSA: one in 256 has a leading zero.
				signAndVerify(t, r)
			}
			if k, err := r.Rotate(t.Context()); err != nil || k.Alg != alg {
				t.Fatalf("Rotate = %+v, %v", k, err)
			}
			if n := count(t); n != before+1 {
				t.Errorf("the token has %d keys after Rotate, want %d", n, before+1)
			}
			now = now.Add(20 * time.Minute)
			c.Vault = open(t, 1) // After a restart.
			if r, err = ring.Open(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if err := r.Ready(); err != nil {
				t.Fatal(err)
			}
			signAndVerify(t, r)
			list := r.List()
			if _, err := r.Taint(t.Context(), list[1].KID); err != nil {
				t.Fatal(err)
			}
			signAndVerify(t, r)
			now = now.Add(24 * time.Hour)
			if err := r.Advance(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := count(t); n != before || len(r.List()) != 1 {
				t.Errorf("at the end the token has %d keys and the ring %d, want %d and 1", n, len(r.List()), before)
			}
		})
	}
}

// count is how many private keys the token has; it fails if one can be read.
func count(t *testing.T) int {
	t.Helper()
	m := raw.New(module)
	slots, err := m.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.OpenSession(slots[0], raw.CKF_SERIAL_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	defer m.CloseSession(s)
	if err := m.FindObjectsInit(s, []*raw.Attribute{raw.NewAttribute(raw.CKA_CLASS, raw.CKO_PRIVATE_KEY)}); err != nil {
		t.Fatal(err)
	}
	found, _, err := m.FindObjects(s, 100)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.FindObjectsFinal(s); err != nil {
		t.Fatal(err)
	}
	for _, o := range found {
		for _, secret := range []uint{raw.CKA_VALUE, raw.CKA_PRIVATE_EXPONENT} {
			if a, err := m.GetAttributeValue(s, o, []*raw.Attribute{raw.NewAttribute(secret, nil)}); err == nil {
				t.Errorf("the token gives out a private key: %v", a)
			}
		}
		for attribute, want := range map[uint]byte{raw.CKA_SENSITIVE: 1, raw.CKA_EXTRACTABLE: 0, raw.CKA_NEVER_EXTRACTABLE: 1, raw.CKA_PRIVATE: 1} {
			a, err := m.GetAttributeValue(s, o, []*raw.Attribute{raw.NewAttribute(attribute, nil)})
			if err != nil || a[0].Value[0] != want {
				t.Errorf("attribute %#x = %v, %v, want %d", attribute, a, err, want)
			}
		}
	}
	return len(found)
}

// More signers than sessions wait for one another, and each has its own
// signature.
func TestSignersShareSessions(t *testing.T) {
	v := open(t, 2)
	handle, k, err := v.Generate(t.Context(), "ES256")
	if err != nil {
		t.Fatal(err)
	}
	var signers sync.WaitGroup
	for range 8 {
		signers.Go(func() {
			for range 20 {
				if s, err := k.Sign([]byte("x")); err != nil || len(s) != 64 {
					t.Errorf("Sign = %d bytes, %v", len(s), err)
				}
			}
		})
	}
	signers.Wait()
	if err := v.Destroy(t.Context(), handle); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign([]byte("x")); err == nil {
		t.Error("Sign with a destroyed key succeeds")
	}
	if _, err := v.Open(t.Context(), handle); err == nil {
		t.Error("Open of a destroyed key succeeds")
	}
	if err := v.Destroy(t.Context(), handle); err == nil {
		t.Error("Destroy of a destroyed key succeeds")
	}
}

// The token restarts: its sessions and its login are gone.
func TestSessionsAreLost(t *testing.T) {
	v := open(t, 3)
	handle, k, err := v.Generate(t.Context(), "ES256")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		m := raw.New(module)
		slots, err := m.GetSlotList(true)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.CloseAllSessions(slots[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Sign([]byte("x")); err != nil {
			t.Errorf("Sign after the sessions were lost: %v", err)
		}
	}
	again, err := v.Open(t.Context(), handle)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(k.Public()) {
		t.Error("Open gives another key")
	}
	if err := v.Destroy(t.Context(), handle); err != nil {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	good := pkcs11.Config{Module: module, Token: "hourpass", PIN: pin}
	for name, spoil := range map[string]func(*pkcs11.Config){
		"no module":         func(c *pkcs11.Config) { c.Module = "" },
		"a missing module":  func(c *pkcs11.Config) { c.Module = "/nonexistent.so" },
		"no token":          func(c *pkcs11.Config) { c.Token = "" },
		"an unknown token":  func(c *pkcs11.Config) { c.Token = "hourpas" },
		"no PIN":            func(c *pkcs11.Config) { c.PIN = "" },
		"a wrong PIN":       func(c *pkcs11.Config) { c.PIN = "7391-wrong" },
		"negative sessions": func(c *pkcs11.Config) { c.Sessions = -1 },
	} {
		c := good
		spoil(&c)
		v, err := pkcs11.Open(c)
		if err == nil {
			v.Close()
			t.Errorf("Open(%s) succeeds", name)
		} else if strings.Contains(err.Error(), "7391") {
			t.Errorf("Open(%s) = %v, which shows the PIN", name, err)
		}
	}
	v := open(t, 0)
	for _, alg := range []string{"EdDSA", "none", ""} {
		if _, _, err := v.Generate(t.Context(), alg); err == nil {
			t.Errorf("Generate(%q) succeeds", alg)
		}
	}
	if _, err := v.Open(t.Context(), "none"); err == nil {
		t.Error("Open(none) succeeds")
	}
}

func TestNothingShowsThePIN(t *testing.T) {
	var shown strings.Builder
	c := pkcs11.Config{Module: module, Token: "hourpass", PIN: pin}
	v := open(t, 0)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		_, _ = fmt.Fprintf(&shown, verb+verb+verb+verb, c, &c, v, struct{ V *pkcs11.Vault }{v})
	}
	slog.New(slog.NewJSONHandler(&shown, nil)).Info("x", "config", c, "vault", v)
	slog.New(slog.NewTextHandler(&shown, nil)).Info("x", "config", c, "vault", v)
	for _, x := range []any{c, v} {
		doc, _ := json.Marshal(x)
		shown.Write(doc)
	}
	if strings.Contains(shown.String(), pin) {
		t.Errorf("printing shows the PIN:\n%s", shown.String())
	}
}

func BenchmarkSign(b *testing.B) {
	v := open(b, 0)
	for _, alg := range []string{"ES256", "RS256"} {
		handle, k, err := v.Generate(b.Context(), alg)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(alg, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.Sign([]byte("x")); err != nil {
					b.Fatal(err)
				}
			}
		})
		if err := v.Destroy(context.Background(), handle); err != nil {
			b.Fatal(err)
		}
	}
}
