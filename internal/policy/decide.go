package policy

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/token"
)

// The reasons to refuse an exchange. Each is a complete sentence for the
// caller, who has by then proven to hold the key.
var (
	ErrKeyState = errors.New("the machine key is not active")
	ErrBinding  = errors.New("the machine key is not bound to this identity")
	ErrMember   = errors.New("this identity may hold none of the machine key's grants")
	ErrScope    = errors.New("the requested scope is wider than the machine key's grants")
	ErrNothing  = errors.New("the machine key's grants leave no scope")
	ErrExpiry   = errors.New("nothing is left of the time that this identity and key may have")
)

// A Request is what an exchange asks for.
type Request struct {
	Scope    token.Scopes
	HasScope bool          // False where the request names none: the grants' default is meant.
	Lifetime time.Duration // The longest that the issuer gives, at most token.MaxLifetime.
	CapByIDP bool          // The token may not outlive the identity's own proof.
}

// A Decision is what an exchange yields.
type Decision struct {
	Scope   token.Scopes
	Grant   string // The names of the grants that gave Scope, space-delimited.
	Tier    string // The tier of the first that names one.
	Groups  []string
	IP      []netip.Prefix // As token.Claims.IP.
	Expires time.Time
}

// Decide tells what key, wielded by who, gets at now. It never gives more than
// any of its sources: scope is within the request and the grants, networks are
// within the key's and each grant's, expiry is the soonest of all. The caller
// has authenticated both key and identity. Errors are the sentinels above.
func Decide(grants map[string]Grant, key Key, who Identity, req Request, now time.Time) (Decision, error) {
	if key.StateAt(now) != Active {
		return Decision{}, ErrKeyState
	}
	if !slices.ContainsFunc(key.Bindings, func(b Binding) bool { return b.binds(who) }) {
		return Decision{}, ErrBinding
	}
	held := heldGrants(grants, key, who)
	if len(held) == 0 {
		return Decision{}, ErrMember
	}
	want := req.Scope
	if !req.HasScope {
		for _, g := range held {
			want = want.Union(g.Default)
		}
	}
	var whole token.Scopes
	for _, g := range held {
		whole = whole.Union(g.Scopes)
	}
	switch {
	case !want.Within(whole):
		return Decision{}, ErrScope
	case len(want) == 0:
		return Decision{}, ErrNothing
	}

	d := Decision{Scope: want, IP: key.IPRanges, Expires: soonest(now.Add(min(req.Lifetime, token.MaxLifetime)), key.ExpiresAt)}
	if req.CapByIDP {
		d.Expires = soonest(d.Expires, who.Expires)
	}
	var names []string
	for _, g := range held {
		if len(want.Intersect(g.Scopes)) == 0 {
			continue // Gives nothing, so limits nothing.
		}
		names = append(names, g.Name)
		d.IP = intersectNetworks(d.IP, g.IPRanges)
		d.Expires = soonest(d.Expires, now.Add(g.MaxLifetime))
		if d.Tier == "" {
			d.Tier = g.Tier
		}
		for _, group := range who.Groups {
			if g.namesGroup(who.Provider, group) && !slices.Contains(d.Groups, group) {
				d.Groups = append(d.Groups, group)
			}
		}
	}
	d.Grant = strings.Join(names, " ")
	if !d.Expires.After(now) {
		return Decision{}, ErrExpiry
	}
	return d, nil
}

// heldGrants are the key's grants that the identity may hold, in the key's
// order. A grant that the configuration no longer knows gives nothing.
func heldGrants(grants map[string]Grant, key Key, who Identity) []Grant {
	var held []Grant
	for _, name := range key.Grants {
		if g, ok := grants[name]; ok && g.Admits(who) {
			held = append(held, g)
		}
	}
	return held
}

// soonest is the earlier of two times; a zero time is unknown and loses to
// nothing: an unknown end is an end now.
func soonest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// intersectNetworks returns the addresses that are in both lists, where nil is
// everywhere. Two networks are nested or disjoint, so it is made of theirs.
func intersectNetworks(a, b []netip.Prefix) []netip.Prefix {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	both := []netip.Prefix{}
	for _, p := range a {
		for _, q := range b {
			if !p.Overlaps(q) {
				continue
			}
			if q.Bits() > p.Bits() {
				p, q = q, p
			}
			if !slices.Contains(both, p) {
				both = append(both, p)
			}
		}
	}
	return both
}
