package route

import (
	"net/http"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// tgi is Hugging Face's Text Generation Inference. It has one model, and its own
// routes have no place for a name.
var tgi = Family{
	Name: "tgi", Title: "Text Generation Inference", Cap: "max_tokens",
	About: "Such a server has one model, and its own routes no place for a name: one upstream alone may have them, with one exact name under `models`, " +
		"and a call is to that. A `model` beside it must be that name. " +
		"Closed stay `/`, which streams or not as its body says, and `/invocations`.",
	Routes: []Route{
		{
			Method: http.MethodPost, Path: "/generate", Action: "completions", Carrier: InBody, Bound: true, Members: tgiGenerate,
			Usage: Usage{"details", ""},
		},
		{
			Method: http.MethodPost, Path: "/generate_stream", Action: "completions", Carrier: InBody, Bound: true, Members: tgiGenerate, Stream: Always,
			Usage: Usage{"", "details"},
		},
		{Method: http.MethodPost, Path: "/chat_tokenize", Action: "tokenize", Carrier: InBody, Bound: true, Members: embeddings},

		{Method: http.MethodGet, Path: "/info", Action: "admin"},
	},
	Also: []string{"POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models", "POST /tokenize", "GET /metrics"},
	Refusal: func(_ int, code, message, decision string) []byte {
		b := strictjson.AppendText([]byte(`{"error":`), message)
		b = strictjson.AppendText(append(b, `,"error_type":`...), code)
		b = strictjson.AppendText(append(b, `,"code":`...), code)
		b = strictjson.AppendText(append(b, `,"decision_id":`...), decision)
		return append(b, '}')
	},
	Event: dataEvent,
}

var tgiGenerate = newMembers([]named{
	{"model", model},
	{"parameters", group.of(newMembers([]named{
		{"max_new_tokens", count.as(maxTokens)},
		{"best_of", count.as(bestOf)},
		{"temperature", float.as(temperature)},
		{"top_n_tokens", whole.as(topLogprobs)},
		{"details", flag},
	}, otherModels))},
}, otherModels).reporting(Report{Group: "parameters", Name: "details"})
