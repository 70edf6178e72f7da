package toyidp_test

import (
	"net/http"
	"net/url"
	"testing"

	"golang.org/x/oauth2"
)

// TestRefusedAuthorization starts from a good request and spoils one thing a row.
func TestRefusedAuthorization(t *testing.T) {
	c := start(t)
	good := func() url.Values {
		return url.Values{
			"client_id": {"cli"}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"openid"}, "state": {"s"},
			"code_challenge": {oauth2.S256ChallengeFromVerifier(oauth2.GenerateVerifier())}, "code_challenge_method": {"S256"},
		}
	}
	ask := func(q url.Values) (int, string, url.Values) {
		return newBrowser(t).get(t, c.oidc.Endpoint().AuthURL+"?"+q.Encode())
	}
	if status, body, _ := ask(good()); status != http.StatusOK || !hidden.MatchString(body) {
		t.Fatalf("the good request: %d\n%s", status, body)
	}
	for _, test := range []struct {
		name, parameter, value string
		want                   string // The error the client is told. Empty: the browser is not sent there.
	}{
		{"other redirect path", "redirect_uri", callback + "/x", ""},
		{"other redirect port", "redirect_uri", "http://127.0.0.1:5556/callback", ""},
		{"redirect to localhost", "redirect_uri", "http://localhost:5555/callback", ""},
		{"redirect elsewhere", "redirect_uri", "https://evil.example/callback", ""},
		{"no redirect", "redirect_uri", "", ""},
		{"unknown client", "client_id", "eve", ""},
		{"service client", "client_id", "ci", ""},
		{"public client without PKCE", "code_challenge", "", "invalid_request"},
		{"PKCE plain", "code_challenge_method", "plain", "invalid_request"},
		{"PKCE without method", "code_challenge_method", "", "invalid_request"},
		{"implicit", "response_type", "id_token token", ""},
		{"no openid", "scope", "profile", "invalid_scope"},
		{"silent", "prompt", "none", "login_required"},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := good()
			q.Set(test.parameter, test.value)
			status, body, back := ask(q)
			if test.want == "" && (status != http.StatusBadRequest || back != nil) {
				t.Errorf("%d, called back with %v, want 400 and no redirect\n%s", status, back, body)
			}
			if got := back.Get("error"); got != test.want {
				t.Errorf("error = %q, want %q", got, test.want)
			}
		})
	}
}

// TestRefusedCode starts from a good code and spoils one thing a row.
func TestRefusedCode(t *testing.T) {
	c := start(t)
	for _, test := range []struct {
		name  string
		spoil func(rp *oauth2.Config, verifier *string)
		want  string
	}{
		{"wrong verifier", func(_ *oauth2.Config, v *string) { *v = oauth2.GenerateVerifier() }, "invalid_grant"},
		{"no verifier", func(_ *oauth2.Config, v *string) { *v = "" }, "invalid_request"},
		{"wrong secret", func(rp *oauth2.Config, _ *string) { rp.ClientSecret = "guess" }, "invalid_client"},
		{"no secret", func(rp *oauth2.Config, _ *string) { rp.ClientSecret = "" }, "invalid_client"},
		{"somebody else's code", func(rp *oauth2.Config, _ *string) { rp.ClientID, rp.ClientSecret = "cli", "" }, "invalid_grant"},
		{"unknown client", func(rp *oauth2.Config, _ *string) { rp.ClientID = "eve" }, "invalid_client"},
		{"other redirect", func(rp *oauth2.Config, _ *string) { rp.RedirectURL += "/x" }, "invalid_grant"},
	} {
		t.Run(test.name, func(t *testing.T) {
			rp, verifier := c.client("hourpass", "broker-secret"), oauth2.GenerateVerifier()
			rp.Endpoint.AuthStyle = oauth2.AuthStyleInParams
			_, _, back := byBasic(t, newBrowser(t), rp.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)), "ada", "lovelace")
			right, rightVerifier := *rp, verifier
			test.spoil(rp, &verifier)
			_, err := rp.Exchange(t.Context(), back.Get("code"), oauth2.VerifierOption(verifier))
			wantCode(t, err, test.want)

			_, err = right.Exchange(t.Context(), back.Get("code"), oauth2.VerifierOption(rightVerifier))
			wantCode(t, err, "invalid_grant") // One guess a code.
		})
	}
}
