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
			Identity: policy.Required, State: policy.Active, ExpiresAt: now.Add(24 * time.Hour), RotateAfter: now.Add(time.Hour),
		},
		who: policy.Identity{Provider: "corp", Issuer: "https://idp", Subject: "ada", Groups: []string{"faq-users", "secret-project"}, Expires: now.Add(5 * time.Minute)},
		req: policy.Request{Lifetime: time.Hour},
	}
}

func (x exchange) decide() (policy.Decision, error) {
	return policy.Decide(x.grants, x.key, &x.who, x.req, now)
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
		"key disabled":             {func(x *exchange) { x.key.State = policy.Disabled }, policy.ErrKeyState},
		"key quarantined":          {func(x *exchange) { x.key.State = policy.Quarantined }, policy.ErrKeyState},
		"key expired just now":     {func(x *exchange) { x.key.ExpiresAt = now }, policy.ErrKeyState},
		"key revoked":              {func(x *exchange) { x.key.State = policy.Revoked }, policy.ErrKeyState},
		"overdue for rotation":     {func(x *exchange) { x.key.RotateAfter = now }, policy.ErrOverdue},
		"overdue beyond its grace": {func(x *exchange) { x.key.RotateAfter, x.req.Grace = now.Add(-time.Hour), time.Hour }, policy.ErrOverdue},
		"key and grant share no parameter": {func(x *exchange) {
			x.key.Params = token.Params{Bounds: map[string]token.Range{"temperature": {Max: 1}}}
			faq(func(g *policy.Grant) {
				g.Params = token.Params{Bounds: map[string]token.Range{"temperature": {Min: 2, Max: 3}}}
			})(x)
		}, policy.ErrNothing},
		"key of no state":                    {func(x *exchange) { x.key.State = "" }, policy.ErrKeyState},
		"somebody else's identity":           {func(x *exchange) { x.who.Subject = "grace" }, policy.ErrBinding},
		"same subject, other issuer":         {func(x *exchange) { x.who.Issuer = "https://other" }, policy.ErrBinding},
		"issuer with a slash":                {func(x *exchange) { x.who.Issuer += "/" }, policy.ErrBinding},
		"no binding":                         {func(x *exchange) { x.key.Bindings = nil }, policy.ErrBinding},
		"left the group":                     {func(x *exchange) { x.who.Groups = nil }, policy.ErrMember},
		"groups that the provider left out":  {func(x *exchange) { x.who.Groups, x.who.GroupsUnknown = nil, true }, policy.ErrGroupsUnknown},
		"group of that name elsewhere":       {func(x *exchange) { x.who.Provider = "other" }, policy.ErrMember},
		"grant without members":              {faq(func(g *policy.Grant) { g.Members = nil }), policy.ErrMember},
		"grant that is gone":                 {func(x *exchange) { x.key.Grants = []string{"gone"} }, policy.ErrMember},
		"key without grants":                 {func(x *exchange) { x.key.Grants = nil }, policy.ErrMember},
		"scope of another model":             {func(x *exchange) { x.req.Scope, x.req.HasScope = scopes("chat:hr-bot"), true }, policy.ErrScope},
		"scope of another action":            {func(x *exchange) { x.req.Scope, x.req.HasScope = scopes("embeddings:faq-bot"), true }, policy.ErrScope},
		"scope partly granted":               {func(x *exchange) { x.req.Scope, x.req.HasScope = scopes("chat:faq-bot", "chat:hr-bot"), true }, policy.ErrScope},
		"no scope and no default":            {faq(func(g *policy.Grant) { g.Default = nil }), policy.ErrNothing},
		"identity's end counts, and is past": {func(x *exchange) { x.req.CapByIDP, x.who.Expires = true, now }, policy.ErrExpiry},
		"half a second is left":              {func(x *exchange) { x.key.ExpiresAt = now.Add(time.Second / 2) }, policy.ErrExpiry},
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
				Limits:      drawLimits(t, name), Params: drawParams(t, name), WithoutIdentity: rapid.Bool().Draw(t, name+" alone"),
			}
			if rapid.IntRange(0, 3).Draw(t, name+" members") > 0 {
				g.Members = []policy.Members{{Provider: "corp", Subjects: []string{"ada"}}}
			}
			x.grants[name] = g
			x.key.Grants = append(x.key.Grants, name)
		}
		x.key.IPRanges = drawNetworks(t, "key networks")
		x.key.Limits, x.key.Params = drawLimits(t, "key"), drawParams(t, "key")
		x.key.Identity = rapid.SampledFrom([]policy.Need{policy.Required, policy.None, ""}).Draw(t, "need")
		x.key.ExpiresAt = now.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "key minutes")) * time.Minute)
		x.who.Expires = now.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "identity minutes")) * time.Minute)
		x.req = policy.Request{
			HasScope: rapid.Bool().Draw(t, "has scope"), CapByIDP: rapid.Bool().Draw(t, "cap"),
			Lifetime: time.Duration(rapid.IntRange(1, 120).Draw(t, "minutes")) * time.Minute,
		}
		if x.req.HasScope {
			x.req.Scope = drawScopes(t, "request")
		}
		who := &x.who
		if rapid.IntRange(0, 3).Draw(t, "alone") == 0 {
			who = nil
		}
		d, err := policy.Decide(x.grants, x.key, who, x.req, now)
		if err != nil {
			return
		}
		issued++
		if who == nil && (x.key.Identity != policy.None || d.Subject != x.key.ID || d.Expires.After(now.Add(policy.MaxLifetimeAlone))) {
			t.Fatalf("a key alone got %+v", d)
		}
		if !d.Limits.Within(x.key.Limits) || !d.Params.Within(x.key.Params) {
			t.Fatalf("issued %v and %v, the key has %v and %v", d.Limits, d.Params, x.key.Limits, x.key.Params)
		}
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
		if who != nil && x.req.CapByIDP && d.Expires.After(x.who.Expires) {
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
					return (who == nil && g.WithoutIdentity || who != nil && len(g.Members) > 0) && g.Scopes.Allow("chat", model) &&
						within(addr, g.IPRanges) && !d.Expires.After(now.Add(g.MaxLifetime)) && d.Limits.Within(g.Limits) && d.Params.Within(g.Params)
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

func drawLimits(t *rapid.T, label string) token.Limits {
	return rapid.MapOfN(rapid.SampledFrom([]string{"tokens/day", "concurrent"}), rapid.Int64Range(0, 3), 0, 2).Draw(t, label+" limits")
}

func drawParams(t *rapid.T, label string) token.Params {
	p := token.Params{Bounds: map[string]token.Range{}, Clamp: rapid.Bool().Draw(t, label+" clamp")}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"max_tokens", "temperature"}), 0, 2, rapid.ID[string]).Draw(t, label+" params") {
		p.Bounds[name] = token.Range{Max: float64(rapid.IntRange(0, 3).Draw(t, label+" "+name))}
	}
	p.Clamp = p.Clamp && len(p.Bounds) > 0
	return p
}

// TestGrace: a key that is overdue works until its grace ends, for ever where
// there is no end to it.
func TestGrace(t *testing.T) {
	for grace, want := range map[time.Duration]error{0: policy.ErrOverdue, time.Hour: policy.ErrOverdue, 2 * time.Hour: nil, -1: nil} {
		x := good()
		x.key.RotateAfter, x.req.Grace = now.Add(-time.Hour), grace
		if _, err := x.decide(); !errors.Is(err, want) {
			t.Errorf("an hour overdue, with a grace of %v: %v, want %v", grace, err, want)
		}
	}
}

// TestWithoutIdentity: both key and grant must say so, and the token is short.
func TestWithoutIdentity(t *testing.T) {
	for _, row := range []struct {
		need  policy.Need
		grant bool
		want  error
	}{
		{policy.Required, true, policy.ErrIdentity},
		{"", true, policy.ErrIdentity},
		{policy.None, false, policy.ErrMember},
		{policy.None, true, nil},
	} {
		x := good()
		g := x.grants["faq"]
		g.WithoutIdentity = row.grant
		x.grants["faq"], x.key.Identity = g, row.need
		d, err := policy.Decide(x.grants, x.key, nil, x.req, now)
		if !errors.Is(err, row.want) {
			t.Errorf("%q, %v: %v, want %v", row.need, row.grant, err, row.want)
		}
		if err == nil && (d.Subject != "k" || !d.Expires.Equal(now.Add(policy.MaxLifetimeAlone)) || d.Groups != nil) {
			t.Errorf("%q, %v: %+v", row.need, row.grant, d)
		}
	}
}

// TestGrantWithinParent: one thing wider a row.
func TestGrantWithinParent(t *testing.T) {
	parent := func() policy.Grant {
		return policy.Grant{
			Scopes: scopes("chat:a-*"), MaxLifetime: time.Hour, IPRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
			Limits: token.Limits{"tokens/day": 10}, Params: token.Params{Bounds: map[string]token.Range{"max_tokens": {Max: 10}}},
		}
	}
	narrow := parent()
	narrow.Scopes, narrow.IPRanges = scopes("chat:a-b"), []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	narrow.Limits = token.Limits{"tokens/day": 1, "concurrent": 1}
	nowhere := parent()
	nowhere.IPRanges = []netip.Prefix{}
	for _, g := range []policy.Grant{parent(), narrow, nowhere} {
		if err := g.Within(parent()); err != nil {
			t.Errorf("%+v: %v", g, err)
		}
	}
	for why, widen := range map[string]func(*policy.Grant){
		"scopes":   func(g *policy.Grant) { g.Scopes = scopes("chat:b") },
		"lifetime": func(g *policy.Grant) { g.MaxLifetime++ },
		"anywhere": func(g *policy.Grant) { g.IPRanges = nil },
		"networks": func(g *policy.Grant) { g.IPRanges = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} },
		"elsewhere": func(g *policy.Grant) {
			g.IPRanges = append(g.IPRanges, netip.MustParsePrefix("192.0.2.0/24"))
		},
		"limits":   func(g *policy.Grant) { g.Limits = token.Limits{"tokens/day": 11} },
		"no limit": func(g *policy.Grant) { g.Limits = nil },
		"params":   func(g *policy.Grant) { g.Params = token.Params{} },
		"alone":    func(g *policy.Grant) { g.WithoutIdentity = true },
	} {
		g := parent()
		widen(&g)
		if g.Within(parent()) == nil {
			t.Errorf("%s: a wider grant is within its parent", why)
		}
	}
}

// TestNarrow: nothing of a narrowed token is wider than the token it was made of.
func TestNarrow(t *testing.T) {
	parent := token.Claims{
		Issuer: "https://issuer", Subject: "corp:ada", Audience: "models", ClientID: "key1", ID: "j1", IssuedAt: now, NotBefore: now,
		Expires: now.Add(time.Hour), Scope: scopes("chat:a-*", "embeddings:b"), Grant: "faq", IP: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Limits: token.Limits{"tokens/day": 10},
	}
	req := policy.Request{Scope: scopes("chat:a-b"), HasScope: true, Lifetime: time.Hour}
	later := now.Add(10 * time.Minute)
	c := parent
	for depth := 1; depth <= token.MaxActors; depth++ {
		next, err := policy.Narrow(c, fmt.Sprint("key", depth), req, later)
		if err != nil {
			t.Fatal(err)
		}
		if next.Subject != "corp:ada" || next.ClientID != "key1" || next.Audience != "models" || next.Grant != "faq" || next.ID != "" || next.Actor.Depth() != depth ||
			next.Actor.Subject != fmt.Sprint("key", depth) || !next.Scope.Within(parent.Scope) || next.Expires.After(parent.Expires) || !next.IssuedAt.Equal(later) ||
			!next.Limits.Within(parent.Limits) || len(next.IP) != 1 {
			t.Fatalf("at depth %d: %+v", depth, next)
		}
		c = next
	}
	if _, err := policy.Narrow(c, "key9", req, later); !errors.Is(err, policy.ErrActors) {
		t.Errorf("beyond %d actors: %v", token.MaxActors, err)
	}
	short := req
	short.Lifetime = time.Minute
	if c, err := policy.Narrow(parent, "key2", short, later); err != nil || !c.Expires.Equal(later.Add(time.Minute)) {
		t.Errorf("for a minute: %v, %v", c.Expires, err)
	}
	for why, row := range map[string]struct {
		req  policy.Request
		at   time.Time
		want error
	}{
		"wider":             {policy.Request{Scope: scopes("chat:c"), HasScope: true, Lifetime: time.Hour}, later, policy.ErrScope},
		"partly wider":      {policy.Request{Scope: scopes("chat:a-b", "chat:c"), HasScope: true, Lifetime: time.Hour}, later, policy.ErrScope},
		"no scope named":    {policy.Request{Lifetime: time.Hour}, later, policy.ErrNoScope},
		"expired":           {req, parent.Expires, policy.ErrExpiry},
		"for half a second": {policy.Request{Scope: scopes("chat:a-b"), HasScope: true, Lifetime: time.Second / 2}, later, policy.ErrExpiry},
	} {
		if _, err := policy.Narrow(parent, "key2", row.req, row.at); !errors.Is(err, row.want) {
			t.Errorf("%s: %v, want %v", why, err, row.want)
		}
	}
}

// TestNarrowingNeverWidens: whatever is asked of whichever chain of tokens, what
// comes out is within all that went in.
func TestNarrowingNeverWidens(t *testing.T) {
	models := []string{"a", "b", "a-x", "a-*", "b/c", "b/*"}
	draw := func(t *rapid.T, label string, least int) token.Scopes {
		return scopes(rapid.SliceOfNDistinct(rapid.Map(rapid.SampledFrom(models), func(m string) string { return "chat:" + m }), least, 4, rapid.ID[string]).Draw(t, label)...)
	}
	issued := 0
	rapid.Check(t, func(t *rapid.T) {
		c := token.Claims{
			Issuer: "https://issuer", Subject: "corp:ada", Audience: "models", ClientID: "key0", ID: "j", IssuedAt: now, NotBefore: now,
			Expires: now.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "minutes")) * time.Minute), Scope: draw(t, "scope", 1), Grant: "faq",
			Limits: drawLimits(t, "token"), Params: drawParams(t, "token"), IP: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		}
		at := now
		for step := range rapid.IntRange(1, 6).Draw(t, "steps") {
			at = at.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "later")) * time.Minute)
			req := policy.Request{Scope: draw(t, "wanted", 0), HasScope: true, Lifetime: time.Duration(rapid.IntRange(1, 90).Draw(t, "life")) * time.Minute}
			next, err := policy.Narrow(c, fmt.Sprint("key", step), req, at)
			if err != nil {
				return
			}
			issued++
			if !next.Scope.Within(c.Scope) || !next.Scope.Within(req.Scope) || next.Expires.After(c.Expires) || next.Expires.After(at.Add(req.Lifetime)) ||
				next.Expires.After(at.Add(time.Hour)) || !next.Limits.Within(c.Limits) || !next.Params.Within(c.Params) || !slices.Equal(next.IP, c.IP) {
				t.Fatalf("%+v is wider than %+v", next, c)
			}
			if next.Subject != c.Subject || next.ClientID != c.ClientID || next.Audience != c.Audience || next.Actor.Actor != c.Actor || next.Actor.Depth() > token.MaxActors {
				t.Fatalf("%+v is not %+v, handed on", next, c)
			}
			next.ID = "j"
			if _, err := next.Encode(); err != nil {
				t.Fatalf("%+v can't be written: %v", next, err)
			}
			c = next
		}
	})
	if issued == 0 {
		t.Error("nothing was ever narrowed: the property says nothing")
	}
}
