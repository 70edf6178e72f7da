package verifier

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
)

// KeySet is what the verifier needs of an issuer's public keys.
type KeySet interface {
	// Verify returns the payload of a compact token whose header and signature
	// are good, and the kid of the key that signed it. Errors match the sentinels
	// of internal/token; [token.ErrKeysStale] says that the keys are to blame, not
	// the token.
	Verify(compact string, now time.Time) (payload []byte, kid string, err error)

	// Generation changes whenever the accepted keys do. The error matches
	// [token.ErrKeysStale].
	Generation(now time.Time) (uint64, error)
}

// Issuer is one whose tokens are accepted. URL, Audience and Keys are required.
type Issuer struct {
	// URL and Audience are what its tokens must say in iss and aud, byte for
	// byte. A token for another verifier is no token here.
	URL      string
	Audience string

	// Keys verifies signatures. It is asked for its generation at every call and
	// for a verdict about each token that is not in the cache. Kids are the
	// issuer's own: a key of one says nothing about a token of another.
	Keys KeySet

	// Ceiling is all that its tokens can permit here, whatever they say. Nil: no
	// ceiling.
	Ceiling token.Scopes

	// Revocations tell which of its tokens are refused before they expire. They
	// are asked at every call. Nil: each token lives out its hour, whatever
	// happens to the key behind it.
	Revocations *Revocations

	// Budgets hold calls to the limits of its tokens. Nil: tokens that have any are
	// refused, as a limit that is not enforced would be a promise broken in silence.
	Budgets *Budgets
}

// checkIssuers returns what is wrong with the list.
func checkIssuers(list []Issuer) error {
	errs := []error{}
	if len(list) == 0 {
		errs = append(errs, errors.New("there is no issuer"))
	}
	seen := map[string]bool{}
	for n, i := range list {
		switch {
		case i.URL == "":
			errs = append(errs, fmt.Errorf("the URL of issuer %d is missing", n+1))
		case seen[i.URL]:
			errs = append(errs, fmt.Errorf("issuer %q stands twice", i.URL))
		}
		seen[i.URL] = true
		if i.Audience == "" {
			errs = append(errs, fmt.Errorf("the audience for issuer %q is missing", i.URL))
		}
		if i.Keys == nil {
			errs = append(errs, fmt.Errorf("the key set of issuer %q is missing", i.URL))
		}
	}
	return errors.Join(errs...)
}

// issuerOf returns whose token it says it is: the issuer's own keys must prove
// that. With one issuer there is no need to look.
func (v *Verifier) issuerOf(raw string) (*Issuer, error) {
	if len(v.c.Issuers) == 1 {
		return &v.c.Issuers[0], nil
	}
	_, rest, _ := strings.Cut(raw, ".")
	middle, _, _ := strings.Cut(rest, ".")
	payload, err := base64.RawURLEncoding.Strict().DecodeString(middle)
	if err != nil {
		return nil, token.ErrMalformed
	}
	members, err := strictjson.Object(payload, strictjson.Limits{})
	if err != nil {
		return nil, token.ErrMalformed
	}
	for _, m := range members {
		if m.Name != "iss" {
			continue
		}
		url, _ := m.Text()
		for n := range v.c.Issuers {
			if v.c.Issuers[n].URL == url {
				return &v.c.Issuers[n], nil
			}
		}
	}
	return nil, token.ErrIssuer
}

// checkRevoked is asked at each call, for cached tokens too.
func (i *Issuer) checkRevoked(c *token.Claims, kid string, now time.Time) error {
	if i.Revocations == nil {
		return nil
	}
	revoked, err := i.Revocations.Revoked(c, kid, now)
	if err == nil && revoked {
		err = token.ErrRevoked
	}
	return err
}
