package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/revocation"
)

// startCompany is a house in which grace is an admin, eve an auditor and ada
// neither. wide is a grant that only grace may hold.
func startCompany(t *testing.T) *house {
	t.Helper()
	return startHouse(t, "providers:\n", "admins: [{provider: corp, subjects: [grace]}]\nauditors: [{provider: corp, subjects: [eve]}]\nproviders:\n",
		"default: [chat:faq-bot]\n    max_lifetime: 10m\n    members:\n      - {provider: corp, groups: [faq-users]}",
		"default: [chat:faq-bot]\n    max_lifetime: 10m\n    members:\n      - {provider: corp, subjects: [grace]}")
}

// described is a house whose API is held to its OpenAPI document.
type described struct {
	*house
	schemas *jsonschema.Compiler
	doc     map[string]any
}

func (h *house) described() *described {
	h.t.Helper()
	_, body := h.api(http.MethodGet, "/openapi.json", "", "")
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("openapi.json", parsed); err != nil {
		h.t.Fatal(err)
	}
	return &described{h, c, parsed.(map[string]any)}
}

// ask sends a request and wants that status, and an answer as described. path is
// the template, of which the braces are filled with values in order.
func (d *described) ask(want int, method, path, bearer, body string, values ...string) map[string]any {
	d.t.Helper()
	target, header := path, ""
	for _, v := range values {
		if rest, ok := strings.CutPrefix(v, "If-Match: "); ok {
			header = rest
			continue
		}
		if strings.HasPrefix(v, "?") {
			target += v
			continue
		}
		i, j := strings.IndexByte(target, '{'), strings.IndexByte(target, '}')
		target = target[:i] + v + target[j+1:]
	}
	req, err := http.NewRequest(method, d.issuer+target, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if header != "" {
		req.Header.Set("If-Match", header)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	if res.StatusCode != want {
		d.t.Errorf("%s %s: %d %s, want %d", method, target, res.StatusCode, answer, want)
	}
	if res.StatusCode == http.StatusUnauthorized && !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), "Bearer ") {
		d.t.Errorf("%s %s: WWW-Authenticate %q", method, target, res.Header.Get("WWW-Authenticate"))
	}
	operation := d.doc["paths"].(map[string]any)[path].(map[string]any)[strings.ToLower(method)].(map[string]any)
	key := strconv.Itoa(res.StatusCode)
	response, ok := operation["responses"].(map[string]any)[key].(map[string]any)
	if !ok {
		key = "default"
		response = operation["responses"].(map[string]any)[key].(map[string]any)
	}
	content, ok := response["content"].(map[string]any)
	if !ok {
		if len(answer) > 0 {
			d.t.Errorf("%s %s: an answer that is not described: %s", method, target, answer)
		}
		return nil
	}
	if _, ok := content[res.Header.Get("Content-Type")]; !ok {
		d.t.Errorf("%s %s: Content-Type %s is not described", method, target, res.Header.Get("Content-Type"))
		return nil
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	schema, err := d.schemas.Compile("openapi.json#/paths/" + escape.Replace(path) + "/" + strings.ToLower(method) + "/responses/" + key + "/content/" +
		escape.Replace(res.Header.Get("Content-Type")) + "/schema")
	if err != nil {
		d.t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(answer))
	if err == nil {
		err = schema.Validate(value)
	}
	if err != nil {
		d.t.Errorf("%s %s: %s is not as described: %v", method, target, answer, err)
	}
	object, _ := value.(map[string]any)
	return object
}

// TestKeysAPI walks a key's life through the API, with every answer held to the
// OpenAPI document.
func TestKeysAPI(t *testing.T) {
	h := startCompany(t)
	d := h.described()
	ada, grace, eve := h.logIn("ada", "lovelace").Access, h.logIn("grace", "hopper").Access, h.logIn("eve", "dropper").Access

	for who, role := range map[string]string{ada: "member", grace: "admin", eve: "auditor"} {
		if me := d.ask(200, "GET", "/v1/me", who, ""); me["role"] != role || me["fresh_login"] != true {
			t.Errorf("me: %v, want role %s", me, role)
		}
	}
	made := d.ask(201, "POST", "/v1/keys", ada, `{"grants":["faq"],"description":"laptop","limits":{"tokens/day":1000},"params":{"max_tokens":100,"temperature":[0,1]},"ip_ranges":["10.0.0.0/8"]}`)
	id := made["id"].(string)
	d.ask(200, "GET", "/v1/keys/{id}", ada, "", id)

	// Who sees and may do what.
	d.ask(200, "GET", "/v1/keys/{id}", grace, "", id)
	d.ask(200, "GET", "/v1/keys/{id}", eve, "", id)
	stranger := d.ask(201, "POST", "/v1/keys", grace, `{"grants":["wide"],"team":"ops"}`)["id"].(string)
	d.ask(404, "GET", "/v1/keys/{id}", ada, "", stranger)
	d.ask(404, "GET", "/v1/keys/{id}", ada, "", "0000000000000000")
	for _, action := range []string{"disable", "enable", "revoke", "rotate"} {
		d.ask(403, "POST", "/v1/keys/{id}/"+action, eve, "{}", id)
		d.ask(404, "POST", "/v1/keys/{id}/"+action, ada, "{}", stranger)
	}
	d.ask(403, "PATCH", "/v1/keys/{id}", eve, `{"description":"x"}`, id)
	d.ask(403, "DELETE", "/v1/keys/{id}", eve, "", id)
	d.ask(403, "DELETE", "/v1/keys/{id}/secrets/{number}", eve, "", id, "1")
	d.ask(404, "DELETE", "/v1/keys/{id}", ada, "", stranger)
	for _, path := range []string{"/v1/revocations", "/v1/verifiers", "/v1/signing-keys"} {
		d.ask(403, "GET", path, ada, "")
		d.ask(200, "GET", path, eve, "")
		d.ask(200, "GET", path, grace, "")
		d.ask(401, "GET", path, "", "")
	}
	d.ask(403, "POST", "/v1/signing-keys/rotate", eve, "")
	d.ask(403, "POST", "/v1/revocations", eve, `{"what":"all"}`)
	d.ask(403, "GET", "/v1/keys", ada, "", "?owner=*")
	if list := d.ask(200, "GET", "/v1/keys", eve, "", "?owner=*&limit=1"); len(list["keys"].([]any)) != 1 || list["next_cursor"] == nil {
		t.Errorf("the first page: %v", list)
	} else if next := d.ask(200, "GET", "/v1/keys", eve, "", "?owner=*&limit=1&cursor="+list["next_cursor"].(string)); len(next["keys"].([]any)) != 1 || next["next_cursor"] != nil {
		t.Errorf("the second page: %v", next)
	}
	d.ask(400, "GET", "/v1/keys", ada, "", "?limit=0")
	d.ask(400, "GET", "/v1/keys", ada, "", "?cursor=x")
	d.ask(400, "GET", "/v1/keys", ada, "", "?colour=red")

	// Of two that change a key, the second must have seen the first's change.
	d.ask(200, "PATCH", "/v1/keys/{id}", ada, `{"description":"desktop"}`, id, `If-Match: "1"`)
	all := h.records("issuer")
	if last := all[len(all)-1]; last.Event != "key.edit" || last.Key != id || last.Identity != "corp:ada" || len(last.Change) != 1 || last.Change["description"] != `"laptop" → "desktop"` {
		t.Errorf("the record of the change is %+v", last)
	}
	d.ask(412, "PATCH", "/v1/keys/{id}", ada, `{"description":"laptop"}`, id, `If-Match: "1"`)
	d.ask(400, "PATCH", "/v1/keys/{id}", ada, `{"description":"laptop"}`, id, `If-Match: 2`)

	// Rotation: two secrets, not three.
	if rotated := d.ask(200, "POST", "/v1/keys/{id}/rotate", ada, `{"overlap":3600}`, id); rotated["key"] == nil || len(rotated["secrets"].([]any)) != 2 {
		t.Errorf("rotated: %v", rotated)
	}
	d.ask(409, "POST", "/v1/keys/{id}/rotate", ada, `{"overlap":3600}`, id)
	d.ask(200, "DELETE", "/v1/keys/{id}/secrets/{number}", ada, "", id, "1")
	d.ask(409, "DELETE", "/v1/keys/{id}/secrets/{number}", ada, "", id, "3")

	// An owner enables what they disabled, not what an admin did.
	d.ask(200, "POST", "/v1/keys/{id}/disable", ada, `{"reason":"holiday"}`, id)
	d.ask(200, "POST", "/v1/keys/{id}/enable", ada, "", id)
	d.ask(200, "POST", "/v1/keys/{id}/disable", grace, `{"reason":"odd use"}`, id)
	d.ask(403, "POST", "/v1/keys/{id}/enable", ada, "", id)
	d.ask(200, "POST", "/v1/keys/{id}/enable", grace, "", id)

	// What is revoked is so for ever; what is deleted is listed no more.
	d.ask(200, "POST", "/v1/keys/{id}/revoke", ada, `{}`, id)
	d.ask(409, "POST", "/v1/keys/{id}/enable", grace, "", id)
	d.ask(200, "DELETE", "/v1/keys/{id}", ada, "", id)
	d.ask(409, "PATCH", "/v1/keys/{id}", grace, `{"description":"x"}`, id)
	if list := d.ask(200, "GET", "/v1/keys", ada, ""); len(list["keys"].([]any)) != 0 {
		t.Errorf("a deleted key is listed: %v", list)
	}
	d.ask(201, "POST", "/v1/revocations", grace, `{"what":"identity","value":"corp:nobody","reason":"drill"}`)
	d.ask(400, "POST", "/v1/revocations", grace, `{"what":"identity"}`)
	d.ask(400, "POST", "/v1/revocations", grace, `{"what":"everything"}`)
	d.ask(200, "GET", "/v1/revocations", eve, "")

	// All of a person's logins end at once.
	d.ask(204, "POST", "/v1/me/logout", ada, "")
	d.ask(401, "GET", "/v1/me", ada, "")
	d.ask(200, "GET", "/v1/me", grace, "")
}

// TestWidening: to narrow a key takes a login, to widen it in any one dimension a
// fresh one, and what one may hold oneself.
func TestWidening(t *testing.T) {
	h := startCompany(t)
	d := h.described()
	l := h.logIn("ada", "lovelace")
	narrow := `{"grants":["faq"],"expires_in":7200,"ip_ranges":["10.0.0.0/8"],"limits":{"tokens/day":1000},"params":{"max_tokens":100}}`
	k := h.enrol(l, narrow)
	self := fmt.Sprintf(`{"issuer":%q,"subject":"ada"}`, h.idpURL)
	robot := fmt.Sprintf(`{"issuer":%q,"subject":"robot"}`, h.forge.url)
	narrower := map[string]string{
		"networks": `{"ip_ranges":["10.1.0.0/16"]}`, "limits": `{"limits":{"tokens/day":10,"concurrent":1}}`, "parameters": `{"params":{"max_tokens":10}}`,
		"life": `{"expires_in":3600}`, "bindings": `{"bindings":[` + self + `]}`, "description": `{"description":"mine"}`,
	}
	wider := map[string]string{
		"networks": `{"ip_ranges":["10.0.0.0/8","192.0.2.0/24"]}`, "any network": `{"ip_ranges":null}`, "limits": `{"limits":{"tokens/day":1001}}`, "no limits": `{"limits":null}`,
		"parameters": `{"params":{"max_tokens":101}}`, "clamping": `{"params":{"max_tokens":10,"clamp":true}}`, "no parameters": `{"params":null}`,
		"life": `{"expires_in":7300}`, "bindings": `{"bindings":[` + self + `,` + robot + `]}`, "team": `{"team":"other"}`,
	}
	never := map[string]string{
		"a grant of others": `{"grants":["faq","wide"]}`, "a grant that is not": `{"grants":["faq","gone"]}`, "no identity": `{"identity":"none"}`,
		"a verifier's rights": `{"verifier_for":["models"]}`, "another owner": `{"owner":"corp:grace"}`,
		"somebody else's identity": fmt.Sprintf(`{"bindings":[{"issuer":%q,"subject":"grace"}]}`, h.idpURL),
	}
	for why, change := range never {
		if a := d.ask(403, "PATCH", "/v1/keys/{id}", l.Access, change, k.ID); a["code"] != "access_denied" {
			t.Errorf("%s: %v", why, a)
		}
	}
	for why, change := range map[string]string{
		"no grant": `{"grants":[]}`, "two years": `{"expires_in":63072000}`,
		"a misspelt member of a binding": fmt.Sprintf(`{"bindings":[{"issuer":%q,"subject":"ada","claim":{"email":"ada@example.com"}}]}`, h.idpURL),
		"an unknown member":              `{"state":"active"}`,
	} {
		if a := d.ask(400, "PATCH", "/v1/keys/{id}", l.Access, change, k.ID); a["code"] != "invalid_request" {
			t.Errorf("%s: %v", why, a)
		}
	}
	for why, change := range wider {
		d.ask(200, "PATCH", "/v1/keys/{id}", l.Access, change, k.ID)
		if t.Failed() {
			t.Fatalf("%s, with a fresh login", why)
		}
		d.ask(200, "PATCH", "/v1/keys/{id}", l.Access, `{"team":"",`+narrow[1:len(narrow)-1]+`,"bindings":[`+self+`]}`, k.ID)
	}
	h.pass(11 * time.Minute)
	for why, change := range wider {
		if a := d.ask(401, "PATCH", "/v1/keys/{id}", l.Access, change, k.ID); a["code"] != "insufficient_user_authentication" {
			t.Errorf("%s, eleven minutes after the login: %v", why, a)
		}
	}
	d.ask(401, "POST", "/v1/keys", l.Access, narrow)
	d.ask(401, "POST", "/v1/keys/{id}/rotate", l.Access, "{}", k.ID)
	d.ask(401, "POST", "/v1/keys/{id}/enable", l.Access, "", k.ID)
	for why, change := range narrower {
		d.ask(200, "PATCH", "/v1/keys/{id}", l.Access, change, k.ID)
		if t.Failed() {
			t.Fatalf("%s, eleven minutes after the login", why)
		}
	}
	d.ask(200, "POST", "/v1/keys/{id}/disable", l.Access, "{}", k.ID)
	h.pass(50 * time.Minute)
	d.ask(401, "GET", "/v1/keys/{id}", l.Access, "", k.ID)
}

// TestSigningKeysAPI: a tainted key is published no more, and what it signed is
// revoked.
func TestSigningKeysAPI(t *testing.T) {
	h := startCompany(t)
	d := h.described()
	l := h.logIn("grace", "hopper")
	k := h.enrol(l, `{"grants":["wide"]}`)
	tok := h.refresh(k, l.Refresh)
	if status, body := h.call(tok.Access, "faq-bot"); status != http.StatusOK {
		t.Fatalf("before: %d %s", status, body)
	}
	kids := func() (list []string) {
		_, body := h.api(http.MethodGet, "/jwks.json", "", "")
		var set struct{ Keys []struct{ KID string } }
		if err := json.Unmarshal(body, &set); err != nil {
			t.Fatal(err)
		}
		for _, k := range set.Keys {
			list = append(list, k.KID)
		}
		return list
	}
	first := kids()[0]
	told := d.ask(200, "POST", "/v1/signing-keys/rotate", l.Access, "")["signing_keys"].([]any)
	if len(told) != 2 || told[1].(map[string]any)["state"] != "prepare" {
		t.Errorf("a rotation is answered with %v, want the next key too", told)
	}
	if list := kids(); len(list) != 2 {
		t.Errorf("after a rotation %d keys are published, want the next one too", len(list))
	}
	d.ask(404, "POST", "/v1/signing-keys/{kid}/taint", l.Access, "", "unknown")
	d.ask(200, "POST", "/v1/signing-keys/{kid}/taint", l.Access, "", first)
	if list := kids(); len(list) != 1 || list[0] == first {
		t.Errorf("after the taint %q are published", list)
	}
	list := d.ask(200, "GET", "/v1/revocations", l.Access, "")["revocations"].([]any)
	if what := list[0].(map[string]any); what["what"] != string(revocation.SigningKey) || what["value"] != first {
		t.Errorf("the latest revocation is %v", what)
	}
	h.await("the old token to be refused", func() bool {
		status, _ := h.call(tok.Access, "faq-bot")
		return status == http.StatusUnauthorized
	})
	h.pass(2 * time.Second)
	next := h.refresh(k, tok.Refresh)
	h.await("a token of the next key to be taken", func() bool { // An unknown kid brings about a fetch.
		status, _ := h.call(next.Access, "faq-bot")
		return status == http.StatusOK
	})
}

// TestNoMachineAtTheAPI: no token and no machine key can create or widen keys.
func TestNoMachineAtTheAPI(t *testing.T) {
	h := startCompany(t)
	d := h.described()
	mine := h.makeKey(func(k *policy.Key) { k.Owner = "corp:ada" }, time.Hour)
	var tok tokens
	h.mustPost("/token", mine.Secret, exchangeForm(h.forge.sign(h.forge.good(h.now()), nil)), &tok)
	for _, credential := range []string{tok.Access, mine.Secret, h.forge.sign(h.forge.good(h.now()), nil), "hpl_x", ""} {
		d.ask(401, "POST", "/v1/keys", credential, `{"grants":["faq"]}`)
		d.ask(401, "PATCH", "/v1/keys/{id}", credential, `{"description":"x"}`, mine.ID)
		d.ask(401, "GET", "/v1/me", credential, "")
	}
}
