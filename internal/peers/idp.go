package peers

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// IdPConfig says who may log in at an [IdP], and for whom it speaks.
type IdPConfig struct {
	// Accounts are the people by login name, which is also their subject, with
	// their groups. Any password will do. The e-mail is NAME@example.org.
	Accounts map[string][]string

	Clients []IdPClient

	// TokenTTL is the life of ID tokens and access tokens; 0 is ten minutes.
	TokenTTL time.Duration
}

// IdPClient is a program that the provider knows.
type IdPClient struct {
	ID string

	// Secret makes the client confidential (client_secret_basic). A client
	// without one is a native program: it may also use the device grant, and a
	// redirect URI on 127.0.0.1 matches any port.
	Secret string

	// RedirectURIs make the client one that people log in with: code with PKCE,
	// and a rotating refresh token. A client without any is a service, and has
	// client credentials.
	RedirectURIs []string

	// Metadata sets further client metadata of OpenID registration, or others
	// than the above make: backchannel_logout_uri, grant_types, …
	Metadata map[string]any
}

// metadata is the client as dynamic registration would describe it.
func (c IdPClient) metadata() map[string]any {
	m := map[string]any{
		"client_id":      c.ID,
		"redirect_uris":  append([]string{}, c.RedirectURIs...),
		"response_types": []string{"code"},
		"grant_types":    []string{"authorization_code", "refresh_token"},
	}
	if c.Secret == "" {
		m["application_type"] = "native"
		m["token_endpoint_auth_method"] = "none"
		m["grant_types"] = []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"}
	} else {
		m["client_secret"] = c.Secret
	}
	if len(c.RedirectURIs) == 0 && c.Secret != "" {
		m["response_types"] = []string{}
		m["grant_types"] = []string{"client_credentials"}
	}
	for k, v := range c.Metadata {
		m[k] = v
	}
	return m
}

// IdP is a running oidc-provider, the certified OpenID provider of npm. It signs
// with ES256; its ID tokens carry groups (scope groups), e-mail (scope email)
// and auth_time, at each refresh too; it wants PKCE of everybody.
type IdP struct {
	// Issuer is the provider's issuer: http://localhost:PORT. For a browser
	// that is another site than 127.0.0.1.
	Issuer string

	t   testing.TB
	cfg IdPConfig
	p   *process
	mu  sync.Mutex // one question at a time
}

// StartOIDCProvider runs a provider until the test ends, and returns when it
// answers.
func StartOIDCProvider(t testing.TB, cfg IdPConfig) *IdP {
	t.Helper()
	binary, dir := node(t)
	// Not the test's context: clean-ups that run before the provider's may need it.
	cmd := exec.CommandContext(context.Background(), binary, "provider.mjs")
	cmd.Dir, cmd.Env = dir, nodeEnv(nil)
	idp := &IdP{t: t, cfg: cfg, p: start(t, "oidc-provider", cmd)}

	ttl, clients, accounts := cfg.TokenTTL, []map[string]any{}, map[string][]string{}
	if ttl == 0 {
		ttl = 10 * time.Minute
	}
	for _, c := range cfg.Clients {
		clients = append(clients, c.metadata())
	}
	for name, groups := range cfg.Accounts {
		accounts[name] = append([]string{}, groups...)
	}
	answer := idp.ask(map[string]any{"clients": clients, "accounts": accounts, "ttl": ttl.Seconds()})
	idp.Issuer = answer.Issuer
	idp.awaitDiscovery()
	return idp
}

// Disable makes the account a leaver's: its logins and refreshes fail.
func (p *IdP) Disable(account string) {
	p.t.Helper()
	p.ask(map[string]any{"do": "disable", "name": account})
}

// Enable undoes [IdP.Disable].
func (p *IdP) Enable(account string) {
	p.t.Helper()
	p.ask(map[string]any{"do": "enable", "name": account})
}

// SetGroups gives the account these groups, from its next login or refresh on.
// An account that did not exist does from now on.
func (p *IdP) SetGroups(account string, groups ...string) {
	p.t.Helper()
	p.ask(map[string]any{"do": "account", "name": account, "groups": append([]string{}, groups...)})
}

// RotateKeys makes the provider sign with a new key. The old keys stay in its
// key set if keepOld, as in a planned rotation.
func (p *IdP) RotateKeys(keepOld bool) {
	p.t.Helper()
	p.ask(map[string]any{"do": "rotate", "keepOld": keepOld})
}

// Stop ends the provider before the test does: an outage.
func (p *IdP) Stop() { p.p.stop() }

// ClientCredentials returns a service's JWT access token (RFC 9068) whose
// audience is the given one, of any form.
func (p *IdP) ClientCredentials(clientID, audience string) string {
	p.t.Helper()
	var client IdPClient
	for _, c := range p.cfg.Clients {
		if c.ID == clientID {
			client = c
		}
	}
	resource := audience
	if u, err := url.Parse(audience); err != nil || !u.IsAbs() {
		resource = "urn:audience:" + url.PathEscape(audience) // provider.mjs takes it off again
	}
	form := url.Values{"grant_type": {"client_credentials"}, "resource": {resource}}
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.Issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(client.ID), url.QueryEscape(client.Secret))
	body, err := fetch(req)
	if err != nil {
		p.t.Fatalf("asking oidc-provider for the token of client %q: %v", clientID, err)
	}
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &token); err != nil {
		p.t.Fatalf("reading oidc-provider's token: %v", err)
	}
	return token.AccessToken
}

type idpAnswer struct{ Issuer string }

func (p *IdP) ask(command map[string]any) idpAnswer {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	line, err := json.Marshal(command)
	if err != nil {
		p.t.Fatal(err)
	}
	var answer idpAnswer
	if text := p.p.ask(p.t, line); json.Unmarshal([]byte(text), &answer) != nil {
		p.t.Fatalf("oidc-provider answered %q, want JSON", text)
	}
	return answer
}

// awaitDiscovery asks for the discovery document until it comes.
func (p *IdP) awaitDiscovery() {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.Issuer+"/.well-known/openid-configuration", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		_, err := fetch(req)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("oidc-provider is not ready: %v", err)
		}
	}
}

// fetch returns the body of a 200 answer.
func fetch(req *http.Request) ([]byte, error) {
	// No connection outlives the request, nor the test its provider.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, nil
}
