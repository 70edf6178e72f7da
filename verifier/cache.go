package verifier

import (
	"crypto/sha256"
	"time"

	"github.com/hourpass/hourpass/internal/token"
)

// seen names a token and the keys that it was good by. The digest is of the
// exact text, signature and all: a cache by jti, or by a part of the token, takes
// a forgery for its model. When the keys change, no old entry is found again.
type seen struct {
	digest     [sha256.Size]byte
	generation uint64
}

type verified struct {
	claims      *token.Claims // Shared by calls, never changed.
	kid         string
	from, until time.Time
}

// authenticate returns the claims of a token that is good now.
//
// What the cache remembers is only what can't change while the keys stay: the
// signature and the claims. Expiry is checked at each hit, so a cached token dies
// on the second like any other. Bad tokens are not remembered, or whoever sends
// many would drive out the good ones.
func (v *Verifier) authenticate(raw string, now time.Time) (*token.Claims, error) {
	generation, err := v.c.Keys.Generation(now)
	if err != nil {
		return nil, err // Stale keys refuse cached tokens too.
	}
	key := seen{sha256.Sum256([]byte(raw)), generation}
	// A clock set back must not lengthen an entry's life.
	if e, ok := v.seen.Get(key); ok && now.Before(e.until) && !now.Before(e.from) {
		if err := v.expect.CheckTime(e.claims, now); err != nil {
			return nil, err
		}
		return e.claims, v.checkRevoked(e.claims, e.kid, now)
	}
	payload, kid, err := v.c.Keys.Verify(raw, now)
	if err != nil {
		return nil, err
	}
	claims, err := token.Parse(payload)
	if err != nil {
		return nil, err
	}
	if err := v.expect.Check(&claims, now); err != nil {
		return nil, err
	}
	v.seen.Add(key, verified{&claims, kid, now, now.Add(v.c.CacheTTL)})
	return &claims, v.checkRevoked(&claims, kid, now)
}

// checkRevoked is asked at each call, for cached tokens too.
func (v *Verifier) checkRevoked(c *token.Claims, kid string, now time.Time) error {
	if v.c.Revocations == nil {
		return nil
	}
	revoked, err := v.c.Revocations.Revoked(c, kid, now)
	if err == nil && revoked {
		err = token.ErrRevoked
	}
	return err
}
