package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/hourpass/hourpass/internal/peers"
)

// answer is what a client that nobody here wrote makes of an answer: of a token
// endpoint's, of an introspection, or of a refusal.
type answer struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	Issued    string `json:"issued_token_type"`
	Scope     string `json:"scope"`
	ExpiresIn int    `json:"expires_in"`

	Active  bool              `json:"active"`
	Subject string            `json:"sub"`
	Client  string            `json:"client_id"`
	Actor   map[string]string `json:"act"`

	Error       string `json:"error"`
	Status      int    `json:"status"`
	Challenge   string `json:"challenge"`
	Description string `json:"description"`
}

// TestNodeClients: openid-client, which is certified, and oauth4webapi, which
// holds each answer to its RFC, walk every grant with the machine key as what
// they know already.
func TestNodeClients(t *testing.T) {
	for _, script := range []string{"openid-client.mjs", "oauth4webapi.mjs"} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			h := startHouse(t, grantEdits...)
			s, now := h.keyStore(), h.now()
			corp := way{identity: "corp", methods: bySecret}
			key, alone := h.enrolFor(s, corp, time.Hour, now), h.enrolFor(s, way{methods: bySecret}, time.Hour, now)
			signs := h.enrolFor(s, way{identity: "forge", methods: signed}, time.Hour, now)
			gateway := h.verifierKey("models")
			credentials := func(k wielded) string { return string(mustJSON(map[string]string{"id": k.ID, "secret": k.Secret})) }
			identities := []string{h.idToken("ada", "lovelace"), h.forge.sign(h.forge.good(now), nil), h.idToken("ada", "lovelace")}
			env := map[string]string{
				"ISSUER": h.issuer, "CLI": "hourpass-cli", "REDIRECT_URI": cliRedirect, "PROVIDER": "corp", "SCOPE": "chat:faq-bot", "RESOURCE_AUDIENCE": "models",
				"KEY": credentials(key), "ALONE": credentials(alone), "VERIFIER": credentials(gateway), "IDENTITIES": string(mustJSON(identities)),
				"SIGNED": string(mustJSON(map[string]any{"id": signs.ID, "jwk": jose.JSONWebKey{Key: signs.private, KeyID: forgeKeyID, Algorithm: "ES256", Use: "sig"}})),
			}
			begun := peers.RunNode(t, script, env)
			var b struct {
				URL    string `json:"authorization_url"`
				Device deviceCode
				Early  answer
			}
			if err := json.Unmarshal([]byte(begun), &b); err != nil {
				t.Fatalf("%s: %v", begun, err)
			}
			if b.Early.Error != "authorization_pending" && script == "oauth4webapi.mjs" {
				t.Errorf("a poll before anybody confirmed: %+v", b.Early)
			}
			back, err := h.browserTo(b.URL, "ada", "lovelace")
			if err != nil {
				t.Fatal(err)
			}
			v := h.newVisitor("ada", "lovelace")
			v.enter(b.Device)
			v.answer("approve")
			v.ends("approved", http.StatusOK, "Logged in")

			env["BEGUN"], env["BACK"] = begun, back.String()
			var out map[string]json.RawMessage
			text := peers.RunNode(t, script, env)
			if err := json.Unmarshal([]byte(text), &out); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			of := func(step string) (a answer) {
				_ = json.Unmarshal(out[step], &a)
				return a
			}
			for _, step := range []string{"login", "device"} {
				if a := of(step); !strings.HasPrefix(a.Access, "hpl_") || !strings.HasPrefix(a.Refresh, "hpr_") {
					t.Errorf("%s: %s", step, out[step])
				}
			}
			for step, lives := range map[string]int{
				"refresh": 3600, "refresh_device": 3600, "exchange": 3600, "bearer": 3600, "beside": 3600, "alone": 900, "narrow": 3600,
			} {
				a := of(step)
				if a.ExpiresIn < lives-60 || a.ExpiresIn > lives || (a.Issued == typeAccess) != (step == "exchange" || step == "narrow") || strings.HasPrefix(step, "refresh") != (a.Refresh != "") {
					t.Errorf("%s: %s", step, out[step])
					continue
				}
				if step == "narrow" {
					continue // It was given back.
				}
				if status, body := h.call(a.Access, "faq-bot"); status != http.StatusOK {
					t.Errorf("a call with the token of %s: %d %s", step, status, body)
				}
			}
			for _, step := range []string{"refresh_device", "exchange", "narrow"} {
				if of(step).Scope != "chat:faq-bot" {
					t.Errorf("%s has the scope %q", step, of(step).Scope)
				}
			}
			if a := of("introspection"); !a.Active || a.Subject != "corp:ada" || a.Client != key.ID || a.Actor["sub"] != signs.ID {
				t.Errorf("introspection: %s", out["introspection"])
			}
			if script == "oauth4webapi.mjs" {
				if a := of("resource"); a.Subject != "corp:ada" || a.Client != key.ID {
					t.Errorf("as an access token of RFC 9068: %s", out["resource"])
				}
			}
			for _, step := range []string{"revocation", "logout"} {
				if string(out[step]) != `"revoked"` {
					t.Errorf("%s: %s", step, out[step])
				}
			}
			if string(out["revoked"]) != `{"active":false}` {
				t.Errorf("introspection after the revocation: %s", out["revoked"])
			}
			for step, code := range map[string]string{"logged_out": "invalid_grant", "wrong_scope": "invalid_scope"} {
				if a := of(step); a.Error != code || a.Status != http.StatusBadRequest {
					t.Errorf("%s: %s, want %s", step, out[step], code)
				}
			}
			// A challenge is an error of its own to these clients.
			if a := of("wrong_secret"); a.Status != http.StatusUnauthorized || a.Error != "OAUTH_WWW_AUTHENTICATE_CHALLENGE" || script == "oauth4webapi.mjs" && a.Challenge != "basic" {
				t.Errorf("a wrong secret: %s", out["wrong_secret"])
			}
		})
	}
}

// TestGoClients: golang.org/x/oauth2 and go-oidc, as they come.
func TestGoClients(t *testing.T) {
	h := startHouse(t, grantEdits...)
	s, now := h.keyStore(), h.now()
	key := h.enrolFor(s, way{identity: "corp", methods: bySecret}, time.Hour, now)
	provider, err := oidc.NewProvider(t.Context(), h.issuer)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := provider.Endpoint()
	if endpoint.AuthURL != h.issuer+"/authorize" || endpoint.TokenURL != h.issuer+"/token" || endpoint.DeviceAuthURL != h.issuer+"/device_authorization" {
		t.Errorf("discovery finds %+v", endpoint)
	}
	cli := oauth2.Config{ClientID: "hourpass-cli", RedirectURL: cliRedirect, Endpoint: endpoint}

	// A device waits while the rest goes on.
	device, err := cli.DeviceAuth(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v := h.newVisitor("ada", "lovelace")
	v.open(device.VerificationURIComplete)
	v.submit("/device", url.Values{"user_code": {device.UserCode}, "provider": {"corp"}})
	v.answer("approve")
	v.ends("approved", http.StatusOK, "Logged in")
	type polled struct {
		*oauth2.Token
		error
	}
	devices := make(chan polled, 1)
	go func() {
		tok, err := cli.DeviceAccessToken(context.Background(), device)
		devices <- polled{tok, err}
	}()

	verifier := oauth2.GenerateVerifier()
	back, err := h.browserTo(cli.AuthCodeURL("the-state", oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("provider", "corp")), "ada", "lovelace")
	if err != nil {
		t.Fatal(err)
	}
	login, err := cli.Exchange(t.Context(), back.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	for name, style := range map[string]oauth2.AuthStyle{"found out": oauth2.AuthStyleAutoDetect, "in the header": oauth2.AuthStyleInHeader, "in the form": oauth2.AuthStyleInParams} {
		e := endpoint
		e.AuthStyle = style
		refresher := oauth2.Config{ClientID: key.ID, ClientSecret: key.Secret, Endpoint: e}
		tok, err := refresher.TokenSource(t.Context(), &oauth2.Token{RefreshToken: login.RefreshToken}).Token()
		if err != nil {
			t.Fatalf("refreshing, the key %s: %v", name, err)
		}
		login = tok
		exchange := clientcredentials.Config{
			ClientID: key.ID, ClientSecret: key.Secret, TokenURL: e.TokenURL, AuthStyle: style, Scopes: []string{"chat:faq-bot", "embeddings:faq-bot"},
			EndpointParams: url.Values{"grant_type": {grantExchange}, "subject_token": {h.idToken("ada", "lovelace")}, "subject_token_type": {typeIDToken}},
		}
		swapped, err := exchange.Token(t.Context())
		if err != nil {
			t.Fatalf("an exchange, the key %s: %v", name, err)
		}
		for _, tok := range []*oauth2.Token{tok, swapped} {
			if status, body := h.call(tok.AccessToken, "faq-bot"); status != http.StatusOK || !strings.EqualFold(tok.Type(), "bearer") || time.Until(tok.Expiry) < 59*time.Minute {
				t.Errorf("a call, the key %s: %d %s", name, status, body)
			}
		}
	}
	alone := h.enrolFor(s, way{methods: bySecret}, time.Hour, now)
	lonely := clientcredentials.Config{ClientID: alone.ID, ClientSecret: alone.Secret, TokenURL: endpoint.TokenURL}
	if tok, err := lonely.Token(t.Context()); err != nil || time.Until(tok.Expiry) > 15*time.Minute {
		t.Errorf("client credentials of a key that needs no identity: %v, %v", tok, err)
	}
	if p := <-devices; p.error != nil || !strings.HasPrefix(p.RefreshToken, "hpr_") {
		t.Errorf("the device: %v, %v", p.Token, p.error)
	}
}
