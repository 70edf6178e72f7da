package serve_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/serve"
)

// begin serves h until the returned stop, which returns what Until did.
func begin(t *testing.T, grace time.Duration, draining func(), h http.HandlerFunc) (url string, stop func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- serve.Until(ctx, slog.New(slog.DiscardHandler), grace, draining, serve.Endpoint{Name: "test", Listener: l, Handler: h})
	}()
	return "http://" + l.Addr().String(), func() error { cancel(); return <-done }
}

// TestGrace: a request in flight is finished after the end has begun.
func TestGrace(t *testing.T) {
	inside, drained := make(chan struct{}), make(chan struct{})
	url, stop := begin(t, time.Minute, func() { close(drained) }, func(w http.ResponseWriter, _ *http.Request) {
		close(inside)
		<-drained
		_, _ = io.WriteString(w, "finished")
	})
	body := make(chan string, 1)
	go func() {
		res, err := http.Get(url)
		if err != nil {
			body <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		body <- string(b)
	}()
	<-inside
	if err := stop(); err != nil {
		t.Errorf("Until = %v, want nil", err)
	}
	if got := <-body; got != "finished" {
		t.Errorf("the request in flight got %q", got)
	}
}

// TestCut: what runs longer than the grace is cut, and that too is a clean end.
func TestCut(t *testing.T) {
	inside := make(chan struct{})
	url, stop := begin(t, time.Millisecond, nil, func(_ http.ResponseWriter, r *http.Request) {
		close(inside)
		<-r.Context().Done()
	})
	failed := make(chan error, 1)
	go func() {
		res, err := http.Get(url)
		if err == nil {
			res.Body.Close()
		}
		failed <- err
	}()
	<-inside
	if err := stop(); err != nil {
		t.Errorf("Until = %v, want nil", err)
	}
	if err := <-failed; err == nil {
		t.Error("a request beyond the grace was answered")
	}
}

// TestOneFailsAllEnd: a listener that dies takes the program down with its error.
func TestOneFailsAllEnd(t *testing.T) {
	good, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bad, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bad.Close()
	err = serve.Until(t.Context(), slog.New(slog.DiscardHandler), time.Second, nil,
		serve.Endpoint{Name: "good", Listener: good, Handler: http.NotFoundHandler()},
		serve.Endpoint{Name: "bad", Listener: bad, Handler: http.NotFoundHandler()})
	if err == nil || !strings.Contains(err.Error(), "serving bad") {
		t.Errorf("Until = %v, want it to name the bad listener", err)
	}
}

func TestReadiness(t *testing.T) {
	var trouble error
	r := &serve.Readiness{Checks: []serve.Check{{Name: "store", Err: func() error { return nil }}, {Name: "keys", Err: func() error { return trouble }}}}
	ask := func() (int, string) {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w.Code, w.Body.String()
	}
	if code, body := ask(); code != http.StatusOK || !strings.Contains(body, `"ready":true`) {
		t.Errorf("all well: %d %s", code, body)
	}
	trouble = errors.New("no keys yet")
	if code, body := ask(); code != http.StatusServiceUnavailable || !strings.Contains(body, `"keys":"no keys yet"`) || !strings.Contains(body, `"store":"ok"`) {
		t.Errorf("one check fails: %d %s", code, body)
	}
	trouble = nil
	r.Drain()
	if code, _ := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("while draining: %d, want 503", code)
	}
}

// TestOptionsStar: net/http would answer it by itself.
func TestOptionsStar(t *testing.T) {
	url, stop := begin(t, time.Second, nil, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 418") {
		t.Errorf("OPTIONS * is answered %q, %v, want it to reach the handler", b, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
