package route

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
)

// openAI is the API that OpenAI's servers, vLLM, llama.cpp, Ollama and most
// others speak below /v1/.
var openAI = Family{
	Name: "openai", Title: "OpenAI", Cap: "max_completion_tokens", Headers: []string{"Openai-Beta"},
	About: "A model's name is taken as it stands. Servers that rule themselves by other routes have kinds of their own below. " +
		"Paths without `/v1/`, which some servers have too, are twins of these and stay closed. " +
		"So do files and batches, whose models stand within JSON lines, videos, and whatever is read, changed or deleted by an id: " +
		"all callers share one account at the upstream, so an id of another's would open it. " +
		"Realtime sessions transcribe nothing by the way, as that takes a second model, and a token that bounds parameters does not open them.",
	Routes: []Route{
		{
			Method: http.MethodPost, Path: "/v1/chat/completions", Action: "chat", Carrier: InBody, Members: chat, Stream: OnRequest,
			Usage: Usage{"usage", "usage"},
		},
		{
			Method: http.MethodPost, Path: "/v1/completions", Action: "completions", Carrier: InBody, Members: completions, Stream: OnRequest,
			Usage: Usage{"usage", "usage"},
		},
		{Method: http.MethodPost, Path: "/v1/embeddings", Action: "embeddings", Carrier: InBody, Members: embeddings, Usage: Usage{"usage", ""}},
		{
			Method: http.MethodPost, Path: "/v1/responses", Action: "responses", Carrier: InBody, Members: responses, Stream: OnRequest,
			Usage: Usage{"usage", "response.usage"},
		},
		{Method: http.MethodGet, Path: "/v1/models", Action: "models", List: openAIList},
		// 403, not 404, for a model out of scope: as any other call to it says.
		{Method: http.MethodGet, Path: "/v1/models/{model...}", Action: "models", Carrier: InPath, AnyAction: true},
		{
			Method: http.MethodPost, Path: "/v1/audio/transcriptions", Action: "audio", Carrier: InForm, Members: transcriptions, Stream: OnRequest,
			Answers: subtitles, LargeBody: true, Usage: Usage{"usage", "usage"},
		},
		{
			Method: http.MethodPost, Path: "/v1/audio/translations", Action: "audio", Carrier: InForm, Members: transcriptions,
			Answers: subtitles, LargeBody: true, Usage: Usage{"usage", ""},
		},
		{
			Method: http.MethodPost, Path: "/v1/audio/speech", Action: "audio", Carrier: InBody, Members: speech, Stream: OnRequest,
			Answers: []string{"audio/", "application/octet-stream"}, Usage: Usage{"", "usage"},
		},
		{
			Method: http.MethodPost, Path: "/v1/images/generations", Action: "images", Carrier: InBody, Members: pictures, Stream: OnRequest,
			Usage: Usage{"usage", "usage"},
		},
		{
			Method: http.MethodPost, Path: "/v1/images/edits", Action: "images", Carrier: InForm, Members: pictures, Stream: OnRequest,
			LargeBody: true, Usage: Usage{"usage", "usage"},
		},
		{
			Method: http.MethodPost, Path: "/v1/images/variations", Action: "images", Carrier: InForm, Members: pictures,
			LargeBody: true, Usage: Usage{"usage", ""},
		},
		{Method: http.MethodPost, Path: "/v1/moderations", Action: "moderations", Carrier: InBody, Bound: true, Members: embeddings},
		{Method: http.MethodPost, Path: "/v1/rerank", Action: "rerank", Carrier: InBody, Members: embeddings, Usage: Usage{"usage", ""}},
		{
			Method: http.MethodGet, Path: "/v1/realtime", Action: "realtime", Carrier: InQuery, Query: map[string]func(string) bool{"model": token.ValidModel},
			Socket: true, Members: frames, Agree: []string{"session.model"}, Stream: Always, Opaque: true, Usage: Usage{"", "response.usage"},
		},
		// The model stands in the first message, and may stand in each.
		{
			Method: http.MethodGet, Path: "/v1/responses", Action: "responses", Carrier: InFrame, Socket: true, Members: responses, Agree: []string{"model"},
			Stream: Always, Opaque: true, Usage: Usage{"", "response.usage"},
		},
	},
	Refusal: openAIRefusal,
	Event:   dataEvent,
}

// otherModels are the ways to name another model, another place, or what others
// left there. A rule's words complete the sentence: the member "x" …
var otherModels = slices.Concat(refused(
	"is refused: a call names one model, in \"model\"",
	`models model_id model_name model_list engine deployment deployment_id preset
	fallbacks fallback_models context_window_fallbacks content_policy_fallbacks
	lora lora_name lora_request adapter adapter_id`,
), refused(
	"is refused: the verifier chooses the model server",
	`api_base base_url api_key api_version organization custom_llm_provider provider providers
	route router user_config kv_transfer_params data_sources dataSources`,
), refused(
	"is refused: what it carries would be merged into the request after it was checked",
	`extra_body extra_headers extra_query headers`,
), refused(
	"is refused: it reaches into what the model server keeps of other calls",
	`id_slot slot_id conversation_id`,
))

// inference are the members whose meaning we must know for sure.
var inference = []named{
	{"model", model},
	{"stream", flag.as(streaming)},
	{"stream_options", group},
	{"max_tokens", count.as(maxTokens)},
	{"max_completion_tokens", count.as(maxTokens).some()}, // Not to Ollama.
	{"max_output_tokens", count.as(maxTokens).some()},
	{"n_predict", whole.as(maxTokens).some()}, // To llama.cpp, on any route.
	{"n", count.as(choices)},
	{"n_cmpl", count.as(choices).some()}, // To llama.cpp.
	{"best_of", count.as(bestOf)},
	{"temperature", float.as(temperature)},
	{"n_probs", whole.as(topLogprobs).some()},         // To llama.cpp.
	{"prompt_logprobs", whole.as(topLogprobs).some()}, // To vLLM.
}

var chat = newMembers(inference, otherModels, []named{
	{"tools", toolList.as(tools)},
	{"functions", list.as(tools)},
	{"top_logprobs", whole.as(topLogprobs)},
	streamOptions,
}).reporting(includeUsage)

var completions = newMembers(inference, otherModels, []named{{"logprobs", whole.as(topLogprobs)}, streamOptions}).reporting(includeUsage)

var streamOptions = named{"stream_options", group.of(newMembers([]named{{"include_usage", flag}}))}

var includeUsage = Report{Group: "stream_options", Name: "include_usage", Streams: true}

var embeddings = newMembers([]named{{"model", model}, {"stream", flag.as(streaming)}}, otherModels)

// responses adds what the Responses API can name that other callers may own, as
// all share one credential at the upstream.
var responses = newMembers([]named{
	{"max_output_tokens", count.as(maxTokens)}, // The first, so that it is the one to be put in.
	{"background", Rule{Is: isFalse, Words: "must be false: what it costs could not be seen"}},
	{"tools", toolList.as(tools)},
	{"top_logprobs", whole.as(topLogprobs)},
}, inference, []named{{"max_output_tokens", count.as(maxTokens)}}, otherModels, refused(
	"is refused: it reaches into what the model server keeps of other calls", "previous_response_id conversation",
), refused(
	"is refused: a stored prompt may name another model", "prompt",
))

func openAIList(models []Listed) []byte {
	// Anthropic's clients read their own members of it.
	b := []byte(`{"object":"list","data":[`)
	for i, m := range models {
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendText(append(b, `{"id":`...), m.ID)
		b = strconv.AppendInt(append(b, `,"object":"model","created":`...), m.Created, 10)
		b = strictjson.AppendText(append(b, `,"owned_by":`...), m.Owner)
		b = strictjson.AppendText(append(b, `,"type":"model","display_name":`...), m.ID)
		b = append(b, `,"created_at":"`...)
		b = append(time.Unix(m.Created, 0).UTC().AppendFormat(b, time.RFC3339), `"}`...)
	}
	b = append(b, `],"has_more":false,"first_id":`...)
	if len(models) == 0 {
		return append(b, `null,"last_id":null}`...)
	}
	b = strictjson.AppendText(b, models[0].ID)
	b = strictjson.AppendText(append(b, `,"last_id":`...), models[len(models)-1].ID)
	return append(b, '}')
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
	case status == http.StatusPaymentRequired:
		return "insufficient_quota"
	case status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case status >= http.StatusInternalServerError:
		return "server_error"
	}
	return "invalid_request_error"
}

// dataEvent is an event without a name. The SDKs raise what stands in "error",
// whatever the stream was of.
func dataEvent(body []byte) []byte {
	return append(append([]byte("data: "), body...), "\n\n"...)
}
