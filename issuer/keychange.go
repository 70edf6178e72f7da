package issuer

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
)

// keyChange is what a request says of a key. What it does not name stays.
type keyChange struct {
	set       []func(*policy.Key)
	life      time.Duration // From now; zero: not said.
	jwks      string
	overlap   time.Duration
	reason    string
	hasGrants bool
}

// readKeyChange reads those of the members that the request may name.
func readKeyChange(r *http.Request, may ...string) (c keyChange, err error) {
	set := func(f func(*policy.Key)) bool { c.set = append(c.set, f); return true }
	text := func(apply func(*policy.Key, string)) func(strictjson.Value) bool {
		return func(v strictjson.Value) bool {
			var s string
			return textInto(&s)(v) && set(func(k *policy.Key) { apply(k, s) })
		}
	}
	members := map[string]func(strictjson.Value) bool{
		"owner":       text(func(k *policy.Key, s string) { k.Owner = s }),
		"team":        text(func(k *policy.Key, s string) { k.Team = s }),
		"description": text(func(k *policy.Key, s string) { k.Description = s }),
		"identity": func(v strictjson.Value) bool {
			s, ok := v.Text()
			return ok && (s == string(policy.Required) || s == string(policy.None)) && set(func(k *policy.Key) { k.Identity = policy.Need(s) })
		},
		"grants": func(v strictjson.Value) bool {
			list, ok := v.Texts(maxKeyGrants)
			c.hasGrants = true
			return ok && distinct(list) && set(func(k *policy.Key) { k.Grants = list })
		},
		"verifier_for": func(v strictjson.Value) bool {
			list, ok := v.Texts(maxKeyGrants)
			return ok && distinct(list) && set(func(k *policy.Key) { k.VerifierFor = list })
		},
		"bindings": func(v strictjson.Value) bool {
			list, ok := readBindings(v)
			return ok && set(func(k *policy.Key) { k.Bindings = list })
		},
		"ip_ranges": func(v strictjson.Value) bool {
			list, ok := readNetworks(v)
			return ok && set(func(k *policy.Key) { k.IPRanges = list })
		},
		"limits": func(v strictjson.Value) bool {
			l, ok := token.Limits(nil), v.Kind == strictjson.KindNull
			if !ok {
				l, ok = token.ReadLimits(v)
			}
			return ok && set(func(k *policy.Key) { k.Limits = l })
		},
		"params": func(v strictjson.Value) bool {
			p, ok := token.Params{}, v.Kind == strictjson.KindNull
			if !ok {
				p, ok = token.ReadParams(v)
			}
			return ok && set(func(k *policy.Key) { k.Params = p })
		},
		"expires_in": func(v strictjson.Value) bool { return secondsInto(&c.life, time.Second, maxKeyAge)(v) },
		"overlap":    func(v strictjson.Value) bool { return secondsInto(&c.overlap, 0, 30*24*time.Hour)(v) },
		"reason":     textInto(&c.reason),
		"jwks": func(v strictjson.Value) bool {
			c.jwks = string(v.Raw)
			return v.Kind == strictjson.KindObject && len(v.Raw) <= maxKeyJWKS
		},
	}
	for name := range members {
		if !slices.Contains(may, name) {
			delete(members, name)
		}
	}
	return c, readBody(r, members)
}

func (c keyChange) apply(k *policy.Key) {
	for _, set := range c.set {
		set(k)
	}
}

func distinct(list []string) bool {
	return len(slices.Compact(slices.Sorted(slices.Values(list)))) == len(list)
}

func secondsInto(to *time.Duration, least, most time.Duration) func(strictjson.Value) bool {
	return func(v strictjson.Value) bool {
		n, ok := v.Int()
		if !ok || n < int64(least/time.Second) || n > int64(most/time.Second) {
			return false
		}
		*to = time.Duration(n) * time.Second
		return true
	}
}

func readBindings(v strictjson.Value) (list []policy.Binding, ok bool) {
	if v.Kind != strictjson.KindArray {
		return nil, false
	}
	list = []policy.Binding{}
	d := json.NewDecoder(bytes.NewReader(v.Raw)) // One array, as was found before.
	d.DisallowUnknownFields()                    // Who misspells claims would bind more than they say.
	if err := d.Decode(&list); err != nil || len(list) > maxKeyBindings {
		return nil, false
	}
	return list, true
}

// mayHave says why the person may not make of old the key k: what is new in it
// must be within their own ceilings. Admins have none.
func (s *Server) mayHave(p person, old, k policy.Key) error {
	if len(k.Grants) == 0 && len(k.VerifierFor) == 0 {
		return badRequest("grants must name at least one grant.")
	}
	for _, name := range k.Grants {
		if _, ok := s.Grants[name]; !ok && !slices.Contains(old.Grants, name) {
			return notYours("hold one of these grants") // Whether there is such a grant is not for everybody to know.
		}
	}
	for _, audience := range k.VerifierFor {
		if !slices.Contains(s.Audiences, audience) {
			return badRequest("verifier_for must name audiences.")
		}
	}
	if k.JWKS != "" && k.JWKS != old.JWKS {
		if err := s.CheckClientKeys(k.JWKS); err != nil {
			return &reply.Refusal{Status: http.StatusBadRequest, Code: "invalid_request", Detail: "jwks can't be enrolled: " + err.Error() + "."}
		}
	}
	for _, b := range k.Bindings {
		if slices.ContainsFunc(old.Bindings, b.Equal) {
			continue
		}
		if err := s.checkBinding(b); err != nil {
			return err
		}
		if own := b.Issuer == p.Issuer && b.Subject == p.Subject; !own && !s.isAdmin(p) && !s.isWorkload(b) {
			return notYours("bind a key to somebody else")
		}
	}
	if s.isAdmin(p) {
		return nil
	}
	if k.Owner != p.String() || k.Identity == policy.None && old.Identity != policy.None || !slices.Equal(k.VerifierFor, old.VerifierFor) {
		return notYours("set owner, identity or verifier_for that way")
	}
	for _, name := range k.Grants {
		if g := s.Grants[name]; !slices.Contains(old.Grants, name) && !g.Admits(p.Identity) {
			return notYours("hold one of these grants")
		}
	}
	return nil
}

// notYours refuses what is beyond a person's ceilings.
func notYours(what string) error {
	return &reply.Refusal{Status: http.StatusForbidden, Code: "access_denied", Detail: "You may not " + what + "."}
}

// checkBinding refuses bindings that would fit strangers, or nobody.
func (s *Server) checkBinding(b policy.Binding) error {
	i := slices.IndexFunc(s.Providers, func(p *Provider) bool { return p.Issuer == b.Issuer })
	if i < 0 {
		return badRequest("bindings must name issuers that are trusted here.")
	}
	p := s.Providers[i]
	if err := b.Check(p.AnybodysProvider(), p.Pins()); err != nil {
		return badRequest("bindings: " + err.Error() + ".")
	}
	for name := range b.Claims {
		if !slices.Contains(p.ClaimNames(), name) {
			return badRequest("bindings: the identity provider has no claim of that name here.")
		}
	}
	return nil
}

// isWorkload tells whether only workloads have identities of the binding's
// issuer: nobody logs in there.
func (s *Server) isWorkload(b policy.Binding) bool {
	return slices.ContainsFunc(s.Providers, func(p *Provider) bool { return p.Issuer == b.Issuer && p.ClientID == "" })
}

// changes says for the audit what became of a key: from each member's name to its
// JSON before and after. Times of use and versions change by themselves.
func changes(before, after policy.Key) map[string]string {
	members := func(k policy.Key) (m map[string]json.RawMessage) {
		k.Version, k.LastUsedAt, k.Secrets = 0, time.Time{}, nil
		text, err := json.Marshal(k)
		if err == nil {
			err = json.Unmarshal(text, &m)
		}
		if err != nil {
			return nil // Unreachable: the store has written it as JSON.
		}
		return m
	}
	old, now := members(before), members(after)
	list := map[string]string{}
	for name := range now {
		if string(old[name]) != string(now[name]) {
			list[name] = string(old[name]) + " → " + string(now[name])
		}
	}
	for name := range old {
		if now[name] == nil {
			list[name] = string(old[name]) + " → "
		}
	}
	return list
}
