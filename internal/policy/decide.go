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
	ErrOverdue  = errors.New("the machine key is overdue for rotation")
	ErrIdentity = errors.New("the machine key needs an identity beside it")
	ErrBinding  = errors.New("the machine key is not bound to this identity")
	ErrMember   = errors.New("this identity may hold none of the machine key's grants")
	ErrScope    = errors.New("the requested scope is wider than the machine key's grants")
	ErrNothing  = errors.New("the machine key's grants leave nothing to allow")
	ErrExpiry   = errors.New("nothing is left of the time that this identity and key may have")
)

// A Request is what an exchange asks for.
type Request struct {
	Scope    token.Scopes
	HasScope bool          // False where the request names none: the grants' default is meant.
	Lifetime time.Duration // The longest that the issuer gives, at most token.MaxLifetime.
	CapByIDP bool          // The token may not outlive the identity's own proof.
	// Grace is how long after its rotation is due a key still works. Negative is
	// forever: what is overdue is then only reported.
	Grace time.Duration
}

// A Decision is what an exchange yields.
type Decision struct {
	Subject string // As token.Claims.Subject.
	Scope   token.Scopes
	Grant   string // The names of the grants that gave Scope, space-delimited.
	Tier    string // The tier of the first that names one.
	Groups  []string
	IP      []netip.Prefix // As token.Claims.IP.
	Limits  token.Limits
	Params  token.Params
	Expires time.Time
}

// Usable says why the key opens nothing at now, whoever wields it, or nil.
func (k Key) Usable(grace time.Duration, now time.Time) error {
	switch {
	case k.StateAt(now) != Active:
		return ErrKeyState
	case grace >= 0 && !now.Before(k.RotateAfter.Add(grace)):
		return ErrOverdue
	}
	return nil
}

// Decide tells what key, wielded by who, gets at now. It never gives more than
// any of its sources: scope is within the request and the grants; networks,
// limits and parameters are within the key's and each grant's; expiry is the
// soonest of all. The caller has authenticated both key and identity; who is nil
// where there is none, which only a key that needs none may have. Errors are the
// sentinels above.
func Decide(grants map[string]Grant, key Key, who *Identity, req Request, now time.Time) (Decision, error) {
	if err := key.Usable(req.Grace, now); err != nil {
		return Decision{}, err
	}
	d := Decision{IP: key.IPRanges, Limits: key.Limits, Params: key.Params, Subject: key.ID}
	d.Expires = soonest(now.Add(min(req.Lifetime, token.MaxLifetime)), key.ExpiresAt)
	switch {
	case who == nil && key.Identity != None:
		return Decision{}, ErrIdentity
	case who == nil:
		d.Expires = soonest(d.Expires, now.Add(MaxLifetimeAlone))
	case !slices.ContainsFunc(key.Bindings, func(b Binding) bool { return b.Binds(*who) }):
		return Decision{}, ErrBinding
	default:
		d.Subject = who.String()
		if req.CapByIDP {
			d.Expires = soonest(d.Expires, who.Expires)
		}
	}
	held := heldGrants(grants, key, who)
	if len(held) == 0 {
		return Decision{}, whyNone(grants, key, who)
	}
	var err error
	if d.Scope, err = scopeOf(held, req); err != nil {
		return Decision{}, err
	}
	d.narrowBy(held, who, now)
	switch {
	case d.Params.Check() != nil:
		return Decision{}, ErrNothing // Key and grants have no value in common.
	case !d.Expires.Truncate(time.Second).After(now.Truncate(time.Second)): // Tokens say whole seconds.
		return Decision{}, ErrExpiry
	}
	return d, nil
}

// scopeOf is the scope that req gets of the grants.
func scopeOf(held []Grant, req Request) (token.Scopes, error) {
	var whole, want token.Scopes
	for _, g := range held {
		whole = whole.Union(g.Scopes)
		want = want.Union(g.Default)
	}
	if req.HasScope {
		want = req.Scope
	}
	switch {
	case !want.Within(whole):
		return nil, ErrScope
	case len(want) == 0:
		return nil, ErrNothing
	}
	return want, nil
}

// narrowBy brings d within each grant that gives part of its scope. One that
// gives nothing limits nothing.
func (d *Decision) narrowBy(held []Grant, who *Identity, now time.Time) {
	var names []string
	for _, g := range held {
		if len(d.Scope.Intersect(g.Scopes)) == 0 {
			continue
		}
		names = append(names, g.Name)
		d.IP = intersectNetworks(d.IP, g.IPRanges)
		d.Limits = d.Limits.Intersect(g.Limits)
		d.Params = d.Params.Intersect(g.Params)
		d.Expires = soonest(d.Expires, now.Add(g.MaxLifetime))
		if d.Tier == "" {
			d.Tier = g.Tier
		}
		if who == nil {
			continue
		}
		for _, group := range who.Groups {
			if g.namesGroup(who.Provider, group) && !slices.Contains(d.Groups, group) {
				d.Groups = append(d.Groups, group)
			}
		}
	}
	d.Grant = strings.Join(names, " ")
}

// heldGrants are the key's grants that the identity may hold, in the key's
// order; without an identity, those that allow that. A grant that the
// configuration no longer knows gives nothing.
func heldGrants(grants map[string]Grant, key Key, who *Identity) []Grant {
	var held []Grant
	for _, name := range key.Grants {
		if g, ok := grants[name]; ok && (who == nil && g.WithoutIdentity || who != nil && g.Admits(*who)) {
			held = append(held, g)
		}
	}
	return held
}

// whyNone says why the key's grants are none of the identity's.
func whyNone(grants map[string]Grant, key Key, who *Identity) error {
	if who != nil && slices.ContainsFunc(key.Grants, func(name string) bool { return grants[name].AsksGroups(*who) }) {
		return ErrGroupsUnknown
	}
	return ErrMember
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

// networksWithin tells whether every address of a is in b, where nil is
// everywhere.
func networksWithin(a, b []netip.Prefix) bool {
	if a == nil || b == nil {
		return b == nil
	}
	return !slices.ContainsFunc(a, func(p netip.Prefix) bool {
		return !slices.ContainsFunc(b, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Overlaps(p) })
	})
}
