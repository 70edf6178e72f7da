package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/hourpass/hourpass/internal/policy"
)

// grantEdits let people exchange ID tokens of the issuer's own client, and keys
// without identity hold a grant.
var grantEdits = []string{
	"audiences: [tools]\n  - name: forge", "audiences: [hourpass]\n  - name: forge",
	"rates:", "rotation_grace: 24h\nrates:",
	"  - name: wide\n", "  - name: alone\n    scopes: [chat:faq-bot]\n    without_identity: true\n  - name: wide\n",
}

// situation is what may be wrong with one of the factors.
type situation struct {
	name     string
	key      func(w way) wielded // Nil: a good one.
	change   func(k wielded)     // What befalls the key behind the issuer's back.
	identity func(w way) string  // Nil: a good one.

	code, reason string // Empty code: what the way calls a bad identity. Empty reason: as alone.
}

// TestGrantsAndFactors walks every grant that mints: with both factors it gives
// a token, and with one of them spoilt it gives none, says why in OAuth's words,
// and leaves exactly one record.
func TestGrantsAndFactors(t *testing.T) {
	h, other := startHouse(t, grantEdits...), startHouse(t, grantEdits...)
	s, foreign := h.keyStore(), other.keyStore()
	const life, day = 200 * 24 * time.Hour, 24 * time.Hour
	good := func(w way) wielded { return h.enrolFor(s, w, life, h.now()) }
	into := func(state policy.State) func(wielded) {
		return func(k wielded) {
			if _, err := s.Update(t.Context(), k.ID, 0, func(k *policy.Key) error { k.State = state; return nil }, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	situations := []situation{
		{name: "key alone", identity: func(way) string { return "" }},
		{name: "identity alone", key: func(way) wielded { return wielded{} }, code: "invalid_client", reason: "key_missing"},
		{name: "a key of another issuer", key: func(w way) wielded { return other.enrolFor(foreign, w, life, h.now()) }, code: "invalid_client", reason: "key_unknown"},
		{name: "somebody else's identity", identity: func(w way) string { return h.prove(w, "grace") }, reason: "key_not_bound"},
		{name: "expired", key: func(w way) wielded { return h.enrolFor(s, w, time.Hour, h.now().Add(-time.Hour)) }, code: "unauthorized_client", reason: "key_not_active"},
		{name: "overdue for rotation", key: func(w way) wielded { return h.enrolFor(s, w, life, h.now().Add(-91*day)) }, code: "unauthorized_client", reason: "rotation_overdue"},
		{name: "disabled", change: into(policy.Disabled), code: "unauthorized_client", reason: "key_not_active"},
		{name: "quarantined", change: into(policy.Quarantined), code: "unauthorized_client", reason: "key_not_active"},
		{name: "revoked", change: into(policy.Revoked), code: "invalid_client", reason: "key_unknown"},
		{name: "deleted", change: into(policy.Deleted), code: "invalid_client", reason: "key_unknown"},
		{name: "rotated out", change: func(k wielded) { h.rotateOut(s, k) }, code: "invalid_client", reason: "key_unknown"},
	}
	for _, w := range ways() {
		for _, method := range w.methods {
			t.Run(w.name+"/"+method, func(t *testing.T) {
				h.during(t)
				use := func(k wielded, user string) *http.Request {
					return h.clientRequest("/token", method, k, w.form(h.prove(w, user)))
				}
				h.mints("due for rotation, within the grace", w, use(h.enrolFor(s, w, life, h.now().Add(-90*day)), "ada"))
				for _, row := range situations {
					if row.identity != nil && w.alone() {
						continue
					}
					if row.key == nil {
						row.key = good
					}
					if row.identity == nil {
						row.identity = func(w way) string { return h.prove(w, "ada") }
					}
					code, reason := w.says(row)
					k := row.key(w)
					if row.change != nil {
						h.mints("before it is "+row.name, w, use(k, "ada")) // Now the issuer remembers it.
						row.change(k)
					}
					h.refuses(row.name, h.clientRequest("/token", method, k, w.form(row.identity(w))), code, reason)
					if row.change != nil {
						h.refuses(row.name+", again", use(k, "ada"), code, reason)
						k = good(w)
						row.change(k)
						h.refuses(row.name+", never seen before", use(k, "ada"), code, reason)
					}
				}
			})
		}
	}
}

// TestIdentitiesEnd: the day after, no identity of the day before gets a token.
func TestIdentitiesEnd(t *testing.T) {
	h := startHouse(t, grantEdits...)
	s := h.keyStore()
	type factors struct {
		w        way
		method   string
		k        wielded
		identity string
	}
	var list []factors
	for _, w := range ways() {
		for _, method := range w.methods {
			if !w.alone() {
				list = append(list, factors{w, method, h.enrolFor(s, w, 48*time.Hour, h.now()), h.prove(w, "ada")})
			}
		}
	}
	h.pass(13 * time.Hour)
	h.restartIssuer() // What it knows of its providers is as old.
	k := h.makeKey(nil, time.Hour)
	h.await("the forge to be known again", func() bool {
		status, _ := h.post("/token", k.Secret, exchangeForm(h.forge.sign(h.forge.good(h.now()), nil)))
		return status == http.StatusOK
	})
	for _, f := range list {
		reason := "identity"
		if strings.HasPrefix(f.w.name, "refresh_token") {
			reason = "session"
		}
		h.refuses(f.w.name+"/"+f.method, h.clientRequest("/token", f.method, f.k, f.w.form(f.identity)), f.w.bad, reason)
	}
}

// TestCapExpiry: where the configuration says so, no token outlives the provider's
// word for it, by whichever grant.
func TestCapExpiry(t *testing.T) {
	h := startHouse(t, "  - name: forge\n", "  - name: forge\n    client_id: hourpass\n    client_secret: s\n    cap_expiry: true\n")
	k := h.makeKey(nil, 2*time.Hour)
	word := func() claims { return h.forge.good(h.now()) } // Five minutes long.
	answer := func(c claims, more ...string) map[string]any {
		a := map[string]any{"access_token": "opaque", "token_type": "Bearer", "id_token": h.forge.sign(c.with(claims{"aud": "hourpass"}), nil)}
		for _, refresh := range more {
			a["refresh_token"] = refresh
		}
		return a
	}
	logIn := func(more ...string) login {
		h.forge.login = func(nonce string) map[string]any { return answer(word().with(claims{"nonce": nonce}), more...) }
		verifier := oauth2.GenerateVerifier()
		back, err := h.browserTo(strings.Replace(h.authorizeURL(verifier), "provider=corp", "provider=forge", 1), "", "")
		if err != nil {
			t.Fatal(err)
		}
		var l login
		h.mustPost("/token", "", url.Values{
			"grant_type": {"authorization_code"}, "client_id": {"hourpass-cli"}, "code": {back.Query().Get("code")},
			"redirect_uri": {cliRedirect}, "code_verifier": {verifier},
		}, &l)
		return l
	}
	capped := func(why string, least, most int, form url.Values) tokens {
		t.Helper()
		var tok tokens
		h.mustPost("/token", k.Secret, form, &tok)
		if tok.ExpiresIn < least || tok.ExpiresIn > most {
			t.Errorf("%s: the token lives %d s, want %d to %d", why, tok.ExpiresIn, least, most)
		}
		return tok
	}
	capped("token-exchange", 298, 300, exchangeForm(h.forge.sign(word(), nil)))
	capped("jwt-bearer", 298, 300, bearerForm(h.forge.sign(word(), nil)))
	capped("client_credentials", 298, 300, besideForm(h.forge.sign(word(), nil)))

	h.forge.refresh = func() map[string]any { return answer(word(), "r2") }
	l := logIn("r1")
	h.pass(10 * time.Minute) // The first word is over; the provider gives another.
	capped("refresh_token of who is asked again", 298, 300, refreshForm(l.Refresh))

	l = logIn() // No refresh token: nobody can be asked again.
	h.pass(4 * time.Minute)
	tok := capped("refresh_token of who can't be asked", 50, 60, refreshForm(l.Refresh))
	h.pass(time.Minute)
	h.refused("when the word is over", k.Secret, refreshForm(tok.Refresh), "invalid_grant", "session")
}
