// Package seal keeps small secrets unreadable at rest: signing keys, login
// sessions. Whoever steals the file or the table without the key-encryption key
// has nothing, and whoever writes into it forges nothing.
//
// It knows nothing of what it seals. A [Sealer] is one key-encryption key; a
// purpose, such as "jwks/ring signing key", names the place that a sealed secret
// belongs to, and it opens nowhere else.
//
// Start with [New]; [NewKeyFile] and [LoadKey] keep the key itself.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
)

// Bounds.
const (
	KeySize    = 32       // Bytes of a key-encryption key.
	MaxPlain   = 64 << 10 // Bytes of one secret.
	MaxPurpose = 128      // Bytes of a purpose.
)

// version is the first byte of everything sealed, so that another cipher can
// come beside this one. It is authenticated too.
const version = 1

// overhead is what AES-GCM adds: a nonce of 12 bytes, a tag of 16.
const overhead = 12 + 16

// ErrOpen means that a sealed secret can't be had with this key for this
// purpose. Which of key, purpose and bytes is wrong is not told: AES-GCM does
// not know either.
var ErrOpen = errors.New("the sealed secret does not open: another key, another purpose, or changed bytes")

// Sealer encrypts and decrypts under one key-encryption key. It is safe for
// concurrent use.
type Sealer struct {
	// A function, not the key: no printer, encoder or debugger's dump of a
	// struct that holds a Sealer can walk into a closure.
	aead func(purpose string) (cipher.AEAD, error)
	mac  func(purpose string, message []byte) []byte
}

// New returns a Sealer under key, [KeySize] random bytes.
func New(key []byte) (*Sealer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("the key-encryption key has %d bytes, want %d", len(key), KeySize)
	}
	own := [KeySize]byte(key)
	// A key for each use and purpose, so that a secret moved to another place
	// does not open there, and the bound of 2³² random nonces to a key is each
	// purpose's own.
	derive := func(use, purpose string) []byte {
		sub, err := hkdf.Key(sha256.New, own[:], nil, "hourpass "+use+" v1\x00"+purpose, KeySize)
		if err != nil {
			panic(err) // Unreachable: the length is one that HKDF has.
		}
		return sub
	}
	// Purposes are few and the program's own, so what is derived for them is kept.
	var aeads, macKeys sync.Map
	return &Sealer{
		aead: func(purpose string) (cipher.AEAD, error) {
			if kept, ok := aeads.Load(purpose); ok {
				return kept.(cipher.AEAD), nil
			}
			block, err := aes.NewCipher(derive("seal", purpose))
			if err != nil {
				return nil, err
			}
			aead, err := cipher.NewGCMWithRandomNonce(block)
			if err == nil {
				aeads.Store(purpose, aead)
			}
			return aead, err
		},
		mac: func(purpose string, message []byte) []byte {
			key, ok := macKeys.Load(purpose)
			if !ok {
				key, _ = macKeys.LoadOrStore(purpose, derive("mac", purpose))
			}
			h := hmac.New(sha256.New, key.([]byte))
			h.Write(message)
			return h.Sum(nil)
		},
	}, nil
}

// MAC is the HMAC-SHA-256 of message under the purpose's own key. It is stored
// in place of a random token that must be recognised when it comes back: whoever
// reads the table can't present it, and whoever writes into it forges none.
func (s *Sealer) MAC(purpose string, message []byte) []byte { return s.mac(purpose, message) }

// Seal encrypts plain, at most [MaxPlain] bytes, for one purpose. The same
// secret sealed twice looks different.
func (s *Sealer) Seal(purpose string, plain []byte) ([]byte, error) {
	if len(plain) > MaxPlain {
		return nil, fmt.Errorf("sealing: the secret has more than %d bytes", MaxPlain)
	}
	if purpose == "" || len(purpose) > MaxPurpose {
		return nil, fmt.Errorf("sealing: a purpose has 1 to %d bytes", MaxPurpose)
	}
	aead, err := s.aead(purpose)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	sealed := aead.Seal(nil, nil, plain, bound(purpose)) //nolint:gosec // The nonce is random, and the cipher's own doing.
	return append([]byte{version}, sealed...), nil
}

// Open returns what was sealed for that purpose. Errors are [ErrOpen].
func (s *Sealer) Open(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 || len(sealed) > 1+overhead+MaxPlain || sealed[0] != version {
		return nil, ErrOpen
	}
	aead, err := s.aead(purpose)
	if err != nil {
		return nil, ErrOpen
	}
	plain, err := aead.Open(nil, nil, sealed[1:], bound(purpose))
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}

// bound is what a sealed secret is bound to besides its key.
func bound(purpose string) []byte { return append([]byte{version}, purpose...) }
