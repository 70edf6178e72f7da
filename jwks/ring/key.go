package ring

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
	"fmt"
	"maps"
	"math/big"
	"sync/atomic"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
)

// The algorithms. RSA keys are made with 2048 bits, which every verifier takes
// and which sign fastest; more are used where they come from a vault.
const (
	ES256 = "ES256"
	EdDSA = "EdDSA"
	RS256 = "RS256"
)

const (
	minRSABits = 2048
	maxRSABits = 4096
)

// algorithms say how a software key of each is made.
var algorithms = map[string]func() (crypto.Signer, error){
	ES256: func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
	EdDSA: func() (crypto.Signer, error) {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	},
	RS256: func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, minRSABits) },
}

// material is a key without its times.
type material struct {
	alg, kid  string
	public    crypto.PublicKey
	signature int    // Bytes.
	handle    string // In the vault. "": the signer is a *software.
	signer    Signer // Nil: it can't sign,
	trouble   error  // and this is why.

	// Encoded headers by typ, copied to be changed: readers take no lock.
	headers atomic.Pointer[map[string]string]
}

// maxHeaders bounds the remembered headers of a key. A program has a few types.
const maxHeaders = 16

// header returns the encoded protected header, and its dot.
func (m *material) header(typ string) string {
	known := m.headers.Load()
	if known != nil {
		if h, ok := (*known)[typ]; ok {
			return h
		}
	}
	plain, err := json.Marshal(struct {
		Alg string `json:"alg"`
		KID string `json:"kid"`
		Typ string `json:"typ"`
	}{m.alg, m.kid, typ})
	if err != nil {
		panic(err) // Unreachable: texts can be marshalled.
	}
	h := base64.RawURLEncoding.EncodeToString(plain) + "."
	next := map[string]string{}
	if known != nil {
		next = maps.Clone(*known)
	}
	if len(next) < maxHeaders {
		next[typ] = h
		m.headers.CompareAndSwap(known, &next) // Who comes second computes it once more.
	}
	return h
}

// generate makes a key of the configured algorithm, and proves it.
func (r *Ring) generate(ctx context.Context) (key, error) {
	var handle string
	var s Signer
	var err error
	if r.c.Vault != nil {
		handle, s, err = r.c.Vault.Generate(ctx, r.c.Alg)
		if err == nil && (handle == "" || len(handle) > maxHandle) {
			err = fmt.Errorf("the vault gave a handle of %d bytes", len(handle))
		}
	} else {
		var private crypto.Signer
		private, err = algorithms[r.c.Alg]()
		s = &software{private}
	}
	if err != nil {
		return key{}, fmt.Errorf("making a key: %w", err)
	}
	m, err := newMaterial(r.c.Alg, s.Public())
	if err == nil {
		m.handle, m.signer = handle, s
		err = m.prove()
	}
	if err != nil {
		r.destroy(ctx, key{material: &material{handle: handle}})
		return key{}, fmt.Errorf("making a key: %w", err)
	}
	return key{Key{KID: m.kid, Alg: m.alg, Created: floor(r.c.Now())}, m}, nil
}

// newMaterial checks that public is fit for alg and names it.
func newMaterial(alg string, public crypto.PublicKey) (*material, error) {
	m := &material{alg: alg, public: public}
	fit := false
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		fit, m.signature = alg == ES256 && public.Curve == elliptic.P256(), 64
	case ed25519.PublicKey:
		fit, m.signature = alg == EdDSA && len(public) == ed25519.PublicKeySize, ed25519.SignatureSize
	case *rsa.PublicKey:
		bits := public.N.BitLen()
		fit, m.signature = alg == RS256 && bits >= minRSABits && bits <= maxRSABits, public.Size()
	}
	if !fit {
		return nil, fmt.Errorf("the public key is not fit for %s", alg)
	}
	k, err := jwk.FromRaw(public)
	if err != nil {
		return nil, errors.New("a public key can't be made a JWK")
	}
	// RFC 7638: it says which key it is, not when it was made or how many there
	// were.
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, errors.New("a key has no thumbprint")
	}
	m.kid = base64.RawURLEncoding.EncodeToString(sum)
	return m, nil
}

// prove signs something, so that a vault whose signatures nobody could verify is
// found out before the key is published.
func (m *material) prove() error {
	message := []byte("hourpass proof of a signing key")
	signature, err := m.signer.Sign(message)
	if err != nil {
		return err
	}
	digest, ok := sha256.Sum256(message), false
	switch public := m.public.(type) {
	case *ecdsa.PublicKey:
		r, s := new(big.Int), new(big.Int)
		ok = len(signature) == 64 && ecdsa.Verify(public, digest[:], r.SetBytes(signature[:32]), s.SetBytes(signature[32:]))
	case ed25519.PublicKey:
		ok = ed25519.Verify(public, message, signature)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
	}
	if !ok {
		return errors.New("its first signature does not verify")
	}
	return nil
}

// jwk returns the public key as it is published.
func (m *material) jwk() (jwk.Key, error) {
	k, err := jwk.FromRaw(m.public)
	if err != nil {
		return nil, errors.New("a public key can't be made a JWK")
	}
	err = errors.Join(k.Set(jwk.KeyIDKey, m.kid), k.Set(jwk.AlgorithmKey, jwa.SignatureAlgorithm(m.alg)), k.Set(jwk.KeyUsageKey, jwk.ForSignature))
	if err != nil {
		return nil, errors.New("a public key can't be made a JWK")
	}
	return k, nil
}

// software is a private key in the memory of this process.
type software struct{ private crypto.Signer }

// Public returns the public half.
func (s *software) Public() crypto.PublicKey { return s.private.Public() }

// Sign implements [Signer]. Errors do not tell more: they could tell of the key.
func (s *software) Sign(message []byte) ([]byte, error) {
	switch private := s.private.(type) {
	case *ecdsa.PrivateKey:
		digest := sha256.Sum256(message)
		x, y, err := ecdsa.Sign(rand.Reader, private, digest[:])
		if err != nil {
			return nil, errors.New("the active key can't sign")
		}
		rs := make([]byte, 64) // r and s at full length.
		x.FillBytes(rs[:32])
		y.FillBytes(rs[32:])
		return rs, nil
	case ed25519.PrivateKey:
		return ed25519.Sign(private, message), nil
	case *rsa.PrivateKey:
		digest := sha256.Sum256(message)
		signature, err := rsa.SignPKCS1v15(nil, private, crypto.SHA256, digest[:])
		if err != nil {
			return nil, errors.New("the active key can't sign")
		}
		return signature, nil
	}
	return nil, errors.New("the active key can't sign")
}
