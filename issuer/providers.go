package issuer

import "github.com/hourpass/hourpass/issuer/internal/idp"

// All about identity providers is in internal/idp; these are its names for who
// assembles an issuer.
type (
	// A Provider is an identity provider on the static list.
	Provider = idp.Provider
	// ProviderConfig says which identity provider to believe, and how far.
	ProviderConfig = idp.Config
	// A Requirement says which claims a provider's tokens must have.
	Requirement = idp.Requirement
	// A Problem is one thing that is wrong with a configuration.
	Problem = idp.Problem
	// Problems are all that is wrong with a configuration.
	Problems = idp.Problems
	// KeySource verifies signatures with a provider's keys.
	KeySource = idp.KeySource
	// KeySpec says which keys are a provider's.
	KeySpec = idp.KeySpec
)

// MaxAssertion bounds a whole identity token, in bytes.
const MaxAssertion = idp.MaxAssertion

// NewProvider checks c and returns the provider. It asks nobody yet. Errors are
// [Problems].
func NewProvider(c ProviderConfig) (*Provider, error) { return idp.New(c) }

// ProviderTypes are the types of identity providers that are known.
func ProviderTypes() []string { return idp.Types() }
