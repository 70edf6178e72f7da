package verifier_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier"
)

func TestGoodCall(t *testing.T) {
	h := newHouse(t)
	for name, present := range map[string]func(http.Header, string){
		"bearer":                    func(hd http.Header, tok string) { hd.Set("Authorization", "Bearer "+tok) },
		"scheme in lower case":      func(hd http.Header, tok string) { hd.Set("Authorization", "bearer "+tok) },
		"x-api-key":                 func(hd http.Header, tok string) { hd.Set("X-Api-Key", tok) },
		"api-key":                   func(hd http.Header, tok string) { hd.Set("Api-Key", tok) },
		"x-goog-api-key":            func(hd http.Header, tok string) { hd.Set("X-Goog-Api-Key", tok) },
		"the same in two headers":   func(hd http.Header, tok string) { hd.Set("Authorization", "Bearer "+tok); hd.Set("X-Api-Key", tok) },
		"the same in two lines":     func(hd http.Header, tok string) { hd["X-Api-Key"] = []string{tok, tok} },
		"two lines, schemes differ": func(hd http.Header, tok string) { hd["Authorization"] = []string{"Bearer " + tok, "BEARER " + tok} },
	} {
		t.Run(name, func(t *testing.T) {
			r := h.good()
			r.header.Del("Authorization")
			present(r.header, h.keys.token())
			before := len(h.records())
			got := h.send(r)
			if got.status != 200 || got.body != `{"object":"chat.completion"}` {
				t.Fatalf("%d %s", got.status, got.body)
			}
			a := h.arrived()
			if len(a) != 1 || a[0].target != "/v1/chat/completions" || a[0].body != r.body || a[0].header.Get("Authorization") != upstreamCredential {
				t.Errorf("the upstream got %+v", a)
			}
			records := h.records()[before:]
			if len(records) != 1 {
				t.Fatalf("records %+v", records)
			}
			rec := records[0]
			if rec.Decision == "" || rec.Decision != got.header.Get("X-Request-Id") || rec.Decision != a[0].header.Get("X-Request-Id") {
				t.Errorf("decision %q is not told to client and upstream", rec.Decision)
			}
			rec.Decision = ""
			want := rec
			want.Event, want.Outcome, want.Reason, want.Detail = "call", "allow", "", ""
			want.Key, want.Identity, want.Team, want.Grant, want.Token = "key0123456789abc", "corp:ada", "support", "faq", "jti-1"
			want.Route, want.Action, want.Model = "POST /v1/chat/completions", "chat", "small"
			want.Upstream, want.UpstreamStatus, want.Status, want.Bytes, want.ClientIP = "toy", 200, 200, int64(len(got.body)), "127.0.0.1"
			if !reflect.DeepEqual(rec, want) || !rec.Time.Equal(h.clock.now()) {
				t.Errorf("record\n%+v, want\n%+v", rec, want)
			}
		})
	}
}

func TestCredentialRefused(t *testing.T) {
	h := newHouse(t)
	good, other := h.keys.token(), h.keys.token(func(c *token.Claims) { c.ID = "jti-2" })
	part := strings.Split(good, ".")
	for _, row := range []struct {
		name   string
		spoil  func(http.Header)
		code   string
		reason string
		bare   bool // The challenge says no error.
	}{
		{"none", func(hd http.Header) { hd.Del("Authorization") }, "missing_token", "missing", true},
		{"only a cookie", func(hd http.Header) { hd.Del("Authorization"); hd.Set("Cookie", "access_token="+good) }, "missing_token", "missing", true},
		{"another spelling of a header", func(hd http.Header) { hd.Del("Authorization"); hd["X_Api_Key"] = []string{good} }, "missing_token", "missing", true},
		{"Basic", func(hd http.Header) { hd.Set("Authorization", "Basic "+good) }, "missing_token", "scheme", true},
		{"no scheme", func(hd http.Header) { hd.Set("Authorization", good) }, "missing_token", "scheme", true},
		{"no space", func(hd http.Header) { hd.Set("Authorization", "Bearer"+good) }, "missing_token", "scheme", true},
		{"a tab", func(hd http.Header) { hd.Set("Authorization", "Bearer\t"+good) }, "missing_token", "scheme", true},
		{"two spaces", func(hd http.Header) { hd.Set("Authorization", "Bearer  "+good) }, "invalid_token", "malformed", false},
		{"nothing behind the scheme", func(hd http.Header) { hd.Set("Authorization", "Bearer ") }, "invalid_token", "malformed", false},
		{"two tokens in a line", func(hd http.Header) { hd.Set("Authorization", "Bearer "+good+", Bearer "+good) }, "invalid_token", "malformed", false},
		{"two different lines", func(hd http.Header) { hd["Authorization"] = []string{"Bearer " + good, "Bearer " + other} }, "invalid_token", "ambiguous", false},
		{"good, then Basic", func(hd http.Header) { hd["Authorization"] = []string{"Bearer " + good, "Basic eDp5"} }, "missing_token", "scheme", true},
		{"two different headers", func(hd http.Header) { hd.Set("X-Api-Key", other) }, "invalid_token", "ambiguous", false},
		{"good and an empty header", func(hd http.Header) { hd["Api-Key"] = []string{""} }, "invalid_token", "malformed", false},
		{"good and a machine key", func(hd http.Header) { hd.Set("X-Goog-Api-Key", "hpk_x") }, "invalid_token", "ambiguous", false},
		{"a machine key", func(hd http.Header) { hd.Set("Authorization", "Bearer hpk_0123456789abcdef_x") }, "invalid_token", "malformed", false},
		{"two parts", func(hd http.Header) { hd.Set("Authorization", "Bearer "+part[0]+"."+part[1]) }, "invalid_token", "malformed", false},
		{"four parts", func(hd http.Header) { hd.Set("Authorization", "Bearer "+good+".x") }, "invalid_token", "malformed", false},
		{"an empty part", func(hd http.Header) { hd.Set("Authorization", "Bearer "+part[0]+".."+part[2]) }, "invalid_token", "malformed", false},
		{"no signature", func(hd http.Header) { hd.Set("Authorization", "Bearer "+part[0]+"."+part[1]+".") }, "invalid_token", "malformed", false},
		{"padding", func(hd http.Header) { hd.Set("Authorization", "Bearer "+good+"==") }, "invalid_token", "malformed", false},
		{"base64 of the other alphabet", func(hd http.Header) { hd.Set("Authorization", "Bearer "+part[0]+"."+part[1]+".a+b/") }, "invalid_token", "malformed", false},
		{"too long", func(hd http.Header) { hd.Set("Authorization", "Bearer "+good+strings.Repeat("A", token.MaxBytes)) }, "invalid_token", "size", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.in(t)
			asked := h.keys.verified.Load()
			r := h.good()
			r.header.Set("Authorization", "Bearer "+good)
			row.spoil(r.header)
			got := h.refused(r, 401, row.code, row.reason)
			challenge := got.header.Get("WWW-Authenticate")
			if (challenge == "Bearer") != row.bare || !row.bare && !strings.HasPrefix(challenge, `Bearer error="invalid_token", `) {
				t.Errorf("challenge %q", challenge)
			}
			if got.header.Get("X-Should-Retry") != "" {
				t.Error("the client is told to try again")
			}
			if h.keys.verified.Load() != asked {
				t.Error("the keys were asked about what is no token")
			}
		})
	}
}

func TestTokenRefused(t *testing.T) {
	h := newHouse(t)
	signed := func(edit func(*token.Claims)) string { return h.keys.token(edit) }
	payload := func(from, to string) string {
		c := goodClaims()
		p, _ := c.Encode()
		return h.keys.sign(goodHeader, []byte(strings.Replace(string(p), from, to, 1)))
	}
	good := h.keys.token()
	for _, row := range []struct{ name, token, code, reason string }{
		{"a broken signature", good[:len(good)-8] + "AAAAAAAA", "invalid_token", "signature"},
		{"another's signature", newKeys().token(), "invalid_token", "signature"},
		{"alg none", h.keys.sign(`{"alg":"none","kid":"k1","typ":"at+jwt"}`, []byte("{}")), "invalid_token", "alg"},
		{"an identity token", h.keys.sign(`{"alg":"ES256","kid":"k1","typ":"JWT"}`, []byte("{}")), "invalid_token", "typ"},
		{"an unknown key", h.keys.sign(`{"alg":"ES256","kid":"k2","typ":"at+jwt"}`, []byte("{}")), "invalid_token", "kid_unknown"},
		{"another issuer", signed(func(c *token.Claims) { c.Issuer = "https://issuer.test/" }), "invalid_token", "iss"},
		{"another audience", signed(func(c *token.Claims) { c.Audience = "model" }), "invalid_token", "aud"},
		{"expired", signed(func(c *token.Claims) { c.Expires = noon.Add(time.Minute) }), "token_expired", "expired"},
		{"not yet valid", signed(func(c *token.Claims) { c.NotBefore = noon.Add(91 * time.Second) }), "invalid_token", "not_yet"},
		{"a claim unknown", payload(`"sub"`, `"xyz":1,"sub"`), "invalid_token", "claims"},
		{"no jti", payload(`"jti"`, `"jtx"`), "invalid_token", "claims"},
		{"a claim twice", payload(`"sub"`, `"sub":"corp:bob","sub"`), "invalid_token", "claims"},
		{"two hours", payload(fmt.Sprint(noon.Add(time.Hour).Unix()), fmt.Sprint(noon.Add(time.Hour+time.Second).Unix())), "invalid_token", "lifetime"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.in(t)
			r := h.good()
			r.header.Set("Authorization", "Bearer "+row.token)
			h.refused(r, 401, row.code, row.reason)
			got := h.refused(r, 401, row.code, row.reason) // Refused once, it is not remembered as good.
			if retry := got.header.Get("X-Should-Retry"); (retry == "true") != (row.reason == "expired") {
				t.Errorf("X-Should-Retry %q", retry)
			}
			if challenge := got.header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge, `Bearer error="invalid_token", error_description="`) {
				t.Errorf("challenge %q", challenge)
			}
		})
	}
	t.Run("the issuer's clock half a minute ahead", func(t *testing.T) {
		r := h.good()
		r.header.Set("Authorization", "Bearer "+signed(func(c *token.Claims) { c.NotBefore = noon.Add(90 * time.Second) }))
		if got := h.send(r); got.status != 200 {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}

func TestKeysStale(t *testing.T) {
	h := newHouse(t)
	if got := h.send(h.good()); got.status != 200 {
		t.Fatal(got)
	}
	h.arrived()
	h.keys.stale.Store(true)
	got := h.refused(h.good(), 503, "keys_stale", "keys_stale")
	if got.header.Get("Retry-After") == "" || got.header.Get("WWW-Authenticate") != "" {
		t.Errorf("headers %v", got.header)
	}
}

func TestClientAddress(t *testing.T) {
	h := newHouse(t)
	for _, row := range []struct {
		name     string
		networks []netip.Prefix
		remote   string
		status   int
	}{
		{"any", nil, "203.0.113.9:1", 200},
		{"none", []netip.Prefix{}, "203.0.113.9:1", 403},
		{"within", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, "10.1.2.3:1", 200},
		{"IPv4 in IPv6 clothes", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, "[::ffff:10.1.2.3]:1", 200},
		{"outside", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, "11.1.2.3:1", 403},
		{"6to4 of an address within", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, "[2002:a00:1::]:1", 403},
		{"a zone", []netip.Prefix{netip.MustParsePrefix("fe80::/10")}, "[fe80::1%eth0]:1", 200},
		{"no address", []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, "@", 403},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.in(t)
			tok := h.keys.token(func(c *token.Claims) { c.IP = row.networks })
			for _, again := range []string{"first", "from the cache"} {
				r := newRequest("POST", "/v1/chat/completions", `{"model":"small"}`, tok)
				r.RemoteAddr = row.remote
				r.Header.Set("X-Forwarded-For", "10.1.2.3")
				r.Header.Set("Forwarded", "for=10.1.2.3")
				w := record(h.v.Handler(), r)
				if w.Code != row.status || w.Code == 403 && !strings.Contains(w.Body.String(), `"code":"address_not_allowed"`) {
					t.Errorf("%s: %d %s, want %d", again, w.Code, w.Body, row.status)
				}
				records := h.records()
				if got := records[len(records)-1].ClientIP; strings.HasPrefix(got, "::ffff:") || (got == "") != (row.remote == "@") {
					t.Errorf("the record's address is %q", got)
				}
				if got := len(h.arrived()); got != map[int]int{200: 1, 403: 0}[row.status] {
					t.Errorf("%s: the upstream got %d", again, got)
				}
			}
		})
	}
}

// TestAlphabet: what is no base64url is not looked at any further.
func TestAlphabet(t *testing.T) {
	h := newHouse(t)
	tok := h.keys.token()
	for c := range 256 {
		b := byte(c)
		if b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '_' {
			continue
		}
		for _, spoiled := range []string{tok + string([]byte{b}), string([]byte{b}) + tok, tok[:20] + string([]byte{b}) + tok[21:]} {
			if w := record(h.v.Handler(), newRequest("POST", "/v1/chat/completions", `{"model":"small"}`, spoiled)); w.Code != 401 {
				t.Errorf("with byte %#x: %d %s", b, w.Code, w.Body)
			}
		}
	}
	for _, r := range h.records() {
		if r.Reason != "malformed" {
			t.Errorf("record %+v, want malformed", r)
		}
	}
	if n := h.keys.verified.Load(); n != 0 || len(h.arrived()) != 0 {
		t.Errorf("the keys were asked %d times", n)
	}
}

// TestSizeOfToken: the longest that is looked at, and one byte more.
func TestSizeOfToken(t *testing.T) {
	h := newHouse(t)
	tok := h.keys.token()
	for size, reason := range map[int]string{token.MaxBytes: "signature", token.MaxBytes + 1: "size"} {
		r := h.good()
		r.header.Set("Authorization", "Bearer "+tok+strings.Repeat("A", size-len(tok)))
		h.refused(r, 401, "invalid_token", reason)
	}
}

// TestAddressIsOfTheCall: a token that is known is judged by where each call
// comes from, not by where the first one did.
func TestAddressIsOfTheCall(t *testing.T) {
	h := newHouse(t)
	tok := h.keys.token(func(c *token.Claims) { c.IP = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	for _, step := range []struct {
		remote string
		status int
	}{{"10.1.2.3:1", 200}, {"11.1.2.3:1", 403}, {"10.1.2.4:1", 200}, {"[2001:db8::1]:1", 403}} {
		r := newRequest("POST", "/v1/chat/completions", `{"model":"small"}`, tok)
		r.RemoteAddr = step.remote
		if w := record(h.v.Handler(), r); w.Code != step.status {
			t.Errorf("from %s: %d %s, want %d", step.remote, w.Code, w.Body, step.status)
		}
	}
	if n := h.keys.verified.Load(); n != 1 {
		t.Errorf("the keys were asked %d times, want once", n)
	}
	if r := h.records(); r[1].Reason != "ip" || r[1].Identity != "corp:ada" {
		t.Errorf("record %+v", r[1])
	}
}

func TestCache(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.CacheSize = 4 })
	call := func(tok string, status int) {
		t.Helper()
		r := h.good()
		r.header.Set("Authorization", "Bearer "+tok)
		if got := h.send(r); got.status != status {
			t.Fatalf("%d %s, want %d", got.status, got.body, status)
		}
	}
	asked := func(want int64) {
		t.Helper()
		if got := h.keys.verified.Swap(0); got != want {
			t.Errorf("the keys were asked %d times, want %d", got, want)
		}
	}
	tok := h.keys.token()
	call(tok, 200)
	call(tok, 200)
	asked(1)

	// The same claims, signed again, are another token. A bad signature on a
	// cached token's claims is no cached token.
	call(h.keys.token(), 200)
	asked(1)
	call(tok[:len(tok)-8]+"AAAAAAAA", 401)
	call(tok[:len(tok)-8]+"AAAAAAAA", 401)
	asked(2)

	// Junk does not drive out what is good.
	for range 20 {
		call(newKeys().token(), 401)
	}
	h.keys.verified.Store(0)
	call(tok, 200)
	asked(0)

	// A verdict ages.
	h.clock.pass(59 * time.Second)
	call(tok, 200)
	asked(0)
	h.clock.pass(time.Second)
	call(tok, 200)
	asked(1)

	// A clock set back makes nothing young.
	h.clock.pass(-time.Second)
	call(tok, 200)
	asked(1)

	// Other keys, other verdicts; going back to old ones included.
	h.keys.generation.Store(1)
	call(tok, 200)
	asked(1)
	h.keys.private = newKeys().private
	h.keys.generation.Store(2)
	call(tok, 401)
	asked(1)
}

func TestCachedTokenExpires(t *testing.T) {
	h := newHouse(t)
	r := h.good()
	r.header.Set("Authorization", "Bearer "+h.keys.token(func(c *token.Claims) { c.Expires = h.clock.now().Add(10 * time.Second) }))
	for _, step := range []struct {
		pass   time.Duration
		status int
	}{{0, 200}, {9 * time.Second, 200}, {999 * time.Millisecond, 200}, {time.Millisecond, 401}, {-time.Second, 200}, {-8 * time.Minute, 401}} {
		h.clock.pass(step.pass)
		if got := h.send(r); got.status != step.status {
			t.Errorf("at %s: %d %s, want %d", h.clock.now(), got.status, got.body, step.status)
		}
	}
}

// TestLimitsNotEnforced: a token whose limits would not hold opens nothing.
func TestLimitsNotEnforced(t *testing.T) {
	h := newHouse(t)
	limited := h.keys.token(func(c *token.Claims) { c.Limits = token.Limits{"tokens/day": 1000} })
	w := record(h.v.Handler(), newRequest("POST", "/v1/chat/completions", `{"model":"small"}`, limited))
	if w.Code != 403 || !strings.Contains(w.Body.String(), `"code":"limits_not_enforced"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if got := h.arrived(); len(got) > 0 {
		t.Errorf("%d calls arrived", len(got))
	}
}
