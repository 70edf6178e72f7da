package verifier_test

import (
	"testing"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier"
)

// TestSeveralIssuers: each has keys, an audience and a ceiling of its own, though
// their kids be the same.
func TestSeveralIssuers(t *testing.T) {
	other := newKeys()
	h := newHouse(t, func(c *verifier.Config) {
		ceiling, err := token.NewScopes("chat:team/*", "embeddings:team/*")
		if err != nil {
			t.Fatal(err)
		}
		c.Issuers = append(c.Issuers, verifier.Issuer{URL: "https://other.test", Audience: "lab", Keys: other, Ceiling: ceiling})
	})
	of := func(iss, aud string) func(*token.Claims) {
		return func(c *token.Claims) { c.Issuer, c.Audience = iss, aud }
	}
	for _, row := range []struct {
		name, token, model string
		status             int
		code, reason       string
	}{
		{"the first", h.keys.token(), "small", 200, "", ""},
		{"the other", other.token(of("https://other.test", "lab"), scoped("chat:team/e5", "chat:small")), "team/e5", 200, "", ""},
		{"above the ceiling", other.token(of("https://other.test", "lab"), scoped("chat:team/e5", "chat:small")), "small", 403, "insufficient_scope", "scope"},
		{"the first's audience", other.token(of("https://other.test", "models")), "small", 401, "invalid_token", "aud"},
		{"by a key of the other", other.token(of("https://issuer.test", "models")), "small", 401, "invalid_token", "signature"},
		{"for the other, by a key of the first", h.keys.token(of("https://other.test", "lab")), "small", 401, "invalid_token", "signature"},
		{"a third", other.token(of("https://third.test", "lab")), "small", 401, "invalid_token", "iss"},
		{"no JSON", "e30.e3.e30", "small", 401, "invalid_token", "malformed"},
		{"no issuer", "e30.e30.e30", "small", 401, "invalid_token", "iss"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.in(t)
			r := h.good()
			r.header.Set("Authorization", "Bearer "+row.token)
			r.body = `{"model":"` + row.model + `"}`
			for _, again := range []string{"first", "from the cache"} {
				if row.status != 200 {
					h.refused(r, row.status, row.code, row.reason)
					continue
				}
				if got := h.send(r); got.status != 200 {
					t.Errorf("%s: %d %s", again, got.status, got.body)
				}
			}
			h.arrived()
		})
	}
	other.stale.Store(true)
	if got := h.send(h.good()); got.status != 200 {
		t.Errorf("with the other's keys stale: %d %s", got.status, got.body)
	}
}
