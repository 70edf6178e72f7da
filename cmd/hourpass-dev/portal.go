package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"golang.org/x/oauth2"
)

// portal stands in for the programs of people: it logs whoever asks in and shows
// what the login yielded, so that one curl line can stand for a browser.
//
//	/login     logs in at the issuer, as "hourpass login" does, and shows the
//	           login's access token
//	/identity  logs in at the identity provider, as any application does, and
//	           shows the ID token
type portal struct {
	issuer, idp oauth2.Config

	mu      sync.Mutex
	pending map[string]string // The PKCE verifier by state.
}

// maxPending bounds the logins on their way.
const maxPending = 100

func newPortal(t *twin) http.Handler {
	p := &portal{
		pending: map[string]string{},
		issuer: oauth2.Config{ClientID: "hourpass-cli", RedirectURL: t.portal + "/callback", Endpoint: oauth2.Endpoint{
			AuthURL: t.issuer + "/authorize", TokenURL: t.issuer + "/token", AuthStyle: oauth2.AuthStyleInParams,
		}},
		idp: oauth2.Config{ClientID: "portal", RedirectURL: t.portal + "/identity/callback", Scopes: []string{"openid", "groups"}},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", p.begin(&p.issuer))
	mux.HandleFunc("GET /callback", p.finish(&p.issuer, func(tok *oauth2.Token) string { return tok.AccessToken }))
	discover := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if err := p.discover(r.Context(), t.idp); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			h(w, r)
		}
	}
	mux.HandleFunc("GET /identity", discover(p.begin(&p.idp)))
	mux.HandleFunc("GET /identity/callback", p.finish(&p.idp, func(tok *oauth2.Token) string {
		id, _ := tok.Extra("id_token").(string)
		return id
	}))
	return mux
}

// discover finds the identity provider's endpoints, once.
func (p *portal) discover(ctx context.Context, issuer string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idp.Endpoint.AuthURL != "" {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, issuer+"/.well-known/openid-configuration", nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	var found struct {
		Auth  string `json:"authorization_endpoint"`
		Token string `json:"token_endpoint"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&found); err != nil {
		return err
	}
	p.idp.Endpoint = oauth2.Endpoint{AuthURL: found.Auth, TokenURL: found.Token, AuthStyle: oauth2.AuthStyleInParams}
	return nil
}

func (p *portal) begin(conf *oauth2.Config) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		state, verifier := rand.Text(), oauth2.GenerateVerifier()
		p.mu.Lock()
		if len(p.pending) >= maxPending {
			clear(p.pending)
		}
		p.pending[state] = verifier
		p.mu.Unlock()
		http.SetCookie(w, &http.Cookie{Name: "portal", Value: state, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode}) //nolint:gosec // Loopback, without TLS.
		http.Redirect(w, r, conf.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier)), http.StatusSeeOther)
	}
}

func (p *portal) finish(conf *oauth2.Config, show func(*oauth2.Token) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token, err := p.redeem(r, conf)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = fmt.Fprintln(w, show(token))
	}
}

func (p *portal) redeem(r *http.Request, conf *oauth2.Config) (*oauth2.Token, error) {
	state := r.URL.Query().Get("state")
	if cookie, err := r.Cookie("portal"); err != nil || cookie.Value != state {
		return nil, errors.New("this login was started in another browser")
	}
	p.mu.Lock()
	verifier, ok := p.pending[state]
	delete(p.pending, state)
	p.mu.Unlock()
	if !ok {
		return nil, errors.New("this login is not known here")
	}
	return conf.Exchange(r.Context(), r.URL.Query().Get("code"), oauth2.VerifierOption(verifier))
}
