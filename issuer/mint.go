package issuer

import (
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

// mint decides what key and identity together get of what req asks for, and
// signs it. Nothing is kept and nothing let out yet.
func (s *Server) mint(req *tokenRequest, key policy.Key, who policy.Identity, capByIDP bool, now time.Time) (minted, error) {
	d, err := policy.Decide(s.Grants, key, who, policy.Request{
		Scope: req.Scope, HasScope: req.HasScope, Lifetime: s.Lifetime, CapByIDP: capByIDP,
	}, now)
	if err != nil {
		return minted{}, err
	}
	c := token.Claims{
		Issuer: s.URL, Subject: who.String(), Audience: req.Audience, ClientID: key.ID, ID: rand.Text(),
		IssuedAt: now.Truncate(time.Second), NotBefore: now.Truncate(time.Second), Expires: d.Expires.Truncate(time.Second),
		Scope: d.Scope, Grant: d.Grant, Tier: d.Tier, Team: key.Team, Groups: d.Groups, IP: d.IP,
		AuthTime: who.AuthTime, ACR: who.ACR, AMR: who.AMR,
	}
	payload, err := c.Encode()
	if err != nil {
		return minted{}, fmt.Errorf("encoding a token: %w", err)
	}
	signed, err := s.Signer.Sign(payload, token.Type)
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
