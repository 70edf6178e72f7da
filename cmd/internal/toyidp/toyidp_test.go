package toyidp_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// TestLogin is the whole story: authorize, log in, redeem, refresh.
func TestLogin(t *testing.T) {
	tests := []struct {
		name, client, secret string
		style                oauth2.AuthStyle
		basic                bool
	}{
		{name: "confidential client with basic, login form", client: "hourpass", secret: "broker-secret", style: oauth2.AuthStyleInHeader},
		{name: "confidential client with post, login form", client: "hourpass", secret: "broker-secret", style: oauth2.AuthStyleInParams},
		{name: "public client, login form", client: "cli", style: oauth2.AuthStyleInParams},
		{name: "public client, integrated sign-on", client: "cli", style: oauth2.AuthStyleInParams, basic: true},
	}
	c := start(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rp := c.client(test.client, test.secret)
			rp.Endpoint.AuthStyle = test.style
			verifier := oauth2.GenerateVerifier()
			at := rp.AuthCodeURL("the state", oidc.Nonce("the nonce"), oauth2.S256ChallengeOption(verifier))

			var back url.Values
			if test.basic {
				_, _, back = byBasic(t, newBrowser(t), at, ada.Username, ada.Password)
			} else {
				_, _, back = c.byForm(t, newBrowser(t), at, ada.Username, ada.Password)
			}
			if back.Get("state") != "the state" {
				t.Fatalf("called back with %v, want the state", back)
			}
			token, err := rp.Exchange(t.Context(), back.Get("code"), oauth2.VerifierOption(verifier))
			if err != nil {
				t.Fatal(err)
			}

			first := c.idToken(t, test.client, token)
			if first.Issuer != c.issuer || first.Subject != ada.Subject || first.Nonce != "the nonce" || first.Name != ada.Name ||
				!slices.Equal(first.Groups, ada.Groups) || first.AuthTime == 0 || first.Expires <= first.Issued {
				t.Errorf("ID token = %+v", first)
			}

			info, err := c.oidc.UserInfo(t.Context(), oauth2.StaticTokenSource(token))
			if err != nil || info.Subject != ada.Subject {
				t.Errorf("UserInfo = %+v, %v", info, err)
			}

			again, err := refresh(t, rp, token.RefreshToken)
			if err != nil {
				t.Fatal(err)
			}
			second := c.idToken(t, test.client, again)
			if second.Subject != first.Subject || second.AuthTime != first.AuthTime || !slices.Equal(second.Groups, first.Groups) {
				t.Errorf("refreshed ID token = %+v, want who and when of %+v", second, first)
			}
			if again.RefreshToken == token.RefreshToken {
				t.Error("the refresh token was not rotated")
			}
		})
	}
}

// TestNoGroups: the claim is there, and empty, for a user without groups.
func TestNoGroups(t *testing.T) {
	c := start(t)
	rp, verifier := c.client("cli", ""), oauth2.GenerateVerifier()
	_, _, back := byBasic(t, newBrowser(t), rp.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)), "bob", "builder")
	token, err := rp.Exchange(t.Context(), back.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.idToken(t, "cli", token); got.Groups == nil || len(got.Groups) != 0 {
		t.Errorf("groups = %#v, want []", got.Groups)
	}
}

// TestWrongCredentials shows the page again, and the right ones still work on it.
func TestWrongCredentials(t *testing.T) {
	c := start(t)
	b := newBrowser(t)
	at := c.client("cli", "").AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier()))
	for _, test := range []struct{ name, username, password string }{
		{"wrong password", "ada", "babbage"},
		{"no password", "ada", ""},
		{"somebody else's password", "ada", "builder"},
		{"unknown user", "eve", "lovelace"},
		{"unknown user without password", "eve", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for how, login := range map[string]func() (int, string, url.Values){
				"form":  func() (int, string, url.Values) { return c.byForm(t, b, at, test.username, test.password) },
				"basic": func() (int, string, url.Values) { return byBasic(t, b, at, test.username, test.password) },
			} {
				status, body, back := login()
				if status != http.StatusUnauthorized || back != nil || !strings.Contains(body, "do not go together") || !hidden.MatchString(body) {
					t.Errorf("%s: %d, called back with %v, want 401 and the page again:\n%s", how, status, back, body)
				}
				if test.password != "" && strings.Contains(body, test.password) {
					t.Errorf("%s: the page repeats the password", how)
				}
			}
		})
	}
	if _, _, back := c.byForm(t, b, at, "ada", "lovelace"); back.Get("code") == "" {
		t.Errorf("afterwards, with the right password: called back with %v", back)
	}
}

// TestDisable: a leaver is out everywhere, whatever they had under way.
func TestDisable(t *testing.T) {
	c := start(t)
	rp, verifier := c.client("cli", ""), oauth2.GenerateVerifier()
	at := rp.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier))
	token := c.login(t)
	_, _, back := byBasic(t, newBrowser(t), at, "ada", "lovelace")

	if c.Disable("nobody") {
		t.Error(`Disable("nobody") = true`)
	}
	if _, err := c.oidc.UserInfo(t.Context(), oauth2.StaticTokenSource(token)); err != nil {
		t.Fatal(err)
	}
	if !c.Disable("ada") {
		t.Error(`Disable("ada") = false`)
	}

	if status, _, _ := c.byForm(t, newBrowser(t), at, "ada", "lovelace"); status != http.StatusUnauthorized {
		t.Errorf("login by form: %d, want 401", status)
	}
	if status, _, _ := byBasic(t, newBrowser(t), at, "ada", "lovelace"); status != http.StatusUnauthorized {
		t.Errorf("login by basic: %d, want 401", status)
	}
	_, err := refresh(t, rp, token.RefreshToken)
	wantCode(t, err, "invalid_grant")
	_, err = rp.Exchange(t.Context(), back.Get("code"), oauth2.VerifierOption(verifier))
	wantCode(t, err, "invalid_grant")
	if _, err := c.oidc.UserInfo(t.Context(), oauth2.StaticTokenSource(token)); err == nil {
		t.Error("user info is still told")
	}
	if _, _, back := byBasic(t, newBrowser(t), at, "bob", "builder"); back.Get("code") == "" {
		t.Error("Bob, who stays, can't log in")
	}
}

// TestShortCut: the way back to the client is closed until somebody has logged
// in, and after one code.
func TestShortCut(t *testing.T) {
	c := start(t)
	b := newBrowser(t)
	_, body, _ := b.get(t, c.client("cli", "").AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier())))
	id := hidden.FindStringSubmatch(body)[1]
	shortCut := c.issuer + "/authorize/callback?id=" + id
	if _, _, back := b.get(t, shortCut); back.Get("code") != "" || back.Get("error") != "interaction_required" {
		t.Errorf("before the login: called back with %v", back)
	}
	if _, _, back := byBasic(t, b, c.issuer+"/login?id="+id, "ada", "lovelace"); back.Get("code") == "" {
		t.Fatalf("login: called back with %v", back)
	}
	if status, _, back := b.get(t, shortCut); status != http.StatusBadRequest || back != nil {
		t.Errorf("after the code: %d, called back with %v, want 400", status, back)
	}
}

func TestCodeReuse(t *testing.T) {
	c := start(t)
	rp, verifier := c.client("cli", ""), oauth2.GenerateVerifier()
	_, _, back := byBasic(t, newBrowser(t), rp.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)), "ada", "lovelace")
	redeem := func(ctx context.Context) error {
		_, err := rp.Exchange(ctx, back.Get("code"), oauth2.VerifierOption(verifier))
		return err
	}
	if err := redeem(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCode(t, redeem(t.Context()), "invalid_grant")
}

// TestRefreshReuse: an old refresh token ends the session for whoever holds the
// new one as well.
func TestRefreshReuse(t *testing.T) {
	c := start(t)
	rp := c.client("cli", "")
	first := c.login(t)
	second, err := refresh(t, rp, first.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	_, err = refresh(t, rp, first.RefreshToken)
	wantCode(t, err, "invalid_grant")
	_, err = refresh(t, rp, second.RefreshToken)
	wantCode(t, err, "invalid_grant")
}

// TestRefreshRace: of many refreshes with one token at most one succeeds.
func TestRefreshRace(t *testing.T) {
	c := start(t)
	rp := c.client("cli", "")
	token := c.login(t)
	results := make(chan error)
	for range 8 {
		go func() {
			_, err := refresh(t, rp, token.RefreshToken)
			results <- err
		}()
	}
	won := 0
	for range 8 {
		if err := <-results; err == nil {
			won++
		}
	}
	if won > 1 {
		t.Errorf("%d of 8 refreshes with one token succeeded, want at most 1", won)
	}
}

func TestRevoke(t *testing.T) {
	c := start(t)
	token := c.login(t)
	status, body, _ := newBrowser(t).do(t, request(t, http.MethodPost, c.issuer+"/revoke", url.Values{"client_id": {"cli"}, "token": {token.RefreshToken}}))
	if status != http.StatusOK {
		t.Fatalf("/revoke: %d %s", status, body)
	}
	_, err := refresh(t, c.client("cli", ""), token.RefreshToken)
	wantCode(t, err, "invalid_grant")
}

// TestService: a service's own token is a JWT for the configured audience.
func TestService(t *testing.T) {
	c := start(t)
	ask := func(id, secret string) (*oauth2.Token, error) {
		return (&clientcredentials.Config{ClientID: id, ClientSecret: secret, TokenURL: c.oidc.Endpoint().TokenURL}).Token(t.Context())
	}
	token, err := ask("ci", "ci-secret")
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.oidc.Verifier(&oidc.Config{ClientID: audience, SupportedSigningAlgs: []string{oidc.ES256}}).Verify(t.Context(), token.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	if id.Subject != "ci" || !slices.Equal(id.Audience, []string{audience}) {
		t.Errorf("service token of %q for %q, want ci for %s", id.Subject, id.Audience, audience)
	}

	_, err = ask("ci", "guess")
	wantCode(t, err, "invalid_client")
	_, err = ask("cli", "")
	wantCode(t, err, "invalid_client")
	_, err = ask("hourpass", "broker-secret")
	wantCode(t, err, "unauthorized_client")
}

// TestDiscovery holds the documents to what relying parties of ours need.
func TestDiscovery(t *testing.T) {
	c := start(t)
	var doc struct {
		Algs    []string `json:"id_token_signing_alg_values_supported"`
		PKCE    []string `json:"code_challenge_methods_supported"`
		Types   []string `json:"response_types_supported"`
		Grants  []string `json:"grant_types_supported"`
		Device  string   `json:"device_authorization_endpoint"`
		Claims  []string `json:"claims_supported"`
		KeysURL string   `json:"jwks_uri"`
	}
	if err := c.oidc.Claims(&doc); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(doc.Algs, []string{"ES256"}) || !slices.Equal(doc.PKCE, []string{"S256"}) || !slices.Contains(doc.Claims, "groups") ||
		!slices.Equal(doc.Types, []string{"code"}) || !slices.Equal(doc.Grants, []string{"authorization_code", "refresh_token", "client_credentials"}) ||
		doc.Device != "" {
		t.Errorf("discovery = %+v", doc)
	}
	_, body, _ := newBrowser(t).get(t, doc.KeysURL)
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal([]byte(body), &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 1 || set.Keys[0]["alg"] != "ES256" || set.Keys[0]["use"] != "sig" || set.Keys[0]["d"] != nil {
		t.Errorf("key set = %s, want one public ES256 key", body)
	}
}
