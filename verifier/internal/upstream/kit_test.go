package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

// clock is a wall clock that goes when told to.
type clock struct{ atomic.Int64 }

func (c *clock) now() time.Time {
	return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).Add(time.Duration(c.Load()))
}
func (c *clock) pass(d time.Duration) { c.Add(int64(d)) }

// logs is what an operator sees.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// newServer makes one upstream.
func newServer(t testing.TB, c upstream.Config) *upstream.Server {
	t.Helper()
	if c.Name == "" {
		c.Name = "llm"
	}
	if c.Models == nil {
		c.Models = []string{"*"}
	}
	set, err := upstream.NewSet([]upstream.Config{c})
	if err != nil {
		t.Fatal(err)
	}
	return set.All[0]
}

func post(ctx context.Context, body string) *http.Request {
	r := (&http.Request{
		Method: "POST", URL: &url.URL{Path: "/v1/chat/completions", RawQuery: "a=b"}, Header: http.Header{"Content-Type": {"application/json"}},
		ContentLength: int64(len(body)),
	}).WithContext(ctx)
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
	r.Body, _ = r.GetBody()
	return r
}

// send sends a call and returns the status and body of the answer.
func send(t testing.TB, s *upstream.Server) (int, string, error) {
	t.Helper()
	res, err := s.RoundTrip(post(t.Context(), `{"model":"small"}`))
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

var errDial = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}

// fleet is replicas a, b, … without sockets.
type fleet struct {
	t      testing.TB
	clock  clock
	logs   logs
	server *upstream.Server

	mu   sync.Mutex
	does map[string]func(*http.Request) (int, error) // What one does, by its host. Nothing: it answers 200.
	got  []string                                    // Who was asked, in order.
}

func newFleet(t testing.TB, hosts ...string) *fleet {
	f := &fleet{t: t, does: map[string]func(*http.Request) (int, error){}}
	c := upstream.Config{Transport: f, Now: f.clock.now, Log: f.logs.logger(), Health: "/health"}
	for _, h := range hosts {
		c.URLs = append(c.URLs, "http://"+h+"/base")
	}
	f.server = newServer(t, c)
	return f
}

func (f *fleet) let(host string, status int, err error) {
	f.lets(host, func(*http.Request) (int, error) { return status, err })
}

func (f *fleet) lets(host string, does func(*http.Request) (int, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.does[host] = does
}

func (f *fleet) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	f.got = append(f.got, r.URL.Host)
	does := f.does[r.URL.Host]
	f.mu.Unlock()
	if r.Body != nil {
		b, err := io.ReadAll(r.Body)
		if err != nil || string(b) != `{"model":"small"}` {
			f.t.Errorf("%s got the body %q, %v", r.URL.Host, b, err)
		}
		if r.URL.Path != "/base/v1/chat/completions" || r.URL.RawQuery != "a=b" || r.Host != r.URL.Host {
			f.t.Errorf("%s got %s %s", r.URL.Host, r.Host, r.URL)
		}
		r.Body.Close()
		r.Body = used{}
	}
	status := 200
	if does != nil {
		var err error
		if status, err = does(r); err != nil {
			return nil, err
		}
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(r.URL.Host)), Request: r}, nil
}

// used is a body that was sent.
type used struct{}

func (used) Read([]byte) (int, error) { return 0, errors.New("reading a closed body") }
func (used) Close() error             { return nil }

// asked sends n calls and returns who was asked, in order, with what the last
// came to.
func (f *fleet) asked(n int) (string, int, error) {
	f.t.Helper()
	f.mu.Lock()
	f.got = nil
	f.mu.Unlock()
	var status int
	var err error
	for range n {
		status, _, err = send(f.t, f.server)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.got, ""), status, err
}

// sends sends n calls, whatever they come to.
func (f *fleet) sends(n int) { _, _, _ = f.asked(n) }

func (f *fleet) want(n int, asked string, why string) {
	f.t.Helper()
	if got, _, _ := f.asked(n); got != asked {
		f.t.Errorf("%s: asked %q, want %q", why, got, asked)
	}
}
