package e2e

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/issuer"
	"github.com/hourpass/hourpass/keys/format"
)

// received is the one answer to all that is found.
const received = `{"status":"received"}` + "\n"

// reportLeak sends a report as a scanner does, and wants the one answer.
func (h *house) reportLeak(t *testing.T, body string) {
	t.Helper()
	status, answer := h.send(h.request(http.MethodPost, "/leaked", "application/json", body))
	if status != http.StatusAccepted || string(answer) != received {
		t.Errorf("reporting %.40s…: %d %s", body, status, answer)
	}
}

// leaks are the audit's records of found keys.
func (h *house) leaks() (list []audit.Record) {
	for _, r := range h.records("issuer") {
		if r.Event == "key.leaked" {
			list = append(list, r)
		}
	}
	return list
}

func (h *house) stateOf(id string) policy.Key {
	h.t.Helper()
	k, err := h.keyStore().Get(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return k
}

// TestLeakedKey: whoever finds a key ends its use, its live tokens included, and
// its owner hears of it.
func TestLeakedKey(t *testing.T) {
	h := newHouse(t)
	hook := newHook(h)
	hook.serve()
	h.startPrograms(hook.config()...)
	l := h.logIn("ada", "lovelace")
	found, other := h.enrol(l, `{"grants":["faq"],"team":"search"}`), h.enrol(l, `{"grants":["faq"]}`)
	first := h.refresh(found, l.Refresh)
	second := h.refresh(other, first.Refresh)
	if status, body := h.call(first.Access, "faq-bot"); status != http.StatusOK {
		t.Fatalf("before: %d %s", status, body)
	}

	h.reportLeak(t, `{"token":" `+found.Secret+`\n","source":"github.com/octo-org/octo-repo"}`)
	k := h.stateOf(found.ID)
	if k.State != policy.Quarantined || k.StateReason != "leaked" || k.StateBy != "leak receiver" {
		t.Errorf("when the answer is there, the key is %+v", k)
	}
	if n := h.count(`SELECT count(*) FROM revocations WHERE what = 'key' AND value = $1 AND reason = 'leaked'`, found.ID); n != 1 {
		t.Errorf("when the answer is there, %d revocations are", n)
	}
	records := h.leaks()
	if len(records) != 1 || records[0].Key != found.ID || records[0].Team != "search" || records[0].Outcome != audit.Allow ||
		records[0].ClientIP == "" || records[0].Detail != `found by "github.com/octo-org/octo-repo"` || records[0].Status != http.StatusAccepted {
		t.Fatalf("the audit says %+v", records)
	}
	e := hook.await(1).event
	for name, want := range map[string]any{
		"kind": "key.quarantined", "reason": "leaked", "severity": "critical", "key_id": found.ID, "owner": "corp:ada", "team": "search",
		"by": "leak receiver", "decision_id": records[0].Decision,
	} {
		if e[name] != want {
			t.Errorf("%s of the alert is %v, want %v", name, e[name], want)
		}
	}
	if text := e["text"].(string); !strings.Contains(text, found.ID) || !strings.Contains(text, "octo-repo") {
		t.Errorf("the alert says %q", text)
	}
	h.await("its token to be refused", func() bool { status, _ := h.call(first.Access, "faq-bot"); return status == http.StatusUnauthorized })
	h.refused("the found key", found.Secret, exchangeForm(h.forge.sign(h.forge.good(h.now()), nil)), "unauthorized_client", "key_not_active")
	third := h.refresh(other, second.Refresh)
	if status, body := h.call(third.Access, "faq-bot"); status != http.StatusOK {
		t.Errorf("the owner's other key: %d %s", status, body)
	}

	// Again, and by many: nothing more happens.
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { h.reportLeak(t, `{"key":"`+found.Secret+`"}`) })
	}
	wg.Wait()
	hook.quiet("the same key again", 1)
	if n := len(h.leaks()); n != 1 {
		t.Errorf("the audit has %d records of it, want 1", n)
	}
	if n := h.count(`SELECT count(*) FROM revocations WHERE value = $1`, found.ID); n != 1 {
		t.Errorf("it is revoked %d times, want once", n)
	}
	if status, body := h.api(http.MethodPost, "/v1/keys/"+found.ID+"/enable", l.Access, ``); status != http.StatusForbidden {
		t.Errorf("its owner enables it: %d %s, want 403", status, body)
	}
	// An admin may, and the next finder ends it again.
	admin := h.logIn("grace", "hopper")
	if status, body := h.api(http.MethodPost, "/v1/keys/"+found.ID+"/enable", admin.Access, ``); status != http.StatusOK {
		t.Errorf("an admin enables it: %d %s", status, body)
	}
	h.reportLeak(t, `{"key":"`+found.Secret+`","source":"see `+found.Secret+`"}`)
	if e := hook.await(2).event; e["key_id"] != found.ID {
		t.Errorf("the second alert is %v", e)
	}
	h.stop("issuer")
	for _, a := range hook.seen() {
		if strings.Contains(a.body, found.Secret) {
			t.Error("an alert holds the secret")
		}
	}
	audits := mustJSON(h.records("issuer"))
	if strings.Contains(h.logs.String(), found.Secret) || bytes.Contains(audits, []byte(found.Secret)) {
		t.Error("log or audit hold the secret")
	}
}

// TestNotLeaked: who has no live secret can't lock anybody out, and learns
// nothing.
func TestNotLeaked(t *testing.T) {
	h := startHouse(t)
	keys := h.keyStore()
	k := h.makeKey(nil, 100*24*time.Hour)
	rotated := h.makeKey(nil, 100*24*time.Hour)
	warm := func(k key) {
		t.Helper()
		var tok tokens
		h.mustPost("/token", k.Secret, exchangeForm(h.forge.sign(h.forge.good(h.now()), nil)), &tok)
	}
	warm(rotated) // The issuer has it in memory, secret and all, when another issuer rotates it.
	if _, _, err := keys.Rotate(t.Context(), rotated.ID, 0, 0, h.now(), nil); err != nil {
		t.Fatal(err)
	}
	revoked, deleted, quarantined := h.makeKey(nil, time.Hour), h.makeKey(nil, time.Hour), h.makeKey(nil, time.Hour)
	for id, state := range map[string]policy.State{revoked.ID: policy.Revoked, deleted.ID: policy.Deleted, quarantined.ID: policy.Quarantined} {
		if _, err := keys.Update(t.Context(), id, 0, func(k *policy.Key) error { k.State, k.StateReason = state, "before"; return nil }, nil); err != nil {
			t.Fatal(err)
		}
	}
	before := h.count(`SELECT value FROM counters WHERE name = 'revocations'`)
	recorded := len(h.records("issuer"))
	for why, text := range map[string]string{
		"another secret of its id":      format.New(k.ID),
		"an id that is not":             format.New(format.NewID()),
		"its id":                        k.ID,
		"its beginning":                 k.Secret[:40],
		"itself, mistyped":              k.Secret[:len(k.Secret)-1] + "!",
		"itself, lower case":            strings.ToLower(k.Secret),
		"itself among other text":       "key=" + k.Secret,
		"an ended secret":               rotated.Secret,
		"a revoked key":                 revoked.Secret,
		"a deleted key":                 deleted.Secret,
		"one in quarantine":             quarantined.Secret,
		"a text":                        "hello",
		"a long text":                   strings.Repeat("x", 10_000),
		"a text that no database holds": `\u0000\ud83d\ude00`,
	} {
		began := time.Now()
		h.reportLeak(t, `{"key":"`+text+`"}`)
		if took := time.Since(began); took < issuer.LeakPace {
			t.Errorf("%s: the answer took %s, and a hit at least %s", why, took, issuer.LeakPace)
		}
	}
	for _, id := range []string{k.ID, rotated.ID} {
		if got := h.stateOf(id); got.State != policy.Active {
			t.Errorf("a key is %+v", got)
		}
	}
	if got := h.stateOf(quarantined.ID); got.StateReason != "before" {
		t.Errorf("what was in quarantine is %+v", got)
	}
	if n := h.count(`SELECT count(*) FROM alerts`) + h.count(`SELECT value FROM counters WHERE name = 'revocations'`) - before; n != 0 {
		t.Errorf("%d alerts and revocations", n)
	}
	if n := len(h.records("issuer")) - recorded; n != 0 {
		t.Errorf("%d records in the audit", n)
	}
	warm(k)
}

// TestLeakedWhateverItsState: a live secret is one in every state that can be
// left, and beside another.
func TestLeakedWhateverItsState(t *testing.T) {
	h := startHouse(t)
	keys := h.keyStore()
	disabled, expired, overlapping, enabled := h.makeKey(nil, time.Hour), h.makeKey(nil, time.Minute), h.makeKey(nil, time.Hour), h.makeKey(nil, time.Hour)
	set := func(id string, state policy.State) {
		t.Helper()
		if _, err := keys.Update(t.Context(), id, 0, func(k *policy.Key) error { k.State = state; return nil }, nil); err != nil {
			t.Fatal(err)
		}
	}
	set(disabled.ID, policy.Disabled)
	if _, _, err := keys.Rotate(t.Context(), overlapping.ID, 0, time.Hour, h.now(), nil); err != nil {
		t.Fatal(err)
	}
	// The issuer remembers it in quarantine, which another has lifted.
	set(enabled.ID, policy.Quarantined)
	h.reportLeak(t, `{"key":"`+enabled.Secret+`"}`)
	set(enabled.ID, policy.Active)
	h.pass(time.Minute)
	for why, k := range map[string]key{"disabled": disabled, "expired": expired, "with a newer secret": overlapping, "enabled elsewhere": enabled} {
		h.reportLeak(t, `{"key":"`+k.Secret+`"}`)
		// Verifiers that ask now are told.
		_, doc := h.send(h.request(http.MethodGet, "/revocations", "", ""))
		if got, want := generationOf(t, doc), h.count(`SELECT value FROM counters WHERE name = 'revocations'`); got != want {
			t.Errorf("%s: when the answer is there, generation %d is published, want %d", why, got, want)
		}
		if got := h.stateOf(k.ID); got.State != policy.Quarantined || got.StateReason != "leaked" {
			t.Errorf("a key that is %s became %+v", why, got)
		}
	}
	if n := len(h.leaks()); n != 4 {
		t.Errorf("the audit has %d records, want 4", n)
	}
}

// generationOf is that of a signed document of revocations.
func generationOf(t *testing.T, doc []byte) int {
	t.Helper()
	parts := strings.Split(string(doc), ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)])
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Generation int `json:"generation"`
	}
	if err := json.Unmarshal(payload, &d); err != nil {
		t.Fatal(err)
	}
	return d.Generation
}

// TestLeakedAndGone: who hangs up has reported it all the same.
func TestLeakedAndGone(t *testing.T) {
	h := startHouse(t)
	k := h.makeKey(nil, time.Hour)
	h.inStore(func(db *sql.DB) {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		// The issuer waits for this until it is too late to answer.
		if _, err := tx.ExecContext(t.Context(), `UPDATE counters SET value = value WHERE name = 'revocations'`); err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.issuer, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.request(http.MethodPost, "/leaked", "application/json", `{"key":"`+k.Secret+`"}`).Write(conn); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		for range 20 { // It has noticed by now, or this test is weaker than it looks.
			h.send(h.request(http.MethodGet, "/jwks.json", "", ""))
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
	})
	h.await("the key to be in quarantine", func() bool { return h.stateOf(k.ID).State == policy.Quarantined })
}

// TestLeakedAllOrNothing: quarantine, revocation and alert are one transaction.
func TestLeakedAllOrNothing(t *testing.T) {
	h := startHouse(t)
	k := h.makeKey(nil, time.Hour)
	exec := func(query string) {
		t.Helper()
		h.inStore(func(db *sql.DB) {
			if _, err := db.ExecContext(t.Context(), query); err != nil {
				t.Fatal(err)
			}
		})
	}
	before := h.count(`SELECT value FROM counters WHERE name = 'revocations'`)
	for _, table := range []string{"alerts", "revocations"} {
		exec(`ALTER TABLE ` + table + ` RENAME TO elsewhere`)
		status, body := h.send(h.request(http.MethodPost, "/leaked", "application/json", `{"key":"`+k.Secret+`"}`))
		if status != http.StatusInternalServerError || bytes.Contains(body, []byte(k.ID)) {
			t.Errorf("without %s: %d %s", table, status, body)
		}
		exec(`ALTER TABLE elsewhere RENAME TO ` + table)
		if got := h.stateOf(k.ID); got.State != policy.Active {
			t.Errorf("without %s the key is %+v", table, got)
		}
	}
	if n := h.count(`SELECT count(*) FROM alerts`) + h.count(`SELECT value FROM counters WHERE name = 'revocations'`) - before; n != 0 || len(h.leaks()) != 0 {
		t.Errorf("%d alerts and revocations, %d records", n, len(h.leaks()))
	}
	h.reportLeak(t, `{"key":"`+k.Secret+`"}`)
	if got := h.stateOf(k.ID); got.State != policy.Quarantined {
		t.Errorf("the second report leaves %+v", got)
	}
}

// TestLeakedOnRecord: a key that is in quarantine has its record, whenever the
// issuer dies: it is kept before the commit, which fails here.
func TestLeakedOnRecord(t *testing.T) {
	h := startHouse(t)
	k := h.makeKey(nil, time.Hour)
	h.writeRow(`CREATE TABLE nobodys (id TEXT REFERENCES machine_keys (id) DEFERRABLE INITIALLY DEFERRED)`)
	h.writeRow(`CREATE TRIGGER late AFTER INSERT ON alerts BEGIN INSERT INTO nobodys VALUES ('nobody'); END`)
	if status, body := h.send(h.request(http.MethodPost, "/leaked", "application/json", `{"key":"`+k.Secret+`"}`)); status != http.StatusInternalServerError {
		t.Errorf("without a commit: %d %s", status, body)
	}
	if got := h.stateOf(k.ID); got.State != policy.Active || len(h.leaks()) != 1 {
		t.Errorf("without a commit the key is %s, with %d records", got.State, len(h.leaks()))
	}
	h.writeRow(`DROP TRIGGER late`)
	h.reportLeak(t, `{"key":"`+k.Secret+`"}`)
	if got := h.stateOf(k.ID); got.State != policy.Quarantined || len(h.leaks()) != 2 {
		t.Errorf("in the end the key is %s, with %d records", got.State, len(h.leaks()))
	}
}

// TestLeakedWithoutAudit: a key in the wrong hands ends even if that can't be
// recorded, of which whoever reported it is told.
func TestLeakedWithoutAudit(t *testing.T) {
	h := startHouse(t, "audit: ", "audit: /dev/full #")
	k := h.makeKey(nil, time.Hour)
	if status, body := h.send(h.request(http.MethodPost, "/leaked", "application/json", `{"key":"`+k.Secret+`"}`)); status != http.StatusServiceUnavailable || bytes.Contains(body, []byte(k.ID)) {
		t.Errorf("the answer is %d %s", status, body)
	}
	if got := h.stateOf(k.ID); got.State != policy.Quarantined {
		t.Errorf("the key is %+v", got)
	}
	if !strings.Contains(h.logs.String(), `"msg":"recording a leaked key","alarm":"audit"`) {
		t.Error("the log says nothing")
	}
}

// TestLeakedRequests: a report is read strictly, and an address sends so many.
func TestLeakedRequests(t *testing.T) {
	h := startHouse(t)
	k := h.makeKey(nil, time.Hour)
	secret := `"` + k.Secret + `"`
	for why, req := range map[string]*http.Request{
		"nothing":           h.request(http.MethodPost, "/leaked", "application/json", ``),
		"no key":            h.request(http.MethodPost, "/leaked", "application/json", `{"source":"x"}`),
		"key and token":     h.request(http.MethodPost, "/leaked", "application/json", `{"key":`+secret+`,"token":`+secret+`}`),
		"a key twice":       h.request(http.MethodPost, "/leaked", "application/json", `{"key":`+secret+`,"key":`+secret+`}`),
		"a list":            h.request(http.MethodPost, "/leaked", "application/json", `{"key":[`+secret+`]}`),
		"an unknown member": h.request(http.MethodPost, "/leaked", "application/json", `{"key":`+secret+`,"url":"x"}`),
		"a long source":     h.request(http.MethodPost, "/leaked", "application/json", `{"key":`+secret+`,"source":"`+strings.Repeat("x", 201)+`"}`),
		"a control":         h.request(http.MethodPost, "/leaked", "application/json", `{"key":`+secret+`,"source":"a\nb"}`),
		"another type":      h.request(http.MethodPost, "/leaked", "text/plain", `{"key":`+secret+`}`),
		"a long body":       h.request(http.MethodPost, "/leaked", "application/json", `{"key":`+secret+`}`+strings.Repeat(" ", 20_000)),
		"a form":            h.request(http.MethodPost, "/leaked", "application/x-www-form-urlencoded", `key=`+k.Secret),
		"a query":           h.request(http.MethodPost, "/leaked?key="+k.Secret, "application/json", `{"key":`+secret+`}`),
	} {
		status, body := h.send(req)
		if e := decodeError(t, body); status != http.StatusBadRequest || e.Code != "invalid_request" || strings.Contains(string(body), k.Secret) {
			t.Errorf("%s: %d %s, want 400", why, status, body)
		}
	}
	if status, _ := h.send(h.request(http.MethodGet, "/leaked", "", "")); status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d, want 405", status)
	}
	if got := h.stateOf(k.ID); got.State != policy.Active {
		t.Errorf("the key is %+v", got)
	}
}

func TestLeakedThrottled(t *testing.T) {
	h := startHouse(t, "per_address: 100000", "per_address: 1")
	slow := 0
	for range 30 {
		status, _ := h.send(h.request(http.MethodPost, "/leaked", "application/json", `{}`))
		if status == http.StatusTooManyRequests {
			slow++
		}
	}
	if slow < 10 {
		t.Errorf("%d of 30 reports at once were told to wait", slow)
	}
}
