package issuer

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/token"
)

// minted is a token and what its answer says of it.
type minted struct {
	Token   string    `json:"token"`
	ID      string    `json:"jti"`
	Scope   string    `json:"scope"`
	Grant   string    `json:"grant"`
	Expires time.Time `json:"exp"`
}

// mint decides what key and identity together get of what is asked for, and
// signs it. who is nil where there is no identity. Nothing is kept and nothing
// let out yet.
func (x exchange) mint(ctx context.Context, who *policy.Identity, capByIDP bool) (minted, error) {
	if err := x.ownerPresent(ctx, who); err != nil {
		return minted{}, err
	}
	if who == nil {
		x.rec.Detail = "The key needs no identity."
	}
	d, err := policy.Decide(x.Grants, x.client.key, who, x.request(capByIDP), x.now)
	if err != nil {
		return minted{}, err
	}
	c := token.Claims{
		Issuer: x.URL, Subject: d.Subject, Audience: x.req.Audience, ClientID: x.client.key.ID,
		IssuedAt: x.now.Truncate(time.Second), NotBefore: x.now.Truncate(time.Second), Expires: d.Expires.Truncate(time.Second),
		Scope: d.Scope, Grant: d.Grant, Tier: d.Tier, Team: x.client.key.Team, Groups: d.Groups, IP: d.IP, Limits: d.Limits, Params: d.Params,
	}
	if who != nil {
		c.AuthTime, c.ACR, c.AMR = who.AuthTime, who.ACR, who.AMR
	}
	return x.sign(c)
}

func (x exchange) request(capByIDP bool) policy.Request {
	return policy.Request{Scope: x.req.Scope, HasScope: x.req.HasScope, Lifetime: x.Lifetime, CapByIDP: capByIDP, Grace: x.RotationGrace}
}

// narrow swaps a token of ours for a smaller one that names its holder: the
// machine key that asks (RFC 8693, sections 1.1 and 4.1).
func (x exchange) narrow(ctx context.Context, raw string) (tokenAnswer, error) {
	parent, kid, err := x.ourToken(raw, x.now)
	if err != nil {
		return tokenAnswer{}, err
	}
	x.rec.Identity = parent.Subject
	if err := x.ownerPresent(ctx, nil); err != nil {
		return tokenAnswer{}, err
	}
	// The narrowed token is issued after whatever another issuer has just revoked,
	// so that revocation would not find it: look for it now.
	if err := x.feed.refresh(ctx, x.now); err != nil {
		return tokenAnswer{}, err
	}
	if x.revoked(&parent, kid) {
		return tokenAnswer{}, fmt.Errorf("%w: it was revoked", errSubjectToken)
	}
	if parent.Audience != x.req.Audience {
		return tokenAnswer{}, errTarget // Another audience would be more, not less.
	}
	c, err := policy.Narrow(parent, x.client.key.ID, x.request(false), x.now)
	if err != nil {
		return tokenAnswer{}, err
	}
	m, err := x.sign(c)
	if err != nil {
		return tokenAnswer{}, err
	}
	// The token stays the first key's; the one that asked is the actor.
	x.rec.Key, x.rec.Actor = parent.ClientID, x.client.key.ID
	return x.use(ctx, m, nil)
}

// sign gives the claims an id and signs them.
func (x exchange) sign(c token.Claims) (minted, error) {
	c.ID = rand.Text()
	payload, err := c.Encode()
	if err != nil {
		return minted{}, fmt.Errorf("encoding a token: %w", err)
	}
	signed, err := x.Signer.Sign(payload, token.Type)
	if err != nil {
		return minted{}, fmt.Errorf("signing a token: %w", err)
	}
	if len(signed) > token.MaxBytes {
		return minted{}, badRequest("The token would be too large: ask for fewer scopes.")
	}
	return minted{signed, c.ID, c.Scope.String(), c.Grant, c.Expires}, nil
}

// note puts what was minted on the record.
func (m minted) note(rec *audit.Record) {
	rec.Token, rec.Scope, rec.Grant, rec.Expires = m.ID, m.Scope, m.Grant, m.Expires.Unix()
}

// tokenAnswer is the answer of POST /token (RFC 6749, section 5.1; RFC 8693,
// section 2.2.1).
type tokenAnswer struct {
	AccessToken  string `json:"access_token"`
	IssuedType   string `json:"issued_token_type,omitempty"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	Scope        string `json:"scope,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
}

func (m minted) answer(now time.Time) tokenAnswer {
	return tokenAnswer{
		AccessToken: m.Token, TokenType: "Bearer", Scope: m.Scope,
		ExpiresIn: max(0, int64(m.Expires.Sub(now.Truncate(time.Second))/time.Second)),
	}
}
