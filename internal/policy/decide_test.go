package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/token"
)

var now = time.Unix(1_800_000_000, 0)

func scopes(texts ...string) token.Scopes {
	s, err := token.NewScopes(texts...)
	if err != nil {
		panic(err)
	}
	return s
}

// good is an exchange that succeeds; each row of a table spoils one thing of it.
type exchange struct {
	grants map[string]policy.Grant
	key    policy.Key
	who    policy.Identity
	req    policy.Request
}

func good() exchange {
	return exchange{
		grants: map[string]policy.Grant{"faq": {
			Name: "faq", Tier: "free", Scopes: scopes("chat:faq-bot", "chat:llama-*"), Default: scopes("chat:faq-bot"), MaxLifetime: time.Hour,
			Members: []policy.Members{{Provider: "corp", Groups: []string{"faq-users"}, Subjects: []string{"robot"}}},
		}},
		key: policy.Key{
			ID: "k", Grants: []string{"faq"}, Bindings: []policy.Binding{{Issuer: "https://idp", Subject: "ada"}},
			State: policy.Active, ExpiresAt: now.Add(24 * time.Hour),
		},
		who: policy.Identity{Provider: "corp", Issuer: "https://idp", Subject: "ada", Groups: []string{"faq-users", "secret-project"}, Expires: now.Add(5 * time.Minute)},
		req: policy.Request{Lifetime: time.Hour},
	}
}

func (x exchange) decide() (policy.Decision, error) {
	return policy.Decide(x.grants, x.key, x.who, x.req, now)
}

func TestDecideGood(t *testing.T) {
	d, err := good().decide()
	if err != nil {
		t.Fatal(err)
	}
	if d.Scope.String() != "chat:faq-bot" || d.Grant != "faq" || d.Tier != "free" || !d.Expires.Equal(now.Add(time.Hour)) || d.IP != nil {
		t.Errorf("Decide = %+v, want the grant's default for an hour, from anywhere", d)
	}
	if !slices.Equal(d.Groups, []string{"faq-users"}) {
		t.Errorf("Decide carries the groups %q, want only the one that a grant names", d.Groups)
	}
}

func TestDecideRefuses(t *testing.T) {
	faq := func(change func(*policy.Grant)) func(*exchange) {
		return func(x *exchange) {
			g := x.grants["faq"]
			change(&g)
			x.grants["faq"] = g
		}
	}
	for why, row := range map[string]struct {
		spoil func(*exchange)
		want  error
	}{
		"key disabled":                       {func(x *exchange) { x.key.State = policy.Disabled }, policy.ErrKeyState},
		"key quarantined":                    {func(x *exchange) { x.key.State = policy.Quarantined }, policy.ErrKeyState},
		"key expired just now":               {func(x *exchange) { x.key.ExpiresAt = now }, policy.ErrKeyState},
		"key of no state":                    {func(x *exchange) { x.key.State = "" }, policy.ErrKeyState},
		"somebody else's identity":           {func(x *exchange) { x.who.Subject = "grace" }, policy.ErrBinding},
		"same subject, other issuer":         {func(x *exchange) { x.who.Issuer = "https://other" }, policy.ErrBinding},
		"issuer with a slash":                {func(x *exchange) { x.who.Issuer += "/" }, policy.ErrBinding},
		"no binding":                         {func(x *exchange) { x.key.Bindings = nil }, policy.ErrBinding},
		"left the group":                     {func(x *exchange) { x.who.Groups = nil }, policy.ErrMember},
		"group of that name elsewhere":       {func(x *exchange) { x.who.Provider = "other" }, policy.ErrMember},
		"grant without members":              {faq(func(g *policy.Grant) { g.Members = nil }), policy.ErrMember},
		"grant that is gone":                 {func(x *exchange) { x.key.Grants = []string{"gone"} }, policy.ErrMember},
		"key without grants":                 {func(x *exchange) { x.key.Grants = nil }, policy.ErrMember},
		"scope of another model":             {func(x *exchange) { x.req.Scope, x.req.HasScope = scopes("chat:hr-bot"), true }, policy.ErrScope},
		"scope of another action":            {func(x *exchange) { x.req.Scope, x.req.HasScope = scopes("embeddings:faq-bot"), true }, policy.ErrScope},
		"scope partly granted":               {func(x *exchange) { x.req.Scope, x.req.HasScope = scopes("chat:faq-bot", "chat:hr-bot"), true }, policy.ErrScope},
		"no scope and no default":            {faq(func(g *policy.Grant) { g.Default = nil }), policy.ErrNothing},
		"identity's end counts, and is past": {func(x *exchange) { x.req.CapByIDP, x.who.Expires = true, now }, policy.ErrExpiry},
		"identity's end counts, unknown":     {func(x *exchange) { x.req.CapByIDP, x.who.Expires = true, time.Time{} }, policy.ErrExpiry},
	} {
		x := good()
		row.spoil(&x)
		if d, err := x.decide(); !errors.Is(err, row.want) {
			t.Errorf("%s: Decide = %+v, %v, want %v", why, d, err, row.want)
		}
	}
}

// TestNothingWidens: whatever is asked of whichever sources, what is issued is
// within the request and every source, in every dimension.
func TestNothingWidens(t *testing.T) {
	models := []string{"a", "b", "a-x", "a-y", "a-*", "b/c", "b/*"}
	networks := []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "192.0.2.0/24", "0.0.0.0/0"}
	drawScopes := func(t *rapid.T, label string) token.Scopes {
		return scopes(rapid.SliceOfNDistinct(rapid.Map(rapid.SampledFrom(models), func(m string) string { return "chat:" + m }), 0, 4, rapid.ID[string]).Draw(t, label)...)
	}
	drawNetworks := func(t *rapid.T, label string) []netip.Prefix {
		if rapid.Bool().Draw(t, label+" anywhere") {
			return nil
		}
		list := []netip.Prefix{}
		for _, n := range rapid.SliceOfN(rapid.SampledFrom(networks), 0, 3).Draw(t, label) {
			list = append(list, netip.MustParsePrefix(n))
		}
		return list
	}
	within := func(addr netip.Addr, list []netip.Prefix) bool {
		return list == nil || slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	addrs := []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.1.9.9"), netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("203.0.113.1")}
	issued := 0
	rapid.Check(t, func(t *rapid.T) {
		x := good()
		x.grants, x.key.Grants = map[string]policy.Grant{}, nil
		for i := range rapid.IntRange(1, 3).Draw(t, "grants") {
			name := fmt.Sprint("g", i)
			whole := drawScopes(t, name+" scopes")
			g := policy.Grant{
				Name: name, Scopes: whole, Default: drawScopes(t, name+" default").Intersect(whole), IPRanges: drawNetworks(t, name+" networks"),
				MaxLifetime: time.Duration(rapid.IntRange(1, 60).Draw(t, name+" minutes")) * time.Minute,
			}
			if rapid.IntRange(0, 3).Draw(t, name+" members") > 0 {
				g.Members = []policy.Members{{Provider: "corp", Subjects: []string{"ada"}}}
			}
			x.grants[name] = g
			x.key.Grants = append(x.key.Grants, name)
		}
		x.key.IPRanges = drawNetworks(t, "key networks")
		x.key.ExpiresAt = now.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "key minutes")) * time.Minute)
		x.who.Expires = now.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "identity minutes")) * time.Minute)
		x.req = policy.Request{
			HasScope: rapid.Bool().Draw(t, "has scope"), CapByIDP: rapid.Bool().Draw(t, "cap"),
			Lifetime: time.Duration(rapid.IntRange(1, 120).Draw(t, "minutes")) * time.Minute,
		}
		if x.req.HasScope {
			x.req.Scope = drawScopes(t, "request")
		}
		d, err := x.decide()
		if err != nil {
			return
		}
		issued++
		if x.req.HasScope && !d.Scope.Within(x.req.Scope) {
			t.Fatalf("issued %v, asked for %v", d.Scope, x.req.Scope)
		}
		if len(d.Scope) == 0 || !d.Expires.After(now) {
			t.Fatalf("issued nothing: %+v", d)
		}
		for _, end := range []time.Time{x.key.ExpiresAt, now.Add(time.Hour), now.Add(x.req.Lifetime)} {
			if d.Expires.After(end) {
				t.Fatalf("expires %v, a source at %v", d.Expires, end)
			}
		}
		if x.req.CapByIDP && d.Expires.After(x.who.Expires) {
			t.Fatalf("expires %v, the identity at %v", d.Expires, x.who.Expires)
		}
		// Each call that the token permits is permitted by a held grant, within
		// that grant's time and networks and the key's.
		for _, model := range []string{"a", "b", "a-x", "a-y", "a-z", "b/c", "b/d", "c"} {
			if !d.Scope.Allow("chat", model) {
				continue
			}
			for _, addr := range addrs {
				if !within(addr, d.IP) {
					continue
				}
				ok := slices.ContainsFunc(x.key.Grants, func(name string) bool {
					g := x.grants[name]
					return len(g.Members) > 0 && g.Scopes.Allow("chat", model) && within(addr, g.IPRanges) && !d.Expires.After(now.Add(g.MaxLifetime))
				})
				if !ok || !within(addr, x.key.IPRanges) {
					t.Fatalf("chat:%s from %v is permitted by %+v and by no source", model, addr, d)
				}
			}
		}
	})
	if issued == 0 {
		t.Error("no draw was ever issued anything: the property says nothing")
	}
}
