package route

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// gemini is Google's API of generative models. Its servers read JSON as protocol
// buffers do: every member has two spellings, and numbers may stand in quotes.
var gemini = Family{ //nolint:gosec // The name of a header, no credential.
	Name: "gemini", Title: "Gemini", Credential: "X-Goog-Api-Key", Collection: "models/", Headers: []string{"X-Goog-Api-Client"},
	About: "A model's name stands in the path, without `models/`; a body that names it again, with or without, must name the same. " +
		"Guarded members have to be written the way of JSON, such as `generationConfig`: the other spelling, `generation_config`, is refused. " +
		"A stream has to be asked for with `alt=sse`, and a key in the query is refused. There are no routes that rule. " +
		"Closed stay cached contents, files, tuned models, batches and live sessions, and the list of models, " +
		"as all callers share one account there.",
	Routes:  slices.Concat(generating("/v1beta/models/"), generating("/v1/models/"), embedding("/v1beta/models/")),
	Refusal: googleRefusal,
	Event:   dataEvent,
}

// vertex serves the same models of Google's with the project in the path.
var vertex = Family{
	Name: "vertex", Title: "Vertex AI",
	About: "A model's name is the segment after `models/`, of Google's own models alone. The project and the location are the caller's word, " +
		"and all that the verifier's credential reaches is open to them: give it one of a single project. " +
		"There are no routes that rule. Closed stay other publishers, endpoints, tuned models, `predict` and `rawPredict`.",
	Routes: slices.Concat(
		generating("/v1/projects/{project}/locations/{location}/publishers/google/models/"),
		generating("/v1beta1/projects/{project}/locations/{location}/publishers/google/models/"),
	),
	Refusal: googleRefusal,
	Event:   dataEvent,
}

func generating(prefix string) []Route {
	return []Route{
		{
			Method: http.MethodPost, Path: prefix + "{model}:generateContent", Action: "chat", Carrier: InPath, Members: generate,
			Agree: []string{"model"}, Usage: Usage{"usageMetadata", ""},
		},
		{
			Method: http.MethodPost, Path: prefix + "{model}:streamGenerateContent", Action: "chat", Carrier: InPath, Members: generate,
			Agree: []string{"model"}, Stream: Always, Usage: Usage{"", "usageMetadata"},
			Query: map[string]func(string) bool{"alt": oneOf("sse")}, Required: []string{"alt"}, // Otherwise it is one array.
		},
		{
			Method: http.MethodPost, Path: prefix + "{model}:countTokens", Action: "tokenize", Carrier: InPath, Members: contentCount,
			Agree: []string{"model", "generateContentRequest.model"},
		},
	}
}

func embedding(prefix string) []Route {
	return []Route{
		{
			Method: http.MethodPost, Path: prefix + "{model}:embedContent", Action: "embeddings", Carrier: InPath, Members: embedContent,
			Agree: []string{"model"}, Usage: Usage{"usageMetadata", ""},
		},
		{
			Method: http.MethodPost, Path: prefix + "{model}:batchEmbedContents", Action: "embeddings", Carrier: InPath, Members: embedContents,
			Agree: []string{"model", "requests.model"}, Usage: Usage{"usageMetadata", ""},
		},
	}
}

// otherSpelling are the names that are guarded members to protocol buffers.
func otherSpelling(names string) []named {
	return refused("is refused: write it as JSON does, as in \"generationConfig\"", names)
}

var cached = refused("is refused: it reaches into what the model server keeps of other calls", "cachedContent cached_content")

var generate = newMembers([]named{
	{"model", text},
	{"tools", list.as(functions)},
	{"generationConfig", group.of(newMembers([]named{
		{"maxOutputTokens", count.as(maxTokens)},
		{"candidateCount", count.as(choices)},
		{"temperature", float.as(temperature)},
		{"logprobs", whole.as(topLogprobs)},
	}, otherSpelling("max_output_tokens candidate_count")))},
}, cached, otherSpelling("generation_config"), otherModels)

// contentCount bounds nothing: what is counted costs nothing.
var contentCount = newMembers([]named{
	{"model", text},
	{"generateContentRequest", group.of(newMembers([]named{{"model", text}}, cached, otherModels))},
}, cached, otherSpelling("generate_content_request"), otherModels)

var embedContent = newMembers([]named{{"model", text}}, otherModels)

var embedContents = newMembers([]named{
	{"model", text},
	{"requests", Rule{Is: elements(embedContent), Words: "must be an array of requests for the model in the path"}},
}, otherModels)

// functions are tools, of which one element may declare many.
var functions = Param{Name: "tools", Measure: declared}

func declared(v strictjson.Value) float64 {
	elements, err := strictjson.Array(v.Raw, strictjson.Limits{})
	if err != nil {
		return Endless
	}
	sum := 0.0
	for _, e := range elements {
		own := 0.0
		members, _ := strictjson.Object(e.Raw, strictjson.Limits{})
		for _, m := range members {
			switch {
			case m.Kind == strictjson.KindNull:
			case m.Kind == strictjson.KindArray && (m.Name == "functionDeclarations" || m.Name == "function_declarations"):
				own += length(m.Value)
			default:
				own++
			}
		}
		sum += max(own, 1)
	}
	return sum
}

func googleRefusal(status int, code, message, decision string) []byte {
	b := strconv.AppendInt([]byte(`{"error":{"code":`), int64(status), 10)
	b = strictjson.AppendText(append(b, `,"message":`...), message)
	b = strictjson.AppendText(append(b, `,"status":`...), googleStatus(status))
	b = strictjson.AppendText(append(b, `,"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"hourpass","reason":`...), code)
	b = strictjson.AppendText(append(b, `,"metadata":{"decision_id":`...), decision)
	return append(b, "}}]}}"...)
}

func googleStatus(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound:
		return "NOT_FOUND"
	case http.StatusTooManyRequests, http.StatusPaymentRequired:
		return "RESOURCE_EXHAUSTED"
	case http.StatusGatewayTimeout:
		return "DEADLINE_EXCEEDED"
	case http.StatusInternalServerError:
		return "INTERNAL"
	}
	if status > http.StatusInternalServerError {
		return "UNAVAILABLE"
	}
	return "INVALID_ARGUMENT"
}
