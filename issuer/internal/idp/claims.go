package idp

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/strictjson"
)

// A Requirement is what claims of an identity token must be: each one of the
// patterns for it. Claims are named as in [Config.Claims]. Of a claim
// that is a list of texts, one must match.
type Requirement map[string][]policy.Pattern

// reservedClaims have a meaning of their own in tokens (RFC 7519, RFC 8693,
// RFC 9068, OpenID Connect): under their names nothing else may pass.
var reservedClaims = []string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "azp", "act", "may_act", "cnf", "scope", "scp", "client_id",
	"nonce", "auth_time", "acr", "amr", "at_hash", "c_hash", "s_hash", "sid", "events", "typ",
}

// addressClaims name people in ways that change and that somebody else may have
// next year.
var addressClaims = []string{"email", "upn", "unique_name", "preferred_username", "name", "nickname", "given_name", "family_name", "phone_number", "login_hint"}

const (
	maxPath   = 8   // Names in one path to a claim.
	maxMember = 128 // Bytes of each.
)

// Claims are the members of an identity token. Names we do not ask for are the
// provider's business.
type Claims []strictjson.Member

var errNoClaim = errors.New("missing")

func (c Claims) value(name string) (strictjson.Value, error) {
	for _, m := range c {
		if m.Name == name {
			return m.Value, nil
		}
	}
	return strictjson.Value{}, errNoClaim
}

// claim reads one claim with get, which says whether it has the right form.
func claim[T any](c Claims, name string, get func(strictjson.Value) (T, bool)) (T, error) {
	v, err := c.value(name)
	if err != nil {
		var zero T
		return zero, fmt.Errorf("%s: %w", name, err)
	}
	t, ok := get(v)
	if !ok {
		return t, fmt.Errorf("%s: of the wrong form", name)
	}
	return t, nil
}

// optional makes an absent claim the zero value.
func optional[T any](t T, err error) (T, error) {
	if errors.Is(err, errNoClaim) {
		err = nil
	}
	return t, err
}

// Text reads a text that is not empty and of at most 512 bytes.
func (c Claims) Text(name string) (string, error) {
	return claim(c, name, func(v strictjson.Value) (string, bool) {
		s, ok := v.Text()
		return s, ok && s != "" && len(s) <= maxText
	})
}

// Time reads a NumericDate in whole seconds (RFC 7519, section 2).
func (c Claims) Time(name string) (time.Time, error) {
	return claim(c, name, func(v strictjson.Value) (time.Time, bool) {
		n, ok := v.Int()
		return time.Unix(n, 0).UTC(), ok && n > 0 && n < 253402300800 // Year 10000.
	})
}

func (c Claims) texts(name string) ([]string, error) {
	return claim(c, name, func(v strictjson.Value) ([]string, bool) {
		list, ok := v.Texts(maxGroups)
		return list, ok && !slices.ContainsFunc(list, func(s string) bool { return s == "" || len(s) > maxText })
	})
}

// OneOrMore reads a claim that is one text or a list of texts (RFC 7519, section
// 4.1.3).
func (c Claims) OneOrMore(name string) ([]string, error) {
	if list, err := c.texts(name); err == nil {
		return list, nil
	}
	one, err := c.Text(name)
	return []string{one}, err
}

func (c Claims) optionalText(name string) (string, error) { return optional(c.Text(name)) }

// OptionalTime is [Claims.Time], and the zero time where the claim is absent.
func (c Claims) OptionalTime(name string) (time.Time, error) { return optional(c.Time(name)) }
func (c Claims) optionalTexts(name string) ([]string, error) { return optional(c.texts(name)) }

// A claimPath leads to a claim: its name, then those of members within it.
type claimPath []string

// parseClaim reads how the configuration names a claim: by its name or, where
// that begins with a slash, by a JSON Pointer (RFC 6901), because names such as
// "kubernetes.io" leave no other sign to divide them by.
func parseClaim(text string) (claimPath, error) {
	path := claimPath{text}
	if pointer, ok := strings.CutPrefix(text, "/"); ok {
		path = strings.Split(pointer, "/")
		for i, name := range path {
			path[i] = strings.ReplaceAll(strings.ReplaceAll(name, "~1", "/"), "~0", "~")
		}
	}
	if len(path) > maxPath || slices.ContainsFunc(path, func(n string) bool { return n == "" || len(n) > maxMember }) {
		return nil, errors.New("want a claim's name, or a JSON Pointer such as /kubernetes.io/namespace")
	}
	return path, nil
}

// find returns the value at the end of path.
func (c Claims) find(path claimPath) (strictjson.Value, error) {
	v, err := c.value(path[0])
	for _, name := range path[1:] {
		if err != nil {
			return v, err
		}
		if v.Kind != strictjson.KindObject {
			return v, errNoClaim
		}
		members, bad := strictjson.Object(v.Raw, strictjson.Limits{})
		if bad != nil {
			return v, bad
		}
		v, err = Claims(members).value(name)
	}
	if err == nil && v.Kind == strictjson.KindNull {
		return v, errNoClaim
	}
	return v, err
}

// scalar is a text, a whole number or a truth value, as text within bounds.
func scalar(v strictjson.Value) (string, bool) {
	if n, ok := v.Int(); ok {
		return strconv.FormatInt(n, 10), true
	}
	if b, ok := v.Bool(); ok {
		return strconv.FormatBool(b), true
	}
	s, ok := v.Text()
	return s, ok && len(s) <= policy.MaxClaim && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// mapped returns the claims that the configuration maps, as far as the token has
// them. Empty ones are as good as absent.
func (c Claims) mapped(paths map[string]claimPath) (map[string]string, error) {
	var claims map[string]string
	for name, path := range paths {
		v, err := c.find(path)
		if errors.Is(err, errNoClaim) {
			continue
		}
		text, ok := scalar(v)
		if err != nil || !ok {
			return nil, fmt.Errorf("%s: no text, number or truth value within bounds", name)
		}
		if text == "" {
			continue
		}
		if claims == nil {
			claims = make(map[string]string, len(paths))
		}
		claims[name] = text
	}
	return claims, nil
}

// groups returns the identity's groups. A provider that has more of them than
// fit says where to ask instead (Entra's overage); then they are unknown, which
// is not the same as none.
func (c Claims) groups(path claimPath) (groups []string, unknown bool, err error) {
	if path == nil {
		return nil, false, nil
	}
	if c.leavesOut(path[0]) {
		return nil, true, nil
	}
	v, err := c.find(path)
	if errors.Is(err, errNoClaim) {
		return nil, false, nil
	}
	groups, ok := v.Texts(maxGroups)
	if err != nil || !ok || slices.ContainsFunc(groups, func(g string) bool { return g == "" || len(g) > maxText }) {
		return nil, false, errors.New("groups: of the wrong form")
	}
	return groups, false, nil
}

// leavesOut tells whether the provider says that the claim is elsewhere (OpenID
// Connect Core 1.0, section 5.6.2) or, as Entra does, that there are groups.
func (c Claims) leavesOut(name string) bool {
	for _, m := range c {
		switch {
		case m.Name == "_claim_names":
			elsewhere, err := strictjson.Object(m.Raw, strictjson.Limits{})
			if err != nil {
				return true
			}
			if _, err := Claims(elsewhere).value(name); err == nil {
				return true
			}
		case m.Name == "hasgroups" && string(m.Raw) != "false", strings.HasPrefix(m.Name, name+":src"):
			return true
		}
	}
	return false
}

// A rule is a [Requirement] made ready.
type rule []ruleClaim

type ruleClaim struct {
	name string // As configured, for errors.
	path claimPath
	any  []policy.Pattern
}

// newRule makes r ready; the names are in order, so that errors are too.
func newRule(r Requirement) (rule, error) {
	var ready rule
	for _, name := range slices.Sorted(maps.Keys(r)) {
		path, err := parseClaim(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if len(r[name]) == 0 || slices.ContainsFunc(r[name], policy.Pattern.IsZero) {
			return nil, fmt.Errorf("%s: want what it must be", name)
		}
		ready = append(ready, ruleClaim{name, path, r[name]})
	}
	return ready, nil
}

// check returns why the claims break the rule. The error names the claim but not
// its value.
func (r rule) check(c Claims) error {
	for _, want := range r {
		v, err := c.find(want.path)
		if err != nil {
			return fmt.Errorf("%s: required and missing", want.name)
		}
		values, ok := v.Texts(maxGroups)
		if !ok {
			var one string
			if one, ok = scalar(v); ok {
				values = []string{one}
			}
		}
		if !ok || !slices.ContainsFunc(values, want.matches) {
			return fmt.Errorf("%s: not one that is required", want.name)
		}
	}
	return nil
}

func (want ruleClaim) matches(value string) bool {
	return slices.ContainsFunc(want.any, func(p policy.Pattern) bool { return p.Match(value) })
}

// checkAny wants one of the rules to hold, if there are any.
func checkAny(rules []rule, c Claims) error {
	var why error
	for _, r := range rules {
		if why = r.check(c); why == nil {
			return nil
		}
	}
	if len(rules) > 1 {
		return errors.New("require: none of its alternatives holds")
	}
	return why
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
