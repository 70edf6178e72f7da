package verifier

import "net/http"

// routes are the endpoints of the OpenAI API that calls may go to
// (https://platform.openai.com/docs/api-reference).
var routes = []route{
	{
		name: "openai.chat", method: http.MethodPost, path: "/v1/chat/completions", action: "chat", carrier: carriesBody,
		params: guard(everywhere, generating), answer: (*Verifier).forward,
	},
	{
		name: "openai.completions", method: http.MethodPost, path: "/v1/completions", action: "completions", carrier: carriesBody,
		params: guard(everywhere, generating), answer: (*Verifier).forward,
	},
	{
		name: "openai.responses", method: http.MethodPost, path: "/v1/responses", action: "responses", carrier: carriesBody,
		params: guard(everywhere, generating, stateful), answer: (*Verifier).forward,
	},
	{
		name: "openai.embeddings", method: http.MethodPost, path: "/v1/embeddings", action: "embeddings", carrier: carriesBody,
		params: guard(everywhere), answer: (*Verifier).forward,
	},
	{
		name: "openai.models", method: http.MethodGet, path: "/v1/models", action: "models", carrier: carriesNone,
		answer: (*Verifier).listModels,
	},
	{
		name: "openai.model", method: http.MethodGet, path: "/v1/models/", action: "models", anyAction: true, carrier: carriesPath,
		answer: (*Verifier).forward,
	},
}

// everywhere are the members that each route guards. Gateways and SDKs know more
// ways than "model" to say which model or which server is meant; none of them
// passes.
var everywhere = []param{
	{name: "model", good: isText, isModel: true},
	{name: "models", whyNot: "a call names one model"},
	{name: "fallbacks", whyNot: "a call names one model"},
	{name: "fallback_models", whyNot: "a call names one model"},
	{name: "model_group", whyNot: "a call names one model"},
	{name: "deployment_id", whyNot: "a call names one model"},
	{name: "engine", whyNot: "a call names one model"},
	{name: "route", whyNot: "the upstream is not the client's choice"},
	{name: "provider", whyNot: "the upstream is not the client's choice"},
	{name: "api_base", whyNot: "the upstream is not the client's choice"},
	{name: "base_url", whyNot: "the upstream is not the client's choice"},
	{name: "api_key", whyNot: "the upstream's credential is not the client's choice"},
	{name: "extra_body", whyNot: "its members would bypass the checks of the body"},
	{name: "extra_headers", whyNot: "its members would bypass the checks of the headers"},
}

// generating are the members of calls that generate text.
var generating = []param{
	{name: "stream", good: isFlag},
	{name: "stream_options", good: isObject},
	{name: "max_tokens", good: isCount},
	{name: "max_completion_tokens", good: isCount},
	{name: "max_output_tokens", good: isCount},
	{name: "n", good: isCount},
	{name: "best_of", good: isCount},
}

// stateful are the members of the Responses API that reach for what another call
// left behind, which may be another key's.
var stateful = []param{
	{name: "previous_response_id", good: isNull},
	{name: "conversation", good: isNull},
	{name: "prompt", good: isNull},
	{name: "background", good: isFalse},
}
