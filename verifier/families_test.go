package verifier_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier"
)

// TestFamilies: what each kind of server gets of a call, and what it does not.
func TestFamilies(t *testing.T) {
	bounded := token.Params{Bounds: map[string]token.Range{"max_tokens": {Max: 100}}, Clamp: true}
	for _, row := range []struct {
		situation, api, models, scope string
		params                        token.Params
		method, target, body          string
		status                        int
		arrives                       string // Target and body; "=" for the same.
	}{
		{"Ollama", "ollama", "hr", "chat:hr", token.Params{}, "POST", "/api/chat", `{"model":"library/HR:latest"}`, 200, `/api/chat {"model":"hr"}`},
		{"Ollama, bounded", "ollama", "hr", "chat:hr", bounded, "POST", "/api/chat", `{"model":"hr","options":{"num_predict":-1}}`, 200, `/api/chat {"model":"hr","options":{"num_predict":100}}`},
		{"Ollama's cloud", "ollama", "*", "chat:hr", token.Params{}, "POST", "/api/chat", `{"model":"hr:cloud"}`, 403, ""},
		{"Ollama's cloud, by a pattern", "ollama", "*", "chat:hr:*", token.Params{}, "POST", "/api/chat", `{"model":"hr:cloud"}`, 403, ""},
		{"Ollama's cloud, by its name", "ollama", "*", "chat:hr:cloud", token.Params{}, "POST", "/api/chat", `{"model":"HR:Cloud"}`, 200, `/api/chat {"model":"hr:cloud"}`},
		{"Ollama, unloaded", "ollama", "hr", "chat:hr", token.Params{}, "POST", "/api/chat", `{"model":"hr","keep_alive":0}`, 400, ""},
		{"Ollama's old name", "ollama", "hr", "models:hr", token.Params{}, "POST", "/api/show", `{"model":"hr","name":"x"}`, 400, ""},
		{"pull, opened", "ollama", "*", "admin:hr", token.Params{}, "POST", "/api/pull", `{"model":"hr"}`, 200, "="},
		{"pull, without the scope", "ollama", "*", "chat:hr", token.Params{}, "POST", "/api/pull", `{"model":"hr"}`, 403, ""},
		{"push, not opened", "ollama", "*", "admin:hr", token.Params{}, "POST", "/api/push", `{"model":"hr"}`, 404, ""},
		{"create, by who rules the server", "ollama", "*", "admin:toy", token.Params{}, "POST", "/api/create", `{"model":"hr","from":"secret"}`, 200, "="},
		{"create, by who rules one model", "ollama", "*", "admin:hr", token.Params{}, "POST", "/api/create", `{"model":"hr","from":"secret"}`, 403, ""},

		{"Azure", "azure", "hr", "chat:hr", token.Params{}, "POST", "/openai/deployments/hr/chat/completions?api-version=2024-10-21", `{"model":"hr"}`, 200, "="},
		{"Azure, without a model in the body", "azure", "hr", "chat:hr", token.Params{}, "POST", "/openai/deployments/hr/chat/completions?api-version=2024-10-21", `{}`, 200, "="},
		{"Azure, with two", "azure", "*", "chat:hr", token.Params{}, "POST", "/openai/deployments/hr/chat/completions", `{"model":"secret"}`, 400, ""},
		{"Azure, the other way", "azure", "*", "chat:hr", token.Params{}, "POST", "/openai/deployments/secret/chat/completions", `{"model":"hr"}`, 400, ""},
		{"Azure, another deployment", "azure", "*", "chat:hr", token.Params{}, "POST", "/openai/deployments/secret/chat/completions", `{}`, 403, ""},
		{"Azure, a key in the query", "azure", "hr", "chat:hr", token.Params{}, "POST", "/openai/deployments/hr/chat/completions?api-key=x", `{}`, 400, ""},

		{"Gemini", "gemini", "hr", "chat:hr", token.Params{}, "POST", "/v1beta/models/hr:generateContent", `{"contents":[]}`, 200, "="},
		{"Gemini, bounded", "gemini", "hr", "chat:hr", bounded, "POST", "/v1beta/models/hr:generateContent", `{"contents":[]}`, 200, `/v1beta/models/hr:generateContent {"contents":[],"generationConfig":{"maxOutputTokens":100}}`},
		{"Gemini, another model within", "gemini", "*", "embeddings:hr", token.Params{}, "POST", "/v1beta/models/hr:batchEmbedContents", `{"requests":[{"model":"models/hr"},{"model":"models/x"}]}`, 400, ""},
		{"Gemini, a stream", "gemini", "hr", "chat:hr", token.Params{}, "POST", "/v1beta/models/hr:streamGenerateContent?alt=sse", `{"contents":[]}`, 200, "="},
		{"Gemini, a stream of another kind", "gemini", "hr", "chat:hr", token.Params{}, "POST", "/v1beta/models/hr:streamGenerateContent", `{"contents":[]}`, 400, ""},
		{"Gemini's server has no project", "gemini", "hr", "chat:hr", token.Params{}, "POST", "/v1/projects/p/locations/l/publishers/google/models/hr:generateContent", `{}`, 404, ""},

		{"Anthropic", "anthropic", "hr", "chat:hr", bounded, "POST", "/v1/messages", `{"model":"hr","max_tokens":500}`, 200, `/v1/messages {"model":"hr","max_tokens":100}`},
		{"llama.cpp, bound", "llamacpp", "hr", "completions:hr", bounded, "POST", "/completion", `{"prompt":"x"}`, 200, `/completion {"prompt":"x","model":"hr","n_predict":100}`},
		{"llama.cpp, with two models", "llamacpp", "hr small", "completions:hr", token.Params{}, "POST", "/completion", `{"prompt":"x"}`, 400, ""},
		{"vLLM, bounded by what it does not read", "vllm", "hr", "chat:hr", bounded, "POST", "/v1/chat/completions", `{"model":"hr","n_predict":5}`, 200, `/v1/chat/completions {"model":"hr","n_predict":5,"max_tokens":100}`},
		{"vLLM's adapters", "vllm", "*", "admin:toy", token.Params{}, "POST", "/v1/load_lora_adapter", `{"lora_name":"hr"}`, 404, ""},
		{"TGI", "tgi", "hr", "completions:hr", bounded, "POST", "/generate", `{"inputs":"x"}`, 200, `/generate {"inputs":"x","model":"hr","parameters":{"details":true,"max_new_tokens":100}}`},
		{"TGI, by another name", "tgi", "hr", "completions:other", token.Params{}, "POST", "/generate", `{"inputs":"x","model":"other"}`, 404, ""},
		{"Triton", "triton", "hr", "infer:hr", token.Params{}, "POST", "/v2/models/hr/versions/2/infer", `{"inputs":[]}`, 200, "="},
		{"Triton, bounded", "triton", "hr", "infer:hr", bounded, "POST", "/v2/models/hr/infer", `{"inputs":[]}`, 403, ""},
		{"Cohere", "cohere", "hr", "rerank:hr", token.Params{}, "POST", "/v2/rerank", `{"model":"hr","documents":[]}`, 200, "="},
		{"Bedrock", "bedrock", "*", "chat:a.b-v1:0", token.Params{}, "POST", "/model/a.b-v1:0/converse", `{"messages":[]}`, 200, "="},
		{"Bedrock, escaped", "bedrock", "*", "chat:a.b-v1:0", token.Params{}, "POST", "/model/a.b-v1%3A0/converse", `{"messages":[]}`, 400, ""},
	} {
		t.Run(row.situation, func(t *testing.T) {
			h := newHouse(t, func(c *verifier.Config) {
				c.Upstreams[0].API, c.Upstreams[0].Models, c.Upstreams[0].Credential = row.api, strings.Fields(row.models), upstreamCredential
				if row.api == "ollama" {
					c.Upstreams[0].Open = []string{"POST /api/pull", "POST /api/create"}
				}
			})
			r := h.good()
			r.method, r.target, r.body = row.method, row.target, row.body
			r.header.Set("Authorization", "Bearer "+h.keys.token(func(c *token.Claims) {
				scope, err := token.NewScopes(row.scope)
				if err != nil {
					t.Fatal(err)
				}
				c.Scope, c.Params = scope, row.params
			}))
			got := h.send(r)
			if got.status != row.status {
				t.Fatalf("%d %s, want %d", got.status, got.body, row.status)
			}
			want := strings.Replace(row.arrives, "=", row.target+" "+row.body, 1)
			arrived := ""
			for _, a := range h.arrived() {
				arrived += a.target + " " + a.body
			}
			if row.arrives != "" && row.arrives[0] != '=' {
				want = row.arrives
			}
			if arrived != want {
				t.Errorf("the upstream got %s, want %s", arrived, want)
			}
			if got.status != http.StatusOK && len(h.records()) != 1 {
				t.Errorf("records %+v", h.records())
			}
		})
	}
}
