package token

import "errors"

// The reasons to refuse a token: a closed list. Each is a complete answer for
// the client: it holds no value taken from the token, so it is safe to show, to
// count and to log. Rooms wrap them with the operator's detail.
var (
	ErrMissing    = errors.New("no token was presented")
	ErrMalformed  = errors.New("token is malformed")
	ErrTooLong    = errors.New("token is too long")
	ErrAlgorithm  = errors.New("token uses an algorithm that is not accepted")
	ErrType       = errors.New("token is of another type")
	ErrUnknownKey = errors.New("token is signed by an unknown key")
	ErrSignature  = errors.New("token signature does not verify")
	ErrClaims     = errors.New("token claims break the profile")
	ErrIssuer     = errors.New("token is from another issuer")
	ErrAudience   = errors.New("token is for another audience")
	ErrExpired    = errors.New("token has expired")
	ErrNotYet     = errors.New("token is not valid yet")
	ErrLifetime   = errors.New("token lives longer than an hour")
	ErrRevoked    = errors.New("token was revoked")

	// ErrKeysStale is the verifier's own trouble, not the token's: there is no
	// key set young enough to judge by.
	ErrKeysStale = errors.New("no current key set to judge tokens by")
	// ErrRevocationsStale is, too: what was revoked is not known.
	ErrRevocationsStale = errors.New("no current revocations to judge tokens by")
)
