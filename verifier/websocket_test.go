package verifier_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier"
)

// live is a house whose model server speaks WebSocket: it says back what it hears.
type live struct {
	*house
	dialled atomic.Int64
	heard   chan string
	header  chan http.Header
	gone    chan error // How the client's side ended, to the upstream.
}

func newLive(t *testing.T, edits ...func(*verifier.Config)) *live {
	l := &live{heard: make(chan string, 16), header: make(chan http.Header, 4), gone: make(chan error, 4)}
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.dialled.Add(1)
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"realtime"}})
		if err != nil {
			return
		}
		conn.SetReadLimit(1 << 20)
		header := r.Header.Clone()
		header.Set("Target", r.RequestURI)
		l.header <- header
		for {
			kind, message, err := conn.Read(context.Background())
			if err != nil {
				l.gone <- err
				return
			}
			l.heard <- string(message)
			switch {
			case strings.Contains(string(message), "die"):
				_ = conn.CloseNow()
				return
			case strings.Contains(string(message), "leave"):
				_ = conn.Close(4321, "as you like")
				return
			}
			_ = conn.Write(context.Background(), kind, message)
		}
	}))
	t.Cleanup(up.Close)
	l.house = newHouse(t, append([]func(*verifier.Config){func(c *verifier.Config) { c.Upstreams[0].URL = up.URL }}, edits...)...)
	return l
}

func (l *live) dial(t *testing.T, target, bearer string, edits ...func(*websocket.DialOptions)) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	o := &websocket.DialOptions{HTTPHeader: http.Header{}}
	if bearer != "" {
		o.HTTPHeader.Set("Authorization", "Bearer "+bearer)
	}
	for _, edit := range edits {
		edit(o)
	}
	conn, res, err := websocket.Dial(ctx, l.url+target, o)
	if err == nil {
		t.Cleanup(func() { _ = conn.CloseNow() })
	}
	return conn, res, err
}

// upstreamEnds waits for the end of the upstream's side.
func (l *live) upstreamEnds(t *testing.T) {
	t.Helper()
	select {
	case err := <-l.gone:
		if err == nil {
			t.Error("it ended without an error, as no connection does")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the upstream's side does not end")
	}
}

func (l *live) say(t *testing.T, conn *websocket.Conn, text string) {
	t.Helper()
	if err := conn.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, conn *websocket.Conn) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, message, err := conn.Read(ctx)
	return string(message), err
}

// refusedWith waits for the message and the close frame of a refusal.
func refusedWith(t *testing.T, conn *websocket.Conn, code string, status websocket.StatusCode) {
	t.Helper()
	text, err := hear(t, conn)
	if err != nil || !strings.HasPrefix(text, `{"type":"error","error":{`) || !strings.Contains(text, `"code":"`+code+`"`) {
		t.Errorf("%s, %v, want an error with code %s", text, err, code)
	}
	_, err = hear(t, conn)
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != status || !strings.HasPrefix(closed.Reason, code+", decision ") {
		t.Errorf("%v, want %d %s", err, status, code)
	}
}

// await returns the records once there are so many: no server waits for sockets.
func (l *live) await(n int) []audit.Record {
	l.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if r := l.records(); len(r) == n {
			return r
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("there are not %d records: %+v", n, l.records())
		}
	}
}

const realtime = "/v1/realtime?model=small"

func TestRealtime(t *testing.T) {
	l := newLive(t)
	bearer := l.keys.token(scoped("realtime:small"))
	conn, res, err := l.dial(t, realtime, bearer, func(o *websocket.DialOptions) {
		o.Subprotocols = []string{"realtime", "evil"}
		o.HTTPHeader.Set("X-Forwarded-User", "root")
		o.HTTPHeader.Set("Cookie", "a=b")
		o.CompressionMode = websocket.CompressionContextTakeover
	})
	if err != nil {
		t.Fatal(err)
	}
	if conn.Subprotocol() != "realtime" || res.Header.Get("Sec-Websocket-Extensions") != "" || res.Header.Get("X-Request-Id") == "" {
		t.Errorf("subprotocol %q, headers %v", conn.Subprotocol(), res.Header)
	}
	h := <-l.header
	if h.Get("Target") != realtime || h.Get("Authorization") != upstreamCredential || h.Get("Cookie") != "" || h.Get("X-Forwarded-User") != "" ||
		h.Get("Sec-Websocket-Protocol") != "realtime" || strings.Contains(h.Get("Origin"), "x") {
		t.Errorf("the upstream got %v", h)
	}
	for said, want := range map[string]string{
		`{"type":"input_audio_buffer.append","audio":"AAAA"}`:              `{"type":"input_audio_buffer.append","audio":"AAAA"}`,
		` { "t\u0079pe" : "session.update", "session": {"model":"small"}}`: `{"type":"session.update","session":{"model":"small"}}`,
	} {
		l.say(t, conn, said)
		if got := <-l.heard; got != want {
			t.Errorf("the upstream heard %s, want %s", got, want)
		}
		if got, err := hear(t, conn); got != want || err != nil {
			t.Errorf("the client heard %s, %v", got, err)
		}
	}
	if err := conn.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Error(err)
	}
	var closed websocket.CloseError
	if err := <-l.gone; !errors.As(err, &closed) || closed.Code != websocket.StatusNormalClosure || closed.Reason != "bye" {
		t.Errorf("the upstream's side ended with %v", err)
	}
	if r := l.await(1); r[0].Outcome != "allow" || r[0].Status != 101 || r[0].Reason != "" || r[0].Model != "small" || r[0].Action != "realtime" || r[0].Bytes < 50 || r[0].Upstream != "toy" {
		t.Errorf("records %+v", r)
	}
}

// TestRealtimeRefused: before the upgrade, and without a word to the upstream.
func TestRealtimeRefused(t *testing.T) {
	l := newLive(t)
	good := l.keys.token(scoped("realtime:small"))
	for _, row := range []struct {
		name, target, bearer string
		edit                 func(*websocket.DialOptions)
		status               int
	}{
		{"no token", realtime, "", func(*websocket.DialOptions) {}, 401},
		{"another action", realtime, l.keys.token(scoped("chat:small")), func(*websocket.DialOptions) {}, 403},
		{"another model", "/v1/realtime?model=large", good, func(*websocket.DialOptions) {}, 403},
		{"no model", "/v1/realtime", good, func(*websocket.DialOptions) {}, 400},
		{"two models", realtime + "&model=large", good, func(*websocket.DialOptions) {}, 400},
		{"a model with an escape", "/v1/realtime?model=sm%61ll", good, func(*websocket.DialOptions) {}, 400},
		{"a key in the query", realtime + "&key=x", good, func(*websocket.DialOptions) {}, 400},
		{"bounds that can't be kept", realtime, l.keys.token(func(c *token.Claims) {
			scoped("realtime:small")(c)
			c.Params = token.Params{Bounds: map[string]token.Range{"max_tokens": {Max: 5}}}
		}), func(*websocket.DialOptions) {}, 403},
		{"another host's page", realtime, good, func(o *websocket.DialOptions) { o.HTTPHeader.Set("Origin", "https://evil.example") }, 403},
		{"no page at all", realtime, good, func(o *websocket.DialOptions) { o.HTTPHeader.Set("Origin", "null") }, 403},
		{"two tokens", realtime, good, func(o *websocket.DialOptions) {
			o.Subprotocols = []string{"realtime", "openai-insecure-api-key." + l.keys.token(scoped("realtime:large"))}
		}, 401},
		{"a route without sockets", "/v1/models", good, func(*websocket.DialOptions) {}, 400},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, res, err := l.dial(t, row.target, row.bearer, row.edit)
			if err == nil || res == nil || res.StatusCode != row.status {
				t.Errorf("%v, %v, want %d", res, err, row.status)
			}
		})
	}
	if n := l.dialled.Load(); n > 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
	for name, head := range map[string]string{
		"no upgrade":       "",
		"another protocol": "Connection: Upgrade\r\nUpgrade: h2c\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n",
		"two protocols":    "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n",
		"no connection":    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n",
		"an old version":   "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n",
		"no key":           "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
		"a short key":      "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n",
		"a body":           "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nContent-Length: 4\r\n",
	} {
		got := l.raw("GET " + realtime + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + good + "\r\n" + head + "\r\nGET ")
		if got.status != 400 {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	if n := l.dialled.Load(); n > 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// TestTokenAmongSubprotocols: pages in browsers can't set headers.
func TestTokenAmongSubprotocols(t *testing.T) {
	l := newLive(t)
	conn, _, err := l.dial(t, realtime, "", func(o *websocket.DialOptions) {
		o.Subprotocols = []string{"realtime", "openai-insecure-api-key." + l.keys.token(scoped("realtime:small")), "openai-beta.realtime-v1"}
	})
	if err != nil {
		t.Fatal(err)
	}
	if h := <-l.header; h.Get("Sec-Websocket-Protocol") != "realtime,openai-beta.realtime-v1" {
		t.Errorf("the upstream got %q", h["Sec-Websocket-Protocol"])
	}
	if conn.Subprotocol() != "realtime" {
		t.Errorf("the client got %q", conn.Subprotocol())
	}
}

// TestMessagesRefused: the upstream hears nothing of a message that could mean
// another model.
func TestMessagesRefused(t *testing.T) {
	l := newLive(t)
	for name, row := range map[string]struct{ message, code string }{
		"another model":            {`{"type":"session.update","session":{"model":"large"}}`, "invalid_parameter"},
		"a model twice":            {`{"type":"session.update","session":{"model":"small","model":"large"}}`, "invalid_body"},
		"a name that folds":        {`{"type":"session.update","session":{"Model":"large"}}`, "invalid_parameter"},
		"a model for transcripts":  {`{"type":"session.update","session":{"input_audio_transcription":{"model":"large"}}}`, "invalid_parameter"},
		"transcripts, newer":       {`{"type":"session.update","session":{"audio":{"input":{"transcription":{"model":"large"}}}}}`, "invalid_parameter"},
		"another one for a tool":   {`{"type":"session.update","session":{"tools":[{"type":"image","model":"large"}]}}`, "invalid_parameter"},
		"a stored prompt":          {`{"type":"response.create","response":{"prompt":{"id":"p"}}}`, "invalid_parameter"},
		"no JSON":                  {`hello`, "invalid_body"},
		"two documents":            {`{"type":"a"}{"type":"b"}`, "invalid_body"},
		"another model at the top": {`{"type":"x","model":"large"}`, "invalid_parameter"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, _, err := l.dial(t, realtime, l.keys.token(scoped("realtime:small")))
			if err != nil {
				t.Fatal(err)
			}
			<-l.header
			l.say(t, conn, row.message)
			refusedWith(t, conn, row.code, websocket.StatusPolicyViolation)
			l.upstreamEnds(t)
			if len(l.heard) > 0 {
				t.Errorf("the upstream heard %s", <-l.heard)
			}
		})
	}
	conn, _, err := l.dial(t, realtime, l.keys.token(scoped("realtime:small")))
	if err != nil {
		t.Fatal(err)
	}
	<-l.header
	if err := conn.Write(t.Context(), websocket.MessageBinary, []byte(`{"type":"a"}`)); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, conn, "unsupported_media_type", websocket.StatusPolicyViolation)
}

// TestModelInTheFirstMessage: the upstream is not asked before the model is known
// and allowed.
func TestModelInTheFirstMessage(t *testing.T) {
	l := newLive(t)
	bearer := l.keys.token(scoped("responses:small"))
	conn, _, err := l.dial(t, "/v1/responses", bearer)
	if err != nil {
		t.Fatal(err)
	}
	if l.dialled.Load() > 0 {
		t.Error("the upstream was asked before the first message")
	}
	const first = `{"type":"response.create","model":"small","input":"hi"}`
	l.say(t, conn, first)
	if got, err := hear(t, conn); got != first || err != nil {
		t.Fatalf("%s, %v", got, err)
	}
	l.say(t, conn, `{"type":"response.create","model":"large","input":"hi"}`)
	refusedWith(t, conn, "invalid_parameter", websocket.StatusPolicyViolation)

	for message, code := range map[string]string{
		`{"type":"response.create","model":"large"}`:                               "insufficient_scope",
		`{"type":"response.create"}`:                                               "missing_model",
		`{"type":"response.create","model":"small","previous_response_id":"resp"}`: "invalid_parameter",
		`{"type":"response.create","model":"bad name"}`:                            "insufficient_scope",
	} {
		before := l.dialled.Load()
		conn, _, err := l.dial(t, "/v1/responses", bearer)
		if err != nil {
			t.Fatal(err)
		}
		l.say(t, conn, message)
		refusedWith(t, conn, code, websocket.StatusPolicyViolation)
		if l.dialled.Load() != before {
			t.Errorf("%s: the upstream was asked", message)
		}
	}
}

// TestSocketEnds: with its token, with either side, and with the verifier.
func TestSocketEnds(t *testing.T) {
	t.Run("when the token expires", func(t *testing.T) {
		l := newLive(t)
		l.almostExpired(100 * time.Millisecond) // Configuration says nothing of cutting.
		bearer := l.keys.token(func(c *token.Claims) {
			scoped("realtime:small")(c)
			c.IssuedAt, c.NotBefore, c.Expires = noon, noon, noon.Add(30*time.Minute)
		})
		conn, _, err := l.dial(t, realtime, bearer)
		if err != nil {
			t.Fatal(err)
		}
		refusedWith(t, conn, "token_expired", websocket.StatusPolicyViolation)
		l.upstreamEnds(t)
	})
	t.Run("when the token is revoked", func(t *testing.T) {
		c := &clock{}
		p := newPublisher(t, document(1, c.now()))
		r, err := verifier.NewRevocations(verifier.RevocationsConfig{URL: p.URL + "/revocations", Issuer: "https://issuer.test", Verify: verifySigned, Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Pull(t.Context()); err != nil {
			t.Fatal(err)
		}
		l := newLive(t, func(conf *verifier.Config) { conf.Issuers[0].Revocations = r })
		conn, _, err := l.dial(t, realtime, l.keys.token(scoped("realtime:small")))
		if err != nil {
			t.Fatal(err)
		}
		p.publish(t, document(2, c.now(), "jti-1"))
		if err := r.Pull(t.Context()); err != nil {
			t.Fatal(err)
		}
		refusedWith(t, conn, "invalid_token", websocket.StatusPolicyViolation)
	})
	t.Run("when the upstream closes", func(t *testing.T) {
		l := newLive(t)
		conn, _, err := l.dial(t, realtime, l.keys.token(scoped("realtime:small")))
		if err != nil {
			t.Fatal(err)
		}
		l.say(t, conn, `{"type":"leave"}`)
		_, err = hear(t, conn)
		var closed websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != 4321 || closed.Reason != "as you like" {
			t.Errorf("%v", err)
		}
	})
	t.Run("when the upstream dies", func(t *testing.T) {
		l := newLive(t)
		conn, _, err := l.dial(t, realtime, l.keys.token(scoped("realtime:small")))
		if err != nil {
			t.Fatal(err)
		}
		l.say(t, conn, `{"type":"die"}`)
		refusedWith(t, conn, "upstream_error", websocket.StatusInternalError)
		if r := l.await(1); r[0].Reason != "upstream_died" {
			t.Errorf("record %+v", r[0])
		}
	})
	t.Run("when the client dies", func(t *testing.T) {
		l := newLive(t)
		conn, _, err := l.dial(t, realtime, l.keys.token(scoped("realtime:small")))
		if err != nil {
			t.Fatal(err)
		}
		<-l.header
		_ = conn.CloseNow()
		began := time.Now()
		if l.upstreamEnds(t); time.Since(began) > time.Second {
			t.Errorf("the upstream's side was open %v after the client died", time.Since(began))
		}
	})
	t.Run("when the verifier stops", func(t *testing.T) {
		l := newLive(t)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.v.Run(ctx) }()
		conn, _, err := l.dial(t, realtime, l.keys.token(scoped("realtime:small")))
		if err != nil {
			t.Fatal(err)
		}
		stop()
		refusedWith(t, conn, "restarting", websocket.StatusServiceRestart)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if r := l.records(); len(r) != 1 || r[0].Reason != "draining" {
			t.Errorf("records %+v", r)
		}
	})
	t.Run("when the upstream can't be reached", func(t *testing.T) {
		dead, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		dead.Close()
		l := newLive(t, func(c *verifier.Config) { c.Upstreams[0].URL = "http://" + dead.Addr().String() })
		_, res, err := l.dial(t, realtime, l.keys.token(scoped("realtime:small")))
		if err == nil || res == nil || res.StatusCode != 502 {
			t.Errorf("%v, %v", res, err)
		}
	})
}

// TestNoSocketElsewhere: where frames would pass unjudged, there are none.
func TestNoSocketElsewhere(t *testing.T) {
	l := newLive(t)
	authz, err := l.v.Authz("toy")
	if err != nil {
		t.Fatal(err)
	}
	for name, handler := range map[string]http.Handler{
		"middleware": l.v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it is let through") })),
		"authz":      authz,
	} {
		r := newRequest("GET", realtime, "", l.keys.token(scoped("realtime:small")))
		r.Body = nil
		for h, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg=="} {
			r.Header.Set(h, v)
		}
		if w := record(handler, r); w.Code != 400 {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

// TestLongMessages: sound comes in long messages, and endless ones do not.
func TestLongMessages(t *testing.T) {
	l := newLive(t)
	conn, _, err := l.dial(t, realtime, l.keys.token(scoped("realtime:small")))
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(-1)
	long := `{"type":"input_audio_buffer.append","audio":"` + strings.Repeat("A", 100<<10) + `"}`
	l.say(t, conn, long)
	if got, err := hear(t, conn); got != long || err != nil {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	_ = conn.Write(t.Context(), websocket.MessageText, []byte(`{"type":"`+strings.Repeat("A", 17<<20)+`"}`)) // It may end within.
	l.upstreamEnds(t)
	if <-l.heard; len(l.heard) > 0 {
		t.Error("the upstream heard the endless one")
	}
}

// TestSocketOfAnotherServer: a server of a kind that has no sockets gets none.
func TestSocketOfAnotherServer(t *testing.T) {
	l := newLive(t, func(c *verifier.Config) { c.Upstreams[0].API = "anthropic" })
	_, res, err := l.dial(t, realtime, l.keys.token(scoped("realtime:small")))
	if err == nil || res == nil || res.StatusCode != 404 || l.dialled.Load() > 0 {
		t.Errorf("%v, %v", res, err)
	}
}

// TestSocketIsNotSentElsewhere: where an upstream sends us was not judged.
func TestSocketIsNotSentElsewhere(t *testing.T) {
	var asked atomic.Int64
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	t.Cleanup(up.Close)
	l := newLive(t, func(c *verifier.Config) { c.Upstreams[0].URL = up.URL })
	_, res, err := l.dial(t, realtime, l.keys.token(scoped("realtime:small")))
	if err == nil || res == nil || res.StatusCode != 502 || res.Header.Get("Location") != "" || asked.Load() != 1 {
		t.Errorf("%v, %v, asked %d times", res, err, asked.Load())
	}
}
