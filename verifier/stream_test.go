package verifier_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourpass/hourpass/verifier"
)

// open starts a call and returns its answer, the body still to be read.
func (h *house) open(ctx context.Context, r request) *http.Response {
	h.t.Helper()
	req, err := http.NewRequestWithContext(ctx, r.method, h.url+r.target, strings.NewReader(r.body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header = r.header
	res, err := noCompression.RoundTrip(req)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { res.Body.Close() })
	return res
}

// streams makes the model server answer with a stream of events, in pieces that
// come when the test says so.
func (h *house) streams(pieces <-chan string) {
	h.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case piece, ok := <-pieces:
				switch {
				case !ok:
					return
				case piece == "die":
					panic(http.ErrAbortHandler)
				}
				_, _ = io.WriteString(w, piece)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
}

// settle waits until all calls have ended, records and all.
func (h *house) settle() {
	h.srv.Close()
	h.serve(h.v.Handler())
}

func TestStreamComesPieceByPiece(t *testing.T) {
	h := newHouse(t)
	pieces := make(chan string)
	h.streams(pieces)
	res := h.open(t.Context(), h.good()) // The head comes before any event.
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" {
		t.Fatal(res.Status, res.Header)
	}
	for _, piece := range []string{
		"data: {\"a\":", "1}\n\n", ": comment\r\n\r\n", "event: x\rdata: 1\rdata: 2\r\r", "data: \xff\x00\n", "\n", "data: " + strings.Repeat("x", 1<<20) + "\n\n", "data: [DONE]",
	} {
		pieces <- piece
		got := make([]byte, len(piece))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != piece {
			t.Fatalf("got %.40q, %v, want %.40q", got, err, piece)
		}
	}
	close(pieces)
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
		t.Errorf("the end is %q, %v", rest, err)
	}
	h.settle()
	if r := h.records(); len(r) != 1 || r[0].Outcome != "allow" || r[0].Reason != "" || r[0].Bytes < 1<<20 {
		t.Errorf("records %+v", r)
	}
}

const brokenOff = `data: {"error":{"message":"The model server broke off its answer.","type":"server_error","code":"upstream_error","param":null,"decision_id":"%s"}}` + "\n\n"

func TestUpstreamDiesWithinAStream(t *testing.T) {
	for _, row := range []struct{ name, sent, closing string }{
		{"before the first event", "", ""},
		{"between events", "data: 1\n\n", ""},
		{"between events of CRLF", "data: 1\r\n\r\n", ""},
		{"between events of CR", "data: 1\r\r", ""},
		{"within a line", "data: {\"choi", "\n\n"},
		{"after a line", "data: 1\n", "\n\n"},
		{"within a line end", "data: 1\r", "\n\n"},
		{"within a blank line", "data: 1\r\n\r", "\n\n"},
		{"after one byte", "d", "\n\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newHouse(t)
			pieces := make(chan string, 2)
			h.streams(pieces)
			if row.sent != "" {
				pieces <- row.sent
			}
			res := h.open(t.Context(), h.good())
			sent := make([]byte, len(row.sent))
			if _, err := io.ReadFull(res.Body, sent); err != nil {
				t.Fatal(err)
			}
			pieces <- "die"
			rest, err := io.ReadAll(res.Body)
			want := row.closing + fmt.Sprintf(brokenOff, res.Header.Get("X-Request-Id"))
			if err != nil || string(rest) != want {
				t.Errorf("got %q, %v, want %q", rest, err, want)
			}
			h.settle()
			if r := h.records(); len(r) != 1 || r[0].Outcome != "allow" || r[0].Reason != "upstream_died" || r[0].Status != 200 {
				t.Errorf("records %+v", r)
			}
			if n := len(h.arrived()); n != 1 {
				t.Errorf("the upstream was asked %d times", n)
			}
		})
	}
}

func TestUpstreamDiesWithinAnAnswer(t *testing.T) {
	h := newHouse(t)
	for _, length := range []string{"", "1000"} {
		h.answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			_, _ = io.WriteString(w, `{"half":`)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		if got := h.send(h.good()); got.err == nil {
			t.Errorf("length %q: half an answer looks whole: %d %q", length, got.status, got.body)
		}
	}
	h.settle()
	for _, r := range h.records() {
		if r.Reason != "upstream_died" || r.Outcome != "allow" {
			t.Errorf("record %+v", r)
		}
	}
}

func TestUpstreamFallsSilent(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Upstreams[0].IdleTimeout = 30 * time.Millisecond })
	gone := make(chan struct{}, 2)
	h.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\nda")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		gone <- struct{}{}
	})
	got := h.send(h.good())
	want := "data: 1\n\nda\n\n" + `data: {"error":{"message":"The model server stopped within its answer.","type":"server_error","code":"upstream_timeout","param":null,"decision_id":"` + got.header.Get("X-Request-Id") + `"}}` + "\n\n"
	if got.status != 200 || got.err != nil || got.body != want {
		t.Errorf("%d %q %v, want %q", got.status, got.body, got.err, want)
	}
	<-gone
	if r := h.records(); len(r) != 1 || r[0].Reason != "upstream_idle" {
		t.Errorf("records %+v", r)
	}

	h.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		gone <- struct{}{}
	})
	if got := h.send(h.good()); got.err == nil {
		t.Errorf("an answer without a word ended well: %d %q", got.status, got.body)
	}
	<-gone
}

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
	if r := h.records(); len(r) != 1 || r[0].Reason != "upstream" || r[0].Status != 502 {
		t.Errorf("records %+v", r)
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

func TestClientLeaves(t *testing.T) {
	for _, when := range []string{"before the answer", "within the stream"} {
		t.Run(when, func(t *testing.T) {
			h := newHouse(t)
			came, gone := make(chan struct{}, 2), make(chan struct{})
			h.answer(func(w http.ResponseWriter, r *http.Request) {
				if when != "before the answer" {
					w.Header().Set("Content-Type", "text/event-stream")
					_, _ = io.WriteString(w, "data: 1\n\n")
					_ = http.NewResponseController(w).Flush()
				}
				if when == "before the answer" {
					came <- struct{}{}
				}
				<-r.Context().Done()
				close(gone)
			})
			ctx, cancel := context.WithCancel(t.Context())
			req, _ := http.NewRequestWithContext(ctx, "POST", h.url+"/v1/chat/completions", strings.NewReader(`{"model":"small"}`))
			req.Header = h.good().header
			done := make(chan struct{})
			go func() {
				defer close(done)
				if res, err := noCompression.RoundTrip(req); err == nil {
					_, _ = res.Body.Read(make([]byte, 1))
					came <- struct{}{}
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			}()
			<-came
			cancel()
			select {
			case <-gone:
			case <-time.After(time.Second):
				t.Error("the upstream goes on a second after the client left")
			}
			<-done
			h.settle()
			r := h.records()
			if len(r) != 1 || r[0].Reason != "client_gone" || r[0].Outcome != "allow" || r[0].Status != map[bool]int{true: 499, false: 200}[when == "before the answer"] {
				t.Errorf("records %+v", r)
			}
		})
	}
}

// TestCutShort: a call that somebody in front ends is not answered 200 for want
// of another answer.
func TestCutShort(t *testing.T) {
	h := newHouse(t)
	h.answer(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	h.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 20*time.Millisecond)
		defer cancel()
		h.v.Handler().ServeHTTP(w, r.WithContext(ctx))
	}))
	if got := h.send(h.good()); got.err == nil {
		t.Errorf("%d %q", got.status, got.body)
	}
}

// TestClientStopsReading: a client that takes nothing does not hold its call for
// ever.
func TestClientStopsReading(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Upstreams[0].IdleTimeout = 200 * time.Millisecond })
	gone := make(chan struct{})
	h.answer(func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		w.Header().Set("Content-Type", "text/event-stream")
		event := "data: " + strings.Repeat("x", 32<<10) + "\n\n"
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, event); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
		}
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{\"model\":\"small\"}", h.keys.token())
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal("the upstream still sends")
	}
	h.settle()
	if r := h.records(); len(r) != 1 || r[0].Reason != "client_slow" {
		t.Errorf("records %+v", r)
	}
}

// TestNoStreamIsLost: Go proxies are known to cut some streams of an upstream
// that answers at once.
func TestNoStreamIsLost(t *testing.T) {
	h := newHouse(t)
	const events = "data: {\"n\":1}\n\ndata: {\"n\":2}\n\ndata: [DONE]\n\n"
	h.answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, event := range strings.SplitAfter(events, "\n\n") {
			_, _ = io.WriteString(w, event)
			_ = http.NewResponseController(w).Flush()
		}
	})
	const streams, clients = 2000, 16
	r := h.good()
	var lost atomic.Int64
	var wait sync.WaitGroup
	for range clients {
		wait.Go(func() {
			for range streams / clients {
				if got := h.send(r); got.status != 200 || got.err != nil || got.body != events {
					lost.Add(1)
					t.Logf("%d %q %v", got.status, got.body, got.err)
				}
			}
		})
	}
	wait.Wait()
	if n := lost.Load(); n > 0 {
		t.Errorf("%d of %d streams were lost", n, streams)
	}
	if n := len(h.records()); n != streams {
		t.Errorf("%d records of %d calls", n, streams)
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
		{"a megabyte of headers", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-A", strings.Repeat("a", 1<<20))
			reply(200, "application/json", "{}")(w, nil)
		}, 502, "upstream_error"},
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
	if a := len(h.arrived()); a != 14 {
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
	if strings.Contains(string(whole), "evil") || strings.Contains(string(whole), "103") || !strings.HasPrefix(string(whole), "HTTP/1.1 429 ") {
		t.Errorf("the client got %s", whole)
	}
	for _, want := range []string{"Retry-After: 7\r\n", "Cache-Control: no-store\r\n", "X-Content-Type-Options: nosniff\r\n", "X-Request-Id: " + h.records()[0].Decision + "\r\n"} {
		if !strings.Contains(string(whole), want) {
			t.Errorf("%q is missing in %s", want, whole)
		}
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
