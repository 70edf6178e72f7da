package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/store"
)

// authorizePage asks /authorize with the parameters and does not follow.
func (h *house) authorizePage(q url.Values, jar http.CookieJar) (*http.Response, oauthError) {
	h.t.Helper()
	c := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := c.Get(h.issuer + "/authorize?" + q.Encode())
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	var e oauthError
	_ = json.NewDecoder(res.Body).Decode(&e)
	return res, e
}

func authorizeQuery(challenge string) url.Values {
	return url.Values{
		"response_type": {"code"}, "client_id": {"hourpass-cli"}, "redirect_uri": {cliRedirect}, "state": {"the-state"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}, "provider": {"corp"},
	}
}

// TestAuthorizeRefuses: a good request, spoilt in one way a row. Nothing of it
// may redirect anywhere.
func TestAuthorizeRefuses(t *testing.T) {
	h := startHouse(t)
	challenge := oauth2.S256ChallengeFromVerifier(oauth2.GenerateVerifier())
	if res, _ := h.authorizePage(authorizeQuery(challenge), nil); res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(res.Header.Get("Location"), h.idpURL) {
		t.Fatalf("a good request: %s to %s", res.Status, res.Header.Get("Location"))
	}
	for why, spoil := range map[string]func(url.Values){
		"no client":                   func(q url.Values) { q.Del("client_id") },
		"another client":              func(q url.Values) { q.Set("client_id", "evil") },
		"no redirect":                 func(q url.Values) { q.Del("redirect_uri") },
		"another host":                func(q url.Values) { q.Set("redirect_uri", "http://evil.example/callback") },
		"https":                       func(q url.Values) { q.Set("redirect_uri", "https://127.0.0.1:7777/callback") },
		"a sub-path":                  func(q url.Values) { q.Set("redirect_uri", cliRedirect+"/x") },
		"another path":                func(q url.Values) { q.Set("redirect_uri", "http://127.0.0.1:7777/evil") },
		"a query":                     func(q url.Values) { q.Set("redirect_uri", cliRedirect+"?x=y") },
		"a fragment":                  func(q url.Values) { q.Set("redirect_uri", cliRedirect+"#x") },
		"user information":            func(q url.Values) { q.Set("redirect_uri", "http://127.0.0.1:7777@evil.example/callback") },
		"dots":                        func(q url.Values) { q.Set("redirect_uri", "http://127.0.0.1:7777/x/../callback") },
		"localhost":                   func(q url.Values) { q.Set("redirect_uri", "http://localhost:7777/callback") },
		"a trailing dot":              func(q url.Values) { q.Set("redirect_uri", "http://127.0.0.1.:7777/callback") },
		"an octal address":            func(q url.Values) { q.Set("redirect_uri", "http://0177.0.0.1:7777/callback") },
		"another loopback":            func(q url.Values) { q.Set("redirect_uri", "http://127.0.0.2:7777/callback") },
		"no port":                     func(q url.Values) { q.Set("redirect_uri", "http://127.0.0.1/callback") },
		"a port with a zero":          func(q url.Values) { q.Set("redirect_uri", "http://127.0.0.1:07777/callback") },
		"no challenge":                func(q url.Values) { q.Del("code_challenge") },
		"a plain challenge":           func(q url.Values) { q.Set("code_challenge_method", "plain") },
		"no challenge method":         func(q url.Values) { q.Del("code_challenge_method") },
		"a short challenge":           func(q url.Values) { q.Set("code_challenge", challenge[1:]) },
		"no state":                    func(q url.Values) { q.Del("state") },
		"a long state":                func(q url.Values) { q.Set("state", strings.Repeat("x", 8<<10)) },
		"a state with CR LF":          func(q url.Values) { q.Set("state", "a\r\nb") },
		"another response":            func(q url.Values) { q.Set("response_type", "token") },
		"an unknown provider":         func(q url.Values) { q.Set("provider", "evil") },
		"a provider not to log in at": func(q url.Values) { q.Set("provider", "forge") },
		"a parameter twice":           func(q url.Values) { q.Add("state", "other") },
		"an unknown parameter":        func(q url.Values) { q.Set("prompt", "none") },
	} {
		q := authorizeQuery(challenge)
		spoil(q)
		res, e := h.authorizePage(q, nil)
		if res.StatusCode != http.StatusBadRequest || e.Code != "invalid_request" || res.Header.Get("Location") != "" {
			t.Errorf("%s: %s %+v, Location %q, want 400 invalid_request", why, res.Status, e, res.Header.Get("Location"))
		}
	}
}

// atCallback logs in at the provider and stops before the issuer's callback.
func (h *house) atCallback(jar http.CookieJar, provider, verifier string) string {
	h.t.Helper()
	var callback string
	c := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), h.issuer+"/callback/") {
			callback = r.URL.String()
			return http.ErrUseLastResponse
		}
		r.SetBasicAuth("ada", "lovelace")
		return nil
	}}
	q := authorizeQuery(oauth2.S256ChallengeFromVerifier(verifier))
	q.Set("provider", provider)
	res, err := c.Get(h.issuer + "/authorize?" + q.Encode())
	if err != nil {
		h.t.Fatal(err)
	}
	res.Body.Close()
	if callback == "" {
		h.t.Fatalf("the provider did not send the browser back: %s", res.Status)
	}
	return callback
}

// callback visits the issuer's callback with the jar's cookies.
func (h *house) callback(address string, jar http.CookieJar) *http.Response {
	h.t.Helper()
	c := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := c.Get(address)
	if err != nil {
		h.t.Fatal(err)
	}
	res.Body.Close()
	return res
}

func newJar() http.CookieJar {
	jar, _ := cookiejar.New(nil)
	return jar
}

// TestCallback: only the browser that started a login finishes it, once, in time.
func TestCallback(t *testing.T) {
	h := startHouse(t)
	verifier := oauth2.GenerateVerifier()
	edit := func(address string, change func(url.Values)) string {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		change(q)
		u.RawQuery = q.Encode()
		return u.String()
	}
	refused := func(why, address string, jar http.CookieJar) {
		t.Helper()
		if res := h.callback(address, jar); res.StatusCode != http.StatusBadRequest || res.Header.Get("Location") != "" {
			t.Errorf("%s: %s to %q, want 400", why, res.Status, res.Header.Get("Location"))
		}
	}

	mine := newJar()
	address := h.atCallback(mine, "corp", verifier)
	refused("no state", edit(address, func(q url.Values) { q.Del("state") }), mine)
	refused("an unknown state", edit(address, func(q url.Values) { q.Set("state", "AAAAAAAAAAAAAAAAAAAAAAAAAA") }), mine)
	refused("another browser (login CSRF)", address, newJar())
	neighbour := newJar()
	h.atCallback(neighbour, "corp", verifier)
	refused("another browser, which is logging in itself", address, neighbour)
	refused("an unknown parameter", edit(address, func(q url.Values) { q.Set("evil", "x") }), mine)
	refused("another issuer (mix-up)", edit(address, func(q url.Values) { q.Set("iss", "https://evil.example") }), mine)
	refused("another provider's callback", strings.Replace(address, "/callback/corp", "/callback/forge", 1), mine)
	if res := h.callback(address, mine); res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(res.Header.Get("Location"), cliRedirect) {
		t.Fatalf("the browser that started: %s to %q", res.Status, res.Header.Get("Location"))
	}
	refused("the state again", address, mine)

	late := newJar()
	address = h.atCallback(late, "corp", verifier)
	h.pass(10 * time.Minute)
	refused("ten minutes later", address, late)

	wrongCode := newJar()
	refused("a code that the provider does not know", edit(h.atCallback(wrongCode, "corp", verifier), func(q url.Values) { q.Set("code", "evil") }), wrongCode)
	script := newJar()
	refused("an error of the provider", edit(h.atCallback(script, "corp", verifier), func(q url.Values) {
		q.Del("code")
		q.Set("error", "access_denied")
		q.Set("error_description", "<script>alert(1)</script>")
	}), script)

	// Two tabs of one browser log in side by side.
	tabs := newJar()
	first, second := h.atCallback(tabs, "corp", verifier), h.atCallback(tabs, "corp", verifier)
	for _, address := range []string{first, second} {
		if res := h.callback(address, tabs); res.StatusCode != http.StatusSeeOther {
			t.Errorf("one of two tabs: %s", res.Status)
		}
	}
}

func TestLoginCookie(t *testing.T) {
	h := startHouse(t)
	res, _ := h.authorizePage(authorizeQuery(oauth2.S256ChallengeFromVerifier(oauth2.GenerateVerifier())), nil)
	cookies := res.Cookies()
	if len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteLaxMode || cookies[0].Path != "/" || cookies[0].Domain != "" {
		t.Errorf("the login's cookies are %v", cookies)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// TestRedeemCode: the code needs its proof, and is good once.
func TestRedeemCode(t *testing.T) {
	h := startHouse(t)
	code := func() (code, verifier string) {
		verifier = oauth2.GenerateVerifier()
		back, err := h.browserTo(h.authorizeURL(verifier), "ada", "lovelace")
		if err != nil {
			t.Fatal(err)
		}
		return back.Query().Get("code"), verifier
	}
	form := func(code, verifier string) url.Values {
		return url.Values{
			"grant_type": {"authorization_code"}, "client_id": {"hourpass-cli"}, "code": {code},
			"redirect_uri": {cliRedirect}, "code_verifier": {verifier},
		}
	}
	for why, spoil := range map[string]func(url.Values){
		"another verifier":     func(f url.Values) { f.Set("code_verifier", oauth2.GenerateVerifier()) },
		"no verifier":          func(f url.Values) { f.Del("code_verifier") },
		"another redirect URI": func(f url.Values) { f.Set("redirect_uri", "http://127.0.0.1:7778/callback") },
		"no redirect URI":      func(f url.Values) { f.Del("redirect_uri") },
		"an unknown code":      func(f url.Values) { f.Set("code", "hpc_evil") },
	} {
		c, v := code()
		f := form(c, v)
		spoil(f)
		h.refused(why, "", f, "invalid_grant", "code")
		if why != "an unknown code" {
			h.refused(why+", then the right one", "", form(c, v), "invalid_grant", "code")
		}
	}
	c, v := code()
	other := form(c, v)
	other.Set("client_id", "evil")
	h.refused("another client", "", other, "invalid_request", "invalid_request")
	var l login
	h.mustPost("/token", "", form(c, v), &l)
	h.refused("the code again", "", form(c, v), "invalid_grant", "code")
	if status, body := h.api(http.MethodGet, "/v1/keys", l.Access, ""); status != http.StatusUnauthorized {
		t.Errorf("after its code came twice, the login still works: %d %s", status, body)
	}
	c, v = code()
	h.pass(time.Minute)
	h.refused("a minute later", "", form(c, v), "invalid_grant", "code")
}

// TestSession: a login alone mints nothing, and its refresh token rotates.
func TestSession(t *testing.T) {
	h := startHouse(t)
	l := h.logIn("ada", "lovelace")
	form := func(token string) url.Values {
		return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	}
	k := h.enrol(l, `{"grants":["faq"]}`)
	h.refused("the login alone", "", form(l.Refresh), "invalid_client", "key_missing")
	h.refused("the key alone", k.Secret, form(""), "invalid_grant", "session")

	grace := h.logIn("grace", "hopper")
	h.refused("somebody else's login", k.Secret, form(grace.Refresh), "invalid_grant", "key_not_bound")
	h.refused("the login's access token as a refresh token", k.Secret, form(l.Access), "invalid_grant", "session")

	first := h.refresh(k, l.Refresh)
	retry := h.refresh(k, l.Refresh) // The first answer could have been lost.
	second := h.refresh(k, retry.Refresh)
	if first.Access == second.Access || first.Refresh == second.Refresh {
		t.Error("nothing rotated")
	}
	h.pass(31 * time.Second)
	h.refused("an old refresh token", k.Secret, form(retry.Refresh), "invalid_grant", "session")
	h.refused("after that, the present one too", k.Secret, form(second.Refresh), "invalid_grant", "session")

	l = h.logIn("ada", "lovelace")
	h.pass(12 * time.Hour)
	h.refused("the next day", k.Secret, form(l.Refresh), "invalid_grant", "session")
}

// TestLeaver: whom the provider no longer knows is out at the next refresh.
func TestLeaver(t *testing.T) {
	h := startHouse(t)
	l := h.logIn("ada", "lovelace")
	k := h.enrol(l, `{"grants":["faq"]}`)
	tok := h.refresh(k, l.Refresh)
	if !h.idp.Disable("ada") {
		t.Fatal("the provider knows no ada")
	}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tok.Refresh}}
	h.refused("a leaver", k.Secret, form, "invalid_grant", "identity")
	h.refused("a leaver, again", k.Secret, form, "invalid_grant", "session")
}

// TestFreshLogin: keys change only moments after a login, by their owner, within
// what the owner may hold.
func TestFreshLogin(t *testing.T) {
	h := startHouse(t)
	l := h.logIn("ada", "lovelace")
	k := h.enrol(l, `{"grants":["faq"],"ip_ranges":[],"expires_in":3600,"team":"search","description":"laptop"}`)
	if k.Owner != "corp:ada" || len(k.Bindings) != 1 || k.Bindings[0].Subject != "ada" || k.IPRanges == nil || k.Team != "search" {
		t.Errorf("the key is %+v", k.Key)
	}
	tok := h.refresh(k, l.Refresh)
	for why, row := range map[string]struct {
		bearer, body string
		status       int
	}{
		"nobody":                   {"", `{"grants":["faq"]}`, http.StatusUnauthorized},
		"a model's token":          {tok.Access, `{"grants":["faq"]}`, http.StatusUnauthorized},
		"a refresh token":          {tok.Refresh, `{"grants":["faq"]}`, http.StatusUnauthorized},
		"a machine key":            {k.Secret, `{"grants":["faq"]}`, http.StatusUnauthorized},
		"a grant that is not":      {l.Access, `{"grants":["gone"]}`, http.StatusForbidden},
		"no grant":                 {l.Access, `{"grants":[]}`, http.StatusBadRequest},
		"a grant twice":            {l.Access, `{"grants":["faq","faq"]}`, http.StatusBadRequest},
		"a member twice":           {l.Access, `{"grants":["faq"],"grants":["wide"]}`, http.StatusBadRequest},
		"an unknown member":        {l.Access, `{"grants":["faq"],"state":"active"}`, http.StatusBadRequest},
		"another owner":            {l.Access, `{"grants":["faq"],"owner":"corp:grace"}`, http.StatusForbidden},
		"somebody else's identity": {l.Access, `{"grants":["faq"],"bindings":[{"issuer":"` + h.idpURL + `","subject":"grace"}]}`, http.StatusForbidden},
		"a stranger's identity":    {l.Access, `{"grants":["faq"],"bindings":[{"issuer":"https://evil.example","subject":"ada"}]}`, http.StatusBadRequest},
		"a binding to a pattern":   {l.Access, `{"grants":["faq"],"bindings":[{"issuer":"` + h.forge.url + `","subject":"*"}]}`, http.StatusBadRequest},
		"no identity needed":       {l.Access, `{"grants":["faq"],"identity":"none"}`, http.StatusForbidden},
		"a verifier's key":         {l.Access, `{"grants":["faq"],"verifier_for":["models"]}`, http.StatusForbidden},
		"a network with host bits": {l.Access, `{"grants":["faq"],"ip_ranges":["10.0.0.1/8"]}`, http.StatusBadRequest},
		"a life of two years":      {l.Access, `{"grants":["faq"],"expires_in":63072000}`, http.StatusBadRequest},
		"a life of a text":         {l.Access, `{"grants":["faq"],"expires_in":"3600"}`, http.StatusBadRequest},
		"not JSON":                 {l.Access, `grants=faq`, http.StatusBadRequest},
	} {
		if status, body := h.api(http.MethodPost, "/v1/keys", row.bearer, row.body); status != row.status || decodeProblem(t, body).Code == "" {
			t.Errorf("%s: %d %s, want %d", why, status, body, row.status)
		}
	}
	eve := h.logIn("eve", "dropper")
	if status, body := h.api(http.MethodPost, "/v1/keys", eve.Access, `{"grants":["faq"]}`); status != http.StatusForbidden {
		t.Errorf("a grant that eve may not hold: %d %s, want 403", status, body)
	}
	if status, body := h.api(http.MethodPost, "/v1/keys/"+k.ID+"/disable", eve.Access, `{}`); status != http.StatusNotFound {
		t.Errorf("eve disables ada's key: %d %s, want 404", status, body)
	}
	h.pass(10 * time.Minute)
	if status, body := h.api(http.MethodPost, "/v1/keys", l.Access, `{"grants":["faq"]}`); status != http.StatusUnauthorized {
		t.Errorf("ten minutes after the login: %d %s, want 401", status, body)
	}
	allowed := 0
	for _, r := range h.records("issuer") {
		if r.Event == "key.create" && r.Outcome == audit.Allow {
			allowed++
		}
	}
	if allowed != 1 {
		t.Errorf("the audit holds %d created keys, want 1", allowed)
	}
}

// TestGrantLimits: a token is bound by each grant that gives of its scope.
func TestGrantLimits(t *testing.T) {
	h := startHouse(t)
	l := h.logIn("ada", "lovelace")
	k := h.enrol(l, `{"grants":["faq","wide"]}`)
	narrow := h.refresh(k, l.Refresh, "scope", "embeddings:faq-bot")
	if narrow.ExpiresIn != 3600 {
		t.Errorf("a scope of the grant faq alone lives %d s, want 3600", narrow.ExpiresIn)
	}
	wide := h.refresh(k, narrow.Refresh, "scope", "chat:hr-bot")
	if wide.ExpiresIn != 600 {
		t.Errorf("a scope of the grant wide lives %d s, want 600", wide.ExpiresIn)
	}
}

// TestWhatALoginMustProve: the ID token that comes with a code, good and then
// spoilt in one way a row.
func TestWhatALoginMustProve(t *testing.T) {
	h := startHouse(t, "  - name: forge\n", "  - name: forge\n    client_id: hourpass\n    client_secret: s\n")
	hash := func(accessToken string) string {
		sum := sha256.Sum256([]byte(accessToken))
		return base64.RawURLEncoding.EncodeToString(sum[:16])
	}
	logIn := func(spoil claims) (*url.URL, error) {
		h.forge.login = func(nonce string) map[string]any {
			c := h.forge.good(h.now()).with(claims{"aud": "hourpass", "nonce": nonce, "at_hash": hash("opaque")}).with(spoil)
			return map[string]any{"access_token": "opaque", "token_type": "Bearer", "refresh_token": "r1", "id_token": h.forge.sign(c, nil)}
		}
		return h.browserTo(strings.Replace(h.authorizeURL(oauth2.GenerateVerifier()), "provider=corp", "provider=forge", 1), "", "")
	}
	if back, err := logIn(nil); err != nil || back.Query().Get("code") == "" {
		t.Fatalf("a good login: %v, %v", back, err)
	}
	for why, spoil := range map[string]claims{
		"no nonce":                {"nonce": nil},
		"another login's nonce":   {"nonce": "another"},
		"another access token":    {"at_hash": hash("another")},
		"made for another client": {"aud": "payroll"},
		"made for exchanges":      {"aud": "tools"},
		"expired":                 {"exp": h.now().Unix() - 1},
		"another issuer":          {"iss": "https://evil.example"},
		"asked for by another":    {"azp": "payroll"},
	} {
		if back, err := logIn(spoil); err == nil || !strings.Contains(err.Error(), "400 Bad Request") || !strings.Contains(err.Error(), "The identity token proves nothing here.") {
			t.Errorf("%s: %v, %v, want a page that says so", why, back, err)
		}
	}

	// A provider that takes a code twice does not make a login good twice.
	if _, err := logIn(nil); err != nil {
		t.Fatal(err)
	}
	jar := newJar()
	address := h.atCallback(jar, "forge", oauth2.GenerateVerifier())
	for i, want := range []int{http.StatusSeeOther, http.StatusBadRequest} {
		if res := h.callback(address, jar); res.StatusCode != want {
			t.Errorf("visit %d of the callback: %s, want %d", i+1, res.Status, want)
		}
	}

	// At a refresh the provider names somebody else: the session ends.
	verifier := oauth2.GenerateVerifier()
	if _, err := logIn(nil); err != nil {
		t.Fatal(err)
	}
	back, err := h.browserTo(strings.Replace(h.authorizeURL(verifier), "provider=corp", "provider=forge", 1), "", "")
	if err != nil {
		t.Fatal(err)
	}
	var l login
	h.mustPost("/token", "", url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"hourpass-cli"}, "code": {back.Query().Get("code")}, "redirect_uri": {cliRedirect}, "code_verifier": {verifier},
	}, &l)
	k := h.makeKey(nil, time.Hour)
	h.forge.refresh = func() map[string]any {
		return map[string]any{"access_token": "opaque", "token_type": "Bearer", "id_token": h.forge.sign(h.forge.good(h.now()).with(claims{"aud": "hourpass", "sub": "grace"}), nil)}
	}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {l.Refresh}}
	h.refused("a refresh that names somebody else", k.Secret, form, "invalid_grant", "identity")
	h.refused("and after it", k.Secret, form, "invalid_grant", "session")
}

// TestSessionsStayInTheirRows: whoever can write into the database can't make
// one session into another.
func TestSessionsStayInTheirRows(t *testing.T) {
	h := startHouse(t)
	ada, grace := h.logIn("ada", "lovelace"), h.logIn("grace", "hopper")
	adas, graces := h.enrol(ada, `{"grants":["faq"]}`), h.enrol(grace, `{"grants":["faq"]}`)
	h.refresh(adas, ada.Refresh)
	db, err := store.Open(t.Context(), h.store)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	res, err := db.ExecContext(t.Context(), `UPDATE sessions SET sealed = (SELECT sealed FROM sessions WHERE rotated_at > 0 AND previous_mac IS NOT NULL)`)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 2 {
		t.Fatalf("%d sessions were changed, %v, want 2", n, err)
	}
	status, body := h.post("/token", graces.Secret, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {grace.Refresh}})
	if status != http.StatusInternalServerError || strings.Contains(string(body), "access_token") {
		t.Errorf("grace's login with ada's content: %d %s, want 500", status, body)
	}
	if status, body := h.api(http.MethodGet, "/v1/keys", grace.Access, ""); status != http.StatusInternalServerError {
		t.Errorf("grace lists with ada's content: %d %s, want 500", status, body)
	}
}
