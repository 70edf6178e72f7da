package assertion_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/hourpass/hourpass/verifier/internal/assertion"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pkcs8(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func sec1(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8}})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

func file(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.pem")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

var caller = assertion.Claims{
	Subject: "corp:ann", ClientID: "hp_1", Team: "search", Tier: "gold", Grant: "faq", Token: "tok", Decision: "dec", Model: "small", Action: "chat",
}

// TestAssertionsVerify: another implementation believes them, by what is
// published alone.
func TestAssertionsVerify(t *testing.T) {
	first, next := newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	for name, text := range map[string]string{"PKCS #8": pkcs8(t, first) + pkcs8(t, next), "SEC 1": sec1(t, first) + pkcs8(t, next)} {
		keys, err := assertion.Open(file(t, text, 0o600), "verifier")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		set, err := jwk.Parse(keys.JWKS())
		if err != nil || set.Len() != 2 {
			t.Fatalf("%s: the key set has %d keys, %v, want 2", name, set.Len(), err)
		}
		if strings.Contains(string(keys.JWKS()), `"d"`) {
			t.Fatalf("%s: the key set has a private key", name)
		}
		for range 1500 { // Some r and s are short.
			signed, err := keys.Sign("llm", caller, noon.Add(time.Second/2))
			if err != nil {
				t.Fatal(err)
			}
			payload, err := jws.Verify([]byte(signed), jws.WithKeySet(set, jws.WithRequireKid(true)))
			if err != nil {
				t.Fatalf("%s: %s: %v", name, signed, err)
			}
			if got, want := string(payload), `{"iss":"verifier","aud":"llm","sub":"corp:ann","client_id":"hp_1","jti":"dec","iat":1795435200,"exp":1795435260,`+
				`"grant":"faq","tier":"gold","team":"search","action":"chat","model":"small"}`; got != want {
				t.Fatalf("%s: the payload is\n%s, want\n%s", name, got, want)
			}
			message, err := jws.Parse([]byte(signed))
			if err != nil {
				t.Fatal(err)
			}
			header := message.Signatures()[0].ProtectedHeaders()
			print, err := jwk.FromRaw(first.Public())
			if err == nil {
				err = jwk.AssignKeyID(print)
			}
			if err != nil || header.KeyID() != print.KeyID() || header.Type() != assertion.Type || header.Algorithm() != jwa.ES256 {
				t.Fatalf("%s: kid %q typ %q alg %q, want the thumbprint %q of the first key", name, header.KeyID(), header.Type(), header.Algorithm(), print.KeyID())
			}
		}
	}
}

func TestEmptyClaimsAreLeftOut(t *testing.T) {
	keys, err := assertion.Open(file(t, pkcs8(t, newKey(t, elliptic.P256())), 0o400), "v")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := keys.Sign("llm", assertion.Claims{Subject: "s", ClientID: "c", Decision: "d"}, noon)
	if err != nil {
		t.Fatal(err)
	}
	message, err := jws.Parse([]byte(signed))
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(message.Payload(), &claims); err != nil || len(claims) != 7 {
		t.Errorf("claims are %v, %v, want iss, aud, sub, client_id, jti, iat, exp", claims, err)
	}
}

// TestNoTwoNamesBecomeOne: what is no UTF-8 can't be said in JSON.
func TestNoTwoNamesBecomeOne(t *testing.T) {
	keys, err := assertion.Open(file(t, pkcs8(t, newKey(t, elliptic.P256())), 0o600), "v")
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*assertion.Claims){
		"sub": func(c *assertion.Claims) { c.Subject = "a\xff" }, "client_id": func(c *assertion.Claims) { c.ClientID = "a\xff" },
		"team": func(c *assertion.Claims) { c.Team = "a\xff" }, "tier": func(c *assertion.Claims) { c.Tier = "a\xff" },
		"grant": func(c *assertion.Claims) { c.Grant = "a\xff" }, "model": func(c *assertion.Claims) { c.Model = "a\xff" },
		"action": func(c *assertion.Claims) { c.Action = "a\xff" },
	} {
		c := caller
		spoil(&c)
		if signed, err := keys.Sign("llm", c, noon); err == nil {
			t.Errorf("%s: Sign = %s", name, signed)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	good := pkcs8(t, newKey(t, elliptic.P256()))
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text, issuer string
		mode         os.FileMode
	}{
		"no issuer":            {good, "", 0o600},
		"a file that all read": {good, "v", 0o644},
		"a file of a group":    {good, "v", 0o640},
		"nothing":              {"", "v", 0o600},
		"no PEM":               {"hello", "v", 0o600},
		"half a key":           {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")})), "v", 0o600},
		"P-384":                {pkcs8(t, newKey(t, elliptic.P384())), "v", 0o600},
		"RSA":                  {pkcs8(t, rsaKey), "v", 0o600},
		"a certificate":        {good + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})), "v", 0o600},
		"five keys":            {strings.Repeat(good, 5), "v", 0o600},
		"a large file":         {good + strings.Repeat("\n", 16<<10), "v", 0o600},
	} {
		_, err := assertion.Open(file(t, c.text, c.mode), c.issuer)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: Open = %v", name, err)
		}
	}
	if _, err := assertion.Open(t.TempDir(), "v"); err == nil {
		t.Error("a directory is opened")
	}
	if _, err := assertion.Open(file(t, strings.Repeat(good, 4), 0o600), "v"); err != nil {
		t.Errorf("four keys: %v", err)
	}
}

func BenchmarkSign(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "k")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		b.Fatal(err)
	}
	keys, err := assertion.Open(path, "v")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := keys.Sign("llm", caller, noon); err != nil {
			b.Fatal(err)
		}
	}
}
