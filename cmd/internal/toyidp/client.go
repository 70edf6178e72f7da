package toyidp

import (
	"net/url"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// client shows a [Client] to the library.
type client struct {
	cfg    Client
	issuer string
}

var _ op.Client = client{}

func (c client) GetID() string                    { return c.cfg.ID }
func (c client) RedirectURIs() []string           { return c.cfg.RedirectURIs }
func (c client) PostLogoutRedirectURIs() []string { return nil }
func (c client) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}
func (c client) IDTokenLifetime() time.Duration { return idTokenLife }
func (c client) DevMode() bool                  { return false }
func (c client) IsScopeAllowed(string) bool     { return false } // None beyond the standard ones.
func (c client) ClockSkew() time.Duration       { return 0 }

// ApplicationType is web for public clients too: to the library a native client
// may come back to any loopback port, and ours are exact.
func (c client) ApplicationType() op.ApplicationType { return op.ApplicationTypeWeb }

// AuthMethod names basic for all who have a secret; the library then takes the
// secret in the form just as well.
func (c client) AuthMethod() oidc.AuthMethod {
	if c.cfg.Secret == "" {
		return oidc.AuthMethodNone
	}
	return oidc.AuthMethodBasic
}

func (c client) GrantTypes() []oidc.GrantType {
	if c.cfg.Service {
		return []oidc.GrantType{oidc.GrantTypeClientCredentials}
	}
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
}

// AccessTokenType is a JWT for a service, whose token is its identity elsewhere,
// and opaque for a person, whose access token is for /userinfo alone and must
// not pass for an ID token.
func (c client) AccessTokenType() op.AccessTokenType {
	if c.cfg.Service {
		return op.AccessTokenTypeJWT
	}
	return op.AccessTokenTypeBearer
}

func (c client) LoginURL(login string) string {
	return c.issuer + "/login?id=" + url.QueryEscape(login)
}

// IDTokenUserinfoClaimsAssertion puts the claims of scope profile into the ID
// token, not only behind /userinfo.
func (c client) IDTokenUserinfoClaimsAssertion() bool { return true }

func (c client) RestrictAdditionalIdTokenScopes() func([]string) []string     { return same }
func (c client) RestrictAdditionalAccessTokenScopes() func([]string) []string { return same }

func same(scopes []string) []string { return scopes }
