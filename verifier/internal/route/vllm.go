package route

import "net/http"

// vllm is vLLM's server, which rules itself by routes beside those of the model.
var vllm = Family{
	Name: "vllm", Title: "vLLM", Cap: "max_tokens",
	About: "A model's name is taken as it stands. Adapters (LoRA) that are loaded are models of their own and need a scope of their own. " +
		"On the server's own routes a request need not name its model where one upstream alone has the route and one model. " +
		"Closed stay `/invocations`, whose body may be that of any route, `/generative_scoring`, and the transfer of weights and caches between servers.",
	Routes: append([]Route{
		{Method: http.MethodPost, Path: "/tokenize", Action: "tokenize", Carrier: InBody, Bound: true, Members: embeddings},
		{Method: http.MethodPost, Path: "/detokenize", Action: "tokenize", Carrier: InBody, Bound: true, Members: embeddings},
		{
			Method: http.MethodPost, Path: "/pooling", Action: "embeddings", Carrier: InBody, Bound: true, Members: embeddings,
			Answers: []string{"application/octet-stream"}, Usage: Usage{"usage", ""},
		},
		{Method: http.MethodPost, Path: "/classify", Action: "infer", Carrier: InBody, Bound: true, Members: embeddings, Usage: Usage{"usage", ""}},
		{Method: http.MethodPost, Path: "/score", Action: "rerank", Carrier: InBody, Bound: true, Members: embeddings, Usage: Usage{"usage", ""}},
		{Method: http.MethodPost, Path: "/v1/score", Action: "rerank", Carrier: InBody, Bound: true, Members: embeddings, Usage: Usage{"usage", ""}},
		{Method: http.MethodPost, Path: "/rerank", Action: "rerank", Carrier: InBody, Bound: true, Members: embeddings, Usage: Usage{"usage", ""}},

		{
			Method: http.MethodPost, Path: "/sleep", Action: "admin",
			Query: map[string]func(string) bool{"level": isDigits, "mode": oneOf("abort", "wait", "keep")},
		},
		{Method: http.MethodPost, Path: "/wake_up", Action: "admin", Query: map[string]func(string) bool{"tags": oneOf("weights", "kv_cache")}},
		{Method: http.MethodGet, Path: "/metrics", Action: "admin", Answers: []string{"text/plain", "application/openmetrics-text"}},
	}, ruling()...),
	Also: []string{
		"POST /v1/chat/completions", "POST /v1/completions", "POST /v1/embeddings", "POST /v1/responses", "GET /v1/models", "GET /v1/models/{model}",
		"POST /v1/audio/transcriptions", "POST /v1/audio/translations", "POST /v1/messages", "POST /v1/messages/count_tokens",
		"POST /v1/rerank", "POST /v2/rerank",
	},
	Refusal: openAIRefusal,
	Event:   dataEvent,
}

func ruling() []Route {
	var routes []Route
	for _, path := range []string{"/is_sleeping", "/is_paused", "/is_scaling_elastic_ep", "/server_info", "/load", "/version"} {
		routes = append(routes, Route{Method: http.MethodGet, Path: path, Action: "admin"})
	}
	for _, path := range []string{"/pause", "/resume", "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache", "/start_profile", "/stop_profile"} {
		routes = append(routes, Route{Method: http.MethodPost, Path: path, Action: "admin"})
	}
	for _, path := range []string{"/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/collective_rpc", "/scale_elastic_ep"} {
		routes = append(routes, Route{Method: http.MethodPost, Path: path, Action: "admin", Members: anything, Answers: []string{"text/plain"}})
	}
	return routes
}
