package verifier_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/revocation"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier"
)

// publisher is an issuer of revocations. Its "signature" is a prefix.
type publisher struct {
	*httptest.Server
	answer atomic.Pointer[string]
	status atomic.Int64
	asked  chan string // The query of each question.
	acks   chan string // The body of each acknowledgement.
}

func newPublisher(t *testing.T, d revocation.Document) *publisher {
	p := &publisher{asked: make(chan string, 1000), acks: make(chan string, 100)}
	p.status.Store(http.StatusOK)
	p.publish(t, d)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/revocations/ack" {
			var body struct {
				Name       string
				Generation int64
			}
			user, key, _ := r.BasicAuth()
			if err := json.NewDecoder(r.Body).Decode(&body); err == nil && body.Generation > 0 {
				p.acks <- user + " " + key + " " + body.Name
			}
			w.WriteHeader(http.StatusNoContent)
			return
		}
		p.asked <- r.URL.RawQuery
		w.WriteHeader(int(p.status.Load()))
		_, _ = w.Write([]byte(*p.answer.Load()))
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *publisher) publish(t *testing.T, d revocation.Document) {
	payload, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	signed := "signed " + string(payload)
	p.answer.Store(&signed)
}

func verifySigned(compact string, _ time.Time) ([]byte, error) {
	payload, ok := strings.CutPrefix(compact, "signed ")
	if !ok {
		return nil, token.ErrSignature
	}
	return []byte(payload), nil
}

func document(generation int64, at time.Time, revoked ...string) revocation.Document {
	d := revocation.Document{Issuer: "https://issuer.test", Generation: generation, IssuedAt: at}
	for _, id := range revoked {
		d.Entries = append(d.Entries, revocation.Entry{
			What: revocation.Token, Value: revocation.Hash(revocation.Token, id), NotBefore: at.Add(time.Hour), Until: at.Add(2 * time.Hour),
		})
	}
	return d
}

// TestPull: what is fetched counts, whatever follows that is no better does not.
func TestPull(t *testing.T) {
	c := &clock{}
	p := newPublisher(t, document(1, c.now(), "jti-1"))
	r, err := verifier.NewRevocations(verifier.RevocationsConfig{
		URL: p.URL + "/revocations", Issuer: "https://issuer.test", Verify: verifySigned, Now: c.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	claims := goodClaims()
	revoked := func() (bool, error) { return r.Revoked(&claims, "k1", c.now()) }
	if _, err := revoked(); !errors.Is(err, token.ErrRevocationsStale) {
		t.Errorf("before the first: %v, want ErrRevocationsStale", err)
	}
	pull := func() error { return r.Pull(t.Context()) }
	if err := pull(); err != nil {
		t.Fatal(err)
	}
	if is, err := revoked(); err != nil || !is {
		t.Fatalf("after the first: %v, %v, want it revoked", is, err)
	}
	for why, bad := range map[string]func(){
		"an older generation": func() { p.publish(t, document(0, c.now())) },
		"an older document":   func() { p.publish(t, document(1, c.now().Add(-time.Second))) },
		"from the future":     func() { p.publish(t, document(2, c.now().Add(time.Hour))) },
		"another issuer's":    func() { d := document(2, c.now()); d.Issuer = "https://other.test"; p.publish(t, d) },
		"not signed": func() {
			p.publish(t, document(2, c.now()))
			s := strings.TrimPrefix(*p.answer.Load(), "signed ")
			p.answer.Store(&s)
		},
		"signed, and not a list": func() { s := "signed {}"; p.answer.Store(&s) },
		"too long":               func() { s := "signed " + strings.Repeat(" ", revocation.MaxBytes); p.answer.Store(&s) },
	} {
		bad()
		if err := pull(); err == nil {
			t.Errorf("%s: no error", why)
		}
		if is, err := revoked(); err != nil || !is || r.Generation() != 1 {
			t.Errorf("%s: %v, %v, generation %d, want the first to count on", why, is, err, r.Generation())
		}
	}
	p.publish(t, document(2, c.now()))
	p.status.Store(http.StatusBadGateway)
	if err := pull(); err == nil || r.Generation() != 1 {
		t.Errorf("an error's body counts: %v", err)
	}
	p.status.Store(http.StatusOK)
	if err := pull(); err != nil {
		t.Fatal(err)
	}
	if is, err := revoked(); err != nil || is || r.Generation() != 2 {
		t.Errorf("after the second: %v, %v, generation %d", is, err, r.Generation())
	}
	c.pass(10*time.Minute + time.Second)
	if _, err := r.Revoked(&claims, "k1", c.now()); !errors.Is(err, token.ErrRevocationsStale) {
		t.Errorf("ten minutes later: %v, want ErrRevocationsStale", err)
	}
}

// TestGenerationsCount: a later generation counts at once, though the clock of the
// issuer that revoked is behind; an earlier one only when nothing else is to be
// had, as after the issuer's store was restored.
func TestGenerationsCount(t *testing.T) {
	c := &clock{}
	p := newPublisher(t, document(7, c.now()))
	r, err := verifier.NewRevocations(verifier.RevocationsConfig{
		URL: p.URL + "/revocations", Issuer: "https://issuer.test", Verify: verifySigned, Now: c.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	claims := goodClaims()
	steps := []struct {
		why     string
		d       func() revocation.Document
		held    int64
		revoked bool
	}{
		{"the first", func() revocation.Document { return document(7, c.now()) }, 7, false},
		{"by a clock that is behind", func() revocation.Document { return document(8, c.now().Add(-5*time.Second), "jti-1") }, 8, true},
		{"of a restored store", func() revocation.Document { return document(3, c.now()) }, 8, true},
		{"as old and of long ago", func() revocation.Document {
			c.pass(11 * time.Minute)
			return document(3, c.now().Add(-12*time.Minute))
		}, 8, true},
		{"of a restored store, after max_stale", func() revocation.Document { return document(3, c.now()) }, 3, false},
	}
	for _, step := range steps {
		p.publish(t, step.d())
		_ = r.Pull(t.Context())
		is, err := r.Revoked(&claims, "k1", c.now())
		if r.Generation() != step.held || err == nil && is != step.revoked {
			t.Errorf("%s: generation %d, revoked %v, %v, want %d, %v", step.why, r.Generation(), is, err, step.held, step.revoked)
		}
	}
	if err := r.Ready(c.now()); err != nil {
		t.Errorf("in the end: %v", err)
	}
}

// TestAcknowledge: the verifier tells the issuer what it enforces, under its own
// name, and keeps what it got for a restart.
func TestAcknowledge(t *testing.T) {
	c, snapshot := &clock{}, filepath.Join(t.TempDir(), "revocations.jwt")
	p := newPublisher(t, document(1, c.now(), "jti-1"))
	r, err := verifier.NewRevocations(verifier.RevocationsConfig{
		URL: p.URL + "/revocations", Issuer: "https://issuer.test", Verify: verifySigned, Now: c.now, Name: "gpu-7", KeyID: "id", Key: "secret", Snapshot: snapshot,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	if ack := <-p.acks; ack != "id secret gpu-7" {
		t.Errorf("acknowledged as %q", ack)
	}
	<-p.asked
	if query := <-p.asked; query != "after=1" {
		t.Errorf("the second question is %q, want after=1", query)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if kept, err := os.ReadFile(snapshot); err != nil || string(kept) != *p.answer.Load() {
		t.Errorf("the snapshot is %q, %v", kept, err)
	}
}

// TestRevocationsSnapshot: a restart while the issuer is down knows what was
// revoked.
func TestRevocationsSnapshot(t *testing.T) {
	c := &clock{}
	path := filepath.Join(t.TempDir(), "revocations.jwt")
	payload, err := document(3, c.now(), "jti-1").Encode()
	if err != nil {
		t.Fatal(err)
	}
	conf := verifier.RevocationsConfig{URL: "https://issuer.test/revocations", Issuer: "https://issuer.test", Verify: verifySigned, Now: c.now, Snapshot: path}
	for content, want := range map[string]int64{"signed " + string(payload): 3, string(payload): -1, "": -1} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := verifier.NewRevocations(conf)
		if err != nil || r.Generation() != want {
			t.Errorf("of %.20q: generation %d, %v, want %d", content, r.Generation(), err, want)
		}
	}
}

// TestRevokedCall: a revoked token opens nothing, from the cache neither.
func TestRevokedCall(t *testing.T) {
	c := &clock{}
	p := newPublisher(t, document(1, c.now()))
	r, err := verifier.NewRevocations(verifier.RevocationsConfig{URL: p.URL + "/revocations", Issuer: "https://issuer.test", Verify: verifySigned, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, func(conf *verifier.Config) { conf.Issuers[0].Revocations = r })
	h.refused(h.good(), 503, "revocations_stale", "revocations_stale")
	go func() { _ = r.Run(t.Context()) }() // It returns nil.
	await := func(generation int64) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); r.Generation() < generation; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("generation %d never came", generation)
			}
		}
	}
	await(1)
	for range 2 {
		if got := h.send(h.good()); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	p.publish(t, document(2, c.now(), "jti-1"))
	await(2)
	h.arrived()
	h.refused(h.good(), 401, "invalid_token", "revoked")
}

func TestNewRevocationsRefuses(t *testing.T) {
	good := verifier.RevocationsConfig{URL: "https://issuer.test/revocations", Issuer: "https://issuer.test", Verify: verifySigned}
	if _, err := verifier.NewRevocations(good); err != nil {
		t.Fatal(err)
	}
	for why, spoil := range map[string]func(*verifier.RevocationsConfig){
		"no URL":              func(c *verifier.RevocationsConfig) { c.URL = "" },
		"a file":              func(c *verifier.RevocationsConfig) { c.URL = "file:///etc/passwd" },
		"a query":             func(c *verifier.RevocationsConfig) { c.URL += "?after=1" },
		"no issuer":           func(c *verifier.RevocationsConfig) { c.Issuer = "" },
		"no verification":     func(c *verifier.RevocationsConfig) { c.Verify = nil },
		"a negative age":      func(c *verifier.RevocationsConfig) { c.MaxStale = -1 },
		"a key without an id": func(c *verifier.RevocationsConfig) { c.Key, c.Name = "secret", "x" },
		"a key without name":  func(c *verifier.RevocationsConfig) { c.Key, c.KeyID = "secret", "id" },
	} {
		c := good
		spoil(&c)
		if _, err := verifier.NewRevocations(c); err == nil {
			t.Errorf("%s: no error", why)
		}
	}
}
