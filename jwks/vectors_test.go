package jwks_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/jwks"
)

// vectors reads a file of public test vectors into v, or says where to get it.
// The tables of this package's other tests hold every class of case that the
// files do, so nothing is left untested without them, only fewer examples.
func vectors(t *testing.T, name string, v any) bool {
	t.Helper()
	dir := os.Getenv("HOURPASS_VECTORS")
	if dir == "" {
		dir = "../../shared/vectors"
	}
	data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if errors.Is(err, os.ErrNotExist) {
		t.Logf("no %s below %s: set HOURPASS_VECTORS to a folder whose wycheproof/ holds testvectors_v1/ of github.com/C2SP/wycheproof", name, dir)
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return true
}

func TestAdversarialTokens(t *testing.T) {
	var file struct {
		JWKS    json.RawMessage
		Vectors []struct {
			ID, Category, Description, Token, Expect string
			TokenRepeat                              *struct {
				S string
				N int
			} `json:"token_repeat"`
		}
	}
	if !vectors(t, "attack/jwt-adversarial.json", &file) {
		return
	}
	set := parse(t, file.JWKS)
	profile := jwks.Profile{Types: []string{"at+jwt"}, Algorithms: []string{"ES256", "EdDSA", "RS256"}, ExactHeader: true}
	// Rows about claims belong to internal/token; their signatures are good, and
	// that is all that is asked here. These are about form in spite of their name.
	form := []string{"alg", "key", "header", "typ", "sig", "b64", "frame"}
	formRows := []string{"J137", "J153"}
	// Typ in another case and with a prefix: see Profile.Types.
	narrower := []string{"J004"}
	for _, v := range file.Vectors {
		t.Run(v.ID, func(t *testing.T) {
			raw := v.Token
			if v.TokenRepeat != nil {
				raw = strings.Repeat(v.TokenRepeat.S, v.TokenRepeat.N)
			}
			accept := v.Expect == "accept" || !slices.Contains(form, v.Category) && !slices.Contains(formRows, v.ID)
			accept = accept && !slices.Contains(narrower, v.ID)
			_, err := set.Verify(profile, raw)
			if accept != (err == nil) {
				t.Errorf("Verify(%s) = %v, want accepted %v", v.Description, err, accept)
			}
			if err != nil {
				_ = reason(t, err) // One of the closed list.
			}
		})
	}
}

func TestWycheproofJWS(t *testing.T) {
	for _, name := range []string{"json_web_signature_test.json", "json_web_key_test.json"} {
		var file struct {
			TestGroups []struct {
				Comment         string
				Public, Private json.RawMessage
				Tests           []struct {
					TcID                 int
					Comment, JWS, Result string
				}
			}
		}
		if !vectors(t, "wycheproof/"+name, &file) {
			continue
		}
		accepted, refused := 0, 0
		for _, g := range file.TestGroups {
			doc := g.Public
			if doc == nil {
				doc = g.Private // Of symmetric keys there is only this.
			}
			var isSet struct{ Keys []json.RawMessage }
			if err := json.Unmarshal(doc, &isSet); err != nil {
				t.Fatal(err)
			}
			if isSet.Keys == nil {
				doc = slices.Concat([]byte(`{"keys":[`), doc, []byte(`]}`))
			}
			set, err := jwks.Parse(doc)
			if err != nil {
				refused += len(g.Tests)
				for _, v := range g.Tests {
					if v.Result == "valid" && ourAlg(v.JWS) {
						t.Errorf("%s %d: Parse = %v, but %s is valid", name, v.TcID, err, v.Comment)
					}
				}
				continue
			}
			for _, v := range g.Tests {
				// An empty payload is no claims, which we refuse already here.
				want := v.Result == "valid" && ourAlg(v.JWS) && !strings.Contains(v.JWS, "..")
				_, err := set.Verify(jwks.Profile{Types: []string{""}, Algorithms: ours.Algorithms}, v.JWS)
				if want != (err == nil) {
					t.Errorf("%s %d %s/%s: Verify = %v, want accepted %v", name, v.TcID, g.Comment, v.Comment, err, want)
				}
				if err == nil {
					accepted++
				} else {
					refused++
				}
			}
		}
		t.Logf("%s: %d accepted, %d refused", name, accepted, refused)
		if accepted == 0 || refused == 0 {
			t.Errorf("%s: %d accepted and %d refused prove nothing", name, accepted, refused)
		}
	}
}

// ourAlg tells whether a token's header names an algorithm that we have.
func ourAlg(jws string) bool {
	head, _, _ := strings.Cut(jws, ".")
	raw, _ := decodeB64(head)
	var h struct{ Alg string }
	return json.Unmarshal(raw, &h) == nil && slices.Contains(ours.Algorithms, h.Alg)
}

func TestWycheproofSignatures(t *testing.T) {
	for name, alg := range map[string]string{
		"ecdsa_secp256r1_sha256_p1363_test.json": "ES256", "ecdsa_secp384r1_sha384_p1363_test.json": "ES384",
		"ed25519_test.json": "EdDSA", "rsa_signature_2048_sha256_test.json": "RS256",
	} {
		var file struct {
			TestGroups []struct {
				PublicKeyJWK, KeyJWK map[string]any
				Tests                []struct {
					TcID                      int
					Comment, Msg, Sig, Result string
				}
			}
		}
		if !vectors(t, "wycheproof/"+name, &file) {
			continue
		}
		accepted, refused, weak := 0, 0, 0
		for _, g := range file.TestGroups {
			k := g.PublicKeyJWK
			if k == nil {
				k = g.KeyJWK
			}
			if k == nil {
				continue // ECDSA keys that can't be a JWK.
			}
			k["alg"] = alg
			set, err := jwks.Parse(document(t, k))
			if err != nil {
				if alg != "RS256" || k["e"] == "AQAB" {
					t.Errorf("%s: Parse(%v) = %v", name, k, err)
				}
				weak += len(g.Tests) // e = 3.
				continue
			}
			for _, v := range g.Tests {
				msg, errMsg := hex.DecodeString(v.Msg)
				sig, errSig := hex.DecodeString(v.Sig)
				if err := errors.Join(errMsg, errSig); err != nil {
					t.Fatal(err)
				}
				got := set.VerifyBytes("none", string(msg), sig)
				if v.Result != "acceptable" && got != (v.Result == "valid") {
					t.Errorf("%s %d %s: verify = %v, want %s", name, v.TcID, v.Comment, got, v.Result)
				}
				if got {
					accepted++
				} else {
					refused++
				}
			}
		}
		t.Logf("%s: %d accepted, %d refused, %d under keys too weak", name, accepted, refused, weak)
		if accepted == 0 || refused == 0 {
			t.Errorf("%s: %d accepted and %d refused prove nothing", name, accepted, refused)
		}
	}
}

// The examples of the RFCs themselves. They have no kid and no typ, so the set
// gets one and the token fails at its kid, never before: all else is in form.
func TestRFCExamples(t *testing.T) {
	var file struct {
		Examples []struct {
			Name, Alg, Compact, Expect string
			Jwk                        map[string]any
		}
	}
	if !vectors(t, "rfc/rfc7515-8037-examples.json", &file) {
		return
	}
	checked := 0
	for _, e := range file.Examples {
		if !slices.Contains(ours.Algorithms, e.Alg) {
			continue
		}
		for _, name := range []string{"d", "p", "q", "dp", "dq", "qi"} {
			delete(e.Jwk, name)
		}
		e.Jwk["kid"] = "example"
		set := parse(t, document(t, e.Jwk))
		_, err := set.Verify(jwks.Profile{Types: []string{""}, Algorithms: ours.Algorithms}, e.Compact)
		if !errors.Is(err, token.ErrMalformed) {
			t.Errorf("%s: Verify = %v, want ErrMalformed for want of a kid", e.Name, err)
		}
		signed, signature := e.Compact[:strings.LastIndexByte(e.Compact, '.')], e.Compact[strings.LastIndexByte(e.Compact, '.')+1:]
		raw, err := decodeB64(signature)
		if err != nil || !set.VerifyBytes("example", signed, raw) {
			t.Errorf("%s: the signature does not verify", e.Name)
		}
		checked++
	}
	if checked < 3 {
		t.Errorf("%d examples checked, want one each of RS256, ES256 and EdDSA", checked)
	}
}
