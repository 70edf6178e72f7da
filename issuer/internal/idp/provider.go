// Package idp is the issuer's side of identity providers: which are trusted and
// how far, what their tokens must say to prove an identity, and all talk with
// them.
//
// It knows nothing of machine keys, grants, our own tokens or HTTP requests.
// Types of providers are data, in presets.go.
//
// Start with [Config] and [New], then [Provider.Identify].
package idp

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// KeySource verifies signatures with a provider's keys.
type KeySource interface {
	// Run keeps the keys fresh until ctx ends.
	Run(ctx context.Context) error
	// Verify returns the payload of a compact JWS that one of the keys signed.
	Verify(compact string, now time.Time) ([]byte, error)
}

// A KeySpec says which keys to open, and for which tokens.
type KeySpec struct {
	URL               string       // Where the key set is published. Empty: Document is the set.
	Document          []byte       // A JWK Set.
	Client            *http.Client // To fetch with.
	Types, Algorithms []string     // That tokens may have in their header; a type of "" is none.
}

// Config says which identity provider to believe, and how far. Where the
// default is the type's, docs/identity-providers.md tells it.
type Config struct {
	// Name is short and never changes: it begins the "sub" of tokens.
	Name string

	// Type is one of [Types]. Empty is "oidc".
	Type string

	// Issuer is the provider's issuer URL, byte for byte as in its tokens: https,
	// or http on loopback; anything with a host where nothing is fetched from it.
	// Defaults to the type's where that has one.
	Issuer string

	// Tenant is the directory's id, for Entra alone; the issuer follows from it.
	Tenant string

	// TrustDomain is what the subjects' SPIFFE IDs begin with, for SPIFFE alone.
	// Without Issuer, the tokens' iss does not count.
	TrustDomain string

	// ClientID and ClientSecret are what the provider knows us by. Without a
	// ClientID there is no browser login at this provider.
	ClientID, ClientSecret string

	// Scopes are asked for at login besides "openid". Without "offline_access"
	// most providers give no refresh token, and a login then ends with its ID
	// token. Nil is the type's.
	Scopes []string

	// Audiences are the other clients whose ID tokens may be exchanged. A token
	// made for anybody else proves nothing to us (the confused deputy).
	Audiences []string

	// AuthorizedParties are further clients that may have asked for a token that
	// is for one of Audiences alone: its azp (OpenID Connect Core 1.0, section 2).
	AuthorizedParties []string

	// AccessTokens accepts access tokens that were made for one of Audiences too,
	// for providers that give a workload nothing else. Otherwise only what is
	// known for an ID token is accepted.
	AccessTokens bool

	// Algorithms and Types are what the header of identity tokens may say. A type
	// of "" accepts a header that names none. Nil is the type's.
	Algorithms, Types []string

	// MaxAge is how old an identity token may be, up to 24 hours. Zero is the
	// type's.
	MaxAge time.Duration

	// Skew is how far the provider's clock may run ahead, up to 5 minutes. It is
	// given to iat and nbf; none is given to exp. Zero is 30 seconds.
	Skew time.Duration

	// SubjectClaim names the claim that is the subject. It must be unique within
	// the issuer and never be given to anybody else. Empty is the type's.
	SubjectClaim string

	// GroupsClaim names the claim with the identity's groups, a list of texts.
	// Empty is the type's, which may be none.
	GroupsClaim string

	// Claims are copied into the identity, by a name of ours, for bindings and
	// rules to match: those of the type, and these. Each is named by its name in
	// the token or, within another claim, by a JSON Pointer (RFC 6901) such as
	// /kubernetes.io/namespace. At most policy.MaxClaims.
	Claims map[string]string

	// Require is what tokens must say: all of one of these. At a provider where
	// anybody can have an account, each must pin an id.
	Require []Requirement

	// Shared says that anybody can have an account at this provider. It is known
	// of those that the types know.
	Shared bool

	// CapExpiry ends our token no later than the identity token it was made for.
	CapExpiry bool

	// JWKSURL is where the provider publishes its keys. It is then not asked for
	// its metadata, and nobody can log in there.
	JWKSURL string

	// JWKS is the provider's key set. It is then not asked for anything.
	JWKS []byte

	// EndpointHosts are further hosts that the provider's metadata may point to,
	// besides its own and those known of its type. Any other is refused, so that
	// metadata can not lead us, and our client secret, elsewhere.
	EndpointHosts []string

	// Transport reaches the provider. Nil is a default one.
	Transport http.RoundTripper

	// OpenKeys makes the source for a key set.
	OpenKeys func(KeySpec) (KeySource, error)
}

// A Problem is one thing that is wrong with a [Config].
type Problem struct {
	Field string // As in the configuration file.
	Text  string // Holds no secret.
}

// Problems are all that is wrong with a [Config].
type Problems []Problem

func (p Problems) Error() string {
	var lines []string
	for _, problem := range p {
		lines = append(lines, problem.Field+": "+problem.Text)
	}
	return strings.Join(lines, "\n")
}

func (p *Problems) check(ok bool, field, format string, args ...any) {
	if !ok {
		*p = append(*p, Problem{field, fmt.Sprintf(format, args...)})
	}
}

// A Provider is an identity provider on the static list. It is safe for
// concurrent use.
type Provider struct {
	Config // With the type's defaults in place.

	preset    preset
	anyIssuer bool // What iss says does not count: the trust domain does.
	subject   claimPath
	groups    claimPath // Nil: there are none.
	claims    map[string]claimPath
	always    rule
	require   []rule // One of them must hold, if there are any.

	client *http.Client
	known  atomic.Pointer[discovered]
	err    atomic.Pointer[error] // Why it is not known.
}

// New checks c and returns the provider, or all that is wrong as
// [Problems]. It asks nobody yet.
func New(c Config) (*Provider, error) {
	var bad Problems
	if c.Type == "" {
		c.Type = typeOIDC
	}
	known, ok := presets[c.Type]
	if !ok {
		bad.check(false, "type", "want one of %s", strings.Join(Types(), ", "))
		return nil, bad
	}
	p := &Provider{Config: c, preset: known}
	p.anyIssuer = c.Type == typeSPIFFE && c.Issuer == ""
	p.setDefaults()
	p.checkIdentity(&bad)
	p.checkTrust(&bad)
	p.checkClaims(&bad)
	p.checkPins(&bad)
	p.checkKeys(&bad)
	if bad != nil {
		return nil, bad
	}
	p.connect(&bad)
	if bad != nil {
		return nil, bad
	}
	return p, nil
}

func (p *Provider) setDefaults() {
	c := &p.Config
	orDefault(&c.Issuer, p.preset.issuer)
	switch {
	case c.Type == typeEntra && c.Tenant != "":
		orDefault(&c.Issuer, "https://login.microsoftonline.com/"+c.Tenant+"/v2.0")
	case c.Type == typeSPIFFE:
		orDefault(&c.Issuer, "spiffe://"+c.TrustDomain)
	}
	orDefault(&c.SubjectClaim, p.preset.subject)
	orDefault(&c.SubjectClaim, "sub")
	orDefault(&c.GroupsClaim, p.preset.groups)
	orDefault(&c.MaxAge, p.preset.maxAge)
	orDefault(&c.Skew, 30*time.Second)
	if c.Scopes == nil {
		c.Scopes = p.preset.scopes
	}
	if len(c.Algorithms) == 0 {
		c.Algorithms = p.preset.algorithms
	}
	if len(c.Types) == 0 {
		c.Types = p.preset.types
		if c.AccessTokens {
			c.Types = slices.Concat(c.Types, accessTokenTypes)
		}
	}
	c.EndpointHosts = slices.Concat(c.EndpointHosts, p.preset.endpointHosts)
}

func orDefault[T comparable](v *T, value T) {
	if *v == *new(T) {
		*v = value
	}
}

// AnybodysProvider tells whether anybody can have an account at the provider, so
// that a rule needs an exact subject or a pin: the argument "shared" of
// [policy.Binding.Check] and [policy.Members.Check].
func (p *Provider) AnybodysProvider() bool {
	u, err := url.Parse(p.Issuer)
	return p.Shared || err == nil && p.preset.shared && p.preset.owns(u)
}

// Pins are the identity's claims whose values are never given to anybody else:
// the argument "pins" of those.
func (p *Provider) Pins() []string {
	if p.preset.pins != nil {
		return p.preset.pins
	}
	return p.ClaimNames()
}

// ClaimNames are the claims that its identities may have, in order.
func (p *Provider) ClaimNames() []string { return sortedKeys(p.claims) }

// fetchesMetadata tells whether the provider is asked where its keys are.
func (p *Provider) fetchesMetadata() bool { return p.JWKSURL == "" && p.JWKS == nil }
