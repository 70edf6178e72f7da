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

// A State is where a key stands in its life. Only an active key opens anything.
type State string

// The states of a key. Expiry is read off its date, never stored.
const (
	Active      State = "active"
	Disabled    State = "disabled"
	Expired     State = "expired"
	Quarantined State = "quarantined"
)

// A Key is what is known about a machine key, apart from its secrets.
type Key struct {
	ID             string         `json:"id"`
	Owner          string         `json:"owner"` // The identity that enrolled it, as Identity.String.
	Team           string         `json:"team,omitempty"`
	Description    string         `json:"description,omitempty"`
	Grants         []string       `json:"grants"`
	Bindings       []Binding      `json:"bindings"`
	IPRanges       []netip.Prefix `json:"ip_ranges"` // Null inherits the grant's; [] allows none.
	State          State          `json:"state"`
	DisabledReason string         `json:"disabled_reason,omitempty"`
	CreatedAt      time.Time      `json:"created_at"`
	ExpiresAt      time.Time      `json:"expires_at"`
	RotateAfter    time.Time      `json:"rotate_after"` // When a new secret is due.
	LastUsedAt     time.Time      `json:"last_used_at,omitzero"`
}

// What a store of keys says of those it does not have.
var (
	// ErrUnknownKey means that no live secret matches: the id may be unknown or
	// the secret wrong. Which of them it is, nobody learns.
	ErrUnknownKey = errors.New("unknown machine key or wrong secret")
	// ErrNoSuchKey means that the asker has no key of that id.
	ErrNoSuchKey = errors.New("no such machine key")
)

// StateAt is the key's state at now, expiry included.
func (k Key) StateAt(now time.Time) State {
	if k.State == Active && !now.Before(k.ExpiresAt) {
		return Expired
	}
	return k.State
}

// A Grant is a named bundle of scopes and limits.
type Grant struct {
	Name        string
	Tier        string         // The name of the tier, for the token. May be empty.
	Scopes      token.Scopes   // The most that a token under this grant can have.
	Default     token.Scopes   // What a request that names no scope gets. Within Scopes.
	MaxLifetime time.Duration  // At most token.MaxLifetime.
	IPRanges    []netip.Prefix // Nil is anywhere; empty but not nil is nowhere.
	Members     []Members      // Who may hold it. None: nobody.
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
