package remote_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/ledger/remote"
)

// serve is an issuer, as far as it keeps a ledger.
func serve(t *testing.T, engine ledger.Engine) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, secret, ok := r.BasicAuth()
		if !ok || secret != "hpk_"+id {
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		err := remote.Serve(w, r, engine, id)
		if errors.Is(err, ledger.ErrClaim) {
			http.Error(w, "bad", http.StatusBadRequest)
		} else if err != nil {
			http.Error(w, "broken", http.StatusInternalServerError)
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}

func claims(spent int64) []ledger.Claim {
	return []ledger.Claim{
		{Account: "b", Ends: time.Now().Add(time.Hour).Truncate(time.Second), Limit: 100, Spent: spent, Need: 10, Want: 10}, {Account: "a", Limit: 5, Need: 1, Want: 1},
	}
}

func TestClient(t *testing.T) {
	memory := ledger.NewMemory(nil)
	srv := serve(t, memory)
	one, two := &remote.Client{URL: srv.URL, KeyID: "one", Key: "hpk_one"}, &remote.Client{URL: srv.URL, KeyID: "two", Key: "hpk_two"}
	for range 2 {
		shares, err := one.Sync(t.Context(), "v", time.Minute, claims(30))
		if err != nil || len(shares) != 2 || shares[0] != (ledger.Share{Hold: 10, Spent: 30}) || shares[1] != (ledger.Share{Hold: 1}) {
			t.Fatalf("Sync = %+v, %v", shares, err)
		}
	}
	// Another verifier's holder of that name is another.
	shares, err := two.Sync(t.Context(), "v", time.Minute, claims(30))
	if err != nil || shares[0] != (ledger.Share{Hold: 10, Spent: 60, Held: 10}) {
		t.Errorf("Sync of another = %+v, %v", shares, err)
	}
}

func TestClientFails(t *testing.T) {
	srv := serve(t, ledger.NewMemory(nil))
	for name, c := range map[string]*remote.Client{
		"a wrong key":  {URL: srv.URL, KeyID: "one", Key: "hpk_two"},
		"nobody there": {URL: "http://127.0.0.1:1", KeyID: "one", Key: "hpk_one"},
	} {
		if _, err := c.Sync(t.Context(), "v", time.Minute, claims(1)); err == nil || strings.Contains(err.Error(), "hpk_") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, answer := range map[string]string{
		"too few":         `{"shares":[{"hold":1,"spent":0,"held":0}]}`,
		"less than none":  `{"shares":[{"hold":-1,"spent":0,"held":0},{"hold":1,"spent":0,"held":0}]}`,
		"something else":  `{"shares":[],"x":1}`,
		"more than that":  `{"shares":[{"hold":1,"spent":0,"held":0},{"hold":1,"spent":0,"held":0}]}{}`,
		"no JSON":         `hello`,
		"more than bound": `{"shares":[` + strings.Repeat(" ", remote.MaxBytes) + `]}`,
	} {
		liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
		if shares, err := (&remote.Client{URL: liar.URL, KeyID: "one", Key: "k"}).Sync(t.Context(), "v", time.Minute, claims(1)); err == nil {
			t.Errorf("%s: %+v", name, shares)
		}
		liar.Close()
	}
	away := httptest.NewServer(http.RedirectHandler(srv.URL, http.StatusTemporaryRedirect))
	defer away.Close()
	if _, err := (&remote.Client{URL: away.URL, KeyID: "one", Key: "hpk_one"}).Sync(t.Context(), "v", time.Minute, claims(1)); err == nil {
		t.Error("a redirect is followed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (&remote.Client{URL: srv.URL, KeyID: "one", Key: "hpk_one"}).Sync(ctx, "v", time.Minute, claims(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("a question that was called off: %v", err)
	}
}

func TestServeRefuses(t *testing.T) {
	srv := serve(t, ledger.NewMemory(nil))
	for name, body := range map[string]string{
		"no JSON":         `hello`,
		"no holder":       `{"holder":"","lease_ms":1000,"claims":[]}`,
		"a long lease":    `{"holder":"v","lease_ms":9223372036854775807,"claims":[]}`,
		"no lease":        `{"holder":"v","lease_ms":0,"claims":[]}`,
		"another member":  `{"holder":"v","lease_ms":1000,"claims":[],"x":1}`,
		"something after": `{"holder":"v","lease_ms":1000,"claims":[]} {}`,
		"a bad claim":     `{"holder":"v","lease_ms":1000,"claims":[{"account":"a","limit":-1,"spent":0,"need":0,"want":0}]}`,
		"too much":        `{"holder":"` + strings.Repeat("v", remote.MaxBytes) + `"}`,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("one", "hpk_one")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", name, res.Status)
		}
	}
}
