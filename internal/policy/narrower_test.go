package policy_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/token"
)

// TestNarrower: one thing changed a row. Whatever is not narrower takes a fresh
// login, and ceilings that allow it.
func TestNarrower(t *testing.T) {
	old := func() policy.Key {
		return policy.Key{
			ID: "k", Owner: "corp:ada", Team: "search", Grants: []string{"faq", "extra"}, VerifierFor: []string{"models", "batch"},
			Bindings: []policy.Binding{{Issuer: "https://idp", Subject: "ada"}, {Issuer: "https://idp", Subject: "robot"}}, Identity: policy.None,
			IPRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Limits: token.Limits{"tokens/day": 10},
			Params: token.Params{Bounds: map[string]token.Range{"max_tokens": {Max: 10}}}, JWKS: "{}", State: policy.Disabled, ExpiresAt: now,
		}
	}
	for why, change := range map[string]func(*policy.Key){
		"nothing":     func(*policy.Key) {},
		"description": func(k *policy.Key) { k.Description = "mine" },
		"grants":      func(k *policy.Key) { k.Grants = []string{"extra"} },
		"audiences":   func(k *policy.Key) { k.VerifierFor = nil },
		"bindings":    func(k *policy.Key) { k.Bindings = k.Bindings[1:] },
		"identity":    func(k *policy.Key) { k.Identity = policy.Required },
		"networks":    func(k *policy.Key) { k.IPRanges = []netip.Prefix{} },
		"limits":      func(k *policy.Key) { k.Limits = token.Limits{"tokens/day": 9, "requests/day": 1} },
		"end":         func(k *policy.Key) { k.ExpiresAt = now.Add(-time.Second) },
	} {
		k := old()
		if change(&k); !k.Narrower(old()) {
			t.Errorf("%s: not narrower", why)
		}
	}
	for why, change := range map[string]func(*policy.Key){
		"owner":           func(k *policy.Key) { k.Owner = "corp:eve" },
		"team":            func(k *policy.Key) { k.Team = "" },
		"public keys":     func(k *policy.Key) { k.JWKS = `{"keys":[]}` },
		"state":           func(k *policy.Key) { k.State = policy.Active },
		"another grant":   func(k *policy.Key) { k.Grants = []string{"faq", "admin"} },
		"audiences":       func(k *policy.Key) { k.VerifierFor = []string{"other"} },
		"another subject": func(k *policy.Key) { k.Bindings[0].Subject = "eve" },
		"another issuer":  func(k *policy.Key) { k.Bindings[0].Issuer = "https://evil" },
		"any network":     func(k *policy.Key) { k.IPRanges = nil },
		"more networks":   func(k *policy.Key) { k.IPRanges = append(k.IPRanges, netip.MustParsePrefix("192.0.2.0/24")) },
		"limits":          func(k *policy.Key) { k.Limits = token.Limits{"tokens/day": 11} },
		"no limits":       func(k *policy.Key) { k.Limits = nil },
		"no parameters":   func(k *policy.Key) { k.Params = token.Params{} },
		"end":             func(k *policy.Key) { k.ExpiresAt = now.Add(time.Second) },
	} {
		k := old()
		if change(&k); k.Narrower(old()) {
			t.Errorf("%s: narrower", why)
		}
	}
	strict := old()
	strict.Identity = policy.Required
	if loose := old(); loose.Narrower(strict) {
		t.Error("no identity is narrower than one")
	}
}

// TestChildGivesNoMore: whatever a grant gives that is within its parent, to
// whichever key and request, its parent gives too, for as long and no narrower;
// and so its parent's parent.
func TestChildGivesNoMore(t *testing.T) {
	draw := func(t *rapid.T, label string) policy.Grant {
		var list []string
		for _, m := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "a-x", "a-*"}), 1, 3, rapid.ID[string]).Draw(t, label+" scopes") {
			list = append(list, "chat:"+m)
		}
		g := policy.Grant{
			Name: "g", Scopes: scopes(list...), MaxLifetime: time.Duration(rapid.IntRange(1, 3).Draw(t, label+" lifetime")) * 20 * time.Minute,
			Limits: drawLimits(t, label), Params: drawParams(t, label), WithoutIdentity: rapid.Bool().Draw(t, label+" alone"),
			Members: []policy.Members{{Provider: "corp", Subjects: []string{"ada"}}},
		}
		g.Default = g.Scopes
		switch rapid.IntRange(0, 3).Draw(t, label+" networks") {
		case 0:
			g.IPRanges = []netip.Prefix{}
		case 1:
			g.IPRanges = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
		case 2:
			g.IPRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}
		}
		return g
	}
	addrs := []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("203.0.113.1")}
	reaches := func(list []netip.Prefix, a netip.Addr) bool {
		return list == nil || slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	held := 0
	rapid.Check(t, func(t *rapid.T) {
		// What a child leaves out is its parent's, so most draws start from there.
		parent := draw(t, "parent")
		child := parent
		other := draw(t, "child")
		for _, take := range []func(){
			func() { child.Scopes, child.Default = other.Scopes, other.Scopes }, func() { child.MaxLifetime = other.MaxLifetime },
			func() { child.IPRanges = other.IPRanges }, func() { child.Limits = other.Limits },
			func() { child.Params = other.Params }, func() { child.WithoutIdentity = other.WithoutIdentity },
		} {
			if rapid.IntRange(0, 3).Draw(t, "differs") == 0 {
				take()
			}
		}
		if child.Within(parent) != nil {
			return
		}
		grand := draw(t, "grandparent")
		if parent.Within(grand) == nil && child.Within(grand) != nil {
			t.Fatalf("%+v is within %+v, which is within %+v, but not: %v", child, parent, grand, child.Within(grand))
		}
		x := good()
		x.key.Grants, x.key.Identity = []string{"g"}, rapid.SampledFrom([]policy.Need{policy.Required, policy.None}).Draw(t, "need")
		who := &x.who
		if rapid.Bool().Draw(t, "alone") {
			who = nil
		}
		x.req = policy.Request{Lifetime: time.Hour, HasScope: true, Scope: child.Scopes}
		got, err := policy.Decide(map[string]policy.Grant{"g": child}, x.key, who, x.req, now)
		if err != nil {
			return
		}
		held++
		most, err := policy.Decide(map[string]policy.Grant{"g": parent}, x.key, who, x.req, now)
		if err != nil || !got.Scope.Within(most.Scope) || got.Expires.After(most.Expires) || !got.Limits.Within(most.Limits) || !got.Params.Within(most.Params) {
			t.Fatalf("the child gives %+v, the parent %+v, %v", got, most, err)
		}
		for _, a := range addrs {
			if reaches(got.IP, a) && !reaches(most.IP, a) {
				t.Fatalf("the child lets %s in, the parent does not: %+v, %+v", a, got, most)
			}
		}
	})
	if held < 10 {
		t.Errorf("only %d grants were within their parents and gave anything: the test tests little", held)
	}
}
