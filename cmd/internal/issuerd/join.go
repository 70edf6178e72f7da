package issuerd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/internal/watch"
	"github.com/hourpass/hourpass/issuer"
	"github.com/hourpass/hourpass/jwks"
	"github.com/hourpass/hourpass/jwks/ring"
)

func rotationGrace(c *settings) time.Duration {
	if c.RotationGrace == nil {
		return -1
	}
	return *c.RotationGrace
}

func (w watchSettings) watch() issuer.Watch {
	return issuer.Watch{Mode: w.Mode, Rule: watch.Rule{Factor: w.Factor, Floor: w.Floor, ColdHours: w.ColdHours, ColdCeiling: w.ColdCeiling}}
}

func asMembers(rules []membersSettings) []policy.Members {
	list := make([]policy.Members, len(rules))
	for i, m := range rules {
		list[i] = policy.Members(m)
	}
	return list
}

// ownTokens verifies tokens that this issuer signed, by the keys that it
// publishes.
func ownTokens(signing *ring.Ring) func(string, time.Time) ([]byte, string, error) {
	profile := jwks.Profile{
		Types: []string{token.Type}, Algorithms: []string{jwks.ES256, jwks.EdDSA, jwks.RS256}, ExactHeader: true, MaxBytes: token.MaxBytes,
	}
	return func(compact string, _ time.Time) ([]byte, string, error) {
		set, err := jwks.Parse(signing.Document())
		if err != nil {
			return nil, "", err
		}
		return set.VerifyKeyID(profile, compact)
	}
}

// clientProfile is how clients sign for themselves (RFC 7523, section 3).
var clientProfile = jwks.Profile{
	Types: []string{"", "JWT", "client-authentication+jwt"}, Algorithms: []string{jwks.ES256, jwks.EdDSA, jwks.RS256}, MaxBytes: 8 << 10,
}

func verifyClient(document, compact string, _ time.Time) ([]byte, error) {
	set, err := jwks.Parse([]byte(document))
	if err != nil {
		return nil, err
	}
	return set.Verify(clientProfile, compact)
}

// checkClientKeys wants keys all of which are used: one that is skipped would be
// found missing at its first use.
func checkClientKeys(document string) error {
	set, err := jwks.Parse([]byte(document))
	switch {
	case err != nil:
		return err
	case set.Len() == 0:
		return errors.New("it holds no key that could be used")
	case len(set.Skipped()) > 0:
		return fmt.Errorf("one of its keys can't be used: %s", set.Skipped()[0])
	}
	return nil
}

// signingKeys shows the ring to the issuer's API.
type signingKeys struct{ *ring.Ring }

func (k signingKeys) Keys() []issuer.SigningKey {
	var list []issuer.SigningKey
	for _, key := range k.List() {
		list = append(list, issuer.SigningKey{
			KID: key.KID, Alg: key.Alg, State: string(key.State), Created: key.Created, Published: key.Published,
			ActiveFrom: key.ActiveFrom, Retires: key.Retires, GoneAt: key.GoneAt,
		})
	}
	return list
}

func (k signingKeys) Rotate(ctx context.Context) error {
	_, err := k.Ring.Rotate(ctx)
	return err
}

// Taint drops a key; the issuer revokes what it signed.
func (k signingKeys) Taint(ctx context.Context, kid string) error {
	_, err := k.Ring.Taint(ctx, kid)
	if errors.Is(err, ring.ErrUnknownKey) {
		return fmt.Errorf("%w: %w", issuer.ErrNoSigningKey, err)
	}
	return err
}
