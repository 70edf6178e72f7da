package verifier_test

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hourpass/hourpass/verifier"
)

// TestNothingIsExecutedTwice: a connection that dies after it took a call may
// have executed it, even if the client calls it idempotent.
func TestNothingIsExecutedTwice(t *testing.T) {
	h := newHouse(t)
	if r := h.send(h.good()); r.status != http.StatusOK { // Opens the connection that the next one uses.
		t.Fatalf("a good call: %d %s", r.status, r.body)
	}
	var executed atomic.Int64
	h.answer(func(w http.ResponseWriter, _ *http.Request) {
		executed.Add(1)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		conn.Close()
	})
	bad := h.good()
	bad.header.Set("Idempotency-Key", "k")
	bad.header.Set("X-Idempotency-Key", "k")
	if r := h.send(bad); r.status != http.StatusBadGateway {
		t.Errorf("a call whose connection died: %d %s, want 502", r.status, r.body)
	}
	if n := executed.Load(); n != 1 {
		t.Errorf("it was executed %d times, want once", n)
	}
}

// roundTrip is a connection to nowhere.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestUnsentCallsCanBeSentAgain: the transport can have the body anew, for an
// idle connection that was closed before a byte went out.
func TestUnsentCallsCanBeSentAgain(t *testing.T) {
	var first, again string
	h := newHouse(t, func(c *verifier.Config) {
		c.Upstreams[0].Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			for _, into := range []*string{&first, &again} {
				b, err := io.ReadAll(r.Body)
				if err != nil {
					return nil, err
				}
				*into = string(b)
				if r.Body, err = r.GetBody(); err != nil {
					return nil, err
				}
			}
			return &http.Response{
				StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader("{}")), Request: r,
			}, nil
		})
	})
	if r := h.send(h.good()); r.status != http.StatusOK || first != h.good().body || again != first {
		t.Errorf("%d %s: the upstream got %q, then %q", r.status, r.body, first, again)
	}
}
