package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAuditVerifies: "hourpass audit verify" takes what issuer and verifier
// write, held against the key set that the issuer publishes, while they run.
func TestAuditVerifies(t *testing.T) {
	h := startHouse(t)
	k := h.makeKey(nil, time.Hour)
	status, _ := h.post("/token", k.Secret, exchangeForm(h.forge.sign(h.forge.good(h.now()), nil)))
	if status != http.StatusOK {
		t.Fatalf("exchange: %d", status)
	}
	h.call("", "faq-bot")
	h.await("the call's record", func() bool { return len(h.records("verifier")) == 1 })
	_, keySet := h.send(h.request(http.MethodGet, "/jwks.json", "", ""))
	path := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(path, keySet, 0o600); err != nil {
		t.Fatal(err)
	}
	ada := person{t, t.TempDir()}
	signed := ada.types("audit", "verify", "--jwks", path, filepath.Join(h.dir, "issuer-audit.jsonl"))
	for _, want := range []string{"good         1 record, lines 1 to ", `written by ["hourpass-issuer"]`, "; trusted)"} {
		if !strings.Contains(signed, want) {
			t.Errorf("the issuer's log: no %q in\n%s", want, signed)
		}
	}
	if chained := ada.types("audit", "verify", filepath.Join(h.dir, "verifier-audit.jsonl")); !strings.Contains(chained, "good         1 record, lines 1 to 2") {
		t.Errorf("the verifier's log:\n%s", chained)
	}
}
