package toyidp_test

import (
	"errors"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/hourpass/hourpass/cmd/internal/toyidp"
)

const (
	callback = "http://127.0.0.1:5555/callback"
	audience = "https://hourpass.example"
)

var ada = toyidp.User{Subject: "u-ada", Username: "ada", Password: "lovelace", Name: "Ada Lovelace", Groups: []string{"hr", "staff"}}

// configure is a good configuration for an issuer.
func configure(issuer string) toyidp.Config {
	return toyidp.Config{
		Issuer: issuer,
		Clients: []toyidp.Client{
			{ID: "hourpass", Secret: "broker-secret", RedirectURIs: []string{callback}},
			{ID: "cli", RedirectURIs: []string{callback}},
			{ID: "ci", Secret: "ci-secret", Service: true},
		},
		Users: []toyidp.User{
			ada,
			{Subject: "u-bob", Username: "bob", Password: "builder"},
		},
		ServiceAudience: audience,
	}
}

// corporation is a provider on a socket, and what a relying party keeps of it.
type corporation struct {
	*toyidp.Provider
	issuer string
	oidc   *oidc.Provider
}

func start(t *testing.T) corporation {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	issuer := "http://" + srv.Listener.Addr().String()
	p, err := toyidp.New(configure(issuer))
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = p
	srv.Start()
	t.Cleanup(srv.Close)
	discovered, err := oidc.NewProvider(t.Context(), issuer)
	if err != nil {
		t.Fatal(err)
	}
	return corporation{Provider: p, issuer: issuer, oidc: discovered}
}

// client is the relying party with that id.
func (c corporation) client(id, secret string) *oauth2.Config {
	return &oauth2.Config{
		ClientID: id, ClientSecret: secret, RedirectURL: callback, Endpoint: c.oidc.Endpoint(),
		Scopes: []string{oidc.ScopeOpenID, "profile", oidc.ScopeOfflineAccess},
	}
}

// claims is what the issuer relies on in an ID token.
type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience any      `json:"aud"`
	Expires  int64    `json:"exp"`
	Issued   int64    `json:"iat"`
	AuthTime int64    `json:"auth_time"`
	Nonce    string   `json:"nonce"`
	Name     string   `json:"name"`
	Groups   []string `json:"groups"`
}

// idToken verifies the ID token of an answer.
func (c corporation) idToken(t *testing.T, clientID string, token *oauth2.Token) claims {
	t.Helper()
	raw, _ := token.Extra("id_token").(string)
	id, err := c.oidc.Verifier(&oidc.Config{ClientID: clientID, SupportedSigningAlgs: []string{oidc.ES256}}).Verify(t.Context(), raw)
	if err != nil {
		t.Fatalf("verifying the ID token: %v", err)
	}
	if err := id.VerifyAccessToken(token.AccessToken); err != nil {
		t.Errorf("at_hash: %v", err)
	}
	var got claims
	if err := id.Claims(&got); err != nil {
		t.Fatal(err)
	}
	return got
}

// A browser follows redirects until one leads to the client.
type browser struct{ *http.Client }

func newBrowser(t *testing.T) browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return browser{&http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), callback) {
			return http.ErrUseLastResponse
		}
		return nil
	}}}
}

// do returns the status, the body, and the query that the client is called back
// with, if it is.
func (b browser) do(t *testing.T, r *http.Request) (status int, body string, back url.Values) {
	t.Helper()
	resp, err := b.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if at, err := resp.Location(); err == nil {
		back = at.Query()
	}
	return resp.StatusCode, string(raw), back
}

func (b browser) get(t *testing.T, at string) (int, string, url.Values) {
	t.Helper()
	return b.do(t, request(t, http.MethodGet, at, nil))
}

func request(t *testing.T, method, at string, form url.Values) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, at, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r
}

var hidden = regexp.MustCompile(`name="id" value="([^"]+)"`)

// byForm logs in through the page, as a person does.
func (c corporation) byForm(t *testing.T, b browser, at, username, password string) (int, string, url.Values) {
	t.Helper()
	status, body, _ := b.get(t, at)
	id := hidden.FindStringSubmatch(body)
	if status != http.StatusOK || id == nil {
		t.Fatalf("login page: %d\n%s", status, body)
	}
	return b.do(t, request(t, http.MethodPost, c.issuer+"/login", url.Values{
		"id": {html.UnescapeString(id[1])}, "username": {username}, "password": {password},
	}))
}

// byBasic logs in as curl -L -u does.
func byBasic(t *testing.T, b browser, at, username, password string) (int, string, url.Values) {
	t.Helper()
	r := request(t, http.MethodGet, at, nil)
	r.SetBasicAuth(username, password)
	return b.do(t, r)
}

// login logs Ada in at a public client and returns its tokens.
func (c corporation) login(t *testing.T) *oauth2.Token {
	t.Helper()
	rp, verifier := c.client("cli", ""), oauth2.GenerateVerifier()
	_, _, back := byBasic(t, newBrowser(t), rp.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)), ada.Username, ada.Password)
	token, err := rp.Exchange(t.Context(), back.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// refresh asks for new tokens with an old refresh token.
func refresh(t *testing.T, rp *oauth2.Config, refreshToken string) (*oauth2.Token, error) {
	t.Helper()
	return rp.TokenSource(t.Context(), &oauth2.Token{RefreshToken: refreshToken}).Token()
}

// wantCode fails the test unless err is the OAuth error of that code.
func wantCode(t *testing.T, err error, want string) {
	t.Helper()
	var got *oauth2.RetrieveError
	if !errors.As(err, &got) || got.ErrorCode != want {
		t.Errorf("error = %v, want %s", err, want)
	}
}
