// Package policy says who may have what: the nouns of an exchange (identity,
// key, binding, grant) and the one pure function that decides it, [Decide].
//
// It knows nothing of HTTP, storage or signatures, and reads no clock: the same
// arguments always give the same decision.
package policy

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/hourpass/hourpass/internal/token"
)

// A Grant is a named bundle of scopes and limits.
type Grant struct {
	Name        string
	Tier        string         // The name of the tier, for the token. May be empty.
	Scopes      token.Scopes   // The most that a token under this grant can have.
	Default     token.Scopes   // What a request that names no scope gets. Within Scopes.
	MaxLifetime time.Duration  // At most token.MaxLifetime.
	IPRanges    []netip.Prefix // Nil is anywhere; empty but not nil is nowhere.
	Limits      token.Limits
	Params      token.Params
	Members     []Members // Who may hold it. None: nobody.

	// WithoutIdentity lets keys that need no identity hold the grant. Their
	// tokens live at most MaxLifetimeAlone.
	WithoutIdentity bool
}

// MaxLifetimeAlone is how long a token lives at most that a key got alone.
const MaxLifetimeAlone = 15 * time.Minute

// Within says why g gives something that parent does not, or nil. Members are
// g's own affair.
func (g Grant) Within(parent Grant) error {
	switch {
	case !g.Scopes.Within(parent.Scopes):
		return errors.New("its scopes are wider than its parent's")
	case g.MaxLifetime > parent.MaxLifetime:
		return errors.New("its lifetime is longer than its parent's")
	case !networksWithin(g.IPRanges, parent.IPRanges):
		return errors.New("its networks are wider than its parent's")
	case !g.Limits.Within(parent.Limits):
		return errors.New("its limits are higher than its parent's")
	case !g.Params.Within(parent.Params):
		return errors.New("its parameters are wider than its parent's")
	case g.WithoutIdentity && !parent.WithoutIdentity:
		return errors.New("its parent needs an identity")
	}
	return nil
}

// Admits tells whether the identity may hold the grant.
func (g Grant) Admits(i Identity) bool {
	return slices.ContainsFunc(g.Members, func(m Members) bool { return m.has(i) })
}

// namesGroup tells whether the grant's rules name the group, so that a token
// may carry it.
func (g Grant) namesGroup(provider, group string) bool {
	return slices.ContainsFunc(g.Members, func(m Members) bool {
		return m.Provider == provider && slices.Contains(m.Groups, group)
	})
}
