package verifier_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/verifier"
)

// FuzzBody: of a body that is let through, everybody downstream reads the same
// model and the same guarded members, whichever parser they have; and written
// anew it is let through again, as it is.
func FuzzBody(f *testing.F) {
	h := newHouse(f, func(c *verifier.Config) { c.Upstreams, c.Audit = nil, nil })
	var forwarded []byte
	proxy := h.v.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		forwarded, _ = io.ReadAll(r.Body)
	}))
	tok := h.keys.token(scoped("chat:small", "chat:team/*", "responses:small"))
	paths := []string{"/v1/chat/completions", "/v1/responses"}
	pass := func(t *testing.T, path, body string) bool {
		forwarded = nil
		w := record(proxy, newRequest("POST", path, body, tok))
		if (w.Code == http.StatusOK) != (forwarded != nil) || w.Code >= 500 {
			t.Fatalf("%q = %d, forwarded %q", body, w.Code, forwarded)
		}
		return forwarded != nil
	}
	f.Fuzz(func(t *testing.T, doc []byte, route uint) {
		path := paths[route%2]
		if len(doc) == 0 || !pass(t, path, string(doc)) {
			return
		}
		once := bytes.Clone(forwarded)
		if !pass(t, path, string(once)) || !bytes.Equal(forwarded, once) {
			t.Fatalf("%q is forwarded as %q, and that as %q", doc, once, forwarded)
		}
		members, err := strictjson.Object(once, strictjson.Limits{})
		if err != nil {
			t.Fatalf("%q is forwarded as %q: %v", doc, once, err)
		}
		// What reads names exactly.
		exact := map[string]json.RawMessage{}
		if err := json.Unmarshal(once, &exact); err != nil || len(exact) != len(members) {
			t.Fatalf("%q has %d members, and %d to encoding/json: %v", once, len(members), len(exact), err)
		}
		for _, m := range members {
			if !bytes.Equal(exact[m.Name], m.Raw) {
				t.Fatalf("%q: %q is %s and %s", once, m.Name, m.Raw, exact[m.Name])
			}
		}
		// What folds case, and takes the last that fits.
		var folded struct {
			Model               json.RawMessage `json:"model"`
			Stream              json.RawMessage `json:"stream"`
			StreamOptions       json.RawMessage `json:"stream_options"`
			MaxTokens           json.RawMessage `json:"max_tokens"`
			MaxCompletionTokens json.RawMessage `json:"max_completion_tokens"`
			MaxOutputTokens     json.RawMessage `json:"max_output_tokens"`
			N                   json.RawMessage `json:"n"`
			BestOf              json.RawMessage `json:"best_of"`
			Models              json.RawMessage `json:"models"`
			Fallbacks           json.RawMessage `json:"fallbacks"`
			ExtraBody           json.RawMessage `json:"extra_body"`
			Background          json.RawMessage `json:"background"`
		}
		if err := json.Unmarshal(once, &folded); err != nil {
			t.Fatalf("%q: %v", once, err)
		}
		v := reflect.ValueOf(folded)
		for i := range v.NumField() {
			name := v.Type().Field(i).Tag.Get("json")
			if got := v.Field(i).Bytes(); !bytes.Equal(got, exact[name]) && (name != "background" || route%2 == 1) {
				t.Fatalf("%q: %s is %s to one and %s to the other", once, name, exact[name], got)
			}
		}
		var model string
		if err := json.Unmarshal(folded.Model, &model); err != nil || model != "small" && (route%2 == 1 || model[:5] != "team/") {
			t.Fatalf("%q: the model is %q, %v", once, model, err)
		}
	})
}

// TestSeeds: the corpus came with the code.
func TestSeeds(t *testing.T) {
	for target, want := range map[string]int{"FuzzBody": 20, "FuzzHeaders": 10} {
		seeds, err := os.ReadDir("testdata/fuzz/" + target)
		if err != nil || len(seeds) < want {
			t.Errorf("%d seeds of %s, %v, want some %d", len(seeds), target, err, want)
		}
	}
}

// FuzzHeaders: whatever stands in the headers, nothing but a good token opens,
// and nothing of what a client says gets to the upstream beside what the list of
// headers allows.
func FuzzHeaders(f *testing.F) {
	h := newHouse(f, func(c *verifier.Config) {
		c.Audit = nil
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	good := h.keys.token()
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string, authorized bool) {
		r := newRequest("POST", "/v1/chat/completions", `{"model":"small"}`, good)
		if !authorized {
			r.Header.Del("Authorization")
		}
		for name, value := range map[string]string{name1: value1, name2: value2} {
			// As net/http would have read it.
			if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
				return
			}
			name = http.CanonicalHeaderKey(name)
			r.Header[name] = append(r.Header[name], value)
		}
		w := record(h.v.Handler(), r)
		arrived := h.arrived()
		if w.Code == http.StatusOK != (len(arrived) == 1) || w.Code >= 500 {
			t.Fatalf("%d %s, and %d calls arrived", w.Code, w.Body, len(arrived))
		}
		if !authorized && w.Code == http.StatusOK {
			t.Fatal("a call without a token is let through")
		}
		for _, a := range arrived {
			onlyAllowed(t, a)
		}
	})
}
