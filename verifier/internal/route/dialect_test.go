package route_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// hostile are sentences that break out of JSON and of streams where they can.
var hostile = rapid.Custom(func(t *rapid.T) string {
	return rapid.SampledFrom([]string{"", "\n\ndata: {}", "\"}", "\r\n", "</script>", "\u2028", "\x00", "\xff\xfe", "\\", "é", "\n\nevent: done\n"}).Draw(t, "hostile") +
		rapid.String().Draw(t, "any")
})

// TestRefusals: in every dialect, whatever the sentence, an error is one JSON
// object without line ends, and with the code, the sentence and the decision.
func TestRefusals(t *testing.T) {
	for _, f := range route.Families {
		t.Run(f.Name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				status := rapid.SampledFrom([]int{400, 401, 402, 403, 404, 405, 408, 413, 415, 429, 500, 502, 503, 504}).Draw(t, "status")
				message := hostile.Draw(t, "message")
				body := f.Refusal(status, "the_code", message, "DECISION")
				if _, err := strictjson.Object(body, strictjson.Limits{}); err != nil || strings.ContainsAny(string(body), "\r\n") {
					t.Fatalf("%q: %v", body, err)
				}
				var doc any
				if err := json.Unmarshal(body, &doc); err != nil {
					t.Fatal(err)
				}
				said := string([]rune(message)) // What is no UTF-8 is replaced, byte by byte.
				if texts := leaves(doc, nil); !slices.Contains(texts, "the_code") || !slices.Contains(texts, "DECISION") || !slices.Contains(texts, said) {
					t.Fatalf("%q lacks something of %q", body, message)
				}
				event := string(f.Event(slices.Clone(body)))
				if f.Name == "ollama" {
					if event != string(body)+"\n" {
						t.Fatalf("%q ends a stream of lines", event)
					}
					return
				}
				oneEvent(t, event, said)
			})
		})
	}
}

func leaves(v any, texts []string) []string {
	switch v := v.(type) {
	case string:
		return append(texts, v)
	case []any:
		for _, e := range v {
			texts = leaves(e, texts)
		}
	case map[string]any:
		for _, e := range v {
			texts = leaves(e, texts)
		}
	}
	return texts
}

// oneEvent fails unless the text is one event whose data is JSON that says the
// sentence.
func oneEvent(t *rapid.T, event, said string) {
	lines, ok := strings.CutSuffix(event, "\n\n")
	data := ""
	for line := range strings.SplitSeq(lines, "\n") {
		switch value, is := strings.CutPrefix(line, "data: "); {
		case is && data == "":
			data = value
		case !strings.HasPrefix(line, "event: "):
			t.Fatalf("%q has the line %q", event, line)
		}
	}
	var doc any
	if err := json.Unmarshal([]byte(data), &doc); err != nil || !ok || strings.Contains(lines, "\n\n") || strings.Contains(event, "\r") {
		t.Fatalf("%q is not one event: %v", event, err)
	}
	if !slices.Contains(leaves(doc, nil), said) {
		t.Fatalf("%q does not say %q", event, said)
	}
}

// TestLists: in either dialect, whatever the names.
func TestLists(t *testing.T) {
	for _, r := range all() {
		if r.List == nil {
			continue
		}
		for _, models := range [][]route.Listed{nil, {{ID: "a"}}, {{ID: "a", Owner: "x\"y", Created: 1}, {ID: "b/c:d"}}} {
			doc := r.List(models)
			var any any
			if err := json.Unmarshal(doc, &any); err != nil {
				t.Errorf("%s: %s: %v", r.Name(), doc, err)
			}
			for _, m := range models {
				if !slices.Contains(leaves(any, nil), m.ID) {
					t.Errorf("%s: %s lacks %s", r.Name(), doc, m.ID)
				}
			}
		}
	}
}
