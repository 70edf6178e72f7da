package e2e

import (
	"bufio"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
)

// writeRow runs a query as somebody would who can write into the database.
func (h *house) writeRow(query string, args ...any) {
	h.t.Helper()
	h.inStore(func(db *sql.DB) {
		if _, err := db.ExecContext(h.t.Context(), query, args...); err != nil {
			h.t.Fatal(err)
		}
	})
}

// TestForgedKeyHidesNothing: a key that somebody wrote over is alarmed of, told
// to who may see everything, and neither hides the others nor their notices.
func TestForgedKeyHidesNothing(t *testing.T) {
	h := startCompany(t)
	d := h.described()
	grace, eve, ada := h.logIn("grace", "hopper"), h.logIn("eve", "dropper"), h.logIn("ada", "lovelace")
	forged, good := h.enrol(ada, `{"grants":["faq"],"expires_in":1728000}`), h.enrol(ada, `{"grants":["faq"],"expires_in":1728000}`)
	h.writeRow(`UPDATE machine_keys SET grants = '["wide"]', expires_at = expires_at - 1209600 WHERE id = $1`, forged.ID)
	for who, login := range map[string]login{"grace": grace, "eve": eve, "ada": ada} {
		list := d.ask(200, "GET", "/v1/keys", login.Access, "", "?owner="+map[bool]string{true: "*", false: ""}[who != "ada"])
		keys, ids := list["keys"].([]any), []string{}
		for _, k := range keys {
			ids = append(ids, k.(map[string]any)["id"].(string))
		}
		told, _ := list["forged"].([]any)
		if !slices.Equal(ids, []string{good.ID}) || (who == "ada") != (len(told) == 0) || len(told) > 0 && told[0] != forged.ID {
			t.Errorf("%s is told %v and the forged %v, want %s and %s", who, ids, told, good.ID, forged.ID)
		}
	}
	h.pass(15 * 24 * time.Hour) // Of both, the good one's end is near.
	for _, want := range []string{`"alarm":"key.forged"`, `"alarm":"key.expiring"`} {
		h.await(want, func() bool { return strings.Contains(h.logs.String(), want) })
	}
}

// slowly sends the head of a request, has meanwhile done when the issuer asks for
// the body, which is after it has looked at the key, and returns the status.
func (h *house) slowly(method, path, bearer, body string, meanwhile func()) int {
	h.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.issuer, "http://"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: issuer\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		method, path, bearer, len(body)); err != nil {
		h.t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		h.t.Fatalf("%s %s: %q, %v, want 100", method, path, line, err)
	}
	meanwhile()
	if _, err := io.WriteString(conn, body); err != nil {
		h.t.Fatal(err)
	}
	if _, err := in.ReadString('\n'); err != nil { // The blank line behind the 100.
		h.t.Fatal(err)
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode
}

// TestKeyOfAnother: who is slow to say what to change changes nothing, and gets
// no secret, once the key is somebody else's.
func TestKeyOfAnother(t *testing.T) {
	h := startCompany(t)
	d := h.described()
	grace, ada := h.logIn("grace", "hopper"), h.logIn("ada", "lovelace")
	for _, change := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/rotate", `{"overlap":0}`, 412},
		{"PATCH", "", `{"description":"mine"}`, 403},
		{"POST", "/disable", `{"reason":"mine"}`, 403},
		{"DELETE", "", `{"reason":"mine"}`, 403},
	} {
		k := h.enrol(ada, `{"grants":["faq"]}`)
		got := h.slowly(change.method, "/v1/keys/"+k.ID+change.path, ada.Access, change.body, func() {
			d.ask(200, "PATCH", "/v1/keys/{id}", grace.Access, `{"owner":"corp:grace"}`, k.ID)
			d.ask(200, "POST", "/v1/keys/{id}/rotate", grace.Access, `{"overlap":0}`, k.ID)
		})
		if after := h.stateOf(k.ID); got != change.want || after.Version != 3 || after.State != policy.Active || after.Description != "" {
			t.Errorf("%s %s: %d, and the key is %+v, want %d", change.method, change.path, got, after, change.want)
		}
	}
	k := h.enrol(ada, `{"grants":["faq"]}`)
	if status, body := h.api("POST", "/v1/keys/"+k.ID+"/rotate", ada.Access, `{"overlap":60}`); status != 200 {
		t.Errorf("at leisure: %d %s", status, body)
	}
}

// TestKeyListStrictly: what no key can have is asked for in vain.
func TestKeyListStrictly(t *testing.T) {
	h := startCompany(t)
	d := h.described()
	grace := h.logIn("grace", "hopper")
	for _, bad := range []string{"?owner=a%00", "?owner=*&team=%ff", "?state=%00", "?cursor=1.%00", "?cursor=1", "?limit=0", "?limit=201", "?limit=x"} {
		d.ask(400, "GET", "/v1/keys", grace.Access, "", bad)
	}
}

// TestOneIfMatch: of two conditions neither is passed over.
func TestOneIfMatch(t *testing.T) {
	h := startCompany(t)
	ada := h.logIn("ada", "lovelace")
	k := h.enrol(ada, `{"grants":["faq"]}`)
	for _, row := range []struct {
		want int
		tags []string
	}{{http.StatusBadRequest, []string{`"1"`, `"2"`}}, {http.StatusPreconditionFailed, []string{`"2"`}}, {http.StatusOK, []string{`"1"`}}, {http.StatusOK, []string{"*"}}} {
		req := h.request(http.MethodPatch, "/v1/keys/"+k.ID, "application/json", `{"description":"mine"}`)
		req.Header.Set("Authorization", "Bearer "+ada.Access)
		req.Header["If-Match"] = row.tags
		if status, body := h.send(req); status != row.want {
			t.Errorf("If-Match %q: %d %s, want %d", row.tags, status, body, row.want)
		}
	}
}

// TestForgedSessions: who can write into the database, and has a login of their
// own, gets neither another's nor a longer one.
func TestForgedSessions(t *testing.T) {
	h := startCompany(t)
	admin, eve := h.logIn("grace", "hopper"), h.logIn("ada", "lovelace")
	session := func(l login) (id string) {
		_, rest, _ := strings.Cut(l.Access, ".")
		id, _, _ = strings.Cut(rest, ".")
		return id
	}
	k := h.enrol(eve, `{"grants":["faq"]}`)
	me := func(l login) int {
		status, _ := h.api(http.MethodGet, "/v1/keys?owner=*", l.Access, "")
		return status
	}
	if me(admin) != http.StatusOK || me(eve) != http.StatusForbidden {
		t.Fatalf("before: the admin gets %d, eve %d", me(admin), me(eve))
	}

	// Her tokens beside the admin's session.
	h.writeRow(`UPDATE sessions SET access_mac = (SELECT access_mac FROM sessions WHERE id = $1), refresh_mac = (SELECT refresh_mac FROM sessions WHERE id = $1)
		WHERE id = $2`, session(eve), session(admin))
	h.writeRow(`UPDATE sessions SET access_mac = NULL, refresh_mac = NULL WHERE id = $1`, session(eve))
	if status := me(eve); status != http.StatusUnauthorized {
		t.Errorf("with her token in the admin's row: %d, want 401", status)
	}
	h.refused("with her token in the admin's row", k.Secret, refreshForm(eve.Refresh), "invalid_grant", "session")

	// Her device's code beside a session of the admin's.
	d := h.askDevice("x")
	v := h.newVisitor("ada", "lovelace")
	v.enter(d)
	v.answer("approve")
	h.writeRow(`UPDATE device_logins SET session_id = $1 WHERE state = 'approved'`, session(admin))
	if status, body := h.post("/token", "", pollForm(d)); status == http.StatusOK {
		t.Errorf("with the admin's session for her device: %d %s", status, body)
	}

	// More time.
	late := h.logIn("ada", "lovelace")
	h.pass(11 * time.Minute)
	h.writeRow(`UPDATE sessions SET access_ends_at = access_ends_at + 86400, ends_at = ends_at + 864000`)
	if status, body := h.api(http.MethodPost, "/v1/keys", late.Access, `{"grants":["faq"]}`); status != http.StatusUnauthorized || !strings.Contains(string(body), "insufficient_user_authentication") {
		t.Errorf("as a fresh login: %d %s", status, body)
	}
	h.pass(time.Hour)
	if status := me(late); status != http.StatusUnauthorized {
		t.Errorf("after its hour: %d, want 401", status)
	}
	h.pass(11 * time.Hour)
	h.refused("after the session's end", k.Secret, refreshForm(late.Refresh), "invalid_grant", "session")
}
