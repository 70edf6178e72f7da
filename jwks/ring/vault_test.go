package ring_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/jwks/ring"
)

// safe is a vault in memory.
type safe struct {
	keys map[string]*ecdsa.PrivateKey
	lost bool
	bad  string // What is wrong with the keys that it makes.
}

type safeKey struct {
	*safe
	handle  string
	private *ecdsa.PrivateKey
}

var errLost = errors.New("the vault is lost")

func newSafe() *safe { return &safe{keys: map[string]*ecdsa.PrivateKey{}} }

func (v *safe) Generate(_ context.Context, alg string) (string, ring.Signer, error) {
	if v.lost || alg != "ES256" {
		return "", nil, errLost
	}
	curve := elliptic.P256()
	if v.bad == "curve" {
		curve = elliptic.P384()
	}
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return "", nil, err
	}
	handle := "key-" + rand.Text()
	switch v.bad {
	case "no handle":
		handle = ""
	case "handle":
		handle = strings.Repeat("h", 257)
	}
	v.keys[handle] = k
	return handle, &safeKey{v, handle, k}, nil
}

func (v *safe) Open(_ context.Context, handle string) (ring.Signer, error) {
	k, ok := v.keys[handle]
	if v.lost || !ok {
		return nil, errLost
	}
	return &safeKey{v, handle, k}, nil
}

func (v *safe) Destroy(_ context.Context, handle string) error {
	delete(v.keys, handle)
	return nil
}

func (k *safeKey) Public() crypto.PublicKey { return k.private.Public() }

func (k *safeKey) Sign(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	switch {
	case k.lost || k.keys[k.handle] == nil:
		return nil, errLost
	case k.bad == "DER":
		return ecdsa.SignASN1(rand.Reader, k.private, digest[:])
	}
	r, s, err := ecdsa.Sign(rand.Reader, k.private, digest[:])
	if err != nil {
		return nil, err
	}
	rs := make([]byte, 64)
	r.FillBytes(rs[:32])
	s.FillBytes(rs[32:])
	switch k.bad {
	case "signature":
		rs[40] ^= 1
	case "length":
		rs = rs[:20]
	}
	return rs, nil
}

// A ring moves into a vault and lives on there; what it drops is destroyed.
func TestVaultLife(t *testing.T) {
	c := newClock()
	conf := config(t, c)
	v := newSafe()
	create(t, conf)
	conf.Vault = v
	r := open(t, conf)
	first := sign(t, r)
	rotate(t, r)
	later(t, c, lead+2*stale, r)
	r = open(t, conf)
	second := sign(t, r)
	if signedBy(t, second) == signedBy(t, first) || len(v.keys) != 1 {
		t.Fatal("the key in the vault does not sign")
	}
	if err := errors.Join(verify(t, r.Document(), first), verify(t, r.Document(), second), r.Ready()); err != nil {
		t.Error(err)
	}
	old := slices.Collect(maps.Keys(v.keys))[0]
	rotate(t, r)
	later(t, c, lead+2*stale, r)
	r = open(t, conf) // Retired, it is published without the vault's being asked.
	if err := verify(t, r.Document(), second); err != nil {
		t.Error(err)
	}
	later(t, c, -lead, r) // The clock is set back: the next reading fetches it.
	if raw := sign(t, r); signedBy(t, raw) != signedBy(t, second) {
		t.Error("another key signs")
	}
	later(t, c, lead, r)
	later(t, c, hold, r)
	if v.keys[old] != nil || len(v.keys) != 1 {
		t.Errorf("the vault has %d keys, want the active one alone", len(v.keys))
	}
	// So is what was tainted.
	handles := slices.Collect(maps.Keys(v.keys))
	taint(t, r, r.List()[0].KID)
	if v.keys[handles[0]] != nil || len(v.keys) != 1 {
		t.Error("the tainted key is in the vault still")
	}
	if err := verify(t, r.Document(), sign(t, r)); err != nil {
		t.Error(err)
	}
	// And what a lost race made in vain.
	b := open(t, conf)
	conf.Storage.(*memory).before = func() { rotate(t, b) }
	rotate(t, r)
	if len(v.keys) != 2 {
		t.Errorf("after a race the vault has %d keys, want 2", len(v.keys))
	}
}

// A vault that is out of reach stops the signing, not the emergency.
func TestVaultLost(t *testing.T) {
	c := newClock()
	conf := config(t, c)
	v := newSafe()
	conf.Vault = v
	r := create(t, conf)
	v.lost = true
	if raw, err := r.Sign([]byte("{}"), "at+jwt"); !errors.Is(err, errLost) {
		t.Errorf("Sign = %s, %v", raw, err)
	}
	r = open(t, conf)
	if err := r.Ready(); !errors.Is(err, errLost) {
		t.Errorf("Ready = %v, want the vault's error", err)
	}
	if raw, err := r.Sign([]byte("{}"), "at+jwt"); !errors.Is(err, errLost) {
		t.Errorf("Sign = %s, %v", raw, err)
	}
	if len(published(t, r.Document())) != 1 {
		t.Error("the key is not published while its vault is out of reach")
	}
	if _, err := r.Rotate(t.Context()); !errors.Is(err, errLost) {
		t.Errorf("Rotate = %v, want the vault's error", err)
	}
	v.lost = false
	later(t, c, 0, r)
	if err := errors.Join(r.Ready(), verify(t, r.Document(), sign(t, r))); err != nil {
		t.Errorf("when the vault is back: %v", err)
	}
	conf.Vault = nil // For good.
	r = open(t, conf)
	if r.Ready() == nil {
		t.Error("Ready without the vault")
	}
	taint(t, r, r.List()[0].KID)
	if err := errors.Join(r.Ready(), verify(t, r.Document(), sign(t, r))); err != nil {
		t.Errorf("after the taint: %v", err)
	}
}

// A key whose signatures nobody could verify is not published.
func TestVaultIsNotBelieved(t *testing.T) {
	c := newClock()
	conf := config(t, c)
	for _, bad := range []string{"curve", "no handle", "handle", "DER", "signature", "length"} {
		v := newSafe()
		v.bad = bad
		conf.Vault, conf.Storage = v, &memory{}
		if _, err := ring.Create(t.Context(), conf); err == nil {
			t.Errorf("Create with a vault that gives a wrong %s succeeds", bad)
		}
		if bad != "no handle" && bad != "handle" && len(v.keys) != 0 {
			t.Errorf("the vault keeps the wrong %s", bad)
		}
	}
	v := newSafe()
	conf.Vault, conf.Storage = v, &memory{}
	create(t, conf)
	for handle := range v.keys {
		v.keys[handle], _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if r := open(t, conf); r.Ready() == nil {
		t.Error("Ready although the vault has another key under the handle")
	}
}
