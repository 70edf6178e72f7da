package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
)

// rates are the house's, but for those that are named.
func rates(edits ...string) []string {
	line := "rates: {per_address: 100000, per_key: 100000, failures: 100000}"
	return []string{line, strings.NewReplacer(edits...).Replace(line) + "\ntrusted_proxies: [127.0.0.0/8]"}
}

// from has a request come from that address, by way of a trusted proxy.
func from(req *http.Request, addr string) *http.Request {
	req.Header.Set("X-Forwarded-For", addr)
	return req
}

// told is an answer of the issuer's.
type told struct {
	status int
	body   []byte
	wait   time.Duration // Retry-After.
}

func (h *house) ask(req *http.Request) told {
	h.t.Helper()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
	return told{res.StatusCode, body, time.Duration(seconds) * time.Second}
}

// tooMany expects to be told to wait, for how long at most, with no record of it.
func (h *house) tooMany(why string, req *http.Request, most time.Duration) time.Duration {
	h.t.Helper()
	before := len(h.records("issuer"))
	got := h.ask(req)
	var e oauthError
	_ = json.Unmarshal(got.body, &e)
	if got.status != http.StatusTooManyRequests || e.Code != "temporarily_unavailable" || got.wait <= 0 || got.wait > most {
		h.t.Errorf("%s: %d %s, Retry-After %v; want 429 and up to %v", why, got.status, got.body, got.wait, most)
	}
	if after := len(h.records("issuer")); after != before {
		h.t.Errorf("%s: it left %d records", why, after-before)
	}
	return got.wait
}

// TestRatePerAddress: an address that asks too often waits, and no other.
func TestRatePerAddress(t *testing.T) {
	h := startHouse(t, rates("per_address: 100000", "per_address: 2")...)
	k := wielded{key: h.makeKey(nil, time.Hour)}
	exchange := func(addr string) *http.Request {
		return from(h.clientRequest("/token", inHeader, k, exchangeForm(h.forge.sign(h.forge.good(h.now()), nil))), addr)
	}
	endpoints := map[string]func(addr string) *http.Request{
		"/token": exchange,
		"/revoke": func(addr string) *http.Request {
			return from(h.clientRequest("/revoke", inHeader, k, url.Values{"token": {"x"}}), addr)
		},
		"/introspect": func(addr string) *http.Request {
			return from(h.clientRequest("/introspect", inHeader, k, url.Values{"token": {"x"}}), addr)
		},
		"/device_authorization": func(addr string) *http.Request {
			return from(h.clientRequest("/device_authorization", inHeader, wielded{}, url.Values{"client_id": {"hourpass-cli"}}), addr)
		},
		"/revocations/ack": func(addr string) *http.Request {
			return from(h.request(http.MethodPost, "/revocations/ack", "application/json", "{}"), addr)
		},
		"/authorize": func(addr string) *http.Request { return from(h.authorizeRequest(), addr) },
		"/v1/keys":   func(addr string) *http.Request { return from(h.request(http.MethodGet, "/v1/keys", "", ""), addr) },
	}
	n := 0
	for path, request := range endpoints {
		n++
		busy := "192.0.2." + strconv.Itoa(n)
		for i := range 20 { // Ten seconds' worth at once.
			if got := h.ask(request(busy)); got.status == http.StatusTooManyRequests {
				t.Fatalf("%s: request %d: %d %s", path, i+1, got.status, got.body)
			}
		}
		if path == "/v1/keys" {
			if got := h.ask(request(busy)); got.status != http.StatusTooManyRequests || got.wait != time.Second {
				t.Errorf("%s, one too many: %d %s, %v", path, got.status, got.body, got.wait)
			}
		} else {
			h.tooMany(path+", one too many", request(busy), time.Second)
		}
		if got := h.ask(request("192.0.3." + strconv.Itoa(n))); got.status == http.StatusTooManyRequests {
			t.Errorf("%s, a neighbour: %d %s", path, got.status, got.body)
		}
		h.pass(time.Second)
		if got := h.ask(request(busy)); got.status == http.StatusTooManyRequests {
			t.Errorf("%s, a second later: %d %s", path, got.status, got.body)
		}
	}
	// An IPv6 customer has a whole /64 to come from.
	for i := range 20 {
		h.ask(exchange("2001:db8:1:2::" + strconv.Itoa(i+1)))
	}
	h.tooMany("another address of the same /64", exchange("2001:db8:1:2:ffff::1"), time.Second)
	if got := h.ask(exchange("2001:db8:1:3::1")); got.status != http.StatusOK {
		t.Errorf("the next /64: %d %s", got.status, got.body)
	}
	// Pages say it as pages do.
	v := h.newVisitor("", "")
	callback := from(h.request(http.MethodGet, "/callback/corp?state=x&code=y", "", ""), "192.0.2.200")
	for range 20 {
		v.do(callback)
	}
	v.do(callback)
	if v.ends("the way back from the provider", http.StatusTooManyRequests, "Too many requests"); v.header.Get("Retry-After") != "1" {
		t.Errorf("the page's Retry-After is %q", v.header.Get("Retry-After"))
	}
}

// TestRatePerKey: a key gets so many tokens a minute, from wherever, and what
// others do in its name is not counted against it.
func TestRatePerKey(t *testing.T) {
	h := startHouse(t, rates("per_key: 100000", "per_key: 5")...)
	mine, other := wielded{key: h.makeKey(nil, time.Hour)}, wielded{key: h.makeKey(nil, time.Hour)}
	parent := h.forgedToken(other.key)
	exchange := func(k wielded, addr string) *http.Request {
		return from(h.clientRequest("/token", inHeader, k, exchangeForm(h.forge.sign(h.forge.good(h.now()), nil))), addr)
	}
	for range 50 {
		stranger := wielded{key: key{mine.Key, "hpk_" + mine.ID + other.Secret[20:]}}
		if got := h.ask(exchange(stranger, "192.0.2.66")); got.status != http.StatusUnauthorized {
			t.Fatalf("a stranger: %d %s", got.status, got.body)
		}
	}
	for i := range 4 {
		if got := h.ask(exchange(mine, "192.0.2."+strconv.Itoa(i))); got.status != http.StatusOK {
			t.Fatalf("token %d: %d %s", i+1, got.status, got.body)
		}
	}
	// A request that is refused counts: it has cost as much.
	if got := h.ask(from(h.clientRequest("/token", inHeader, mine, exchangeForm("x")), "192.0.2.1")); got.status != http.StatusBadRequest {
		t.Fatalf("a bad one: %d %s", got.status, got.body)
	}
	tooMany := func(why string, req *http.Request) {
		t.Helper()
		got := h.ask(req)
		if got.status != http.StatusTooManyRequests || got.wait <= 0 || got.wait > 12*time.Second {
			t.Errorf("%s: %d %s, Retry-After %v", why, got.status, got.body, got.wait)
		}
	}
	tooMany("a sixth in the minute", exchange(mine, "192.0.2.7"))
	tooMany("one that is narrowed", h.clientRequest("/token", inHeader, mine, narrowForm(parent, "chat:faq-bot")))
	if got := h.ask(exchange(other, "192.0.2.7")); got.status != http.StatusOK {
		t.Errorf("another key: %d %s", got.status, got.body)
	}
	all := h.records("issuer")
	if last := all[len(all)-2]; last.Key != mine.ID || last.Outcome != "deny" || last.Status != http.StatusTooManyRequests {
		t.Errorf("the record of who holds the key and is too fast is %+v", last)
	}
	h.pass(12 * time.Second)
	if got := h.ask(exchange(mine, "192.0.2.7")); got.status != http.StatusOK {
		t.Errorf("twelve seconds later: %d %s", got.status, got.body)
	}
}

// TestFailures: failures have a budget, of an address and of the key that they
// name; who holds the right secret does not notice.
func TestFailures(t *testing.T) {
	h := startHouse(t, rates("failures: 100000", "failures: 5")...)
	mine, other := wielded{key: h.makeKey(nil, time.Hour)}, wielded{key: h.makeKey(nil, time.Hour)}
	exchange := func(k wielded, addr string) *http.Request {
		return from(h.clientRequest("/token", inHeader, k, exchangeForm(h.forge.sign(h.forge.good(h.now()), nil))), addr)
	}
	stranger := wielded{key: key{mine.Key, "hpk_" + mine.ID + other.Secret[20:]}}
	unknown := wielded{key: key{policy.Key{ID: "0123456789abcdef"}, "hpk_0123456789abcdef" + other.Secret[20:]}}

	// A key that is not, and a wrong secret of one that is, say the same.
	said := map[string]bool{}
	for _, k := range []wielded{stranger, unknown, {key: key{mine.Key, "hpk_x"}}} {
		got := h.ask(exchange(k, "198.51.100.1"))
		var e oauthError
		if err := json.Unmarshal(got.body, &e); err != nil || got.status != http.StatusUnauthorized {
			t.Errorf("a wrong secret: %d %s", got.status, got.body)
		}
		said[e.Code+": "+e.Detail] = true
	}
	if len(said) != 1 {
		t.Errorf("unknown keys and wrong secrets are told apart: %v", said)
	}
	h.pass(time.Minute)

	for i := range 5 {
		if got := h.ask(exchange(stranger, "192.0.2.66")); got.status != http.StatusUnauthorized {
			t.Fatalf("failure %d: %d %s", i+1, got.status, got.body)
		}
	}
	h.tooMany("a failure too many of the address", exchange(unknown, "192.0.2.66"), 12*time.Second)
	h.tooMany("a failure too many of the key, from elsewhere", exchange(stranger, "192.0.2.67"), 12*time.Second)
	for _, addr := range []string{"192.0.2.66", "192.0.2.67", "192.0.2.1"} {
		if got := h.ask(exchange(mine, addr)); got.status != http.StatusOK {
			t.Errorf("who holds the key, from %s: %d %s", addr, got.status, got.body)
		}
	}
	if got := h.ask(exchange(other, "192.0.2.66")); got.status != http.StatusOK {
		t.Errorf("who holds another key, from the stranger's address: %d %s", got.status, got.body)
	}
	h.pass(12 * time.Second)
	if got := h.ask(exchange(stranger, "192.0.2.66")); got.status != http.StatusUnauthorized {
		t.Errorf("twelve seconds later: %d %s", got.status, got.body)
	}

	// Whatever can be guessed at counts.
	l := h.logIn("ada", "lovelace")
	n := 0
	for why, request := range map[string]func() *http.Request{
		"no key":          func() *http.Request { return exchange(wielded{}, "") },
		"a bad identity":  func() *http.Request { return h.clientRequest("/token", inHeader, other, exchangeForm("x.y.z")) },
		"a refresh token": func() *http.Request { return h.clientRequest("/token", inHeader, other, refreshForm("hpr_x")) },
		"a token to narrow": func() *http.Request {
			return h.clientRequest("/token", inHeader, other, narrowForm("x", "chat:faq-bot"))
		},
		"a client's own": func() *http.Request {
			return h.request(http.MethodPost, "/token", "application/x-www-form-urlencoded", asSigned(bearerForm("x"), "a.b.c").Encode())
		},
		"a device's code": func() *http.Request {
			return h.request(http.MethodPost, "/token", "application/x-www-form-urlencoded", pollForm(deviceCode{Device: "x"}).Encode())
		},
		"a code": func() *http.Request {
			return h.request(http.MethodPost, "/token", "application/x-www-form-urlencoded", "grant_type=authorization_code&client_id=hourpass-cli&code=x")
		},
		"/introspect": func() *http.Request {
			return h.clientRequest("/introspect", inHeader, stranger, url.Values{"token": {"x"}})
		},
		"/revoke": func() *http.Request {
			return h.clientRequest("/revoke", inHeader, stranger, url.Values{"token": {"x"}})
		},
		"an acknowledgement": func() *http.Request { return h.request(http.MethodPost, "/revocations/ack", "application/json", "{}") },
		"a login's token":    func() *http.Request { return h.request(http.MethodGet, "/v1/me", "", "") },
	} {
		n++
		addr := "203.0.113." + strconv.Itoa(n)
		h.pass(time.Minute) // The key's budget is its own.
		for i := range 5 {
			if got := h.ask(from(request(), addr)); got.status != http.StatusUnauthorized && got.status != http.StatusBadRequest {
				t.Fatalf("%s, failure %d: %d %s", why, i+1, got.status, got.body)
			}
		}
		if got := h.ask(from(request(), addr)); got.status != http.StatusTooManyRequests || got.wait <= 0 {
			t.Errorf("%s, a failure too many: %d %s", why, got.status, got.body)
		}
	}
	// Mistakes that are no guesses do not count.
	for range 10 {
		if got := h.ask(from(h.clientRequest("/token", inHeader, other, exchangeForm(h.forge.sign(h.forge.good(h.now()), nil), "scope", "chat:hr-bot")), "203.0.113.200")); got.status != http.StatusBadRequest {
			t.Errorf("a scope that is not granted: %d %s", got.status, got.body)
		}
	}
	if status, _ := h.api(http.MethodGet, "/v1/me", l.Access, ""); status != http.StatusOK {
		t.Errorf("a login after all that: %d", status)
	}
	if bytes.Contains([]byte(h.logs.String()), []byte(stranger.Secret)) {
		t.Error("a secret is in the logs")
	}
}

// TestProxyClaims: without a trusted proxy, what a client says of its address
// is nothing, and gives nobody a budget of their own.
func TestProxyClaims(t *testing.T) {
	h := startHouse(t, "failures: 100000", "failures: 3")
	for i := range 3 {
		if got := h.ask(from(h.clientRequest("/token", inHeader, wielded{}, exchangeForm("x")), "192.0.2."+strconv.Itoa(i))); got.status != http.StatusUnauthorized {
			t.Fatalf("failure %d: %d %s", i+1, got.status, got.body)
		}
	}
	h.tooMany("from yet another address, as it says", from(h.clientRequest("/token", inHeader, wielded{}, exchangeForm("x")), "192.0.2.99"), 20*time.Second)
}
