//go:build pkcs11

package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync/atomic"

	"github.com/miekg/pkcs11"

	"github.com/hourpass/hourpass/jwks/ring"
)

// kind is how the token makes and uses the keys of one algorithm.
type kind struct {
	generate uint
	public   []*pkcs11.Attribute
	sign     uint
	prefix   []byte // Of the digest that is signed.
}

// p256 is the DER of the curve's object identifier, 1.2.840.10045.3.1.7.
var p256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

var kinds = map[string]*kind{
	ring.ES256: {
		generate: pkcs11.CKM_EC_KEY_PAIR_GEN,
		public:   []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, p256)},
		sign:     pkcs11.CKM_ECDSA,
	},
	ring.RS256: {
		generate: pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN,
		public: []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 2048), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
		},
		sign: pkcs11.CKM_RSA_PKCS,
		// DigestInfo of SHA-256 (RFC 8017, section 9.2, note 1).
		prefix: []byte{
			0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20,
		},
	},
}

// key is a [ring.Signer] in the token.
type key struct {
	vault  *Vault
	id     string
	kind   *kind
	public crypto.PublicKey
	object atomic.Uint64 // Of the private half. 0: to be found anew.
}

// Public returns the public half, an *ecdsa.PublicKey or *rsa.PublicKey.
func (k *key) Public() crypto.PublicKey { return k.public }

// Sign implements [ring.Signer]. For ES256 PKCS #11 gives r and s at full
// length, which is what JWS wants. What fails is tried once more in a new session
// and with the key found anew, as after a restart of the token.
func (k *key) Sign(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	input := append(slices.Clip(k.kind.prefix), digest[:]...)
	var signature []byte
	err := k.vault.twice(context.Background(), func(s pkcs11.SessionHandle) (err error) {
		if signature, err = k.sign(s, input); err != nil {
			k.object.Store(0)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("signing in the token: %w", err)
	}
	return signature, nil
}

func (k *key) sign(s pkcs11.SessionHandle, input []byte) (signature []byte, err error) {
	module := k.vault.module
	object := pkcs11.ObjectHandle(k.object.Load())
	if object == 0 {
		if object, err = k.vault.find(s, pkcs11.CKO_PRIVATE_KEY, k.id); err != nil {
			return nil, err
		}
		k.object.Store(uint64(object))
	}
	if err := module.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(k.kind.sign, nil)}, object); err != nil {
		return nil, err
	}
	return module.Sign(s, input)
}

// public reads the public half of a key.
func (v *Vault) public(s pkcs11.SessionHandle, id string) (*kind, crypto.PublicKey, error) {
	object, err := v.find(s, pkcs11.CKO_PUBLIC_KEY, id)
	if err != nil {
		return nil, nil, err
	}
	// Asked for one by one: a key has either.
	if a, err := v.attributes(s, object, pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT); err == nil {
		public, err := ec(a[0], a[1])
		return kinds[ring.ES256], public, err
	}
	a, err := v.attributes(s, object, pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT)
	if err != nil {
		return nil, nil, errors.New("the key's type is not one that we use")
	}
	e := new(big.Int).SetBytes(a[1])
	if !e.IsInt64() || e.Int64() > 1<<31-1 {
		return nil, nil, errors.New("the key's exponent is too large")
	}
	return kinds[ring.RS256], &rsa.PublicKey{N: new(big.Int).SetBytes(a[0]), E: int(e.Int64())}, nil
}

func (v *Vault) attributes(s pkcs11.SessionHandle, object pkcs11.ObjectHandle, types ...uint) ([][]byte, error) {
	var values [][]byte
	for _, t := range types {
		a, err := v.module.GetAttributeValue(s, object, []*pkcs11.Attribute{pkcs11.NewAttribute(t, nil)})
		if err != nil {
			return nil, err
		}
		if len(a) != 1 || len(a[0].Value) == 0 {
			return nil, errors.New("the attribute is empty")
		}
		values = append(values, a[0].Value)
	}
	return values, nil
}

// ec reads a point of P-256: an OCTET STRING by the standard (PKCS #11 v2.40,
// section 2.3.3), bare in some tokens.
func ec(curve, point []byte) (*ecdsa.PublicKey, error) {
	if !slices.Equal(curve, p256) {
		return nil, errors.New("the key's curve is not P-256")
	}
	var bare []byte
	if rest, err := asn1.Unmarshal(point, &bare); err != nil || len(rest) != 0 {
		bare = point
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), bare)
	if err != nil {
		return nil, errors.New("the key's point is not on the curve")
	}
	return public, nil
}

// String shows no PIN.
func (c Config) String() string { return fmt.Sprintf("token %q of %s", c.Token, c.Module) }

// Format shows the same for every verb.
func (c Config) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// String names nothing: a vault has a PIN.
func (v *Vault) String() string { return "PKCS #11 token" }

// Format shows the same for every verb.
func (v *Vault) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(v.String())) }
