package jwks_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/jwks"
)

const claims = `{"iss":"https://hourpass.example","sub":"corp:0c9a6f0e","aud":"https://models.example","client_id":"AbCdEfGh01234567",` +
	`"iat":1800000000,"nbf":1800000000,"exp":1800003600,"jti":"ZQ3M5B2TQ5CWV4HDGJ7N6XR2YA","scope":"chat:llama-3.1 embeddings:bge-m3","grant":"free-tier"}`

// One token checked, signature and all, beside the bare signature.
func BenchmarkVerify(b *testing.B) {
	for _, name := range []string{"ec", "ed", "rsa"} {
		p := parties()[name]
		raw := p.token(b, `{"alg":"`+p.alg+`","kid":"`+p.kid+`","typ":"at+jwt"}`, claims)
		set := parse(b, documentOf(b, "ec", "ed", "rsa"))
		end := strings.LastIndexByte(raw, '.')
		signature, err := decodeB64(raw[end+1:])
		if err != nil {
			b.Fatal(err)
		}
		b.Run(p.alg+"/whole", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := set.Verify(ours, raw); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(p.alg+"/bare", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !bare(p.private.Public(), raw[:end], signature) {
					b.Fatal("does not verify")
				}
			}
		})
	}
}

func bare(public any, signed string, signature []byte) bool {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		digest := sha256.Sum256([]byte(signed))
		return ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	case ed25519.PublicKey:
		return ed25519.Verify(public, []byte(signed), signature)
	case *rsa.PublicKey:
		digest := sha256.Sum256([]byte(signed))
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
	}
	return false
}

// A flood: tokens that are refused before any signature is computed.
func BenchmarkRefuse(b *testing.B) {
	good := parties()["ec"].token(b, goodHeader, claims)
	set := parse(b, documentOf(b, "ec"))
	for name, raw := range map[string]string{
		"unknown-kid": b64([]byte(`{"alg":"ES256","kid":"made-up","typ":"at+jwt"}`)) + good[strings.IndexByte(good, '.'):],
		"junk":        strings.Repeat("A", 700),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := set.Verify(ours, raw); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}

// The question that a cache of verdicts asks on each hit.
func BenchmarkGeneration(b *testing.B) {
	r, err := jwks.NewRemote(jwks.Config{URL: keysURL, Client: &http.Client{Transport: &issuer{answer: serving(documentOf(b, "ec"))}}, Profile: ours})
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = r.Run(b.Context()) }()
	now := time.Now()
	for !r.Status(now).Ready {
		time.Sleep(time.Millisecond)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Generation(now); err != nil {
			b.Fatal(err)
		}
	}
}
