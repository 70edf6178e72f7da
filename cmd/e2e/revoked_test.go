package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestRevokedInTime: a disabled key's live token opens nothing any more, two
// seconds after the answer at the latest, and other keys feel nothing.
func TestRevokedInTime(t *testing.T) {
	h := startHouse(t)
	l := h.logIn("ada", "lovelace")
	lost, kept := h.enrol(l, `{"grants":["faq"]}`), h.enrol(l, `{"grants":["faq"]}`)
	first := h.refresh(lost, l.Refresh)
	second := h.refresh(kept, first.Refresh)
	for range 2 { // Once from the cache.
		if status, body := h.call(first.Access, "faq-bot"); status != http.StatusOK {
			t.Fatalf("before: %d %s", status, body)
		}
	}
	if status, body := h.api(http.MethodPost, "/v1/keys/"+lost.ID+"/disable", l.Access, `{"reason":"lost laptop"}`); status != http.StatusOK {
		t.Fatalf("disabling: %d %s", status, body)
	}
	began := time.Now()
	h.await("the token to be refused", func() bool {
		status, body := h.call(first.Access, "faq-bot")
		return status == http.StatusUnauthorized && strings.Contains(string(body), "revoked")
	})
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if status, body := h.call(second.Access, "faq-bot"); status != http.StatusOK {
		t.Errorf("the other key: %d %s", status, body)
	}
	// What comes after is not revoked: the key is enabled again.
	if status, body := h.api(http.MethodPost, "/v1/keys/"+lost.ID+"/enable", l.Access, ``); status != http.StatusOK {
		t.Fatalf("enabling: %d %s", status, body)
	}
	h.pass(2 * time.Second)
	third := h.refresh(lost, second.Refresh)
	if status, body := h.call(third.Access, "faq-bot"); status != http.StatusOK {
		t.Errorf("after it was enabled: %d %s", status, body)
	}
}

// TestCutOff: a verifier that hears of no revocations for too long lets nobody
// in, and everybody again when it hears.
func TestCutOff(t *testing.T) {
	h := startHouse(t)
	k := h.makeKey(nil, 2*time.Hour)
	exchange := func() string {
		var tok tokens
		h.mustPost("/token", k.Secret, exchangeForm(h.forge.sign(h.forge.good(h.now()), nil)), &tok)
		return tok.Access
	}
	token := exchange()
	h.stop("issuer")
	if status, body := h.call(token, "faq-bot"); status != http.StatusOK {
		t.Fatalf("while the issuer is down: %d %s", status, body)
	}
	h.pass(11 * time.Minute)
	if status, body := h.call(token, "faq-bot"); status != http.StatusServiceUnavailable || !strings.Contains(string(body), "revocations_stale") {
		t.Errorf("after eleven minutes: %d %s", status, body)
	}
	if status, body := h.readyz(h.verifierOps); status != http.StatusServiceUnavailable || !strings.Contains(body, "revocations") {
		t.Errorf("its readiness: %d %s", status, body)
	}
	h.restartIssuer()
	h.awaitReady(h.verifierOps)
	if status, body := h.call(token, "faq-bot"); status != http.StatusOK {
		t.Errorf("when the issuer is back: %d %s", status, body)
	}
}
