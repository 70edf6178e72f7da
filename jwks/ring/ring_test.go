package ring_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/hourpass/hourpass/internal/seal"
	"github.com/hourpass/hourpass/jwks"
	"github.com/hourpass/hourpass/jwks/ring"
)

var now = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

var profile = jwks.Profile{Types: []string{"at+jwt"}, Algorithms: []string{"ES256"}, ExactHeader: true}

func newSealer(t testing.TB) *seal.Sealer {
	t.Helper()
	key := make([]byte, seal.KeySize)
	_, _ = rand.Read(key)
	s, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t testing.TB) (*ring.Ring, string, *seal.Sealer) {
	t.Helper()
	path, s := filepath.Join(t.TempDir(), "state", "ring.json"), newSealer(t)
	r, err := ring.Create(path, s, now)
	if err != nil {
		t.Fatal(err)
	}
	return r, path, s
}

func sign(t testing.TB, r *ring.Ring) string {
	t.Helper()
	raw, err := r.Sign([]byte(`{"sub":"alice"}`), "at+jwt")
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func verify(t testing.TB, r *ring.Ring, raw string) error {
	t.Helper()
	set, err := jwks.Parse(r.Document())
	if err != nil {
		t.Fatal(err)
	}
	payload, err := set.Verify(profile, raw)
	if err == nil && string(payload) != `{"sub":"alice"}` {
		t.Errorf("Verify = %q", payload)
	}
	return err
}

// The life of a ring: made, used, rotated, restarted.
func TestRingLife(t *testing.T) {
	r, path, s := create(t)
	first := sign(t, r)
	if err := verify(t, r, first); err != nil {
		t.Errorf("Verify(first) = %v", err)
	}
	if err := r.Rotate(now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	second := sign(t, r)
	if err := errors.Join(verify(t, r, first), verify(t, r, second)); err != nil {
		t.Errorf("after rotation: %v", err)
	}
	kid := func(raw string) string {
		head, _ := base64.RawURLEncoding.DecodeString(raw[:strings.IndexByte(raw, '.')])
		var h struct{ KID string }
		if err := json.Unmarshal(head, &h); err != nil {
			t.Fatal(err)
		}
		return h.KID
	}
	if kid(first) == kid(second) {
		t.Error("after rotation the old key signs still")
	}

	again, err := ring.Open(path, s)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Document(), r.Document()) {
		t.Errorf("after a restart Document() = %s, want %s", again.Document(), r.Document())
	}
	third := sign(t, again)
	if err := errors.Join(verify(t, again, first), verify(t, again, second), verify(t, r, third)); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if kid(third) != kid(second) {
		t.Error("after a restart another key signs")
	}
	// Both processes have the file open; the second to rotate would lose the
	// first one's key.
	if err := again.Rotate(now.Add(2 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	if err := r.Rotate(now.Add(2 * time.Hour)); err == nil {
		t.Error("Rotate overwrites a file that was changed by somebody else")
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("a refused Rotate changes the file")
	}
	if err := verify(t, r, sign(t, r)); err != nil {
		t.Errorf("after a refused Rotate: %v", err)
	}
}

// jwx and go-jose find our tokens and documents in order.
func TestRingByOthers(t *testing.T) {
	r, _, _ := create(t)
	raw := sign(t, r)
	head, _ := base64.RawURLEncoding.DecodeString(raw[:strings.IndexByte(raw, '.')])
	set, err := jwk.Parse(r.Document())
	if err != nil {
		t.Fatal(err)
	}
	k, _ := set.Key(0)
	if want := `{"alg":"ES256","kid":"` + k.KeyID() + `","typ":"at+jwt"}`; string(head) != want {
		t.Errorf("the header is %s, want %s", head, want)
	}
	if payload, err := jws.Verify([]byte(raw), jws.WithKeySet(set)); err != nil || string(payload) != `{"sub":"alice"}` {
		t.Errorf("jwx: %q, %v", payload, err)
	}
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal(r.Document(), &keys); err != nil {
		t.Fatal(err)
	}
	parsed, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if payload, err := parsed.Verify(keys.Keys[0].Key); err != nil || string(payload) != `{"sub":"alice"}` {
		t.Errorf("go-jose: %q, %v", payload, err)
	}
	thumb, err := keys.Keys[0].Thumbprint(crypto.SHA256)
	if err != nil || base64.RawURLEncoding.EncodeToString(thumb) != k.KeyID() {
		t.Errorf("kid = %s, want the thumbprint %x", k.KeyID(), thumb)
	}
	var doc struct{ Keys []map[string]any }
	if err := json.Unmarshal(r.Document(), &doc); err != nil || len(doc.Keys) != 1 {
		t.Fatal(err)
	}
	for name := range doc.Keys[0] {
		if !strings.Contains(" kty crv x y kid alg use ", " "+name+" ") {
			t.Errorf("Document() has the member %s", name)
		}
	}
}

// One in 256 signatures has an r or s with a leading zero.
func TestSignFullLength(t *testing.T) {
	r, _, _ := create(t)
	for range 600 {
		raw := sign(t, r)
		if n := len(raw) - strings.LastIndexByte(raw, '.') - 1; n != 86 {
			t.Fatalf("a signature has %d characters, want 86", n)
		}
		if err := verify(t, r, raw); err != nil {
			t.Fatalf("Verify(%s) = %v", raw, err)
		}
	}
}

func TestSignRefusesNoType(t *testing.T) {
	r, _, _ := create(t)
	if raw, err := r.Sign([]byte("{}"), ""); err == nil {
		t.Errorf("Sign without typ = %s", raw)
	}
	raw, err := r.Sign([]byte("{}"), "x\",\"alg\":\"none")
	if err != nil {
		t.Fatal(err)
	}
	head, _ := base64.RawURLEncoding.DecodeString(raw[:strings.IndexByte(raw, '.')])
	var h map[string]string
	if err := json.Unmarshal(head, &h); err != nil || h["alg"] != "ES256" || h["typ"] != "x\",\"alg\":\"none" {
		t.Errorf("Sign(odd typ) has the header %s", head)
	}
}

func TestCreateRefuses(t *testing.T) {
	_, path, s := create(t)
	before, _ := os.ReadFile(path)
	if _, err := ring.Create(path, s, now); !errors.Is(err, os.ErrExist) {
		t.Errorf("Create over a ring = %v, want ErrExist", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("Create over a ring changes it")
	}
	if _, err := ring.Open(filepath.Join(t.TempDir(), "none"), s); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open(none) = %v, want ErrNotExist", err)
	}
	path = filepath.Join(t.TempDir(), "ring.json")
	if _, err := ring.Create(path, broken{}, now); err == nil {
		t.Error("Create with a broken sealer succeeds")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed Create leaves a file: %v", err)
	}
}

type broken struct{}

func (broken) Seal(string, []byte) ([]byte, error) { return nil, errors.New("the key service is down") }

func (broken) Open(string, []byte) ([]byte, error) { return nil, errors.New("the key service is down") }

func TestFileModes(t *testing.T) {
	_, path, s := create(t)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v, want 0600", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v, want 0700", info.Mode(), err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ring.Open(path, s); err == nil {
			t.Errorf("Open takes mode %04o", mode)
		}
	}
}

// If the file can't be written, the new key is not used: a crash would lose it.
func TestRotateWritesFirst(t *testing.T) {
	r, path, _ := create(t)
	doc := r.Document()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Rotate(now); err == nil {
		t.Error("Rotate of a file open to others succeeds")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := r.Rotate(now); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Rotate without the file = %v, want ErrNotExist", err)
	}
	if !bytes.Equal(doc, r.Document()) {
		t.Error("a failed Rotate changes the document")
	}
	if err := verify(t, r, sign(t, r)); err != nil {
		t.Errorf("after a failed Rotate: %v", err)
	}
}

func TestRotateIsBounded(t *testing.T) {
	r, path, s := create(t)
	for range ring.MaxKeys - 1 {
		if err := r.Rotate(now); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Rotate(now); err == nil {
		t.Error("Rotate makes more keys than verifiers accept")
	}
	if err := verify(t, r, sign(t, r)); err != nil {
		t.Errorf("with %d keys: %v", ring.MaxKeys, err)
	}
	if _, err := ring.Open(path, s); err != nil {
		t.Errorf("Open(%d keys) = %v", ring.MaxKeys, err)
	}

	other := filepath.Join(t.TempDir(), "other.json")
	if _, err := ring.Create(other, s, now); err != nil {
		t.Fatal(err)
	}
	var f, more file
	for p, into := range map[string]*file{path: &f, other: &more} {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	more.Keys[0]["state"] = "retiring"
	data, err := json.Marshal(map[string]any{"version": 1, "keys": append(f.Keys, more.Keys...)})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Open(other, s); err == nil {
		t.Errorf("Open takes %d keys", ring.MaxKeys+1)
	}
}

type file struct {
	Version int
	Keys    []map[string]any
}

// Each row spoils one thing in the file of a good ring of two keys.
func TestOpenRefuses(t *testing.T) {
	r, path, s := create(t)
	if err := r.Rotate(now); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(change func(*file)) string {
		var f file
		if err := json.Unmarshal(good, &f); err != nil {
			t.Fatal(err)
		}
		change(&f)
		data, err := json.Marshal(map[string]any{"version": f.Version, "keys": f.Keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	sealed := func(purpose string, key any, change func(jwk.Key)) string {
		k, err := jwk.FromRaw(key)
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(k)
		}
		plain, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.Seal(purpose, plain)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	mixed, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	mixed.PublicKey = other.PublicKey
	const purpose = "jwks/ring signing key"
	for _, tt := range []struct {
		name, data string
		sealer     ring.Sealer
		ok         bool
	}{
		{"good", string(good), s, true},
		{"good, written anew", edit(func(*file) {}), s, true},
		{"another key-encryption key", string(good), newSealer(t), false},
		{"a key service that is down", string(good), broken{}, false},
		{"empty", "", s, false},
		{"cut off", string(good[:len(good)/2]), s, false},
		{"something follows", string(good) + "{}", s, false},
		{"an unknown member", strings.Replace(string(good), `"version"`, `"threshold": 2, "version"`, 1), s, false},
		{"a later version", edit(func(f *file) { f.Version = 2 }), s, false},
		{"no version", edit(func(f *file) { f.Version = 0 }), s, false},
		{"no keys", edit(func(f *file) { f.Keys = nil }), s, false},
		{"no active key", edit(func(f *file) { f.Keys[1]["state"] = "retiring" }), s, false},
		{"two active keys", edit(func(f *file) { f.Keys[0]["state"] = "active" }), s, false},
		{"an unknown state", edit(func(f *file) { f.Keys[0]["state"] = "prepared" }), s, false},
		{"a key twice", edit(func(f *file) { f.Keys = append(f.Keys, f.Keys[0]) }), s, false},
		{"101 keys", edit(func(f *file) {
			for range 99 {
				f.Keys = append(f.Keys, f.Keys[0])
			}
		}), s, false},
		{"another alg", edit(func(f *file) { f.Keys[0]["alg"] = "none" }), s, false},
		{"no time", edit(func(f *file) { delete(f.Keys[0], "created") }), s, false},
		{"kids swapped", edit(func(f *file) { f.Keys[0]["kid"], f.Keys[1]["kid"] = f.Keys[1]["kid"], f.Keys[0]["kid"] }), s, false},
		{"private parts swapped", edit(func(f *file) {
			f.Keys[0]["private"], f.Keys[1]["private"] = f.Keys[1]["private"], f.Keys[0]["private"]
		}), s, false},
		{"another kid", edit(func(f *file) { f.Keys[0]["kid"] = "2026-11" }), s, false},
		{"one bit of a private part", edit(func(f *file) {
			p := f.Keys[0]["private"].(string)
			f.Keys[0]["private"] = p[:40] + map[bool]string{true: "B", false: "A"}[p[40] == 'A'] + p[41:]
		}), s, false},
		{"a private part in the clear", edit(func(f *file) { f.Keys[0]["private"] = "e30=" }), s, false},
		{"sealed for another purpose", edit(func(f *file) { f.Keys[0]["private"] = sealed("session", other, nil) }), s, false},
		{"somebody else's key", edit(func(f *file) { f.Keys[0]["private"] = sealed(purpose, other, nil) }), s, false},
		{"a public key", edit(func(f *file) { f.Keys[0]["private"] = sealed(purpose, &other.PublicKey, nil) }), s, false},
		{"a P-384 key", edit(func(f *file) { f.Keys[0]["private"] = sealed(purpose, p384, nil) }), s, false},
		{"a key whose halves differ", edit(func(f *file) {
			f.Keys[0]["private"], f.Keys[0]["kid"] = sealed(purpose, mixed, nil), thumbprint(t, &other.PublicKey)
		}), s, false},
		{"a good key of another making", edit(func(f *file) {
			f.Keys[0]["private"], f.Keys[0]["kid"] = sealed(purpose, other, nil), thumbprint(t, &other.PublicKey)
		}), s, true},
		{"huge", string(good) + strings.Repeat(" ", 1<<20), s, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ring.json")
			if err := os.WriteFile(path, []byte(tt.data), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := ring.Open(path, tt.sealer)
			if tt.ok != (err == nil) {
				t.Fatalf("Open = %v, want ok %v", err, tt.ok)
			}
			if err == nil {
				if err := verify(t, r, sign(t, r)); err != nil {
					t.Errorf("after Open: %v", err)
				}
				return
			}
			noPrivate(t, "the error", err.Error(), other, mixed)
		})
	}
}

func thumbprint(t *testing.T, public *ecdsa.PublicKey) string {
	t.Helper()
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

// noPrivate looks for the private number of keys in every form it might have.
func noPrivate(t *testing.T, what, text string, keys ...*ecdsa.PrivateKey) {
	t.Helper()
	for _, k := range keys {
		d, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		n := new(big.Int).SetBytes(d)
		for _, form := range []string{
			base64.RawURLEncoding.EncodeToString(d), base64.StdEncoding.EncodeToString(d), fmt.Sprintf("%x", d), fmt.Sprintf("%X", d),
			n.String(), strings.Trim(fmt.Sprint([32]byte(d)), "[]"), strings.Trim(fmt.Sprint(n.Bits()), "[]"),
		} {
			if strings.Contains(text, form) {
				t.Errorf("%s shows a private key as %q", what, form)
			}
		}
	}
}

// A sealer that lets the test see what is sealed.
type glass struct {
	ring.Sealer
	mu    sync.Mutex
	plain [][]byte
}

func (g *glass) Seal(purpose string, plain []byte) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.plain = append(g.plain, bytes.Clone(plain))
	return g.Sealer.Seal(purpose, plain)
}

// No way of printing a ring, and no file, shows a private key.
func TestRingShowsNoPrivateKey(t *testing.T) {
	path, g := filepath.Join(t.TempDir(), "ring.json"), &glass{Sealer: newSealer(t)}
	r, err := ring.Create(path, g, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Rotate(now); err != nil {
		t.Fatal(err)
	}
	var private []*ecdsa.PrivateKey
	for _, plain := range g.plain {
		var k ecdsa.PrivateKey
		if err := jwk.ParseRawKey(plain, &k); err != nil {
			t.Fatal(err)
		}
		private = append(private, &k)
	}
	if len(private) != 3 {
		t.Fatalf("%d keys were sealed, want 3", len(private))
	}
	g.plain = nil // What the test kept is not the ring's fault.

	var shown strings.Builder
	type holder struct {
		R *ring.Ring
		r *ring.Ring
	}
	h := holder{r, r}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X"} {
		_, _ = fmt.Fprintf(&shown, verb+"\n"+verb+"\n", r, h)
		if got := fmt.Sprintf(verb, r); got != r.String() {
			t.Errorf("Sprintf(%s) = %s, want %s", verb, got, r)
		}
	}
	_, _ = fmt.Fprintln(&shown, r.String(), h.r)
	slog.New(slog.NewTextHandler(&shown, nil)).Info("x", "ring", r, "holder", h)
	slog.New(slog.NewJSONHandler(&shown, nil)).Info("x", "ring", r, "holder", h)
	for _, v := range []any{r, h, map[string]any{"r": r}} {
		doc, err := json.Marshal(v)
		if err != nil {
			t.Errorf("Marshal = %v", err)
		}
		shown.Write(doc)
	}
	noPrivate(t, "printing", shown.String(), private...)
	noPrivate(t, "the document", string(r.Document()), private...)
	data, _ := os.ReadFile(path)
	noPrivate(t, "the file", string(data), private...)
	if !strings.HasPrefix(r.String(), "key ring "+path+", active key ") {
		t.Errorf("String() = %s", r)
	}
	if doc, err := json.Marshal(r); err != nil || string(doc) != `"`+r.String()+`"` {
		t.Errorf("Marshal = %s, %v, want what String says", doc, err)
	}
}

// Signing goes on while the ring rotates, for the race detector.
func TestSignWhileRotating(t *testing.T) {
	r, _, _ := create(t)
	var signers sync.WaitGroup
	for range 4 {
		signers.Go(func() {
			for range 20 {
				raw := sign(t, r)
				if err := verify(t, r, raw); err != nil {
					t.Errorf("Verify = %v", err)
				}
			}
		})
	}
	for range 5 {
		if err := r.Rotate(now); err != nil {
			t.Error(err)
		}
	}
	signers.Wait()
}

// One token signed, beside the bare signature.
func BenchmarkSign(b *testing.B) {
	payload := []byte(strings.Repeat("x", 370))
	r, _, _ := create(b)
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := r.Sign(payload, "at+jwt"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bare", func(b *testing.B) {
		b.ReportAllocs()
		key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		digest := make([]byte, 32)
		for b.Loop() {
			if _, err := ecdsa.SignASN1(rand.Reader, key, digest); err != nil {
				b.Fatal(err)
			}
		}
	})
}
