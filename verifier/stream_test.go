package verifier_test

import (
	"context"
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

// TestPiecesOfOthers: what is not a stream of events, or has a length, comes piece
// by piece too if it could be waited for.
func TestPiecesOfOthers(t *testing.T) {
	for name, header := range map[string]http.Header{
		"JSON without a length": {"Content-Type": {"application/json"}},
		"events with a length":  {"Content-Type": {"text/event-stream"}, "Content-Length": {"18"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			next := make(chan struct{})
			h.answer(func(w http.ResponseWriter, r *http.Request) {
				for name := range header {
					w.Header()[name] = header[name]
				}
				for range 2 {
					_, _ = io.WriteString(w, "data: 1\n\n")
					_ = http.NewResponseController(w).Flush()
					select {
					case <-next:
					case <-r.Context().Done():
						return
					}
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			res := h.open(ctx, h.good())
			for range 2 {
				if _, err := io.ReadFull(res.Body, make([]byte, 9)); err != nil {
					t.Fatal(err)
				}
				next <- struct{}{}
			}
			if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
				t.Errorf("the end is %q, %v", rest, err)
			}
		})
	}
}

const brokenOff = `data: {"error":{"message":"The model server broke off its answer.","type":"server_error","code":"upstream_error","param":null,"decision_id":"%s"}}` + "\n\n"

func TestUpstreamDiesWithinAStream(t *testing.T) {
	for _, row := range []struct {
		name, sent, closing string
		then                []string // Sent once the client has what was sent before.
	}{
		{"before the first event", "", "", nil},
		{"between events", "data: 1\n\n", "", nil},
		{"between events of CRLF", "data: 1\r\n\r\n", "", nil},
		{"between events of CR", "data: 1\r\r", "", nil},
		{"within a line", "data: {\"choi", "\n\n", nil},
		{"after a line", "data: 1\n", "\n\n", nil},
		{"within a line end", "data: 1\r", "\n\n", nil},
		{"within a blank line", "data: 1\r\n\r", "\n\n", nil},
		{"after one byte", "d", "\n\n", nil},
		{"between events, the blank line by itself", "data: 1\n", "", []string{"\n"}},
		{"between events of CRLF, byte by byte", "data: 1", "", []string{"\r", "\n", "\r", "\n"}},
		{"within a line, byte by byte", "data: 1\n\n", "\n\n", []string{"d", "a", "t", "a"}},
		{"after one byte behind an event", "data: 1\n\n", "\n\n", []string{"d"}},
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
			for _, piece := range row.then {
				pieces <- piece
				if _, err := io.ReadFull(res.Body, make([]byte, len(piece))); err != nil {
					t.Fatal(err)
				}
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

// TestEventsOfALength: a length that was announced does not keep the last event
// out.
func TestEventsOfALength(t *testing.T) {
	h := newHouse(t)
	h.answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "data: 1\n\n"[:7])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	got := h.send(h.good())
	if want := "data: 1\n\n" + fmt.Sprintf(brokenOff, got.header.Get("X-Request-Id")); got.err != nil || got.body != want {
		t.Errorf("%q, %v, want %q", got.body, got.err, want)
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
	_, _ = fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{\"model\":\"small\"}", h.keys.token())
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
	const streams, clients = 10_000, 16
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

// TestLinesBreakOff: a stream of JSON lines that breaks off ends with a line that
// says so.
func TestLinesBreakOff(t *testing.T) {
	for _, sent := range []string{"{\"a\":1}\n", "{\"a\":1}\n{\"half\":", ""} {
		h := newHouse(t, func(c *verifier.Config) { c.Upstreams[0].API = "ollama" })
		h.answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.WriteHeader(http.StatusOK)
			_, _ = io.WriteString(w, sent)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		r := h.good()
		r.target = "/api/chat"
		got := h.send(r)
		lines := strings.Split(strings.TrimSuffix(got.body, "\n"), "\n")
		last := lines[len(lines)-1]
		if got.status != 200 || got.err != nil || !strings.HasPrefix(got.body, sent) || !strings.HasPrefix(last, `{"error":"The model server broke off its answer."`) {
			t.Errorf("after %q: %d %q, %v", sent, got.status, got.body, got.err)
		}
	}
}
