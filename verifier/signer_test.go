package verifier_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hourpass/hourpass/internal/token"
)

// keys signs tokens and is the key set that verifies them: the room that does so
// in earnest is a sibling, which this one doesn't know.
type keys struct {
	private    *ecdsa.PrivateKey
	verified   atomic.Int64 // How often Verify was asked.
	generation atomic.Uint64
	stale      atomic.Bool
	panics     atomic.Bool
}

func newKeys() *keys {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return &keys{private: private}
}

const goodHeader = `{"alg":"ES256","kid":"k1","typ":"at+jwt"}`

func (k *keys) sign(header string, payload []byte) string {
	input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, k.private, digest[:])
	if err != nil {
		panic(err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

func (k *keys) Generation(time.Time) (uint64, error) {
	if k.stale.Load() {
		return 0, fmt.Errorf("%w: fetched too long ago", token.ErrKeysStale)
	}
	return k.generation.Load(), nil
}

func (k *keys) Verify(compact string, _ time.Time) ([]byte, string, error) {
	k.verified.Add(1)
	if k.panics.Load() {
		panic("a key set that panics")
	}
	part := strings.Split(compact, ".")
	header, err := base64.RawURLEncoding.DecodeString(part[0])
	switch {
	case err != nil || !json.Valid(header):
		return nil, "", token.ErrMalformed
	case !strings.Contains(string(header), `"ES256"`):
		return nil, "", token.ErrAlgorithm
	case !strings.Contains(string(header), `"at+jwt"`):
		return nil, "", token.ErrType
	case !strings.Contains(string(header), `"k1"`):
		return nil, "", token.ErrUnknownKey
	}
	signature, err := base64.RawURLEncoding.DecodeString(part[2])
	if err != nil || len(signature) != 64 {
		return nil, "", token.ErrSignature
	}
	digest := sha256.Sum256([]byte(part[0] + "." + part[1]))
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(&k.private.PublicKey, digest[:], r, s) {
		return nil, "", token.ErrSignature
	}
	payload, err := base64.RawURLEncoding.DecodeString(part[1])
	return payload, "k1", err
}

// goodClaims are those of a token that may chat with "small" and embed with
// models of team/.
func goodClaims() token.Claims {
	scope, err := token.NewScopes("chat:small", "completions:small", "responses:small", "embeddings:team/*")
	if err != nil {
		panic(err)
	}
	return token.Claims{
		Issuer: "https://issuer.test", Subject: "corp:ada", Audience: "models", ClientID: "key0123456789abc", ID: "jti-1",
		IssuedAt: noon, NotBefore: noon, Expires: noon.Add(time.Hour), Scope: scope, Grant: "faq", Team: "support",
	}
}

func (k *keys) token(edits ...func(*token.Claims)) string {
	c := goodClaims()
	for _, edit := range edits {
		edit(&c)
	}
	payload, err := c.Encode()
	if err != nil {
		panic(err)
	}
	return k.sign(goodHeader, payload)
}

func scoped(texts ...string) func(*token.Claims) {
	return func(c *token.Claims) {
		var err error
		if c.Scope, err = token.NewScopes(texts...); err != nil {
			panic(err)
		}
	}
}
