// Package assertion tells a model server who calls, in a way that it can check:
// a JWT of the verifier's own, for that one server and that one call, instead of
// the client's token, which no server behind the verifier ever sees. It refuses
// to know requests and how callers were judged. Start with [Open]; the door is
// [Keys.Sign].
package assertion

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"
)

// Type is the header's typ, so that no assertion passes for a token, nor a token
// for an assertion (RFC 8725, section 3.11).
const Type = "hourpass-assertion+jwt"

// Lifetime is from iat to exp. An assertion is made for each call, and read when
// the call arrives.
const Lifetime = time.Minute

// Bounds of a file of keys.
const (
	maxFile = 16 << 10 // Bytes.
	maxKeys = 4
)

// Claims are who calls, and what for. What is empty is left out.
type Claims struct {
	Subject  string // sub of the token.
	ClientID string // client_id of the token: the machine key's id.
	Team     string // team of the token.
	Tier     string // tier of the token.
	Grant    string // grant of the token.
	Token    string // jti of the token. Not in assertions.
	Decision string // The call's id in the audit; the assertion's jti.
	Model    string
	Action   string
}

// Keys are what assertions are signed with. They are safe for concurrent use.
type Keys struct {
	issuer string
	key    *ecdsa.PrivateKey
	header string // Encoded, with its dot.
	jwks   []byte
}

// Open reads private keys for P-256 from a file of PEM blocks, PKCS #8 or SEC 1,
// that nobody but its owner can read. The first signs; all are published, so that
// a next key can be known before it signs, and the last one after.
func Open(path, issuer string) (*Keys, error) {
	if issuer == "" {
		return nil, errors.New("assertions want an issuer")
	}
	text, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("reading the keys of assertions: %w", err)
	}
	k := &Keys{issuer: issuer}
	set := struct {
		Keys []publicKey `json:"keys"`
	}{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "EC PARAMETERS" { // openssl ecparam -genkey writes the curve first.
			continue
		}
		key, err := parse(block)
		if err != nil {
			return nil, fmt.Errorf("reading the keys of assertions: %s: %w", path, err)
		}
		public, err := publish(&key.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("reading the keys of assertions: %s: %w", path, err)
		}
		if k.key == nil {
			k.key = key
			k.header = encode([]byte(`{"alg":"ES256","kid":"`+public.KeyID+`","typ":"`+Type+`"}`)) + "."
		}
		set.Keys = append(set.Keys, public)
	}
	if len(set.Keys) == 0 || len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("reading the keys of assertions: %s has %d keys, want 1 to %d", path, len(set.Keys), maxKeys)
	}
	k.jwks, err = json.Marshal(set)
	return k, err
}

// JWKS is the public keys as a document (RFC 7517, section 5).
func (k *Keys) JWKS() []byte { return k.jwks }

// payload is what assertions say.
type payload struct {
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	Subject  string `json:"sub"`
	ClientID string `json:"client_id"`
	ID       string `json:"jti"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	Grant    string `json:"grant,omitempty"`
	Tier     string `json:"tier,omitempty"`
	Team     string `json:"team,omitempty"`
	Action   string `json:"action,omitempty"`
	Model    string `json:"model,omitempty"`
}

// Sign returns the assertion for a call that goes to audience now.
func (k *Keys) Sign(audience string, c Claims, now time.Time) (string, error) {
	for _, s := range []string{audience, c.Subject, c.ClientID, c.Decision, c.Grant, c.Tier, c.Team, c.Action, c.Model} {
		if !utf8.ValidString(s) { // encoding/json would make one of two.
			return "", errors.New("signing an assertion: a claim is not UTF-8")
		}
	}
	iat := now.Unix()
	body, err := json.Marshal(payload{
		Issuer: k.issuer, Audience: audience, Subject: c.Subject, ClientID: c.ClientID, ID: c.Decision,
		IssuedAt: iat, Expires: iat + int64(Lifetime/time.Second), Grant: c.Grant, Tier: c.Tier, Team: c.Team, Action: c.Action, Model: c.Model,
	})
	if err != nil {
		return "", fmt.Errorf("signing an assertion: %w", err)
	}
	signed := k.header + encode(body)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, k.key, digest[:])
	if err != nil {
		return "", fmt.Errorf("signing an assertion: %w", err)
	}
	var signature [64]byte // RFC 7518, section 3.4.
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + encode(signature[:]), nil
}

// publicKey is a key of P-256 (RFC 7518, section 6.2.1).
type publicKey struct {
	Type      string `json:"kty"`
	Curve     string `json:"crv"`
	X         string `json:"x"`
	Y         string `json:"y"`
	Algorithm string `json:"alg"`
	Use       string `json:"use"`
	KeyID     string `json:"kid"` // The thumbprint (RFC 7638).
}

func publish(key *ecdsa.PublicKey) (publicKey, error) {
	point, err := key.Bytes() // 4, X, Y.
	if err != nil {
		return publicKey{}, err
	}
	x, y := encode(point[1:33]), encode(point[33:])
	print := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`))
	return publicKey{"EC", "P-256", x, y, "ES256", "sig", encode(print[:])}, nil
}

func parse(block *pem.Block) (*ecdsa.PrivateKey, error) {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("it has a block %q, want only private keys", block.Type)
	}
	if err != nil {
		return nil, errors.New("a key can't be read") // The cause may quote it.
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("a key is not one for P-256")
	}
	return ec, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat() // Of what was opened, not of what the path names by now.
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s has mode %04o, want 0600", path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return text, err
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
