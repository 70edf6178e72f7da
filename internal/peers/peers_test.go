package peers_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/peers"
)

// verdict is what jose-verify.mjs prints.
type verdict struct {
	Header struct {
		Alg, Kid, Typ string
	}
	Payload struct {
		Sub, Aud  string
		ClientID  string `json:"client_id"`
		ExpiresAt int64  `json:"exp"`
		IssuedAt  int64  `json:"iat"`
	}
	Error *struct{ Code, Claim string }
}

func joseVerify(t *testing.T, idp *peers.IdP, audience, token string) verdict {
	t.Helper()
	out := peers.RunNode(t, "jose-verify.mjs", map[string]string{
		"JWKS_URL": idp.Issuer + "/jwks", "ISSUER": idp.Issuer, "AUDIENCE": audience, "TOKEN": token,
	})
	var v verdict
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("jose-verify.mjs printed %q: %v", out, err)
	}
	return v
}

func startServiceIdP(t *testing.T) *peers.IdP {
	t.Helper()
	return peers.StartOIDCProvider(t, peers.IdPConfig{
		Clients:  []peers.IdPClient{{ID: "ci-job", Secret: "secret/of+a job"}},
		TokenTTL: time.Minute,
	})
}

func TestClientCredentials(t *testing.T) {
	idp := startServiceIdP(t)
	for _, audience := range []string{"https://hourpass.example/", "hourpass", "a name/with spaces"} {
		v := joseVerify(t, idp, audience, idp.ClientCredentials("ci-job", audience))
		if v.Error != nil {
			t.Errorf("jose refuses the token for %q: %+v", audience, *v.Error)
			continue
		}
		if v.Header.Alg != "ES256" || v.Header.Typ != "at+jwt" || v.Payload.Sub != "ci-job" || v.Payload.ClientID != "ci-job" ||
			v.Payload.Aud != audience || v.Payload.ExpiresAt-v.Payload.IssuedAt != 60 {
			t.Errorf("ClientCredentials(ci-job, %s) = %+v, want an ES256 at+jwt of ci-job for a minute", audience, v)
		}
	}
	v := joseVerify(t, idp, "https://other.example/", idp.ClientCredentials("ci-job", "https://hourpass.example/"))
	if v.Error == nil || v.Error.Code != "ERR_JWT_CLAIM_VALIDATION_FAILED" || v.Error.Claim != "aud" {
		t.Errorf("jose on a token for another audience says %+v, want a refusal of aud", v)
	}
}

func TestRotateKeys(t *testing.T) {
	idp := startServiceIdP(t)
	oldest := idp.ClientCredentials("ci-job", "hourpass")
	idp.RotateKeys(true)
	older := idp.ClientCredentials("ci-job", "hourpass")
	first, second := joseVerify(t, idp, "hourpass", oldest), joseVerify(t, idp, "hourpass", older)
	if first.Error != nil || second.Error != nil || first.Header.Kid == second.Header.Kid {
		t.Errorf("after a planned rotation jose says %+v and %+v, want both good, with two keys", first, second)
	}
	idp.RotateKeys(false)
	if v := joseVerify(t, idp, "hourpass", older); v.Error == nil || v.Error.Code != "ERR_JWKS_NO_MATCHING_KEY" {
		t.Errorf("after the old keys are gone jose says %+v, want no matching key", v)
	}
	if v := joseVerify(t, idp, "hourpass", idp.ClientCredentials("ci-job", "hourpass")); v.Error != nil {
		t.Errorf("jose refuses the newest token: %+v", *v.Error)
	}
}

func TestStop(t *testing.T) {
	idp := startServiceIdP(t)
	idp.Stop()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, idp.Issuer+"/jwks", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		_ = resp.Body.Close()
		t.Errorf("a stopped provider answers %s, want no answer", resp.Status)
	}
}

// modelServer answers as OpenAI's API does, to one key.
func modelServer(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"object":"list","data":[{"id":"tiny","object":"model"},{"id":"faq-bot","object":"model"}]}`)
	})
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		var ask struct {
			Model  string
			Stream bool
		}
		_ = json.NewDecoder(r.Body).Decode(&ask)
		if !ask.Stream {
			_, _ = fmt.Fprintf(w, `{"model":%q,"choices":[{"index":0,"message":{"role":"assistant","content":"hello"}}],"usage":{"total_tokens":7}}`, ask.Model)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprint(w, `data: {"choices":[{"index":0,"delta":{"content":"hel"}}]}`+"\n\n"+
			`data: {"choices":[{"index":0,"delta":{"content":"lo"}}]}`+"\n\n"+
			`data: {"choices":[],"usage":{"total_tokens":9}}`+"\n\n"+"data: [DONE]\n\n")
	})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Request-Id", "req-1")
		if r.Header.Get("Authorization") != "Bearer good" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprint(w, `{"error":{"type":"authentication_error","code":"token_expired","param":null,"message":"Token expired."}}`)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv
}

func TestOpenAISDK(t *testing.T) {
	srv := modelServer(t)
	refused := `{"error":{"status":401,"code":"token_expired","message":"401 Token expired.","type":"authentication_error"}}`
	for _, tt := range []struct{ name, key, want string }{
		{"a good key", "good", `{"models":["tiny","faq-bot"],` +
			`"chat":{"model":"tiny","content":"hello","usage":{"total_tokens":7},"request_id":"req-1"},` +
			`"stream":{"content":"hello","chunks":3,"usage":{"total_tokens":9}}}`},
		{"an expired key", "old", `{"models":` + refused + `,"chat":` + refused + `,"stream":` + refused + `}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := peers.RunNode(t, "openai-sdk.mjs", map[string]string{
				"OPENAI_BASE_URL": srv.URL + "/v1", "OPENAI_API_KEY": tt.key, "MODEL": "tiny",
			})
			if got != tt.want+"\n" {
				t.Errorf("openai-sdk.mjs printed\n%swant\n%s", got, tt.want)
			}
		})
	}
}

// unlucky is a test that may fail.
type unlucky struct {
	testing.TB
	said string
}

func (u *unlucky) Fatalf(format string, args ...any) {
	u.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// TestMissingPeers: a peer that is not installed fails a test, in one line that
// says what to do.
func TestMissingPeers(t *testing.T) {
	elsewhere := t.TempDir()
	if err := os.WriteFile(filepath.Join(elsewhere, "go.mod"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(elsewhere)
	t.Setenv("PATH", elsewhere)
	for name, start := range map[string]func(testing.TB){
		"RunNode":           func(t testing.TB) { peers.RunNode(t, "jose-verify.mjs", nil) },
		"StartOIDCProvider": func(t testing.TB) { peers.StartOIDCProvider(t, peers.IdPConfig{}) },
		"NewBrowser":        func(t testing.TB) { peers.NewBrowser(t) },
	} {
		u, done := &unlucky{TB: t}, make(chan struct{})
		go func() {
			defer close(done)
			start(u)
		}()
		<-done
		const want = "run `make test` (it installs the test peers)"
		if !strings.HasSuffix(u.said, want) || strings.Contains(u.said, "\n") {
			t.Errorf("%s without its peer says %q, want one line that ends in %q", name, u.said, want)
		}
	}
}
