package jwks

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
)

// The algorithms. Each belongs to one kind of key: P-256, P-384, Ed25519, RSA
// with PKCS #1 v1.5 and SHA-256.
const (
	ES256 = "ES256"
	ES384 = "ES384"
	EdDSA = "EdDSA" // In tokens and keys also by its newer name, Ed25519 (RFC 9864).
	RS256 = "RS256"
)

var algorithms = []string{ES256, ES384, EdDSA, RS256}

// canonicalAlg maps both names of Ed25519 signatures to one.
func canonicalAlg(name string) string {
	if name == "Ed25519" {
		return EdDSA
	}
	return name
}

// DefaultMaxBytes bounds a compact token where a [Profile] says nothing.
const DefaultMaxBytes = 8 << 10

// maxHeader bounds the header's text: a kid of 128 bytes, all escaped, fits.
const maxHeader = 2 << 10

var headerLimits = strictjson.Limits{Depth: 4, Members: 32}

// Profile says which tokens to accept besides that a key of the set signed them.
// The zero value accepts none.
type Profile struct {
	// Types are the accepted values of the typ header. They are compared byte
	// for byte: RFC 7515, section 4.1.9, would let media types vary in case and
	// prefix, but each issuer writes one form, and whatever more is accepted is
	// one more way to confuse one kind of token with another (RFC 8725, section
	// 3.11). "" accepts a token without typ.
	Types []string

	// Algorithms are the accepted ones, of [ES256], [ES384], [EdDSA], [RS256].
	// A key's own algorithm must be among them too.
	Algorithms []string

	// ExactHeader demands that the header holds alg, kid and typ and nothing
	// else, as our own tokens do.
	ExactHeader bool

	// MaxBytes bounds the whole token. Zero means [DefaultMaxBytes].
	MaxBytes int
}

// check returns all that is wrong with a profile.
func (p Profile) check() error {
	var errs []error
	if len(p.Types) == 0 {
		errs = append(errs, errors.New("no accepted typ"))
	}
	if len(p.Algorithms) == 0 {
		errs = append(errs, errors.New("no accepted algorithm"))
	}
	for _, alg := range p.Algorithms {
		if !slices.Contains(algorithms, canonicalAlg(alg)) {
			errs = append(errs, fmt.Errorf("algorithm %q is not one of %s", alg, strings.Join(algorithms, ", ")))
		}
	}
	if p.MaxBytes < 0 {
		errs = append(errs, errors.New("a token can't have fewer than 0 bytes"))
	}
	return errors.Join(errs...)
}

// accepts tells whether alg, a canonical name, is accepted.
func (p Profile) accepts(alg string) bool {
	return slices.ContainsFunc(p.Algorithms, func(a string) bool { return canonicalAlg(a) == alg })
}

// Header parameters that are refused always: those that bring or point to a key
// (the attacker's, or a server that he wants us to call), those that change what
// is signed, and those that make the payload something else than claims. crit is
// refused because we understand no extension that it could name.
var refusedParameters = []string{"crit", "b64", "zip", "cty", "jwk", "jku", "x5u", "x5c"}

// Verify returns the payload of a compact JWS (RFC 7515, section 3.1) that one
// of the keys signed. The checks go from cheap to dear; a signature is computed
// only for a well-formed token under a known key with its own algorithm. Errors
// match one of [token.ErrMissing], [token.ErrTooLong], [token.ErrMalformed],
// [token.ErrAlgorithm], [token.ErrType], [token.ErrUnknownKey] and
// [token.ErrSignature], and hold nothing of the token but a shortened kid.
func (s *Set) Verify(p Profile, compact string) (payload []byte, err error) {
	payload, _, err = s.VerifyKeyID(p, compact)
	return payload, err
}

// VerifyKeyID is [Set.Verify] for who must know which key it was.
func (s *Set) VerifyKeyID(p Profile, compact string) (payload []byte, kid string, err error) {
	t, err := parseCompact(p, compact)
	if err != nil {
		return nil, "", err
	}
	kid = t.header.kid
	k, ok := s.keys[kid]
	if !ok {
		return nil, "", fmt.Errorf("%w: kid %s", token.ErrUnknownKey, quoteKeyID(kid))
	}
	if k.alg != t.header.alg {
		return nil, "", fmt.Errorf("%w: the key %s is for %s alone", token.ErrAlgorithm, quoteKeyID(kid), k.alg)
	}
	if !k.verify(t.signed, t.signature) {
		return nil, "", fmt.Errorf("%w: kid %s", token.ErrSignature, quoteKeyID(kid))
	}
	return t.payload, kid, nil
}

// compactJWS is a well-formed token, not verified.
type compactJWS struct {
	header    header
	payload   []byte
	signed    string // What the signature covers.
	signature []byte
}

type header struct {
	alg string // Canonical, and accepted.
	kid string
}

// parseCompact does all that can be done without a key.
func parseCompact(p Profile, compact string) (*compactJWS, error) {
	limit := p.MaxBytes
	if limit == 0 {
		limit = DefaultMaxBytes
	}
	switch {
	case compact == "":
		return nil, token.ErrMissing
	case len(compact) > limit:
		return nil, fmt.Errorf("%w: it has %d bytes, the bound is %d", token.ErrTooLong, len(compact), limit)
	case strings.Count(compact, ".") != 2:
		return nil, malformed("it has not three parts")
	}
	end := strings.LastIndexByte(compact, '.')
	t := &compactJWS{signed: compact[:end]}
	head, body, _ := strings.Cut(t.signed, ".")
	if len(head) > maxHeader {
		return nil, malformed("its header is too long")
	}
	raw, ok := decode(head)
	if !ok {
		return nil, malformed("its header is not canonical base64url")
	}
	var err error
	if t.header, err = parseHeader(p, raw); err != nil {
		return nil, err
	}
	if t.payload, ok = decode(body); !ok {
		return nil, malformed("its payload is not canonical base64url")
	}
	if t.signature, ok = decode(compact[end+1:]); !ok {
		return nil, malformed("its signature is not canonical base64url")
	}
	return t, nil
}

func malformed(detail string) error { return fmt.Errorf("%w: %s", token.ErrMalformed, detail) }

func parseHeader(p Profile, raw []byte) (header, error) {
	list, err := strictjson.Object(raw, headerLimits)
	if err != nil {
		// Its error may quote a name out of the token.
		return header{}, malformed("its header is not one strict JSON object")
	}
	var h header
	var typ string
	var hasTyp, isText bool
	for _, m := range list {
		switch m.Name {
		case "alg":
			h.alg, _ = m.Text()
			h.alg = canonicalAlg(h.alg)
		case "kid":
			h.kid, _ = m.Text()
		case "typ":
			typ, isText = m.Text()
			hasTyp = true
		default:
			if slices.Contains(refusedParameters, m.Name) {
				return header{}, malformed("its header has the parameter " + m.Name)
			}
			if p.ExactHeader {
				return header{}, malformed("its header has a parameter other than alg, kid and typ")
			}
		}
	}
	switch {
	case !p.accepts(h.alg):
		return header{}, token.ErrAlgorithm
	case hasTyp && (!isText || typ == ""), p.ExactHeader && !hasTyp, !slices.Contains(p.Types, typ):
		return header{}, token.ErrType
	case !validKeyID(h.kid):
		return header{}, malformed("its header has no kid of printable ASCII characters within bounds")
	}
	return h, nil
}

// verify checks a signature of the size that RFC 7518 and 8037 give it.
func (k key) verify(signed string, signature []byte) bool {
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		if k.alg == ES384 {
			digest := sha512.Sum384([]byte(signed))
			return verifyECDSA(public, digest[:], signature, 48)
		}
		digest := sha256.Sum256([]byte(signed))
		return verifyECDSA(public, digest[:], signature, 32)
	case ed25519.PublicKey:
		return ed25519.Verify(public, []byte(signed), signature) // Refuses other sizes and S ≥ the group's order.
	case *rsa.PublicKey:
		digest := sha256.Sum256([]byte(signed))
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
	}
	return false
}

// verifyECDSA checks a signature that is r and s, size bytes each (RFC 7518,
// section 3.4). ecdsa.Verify refuses numbers out of 1 to n−1: zero for both once
// verified everything (CVE-2022-21449).
func verifyECDSA(public *ecdsa.PublicKey, digest, signature []byte, size int) bool {
	if len(signature) != 2*size {
		return false
	}
	r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
	return ecdsa.Verify(public, digest, r, s)
}
