package route

import (
	"net/http"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// anthropic is the Messages API, which Ollama, llama.cpp and vLLM serve too.
var anthropic = Family{ //nolint:gosec // The name of a header, no credential.
	Name: "anthropic", Title: "Anthropic", Credential: "X-Api-Key", Headers: []string{"Anthropic-Version", "Anthropic-Beta"},
	About: "A model's name is taken as it stands. There are no routes that rule. " +
		"Closed stay batches, whose models stand one in each of their requests, files, containers and skills: all callers share one account, " +
		"and an id of another's would open it. Refused are a `fallback`, and tools that have a model of their own.",
	Routes: []Route{
		{
			Method: http.MethodPost, Path: "/v1/messages", Action: "chat", Carrier: InBody, Members: messages, Stream: OnRequest,
			Usage: Usage{"usage", "usage message.usage"}, // The first event has the latter.
		},
		{Method: http.MethodPost, Path: "/v1/messages/count_tokens", Action: "tokenize", Carrier: InBody, Members: countTokens},
	},
	Also:    []string{"GET /v1/models", "GET /v1/models/{model}"},
	Refusal: anthropicRefusal,
	Event: func(body []byte) []byte {
		return append([]byte("event: error\n"), dataEvent(body)...)
	},
}

// otherMessages are, beside those that all know, the ways to name another model
// or what others left at Anthropic.
var otherMessages = append(refused(
	"is refused: a call names one model, in \"model\"", "fallback fallback_model",
), refused(
	"is refused: it reaches into what the model server keeps of other calls", "container",
)...)

var messages = newMembers(otherModels, otherMessages, []named{
	{"model", model},
	{"stream", flag.as(streaming)},
	{"max_tokens", count.as(maxTokens)},
	{"temperature", float.as(temperature)},
	{"tools", toolList.as(tools)},
})

// countTokens bounds nothing: what is counted costs nothing.
var countTokens = newMembers(otherModels, otherMessages, []named{{"model", model}, {"tools", toolList}})

func anthropicRefusal(status int, code, message, decision string) []byte {
	b := strictjson.AppendText([]byte(`{"type":"error","error":{"type":`), anthropicType(status))
	b = strictjson.AppendText(append(b, `,"message":`...), message)
	b = strictjson.AppendText(append(b, `,"code":`...), code)
	b = strictjson.AppendText(append(b, `},"request_id":`...), decision)
	b = strictjson.AppendText(append(b, `,"decision_id":`...), decision)
	return append(b, '}')
}

func anthropicType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusPaymentRequired:
		return "billing_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusServiceUnavailable:
		return "overloaded_error"
	case http.StatusGatewayTimeout:
		return "timeout_error"
	}
	if status >= http.StatusInternalServerError {
		return "api_error"
	}
	return "invalid_request_error"
}
