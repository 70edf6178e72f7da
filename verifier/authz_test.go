package verifier_test

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier"
)

// doors is a house whose upstream has two models and a pattern of them.
func doors(t *testing.T) *house {
	return newHouse(t, func(c *verifier.Config) {
		c.Upstreams[0].Models = []string{"small", "team/*"}
		c.Upstreams = append(c.Upstreams, verifier.Upstream{Name: "other", URL: "http://127.0.0.1:1", Models: []string{"large"}},
			verifier.Upstream{Name: "any", URL: "http://127.0.0.1:1", Models: []string{"*"}})
	})
}

// whole covers all that the upstream has.
var whole = scoped("chat:small", "chat:team/*", "models:small", "models:team/*", "chat:large")

// TestAuthz: a decision about calls that others forward.
func TestAuthz(t *testing.T) {
	h := doors(t)
	authz, err := h.v.Authz("toy")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, method, target string
		token                func(*token.Claims)
		body                 string // "-": not seen.
		status               int
		code                 string
	}{
		{"a body as we would write it", "POST", "/v1/chat/completions", scoped("chat:small"), `{"model":"small","messages":[ ]}`, 200, ""},
		{"white space between members", "POST", "/v1/chat/completions", scoped("chat:small"), `{"model": "small"}`, 400, "invalid_body"},
		{"an escape in the model", "POST", "/v1/chat/completions", scoped("chat:small"), `{"model":"sm\u0061ll"}`, 400, "invalid_body"},
		{"a model of no scope", "POST", "/v1/chat/completions", scoped("chat:team/*"), `{"model":"small"}`, 403, "insufficient_scope"},
		{"another server's model", "POST", "/v1/chat/completions", whole, `{"model":"large"}`, 404, "not_found"},
		{"a refused member", "POST", "/v1/chat/completions", whole, `{"model":"small","fallbacks":["x"]}`, 400, "invalid_parameter"},
		{"within bounds", "POST", "/v1/chat/completions", bounded(8), `{"model":"small","max_tokens":8}`, 200, ""},
		{"what would be clamped", "POST", "/v1/chat/completions", bounded(8), `{"model":"small","max_tokens":9}`, 400, "invalid_body"},
		{"what would be put in", "POST", "/v1/chat/completions", bounded(8), `{"model":"small"}`, 400, "invalid_body"},

		{"unseen, all covered", "POST", "/v1/chat/completions", whole, "-", 200, ""},
		{"unseen, one not covered", "POST", "/v1/chat/completions", scoped("chat:small"), "-", 403, "insufficient_scope"},
		{"unseen, the pattern not covered", "POST", "/v1/chat/completions", scoped("chat:small", "chat:team/e5"), "-", 403, "insufficient_scope"},
		{"unseen, covered for another action", "POST", "/v1/embeddings", whole, "-", 403, "insufficient_scope"},
		{"unseen, bounded", "POST", "/v1/chat/completions", func(c *token.Claims) { whole(c); bounded(8)(c) }, "-", 403, "parameter_not_allowed"},
		{"a model in the path", "GET", "/v1/models/small", scoped("chat:small"), "-", 200, ""},
		{"another server's, in the path", "GET", "/v1/models/large", whole, "-", 404, "not_found"},
		{"a model of no scope, in the path", "GET", "/v1/models/small", scoped("chat:team/*"), "-", 403, "insufficient_scope"},
		{"the list, all covered", "GET", "/v1/models", whole, "-", 200, ""},
		{"the list, not all covered", "GET", "/v1/models", scoped("models:small"), "-", 403, "insufficient_scope"},
		{"another server's route", "POST", "/api/chat", whole, "-", 404, "not_found"},
		{"no route", "POST", "/v1/files", whole, "-", 404, "not_found"},
		{"a path in disguise", "POST", "/v1/chat/../chat/completions", whole, "-", 400, "invalid_target"},
		{"an escape in the path", "POST", "/v1/chat/completions%23", whole, "-", 400, "invalid_target"},
		{"a fragment", "POST", "/v1/chat/completions#", whole, "-", 400, "invalid_target"},
		{"a query", "POST", "/v1/chat/completions?model=large", whole, "-", 400, "invalid_request"},
		{"an upgrade", "GET", "/v1/realtime?model=small", whole, "-", 400, "invalid_request"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.in(t)
			before := len(h.records())
			r := newRequest(row.method, "http://x/", "", h.keys.token(row.token))
			r.RequestURI = row.target
			r.URL.Path, r.URL.RawQuery, _ = strings.Cut(row.target, "?")
			r.Header.Set("Content-Type", "application/json")
			r.Body, r.ContentLength = nil, 0
			if row.body != "-" {
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(row.body)), int64(len(row.body))
			}
			w := record(authz, r)
			if w.Code != row.status || row.code != "" && !strings.Contains(w.Body.String(), `"code":"`+row.code+`"`) {
				t.Fatalf("%d %s, want %d %s", w.Code, w.Body, row.status, row.code)
			}
			if row.status == 200 && (w.Header().Get("X-Hourpass-Subject") != "corp:ada" || w.Header().Get("X-Hourpass-Key") != "key0123456789abc") {
				t.Errorf("headers %v", w.Header())
			}
			rec := h.records()[before:]
			if len(rec) != 1 || (rec[0].Outcome == "allow") != (row.status == 200) || rec[0].Upstream != "toy" || rec[0].Decision != w.Header().Get("X-Request-Id") {
				t.Errorf("records %+v", rec)
			}
		})
	}
	if a := h.arrived(); len(a) > 0 {
		t.Errorf("the upstream got %+v", a)
	}
	if _, err := h.v.Authz("nobody"); err == nil {
		t.Error("an upstream that is not there can be decided for")
	}
	// "*" is covered by nothing.
	every, err := h.v.Authz("any")
	if err != nil {
		t.Fatal(err)
	}
	r := newRequest("POST", "/v1/chat/completions", "", h.keys.token(whole))
	if r.Body = nil; record(every, r).Code != 403 {
		t.Error("an upstream of all models is opened without a look at the body")
	}
}

func bounded(n float64) func(*token.Claims) {
	return func(c *token.Claims) {
		scoped("chat:small", "chat:team/*")(c)
		c.Params = token.Params{Bounds: map[string]token.Range{"max_tokens": {Max: n}}, Clamp: true}
	}
}

// TestForwardAuth: what a proxy asks is believed of the proxy alone, and by the
// two headers that it is told to set.
func TestForwardAuth(t *testing.T) {
	h := doors(t)
	for _, style := range []string{"original", "forwarded"} {
		auth, err := h.v.ForwardAuth(verifier.ForwardAuth{Upstream: "toy", Headers: style, Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
		if err != nil {
			t.Fatal(err)
		}
		method, uri := "X-Original-Method", "X-Original-Uri"
		if style == "forwarded" {
			method, uri = "X-Forwarded-Method", "X-Forwarded-Uri"
		}
		near := func(c *token.Claims) {
			whole(c)
			c.IP = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
		}
		for _, row := range []struct {
			name   string
			spoil  func(*http.Request)
			status int // To Traefik and Caddy.
		}{
			{"as it should be", func(*http.Request) {}, 200},
			{"a stranger", func(r *http.Request) { r.RemoteAddr = "192.0.2.1:1" }, 403},
			{"no address", func(r *http.Request) { r.RemoteAddr = "@" }, 403},
			{"no method", func(r *http.Request) { r.Header.Del(method) }, 400},
			{"no URI", func(r *http.Request) { r.Header.Del(uri) }, 400},
			{"two URIs", func(r *http.Request) { r.Header.Add(uri, "/v1/models") }, 400},
			{"two methods", func(r *http.Request) { r.Header.Add(method, "GET") }, 400},
			{"an absolute URI", func(r *http.Request) { r.Header.Set(uri, "http://x/v1/chat/completions") }, 400},
			{"a URI that climbs", func(r *http.Request) { r.Header.Set(uri, "/v1/x/../chat/completions") }, 400},
			{"a URI with an escape", func(r *http.Request) { r.Header.Set(uri, "/v1/chat%2fcompletions") }, 400},
			{"a URI with a hash", func(r *http.Request) { r.Header.Set(uri, "/v1/chat/completions%23") }, 400},
			{"a URI with a semicolon", func(r *http.Request) { r.Header.Set(uri, "/v1/chat/completions;a=b") }, 400},
			{"another route", func(r *http.Request) { r.Header.Set(uri, "/v1/files") }, 404},
			{"another method", func(r *http.Request) { r.Header.Set(method, "DELETE") }, 405},
			{"no token", func(r *http.Request) { r.Header.Del("Authorization") }, 401},
			{"a client far away", func(r *http.Request) { r.Header.Set("X-Forwarded-For", "203.0.113.9, 198.51.100.1") }, 403},
			{"a client that is not named", func(r *http.Request) { r.Header.Del("X-Forwarded-For") }, 403},
			{"another path than /authz", func(r *http.Request) { r.RequestURI, r.URL.Path = "/authz/x", "/authz/x" }, 404},
			{"headers of the other kind too", func(r *http.Request) {
				for _, name := range []string{"X-Original-Uri", "X-Forwarded-Uri", "X-Original-Url", "X-Rewrite-Url"} {
					if name != uri {
						r.Header.Set(name, "/v1/files")
					}
				}
			}, 200},
		} {
			t.Run(style+" "+row.name, func(t *testing.T) {
				r := newRequest("GET", "http://x/authz", "", h.keys.token(near))
				r.RequestURI, r.RemoteAddr = "/authz", "10.1.1.1:1"
				r.Header.Set(method, "POST")
				r.Header.Set(uri, "/v1/chat/completions")
				r.Header.Set("X-Forwarded-For", "203.0.113.9")
				row.spoil(r)
				want := row.status
				if style == "original" && want > 401 && row.name != "another path than /authz" {
					want = 403 // nginx knows no other.
				}
				if style == "original" && want == 400 && r.Header.Get(uri) != "" && len(r.Header[uri]) == 1 && len(r.Header[method]) == 1 {
					want = 403
				}
				if w := record(auth, r); w.Code != want || w.Header().Get("Location") != "" {
					t.Errorf("%d %s, want %d", w.Code, w.Body, want)
				}
			})
		}
	}
	for name, c := range map[string]verifier.ForwardAuth{
		"no networks":        {Upstream: "toy", Headers: "original"},
		"no kind of headers": {Upstream: "toy", Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
		"no upstream":        {Headers: "original", Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
	} {
		if _, err := h.v.ForwardAuth(c); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// TestAdminElsewhere: what rules a server is closed by whichever way it is asked
// for, until it is opened, and then takes its own scope.
func TestAdminElsewhere(t *testing.T) {
	for _, opened := range []bool{false, true} {
		h := newHouse(t, func(c *verifier.Config) {
			c.Upstreams[0].API, c.Upstreams[0].Models = "ollama", []string{"small"}
			if opened {
				c.Upstreams[0].Open = []string{"GET /api/ps", "DELETE /api/delete"}
			}
		})
		authz, err := h.v.Authz("toy")
		if err != nil {
			t.Fatal(err)
		}
		reached := 0
		middleware := h.v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
		for _, row := range []struct {
			method, path, body, scope string
			ok                        bool // Once it is opened.
		}{
			{"GET", "/api/ps", "", "admin:toy", true},
			{"GET", "/api/ps", "", "admin:small", false},
			{"GET", "/api/ps", "", "chat:small", false},
			{"DELETE", "/api/delete", `{"model":"small"}`, "admin:small", true},
			{"DELETE", "/api/delete", `{"model":"small"}`, "chat:small", false},
			{"POST", "/api/pull", `{"model":"small"}`, "admin:small", false},
		} {
			for name, handler := range map[string]http.Handler{"authz": authz, "middleware": middleware, "proxy": h.v.Handler()} {
				r := newRequest(row.method, row.path, row.body, h.keys.token(scoped(row.scope)))
				if name == "authz" && row.body == "" {
					r.Body = nil
				}
				if w := record(handler, r); (w.Code == 200) != (opened && row.ok) {
					t.Errorf("opened: %t, %s %s with %s by %s: %d %s", opened, row.method, row.path, row.scope, name, w.Code, w.Body)
				}
			}
		}
		if want := map[bool]int{true: 2}[opened]; reached != want {
			t.Errorf("the handler was reached %d times, want %d", reached, want)
		}
	}
}

// TestForwardedTwice: whom the proxy in front named is the client, though that
// address be one of a proxy that is trusted elsewhere.
func TestForwardedTwice(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) {
		c.Upstreams[0].Models = []string{"small"}
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	})
	auth, err := h.v.ForwardAuth(verifier.ForwardAuth{Upstream: "toy", Headers: "forwarded", Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	r := newRequest("GET", "http://x/authz", "", h.keys.token(func(c *token.Claims) {
		scoped("chat:small")(c)
		c.IP = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	}))
	r.RequestURI, r.RemoteAddr = "/authz", "10.1.1.1:1"
	r.Header.Set("X-Forwarded-Method", "POST")
	r.Header.Set("X-Forwarded-Uri", "/v1/chat/completions")
	r.Header.Set("X-Forwarded-For", "198.51.100.1, 203.0.113.9")
	if w := record(auth, r); w.Code != 403 {
		t.Errorf("%d %s, want 403", w.Code, w.Body)
	}
}
