package e2e

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
)

// signedKey is a key that signs for itself, bound to the forge's ada.
func (h *house) signedKey() wielded {
	h.t.Helper()
	private, set := newClientKey(h.t)
	return wielded{h.makeKey(func(k *policy.Key) { k.JWKS = set }, time.Hour), private}
}

// asSigned adds a client's own assertion to a form.
func asSigned(form url.Values, assertion string) url.Values {
	form.Set("client_assertion_type", assertionType)
	form.Set("client_assertion", assertion)
	return form
}

// unsigned is a JWS of that header whose signature is made by sign.
func unsigned(header, payload string, sign func(string) []byte) string {
	signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return signed + "." + base64.RawURLEncoding.EncodeToString(sign(signed))
}

// TestSignedClients: what a client signs of itself (private_key_jwt), good, and
// then spoilt in one way a row.
func TestSignedClients(t *testing.T) {
	h := startHouse(t)
	k, other := h.signedKey(), h.signedKey()
	identity := func() url.Values { return exchangeForm(h.forge.sign(h.forge.good(h.now()), nil)) }
	now := h.now().Unix()
	good := func(changes claims) string { return h.signFor(k, h.assertion(k).with(changes)) }

	for why, form := range map[string]url.Values{
		"as it should be":            asSigned(identity(), good(nil)),
		"with the client named":      asSigned(identity(), good(nil)),
		"its audience a list of one": asSigned(identity(), good(claims{"aud": []string{h.issuer}})),
		"without iat":                asSigned(identity(), good(claims{"iat": nil})),
		"five minutes long":          asSigned(identity(), good(claims{"exp": now + 300})),
		"of a clock that runs ahead": asSigned(identity(), good(claims{"iat": now + 20, "nbf": now + 20})),
		"with another claim":         asSigned(identity(), good(claims{"acr": "x"})),
		"of its own type":            asSigned(identity(), h.forge.signRaw(mustJSON(h.assertion(k)), k.private, map[string]any{"typ": "client-authentication+jwt"})),
	} {
		if why == "with the client named" {
			form.Set("client_id", k.ID)
		}
		if status, body := h.post("/token", "", form); status != http.StatusOK {
			t.Errorf("%s: %d %s", why, status, body)
		}
	}

	public, err := json.Marshal(k.JWKS)
	if err != nil {
		t.Fatal(err)
	}
	body := string(mustJSON(h.assertion(k)))
	none := func(string) []byte { return nil }
	mac := func(secret []byte) func(string) []byte {
		return func(signed string) []byte {
			m := hmac.New(sha256.New, secret)
			m.Write([]byte(signed))
			return m.Sum(nil)
		}
	}
	by := func(key *ecdsa.PrivateKey, headers map[string]any) string {
		return h.forge.signRaw(mustJSON(h.assertion(k)), key, headers)
	}
	for why, assertion := range map[string]string{
		"for another server":                 good(claims{"aud": "https://evil.example"}),
		"for us and another":                 good(claims{"aud": []string{h.issuer, "https://evil.example"}}),
		"for us twice":                       good(claims{"aud": []string{h.issuer, h.issuer}}),
		"for the token endpoint":             good(claims{"aud": h.issuer + "/token"}),
		"for us with a slash":                good(claims{"aud": h.issuer + "/"}),
		"for nobody":                         good(claims{"aud": nil}),
		"for an empty list":                  good(claims{"aud": []string{}}),
		"whose end is too far":               good(claims{"exp": now + 310}),
		"at its end":                         good(claims{"exp": now}),
		"without an end":                     good(claims{"exp": nil}),
		"whose end is a text":                good(claims{"exp": "9999999999"}),
		"from the future":                    good(claims{"iat": now + 40}),
		"not yet valid":                      good(claims{"nbf": now + 40}),
		"without a jti":                      good(claims{"jti": nil}),
		"with an empty jti":                  good(claims{"jti": ""}),
		"about another client":               good(claims{"sub": other.ID}),
		"by another client":                  good(claims{"iss": other.ID}),
		"by nobody":                          good(claims{"iss": nil}),
		"about nobody":                       good(claims{"sub": nil}),
		"about a client that is not":         good(claims{"iss": "0123456789abcdef", "sub": "0123456789abcdef"}),
		"signed by the other":                by(other.private, nil),
		"signed by the forge":                by(h.forge.key, nil),
		"with a kid that is not":             by(k.private, map[string]any{"kid": "other"}),
		"with crit":                          by(k.private, map[string]any{"crit": []string{"exp"}}),
		"with a key of its own":              by(h.forge.key, map[string]any{"jku": h.forge.url + "/keys"}),
		"of type at+jwt":                     by(k.private, map[string]any{"typ": "at+jwt"}),
		"by algorithm none":                  unsigned(`{"alg":"none","kid":"`+forgeKeyID+`"}`, body, none),
		"by algorithm None":                  unsigned(`{"alg":"None","kid":"`+forgeKeyID+`"}`, body, none),
		"by HS256, keyed with what is known": unsigned(`{"alg":"HS256","kid":"`+forgeKeyID+`"}`, body, mac([]byte(k.JWKS))),
		"by HS256, keyed with its text":      unsigned(`{"alg":"HS256","kid":"`+forgeKeyID+`"}`, body, mac(public)),
		"by HS256, keyed with nothing":       unsigned(`{"alg":"HS256","kid":"`+forgeKeyID+`"}`, body, mac(nil)),
		"of ES256, without a signature":      unsigned(`{"alg":"ES256","kid":"`+forgeKeyID+`"}`, body, none),
		"of ES256, all zero":                 unsigned(`{"alg":"ES256","kid":"`+forgeKeyID+`"}`, body, func(string) []byte { return make([]byte, 64) }),
		"with a claim twice":                 h.forge.signRaw([]byte(strings.Replace(body, `"sub"`, `"sub":"x","sub"`, 1)), k.private, nil),
		"of 9 kilobytes":                     good(claims{"x": strings.Repeat("x", 9<<10)}),
		"in two parts":                       "a.b",
		"in five parts":                      "a.b.c.d.e",
	} {
		h.refused("an assertion "+why, "", asSigned(identity(), assertion), "invalid_client", "key_unknown")
	}

	used := good(nil)
	before := h.assertion(k)
	h.mustPost("/token", "", asSigned(identity(), used), &tokens{})
	h.refused("an assertion that was used", "", asSigned(identity(), used), "invalid_client", "replayed")
	h.mustPost("/token", "", asSigned(identity(), h.signFor(k, before)), &tokens{})
	h.refused("another of the same jti", "", asSigned(identity(), h.signFor(k, before.with(claims{"exp": now + 120}))), "invalid_client", "replayed")
	h.mustPost("/token", "", asSigned(identity(), h.signFor(other, h.assertion(other).with(claims{"jti": before["jti"]}))), &tokens{}) // Another client's jti is its own.

	// What is retried honestly is the identity; the client signs anew.
	var first, again tokens
	id := identity()
	h.mustPost("/token", "", asSigned(id, good(nil)), &first)
	h.mustPost("/token", "", asSigned(id, good(nil)), &again)
	if first.Access != again.Access {
		t.Error("an honest retry got another token")
	}
	h.refused("another client with the same identity", "", asSigned(id, h.signFor(other, h.assertion(other))), "invalid_request", "replayed")
	h.refused("neither signed anew", "", asSigned(id, used), "invalid_client", "replayed")

	// An assertion that came with a request that was refused is used all the same
	// once it is served.
	once := good(nil)
	h.refused("a scope that the key has not", "", asSigned(exchangeForm(h.forge.sign(h.forge.good(h.now()), nil), "scope", "chat:hr-bot"), once), "invalid_scope", "scope")
	h.mustPost("/token", "", asSigned(identity(), once), &tokens{})
	h.refused("and then no more", "", asSigned(identity(), once), "invalid_client", "replayed")

	h.restartIssuer()
	h.refused("an assertion that was used before a restart", "", asSigned(identity(), used), "invalid_client", "replayed")
}

// TestTwoClients: a request shows one client, in one way.
func TestTwoClients(t *testing.T) {
	h := startHouse(t)
	k, other, secret := h.signedKey(), h.signedKey(), h.makeKey(nil, time.Hour)
	identity := func(more ...string) url.Values {
		return exchangeForm(h.forge.sign(h.forge.good(h.now()), nil), more...)
	}
	good := func() string { return h.signFor(k, h.assertion(k)) }
	named := func(id string) url.Values {
		f := asSigned(identity(), good())
		f.Set("client_id", id)
		return f
	}
	bearer := bearerForm(h.forge.sign(h.forge.good(h.now()), nil))
	untyped := asSigned(identity(), good())
	untyped.Del("client_assertion_type")
	saml := asSigned(identity(), good())
	saml.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer")
	empty := asSigned(identity(), "")
	for why, row := range map[string]struct {
		key          string
		form         url.Values
		code, reason string
	}{
		"a secret beside the assertion":            {secret.Secret, asSigned(identity(), good()), "invalid_request", "invalid_request"},
		"a secret in the form beside it":           {"", asSigned(identity("client_id", secret.ID, "client_secret", secret.Secret), good()), "invalid_request", "invalid_request"},
		"a secret beside it, in jwt-bearer":        {secret.Secret, asSigned(bearer, good()), "invalid_request", "invalid_request"},
		"another client's id":                      {"", named(other.ID), "invalid_client", "key_unknown"},
		"the id of a client with a secret":         {"", named(secret.ID), "invalid_client", "key_unknown"},
		"no type of the assertion":                 {"", untyped, "invalid_request", "invalid_request"},
		"another type of assertion":                {"", saml, "invalid_request", "invalid_request"},
		"a type without an assertion":              {"", empty, "invalid_request", "invalid_request"},
		"a client with a secret signs":             {"", asSigned(identity(), h.signFor(wielded{secret, k.private}, h.assertion(wielded{secret, k.private}))), "invalid_client", "key_unknown"},
		"its own assertion as its identity":        {"", asSigned(bearerForm(good()), good()), "invalid_grant", "identity"},
		"its own assertion beside a secret, as id": {secret.Secret, besideForm(good()), "invalid_grant", "identity"},
	} {
		h.refused(why, row.key, row.form, row.code, row.reason)
	}

	// A header that names the one and a form that names the other.
	for why, set := range map[string]func(*http.Request){
		"two Authorization headers": func(r *http.Request) {
			r.SetBasicAuth(secret.ID, secret.Secret)
			r.Header.Add("Authorization", "Basic x")
		},
		"a Bearer credential":       func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secret.Secret) },
		"a Basic that is no base64": func(r *http.Request) { r.Header.Set("Authorization", "Basic %%%") },
		"a Basic without a colon": func(r *http.Request) {
			r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(secret.Secret)))
		},
		"a Basic that is not form-encoded": func(r *http.Request) { r.SetBasicAuth("%zz", secret.Secret) },
	} {
		req := h.request(http.MethodPost, "/token", "application/x-www-form-urlencoded", identity().Encode())
		set(req)
		if status, body := h.send(req); status != http.StatusBadRequest || decodeError(t, body).Code != "invalid_request" {
			t.Errorf("%s: %d %s, want 400 invalid_request", why, status, body)
		}
	}
	// Form-encoded as RFC 6749, section 2.3.1, has it.
	req := h.request(http.MethodPost, "/token", "application/x-www-form-urlencoded", identity().Encode())
	req.SetBasicAuth("%"+hex(secret.ID[0])+secret.ID[1:], "%68"+secret.Secret[1:])
	if status, body := h.send(req); status != http.StatusOK {
		t.Errorf("a form-encoded Basic credential: %d %s", status, body)
	}

	// A 401 says how to authenticate (RFC 6749, section 5.2).
	req = h.request(http.MethodPost, "/token", "application/x-www-form-urlencoded", identity().Encode())
	req.SetBasicAuth(secret.ID, other.ID)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got := res.Header.Get("WWW-Authenticate"); res.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(got, "Basic ") {
		t.Errorf("a wrong secret: %s, WWW-Authenticate %q, want 401 and Basic", res.Status, got)
	}
}

func hex(b byte) string { return string("0123456789abcdef"[b>>4]) + string("0123456789abcdef"[b&15]) }

// TestSignedInParallel: of many who present one assertion at once, one is served.
func TestSignedInParallel(t *testing.T) {
	h := startHouse(t)
	k := h.signedKey()
	assertion := h.signFor(k, h.assertion(k))
	answers := make(chan int, 20)
	for range cap(answers) {
		form := asSigned(bearerForm(h.forge.sign(h.forge.good(h.now()).with(claims{"jti": rand.Text()}), nil)), assertion)
		go func() {
			status, _ := h.post("/token", "", form)
			answers <- status
		}()
	}
	served := map[int]int{}
	for range cap(answers) {
		served[<-answers]++
	}
	if served[http.StatusOK] != 1 || served[http.StatusUnauthorized] != cap(answers)-1 {
		t.Errorf("one assertion, presented %d times at once, is answered %v", cap(answers), served)
	}
}
