package issuer

import (
	"time"

	"github.com/hourpass/hourpass/internal/policy"
)

// What an exchange asks of a provider, for tests.
var (
	Pick            = pick
	ErrIdentity     = errIdentity
	ErrProviderAway = errProviderAway
	BundleKeys      = bundleKeys
)

// Identify judges an identity token as an exchange does.
func (p *Provider) Identify(raw string, now time.Time) (policy.Identity, error) {
	a, err := p.identify(raw, expectation{Audiences: p.Audiences}, now)
	return a.Identity, err
}

// AuthURL is where a browser logs in.
func (p *Provider) AuthURL() (string, error) {
	return p.authURL("https://hp/cb", "state", "nonce", "verifier")
}
