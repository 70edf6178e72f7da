package verifier_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier"
)

func assertionKeys(t *testing.T) *verifier.AssertionKeys {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := verifier.OpenAssertionKeys(path, "models")
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestUpstreamLearnsWhoCalls: from us, whatever the client says.
func TestUpstreamLearnsWhoCalls(t *testing.T) {
	keys := assertionKeys(t)
	h := newHouse(t, func(c *verifier.Config) {
		c.Upstreams[0].Headers = map[string]string{"X-Subject": "{sub}", "X-Team": "{team}", "X-Decision": "{decision}"}
		c.Upstreams[0].Assertions, c.Upstreams[0].Now = keys, c.Now
	})
	w := record(verifier.Ops(http.NotFoundHandler(), http.NotFoundHandler(), keys), newRequest("GET", "/jwks.json", "", ""))
	set, err := jwk.Parse(w.Body.Bytes())
	if err != nil || w.Header().Get("Content-Type") != "application/jwk-set+json" {
		t.Fatalf("the key set: %d %v %s, %v", w.Code, w.Header(), w.Body, err)
	}
	if w := record(verifier.Ops(http.NotFoundHandler(), http.NotFoundHandler(), nil), newRequest("GET", "/jwks.json", "", "")); w.Code != 404 {
		t.Errorf("a key set without keys: %d", w.Code)
	}
	r := h.good()
	r.header.Set("Authorization", "Bearer "+h.keys.token(func(c *token.Claims) { c.Subject, c.Team = "corp:ann smith", "" }))
	r.header.Set("X-Team", "admins")
	r.header.Set("X-Subject", "corp:root")
	r.header.Set("X-Hourpass-Assertion", "mine")
	list := h.good()
	list.method, list.target, list.body = "GET", "/v1/models", ""
	list.header = r.header.Clone()
	list.header.Del("Content-Type")
	h.answer(reply(200, "application/json", `{"object":"list","data":[]}`))
	for _, r := range []request{r, list} {
		if got := h.send(r); got.status != 200 {
			t.Fatalf("%s: %d %s", r.target, got.status, got.body)
		}
		records, arrived := h.records(), h.arrived()
		decision, header := records[len(records)-1].Decision, arrived[0].header
		if header["X-Team"] != nil || strings.Join(header["X-Subject"], "|") != "corp:ann%20smith" || header.Get("X-Decision") != decision {
			t.Errorf("%s: the upstream got %v", r.target, header)
		}
		payload, err := jws.Verify([]byte(strings.Join(header["X-Hourpass-Assertion"], "|")), jws.WithKeySet(set))
		if err != nil {
			t.Fatalf("%s: %v: %v", r.target, header, err)
		}
		var claims map[string]any
		if err := json.Unmarshal(payload, &claims); err != nil {
			t.Fatal(err)
		}
		model := any("small")
		if r.body == "" {
			model = nil
		}
		if claims["iss"] != "models" || claims["aud"] != "toy" || claims["sub"] != "corp:ann smith" || claims["jti"] != decision || claims["model"] != model || claims["team"] != nil {
			t.Errorf("%s: the assertion says %s", r.target, payload)
		}
		// It is no token here.
		again := h.good()
		again.header.Set("Authorization", "Bearer "+header.Get("X-Hourpass-Assertion"))
		if got := h.send(again); got.status != 401 {
			t.Errorf("an assertion as a token: %d", got.status)
		}
	}
}
