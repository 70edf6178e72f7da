package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/hourpass/hourpass/internal/store"
)

// document asks for the revocations and verifies them with a library that is not
// the issuer's.
func (h *house) document(query string, headers ...string) (*http.Response, claims) {
	h.t.Helper()
	req := h.request(http.MethodGet, "/revocations"+query, "", "")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return res, nil
	}
	_, keys := h.send(h.request(http.MethodGet, "/jwks.json", "", ""))
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(keys, &set); err != nil {
		h.t.Fatal(err)
	}
	compact, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	signed, err := jose.ParseSignedCompact(string(compact), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		h.t.Fatal(err)
	}
	header := signed.Signatures[0].Protected
	verified, err := signed.Verify(set.Key(header.KeyID)[0])
	if err != nil || header.ExtraHeaders[jose.HeaderType] != "revocations+jwt" {
		h.t.Fatalf("the document does not verify: %v, %v", err, header)
	}
	var c claims
	if err := json.Unmarshal(verified, &c); err != nil {
		h.t.Fatal(err)
	}
	return res, c
}

// TestRevocationDocument: what is revoked is published, signed, at once, to who
// waits for it too.
func TestRevocationDocument(t *testing.T) {
	h := startHouse(t)
	k := wielded{key: h.makeKey(nil, 2*time.Hour)}
	res, empty := h.document("")
	if empty["iss"] != h.issuer || empty.seconds("generation") != 0 || len(empty["entries"].([]any)) != 0 || res.Header.Get("Content-Type") != "application/revocations+jwt" {
		t.Errorf("before anything is revoked: %v, %v", empty, res.Header)
	}
	etag := res.Header.Get("ETag")
	if res, _ := h.document("", "If-None-Match", etag); res.StatusCode != http.StatusNotModified || etag == "" {
		t.Errorf("nothing has changed: %s", res.Status)
	}
	if res, err := http.Head(h.issuer + "/revocations"); err != nil || res.StatusCode != http.StatusOK || res.Header.Get("ETag") != etag {
		t.Errorf("HEAD: %v, %v", res, err)
	}

	type news struct {
		doc claims
		at  time.Time
	}
	waiting := make(chan news)
	go func() {
		_, doc := h.document("?after=0")
		waiting <- news{doc, time.Now()}
	}()
	token := h.forgedToken(k.key)
	revoked := time.Now()
	h.giveBack("a token", k, inHeader, token, "")
	heard := <-waiting
	if took := heard.at.Sub(revoked); took > time.Second || heard.doc.seconds("generation") != 1 {
		t.Errorf("who waits heard of generation %d after %v", heard.doc.seconds("generation"), took)
	}
	entry, _ := heard.doc["entries"].([]any)[0].(map[string]any)
	claim := payload(t, token)
	if entry["what"] != "token" || strings.Contains(fmt.Sprint(entry), claim["jti"].(string)) || int64(entry["until"].(float64)) < claim.seconds("exp") || int64(entry["not_before"].(float64)) <= claim.seconds("iat") {
		t.Errorf("the entry is %v, the token %v", entry, claim)
	}
	if res, doc := h.document("", "If-None-Match", etag); res.StatusCode != http.StatusOK || doc.seconds("generation") != 1 {
		t.Errorf("something has changed: %s %v", res.Status, doc)
	}
	if _, doc := h.document("?after=0"); doc.seconds("generation") != 1 {
		t.Errorf("there was news: %v", doc)
	}
	for _, bad := range []string{"?after=", "?after=-1", "?after=x", "?after=1&after=2", "?before=1", "?after=99999999999999999999"} {
		if res, _ := h.document(bad); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", bad, res.Status)
		}
	}
	// It is signed anew while nothing changes, so that its age says something.
	h.pass(31 * time.Second)
	h.await("a document of now", func() bool {
		_, doc := h.document("")
		return doc.seconds("iat") > heard.doc.seconds("iat")+30 && doc.seconds("generation") == 1
	})
	h.pass(time.Hour)
	h.await("the entry to be forgotten, and the generation to stay", func() bool {
		_, doc := h.document("")
		return doc.seconds("generation") == 1 && len(doc["entries"].([]any)) == 0
	})
	// Who waits when the issuer stops is answered, not cut off.
	asked := make(chan struct{})
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		req := h.request(http.MethodGet, "/revocations?after=1", "", "")
		trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { close(asked) }}
		if res, err := client.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace))); err == nil {
			res.Body.Close()
		}
	}()
	<-asked
	h.send(h.request(http.MethodGet, "/jwks.json", "", "")) // By now it waits, most likely.
	h.stop("issuer")
	if strings.Contains(h.logs.String(), "cutting what still runs") {
		t.Error("the issuer stopped only after its grace")
	}
}

// TestAcknowledge: verifiers say what they enforce, and auditors see who does.
func TestAcknowledge(t *testing.T) {
	h := startHouse(t, "rates:", "auditors: [{provider: corp, subjects: [grace]}]\nrates:")
	first, second, mine := h.verifierKey("models"), h.verifierKey("other-models"), wielded{key: h.makeKey(nil, 2*time.Hour)}
	ack := func(k wielded, body string) int {
		t.Helper()
		req := h.request(http.MethodPost, "/revocations/ack", "application/json", body)
		if k.Secret != "" {
			req.SetBasicAuth(k.ID, k.Secret)
		}
		status, _ := h.send(req)
		return status
	}
	grace, ada := h.logIn("grace", "hopper"), h.logIn("ada", "lovelace")
	list := func() (generation, confirmed, known int) {
		t.Helper()
		status, body := h.api(http.MethodGet, "/v1/verifiers", grace.Access, "")
		var v struct {
			Generation, Confirmed int
			Verifiers             []struct {
				Key  string `json:"key_id"`
				Name string `json:"name"`
			}
		}
		if err := json.Unmarshal(body, &v); err != nil || status != http.StatusOK {
			t.Fatalf("listing verifiers: %d %s", status, body)
		}
		return v.Generation, v.Confirmed, len(v.Verifiers)
	}
	expect := func(why string, generation, confirmed, known int) {
		t.Helper()
		if g, c, n := list(); g != generation || c != confirmed || n != known {
			t.Errorf("%s: %d of %d confirmed generation %d, want %d of %d and %d", why, c, n, g, confirmed, known, generation)
		}
	}
	expect("at first", 0, 0, 0)
	for _, row := range []struct {
		key  wielded
		body string
	}{{first, `{"name":"gpu-7","generation":0}`}, {first, `{"name":"gpu-8","generation":0}`}, {second, `{"name":"gpu-7","generation":0}`}} {
		if status := ack(row.key, row.body); status != http.StatusNoContent {
			t.Errorf("%s: %d", row.body, status)
		}
	}
	expect("all", 0, 3, 3)
	h.giveBack("a token", mine, inHeader, h.forgedToken(mine.key), "")
	expect("after a revocation", 1, 0, 3)
	for why, row := range map[string]struct {
		key    wielded
		body   string
		status int
	}{
		"nobody":                           {wielded{}, `{"name":"gpu-7","generation":1}`, http.StatusUnauthorized},
		"a key that verifies nothing":      {mine, `{"name":"gpu-7","generation":1}`, http.StatusForbidden},
		"a generation that is yet to come": {first, `{"name":"gpu-7","generation":2}`, http.StatusBadRequest},
		"a negative one":                   {first, `{"name":"gpu-7","generation":-1}`, http.StatusBadRequest},
		"none":                             {first, `{"name":"gpu-7"}`, http.StatusBadRequest},
		"no name":                          {first, `{"name":"","generation":1}`, http.StatusBadRequest},
		"a name with a line break":         {first, `{"name":"gpu\n7","generation":1}`, http.StatusBadRequest},
		"a long name":                      {first, `{"name":"` + strings.Repeat("x", 201) + `","generation":1}`, http.StatusBadRequest},
		"another member":                   {first, `{"name":"gpu-7","generation":1,"x":1}`, http.StatusBadRequest},
		"no body":                          {first, ``, http.StatusBadRequest},
	} {
		if status := ack(row.key, row.body); status != row.status {
			t.Errorf("%s: %d, want %d", why, status, row.status)
		}
	}
	expect("after those that do not count", 1, 0, 3)
	if status := ack(first, `{"name":"gpu-8","generation":1}`); status != http.StatusNoContent {
		t.Errorf("an acknowledgement: %d", status)
	}
	expect("one of three", 1, 1, 3)
	if status, body := h.api(http.MethodGet, "/v1/verifiers", ada.Access, ""); status != http.StatusForbidden {
		t.Errorf("ada, who is no auditor, lists verifiers: %d %s", status, body)
	}
	h.pass(10 * time.Minute)
	expect("ten minutes of silence later", 1, 0, 0)
}

// TestRevocationsAreBounded: nobody fills the document, beyond which everything
// is revoked, by saying a thing often or by giving back what is theirs.
func TestRevocationsAreBounded(t *testing.T) {
	h := startHouse(t)
	l := h.logIn("ada", "lovelace")
	k := wielded{key: h.enrol(l, `{"grants":["faq"]}`)}
	for range 20 {
		if status, body := h.api(http.MethodPost, "/v1/keys/"+k.ID+"/disable", l.Access, `{}`); status != http.StatusOK {
			t.Fatalf("disabling: %d %s", status, body)
		}
	}
	_, doc := h.document("")
	if n := len(doc["entries"].([]any)); n != 1 || doc.seconds("generation") != 20 {
		t.Errorf("a key that was disabled 20 times has %d entries, generation %d", n, doc.seconds("generation"))
	}
	mine := wielded{key: h.makeKey(nil, time.Hour)}
	token := h.forgedToken(mine.key)
	for range 10 {
		h.giveBack("a token", mine, inHeader, token, "")
	}
	if _, doc := h.document(""); len(doc["entries"].([]any)) != 2 || doc.seconds("generation") != 21 {
		t.Errorf("a token that was given back ten times: %v", doc)
	}
	// One key gives back so many in an hour, whatever it gets.
	refused := 0
	for range 300 {
		form := url.Values{"token": {h.forgedToken(mine.key)}}
		switch status, body := h.send(h.clientRequest("/revoke", inHeader, mine, form)); status {
		case http.StatusOK:
		case http.StatusTooManyRequests:
			refused++
		default:
			t.Fatalf("giving back: %d %s", status, body)
		}
	}
	if refused < 40 || refused > 50 {
		t.Errorf("of 301 tokens that one key gave back at once, %d were refused", refused)
	}
	// Of all keys together half the document.
	h.fillRevocations(5000)
	other := wielded{key: h.makeKey(nil, time.Hour)}
	h.await("the issuer to see what others revoked", func() bool {
		_, doc := h.document("")
		return len(doc["entries"].([]any)) > 5000
	})
	h.giveBack("one too many", other, inHeader, h.forgedToken(other.key), "temporarily_unavailable")
	if status, body := h.call(h.forgedToken(other.key), "faq-bot"); status != http.StatusOK {
		t.Errorf("a call: %d %s", status, body)
	}
}

// fillRevocations revokes that many tokens, as other issuers would.
func (h *house) fillRevocations(n int) {
	h.t.Helper()
	db, err := store.Open(h.t.Context(), h.store)
	if err != nil {
		h.t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(h.t.Context(), nil)
	if err != nil {
		h.t.Fatal(err)
	}
	var generation int64
	if err := tx.QueryRowContext(h.t.Context(), `UPDATE counters SET value = value + $1 WHERE name = 'revocations' RETURNING value`, n).Scan(&generation); err != nil {
		h.t.Fatal(err)
	}
	for i := range n {
		if _, err := tx.ExecContext(h.t.Context(), `INSERT INTO revocations (generation, what, value, not_before, until, reason) VALUES ($1, 'token', $2, $3, $4, '')`,
			generation-int64(i), fmt.Sprint("token-", i), h.now().Unix(), h.now().Add(time.Hour).Unix()); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		h.t.Fatal(err)
	}
}

// TestRevokedWhileWaiting: a revocation counts from when it is done, not from
// when it was asked for: what was issued while it waited is revoked too.
func TestRevokedWhileWaiting(t *testing.T) {
	h := startHouse(t)
	l := h.logIn("ada", "lovelace")
	k := h.enrol(l, `{"grants":["faq"]}`)
	db, err := store.Open(t.Context(), h.store)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), `UPDATE counters SET value = value WHERE name = 'revocations'`); err != nil {
		t.Fatal(err)
	}
	written, answered := make(chan struct{}), make(chan int)
	go func() {
		req := h.request(http.MethodPost, "/v1/keys/"+k.ID+"/disable", "application/json", `{}`)
		req.Header.Set("Authorization", "Bearer "+l.Access)
		trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { close(written) }}
		status, _ := h.send(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
		answered <- status
	}()
	<-written
	for range 20 { // It has read the clock by now, and if not, the test is only too kind.
		h.send(h.request(http.MethodGet, "/jwks.json", "", ""))
	}
	h.clock.Add(int64(3 * time.Second))
	before := h.now().Unix()
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if status := <-answered; status != http.StatusOK {
		t.Fatalf("disabling: %d", status)
	}
	_, doc := h.document("")
	entry, _ := doc["entries"].([]any)[0].(map[string]any)
	if from := int64(entry["not_before"].(float64)); from <= before {
		t.Errorf("it revokes what was issued before %d, want after %d", from, before)
	}
}
