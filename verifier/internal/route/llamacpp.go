package route

import (
	"net/http"
	"strings"
)

// llamaCpp is llama-server. Started with a model it has that one, whatever a
// request names; started without, it loads what requests name.
var llamaCpp = Family{
	Name: "llamacpp", Title: "llama.cpp",
	About: "A model's name is taken as it stands, and put in for servers that have several. Below `/v1/` a request has to name its model; on the server's own routes " +
		"it need not where one upstream alone has the route and one model. " +
		"Closed stay paths without `/v1/` that are twins of others, streams that are resumed by an id, changes of adapters, whose body is no object, " +
		"and the proxy and the tools that such a server may have.",
	Routes: []Route{
		{
			Method: http.MethodPost, Path: "/completion", Action: "completions", Carrier: InBody, Bound: true, Members: llamaCompletion, Stream: OnRequest,
			Usage: Usage{".", "."},
		},
		{
			Method: http.MethodPost, Path: "/infill", Action: "completions", Carrier: InBody, Bound: true, Members: llamaCompletion, Stream: OnRequest,
			Usage: Usage{".", "."},
		},
		{Method: http.MethodPost, Path: "/embedding", Action: "embeddings", Carrier: InBody, Bound: true, Members: embeddings},
		{Method: http.MethodPost, Path: "/apply-template", Action: "tokenize", Carrier: InBody, Bound: true, Members: embeddings},

		{Method: http.MethodGet, Path: "/slots", Action: "admin"},
		{
			Method: http.MethodPost, Path: "/slots/{slot}", Action: "admin", Members: anything,
			Query: map[string]func(string) bool{"action": oneOf("save", "restore", "erase")}, Required: []string{"action"},
		},
		{Method: http.MethodGet, Path: "/props", Action: "admin"},
		{Method: http.MethodPost, Path: "/props", Action: "admin", Members: anything},
		{Method: http.MethodGet, Path: "/lora-adapters", Action: "admin"},
		{Method: http.MethodPost, Path: "/models/load", Action: "admin", Carrier: InBody, Members: llamaModel},
		{Method: http.MethodPost, Path: "/models/unload", Action: "admin", Carrier: InBody, Members: llamaModel},
	},
	Also: []string{
		"POST /v1/chat/completions", "POST /v1/completions", "POST /v1/embeddings", "POST /v1/responses", "GET /v1/models",
		"POST /v1/messages", "POST /v1/messages/count_tokens", "POST /v1/audio/transcriptions",
		"POST /v1/rerank", "POST /rerank", "POST /tokenize", "POST /detokenize", "GET /metrics",
	},
	Refusal: openAIRefusal,
	Event:   dataEvent,
}

var llamaCompletion = newMembers([]named{
	{"n_predict", whole.as(maxTokens)}, // The first, so that it is the one to be put in.
}, inference, []named{{"n_predict", whole.as(maxTokens)}, {"n_probs", whole.as(topLogprobs)}}, otherModels)

var llamaModel = newMembers([]named{{"model", model}}, otherModels)

// isDigits tells whether s is a small number.
func isDigits(s string) bool { return s != "" && len(s) <= 9 && strings.Trim(s, "0123456789") == "" }
