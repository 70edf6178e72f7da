package idp_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/hourpass/hourpass/issuer/internal/idp"
	"github.com/hourpass/hourpass/jwks"
)

// moment is when the tests of identity tokens take place.
var moment = time.Unix(1_790_000_000, 0).UTC()

// vendorKeys are the keys of all the providers in these tests: "r" is RSA, "e"
// is P-256, "stranger" is published by nobody.
var vendorKeys = sync.OnceValue(func() map[string]crypto.Signer {
	keys := map[string]crypto.Signer{}
	for kid, make := range map[string]func() (crypto.Signer, error){
		"r":        func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
		"e":        func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
		"stranger": func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
	} {
		key, err := make()
		if err != nil {
			panic(err)
		}
		keys[kid] = key
	}
	return keys
})

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// publicJWK is the public half, with a use as given unless it is empty.
func publicJWK(kid, use string) map[string]any {
	jwk := map[string]any{"kid": kid}
	if use != "" {
		jwk["use"] = use
	}
	switch public := vendorKeys()[kid].Public().(type) {
	case *rsa.PublicKey:
		jwk["kty"], jwk["n"], jwk["e"] = "RSA", b64(public.N.Bytes()), b64(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			panic(err)
		}
		jwk["kty"], jwk["crv"], jwk["x"], jwk["y"] = "EC", "P-256", b64(point[1:33]), b64(point[33:])
	}
	return jwk
}

func keySet(keys ...map[string]any) []byte {
	doc, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		panic(err)
	}
	return doc
}

// sign makes a compact JWS of the payload under the key.
func sign(header map[string]any, payload []byte, kid string) string {
	head, err := json.Marshal(header)
	if err != nil {
		panic(err)
	}
	signed := b64(head) + "." + b64(payload)
	sum := sha256.Sum256([]byte(signed))
	switch key := vendorKeys()[kid].(type) {
	case *rsa.PrivateKey:
		signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			panic(err)
		}
		return signed + "." + b64(signature)
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			panic(err)
		}
		return signed + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	}
	panic("no such key")
}

// idToken is an identity token in the making.
type idToken struct {
	header map[string]any
	claims map[string]any
	kid    string
	more   string // Members put before the first claim, as they stand.
}

// newToken is a token as the example says, JSON with header and claims, issued a
// minute ago and good for four more.
func newToken(example string) *idToken {
	var t struct{ Header, Claims map[string]any }
	d := json.NewDecoder(bytes.NewReader([]byte(example)))
	d.UseNumber()
	if err := d.Decode(&t); err != nil {
		panic(err)
	}
	t.Claims["iat"], t.Claims["exp"] = moment.Add(-time.Minute).Unix(), moment.Add(4*time.Minute).Unix()
	kid := "r"
	if t.Header["alg"] == "ES256" {
		kid = "e"
	}
	t.Header["kid"] = kid
	return &idToken{header: t.Header, claims: t.Claims, kid: kid}
}

func (t *idToken) String() string {
	payload, err := json.Marshal(t.claims)
	if err != nil {
		panic(err)
	}
	if t.more != "" {
		payload = append([]byte("{"+t.more+","), payload[1:]...)
	}
	return sign(t.header, payload, t.kid)
}

// nested returns the object at path, to spoil what is in it.
func (t *idToken) nested(path ...string) map[string]any {
	at := t.claims
	for _, name := range path {
		at = at[name].(map[string]any)
	}
	return at
}

// withKeys completes a configuration with the key set of these tests.
func withKeys(c idp.Config) idp.Config {
	c.Name, c.OpenKeys = "corp", openTestKeys
	if c.JWKS == nil && c.JWKSURL == "" {
		c.JWKS = keySet(publicJWK("r", "sig"), publicJWK("e", "sig"))
	}
	return c
}

func mustProvider(t *testing.T, c idp.Config) *idp.Provider {
	t.Helper()
	p, err := idp.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// openTestKeys opens keys as the program does.
func openTestKeys(spec idp.KeySpec) (idp.KeySource, error) {
	profile := jwks.Profile{Types: spec.Types, Algorithms: spec.Algorithms, MaxBytes: idp.MaxAssertion}
	if spec.URL != "" {
		return jwks.NewRemote(jwks.Config{URL: spec.URL, Client: spec.Client, Profile: profile})
	}
	set, err := jwks.Parse(spec.Document)
	return fixedTestKeys{set, profile}, err
}

type fixedTestKeys struct {
	set     *jwks.Set
	profile jwks.Profile
}

func (k fixedTestKeys) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (k fixedTestKeys) Verify(compact string, _ time.Time) ([]byte, error) {
	return k.set.Verify(k.profile, compact)
}
