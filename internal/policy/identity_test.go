package policy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/policy"
)

func pattern(text string) policy.Pattern {
	p, err := policy.ParsePattern(text)
	if err != nil {
		panic(err)
	}
	return p
}

type claims = map[string]policy.Pattern

// job is a CI job at a provider where anybody can have an account.
func job() policy.Identity {
	return policy.Identity{
		Provider: "ci", Issuer: "https://ci", Subject: "repo:octo/faq:ref:main",
		Claims: map[string]string{"repository_id": "74", "ref": "refs/heads/main", "environment": "prod"},
	}
}

func TestPattern(t *testing.T) {
	for text, row := range map[string]struct{ matches, not []string }{
		"74":                        {[]string{"74"}, []string{"", "7", "740", "074", "74\n"}},
		"refs/heads/main":           {[]string{"refs/heads/main"}, []string{"refs/heads/main2", "xrefs/heads/main"}},
		"a.c":                       {[]string{"a.c"}, []string{"abc"}},
		"~refs/heads/release-[0-9]": {[]string{"refs/heads/release-1"}, []string{"refs/heads/release-12", "xrefs/heads/release-1", "refs/heads/release-1\n"}},
		"~a|b":                      {[]string{"a", "b"}, []string{"ab", "ax", "xb"}},
		"~(?m)^a$":                  {[]string{"a"}, []string{"x\na", "a\nx"}},
		"~":                         {[]string{""}, []string{"a"}},
		"~[0-9a-f]{40}|(x{9}){50}":  {[]string{strings.Repeat("0f", 20), strings.Repeat("x", 450)}, []string{strings.Repeat("x", 451)}},
	} {
		p := pattern(text)
		for _, s := range row.matches {
			if !p.Match(s) {
				t.Errorf("%q does not match %q", text, s)
			}
		}
		for _, s := range row.not {
			if p.Match(s) {
				t.Errorf("%q matches %q", text, s)
			}
		}
		if p.Exact() == strings.HasPrefix(text, "~") || p.IsZero() || p.String() != text {
			t.Errorf("%q: Exact = %v, IsZero = %v, String = %q", text, p.Exact(), p.IsZero(), p)
		}
		again, err := json.Marshal(p)
		var back policy.Pattern
		if err != nil || json.Unmarshal(again, &back) != nil || back.String() != text || back.Exact() != p.Exact() {
			t.Errorf("%q as JSON is %s, %v, and %q again", text, again, err, back)
		}
	}
	if (policy.Pattern{}).Match("") || (policy.Pattern{}).Exact() {
		t.Error("the zero pattern matches, or is exact")
	}
}

func TestPatternRefuses(t *testing.T) {
	for _, text := range []string{
		"", "*", "refs/heads/*", "~.*", "~.+", "~[^/]*|.*", "~(?s).{1,}", "~a)|(b", "~a)|(?:.*", "~(", "~[", "~\\Qa", "~(?=a)", "~(a)\\1",
		"~y" + strings.Repeat("x{1000}", 30), "~(ab|c){400}", "~a{3}((b{9}){9}){12}", "~x{1000}y", "~x{999,}yy",
		strings.Repeat("x", policy.MaxPattern+1), "~" + strings.Repeat("x", policy.MaxPattern),
	} {
		if p, err := policy.ParsePattern(text); err == nil {
			t.Errorf("ParsePattern(%q) = %q, want it refused", text, p)
		}
		var p policy.Pattern
		if err := p.UnmarshalText([]byte(text)); err == nil || !p.IsZero() {
			t.Errorf("UnmarshalText(%q) = %v and %q, want it refused", text, err, p)
		}
	}
}

func TestBinds(t *testing.T) {
	for why, row := range map[string]struct {
		binding policy.Binding
		want    bool
	}{
		"the subject":                 {policy.Binding{Issuer: "https://ci", Subject: "repo:octo/faq:ref:main"}, true},
		"claims":                      {policy.Binding{Issuer: "https://ci", Claims: claims{"repository_id": pattern("74"), "ref": pattern("~refs/heads/(main|dev)")}}, true},
		"both":                        {policy.Binding{Issuer: "https://ci", Subject: "repo:octo/faq:ref:main", Claims: claims{"repository_id": pattern("74")}}, true},
		"another issuer":              {policy.Binding{Issuer: "https://other", Claims: claims{"repository_id": pattern("74")}}, false},
		"no issuer":                   {policy.Binding{Claims: claims{"repository_id": pattern("74")}}, false},
		"another subject":             {policy.Binding{Issuer: "https://ci", Subject: "repo:octo/hr:ref:main", Claims: claims{"repository_id": pattern("74")}}, false},
		"one claim of two":            {policy.Binding{Issuer: "https://ci", Claims: claims{"repository_id": pattern("74"), "ref": pattern("refs/heads/dev")}}, false},
		"the subject, a claim is not": {policy.Binding{Issuer: "https://ci", Subject: "repo:octo/faq:ref:main", Claims: claims{"repository_id": pattern("75")}}, false},
		"a claim that it lacks":       {policy.Binding{Issuer: "https://ci", Claims: claims{"actor_id": pattern("~[0-9]*")}}, false},
		"a lacking claim, of nothing": {policy.Binding{Issuer: "https://ci", Claims: claims{"actor_id": pattern("~")}}, false},
		"a claim without a pattern":   {policy.Binding{Issuer: "https://ci", Claims: claims{"repository_id": {}}}, false},
		"nobody":                      {policy.Binding{Issuer: "https://ci"}, false},
	} {
		if got := row.binding.Binds(job()); got != row.want {
			t.Errorf("%s: Binds = %v, want %v", why, got, row.want)
		}
	}
	if (policy.Binding{}).Binds(policy.Identity{}) || (policy.Binding{Issuer: "https://ci"}).Binds(policy.Identity{Issuer: "https://ci"}) {
		t.Error("a binding without a subject binds an identity without one")
	}
}

// TestBindingJSON: bindings of before have no claims, and stay as they were.
func TestBindingJSON(t *testing.T) {
	old := `{"issuer":"https://idp","subject":"ada"}`
	var b policy.Binding
	if err := json.Unmarshal([]byte(old), &b); err != nil || b.Issuer != "https://idp" || b.Subject != "ada" || b.Claims != nil {
		t.Errorf("%s is %+v, %v", old, b, err)
	}
	if again, err := json.Marshal(b); err != nil || string(again) != old {
		t.Errorf("%s becomes %s, %v", old, again, err)
	}
	whole := `{"issuer":"https://ci","subject":"","claims":{"ref":"~refs/.*/main","repository_id":"74"}}`
	if err := json.Unmarshal([]byte(whole), &b); err != nil || !b.Binds(job()) {
		t.Errorf("%s is %+v, %v", whole, b, err)
	}
	if again, err := json.Marshal(b); err != nil || string(again) != whole {
		t.Errorf("%s becomes %s, %v", whole, again, err)
	}
	if err := json.Unmarshal([]byte(`{"issuer":"https://ci","claims":{"ref":"~("}}`), &b); err == nil {
		t.Error("a stored pattern that is none is read")
	}
}

func TestBindingCheck(t *testing.T) {
	pins := []string{"repository_id", "repository_owner_id"}
	many := claims{}
	for i := range policy.MaxClaims + 1 {
		many[fmt.Sprint("c", i)] = pattern("x")
	}
	for why, row := range map[string]struct {
		binding policy.Binding
		own     bool  // Fine where only we have accounts.
		shared  error // Where anybody has: nil is fine.
	}{
		"an exact subject":        {policy.Binding{Issuer: "i", Subject: "s"}, true, nil},
		"a pin":                   {policy.Binding{Issuer: "i", Claims: claims{"repository_id": pattern("74")}}, true, nil},
		"a pin and a pattern":     {policy.Binding{Issuer: "i", Claims: claims{"repository_id": pattern("74"), "ref": pattern("~refs/.*")}}, true, nil},
		"a pattern for a pin":     {policy.Binding{Issuer: "i", Claims: claims{"repository_id": pattern("~7[0-9]")}}, true, policy.ErrUnpinned},
		"a claim that pins not":   {policy.Binding{Issuer: "i", Claims: claims{"ref": pattern("refs/heads/main")}}, true, policy.ErrUnpinned},
		"nobody":                  {policy.Binding{Issuer: "i"}, false, errAny},
		"no issuer":               {policy.Binding{Subject: "s"}, false, errAny},
		"every subject":           {policy.Binding{Issuer: "i", Subject: "*"}, false, errAny},
		"subjects by their start": {policy.Binding{Issuer: "i", Subject: "repo:octo/*"}, false, errAny},
		"a claim of no pattern":   {policy.Binding{Issuer: "i", Subject: "s", Claims: claims{"ref": {}}}, false, errAny},
		"a claim of no name":      {policy.Binding{Issuer: "i", Subject: "s", Claims: claims{"": pattern("x")}}, false, errAny},
		"too many claims":         {policy.Binding{Issuer: "i", Subject: "s", Claims: many}, false, errAny},
	} {
		if err := row.binding.Check(false, nil); (err == nil) != row.own || errors.Is(err, policy.ErrUnpinned) {
			t.Errorf("%s: Check(false) = %v, want fine %v", why, err, row.own)
		}
		if err := row.binding.Check(true, pins); !isErr(err, row.shared) {
			t.Errorf("%s: Check(true) = %v, want %v", why, err, row.shared)
		}
	}
}

// errAny stands for an error that is no sentinel.
var errAny = errors.New("any")

func isErr(err, want error) bool {
	if errors.Is(want, errAny) {
		return err != nil && !errors.Is(err, policy.ErrUnpinned)
	}
	return errors.Is(err, want)
}

func TestMembers(t *testing.T) {
	person := policy.Identity{Provider: "ci", Issuer: "https://ci", Subject: "ada", Groups: []string{"ml"}, Claims: map[string]string{"dept": "search"}}
	unknown := person
	unknown.Groups, unknown.GroupsUnknown = nil, true
	lying := person
	lying.GroupsUnknown = true
	for why, row := range map[string]struct {
		members policy.Members
		who     policy.Identity
		want    bool
		asks    bool // Whether unknown groups are the reason.
	}{
		"by subject":                         {policy.Members{Provider: "ci", Subjects: []string{"ada"}}, person, true, false},
		"by group":                           {policy.Members{Provider: "ci", Groups: []string{"ml"}}, person, true, false},
		"by claims":                          {policy.Members{Provider: "ci", Claims: claims{"dept": pattern("search")}}, person, true, false},
		"by group and claims":                {policy.Members{Provider: "ci", Groups: []string{"ml"}, Claims: claims{"dept": pattern("search")}}, person, true, false},
		"the group, another claim":           {policy.Members{Provider: "ci", Groups: []string{"ml"}, Claims: claims{"dept": pattern("hr")}}, person, false, false},
		"the subject, another claim":         {policy.Members{Provider: "ci", Subjects: []string{"ada"}, Claims: claims{"dept": pattern("hr")}}, person, false, false},
		"the claim, another subject":         {policy.Members{Provider: "ci", Subjects: []string{"eve"}, Claims: claims{"dept": pattern("search")}}, person, false, false},
		"the claim, an empty list of them":   {policy.Members{Provider: "ci", Subjects: []string{}, Claims: claims{"dept": pattern("search")}}, person, false, false},
		"another provider":                   {policy.Members{Provider: "x", Claims: claims{"dept": pattern("search")}}, person, false, false},
		"nobody":                             {policy.Members{Provider: "ci"}, person, false, false},
		"groups unknown, by group":           {policy.Members{Provider: "ci", Groups: []string{"ml"}}, unknown, false, true},
		"groups unknown, listed all same":    {policy.Members{Provider: "ci", Groups: []string{"ml"}}, lying, false, true},
		"groups unknown, by subject":         {policy.Members{Provider: "ci", Groups: []string{"ml"}, Subjects: []string{"ada"}}, unknown, true, true},
		"groups unknown, another claim":      {policy.Members{Provider: "ci", Groups: []string{"ml"}, Claims: claims{"dept": pattern("hr")}}, unknown, false, false},
		"groups unknown, none asked":         {policy.Members{Provider: "ci", Subjects: []string{"eve"}}, unknown, false, false},
		"groups unknown, another provider's": {policy.Members{Provider: "x", Groups: []string{"ml"}}, unknown, false, false},
	} {
		g := policy.Grant{Members: []policy.Members{row.members}}
		if got := g.Admits(row.who); got != row.want {
			t.Errorf("%s: Admits = %v, want %v", why, got, row.want)
		}
		if got := g.AsksGroups(row.who); got != row.asks {
			t.Errorf("%s: AsksGroups = %v, want %v", why, got, row.asks)
		}
	}
}

func TestMembersCheck(t *testing.T) {
	pins := []string{"repository_id"}
	for why, row := range map[string]struct {
		members policy.Members
		own     bool
		shared  error
	}{
		"subjects":             {policy.Members{Subjects: []string{"s"}}, true, nil},
		"a pin":                {policy.Members{Claims: claims{"repository_id": pattern("74")}}, true, nil},
		"groups":               {policy.Members{Groups: []string{"g"}}, true, policy.ErrUnpinned},
		"groups and subjects":  {policy.Members{Groups: []string{"g"}, Subjects: []string{"s"}}, true, policy.ErrUnpinned},
		"groups and a pin":     {policy.Members{Groups: []string{"g"}, Claims: claims{"repository_id": pattern("74")}}, true, nil},
		"a pattern for a pin":  {policy.Members{Claims: claims{"repository_id": pattern("~7.")}}, true, policy.ErrUnpinned},
		"nobody":               {policy.Members{}, false, errAny},
		"every subject":        {policy.Members{Subjects: []string{"*"}}, false, errAny},
		"every group":          {policy.Members{Groups: []string{"*"}}, false, errAny},
		"a subject of nothing": {policy.Members{Subjects: []string{""}}, false, errAny},
		"a claim of nothing":   {policy.Members{Claims: claims{"repository_id": {}}}, false, errAny},
	} {
		if err := row.members.Check(false, nil); (err == nil) != row.own {
			t.Errorf("%s: Check(false) = %v, want fine %v", why, err, row.own)
		}
		if err := row.members.Check(true, pins); !isErr(err, row.shared) {
			t.Errorf("%s: Check(true) = %v, want %v", why, err, row.shared)
		}
	}
}
