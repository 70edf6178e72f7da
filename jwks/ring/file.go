package ring

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
)

// maxFile bounds the file: a key takes less than a kilobyte.
const maxFile = 2 << 10 * MaxKeys

// purpose is what the private keys are sealed for.
const purpose = "jwks/ring signing key"

// fileVersion is that of the format. A change that older programs can't follow,
// such as a new state, makes it greater.
const fileVersion = 1

// envelope is the file.
type envelope struct {
	Version int     `json:"version"`
	Keys    []entry `json:"keys"`
}

type entry struct {
	KID     string    `json:"kid"`
	Alg     string    `json:"alg"`
	State   state     `json:"state"`
	Created time.Time `json:"created"`
	Private []byte    `json:"private"` // A private JWK, sealed.
}

// assemble makes the document and the file of keys.
func assemble(keys []signingKey, s Sealer) (*contents, error) {
	file := envelope{Version: fileVersion}
	for _, k := range keys {
		private, err := toJWK(k.private, k.kid)
		if err != nil {
			return nil, err
		}
		plain, err := json.Marshal(private)
		if err != nil {
			return nil, errors.New("a private key can't be written as a JWK")
		}
		sealed, err := s.Seal(purpose, plain)
		clear(plain)
		if err != nil {
			return nil, fmt.Errorf("sealing a private key: %w", err)
		}
		file.Keys = append(file.Keys, entry{k.kid, alg, k.state, k.created, sealed})
	}
	data, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return nil, err
	}
	return hold(keys, append(data, '\n'))
}

// read is assemble's other way.
func read(data []byte, s Sealer) (*contents, error) {
	var file envelope
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return nil, fmt.Errorf("it is no key ring: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the key ring in its file")
	}
	if file.Version != fileVersion {
		return nil, fmt.Errorf("it has version %d, and this program knows %d", file.Version, fileVersion)
	}
	if len(file.Keys) > MaxKeys {
		return nil, fmt.Errorf("it has more than %d keys", MaxKeys)
	}
	keys := make([]signingKey, 0, len(file.Keys))
	for i, e := range file.Keys {
		k, err := e.open(s)
		if err != nil {
			return nil, fmt.Errorf("key number %d: %w", i+1, err)
		}
		keys = append(keys, k)
	}
	return hold(keys, data)
}

func (e entry) open(s Sealer) (signingKey, error) {
	if e.Alg != alg || e.State != active && e.State != retiring || e.Created.IsZero() {
		return signingKey{}, errors.New("its alg, state or time is not one that this program writes")
	}
	plain, err := s.Open(purpose, e.Private)
	if err != nil {
		return signingKey{}, fmt.Errorf("opening its private part: %w", err)
	}
	defer clear(plain)
	private, err := fromJWK(plain)
	if err != nil {
		return signingKey{}, err
	}
	// The file's outer part is not sealed, so nothing in it is believed that the
	// key itself can say.
	kid, err := thumbprint(private)
	if err != nil || kid != e.KID {
		return signingKey{}, errors.New("its kid is not its thumbprint")
	}
	return signingKey{e.KID, e.State, e.Created, private}, nil
}

// hold checks what must be true of the keys together and makes their document.
func hold(keys []signingKey, file []byte) (*contents, error) {
	c := &contents{keys: keys, file: file}
	set, seen := jwk.NewSet(), map[string]bool{}
	for i := range keys {
		k := &keys[i]
		if seen[k.kid] {
			return nil, errors.New("a key stands in it twice")
		}
		seen[k.kid] = true
		if k.state == active {
			if c.active != nil {
				return nil, errors.New("it has two active keys")
			}
			c.active = k
		}
		public, err := toJWK(&k.private.PublicKey, k.kid)
		if err != nil {
			return nil, err
		}
		if err := set.AddKey(public); err != nil {
			return nil, errors.New("a public key can't be published")
		}
	}
	if c.active == nil {
		return nil, errors.New("it has no active key")
	}
	var err error
	if c.document, err = json.Marshal(set); err != nil {
		return nil, errors.New("the public keys can't be written as a JWK Set")
	}
	return c, nil
}

// In what follows jwx's errors are not passed on: they may quote what they
// could not read, which is a private key.

// toJWK returns key, public or private, as a JWK with its kid.
func toJWK(key any, kid string) (jwk.Key, error) {
	k, err := jwk.FromRaw(key)
	if err != nil {
		return nil, errors.New("a key can't be made a JWK")
	}
	err = errors.Join(k.Set(jwk.KeyIDKey, kid), k.Set(jwk.AlgorithmKey, jwa.ES256), k.Set(jwk.KeyUsageKey, jwk.ForSignature))
	if err != nil {
		return nil, errors.New("a key can't be made a JWK")
	}
	return k, nil
}

// fromJWK returns the private key of a JWK. jwx takes the public part as it
// stands, so it is not used but computed anew.
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

// thumbprint returns the kid of a key (RFC 7638): it says which key it is, not
// when it was made or how many there were.
func thumbprint(private *ecdsa.PrivateKey) (string, error) {
	k, err := jwk.FromRaw(&private.PublicKey)
	if err != nil {
		return "", errors.New("a key can't be made a JWK")
	}
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", errors.New("a key has no thumbprint")
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}
