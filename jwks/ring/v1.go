package ring

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
)

// Version 1 of the file: keys of ES256 alone, each private key sealed by itself,
// states and times not sealed. It is read and never written: the first change to
// the ring makes it one of version 2.

// purposeV1 is what its private keys are sealed for.
const purposeV1 = "jwks/ring signing key"

type entryV1 struct {
	KID     string    `json:"kid"`
	Alg     string    `json:"alg"`
	State   State     `json:"state"`
	Created time.Time `json:"created"`
	Private []byte    `json:"private"` // A private JWK, sealed.
}

// decodeV1 reads the keys, oldest first. Each signed until the next was made;
// those of which all tokens have expired are left out.
func (r *Ring) decodeV1(entries []entryV1, now time.Time) (life, error) {
	var l life
	if len(entries) > maxRead {
		return l, fmt.Errorf("it has more than %d keys", maxRead)
	}
	for i, e := range entries {
		last := i == len(entries)-1
		if last != (e.State == Active) || !last && e.State != Retiring {
			return l, errors.New("not its last key alone is active")
		}
		k, err := e.open(r.c.Sealer)
		if err != nil {
			return l, fmt.Errorf("key number %d: %w", i+1, err)
		}
		if !last {
			k.Retires = ceil(entries[i+1].Created)
			k.GoneAt = ceil(k.Retires.Add(r.c.Hold))
			if !now.Before(k.GoneAt) {
				continue
			}
		}
		l.keys = append(l.keys, k)
	}
	return l, nil
}

func (e entryV1) open(s Sealer) (key, error) {
	if e.Alg != ES256 || e.Created.IsZero() {
		return key{}, errors.New("its alg or time is not one that version 1 has")
	}
	plain, err := s.Open(purposeV1, e.Private)
	if err != nil {
		return key{}, fmt.Errorf("opening its private part: %w", err)
	}
	defer clear(plain)
	private, err := fromJWK(plain)
	if err != nil {
		return key{}, err
	}
	m, err := newMaterial(ES256, &private.PublicKey)
	if err != nil {
		return key{}, err
	}
	// The file's outer part is not sealed, so nothing in it is believed that the
	// key itself can say.
	if m.kid != e.KID {
		return key{}, errors.New("its kid is not its thumbprint")
	}
	m.signer = &software{private}
	at := floor(e.Created)
	return key{Key{KID: m.kid, Alg: ES256, Created: at, Published: at, ActiveFrom: at}, m}, nil
}

// fromJWK returns the private key of a JWK. jwx takes the public part as it
// stands, so it is not used but computed anew. jwx's errors are not passed on:
// they may quote what they could not read, which is a private key.
func fromJWK(doc []byte) (*ecdsa.PrivateKey, error) {
	var read ecdsa.PrivateKey
	if err := jwk.ParseRawKey(doc, &read); err != nil {
		return nil, errors.New("what was sealed is no private key of P-256")
	}
	d, err := read.Bytes()
	if err != nil {
		return nil, errors.New("what was sealed is no private key of P-256")
	}
	defer clear(d)
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d)
	if err != nil {
		return nil, errors.New("what was sealed is no private key of P-256")
	}
	return private, nil
}
