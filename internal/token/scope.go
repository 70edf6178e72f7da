package token

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bounds of the scope grammar.
const (
	MaxScopes = 64  // Scopes in one set.
	MaxModel  = 200 // Bytes in a model name or pattern.
)

// Actions are all that a scope can permit. The list is closed: a word that is
// not on it is not a scope, so a typing error grants nothing.
var Actions = []string{
	"admin", "audio", "batch", "chat", "completions", "embeddings", "files", "images", "infer",
	"models", "moderations", "realtime", "rerank", "responses", "tokenize",
}

// ErrScope means that a text is not in the scope grammar.
var ErrScope = errors.New("scope is not of the form action:model")

// Scope is one permission, written "action:model".
//
// Model is an exact registry name, or a pattern: a name that ends in "/", ":"
// or "-" and then "*". The star stands for one or more characters other than
// "/" and ":", so "chat:llama-*" covers "llama-3.1" but neither "llama-3:cloud"
// nor "llama-3/lora": what lies behind a separator is a right of its own.
// Matching is byte-exact; canonical naming is the route's duty.
type Scope struct {
	Action, Model string
}

// ParseScope reads one scope. Errors match [ErrScope].
func ParseScope(s string) (Scope, error) {
	action, model, ok := strings.Cut(s, ":")
	if !ok || !slices.Contains(Actions, action) {
		return Scope{}, fmt.Errorf("%w: no such action", ErrScope)
	}
	if !ValidModel(model) && !validPattern(model) {
		return Scope{}, fmt.Errorf("%w: bad model name or pattern", ErrScope)
	}
	return Scope{action, model}, nil
}

// ValidModel tells whether name can be a model's registry name: 1 to 200 of
// A–Z a–z 0–9 . _ : / @ -, without an empty, "." or ".." segment, so that it
// can stand in a path and means the same there.
func ValidModel(name string) bool {
	if name == "" || len(name) > MaxModel {
		return false
	}
	for i := range len(name) {
		if !modelByte(name[i]) {
			return false
		}
	}
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

func modelByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._:/@-", c) >= 0
}

func validPattern(s string) bool {
	prefix, ok := strings.CutSuffix(s, "*")
	if !ok || len(s) > MaxModel || len(prefix) < 2 {
		return false
	}
	// The character put in the star's place makes the last segment non-empty.
	return strings.IndexByte("/:-", prefix[len(prefix)-1]) >= 0 && ValidModel(prefix+"x")
}

func (s Scope) String() string { return s.Action + ":" + s.Model }

// Allows tells whether s permits action on the model of that exact name.
func (s Scope) Allows(action, model string) bool {
	return s.Action == action && MatchModel(s.Model, model)
}

// MatchModel tells whether pattern, a model name or a pattern of the scope
// grammar, covers the model of exactly that name.
func MatchModel(pattern, name string) bool {
	prefix, wild := strings.CutSuffix(pattern, "*")
	if !wild {
		return pattern == name
	}
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && rest != "" && !strings.ContainsAny(rest, "/:*")
}

// covers tells whether every call that b permits is permitted by s too.
func (s Scope) covers(b Scope) bool {
	if s.Action != b.Action {
		return false
	}
	if s.Model == b.Model {
		return true
	}
	prefix, wild := strings.CutSuffix(s.Model, "*")
	rest, ok := strings.CutPrefix(strings.TrimSuffix(b.Model, "*"), prefix)
	return wild && ok && rest != "" && !strings.ContainsAny(rest, "/:")
}

// Scopes is a set of scopes: sorted, without repetition. The zero value permits
// nothing.
type Scopes []Scope

// ParseScopes reads a space-delimited scope list (RFC 6749, section 3.3).
// The empty string is the empty set. Repetition, surplus spaces and more than
// [MaxScopes] are refused. Errors match [ErrScope].
func ParseScopes(s string) (Scopes, error) {
	if s == "" {
		return nil, nil
	}
	return NewScopes(strings.Split(s, " ")...)
}

// NewScopes makes a set of scopes from their texts. Errors match [ErrScope].
func NewScopes(texts ...string) (Scopes, error) {
	if len(texts) > MaxScopes {
		return nil, fmt.Errorf("%w: more than %d of them", ErrScope, MaxScopes)
	}
	set := make(Scopes, 0, len(texts))
	for _, t := range texts {
		s, err := ParseScope(t)
		if err != nil {
			return nil, err
		}
		set = append(set, s)
	}
	set.sort()
	if len(slices.Compact(slices.Clone(set))) != len(set) {
		return nil, fmt.Errorf("%w: one stands twice", ErrScope)
	}
	return set, nil
}

func (s Scopes) sort() {
	slices.SortFunc(s, func(a, b Scope) int { return strings.Compare(a.String(), b.String()) })
}

func (s Scopes) String() string {
	texts := make([]string, len(s))
	for i, scope := range s {
		texts[i] = scope.String()
	}
	return strings.Join(texts, " ")
}

// Allow tells whether some scope of the set permits action on that model.
func (s Scopes) Allow(action, model string) bool {
	return slices.ContainsFunc(s, func(scope Scope) bool { return scope.Allows(action, model) })
}

// AllowModel tells whether the set permits anything at all on that model.
func (s Scopes) AllowModel(model string) bool {
	return slices.ContainsFunc(s, func(scope Scope) bool { return MatchModel(scope.Model, model) })
}

// Within tells whether whatever s permits, some scope of whole permits too.
func (s Scopes) Within(whole Scopes) bool {
	return !slices.ContainsFunc(s, func(part Scope) bool {
		return !slices.ContainsFunc(whole, func(w Scope) bool { return w.covers(part) })
	})
}

// Intersect returns the set that permits exactly what both s and t permit. Two
// patterns either stand one within the other or share nothing, so each scope
// of the result is a scope of s or of t.
func (s Scopes) Intersect(t Scopes) Scopes {
	var both Scopes
	for _, a := range s {
		for _, b := range t {
			switch {
			case b.covers(a):
				both = append(both, a)
			case a.covers(b):
				both = append(both, b)
			}
		}
	}
	both.sort()
	return slices.Compact(both)
}

// Union returns the set that permits what s or t permits.
func (s Scopes) Union(t Scopes) Scopes {
	all := slices.Concat(s, t)
	all.sort()
	return slices.Compact(all)
}
