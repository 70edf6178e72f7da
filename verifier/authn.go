package verifier

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/hourpass/hourpass/internal/token"
)

// Reasons that lie in how a token was presented.
var (
	errCredentials = errors.New("the request carries several different credentials")
	errIP          = errors.New("the token may not be used from this address")
)

// keyHeaders are where the clients of model APIs put their key, besides
// Authorization: Anthropic's, Azure's and Google's.
var keyHeaders = []string{"X-Api-Key", "Api-Key", "X-Goog-Api-Key"}

// credential returns the one credential of a request. Several equal ones are one;
// of different ones it would depend on the reader which counts, so they are
// refused.
func credential(r *http.Request) (string, error) {
	var found string
	take := func(value string) error {
		switch {
		case value == "":
			return token.ErrMalformed
		case found != "" && found != value:
			return errCredentials
		}
		found = value
		return nil
	}
	for _, value := range r.Header.Values("Authorization") {
		scheme, credential, _ := strings.Cut(value, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return "", token.ErrMalformed
		}
		if err := take(credential); err != nil {
			return "", err
		}
	}
	for _, name := range keyHeaders {
		for _, value := range r.Header.Values(name) {
			if err := take(value); err != nil {
				return "", err
			}
		}
	}
	switch {
	case found == "":
		return "", token.ErrMissing
	case len(found) > token.MaxBytes:
		return "", token.ErrTooLong
	case strings.Trim(found, tokenAlphabet) != "":
		return "", token.ErrMalformed
	}
	return found, nil
}

// tokenAlphabet is base64url and the dots of a compact JWS.
const tokenAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// authenticate returns the claims of the request's token, if it is good now and
// here. What can change between two calls is asked at each: the time, the key
// set, the address.
func (v *Verifier) authenticate(r *http.Request) (*token.Claims, error) {
	compact, err := credential(r)
	if err != nil {
		return nil, err
	}
	now := v.Now()
	claims, err := v.verify(compact, now)
	if err != nil {
		return nil, err
	}
	if !claims.AllowsIP(clientAddr(r)) {
		return nil, errIP
	}
	return claims, nil
}

// verify returns the claims of a token, from the cache if it was verified before
// under the same key set.
func (v *Verifier) verify(compact string, now time.Time) (*token.Claims, error) {
	generation, err := v.Keys.Generation(now)
	if err != nil {
		return nil, err
	}
	key := cacheKey{sha256.Sum256([]byte(compact)), generation}
	if claims := v.cache.get(key, now); claims != nil {
		return claims, v.expect.CheckTime(claims, now)
	}
	payload, err := v.Keys.Verify(compact, now)
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
	v.cache.put(key, &claims, now.Add(v.CacheTTL))
	return &claims, nil
}

// cache remembers tokens that verified. It never learns of bad ones, so a flood
// of those pushes nothing out.
type cache struct {
	entries *lru.Cache[cacheKey, cacheEntry]
}

// cacheKey is made of the whole compact token, so that a twin of it that differs
// in one byte is judged on its own, and of the key set, so that with a key die
// the tokens it signed. It is a hash, so that no token lies about in memory.
type cacheKey struct {
	token      [sha256.Size]byte
	generation uint64
}

type cacheEntry struct {
	claims *token.Claims
	until  time.Time
}

func newCache(size int) *cache {
	entries, err := lru.New[cacheKey, cacheEntry](size)
	if err != nil {
		panic(err) // Unreachable: New checked that the size is positive.
	}
	return &cache{entries}
}

func (c *cache) get(key cacheKey, now time.Time) *token.Claims {
	e, ok := c.entries.Get(key)
	if !ok || !now.Before(e.until) {
		return nil
	}
	return e.claims
}

func (c *cache) put(key cacheKey, claims *token.Claims, until time.Time) {
	if claims.Expires.Before(until) {
		until = claims.Expires
	}
	c.entries.Add(key, cacheEntry{claims, until})
}
