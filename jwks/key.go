package jwks

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// Bounds of an RSA key. Below, factoring is in reach; above, one signature
// costs the verifier more than a millisecond and the key is nobody's.
const (
	minRSABits  = 2048
	maxRSABits  = 8192
	minExponent = 65537 // e = 1 accepts any signature; e = 3 has a history of forgeries.
	maxExponent = 1<<31 - 1
)

// members are those of one JWK, no name twice.
type members map[string]strictjson.Value

// text returns the member as text, "" if it is absent or something else.
func (m members) text(name string) string {
	s, _ := m[name].Text()
	return s
}

// key returns the key that the members describe, or why it is not used.
func (m members) key() (key, error) {
	if _, ok := m["use"]; ok && m.text("use") != "sig" {
		return key{}, errors.New("its use is not sig")
	}
	if ops, ok := m["key_ops"]; ok {
		list, ok := ops.Texts(8)
		if !ok || !slices.Contains(list, "verify") {
			return key{}, errors.New("its key_ops do not hold verify")
		}
	}
	k, err := m.material()
	if err != nil {
		return key{}, err
	}
	if _, ok := m["alg"]; ok && canonicalAlg(m.text("alg")) != k.alg {
		return key{}, fmt.Errorf("its alg is not %s, the only one it could be used with", k.alg)
	}
	return k, nil
}

func (m members) material() (key, error) {
	switch kty, crv := m.text("kty"), m.text("crv"); {
	case kty == "EC" && crv == "P-256":
		return m.ec(ES256, 32)
	case kty == "EC" && crv == "P-384":
		return m.ec(ES384, 48)
	case kty == "OKP" && crv == "Ed25519":
		return m.ed25519()
	case kty == "RSA":
		return m.rsa()
	}
	return key{}, errors.New("its type or curve is not one we use")
}

func (m members) ec(alg string, size int) (key, error) {
	// RFC 7518, section 6.2.1.2: full length, so that there is one way to write
	// a key.
	for _, name := range []string{"x", "y"} {
		if b, ok := decode(m.text(name)); !ok || len(b) != size {
			return key{}, fmt.Errorf("its coordinate %s is not base64url of %d bytes", name, size)
		}
	}
	public, err := convert[*ecdsa.PublicKey](m, "kty", "crv", "x", "y")
	if err != nil {
		return key{}, err
	}
	// ECDH refuses a point that is not on the curve, which jwx does not.
	if _, err := public.ECDH(); err != nil {
		return key{}, errors.New("its point is not on the curve")
	}
	return key{alg, public}, nil
}

func (m members) ed25519() (key, error) {
	x, ok := decode(m.text("x"))
	if !ok || len(x) != ed25519.PublicKeySize {
		return key{}, fmt.Errorf("its x is not base64url of %d bytes", ed25519.PublicKeySize)
	}
	if weakEd25519(x) {
		return key{}, errors.New("its point has low order or is not canonical")
	}
	public, err := convert[ed25519.PublicKey](m, "kty", "crv", "x")
	if err != nil {
		return key{}, err
	}
	return key{EdDSA, public}, nil
}

// The prime of Ed25519's field, and the y coordinates of the eight points whose
// order divides 8, both big-endian. Under such a key one made-up signature fits
// many messages, up to all of them.
var (
	ed25519Field    = mustHex("7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed")
	ed25519LowOrder = [][]byte{
		mustHex("0000000000000000000000000000000000000000000000000000000000000000"), // Order 4.
		mustHex("0000000000000000000000000000000000000000000000000000000000000001"), // Order 1.
		mustHex("7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffec"), // Order 2.
		mustHex("05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826"), // Order 8.
		mustHex("7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7"), // Order 8.
	}
)

func mustHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// weakEd25519 tells whether x, 32 bytes, has low order, or is a second way to
// write its point (RFC 8032, section 5.1.3), in which a point of low order could
// hide.
func weakEd25519(x []byte) bool {
	y := slices.Clone(x)
	slices.Reverse(y)
	y[0] &= 0x7f // The sign of the other coordinate.
	return bytes.Compare(y, ed25519Field) >= 0 ||
		slices.ContainsFunc(ed25519LowOrder, func(low []byte) bool { return bytes.Equal(y, low) })
}

func (m members) rsa() (key, error) {
	n, okN := decode(m.text("n"))
	e, okE := decode(m.text("e"))
	if !okN || !okE || len(e) > 8 {
		return key{}, errors.New("its n or e is not base64url of a number in range")
	}
	// Before jwx sees them: an exponent that does not fit an int would be cut.
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e).Uint64()
	if bits := modulus.BitLen(); bits < minRSABits || bits > maxRSABits || modulus.Bit(0) == 0 {
		return key{}, fmt.Errorf("its modulus has %d bits or is even; want %d to %d", bits, minRSABits, maxRSABits)
	}
	if exponent < minExponent || exponent > maxExponent || exponent%2 == 0 {
		return key{}, fmt.Errorf("its exponent is not odd and within %d to %d", minExponent, maxExponent)
	}
	if madeByROCA(modulus) {
		return key{}, errors.New("it comes from a generator whose keys can be factored (CVE-2017-15361)")
	}
	public, err := convert[*rsa.PublicKey](m, "kty", "n", "e")
	if err != nil {
		return key{}, err
	}
	return key{RS256, public}, nil
}

// convert lets jwx make a key of the named members, and of nothing else, so that
// jwx and we can't read two different keys out of one document.
func convert[T any](m members, names ...string) (T, error) {
	var none T
	checked := make(map[string]string, len(names))
	for _, name := range names {
		checked[name] = m.text(name)
	}
	doc, err := json.Marshal(checked)
	if err != nil {
		return none, errors.New("it can't be read")
	}
	parsed, err := jwk.ParseKey(doc)
	if err != nil {
		return none, errors.New("jwx can't read it")
	}
	var raw any
	if err := parsed.Raw(&raw); err != nil {
		return none, errors.New("jwx can't make a key of it")
	}
	public, ok := raw.(T)
	if !ok {
		return none, fmt.Errorf("jwx makes a %T of it", raw)
	}
	return public, nil
}

// decode reads base64url in its one canonical form (RFC 7515, section 2). The
// standard decoder refuses padding, other alphabets and, being strict, unused
// bits that are not zero, but skips newlines: with one in it, a second text would
// carry the same signature, past any list or cache of tokens by their text.
func decode(s string) ([]byte, bool) {
	if s == "" || strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return b, err == nil
}
