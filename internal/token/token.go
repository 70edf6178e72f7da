// Package token says what one of our tokens means: the claims that the issuer
// writes and the verifier reads (RFC 9068, RFC 8725), the rules by which a set
// of claims is good at a given moment, and the grammar and algebra of scopes.
//
// It knows nothing of HTTP, signatures, keys, or either program. Whoever calls
// [Parse] has already checked the signature; this package cannot.
//
// Start with [Claims], then [Expect.Check], then [Scopes].
package token

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// Type is the JWS "typ" header of every token we sign. The verifier refuses any
// other, so that an identity token can never be used as one of ours (RFC 9068,
// section 4).
const Type = "at+jwt"

// Bounds of the profile.
const (
	MaxBytes    = 2048      // A whole compact token.
	MaxLifetime = time.Hour // exp − iat.
	MaxText     = 512       // Any one text claim, in bytes.
	MaxList     = 64        // Elements of grp, amr or ip.
)

// Claims are the payload of a token. Texts are printable ASCII of at most
// [MaxText] bytes; an optional claim that is absent is the zero value.
type Claims struct {
	Issuer   string    // iss: the issuer's URL, compared byte for byte.
	Subject  string    // sub: "provider:subject", or the key id where the key needs no identity.
	Audience string    // aud: the one verifier, or fleet of them, that may accept it.
	ClientID string    // client_id: the machine key's id.
	ID       string    // jti
	IssuedAt time.Time // iat, whole seconds, as all times here.
	NotBefore,
	Expires time.Time // nbf, exp: at most MaxLifetime after iat.
	Scope Scopes // scope: never empty.

	AuthTime time.Time // auth_time: when the person last logged in. Optional.
	ACR      string    // acr: how they did, in the provider's words. Optional.
	AMR      []string  // amr. Optional.
	Grant    string    // grant: the grant that the scope was taken from.
	Tier     string    // tier: the name of that grant's tier. Optional.
	Team     string    // team: the key's team. Optional.
	Groups   []string  // grp: groups that the grants name, never all of the identity's. Optional.

	// IP holds the networks that calls may come from. Nil is anywhere; empty
	// but not nil is nowhere.
	IP []netip.Prefix // ip

	Limits Limits // lim: what the token may spend. Optional.
	Params Params // par: bounds of calls' parameters. Optional.

	// Actor tells who holds the token where it was narrowed for somebody else
	// (RFC 8693, section 4.1). Subject and ClientID stay those of the first.
	Actor *Actor // act
}

// MaxActors is how many holders a token may have had after its first.
const MaxActors = 4

// An Actor is a holder of a narrowed token, and through whom they have it.
type Actor struct {
	Subject string // sub: the id of the holder's machine key.
	Actor   *Actor // act: the holder before. May be nil.
}

// Depth is how many holders there are, 0 for nil.
func (a *Actor) Depth() int {
	n := 0
	for ; a != nil; a = a.Actor {
		n++
	}
	return n
}

// A claim that this list does not know may be a restriction that this version
// could not enforce, so [Parse] refuses the token instead of ignoring it.
var readers = map[string]func(*Claims, strictjson.Value) bool{
	"iss":       func(c *Claims, v strictjson.Value) bool { return text(v, &c.Issuer) },
	"sub":       func(c *Claims, v strictjson.Value) bool { return text(v, &c.Subject) },
	"aud":       func(c *Claims, v strictjson.Value) bool { return text(v, &c.Audience) },
	"client_id": func(c *Claims, v strictjson.Value) bool { return text(v, &c.ClientID) },
	"jti":       func(c *Claims, v strictjson.Value) bool { return text(v, &c.ID) },
	"iat":       func(c *Claims, v strictjson.Value) bool { return numericDate(v, &c.IssuedAt) },
	"nbf":       func(c *Claims, v strictjson.Value) bool { return numericDate(v, &c.NotBefore) },
	"exp":       func(c *Claims, v strictjson.Value) bool { return numericDate(v, &c.Expires) },
	"auth_time": func(c *Claims, v strictjson.Value) bool { return numericDate(v, &c.AuthTime) },
	"acr":       func(c *Claims, v strictjson.Value) bool { return text(v, &c.ACR) },
	"amr":       func(c *Claims, v strictjson.Value) bool { return texts(v, &c.AMR) },
	"grant":     func(c *Claims, v strictjson.Value) bool { return text(v, &c.Grant) },
	"tier":      func(c *Claims, v strictjson.Value) bool { return text(v, &c.Tier) },
	"team":      func(c *Claims, v strictjson.Value) bool { return text(v, &c.Team) },
	"grp":       func(c *Claims, v strictjson.Value) bool { return texts(v, &c.Groups) },
	"ip":        func(c *Claims, v strictjson.Value) bool { return networks(v, &c.IP) },
	"act":       func(c *Claims, v strictjson.Value) bool { return actor(v, &c.Actor, 1) },
	"lim":       func(c *Claims, v strictjson.Value) (ok bool) { c.Limits, ok = ReadLimits(v); return ok },
	"par":       func(c *Claims, v strictjson.Value) (ok bool) { c.Params, ok = ReadParams(v); return ok },
	"scope": func(c *Claims, v strictjson.Value) (ok bool) {
		s, ok := v.Text()
		if !ok {
			return false
		}
		var err error
		c.Scope, err = ParseScopes(s)
		return err == nil
	},
}

// maxMembers bounds the members of a payload, nested ones included.
const maxMembers = 64

// Parse reads a payload strictly: one JSON object, no member twice, no unknown
// claim, each of its exact type, none that the profile requires missing. Errors
// match [ErrClaims] and hold no value from the payload.
func Parse(payload []byte) (Claims, error) {
	members, err := strictjson.Object(payload, strictjson.Limits{Depth: 1 + MaxActors, Members: maxMembers})
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrClaims, err)
	}
	var c Claims
	for _, m := range members {
		read, known := readers[m.Name]
		if !known {
			return Claims{}, fmt.Errorf("%w: a claim this version does not know", ErrClaims)
		}
		if !read(&c, m.Value) {
			return Claims{}, fmt.Errorf("%w: %s has a bad value", ErrClaims, m.Name)
		}
	}
	return c, c.valid()
}

// valid holds c to the profile, apart from what only the reader knows.
func (c *Claims) valid() error {
	for _, required := range []struct {
		name string
		ok   bool
	}{
		{"iss", validText(c.Issuer)},
		{"sub", validText(c.Subject)},
		{"aud", validText(c.Audience)},
		{"client_id", validText(c.ClientID)},
		{"jti", validText(c.ID)},
		{"iat", !c.IssuedAt.IsZero()},
		{"nbf", !c.NotBefore.IsZero()},
		{"exp", !c.Expires.IsZero()},
		{"scope", len(c.Scope) > 0 && len(c.Scope) <= MaxScopes},
		{"grant", validText(c.Grant)},
	} {
		if !required.ok {
			return fmt.Errorf("%w: %s is missing or bad", ErrClaims, required.name)
		}
	}
	for _, s := range []string{c.ACR, c.Tier, c.Team} {
		if s != "" && !validText(s) {
			return fmt.Errorf("%w: a text is too long or not printable", ErrClaims)
		}
	}
	for _, list := range [][]string{c.AMR, c.Groups} {
		if len(list) > MaxList || slices.ContainsFunc(list, func(s string) bool { return !validText(s) }) {
			return fmt.Errorf("%w: a list is too long or holds a bad text", ErrClaims)
		}
	}
	if len(c.IP) > MaxList {
		return fmt.Errorf("%w: more than %d networks", ErrClaims, MaxList)
	}
	if err := errors.Join(c.Limits.Check(), c.Params.Check()); err != nil {
		return fmt.Errorf("%w: %w", ErrClaims, err)
	}
	if c.Actor.Depth() > MaxActors {
		return fmt.Errorf("%w: more than %d actors", ErrClaims, MaxActors)
	}
	for a := c.Actor; a != nil; a = a.Actor {
		if !validText(a.Subject) {
			return fmt.Errorf("%w: a bad actor", ErrClaims)
		}
	}
	if !c.Expires.After(c.IssuedAt) || c.NotBefore.After(c.Expires) {
		return fmt.Errorf("%w: its times contradict each other", ErrClaims)
	}
	if c.Expires.Sub(c.IssuedAt) > MaxLifetime {
		return ErrLifetime
	}
	return nil
}

// Encode returns the payload that [Parse] reads back without loss. Claims that
// break the profile are not written: the error matches [ErrClaims] or
// [ErrLifetime].
func (c *Claims) Encode() ([]byte, error) {
	if err := c.valid(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, 512)
	b = append(b, '{')
	b = appendText(b, "iss", c.Issuer)
	b = appendText(b, "sub", c.Subject)
	b = appendText(b, "aud", c.Audience)
	b = appendText(b, "client_id", c.ClientID)
	b = appendText(b, "jti", c.ID)
	b = appendTime(b, "iat", c.IssuedAt)
	b = appendTime(b, "nbf", c.NotBefore)
	b = appendTime(b, "exp", c.Expires)
	b = appendText(b, "scope", c.Scope.String())
	b = appendText(b, "grant", c.Grant)
	b = appendTime(b, "auth_time", c.AuthTime)
	b = appendText(b, "acr", c.ACR)
	b = appendTexts(b, "amr", c.AMR)
	b = appendText(b, "tier", c.Tier)
	b = appendText(b, "team", c.Team)
	b = appendTexts(b, "grp", c.Groups)
	if c.IP != nil {
		networks := make([]string, len(c.IP))
		for i, p := range c.IP {
			networks[i] = p.String()
		}
		b = appendList(b, "ip", networks)
	}
	if len(c.Limits) > 0 {
		b = append(c.Limits.AppendJSON(appendName(b, "lim")), ',')
	}
	if !c.Params.IsZero() {
		b = append(c.Params.AppendJSON(appendName(b, "par")), ',')
	}
	if c.Actor != nil {
		b = append(c.Actor.appendTo(appendName(b, "act")), ',')
	}
	b[len(b)-1] = '}' // In place of the last comma.
	return b, nil
}

// Expect is what a verifier wants of a token.
type Expect struct {
	Issuer   string
	Audience string

	// Skew is how far the issuer's clock may run ahead of ours: it is given to
	// iat and nbf. Nothing is given to exp, so no token outlives its hour.
	Skew time.Duration
}

// Check tells whether c is good at now. The error is [ErrIssuer],
// [ErrAudience], [ErrExpired] or [ErrNotYet].
func (e Expect) Check(c *Claims, now time.Time) error {
	switch {
	case c.Issuer != e.Issuer:
		return ErrIssuer
	case c.Audience != e.Audience:
		return ErrAudience
	}
	return e.CheckTime(c, now)
}

// CheckTime is the part of [Expect.Check] that can change while a token lives.
func (e Expect) CheckTime(c *Claims, now time.Time) error {
	switch {
	case !now.Before(c.Expires):
		return ErrExpired
	case now.Add(e.Skew).Before(c.NotBefore), now.Add(e.Skew).Before(c.IssuedAt):
		return ErrNotYet
	}
	return nil
}

// AllowsIP tells whether the token may be used from addr. An IPv4 address in
// IPv6 clothes is the IPv4 address; one with a zone is in no network, and an
// invalid one is nowhere.
func (c *Claims) AllowsIP(addr netip.Addr) bool {
	return c.IP == nil || slices.ContainsFunc(c.IP, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) })
}

func validText(s string) bool {
	if s == "" || len(s) > MaxText {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func text(v strictjson.Value, to *string) (ok bool) {
	*to, ok = v.Text()
	return ok && validText(*to)
}

func texts(v strictjson.Value, to *[]string) (ok bool) {
	*to, ok = v.Texts(MaxList)
	return ok && len(*to) > 0
}

// numericDate reads whole seconds from 1970 to 9999 (RFC 7519, section 2).
func numericDate(v strictjson.Value, to *time.Time) bool {
	n, ok := v.Int()
	*to = time.Unix(n, 0)
	return ok && n > 0 && n < 253402300800
}

func networks(v strictjson.Value, to *[]netip.Prefix) bool {
	list, ok := v.Texts(MaxList)
	if !ok {
		return false
	}
	*to = make([]netip.Prefix, len(list))
	for i, s := range list {
		p, err := ParseNetwork(s)
		if err != nil {
			return false
		}
		(*to)[i] = p
	}
	return true
}

// ParseNetwork reads a CIDR range strictly: no host bits, no zone, and no IPv4
// range in IPv6 clothes, which would never match an unmapped address.
func ParseNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is not an IP network such as 10.0.0.0/8", s)
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its mask; %s is meant, perhaps", s, p.Masked())
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q: write IPv4 networks as IPv4", s)
	}
	return p, nil
}

func actor(v strictjson.Value, to **Actor, depth int) bool {
	members, ok := object(v, 2*MaxActors)
	if !ok || depth > MaxActors {
		return false
	}
	a := &Actor{}
	for _, m := range members {
		switch m.Name {
		case "sub":
			ok = text(m.Value, &a.Subject)
		case "act":
			ok = actor(m.Value, &a.Actor, depth+1)
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	*to = a
	return a.Subject != ""
}

func (a *Actor) appendTo(b []byte) []byte {
	b = strictjson.AppendText(appendName(append(b, '{'), "sub"), a.Subject)
	if a.Actor != nil {
		b = a.Actor.appendTo(appendName(append(b, ','), "act"))
	}
	return append(b, '}')
}

func appendName(b []byte, name string) []byte {
	return append(strictjson.AppendText(b, name), ':')
}

func appendText(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return append(strictjson.AppendText(appendName(b, name), value), ',')
}

func appendTime(b []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return append(strconv.AppendInt(appendName(b, name), t.Unix(), 10), ',')
}

func appendTexts(b []byte, name string, list []string) []byte {
	if len(list) == 0 {
		return b
	}
	return appendList(b, name, list)
}

func appendList(b []byte, name string, list []string) []byte {
	b = append(appendName(b, name), '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendText(b, s)
	}
	return append(b, ']', ',')
}
