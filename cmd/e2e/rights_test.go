package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// TestBindingsAreOnesOwn: people bind keys to themselves and to workloads, not to
// whoever has their name elsewhere, nor to strangers.
func TestBindingsAreOnesOwn(t *testing.T) {
	for why, row := range map[string]struct {
		forge, binding string
		want           int
	}{
		"a workload":                         {"", `{"issuer":%q,"subject":"robot"}`, 201},
		"somebody of the same name":          {"    client_id: hourpass\n    client_secret: s\n", `{"issuer":%q,"subject":"ada"}`, 403},
		"a workload anybody could have":      {"    shared: true\n    claims: {org: org, repo: repo}\n    require: {org: octo}\n", `{"issuer":%q,"subject":"","claims":{"repo":"~octo/.+"}}`, 400},
		"one workload of anybody's provider": {"    shared: true\n    claims: {org: org, repo: repo}\n    require: {org: octo}\n", `{"issuer":%q,"subject":"","claims":{"repo":"octo/one"}}`, 201},
		"a claim that is not mapped":         {"    claims: {repo: repo}\n", `{"issuer":%q,"subject":"robot","claims":{"email":"x"}}`, 400},
		"a provider that is not believed":    {"", `{"issuer":"https://evil.example","subject":"%.0sada"}`, 400},
	} {
		h := startHouse(t, "  - name: forge\n", "  - name: forge\n"+row.forge, "      - {provider: forge, groups: [faq-users]}\n", "")
		ada := h.logIn("ada", "lovelace")
		binding := fmt.Sprintf(row.binding, h.forge.url)
		if status, body := h.api(http.MethodPost, "/v1/keys", ada.Access, `{"grants":["faq"],"bindings":[`+binding+`]}`); status != row.want {
			t.Errorf("%s: %d %s, want %d", why, status, body, row.want)
		}
	}
}

// TestNotLiftedByTheWay: an owner who disables what is disabled by an admin, or in
// quarantine, can't enable it for that.
func TestNotLiftedByTheWay(t *testing.T) {
	h := startCompany(t)
	d := h.described()
	ada, grace := h.logIn("ada", "lovelace"), h.logIn("grace", "hopper")
	for state, stop := range map[string]func(key){
		"quarantined": func(k key) { h.reportLeak(t, `{"key":"`+k.Secret+`"}`) },
		"disabled":    func(k key) { d.ask(200, "POST", "/v1/keys/{id}/disable", grace.Access, `{"reason":"odd use"}`, k.ID) },
	} {
		k := h.enrol(ada, `{"grants":["faq"]}`)
		stop(k)
		before := h.stateOf(k.ID)
		d.ask(200, "POST", "/v1/keys/{id}/disable", ada.Access, `{"reason":"mine"}`, k.ID)
		d.ask(403, "POST", "/v1/keys/{id}/enable", ada.Access, "", k.ID)
		d.ask(200, "PATCH", "/v1/keys/{id}", ada.Access, `{"description":"mine"}`, k.ID)
		d.ask(200, "POST", "/v1/keys/{id}/rotate", ada.Access, `{"overlap":0}`, k.ID)
		d.ask(403, "POST", "/v1/keys/{id}/enable", ada.Access, "", k.ID)
		if got := h.stateOf(k.ID); string(got.State) != state || got.StateBy != before.StateBy || got.StateReason != before.StateReason {
			t.Errorf("%s by %s is now %s by %s: %s", state, before.StateBy, got.State, got.StateBy, got.StateReason)
		}
		d.ask(200, "POST", "/v1/keys/{id}/enable", grace.Access, "", k.ID)
	}
}

// TestAdminsAlone: what goes for everybody is an admin's to do, with a fresh login.
func TestAdminsAlone(t *testing.T) {
	h := startCompany(t)
	d := h.described()
	ada, eve, grace := h.logIn("ada", "lovelace"), h.logIn("eve", "dropper"), h.logIn("grace", "hopper")
	all := func(status int, who login, code string) {
		t.Helper()
		for _, a := range []map[string]any{
			d.ask(status, "POST", "/v1/revocations", who.Access, `{"what":"all","reason":"drill"}`),
			d.ask(status, "POST", "/v1/signing-keys/rotate", who.Access, ""),
			d.ask(status, "POST", "/v1/signing-keys/{kid}/taint", who.Access, "", "unknown"),
		} {
			if a["code"] != code {
				t.Errorf("the answer is %v, want %s", a, code)
			}
		}
	}
	all(403, ada, "access_denied")
	all(403, eve, "access_denied")
	h.pass(11 * time.Minute)
	all(401, grace, "insufficient_user_authentication")
	if n := h.count(`SELECT count(*) FROM revocations`); n != 0 {
		t.Errorf("%d revocations", n)
	}
}
