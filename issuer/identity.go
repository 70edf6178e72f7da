package issuer

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

// errIdentity means that a token proves no identity. The operator's cause is
// wrapped with it; it holds no value of the token.
var errIdentity = errors.New("the identity token proves nothing here")

// assertion is what an identity token says, once it has proven genuine.
type assertion struct {
	policy.Identity
	id string // jti. May be empty.
}

// expectation is what a particular use wants of an identity token.
type expectation struct {
	Audiences   []string // It must be made for one of these.
	Nonce       string   // Exactly this, if not empty. A refreshed ID token may carry the first login's or none.
	AccessToken string   // What at_hash, if there, must match.
}

// peekIssuer reads "iss" off a token of which nothing is proven yet, only to
// find who on the static list should be able to verify it.
func peekIssuer(raw string) (string, error) {
	if len(raw) > MaxAssertion {
		return "", fmt.Errorf("%w: too long", errIdentity)
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("%w: not a signed JWT", errIdentity)
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return "", fmt.Errorf("%w: not base64url", errIdentity)
	}
	members, err := strictjson.Object(payload, strictjson.Limits{})
	if err != nil {
		return "", fmt.Errorf("%w: %w", errIdentity, err)
	}
	iss, err := idClaims(members).text("iss")
	if err != nil {
		return "", fmt.Errorf("%w: %w", errIdentity, err)
	}
	return iss, nil
}

// providerOf returns the provider on the static list that the token names.
func (s *Server) providerOf(raw string) (*Provider, error) {
	iss, err := peekIssuer(raw)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(s.Providers, func(p *Provider) bool { return p.Issuer == iss })
	if i < 0 {
		return nil, fmt.Errorf("%w: its issuer is not on the list", errIdentity)
	}
	return s.Providers[i], nil
}

// identify returns whose identity the token proves at now. Errors match
// [errIdentity], or [errProviderAway] where it could not be judged.
func (p *Provider) identify(raw string, want expectation, now time.Time) (assertion, error) {
	if len(raw) > MaxAssertion {
		return assertion{}, fmt.Errorf("%w: too long", errIdentity)
	}
	d := p.known.Load()
	if d == nil {
		return assertion{}, errProviderAway
	}
	payload, err := d.keys.Verify(raw, now)
	if errors.Is(err, token.ErrKeysStale) {
		return assertion{}, fmt.Errorf("%w: %w", errProviderAway, err)
	}
	if err != nil {
		return assertion{}, fmt.Errorf("%w: %w", errIdentity, err)
	}
	members, err := strictjson.Object(payload, strictjson.Limits{})
	if err != nil {
		return assertion{}, fmt.Errorf("%w: %w", errIdentity, err)
	}
	a, err := p.read(idClaims(members), want, now)
	if err != nil {
		return assertion{}, fmt.Errorf("%w: %w", errIdentity, err)
	}
	return a, nil
}

// read holds the claims to OpenID Connect Core 1.0, section 3.1.3.7, and to the
// expectation.
func (p *Provider) read(c idClaims, want expectation, now time.Time) (assertion, error) {
	iss, err := c.text("iss")
	if err != nil || iss != p.Issuer {
		return assertion{}, errors.New("iss: missing or another issuer's")
	}
	subject, err := c.text("sub")
	if err != nil || len(subject) > maxSubject || !printable(subject) {
		return assertion{}, errors.New("sub: missing or not a subject")
	}
	if err := c.checkAudience(want.Audiences); err != nil {
		return assertion{}, err
	}
	if err := p.checkTimes(c, now); err != nil {
		return assertion{}, err
	}
	nonce, err := c.optionalText("nonce")
	if err != nil || want.Nonce != "" && nonce != want.Nonce {
		return assertion{}, errors.New("nonce: not the one that was sent")
	}
	if err := c.checkAccessTokenHash(want.AccessToken); err != nil {
		return assertion{}, err
	}
	groups, err := c.groups(p.GroupsClaim)
	if err != nil {
		return assertion{}, err
	}
	a := assertion{Identity: policy.Identity{Provider: p.Name, Issuer: iss, Subject: subject, Groups: groups}}
	a.Expires, _ = c.time("exp") // checkTimes read it.
	if a.AuthTime, err = c.optionalTime("auth_time"); err != nil {
		return assertion{}, err
	}
	if a.ACR, err = c.optionalText("acr"); err != nil {
		return assertion{}, err
	}
	if a.AMR, err = c.optionalTexts("amr"); err != nil {
		return assertion{}, err
	}
	if a.id, err = c.optionalText("jti"); err != nil {
		return assertion{}, err
	}
	return a, nil
}

func (p *Provider) checkTimes(c idClaims, now time.Time) error {
	expires, err := c.time("exp")
	if err != nil || !now.Before(expires) {
		return errors.New("exp: missing or past")
	}
	issued, err := c.time("iat")
	switch {
	case err != nil || issued.After(now.Add(p.Skew)):
		return errors.New("iat: missing or in the future")
	case now.Sub(issued) > p.MaxAge:
		return errors.New("iat: too long ago")
	}
	notBefore, err := c.optionalTime("nbf")
	if err != nil || notBefore.After(now.Add(p.Skew)) {
		return errors.New("nbf: bad or in the future")
	}
	return nil
}

// idClaims are the members of an identity token. Names we do not ask for are the
// provider's business.
type idClaims []strictjson.Member

var errNoClaim = errors.New("missing")

func (c idClaims) value(name string) (strictjson.Value, error) {
	for _, m := range c {
		if m.Name == name {
			return m.Value, nil
		}
	}
	return strictjson.Value{}, errNoClaim
}

// claim reads one claim with get, which says whether it has the right form.
func claim[T any](c idClaims, name string, get func(strictjson.Value) (T, bool)) (T, error) {
	v, err := c.value(name)
	if err != nil {
		var zero T
		return zero, fmt.Errorf("%s: %w", name, err)
	}
	t, ok := get(v)
	if !ok {
		return t, fmt.Errorf("%s: of the wrong form", name)
	}
	return t, nil
}

// optional makes an absent claim the zero value.
func optional[T any](t T, err error) (T, error) {
	if errors.Is(err, errNoClaim) {
		err = nil
	}
	return t, err
}

func (c idClaims) text(name string) (string, error) {
	return claim(c, name, func(v strictjson.Value) (string, bool) {
		s, ok := v.Text()
		return s, ok && s != "" && len(s) <= maxText
	})
}

func (c idClaims) time(name string) (time.Time, error) {
	return claim(c, name, func(v strictjson.Value) (time.Time, bool) {
		n, ok := v.Int()
		return time.Unix(n, 0).UTC(), ok && n > 0 && n < 253402300800 // Year 10000.
	})
}

func (c idClaims) texts(name string) ([]string, error) {
	return claim(c, name, func(v strictjson.Value) ([]string, bool) {
		list, ok := v.Texts(maxGroups)
		return list, ok && !slices.ContainsFunc(list, func(s string) bool { return s == "" || len(s) > maxText })
	})
}

func (c idClaims) optionalText(name string) (string, error)    { return optional(c.text(name)) }
func (c idClaims) optionalTime(name string) (time.Time, error) { return optional(c.time(name)) }
func (c idClaims) optionalTexts(name string) ([]string, error) { return optional(c.texts(name)) }

// checkAudience wants the token to be made for one of the accepted clients. One
// made for several must say by azp that one of ours asked for it; an azp that
// names somebody else is never fine.
func (c idClaims) checkAudience(accepted []string) error {
	audiences, err := c.texts("aud")
	if err != nil {
		var one string
		if one, err = c.text("aud"); err != nil {
			return err
		}
		audiences = []string{one}
	}
	ours := func(a string) bool { return slices.Contains(accepted, a) }
	azp, err := c.optionalText("azp")
	switch {
	case err != nil:
		return err
	case !slices.ContainsFunc(audiences, ours):
		return errors.New("aud: made for another client")
	case azp != "" && !ours(azp):
		return errors.New("azp: another client asked for it")
	case azp == "" && !allOf(audiences, ours):
		return errors.New("aud: made for others too, without an azp of ours")
	}
	return nil
}

func allOf(list []string, ok func(string) bool) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !ok(s) })
}

// checkAccessTokenHash checks at_hash where it is there (OpenID Connect Core
// 1.0, section 3.1.3.6) for the algorithms that hash with SHA-256; it binds the
// access token that came along, which we do not use otherwise.
func (c idClaims) checkAccessTokenHash(accessToken string) error {
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

// groups returns the identity's groups. A provider that has more of them than
// fit says where to ask instead (Entra's overage); then they are unknown, which
// is not the same as none.
func (c idClaims) groups(name string) ([]string, error) {
	for _, overage := range []string{"_claim_names", "hasgroups"} {
		if _, err := c.value(overage); err == nil {
			return nil, errors.New("groups: left out of the token by the provider, so they are unknown")
		}
	}
	return c.optionalTexts(name)
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
