// Package toyidp is the corporate identity provider of the local demo: a few
// users and clients in memory, on a real OpenID provider library (zitadel/oidc),
// so that what logs in here would log in elsewhere.
//
// It owns who the demo's users are, their passwords and the login page. It
// knows nothing of keys, scopes or models; to the issuer it is a stranger with a
// discovery document. It is made for loopback and refuses any other address.
// Start reading at [New]; the login page is in login.go, what the library asks
// us to remember in storage.go.
package toyidp

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// maxBody bounds the body of every request, in bytes. The largest honest one is
// a token request.
const maxBody = 64 << 10

// Provider is a running identity provider. Below its issuer it serves
//
//	GET      /.well-known/openid-configuration
//	GET      /keys            the key set, ES256 only
//	GET      /authorize       authorization code with PKCE S256, and nothing else
//	GET,POST /login?id=…      the login page; GET takes HTTP Basic credentials too
//	POST     /oauth/token     authorization_code, refresh_token, client_credentials
//	GET,POST /userinfo
//	POST     /revoke, /oauth/introspect
//	GET,POST /end_session
//	GET      /healthz, /ready
//
// An ID token names groups, auth_time and amr, also after a refresh.
type Provider struct {
	handler  http.Handler
	users    *directory
	store    *storage
	callback func(ctx context.Context, login string) string // Where the browser goes once its user is known.
	log      *slog.Logger
}

// New returns a provider with a fresh signing key, or every problem of cfg at
// once. It starts nothing.
func New(cfg Config) (*Provider, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("configuring the toy identity provider:\n%w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	signer, err := newSigner()
	if err != nil {
		return nil, fmt.Errorf("making a signing key: %w", err)
	}
	p := &Provider{users: newDirectory(cfg.Users), log: cfg.Log}
	p.store = newStorage(cfg, p.users, signer)

	settings := &op.Config{
		CodeMethodS256:           true,
		AuthMethodPost:           true,
		GrantTypeRefreshToken:    true,
		DefaultLogoutRedirectURI: cfg.Issuer + "/login",
		SupportedScopes:          []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeOfflineAccess},
		SupportedClaims:          []string{"iss", "sub", "aud", "azp", "exp", "iat", "auth_time", "amr", "nonce", "name", "preferred_username", "groups"},
	}
	rand.Read(settings.CryptoKey[:]) // Never fails (crypto/rand). Seals codes and access tokens until we stop.
	library, err := op.NewProvider(settings, p.store, op.StaticIssuer(cfg.Issuer),
		op.WithAllowInsecure(),  // Plain HTTP: cfg.check has seen that it is loopback.
		op.WithCORSOptions(nil)) // The library's default lets every web page read our answers.
	if err != nil {
		return nil, fmt.Errorf("starting the provider library: %w", err)
	}
	toCallback := op.AuthCallbackURL(library)
	p.callback = func(ctx context.Context, login string) string {
		return toCallback(op.ContextWithIssuer(ctx, cfg.Issuer), login)
	}

	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", p.showLogin)
	mux.HandleFunc("POST /login", p.takeLogin)
	mux.HandleFunc("GET "+oidc.DiscoveryEndpoint, func(w http.ResponseWriter, r *http.Request) {
		op.Discover(w, p.discovery(op.ContextWithIssuer(r.Context(), cfg.Issuer), library))
	})
	mux.Handle("/", library)
	p.handler = http.MaxBytesHandler(mux, maxBody)
	return p, nil
}

// discovery is the library's document without what its clients here can't have.
func (p *Provider) discovery(ctx context.Context, library *op.Provider) *oidc.DiscoveryConfiguration {
	doc := op.CreateDiscoveryConfig(ctx, library, p.store)
	doc.ResponseTypesSupported = []string{string(oidc.ResponseTypeCode)}
	doc.GrantTypesSupported = []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken, oidc.GrantTypeClientCredentials}
	doc.DeviceAuthorizationEndpoint = ""
	return doc
}

// ServeHTTP serves the URLs listed at [Provider].
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handler.ServeHTTP(w, r) }

// Disable makes username a leaver: from now on their logins, refreshes, codes
// under way and user info are refused. ID tokens already handed out live on
// until they expire, as they would anywhere. It reports whether there is such a
// user.
func (p *Provider) Disable(username string) bool {
	known := p.users.disable(username)
	p.log.Info("user disabled", slog.Bool("known", known))
	return known
}
