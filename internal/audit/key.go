package audit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// The algorithms of checkpoints. Each belongs to one kind of key, and comes from
// the key (RFC 8725, section 3.1).
const (
	es256 = "ES256"
	eddsa = "EdDSA"
	rs256 = "RS256"
)

// Bounds of a key set document and of RSA keys, as in package jwks, which this
// one stands below.
const (
	maxKeySet   = 256 << 10
	maxKeys     = 100
	minRSABits  = 2048
	maxRSABits  = 8192
	minExponent = 65537
)

var keyLimits = strictjson.Limits{Depth: 8, Members: 32 * maxKeys}

// publicKey is a key that a checkpoint can be checked with.
type publicKey struct {
	alg  string
	key  crypto.PublicKey
	text []byte // As RFC 7638, section 3 writes it: the required members alone, in order.
}

// thumbprint is the SHA-256 of the text (RFC 7638).
func (k *publicKey) thumbprint() string {
	digest := sha256.Sum256(k.text)
	return base64.RawURLEncoding.EncodeToString(digest[:])
}

// parseKey reads a JWK (RFC 7517, section 4), of which it looks at the members
// that make up the key.
func parseKey(jwk []strictjson.Member) (*publicKey, error) {
	text := map[string]string{}
	for _, m := range jwk {
		text[m.Name], _ = m.Text()
	}
	var names []string
	k := &publicKey{}
	var err error
	switch kty, crv := text["kty"], text["crv"]; {
	case kty == "EC" && crv == "P-256":
		k.alg, names = es256, []string{"crv", "kty", "x", "y"}
		k.key, err = parseP256(text["x"], text["y"])
	case kty == "OKP" && crv == "Ed25519":
		k.alg, names = eddsa, []string{"crv", "kty", "x"}
		k.key, err = parseEd25519(text["x"])
	case kty == "RSA":
		k.alg, names = rs256, []string{"e", "kty", "n"}
		k.key, err = parseRSA(text["n"], text["e"])
	default:
		err = errors.New("its type or curve is not one we use")
	}
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		k.text = append(k.text, "{,"[min(i, 1)])
		k.text = append(strictjson.AppendText(k.text, name), ':')
		k.text = strictjson.AppendText(k.text, text[name])
	}
	k.text = append(k.text, '}')
	return k, nil
}

func parseP256(x, y string) (crypto.PublicKey, error) {
	bx, okX := decode(x)
	by, okY := decode(y)
	if !okX || !okY || len(bx) != 32 || len(by) != 32 {
		return nil, errors.New("its coordinates are not base64url of 32 bytes each")
	}
	// It refuses a point that is not on the curve.
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, bx...), by...))
	if err != nil {
		return nil, errors.New("its point is not on the curve")
	}
	return key, nil
}

// parseEd25519 takes points of low order too, under which signatures mean little:
// whoever puts such a key into a file could as well sign with one of his own, and
// no pinned key is one.
func parseEd25519(x string) (crypto.PublicKey, error) {
	b, ok := decode(x)
	if !ok || len(b) != ed25519.PublicKeySize {
		return nil, errors.New("its x is not base64url of 32 bytes")
	}
	return ed25519.PublicKey(b), nil
}

func parseRSA(n, e string) (crypto.PublicKey, error) {
	bn, okN := decode(n)
	be, okE := decode(e)
	if !okN || !okE || bn[0] == 0 || be[0] == 0 || len(be) > 4 || len(bn) > maxRSABits/8 {
		return nil, errors.New("its n or e is not base64url of a number in range")
	}
	modulus, exponent := new(big.Int).SetBytes(bn), new(big.Int).SetBytes(be).Int64()
	if modulus.BitLen() < minRSABits || exponent < minExponent || exponent >= 1<<31 || exponent%2 == 0 {
		return nil, fmt.Errorf("its modulus has fewer than %d bits, or its exponent is odd in no good way", minRSABits)
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent)}, nil
}

// verify checks a signature of the size that RFC 7518 and 8037 give it.
func (k *publicKey) verify(signed string, signature []byte) bool {
	digest := sha256.Sum256([]byte(signed))
	switch key := k.key.(type) {
	case *ecdsa.PublicKey:
		if len(signature) != 64 {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
		return ecdsa.Verify(key, digest[:], r, s)
	case ed25519.PublicKey:
		return ed25519.Verify(key, []byte(signed), signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil
	}
	return false
}

// keySet reads the keys of a JWK Set that checkpoints could be signed with, by
// their kid; of those without one, by their thumbprint.
func keySet(doc []byte) (map[string]*publicKey, error) {
	if len(doc) > maxKeySet {
		return nil, fmt.Errorf("the key set has more than %d bytes", maxKeySet)
	}
	members, err := strictjson.Object(doc, keyLimits)
	if err != nil {
		return nil, fmt.Errorf("the key set is not one strict JSON object: %w", err)
	}
	keys := map[string]*publicKey{}
	for _, m := range members {
		if m.Name != "keys" {
			continue
		}
		list, err := strictjson.Array(m.Raw, keyLimits)
		if err != nil || len(list) > maxKeys {
			return nil, fmt.Errorf("the key set's keys are not an array of at most %d", maxKeys)
		}
		for _, v := range list {
			jwk, err := strictjson.Object(v.Raw, keyLimits)
			if err != nil {
				return nil, errors.New("a key of the key set is not an object")
			}
			k, err := parseKey(jwk)
			if err != nil {
				continue // RFC 7517, section 5: of a kind that others use.
			}
			kid := k.thumbprint()
			for _, m := range jwk {
				if text, ok := m.Text(); ok && m.Name == "kid" {
					kid = text
				}
			}
			if keys[kid] != nil {
				return nil, fmt.Errorf("two keys of the key set have the kid %.48q", kid)
			}
			keys[kid] = k
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("the key set holds no key that checkpoints can be signed with")
	}
	return keys, nil
}

// Thumbprints returns those of the keys in a JWK Set that checkpoints can be
// signed with (RFC 7638, SHA-256, base64url), for [Options].Trust.
func Thumbprints(doc []byte) ([]string, error) {
	keys, err := keySet(doc)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, k := range keys {
		list = append(list, k.thumbprint())
	}
	return list, nil
}

// decode reads base64url in its one canonical form. The standard decoder, though
// strict, skips newlines.
func decode(s string) ([]byte, bool) {
	if s == "" || strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return b, err == nil
}
