package e2e

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/revocation"
)

// crashes is how often TestCrashes kills the issuer; "make drill" does it more.
func crashes(t *testing.T) int {
	text := os.Getenv("HOURPASS_TEST_CRASHES")
	if text == "" {
		return 10
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// answered is what clients were told before the issuer was killed.
type answered struct {
	mu       sync.Mutex
	tokens   map[string]string // From the jti of a token to the identity token that it was got for.
	keys     []key
	disabled []string
}

// TestCrashes kills the issuer again and again under load. Whatever a client was
// told is there afterwards: tokens have one record each, identity tokens are used
// up, keys open, disabled keys stay so and their tokens are revoked.
func TestCrashes(t *testing.T) {
	h := newHouse(t)
	h.writeConfigs(nil)
	config := filepath.Join(h.dir, "issuer.yaml")
	if out, err := exec.Command(binary(t, "hourpass-issuer"), "init", "--config", config).CombinedOutput(); err != nil {
		t.Fatalf("init: %v: %s", err, out)
	}
	mine, other := h.makeKey(nil, time.Hour), h.makeKey(nil, time.Hour)
	told := &answered{tokens: map[string]string{}}
	var l login
	for range crashes(t) {
		issuer := h.process("hourpass-issuer", config)
		h.awaitReady(h.issuerOps)
		if l.Access == "" {
			l = h.logIn("ada", "lovelace")
		}
		stop := make(chan struct{})
		var clients sync.WaitGroup
		for range 4 {
			clients.Go(func() { h.exchangeUntil(stop, mine, told) })
		}
		clients.Go(func() { h.enrolUntil(stop, l, told) })
		time.Sleep(time.Duration(50+rand.IntN(250)) * time.Millisecond) // The crash comes when it comes.
		if err := issuer.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = issuer.Wait() // It was killed.
		close(stop)
		clients.Wait()
	}
	if len(told.tokens) < 20 || len(told.keys) < 5 || len(told.disabled) < 2 {
		t.Fatalf("only %d tokens, %d keys and %d disabled keys: the load was none", len(told.tokens), len(told.keys), len(told.disabled))
	}
	t.Logf("%d tokens, %d keys, %d of them disabled", len(told.tokens), len(told.keys), len(told.disabled))
	issuer := h.process("hourpass-issuer", config)
	h.awaitReady(h.issuerOps)
	h.checkTold(told, other, l)
	_ = issuer.Process.Signal(os.Interrupt)
	_ = issuer.Wait() // Its end is tested elsewhere.
	file, err := os.Open(filepath.Join(h.dir, "issuer-audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if report, err := audit.Verify(file, audit.Options{}); err != nil {
		t.Errorf("the audit log: %v, %+v", err, report)
	}
}

// try sends a request that may find nobody there.
func (h *house) try(method, path, user, secret, contentType, body string, into any) bool {
	req, err := http.NewRequest(method, h.issuer+path, strings.NewReader(body))
	if err != nil {
		return false
	}
	req.Header.Set("Content-Type", contentType)
	if user == "Bearer" {
		req.Header.Set("Authorization", "Bearer "+secret)
	} else {
		req.SetBasicAuth(user, secret)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	return err == nil && res.StatusCode < 300 && json.Unmarshal(answer, into) == nil
}

func (h *house) exchangeUntil(stop chan struct{}, k key, told *answered) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		identity := h.forge.sign(h.forge.good(h.now()), nil)
		var tok tokens
		if h.try(http.MethodPost, "/token", k.ID, k.Secret, "application/x-www-form-urlencoded", exchangeForm(identity).Encode(), &tok) {
			told.mu.Lock()
			told.tokens[jtiOf(h.t, tok.Access)] = identity
			told.mu.Unlock()
		}
	}
}

// enrolUntil creates keys and disables every other one.
func (h *house) enrolUntil(stop chan struct{}, l login, told *answered) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		var k key
		if !h.try(http.MethodPost, "/v1/keys", "Bearer", l.Access, "application/json", `{"grants":["faq"]}`, &k) {
			continue
		}
		told.mu.Lock()
		told.keys = append(told.keys, k)
		told.mu.Unlock()
		var after policy.Key
		if n%2 == 1 && h.try(http.MethodPost, "/v1/keys/"+k.ID+"/disable", "Bearer", l.Access, "application/json", `{}`, &after) {
			told.mu.Lock()
			told.disabled = append(told.disabled, k.ID)
			told.mu.Unlock()
		}
	}
}

func jtiOf(t *testing.T, compact string) string {
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(compact, ".")[1])
	var c struct {
		JTI string `json:"jti"`
	}
	if err != nil || json.Unmarshal(payload, &c) != nil || c.JTI == "" {
		t.Errorf("not a token: %s", compact)
	}
	return c.JTI
}

// checkTold compares what clients were told with what is there.
func (h *house) checkTold(told *answered, other key, l login) {
	h.t.Helper()
	records := map[string]int{}
	for _, r := range h.records("issuer") {
		if r.Event == "exchange" && r.Outcome == audit.Allow {
			records[r.Token]++
		}
	}
	for jti, identity := range told.tokens {
		if records[jti] != 1 {
			h.t.Errorf("the token %s has %d records", jti, records[jti])
		}
		status, body := h.post("/token", other.Secret, exchangeForm(identity))
		if e := decodeError(h.t, body); status != http.StatusBadRequest || !strings.Contains(e.Detail, "used before") {
			h.t.Errorf("its identity token again, with another key: %d %s", status, body)
		}
	}
	for _, k := range told.keys {
		status, body := h.post("/token", k.Secret, url.Values{"grant_type": {"client_credentials"}})
		if strings.Contains(string(body), "unknown machine key") {
			h.t.Errorf("the key %s is gone: %d %s", k.ID, status, body)
		}
	}
	_, signed := h.api(http.MethodGet, "/revocations", "", "")
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(string(signed), ".")[1])
	if err != nil {
		h.t.Fatal(err)
	}
	document, err := revocation.Parse(payload)
	if err != nil {
		h.t.Fatal(err)
	}
	revoked := map[string]bool{}
	for _, e := range document.Entries {
		revoked[e.Value] = true
	}
	for _, id := range told.disabled {
		status, body := h.api(http.MethodGet, "/v1/keys/"+id, l.Access, "")
		var k policy.Key
		if err := json.Unmarshal(body, &k); err != nil || k.State != policy.Disabled {
			h.t.Errorf("a disabled key: %d %s", status, body)
		}
		if !revoked[revocation.Hash(revocation.Key, id)] {
			h.t.Errorf("the tokens of the disabled key %s are not revoked", id)
		}
	}
}
