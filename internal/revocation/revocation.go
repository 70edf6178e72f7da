// Package revocation says which tokens are refused before they expire: the
// document that the issuer signs and verifiers pull, and what it means for one
// token.
//
// It knows nothing of HTTP, signatures or storage. Values are hashed, so that a
// document in a public cache names neither people nor keys.
//
// Start with [Document]; a verifier asks [Set.Revokes].
package revocation

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
)

// Type is the JWS "typ" header of a signed document.
const Type = "revocations+jwt"

// MaxEntries bounds a document. An issuer that has more to say revokes all.
const MaxEntries = 10_000

// MaxBytes bounds a signed document.
const MaxBytes = 4 << 20

// What says what an entry names.
type What string

// What can be revoked.
const (
	Token      What = "token"       // One token, by its jti.
	Key        What = "key"         // A machine key's tokens, and those that it holds as an actor.
	Identity   What = "identity"    // "provider:subject"
	Grant      What = "grant"       // A grant, by its name.
	SigningKey What = "signing_key" // All that a signing key signed, by its kid.
	All        What = "all"
)

// Kinds are all of them.
var Kinds = []What{Token, Key, Identity, Grant, SigningKey, All}

// An Entry refuses tokens of one kind that were issued before NotBefore.
type Entry struct {
	What      What
	Value     string    // As [Hash] makes it; empty for All.
	NotBefore time.Time // Whole seconds.
	Until     time.Time // By then the last of them has expired: the entry may be dropped.
}

// Hash is how a document names a value: 128 bits of its SHA-256, in base64url.
func Hash(what What, value string) string {
	sum := sha256.Sum256([]byte(string(what) + "\x00" + value))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// A Document is all that an issuer has revoked, as of a generation.
type Document struct {
	Issuer     string
	Generation int64     // Greater at each revocation.
	IssuedAt   time.Time // When it was signed: how stale it may get is the verifier's to say.
	Entries    []Entry
}

type wireDocument struct {
	Issuer     string      `json:"iss"`
	IssuedAt   int64       `json:"iat"`
	Generation int64       `json:"generation"`
	Entries    []wireEntry `json:"entries"`
}

type wireEntry struct {
	What      What   `json:"what"`
	Value     string `json:"value"`
	NotBefore int64  `json:"not_before"`
	Until     int64  `json:"until"`
}

// Encode returns the payload to sign.
func (d Document) Encode() ([]byte, error) {
	if len(d.Entries) > MaxEntries {
		return nil, fmt.Errorf("encoding revocations: more than %d entries", MaxEntries)
	}
	w := wireDocument{d.Issuer, d.IssuedAt.Unix(), d.Generation, make([]wireEntry, len(d.Entries))}
	for i, e := range d.Entries {
		w.Entries[i] = wireEntry{e.What, e.Value, e.NotBefore.Unix(), e.Until.Unix()}
	}
	return json.Marshal(w)
}

// ErrDocument means that a payload is not one that [Document.Encode] makes.
var ErrDocument = errors.New("not a revocation document")

// Parse reads a payload whose signature was checked. An entry that it does not
// understand fails the whole: it may be a revocation that would be missed.
func Parse(payload []byte) (Document, error) {
	members, err := strictjson.Object(payload, strictjson.Limits{Depth: 3, Members: 4 + 4*MaxEntries})
	if err != nil {
		return Document{}, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	var d Document
	seen := 0
	for _, m := range members {
		var ok bool
		switch m.Name {
		case "iss":
			d.Issuer, ok = m.Text()
		case "iat":
			d.IssuedAt, ok = seconds(m.Value)
		case "generation":
			d.Generation, ok = m.Int()
			ok = ok && d.Generation >= 0
		case "entries":
			d.Entries, ok = entries(m.Value)
		}
		if !ok {
			return Document{}, fmt.Errorf("%w: a member is unknown or bad", ErrDocument)
		}
		seen++
	}
	if seen != 4 {
		return Document{}, fmt.Errorf("%w: a member is missing", ErrDocument)
	}
	return d, nil
}

func seconds(v strictjson.Value) (time.Time, bool) {
	n, ok := v.Int()
	return time.Unix(n, 0).UTC(), ok && n > 0 && n < 253402300800 // Year 10000.
}

func entries(v strictjson.Value) ([]Entry, bool) {
	if v.Kind != strictjson.KindArray {
		return nil, false
	}
	elements, err := strictjson.Array(v.Raw, strictjson.Limits{Depth: 2})
	if err != nil || len(elements) > MaxEntries {
		return nil, false
	}
	list := make([]Entry, len(elements))
	for i, element := range elements {
		if element.Kind != strictjson.KindObject || !list[i].read(element.Raw) {
			return nil, false
		}
	}
	return list, true
}

func (e *Entry) read(doc []byte) bool {
	members, err := strictjson.Object(doc, strictjson.Limits{Depth: 1})
	if err != nil || len(members) != 4 {
		return false
	}
	for _, m := range members {
		var ok bool
		switch m.Name {
		case "what":
			var text string
			text, ok = m.Text()
			e.What = What(text)
			ok = ok && slices.Contains(Kinds, e.What)
		case "value":
			e.Value, ok = m.Text()
		case "not_before":
			e.NotBefore, ok = seconds(m.Value)
		case "until":
			e.Until, ok = seconds(m.Value)
		}
		if !ok {
			return false
		}
	}
	return (e.What == All) == (e.Value == "")
}

// A Set is a document made ready for questions. It never changes.
type Set struct {
	Document
	before map[string]time.Time // By what and hash: the latest NotBefore.
}

// NewSet makes a document ready.
func NewSet(d Document) *Set {
	s := &Set{Document: d, before: make(map[string]time.Time, len(d.Entries))}
	for _, e := range d.Entries {
		name := string(e.What) + " " + e.Value
		if e.NotBefore.After(s.before[name]) {
			s.before[name] = e.NotBefore
		}
	}
	return s
}

// Revokes tells whether the token, signed by the key of that kid, is refused.
func (s *Set) Revokes(c *token.Claims, kid string) bool {
	if len(s.before) == 0 {
		return false
	}
	if c.IssuedAt.Before(s.before["all "]) || s.has(c, Token, c.ID) || s.has(c, Key, c.ClientID) || s.has(c, Identity, c.Subject) || s.has(c, SigningKey, kid) {
		return true
	}
	for a := c.Actor; a != nil; a = a.Actor {
		if s.has(c, Key, a.Subject) {
			return true
		}
	}
	for name := range strings.SplitSeq(c.Grant, " ") {
		if s.has(c, Grant, name) {
			return true
		}
	}
	return false
}

func (s *Set) has(c *token.Claims, what What, value string) bool {
	return c.IssuedAt.Before(s.before[string(what)+" "+Hash(what, value)])
}
