package body_test

import (
	"io"
	"testing"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/body"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// TestBoundNotRead: a member that the upstream may not read does not keep the one
// out that it does.
func TestBoundNotRead(t *testing.T) {
	for _, row := range []struct{ situation, method, path, limit, doc, want string }{
		{"one of llama.cpp's, to vLLM", "POST", "/v1/chat/completions", "max_tokens", `{"model":"m","n_predict":5}`, `{"model":"m","n_predict":5,"max_tokens":100}`},
		{"one of OpenAI's, to Ollama", "POST", "/v1/chat/completions", "", `{"model":"m","max_completion_tokens":5}`, `{"model":"m","max_completion_tokens":5,"max_tokens":100}`},
		{"one of OpenAI's, to OpenAI", "POST", "/v1/chat/completions", "max_completion_tokens", `{"model":"m","max_completion_tokens":5}`, `{"model":"m","max_completion_tokens":5}`},
		{"the old one, to OpenAI", "POST", "/v1/chat/completions", "max_completion_tokens", `{"model":"m","max_tokens":5}`, `{"model":"m","max_tokens":5}`},
		{"its own, on its own route", "POST", "/completion", "", `{"model":"m","n_predict":5}`, `{"model":"m","n_predict":5}`},
		{"of responses", "POST", "/v1/responses", "max_completion_tokens", `{"model":"m","max_output_tokens":5}`, `{"model":"m","max_output_tokens":5}`},
		{"another's, of responses", "POST", "/v1/responses", "", `{"model":"m","max_completion_tokens":5}`, `{"model":"m","max_completion_tokens":5,"max_output_tokens":100}`},
		{"none, with options", "POST", "/api/chat", "", `{"model":"m"}`, `{"model":"m","options":{"num_predict":100}}`},
	} {
		bounds := body.Bounds{Params: token.Params{Bounds: map[string]token.Range{"max_tokens": {Max: 100}}}, Cap: row.limit}
		if got := rewritten(t, row.method, row.path, row.doc, bounds); got != row.want {
			t.Errorf("%s: %s becomes %s, want %s", row.situation, row.doc, got, row.want)
		}
	}
}

// TestStreamsUnlessDeclined: where no word means a stream, one that is not allowed
// is declined.
func TestStreamsUnlessDeclined(t *testing.T) {
	bounds := body.Bounds{Params: token.Params{Bounds: map[string]token.Range{"stream": {}}}}
	for _, path := range []string{"/api/chat", "/api/generate"} {
		if got, want := rewritten(t, "POST", path, `{"model":"m"}`, bounds), `{"model":"m","stream":false}`; got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if got, want := rewritten(t, "POST", "/v1/chat/completions", `{"model":"m"}`, bounds), `{"model":"m"}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func rewritten(t *testing.T, method, path, doc string, bounds body.Bounds) string {
	t.Helper()
	m, _, ok := route.Find(method, path)
	if !ok {
		t.Fatalf("no route %s %s", method, path)
	}
	d, err := body.Parse([]byte(doc), m.Members)
	if err != nil {
		t.Fatalf("%s: %v", doc, err)
	}
	c, err := d.Write("m", bounds)
	if err != nil {
		t.Fatalf("%s: %v", doc, err)
	}
	b, err := io.ReadAll(c.Open())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
