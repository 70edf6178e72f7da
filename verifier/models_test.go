package verifier_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/verifier"
)

func (h *house) list(scopes ...string) response {
	h.t.Helper()
	r := h.good()
	r.method, r.target, r.body = "GET", "/v1/models", ""
	r.header.Set("Authorization", "Bearer "+h.keys.token(scoped(scopes...)))
	return h.send(r)
}

func TestListIsFiltered(t *testing.T) {
	h := newHouse(t)
	h.answer(reply(200, "application/json", `{"object":"list","extra":{"secret":1},"data":[
		{"id":"small","object":"model","created":1700000000,"owned_by":"us","root":"/models/small","permission":[{"id":"p"}]},
		{"id":"large","created":1},{"id":"team/e5"},{"id":"team/e5/lora"},{"id":"small"},{"id":"bad name"},{"id":7},{},{"id":"<b>","owned_by":"x"},
		{"id":"team/x","created":"1","owned_by":"`+strings.Repeat("x", 101)+`"}]}`))
	for i, row := range []struct {
		name   string
		scopes []string
		want   string
	}{
		{"one model", []string{"chat:small"}, `{"id":"small","object":"model","created":1700000000,"owned_by":"us"}`},
		{"any action", []string{"models:large"}, `{"id":"large","object":"model","created":1,"owned_by":""}`},
		{"a pattern", []string{"embeddings:team/*"}, `{"id":"team/e5","object":"model","created":0,"owned_by":""},{"id":"team/x","object":"model","created":0,"owned_by":""}`},
		{"none of them", []string{"chat:other"}, ``},
	} {
		got := h.list(row.scopes...)
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Content-Length": fmt.Sprint(len(got.body)), "X-Request-Id": h.records()[i].Decision,
		} {
			if got.header.Get(name) != want {
				t.Errorf("%s: %s %q, want %q", row.name, name, got.header.Get(name), want)
			}
		}
		if want := listOf(row.want); got.status != 200 || got.body != want || got.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s, want %s", row.name, got.status, got.body, want)
		}
	}
	for _, a := range h.arrived() {
		if a.method != "GET" || a.target != "/v1/models" || a.header.Get("Authorization") != upstreamCredential {
			t.Errorf("the upstream got %+v", a)
		}
		onlyAllowed(t, a)
	}
	records := h.records()
	if len(records) != 4 || records[0].Route != "GET /v1/models" || records[0].Action != "models" || records[0].Upstream != "toy" || records[0].UpstreamStatus != 200 || records[0].Outcome != "allow" {
		t.Errorf("records %+v", records)
	}
}

func TestListFails(t *testing.T) {
	h := newHouse(t)
	for name, answer := range map[string]http.HandlerFunc{
		"an error":      reply(500, "application/json", `{"data":[{"id":"small"}]}`),
		"401":           reply(401, "application/json", `{}`),
		"HTML":          reply(200, "text/html", `{"data":[{"id":"small"}]}`),
		"no JSON":       reply(200, "application/json", `{"data":[{"id":"small"}`),
		"no list":       reply(200, "application/json", `{"data":{"id":"small"}}`),
		"a name twice":  reply(200, "application/json", `{"data":[],"data":[{"id":"small"}]}`),
		"a model twice": reply(200, "application/json", `{"data":[{"id":"large","id":"small"}]}`),
		"no objects":    reply(200, "application/json", `{"data":["small"]}`),
		"far too large": reply(200, "application/json", `{"data":[],"x":"`+strings.Repeat("x", 9<<20)+`"}`),
		"far too many":  reply(200, "application/json", `{"data":[`+strings.Repeat("{},", 20_000)+`{"id":"small"}]}`),
		"a redirect":    func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/v1/other", http.StatusFound) },
		"a coding unasked": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			reply(200, "application/json", `{"data":[{"id":"small"}]}`)(w, nil)
		},
		"half an answer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			reply(200, "application/json", `{"data":`)(w, nil)
		},
	} {
		h.answer(answer)
		if got := h.list("chat:small"); got.status != 502 || got.failure(t).Code != "upstream_error" {
			t.Errorf("%s: %d %.200s", name, got.status, got.body)
		}
	}
	if n := len(h.arrived()); n != 13 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// TestListOfSeveral: a model is listed if a call to it would find it there.
// listOf is the answer with those entries in OpenAI's form; each gets Anthropic's
// members too.
func listOf(entries string) string {
	var first, last *string
	var list []map[string]any
	if err := json.Unmarshal([]byte("["+entries+"]"), &list); err != nil {
		panic(err)
	}
	var data []string
	for i, entry := range strings.SplitAfter(entries, "}") {
		if i == len(list) {
			break
		}
		id := list[i]["id"].(string)
		if last = &id; first == nil {
			first = &id
		}
		created := time.Unix(int64(list[i]["created"].(float64)), 0).UTC().Format(time.RFC3339)
		data = append(data, strings.TrimPrefix(strings.TrimSuffix(entry, "}"), ",")+fmt.Sprintf(`,"type":"model","display_name":%q,"created_at":%q}`, id, created))
	}
	ends, err := json.Marshal(map[string]any{"first_id": first, "last_id": last})
	if err != nil {
		panic(err)
	}
	return `{"object":"list","data":[` + strings.Join(data, ",") + `],"has_more":false,` + strings.TrimPrefix(string(ends), "{")
}

func TestListOfSeveral(t *testing.T) {
	serve := func(ids ...string) *httptest.Server {
		var data []string
		for _, id := range ids {
			data = append(data, fmt.Sprintf(`{"id":%q,"owned_by":%q}`, id, ids[0]))
		}
		srv := httptest.NewServer(reply(200, "application/json", `{"data":[`+strings.Join(data, ",")+`]}`))
		t.Cleanup(srv.Close)
		return srv
	}
	a, b := serve("a", "b", "team/x", "team/y"), serve("rest", "a", "team/x", "team/y")
	dead := httptest.NewServer(nil)
	dead.Close()
	h := newHouse(t, func(c *verifier.Config) {
		c.Upstreams = []verifier.Upstream{
			{Name: "rest", URL: b.URL, Models: []string{"*"}},
			{Name: "dead", URL: dead.URL, Models: []string{"gone"}},
			{Name: "a", URL: a.URL, Models: []string{"a", "team/*"}},
			{Name: "y", URL: b.URL, Models: []string{"team/y"}},
		}
	})
	got := h.list("chat:a", "chat:b", "chat:rest", "chat:gone", "chat:team/*")
	want := listOf(
		`{"id":"rest","object":"model","created":0,"owned_by":"rest"},` +
			`{"id":"a","object":"model","created":0,"owned_by":"a"},{"id":"team/x","object":"model","created":0,"owned_by":"a"},` +
			`{"id":"team/y","object":"model","created":0,"owned_by":"rest"}`)
	if got.status != 200 || got.body != want {
		t.Errorf("%d %s, want %s", got.status, got.body, want)
	}
	if r := h.records(); len(r) != 1 || r[0].Upstream != "" || r[0].UpstreamStatus != 0 || r[0].Outcome != "allow" {
		t.Errorf("the record of several names one: %+v", r)
	}
	if !strings.Contains(h.logs.String(), "upstream=dead") {
		t.Errorf("nothing is logged about the dead one: %s", h.logs)
	}
}

// TestListOfNone: without an upstream there is nothing to fail.
func TestListOfNone(t *testing.T) {
	h := newHouse(t, func(c *verifier.Config) { c.Upstreams = nil })
	if got := h.list("chat:small"); got.status != 200 || got.body != listOf("") {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestUpstreamOfAModel(t *testing.T) {
	var urls []string
	for _, name := range []string{"exact", "long", "short", "rest"} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			reply(200, "application/json", name+" "+r.URL.Path+" "+r.Host+" "+r.Header.Get("X-Key")+r.Header.Get("Authorization"))(w, r)
		}))
		t.Cleanup(srv.Close)
		urls = append(urls, srv.URL)
	}
	without := false
	build := func(c *verifier.Config) {
		c.Upstreams = []verifier.Upstream{
			{Name: "rest", URL: urls[3], Models: []string{"*"}},
			{Name: "short", URL: urls[2], Models: []string{"team/*"}, Header: "X-Key", Credential: "k"},
			{Name: "long", URL: urls[1] + "/base/", Models: []string{"team/a-*"}},
			{Name: "exact", URL: urls[0], Models: []string{"team/a-1"}},
		}
		if without {
			c.Upstreams = c.Upstreams[1:]
		}
	}
	host := func(i int) string { return strings.TrimPrefix(urls[i], "http://") }
	h := newHouse(t, build)
	r := h.good()
	r.header.Set("Authorization", "Bearer "+h.keys.token(scoped("chat:team/*", "chat:team/a-*", "chat:x")))
	for model, want := range map[string]string{
		"team/a-1": "exact /v1/chat/completions " + host(0) + " ",
		"team/a-2": "long /base/v1/chat/completions " + host(1) + " ",
		"team/b":   "short /v1/chat/completions " + host(2) + " k",
		"x":        "rest /v1/chat/completions " + host(3) + " ",
	} {
		r.body = `{"model":"` + model + `"}`
		if got := h.send(r); got.body != want {
			t.Errorf("%s went to %d %s, want %s", model, got.status, got.body, want)
		}
	}
	without = true
	h = newHouse(t, build)
	r = h.good()
	r.body = `{"model":"small"}`
	h.refusedLate(r, 404, "model_not_found")
	if rec := h.records(); len(rec) != 1 || rec[0].Reason != "model" || rec[0].Status != 404 || rec[0].Model != "small" {
		t.Errorf("records %+v", rec)
	}
}

// refusedLate checks a call that passed and found no upstream.
func (h *house) refusedLate(r request, status int, code string) {
	h.t.Helper()
	got := h.send(r)
	if got.status != status || got.failure(h.t).Code != code {
		h.t.Errorf("%d %s, want %d %s", got.status, got.body, status, code)
	}
}
