package jwks_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/jwks"
)

func TestParseTakes(t *testing.T) {
	s := parse(t, documentOf(t, "ec", "ec2", "p384", "ed", "rsa"))
	if s.Len() != 5 || len(s.Skipped()) != 0 {
		t.Errorf("Len() = %d, Skipped() = %q, want 5 and none", s.Len(), s.Skipped())
	}
	for name, p := range parties() {
		if _, err := s.Verify(ours, p.good(t)); err != nil {
			t.Errorf("Verify(token of %s) = %v", name, err)
		}
	}
}

// What real providers write besides is no reason to refuse.
func TestParseTakesProvidersHabits(t *testing.T) {
	ec := parties()["ec"].jwk(t)
	for _, tt := range []struct {
		name   string
		change func(map[string]any)
	}{
		{"no alg", func(k map[string]any) { delete(k, "alg") }},
		{"no use", func(k map[string]any) { delete(k, "use") }},
		{"key_ops with verify", func(k map[string]any) { k["key_ops"] = []string{"verify"} }},
		{"certificates", func(k map[string]any) { k["x5c"], k["x5t"] = []string{"AAAA"}, "AAAA" }},
		{"unknown member", func(k map[string]any) { k["issuer"] = "https://idp.example/{tenantid}/v2.0" }},
		{"kid of 128 bytes", func(k map[string]any) { k["kid"] = strings.Repeat("k", 128) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := maps.Clone(ec)
			tt.change(k)
			if s := parse(t, document(t, k)); s.Len() != 1 {
				t.Errorf("Len() = %d, want 1", s.Len())
			}
		})
	}
	ed := parties()["ed"].jwk(t)
	ed["alg"] = "Ed25519"
	if s := parse(t, document(t, ed)); s.Len() != 1 {
		t.Errorf("Len() = %d with alg Ed25519, want 1", s.Len())
	}
	doc := bytes.Replace(documentOf(t, "ec"), []byte(`{"keys"`), []byte(`{"note":{"a":[1]},"keys"`), 1)
	if s := parse(t, doc); s.Len() != 1 {
		t.Errorf("Len() = %d with another member, want 1", s.Len())
	}
}

const secret = "c2VjcmV0IGtleSBtYXRlcmlhbCB0aGF0IGlzIG5ldmVyIHNob3du"

func TestParseRefuses(t *testing.T) {
	good := string(documentOf(t, "ec", "ed"))
	with := func(change func(ec, ed map[string]any)) string {
		ec, ed := parties()["ec"].jwk(t), parties()["ed"].jwk(t)
		change(ec, ed)
		return string(document(t, ec, ed))
	}
	many := func(n int) string {
		var keys []map[string]any
		for i := range n {
			k := parties()["ec"].jwk(t)
			k["kid"] = fmt.Sprint("k", i)
			keys = append(keys, k)
		}
		return string(document(t, keys...))
	}
	parse(t, []byte(good))
	parse(t, []byte(many(100)))
	rows := []struct{ name, doc string }{
		{"nothing", ""},
		{"HTML", "<html>"},
		{"an array", "[" + good + "]"},
		{"two documents", good + good},
		{"byte order mark", "\ufeff" + good},
		{"not UTF-8", strings.Replace(good, `"kid":"ec-1"`, "\"kid\":\"ec-\xff\"", 1)},
		{"no keys member", `{}`},
		{"keys in capitals", strings.Replace(good, `"keys"`, `"Keys"`, 1)},
		{"keys twice", strings.Replace(good, `{"keys"`, `{"keys":[],"keys"`, 1)},
		{"keys empty", `{"keys":[]}`},
		{"keys null", `{"keys":null}`},
		{"keys an object", `{"keys":{}}`},
		{"a key is text", strings.Replace(good, `"keys":[`, `"keys":["x",`, 1)},
		{"a member twice in a key", strings.Replace(good, `"kid":"ec-1"`, `"kid":"ec-1","kid":"ec-9"`, 1)},
		{"a member twice by escape", strings.Replace(good, `"kid":"ec-1"`, `"kid":"ec-1","k\u0069d":"ec-9"`, 1)},
		{"a bare key", strings.TrimSuffix(strings.TrimPrefix(good, `{"keys":[`), `]}`)},
		{"101 keys", many(101)},
		{"over 256 KiB", good + strings.Repeat(" ", jwks.MaxDocument)},
		{"nested deep", strings.Replace(good, `{"keys"`, `{"a":`+strings.Repeat("[", 20)+strings.Repeat("]", 20)+`,"keys"`, 1)},
		{"one kid twice", with(func(_, ed map[string]any) { ed["kid"] = "ec-1" })},
		{"one kid twice, one of them unusable", with(func(ec, ed map[string]any) { ed["kid"], ec["kty"] = "ec-1", "AKP" })},
		{"a symmetric key without its value", with(func(ec, _ map[string]any) { ec["kty"] = "oct" })},
		{"no usable key", with(func(ec, ed map[string]any) { ec["use"], ed["use"] = "enc", "enc" })},
	}
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "k", "oth", "priv"} {
		rows = append(rows, struct{ name, doc string }{"private member " + name, with(func(ec, _ map[string]any) { ec[name] = secret })})
		rows = append(rows, struct{ name, doc string }{"private member " + name + " in a key that is skipped", with(func(ec, _ map[string]any) {
			ec[name], ec["kty"] = secret, "unheard of"
		})})
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			s, err := jwks.Parse([]byte(tt.doc))
			if err == nil {
				t.Fatalf("Parse(%.80s) = %d keys, want an error", tt.doc, s.Len())
			}
			if strings.Contains(err.Error(), secret[:8]) {
				t.Errorf("Parse(…) = %q, which shows a private key", err)
			}
		})
	}
}

// Each row is a good set of two keys, one of which is spoiled: the other loads.
func TestParseSkips(t *testing.T) {
	rsaWith := func(bits int, e int64) func(map[string]any) {
		return func(k map[string]any) {
			n := make([]byte, bits/8)
			_, _ = rand.Read(n)
			n[0], n[len(n)-1] = n[0]|0x80, n[len(n)-1]|1
			k["n"], k["e"] = b64(n), b64(big.NewInt(e).Bytes())
		}
	}
	point := func(p string) func(map[string]any) {
		return func(k map[string]any) {
			x, err := hex.DecodeString(p)
			if err != nil {
				t.Fatal(err)
			}
			k["x"] = b64(x)
		}
	}
	pad := func(name string) func(map[string]any) {
		return func(k map[string]any) {
			v, _ := base64.RawURLEncoding.DecodeString(k[name].(string))
			k[name] = b64(append([]byte{0}, v...))
		}
	}
	set := func(name string, value any) func(map[string]any) { return func(k map[string]any) { k[name] = value } }
	for _, tt := range []struct {
		name, of string
		spoil    func(map[string]any)
	}{
		{"unknown kty", "ec", set("kty", "AKP")},
		{"kty a number", "ec", set("kty", 1)},
		{"no kty", "ec", func(k map[string]any) { delete(k, "kty") }},
		{"kty in lower case", "ec", set("kty", "ec")},
		{"kty RSA on an EC key", "ec", set("kty", "RSA")},
		{"no kid", "ec", func(k map[string]any) { delete(k, "kid") }},
		{"kid empty", "ec", set("kid", "")},
		{"kid a number", "ec", set("kid", 1)},
		{"kid of 129 bytes", "ec", set("kid", strings.Repeat("k", 129))},
		{"kid with a newline", "ec", set("kid", "ec\nlevel=INFO")},
		{"kid not ASCII", "ec", set("kid", "clé")},
		{"use enc", "ec", set("use", "enc")},
		{"use null", "ec", set("use", nil)},
		{"key_ops encrypt", "ec", set("key_ops", []string{"encrypt"})},
		{"key_ops empty", "ec", set("key_ops", []string{})},
		{"key_ops text", "ec", set("key_ops", "verify")},
		{"alg of another curve", "ec", set("alg", "ES384")},
		{"alg none", "ec", set("alg", "none")},
		{"alg null", "ec", set("alg", nil)},
		{"alg HS256", "rsa", set("alg", "HS256")},
		{"alg PS256", "rsa", set("alg", "PS256")},
		{"alg RS512", "rsa", set("alg", "RS512")},
		{"alg ES256 on Ed25519", "ed", set("alg", "ES256")},
		{"curve P-384 on a P-256 point", "ec", set("crv", "P-384")},
		{"curve secp256k1", "ec", set("crv", "secp256k1")},
		{"curve P-521", "ec", set("crv", "P-521")},
		{"curve X25519", "ed", set("crv", "X25519")},
		{"x too long by a zero", "ec", pad("x")},
		{"y too long by a zero", "ec", pad("y")},
		{"y missing", "ec", func(k map[string]any) { delete(k, "y") }},
		{"x is y", "ec", func(k map[string]any) { k["x"] = k["y"] }},
		{"both zero", "ec", func(k map[string]any) { k["x"] = b64(make([]byte, 32)); k["y"] = k["x"] }},
		{"x padded", "ec", func(k map[string]any) { k["x"] = k["x"].(string) + "=" }},
		{"x with a newline", "ec", func(k map[string]any) { k["x"] = k["x"].(string)[:4] + "\n" + k["x"].(string)[4:] }},
		{"x not on the P-384 curve", "p384", func(k map[string]any) { k["x"] = k["y"] }},
		{"Ed25519 x too short", "ed", set("x", b64(make([]byte, 31)))},
		{"Ed25519 x = 0", "ed", point(strings.Repeat("00", 32))},
		{"Ed25519 x = 0 with sign", "ed", point(strings.Repeat("00", 31) + "80")},
		{"Ed25519 identity", "ed", point("01" + strings.Repeat("00", 31))},
		{"Ed25519 identity with sign", "ed", point("01" + strings.Repeat("00", 30) + "80")},
		{"Ed25519 order 2", "ed", point("ec" + strings.Repeat("ff", 30) + "7f")},
		{"Ed25519 order 2 with sign", "ed", point("ec" + strings.Repeat("ff", 31))},
		{"Ed25519 order 8", "ed", point("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")},
		{"Ed25519 order 8 with sign", "ed", point("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85")},
		{"Ed25519 order 8, the other", "ed", point("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")},
		{"Ed25519 order 8, the other, with sign", "ed", point("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa")},
		{"Ed25519 zero as the prime", "ed", point("ed" + strings.Repeat("ff", 30) + "7f")},
		{"Ed25519 one as the prime and one", "ed", point("ee" + strings.Repeat("ff", 30) + "7f")},
		{"Ed25519 largest", "ed", point(strings.Repeat("ff", 32))},
		{"RSA of 1024 bits", "rsa", rsaWith(1024, 65537)},
		{"RSA of 2040 bits", "rsa", rsaWith(2040, 65537)},
		{"RSA of 8200 bits", "rsa", rsaWith(8200, 65537)},
		{"RSA of 16384 bits", "rsa", rsaWith(16384, 65537)},
		{"RSA even modulus", "rsa", func(k map[string]any) { k["n"] = b64(append(bytes.Repeat([]byte{0xff}, 255), 0)) }},
		{"RSA e = 1", "rsa", rsaWith(2048, 1)},
		{"RSA e = 3", "rsa", rsaWith(2048, 3)},
		{"RSA e even", "rsa", rsaWith(2048, 65538)},
		{"RSA e too large", "rsa", rsaWith(2048, 1<<31+1)},
		{"RSA e of 2^64 and more", "rsa", func(k map[string]any) { k["e"] = b64([]byte{1, 0, 0, 0, 0, 0, 1, 0, 1}) }},
		{"RSA no e", "rsa", func(k map[string]any) { delete(k, "e") }},
		{"RSA standard base64", "rsa", func(k map[string]any) {
			n, _ := base64.RawURLEncoding.DecodeString(k["n"].(string))
			k["n"] = base64.StdEncoding.EncodeToString(n)
		}},
		{"RSA by the generator of ROCA", "rsa", set("n", rocaModulus)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := parties()[tt.of].jwk(t)
			k["kid"] = "spoiled"
			if good := parse(t, document(t, k, parties()["ec2"].jwk(t))); good.Len() != 2 {
				t.Fatalf("before: Len() = %d, want 2", good.Len())
			}
			tt.spoil(k)
			s := parse(t, document(t, k, parties()["ec2"].jwk(t)))
			if s.Len() != 1 || len(s.Skipped()) != 1 {
				t.Errorf("Len() = %d, Skipped() = %q, want 1 and one", s.Len(), s.Skipped())
			}
			if strings.ContainsAny(strings.Join(s.Skipped(), ""), "\n\x00") {
				t.Errorf("Skipped() = %q holds a control character", s.Skipped())
			}
		})
	}
}

// From Wycheproof (json_web_key, tcId 7).
const rocaModulus = "AanFpofbj7KjD4Lf-N2hVMKR7yewSyXhhbirIMTGpfYEhZ_lnt5UoK98DnKIgArXGTu3MaW_HhFw16HGaTDUHqPrId7fe4r11CqRw09yBFuW79V8sYIwHdzCaWflUI6auImYbVfoN9_nD5n8N8SY9DwXw7mwZM9wREPXoDPgOoIWl6q_MPsp7n0zs3Z5ZaiQWOOzl1S9OhwAfSiiOwz6efnXEaxuTEtPd7BjSx7NaFka8Dx9U7YqXy2RFj1O9PjyaDGuRh7YXsX3iMUSP_wSyHQg_c_qHRtKUsNSGCT7OZg0hzm2KphtjnayKJvC64vAbROBR4Ubg6Bxg9IQVZ-QYyE"

// The two low-order points of order 8 are found from the curve's equation, not
// taken on trust: y⁴·d + 2·y² − 1 = 0 has them as its only roots.
func TestLowOrderPointsAreThose(t *testing.T) {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	d := new(big.Int).Mul(big.NewInt(-121665), new(big.Int).ModInverse(big.NewInt(121666), p))
	root := new(big.Int).ModSqrt(new(big.Int).Mod(new(big.Int).Add(d, big.NewInt(1)), p), p)
	if root == nil {
		t.Fatal("1 + d is not a square")
	}
	for range 2 {
		// y² = (−1 ± √(1+d)) / d
		y2 := new(big.Int).Mul(new(big.Int).Sub(root, big.NewInt(1)), new(big.Int).ModInverse(new(big.Int).Mod(d, p), p))
		if y := new(big.Int).ModSqrt(y2.Mod(y2, p), p); y != nil {
			for _, y := range []*big.Int{y, new(big.Int).Sub(p, y)} {
				x := y.FillBytes(make([]byte, 32))
				slices.Reverse(x)
				k := parties()["ed"].jwk(t)
				k["x"] = b64(x)
				if _, err := jwks.Parse(document(t, k)); err == nil {
					t.Errorf("Parse takes the point %x of order 8", x)
				}
			}
			return
		}
		root.Sub(p, root)
	}
	t.Error("no point of order 8 found")
}

func TestSetEqual(t *testing.T) {
	a := parse(t, documentOf(t, "ec", "ed"))
	renamed := parties()["ed"].jwk(t)
	renamed["kid"] = "ed-9"
	swapped := parties()["ec2"].jwk(t)
	swapped["kid"] = "ec-1"
	for _, tt := range []struct {
		name string
		doc  []byte
		want bool
	}{
		{"itself", documentOf(t, "ec", "ed"), true},
		{"other order", documentOf(t, "ed", "ec"), true},
		{"an unusable key more", document(t, parties()["ec"].jwk(t), parties()["ed"].jwk(t), map[string]any{"kty": "AKP", "kid": "pq"}), true},
		{"one less", documentOf(t, "ec"), false},
		{"one more", documentOf(t, "ec", "ed", "p384"), false},
		{"another kid", document(t, parties()["ec"].jwk(t), renamed), false},
		{"another key under the kid", document(t, swapped, parties()["ed"].jwk(t)), false},
	} {
		if got := a.Equal(parse(t, tt.doc)); got != tt.want {
			t.Errorf("Equal(%s) = %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A provider may write keys of 3072 or 4096 bits, and a leading zero in n.
func TestParseTakesLargerRSA(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	p := party{"big", "RS256", private}
	k := p.jwk(t)
	n, _ := base64.RawURLEncoding.DecodeString(k["n"].(string))
	k["n"] = b64(append([]byte{0}, n...))
	if _, err := parse(t, document(t, k)).Verify(ours, p.good(t)); err != nil {
		t.Errorf("Verify(3072 bits) = %v", err)
	}
}

// Of good Ed25519 keys half have the sign bit set.
func TestParseTakesBothSigns(t *testing.T) {
	for seen := map[byte]bool{}; len(seen) < 2; {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		seen[public[31]>>7] = true
		p := party{"ed", "EdDSA", private}
		if _, err := parse(t, document(t, p.jwk(t))).Verify(ours, p.good(t)); err != nil {
			t.Errorf("Verify(key %x) = %v", public, err)
		}
	}
}

// A short coordinate keeps its leading zeros in a good document.
func TestParseCoordinatesOfFullLength(t *testing.T) {
	for {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := private.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if raw[1] != 0 {
			continue
		}
		k := party{"short", "ES256", private}.jwk(t)
		k["x"] = b64(raw[1:33])
		parse(t, document(t, k))
		k["x"] = b64(raw[2:33])
		if _, err := jwks.Parse(document(t, k)); err == nil {
			t.Error("Parse takes an x without its leading zero")
		}
		return
	}
}

func TestSkippedIsShort(t *testing.T) {
	k := parties()["ec"].jwk(t)
	k["kid"], k["use"] = strings.Repeat("x", 10_000), "enc"
	s := parse(t, document(t, k, parties()["ed"].jwk(t)))
	if line := s.Skipped()[0]; len(line) > 200 {
		t.Errorf("Skipped() has a line of %d bytes", len(line))
	}
}
