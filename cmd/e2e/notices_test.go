package e2e

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourpass/hourpass/cmd/internal/issuerd"
	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/internal/alert"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store"
)

// hookKey is what the receiver checks with, and hookSecret how the issuer is
// told it.
var (
	hookKey    = bytes.Repeat([]byte("hook"), 8)
	hookSecret = "whsec_" + base64.StdEncoding.EncodeToString(hookKey)
)

// hook is a receiver of alerts that this project did not write but for this
// page: it knows Standard Webhooks and the documented members, nothing more.
type hook struct {
	h    *house
	addr string
	path string

	open func() *sql.DB // The issuer's store.

	mu       sync.Mutex
	answer   func(attempt int, w http.ResponseWriter, r *http.Request) // Nil answers 204.
	attempts []attempt
}

type attempt struct {
	id, body string
	event    map[string]any
}

// newHook says where a receiver will be; serve starts it.
func newHook(h *house) *hook {
	open := sync.OnceValue(func() *sql.DB {
		db, err := store.Open(h.t.Context(), h.store)
		if err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(func() { _ = db.Close() })
		return db
	})
	return &hook{h: h, addr: freeAddr(h.t), path: "/hook/path-that-nobody-knows", open: open}
}

// config is the issuer's, as an edit.
func (k *hook) config() []string {
	return []string{"drain_timeout: 2s\nproviders", "drain_timeout: 2s\nalerts: {webhook: 'http://" + k.addr + k.path + "', secret: " + hookSecret + ", timeout: 2s}\n" +
		"admins: [{provider: corp, subjects: [grace]}]\nproviders"}
}

// serve listens until stop is called, or the test ends.
func (k *hook) serve() (stop func()) {
	srv := httptest.NewUnstartedServer(k)
	srv.Listener.Close()
	srv.Listener = listenAt(k.h.t, k.addr)
	srv.Start()
	stop = sync.OnceFunc(srv.Close)
	k.h.t.Cleanup(stop)
	return stop
}

func (k *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = k.verify(r, body)
	}
	a := attempt{id: r.Header.Get("webhook-id"), body: string(body)}
	if err := errors.Join(err, json.Unmarshal(body, &a.event)); err != nil {
		k.h.t.Errorf("the receiver got %v %s: %v", r.Header, body, err)
	}
	k.mu.Lock()
	k.attempts = append(k.attempts, a)
	n, answer := len(k.attempts), k.answer
	k.mu.Unlock()
	if answer != nil {
		answer(n, w, r)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// verify follows the specification's chapter on verifying:
// https://github.com/standard-webhooks/standard-webhooks.
func (k *hook) verify(r *http.Request, body []byte) error {
	id, timestamp := r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp")
	at, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || k.h.now().Sub(time.Unix(at, 0)).Abs() > 5*time.Minute {
		return fmt.Errorf("the timestamp is %q", timestamp)
	}
	if r.Method != http.MethodPost || r.URL.Path != k.path || r.Header.Get("Content-Type") != "application/json" {
		return fmt.Errorf("%s %s, %s", r.Method, r.URL, r.Header.Get("Content-Type"))
	}
	mac := hmac.New(sha256.New, hookKey)
	mac.Write([]byte(id + "." + timestamp + "." + string(body)))
	for signature := range strings.FieldsSeq(r.Header.Get("webhook-signature")) {
		version, encoded, _ := strings.Cut(signature, ",")
		if got, err := base64.StdEncoding.DecodeString(encoded); version == "v1" && err == nil && hmac.Equal(got, mac.Sum(nil)) {
			return nil
		}
	}
	return errors.New("no signature fits")
}

// answers has the receiver answer otherwise from now on.
func (k *hook) answers(answer func(attempt int, w http.ResponseWriter, r *http.Request)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.answer = answer
}

func (k *hook) seen() []attempt {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.attempts)
}

// await waits until n attempts were made, and returns the last.
func (k *hook) await(n int) attempt {
	k.h.t.Helper()
	k.h.await(fmt.Sprintf("attempt %d to tell of something", n), func() bool { return len(k.seen()) >= n })
	return k.seen()[n-1]
}

// sent waits until nothing more waits to be sent.
func (k *hook) sent() {
	k.h.t.Helper()
	k.h.await("all alerts to be sent", func() bool {
		var n int
		if err := k.open().QueryRowContext(k.h.t.Context(), `SELECT count(*) FROM alerts`).Scan(&n); err != nil {
			k.h.t.Fatal(err)
		}
		return n == 0
	})
}

// quiet fails if anything but the first n was sent, or still waits to be.
func (k *hook) quiet(why string, n int) {
	k.h.t.Helper()
	k.sent()
	if all := k.seen(); len(all) != n {
		k.h.t.Errorf("%s: there were %d attempts, want %d: %v", why, len(all), n, all[min(n, len(all)):])
	}
}

// count asks the issuer's store for a number.
func (h *house) count(query string, args ...any) (n int) {
	h.t.Helper()
	h.inStore(func(db *sql.DB) {
		if err := db.QueryRowContext(h.t.Context(), query, args...).Scan(&n); err != nil {
			h.t.Fatal(err)
		}
	})
	return n
}

func (h *house) inStore(do func(*sql.DB)) {
	h.t.Helper()
	db, err := store.Open(h.t.Context(), h.store)
	if err != nil {
		h.t.Fatal(err)
	}
	defer db.Close()
	do(db)
}

// TestAlertArrives: whatever the receiver does, it has the alert in the end,
// once, signed each time anew.
func TestAlertArrives(t *testing.T) {
	h := newHouse(t)
	k := newHook(h)
	h.startPrograms(k.config()...)
	key := h.makeKey(nil, 100*24*time.Hour)
	h.reportLeak(t, `{"key":"`+key.Secret+`"}`)
	h.await("the refused connection to be noted", func() bool { return strings.Contains(h.logs.String(), `"msg":"an alert was not taken"`) })

	released := make(chan struct{})
	defer close(released)
	const failures = 5
	k.answers(func(attempt int, w http.ResponseWriter, r *http.Request) {
		switch attempt {
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
		case 2:
			http.Redirect(w, r, k.path, http.StatusTemporaryRedirect)
		case 3:
			<-released // Longer than the issuer waits.
		case 4:
			panic(http.ErrAbortHandler)
		case failures:
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	k.serve()
	for n := 1; n <= failures+1; n++ {
		h.clock.Add(int64(alert.MaxPause))
		k.await(n)
		if n <= failures {
			// The next pause starts when this attempt has failed.
			h.await("the failure to be noted", func() bool { return strings.Count(h.logs.String(), `"msg":"an alert was not taken"`) > n })
		}
	}
	k.quiet("after it was taken", failures+1)
	for _, a := range k.seen() {
		if first := k.seen()[0]; a.id != first.id || a.body != first.body || a.id != a.event["id"] {
			t.Errorf("an attempt was %+v, the first %+v", a, first)
		}
	}
	if log := h.logs.String(); strings.Contains(log, k.path) || strings.Contains(log, key.Secret) || !strings.Contains(log, `"alarm":"key.quarantined"`) {
		t.Error("the log holds the webhook's path or the key, or not the alarm")
	}
}

// TestAlertSurvivesKill: an issuer that is killed between commit and sending, or
// while it sends, has not taken the alert along.
func TestAlertSurvivesKill(t *testing.T) {
	h := newHouse(t)
	k := newHook(h)
	h.writeConfigs(k.config())
	config := filepath.Join(h.dir, "issuer.yaml")
	if out, err := exec.Command(binary(t, "hourpass-issuer"), "init", "--config", config).CombinedOutput(); err != nil {
		t.Fatalf("init: %v: %s", err, out)
	}
	issuer := h.process("hourpass-issuer", config)
	h.awaitReady(h.issuerOps)
	key := h.makeKey(nil, 100*24*time.Hour)

	released := make(chan struct{})
	k.answers(func(int, http.ResponseWriter, *http.Request) { <-released })
	stop := k.serve()
	h.reportLeak(t, `{"key":"`+key.Secret+`"}`)
	first := k.await(1)
	if err := issuer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = issuer.Wait() // It was killed.
	close(released)
	stop()
	if n := h.count(`SELECT count(*) FROM alerts WHERE id LIKE 'webhook/%'`); n != 1 {
		t.Fatalf("%d alerts wait after the kill, want 1", n)
	}

	k.answers(nil)
	k.serve()
	h.clock.Add(int64(alert.Lease)) // For so long it might still have been sending.
	h.start("issuer", issuerd.Run)
	if again := k.await(2); again.id != first.id || again.body != first.body {
		t.Errorf("after the kill it sent %+v, before %+v", again, first)
	}
	k.quiet("after the kill", 2)
}

// startTwo starts a second issuer on the house's store.
func (h *house) startTwo() {
	h.t.Helper()
	ops := "http://" + freeAddr(h.t)
	h.start("second", func(ctx context.Context, o program.Options) error {
		o.Config = filepath.Join(h.dir, "issuer.yaml")
		o.Sets = []string{"listen=" + freeAddr(h.t), "ops_listen=" + strings.TrimPrefix(ops, "http://"), "audit=" + filepath.Join(h.dir, "second-audit.jsonl")}
		return issuerd.Run(ctx, o)
	})
	h.t.Cleanup(func() { h.stop("second") })
	h.await("the second issuer", func() bool { status, _ := h.readyz(ops); return status == http.StatusOK })
}

const day = 24 * time.Hour

// TestNotices: three months of two issuers, and what the owners of all kinds of
// keys are told on which of them.
func TestNotices(t *testing.T) {
	h := newHouse(t)
	k := newHook(h)
	k.serve()
	h.startPrograms(append(k.config(), "key_encryption_key:", "rotation_grace: 240h\nkey_encryption_key:")...)
	keys := h.keyStore()
	begin := h.now()
	names := map[string]string{}
	make := func(name string, at time.Time, life time.Duration) key {
		t.Helper()
		made, secret, err := keys.Create(t.Context(), policy.Key{
			Owner: "forge:" + name, Team: "team " + name, Grants: []string{"faq"}, Bindings: []policy.Binding{{Issuer: h.forge.url, Subject: "ada"}},
		}, life, at, nil)
		if err != nil {
			t.Fatal(err)
		}
		names[made.ID] = name
		return key{made, secret}
	}
	update := func(k key, change func(*policy.Key)) {
		t.Helper()
		if _, err := keys.Update(t.Context(), k.ID, 0, func(k *policy.Key) error { change(k); return nil }, nil); err != nil {
			t.Fatal(err)
		}
	}
	// Overdue since before the story: it is told of every day, which shows that
	// somebody has looked.
	clock := make("clock", begin.Add(-90*day), 365*day)
	year := make("year", begin, 365*day)
	make("quarter", begin, 90*day)
	make("month", begin, 30*day)
	make("five days", begin, 5*day)
	make("a day", begin, day)
	moved := make("moved", begin, 20*day)
	update(make("disabled", begin, 90*day), func(k *policy.Key) { k.State = policy.Disabled })
	update(make("quarantined", begin, 40*day), func(k *policy.Key) { k.State = policy.Quarantined })
	long := make("long gone", begin.Add(-100*day), 90*day)
	make("just gone", begin.Add(-60*day), 58*day)
	later := make("kept", begin, 50*day)
	renewed := make("renewed", begin, 60*day)

	// A page of keys is no limit.
	for range policy.MaxPage {
		make("one of many", begin, day)
	}
	h.startTwo()

	// Not every day, for the test's sake: nobody looks on the others.
	days := []int{0, 1, 2, 4, 5, 6, 10, 12, 13, 14, 15, 18, 19, 20, 21, 23, 24, 29, 30, 31, 37, 38, 42, 43, 44, 45, 49, 51, 59, 60, 61, 83, 84, 89, 90, 91, 92, 93, 94, 99}
	today := 0
	changes := map[int]func(){
		14: func() { update(moved, func(k *policy.Key) { k.ExpiresAt = k.CreatedAt.Add(44 * day) }) }, // The notices start again.
		42: func() {
			update(later, func(k *policy.Key) { k.State = policy.Revoked })
			// A secret for the 18 days that are left; then the key gets more.
			if _, _, err := keys.Rotate(t.Context(), renewed.ID, 0, 0, h.now(), nil); err != nil {
				t.Fatal(err)
			}
			update(renewed, func(k *policy.Key) { k.ExpiresAt = k.CreatedAt.Add(100 * day) })
		},
		51: func() {}, // They are only started again.
		93: func() {
			if _, _, err := keys.Rotate(t.Context(), year.ID, 0, 0, h.now(), nil); err != nil {
				t.Fatal(err)
			}
		},
	}
	for _, d := range days {
		change := changes[d]
		if change != nil {
			h.stop("issuer") // So that it is clear who has looked before, and who after.
			h.stop("second")
		}
		h.clock.Add(int64(d-today) * int64(day))
		today = d
		if change != nil {
			change()
			h.start("issuer", issuerd.Run)
			h.startTwo()
		}
		want := fmt.Sprintf("%d clock key.rotation_overdue", d)
		h.await("notices of day "+strconv.Itoa(d), func() bool { return slices.Contains(k.notices(begin, names), want) })
		k.sent()
	}
	var want []string
	add := func(day int, what string) { want = append(want, fmt.Sprintf("%d %s", day, what)) }
	for _, d := range days {
		add(d, "clock key.rotation_overdue")
	}
	for _, d := range []int{30, 83, 93, 99} {
		add(d, "renewed key.expiring")
	}
	for _, d := range []int{60, 83, 89} {
		add(d, "year key.rotation_due")
		add(d, "quarter key.expiring")
	}
	for _, d := range []int{90, 91, 92} {
		add(d, "year key.rotation_overdue")
	}
	add(90, "quarter key.expired")
	for _, d := range []int{23, 29} {
		add(d, "month key.expiring")
	}
	add(30, "month key.expired")
	add(4, "five days key.expiring")
	add(5, "five days key.expired")
	add(1, "a day key.expired")
	for _, d := range []int{13, 14, 37, 43} {
		add(d, "moved key.expiring")
	}
	add(44, "moved key.expired")
	add(0, "just gone key.expired")
	add(20, "kept key.expiring")
	for range policy.MaxPage {
		add(1, "one of many key.expired")
	}
	slices.Sort(want)
	got := k.notices(begin, names)
	for _, line := range slices.Compact(slices.Concat(got, want)) {
		count := func(list []string) (n int) {
			for _, l := range list {
				if l == line {
					n++
				}
			}
			return n
		}
		if count(got) != count(want) {
			t.Errorf("day and notice %q: given %d times, want %d", line, count(got), count(want))
		}
	}
	ids := map[string]bool{}
	for _, a := range k.seen() {
		if ids[a.id] {
			t.Errorf("event %s was sent twice", a.id)
		}
		ids[a.id] = true
		if a.event["key_id"] == long.ID {
			t.Errorf("what was over long ago is told: %s", a.body)
		}
	}
	h.checkNotice(k, year.ID, "key.rotation_due", map[string]any{
		"owner": "forge:year", "team": "team year", "severity": "info", "due_at": year.CreatedAt.Add(90 * day).Format(time.RFC3339),
		"text": "Machine key " + year.ID + " wants a new secret within 30 days.",
	})
	h.checkNotice(k, clock.ID, "key.rotation_overdue", map[string]any{
		"severity": "warning", "text": "Machine key " + clock.ID + " is overdue for rotation. It gets no tokens from " +
			clock.RotateAfter.Add(240*time.Hour).Format(time.RFC3339) + " on.",
	})
	if n := h.count(`SELECT count(*) FROM notices WHERE sent_at < $1`, h.now().Add(-61*day).Unix()); n != 0 {
		t.Errorf("%d notices are kept for ever", n)
	}
}

// notices are "DAY KEY KIND" of what the receiver got, sorted.
func (k *hook) notices(begin time.Time, names map[string]string) (list []string) {
	for _, a := range k.seen() {
		at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(a.event["time"]))
		if err != nil {
			k.h.t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%d %s %s", int(at.Sub(begin)/day), names[fmt.Sprint(a.event["key_id"])], a.event["kind"]))
	}
	slices.Sort(list)
	return list
}

// checkNotice looks at the first event of that key and kind.
func (h *house) checkNotice(k *hook, id, kind string, want map[string]any) {
	h.t.Helper()
	for _, a := range k.seen() {
		if a.event["key_id"] == id && a.event["kind"] == kind {
			for name, v := range want {
				if a.event[name] != v {
					h.t.Errorf("%s of a %s is %v, want %v", name, kind, a.event[name], v)
				}
			}
			return
		}
	}
	h.t.Errorf("there is no %s of %s", kind, id)
}

// TestAlarms: what an attacker or an admin does is told to those whose it is.
func TestAlarms(t *testing.T) {
	h := newHouse(t)
	k := newHook(h)
	k.serve()
	h.startPrograms(k.config()...)
	is := func(n int, want map[string]any) {
		t.Helper()
		e := k.await(n).event
		for name, v := range want {
			if e[name] != v {
				t.Errorf("%s of alert %d is %v, want %v: %v", name, n, e[name], v, e)
			}
		}
		// Whoever asks finds more in the audit.
		all := h.records("issuer")
		if decision := all[len(all)-1].Decision; want["reason"] != "overflow" && e["decision_id"] != decision {
			t.Errorf("alert %d is of decision %v, want %s", n, e["decision_id"], decision)
		}
	}

	// An assertion that comes again: once an hour, however often.
	key := h.makeKey(func(k *policy.Key) { k.Team = "search" }, 100*24*time.Hour)
	assertion := func() string { return h.forge.sign(h.forge.good(h.now()), nil) }
	replay := func() {
		t.Helper()
		a := assertion()
		var tok tokens
		h.mustPost("/token", key.Secret, exchangeForm(a), &tok)
		h.refused("again", key.Secret, exchangeForm(a, "scope", "chat:faq-bot"), "invalid_request", "replayed")
	}
	replay()
	is(1, map[string]any{"kind": "replay", "reason": "assertion", "severity": "critical", "key_id": key.ID, "owner": "forge:ada", "team": "search"})
	replay()
	k.quiet("another within the hour", 1)

	// A refresh token that comes again.
	l := h.logIn("ada", "lovelace")
	mine := h.makeKey(func(k *policy.Key) { k.Bindings[0].Issuer = h.idpURL }, 100*24*time.Hour)
	h.refresh(mine, l.Refresh)
	h.pass(31 * time.Second)
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {l.Refresh}}
	h.refused("an old refresh token", mine.Secret, form, "invalid_grant", "session")
	is(2, map[string]any{"kind": "replay", "reason": "refresh_token", "severity": "critical", "key_id": mine.ID, "owner": "corp:ada"})
	h.refused("once more", mine.Secret, form, "invalid_grant", "session")
	k.quiet("a login that is over", 2)

	// Revocations: those of one token or key are nobody else's matter.
	admin := h.logIn("grace", "hopper")
	revoke := func(body string) {
		t.Helper()
		if status, answer := h.api(http.MethodPost, "/v1/revocations", admin.Access, body); status != http.StatusCreated {
			t.Fatalf("revoking %s: %d %s", body, status, answer)
		}
	}
	revoke(`{"what":"token","value":"x"}`)
	revoke(`{"what":"key","value":"` + key.ID + `"}`)
	k.quiet("a token and a key", 2)
	revoke(`{"what":"grant","value":"faq"}`)
	is(3, map[string]any{"kind": "tokens.revoked", "reason": "grant", "by": "corp:grace", "severity": "warning"})
	revoke(`{"what":"signing_key","value":"kid"}`)
	is(4, map[string]any{"kind": "tokens.revoked", "reason": "signing_key", "by": "corp:grace"})
	revoke(`{"what":"identity","value":"corp:ada"}`)
	is(5, map[string]any{"kind": "tokens.revoked", "reason": "identity", "owner": "corp:ada", "by": "corp:grace"})
	revoke(`{"what":"all"}`)
	is(6, map[string]any{"kind": "tokens.revoked", "reason": "all", "severity": "critical", "by": "corp:grace"})

	// A signing key in the wrong hands.
	var set struct {
		Keys []struct {
			KID string `json:"kid"`
		} `json:"keys"`
	}
	_, doc := h.send(h.request(http.MethodGet, "/jwks.json", "", ""))
	if err := json.Unmarshal(doc, &set); err != nil {
		t.Fatal(err)
	}
	kid := set.Keys[0].KID
	if status, answer := h.api(http.MethodPost, "/v1/signing-keys/"+kid+"/taint", admin.Access, ""); status != http.StatusOK {
		t.Fatalf("tainting: %d %s", status, answer)
	}
	is(7, map[string]any{"kind": "signing_key.tainted", "reason": "tainted", "severity": "critical", "by": "corp:grace"})
	if text := fmt.Sprint(k.seen()[6].event["text"]); !strings.Contains(text, kid) {
		t.Errorf("the text is %q, want the kid", text)
	}

	// So much is revoked that all is.
	h.inStore(func(db *sql.DB) {
		err := store.Tx(t.Context(), db, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10001)
				INSERT INTO revocations (generation, what, value, not_before, until, reason)
				SELECT 1000 + i, 'token', 't' || i, $1, $2, '' FROM n`, h.now().Unix(), h.now().Add(time.Hour).Unix())
			if err == nil {
				_, err = tx.ExecContext(t.Context(), `UPDATE counters SET value = 20000 WHERE name = 'revocations'`)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	is(8, map[string]any{"kind": "tokens.revoked", "reason": "overflow", "severity": "critical"})
	h.pass(time.Minute) // The document is signed anew.
	k.quiet("the same again", 8)

	// An hour later a replay is news again.
	h.pass(time.Hour)
	h.await("the provider's keys to be fetched", func() bool {
		status, _ := h.post("/token", key.Secret, exchangeForm(assertion()))
		return status == http.StatusOK
	})
	replay()
	is(9, map[string]any{"kind": "replay", "reason": "assertion", "key_id": key.ID})
}

// TestAlarmWithoutStore: a refusal stands when nobody can be told, and the log
// says so.
func TestAlarmWithoutStore(t *testing.T) {
	h := startHouse(t)
	k := h.makeKey(nil, time.Hour)
	a := h.forge.sign(h.forge.good(h.now()), nil)
	var tok tokens
	h.mustPost("/token", k.Secret, exchangeForm(a), &tok)
	h.inStore(func(db *sql.DB) {
		if _, err := db.ExecContext(t.Context(), `ALTER TABLE notices RENAME TO elsewhere`); err != nil {
			t.Fatal(err)
		}
	})
	h.refused("again", k.Secret, exchangeForm(a, "scope", "chat:faq-bot"), "invalid_request", "replayed")
	if !strings.Contains(h.logs.String(), `"msg":"keeping an alert","alarm":"replay","reason":"assertion","key":"`+k.ID) {
		t.Error("the log says nothing")
	}
}

// TestAlertSettings: what is wrong with them is told before the issuer starts,
// without the secret.
func TestAlertSettings(t *testing.T) {
	h := newHouse(t)
	validate := func(alerts string) error {
		h.writeConfigs([]string{"drain_timeout: 2s\nproviders", "alerts: " + alerts + "\nproviders"})
		return issuerd.Validate(t.Context(), h.options("issuer.yaml"))
	}
	for _, good := range []string{`{}`, `{webhook: "https://example.com/x", secret: ` + hookSecret + `}`, `{webhook: "http://127.0.0.1:1", secret: ` + hookSecret + `, timeout: 30s}`} {
		if err := validate(good); err != nil {
			t.Errorf("alerts: %s: %v", good, err)
		}
	}
	for alerts, want := range map[string]string{
		`{webhook: "https://example.com/x"}`:                                          "alerts.secret: want whsec_",
		`{secret: ` + hookSecret + `}`:                                                "alerts.secret: signs",
		`{webhook: "https://example.com/x", secret: my-own-password}`:                 "alerts.secret: want whsec_",
		`{webhook: "http://example.com/x", secret: ` + hookSecret + `}`:               "alerts.webhook: want https://",
		`{webhook: "https://example.com/x", secret: ` + hookSecret + `, timeout: 1m}`: "alerts.timeout: want up to 30s",
		`{webhook: "ftp://my-own-password", secret: my-own-password}`:                 "alerts.webhook: want",
	} {
		err := validate(alerts)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "my-own-password") {
			t.Errorf("alerts: %s: %v, want %s", alerts, err, want)
		}
	}
}
