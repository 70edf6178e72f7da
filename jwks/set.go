package jwks

import (
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// Bounds of a key set document.
const (
	MaxDocument = 256 << 10 // Bytes.
	MaxKeys     = 100       // Keys, usable or not.
	MaxKeyID    = 128       // Bytes of a kid, in a document and in a token.
)

// An x5c list is the deepest thing in a real document (4 levels); Azure's keys
// have 9 members.
var documentLimits = strictjson.Limits{Depth: 8, Members: 32 * MaxKeys}

// Names of private and symmetric key material (RFC 7518, section 6; priv is
// that of the ML-DSA keys in draft-ietf-cose-dilithium).
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "k", "oth", "priv"}

// Set is a set of public keys, each bound to its kid and its one algorithm.
// It never changes, so any number of goroutines may use it.
type Set struct {
	keys    map[string]key
	skipped []string
}

// key is a public key and the only algorithm that it may be used with. The
// algorithm comes from the key, never from a token (RFC 8725, section 3.1).
type key struct {
	alg    string // As in algorithms.
	public publicKey
}

type publicKey interface {
	crypto.PublicKey
	Equal(crypto.PublicKey) bool
}

// errDocument is what every refusal of a whole document says first.
var errDocument = errors.New("the key set is refused")

// Parse reads a JWK Set. The whole document is refused if it is no strict JSON
// object, passes a bound, holds two keys of one kid, or any private or symmetric
// key: whoever published that has lost control of it, and the error never holds
// the value. Single keys that are of a kind we do not use, or too weak, are
// skipped (RFC 7517, section 5), but at least one must be left.
func Parse(doc []byte) (*Set, error) {
	if len(doc) > MaxDocument {
		return nil, fmt.Errorf("%w: it has more than %d bytes", errDocument, MaxDocument)
	}
	members, err := strictjson.Object(doc, documentLimits)
	if err != nil {
		return nil, fmt.Errorf("%w: it is not one strict JSON object: %w", errDocument, err)
	}
	var list []strictjson.Value
	for _, m := range members {
		if m.Name == "keys" {
			if list, err = strictjson.Array(m.Raw, documentLimits); err != nil {
				return nil, fmt.Errorf("%w: keys is not an array", errDocument)
			}
		}
	}
	if len(list) == 0 || len(list) > MaxKeys {
		return nil, fmt.Errorf("%w: it has %d keys, want 1 to %d", errDocument, len(list), MaxKeys)
	}
	s := &Set{keys: make(map[string]key, len(list))}
	seen := make(map[string]bool, len(list))
	for i, v := range list {
		if err := s.add(i, v, seen); err != nil {
			return nil, err
		}
	}
	if len(s.keys) == 0 {
		return nil, fmt.Errorf("%w: no key of it is usable (%s)", errDocument, s.skipped[0])
	}
	return s, nil
}

// add puts one key into the set or on the list of those skipped. Its error
// refuses the document.
func (s *Set) add(i int, v strictjson.Value, seen map[string]bool) error {
	list, err := strictjson.Object(v.Raw, documentLimits)
	if err != nil {
		return fmt.Errorf("%w: key number %d is not an object", errDocument, i+1)
	}
	jwk := make(members, len(list))
	for _, m := range list {
		jwk[m.Name] = m.Value
	}
	for _, name := range privateMembers {
		if _, ok := jwk[name]; ok {
			return fmt.Errorf("%w: key number %d has the private member %q; that key is burnt", errDocument, i+1, name)
		}
	}
	if jwk.text("kty") == "oct" {
		return fmt.Errorf("%w: key number %d is symmetric", errDocument, i+1)
	}
	kid := jwk.text("kid")
	if kid != "" && seen[kid] {
		return fmt.Errorf("%w: two keys have the kid %s", errDocument, quoteKeyID(kid))
	}
	seen[kid] = true
	k, err := jwk.key()
	if err == nil && !validKeyID(kid) {
		err = fmt.Errorf("it has no kid of 1 to %d printable ASCII characters", MaxKeyID)
	}
	if err != nil {
		s.skipped = append(s.skipped, fmt.Sprintf("key number %d, kid %s: %v", i+1, quoteKeyID(kid), err))
		return nil
	}
	s.keys[kid] = k
	return nil
}

// Len returns the number of usable keys.
func (s *Set) Len() int { return len(s.keys) }

// Skipped says for each key that is not used why, fit for a log.
func (s *Set) Skipped() []string { return slices.Clone(s.skipped) }

// Equal tells whether s and t accept the same tokens: the same keys under the
// same kids, whatever else their documents say.
func (s *Set) Equal(t *Set) bool {
	return maps.EqualFunc(s.keys, t.keys, func(a, b key) bool { return a.alg == b.alg && a.public.Equal(b.public) })
}

func validKeyID(kid string) bool {
	if kid == "" || len(kid) > MaxKeyID {
		return false
	}
	for i := range len(kid) {
		if kid[i] < ' ' || kid[i] > '~' {
			return false
		}
	}
	return true
}

// quoteKeyID makes a kid fit for a log line: ASCII, without control characters,
// short. It comes from whoever sent the token.
func quoteKeyID(kid string) string {
	const shown = 48
	if len(kid) > shown {
		return fmt.Sprintf("%+q…", kid[:shown])
	}
	return fmt.Sprintf("%+q", kid)
}
