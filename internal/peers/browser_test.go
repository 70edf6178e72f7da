package peers_test

import (
	"context"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/hourpass/hourpass/internal/peers"
)

// webApp is a small relying party on x/oauth2 and go-oidc, which a person logs
// in to with a browser.
type webApp struct {
	*httptest.Server
	oauth    oauth2.Config
	verifier *oidc.IDTokenVerifier
	logins   chan *oauth2.Token
}

// newWebApp listens at once, for its redirect URI, and works once connected to
// a provider.
func newWebApp(t *testing.T, clientID, secret string) *webApp {
	t.Helper()
	app := &webApp{logins: make(chan *oauth2.Token, 1)}
	pkce := oauth2.GenerateVerifier()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, app.oauth.AuthCodeURL("the-state", oauth2.S256ChallengeOption(pkce), oidc.Nonce("the-nonce")), http.StatusFound)
	})
	mux.HandleFunc("GET /callback", func(w http.ResponseWriter, r *http.Request) {
		token, err := app.oauth.Exchange(r.Context(), r.FormValue("code"), oauth2.VerifierOption(pkce))
		if err != nil || r.FormValue("state") != "the-state" {
			http.Error(w, fmt.Sprintf("no login: %v %v", r.URL.Query(), err), http.StatusBadRequest)
			return
		}
		app.logins <- token
		_, _ = fmt.Fprint(w, "<h1>Logged in</h1>")
	})
	app.Server = httptest.NewServer(mux)
	t.Cleanup(app.Close)
	app.oauth = oauth2.Config{
		ClientID: clientID, ClientSecret: secret, RedirectURL: app.URL + "/callback",
		Scopes: []string{"openid", "email", "groups", "offline_access"},
	}
	return app
}

func (app *webApp) connect(t *testing.T, issuer string) {
	t.Helper()
	provider, err := oidc.NewProvider(t.Context(), issuer)
	if err != nil {
		t.Fatal(err)
	}
	app.oauth.Endpoint = provider.Endpoint()
	app.verifier = provider.Verifier(&oidc.Config{ClientID: app.oauth.ClientID, SupportedSigningAlgs: []string{"ES256"}})
}

type identity struct {
	Subject  string   `json:"sub"`
	Email    string   `json:"email"`
	Groups   []string `json:"groups"`
	AuthTime int64    `json:"auth_time"`
}

// identity verifies the ID token that came with token.
func (app *webApp) identity(t *testing.T, token *oauth2.Token) identity {
	t.Helper()
	raw, _ := token.Extra("id_token").(string)
	idToken, err := app.verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatalf("verifying the ID token %q: %v", raw, err)
	}
	var id identity
	if err := idToken.Claims(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

func (app *webApp) refresh(ctx context.Context, refreshToken string) (*oauth2.Token, error) {
	return app.oauth.TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken}).Token()
}

// wantInvalidGrant fails unless the provider refused the grant.
func wantInvalidGrant(t *testing.T, what string, err error) {
	t.Helper()
	var refusal *oauth2.RetrieveError
	if !errors.As(err, &refusal) || refusal.ErrorCode != "invalid_grant" {
		t.Errorf("%s: %v, want invalid_grant", what, err)
	}
}

// TestLoginInABrowser is the story of a day: alice logs in through the
// provider's own pages, her session is refreshed, her groups change, she leaves.
func TestLoginInABrowser(t *testing.T) {
	app := newWebApp(t, "web", "web secret: 100%")
	idp := peers.StartOIDCProvider(t, peers.IdPConfig{
		Accounts: map[string][]string{"alice": {"hr", "vpn"}},
		Clients:  []peers.IdPClient{{ID: "web", Secret: "web secret: 100%", RedirectURIs: []string{app.URL + "/callback"}}},
	})
	app.connect(t, idp.Issuer)

	before := time.Now().Add(-time.Second)
	page := peers.NewBrowser(t).LoginOIDC(app.URL+"/login", "alice", app.URL+"/callback")
	if page.Text != "Logged in" {
		t.Fatalf("LoginOIDC(alice) ends at %s, which says %q, want %q", page.URL, page.Text, "Logged in")
	}
	token := <-app.logins
	id := app.identity(t, token)
	if id.Subject != "alice" || id.Email != "alice@example.org" || strings.Join(id.Groups, " ") != "hr vpn" {
		t.Errorf("the ID token names %+v, want alice of hr and vpn", id)
	}
	if at := time.Unix(id.AuthTime, 0); at.Before(before) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("auth_time = %v, want now", at)
	}

	idp.SetGroups("alice", "vpn")
	next, err := app.refresh(t.Context(), token.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	if next.RefreshToken == token.RefreshToken || next.RefreshToken == "" {
		t.Errorf("refreshing gave the refresh token %q, want another than before", next.RefreshToken)
	}
	refreshed := app.identity(t, next)
	if strings.Join(refreshed.Groups, " ") != "vpn" || refreshed.AuthTime != id.AuthTime {
		t.Errorf("the refreshed ID token names %+v, want only the group vpn and auth_time %d", refreshed, id.AuthTime)
	}

	idp.RotateKeys(true)
	next, err = app.refresh(t.Context(), next.RefreshToken)
	if err != nil {
		t.Fatalf("refreshing after the keys were rotated: %v", err)
	}

	idp.Disable("alice")
	_, err = app.refresh(t.Context(), next.RefreshToken)
	wantInvalidGrant(t, "refreshing for a leaver", err)
	idp.Enable("alice")
	next, err = app.refresh(t.Context(), next.RefreshToken)
	if err != nil {
		t.Fatalf("refreshing for one who came back: %v", err)
	}

	_, err = app.refresh(t.Context(), token.RefreshToken)
	wantInvalidGrant(t, "refreshing with a spent refresh token", err)
	_, err = app.refresh(t.Context(), next.RefreshToken)
	wantInvalidGrant(t, "refreshing after the theft of a refresh token", err)
}

// TestStrangersAndLeaversStayOut: the browser comes back from the provider, but
// with no code that is worth a token.
func TestStrangersAndLeaversStayOut(t *testing.T) {
	app := newWebApp(t, "web", "secret")
	idp := peers.StartOIDCProvider(t, peers.IdPConfig{
		Accounts: map[string][]string{"leaver": nil},
		Clients:  []peers.IdPClient{{ID: "web", Secret: "secret", RedirectURIs: []string{app.URL + "/callback"}}},
	})
	app.connect(t, idp.Issuer)
	idp.Disable("leaver")
	for _, account := range []string{"stranger", "leaver"} {
		page := peers.NewBrowser(t).LoginOIDC(app.URL+"/login", account, app.URL+"/callback")
		if !strings.HasPrefix(page.Text, "no login") {
			t.Errorf("LoginOIDC(%s) ends at %s, which says %q, want no login", account, page.URL, page.Text)
		}
	}
}

// TestNativeClient logs in with a client that has no secret, at a redirect URI
// with a port that was not registered.
func TestNativeClient(t *testing.T) {
	app := newWebApp(t, "cli", "")
	idp := peers.StartOIDCProvider(t, peers.IdPConfig{
		Accounts: map[string][]string{"bob": nil},
		Clients:  []peers.IdPClient{{ID: "cli", RedirectURIs: []string{"http://127.0.0.1/callback"}}},
	})
	app.connect(t, idp.Issuer)
	peers.NewBrowser(t).LoginOIDC(app.URL+"/login", "bob", app.URL+"/callback")
	if id := app.identity(t, <-app.logins); id.Subject != "bob" || len(id.Groups) != 0 {
		t.Errorf("the ID token names %+v, want bob without groups", id)
	}
}

// TestPKCEIsWanted: a client that forgets PKCE is sent back, so that a test
// notices.
func TestPKCEIsWanted(t *testing.T) {
	app := newWebApp(t, "web", "secret")
	idp := peers.StartOIDCProvider(t, peers.IdPConfig{
		Clients: []peers.IdPClient{{ID: "web", Secret: "secret", RedirectURIs: []string{app.URL + "/callback"}}},
	})
	app.connect(t, idp.Issuer)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, app.oauth.AuthCodeURL("the-state"), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if at, err := resp.Location(); err != nil || at.Query().Get("error") != "invalid_request" {
		t.Errorf("a request without PKCE goes to %v (%v), want an invalid_request at the callback", at, err)
	}
}

// TestPlainForm walks a login form of the plainest kind, which a script guards
// as pages do: only typed text enables the button.
func TestPlainForm(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /start", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/form", http.StatusFound)
	})
	mux.HandleFunc("GET /form", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `<!doctype html><form method="post"><input id="username" name="u" value="nobody"><input id="password" name="p" type="password">
			<button id="login" disabled>Log in</button></form>
			<script>password.oninput = () => login.disabled = false</script>`)
	})
	mux.HandleFunc("POST /form", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "who", Value: r.FormValue("u") + "/" + r.FormValue("p")})
		http.Redirect(w, r, "/home?from=form", http.StatusSeeOther)
	})
	mux.HandleFunc("GET /home", func(w http.ResponseWriter, r *http.Request) {
		who, _ := r.Cookie("who")
		_, _ = fmt.Fprintf(w, `<!doctype html><p>Hello %s</p><p style="display: none">hidden</p>`, html.EscapeString(who.Value))
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()

	b := peers.NewBrowser(t)
	b.Open(srv.URL + "/form")
	b.Fill("#username", "")
	b.Fill("#password", "x")
	b.Click("#login")
	if got := b.WaitURL(srv.URL + "/home").Text; got != "Hello /x" {
		t.Errorf("after an emptied field the page says %q, want %q", got, "Hello /x")
	}
	got := b.LoginForm(srv.URL+"/start", "alice", "s3cret", srv.URL+"/home")
	if want := (peers.Page{URL: srv.URL + "/home?from=form", Text: "Hello alice/s3cret"}); got != want {
		t.Errorf("LoginForm = %+v, want %+v", got, want)
	}
	b.Open(srv.URL + "/form")
	b.Fill("#password", "x")
	b.Click("#login")
	if got := b.WaitText("Hello nobody").URL; got != srv.URL+"/home?from=form" {
		t.Errorf("WaitText ends at %s, want the home page", got)
	}
	shot := filepath.Join(t.TempDir(), "home.png")
	b.Screenshot(shot)
	if data, err := os.ReadFile(shot); err != nil || http.DetectContentType(data) != "image/png" {
		t.Errorf("Screenshot wrote %d bytes (%v), want a PNG", len(data), err)
	}
}
