package idp

import (
	"time"

	"github.com/hourpass/hourpass/internal/policy"
)

var BundleKeys = bundleKeys

// Whose judges an identity token as an exchange does.
func (p *Provider) Whose(raw string, now time.Time) (policy.Identity, error) {
	a, err := p.Identify(raw, Expectation{Audiences: p.Audiences}, now)
	return a.Identity, err
}

// LoginURL is where a browser logs in.
func (p *Provider) LoginURL() (string, error) {
	return p.AuthURL("https://hp/cb", "state", "nonce", "verifier")
}
