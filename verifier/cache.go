package verifier

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/budget"
)

// seen names a token by a digest of its exact text, signature and all: a cache by
// jti, or by a part of the token, takes a forgery for its model.
type seen [sha256.Size]byte

// verified is what was found of a token: nothing that can change while its
// issuer's keys stay.
type verified struct {
	claims      *token.Claims // Shared by calls, never changed.
	issuer      *Issuer
	kid         string
	generation  uint64      // Of the issuer's keys. When they change, it is verified anew.
	limits      *budget.Set // Nil: none.
	from, until time.Time
}

// authenticate returns what is known of a token that is good now.
//
// What the cache remembers is only what can't change while the keys stay: the
// signature and the claims. Expiry is checked at each hit, so a cached token dies
// on the second like any other. Bad tokens are not remembered, or whoever sends
// many would drive out the good ones.
func (v *Verifier) authenticate(raw string, now time.Time) (verified, error) {
	key := seen(sha256.Sum256([]byte(raw)))
	// A clock set back must not lengthen an entry's life.
	if e, ok := v.seen.Get(key); ok && now.Before(e.until) && !now.Before(e.from) {
		generation, err := e.issuer.Keys.Generation(now)
		if err != nil {
			return verified{}, err // Stale keys refuse cached tokens too.
		}
		if generation == e.generation {
			if err := v.expect(e.issuer).CheckTime(e.claims, now); err != nil {
				return verified{}, err
			}
			return e, e.issuer.checkRevoked(e.claims, e.kid, now)
		}
	}
	e, err := v.verify(raw, now)
	if err != nil {
		return verified{}, err
	}
	v.seen.Add(key, e)
	return e, e.issuer.checkRevoked(e.claims, e.kid, now)
}

// verify judges a token from its first byte to its last.
func (v *Verifier) verify(raw string, now time.Time) (verified, error) {
	issuer, err := v.issuerOf(raw)
	if err != nil {
		return verified{}, err
	}
	// Before the signature: if the keys change meanwhile, it is verified once more.
	generation, err := issuer.Keys.Generation(now)
	if err != nil {
		return verified{}, err
	}
	payload, kid, err := issuer.Keys.Verify(raw, now)
	if err != nil {
		return verified{}, err
	}
	claims, err := token.Parse(payload)
	if err != nil {
		return verified{}, err
	}
	if err := v.expect(issuer).Check(&claims, now); err != nil {
		return verified{}, err
	}
	if issuer.Ceiling != nil {
		claims.Scope = claims.Scope.Intersect(issuer.Ceiling)
	}
	limits, err := budget.NewSet(&claims)
	if err != nil {
		return verified{}, fmt.Errorf("%w: %w", token.ErrClaims, err)
	}
	return verified{&claims, issuer, kid, generation, limits, now, now.Add(v.c.CacheTTL)}, nil
}

func (v *Verifier) expect(i *Issuer) token.Expect {
	return token.Expect{Issuer: i.URL, Audience: i.Audience, Skew: v.c.Skew}
}
