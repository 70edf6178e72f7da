package verifier

import (
	"net/http"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// openAI is the API that OpenAI's servers, vLLM, llama.cpp, Ollama and most
// others speak below /v1/. Paths without /v1/, which some of them serve too, are
// twins of these and stay closed.
var openAI = family{
	routes: []route{
		{method: http.MethodPost, path: "/v1/chat/completions", action: "chat", carrier: inBody, members: inference},
		{method: http.MethodPost, path: "/v1/completions", action: "completions", carrier: inBody, members: inference},
		{method: http.MethodPost, path: "/v1/embeddings", action: "embeddings", carrier: inBody, members: inference},
		{method: http.MethodPost, path: "/v1/responses", action: "responses", carrier: inBody, members: responses},
		{method: http.MethodGet, path: "/v1/models", action: "models", list: true},
		// 403, not 404, for a model out of scope: as any other call to it says.
		{method: http.MethodGet, path: "/v1/models/", action: "models", carrier: inPath, anyAction: true},
	},
	refusal: openAIRefusal,
	event: func(body []byte) []byte {
		// The SDKs raise what stands in "error", whatever the stream was of.
		return append(append([]byte("data: "), body...), "\n\n"...)
	},
}

// inference are the members whose meaning we must know for sure. A rule's words
// complete the sentence: the member "x" …
var inference = newMembers(map[string]rule{
	"model":  {isText, "must be a string that names one model"},
	"stream": {isBool, "must be true or false"},

	"stream_options":        {isObject, "must be an object"},
	"max_tokens":            {isCount, "must be a whole number of at least 1"},
	"max_completion_tokens": {isCount, "must be a whole number of at least 1"},
	"max_output_tokens":     {isCount, "must be a whole number of at least 1"},
	"n":                     {isCount, "must be a whole number of at least 1"},
	"best_of":               {isCount, "must be a whole number of at least 1"},
}, refused(
	"is refused: a call names one model, in \"model\"",
	"models", "model_id", "model_name", "model_list", "engine", "deployment", "deployment_id", "preset",
	"fallbacks", "fallback_models", "context_window_fallbacks", "content_policy_fallbacks",
	"lora", "lora_name", "lora_request", "adapter", "adapter_id",
), refused(
	"is refused: the verifier chooses the model server",
	"api_base", "base_url", "api_key", "api_version", "organization", "custom_llm_provider", "provider", "providers",
	"route", "router", "user_config", "kv_transfer_params",
), refused(
	"is refused: what it carries would be merged into the request after it was checked",
	"extra_body", "extra_headers", "extra_query", "headers",
), refused(
	"is refused: it reaches into what the model server keeps of other calls",
	"id_slot", "slot_id", "conversation_id",
))

// responses adds what the Responses API can name that other callers may own, as
// all share one credential at the upstream.
var responses = newMembers(inference.rules, map[string]rule{
	"background": {isFalse, "must be false: an answer is metered while it is given"},
}, refused(
	"is refused: it reaches into what the model server keeps of other calls",
	"previous_response_id", "conversation",
), refused(
	"is refused: a stored prompt may name another model", "prompt",
))

func refused(words string, names ...string) map[string]rule {
	rules := map[string]rule{}
	for _, name := range names {
		rules[name] = rule{isNull, words}
	}
	return rules
}

// null is the same as absent to every server of the family, except where a
// member is required.
func isNull(v strictjson.Value) bool { return v.Kind == strictjson.KindNull }

func isText(v strictjson.Value) bool { return v.Kind == strictjson.KindString }

func isBool(v strictjson.Value) bool { return v.Kind == strictjson.KindBool || isNull(v) }

func isFalse(v strictjson.Value) bool {
	b, ok := v.Bool()
	return ok && !b || isNull(v)
}

func isObject(v strictjson.Value) bool { return v.Kind == strictjson.KindObject || isNull(v) }

// isCount takes no string and no fraction: "100000" and 1e5 are numbers to
// pydantic and nothing to a check in Go.
func isCount(v strictjson.Value) bool {
	n, ok := v.Int()
	return ok && n >= 1 || isNull(v)
}

func openAIRefusal(status int, code, message, decision string) []byte {
	b := strictjson.AppendText([]byte(`{"error":{"message":`), message)
	b = strictjson.AppendText(append(b, `,"type":`...), openAIType(status))
	b = strictjson.AppendText(append(b, `,"code":`...), code)
	b = strictjson.AppendText(append(b, `,"param":null,"decision_id":`...), decision)
	return append(b, "}}"...)
}

func openAIType(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "authentication_error"
	case status == http.StatusForbidden:
		return "permission_error"
	case status >= http.StatusInternalServerError:
		return "server_error"
	}
	return "invalid_request_error"
}
