package verifier_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/verifier"
)

// noon is when most tests take place.
var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// clock is a wall clock that goes when told to.
type clock struct{ atomic.Int64 }

func (c *clock) now() time.Time       { return noon.Add(time.Minute + time.Duration(c.Load())) }
func (c *clock) pass(d time.Duration) { c.Add(int64(d)) }

// arrival is a request as an upstream got it.
type arrival struct {
	method, target, host string
	header               http.Header
	body                 string
}

// house is a verifier with a model server behind it.
type house struct {
	t        testing.TB
	keys     *keys
	clock    *clock
	v        *verifier.Verifier
	url      string
	upstream string // Its URL.
	srv      *httptest.Server
	logs     *logs
	path     string // Of the audit log.
	audit    *audit.Log

	mu       sync.Mutex
	arrivals []arrival
	model    http.HandlerFunc // What the model server answers.
}

const upstreamCredential = "Bearer sk-upstream"

func newHouse(t testing.TB, edits ...func(*verifier.Config)) *house {
	t.Helper()
	h := &house{t: t, keys: newKeys(), clock: &clock{}, logs: &logs{}, path: filepath.Join(t.TempDir(), "audit.jsonl")}
	h.model = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"object":"chat.completion"}`)
	}
	up := httptest.NewServer(http.HandlerFunc(h.arrive))
	t.Cleanup(up.Close)
	h.upstream = up.URL
	var err error
	if h.audit, err = audit.Open(audit.Config{Path: h.path, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	c := verifier.Config{
		Issuers: []verifier.Issuer{{URL: "https://issuer.test", Audience: "models", Keys: h.keys}}, Audit: h.audit, Now: h.clock.now,
		Log:       slog.New(slog.NewTextHandler(h.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Upstreams: []verifier.Upstream{{Name: "toy", URL: up.URL, Models: []string{"*"}, Credential: upstreamCredential}},
	}
	for _, edit := range edits {
		edit(&c)
	}
	if h.v, err = verifier.New(c); err != nil {
		t.Fatal(err)
	}
	h.serve(h.v.Handler())
	t.Cleanup(func() {
		h.srv.Close()
		if err := h.audit.Close(); err != nil {
			t.Error(err)
		}
		h.noSecrets()
	})
	return h
}

// in makes the subtest the one that fails.
func (h *house) in(t testing.TB) {
	parent := h.t
	h.t = t
	t.Cleanup(func() { h.t = parent })
}

func (h *house) serve(handler http.Handler) {
	if h.srv != nil {
		h.srv.Close()
	}
	h.srv = httptest.NewServer(handler)
	h.url = h.srv.URL
}

func (h *house) arrive(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	h.arrivals = append(h.arrivals, arrival{r.Method, r.RequestURI, r.Host, r.Header.Clone(), string(body)})
	answer := h.model
	h.mu.Unlock()
	answer(w, r)
}

func (h *house) answer(model http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.model = model
}

// arrived returns what came to the upstream since it was last called.
func (h *house) arrived() []arrival {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.arrivals
	h.arrivals = nil
	return list
}

// records returns the audit records so far.
func (h *house) records() []audit.Record {
	h.t.Helper()
	list, err := audit.Read(h.path)
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

// noSecrets: neither tokens nor credentials are in logs and records. Every token
// of a test begins alike.
func (h *house) noSecrets() {
	records, _ := os.ReadFile(h.path)
	for _, secret := range []string{base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256"`))[:16], "sk-upstream"} {
		for where, text := range map[string]string{"logs": h.logs.String(), "audit": string(records)} {
			if strings.Contains(text, secret) {
				h.t.Errorf("%s hold %q:\n%s", where, secret, text)
			}
		}
	}
}

// request is a call to be spoiled.
type request struct {
	method, target string
	header         http.Header
	body           string
}

func (h *house) good() request {
	return request{
		method: "POST", target: "/v1/chat/completions",
		header: http.Header{"Authorization": {"Bearer " + h.keys.token()}, "Content-Type": {"application/json"}},
		body:   `{"model":"small","messages":[]}`,
	}
}

// response is an answer, read to its end.
type response struct {
	status int
	header http.Header
	body   string
	err    error // Of reading the body.
	closes bool  // It is the connection's last.
}

func (h *house) send(r request) response {
	h.t.Helper()
	req, err := http.NewRequest(r.method, h.url, strings.NewReader(r.body))
	if err != nil {
		h.t.Fatal(err)
	}
	if r.body == "" {
		req.Body = nil
	}
	req.URL.Opaque = r.target // Sent as it is.
	if strings.HasPrefix(r.target, "//") {
		req.URL.Opaque = h.url + r.target
	}
	req.Header = r.header
	res, err := noCompression.RoundTrip(req)
	if err != nil {
		return response{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return response{res.StatusCode, res.Header, string(body), err, res.Close}
}

var noCompression = &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}

// failure is an error in OpenAI's dialect.
type failure struct {
	Message  string
	Type     string
	Code     string
	Param    *string
	Decision string `json:"decision_id"`
}

func (r response) failure(t testing.TB) failure {
	t.Helper()
	var body struct{ Error *failure }
	dec := json.NewDecoder(strings.NewReader(r.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil || body.Error == nil {
		t.Fatalf("not an error in OpenAI's dialect: %d %q", r.status, r.body)
	}
	return *body.Error
}

// refused checks that r is refused with status and code, is written down once
// with reason, and that no upstream saw anything of it.
func (h *house) refused(r request, status int, code, reason string) response {
	h.t.Helper()
	before := len(h.records())
	got := h.send(r)
	if got.err != nil || got.status != status {
		h.t.Fatalf("%s %s = %d %s %v, want %d", r.method, r.target, got.status, got.body, got.err, status)
	}
	f := got.failure(h.t)
	if want := errorType(status); f.Code != code || f.Message == "" || f.Type != want || f.Param != nil {
		h.t.Errorf("%s %s = %+v, want code %s, type %s", r.method, r.target, f, code, want)
	}
	for _, values := range r.header {
		for _, v := range values {
			if _, tok, _ := strings.Cut(v, "."); len(tok) > 40 && strings.Contains(got.body+fmt.Sprint(got.header), tok) {
				h.t.Errorf("%s %s = %s %v, with the credential in it", r.method, r.target, got.body, got.header)
			}
		}
	}
	if f.Decision == "" || f.Decision != got.header.Get("X-Request-Id") {
		h.t.Errorf("decision %q, X-Request-Id %q, want them alike", f.Decision, got.header.Get("X-Request-Id"))
	}
	if arrived := h.arrived(); len(arrived) != 0 {
		h.t.Errorf("the upstream got %+v", arrived)
	}
	h.denied(before, f.Decision, status, reason)
	if got.header.Get("Location") != "" || got.header.Get("Content-Type") != "application/json" || got.header.Get("Cache-Control") != "no-store" ||
		got.header.Get("X-Content-Type-Options") != "nosniff" || (got.header["Allow"] != nil) != (status == 405) {
		h.t.Errorf("a refusal with headers %v", got.header)
	}
	return got
}

func errorType(status int) string {
	switch {
	case status >= 500:
		return "server_error"
	case status == 401:
		return "authentication_error"
	case status == 403:
		return "permission_error"
	case status == 402:
		return "insufficient_quota"
	case status == 429:
		return "rate_limit_error"
	}
	return "invalid_request_error"
}

func (h *house) denied(before int, decision string, status int, reason string) {
	h.t.Helper()
	records := h.records()[before:]
	if len(records) != 1 {
		h.t.Fatalf("%d records of one request: %+v", len(records), records)
	}
	r := records[0]
	if r.Event != "call" || r.Outcome != audit.Deny || r.Reason != reason || r.Status != status || r.Decision != decision {
		h.t.Errorf("record %+v, want deny, reason %s, status %d, decision %s", r, reason, status, decision)
	}
}

// raw sends bytes on a connection of their own and returns the first answer, or
// status 0 if the connection was closed without one.
func (h *house) raw(bytes string) response {
	h.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, bytes); err != nil {
		h.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return response{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return response{res.StatusCode, res.Header, string(body), err, res.Close}
}

// logs collect what the verifier logs.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newRequest is a request that was never on a wire.
func newRequest(method, target, body, tok string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+tok)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

func record(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
