package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"golang.org/x/oauth2"
)

// atOnce sends the requests together and returns how many were answered so.
func (h *house) atOnce(status int, requests []*http.Request) (answered int) {
	h.t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, req := range requests {
		wg.Go(func() {
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				h.t.Error(err)
				return
			}
			res.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			if res.StatusCode == status {
				answered++
			}
		})
	}
	wg.Wait()
	return answered
}

// TestCodesInParallel: of many who bring one state or one code at the same
// moment, one at most is served.
func TestCodesInParallel(t *testing.T) {
	h := startHouse(t, "  - name: forge\n", "  - name: forge\n    client_id: hourpass\n    client_secret: s\n")
	// A provider that takes a code as often as it comes.
	h.forge.login = func(nonce string) map[string]any {
		c := h.forge.good(h.now()).with(claims{"aud": "hourpass", "nonce": nonce})
		return map[string]any{"access_token": "opaque", "token_type": "Bearer", "refresh_token": "r1", "id_token": h.forge.sign(c, nil)}
	}
	jar := newJar()
	address := h.atCallback(jar, "forge", oauth2.GenerateVerifier())
	visits := []*http.Request{}
	for range 20 {
		req, err := http.NewRequest(http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range jar.Cookies(req.URL) {
			req.AddCookie(c)
		}
		visits = append(visits, req)
	}
	if n := h.atOnce(http.StatusSeeOther, visits); n != 1 {
		t.Errorf("one state, brought back 20 times at once, is a login %d times", n)
	}

	verifier := oauth2.GenerateVerifier()
	back, err := h.browserTo(h.authorizeURL(verifier), "ada", "lovelace")
	if err != nil {
		t.Fatal(err)
	}
	d := h.askDevice("x")
	v := h.newVisitor("ada", "lovelace")
	v.enter(d)
	v.answer("approve")
	for why, form := range map[string]url.Values{
		"an authorization code": {
			"grant_type": {"authorization_code"}, "client_id": {"hourpass-cli"}, "code": {back.Query().Get("code")},
			"redirect_uri": {cliRedirect}, "code_verifier": {verifier},
		},
		"a device's code": pollForm(d),
	} {
		requests := []*http.Request{}
		for range 20 {
			requests = append(requests, h.request(http.MethodPost, "/token", "application/x-www-form-urlencoded", form.Encode()))
		}
		if n := h.atOnce(http.StatusOK, requests); n > 1 {
			t.Errorf("%s, redeemed 20 times at once, opens %d logins", why, n)
		}
	}
}

// TestTwoCookies: a browser that sends two cookies of ours has got one from
// somebody else, and neither is believed.
func TestTwoCookies(t *testing.T) {
	h := startHouse(t)
	other := "hourpass-browser=" + strings.Repeat("A", 26)
	jar := newJar()
	req, err := http.NewRequest(http.MethodGet, h.atCallback(jar, "corp", oauth2.GenerateVerifier()), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range jar.Cookies(req.URL) {
		req.AddCookie(c)
	}
	mine := req.Header.Get("Cookie")
	for _, cookies := range []string{mine + "; " + other, other + "; " + mine, "hourpass-browser=x", ""} {
		req.Header.Set("Cookie", cookies)
		if status, body := h.send(req); status != http.StatusBadRequest {
			t.Errorf("with the cookies %q: %d %s", cookies, status, body)
		}
	}
	again := h.authorizeRequest()
	again.Header.Set("Cookie", mine+"; "+other)
	if status, body := h.send(again); status != http.StatusBadRequest {
		t.Errorf("a login with two: %d %s", status, body)
	}
	req.Header.Set("Cookie", mine)
	if status, body := h.send(req); status != http.StatusSeeOther {
		t.Errorf("with its own alone: %d %s", status, body)
	}
}
