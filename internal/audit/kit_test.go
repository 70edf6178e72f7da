package audit_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at() time.Time { return noon }

// open opens a log that the end of the test closes, if it is not closed by then.
func open(t testing.TB, c audit.Config) *audit.Log {
	t.Helper()
	l, err := tryOpen(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func tryOpen(c audit.Config) (*audit.Log, error) {
	if c.Now == nil {
		c.Now = at
	}
	if c.Program == "" {
		c.Program = "test"
	}
	return audit.Open(c)
}

func appends(t testing.TB, l *audit.Log, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := l.Append(t.Context(), record(id)); err != nil {
			t.Fatal(err)
		}
	}
}

func record(id string) audit.Record {
	return audit.Record{Time: noon, Decision: id, Event: "call", Outcome: audit.Allow, Model: "faq-bot"}
}

func closed(t testing.TB, l *audit.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// write makes a log of these records and returns its file.
func write(t testing.TB, c audit.Config, ids ...string) []byte {
	t.Helper()
	c.Path = filepath.Join(t.TempDir(), "audit")
	l := open(t, c)
	appends(t, l, ids...)
	closed(t, l)
	return content(t, c.Path)
}

func content(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func ids(t testing.TB, path string) (list []string) {
	t.Helper()
	records, err := audit.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		list = append(list, r.Decision)
	}
	return list
}

func verify(t testing.TB, o audit.Options, files ...[]byte) audit.Report {
	t.Helper()
	c := audit.NewChecker(o)
	for i, f := range files {
		if err := c.File(fmt.Sprint("file", i+1), bytes.NewReader(f)); err != nil {
			t.Fatal(err)
		}
	}
	return c.Report()
}

func good(t testing.TB, o audit.Options, files ...[]byte) audit.Report {
	t.Helper()
	r := verify(t, o, files...)
	if r.Problem != nil {
		t.Fatalf("problem %+v in\n%s", *r.Problem, bytes.Join(files, []byte("--\n")))
	}
	return r
}

func lines(b []byte) [][]byte { return slices.Collect(bytes.Lines(b)) }

// signer signs with one key, of any of the three kinds.
type signer struct {
	key    crypto.Signer
	alg    string
	header string // In place of the right one.
	err    error
	signed atomic.Int32
	asked  atomic.Int32
}

func newSigner(t testing.TB, alg string) *signer {
	t.Helper()
	s := &signer{alg: alg}
	var err error
	switch alg {
	case "ES256":
		s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, s.key, err = ed25519.GenerateKey(rand.Reader)
	case "RS256":
		s.key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *signer) with(c audit.Config) audit.Config {
	c.Signer, c.Keys = s, s.document
	return c
}

var b64 = base64.RawURLEncoding

// jwk returns the members of the public key that make it up.
func (s *signer) jwk() map[string]string {
	switch k := s.key.Public().(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			panic(err)
		}
		return map[string]string{"kty": "EC", "crv": "P-256", "x": b64.EncodeToString(point[1:33]), "y": b64.EncodeToString(point[33:])}
	case ed25519.PublicKey:
		return map[string]string{"kty": "OKP", "crv": "Ed25519", "x": b64.EncodeToString(k)}
	case *rsa.PublicKey:
		e := binary.BigEndian.AppendUint32(nil, uint32(k.E))
		return map[string]string{"kty": "RSA", "n": b64.EncodeToString(k.N.Bytes()), "e": b64.EncodeToString(bytes.TrimLeft(e, "\x00"))}
	}
	panic("no key")
}

func (s *signer) thumbprint() string {
	text, err := json.Marshal(s.jwk()) // In the order of the names, as RFC 7638 wants it.
	if err != nil {
		panic(err)
	}
	digest := sha256.Sum256(text)
	return b64.EncodeToString(digest[:])
}

func (s *signer) document() []byte {
	jwk := s.jwk()
	maps.Copy(jwk, map[string]string{"kid": "the-key", "alg": s.alg, "use": "sig"})
	doc, err := json.Marshal(map[string]any{"keys": []any{map[string]string{"kty": "XX", "kid": "strange"}, jwk}})
	if err != nil {
		panic(err)
	}
	return doc
}

func (s *signer) Sign(payload []byte, typ string) (string, error) {
	s.asked.Add(1)
	if s.err != nil {
		return "", s.err
	}
	s.signed.Add(1)
	header := s.header
	if header == "" {
		header = `{"alg":"` + s.alg + `","kid":"the-key","typ":"` + typ + `"}`
	}
	signed := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString(payload)
	digest := sha256.Sum256([]byte(signed))
	var signature []byte
	var err error
	switch k := s.key.(type) {
	case *ecdsa.PrivateKey:
		x, y, signErr := ecdsa.Sign(rand.Reader, k, digest[:])
		if err = signErr; err == nil {
			signature = append(x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32))...)
		}
	case ed25519.PrivateKey:
		signature = ed25519.Sign(k, []byte(signed))
	case *rsa.PrivateKey:
		signature, err = rsa.SignPKCS1v15(nil, k, crypto.SHA256, digest[:])
	default:
		err = errors.New("no key")
	}
	return signed + "." + b64.EncodeToString(signature), err
}
