package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/cmd/internal/verifierd"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/peers"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/internal/usage"
)

// startSpending starts a house whose verifier tells the issuer what calls cost, and
// has its ledger there. Grace is an admin.
func startSpending(t *testing.T, edits ...string) *house {
	t.Helper()
	h := startHouse(t, append([]string{"providers:\n", "admins: [{provider: corp, subjects: [grace]}]\nauditors: [{provider: corp, subjects: [eve]}]\nproviders:\n"}, edits...)...)
	h.stop("verifier")
	path := filepath.Join(h.dir, "verifier.yaml")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), "revocations:\n", "usage_spool: "+h.dir+"/usage\nrevocations:\n  key: "+h.verifierKey("models").Secret+"\n", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start("verifier", verifierd.Run)
	h.awaitReady(h.verifierOps)
	return h
}

type usageAnswer struct {
	Usage []struct {
		Key      string `json:"key"`
		Identity string `json:"identity"`
		Model    string `json:"model"`
		Requests int64  `json:"requests"`
		Input    int64  `json:"input_tokens"`
		Output   int64  `json:"output_tokens"`
	} `json:"usage"`
}

func (h *house) usage(l login, query string) (u usageAnswer) {
	h.t.Helper()
	status, body := h.api(http.MethodGet, "/v1/usage"+query, l.Access, "")
	if err := json.Unmarshal(body, &u); err != nil || status != http.StatusOK {
		h.t.Fatalf("usage: %d %s", status, body)
	}
	return u
}

// TestSpending follows a call from its limit to what its holder and an admin see.
func TestSpending(t *testing.T) {
	h := startSpending(t, "    tier: free\n", "    tier: free\n    limits: {tokens/day: 400, team:requests/hour: 1000}\n")
	ada, grace, eve := h.logIn("ada", "lovelace"), h.logIn("grace", "hopper"), h.logIn("eve", "dropper")
	k := h.enrol(ada, `{"grants":["faq"],"team":"=cmd","limits":{"requests/minute":100}}`)
	tok := h.refresh(k, ada.Refresh)
	ada.Refresh = tok.Refresh
	calls, status := 0, 200
	var body []byte
	for ; status == 200 && calls < 100; calls++ {
		status, body = h.call(tok.Access, "faq-bot")
	}
	if status != http.StatusPaymentRequired || !strings.Contains(string(body), "tokens/day of 400") || calls < 3 {
		t.Fatalf("after %d calls: %d %s", calls, status, body)
	}
	h.await("the issuer to know", func() bool {
		u := h.usage(ada, "?by=key,identity,model")
		return len(u.Usage) == 1 && u.Usage[0].Requests == int64(calls-1)
	})
	other := h.enrol(grace, `{"grants":["faq"],"team":"ops"}`)
	h.call(h.refresh(other, h.logIn("grace", "hopper").Refresh).Access, "faq-bot")
	h.await("the issuer to know of another's call", func() bool { return len(h.usage(grace, "?by=key").Usage) == 2 })
	if u := h.usage(ada, "?by=key"); len(u.Usage) != 1 || u.Usage[0].Key != k.ID {
		t.Errorf("ada sees what others spent: %+v", u)
	}
	row := h.usage(ada, "?by=key,identity,model").Usage[0]
	if row.Key != k.ID || row.Identity != "corp:ada" || row.Model != "faq-bot" || row.Input+row.Output > 400 || row.Input == 0 || row.Output == 0 {
		t.Errorf("ada spent %+v", row)
	}
	if u := h.usage(grace, "?by=key&team=%3Dcmd"); len(u.Usage) != 1 || u.Usage[0].Requests != row.Requests {
		t.Errorf("an admin sees %+v", u)
	}
	if u := h.usage(eve, "?by=key"); len(u.Usage) != 2 {
		t.Errorf("an auditor sees %+v", u)
	}
	if u := h.usage(ada, "?identity=corp:grace"); len(u.Usage) != 0 {
		t.Errorf("ada sees what grace spent, when asking: %+v", u)
	}
	status, csv := h.api(http.MethodGet, "/v1/usage?by=team,day&format=csv", ada.Access, "")
	lines := strings.Split(strings.TrimSpace(string(csv)), "\n")
	if status != http.StatusOK || len(lines) != 2 || lines[0] != "team,day,requests,input_tokens,output_tokens,cached_tokens,unreported" || !strings.HasPrefix(lines[1], "'=cmd,") {
		t.Errorf("as CSV: %d %s", status, csv)
	}
	for _, bad := range []string{"?by=secret", "?by=key,key", "?from=yesterday", "?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "?from=2020-01-01T00:00:00Z", "?format=xml", "?team=%00", "?x=1"} {
		if status, body := h.api(http.MethodGet, "/v1/usage"+bad, grace.Access, ""); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad, status, body)
		}
	}
	if status, _ := h.api(http.MethodGet, "/v1/usage", "", ""); status != http.StatusUnauthorized {
		t.Errorf("a stranger sees usage: %d", status)
	}

	status, body = h.api(http.MethodGet, "/v1/me", ada.Access, "")
	var me struct {
		Budgets []struct {
			Limit                   string
			Most, Spent, Held, Left int64
			Resets                  time.Time `json:"resets_at"`
		}
	}
	if err := json.Unmarshal(body, &me); err != nil || status != http.StatusOK || len(me.Budgets) != 3 {
		t.Fatalf("%d %s", status, body)
	}
	if b := me.Budgets[2]; b.Limit != "tokens/day" || b.Most != 400 || b.Spent+b.Held < 300 || b.Left > 100 || b.Resets.Before(h.now()) {
		t.Errorf("the budget stands at %+v", b)
	}
	if out := h.cli(t, k, ada, "usage"); !strings.Contains(out, "tokens/day") || !strings.Contains(out, "faq-bot") {
		t.Errorf("hourpass usage prints\n%s", out)
	}
	for _, r := range h.records("verifier") {
		if r.Outcome == "allow" && (r.Usage != "reported" || r.Input == 0) {
			t.Errorf("record %+v", r)
		}
	}
}

// TestUsageBatches takes none twice, from nobody but verifiers, and nothing odd.
func TestUsageBatches(t *testing.T) {
	h := startSpending(t)
	mine, stranger := h.verifierKey("models"), h.makeKey(nil, time.Hour)
	hour := h.now().UTC().Truncate(time.Hour)
	send := func(k key, b usage.Batch) error {
		return (&usage.Client{URL: h.issuer + "/usage", KeyID: k.ID, Key: k.Secret}).Send(t.Context(), b)
	}
	row := usage.Row{Hour: hour, Key: "0123456789abcdef", Identity: "corp:ada", Model: "m", Requests: 2, Input: 10, Output: 5}
	batch := usage.Batch{Holder: "h", Seq: 3, Rows: []usage.Row{row, {Hour: hour.Add(-time.Hour), Key: "0123456789abcdef", Requests: 1}}}
	for range 3 {
		if err := send(mine.key, batch); err != nil {
			t.Fatal(err)
		}
	}
	batch.Seq = 2 // Overtaken by a later one: it can only be an old one again.
	if err := send(mine.key, batch); err != nil {
		t.Fatal(err)
	}
	other := h.verifierKey("models")
	batch.Seq = 1
	if err := send(other.key, batch); err != nil { // The same holder's name, of another verifier.
		t.Fatal(err)
	}
	l := h.logIn("grace", "hopper")
	if u := h.usage(l, "?by=model&from="+hour.Add(-2*time.Hour).Format(time.RFC3339)); len(u.Usage) != 2 || u.Usage[1].Requests != 4 || u.Usage[1].Input != 20 || u.Usage[0].Requests != 2 {
		t.Errorf("usage %+v", u)
	}
	if err := send(stranger, batch); err == nil {
		t.Error("a key that is for no verifier tells usage")
	}
	bad := key{Secret: mine.Secret + "x"}
	bad.ID = mine.ID
	if err := send(bad, batch); err == nil {
		t.Error("a wrong key tells usage")
	}
	for name, spoil := range map[string]func(*usage.Batch){
		"no holder":         func(b *usage.Batch) { b.Holder = "" },
		"no number":         func(b *usage.Batch) { b.Seq = 0 },
		"half an hour":      func(b *usage.Batch) { b.Rows[0].Hour = hour.Add(30 * time.Minute) },
		"the future":        func(b *usage.Batch) { b.Rows[0].Hour = hour.Add(48 * time.Hour) },
		"long ago":          func(b *usage.Batch) { b.Rows[0].Hour = hour.Add(-1500 * time.Hour) },
		"less than nothing": func(b *usage.Batch) { b.Rows[0].Input = -1 },
		"more than all":     func(b *usage.Batch) { b.Rows[0].Output = 1 << 60 },
		"a NUL":             func(b *usage.Batch) { b.Rows[0].Model = "\x00" },
		"no key":            func(b *usage.Batch) { b.Rows[0].Key = "" },
		"a row twice":       func(b *usage.Batch) { b.Rows = append(b.Rows, b.Rows[0]) },
		"too many":          func(b *usage.Batch) { b.Rows = make([]usage.Row, usage.MaxBatch+1) },
	} {
		b := usage.Batch{Holder: "bad", Seq: 9, Rows: []usage.Row{row}}
		spoil(&b)
		if err := send(mine.key, b); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// cli runs "hourpass" with that login.
func (h *house) cli(t *testing.T, k key, l login, args ...string) string {
	t.Helper()
	state, err := json.Marshal(map[string]any{
		"issuer": h.issuer, "access_token": l.Access, "fresh_until": time.Now().Add(time.Minute), "refresh_token": l.Refresh, "key_id": k.ID, "key": k.Secret,
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(path, state, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t, "hourpass"), args...)
	cmd.Env = append(os.Environ(), "HOURPASS_STATE="+path)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("hourpass %v: %v: %s", args, err, out)
	}
	return string(out)
}

// TestWatch is the denial of a wallet: a key that begins to spend ten times what is
// usual is off within seconds, others feel nothing, and an admin undoes it in one
// step. HOURPASS_TEST_DRILL=watch does it 50 times, and tells how long it took from
// the call that was too much to the last that passed.
func TestWatch(t *testing.T) {
	runs := 1
	if os.Getenv("HOURPASS_TEST_DRILL") == "watch" {
		runs = 50
	}
	h := startSpending(t, "drain_timeout: 2s\n", "drain_timeout: 2s\nwatch: {floor: 200}\n")
	verifier := h.verifierKey("models")
	client := &usage.Client{URL: h.issuer + "/usage", KeyID: verifier.ID, Key: verifier.Secret}
	quiet := wielded{key: h.makeKey(nil, time.Hour)}
	quietToken := h.forgedToken(quiet.key)
	admin := h.logIn("grace", "hopper")
	var took []time.Duration
	for n := range runs {
		k := h.makeKey(nil, time.Hour)
		past := usage.Batch{Holder: "past " + k.ID, Seq: 1}
		for hour := 1; hour <= 30; hour++ {
			past.Rows = append(past.Rows, usage.Row{Hour: h.now().UTC().Truncate(time.Hour).Add(-time.Duration(hour+1) * time.Hour), Key: k.ID, Requests: 5, Input: 20, Output: 10})
		}
		if err := client.Send(t.Context(), past); err != nil {
			t.Fatal(err)
		}
		tok := h.forgedToken(k)
		spent, crossed, last := int64(0), time.Time{}, time.Time{}
		status := http.StatusOK
		for deadline := time.Now().Add(15 * time.Second); status == http.StatusOK && time.Now().Before(deadline); {
			var body []byte
			if status, body = h.call(tok, "faq-bot"); status != http.StatusOK {
				break
			}
			var answer struct {
				Usage struct {
					TotalTokens int64 `json:"total_tokens"`
				}
			}
			if err := json.Unmarshal(body, &answer); err != nil {
				t.Fatal(err)
			}
			last = time.Now()
			if spent += answer.Usage.TotalTokens; spent > 300 && crossed.IsZero() {
				crossed = last
			}
			time.Sleep(5 * time.Millisecond) // A call takes a while.
		}
		if status != http.StatusUnauthorized || crossed.IsZero() {
			t.Fatalf("run %d: the last call is answered with %d, after %d tokens", n, status, spent)
		}
		took = append(took, last.Sub(crossed))
		if status, _ := h.call(quietToken, "faq-bot"); status != http.StatusOK {
			t.Errorf("another key feels it: %d", status)
		}
		if status, body := h.post("/token", k.Secret, exchangeForm(h.forge.sign(h.forge.good(h.now()), nil))); status != http.StatusBadRequest || !strings.Contains(string(body), "unauthorized_client") {
			t.Errorf("the key still gets tokens: %d %s", status, body)
		}
		if n > 0 {
			continue
		}
		status, body := h.api(http.MethodGet, "/v1/keys/"+k.ID, admin.Access, "")
		var state policy.Key
		if err := json.Unmarshal(body, &state); err != nil || state.State != policy.Quarantined || state.StateReason != "spending" || state.StateBy != "watch" {
			t.Errorf("%d %s", status, body)
		}
		found := slices.ContainsFunc(h.records("issuer"), func(r audit.Record) bool {
			return r.Event == "key.quarantine" && r.Key == k.ID && r.Reason == "spending"
		})
		if !found || !strings.Contains(h.logs.String(), `"alarm":"key.quarantined"`) {
			t.Errorf("there is a record: %t; alert: %t", found, strings.Contains(h.logs.String(), `"alarm":"key.quarantined"`))
		}
		if status, body := h.api(http.MethodPost, "/v1/keys/"+k.ID+"/enable", admin.Access, ""); status != http.StatusOK {
			t.Fatalf("undo: %d %s", status, body)
		}
		fresh := ""
		h.await("the key to open again", func() bool { // What was revoked is so to the end of its second.
			fresh = h.forgedToken(k)
			status, _ := h.call(fresh, "faq-bot")
			return status == http.StatusOK
		})
		// It is looked at again, and let be.
		for range 3 {
			if err := client.Send(t.Context(), usage.Batch{Holder: "more " + k.ID, Seq: time.Now().UnixNano(), Rows: []usage.Row{{Hour: h.now().UTC().Truncate(time.Hour), Key: k.ID, Requests: 1, Input: 10}}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1100 * time.Millisecond) // A look.
		}
		if status, body := h.call(fresh, "faq-bot"); status != http.StatusOK {
			t.Errorf("after the undo: %d %s", status, body)
		}
		status, body = h.api(http.MethodGet, "/v1/watch/replay?floor=200", admin.Access, "")
		if status != http.StatusOK || !strings.Contains(string(body), k.ID) {
			t.Errorf("the replay says %d %s", status, body)
		}
		if status, body := h.api(http.MethodGet, "/v1/watch/replay?floor=100000000", admin.Access, ""); status != http.StatusOK || strings.Contains(string(body), k.ID) {
			t.Errorf("with another floor the replay says %d %s", status, body)
		}
	}
	slices.Sort(took)
	t.Logf("from the call that was too much to the last that passed: p50 %s, max %s, of %d", took[len(took)/2], took[len(took)-1], len(took))
	if most := took[len(took)-1]; most > 7*time.Second {
		t.Errorf("it took %s", most)
	}
}

// TestWatchWarns only tells, where it is to.
func TestWatchWarns(t *testing.T) {
	h := startSpending(t, "drain_timeout: 2s\n", "drain_timeout: 2s\nwatch: {mode: warn, floor: 10, cold_ceiling: 10}\n")
	k := h.makeKey(nil, time.Hour)
	tok := h.forgedToken(k)
	h.await("a warning", func() bool {
		if status, body := h.call(tok, "faq-bot"); status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		return strings.Contains(h.logs.String(), `"alarm":"key.spending"`)
	})
	if n := strings.Count(h.logs.String(), `"alarm":"key.spending"`); n != 1 {
		t.Errorf("%d warnings", n)
	}
}

// TestLimitsOverRestarts: with the issuer's ledger nothing is forgotten when either
// program starts anew.
func TestLimitsOverRestarts(t *testing.T) {
	for name, edits := range map[string][]string{
		"store": {},
		"redis": {"drain_timeout: 2s\n", "drain_timeout: 2s\nledger: {url: redis://" + peers.StartRedis(t).Addr + "}\n"},
	} {
		t.Run(name, func(t *testing.T) { limitsOverRestarts(t, edits) })
	}
}

func limitsOverRestarts(t *testing.T, edits []string) {
	h := startSpending(t, append(edits, "    tier: free\n", "    tier: free\n    limits: {requests/day: 4}\n")...)
	tok := h.forgedToken(h.makeKey(func(k *policy.Key) { k.Limits = token.Limits{"requests/day": 4} }, time.Hour))
	for n, restart := range []func(){nil, func() {
		h.stop("verifier")
		h.start("verifier", verifierd.Run)
		h.awaitReady(h.verifierOps)
	}, h.restartIssuer, nil} {
		if restart != nil {
			restart()
		}
		if status, body := h.call(tok, "faq-bot"); status != http.StatusOK {
			t.Errorf("call %d: %d %s", n, status, body)
		}
	}
	if status, body := h.call(tok, "faq-bot"); status != http.StatusPaymentRequired {
		t.Errorf("one more: %d %s", status, body)
	}
}
