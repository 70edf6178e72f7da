package e2e

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/token"
)

func narrowForm(parent, scope string, more ...string) url.Values {
	f := exchangeForm(parent, append([]string{"subject_token_type", typeAccess}, more...)...)
	if scope != "" {
		f.Set("scope", scope)
	}
	return f
}

// payload is what a token says, unverified.
func payload(t *testing.T, compact string) claims {
	t.Helper()
	var c claims
	parts := strings.Split(compact, ".")
	b, err := base64.RawURLEncoding.DecodeString(parts[1%len(parts)])
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		t.Fatalf("not a token: %q: %v", compact, err)
	}
	return c
}

func (c claims) seconds(name string) int64 {
	n, _ := c[name].(float64)
	return int64(n)
}

func (h *house) narrow(holder key, parent, scope string, more ...string) string {
	h.t.Helper()
	var tok tokens
	h.mustPost("/token", holder.Secret, narrowForm(parent, scope, more...), &tok)
	if tok.Issued != typeAccess || tok.Type != "Bearer" || tok.Scope != scope || tok.Refresh != "" {
		h.t.Errorf("the answer is %+v", tok)
	}
	return tok.Access
}

// forgedToken is a token of ada's by that key.
func (h *house) forgedToken(k key, more ...string) string {
	h.t.Helper()
	var tok tokens
	h.mustPost("/token", k.Secret, exchangeForm(h.forge.sign(h.forge.good(h.now()), nil), more...), &tok)
	return tok.Access
}

// TestNarrow: a token is handed on with less, to machine keys that are named in
// it (RFC 8693, sections 1.1 and 4.1), and stays its first holder's.
func TestNarrow(t *testing.T) {
	h := startHouse(t, "    tier: free\n", "    tier: free\n    limits: {tokens/day: 1000}\n    params: {max_tokens: 256}\n    ip_ranges: [127.0.0.0/8, 10.0.0.0/8]\n")
	mine := h.makeKey(func(k *policy.Key) {
		k.Team, k.Limits = "search", token.Limits{"requests/minute": 10}
		k.IPRanges = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/16")}
	}, 2*time.Hour)
	// The holders' own grants, networks and identities neither add nor take.
	holders := []key{}
	for range 5 {
		holders = append(holders, h.makeKey(func(k *policy.Key) {
			k.Owner, k.Grants, k.IPRanges, k.Bindings = "forge:grace", []string{"wide"}, []netip.Prefix{}, nil
		}, 2*time.Hour))
	}
	parent := h.forgedToken(mine)
	h.pass(20 * time.Minute)
	scopes := []string{
		"chat:faq-bot completions:faq-bot embeddings:faq-bot", "chat:faq-bot completions:faq-bot", "chat:faq-bot", "chat:faq-bot",
	}
	compact, before := parent, payload(t, parent)
	var act any
	for i, scope := range scopes {
		compact = h.narrow(holders[i], compact, scope)
		got := payload(t, compact)
		link := map[string]any{"sub": holders[i].ID}
		if act != nil {
			link["act"] = act
		}
		act = link
		want := maps.Clone(before)
		want["scope"], want["act"], want["jti"], want["iat"], want["nbf"] = scope, act, got["jti"], got["iat"], got["nbf"]
		if !reflect.DeepEqual(got, want) {
			t.Errorf("narrowed %d times it says %v, want %v", i+1, got, want)
		}
		if got["jti"] == before["jti"] || got["client_id"] != mine.ID || got.seconds("iat") < before.seconds("iat")+20*60 {
			t.Errorf("narrowed %d times: jti %v, client %v, issued %d", i+1, got["jti"], got["client_id"], got.seconds("iat"))
		}
		// What the verifier does not enforce yet it refuses, of both.
		wantStatus, _ := h.call(parent, "faq-bot")
		if status, body := h.call(compact, "faq-bot"); status != wantStatus {
			t.Errorf("a call with the token narrowed %d times: %d %s, want %d as before", i+1, status, body, wantStatus)
		}
		all := h.records("issuer")
		if last := all[len(all)-1]; last.Outcome != audit.Allow || last.Key != mine.ID || last.Actor != holders[i].ID || last.Identity != "forge:ada" || last.Scope != scope || last.Token != got["jti"] {
			t.Errorf("the record is %+v", last)
		}
	}
	for _, name := range []string{"lim", "par", "ip", "tier", "team", "grant", "sub", "aud", "exp", "auth_time"} {
		if before[name] == nil {
			t.Errorf("the first token has no %s to keep", name)
		}
	}
	h.refused("a fifth holder", holders[4].Secret, narrowForm(compact, "chat:faq-bot"), "invalid_request", "actors")
	h.refused("the fourth again", holders[3].Secret, narrowForm(compact, "chat:faq-bot"), "invalid_request", "actors")

	h.pass(40*time.Minute - 20*time.Second)
	if last := payload(t, h.narrow(holders[0], parent, "chat:faq-bot")); last.seconds("exp") != before.seconds("exp") {
		t.Errorf("narrowed in its last seconds it ends at %d, not %d", last.seconds("exp"), before.seconds("exp"))
	}
	h.pass(20 * time.Second)
	h.refused("narrowed at its end", holders[0].Secret, narrowForm(parent, "chat:faq-bot"), "invalid_request", "subject_token")
}

// TestNarrowRefuses: what is not to be narrowed, or not to that.
func TestNarrowRefuses(t *testing.T) {
	h, other := startHouse(t), startHouse(t)
	mine, holder := h.makeKey(nil, time.Hour), h.makeKey(func(k *policy.Key) { k.Bindings = nil }, time.Hour)
	parent := h.forgedToken(mine, "scope", "chat:faq-bot embeddings:faq-bot")
	narrower := h.narrow(holder, parent, "chat:faq-bot")
	if status, body := h.call(narrower, "faq-bot"); status != http.StatusOK {
		t.Errorf("a call with a narrowed token: %d %s", status, body)
	}
	if status, _ := h.call(narrower, "hr-bot"); status != http.StatusForbidden {
		t.Errorf("a call beyond its scope: %d, want 403", status)
	}
	elsewhere := h.forgedToken(mine, "audience", "other-models")
	foreign := other.forgedToken(other.makeKey(nil, time.Hour))
	parts := strings.Split(parent, ".")
	good := h.forge.good(h.now())
	for why, row := range map[string]struct {
		form         url.Values
		code, reason string
	}{
		"no scope":                       {narrowForm(parent, ""), "invalid_scope", "scope"},
		"an empty scope":                 {narrowForm(parent, "", "scope", ""), "invalid_scope", "scope"},
		"a scope that the key has":       {narrowForm(parent, "completions:faq-bot"), "invalid_scope", "scope"},
		"a scope more":                   {narrowForm(parent, "chat:faq-bot responses:faq-bot"), "invalid_scope", "scope"},
		"a scope given up before":        {narrowForm(narrower, "embeddings:faq-bot"), "invalid_scope", "scope"},
		"a pattern":                      {narrowForm(parent, "chat:faq-*"), "invalid_scope", "scope"},
		"another audience":               {narrowForm(parent, "chat:faq-bot", "audience", "other-models"), "invalid_target", "audience"},
		"another audience's token":       {narrowForm(elsewhere, "chat:faq-bot"), "invalid_target", "audience"},
		"an audience of nobody":          {narrowForm(parent, "chat:faq-bot", "audience", "payroll"), "invalid_target", "audience"},
		"another issuer's token":         {narrowForm(foreign, "chat:faq-bot"), "invalid_request", "subject_token"},
		"an identity token":              {narrowForm(h.forge.sign(good, nil), "chat:faq-bot"), "invalid_request", "subject_token"},
		"one in our name":                {narrowForm(h.forge.sign(payload(t, parent), map[string]any{"typ": "at+jwt"}), "chat:faq-bot"), "invalid_request", "subject_token"},
		"one without a signature":        {narrowForm(parts[0]+"."+parts[1]+".", "chat:faq-bot"), "invalid_request", "subject_token"},
		"one with another's signature":   {narrowForm(parts[0]+"."+parts[1]+"."+strings.Split(narrower, ".")[2], "chat:faq-bot"), "invalid_request", "subject_token"},
		"a machine key":                  {narrowForm(mine.Secret, "chat:faq-bot"), "invalid_request", "subject_token"},
		"four kilobytes":                 {narrowForm(strings.Repeat("x", 4096), "chat:faq-bot"), "invalid_request", "subject_token"},
		"our token as an ID token":       {exchangeForm(parent, "scope", "chat:faq-bot"), "invalid_request", "identity"},
		"our token as a JWT":             {exchangeForm(parent, "subject_token_type", typeJWT, "scope", "chat:faq-bot"), "invalid_request", "identity"},
		"our token as an assertion":      {url.Values{"grant_type": {grantBearer}, "assertion": {parent}}, "invalid_grant", "identity"},
		"our token beside the key":       {besideForm(parent), "invalid_grant", "identity"},
		"an actor_token":                 {narrowForm(parent, "chat:faq-bot", "actor_token", "x"), "invalid_request", "invalid_request"},
		"another type of token wanted":   {narrowForm(parent, "chat:faq-bot", "requested_token_type", typeIDToken), "invalid_request", "invalid_request"},
		"a refresh token as the subject": {exchangeForm("hpr_x", "subject_token_type", "urn:ietf:params:oauth:token-type:refresh_token"), "invalid_request", "invalid_request"},
	} {
		h.refused(why, holder.Secret, row.form, row.code, row.reason)
	}
	if got := payload(t, h.narrow(holder, elsewhere, "chat:faq-bot", "audience", "other-models")); got["aud"] != "other-models" {
		t.Errorf("the token of another audience, which is named, became one for %v", got["aud"])
	}
	h.refused("the token alone", "", narrowForm(parent, "chat:faq-bot"), "invalid_client", "key_missing")
	h.change(holder.ID, func(k *policy.Key) { k.State = policy.Disabled })
	h.refused("by a key that is disabled", holder.Secret, narrowForm(parent, "chat:faq-bot"), "unauthorized_client", "key_not_active")
}

// change alters a key behind the issuer's back.
func (h *house) change(id string, change func(*policy.Key)) {
	h.t.Helper()
	if _, err := h.keyStore().Update(h.t.Context(), id, 0, func(k *policy.Key) error { change(k); return nil }, nil); err != nil {
		h.t.Fatal(err)
	}
}

// TestNarrowRevoked: what was revoked is not to be narrowed, by whichever of its
// holders, even where another issuer has revoked it a moment ago.
func TestNarrowRevoked(t *testing.T) {
	h := startHouse(t)
	holder, last := h.makeKey(nil, time.Hour), h.makeKey(nil, time.Hour)
	for what, value := range map[string]func(claims) string{
		"token":    func(c claims) string { return c["jti"].(string) },
		"key":      func(c claims) string { return c["client_id"].(string) },
		"identity": func(c claims) string { return c["sub"].(string) },
		"grant":    func(claims) string { return "faq" },
		"all":      func(claims) string { return "" },
	} {
		parent := h.forgedToken(h.makeKey(nil, time.Hour))
		h.narrow(holder, parent, "chat:faq-bot")
		h.revokeElsewhere(what, value(payload(t, parent)))
		h.refused("after the "+what+" was revoked", holder.Secret, narrowForm(parent, "chat:faq-bot"), "invalid_request", "subject_token")
		h.pass(2 * time.Second) // A later token is another matter.
	}
	child := h.narrow(holder, h.forgedToken(h.makeKey(nil, time.Hour)), "chat:faq-bot")
	h.revokeElsewhere("key", holder.ID)
	h.refused("after the key of a holder in between was revoked", last.Secret, narrowForm(child, "chat:faq-bot"), "invalid_request", "subject_token")
}

// TestNarrowOwner: a holder whose owner has left gets nothing handed on either.
func TestNarrowOwner(t *testing.T) {
	h := startHouse(t, "rates:", "owner_absence: 24h\nrates:")
	mine := h.makeKey(nil, time.Hour) // Its owner asks in person.
	holder := h.makeKey(func(k *policy.Key) { k.Owner = "corp:gone" }, time.Hour)
	parent := h.forgedToken(mine)
	h.narrow(mine, parent, "chat:faq-bot")
	h.refused("a holder whose owner was never seen", holder.Secret, narrowForm(parent, "chat:faq-bot"), "unauthorized_client", "owner_absent")
}

// revokeElsewhere revokes as another issuer on the same database would.
func (h *house) revokeElsewhere(what, value string) {
	h.t.Helper()
	db, err := store.Open(h.t.Context(), h.store)
	if err != nil {
		h.t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(h.t.Context(), nil)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, q := range []struct {
		query string
		args  []any
	}{
		{`UPDATE counters SET value = value + 1 WHERE name = 'revocations'`, nil},
		{
			`INSERT INTO revocations (generation, what, value, not_before, until, reason)
			SELECT value, $1, $2, $3, $4, '' FROM counters WHERE name = 'revocations'`,
			[]any{what, value, h.now().Unix() + 1, h.now().Add(2 * time.Hour).Unix()},
		},
	} {
		if _, err := tx.ExecContext(h.t.Context(), q.query, q.args...); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		h.t.Fatal(err)
	}
}

// TestResources: a request may name the address of what it will call in the
// place of its audience (RFC 8707).
func TestResources(t *testing.T) {
	h := startHouse(t, "rates:", "resources: {'https://models.example/v1': models, 'https://other.example': other-models}\nrates:")
	k := h.makeKey(nil, time.Hour)
	form := func(more ...string) url.Values {
		return exchangeForm(h.forge.sign(h.forge.good(h.now()), nil), more...)
	}
	for _, row := range []struct{ resource, audience, want string }{
		{"", "", "models"},
		{"https://models.example/v1", "", "models"},
		{"https://other.example", "", "other-models"},
		{"https://other.example", "other-models", "other-models"},
		{"", "other-models", "other-models"},
	} {
		var more []string
		for name, value := range map[string]string{"resource": row.resource, "audience": row.audience} {
			if value != "" {
				more = append(more, name, value)
			}
		}
		var tok tokens
		h.mustPost("/token", k.Secret, form(more...), &tok)
		if got := payload(t, tok.Access)["aud"]; got != row.want {
			t.Errorf("resource %q and audience %q give a token for %v, want %s", row.resource, row.audience, got, row.want)
		}
	}
	twice := form("resource", "https://models.example/v1")
	twice.Add("resource", "https://other.example")
	for why, row := range map[string]struct {
		form url.Values
		code string
	}{
		"an unknown resource":         {form("resource", "https://evil.example"), "invalid_target"},
		"a resource with a slash":     {form("resource", "https://other.example/"), "invalid_target"},
		"a resource below":            {form("resource", "https://models.example/v1/chat"), "invalid_target"},
		"a resource that is relative": {form("resource", "models"), "invalid_target"},
		"a resource with a fragment":  {form("resource", "https://other.example#x"), "invalid_target"},
		"two that differ":             {form("resource", "https://other.example", "audience", "models"), "invalid_target"},
		"two resources":               {twice, "invalid_request"}, // A token of ours has one audience.
	} {
		reason := map[string]string{"invalid_target": "audience"}[row.code]
		if reason == "" {
			reason = row.code
		}
		h.refused(why, k.Secret, row.form, row.code, reason)
	}
}
