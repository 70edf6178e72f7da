// Package jwks is everything about public keys: publishing a set of them,
// fetching it on the far side and checking signatures with it (RFC 7515, 7517,
// 7518, 8037, 9864).
//
// It knows nothing of private keys, which live in jwks/ring, nor of what a
// token says: whoever gets a payload from here reads the claims himself.
//
// [Parse] makes a [Set] of a document, [Set.Verify] checks one token, [Remote]
// keeps the set of an issuer somewhere else, and [Handler] publishes ours.
//
// Signatures are checked by a compact parser of our own over the standard
// library, because a JOSE library accepts many things that no issuer of ours or
// of our users writes: crit, newlines in base64, repeated members, algorithms
// by the header's choice. jwx only turns the members of a JWK, checked before,
// into a key, and is the oracle of the tests.
//
// Start with [Remote.Verify], then compact.go.
package jwks
