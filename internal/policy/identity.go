package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Bounds of an identity's claims and of what is asked of them.
const (
	MaxClaims    = 32  // Claims of one identity, one binding or one rule of members.
	MaxClaimName = 64  // Bytes of a claim's name.
	MaxClaim     = 512 // Bytes of a claim's value.
	MaxPattern   = 256 // Bytes of a [Pattern].
)

var (
	// ErrGroupsUnknown means that a rule asks for groups of an identity whose
	// groups its provider did not tell. That is not the same as having none.
	ErrGroupsUnknown = errors.New("the identity's groups are unknown, because its provider left them out of the token")
	// ErrUnpinned means that a rule would also fit strangers: anybody can have an
	// account at the provider.
	ErrUnpinned = errors.New("anybody can have an account at this identity provider, so the exact subject or an exact id is needed")
)

// An Identity is a person or workload as a trusted provider names it. It is
// told apart by (Issuer, Subject) alone; an e-mail address is never one.
type Identity struct {
	Provider string   `json:"provider"` // The provider's name in our configuration.
	Issuer   string   `json:"issuer"`   // The provider's issuer URL.
	Subject  string   `json:"subject"`  // Stable and unique within Issuer.
	Groups   []string `json:"groups,omitempty"`

	// GroupsUnknown says that the identity may have groups that the provider did
	// not tell (Entra's overage). Groups is empty then.
	GroupsUnknown bool `json:"groups_unknown,omitempty"`

	// Claims are what the provider's configuration maps, by our names for them.
	// At most MaxClaims, of at most MaxClaim bytes each.
	Claims map[string]string `json:"claims,omitempty"`

	AuthTime time.Time `json:"auth_time,omitzero"` // When the person last proved who they are.
	ACR      string    `json:"acr,omitempty"`
	AMR      []string  `json:"amr,omitempty"`
	Expires  time.Time `json:"expires,omitzero"` // When the provider's own word ends.
}

// String names the identity for tokens, logs and audit: "provider:subject".
func (i Identity) String() string { return i.Provider + ":" + i.Subject }

// A Binding names the identities that may wield a key: those of exactly Issuer
// and Subject that have all of Claims. Subject may be empty where Claims pin the
// identity, which [Binding.Check] tells.
type Binding struct {
	Issuer  string             `json:"issuer"`
	Subject string             `json:"subject"`
	Claims  map[string]Pattern `json:"claims,omitempty"` // At most MaxClaims, by our names for them.
}

// Binds tells whether the identity is one of those.
func (b Binding) Binds(i Identity) bool {
	if b.Issuer == "" || b.Issuer != i.Issuer || b.Subject == "" && len(b.Claims) == 0 {
		return false
	}
	return (b.Subject == "" || b.Subject == i.Subject) && allMatch(b.Claims, i.Claims)
}

// Equal tells whether both say the same.
func (b Binding) Equal(c Binding) bool {
	return b.Issuer == c.Issuer && b.Subject == c.Subject &&
		maps.EqualFunc(b.Claims, c.Claims, func(p, q Pattern) bool { return p.String() == q.String() })
}

// Check says what is wrong with the binding, or nil. shared tells that anybody
// can have an account at the issuer; pins are then the claims with ids that are
// never given to anybody else, one of which must be exact where there is no
// Subject. Errors that match [ErrUnpinned] say that a stranger would fit.
func (b Binding) Check(shared bool, pins []string) error {
	switch {
	case b.Issuer == "":
		return errors.New("issuer: a binding names one")
	case b.Subject == "" && len(b.Claims) == 0:
		return errors.New("subject, claims: without either, a binding binds nobody")
	}
	if err := checkExact("subject", b.Subject); b.Subject != "" && err != nil {
		return err
	}
	if err := checkClaims(b.Claims); err != nil {
		return err
	}
	if shared && b.Subject == "" && !pinned(b.Claims, pins) {
		return fmt.Errorf("%w: want subject or one of %s", ErrUnpinned, strings.Join(pins, ", "))
	}
	return nil
}

// Members are identities of one provider that may hold a grant: those in one of
// Groups and those named in Subjects, as far as they have all of Claims. Where
// neither Groups nor Subjects is given, Claims alone say who. All empty is
// nobody.
type Members struct {
	Provider string
	Groups   []string
	Subjects []string
	Claims   map[string]Pattern // At most MaxClaims, by our names for them.
}

func (m Members) has(i Identity) bool {
	if m.Provider != i.Provider || !allMatch(m.Claims, i.Claims) {
		return false
	}
	if m.Groups == nil && m.Subjects == nil {
		return len(m.Claims) > 0
	}
	return slices.Contains(m.Subjects, i.Subject) || m.hasGroup(i)
}

// hasGroup never holds where the groups are unknown, whatever else is said.
func (m Members) hasGroup(i Identity) bool {
	return !i.GroupsUnknown && slices.ContainsFunc(i.Groups, func(g string) bool { return slices.Contains(m.Groups, g) })
}

// Check says what is wrong with the rule, or nil; shared and pins are as for
// [Binding.Check]. At a shared provider a group's name is anybody's, so groups
// need a pin too.
func (m Members) Check(shared bool, pins []string) error {
	if len(m.Groups)+len(m.Subjects)+len(m.Claims) == 0 {
		return errors.New("want groups, subjects or claims: without them these are nobody")
	}
	for _, s := range m.Subjects {
		if err := checkExact("subjects", s); err != nil {
			return err
		}
	}
	for _, g := range m.Groups {
		if err := checkExact("groups", g); err != nil {
			return err
		}
	}
	if err := checkClaims(m.Claims); err != nil {
		return err
	}
	if bySubject := len(m.Subjects) > 0 && len(m.Groups) == 0; shared && !bySubject && !pinned(m.Claims, pins) {
		return fmt.Errorf("%w: want subjects or one of the claims %s", ErrUnpinned, strings.Join(pins, ", "))
	}
	return nil
}

// AsksGroups tells whether the grant could admit the identity if its groups were
// known: then [ErrGroupsUnknown] is the reason to refuse it.
func (g Grant) AsksGroups(i Identity) bool {
	return i.GroupsUnknown && slices.ContainsFunc(g.Members, func(m Members) bool {
		return m.Provider == i.Provider && len(m.Groups) > 0 && allMatch(m.Claims, i.Claims)
	})
}

// checkExact refuses what somebody took for a pattern. A subject or group may
// hold a star, but hardly at its end.
func checkExact(field, text string) error {
	if text == "" || strings.HasSuffix(text, "*") {
		return fmt.Errorf("%s: each is the whole text; there is no wildcard", field)
	}
	return nil
}

func checkClaims(claims map[string]Pattern) error {
	if len(claims) > MaxClaims {
		return fmt.Errorf("claims: at most %d", MaxClaims)
	}
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		if name == "" || len(name) > MaxClaimName || claims[name].IsZero() {
			return errors.New("claims: want a name and what its value must be")
		}
	}
	return nil
}

// allMatch tells whether the identity has every claim that is asked for.
func allMatch(want map[string]Pattern, have map[string]string) bool {
	for name, p := range want {
		value, ok := have[name]
		if !ok || !p.Match(value) {
			return false
		}
	}
	return true
}

// pinned tells whether one of the claims is an exact id that pins.
func pinned(claims map[string]Pattern, pins []string) bool {
	return slices.ContainsFunc(pins, func(pin string) bool { return claims[pin].Exact() })
}
