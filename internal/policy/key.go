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

// The states of a key. Expiry is read off its date, never stored. What is
// revoked or deleted never comes back.
const (
	Active      State = "active"
	Disabled    State = "disabled"
	Expired     State = "expired"
	Quarantined State = "quarantined"
	Revoked     State = "revoked"
	Deleted     State = "deleted"
)

// A Need says whether a key opens anything without an identity.
type Need string

// Needs. The second factor is left out only where an admin says so.
const (
	Required Need = "required"
	None     Need = "none"
)

// A Key is what is known about a machine key, apart from its secrets' texts.
type Key struct {
	ID          string         `json:"id"`
	Owner       string         `json:"owner"` // The identity that answers for it, as Identity.String.
	Team        string         `json:"team,omitempty"`
	Description string         `json:"description,omitempty"`
	Grants      []string       `json:"grants"`
	Bindings    []Binding      `json:"bindings"`
	Identity    Need           `json:"identity"`
	IPRanges    []netip.Prefix `json:"ip_ranges"` // Null inherits the grant's; [] allows none.
	Limits      token.Limits   `json:"limits"`    // Null inherits the grant's.
	Params      token.Params   `json:"params"`    // Null inherits the grant's.

	// VerifierFor names the audiences whose tokens the key's holder verifies: it
	// may introspect them. Only admins set it.
	VerifierFor []string `json:"verifier_for,omitempty"`
	// JWKS is the public key set of a key that was enrolled with one in place of
	// a secret (private_key_jwt). Empty otherwise.
	JWKS string `json:"jwks,omitempty"`

	State       State     `json:"state"`
	StateReason string    `json:"state_reason,omitempty"` // Why it is not active.
	StateBy     string    `json:"state_by,omitempty"`     // Who put it there, as Identity.String.
	CreatedAt   time.Time `json:"created_at"`
	ExpiresAt   time.Time `json:"expires_at"`
	RotateAfter time.Time `json:"rotate_after"` // When a new secret is due.
	LastUsedAt  time.Time `json:"last_used_at,omitzero"`
	Secrets     []Secret  `json:"secrets,omitempty"` // The live ones, oldest first. At most two.
	Version     int64     `json:"version"`           // Greater at each change.
}

// A Secret is what is known of one of a key's secret texts.
type Secret struct {
	Number       int64     `json:"number"` // From 1, greater than those of all secrets before it.
	CreatedAt    time.Time `json:"created_at"`
	EndsAt       time.Time `json:"ends_at,omitzero"` // Zero: with the key.
	LastUsedAt   time.Time `json:"last_used_at,omitzero"`
	LastUsedFrom string    `json:"last_used_from,omitempty"` // The network, not the address.
}

// What a store of keys says. Each is fit to be shown.
var (
	// ErrUnknownKey means that no live secret matches: the id may be unknown or
	// the secret wrong. Which of them it is, nobody learns.
	ErrUnknownKey = errors.New("unknown machine key or wrong secret")

	ErrNoSuchKey  = errors.New("there is no such machine key")
	ErrKeyChanged = errors.New("the machine key was changed by somebody else in the meantime")
	ErrKeyFinal   = errors.New("the machine key is revoked or deleted, which is for ever")
	ErrTwoSecrets = errors.New("the machine key has two live secrets already: end the older one first, or rotate without an overlap")
	ErrNoSecrets  = errors.New("the machine key was enrolled with public keys and has no secret")
	ErrSecrets    = errors.New("the machine key was enrolled with a secret and has no public keys")
	ErrLastSecret = errors.New("the machine key has no such secret beside another: to end its use, disable it")
	ErrCursor     = errors.New("the cursor is not one of ours")
)

// StateAt is the key's state at now, expiry included.
func (k Key) StateAt(now time.Time) State {
	if k.State == Active && !now.Before(k.ExpiresAt) {
		return Expired
	}
	return k.State
}

// A KeyFilter says which keys are wanted. Empty fields want any.
type KeyFilter struct {
	Owner, Team string
	State       State     // Deleted keys are listed only where they are asked for.
	Due         time.Time // Those that expire, or whose rotation is due, before this.
	After       string    // The cursor of the page before.
	Limit       int       // Up to MaxPage, which 0 means.
}

// A KeyPage is a page of keys.
type KeyPage struct {
	Keys []Key // Newest first.
	// Forged are the ids of those that somebody wrote who lacks the pepper, or
	// wrote over; "?" where it is no id of ours. Nothing else in them is worth
	// telling.
	Forged []string
	Next   string // The cursor of the next page. Empty after the last.
}

// MaxPage bounds how many keys are listed at once.
const MaxPage = 200

// Narrower tells whether k opens nothing that old did not, for nobody else and
// no longer. Team and owner count: who answers for a key is not for everybody to
// change.
func (k Key) Narrower(old Key) bool {
	return k.Owner == old.Owner && k.Team == old.Team && k.JWKS == old.JWKS && k.State == old.State &&
		subset(k.Grants, old.Grants) && subset(k.VerifierFor, old.VerifierFor) &&
		!slices.ContainsFunc(k.Bindings, func(b Binding) bool { return !slices.ContainsFunc(old.Bindings, b.Equal) }) &&
		(k.Identity == old.Identity || k.Identity == Required) && !k.ExpiresAt.After(old.ExpiresAt) &&
		networksWithin(k.IPRanges, old.IPRanges) && k.Limits.Within(old.Limits) && k.Params.Within(old.Params)
}

func subset(part, whole []string) bool {
	return !slices.ContainsFunc(part, func(s string) bool { return !slices.Contains(whole, s) })
}
