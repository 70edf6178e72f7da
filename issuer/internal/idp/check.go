package idp

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
)

// checkIdentity checks who the provider is.
func (p *Provider) checkIdentity(bad *Problems) {
	bad.check(validName(p.Name), "name", "want 1 to 32 of a–z, 0–9 and -")
	u, err := url.Parse(p.Issuer)
	named := err == nil && u.Host != "" && u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" && u.User == nil && len(p.Issuer) <= maxText
	switch {
	case !named || !Printable(p.Issuer):
		bad.check(false, "issuer", "want an https URL, without a query; http for loopback only")
		return
	case p.fetchesMetadata() && u.Scheme != "https" && !IsLoopbackHTTP(u):
		bad.check(p.anyIssuer, "issuer", "want an https URL; http for loopback only")
		bad.check(!p.anyIssuer, "trust_domain", "want jwks_url or jwks_file too: a trust domain publishes no metadata")
	}
	if owner := ownerOf(u); owner != "" && owner != p.Type {
		bad.check(false, "type", "this issuer is known: say type: %s", owner)
	}
	switch p.Type {
	case typeEntra:
		p.checkTenant(bad, u)
	case typeSPIFFE:
		bad.check(validTrustDomain(p.TrustDomain), "trust_domain", "want the trust domain, such as prod.example.com")
	}
	bad.check(p.Tenant == "" || p.Type == typeEntra, "tenant", "is for type entra alone")
	bad.check(p.TrustDomain == "" || p.Type == typeSPIFFE, "trust_domain", "is for type spiffe alone")
}

// personalTenant is that of everybody's personal Microsoft accounts.
const personalTenant = "9188040d-6c67-4c5b-b112-36a304b66dad"

// checkTenant wants an issuer of one tenant. Those of several (common,
// organizations, consumers) would let every directory in the world in; one named
// by a domain is not what tokens say.
func (p *Provider) checkTenant(bad *Problems, issuer *url.URL) {
	tenant, _, _ := strings.Cut(strings.TrimPrefix(issuer.Path, "/"), "/")
	orDefault(&p.Tenant, tenant)
	bad.check(isGUID(p.Tenant) && p.Tenant != personalTenant, "tenant", "want the id of one directory, in small letters; common, organizations and consumers are everybody's")
	bad.check(tenant == p.Tenant, "issuer", "names another tenant")
}

func isGUID(s string) bool {
	return len(s) == 36 && strings.Count(s, "-") == 4 && strings.Trim(s, "0123456789abcdef-") == ""
}

func validName(name string) bool {
	return name != "" && len(name) <= 32 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// IsLoopbackHTTP tells whether u is http to this very machine, where nobody can
// listen on the way.
func IsLoopbackHTTP(u *url.URL) bool {
	addr, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "http" && (u.Hostname() == "localhost" || err == nil && addr.IsLoopback())
}

// otherTypes are of tokens that say something about somebody, but never that he
// is here now.
var otherTypes = []string{"logout+jwt", "secevent+jwt", "dpop+jwt", "oauth-authz-req+jwt", "token-introspection+jwt"}

// checkTrust checks which of its tokens are believed.
func (p *Provider) checkTrust(bad *Problems) {
	bad.check(p.ClientID != "" || len(p.Audiences) > 0, "audiences", "without client_id and audiences, no token of this provider is for us")
	bad.check(p.ClientID == "" || !p.preset.noLogin, "client_id", "nobody logs in at a provider of type %s", p.Type)
	bad.check(p.ClientID == "" || p.preset.noLogin || p.fetchesMetadata(), "client_id", "logins need the provider's metadata, which jwks_url and jwks_file do without")
	for _, a := range p.Audiences {
		bad.check(a != "" && a != "*", "audiences", "each names one client; there is no wildcard")
		// Such tokens open the provider itself: whoever sends one here would
		// trust us with that, and whoever takes one could come here with it.
		bad.check(a != p.Issuer, "audiences", "tokens for the provider itself are for nobody else")
	}
	bad.check(!slices.Contains(p.AuthorizedParties, "") && !slices.Contains(p.AuthorizedParties, "*"), "authorized_parties", "each names one client; there is no wildcard")
	for _, a := range p.Algorithms {
		bad.check(slices.Contains(allAlgorithms, a), "algorithms", "want some of %s", strings.Join(allAlgorithms, ", "))
	}
	for _, t := range p.Types {
		bad.check(Printable(t) && !slices.ContainsFunc(otherTypes, func(o string) bool {
			return strings.EqualFold(o, strings.TrimPrefix(strings.ToLower(t), "application/"))
		}), "types", "%q is no identity token", t)
		isAccess := strings.HasSuffix(strings.ToLower(t), "at+jwt")
		bad.check(!isAccess || p.AccessTokens, "types", "%q is an access token: say access_tokens: true", t)
	}
	bad.check(p.MaxAge > 0 && p.MaxAge <= 24*time.Hour, "max_age", "want up to 24h")
	bad.check(p.Skew >= 0 && p.Skew <= 5*time.Minute, "skew", "want up to 5m")
}

// checkClaims checks what is read of tokens, and makes it ready.
func (p *Provider) checkClaims(bad *Problems) {
	path := func(field, name string) claimPath {
		parsed, err := parseClaim(name)
		bad.check(err == nil, field, "%v", err)
		return parsed
	}
	if p.subject = path("subject_claim", p.SubjectClaim); p.subject != nil {
		bad.check(p.SubjectClaim == "sub" || !slices.Contains(reservedClaims, p.subject[0]), "subject_claim", "%s means something else", p.subject[0])
		bad.check(!slices.Contains(addressClaims, p.subject[len(p.subject)-1]), "subject_claim", "a name or an address can be somebody else's tomorrow")
	}
	if p.GroupsClaim != "" {
		if p.groups = path("groups_claim", p.GroupsClaim); p.groups != nil {
			bad.check(!slices.Contains(reservedClaims, p.groups[0]), "groups_claim", "%s means something else", p.groups[0])
		}
	}
	p.claims = map[string]claimPath{}
	for name, claim := range p.preset.claims {
		p.claims[name] = path("type", claim)
	}
	for name, claim := range p.Claims {
		_, twice := p.preset.claims[name]
		bad.check(!twice, "claims."+name, "type %s maps it already", p.Type)
		bad.check(len(name) <= policy.MaxClaimName && name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_.-") == "", "claims."+name, "want 1 to %d of a–z, 0–9, _, . and -", policy.MaxClaimName)
		bad.check(!slices.Contains(reservedClaims, name), "claims."+name, "is reserved")
		p.claims[name] = path("claims."+name, claim)
	}
	bad.check(len(p.claims) <= policy.MaxClaims, "claims", "at most %d, those of the type included", policy.MaxClaims)

	always := Requirement{}
	addRules(always, p.preset.always)
	if p.AccessTokens {
		addRules(always, p.preset.accessToken)
	} else {
		addRules(always, p.preset.idToken)
	}
	if p.Type == typeEntra && isGUID(p.Tenant) {
		always["tid"] = []policy.Pattern{mustPattern(p.Tenant)}
	}
	var err error
	p.always, err = newRule(always)
	bad.check(err == nil, "type", "%v", err)
	for _, r := range p.Require {
		ready, err := newRule(r)
		bad.check(err == nil, "require", "%v", err)
		bad.check(len(r) > 0, "require", "an alternative that requires nothing")
		p.require = append(p.require, ready)
	}
}

func addRules(to, from Requirement) {
	for name, patterns := range from {
		to[name] = patterns
	}
}

// checkPins refuses a provider whose tokens anybody could get: an audience is no
// secret, whoever asks such an issuer for it gets it.
func (p *Provider) checkPins(bad *Problems) {
	if !p.AnybodysProvider() && !p.preset.mustPin {
		return
	}
	want := "one of " + strings.Join(p.pinSources(), ", ")
	if p.preset.pins == nil {
		want = "a claim with an id"
	}
	bad.check(len(p.Require) > 0, "require", "want %s to be exactly yours; an audience is no secret", want)
	for _, r := range p.Require {
		bad.check(p.pins(r), "require", "strangers can fulfil this: want %s to be exactly yours, in each alternative", want)
	}
}

// pins tells whether the requirement pins an id exactly.
func (p *Provider) pins(r Requirement) bool {
	sources := p.pinSources()
	for name, patterns := range r {
		// A provider of no known type has no known ids: whatever does not come
		// from the asker's own choice will do.
		isPin := slices.Contains(sources, name) || p.preset.pins == nil && !slices.Contains([]string{"aud", "azp", "iss", "nonce"}, name)
		if isPin && !slices.ContainsFunc(patterns, func(q policy.Pattern) bool { return !q.Exact() }) {
			return true
		}
	}
	return false
}

// pinSources are the pins as they are named in tokens.
func (p *Provider) pinSources() []string {
	var sources []string
	for _, name := range p.preset.pins {
		sources = append(sources, p.preset.claims[name])
	}
	if p.preset.pinSub {
		sources = append(sources, "sub")
	}
	return sources
}

// checkKeys checks where the keys come from.
func (p *Provider) checkKeys(bad *Problems) {
	bad.check(p.JWKSURL == "" || p.JWKS == nil, "jwks_url", "jwks_file is set too")
	bad.check(p.OpenKeys != nil, "jwks_url", "no source of keys")
}
