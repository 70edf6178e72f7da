package ring

import (
	"context"
	"crypto"
	"errors"
)

// Signer is the private half of one key. It is safe for concurrent use.
type Signer interface {
	// Public is an *ecdsa.PublicKey, an ed25519.PublicKey or an *rsa.PublicKey.
	Public() crypto.PublicKey
	// Sign returns the signature of message, not of its digest, as JWS has it
	// (RFC 7518, sections 3.3 and 3.4; RFC 8037): for ES256 r and s, 32 bytes
	// each. It keeps nothing of message. Errors are safe to show.
	Sign(message []byte) ([]byte, error)
}

// Vault is where private keys are made that never leave it, such as an HSM; the
// ring keeps their public halves and handles. Errors are safe to show.
type Vault interface {
	// Generate makes a key for alg. Its handle, of 1 to 256 bytes, finds it
	// again and is not secret.
	Generate(ctx context.Context, alg string) (handle string, s Signer, err error)
	// Open finds a key.
	Open(ctx context.Context, handle string) (Signer, error)
	// Destroy removes a key for good.
	Destroy(ctx context.Context, handle string) error
}

const maxHandle = 256

var (
	errNoVault = errors.New("the key is in a vault, and none is configured")
	errRetired = errors.New("the key was retired when the ring was read") // The clock was set back.
)

// openVault returns the key behind a handle.
func (r *Ring) openVault(ctx context.Context, handle string) (Signer, error) {
	if r.c.Vault == nil {
		return nil, errNoVault
	}
	return r.c.Vault.Open(ctx, handle)
}

// destroy removes from the vault what the ring has no more. If that fails the
// key lies there unused, which is not worth failing for.
func (r *Ring) destroy(ctx context.Context, keys ...key) {
	for _, k := range keys {
		if k.material.handle == "" {
			continue
		}
		err := errNoVault
		if r.c.Vault != nil {
			err = r.c.Vault.Destroy(ctx, k.material.handle)
		}
		if err != nil {
			r.c.Log.Warn("destroying a signing key in its vault", "kid", k.KID, "handle", k.material.handle, "err", err.Error())
		}
	}
}
