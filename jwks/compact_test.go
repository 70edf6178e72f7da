package jwks_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/jwks"
)

var reasons = []error{
	token.ErrMissing, token.ErrTooLong, token.ErrMalformed, token.ErrAlgorithm, token.ErrType, token.ErrUnknownKey, token.ErrSignature,
}

// reason is the sentinel that err matches, which must be one alone.
func reason(t *testing.T, err error) error {
	t.Helper()
	var found []error
	for _, r := range reasons {
		if errors.Is(err, r) {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		t.Fatalf("error %v matches %v, want one reason", err, found)
	}
	return found[0]
}

const goodHeader = `{"alg":"ES256","kid":"ec-1","typ":"at+jwt"}`

func TestVerifyHeader(t *testing.T) {
	set := parse(t, documentOf(t, "ec", "ec2", "p384", "ed", "rsa"))
	ec := parties()["ec"]
	loose := jwks.Profile{Types: []string{"", "JWT", "at+jwt"}, Algorithms: []string{"ES256", "EdDSA", "RS256"}}
	if _, err := set.Verify(ours, ec.token(t, goodHeader, `{}`)); err != nil {
		t.Fatalf("Verify(good) = %v", err)
	}
	for _, tt := range []struct {
		name, header string
		exact, loose error // Under a profile with ExactHeader and one without.
	}{
		{"other order and white space", ` { "typ":"at+jwt" , "kid":"ec-1", "alg":"ES256" } `, nil, nil},
		{"kid with escapes", `{"alg":"ES256","kid":"\u0065c-1","typ":"at+jwt"}`, nil, nil},
		{"x5t", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt","x5t":"AAAA"}`, token.ErrMalformed, nil},
		{"an unknown parameter", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt","foo":{"a":[1]}}`, token.ErrMalformed, nil},
		{"ALG besides", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt","ALG":"none"}`, token.ErrMalformed, nil},
		{"crit", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt","crit":["exp"]}`, token.ErrMalformed, token.ErrMalformed},
		{"crit empty", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt","crit":[]}`, token.ErrMalformed, token.ErrMalformed},
		{"crit by escape", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt","cr\u0069t":["b64"],"b64":true}`, token.ErrMalformed, token.ErrMalformed},
		{"b64 false", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt","b64":false}`, token.ErrMalformed, token.ErrMalformed},
		{"zip", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt","zip":"DEF"}`, token.ErrMalformed, token.ErrMalformed},
		{"cty", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt","cty":"JWT"}`, token.ErrMalformed, token.ErrMalformed},
		{"jwk", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt","jwk":{"kty":"EC"}}`, token.ErrMalformed, token.ErrMalformed},
		{"jku", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt","jku":"https://evil.example"}`, token.ErrMalformed, token.ErrMalformed},
		{"x5u", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt","x5u":"https://evil.example"}`, token.ErrMalformed, token.ErrMalformed},
		{"x5c", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt","x5c":["AAAA"]}`, token.ErrMalformed, token.ErrMalformed},

		{"no alg", `{"kid":"ec-1","typ":"at+jwt"}`, token.ErrAlgorithm, token.ErrAlgorithm},
		{"alg null", `{"alg":null,"kid":"ec-1","typ":"at+jwt"}`, token.ErrAlgorithm, token.ErrAlgorithm},
		{"alg empty", `{"alg":"","kid":"ec-1","typ":"at+jwt"}`, token.ErrAlgorithm, token.ErrAlgorithm},
		{"alg a list", `{"alg":["ES256"],"kid":"ec-1","typ":"at+jwt"}`, token.ErrAlgorithm, token.ErrAlgorithm},
		{"alg in lower case", `{"alg":"es256","kid":"ec-1","typ":"at+jwt"}`, token.ErrAlgorithm, token.ErrAlgorithm},
		{"ALG alone", `{"ALG":"ES256","kid":"ec-1","typ":"at+jwt"}`, token.ErrMalformed, token.ErrAlgorithm},
		{"alg none", `{"alg":"none","kid":"ec-1","typ":"at+jwt"}`, token.ErrAlgorithm, token.ErrAlgorithm},
		{"alg HS256", `{"alg":"HS256","kid":"ec-1","typ":"at+jwt"}`, token.ErrAlgorithm, token.ErrAlgorithm},
		{"alg not in the profile", `{"alg":"PS256","kid":"rsa-1","typ":"at+jwt"}`, token.ErrAlgorithm, token.ErrAlgorithm},
		{"alg of another key", `{"alg":"RS256","kid":"ec-1","typ":"at+jwt"}`, token.ErrAlgorithm, token.ErrAlgorithm},
		{"alg of another curve", `{"alg":"ES256","kid":"p384-1","typ":"at+jwt"}`, token.ErrAlgorithm, token.ErrAlgorithm},
		{"key of the profile's other curve", `{"alg":"ES384","kid":"p384-1","typ":"at+jwt"}`, token.ErrSignature, token.ErrAlgorithm},

		{"typ JWT", `{"alg":"ES256","kid":"ec-1","typ":"JWT"}`, token.ErrType, nil},
		{"no typ", `{"alg":"ES256","kid":"ec-1"}`, token.ErrType, nil},
		{"typ empty", `{"alg":"ES256","kid":"ec-1","typ":""}`, token.ErrType, token.ErrType},
		{"typ null", `{"alg":"ES256","kid":"ec-1","typ":null}`, token.ErrType, token.ErrType},
		{"typ a list", `{"alg":"ES256","kid":"ec-1","typ":["at+jwt"]}`, token.ErrType, token.ErrType},
		{"typ in capitals", `{"alg":"ES256","kid":"ec-1","typ":"AT+JWT"}`, token.ErrType, token.ErrType},
		{"typ with prefix", `{"alg":"ES256","kid":"ec-1","typ":"application/at+jwt"}`, token.ErrType, token.ErrType},
		{"typ with a space", `{"alg":"ES256","kid":"ec-1","typ":"at+jwt "}`, token.ErrType, token.ErrType},
		{"typ of a logout token", `{"alg":"ES256","kid":"ec-1","typ":"logout+jwt"}`, token.ErrType, token.ErrType},

		{"no kid", `{"alg":"ES256","typ":"at+jwt"}`, token.ErrMalformed, token.ErrMalformed},
		{"kid empty", `{"alg":"ES256","kid":"","typ":"at+jwt"}`, token.ErrMalformed, token.ErrMalformed},
		{"kid a number", `{"alg":"ES256","kid":1,"typ":"at+jwt"}`, token.ErrMalformed, token.ErrMalformed},
		{"kid with a newline", `{"alg":"ES256","kid":"ec-1\nINFO ok","typ":"at+jwt"}`, token.ErrMalformed, token.ErrMalformed},
		{"kid with NUL", `{"alg":"ES256","kid":"ec-1\u0000","typ":"at+jwt"}`, token.ErrMalformed, token.ErrMalformed},
		{"kid not ASCII", `{"alg":"ES256","kid":"ec‑1","typ":"at+jwt"}`, token.ErrMalformed, token.ErrMalformed},
		{"kid of 129 bytes", `{"alg":"ES256","kid":"` + strings.Repeat("k", 129) + `","typ":"at+jwt"}`, token.ErrMalformed, token.ErrMalformed},
		{"kid of 128 bytes", `{"alg":"ES256","kid":"` + strings.Repeat("k", 128) + `","typ":"at+jwt"}`, token.ErrUnknownKey, token.ErrUnknownKey},
		{"kid in capitals", `{"alg":"ES256","kid":"EC-1","typ":"at+jwt"}`, token.ErrUnknownKey, token.ErrUnknownKey},
		{"kid of a path", `{"alg":"ES256","kid":"../../dev/null","typ":"at+jwt"}`, token.ErrUnknownKey, token.ErrUnknownKey},
		{"kid of another key", `{"alg":"ES256","kid":"ec-2","typ":"at+jwt"}`, token.ErrSignature, token.ErrSignature},

		{"alg twice", `{"alg":"none","alg":"ES256","kid":"ec-1","typ":"at+jwt"}`, token.ErrMalformed, token.ErrMalformed},
		{"kid twice", `{"alg":"ES256","kid":"ec-2","kid":"ec-1","typ":"at+jwt"}`, token.ErrMalformed, token.ErrMalformed},
		{"kid twice by escape", `{"alg":"ES256","kid":"ec-2","k\u0069d":"ec-1","typ":"at+jwt"}`, token.ErrMalformed, token.ErrMalformed},
		{"something follows", goodHeader + `x`, token.ErrMalformed, token.ErrMalformed},
		{"two headers", goodHeader + goodHeader, token.ErrMalformed, token.ErrMalformed},
		{"a list", `[` + goodHeader + `]`, token.ErrMalformed, token.ErrMalformed},
		{"byte order mark", "\ufeff" + goodHeader, token.ErrMalformed, token.ErrMalformed},
		{"not UTF-8", strings.Replace(goodHeader, "at+jwt", "at+jwt\xff", 1), token.ErrMalformed, token.ErrMalformed},
		{"nested deep", strings.Replace(goodHeader, `{`, `{"a":`+strings.Repeat("[", 9)+strings.Repeat("]", 9)+`,`, 1), token.ErrMalformed, token.ErrMalformed},
		{"white space without end", goodHeader + strings.Repeat(" ", 2<<10), token.ErrMalformed, token.ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw := ec.token(t, tt.header, `{}`)
			for profile, want := range map[*jwks.Profile]error{&ours: tt.exact, &loose: tt.loose} {
				payload, err := set.Verify(*profile, raw)
				if want == nil {
					if err != nil || string(payload) != "{}" {
						t.Errorf("Verify(exact %v, %s) = %q, %v, want {}", profile.ExactHeader, tt.header, payload, err)
					}
					continue
				}
				if err == nil {
					t.Errorf("Verify(exact %v, %s) = %q, want %v", profile.ExactHeader, tt.header, payload, want)
				} else if got := reason(t, err); !errors.Is(got, want) {
					t.Errorf("Verify(exact %v, %s) = %v, want %v", profile.ExactHeader, tt.header, err, want)
				}
			}
		})
	}
}

// ExactHeader wants a typ even where the list would do without.
func TestVerifyExactHeaderWantsType(t *testing.T) {
	set := parse(t, documentOf(t, "ec"))
	p := ours
	p.Types = []string{"", "at+jwt"}
	raw := parties()["ec"].token(t, `{"alg":"ES256","kid":"ec-1"}`, `{}`)
	if _, err := set.Verify(p, raw); !errors.Is(err, token.ErrType) {
		t.Errorf("Verify(no typ, exact) = %v, want ErrType", err)
	}
	p.ExactHeader = false
	if _, err := set.Verify(p, raw); err != nil {
		t.Errorf("Verify(no typ, not exact) = %v", err)
	}
}

// An alg of "EdDSA" and one of "Ed25519" are the same algorithm, in header, key
// and profile.
func TestVerifyEd25519BothNames(t *testing.T) {
	ed := parties()["ed"]
	for _, inKey := range []string{"EdDSA", "Ed25519"} {
		k := ed.jwk(t)
		k["alg"] = inKey
		set := parse(t, document(t, k))
		for _, inHeader := range []string{"EdDSA", "Ed25519"} {
			for _, inProfile := range []string{"EdDSA", "Ed25519"} {
				raw := ed.token(t, `{"alg":"`+inHeader+`","kid":"ed-1","typ":"at+jwt"}`, `{}`)
				if _, err := set.Verify(jwks.Profile{Types: ours.Types, Algorithms: []string{inProfile}}, raw); err != nil {
					t.Errorf("Verify(key %s, header %s, profile %s) = %v", inKey, inHeader, inProfile, err)
				}
			}
		}
	}
}

// Each row spoils the text of a good token.
func TestVerifyText(t *testing.T) {
	set := parse(t, documentOf(t, "ec", "rsa"))
	good := parties()["ec"].good(t)
	parts := strings.Split(good, ".")
	h, p, s := parts[0], parts[1], parts[2]
	mac := hmac.New(sha256.New, documentOf(t, "ec"))
	mac.Write([]byte(h + "." + p))
	for _, tt := range []struct {
		name, raw string
		want      error
	}{
		{"good", good, nil},
		{"empty", "", token.ErrMissing},
		{"one part", h, token.ErrMalformed},
		{"two parts", h + "." + p, token.ErrMalformed},
		{"four parts", good + ".", token.ErrMalformed},
		{"five parts", "a.b.c.d.e", token.ErrMalformed},
		{"only dots", "..", token.ErrMalformed},
		{"no header", "." + p + "." + s, token.ErrMalformed},
		{"no payload", h + ".." + s, token.ErrMalformed},
		{"no signature", h + "." + p + ".", token.ErrMalformed},
		{"space before", " " + good, token.ErrMalformed},
		{"space after", good + " ", token.ErrMalformed},
		{"newline after", good + "\n", token.ErrMalformed},
		{"NUL after", good + "\x00", token.ErrMalformed},
		{"byte order mark", "\ufeff" + good, token.ErrMalformed},
		{"newline in the header", h[:4] + "\n" + h[4:] + "." + p + "." + s, token.ErrMalformed},
		{"newline in the payload", h + "." + p[:4] + "\n" + p[4:] + "." + s, token.ErrMalformed},
		{"newline in the signature", h + "." + p + "." + s[:4] + "\n" + s[4:], token.ErrMalformed},
		{"carriage return in the signature", h + "." + p + "." + s + "\r", token.ErrMalformed},
		{"padding after the signature", good + "==", token.ErrMalformed},
		{"padding after the payload", h + "." + p + "=." + s, token.ErrMalformed},
		{"unused bits in the signature", h + "." + p + "." + otherTrailingBits(t, s), token.ErrMalformed},
		{"unused bits in the payload", h + "." + otherTrailingBits(t, b64([]byte("{}"))) + "." + s, token.ErrMalformed},
		{"unused bits in the header", otherTrailingBits(t, h) + "." + p + "." + s, token.ErrMalformed},
		{"standard alphabet", h + "." + p + "." + strings.NewReplacer("-", "+", "_", "/").Replace(b64(bytes.Repeat([]byte{0xfb, 0xff}, 32))), token.ErrMalformed},
		{"question mark", h + "." + p + "." + s[:4] + "?" + s[5:], token.ErrMalformed},
		{"flattened JSON", `{"protected":"` + h + `","payload":"` + p + `","signature":"` + s + `"}`, token.ErrMalformed},
		{"general JSON", `{"payload":"` + p + `","signatures":[{"protected":"` + h + `","signature":"` + s + `"}]}`, token.ErrMalformed},
		{"another payload", h + "." + b64([]byte(`{"sub":"admin"}`)) + "." + s, token.ErrSignature},
		{"another header", b64([]byte(`{"typ":"at+jwt","kid":"ec-1","alg":"ES256"}`)) + "." + p + "." + s, token.ErrSignature},
		{"signature cut", h + "." + p + "." + s[:len(s)-2], token.ErrSignature},
		{"signature of one byte", h + "." + p + ".AA", token.ErrSignature},
		{"MAC under the public key", h + "." + p + "." + b64(mac.Sum(nil)), token.ErrSignature},
		{"one byte over the bound", h + "." + p + "." + strings.Repeat("A", jwks.DefaultMaxBytes+1-len(h)-len(p)-2), token.ErrTooLong},
		{"at the bound", h + "." + p + "." + strings.Repeat("A", jwks.DefaultMaxBytes-len(h)-len(p)-2), token.ErrSignature},
		{"a megabyte of dots", strings.Repeat(".", 1<<20), token.ErrTooLong},
	} {
		t.Run(tt.name, func(t *testing.T) {
			payload, err := set.Verify(ours, tt.raw)
			switch {
			case tt.want == nil:
				if err != nil || string(payload) != `{"sub":"alice"}` {
					t.Errorf("Verify = %q, %v", payload, err)
				}
			case err == nil:
				t.Errorf("Verify(%.200q) = %q, want %v", tt.raw, payload, tt.want)
			case !errors.Is(reason(t, err), tt.want):
				t.Errorf("Verify(%.200q) = %v, want %v", tt.raw, err, tt.want)
			}
		})
	}
	short := ours
	short.MaxBytes = len(good) - 1
	if _, err := set.Verify(short, good); !errors.Is(err, token.ErrTooLong) {
		t.Errorf("Verify(MaxBytes one less) = %v, want ErrTooLong", err)
	}
	if _, err := set.Verify(jwks.Profile{}, good); err == nil {
		t.Error("the zero Profile accepts a token")
	}
}

// otherTrailingBits returns a second base64 text of the same bytes.
func otherTrailingBits(t *testing.T, s string) string {
	t.Helper()
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for _, c := range alphabet {
		other := s[:len(s)-1] + string(c)
		a, errA := base64.RawURLEncoding.DecodeString(s)
		b, errB := base64.RawURLEncoding.DecodeString(other)
		if other != s && errA == nil && errB == nil && bytes.Equal(a, b) {
			return other
		}
	}
	t.Fatalf("%q has no unused bits", s)
	return ""
}

func TestVerifyECDSANumbers(t *testing.T) {
	for _, name := range []string{"ec", "p384"} {
		who := parties()[name]
		set := parse(t, documentOf(t, name))
		signed := b64([]byte(`{"alg":"`+who.alg+`","kid":"`+who.kid+`","typ":"at+jwt"}`)) + "." + b64([]byte(`{}`))
		good := who.rawSign(t, signed)
		size := len(good) / 2
		r, s := good[:size], good[size:]
		curve := elliptic.P256()
		if name == "p384" {
			curve = elliptic.P384()
		}
		n := curve.Params().N
		zero, one := make([]byte, size), append(make([]byte, size-1), 1)
		order := n.FillBytes(make([]byte, size))
		der, err := ecdsa.SignASN1(rand.Reader, who.private.(*ecdsa.PrivateKey), sum(signed))
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name   string
			rs     []byte
			accept bool
		}{
			{"good", good, true},
			// A twin that anybody can make. It is the same claim by the same
			// key, so it passes; limits and replay must not go by the text.
			{"twin with n−s", slices.Concat(r, new(big.Int).Sub(n, new(big.Int).SetBytes(s)).FillBytes(make([]byte, size))), true},
			{"r = 0", slices.Concat(zero, s), false},
			{"s = 0", slices.Concat(r, zero), false},
			{"both 0", slices.Concat(zero, zero), false},
			{"both 1", slices.Concat(one, one), false},
			{"r = n", slices.Concat(order, s), false},
			{"s = n", slices.Concat(r, order), false},
			{"both n", slices.Concat(order, order), false},
			{"largest", bytes.Repeat([]byte{0xff}, 2*size), false},
			{"swapped", slices.Concat(s, r), false},
			{"short by one", good[:2*size-1], false},
			{"short by the first", good[1:], false},
			{"long by one", slices.Concat(good, []byte{0}), false},
			{"a zero before each", slices.Concat([]byte{0}, r, []byte{0}, s), false},
			{"a zero before s", slices.Concat(r, []byte{0}, s), false},
			{"twice", slices.Concat(good, good), false},
			{"DER", der, false},
		} {
			raw := signed + "." + b64(tt.rs)
			_, err := set.Verify(ours, raw)
			if tt.accept && err != nil || !tt.accept && !errors.Is(err, token.ErrSignature) {
				t.Errorf("%s: Verify(%s) = %v, want accepted %v", name, tt.name, err, tt.accept)
			}
		}
	}
}

func sum(s string) []byte {
	d := sha256.Sum256([]byte(s))
	return d[:]
}

func TestVerifyEd25519Scalar(t *testing.T) {
	ed := parties()["ed"]
	set := parse(t, documentOf(t, "ed"))
	signed := b64([]byte(`{"alg":"EdDSA","kid":"ed-1","typ":"at+jwt"}`)) + "." + b64([]byte(`{}`))
	good := ed.rawSign(t, signed)
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := bytes.Clone(good[32:])
	slices.Reverse(s)
	more := new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	slices.Reverse(more)
	for name, signature := range map[string][]byte{
		"S plus the order": slices.Concat(good[:32], more), "zero": make([]byte, 64), "short": good[:63], "long": slices.Concat(good, []byte{0}),
	} {
		if _, err := set.Verify(ours, signed+"."+b64(signature)); !errors.Is(err, token.ErrSignature) {
			t.Errorf("Verify(%s) = %v, want ErrSignature", name, err)
		}
	}
	if _, err := set.Verify(ours, signed+"."+b64(good)); err != nil {
		t.Errorf("Verify(good) = %v", err)
	}
}

// Promise 7: what the operator reads holds nothing of the token but its kid,
// escaped and short.
func TestVerifyErrorsHoldNoToken(t *testing.T) {
	set := parse(t, documentOf(t, "ec"))
	ec := parties()["ec"]
	const mark = "MARKMARKMARK"
	for _, header := range []string{
		`{"alg":"` + mark + `","kid":"ec-1","typ":"at+jwt"}`,
		`{"alg":"ES256","kid":"ec-1","typ":"` + mark + `"}`,
		`{"alg":"ES256","kid":"ec-1","typ":"at+jwt","` + mark + `":1}`,
		`{"alg":"ES256","kid":"ec-1","typ":"at+jwt","` + mark + `":1,"` + mark + `":1}`,
		`{"alg":"ES256","kid":"\u0000` + mark + `","typ":"at+jwt"}`,
		goodHeader + mark,
		goodHeader,
	} {
		raw := ec.token(t, header, `{"sub":"`+mark+`"}`)
		raw = raw[:len(raw)-6] + "AAAAAA"
		_, err := set.Verify(ours, raw)
		if err == nil {
			t.Fatalf("Verify(%s) accepts a spoiled token", header)
		}
		for _, part := range append(strings.Split(raw, "."), mark) {
			if strings.Contains(err.Error(), part) {
				t.Errorf("Verify(%s) = %q, which quotes the token", header, err)
			}
		}
	}
	_, err := set.Verify(ours, ec.token(t, `{"alg":"ES256","kid":"\"'${x}<`+strings.Repeat("k", 100)+`","typ":"at+jwt"}`, `{}`))
	if err == nil || len(err.Error()) > 120 || !strings.Contains(err.Error(), `"\"'${x}<kkk`) {
		t.Errorf("Verify(odd kid) = %v, want the kid quoted and shortened", err)
	}
}

// A flood of junk costs neither time nor memory.
func TestVerifyRefusesJunkCheaply(t *testing.T) {
	set := parse(t, documentOf(t, "ec"))
	for name, raw := range map[string]string{
		"dots": strings.Repeat(".", 1<<20), "long": strings.Repeat("A", 1<<20), "no dots": strings.Repeat("A", 8000),
		"open brackets": b64([]byte(strings.Repeat("[", 1500))) + ".e30.AAAA",
	} {
		if n := testing.AllocsPerRun(10, func() { _, _ = set.Verify(ours, raw) }); n > 15 {
			t.Errorf("Verify(%s) makes %v allocations", name, n)
		}
	}
}
