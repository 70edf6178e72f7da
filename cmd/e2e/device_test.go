package e2e

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/hourpass/hourpass/internal/peers"
	"github.com/hourpass/hourpass/internal/store"
)

// TestDevice is the story of a login on a device without a browser (RFC 8628).
func TestDevice(t *testing.T) {
	h := startHouse(t)
	d := h.askDevice("hourpass/1.0 (gpu-7)")
	if len(d.User) != 9 || d.Address != h.issuer+"/device" || d.Complete != d.Address+"?user_code="+d.User || d.ExpiresIn != 600 || d.Interval != 5 {
		t.Errorf("the device is told %+v", d)
	}
	h.waits("at once", d, "authorization_pending")
	h.waits("at once again", d, "slow_down")
	h.pass(5 * time.Second)
	h.waits("five seconds later", d, "authorization_pending")

	v := h.newVisitor("ada", "lovelace")
	v.open(d.Complete)
	v.ends("the page of the link", http.StatusOK, `value="`+d.User+`"`)
	if _, asks := v.header["Set-Cookie"]; asks {
		t.Error("a page that only asks sets a cookie")
	}
	v.submit("/device", url.Values{"user_code": {strings.ToLower(strings.ReplaceAll(d.User, "-", " "))}, "provider": {"corp"}})
	for _, says := range []string{d.User, "hourpass/1.0 (gpu-7)", "127.0.0.1", "5s ago", "corp:ada"} {
		v.ends("the page that asks for confirmation", http.StatusOK, says)
	}
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'", "Cache-Control": "no-store",
		"Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
	} {
		if got := v.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	h.pass(5 * time.Second)
	h.waits("while the person thinks", d, "authorization_pending")
	v.answer("approve")
	v.ends("approved", http.StatusOK, "Logged in")
	v.submit("/device", url.Values{"user_code": {d.User}, "provider": {"corp"}})
	v.ends("the code again, once approved", http.StatusBadRequest, "not known here")

	var l login
	h.mustPost("/token", "", pollForm(d), &l)
	k := h.enrol(l, `{"grants":["faq"]}`)
	tok := h.refresh(k, l.Refresh)
	if status, body := h.call(tok.Access, "faq-bot"); status != http.StatusOK {
		t.Errorf("a call: %d %s", status, body)
	}
	// Who holds the code too may be a thief: nobody keeps the login.
	h.waits("the code again", d, "invalid_grant")
	h.refused("the login whose code came twice", k.Secret, refreshForm(tok.Refresh), "invalid_grant", "session")
	if status, _ := h.api(http.MethodGet, "/v1/keys", l.Access, ""); status != http.StatusUnauthorized {
		t.Errorf("its access token: %d, want 401", status)
	}
	events := map[string]int{}
	for _, r := range h.records("issuer") {
		events[r.Event+" "+r.Outcome]++
	}
	if events["login allow"] != 1 || events["device allow"] != 1 || events["session allow"] != 1 || events["session deny"] != 1 {
		t.Errorf("the audit holds %v", events)
	}
}

// TestDeviceRefused: the ways in which a device gets no login.
func TestDeviceRefused(t *testing.T) {
	h := startHouse(t)
	denied := h.askDevice("")
	v := h.newVisitor("ada", "lovelace")
	v.enter(denied)
	v.ends("a device that does not say what it is", http.StatusOK, "a device that does not say what it is")
	v.answer("deny")
	v.ends("refused", http.StatusOK, "Refused")
	h.waits("refused", denied, "access_denied")
	h.waits("refused, again", denied, "access_denied")

	unclear := h.askDevice("x")
	v.enter(unclear)
	v.answer("")
	h.waits("answered with neither button", unclear, "access_denied")

	late := h.askDevice("x")
	v.enter(late)
	v.ends("in time", http.StatusOK, late.User)
	h.pass(10 * time.Minute)
	v.answer("approve")
	v.ends("too late", http.StatusBadRequest, "nothing to confirm")
	h.waits("too late", late, "expired_token")
	v.open(late.Address)
	v.submit("/device", url.Values{"user_code": {late.User}, "provider": {"corp"}})
	v.ends("the code too late", http.StatusBadRequest, "not known here")

	approved := h.askDevice("x")
	v.enter(approved)
	v.answer("approve")
	h.pass(10 * time.Minute)
	h.waits("approved, and fetched too late", approved, "expired_token")

	d := h.askDevice("x")
	for why, form := range map[string]url.Values{
		"without a client":         {"grant_type": {grantDevice}, "device_code": {d.Device}},
		"as another client":        {"grant_type": {grantDevice}, "device_code": {d.Device}, "client_id": {"evil"}},
		"with a secret":            {"grant_type": {grantDevice}, "device_code": {d.Device}, "client_id": {"hourpass-cli"}, "client_secret": {"x"}},
		"with an assertion":        asSigned(pollForm(d), "a.b.c"),
		"with a scope":             {"grant_type": {grantDevice}, "device_code": {d.Device}, "client_id": {"hourpass-cli"}, "scope": {"chat:faq-bot"}},
		"with the user's code too": {"grant_type": {grantDevice}, "device_code": {d.Device}, "client_id": {"hourpass-cli"}, "user_code": {d.User}},
	} {
		h.refused("a poll "+why, "", form, "invalid_request", "invalid_request")
	}
	for why, code := range map[string]string{"an unknown code": "hpd_evil", "none": "", "the user's code": d.User} {
		h.refused("a poll with "+why, "", pollForm(deviceCode{Device: code}), "invalid_grant", "code")
	}
	h.waits("after all that", d, "authorization_pending")
	// A login has no scope to ask for, but what everybody gets.
	for scope, want := range map[string]int{"offline_access": http.StatusOK, "": http.StatusOK, "openid": http.StatusBadRequest, "chat:faq-bot": http.StatusBadRequest} {
		status, answer := h.send(h.request(http.MethodPost, "/device_authorization", "application/x-www-form-urlencoded", "client_id=hourpass-cli&scope="+scope))
		if status != want || want != http.StatusOK && decodeError(t, answer).Code != "invalid_scope" {
			t.Errorf("asking with the scope %q: %d %s, want %d", scope, status, answer, want)
		}
		q := authorizeQuery(oauth2.S256ChallengeFromVerifier(oauth2.GenerateVerifier()))
		q.Set("scope", scope)
		if res, e := h.authorizePage(q, nil); (res.StatusCode == http.StatusSeeOther) != (want == http.StatusOK) || want != http.StatusOK && e.Code != "invalid_scope" {
			t.Errorf("a browser's login with the scope %q: %s %+v", scope, res.Status, e)
		}
	}
	for why, body := range map[string]string{
		"no client": "", "another client": "client_id=evil", "a secret": "client_id=hourpass-cli&client_secret=x", "an unknown parameter": "client_id=hourpass-cli&x=y",
	} {
		if status, answer := h.send(h.request(http.MethodPost, "/device_authorization", "application/x-www-form-urlencoded", body)); status != http.StatusBadRequest || decodeError(t, answer).Code != "invalid_request" {
			t.Errorf("asking with %s: %d %s, want 400", why, status, answer)
		}
	}
}

// TestDeviceBrowsers: only the page that was shown to who logged in confirms, in
// their browser, once.
func TestDeviceBrowsers(t *testing.T) {
	h := startHouse(t)
	d := h.askDevice("x")
	ada, eve, bare := h.newVisitor("ada", "lovelace"), h.newVisitor("eve", "dropper"), h.newVisitor("", "")
	ada.enter(d)
	asked := ada.page
	bare.page = asked
	bare.answer("approve")
	bare.ends("the form without a cookie", http.StatusBadRequest, "nothing to confirm")
	eve.open(h.issuer + "/device")
	eve.enter(h.askDevice("y"))
	eve.page = asked
	eve.answer("approve")
	eve.ends("the form of another browser, which is logged in itself", http.StatusBadRequest, "nothing to confirm")
	ada.submit("/device/confirm", url.Values{"user_code": {d.User}, "answer": {"approve"}})
	ada.ends("without the page's ticket", http.StatusBadRequest, "nothing to confirm")
	ada.submit("/device/confirm", url.Values{"user_code": {d.User}, "ticket": {"x"}, "answer": {"approve"}})
	ada.ends("with another ticket", http.StatusBadRequest, "nothing to confirm")
	for _, site := range []string{"cross-site", "same-site"} {
		ada.page, ada.site = asked, site
		ada.answer("approve")
		ada.ends("a form on another site", http.StatusForbidden, "its own page only")
		ada.submit("/device", url.Values{"user_code": {d.User}})
		ada.ends("a form with the code on another site", http.StatusForbidden, "its own page only")
	}
	ada.site = ""
	for path, form := range map[string]url.Values{"/device": {"user_code": {d.User}}, "/device/confirm": {"user_code": {d.User}, "answer": {"approve"}}} {
		req := h.request(http.MethodPost, path, "application/x-www-form-urlencoded", form.Encode())
		req.Header.Set("Origin", "https://evil.example")
		ada.do(req)
		ada.ends("a foreign Origin at "+path, http.StatusForbidden, "its own page only")
	}
	h.waits("after all that", d, "authorization_pending")
	ada.site, ada.page = "same-origin", asked
	ada.answer("approve")
	ada.ends("her own form", http.StatusOK, "Logged in")
	ada.page = asked
	ada.answer("approve")
	ada.ends("her own form again", http.StatusBadRequest, "nothing to confirm")

	// Two browsers with one code: whoever logs in last is who is asked, and what
	// the first was shown is void.
	d = h.askDevice("x")
	ada.enter(d)
	first := ada.page
	eve.enter(d)
	second := eve.page
	ada.page = first
	ada.answer("approve")
	ada.ends("the first of two", http.StatusBadRequest, "nothing to confirm")
	eve.page = second
	eve.answer("deny")
	eve.ends("the second of two", http.StatusOK, "Refused")
	h.waits("refused by the second", d, "access_denied")

	// A browser is known by another name once it has logged in.
	v := h.newVisitor("ada", "lovelace")
	v.enter(h.askDevice("x"))
	before := v.cookie()
	v.enter(h.askDevice("z"))
	if v.cookie() == before || before == "" {
		t.Error("the browser keeps its cookie over a login")
	}
}

// TestDeviceGuesses: whoever guesses at users' codes is stopped after a few,
// whether by the one page or the other, and a right guess is then none.
func TestDeviceGuesses(t *testing.T) {
	h := startHouse(t, "failures: 100000", "failures: 6")
	d := h.askDevice("x")
	v := h.newVisitor("ada", "lovelace")
	enter := func(code string) { v.submit("/device", url.Values{"user_code": {code}, "provider": {"corp"}}) }
	for range 20 {
		v.enter(h.askDevice("x")) // Those who are right are never too many.
		v.ends("a right code", http.StatusOK, "Let this device log in")
		v.answer("approve")
		v.ends("a right confirmation", http.StatusOK, "Logged in")
	}
	for _, wrong := range []string{"BBBB-BBBB", "", strings.Repeat("B", 10_000)} {
		enter(wrong)
		v.ends("a wrong code", http.StatusBadRequest, "not known here")
	}
	// The page of the confirmation says of a code that is there what it says of
	// one that is not.
	var said []string
	for _, code := range []string{d.User, "BBBB-BBBB"} {
		v.submit("/device/confirm", url.Values{"user_code": {code}, "ticket": {"x"}, "answer": {"approve"}})
		v.ends("a guess at what is to be confirmed", http.StatusBadRequest, "nothing to confirm")
		said = append(said, decisionID.ReplaceAllString(v.page, ""))
	}
	if said[0] != said[1] {
		t.Errorf("it tells codes apart: %q", said)
	}
	enter("CCCC-CCCC")
	v.ends("the last wrong code", http.StatusBadRequest, "not known here")
	before := len(h.records("issuer"))
	for _, code := range []string{"DDDD-DDDD", d.User} {
		enter(code)
		v.ends("one guess too many", http.StatusTooManyRequests, "Too many requests")
		if v.header.Get("Retry-After") == "" {
			t.Error("it does not say when to try again")
		}
		v.submit("/device/confirm", url.Values{"user_code": {code}, "ticket": {"x"}, "answer": {"approve"}})
		v.ends("one guess too many", http.StatusTooManyRequests, "Too many requests")
	}
	if after := len(h.records("issuer")); after != before {
		t.Errorf("guesses beyond the budget left %d records", after-before)
	}
	h.pass(time.Minute)
	enter(d.User)
	v.ends("a minute later", http.StatusOK, d.User)
}

var decisionID = regexp.MustCompile(`\([A-Z0-9]{26}\)`)

// TestDeviceName: what a device says of itself is shown as text.
func TestDeviceName(t *testing.T) {
	h := startHouse(t)
	v := h.newVisitor("ada", "lovelace")
	for name, want := range map[string]string{
		`<script>alert(1)</script>`:                "&lt;script&gt;alert(1)&lt;/script&gt;",
		`"><img src=x onerror=alert(1)>`:           "&#34;&gt;&lt;img src=x onerror=alert(1)&gt;",
		"bell\tover\u202egnp.exe":                  "bellovergnp.exe",
		strings.Repeat("a", 100):                   "<dd>" + strings.Repeat("a", 80) + "</dd>",
		"{{.Ticket}} </dd></dl><form action=evil>": "{{.Ticket}} &lt;/dd&gt;&lt;/dl&gt;&lt;form action=evil&gt;",
	} {
		v.enter(h.askDevice(name))
		v.ends("a device that is called "+name, http.StatusOK, want)
		if strings.Contains(v.page, "<script") || strings.Contains(v.page, "<img") || strings.Contains(v.page, "evil>") {
			t.Errorf("a device that is called %q: %s", name, v.page)
		}
	}
	v.open(h.issuer + "/device?user_code=" + url.QueryEscape(`"><script>alert(1)</script>`))
	if v.ends("a code in a link", http.StatusOK, "Enter the code"); strings.Contains(v.page, "<script") {
		t.Errorf("a code in a link: %s", v.page)
	}
}

// TestDeviceRows: whoever can write into the database can't make one device's
// login into another's.
func TestDeviceRows(t *testing.T) {
	h := startHouse(t)
	theirs, mine := h.askDevice("theirs"), h.askDevice("mine")
	db, err := store.Open(t.Context(), h.store)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	v := h.newVisitor("ada", "lovelace")
	v.enter(theirs)
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
			t.Fatal(err)
		}
	}
	var macs, sealed [2][]byte
	if err := db.QueryRowContext(t.Context(), `SELECT a.device_mac, a.sealed, b.device_mac, b.sealed FROM device_logins a JOIN device_logins b
		ON a.device_mac < b.device_mac`).Scan(&macs[0], &sealed[0], &macs[1], &sealed[1]); err != nil {
		t.Fatal(err)
	}
	exec(`UPDATE device_logins SET sealed = $1 WHERE device_mac = $2`, sealed[1], macs[0])
	exec(`UPDATE device_logins SET sealed = $1 WHERE device_mac = $2`, sealed[0], macs[1])
	for _, d := range []deviceCode{theirs, mine} {
		v.submit("/device", url.Values{"user_code": {d.User}, "provider": {"corp"}})
		v.ends("a row with another one's content", http.StatusInternalServerError, "Something went wrong on our side")
	}
	exec(`UPDATE device_logins SET state = 'approved', session_id = 'nobody'`)
	status, body := h.post("/token", "", pollForm(mine))
	if status != http.StatusInternalServerError || strings.Contains(string(body), "access_token") {
		t.Errorf("a row that was said to be approved: %d %s, want 500", status, body)
	}
}

// TestDeviceInBrowser walks the pages as a person does, in a real browser, from
// the link that the device shows to the end.
func TestDeviceInBrowser(t *testing.T) {
	h := startHouse(t)
	d := h.askDevice("hourpass/1.0 (gpu-7.example)")
	browser := peers.NewBrowser(t)
	shots := os.Getenv("HOURPASS_TEST_SCREENSHOTS") // A folder, for who wants to look.
	if shots == "" {
		shots = t.TempDir()
	}
	look := func(name string) { browser.Screenshot(filepath.Join(shots, name+".png")) }

	browser.Open(h.issuer + "/device")
	browser.WaitText("Enter the code that the device shows")
	look("enter")
	browser.Fill("#user_code", "bbbb-bbbb")
	browser.Click("button")
	browser.WaitText("This code is not known here")
	look("problem")
	browser.Fill("#user_code", strings.ToLower(d.User))
	browser.Click("button")
	browser.WaitURL(h.idpURL)
	browser.Fill("#username", "ada")
	browser.Fill("#password", "lovelace")
	browser.Click("#login")
	page := browser.WaitText("Let this device log in as you?")
	for _, says := range []string{d.User, "hourpass/1.0 (gpu-7.example)", "127.0.0.1", "corp:ada"} {
		if !strings.Contains(page.Text, says) {
			t.Errorf("the page does not say %q: %s", says, page.Text)
		}
	}
	look("confirm")
	browser.Click("button[value=approve]")
	browser.WaitText("The device is logged in as you")
	look("done")
	var l login
	h.mustPost("/token", "", pollForm(d), &l)
	if status, body := h.api(http.MethodGet, "/v1/me", l.Access, ""); status != http.StatusOK || !strings.Contains(string(body), "corp:ada") {
		t.Errorf("the login is %d %s", status, body)
	}
}
