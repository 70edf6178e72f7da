package policy

import (
	"errors"
	"time"

	"github.com/hourpass/hourpass/internal/token"
)

// The reasons to refuse to narrow a token, beside [ErrScope] and [ErrExpiry].
var (
	ErrNoScope = errors.New("a token is narrowed to a scope, which the request must name")
	ErrActors  = errors.New("the token was handed on too often already")
)

// Narrow tells what holder, a machine key's id, gets for a token of ours that
// was handed to it: the same subject, key, grant, networks, limits and
// parameters, the requested part of its scope, and not a second more of life
// (RFC 8693, section 1.1). The claim act names the holder (section 4.1). Its ID
// is left for the caller to set.
func Narrow(parent token.Claims, holder string, req Request, now time.Time) (token.Claims, error) {
	switch {
	case !req.HasScope || len(req.Scope) == 0:
		return token.Claims{}, ErrNoScope
	case !req.Scope.Within(parent.Scope):
		return token.Claims{}, ErrScope
	case parent.Actor.Depth() >= token.MaxActors:
		return token.Claims{}, ErrActors
	case !now.Before(parent.Expires):
		return token.Claims{}, ErrExpiry
	}
	c := parent
	c.ID = ""
	c.Scope = req.Scope
	c.IssuedAt, c.NotBefore = now.Truncate(time.Second), now.Truncate(time.Second)
	c.Expires = soonest(parent.Expires, now.Add(min(req.Lifetime, token.MaxLifetime))).Truncate(time.Second)
	if !c.Expires.After(c.IssuedAt) {
		return token.Claims{}, ErrExpiry // Less than a second is left, which no token can say.
	}
	c.Actor = &token.Actor{Subject: holder, Actor: parent.Actor}
	return c, nil
}
