package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourpass/hourpass/cmd/internal/issuerd"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/seal"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/keys"
)

// makeKey puts a key into the issuer's store, bound to ada as the forge names
// her, so that tests can wield it with identity tokens of their own making.
func (h *house) makeKey(change func(*policy.Key), life time.Duration) key {
	h.t.Helper()
	db, err := store.Open(h.t.Context(), h.store)
	if err != nil {
		h.t.Fatal(err)
	}
	defer db.Close()
	pepper, err := seal.LoadKey(filepath.Join(h.dir, "pepper"))
	if err != nil {
		h.t.Fatal(err)
	}
	s, err := keys.New(db, pepper)
	if err != nil {
		h.t.Fatal(err)
	}
	k := policy.Key{Owner: "forge:ada", Grants: []string{"faq"}, Bindings: []policy.Binding{{Issuer: h.forge.url, Subject: "ada"}}}
	if change != nil {
		change(&k)
	}
	made, secret, err := s.Create(h.t.Context(), k, life, h.now(), nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return key{made, secret}
}

// refused expects an exchange to be refused with that OAuth error and that
// reason in the audit, and nothing of what was sent in the answer.
func (h *house) refused(why, machineKey string, form url.Values, code, reason string) {
	h.t.Helper()
	status, body := h.post("/token", machineKey, form)
	e := decodeError(h.t, body)
	if status < 400 || status >= 500 || e.Code != code || e.Detail == "" || e.Decision == "" {
		h.t.Errorf("%s: got %d %s, want %s", why, status, body, code)
	}
	if len(machineKey) > 20 && bytes.Contains(body, []byte(machineKey)) {
		h.t.Errorf("%s: the answer holds the machine key", why)
	}
	all := h.records("issuer")
	if last := all[len(all)-1]; last.Decision != e.Decision || last.Outcome != audit.Deny || last.Reason != reason {
		h.t.Errorf("%s: the last audit record is %+v, want decision %s denied for %s", why, last, e.Decision, reason)
	}
}

// TestOneFactorAlone: a key alone, an identity alone, or a key with somebody
// else's identity gets no token.
func TestOneFactorAlone(t *testing.T) {
	h := startHouse(t)
	mine := h.makeKey(nil, time.Hour)
	fresh := func(changes claims) string { return h.forge.sign(h.forge.good(h.now()).with(changes), nil) }

	var tok tokens
	h.mustPost("/token", mine.Secret, exchangeForm(fresh(nil)), &tok)
	if tok.Type != "Bearer" || tok.Issued != "urn:ietf:params:oauth:token-type:access_token" || tok.ExpiresIn != 3600 ||
		tok.Scope != "chat:faq-bot completions:faq-bot embeddings:faq-bot responses:faq-bot" || tok.Refresh != "" {
		t.Errorf("the exchange answers %+v", tok)
	}

	keyAlone := exchangeForm("")
	keyAlone.Del("subject_token")
	h.refused("key alone", mine.Secret, keyAlone, "invalid_request", "invalid_request")
	h.refused("identity alone", "", exchangeForm(fresh(nil)), "invalid_client", "key_missing")
	h.refused("somebody else's identity", mine.Secret, exchangeForm(fresh(claims{"sub": "grace"})), "invalid_request", "key_not_bound")
	h.refused("a member no more", mine.Secret, exchangeForm(fresh(claims{"groups": []string{"everybody"}})), "invalid_request", "not_a_member")

	spoilt := mine.Secret[:len(mine.Secret)-1] + map[bool]string{true: "0", false: "1"}[mine.Secret[len(mine.Secret)-1] != '0']
	h.refused("a mistyped key", spoilt, exchangeForm(fresh(nil)), "invalid_client", "key_unknown")
	other := startHouse(t)
	foreign := other.makeKey(func(k *policy.Key) { k.Bindings[0].Issuer = h.forge.url }, time.Hour)
	h.refused("a key of another issuer", foreign.Secret, exchangeForm(fresh(nil)), "invalid_client", "key_unknown")

	wrongSecret := "hpk_" + mine.ID + foreign.Secret[20:]
	h.refused("the id with another secret", wrongSecret, exchangeForm(fresh(nil)), "invalid_client", "key_unknown")

	short := h.makeKey(nil, time.Minute)
	h.pass(time.Minute)
	h.refused("an expired key", short.Secret, exchangeForm(fresh(nil)), "unauthorized_client", "key_not_active")
}

func TestDisabledKey(t *testing.T) {
	h := startHouse(t)
	l := h.logIn("ada", "lovelace")
	k := h.enrol(l, `{"grants":["faq"]}`)
	tok := h.refresh(k, l.Refresh)
	if status, body := h.api(http.MethodPost, "/v1/keys/"+k.ID+"/disable", l.Access, `{"reason":"lost laptop"}`); status != http.StatusOK {
		t.Fatalf("disabling: %d %s", status, body)
	}
	h.refused("a disabled key", k.Secret, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tok.Refresh}}, "unauthorized_client", "key_not_active")
	h.refused("a disabled key, before anything else is looked at", k.Secret, url.Values{"grant_type": {"refresh_token"}}, "unauthorized_client", "key_not_active")
	var list struct{ Keys []policy.Key }
	h.await("the key's last use to be noted", func() bool { // Another issuer notes it within 5 s.
		_, body := h.api(http.MethodGet, "/v1/keys", l.Access, "")
		return json.Unmarshal(body, &list) == nil && len(list.Keys) == 1 && !list.Keys[0].LastUsedAt.IsZero()
	})
	if k := list.Keys[0]; k.State != policy.Disabled || k.StateReason != "lost laptop" {
		t.Errorf("the list says %+v", k)
	}
}

// TestIdentityTokensThatProveNothing: a good one, spoilt in one way a row.
func TestIdentityTokensThatProveNothing(t *testing.T) {
	h := startHouse(t)
	k := h.makeKey(nil, 2*time.Hour)
	now := h.now()
	good := h.forge.good(now)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own := tokens{}
	h.mustPost("/token", k.Secret, exchangeForm(h.forge.sign(good, nil)), &own)
	sign := func(changes claims) string {
		return h.forge.sign(good.with(claims{"jti": rand.Text()}).with(changes), nil)
	}
	raw := func(edit ...string) string {
		b, _ := json.Marshal(good.with(claims{"jti": rand.Text()}))
		return h.forge.signRaw([]byte(strings.NewReplacer(edit...).Replace(string(b))), h.forge.key, nil)
	}
	signature := func(s string) string { return s[:strings.LastIndexByte(s, '.')+1] }

	for why, token := range map[string]string{
		"of another audience":              sign(claims{"aud": "payroll"}),
		"of another, asked for by ours":    sign(claims{"aud": "payroll", "azp": "tools"}),
		"of no audience":                   sign(claims{"aud": nil}),
		"of ours and another, without azp": sign(claims{"aud": []string{"tools", "payroll"}}),
		"of ours, asked for by another":    sign(claims{"azp": "payroll"}),
		"of another issuer":                sign(claims{"iss": "https://evil.example"}),
		"of an issuer with a slash":        sign(claims{"iss": h.forge.url + "/"}),
		"of no issuer":                     sign(claims{"iss": nil}),
		"of the other provider":            sign(claims{"iss": h.idpURL}),
		"expired a second ago":             sign(claims{"exp": now.Unix() - 1}),
		"without an end":                   sign(claims{"exp": nil}),
		"with an end that is a text":       sign(claims{"exp": "9999999999"}),
		"with an end of 1e300":             sign(claims{"exp": 1e300}),
		"from the future":                  sign(claims{"iat": now.Unix() + 60}),
		"of no date":                       sign(claims{"iat": nil}),
		"too old":                          sign(claims{"iat": now.Add(-2 * time.Hour).Unix()}),
		"not yet valid":                    sign(claims{"nbf": now.Unix() + 60}),
		"of nobody":                        sign(claims{"sub": nil}),
		"of an empty subject":              sign(claims{"sub": ""}),
		"of a subject with a newline":      sign(claims{"sub": "ada\r\nX: y"}),
		"of a numeric subject":             sign(claims{"sub": 1}),
		"whose groups are one text":        sign(claims{"groups": "faq-users"}),
		"with a subject twice":             raw(`"sub"`, `"sub":"grace","sub"`),
		"with a subject twice, escaped":    raw(`"sub"`, `"s\u0075b":"grace","sub"`),
		"signed by a stranger":             h.forge.signRaw(mustJSON(good), stranger, nil),
		"without its signature":            signature(sign(nil)),
		"with another one's signature":     signature(sign(nil)) + strings.Split(sign(nil), ".")[2],
		"with an unknown kid":              h.forge.sign(good, map[string]any{"kid": "other"}),
		"of type at+jwt":                   h.forge.sign(good, map[string]any{"typ": "at+jwt"}),
		"with crit":                        h.forge.sign(good, map[string]any{"crit": []string{"exp"}}),
		"our own token":                    own.Access,
		"two parts":                        "a.b",
		"a megabyte of dots":               strings.Repeat(".", 50_000),
		"not base64":                       "é.é.é",
	} {
		h.refused("an identity token "+why, k.Secret, exchangeForm(token), "invalid_request", "identity")
	}
}

// TestGroupsLeftOut: groups that the provider did not tell are not none.
func TestGroupsLeftOut(t *testing.T) {
	h := startHouse(t)
	k := h.makeKey(nil, time.Hour)
	identity := h.forge.good(h.now()).with(claims{"groups": nil, "_claim_names": map[string]string{"groups": "src1"}})
	h.refused("an identity token whose groups are left out", k.Secret, exchangeForm(h.forge.sign(identity, nil)), "invalid_request", "groups_unknown")
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// TestTokenRequests: the form is read strictly.
func TestTokenRequests(t *testing.T) {
	h := startHouse(t)
	k := h.makeKey(nil, time.Hour)
	form := func(more ...string) url.Values {
		return exchangeForm(h.forge.sign(h.forge.good(h.now()), nil), more...)
	}
	twice := form()
	twice.Add("scope", "chat:faq-bot")
	twice.Add("scope", "chat:faq-bot")
	noType := form()
	noType.Del("subject_token_type")
	for why, row := range map[string]struct {
		form         url.Values
		code, reason string
	}{
		"scope of another model":     {form("scope", "chat:hr-bot"), "invalid_scope", "scope"},
		"scope partly granted":       {form("scope", "chat:faq-bot chat:hr-bot"), "invalid_scope", "scope"},
		"scope wider by a pattern":   {form("scope", "chat:faq-*"), "invalid_scope", "scope"},
		"bare star":                  {form("scope", "chat:*"), "invalid_scope", "scope"},
		"empty scope":                {form("scope", ""), "invalid_scope", "scope"},
		"a scope twice":              {form("scope", "chat:faq-bot chat:faq-bot"), "invalid_scope", "scope"},
		"a parameter twice":          {twice, "invalid_request", "invalid_request"},
		"an unknown parameter":       {form("actor_token", "x"), "invalid_request", "invalid_request"},
		"no type of the token":       {noType, "invalid_request", "invalid_request"},
		"an access token":            {form("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"), "invalid_request", "subject_token"},
		"a refresh token wanted":     {form("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"), "invalid_request", "invalid_request"},
		"another audience":           {form("audience", "payroll"), "invalid_target", "audience"},
		"an unknown grant":           {form("grant_type", "password"), "unsupported_grant_type", "grant_type"},
		"key in header and form":     {form("client_secret", k.Secret), "invalid_request", "invalid_request"},
		"another client in the form": {form("client_id", "somebody"), "invalid_request", "invalid_request"},
	} {
		h.refused(why, k.Secret, row.form, row.code, row.reason)
	}
	// The key in the form alone is client_secret_post.
	var tok tokens
	h.mustPost("/token", "", form("client_id", k.ID, "client_secret", k.Secret, "scope", "chat:faq-bot", "audience", "other-models"), &tok)
	if tok.Scope != "chat:faq-bot" {
		t.Errorf("asked for chat:faq-bot, got %q", tok.Scope)
	}
	h.refused("another key's id", "", form("client_id", "0123456789abcdef", "client_secret", k.Secret), "invalid_client", "key_unknown")

	for why, req := range map[string]*http.Request{
		"a query":      h.request(http.MethodPost, "/token?grant_type=x", "application/x-www-form-urlencoded", form().Encode()),
		"JSON":         h.request(http.MethodPost, "/token", "application/json", `{}`),
		"a long form":  h.request(http.MethodPost, "/token", "application/x-www-form-urlencoded", "grant_type="+strings.Repeat("x", 70_000)),
		"GET":          h.request(http.MethodGet, "/token", "", ""),
		"a dirty path": h.request(http.MethodPost, "//token", "application/x-www-form-urlencoded", form().Encode()),
	} {
		status, body := h.send(req)
		if e := decodeError(t, body); status < 400 || status >= 500 || e.Code != "invalid_request" {
			t.Errorf("%s: got %d %s, want invalid_request", why, status, body)
		}
	}
}

func (h *house) request(method, path, media, body string) *http.Request {
	req, err := http.NewRequest(method, h.issuer+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if media != "" {
		req.Header.Set("Content-Type", media)
	}
	return req
}

// TestReplay: an identity token is good for one token. The same key may come
// back for it within half a minute, and nobody else ever, restarts included.
func TestReplay(t *testing.T) {
	h := startHouse(t)
	mine := h.makeKey(nil, time.Hour)
	twin := h.makeKey(nil, time.Hour)
	for _, jti := range []any{rand.Text(), nil} {
		identity := h.forge.sign(h.forge.good(h.now()).with(claims{"jti": jti}), nil)
		var first, again tokens
		h.mustPost("/token", mine.Secret, exchangeForm(identity), &first)
		h.restartIssuer()
		h.mustPost("/token", mine.Secret, exchangeForm(identity), &again)
		if first.Access != again.Access {
			t.Error("an honest retry got another token")
		}
		h.refused("the same for another request", mine.Secret, exchangeForm(identity, "scope", "chat:faq-bot"), "invalid_request", "replayed")
		h.refused("the same with another key", twin.Secret, exchangeForm(identity), "invalid_request", "replayed")
		h.pass(31 * time.Second)
		h.refused("the same half a minute later", mine.Secret, exchangeForm(identity), "invalid_request", "replayed")
	}
	if !strings.Contains(h.logs.String(), `"alarm":"replay"`) {
		t.Error("no alarm was logged")
	}
}

// TestReplayInParallel: however many come at once, they share one token.
func TestReplayInParallel(t *testing.T) {
	h := startHouse(t)
	k := h.makeKey(nil, time.Hour)
	identity := h.forge.sign(h.forge.good(h.now()), nil)
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := map[string]int{}
	for range 20 {
		wg.Go(func() {
			var tok tokens
			_, body := h.post("/token", k.Secret, exchangeForm(identity))
			_ = json.Unmarshal(body, &tok)
			mu.Lock()
			defer mu.Unlock()
			seen[tok.Access]++
		})
	}
	wg.Wait()
	if len(seen) != 1 || seen[""] != 0 {
		t.Errorf("20 exchanges of one identity token gave %d different answers", len(seen))
	}
}

// TestRestart: signing keys, machine keys and sessions are there again.
func TestRestart(t *testing.T) {
	h := startHouse(t)
	l := h.logIn("ada", "lovelace")
	k := h.enrol(l, `{"grants":["faq"],"team":"search"}`)
	_, before := h.send(h.request(http.MethodGet, "/jwks.json", "", ""))
	first := h.refresh(k, l.Refresh)
	h.restartIssuer()
	_, after := h.send(h.request(http.MethodGet, "/jwks.json", "", ""))
	if !bytes.Equal(before, after) {
		t.Errorf("the key set was %s, is %s", before, after)
	}
	second := h.refresh(k, first.Refresh)
	if first.Access == second.Access {
		t.Error("a refresh gave the same token again")
	}
	if err := issuerd.Init(context.Background(), h.options("issuer.yaml")); err == nil {
		t.Error("init over existing state: no error")
	}
}

// TestNoAuditNoToken: when the record can't be kept, the exchange is refused.
func TestNoAuditNoToken(t *testing.T) {
	h := startHouse(t, "audit: ", "audit: /dev/full #")
	k := h.makeKey(nil, time.Hour)
	status, body := h.post("/token", k.Secret, exchangeForm(h.forge.sign(h.forge.good(h.now()), nil)))
	if e := decodeError(t, body); status != http.StatusServiceUnavailable || e.Code != "temporarily_unavailable" || bytes.Contains(body, []byte("access_token")) {
		t.Errorf("without an audit log: %d %s, want 503", status, body)
	}
}
