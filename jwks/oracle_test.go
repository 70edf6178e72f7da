package jwks_test

import (
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/jwks"
)

var joseAlgorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA, jose.RS256}

// others returns what jwx and go-jose read in a token under the same keys.
func others(t testing.TB, doc []byte, p party, raw string) (byJWX, byJOSE []byte, err error) {
	t.Helper()
	set, err := jwk.Parse(doc)
	if err != nil {
		t.Fatalf("jwx can't read the key set: %v", err)
	}
	if byJWX, err = jws.Verify([]byte(raw), jws.WithKeySet(set)); err != nil {
		return nil, nil, err
	}
	parsed, err := jose.ParseSignedCompact(raw, joseAlgorithms)
	if err != nil {
		return nil, nil, err
	}
	byJOSE, err = parsed.Verify(p.private.Public())
	return byJWX, byJOSE, err
}

// What jwx signs, we accept, and read the same payload.
func TestAcceptsWhatJWXSigns(t *testing.T) {
	doc := documentOf(t, "ec", "p384", "ed", "rsa")
	set := parse(t, doc)
	rapid.Check(t, func(rt *rapid.T) {
		p := parties()[rapid.SampledFrom([]string{"ec", "p384", "ed", "rsa"}).Draw(rt, "who")]
		payload := rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(rt, "payload")
		h := jws.NewHeaders()
		_ = h.Set(jws.KeyIDKey, p.kid)
		_ = h.Set(jws.TypeKey, "at+jwt")
		raw, err := jws.Sign(payload, jws.WithKey(jwa.SignatureAlgorithm(p.alg), p.private, jws.WithProtectedHeaders(h)))
		if err != nil {
			rt.Fatal(err)
		}
		got, err := set.Verify(ours, string(raw))
		if err != nil || string(got) != string(payload) {
			rt.Fatalf("Verify(%s) = %q, %v, want %q", raw, got, err, payload)
		}
	})
}

// Of what comes out of changing a good token at random we accept nothing but
// the token itself; and what we accept, jwx and go-jose accept and read alike.
// (No header here begins with white space, which RFC 7515 allows and jwx refuses.)
func TestAcceptsNoMoreThanOthers(t *testing.T) {
	doc := documentOf(t, "ec", "ed", "rsa")
	set := parse(t, doc)
	loose := jwks.Profile{Types: []string{"", "at+jwt"}, Algorithms: ours.Algorithms}
	const alphabet = "ABCXYZabcxyz0189-_.=+/\n\x00 "
	rapid.Check(t, func(rt *rapid.T) {
		p := parties()[rapid.SampledFrom([]string{"ec", "ed", "rsa"}).Draw(rt, "who")]
		header := rapid.SampledFrom([]string{
			`{"alg":"ALG","kid":"KID","typ":"at+jwt"}`, `{"kid":"KID","alg":"ALG"}`,
			`{"alg":"ALG","kid":"KID","typ":"at+jwt","x5t":"AAAA"}`, `{"alg":"ALG" ,"kid":"KID","n":{"a":[1,2]}}`,
		}).Draw(rt, "header")
		header = strings.NewReplacer("ALG", p.alg, "KID", p.kid).Replace(header)
		good := p.token(t, header, `{"sub":"alice"}`)
		raw := []byte(good)
		for range rapid.IntRange(0, 3).Draw(rt, "changes") {
			at := rapid.IntRange(0, len(raw)-1).Draw(rt, "at")
			c := alphabet[rapid.IntRange(0, len(alphabet)-1).Draw(rt, "to")]
			switch rapid.IntRange(0, 2).Draw(rt, "how") {
			case 0:
				raw[at] = c
			case 1:
				raw = append(raw[:at:at], raw[at+1:]...)
			case 2:
				raw = append(raw[:at:at], append([]byte{c}, raw[at:]...)...)
			}
		}
		got, err := set.Verify(loose, string(raw))
		if (err == nil) != (string(raw) == good) {
			rt.Fatalf("Verify(%q) = %q, %v; the good token is %q", raw, got, err, good)
		}
		if err != nil {
			return
		}
		byJWX, byJOSE, err := others(t, doc, p, string(raw))
		if err != nil || string(byJWX) != string(got) || string(byJOSE) != string(got) {
			rt.Fatalf("others(%q) = %q, %q, %v, want %q", raw, byJWX, byJOSE, err, got)
		}
	})
}
