package ring

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
)

// maxData bounds what is read as a ring: more than any that fits one sealed
// secret, in base64.
const maxData = 256 << 10

// maxRead bounds the keys of a ring that is read: version 1 made that many.
const maxRead = 100

// purpose is what a ring is sealed for.
const purpose = "jwks/ring v2"

// fileVersion is that of the format. A change that older programs can't follow
// makes it greater.
const fileVersion = 2

// envelope is what the storage holds, in JSON. Everything is sealed together:
// were it the private keys alone, who can write the storage could make a retired
// key sign again.
type envelope struct {
	Version int       `json:"version"`
	Sealed  []byte    `json:"sealed,omitempty"` // A letter.
	Keys    []entryV1 `json:"keys,omitempty"`   // Of version 1.
}

// letter is what is sealed.
type letter struct {
	Serial  int64     `json:"serial"`
	Keys    []entry   `json:"keys"`
	Tainted []Tainted `json:"tainted,omitempty"`
}

type entry struct {
	KID        string    `json:"kid"`
	Alg        string    `json:"alg"`
	Created    time.Time `json:"created"`
	Published  time.Time `json:"published"`
	ActiveFrom time.Time `json:"active_from"`
	Retires    time.Time `json:"retires,omitzero"`
	GoneAt     time.Time `json:"gone_at,omitzero"`
	Public     []byte    `json:"public"`            // PKIX.
	Private    []byte    `json:"private,omitempty"` // PKCS #8.
	Handle     string    `json:"handle,omitempty"`  // Instead of Private: in the vault.
}

// encode writes and seals a ring.
func encode(l life, serial int64, s Sealer) ([]byte, error) {
	inner := letter{Serial: serial, Tainted: l.tainted}
	defer func() {
		for _, e := range inner.Keys {
			clear(e.Private)
		}
	}()
	for _, k := range l.keys {
		e := entry{
			KID: k.KID, Alg: k.Alg, Created: k.Created, Published: k.Published, ActiveFrom: k.ActiveFrom,
			Retires: k.Retires, GoneAt: k.GoneAt, Handle: k.material.handle,
		}
		var err error
		if e.Public, err = x509.MarshalPKIXPublicKey(k.material.public); err != nil {
			return nil, errors.New("a public key can't be written")
		}
		if soft, ok := k.material.signer.(*software); ok {
			if e.Private, err = x509.MarshalPKCS8PrivateKey(soft.private); err != nil {
				return nil, errors.New("a private key can't be written")
			}
		}
		inner.Keys = append(inner.Keys, e)
	}
	plain, err := json.Marshal(inner)
	if err != nil {
		return nil, errors.New("the ring can't be written")
	}
	sealed, err := s.Seal(purpose, plain)
	clear(plain)
	if err != nil {
		return nil, fmt.Errorf("sealing the ring: %w", err)
	}
	data, err := json.Marshal(envelope{Version: fileVersion, Sealed: sealed})
	return append(data, '\n'), err
}

// decode is encode's other way. It opens the private halves of all keys but
// those that are retired and in the vault.
func (r *Ring) decode(ctx context.Context, data []byte, now time.Time) (*held, error) {
	if len(data) > maxData {
		return nil, fmt.Errorf("it has more than %d bytes", maxData)
	}
	var outer envelope
	if err := unmarshal(data, &outer); err != nil {
		return nil, fmt.Errorf("it is no key ring: %w", err)
	}
	switch {
	case outer.Version == 1 && outer.Sealed == nil:
		l, err := r.decodeV1(outer.Keys, now)
		if err != nil {
			return nil, err
		}
		return hold(l, 0)
	case outer.Version != fileVersion || outer.Keys != nil:
		return nil, fmt.Errorf("it has version %d, and this program knows 1 and %d", outer.Version, fileVersion)
	}
	plain, err := r.c.Sealer.Open(purpose, outer.Sealed)
	if err != nil {
		return nil, fmt.Errorf("opening the sealed ring: %w", err)
	}
	defer clear(plain)
	var inner letter
	if err := unmarshal(plain, &inner); err != nil {
		return nil, errors.New("what was sealed is no key ring") // The reason could quote a private key.
	}
	defer func() {
		for _, e := range inner.Keys {
			clear(e.Private)
		}
	}()
	if len(inner.Keys) > maxRead {
		return nil, fmt.Errorf("it has more than %d keys", maxRead)
	}
	l := life{tainted: inner.Tainted}
	for i, e := range inner.Keys {
		k, err := e.open()
		if err != nil {
			return nil, fmt.Errorf("key number %d: %w", i+1, err)
		}
		l.keys = append(l.keys, k)
	}
	h, err := hold(l, inner.Serial)
	if err != nil {
		return nil, err
	}
	for _, k := range h.keys[h.signing(now):] {
		r.fetch(ctx, k.material)
	}
	return h, nil
}

// unmarshal reads one JSON value, of known members, that nothing follows.
func unmarshal(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	return nil
}

// open returns the key of an entry, without its private half if that is in the
// vault.
func (e entry) open() (key, error) {
	public, err := x509.ParsePKIXPublicKey(e.Public)
	if err != nil {
		return key{}, errors.New("its public half can't be read")
	}
	m, err := newMaterial(e.Alg, public)
	if err != nil {
		return key{}, err
	}
	if m.kid != e.KID {
		return key{}, errors.New("its kid is not its thumbprint")
	}
	if (e.Handle == "") == (e.Private == nil) {
		return key{}, errors.New("its private half is not in one place")
	}
	m.handle, m.trouble = e.Handle, errRetired
	if e.Handle == "" {
		private, err := x509.ParsePKCS8PrivateKey(e.Private)
		soft, ok := private.(crypto.Signer)
		if err != nil || !ok || !same(soft.Public(), public) {
			return key{}, errors.New("its private half is none, or another key's")
		}
		m.signer, m.trouble = &software{soft}, nil
	}
	return key{Key{
		KID: e.KID, Alg: e.Alg, Created: e.Created, Published: e.Published, ActiveFrom: e.ActiveFrom, Retires: e.Retires, GoneAt: e.GoneAt,
	}, m}, nil
}

// fetch opens a key in the vault. The ring opens without it, so that a key whose
// vault is lost can be tainted.
func (r *Ring) fetch(ctx context.Context, m *material) {
	if m.handle == "" {
		return
	}
	s, err := r.openVault(ctx, m.handle)
	if err == nil && !same(s.Public(), m.public) {
		err = errors.New("the vault has another key under its handle")
	}
	if err != nil {
		m.trouble = fmt.Errorf("opening the key %s in its vault: %w", m.kid, err)
		return
	}
	m.signer, m.trouble = s, nil
}

func same(a, b crypto.PublicKey) bool {
	comparable, ok := a.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && comparable.Equal(b)
}

// hold checks what must be true of the keys together and makes their document.
func hold(l life, serial int64) (*held, error) {
	h := &held{life: l, serial: serial}
	set, seen := jwk.NewSet(), map[string]bool{}
	for _, t := range l.tainted {
		seen[t.KID] = true
	}
	for i, k := range l.keys {
		if seen[k.KID] {
			return nil, errors.New("a key stands in it twice, or is tainted")
		}
		seen[k.KID] = true
		last := i == len(l.keys)-1
		if last != k.Retires.IsZero() || last != k.GoneAt.IsZero() || k.GoneAt.Before(k.Retires) ||
			!last && l.keys[i+1].ActiveFrom.Before(k.Retires) {
			return nil, errors.New("the times of its keys are not in order")
		}
		public, err := k.material.jwk()
		if err != nil {
			return nil, err
		}
		if err := set.AddKey(public); err != nil {
			return nil, errors.New("a public key can't be published")
		}
	}
	if len(l.keys) == 0 {
		return nil, errors.New("it has no key")
	}
	var err error
	if h.document, err = json.Marshal(set); err != nil {
		return nil, errors.New("the public keys can't be written as a JWK Set")
	}
	return h, nil
}
