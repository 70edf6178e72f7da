package issuer

import "github.com/hourpass/hourpass/issuer/internal/idp"

// Identity providers, as a configuration names them. All about them is in
// internal/idp; these are its names for who assembles an issuer.
type (
	Provider       = idp.Provider
	ProviderConfig = idp.Config
	Requirement    = idp.Requirement
	Problem        = idp.Problem
	Problems       = idp.Problems
	KeySource      = idp.KeySource
	KeySpec        = idp.KeySpec
)

// MaxAssertion bounds a whole identity token, in bytes.
const MaxAssertion = idp.MaxAssertion

// NewProvider checks c and returns the provider. It asks nobody yet. Errors are
// [Problems].
func NewProvider(c ProviderConfig) (*Provider, error) { return idp.New(c) }

// ProviderTypes are the types of identity providers that are known.
func ProviderTypes() []string { return idp.Types() }
