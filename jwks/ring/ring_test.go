package ring_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/jwks"
	"github.com/hourpass/hourpass/jwks/ring"
)

// What jwx, go-jose and we ourselves find in the tokens and documents of each
// algorithm.
func TestRingByOthers(t *testing.T) {
	for alg, members := range map[string]string{"": "crv x y", "ES256": "crv x y", "EdDSA": "crv x", "RS256": "n e"} {
		t.Run("alg "+alg, func(t *testing.T) {
			c := config(t, newClock())
			c.Alg = alg
			create(t, c)
			r := open(t, c) // After a restart.
			raw := sign(t, r)
			if alg == "" {
				alg = "ES256"
			}
			if err := verify(t, r.Document(), raw); err != nil {
				t.Error(err)
			}
			set, err := jwk.Parse(r.Document())
			if err != nil {
				t.Fatal(err)
			}
			k, _ := set.Key(0)
			if want := `{"alg":"` + alg + `","kid":"` + k.KeyID() + `","typ":"at+jwt"}`; header(t, raw) != want {
				t.Errorf("the header is %s, want %s", header(t, raw), want)
			}
			if payload, err := jws.Verify([]byte(raw), jws.WithKeySet(set)); err != nil || string(payload) != `{"sub":"alice"}` {
				t.Errorf("jwx: %q, %v", payload, err)
			}
			var keys jose.JSONWebKeySet
			if err := json.Unmarshal(r.Document(), &keys); err != nil {
				t.Fatal(err)
			}
			parsed, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
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
				if !strings.Contains(" kty kid alg use "+members+" ", " "+name+" ") {
					t.Errorf("Document() has the member %s", name)
				}
			}
		})
	}
}

// One in 256 signatures has an r or s with a leading zero.
func TestSignFullLength(t *testing.T) {
	r := create(t, config(t, newClock()))
	for range 600 {
		raw := sign(t, r)
		if n := len(raw) - strings.LastIndexByte(raw, '.') - 1; n != 86 {
			t.Fatalf("a signature has %d characters, want 86", n)
		}
		if err := verify(t, r.Document(), raw); err != nil {
			t.Fatalf("Verify(%s) = %v", raw, err)
		}
	}
}

// Headers are remembered by type, and no type gets another's, however many.
func TestSignTypes(t *testing.T) {
	r := create(t, config(t, newClock()))
	if raw, err := r.Sign([]byte("{}"), ""); err == nil {
		t.Errorf("Sign without typ = %s", raw)
	}
	types := []string{"at+jwt", "x\",\"alg\":\"none", "é"}
	for i := range 40 {
		types = append(types, "type-"+strconv.Itoa(i))
	}
	var signers sync.WaitGroup
	for range 4 {
		signers.Go(func() {
			for range 3 {
				for _, typ := range types {
					raw, err := r.Sign([]byte("{}"), typ)
					if err != nil {
						t.Error(err)
						return
					}
					var h map[string]string
					if err := json.Unmarshal([]byte(header(t, raw)), &h); err != nil || len(h) != 3 || h["alg"] != "ES256" || h["typ"] != typ {
						t.Errorf("Sign(%s) has the header %s", typ, header(t, raw))
					}
				}
			}
		})
	}
	signers.Wait()
}

func TestCreateRefuses(t *testing.T) {
	c := config(t, newClock())
	create(t, c)
	before, version, _ := c.Storage.Load(t.Context())
	if _, err := ring.Create(t.Context(), c); !errors.Is(err, os.ErrExist) {
		t.Errorf("Create over a ring = %v, want ErrExist", err)
	}
	if after, v, _ := c.Storage.Load(t.Context()); string(before) != string(after) || v != version {
		t.Error("Create over a ring changes it")
	}
	c.Storage = &memory{}
	if _, err := ring.Open(t.Context(), c); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open(none) = %v, want ErrNotExist", err)
	}
	c.Sealer = broken{}
	if _, err := ring.Create(t.Context(), c); err == nil {
		t.Error("Create with a broken sealer succeeds")
	}
	if _, _, err := c.Storage.Load(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed Create leaves something: %v", err)
	}
}

type broken struct{}

func (broken) Seal(string, []byte) ([]byte, error) { return nil, errors.New("the key service is down") }

func (broken) Open(string, []byte) ([]byte, error) { return nil, errors.New("the key service is down") }

func TestConfigRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*ring.Config){
		"":                       func(*ring.Config) {},
		"no storage":             func(c *ring.Config) { c.Storage = nil },
		"no sealer":              func(c *ring.Config) { c.Sealer = nil },
		"an unknown algorithm":   func(c *ring.Config) { c.Alg = "HS256" },
		"no algorithm":           func(c *ring.Config) { c.Alg = "none" },
		"a negative lead":        func(c *ring.Config) { c.Lead = -time.Minute },
		"a negative staleness":   func(c *ring.Config) { c.MaxStale = -1 },
		"a negative rhythm":      func(c *ring.Config) { c.Every = -every },
		"a hold below an hour":   func(c *ring.Config) { c.Hold = token.MaxLifetime - time.Second },
		"no time between keys":   func(c *ring.Config) { c.Every = lead + stale },
		"more keys than allowed": func(c *ring.Config) { c.Every, c.Hold = time.Hour, 14*time.Hour },
	} {
		c := config(t, newClock())
		spoil(&c)
		if _, err := ring.Create(t.Context(), c); (err == nil) != (name == "") {
			t.Errorf("Create(%s) = %v", name, err)
		}
	}
}

// Whoever can't read the ring can't know whether its key is tainted.
func TestStaleRingIsSilent(t *testing.T) {
	c := newClock()
	conf := config(t, c)
	wire := &line{Storage: conf.Storage}
	conf.Storage = wire
	r := create(t, conf)
	wire.cut.Store(true)
	c.add(stale)
	if err := r.Advance(t.Context()); !errors.Is(err, errCut) {
		t.Errorf("Advance = %v, want the storage's error", err)
	}
	if err := errors.Join(r.Ready(), verify(t, r.Document(), sign(t, r))); err != nil {
		t.Errorf("within MaxStale: %v", err)
	}
	c.add(time.Nanosecond)
	if raw, err := r.Sign([]byte("{}"), "at+jwt"); !errors.Is(err, ring.ErrStale) {
		t.Errorf("Sign when stale = %s, %v, want ErrStale", raw, err)
	}
	if doc := r.Document(); doc != nil {
		t.Errorf("Document when stale = %s", doc)
	}
	if err := r.Ready(); !errors.Is(err, ring.ErrStale) {
		t.Errorf("Ready when stale = %v, want ErrStale", err)
	}
	if _, err := r.Rotate(t.Context()); !errors.Is(err, errCut) {
		t.Errorf("Rotate = %v, want the storage's error", err)
	}
	wire.cut.Store(false)
	later(t, c, 0, r)
	if err := errors.Join(r.Ready(), verify(t, r.Document(), sign(t, r))); err != nil {
		t.Errorf("when the storage is back: %v", err)
	}
}

// What is written while the storage is read slowly may be missing from it: a
// ring is as old as the beginning of its reading.
func TestSlowStorage(t *testing.T) {
	c := newClock()
	conf := config(t, c)
	wire := &line{Storage: conf.Storage}
	create(t, conf)
	conf.Storage, wire.slow = wire, func() { c.add(stale + time.Second) }
	r := open(t, conf)
	for range 2 {
		if err := r.Ready(); !errors.Is(err, ring.ErrStale) {
			t.Errorf("Ready = %v, want ErrStale", err)
		}
		later(t, c, 0, r)
	}
}

// Signing goes on while the ring changes, for the race detector.
func TestSignWhileRotating(t *testing.T) {
	c := newClock()
	r := create(t, config(t, c))
	var signers sync.WaitGroup
	for range 4 {
		signers.Go(func() {
			for range 20 {
				raw, err := r.Sign([]byte(`{"sub":"alice"}`), "at+jwt")
				if errors.Is(err, ring.ErrStale) {
					continue // The clock leaps.
				}
				if doc := r.Document(); doc != nil {
					if err := errors.Join(err, verify(t, doc, raw)); err != nil {
						t.Errorf("Verify = %v", err)
					}
				}
				r.List()
			}
		})
	}
	for range 5 {
		rotate(t, r)
		later(t, c, lead+2*stale, r)
	}
	signers.Wait()
}

// One token signed, beside the bare signature.
func BenchmarkSign(b *testing.B) {
	payload := []byte(strings.Repeat("x", 370))
	digest := sha256.Sum256(payload)
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	rs, _ := rsa.GenerateKey(rand.Reader, 2048)
	for _, bb := range []struct {
		alg  string
		bare func() error
	}{
		{"ES256", func() error { _, err := ecdsa.SignASN1(rand.Reader, ec, digest[:]); return err }},
		{"EdDSA", func() error { ed25519.Sign(ed, payload); return nil }},
		{"RS256", func() error { _, err := rsa.SignPKCS1v15(nil, rs, crypto.SHA256, digest[:]); return err }},
	} {
		c := ring.Config{Storage: &memory{}, Sealer: newSealer(b), Alg: bb.alg, MaxStale: 24 * time.Hour}
		r, err := ring.Create(context.Background(), c)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(bb.alg+"/whole", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Sign(payload, "at+jwt"); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(bb.alg+"/bare", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := bb.bare(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The handler and the ring together: a stale ring publishes nothing, and what
// caches have stays good.
func TestHandlerOfARing(t *testing.T) {
	c := newClock()
	r := create(t, config(t, c))
	rotate(t, r)
	h := jwks.Handler(r.Document, 5*time.Minute, nil)
	for _, tt := range []struct {
		after  time.Duration
		status int
		cache  string
	}{{0, 200, "public, max-age="}, {stale + 1, 500, "no-store"}} {
		c.add(tt.after)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/jwks.json", nil))
		if w.Code != tt.status || !strings.HasPrefix(w.Header().Get("Cache-Control"), tt.cache) {
			t.Errorf("GET = %d, %v", w.Code, w.Header())
		}
	}
}
