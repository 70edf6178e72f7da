package verifier_test

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier"
)

func TestBodyForwarded(t *testing.T) {
	h := newHouse(t)
	for _, row := range []struct{ name, target, body, want string }{
		{"as it came", "/v1/chat/completions", `{"model":"small","messages":[]}`, `{"model":"small","messages":[]}`},
		{
			"white space between members, not within", "/v1/chat/completions",
			" {\n\t\"model\" : \"small\" ,\r\n\"messages\": [ {\"role\": \"user\"} ] }\n", `{"model":"small","messages":[ {"role": "user"} ]}`,
		},
		{"escapes in names and model", "/v1/chat/completions", `{"\u006dodel":"sm\u0061ll","\u0075ser":"\u0061"}`, `{"model":"small","user":"\u0061"}`},
		{"numbers byte for byte", "/v1/chat/completions", `{"model":"small","temperature":1.50e-0,"seed":12345678901234567890}`, `{"model":"small","temperature":1.50e-0,"seed":12345678901234567890}`},
		{"an escaped slash", "/v1/embeddings", `{"model":"team\/e5"}`, `{"model":"team/e5"}`},
		{"the model elsewhere too", "/v1/chat/completions", `{"messages":[{"model":"large"}],"model":"small"}`, `{"messages":[{"model":"large"}],"model":"small"}`},
		{
			"null for what may be absent", "/v1/responses", `{"model":"small","stream":null,"max_output_tokens":null,"previous_response_id":null,"prompt":null,"background":false,"stream_options":null}`,
			`{"model":"small","stream":null,"max_output_tokens":null,"previous_response_id":null,"prompt":null,"background":false,"stream_options":null}`,
		},
		{"null for the background", "/v1/responses", `{"model":"small","background":null}`, `{"model":"small","background":null}`},
		{"a prompt, of completions", "/v1/completions", `{"model":"small","prompt":"hi","max_tokens":16,"n":1,"best_of":1,"stream":true,"stream_options":{}}`, `{"model":"small","prompt":"hi","max_tokens":16,"n":1,"best_of":1,"stream":true,"stream_options":{"include_usage":true}}`},
		{"names that are only near", "/v1/chat/completions", `{"model":"small","modelx":1,"xmodel":2,"mod":3,"":4,"streams":5,"größe":6}`, `{"model":"small","modelx":1,"xmodel":2,"mod":3,"":4,"streams":5,"größe":6}`},
		{"names with signs", "/v1/chat/completions", `{"model":"small","\u0061\"\\\u0001b":1}`, `{"model":"small","a\"\\\u0001b":1}`},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.in(t)
			r := h.good()
			r.target, r.body = row.target, row.body
			if got := h.send(r); got.status != 200 {
				t.Fatalf("%s = %d %s", row.body, got.status, got.body)
			}
			a := h.arrived()
			if len(a) != 1 || a[0].body != row.want || a[0].header.Get("Content-Length") != strconv.Itoa(len(row.want)) {
				t.Errorf("the upstream got %+v, want %s", a, row.want)
			}
		})
	}
}

func TestBodyRefused(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.MaxBody = 4096 })
	const chat = "/v1/chat/completions"
	for _, row := range []struct {
		name, target, body string
		status             int
		code, reason       string
	}{
		{"empty", chat, "", 415, "unsupported_media_type", "content_type"}, // See below: no body, no type.
		{"white space", chat, " ", 400, "invalid_body", "body"},
		{"an array", chat, `[{"model":"small"}]`, 400, "invalid_body", "body"},
		{"a model twice", chat, `{"model":"small","model":"large"}`, 400, "invalid_body", "body"},
		{"a model twice, one escaped", chat, `{"model":"small","mod\u0065l":"large"}`, 400, "invalid_body", "body"},
		{"a name twice, deep", chat, `{"model":"small","a":[{"b":1,"b":2}]}`, 400, "invalid_body", "body"},
		{"something behind", chat, `{"model":"small"}{"model":"large"}`, 400, "invalid_body", "body"},
		{"NUL behind", chat, "{\"model\":\"small\"}\x00", 400, "invalid_body", "body"},
		{"BOM", chat, "\ufeff{\"model\":\"small\"}", 400, "invalid_body", "body"},
		{"not UTF-8", chat, "{\"model\":\"small\",\"a\":\"\xff\"}", 400, "invalid_body", "body"},
		{"half a surrogate", chat, `{"model":"small","a":"\ud800"}`, 400, "invalid_body", "body"},
		{"NaN", chat, `{"model":"small","a":NaN}`, 400, "invalid_body", "body"},
		{"1e400", chat, `{"model":"small","a":1e400}`, 400, "invalid_body", "body"},
		{"too deep", chat, `{"model":"small","a":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, 400, "invalid_body", "body"},
		{"too large", chat, `{"model":"small","a":"` + strings.Repeat("x", 4096) + `"}`, 413, "body_too_large", "body_size"},

		{"no model", chat, `{"messages":[]}`, 400, "missing_model", "no_model"},
		{"an empty model", chat, `{"model":""}`, 400, "missing_model", "no_model"},
		{"model null", chat, `{"model":null}`, 400, "invalid_parameter", "member"},
		{"model a number", chat, `{"model":1}`, 400, "invalid_parameter", "member"},
		{"model a list", chat, `{"model":["small"]}`, 400, "invalid_parameter", "member"},
		{"a model of no scope", chat, `{"model":"large"}`, 403, "insufficient_scope", "scope"},
		{"a model for another action", "/v1/embeddings", `{"model":"small"}`, 403, "insufficient_scope", "scope"},
		{"a model that begins alike", chat, `{"model":"small-2"}`, 403, "insufficient_scope", "scope"},
		{"a model in capitals", chat, `{"model":"Small"}`, 403, "insufficient_scope", "scope"},
		{"a model below the pattern's segment", "/v1/embeddings", `{"model":"team/e5/v2"}`, 403, "insufficient_scope", "scope"},
		{"a model with a blank", chat, `{"model":"small "}`, 403, "insufficient_scope", "model_name"},
		{"a model with a Cyrillic a", chat, `{"model":"sm` + "\u0430" + `ll"}`, 403, "insufficient_scope", "model_name"},
		{"a model with a star", "/v1/embeddings", `{"model":"team/*"}`, 403, "insufficient_scope", "model_name"},
		{"a model that climbs", "/v1/embeddings", `{"model":"team/../small"}`, 403, "insufficient_scope", "model_name"},

		{"stream a string", chat, `{"model":"small","stream":"true"}`, 400, "invalid_parameter", "member"},
		{"stream a number", chat, `{"model":"small","stream":1}`, 400, "invalid_parameter", "member"},
		{"stream options a list", chat, `{"model":"small","stream_options":[]}`, 400, "invalid_parameter", "member"},
		{"max tokens a string", chat, `{"model":"small","max_tokens":"100000"}`, 400, "invalid_parameter", "member"},
		{"max tokens a fraction", chat, `{"model":"small","max_tokens":100.0}`, 400, "invalid_parameter", "member"},
		{"max tokens with an exponent", chat, `{"model":"small","max_completion_tokens":1e2}`, 400, "invalid_parameter", "member"},
		{"max tokens 0", chat, `{"model":"small","max_tokens":0}`, 400, "invalid_parameter", "member"},
		{"max tokens below 0", "/v1/responses", `{"model":"small","max_output_tokens":-1}`, 400, "invalid_parameter", "member"},
		{"max tokens beyond int64", chat, `{"model":"small","max_tokens":9223372036854775808}`, 400, "invalid_parameter", "member"},
		{"n true", chat, `{"model":"small","n":true}`, 400, "invalid_parameter", "member"},
		{"best of a list", "/v1/completions", `{"model":"small","best_of":[1]}`, 400, "invalid_parameter", "member"},

		{"models", chat, `{"model":"small","models":["large"]}`, 400, "invalid_parameter", "member"},
		{"fallbacks", chat, `{"model":"small","fallbacks":["large"]}`, 400, "invalid_parameter", "member"},
		{"api_base", chat, `{"model":"small","api_base":"http://169.254.169.254"}`, 400, "invalid_parameter", "member"},
		{"base_url", chat, `{"model":"small","base_url":"http://evil"}`, 400, "invalid_parameter", "member"},
		{"extra_body", chat, `{"model":"small","extra_body":{"model":"large"}}`, 400, "invalid_parameter", "member"},
		{"route", chat, `{"model":"small","route":"fallback"}`, 400, "invalid_parameter", "member"},
		{"provider", chat, `{"model":"small","provider":{"order":["x"]}}`, 400, "invalid_parameter", "member"},
		{"another's response", "/v1/responses", `{"model":"small","previous_response_id":"resp_1"}`, 400, "invalid_parameter", "member"},
		{"another's conversation", "/v1/responses", `{"model":"small","conversation":{"id":"conv_1"}}`, 400, "invalid_parameter", "member"},
		{"in the background, as a string", "/v1/responses", `{"model":"small","background":"true"}`, 400, "invalid_parameter", "member"},
		{"in the background, as a number", "/v1/responses", `{"model":"small","background":1}`, 400, "invalid_parameter", "member"},
		{"in the background", "/v1/responses", `{"model":"small","background":true}`, 400, "invalid_parameter", "member"},
		{"a stored prompt", "/v1/responses", `{"model":"small","prompt":{"id":"pmpt_1"}}`, 400, "invalid_parameter", "member"},
		{"a name refused, in capitals", "/v1/responses", `{"model":"small","Prompt":{"id":"pmpt_1"}}`, 400, "invalid_parameter", "member_name"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.in(t)
			r := h.good()
			r.target, r.body = row.target, row.body
			if row.body == "" {
				r.header.Del("Content-Type")
			}
			got := h.refused(r, row.status, row.code, row.reason)
			if row.reason == "body" && !strings.HasPrefix(got.failure(t).Message, "The body is not one strict JSON object: ") {
				t.Errorf("message %q", got.failure(t).Message)
			}
			if want := map[bool]string{true: "error=\"insufficient_scope\""}[row.status == 403]; !strings.Contains(got.header.Get("WWW-Authenticate"), want) {
				t.Errorf("challenge %q", got.header.Get("WWW-Authenticate"))
			}
		})
	}
}

// TestSecondWays: every name by which some server could be sent to another model
// or place, or to what others left there. Null says nothing, as if it was absent.
func TestSecondWays(t *testing.T) {
	h := newHouse(t)
	const chat, responses = "/v1/chat/completions", "/v1/responses"
	for names, targets := range map[string][]string{
		`models model_id model_name model_list engine deployment deployment_id preset
		fallbacks fallback_models context_window_fallbacks content_policy_fallbacks
		lora lora_name lora_request adapter adapter_id
		api_base base_url api_key api_version organization custom_llm_provider provider providers
		route router user_config kv_transfer_params
		extra_body extra_headers extra_query headers id_slot slot_id conversation_id`: {chat, "/v1/completions", responses},
		`previous_response_id conversation prompt`: {responses},
	} {
		for _, target := range targets {
			for _, name := range strings.Fields(names) {
				r := h.good()
				r.target = target
				for _, value := range []string{`"x"`, `["x"]`, `{"x":1}`, `1`, `false`, `""`} {
					r.body = `{"model":"small","` + name + `":` + value + `}`
					if got := h.send(r); got.status != 400 || got.failure(t).Code != "invalid_parameter" || !strings.Contains(got.failure(t).Message, `"`+name+`"`) {
						t.Errorf("%s %s = %d %s", target, r.body, got.status, got.body)
					}
				}
				if a := h.arrived(); len(a) > 0 {
					t.Fatalf("the upstream got %+v", a)
				}
				r.body = `{"model":"small","` + name + `":null}`
				if got := h.send(r); got.status != 200 {
					t.Errorf("%s %s = %d %s", target, r.body, got.status, got.body)
				}
				h.arrived()
			}
		}
	}
}

func TestMissingScopeIsNamed(t *testing.T) {
	h := newHouse(t)
	r := h.good()
	r.body = `{"model":"team/large:v2"}`
	got := h.refused(r, 403, "insufficient_scope", "scope")
	if f := got.failure(t); f.Message != "The token lacks the scope chat:team/large:v2." || f.Type != "permission_error" {
		t.Errorf("%+v", f)
	}
	want := `Bearer error="insufficient_scope", error_description="The token lacks the scope chat:team/large:v2.", scope="chat:team/large:v2"`
	if c := got.header.Get("WWW-Authenticate"); c != want {
		t.Errorf("challenge %s, want %s", c, want)
	}
	if rec := h.records(); rec[0].Model != "team/large:v2" || rec[0].Action != "chat" || rec[0].Identity != "corp:ada" {
		t.Errorf("record %+v", rec)
	}
}

// TestNothingIsEchoed: what a client sends does not come back, but for a model's
// valid name.
func TestNothingIsEchoed(t *testing.T) {
	h := newHouse(t)
	for _, body := range []string{`{"model":"<script>evil"}`, `{"model":"small","<script>evil":}`, `{"model":"small","max_tokens":"<script>evil"}`, `{"model":"small","models":"<script>evil"}`} {
		r := h.good()
		r.body = body
		if got := h.send(r); got.status < 400 || strings.Contains(got.body, "evil") {
			t.Errorf("%s = %d %s", body, got.status, got.body)
		}
	}
	if strings.Contains(h.logs.String(), "evil") {
		t.Errorf("logs: %s", h.logs)
	}
	if written, err := os.ReadFile(h.path); err != nil || strings.Contains(string(written), "evil") {
		t.Errorf("audit: %s, %v", written, err)
	}
}

func TestConfusableNames(t *testing.T) {
	h := newHouse(t)
	for name, why := range map[string]string{
		"Model": "case", "MODEL": "case", "mODEL": "case", "max_to\u212aens": "Kelvin sign", "\u017ftream": "long s", "be\u017ft_of": "long s",
		"model ": "space", " model": "space", "model\t": "tab", "model\n": "line feed", "mo del": "space within", "model\u00a0": "no-break space",
		"model\u200b": "zero-width space", "\ufeffmodel": "BOM", "mod\u00adel": "soft hyphen", "model\u0000": "NUL", "model\u007f": "DEL",
		"model\u2060": "word joiner", "model\ufe0f": "variation selector", "model\u034f": "grapheme joiner", "model\u3164": "Hangul filler", "model\u2800": "Braille blank",
		"\uff4dodel": "fullwidth", "Fallbacks": "a refused name", "EXTRA_BODY": "a refused name", "\u200b\u200bMa\u200bx_Tokens": "several",
		"model" + strings.Repeat("\u200b", 5000): "many unseen", "model\U000e0041": "tag",
	} {
		quoted, _ := json.Marshal(name)
		for _, order := range []string{`{"model":"small",%s:"large"}`, `{%s:"large","model":"small"}`} {
			r := h.good()
			r.body = fmt.Sprintf(order, quoted)
			if got := h.send(r); got.status != 400 || got.failure(t).Code != "invalid_parameter" {
				t.Errorf("%s, %+q: %d %s", why, name, got.status, got.body)
			}
		}
	}
	if a := h.arrived(); len(a) > 0 {
		t.Errorf("the upstream got %+v", a)
	}
}

func TestContentType(t *testing.T) {
	h := newHouse(t)
	for _, row := range []struct {
		types []string
		ok    bool
	}{
		{[]string{"application/json"}, true},
		{[]string{"application/json; charset=utf-8"}, true},
		{[]string{"Application/JSON;charset=\"UTF-8\""}, true},
		{[]string{"application/json;"}, true},
		{nil, false},
		{[]string{""}, false},
		{[]string{"application/json; charset"}, false},
		{[]string{"application/json; charset=utf-8; charset"}, false},
		{[]string{"text/plain"}, false},
		{[]string{"application/vnd.api+json"}, false},
		{[]string{"application/x-www-form-urlencoded"}, false},
		{[]string{"multipart/form-data; boundary=x"}, false},
		{[]string{"application/json; charset=utf-16"}, false},
		{[]string{"application/json; charset=utf-8; charset=utf-16"}, false},
		{[]string{"application/json; charset=utf-8; x=y"}, false},
		{[]string{"application/json; x=y"}, false},
		{[]string{"application/json, text/plain"}, false},
		{[]string{"application/json", "application/json"}, false},
	} {
		r := h.good()
		r.header["Content-Type"] = row.types
		if row.ok {
			if got := h.send(r); got.status != 200 {
				t.Errorf("%q: %d %s", row.types, got.status, got.body)
			}
			if a := h.arrived(); len(a) != 1 || a[0].header.Get("Content-Type") != "application/json" {
				t.Errorf("%q: the upstream got %+v", row.types, a)
			}
			continue
		}
		h.refused(r, 415, "unsupported_media_type", "content_type")
	}
	for _, coding := range []string{"x-gzip", "compress", "foo", "identity, gzip", "gzip, gzip", ""} {
		r := h.good()
		r.header.Set("Content-Encoding", coding)
		h.refused(r, 415, "unsupported_media_type", "content_encoding")
	}
	r := h.good()
	r.header.Set("Content-Encoding", "Identity")
	if got := h.send(r); got.status != 200 {
		t.Errorf("identity: %d %s", got.status, got.body)
	}
}

// TestCodedBody: a body may come in one coding; the upstream gets it in none.
func TestCodedBody(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.MaxBody = 4 << 20 })
	coded := func(body string) string {
		var b strings.Builder
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(body))
		_ = z.Close()
		return b.String()
	}
	call := func(body string) request {
		r := h.good()
		r.body = body
		r.header.Set("Content-Encoding", "GZIP")
		return r
	}
	const plain = `{"model":"small","user":"Ada"}`
	if got := h.send(call(coded(plain))); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	a := h.arrived()
	if len(a) != 1 || a[0].body != plain || a[0].header["Content-Encoding"] != nil || a[0].header.Get("Content-Length") != strconv.Itoa(len(plain)) {
		t.Errorf("the upstream got %+v", a)
	}
	onlyAllowed(t, a[0])
	h.refused(call(plain), 400, "invalid_body", "decoding")
	h.refused(call(coded(plain)[:20]), 400, "invalid_body", "decoding")
	h.refused(call(coded(plain)+strings.Repeat("x", 100_000)), 400, "invalid_body", "decoding")
	h.refused(call(coded(`{"model":"small","model":"large"}`)), 400, "invalid_body", "body")
	h.refused(call(coded(`{"model":"large"}`)), 403, "insufficient_scope", "scope")
	h.refused(call(coded(plain+strings.Repeat(" ", 3<<20))), 413, "body_too_large", "body_size") // The ratio.
	h.refused(call(strings.Repeat("x", 5<<20)), 413, "body_too_large", "body_size")
}

func TestBodyOnTheWire(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.MaxBody, c.BodyTimeout = 100, 50*time.Millisecond })
	head := "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + h.keys.token() + "\r\nContent-Type: application/json\r\n"
	chunked := func(body string) string {
		var b strings.Builder
		for _, c := range []byte(body) {
			fmt.Fprintf(&b, "1\r\n%c\r\n", c)
		}
		return head + "Transfer-Encoding: chunked\r\n\r\n" + b.String() + "0\r\n\r\n"
	}
	exact := `{"model":"small","a":"` + strings.Repeat("x", 76) + `"}`
	for _, row := range []struct {
		name, bytes string
		status      int
		reason      string
	}{
		{"chunks of a byte, of just the size", chunked(exact), 200, ""},
		{"a length of just the size", head + "Content-Length: 100\r\n\r\n" + exact, 200, ""},
		{"one byte more", chunked(strings.Replace(exact, "x", "xx", 1)), 413, "body_size"},
		{"an announced length that is too large", head + "Content-Length: 101\r\n\r\n", 413, "body_size"},
		{"a body that does not arrive", head + "Content-Length: 50\r\n\r\n{", 408, "body_slow"},
		{"chunks that do not end", head + "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"mod\r\n", 408, "body_slow"},
		{"refused, and the body does not arrive", strings.Replace(head, "Bearer ", "Basic ", 1) + "Content-Length: 50\r\n\r\n", 401, "scheme"},
		{"refused before it was told to go on", strings.Replace(head, "Bearer ", "Basic ", 1) + "Expect: 100-continue\r\nContent-Length: 50\r\n\r\n", 401, "scheme"},
		{"a bad chunk", head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "body_read"},
		{"two framings", head + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", 400, "body"},
	} {
		before := len(h.records())
		got := h.raw(row.bytes)
		if got.status != row.status || got.status == 408 && got.failure(t).Code != "body_timeout" {
			t.Errorf("%s: %d %s %v, want %d", row.name, got.status, got.body, got.err, row.status)
		}
		if r := h.records()[before:]; len(r) != 1 || r[0].Reason != row.reason {
			t.Errorf("%s: records %+v, want reason %s", row.name, r, row.reason)
		}
		if a := h.arrived(); len(a) != map[bool]int{true: 1}[row.status == 200] {
			t.Errorf("%s: the upstream got %+v", row.name, a)
		}
	}
}

func TestScopeOfToken(t *testing.T) {
	h := newHouse(t)
	for _, row := range []struct {
		scope, target, model string
		status               int
	}{
		{"chat:a-*", "/v1/chat/completions", "a-b", 200},
		{"chat:a-*", "/v1/chat/completions", "a-", 403},
		{"chat:a-*", "/v1/chat/completions", "a-b:cloud", 403},
		{"admin:a", "/v1/chat/completions", "a", 403},
		{"completions:a", "/v1/chat/completions", "a", 403},
		{"completions:a", "/v1/completions", "a", 200},
		{"responses:a", "/v1/responses", "a", 200},
		{"models:a", "/v1/chat/completions", "a", 403},
	} {
		r := h.good()
		r.header.Set("Authorization", "Bearer "+h.keys.token(scoped(row.scope), func(c *token.Claims) { c.ID = row.scope }))
		r.target, r.body = row.target, `{"model":"`+row.model+`"}`
		if got := h.send(r); got.status != row.status {
			t.Errorf("%s %s of %s with %s = %d %s, want %d", r.method, row.target, row.model, row.scope, got.status, got.body, row.status)
		}
	}
}
