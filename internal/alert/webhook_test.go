package alert_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/alert"
)

// secret is that of the examples of Standard Webhooks.
const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

var example = alert.Event{
	ID: "msg_p5jXN8AQM9LWM0D4loKWxJek", Time: start, Kind: alert.KeyQuarantined, Severity: alert.Critical, Text: "A key was found.",
	Reason: "leaked", Key: "k", Owner: "corp:ada",
}

func newWebhook(t *testing.T, c alert.WebhookConfig) *alert.Webhook {
	t.Helper()
	if c.Secret == "" {
		c.Secret = secret
	}
	w, err := alert.NewWebhook(c)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestWebhook: what a receiver gets, to the letter. The signature was made by
// the reference implementation (npm standardwebhooks), not by ours.
func TestWebhook(t *testing.T) {
	var got *http.Request
	var body []byte
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
	}))
	defer srv.Close()
	w := newWebhook(t, alert.WebhookConfig{URL: srv.URL + "/hook?x=1", Client: srv.Client()})
	if err := w.Send(t.Context(), example, start); err != nil {
		t.Fatal(err)
	}
	const want = `{"id":"msg_p5jXN8AQM9LWM0D4loKWxJek","time":"2027-01-15T08:00:00Z","kind":"key.quarantined","severity":"critical",` +
		`"text":"A key was found.","reason":"leaked","key_id":"k","owner":"corp:ada"}`
	if string(body) != want {
		t.Errorf("the body is %s, want %s", body, want)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Webhook-Id": example.ID, "Webhook-Timestamp": "1800000000",
		"Webhook-Signature": "v1,/9QWwW6wzAPAt8BzTeeeBpEHD3zT1EMbJtjE2l4ewiE=",
	} {
		if g := got.Header.Values(name); len(g) != 1 || g[0] != want {
			t.Errorf("%s is %q, want %q", name, g, want)
		}
	}
	if got.Method != http.MethodPost || got.URL.String() != "/hook?x=1" {
		t.Errorf("the request is %s %s", got.Method, got.URL)
	}
	var e alert.Event
	if err := json.Unmarshal(body, &e); err != nil || !reflect.DeepEqual(e, example) {
		t.Errorf("the body reads %+v, %v", e, err)
	}
}

// TestRefusedByReceiver: only 2xx means that it has the event.
func TestRefusedByReceiver(t *testing.T) {
	followed := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // Or it would not see that the client leaves.
		switch r.URL.Path {
		case "/elsewhere":
			followed = true
		case "/redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		case "/500":
			w.WriteHeader(http.StatusInternalServerError)
		case "/304":
			w.WriteHeader(http.StatusNotModified)
		case "/hangs":
			<-r.Context().Done()
		case "/header":
			w.Header().Set("X", strings.Repeat("x", 64<<10))
		case "/closes":
			panic(http.ErrAbortHandler)
		}
	}))
	defer srv.Close()
	for path, want := range map[string]string{
		"/redirect": "answered 307", "/500": "answered 500", "/304": "answered 304", "/hangs": "deadline", "/header": "", "/closes": "",
	} {
		w := newWebhook(t, alert.WebhookConfig{URL: srv.URL + path + "?password", Timeout: 100 * time.Millisecond})
		err := w.Send(t.Context(), example, start)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "password") || strings.Contains(err.Error(), path)) {
			t.Errorf("%s: the error tells the URL: %v", path, err)
		}
	}
	if followed {
		t.Error("a redirect was followed")
	}
	w := newWebhook(t, alert.WebhookConfig{URL: srv.URL + "/hangs"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Send(ctx, example, start); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

// TestEndlessAnswer: an answer is read as far as its bound, and no further.
func TestEndlessAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const plenty = 64 << 20 // Far more than the sockets' buffers hold.
	read := make(chan int, 1)
	go func() {
		n := 0
		defer func() { read <- n }()
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		for err == nil && n < plenty {
			_, err = conn.Write(make([]byte, 4096))
			n += 4096
		}
	}()
	w := newWebhook(t, alert.WebhookConfig{URL: "http://" + l.Addr().String(), Timeout: alert.MaxSending})
	if err := w.Send(t.Context(), example, start); err != nil {
		t.Error(err)
	}
	if n := <-read; n >= plenty {
		t.Errorf("of its answer %d bytes were read", n)
	}
}

func TestWebhookConfig(t *testing.T) {
	key := func(n int) string { return "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for _, c := range []alert.WebhookConfig{
		{URL: "https://example.com/hook?a=b", Secret: key(24)},
		{URL: "https://example.com", Secret: key(64), Timeout: alert.MaxSending},
		{URL: "http://localhost:1/hook", Secret: secret},
		{URL: "http://127.0.0.1:1/", Secret: secret},
		{URL: "http://[::1]:1/", Secret: secret},
	} {
		if _, err := alert.NewWebhook(c); err != nil {
			t.Errorf("NewWebhook(%+v) = %v", c, err)
		}
	}
	good := alert.WebhookConfig{URL: "https://example.com", Secret: secret}
	for why, spoil := range map[string]func(*alert.WebhookConfig){
		"no URL":              func(c *alert.WebhookConfig) { c.URL = "" },
		"a path":              func(c *alert.WebhookConfig) { c.URL = "/hook" },
		"http":                func(c *alert.WebhookConfig) { c.URL = "http://example.com/" },
		"http to a neighbour": func(c *alert.WebhookConfig) { c.URL = "http://10.0.0.1/" },
		"http to a lookalike": func(c *alert.WebhookConfig) { c.URL = "http://localhost.example.com/" },
		"another scheme":      func(c *alert.WebhookConfig) { c.URL = "ftp://example.com/" },
		"a user":              func(c *alert.WebhookConfig) { c.URL = "https://user:password@example.com/" },
		"a fragment":          func(c *alert.WebhookConfig) { c.URL = "https://example.com/#x" },
		"a control":           func(c *alert.WebhookConfig) { c.URL = "https://example.com/password\x00" },
		"no secret":           func(c *alert.WebhookConfig) { c.Secret = "" },
		"a secret of no form": func(c *alert.WebhookConfig) { c.Secret = "a password of twenty-four letters" },
		"a secret unnamed":    func(c *alert.WebhookConfig) { c.Secret = secret[len("whsec_"):] },
		"a short secret":      func(c *alert.WebhookConfig) { c.Secret = key(23) },
		"a long secret":       func(c *alert.WebhookConfig) { c.Secret = key(65) },
		"a negative timeout":  func(c *alert.WebhookConfig) { c.Timeout = -1 },
		"a long timeout":      func(c *alert.WebhookConfig) { c.Timeout = alert.MaxSending + 1 },
	} {
		c := good
		spoil(&c)
		_, err := alert.NewWebhook(c)
		if err == nil {
			t.Errorf("%s: no error", why)
		} else if strings.Contains(err.Error(), "password") {
			t.Errorf("%s: the error tells it: %v", why, err)
		}
	}
}
