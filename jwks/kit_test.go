package jwks_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"sync"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/hourpass/hourpass/jwks"
)

// A party is somebody with a private key, written without the code under test.
type party struct {
	kid, alg string
	private  crypto.Signer
}

// parties has one party of each kind.
var parties = sync.OnceValue(func() map[string]party {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	r, _ := rsa.GenerateKey(rand.Reader, 2048)
	return map[string]party{
		"ec": {"ec-1", "ES256", p256}, "ec2": {"ec-2", "ES256", other}, "p384": {"p384-1", "ES384", p384},
		"ed": {"ed-1", "EdDSA", ed}, "rsa": {"rsa-1", "RS256", r},
	}
})

// jwk returns the members of p's public key.
func (p party) jwk(t testing.TB) map[string]any {
	t.Helper()
	k, err := jwk.FromRaw(p.private.Public())
	if err != nil {
		t.Fatal(err)
	}
	doc, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	members := map[string]any{}
	if err := json.Unmarshal(doc, &members); err != nil {
		t.Fatal(err)
	}
	maps.Copy(members, map[string]any{"kid": p.kid, "alg": p.alg, "use": "sig"})
	return members
}

func document(t testing.TB, keys ...map[string]any) []byte {
	t.Helper()
	doc, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func documentOf(t testing.TB, names ...string) []byte {
	t.Helper()
	var keys []map[string]any
	for _, name := range names {
		keys = append(keys, parties()[name].jwk(t))
	}
	return document(t, keys...)
}

func parse(t testing.TB, doc []byte) *jwks.Set {
	t.Helper()
	s, err := jwks.Parse(doc)
	if err != nil {
		t.Fatalf("Parse(%s) = %v", doc, err)
	}
	return s
}

func b64(s []byte) string { return base64.RawURLEncoding.EncodeToString(s) }

// rawSign returns p's signature in the form of RFC 7518 or 8037.
func (p party) rawSign(t testing.TB, signed string) []byte {
	t.Helper()
	message, hash := []byte(signed), crypto.Hash(0)
	switch p.alg {
	case "ES256", "RS256":
		sum := sha256.Sum256(message)
		message, hash = sum[:], crypto.SHA256
	case "ES384":
		sum := sha512.Sum384(message)
		message, hash = sum[:], crypto.SHA384
	}
	signature, err := p.private.Sign(rand.Reader, message, hash)
	if err != nil {
		t.Fatal(err)
	}
	if key, ok := p.private.(*ecdsa.PrivateKey); ok {
		var rs struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(signature, &rs); err != nil {
			t.Fatal(err)
		}
		size := (key.Curve.Params().BitSize + 7) / 8
		signature = append(rs.R.FillBytes(make([]byte, size)), rs.S.FillBytes(make([]byte, size))...)
	}
	return signature
}

// token signs payload under a header, as it stands.
func (p party) token(t testing.TB, header, payload string) string {
	t.Helper()
	signed := b64([]byte(header)) + "." + b64([]byte(payload))
	return signed + "." + b64(p.rawSign(t, signed))
}

// good is a token of p by our own profile.
func (p party) good(t testing.TB) string {
	t.Helper()
	return p.token(t, `{"alg":"`+p.alg+`","kid":"`+p.kid+`","typ":"at+jwt"}`, `{"sub":"alice"}`)
}

var ours = jwks.Profile{Types: []string{"at+jwt"}, Algorithms: []string{"ES256", "ES384", "EdDSA", "RS256"}, ExactHeader: true}

func decodeB64(s string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(s) }
