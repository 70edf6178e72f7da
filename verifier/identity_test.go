package verifier_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier"
)

// TestCacheIdentity: a verifier that remembers tokens decides as one that
// remembers none, about whatever tokens, in whatever order, while the keys
// change and time goes by.
func TestCacheIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, c := newKeys(), &clock{}
		build := func(size int, ttl time.Duration) http.Handler {
			v, err := verifier.New(verifier.Config{
				Issuers: []verifier.Issuer{{URL: "https://issuer.test", Audience: "models", Keys: k}}, CacheSize: size, CacheTTL: ttl, Now: c.now,
			})
			if err != nil {
				t.Fatal(err)
			}
			return v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				claims, _ := verifier.FromContext(r.Context())
				_, _ = fmt.Fprint(w, claims.ID, claims.Scope, claims.IP)
			}))
		}
		// The cache is small, so that entries come and go.
		cached, plain := build(3, time.Minute), build(1, time.Nanosecond)

		models := []string{"small", "large"}
		mint := rapid.Custom(func(t *rapid.T) string {
			model := rapid.SampledFrom(models).Draw(t, "scope")
			life := time.Duration(rapid.IntRange(1, 5).Draw(t, "minutes")) * time.Minute
			now := c.now().Truncate(time.Second)
			return k.token(scoped("chat:"+model), func(c *token.Claims) {
				c.ID = rapid.SampledFrom([]string{"same", "other"}).Draw(t, "jti")
				c.IssuedAt, c.NotBefore, c.Expires = now, now, now.Add(life)
			})
		})
		tokens := []string{mint.Draw(t, "token")}
		ask := func(raw, model string) {
			var got [2]string
			for i, handler := range []http.Handler{cached, plain} {
				w := record(handler, newRequest("POST", "/v1/chat/completions", `{"model":"`+model+`"}`, raw))
				got[i] = fmt.Sprint(w.Code, w.Header().Get("WWW-Authenticate"))
				if w.Code == http.StatusOK {
					got[i] += w.Body.String()
				}
			}
			if got[0] != got[1] {
				t.Fatalf("with a cache %s, without %s", got[0], got[1])
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"a new token": func(t *rapid.T) { tokens = append(tokens, mint.Draw(t, "token")) },
			"a call": func(t *rapid.T) {
				ask(rapid.SampledFrom(tokens).Draw(t, "token"), rapid.SampledFrom(models).Draw(t, "model"))
			},
			"a call by a token that was tampered with": func(t *rapid.T) {
				raw := []byte(rapid.SampledFrom(tokens).Draw(t, "token"))
				raw[rapid.IntRange(0, len(raw)-1).Draw(t, "at")] = rapid.SampledFrom([]byte("Aa0_-.")).Draw(t, "byte")
				ask(string(raw), rapid.SampledFrom(models).Draw(t, "model"))
			},
			"a call by two tokens in one": func(t *rapid.T) {
				a, b := rapid.SampledFrom(tokens).Draw(t, "a"), rapid.SampledFrom(tokens).Draw(t, "b")
				cut := rapid.IntRange(0, min(len(a), len(b))).Draw(t, "cut")
				ask(a[:cut]+b[cut:], rapid.SampledFrom(models).Draw(t, "model"))
			},
			"time goes by":     func(t *rapid.T) { c.pass(time.Duration(rapid.IntRange(1, 70).Draw(t, "seconds")) * time.Second) },
			"time is set back": func(*rapid.T) { c.pass(-time.Second) },
			"the keys change": func(*rapid.T) {
				k.private = newKeys().private
				k.generation.Add(1)
			},
			"the keys get stale":   func(*rapid.T) { k.stale.Store(true) },
			"the keys are fetched": func(*rapid.T) { k.stale.Store(false) },
		})
	})
}
