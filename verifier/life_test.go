package verifier_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier"
)

// ending is how a stream that was cut ends: with the code of the last event.
func ending(t *testing.T, stream string) string {
	t.Helper()
	events := strings.Split(strings.TrimSuffix(stream, "\n\n"), "\n\n")
	var last struct{ Error struct{ Code string } }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(events[len(events)-1], "data: ")), &last); err != nil {
		t.Fatalf("the stream %q ends with no event of JSON: %v", stream, err)
	}
	return last.Error.Code
}

// almostExpired is a call whose token has not long to live, by a clock that goes
// when told to.
func (h *house) almostExpired(left time.Duration) request {
	r := h.good()
	r.header.Set("Authorization", "Bearer "+h.keys.token(func(c *token.Claims) {
		c.IssuedAt, c.NotBefore, c.Expires = noon, noon, noon.Add(30*time.Minute)
	}))
	h.clock.pass(30*time.Minute - left - h.clock.now().Sub(noon))
	return r
}

func TestStreamOutlivesItsToken(t *testing.T) {
	const left = 50 * time.Millisecond
	for _, row := range []struct {
		name    string
		streams verifier.Streams
		code    string
		reason  string
	}{
		{"may finish", verifier.Streams{}, "", ""},
		{"is cut", verifier.Streams{CutExpired: true}, "token_expired", "cut_expired"},
		{"is too old before", verifier.Streams{CutExpired: true, MaxAge: left / 2}, "answer_too_long", "too_old"},
		{"is too old after", verifier.Streams{MaxAge: left}, "answer_too_long", "too_old"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newHouse(t, func(c *verifier.Config) { c.Streams = row.streams })
			h.answer(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, "data: 1\n\n")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done(): // It is cut.
				case <-time.After(4 * left):
					_, _ = io.WriteString(w, "data: [DONE]\n\n")
				}
			})
			res := h.open(t.Context(), h.almostExpired(left))
			got, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			h.settle()
			if rec := h.records()[0]; rec.Outcome != "allow" || rec.Reason != row.reason {
				t.Errorf("record %+v", rec)
			}
			if row.code == "" {
				if string(got) != "data: 1\n\ndata: [DONE]\n\n" {
					t.Errorf("the stream is %q", got)
				}
				return
			}
			if code := ending(t, string(got)); code != row.code {
				t.Errorf("it ends with %s, want %s", code, row.code)
			}
		})
	}
}

// TestCutBeforeTheAnswer: who waits for the head of an answer hears as well.
func TestCutBeforeTheAnswer(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Streams.CutExpired = true })
	h.answer(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	got := h.send(h.almostExpired(30 * time.Millisecond))
	if got.status != 401 || got.failure(t).Code != "token_expired" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// TestHalfAnAnswerIsCut: of an answer that is no stream, the connection ends:
// half of it must not look whole.
func TestHalfAnAnswerIsCut(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Streams.CutExpired = true })
	h.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"half":`)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	got := h.send(h.almostExpired(30 * time.Millisecond))
	if got.status != 200 || got.err == nil {
		t.Errorf("%d %q, %v", got.status, got.body, got.err)
	}
}

func TestStreamOfARevokedToken(t *testing.T) {
	for _, cut := range []bool{false, true} {
		t.Run(map[bool]string{false: "may finish", true: "is cut"}[cut], func(t *testing.T) {
			c := &clock{}
			p := newPublisher(t, document(1, c.now()))
			r, err := verifier.NewRevocations(verifier.RevocationsConfig{URL: p.URL + "/revocations", Issuer: "https://issuer.test", Verify: verifySigned, Now: c.now})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Pull(t.Context()); err != nil {
				t.Fatal(err)
			}
			h := newHouse(t, func(conf *verifier.Config) { conf.Issuers[0].Revocations, conf.Streams.CutRevoked = r, cut })
			pieces := make(chan string)
			h.streams(pieces)
			mine, other := h.open(t.Context(), h.good()), h.good()
			other.header.Set("Authorization", "Bearer "+h.keys.token(func(c *token.Claims) { c.ID = "jti-2" }))
			others := h.open(t.Context(), other)
			pieces <- "data: 1\n\n"
			pieces <- "data: 1\n\n"
			p.publish(t, document(2, c.now(), "jti-1"))
			if err := r.Pull(t.Context()); err != nil {
				t.Fatal(err)
			}
			if cut {
				got, err := io.ReadAll(mine.Body)
				if err != nil || ending(t, string(got)) != "invalid_token" {
					t.Errorf("%q, %v", got, err)
				}
			}
			close(pieces)
			for _, res := range []*http.Response{mine, others} {
				if got, err := io.ReadAll(res.Body); err != nil || strings.Contains(string(got), "error") {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
}

// TestRevokedWhileJudged: what is revoked between the judgement of a call and its
// start is cut too.
func TestRevokedWhileJudged(t *testing.T) {
	c := &clock{}
	p := newPublisher(t, document(1, c.now()))
	r, err := verifier.NewRevocations(verifier.RevocationsConfig{URL: p.URL + "/revocations", Issuer: "https://issuer.test", Verify: verifySigned, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Pull(t.Context()); err != nil {
		t.Fatal(err)
	}
	asked := 0
	h := newHouse(t, func(conf *verifier.Config) {
		conf.Issuers[0].Revocations, conf.Streams = r, verifier.Streams{CutRevoked: true, CutExpired: true}
		conf.Now = func() time.Time {
			if asked++; asked == 2 { // When it begins to limit the call's life.
				p.publish(t, document(2, c.now(), "jti-1"))
				if err := r.Pull(t.Context()); err != nil {
					t.Error(err)
				}
			}
			return c.now()
		}
	})
	h.answer(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if got := h.send(h.good()); got.status != 401 || got.failure(t).Code != "invalid_token" || asked < 3 {
		t.Errorf("%d %s, asked for the time %d times", got.status, got.body, asked)
	}
}

// TestKeepAlive: comments come while the model server thinks; what it says then
// is passed on as ever, and an error of its own becomes an event.
func TestKeepAlive(t *testing.T) {
	const heard = ": keep-alive\n\n"
	for _, row := range []struct {
		name, body string
		then       http.HandlerFunc
		want       string // After the comments; of an error its code.
		status     int
	}{
		{"a stream", `{"model":"small","stream":true}`, reply(200, "text/event-stream", "data: 1\n\ndata: [DONE]\n\n"), "data: 1\n\ndata: [DONE]\n\n", 200},
		{"an error", `{"model":"small","stream":true}`, reply(400, "application/json", "{\"error\":\r\n {\"code\":\"context_length_exceeded\"}}"), "context_length_exceeded", 200},
		{"an error in HTML", `{"model":"small","stream":true}`, reply(500, "text/html", "<html>"), "upstream_error", 200},
		{"its credential is bad", `{"model":"small","stream":true}`, reply(401, "application/json", `{"error":{"code":"sk-bad"}}`), "upstream_error", 200},
		{"it dies", `{"model":"small","stream":true}`, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "upstream_error", 200},
		{"no stream", `{"model":"small"}`, reply(200, "application/json", `{}`), "{}", 200},
		{"no stream, an error", `{"model":"small","stream":false}`, reply(429, "application/json", `{}`), "{}", 429},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newHouse(t, func(c *verifier.Config) { c.Streams.KeepAlive = 5 * time.Millisecond })
			released := make(chan struct{})
			h.answer(func(w http.ResponseWriter, r *http.Request) {
				<-released
				row.then(w, r)
			})
			r := h.good()
			r.body = row.body
			if !strings.Contains(row.body, "true") {
				time.AfterFunc(30*time.Millisecond, func() { close(released) })
				if got := h.send(r); got.status != row.status || got.body != row.want {
					t.Errorf("%d %q", got.status, got.body)
				}
				return
			}
			res := h.open(t.Context(), r)
			two := make([]byte, 2*len(heard))
			if _, err := io.ReadFull(res.Body, two); err != nil || string(two) != heard+heard || res.Header.Get("Content-Type") != "text/event-stream" {
				t.Fatalf("%q %v, %v", two, res.Header, err)
			}
			close(released)
			rest, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(string(rest), heard, "")
			if strings.Contains(row.want, "data:") && got != row.want || !strings.Contains(row.want, "data:") && ending(t, got) != row.want {
				t.Errorf("then came %q", got)
			}
			h.settle()
			if rec := h.records()[0]; rec.Status != 200 || rec.Bytes != int64(len(two)+len(rest)) {
				t.Errorf("record %+v of %d bytes", rec, len(two)+len(rest))
			}
		})
	}
}

// TestClientLeavesDuringComments: nobody is kept alive who is gone.
func TestClientLeavesDuringComments(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Streams.KeepAlive = time.Millisecond })
	gone := make(chan struct{})
	h.answer(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(gone)
	})
	r := h.good()
	r.body = `{"model":"small","stream":true}`
	res := h.open(t.Context(), r)
	if _, err := io.ReadFull(res.Body, make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	res.Body.Close()
	select {
	case <-gone:
	case <-time.After(time.Second):
		t.Error("the upstream goes on a second after the client left")
	}
}
