package verifier_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/verifier"
)

func TestTarget(t *testing.T) {
	h := newHouse(t)
	for _, target := range []string{
		"/v1/chat/../completions", "/v1/./chat/completions", "//v1/chat/completions", "/v1//chat/completions", "/v1/chat/completions/",
		"/v1/chat%2Fcompletions", "/v1/%63hat/completions", "/v1/chat/completions;a=b", "/v1/chat/completions%00", "/v1/chat\\completions",
		"/v1/%2e%2e/admin", "/v1/chat/completions%0d%0aX-A:%20b",
	} {
		for _, tok := range []string{"good", ""} { // It is not even looked at who asks.
			raw := "POST " + target + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 17\r\n"
			if tok != "" {
				raw += "Authorization: Bearer " + h.keys.token() + "\r\n"
			}
			got := h.raw(raw + "\r\n{\"model\":\"small\"}")
			if got.status != 400 || got.header.Get("Location") != "" || !got.closes || got.failure(t).Code != "invalid_target" {
				t.Errorf("%s = %d %s", target, got.status, got.body)
			}
		}
	}
	for _, line := range []string{"GET http://x/v1/models", "GET *", "CONNECT x:443"} {
		got := h.raw(line + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + h.keys.token() + "\r\n\r\n")
		if got.status != 400 {
			t.Errorf("%s = %d %s", line, got.status, got.body)
		}
	}
	if a := h.arrived(); len(a) > 0 {
		t.Errorf("the upstream got %+v", a)
	}
	if got := len(h.records()); got != 2*12+3 {
		t.Errorf("%d records", got)
	}
	for _, r := range h.records() {
		if r.Reason != "target" || r.Status != 400 || r.Identity != "" {
			t.Errorf("record %+v", r)
		}
	}
}

// TestPathIsOne: behind something that rewrites paths, what was judged and what
// is served could differ.
func TestPathIsOne(t *testing.T) {
	h := newHouse(t)
	r := newRequest("POST", "/prefix/v1/chat/completions", `{"model":"small"}`, h.keys.token())
	if w := record(http.StripPrefix("/prefix", h.v.Handler()), r); w.Code != 400 {
		t.Errorf("behind StripPrefix: %d %s", w.Code, w.Body)
	}
}

func TestRoutesRefused(t *testing.T) {
	h := newHouse(t)
	for _, row := range []struct {
		method, target string
		status         int
		code, reason   string
		allow          string
	}{
		{"POST", "/v1/files", 404, "not_found", "endpoint", ""},
		{"POST", "/chat/completions", 404, "not_found", "endpoint", ""},
		{"POST", "/V1/chat/completions", 404, "not_found", "endpoint", ""},
		{"POST", "/v1/load_lora_adapter", 404, "not_found", "not_served", ""},
		{"GET", "/", 404, "not_found", "endpoint", ""},
		{"GET", "/livez", 404, "not_found", "endpoint", ""},
		{"GET", "/readyz", 404, "not_found", "endpoint", ""},
		{"GET", "/v1/responses/resp_1", 404, "not_found", "endpoint", ""},
		{"GET", "/v1/chat/completions", 405, "method_not_allowed", "method", "POST"},
		{"POST", "/v1/models", 405, "method_not_allowed", "method", "GET"},
		{"POST", "/v1/models/small", 405, "method_not_allowed", "method", "GET"},
		{"DELETE", "/v1/models/small", 405, "method_not_allowed", "method", "GET"},
		{"PUT", "/nowhere", 405, "method_not_allowed", "method", "DELETE, GET, POST"},
		{"OPTIONS", "/v1/chat/completions", 405, "method_not_allowed", "method", "DELETE, GET, POST"},
		{"TRACE", "/v1/chat/completions", 405, "method_not_allowed", "method", "DELETE, GET, POST"},
		{"post", "/v1/chat/completions", 405, "method_not_allowed", "method", "DELETE, GET, POST"},
		{"POST", "/v1/chat/completions?model=large", 400, "invalid_request", "query", ""},
		{"POST", "/v1/chat/completions?api-version=1", 400, "invalid_request", "query", ""},
		{"GET", "/v1/models?key=x", 400, "invalid_request", "query", ""},
		{"GET", "/v1/models/small?a=b", 400, "invalid_request", "query", ""},
		{"GET", "/v1/models/large", 403, "insufficient_scope", "scope", ""},
		{"GET", "/v1/models/small!", 404, "not_found", "endpoint", ""},
	} {
		t.Run(row.method+" "+row.target, func(t *testing.T) {
			h.in(t)
			r := h.good()
			r.method, r.target = row.method, row.target
			if row.method == "GET" {
				r.body = ""
			}
			got := h.refused(r, row.status, row.code, row.reason)
			if allow := got.header.Get("Allow"); allow != row.allow {
				t.Errorf("Allow %q, want %q", allow, row.allow)
			}
		})
	}
}

// TestUnknownAskLearnNothing: without a token all paths look alike.
func TestUnknownAskLearnNothing(t *testing.T) {
	h := newHouse(t)
	for _, target := range []string{"/v1/chat/completions", "/v1/models", "/v1/models/small", "/nowhere", "/v1/files", "/v1/models?x=y"} {
		for _, method := range []string{"GET", "POST"} {
			r := h.good()
			r.method, r.target = method, target
			r.header.Del("Authorization")
			h.refused(r, 401, "missing_token", "missing")
		}
	}
}

func TestTokenInQuery(t *testing.T) {
	h := newHouse(t)
	for _, name := range []string{"access_token", "key", "api_key"} {
		r := h.good()
		r.target += "?" + name + "=" + h.keys.token()
		h.refused(r, 400, "invalid_request", "query")
		r.header.Del("Authorization")
		h.refused(r, 401, "missing_token", "missing")
	}
}

// TestGetHasNoBody: what means nothing is not waited for.
func TestGetHasNoBody(t *testing.T) {
	h := newHouse(t)
	for _, target := range []string{"/v1/models", "/v1/models/small"} {
		r := h.good()
		r.method, r.target = "GET", target
		h.refused(r, 400, "invalid_request", "body_unwanted")
	}
}

func TestUpgrade(t *testing.T) {
	h := newHouse(t)
	r := h.good()
	r.header.Set("Connection", "Upgrade")
	r.header.Set("Upgrade", "websocket")
	h.refused(r, 400, "invalid_request", "upgrade")
}

func TestRetrieveModel(t *testing.T) {
	h := newHouse(t)
	for _, row := range []struct {
		model  string
		status int
	}{{"small", 200}, {"team/e5", 200}, {"team/e5/x", 403}, {"large", 403}} {
		r := h.good()
		r.method, r.target, r.body = "GET", "/v1/models/"+row.model, ""
		got := h.send(r)
		a := h.arrived()
		if got.status != row.status || len(a) != map[int]int{200: 1}[row.status] {
			t.Fatalf("%s: %d %s; the upstream got %+v", row.model, got.status, got.body, a)
		}
		if len(a) == 1 && (a[0].target != "/v1/models/"+row.model || a[0].method != "GET" || a[0].body != "" || a[0].header["Content-Type"] != nil) {
			t.Errorf("the upstream got %+v", a)
		}
	}
	if rec := h.records()[0]; rec.Route != "GET /v1/models/{model}" || rec.Model != "small" || rec.Action != "models" {
		t.Errorf("record %+v", rec)
	}
}

func TestRequestHeaders(t *testing.T) {
	h := newHouse(t)
	r := h.good()
	for _, name := range []string{
		"Cookie", "X-Auth-Subject", "X_Auth_Subject", "X.Auth.Subject", "Remote-User", "X-Forwarded-For", "X_Forwarded_For", "X-Forwarded-Host", "X-Forwarded-Prefix",
		"Forwarded", "X-Real-Ip", "X-Original-Url", "Cf-Access-Jwt-Assertion", "Openai-Organization", "Openai-Project", "Idempotency-Key", "X-Stainless-Os",
		"X-Model", "X-Ai-Eg-Model", "X-Http-Method-Override", "Accept-Encoding", "Accept-Language", "Te", "Trailer", "Proxy-Authorization", "Keep-Alive", "Via",
		"X-Portkey-Config", "Range", "If-None-Match", "Referer", "Origin", "Tracestate", "Baggage", "X-Hourpass-Subject", "X_Api_Key",
	} {
		r.header[name] = []string{"evil"}
	}
	r.header["Connection"] = []string{"close, X-Request-Id, Authorization, Content-Type"}
	r.header.Set("X-Request-Id", "mine")
	r.header.Set("User-Agent", "evil")
	r.header.Set("Accept", "text/event-stream, application/json;q=0.9")
	r.header.Set("OpenAI-Beta", "responses=experimental, assistants=v2")
	r.header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	if got := h.send(r); got.status != 200 {
		t.Fatal(got)
	}
	a := h.arrived()
	if len(a) != 1 {
		t.Fatalf("the upstream got %+v", a)
	}
	onlyAllowed(t, a[0])
	for _, name := range []string{"Accept", "OpenAI-Beta", "Traceparent"} {
		if a[0].header.Get(name) != r.header.Get(name) {
			t.Errorf("the upstream got %s %q, want %q", name, a[0].header.Get(name), r.header.Get(name))
		}
	}
	if id := a[0].header.Get("X-Request-Id"); id == "mine" || len(id) != 26 {
		t.Errorf("X-Request-Id %q", id)
	}

	for name, bad := range map[string][]string{
		"Accept":      {"text/\"html", strings.Repeat("a", 257), "a@b", "a[b", "a`b", "a{b", "a<b", "a\u00e9", "a:b"},
		"Openai-Beta": {"a\tb", "a:b"},
		"Traceparent": {
			"x", "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
			"00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902bG-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0:",
			"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
		},
	} {
		for _, value := range bad {
			r := h.good()
			r.header.Set(name, value)
			if got := h.send(r); got.status != 200 {
				t.Fatal(got)
			}
			if a := h.arrived(); len(a) != 1 || a[0].header[name] != nil {
				t.Errorf("%s: the upstream got %q", name, a[0].header[name])
			}
		}
	}
	r = h.good()
	r.header.Set("Accept", "AZaz09 !*+,-./;=_"+strings.Repeat("a", 256-17))
	h.send(r)
	if a := h.arrived(); len(a) != 1 || a[0].header.Get("Accept") != r.header.Get("Accept") {
		t.Errorf("the longest Accept: the upstream got %q", a[0].header["Accept"])
	}
	r = h.good()
	r.header["Accept"] = []string{"a/b", "c/d"}
	h.send(r)
	if a := h.arrived(); len(a) != 1 || a[0].header["Accept"] != nil {
		t.Errorf("two Accept lines: the upstream got %q", a[0].header["Accept"])
	}
}

// TestNoCredential: an upstream that wants none gets none, least of all the
// client's.
func TestNoCredential(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Upstreams[0].Credential = "" })
	h.send(h.good())
	if a := h.arrived(); len(a) != 1 || a[0].header["Authorization"] != nil {
		t.Errorf("the upstream got %+v", a)
	}
}

// TestPipelined: each request on a connection is judged for itself.
func TestPipelined(t *testing.T) {
	h := newHouse(t)
	head := "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 17\r\n"
	got := h.raw(head + "Authorization: Bearer " + h.keys.token() + "\r\n\r\n{\"model\":\"small\"}" + head + "\r\n{\"model\":\"small\"}")
	if got.status != 200 {
		t.Fatal(got)
	}
	h.srv.Close() // Waits for the second.
	h.serve(h.v.Handler())
	if a := h.arrived(); len(a) != 1 {
		t.Errorf("the upstream got %+v", a)
	}
}

func TestHTTP2(t *testing.T) {
	h := newHouse(t)
	srv := httptest.NewUnstartedServer(h.v.Handler())
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	req, err := http.NewRequest("POST", srv.URL+"/v1/chat/completions", strings.NewReader(`{"model":"small"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = h.good().header
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.ProtoMajor != 2 || res.StatusCode != 200 || len(h.arrived()) != 1 {
		t.Errorf("%s %s", res.Proto, res.Status)
	}
}
