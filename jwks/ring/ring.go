// Package ring holds the issuer's private signing keys: it makes them, keeps
// them sealed in a file, signs with them and says what their public halves are.
// It is the one place where their bytes exist; no method gives them out, and no
// way of printing a [Ring] shows them.
//
// It knows nothing of what it signs, of HTTP, or of the key that seals the file:
// that is behind [Sealer].
//
// Start with [Create] and [Open], then [Ring.Sign].
package ring

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hourpass/hourpass/jwks/internal/disk"
)

// MaxKeys bounds the keys of a ring. Verifiers refuse a longer key set.
const MaxKeys = 100

// alg is the only algorithm yet: the one that most verifiers, HSMs and cloud
// key services know.
const alg = "ES256"

// Sealer encrypts and decrypts small secrets. What is sealed for one purpose
// opens for no other.
type Sealer interface {
	Seal(purpose string, plain []byte) ([]byte, error)
	Open(purpose string, sealed []byte) ([]byte, error)
}

// Ring is a set of signing keys, of which one, the active one, signs. Retiring
// keys stay published, so that tokens already out keep verifying. A Ring is safe
// for concurrent use.
type Ring struct {
	path   string
	sealer Sealer

	rotating sync.Mutex
	// An atomic pointer, for readers without a lock. It also hides the private
	// keys: fmt shows an address, reflection an unsafe.Pointer.
	now atomic.Pointer[contents]
}

// contents never change once they are in a ring.
type contents struct {
	keys     []signingKey // Oldest first. Exactly one is active.
	active   *signingKey
	document []byte // The JWKS.
	file     []byte // As on disk.
}

type signingKey struct {
	kid     string // RFC 7638 thumbprint.
	state   state
	created time.Time
	private *ecdsa.PrivateKey
}

// state is where a key stands in its life.
type state string

const (
	active   state = "active"   // Signs, and is published.
	retiring state = "retiring" // Signs no more, and is published still.
)

// Create makes a ring with one fresh key in a new file at path. If the file is
// there already it is left alone, and the error matches [os.ErrExist]: its keys
// may have signed what is still out. The folder is made with mode 0700 if need be.
func Create(path string, s Sealer, now time.Time) (*Ring, error) {
	if err := create(path, s, now); err != nil {
		return nil, fmt.Errorf("creating a key ring: %w", err)
	}
	return Open(path, s) // What was written can be read, or we say so now.
}

func create(path string, s Sealer, now time.Time) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// Claims the name, so that of two creators one loses. The empty file that a
	// crash may leave here is no ring, and Open says so.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	if err := f.Close(); err != nil {
		return err
	}
	k, err := newKey(now)
	if err != nil {
		return err
	}
	c, err := assemble([]signingKey{k}, s)
	if err != nil {
		return err
	}
	return disk.Write(path, c.file)
}

// Open reads the ring at path. A missing file is an error that matches
// [os.ErrNotExist]: an issuer that lost its keys must not start over with others
// by surprise. A file that others than its owner may read or write is refused,
// and so is one in which anything is not as this package writes it.
func Open(path string, s Sealer) (*Ring, error) {
	data, err := disk.Read(path, maxFile, 0o077)
	if err != nil {
		return nil, fmt.Errorf("opening the key ring: %w", err)
	}
	c, err := read(data, s)
	if err != nil {
		return nil, fmt.Errorf("opening the key ring %s: %w", path, err)
	}
	r := &Ring{path: path, sealer: s}
	r.now.Store(c)
	return r, nil
}

func newKey(now time.Time) (signingKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return signingKey{}, err
	}
	kid, err := thumbprint(private)
	if err != nil {
		return signingKey{}, err
	}
	return signingKey{kid, active, now.UTC().Truncate(time.Second), private}, nil
}

// Sign returns payload as a compact JWS under the active key. Its header holds
// alg, kid and typ and nothing else; typ must not be empty.
func (r *Ring) Sign(payload []byte, typ string) (string, error) {
	if typ == "" {
		return "", errors.New("signing: no typ, so that one kind of token could pass for another")
	}
	k := r.now.Load().active
	header, err := json.Marshal(struct {
		Alg string `json:"alg"`
		KID string `json:"kid"`
		Typ string `json:"typ"`
	}{alg, k.kid, typ})
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	b64 := base64.RawURLEncoding
	const signature = 64
	jws := make([]byte, 0, b64.EncodedLen(len(header))+b64.EncodedLen(len(payload))+b64.EncodedLen(signature)+2)
	jws = b64.AppendEncode(jws, header)
	jws = append(jws, '.')
	jws = b64.AppendEncode(jws, payload)
	digest := sha256.Sum256(jws)
	x, y, err := ecdsa.Sign(rand.Reader, k.private, digest[:])
	if err != nil {
		return "", errors.New("signing: the active key can't sign")
	}
	var rs [signature]byte // r and s at full length (RFC 7518, section 3.4).
	x.FillBytes(rs[:32])
	y.FillBytes(rs[32:])
	jws = append(jws, '.')
	return string(b64.AppendEncode(jws, rs[:])), nil
}

// Document returns the JWK Set of all published keys, from memory. The caller
// must not change it.
func (r *Ring) Document() []byte { return r.now.Load().document }

// Rotate adds a fresh key, which signs from now on; the one that signed until
// now stays published. The file is written first: no token is ever signed by a
// key that a crash could lose. If the file is not what this ring wrote or read,
// another process has rotated it, and it is refused rather than overwritten.
func (r *Ring) Rotate(now time.Time) error {
	r.rotating.Lock()
	defer r.rotating.Unlock()
	c, err := r.rotated(now)
	if err != nil {
		return fmt.Errorf("rotating the signing key: %w", err)
	}
	r.now.Store(c)
	return nil
}

func (r *Ring) rotated(now time.Time) (*contents, error) {
	old := r.now.Load()
	if len(old.keys) >= MaxKeys {
		return nil, fmt.Errorf("the ring has %d keys already", MaxKeys)
	}
	onDisk, err := disk.Read(r.path, maxFile, 0o077)
	if err != nil {
		return nil, err
	}
	if string(onDisk) != string(old.file) {
		return nil, fmt.Errorf("%s was changed by somebody else", r.path)
	}
	fresh, err := newKey(now)
	if err != nil {
		return nil, err
	}
	keys := make([]signingKey, 0, len(old.keys)+1)
	for _, k := range old.keys {
		k.state = retiring
		keys = append(keys, k)
	}
	c, err := assemble(append(keys, fresh), r.sealer)
	if err != nil {
		return nil, err
	}
	return c, disk.Write(r.path, c.file)
}

// String names the ring by its file and its active key.
func (r *Ring) String() string {
	return fmt.Sprintf("key ring %s, active key %s", r.path, r.now.Load().active.kid)
}

// Format shows the same for every verb, so that no %+v walks into the keys.
func (r *Ring) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(r.String())) }

// LogValue logs what String says.
func (r *Ring) LogValue() slog.Value { return slog.StringValue(r.String()) }

// MarshalText makes encoders write what String says.
func (r *Ring) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
