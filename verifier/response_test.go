package verifier_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourpass/hourpass/verifier"
)

func TestUpstreamDoesNotAnswer(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Upstreams[0].ResponseTimeout = 30 * time.Millisecond })
	gone := make(chan struct{})
	h.answer(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(gone)
	})
	got := h.send(h.good())
	if got.status != 504 || got.failure(t).Code != "upstream_timeout" {
		t.Errorf("%d %s", got.status, got.body)
	}
	<-gone
	if r := h.records(); len(r) != 1 || r[0].Reason != "upstream_slow" || r[0].Outcome != "allow" || r[0].Status != 504 || r[0].Upstream != "toy" {
		t.Errorf("records %+v", r)
	}
}

// lateBody gives one event, and another when it is too late.
type lateBody struct {
	ctx  context.Context
	read int
}

func (b *lateBody) Read(p []byte) (int, error) {
	b.read++
	switch b.read {
	case 1:
		return copy(p, "data: 1\n\n"), nil
	case 2:
		<-b.ctx.Done()
		return copy(p, "data: 2\n\n"), nil
	}
	return copy(p, "data: 3\n\n"), nil
}

func (b *lateBody) Close() error { return nil }

// TestTooLateIsTooLate: an answer that comes in the moment in which its time is up
// is no answer.
func TestTooLateIsTooLate(t *testing.T) {
	head := func(r *http.Request, body io.ReadCloser) *http.Response {
		return &http.Response{StatusCode: 200, ContentLength: -1, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body, Request: r}
	}
	h := newHouse(t, func(c *verifier.Config) {
		c.Upstreams[0].ResponseTimeout = 20 * time.Millisecond
		c.Upstreams[0].Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return head(r, io.NopCloser(strings.NewReader("data: 1\n\n"))), nil
		})
	})
	if got := h.send(h.good()); got.status != 504 || got.failure(t).Code != "upstream_timeout" {
		t.Errorf("a late head: %d %s", got.status, got.body)
	}
	h = newHouse(t, func(c *verifier.Config) {
		c.Upstreams[0].IdleTimeout = 20 * time.Millisecond
		c.Upstreams[0].Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			return head(r, &lateBody{ctx: r.Context()}), nil
		})
	})
	got := h.send(h.good())
	if got.err != nil || !strings.HasPrefix(got.body, "data: 1\n\ndata: 2\n\ndata: {\"error\":") || !strings.Contains(got.body, "upstream_timeout") {
		t.Errorf("a late event: %q, %v", got.body, got.err)
	}
}

func TestUpstreamUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // Nobody listens there now.
	h := newHouse(t, func(c *verifier.Config) { c.Upstreams[0].URL = "http://" + l.Addr().String() })
	got := h.send(h.good())
	if got.status != 502 || got.failure(t).Code != "upstream_error" || strings.Contains(got.body, l.Addr().String()) {
		t.Errorf("%d %s", got.status, got.body)
	}
	r := h.records()
	if len(r) != 1 || r[0].Reason != "upstream" || r[0].Status != 502 {
		t.Fatalf("records %+v", r)
	}
	// What the client is not told, the operator is.
	for _, want := range []string{"level=WARN", "decision=" + r[0].Decision, `route="POST /v1/chat/completions"`, "upstream=toy", "connection refused"} {
		if !strings.Contains(h.logs.String(), want) {
			t.Errorf("%q is missing in the logs: %s", want, h.logs)
		}
	}
	logged := len(h.logs.String())
	bad := h.good()
	bad.body = "{}"
	h.refused(bad, 400, "missing_model", "no_model")
	if more := h.logs.String()[logged:]; more != "" {
		t.Errorf("a client's mistake is logged: %s", more)
	}
}

// TestNoProxyOfTheEnvironment: it would be shown the credential. net/http looks
// at the environment once in a process, so this takes a process of its own.
func TestNoProxyOfTheEnvironment(t *testing.T) {
	if os.Getenv("HOURPASS_TEST_PROXIED") == "" {
		var asked atomic.Int64
		proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
		defer proxy.Close()
		again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNoProxyOfTheEnvironment$")
		again.Env = append(os.Environ(), "HOURPASS_TEST_PROXIED=1", "HTTP_PROXY="+proxy.URL, "NO_PROXY=")
		if out, err := again.CombinedOutput(); err != nil || asked.Load() > 0 {
			t.Errorf("the proxy was asked %d times; %v, %s", asked.Load(), err, out)
		}
		return
	}
	h := newHouse(t, func(c *verifier.Config) {
		c.Upstreams[0].URL = "http://192.0.2.1" // For documentation (RFC 5737): nobody is there.
		c.Upstreams[0].ResponseTimeout = 300 * time.Millisecond
	})
	if got := h.send(h.good()); got.status != 502 && got.status != 504 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// TestNeverSentTwice: a POST whose connection dies may have been paid for.
func TestNeverSentTwice(t *testing.T) {
	h := newHouse(t)
	if got := h.send(h.good()); got.status != 200 { // So that there is a connection to use again.
		t.Fatal(got)
	}
	h.arrived()
	h.answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	r := h.good()
	r.header.Set("Idempotency-Key", "x")
	if got := h.send(r); got.status != 502 {
		t.Errorf("%d %s", got.status, got.body)
	}
	if a := h.arrived(); len(a) != 1 {
		t.Errorf("the upstream was asked %d times", len(a))
	}
}

func TestResponse(t *testing.T) {
	h := newHouse(t)
	for _, row := range []struct {
		name   string
		answer http.HandlerFunc
		status int
		code   string
	}{
		{"401 of its own", reply(401, "application/json", `{"error":"bad key sk-upstream"}`), 502, "upstream_error"},
		{"403 of its own", reply(403, "application/json", `{}`), 502, "upstream_error"},
		{"402 of its own", reply(402, "application/json", `{}`), 502, "upstream_error"},
		{"407", reply(407, "application/json", `{}`), 502, "upstream_error"},
		{"a redirect", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://internal/")
			reply(307, "application/json", "{}")(w, nil)
		}, 502, "upstream_error"},
		{"300", reply(300, "application/json", "{}"), 502, "upstream_error"},
		{"304", reply(304, "", ""), 502, "upstream_error"},
		{"HTML", reply(200, "text/html", "<html>"), 502, "upstream_error"},
		{"an error in HTML", reply(500, "text/html", "<html>"), 502, "upstream_error"},
		{"no type", reply(200, "", ""), 502, "upstream_error"},
		{"another protocol", func(w http.ResponseWriter, _ *http.Request) {
			conn, rw, _ := http.NewResponseController(w).Hijack()
			_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Type: application/json\r\n\r\n")
			_ = rw.Flush()
			conn.Close()
		}, 502, "upstream_error"},
		{"a coding unasked", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			reply(200, "application/json", "{}")(w, nil)
		}, 502, "upstream_error"},
		{"a coding behind identity", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Encoding"] = []string{"identity", "gzip"}
			reply(200, "application/json", "{}")(w, nil)
		}, 502, "upstream_error"},
		{"two types", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{"application/json", "text/html"}
			_, _ = io.WriteString(w, "<html>")
		}, 502, "upstream_error"},
		{"a megabyte of headers", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-A", strings.Repeat("a", 1<<20))
			reply(200, "application/json", "{}")(w, nil)
		}, 502, "upstream_error"},
		{"its own 400", reply(400, "application/json", `{"error":{}}`), 400, ""},
		{"its own refusal", reply(429, "application/json", `{"error":{"code":"rate"}}`), 429, ""},
		{"its own trouble", reply(503, "application/json; charset=utf-8", `{"error":{}}`), 503, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.in(t)
			h.answer(row.answer)
			got := h.send(h.good())
			if got.status != row.status {
				t.Fatalf("%d %s %v, want %d", got.status, got.body, got.err, row.status)
			}
			if row.code != "" && got.failure(t).Code != row.code {
				t.Errorf("%s, want %s", got.body, row.code)
			}
			if strings.Contains(got.body, "html") || strings.Contains(got.body, "internal") || strings.Contains(got.body, "sk-upstream") {
				t.Errorf("the answer holds the upstream's words: %s", got.body)
			}
		})
	}
	if a := len(h.arrived()); a != 18 {
		t.Errorf("the upstream was asked %d times", a)
	}
	for _, r := range h.records() {
		if r.Outcome != "allow" || r.UpstreamStatus == 200 && r.Status == 200 {
			t.Errorf("record %+v", r)
		}
	}
}

func reply(status int, media, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil
		if media != "" {
			w.Header().Set("Content-Type", media)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestResponseHeaders(t *testing.T) {
	h := newHouse(t)
	h.answer(func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range []string{
			"Set-Cookie", "Server", "Www-Authenticate", "Location", "X-Auth-Subject", "Access-Control-Allow-Origin", "X-Request-Id", "Openai-Organization",
			"X-Ratelimit-Remaining-Requests", "Via", "Alt-Svc", "Strict-Transport-Security", "X-Should-Retry", "Link", "Refresh", "Clear-Site-Data", "X-Powered-By",
		} {
			w.Header().Set(name, "evil")
		}
		w.Header().Set("Link", "evil")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Retry-After", "7")
		w.Header().Set("Retry-After-Ms", "7100")
		w.Header().Set("Cache-Control", "private")
		w.Header().Set("Trailer", "X-Announced")
		w.WriteHeader(429)
		_, _ = io.WriteString(w, "{}")
		w.Header().Set("X-Announced", "evil")
		w.Header().Set(http.TrailerPrefix+"X-Unannounced", "evil")
	})
	r := h.good()
	raw := "POST " + r.target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTE: trailers\r\nContent-Type: application/json\r\nAuthorization: " + r.header.Get("Authorization") + "\r\nContent-Length: 17\r\n\r\n{\"model\":\"small\"}"
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, raw)
	whole, err := io.ReadAll(bufio.NewReader(conn))
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	if strings.Contains(string(whole), "evil") || strings.Contains(string(whole), "103") || strings.Contains(string(whole), "Trailer") || !strings.HasPrefix(string(whole), "HTTP/1.1 429 ") {
		t.Errorf("the client got %s", whole)
	}
	for _, want := range []string{"Retry-After: 7\r\n", "Retry-After-Ms: 7100\r\n", "\r\nCache-Control: private\r\n", "X-Content-Type-Options: nosniff\r\n", "X-Request-Id: " + h.records()[0].Decision + "\r\n"} {
		if !strings.Contains(string(whole), want) {
			t.Errorf("%q is missing in %s", want, whole)
		}
	}
}

// TestDoubtfulHeaders: what stands twice is not passed on, and what is not said is
// said for the upstream.
func TestDoubtfulHeaders(t *testing.T) {
	h := newHouse(t)
	h.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Retry-After"] = []string{"7", "8"}
		w.Header()["Cache-Control"] = []string{"private", "public"}
		reply(200, "application/json", "{}")(w, r)
	})
	got := h.send(h.good())
	if cache := got.header["Cache-Control"]; got.status != 200 || got.header["Retry-After"] != nil || len(cache) != 1 || cache[0] != "no-store" {
		t.Errorf("%d %v", got.status, got.header)
	}
}

// TestRecordOfTheTime: a call lasts until its answer is given.
func TestRecordOfTheTime(t *testing.T) {
	h := newHouse(t)
	h.answer(func(w http.ResponseWriter, r *http.Request) {
		h.clock.pass(1500 * time.Millisecond)
		reply(200, "application/json", "{}")(w, r)
	})
	h.send(h.good())
	if r := h.records(); len(r) != 1 || r[0].Millis != 1500 || !r[0].Time.Equal(noon.Add(time.Minute)) {
		t.Errorf("records %+v", r)
	}
}

// TestLargeAnswer: what has a length is passed on whole, not gathered.
func TestLargeAnswer(t *testing.T) {
	h := newHouse(t)
	const size = 64 << 20
	h.answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", fmt.Sprint(size))
		piece := make([]byte, 1<<20)
		for range size / len(piece) {
			_, _ = w.Write(piece)
		}
	})
	res := h.open(t.Context(), h.good())
	n, err := io.Copy(io.Discard, res.Body)
	if n != size || err != nil || res.ContentLength != size {
		t.Errorf("%d bytes, %v, length %d", n, err, res.ContentLength)
	}
}
