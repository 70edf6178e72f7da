package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/seal"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/keys"
)

const (
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	grantBearer   = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	grantDevice   = "urn:ietf:params:oauth:grant-type:device_code"
	typeIDToken   = "urn:ietf:params:oauth:token-type:id_token"
	typeJWT       = "urn:ietf:params:oauth:token-type:jwt"
	typeAccess    = "urn:ietf:params:oauth:token-type:access_token"
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// wielded is a machine key as its holder has it: with a secret, or with a
// private key whose public half the issuer was given.
type wielded struct {
	key
	private *ecdsa.PrivateKey
}

// keyStore is the issuer's own store of keys, behind its back: another issuer on
// the same database would look like this.
func (h *house) keyStore() *keys.Store {
	h.t.Helper()
	db, err := store.Open(h.t.Context(), h.store)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = db.Close() })
	pepper, err := seal.LoadKey(filepath.Join(h.dir, "pepper"))
	if err != nil {
		h.t.Fatal(err)
	}
	s, err := keys.New(db, pepper)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// newClientKey is a private key and the public key set that it is enrolled with.
func newClientKey(t *testing.T) (private *ecdsa.PrivateKey, set string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return private, string(mustJSON(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &private.PublicKey, KeyID: forgeKeyID, Algorithm: "ES256", Use: "sig"}}}))
}

// assertion is what a client says of itself that is good (RFC 7523, section 3).
func (h *house) assertion(k wielded) claims {
	return claims{
		"iss": k.ID, "sub": k.ID, "aud": h.issuer, "jti": rand.Text(),
		"iat": h.now().Unix(), "exp": h.now().Add(time.Minute).Unix(),
	}
}

// signFor signs what a client says of itself.
func (h *house) signFor(k wielded, c claims) string {
	return h.forge.signRaw(mustJSON(c), k.private, nil)
}

// The ways in which a key shows itself.
const (
	inHeader = "client_secret_basic"
	inForm   = "client_secret_post"
	bySign   = "private_key_jwt"
)

// clientRequest is a form to path in which the key authenticates itself; without
// a secret or private key it says no more than its id.
func (h *house) clientRequest(path, method string, k wielded, form url.Values) *http.Request {
	h.t.Helper()
	switch {
	case method == inForm && k.ID != "":
		form.Set("client_id", k.ID)
		form.Set("client_secret", k.Secret)
	case method == bySign && k.private != nil:
		form.Set("client_assertion_type", assertionType)
		form.Set("client_assertion", h.signFor(k, h.assertion(k)))
	}
	req := h.request(http.MethodPost, path, "application/x-www-form-urlencoded", form.Encode())
	if method == inHeader && k.Secret != "" {
		req.SetBasicAuth(k.ID, k.Secret)
	}
	return req
}

// way is one of the ways to a token.
type way struct {
	name     string
	methods  []string  // In which the key can show itself.
	identity string    // Whose it is: "corp", "forge", "login", "device", or "" where there is none.
	bad      string    // What the grant calls an identity that won't do.
	missing  [2]string // What it calls one that is not there: code and reason.
	form     func(identity string) url.Values
}

var (
	bySecret = []string{inHeader, inForm}
	signed   = []string{bySign}
)

func subjectForm(kind string) func(string) url.Values {
	return func(identity string) url.Values { return exchangeForm(identity, "subject_token_type", kind) }
}

func bearerForm(identity string) url.Values {
	return url.Values{"grant_type": {grantBearer}, "assertion": {identity}}
}

func besideForm(identity string) url.Values {
	f := url.Values{"grant_type": {"client_credentials"}}
	if identity != "" {
		f.Set("client_assertion_type", assertionType)
		f.Set("client_assertion", identity)
	}
	return f
}

func refreshForm(identity string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {identity}}
}

// ways are all grants that mint, for people and for workloads.
func ways() []way {
	missing, noIdentity, noLogin := [2]string{"invalid_request", "invalid_request"}, [2]string{"invalid_request", "identity_missing"}, [2]string{"invalid_grant", "session"}
	list := []way{
		{"refresh_token of a browser", bySecret, "login", "invalid_grant", noLogin, refreshForm},
		{"refresh_token of a device", bySecret, "device", "invalid_grant", noLogin, refreshForm},
		{"refresh_token, signed", signed, "login", "invalid_grant", noLogin, refreshForm},
		{"client_credentials without identity", bySecret, "", "", [2]string{}, besideForm},
		{"client_credentials without identity, signed", signed, "", "", [2]string{}, besideForm},
	}
	for _, who := range []string{"corp", "forge"} {
		list = append(list,
			way{"token-exchange of an id_token of " + who, bySecret, who, "invalid_request", missing, subjectForm(typeIDToken)},
			way{"token-exchange of a jwt of " + who, bySecret, who, "invalid_request", missing, subjectForm(typeJWT)},
			way{"jwt-bearer of " + who, bySecret, who, "invalid_grant", missing, bearerForm},
			way{"client_credentials with an assertion of " + who, bySecret, who, "invalid_grant", noIdentity, besideForm},
			way{"token-exchange of " + who + ", signed", signed, who, "invalid_request", missing, subjectForm(typeIDToken)},
			way{"jwt-bearer of " + who + ", signed", signed, who, "invalid_grant", missing, bearerForm},
		)
	}
	return list
}

// enrolFor puts a key into the store that may walk the way with ada's identity.
func (h *house) enrolFor(s *keys.Store, w way, life time.Duration, now time.Time) wielded {
	h.t.Helper()
	k := policy.Key{Owner: "corp:ada", Grants: []string{"faq"}}
	switch w.identity {
	case "":
		k.Identity, k.Grants = policy.None, []string{"alone"}
	case "forge":
		k.Bindings = []policy.Binding{{Issuer: h.forge.url, Subject: "ada"}}
	default:
		k.Bindings = []policy.Binding{{Issuer: h.idpURL, Subject: "ada"}}
	}
	var private *ecdsa.PrivateKey
	if w.methods[0] == bySign {
		private, k.JWKS = newClientKey(h.t)
	}
	made, secret, err := s.Create(h.t.Context(), k, life, now, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return wielded{key{made, secret}, private}
}

// prove is a fresh identity of ada's or of grace's, as the way takes it.
func (h *house) prove(w way, user string) string {
	h.t.Helper()
	password := map[string]string{"ada": "lovelace", "grace": "hopper"}[user]
	switch w.identity {
	case "forge":
		return h.forge.sign(h.forge.good(h.now()).with(claims{"sub": user}), nil)
	case "corp":
		return h.idToken(user, password)
	case "login":
		return h.logIn(user, password).Refresh
	case "device":
		return h.deviceLogin(user, password).Refresh
	}
	return ""
}

// idToken logs in at the toy provider, as a tool of the company's that is not
// the issuer would, and returns the ID token.
func (h *house) idToken(user, password string) string {
	h.t.Helper()
	conf := oauth2.Config{
		ClientID: "hourpass", ClientSecret: "toy-secret", RedirectURL: h.issuer + "/callback/corp", Scopes: []string{"openid", "groups"},
		Endpoint: oauth2.Endpoint{AuthURL: h.idpURL + "/authorize", TokenURL: h.idpURL + "/oauth/token"},
	}
	verifier := oauth2.GenerateVerifier()
	back, err := walkTo(conf.RedirectURL, conf.AuthCodeURL("a state of the tool's", oauth2.S256ChallengeOption(verifier)), user, password)
	if err != nil {
		h.t.Fatal(err)
	}
	tok, err := conf.Exchange(h.t.Context(), back.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		h.t.Fatal(err)
	}
	raw, _ := tok.Extra("id_token").(string)
	return raw
}

// recorded sends a request and returns its answer and the one record that it
// left in the audit.
func (h *house) recorded(req *http.Request) (int, []byte, audit.Record) {
	h.t.Helper()
	before := len(h.records("issuer"))
	status, body := h.send(req)
	after := h.records("issuer")[before:]
	if len(after) != 1 {
		h.t.Errorf("%d %s left %d records, want 1: %+v", status, body, len(after), after)
		return status, body, audit.Record{}
	}
	return status, body, after[0]
}

// rotateOut gives the key a new secret, or new public keys, that its holder does
// not have.
func (h *house) rotateOut(s *keys.Store, k wielded) {
	h.t.Helper()
	var err error
	if k.private != nil {
		_, set := newClientKey(h.t)
		_, err = s.Enrol(h.t.Context(), k.ID, 0, set, h.now(), nil)
	} else {
		_, _, err = s.Rotate(h.t.Context(), k.ID, 0, 0, h.now(), nil)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// mints expects a token of ada's, or of the key's where it needs nobody, and a
// record that says so.
func (h *house) mints(why string, w way, req *http.Request) {
	h.t.Helper()
	status, body, rec := h.recorded(req)
	var tok tokens
	if err := json.Unmarshal(body, &tok); err != nil || status != http.StatusOK || tok.Type != "Bearer" || tok.Access == "" {
		h.t.Errorf("%s: %d %s, want a token", why, status, body)
		return
	}
	identity, lives, scope := map[string]string{"": "", "forge": "forge:ada"}[w.identity], 3600, "chat:faq-bot completions:faq-bot embeddings:faq-bot responses:faq-bot"
	if w.identity != "" && w.identity != "forge" {
		identity = "corp:ada"
	}
	if w.alone() {
		lives, scope = 900, "chat:faq-bot"
	}
	if tok.ExpiresIn != lives || tok.Scope != scope || (tok.Issued == typeAccess) != strings.HasPrefix(w.name, "token-exchange") {
		h.t.Errorf("%s: the answer is %s", why, body)
	}
	if isRefresh := strings.HasPrefix(w.name, "refresh_token"); isRefresh != (tok.Refresh != "") {
		h.t.Errorf("%s: refresh token: %q", why, tok.Refresh)
	}
	if rec.Event != "exchange" || rec.Outcome != audit.Allow || rec.Reason != "" || rec.Identity != identity || rec.Token == "" || rec.Scope != scope {
		h.t.Errorf("%s: the record is %+v", why, rec)
	}
	if status, answer := h.call(tok.Access, "faq-bot"); status != http.StatusOK {
		h.t.Errorf("%s: a call with the token: %d %s", why, status, answer)
	}
}

// refuses expects no token, this OAuth error, and this reason in the record.
func (h *house) refuses(why string, req *http.Request, code, reason string) {
	h.t.Helper()
	status, body, rec := h.recorded(req)
	var e oauthError
	_ = json.Unmarshal(body, &e)
	want := http.StatusBadRequest
	if code == "invalid_client" {
		want = http.StatusUnauthorized
	}
	if status != want || e.Code != code || e.Detail == "" || bytes.Contains(body, []byte("access_token\"")) {
		h.t.Errorf("%s: %d %s, want %d %s", why, status, body, want, code)
	}
	if rec.Decision != e.Decision || rec.Event != "exchange" || rec.Outcome != audit.Deny || rec.Reason != reason || rec.Token != "" || rec.Status != status {
		h.t.Errorf("%s: the record is %+v, want %s denied for %s", why, rec, e.Decision, reason)
	}
	if known := code != "invalid_client"; known != (rec.Key != "") {
		h.t.Errorf("%s: the record names the key %q", why, rec.Key)
	}
}

// alone tells whether the way takes no identity.
func (w way) alone() bool { return w.identity == "" }

// says is what the grant calls the situation.
func (w way) says(row situation) (code, reason string) {
	switch {
	case row.name == "key alone":
		return w.missing[0], w.missing[1]
	case row.name == "identity alone" && strings.HasPrefix(w.name, "client_credentials") && !w.alone():
		return row.code, "key_unknown" // By itself the assertion is a client's signature, of nobody we know.
	case row.code == "":
		return w.bad, row.reason
	}
	return row.code, row.reason
}

// during has the house report to a subtest while that runs.
func (h *house) during(t *testing.T) {
	outer := h.t
	h.t = t
	t.Cleanup(func() { h.t = outer })
}
