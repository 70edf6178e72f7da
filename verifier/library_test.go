package verifier_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/serve"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier"
)

func TestMiddleware(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Upstreams = nil })
	var got *http.Request
	var body string
	h.serve(h.v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		claims, ok := verifier.FromContext(r.Context())
		if !ok || claims.Subject != "corp:ada" {
			t.Errorf("FromContext = %+v, %v", claims, ok)
		}
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "a")
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, "b")
	})))
	r := h.good()
	r.body = ` {"\u006dodel":"small", "a":[1, 2]} `
	r.header["X-Api-Key"] = []string{strings.TrimPrefix(r.header.Get("Authorization"), "Bearer ")}
	r.header["X_api_key"], r.header["X-Other"] = []string{"hidden"}, []string{"kept"}
	r.header.Set("Content-Encoding", "identity")
	res := h.send(r)
	if res.status != http.StatusTeapot || res.body != "ab" || res.header.Get("X-Request-Id") == "" {
		t.Fatalf("%d %s", res.status, res.body)
	}
	const want = `{"model":"small","a":[1, 2]}`
	if body != want || got.ContentLength != int64(len(want)) || got.Header.Get("Content-Length") != fmt.Sprint(len(want)) {
		t.Errorf("the handler got %s, length %d, %q", body, got.ContentLength, got.Header.Get("Content-Length"))
	}
	for _, name := range []string{"Authorization", "X-Api-Key", "X_api_key", "X_Api_Key", "Content-Encoding"} {
		if got.Header[name] != nil {
			t.Errorf("the handler got %s %q", name, got.Header[name])
		}
	}
	if got.Header.Get("X-Other") != "kept" || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("the handler got %v", got.Header)
	}
	rec := h.records()
	if len(rec) != 1 || rec[0].Status != http.StatusTeapot || rec[0].Bytes != 2 || rec[0].Outcome != "allow" || rec[0].Upstream != "" {
		t.Errorf("records %+v", rec)
	}

	got = nil
	for _, spoil := range []func(*request){
		func(r *request) { r.header.Del("Authorization"); r.header.Del("X-Api-Key") },
		func(r *request) { r.body = `{"model":"large"}` },
		func(r *request) { r.body = `{"model":"small","Model":"large"}` },
		func(r *request) { r.target = "/v1/other" },
	} {
		r := h.good()
		spoil(&r)
		if res := h.send(r); res.status < 400 || got != nil {
			t.Errorf("%+v = %d %s, the handler got %v", r, res.status, res.body, got)
		}
	}
	if _, ok := verifier.FromContext(t.Context()); ok {
		t.Error("FromContext is ok of a context that is not ours")
	}
}

func TestMiddlewareLists(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Upstreams = nil })
	answer := reply(200, "application/json", `{"data":[{"id":"small"},{"id":"large"}]}`)
	h.serve(h.v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) })))
	if got := h.list("chat:small"); got.body != listOf(`{"id":"small","object":"model","created":0,"owned_by":""}`) {
		t.Errorf("%d %s", got.status, got.body)
	}
	for name, bad := range map[string]http.HandlerFunc{
		"an error":  reply(500, "application/json", "{}"),
		"a panic":   func(http.ResponseWriter, *http.Request) { panic("evil") },
		"a torrent": reply(200, "application/json", `{"data":[{"id":"small"}],"x":"`+strings.Repeat("x", 9<<20)+`"}`),
	} {
		answer = bad
		if got := h.list("chat:small"); got.status != 502 {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
}

// TestMiddlewareStreams: what a handler flushes goes out, and a client that leaves
// is told to the handler and written down.
func TestMiddlewareStreams(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Upstreams = nil })
	more, ended := make(chan func(http.ResponseWriter)), make(chan error, 1)
	h.serve(h.v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for flush := range more {
			_, _ = io.WriteString(w, "word")
			flush(w)
		}
		for { // Until somebody says that it is in vain.
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				ended <- err
				return
			}
		}
	})))
	flushes := []func(http.ResponseWriter){
		func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() },
	}
	go func() { more <- flushes[0] }()
	res := h.open(t.Context(), h.good())
	for i, next := range []func(http.ResponseWriter){flushes[1], nil} {
		word := make([]byte, 4)
		if _, err := io.ReadFull(res.Body, word); err != nil || string(word) != "word" {
			t.Fatalf("word %d is %q, %v", i, word, err)
		}
		if next != nil {
			more <- next
		}
	}
	close(more)
	res.Body.Close()
	if err := <-ended; err == nil {
		t.Error("the handler writes to nobody")
	}
	h.srv.Close()
	if r := h.records(); len(r) != 1 || r[0].Reason != "client_gone" || r[0].Outcome != "allow" || r[0].Status != 200 {
		t.Errorf("records %+v", r)
	}
}

// TestMiddlewareGets: a call without a body reaches the handler without one.
func TestMiddlewareGets(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Upstreams = nil })
	h.serve(h.v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if len(body) > 0 || err != nil || r.ContentLength != 0 || r.Header["Content-Type"] != nil || r.Header["Content-Length"] != nil || r.URL.Path != "/v1/models/small" {
			t.Errorf("the handler got %s %v, %q, %v", r.URL, r.Header, body, err)
		}
		reply(200, "application/json", "{}")(w, r)
	})))
	r := h.good()
	r.method, r.target, r.body = "GET", "/v1/models/small", ""
	r.header.Del("Content-Type")
	if got := h.send(r); got.status != 200 || got.body != "{}" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestMiddlewareSaysNothing(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Upstreams = nil })
	h.serve(h.v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	if got := h.send(h.good()); got.status != 200 || got.body != "" {
		t.Errorf("%d %s %v", got.status, got.body, got.err)
	}
}

func TestPanics(t *testing.T) {
	h := newHouse(t)
	h.keys.panics.Store(true)
	if f := h.refused(h.good(), 500, "internal_error", "internal").failure(t); f.Message != "Something went wrong on our side." {
		t.Errorf("message %q", f.Message)
	}
	if !strings.Contains(h.logs.String(), "a key set that panics") {
		t.Errorf("logs: %s", h.logs)
	}
	h.keys.panics.Store(false)

	h.serve(h.v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic("later")
	})))
	if got := h.send(h.good()); got.err == nil {
		t.Errorf("half an answer looks whole: %d %q", got.status, got.body)
	}
	h.serve(h.v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Set-Cookie", "half=done")
		panic("at once")
	})))
	if got := h.send(h.good()); got.status != 500 || got.failure(t).Code != "internal_error" || got.header.Get("Set-Cookie") != "" {
		t.Errorf("%d %s %v", got.status, got.body, got.header)
	}
	before := len(h.logs.String())
	h.serve(h.v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })))
	if got := h.send(h.good()); got.err == nil {
		t.Errorf("an aborted call was answered: %d %q", got.status, got.body)
	}
	h.srv.Close()
	if log := h.logs.String()[before:]; log != "" {
		t.Errorf("an abort is logged: %s", log)
	}
	if rec := h.records(); len(rec) != 4 || rec[1].Reason != "internal" || rec[2].Reason != "internal" || rec[3].Reason != "aborted" || rec[3].Status != 499 {
		t.Errorf("records %+v", rec)
	}
}

// TestAuditBreaks: a full disk stops calls, and loses no record once it has room.
func TestAuditBreaks(t *testing.T) {
	full, err := audit.Open(audit.Config{Path: "/dev/full", Now: time.Now})
	if err != nil {
		t.Logf("not tested: %v", err)
		return
	}
	defer full.Close()
	h := newHouse(t, func(c *verifier.Config) { c.Audit = full })
	if err := h.v.Ready(); err != nil {
		t.Fatal(err)
	}
	// The call under way when it breaks is answered; none is let through after it.
	if got := h.send(h.good()); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	h.arrived()
	for range 2 {
		got := h.send(h.good())
		if got.status != 503 || got.failure(t).Code != "audit_unavailable" || got.header.Get("Retry-After") == "" {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	if a := h.arrived(); len(a) > 0 {
		t.Errorf("the upstream got %+v", a)
	}
	if err := h.v.Ready(); err == nil || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Ready = %v", err)
	}
	if !strings.Contains(h.logs.String(), "keeping an audit record") {
		t.Errorf("logs: %s", h.logs)
	}

	makeRoom(t, "/dev/full", h.path)
	if err := h.v.Ready(); err != nil {
		t.Errorf("Ready with room again = %v", err)
	}
	if got := h.send(h.good()); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
	var outcomes []string
	for _, r := range h.records() {
		outcomes = append(outcomes, r.Outcome+" "+r.Reason)
	}
	if got := strings.Join(outcomes, ","); got != "allow ,deny audit,deny audit,allow " {
		t.Errorf("records %s", got)
	}
}

// TestUnkeptRecordsAreBounded: refusals go on while the audit is broken, and so do
// their records, but memory ends.
func TestUnkeptRecordsAreBounded(t *testing.T) {
	full, err := audit.Open(audit.Config{Path: "/dev/full", Now: time.Now})
	if err != nil {
		t.Logf("not tested: %v", err)
		return
	}
	defer full.Close()
	h := newHouse(t, func(c *verifier.Config) { c.Audit = full })
	const most, more = 4096, 3
	for range most + more {
		if w := record(h.v.Handler(), newRequest("GET", "/v1/models", "", "x")); w.Code != 401 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if err, want := h.v.Ready(), fmt.Sprintf("%d records wait, %d are lost", most, more); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Ready = %v, want %s", err, want)
	}
	makeRoom(t, "/dev/full", h.path)
	if err := h.v.Ready(); err != nil {
		t.Errorf("Ready with room again = %v", err)
	}
	if n := len(h.records()); n != most {
		t.Errorf("%d records, want %d", n, most)
	}
	if !strings.Contains(h.logs.String(), fmt.Sprintf("the audit is kept again\" lost=%d", more)) {
		t.Error("the log does not say what was lost")
	}
}

// makeRoom puts the file at path in the place of one that the process has open.
func makeRoom(t *testing.T, open, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if to, _ := os.Readlink(link); to != open {
			continue
		}
		var fd int
		if _, err := fmt.Sscan(filepath.Base(link), &fd); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Dup3(int(f.Fd()), fd, syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAuditToTheLog(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Audit = nil })
	if got := h.send(h.good()); got.status != 200 {
		t.Fatal(got)
	}
	if log := h.logs.String(); strings.Count(log, "corp:ada") != 1 || !strings.Contains(log, "small") {
		t.Errorf("logs: %s", log)
	}
}

func TestOps(t *testing.T) {
	ready := &serve.Readiness{Checks: []serve.Check{{Name: "x", Err: func() error { return nil }}}}
	ops := verifier.Ops(ready, http.NotFoundHandler(), nil)
	for _, row := range []struct {
		method, path string
		status       int
	}{{"GET", "/livez", 200}, {"GET", "/readyz", 200}, {"POST", "/livez", 405}, {"GET", "/metrics", 404}, {"POST", "/metrics", 405}, {"GET", "/v1/models", 404}, {"GET", "//livez", 404}} {
		if w := record(ops, newRequest(row.method, "http://x"+row.path, "", "")); w.Code != row.status || w.Header().Get("Location") != "" {
			t.Errorf("%s %s = %d", row.method, row.path, w.Code)
		}
	}
	ready.Drain()
	if w := record(ops, newRequest("GET", "/readyz", "", "")); w.Code != 503 {
		t.Errorf("draining: %d", w.Code)
	}
}

func TestConfigRefused(t *testing.T) {
	good := func() verifier.Config {
		return verifier.Config{Issuers: []verifier.Issuer{{URL: "i", Audience: "a", Keys: newKeys()}}, Upstreams: []verifier.Upstream{{Name: "u", URL: "http://u", Models: []string{"m"}}}}
	}
	if _, err := verifier.New(good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*verifier.Config){
		"no issuer":              func(c *verifier.Config) { c.Issuers = nil },
		"an issuer twice":        func(c *verifier.Config) { c.Issuers = append(c.Issuers, c.Issuers[0]) },
		"an issuer without URL":  func(c *verifier.Config) { c.Issuers[0].URL = "" },
		"no audience":            func(c *verifier.Config) { c.Issuers[0].Audience = "" },
		"no keys":                func(c *verifier.Config) { c.Issuers[0].Keys = nil },
		"negative skew":          func(c *verifier.Config) { c.Skew = -1 },
		"negative bound":         func(c *verifier.Config) { c.MaxBody = -1 },
		"negative time for body": func(c *verifier.Config) { c.BodyTimeout = -1 },
		"a cache that forgets":   func(c *verifier.Config) { c.CacheTTL = -1 },
		"negative cache":         func(c *verifier.Config) { c.CacheSize = -1 },
		"a cache that believes":  func(c *verifier.Config) { c.CacheTTL = time.Minute + 1 },
		"no name":                func(c *verifier.Config) { c.Upstreams[0].Name = "" },
		"no models":              func(c *verifier.Config) { c.Upstreams[0].Models = nil },
		"a bad model":            func(c *verifier.Config) { c.Upstreams[0].Models = []string{"m*"} },
		"a model twice":          func(c *verifier.Config) { c.Upstreams[0].Models = []string{"m", "m"} },
		"a pattern twice":        func(c *verifier.Config) { c.Upstreams[0].Models = []string{"m/*", "m/*"} },
		"a name twice": func(c *verifier.Config) {
			c.Upstreams = append(c.Upstreams, verifier.Upstream{Name: "u", URL: "http://u", Models: []string{"x"}})
		},
		"no URL":                   func(c *verifier.Config) { c.Upstreams[0].URL = "" },
		"a bad URL":                func(c *verifier.Config) { c.Upstreams[0].URL = "http://[" },
		"a URL of files":           func(c *verifier.Config) { c.Upstreams[0].URL = "file:///etc" },
		"a URL with a user":        func(c *verifier.Config) { c.Upstreams[0].URL = "http://a:b@u" },
		"a URL with a query":       func(c *verifier.Config) { c.Upstreams[0].URL = "http://u?a=b" },
		"a URL that climbs":        func(c *verifier.Config) { c.Upstreams[0].URL = "http://u/a/../b" },
		"a URL of mail":            func(c *verifier.Config) { c.Upstreams[0].URL = "ftp://u" },
		"a URL without a host":     func(c *verifier.Config) { c.Upstreams[0].URL = "http://:80" },
		"a URL with a fragment":    func(c *verifier.Config) { c.Upstreams[0].URL = "http://u#a" },
		"a URL with an escape":     func(c *verifier.Config) { c.Upstreams[0].URL = "http://u/%61" },
		"a URL with /v1":           func(c *verifier.Config) { c.Upstreams[0].URL = "http://u/v1/" },
		"a credential of ours":     func(c *verifier.Config) { c.Upstreams[0].Header = "content-type" },
		"a header that is none":    func(c *verifier.Config) { c.Upstreams[0].Header = "a b" },
		"a credential that splits": func(c *verifier.Config) { c.Upstreams[0].Credential = "a\r\nb: c" },
		"a credential with DEL":    func(c *verifier.Config) { c.Upstreams[0].Credential = "a\x7f" },
		"a credential in Latin":    func(c *verifier.Config) { c.Upstreams[0].Credential = "\u00e9" },
		"a negative wait":          func(c *verifier.Config) { c.Upstreams[0].ResponseTimeout = -1 },
		"a negative timeout":       func(c *verifier.Config) { c.Upstreams[0].IdleTimeout = -1 },
	} {
		c := good()
		spoil(&c)
		if _, err := verifier.New(c); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	for _, name := range []string{
		"Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Connection", "TE", "Trailer", "Upgrade", "Accept", "Accept-Encoding", "Expect",
		"User-Agent", "X-Request-Id", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host",
		"X-Forwarded-Proto", ":a", "a_b", "a:b", "a/b", "a@b", "a[b", "a`b", "a{b", "a\u00e9", "a\r\nb",
	} {
		for _, name := range []string{name, strings.ToLower(name)} {
			c := good()
			c.Upstreams[0].Header = name
			if _, err := verifier.New(c); err == nil {
				t.Errorf("a credential in %q is accepted", name)
			}
		}
	}
	for name, change := range map[string]func(*verifier.Config){
		"https":               func(c *verifier.Config) { c.Upstreams[0].URL = "https://u:8443/base/" },
		"a cache of a minute": func(c *verifier.Config) { c.CacheTTL = time.Minute },
		"another header":      func(c *verifier.Config) { c.Upstreams[0].Header, c.Upstreams[0].Credential = "AZ-az-09", " ~" },
		"no upstream":         func(c *verifier.Config) { c.Upstreams = nil },
	} {
		c := good()
		change(&c)
		if _, err := verifier.New(c); err != nil {
			t.Errorf("%s: New = %v", name, err)
		}
	}
	_, err := verifier.New(verifier.Config{Issuers: []verifier.Issuer{{}}, Upstreams: []verifier.Upstream{{Name: "u", URL: "x", Models: []string{"*", "*"}}}})
	for _, want := range []string{"issuer", "audience", "key set", "URL"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(…) = %v, want all at once, %s too", err, want)
		}
	}
}

// TestDefaults: what is required is enough, by the clock on the wall and with
// nobody listening to the log.
func TestDefaults(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) {
		*c = verifier.Config{Issuers: c.Issuers, Upstreams: c.Upstreams}
	})
	r := h.good()
	now := time.Now().Truncate(time.Second)
	r.header.Set("Authorization", "Bearer "+h.keys.token(func(c *token.Claims) { c.IssuedAt, c.NotBefore, c.Expires = now, now, now.Add(time.Hour) }))
	if got := h.send(r); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
	h.answer(reply(500, "text/html", "<html>"))
	if got := h.send(r); got.status != 502 {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := h.send(h.good()); got.status != 401 {
		t.Errorf("a token of another time: %d %s", got.status, got.body)
	}
	if err := h.v.Ready(); err != nil {
		t.Errorf("Ready = %v", err)
	}
}

// TestSecretsStayOut: a marshalled or printed Config is a mistake of somebody
// else's; ours is that New's errors never hold a credential.
func TestSecretsStayOut(t *testing.T) {
	_, err := verifier.New(verifier.Config{Upstreams: []verifier.Upstream{{Name: "u", URL: "http://user:hunter2@u", Models: []string{"m"}, Credential: "sk-secret\n"}}})
	if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "sk-secret") {
		t.Errorf("New = %v", err)
	}
	if _, err := json.Marshal(err.Error()); err != nil {
		t.Error(err)
	}
}
