package idp

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
)

// MaxAssertion bounds a whole identity token, in bytes.
const MaxAssertion = 16 << 10

// Bounds of an identity token's claims.
const (
	maxSubject = 255 // OpenID Connect Core 1.0, section 2.
	maxGroups  = 1000
	maxText    = 512 // Any one text claim, in bytes.
)

// ErrIdentity means that a token proves no identity. The operator's cause is
// wrapped with it; it holds no value of the token.
var ErrIdentity = errors.New("the identity token proves nothing here")

// Assertion is what an identity token says, once it has proven genuine.
type Assertion struct {
	policy.Identity
	ID string // jti. May be empty.
}

// Expectation is what a particular use wants of an identity token.
type Expectation struct {
	Audiences   []string // It must be made for one of these.
	Nonce       string   // Exactly this, if not empty. A refreshed ID token may carry the first login's or none.
	AccessToken string   // What at_hash, if there, must match.
}

// peekIssuer reads "iss" and the trust domain of "sub" off a token of which
// nothing is proven yet, only to find who on the static list should be able to
// verify it. Either may be empty, not both.
func peekIssuer(raw string) (iss, trustDomain string, err error) {
	if len(raw) > MaxAssertion {
		return "", "", fmt.Errorf("%w: too long", ErrIdentity)
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return "", "", fmt.Errorf("%w: not a signed JWT", ErrIdentity)
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return "", "", fmt.Errorf("%w: not base64url", ErrIdentity)
	}
	members, err := strictjson.Object(payload, strictjson.Limits{})
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	c := Claims(members)
	if iss, err = c.optionalText("iss"); err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	if sub, err := c.Text("sub"); err == nil {
		trustDomain, _ = trustDomainOf(sub)
	}
	if iss == "" && trustDomain == "" {
		return "", "", fmt.Errorf("%w: iss: missing", ErrIdentity)
	}
	return iss, trustDomain, nil
}

// Pick finds the provider that the token names: by its issuer, or else, for
// JWT-SVIDs, which need not have one, by the trust domain of its subject.
func Pick(list []*Provider, raw string) (*Provider, error) {
	iss, trustDomain, err := peekIssuer(raw)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(p *Provider) bool { return !p.anyIssuer && p.Issuer == iss })
	if i < 0 && trustDomain != "" {
		i = slices.IndexFunc(list, func(p *Provider) bool { return p.anyIssuer && p.TrustDomain == trustDomain })
	}
	if i < 0 {
		return nil, fmt.Errorf("%w: its issuer is not on the list", ErrIdentity)
	}
	return list[i], nil
}

// Identify returns whose identity the token proves at now. Errors match
// [ErrIdentity], or [ErrAway] where it could not be judged.
func (p *Provider) Identify(raw string, want Expectation, now time.Time) (Assertion, error) {
	if len(raw) > MaxAssertion {
		return Assertion{}, fmt.Errorf("%w: too long", ErrIdentity)
	}
	d := p.known.Load()
	if d == nil {
		return Assertion{}, ErrAway
	}
	payload, err := d.keys.Verify(raw, now)
	if errors.Is(err, token.ErrKeysStale) {
		return Assertion{}, fmt.Errorf("%w: %w", ErrAway, err)
	}
	if err != nil {
		return Assertion{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	members, err := strictjson.Object(payload, strictjson.Limits{})
	if err != nil {
		return Assertion{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	a, err := p.read(Claims(members), want, now)
	if err != nil {
		return Assertion{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	return a, nil
}

// read holds the claims to OpenID Connect Core 1.0, section 3.1.3.7, to what the
// configuration requires and to the expectation.
func (p *Provider) read(c Claims, want Expectation, now time.Time) (Assertion, error) {
	if err := p.checkKind(c); err != nil {
		return Assertion{}, err
	}
	subject, err := p.readSubject(c)
	if err != nil {
		return Assertion{}, err
	}
	if err := p.checkAudience(c, want.Audiences); err != nil {
		return Assertion{}, err
	}
	if err := p.checkTimes(c, now); err != nil {
		return Assertion{}, err
	}
	if err := p.always.check(c); err != nil {
		return Assertion{}, err
	}
	if err := checkAny(p.require, c); err != nil {
		return Assertion{}, err
	}
	nonce, err := c.optionalText("nonce")
	if err != nil || want.Nonce != "" && nonce != want.Nonce {
		return Assertion{}, errors.New("nonce: not the one that was sent")
	}
	if err := c.checkAccessTokenHash(want.AccessToken); err != nil {
		return Assertion{}, err
	}
	return p.describe(c, subject)
}

// checkKind refuses tokens that were never meant to say who is here.
func (p *Provider) checkKind(c Claims) error {
	if _, err := c.value("events"); err == nil {
		return errors.New("events: a logout or security event token") // RFC 8417; OpenID Connect Back-Channel Logout 1.0.
	}
	if _, err := c.value("cnf"); err == nil {
		return errors.New("cnf: bound to a proof that can't be given here") // RFC 7800. Without it, whoever stole the token would do.
	}
	for _, name := range p.preset.accessOnly {
		if _, err := c.value(name); err == nil && !p.AccessTokens {
			return fmt.Errorf("%s: an access token, which is no identity here", name)
		}
	}
	return nil
}

// readSubject returns whom the token is about, as its issuer, ours, names them.
func (p *Provider) readSubject(c Claims) (string, error) {
	iss, err := c.optionalText("iss")
	if err != nil || !p.anyIssuer && iss != p.Issuer {
		return "", errors.New("iss: missing or another issuer's")
	}
	v, err := c.find(p.subject)
	if err != nil {
		return "", fmt.Errorf("%s: the subject is missing", p.SubjectClaim)
	}
	subject, ok := v.Text()
	if !ok || subject == "" || len(subject) > maxSubject || !Printable(subject) {
		return "", fmt.Errorf("%s: not a subject", p.SubjectClaim)
	}
	if p.Type == typeSPIFFE {
		// A trust domain speaks for its own workloads alone.
		if domain, _ := trustDomainOf(subject); domain != p.TrustDomain {
			return "", errors.New("sub: no SPIFFE ID of this trust domain")
		}
	}
	return subject, nil
}

// describe reads what else is known of the identity.
func (p *Provider) describe(c Claims, subject string) (Assertion, error) {
	groups, unknown, err := c.groups(p.groups)
	if err != nil {
		return Assertion{}, err
	}
	a := Assertion{Identity: policy.Identity{Provider: p.Name, Issuer: p.Issuer, Subject: subject, Groups: groups, GroupsUnknown: unknown}}
	if a.Claims, err = c.mapped(p.claims); err != nil {
		return Assertion{}, err
	}
	a.Expires, _ = c.Time("exp") // checkTimes read it.
	if a.AuthTime, err = c.OptionalTime("auth_time"); err != nil {
		return Assertion{}, err
	}
	if a.ACR, err = c.optionalText("acr"); err != nil {
		return Assertion{}, err
	}
	if a.AMR, err = c.optionalTexts("amr"); err != nil {
		return Assertion{}, err
	}
	if a.ID, err = c.optionalText("jti"); err != nil {
		return Assertion{}, err
	}
	return a, nil
}

func (p *Provider) checkTimes(c Claims, now time.Time) error {
	expires, err := c.Time("exp")
	if err != nil || !now.Before(expires) {
		return errors.New("exp: missing or past")
	}
	issued, err := c.Time("iat")
	switch {
	case p.preset.issuedOptional && errors.Is(err, errNoClaim):
		if expires.Sub(now) > p.MaxAge {
			return errors.New("exp: too far ahead for a token that does not say when it was issued")
		}
	case err != nil || issued.After(now.Add(p.Skew)):
		return errors.New("iat: missing or in the future")
	case now.Sub(issued) > p.MaxAge:
		return errors.New("iat: too long ago")
	}
	notBefore, err := c.OptionalTime("nbf")
	if err != nil || notBefore.After(now.Add(p.Skew)) {
		return errors.New("nbf: bad or in the future")
	}
	return nil
}

// checkAudience wants the token to be made for one of the accepted clients. One
// made for several must say by azp that one of ours asked for it; an azp that
// names somebody else is never fine, unless the configuration knows them.
func (p *Provider) checkAudience(c Claims, accepted []string) error {
	audiences, err := c.OneOrMore("aud")
	if err != nil {
		return err
	}
	ours := func(a string) bool { return slices.Contains(accepted, a) }
	azp, err := c.optionalText("azp")
	switch {
	case err != nil:
		return err
	case !slices.ContainsFunc(audiences, ours):
		return errors.New("aud: made for another client")
	case azp != "" && !ours(azp) && !p.knowsParty(c, azp):
		return errors.New("azp: another client asked for it")
	case !ours(azp) && !allOf(audiences, ours):
		return errors.New("aud: made for others too, without an azp of ours")
	case p.preset.oneAudience && len(audiences) != 1:
		return errors.New("aud: made for more than one") // JWT-SVID, section 7.2: each could be us to the others.
	}
	return nil
}

// knowsParty tells whether azp, which is none of our clients, may have asked.
func (p *Provider) knowsParty(c Claims, azp string) bool {
	if slices.Contains(p.AuthorizedParties, azp) {
		return true
	}
	sub, err := c.Text("sub")
	return err == nil && p.preset.partyIsSubject && azp == sub
}

func allOf(list []string, ok func(string) bool) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !ok(s) })
}

// checkAccessTokenHash checks at_hash where it is there (OpenID Connect Core
// 1.0, section 3.1.3.6) for the algorithms that hash with SHA-256; it binds the
// access token that came along, which we do not use otherwise.
func (c Claims) checkAccessTokenHash(accessToken string) error {
	hash, err := c.optionalText("at_hash")
	if err != nil || hash == "" || accessToken == "" {
		return err
	}
	sum := sha256.Sum256([]byte(accessToken))
	if len(hash) == 22 && hash != base64.RawURLEncoding.EncodeToString(sum[:16]) {
		return errors.New("at_hash: of another access token")
	}
	return nil
}

// Printable tells whether s is printable ASCII.
func Printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
