package e2e

import (
	"database/sql"
	"slices"
	"strings"
	"testing"
	"time"
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

// TestKeyListStrictly: what no key can have is asked for in vain.
func TestKeyListStrictly(t *testing.T) {
	h := startCompany(t)
	d := h.described()
	grace := h.logIn("grace", "hopper")
	for _, bad := range []string{"?owner=a%00", "?owner=*&team=%ff", "?state=%00", "?cursor=1.%00", "?cursor=1", "?limit=0", "?limit=201", "?limit=x"} {
		d.ask(400, "GET", "/v1/keys", grace.Access, "", bad)
	}
}
