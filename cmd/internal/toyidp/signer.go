package toyidp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// signer is the provider's one ES256 key. It lives and dies with the process:
// after a restart every old ID token is a stranger's.
type signer struct {
	id  string
	key *ecdsa.PrivateKey
}

var _ op.SigningKey = signer{}

func newSigner() (signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return signer{id: rand.Text(), key: key}, err
}

func (s signer) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (s signer) Key() any                                    { return s.key }
func (s signer) ID() string                                  { return s.id }

// publicKey is the half of a signer that the key set shows.
type publicKey struct{ signer }

var _ op.Key = publicKey{}

func (p publicKey) Algorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (p publicKey) Use() string                        { return "sig" }
func (p publicKey) Key() any                           { return p.key.Public() }
