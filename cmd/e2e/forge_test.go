package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// forge is an identity provider whose tokens say whatever a test wants, honestly
// signed. It is a provider's words, not its behaviour, that are forged.
type forge struct {
	url string
	key *ecdsa.PrivateKey
	t   *testing.T

	// login is what the token endpoint answers for a browser login that was begun
	// with that nonce; refresh is its answer to a refresh token.
	login   func(nonce string) map[string]any
	refresh func() map[string]any
}

const forgeKeyID = "forge-1"

func newForge(t *testing.T) *forge {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &forge{key: key, t: t}
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	f.url = srv.URL
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": f.url, "jwks_uri": f.url + "/keys", "authorization_endpoint": f.url + "/a", "token_endpoint": f.url + "/t",
			"id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	// Whoever comes to log in is sent back at once; the code is the nonce.
	mux.HandleFunc("GET /a", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {q.Get("nonce")}, "state": {q.Get("state")}}.Encode(), http.StatusFound)
	})
	mux.HandleFunc("POST /t", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.FormValue("grant_type") == "refresh_token" {
			_ = json.NewEncoder(w).Encode(f.refresh())
			return
		}
		_ = json.NewEncoder(w).Encode(f.login(r.FormValue("code")))
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: forgeKeyID, Algorithm: "ES256", Use: "sig"}}})
	})
	return f
}

type claims map[string]any

// good is what an identity token of ada says that an exchange accepts.
func (f *forge) good(now time.Time) claims {
	return claims{
		"iss": f.url, "sub": "ada", "aud": "tools", "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
		"auth_time": now.Unix(), "jti": rand.Text(), "groups": []string{"faq-users"},
	}
}

// with returns the claims, changed; a nil value deletes.
func (c claims) with(changes claims) claims {
	c = maps.Clone(c)
	for name, v := range changes {
		if v == nil {
			delete(c, name)
		} else {
			c[name] = v
		}
	}
	return c
}

// sign signs a token, as typ "JWT" unless headers say otherwise.
func (f *forge) sign(c claims, headers map[string]any) string {
	f.t.Helper()
	payload, err := json.Marshal(c)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.signRaw(payload, f.key, headers)
}

func (f *forge) signRaw(payload []byte, key *ecdsa.PrivateKey, headers map[string]any) string {
	f.t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", forgeKeyID)
	for name, v := range headers {
		options.WithHeader(jose.HeaderKey(name), v)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, options)
	if err != nil {
		f.t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		f.t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		f.t.Fatal(err)
	}
	return compact
}

// serveDiscovery is an identity provider at addr of which only the metadata and
// an empty login are of interest.
func serveDiscovery(t *testing.T, addr string) {
	t.Helper()
	base := "http://" + addr
	serveAt(t, addr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": base, "jwks_uri": base + "/keys", "authorization_endpoint": base + "/a", "token_endpoint": base + "/t",
		})
	}))
}

func listenAt(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
