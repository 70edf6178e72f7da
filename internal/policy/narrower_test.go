package policy_test

import (
	"net/netip"
	"testing"
	"time"

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
