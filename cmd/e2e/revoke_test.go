package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
)

// giveBack sends a token to /revoke and expects an answer; "" is success.
func (h *house) giveBack(why string, k wielded, method, token, code string, more ...string) {
	h.t.Helper()
	form := url.Values{"token": {token}}
	for i := 0; i < len(more); i += 2 {
		form.Set(more[i], more[i+1])
	}
	status, body, rec := h.recorded(h.clientRequest("/revoke", method, k, form))
	var e oauthError
	_ = json.Unmarshal(body, &e)
	if (status == http.StatusOK) != (code == "") || e.Code != code || code == "" && len(body) != 0 {
		h.t.Errorf("%s: %d %s, want %q", why, status, body, code)
	}
	if rec.Event != "revoke" || (rec.Outcome == "allow") != (code == "") {
		h.t.Errorf("%s: the record is %+v", why, rec)
	}
}

// introspect asks what the issuer says of a token.
func (h *house) introspect(k wielded, method, token string) (int, claims) {
	h.t.Helper()
	status, body := h.send(h.clientRequest("/introspect", method, k, url.Values{"token": {token}}))
	var c claims
	if err := json.Unmarshal(body, &c); err != nil {
		h.t.Fatalf("not JSON: %s", body)
	}
	return status, c
}

func (h *house) verifierKey(audiences ...string) wielded {
	return wielded{key: h.makeKey(func(k *policy.Key) { k.Grants, k.Bindings, k.VerifierFor = []string{}, nil, audiences }, time.Hour)}
}

// TestRevoke: a client gives its own tokens back, and nobody else's (RFC 7009).
func TestRevoke(t *testing.T) {
	h := startHouse(t)
	mine, other, signs, gateway := wielded{key: h.makeKey(nil, time.Hour)}, wielded{key: h.makeKey(nil, time.Hour)}, h.signedKey(), h.verifierKey("models")
	active := func(why, token string, want bool) {
		t.Helper()
		if status, c := h.introspect(gateway, inHeader, token); status != http.StatusOK || c["active"] != want {
			t.Errorf("%s: %d %v, want active %v", why, status, c, want)
		}
	}
	for _, method := range bySecret {
		token := h.forgedToken(mine.key)
		active("a fresh token", token, true)
		h.giveBack("another's token", other, method, token, "unauthorized_client")
		active("after another tried to revoke it", token, true)
		h.giveBack("one's own", mine, method, token, "", "token_type_hint", "access_token")
		active("given back", token, false)
		h.giveBack("again", mine, method, token, "")
	}
	// A holder of a narrowed token gives back that one; its giver may too.
	parent := h.forgedToken(mine.key)
	for _, by := range []wielded{mine, other} {
		child := h.narrow(other.key, parent, "chat:faq-bot")
		h.giveBack("a narrowed token, by a stranger", signs, bySign, child, "unauthorized_client")
		h.giveBack("a narrowed token", by, inHeader, child, "")
		active("a narrowed token that was given back", child, false)
	}
	active("its parent", parent, true)
	var tok tokens
	h.mustPost("/token", "", asSigned(bearerForm(h.forge.sign(h.forge.good(h.now()), nil)), h.signFor(signs, h.assertion(signs))), &tok)
	h.giveBack("one's own, signed", signs, bySign, tok.Access, "")
	active("given back by a signature", tok.Access, false)
	again := asSigned(url.Values{"token": {tok.Access}}, h.signFor(signs, h.assertion(signs)))
	for _, want := range []int{http.StatusOK, http.StatusUnauthorized} {
		if status, body := h.post("/revoke", "", again); status != want {
			t.Errorf("a client's assertion: %d %s, want %d", status, body, want)
		}
	}

	for why, token := range map[string]string{"nonsense": "x", "an identity token": h.forge.sign(h.forge.good(h.now()), nil), "three empty parts": "..", "a megabyte": strings.Repeat("x", 60_000)} {
		h.giveBack("a token that is not: "+why, mine, inHeader, token, "")
	}
	h.giveBack("a machine key", mine, inHeader, mine.Secret, "unsupported_token_type")
	h.giveBack("nothing", mine, inHeader, "", "invalid_request")
	h.giveBack("an unknown parameter", mine, inHeader, "x", "invalid_request", "scope", "chat:faq-bot")
	h.giveBack("nobody", wielded{}, inHeader, h.forgedToken(mine.key), "invalid_client")
	h.giveBack("a wrong secret", wielded{key: key{mine.Key, other.Secret}}, inHeader, h.forgedToken(mine.key), "invalid_client")

	token := h.forgedToken(mine.key)
	h.change(mine.ID, func(k *policy.Key) { k.State = policy.Disabled })
	h.giveBack("by a key that is disabled", mine, inHeader, token, "")
	active("given back by a disabled key", token, false)
	h.pass(time.Hour)
	h.giveBack("an expired token", other, inHeader, token, "")
}

// TestRevokeLogin: a person's program gives back its login, by either token.
func TestRevokeLogin(t *testing.T) {
	h := startHouse(t)
	cli := []string{"client_id", "hourpass-cli"}
	for name, pick := range map[string]func(login) string{
		"access token": func(l login) string { return l.Access }, "refresh token": func(l login) string { return l.Refresh },
	} {
		l := h.logIn("ada", "lovelace")
		k := h.enrol(l, `{"grants":["faq"]}`)
		h.giveBack(name+" without a client", wielded{}, inHeader, pick(l), "invalid_request")
		h.giveBack(name+" with a machine key", wielded{key: k}, inHeader, pick(l), "invalid_request")
		if status, _ := h.api(http.MethodGet, "/v1/me", l.Access, ""); status != http.StatusOK {
			t.Errorf("%s: the login ended already: %d", name, status)
		}
		h.giveBack(name, wielded{}, inHeader, pick(l), "", cli...)
		if status, _ := h.api(http.MethodGet, "/v1/me", l.Access, ""); status != http.StatusUnauthorized {
			t.Errorf("%s: the login lives on: %d", name, status)
		}
		h.refused(name+" was given back", k.Secret, refreshForm(l.Refresh), "invalid_grant", "session")
		h.giveBack(name+" again", wielded{}, inHeader, pick(l), "", cli...)
	}
	// The refresh token before is as good as the present one.
	l := h.logIn("ada", "lovelace")
	k := h.enrol(l, `{"grants":["faq"]}`)
	next := h.refresh(k, l.Refresh)
	h.giveBack("the refresh token before", wielded{}, inHeader, l.Refresh, "", cli...)
	h.refused("after that", k.Secret, refreshForm(next.Refresh), "invalid_grant", "session")
	for _, unknown := range []string{"hpr_unknown", "hpl_unknown"} {
		h.giveBack("an unknown one", wielded{}, inHeader, unknown, "", cli...)
	}
}

// TestIntrospect: who verifies for an audience may ask what its tokens say (RFC
// 7662); of others they learn nothing.
func TestIntrospect(t *testing.T) {
	h := startHouse(t, "    tier: free\n", "    tier: free\n    limits: {tokens/day: 1000}\n    params: {max_tokens: 256}\n    ip_ranges: [127.0.0.0/8]\n")
	mine, holder := h.makeKey(nil, 2*time.Hour), h.makeKey(nil, 2*time.Hour)
	models, others := h.verifierKey("models"), h.verifierKey("other-models")
	private, set := newClientKey(t)
	signs := wielded{h.makeKey(func(k *policy.Key) { k.JWKS, k.VerifierFor = set, []string{"models"} }, time.Hour), private}

	token := h.narrow(holder, h.forgedToken(mine), "chat:faq-bot")
	want := payload(t, token).with(claims{"active": true, "token_type": "Bearer"})
	for method, k := range map[string]wielded{inHeader: models, inForm: models, bySign: signs} {
		if status, got := h.introspect(k, method, token); status != http.StatusOK || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %d %v, want all that the token says: %v", method, status, got, want)
		}
	}
	silence := claims{"active": false}
	for why, row := range map[string]struct {
		key   wielded
		token string
	}{
		"of another audience":      {others, token},
		"nonsense":                 {models, "x"},
		"an identity token":        {models, h.forge.sign(h.forge.good(h.now()), nil)},
		"a machine key":            {models, mine.Secret},
		"a login":                  {models, h.logIn("ada", "lovelace").Access},
		"a token of other models'": {models, h.forgedToken(mine, "audience", "other-models")},
	} {
		if status, got := h.introspect(row.key, inHeader, row.token); status != http.StatusOK || !reflect.DeepEqual(got, silence) {
			t.Errorf("%s: %d %v, want only that it is not active", why, status, got)
		}
	}
	disabled := h.verifierKey("models")
	h.change(disabled.ID, func(k *policy.Key) { k.State = policy.Disabled })
	revoked := h.verifierKey("models")
	if status, _ := h.introspect(revoked, inHeader, token); status != http.StatusOK {
		t.Errorf("before it is revoked: %d", status)
	}
	h.change(revoked.ID, func(k *policy.Key) { k.State = policy.Revoked })
	for why, row := range map[string]struct {
		key    wielded
		status int
		code   string
	}{
		"nobody":                      {wielded{}, http.StatusUnauthorized, "invalid_client"},
		"a wrong secret":              {wielded{key: key{models.Key, others.Secret}}, http.StatusUnauthorized, "invalid_client"},
		"a key that verifies nothing": {wielded{key: mine}, http.StatusForbidden, "access_denied"},
		"a disabled one":              {disabled, http.StatusBadRequest, "unauthorized_client"},
		"a revoked one":               {revoked, http.StatusUnauthorized, "invalid_client"},
	} {
		if status, got := h.introspect(row.key, inHeader, token); status != row.status || got["error"] != row.code || got["active"] != nil {
			t.Errorf("%s: %d %v, want %d %s", why, status, got, row.status, row.code)
		}
	}
	if status, got := h.introspect(models, inHeader, ""); status != http.StatusBadRequest || got["error"] != "invalid_request" {
		t.Errorf("no token: %d %v", status, got)
	}
	assertion := asSigned(url.Values{"token": {token}}, h.signFor(signs, h.assertion(signs)))
	for _, status := range []int{http.StatusOK, http.StatusUnauthorized} {
		if got, body := h.post("/introspect", "", assertion); got != status {
			t.Errorf("a verifier's assertion: %d %s, want %d", got, body, status)
		}
	}
	h.pass(time.Hour)
	if _, got := h.introspect(h.verifierKey("models"), inHeader, token); !reflect.DeepEqual(got, silence) {
		t.Errorf("an expired token: %v", got)
	}
}
