package route

import (
	"net/http"
	"strings"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
)

// ollama is Ollama's own API, below /api/. It has no authentication at all: who
// reaches its port can load, delete and publish models.
var ollama = Family{
	Name: "ollama", Title: "Ollama", Cap: "num_predict",
	About: "A model has many names there, and scopes and configuration know one: in lower case, without `registry.ollama.ai/`, `library/`, and a tag that is " +
		"`latest` or `local`. `Llama3:Latest` is `llama3`. A name that ends in `:cloud` or `-cloud` sends the prompt to ollama.com: it stays a name of its own, " +
		"and no pattern covers it: neither a scope on `llama3` nor one on `llama3:*` opens `llama3:cloud`. A name that an administrator gave to a remote model can't be told from others. " +
		"Refused are `keep_alive` and those options that load the model anew: they count for everybody. " +
		"Closed stay blobs, which are no JSON, and keys.",
	Routes: []Route{
		{
			Method: http.MethodPost, Path: "/api/chat", Action: "chat", Carrier: InBody, Members: ollamaChat, Stream: Unless,
			Answers: jsonLines, Usage: Usage{".", "."},
		},
		{
			Method: http.MethodPost, Path: "/api/generate", Action: "completions", Carrier: InBody, Members: ollamaGenerate, Stream: Unless,
			Answers: jsonLines, Usage: Usage{".", "."},
		},
		{Method: http.MethodPost, Path: "/api/embed", Action: "embeddings", Carrier: InBody, Members: ollamaEmbed, Usage: Usage{".", ""}},
		{Method: http.MethodPost, Path: "/api/embeddings", Action: "embeddings", Carrier: InBody, Members: ollamaEmbed},
		// It tells the system prompt and the template, so a scope of another action
		// does not do.
		{Method: http.MethodPost, Path: "/api/show", Action: "models", Carrier: InBody, Members: ollamaNamed},
		{Method: http.MethodGet, Path: "/api/tags", Action: "models", List: ollamaList},

		{Method: http.MethodGet, Path: "/api/ps", Action: "admin"},
		{Method: http.MethodGet, Path: "/api/version", Action: "admin"},
		{Method: http.MethodGet, Path: "/api/status", Action: "admin"},
		{Method: http.MethodPost, Path: "/api/pull", Action: "admin", Carrier: InBody, Members: ollamaNamed, Stream: Unless, Answers: jsonLines},
		{Method: http.MethodPost, Path: "/api/push", Action: "admin", Carrier: InBody, Members: ollamaNamed, Stream: Unless, Answers: jsonLines},
		{Method: http.MethodDelete, Path: "/api/delete", Action: "admin", Carrier: InBody, Members: ollamaNamed},
		// These name two models: to give one the name of another is to rule both.
		{Method: http.MethodPost, Path: "/api/create", Action: "admin", Members: anything, Stream: Unless, Answers: jsonLines},
		{Method: http.MethodPost, Path: "/api/copy", Action: "admin", Members: anything},
		// These go out to ollama.com, in the name of who is signed in.
		{Method: http.MethodPost, Path: "/api/me", Action: "admin"},
		{Method: http.MethodPost, Path: "/api/signout", Action: "admin"},
		{Method: http.MethodPost, Path: "/api/experimental/web_search", Action: "admin", Members: anything},
		{Method: http.MethodPost, Path: "/api/experimental/web_fetch", Action: "admin", Members: anything},
	},
	Also: []string{
		"POST /v1/chat/completions", "POST /v1/completions", "POST /v1/embeddings", "POST /v1/responses", "GET /v1/models", "GET /v1/models/{model}",
		"POST /v1/messages", "POST /v1/images/generations", "POST /v1/audio/transcriptions",
	},
	Canonical: ollamaName,
	OwnRight:  isCloud,
	Refusal:   ollamaRefusal,
	Event:     func(body []byte) []byte { return append(append([]byte(nil), body...), '\n') },
}

var jsonLines = []string{"application/x-ndjson"}

// ollamaName is the one name of a model. Ollama compares parts without regard to
// case, and puts in host, namespace and tag where they are missing.
func ollamaName(name string) string {
	name = strings.ToLower(name)
	if rest, ok := strings.CutPrefix(name, "registry.ollama.ai/"); ok && strings.Count(rest, "/") == 1 {
		name = rest
	}
	// Of a name with three parts, the first is a host.
	if rest, ok := strings.CutPrefix(name, "library/"); ok && !strings.Contains(rest, "/") {
		name = rest
	}
	for {
		short := strings.TrimSuffix(strings.TrimSuffix(name, ":latest"), ":local")
		if short == name || !token.ValidModel(short) {
			return name
		}
		name = short
	}
}

var ollamaModel = append([]named{{"model", model}}, refused(`is refused: a call names one model, in "model"`, "name")...)

// everybody are the members that would change the server for all.
var everybody = refused("is refused: it decides for everybody how long the model stays loaded", "keep_alive")

var ollamaOptions = newMembers([]named{
	{"num_predict", whole.as(maxTokens)},
	{"num_ctx", count},
	{"temperature", float.as(temperature)},
}, engine)

// engine are the options that say how the model is loaded.
var engine = refused(
	"is refused: the model would be loaded anew for everybody",
	"num_gpu main_gpu num_batch num_thread low_vram f16_kv use_mmap use_mlock numa vocab_only logits_all",
)

var ollamaCommon = append([]named{
	{"stream", flag.as(unlessSaid)},
	{"options", group.of(ollamaOptions)},
	{"top_logprobs", whole.as(topLogprobs)},
}, refused("is refused: it shows what the model was told", "_debug_render_only")...)

var (
	ollamaNamed = newMembers(ollamaModel, otherModels, []named{{"stream", flag}})
	ollamaChat  = newMembers(ollamaModel, everybody, otherModels, ollamaCommon, []named{{"tools", toolList.as(tools)}})

	ollamaGenerate = newMembers(ollamaModel, everybody, otherModels, ollamaCommon, refused(
		"is refused here: ask for pictures at /v1/images/generations", "width height steps",
	))
	ollamaEmbed = newMembers(ollamaModel, everybody, otherModels, []named{{"options", group.of(newMembers([]named{{"num_ctx", count}}, engine))}})
)

func ollamaRefusal(_ int, code, message, decision string) []byte {
	b := strictjson.AppendText([]byte(`{"error":`), message)
	b = strictjson.AppendText(append(b, `,"code":`...), code)
	b = strictjson.AppendText(append(b, `,"decision_id":`...), decision)
	return append(b, '}')
}

// isCloud tells whether a model runs on other people's servers.
func isCloud(name string) bool {
	return strings.HasSuffix(name, ":cloud") || strings.HasSuffix(name, "-cloud")
}

func ollamaList(models []Listed) []byte {
	b := []byte(`{"models":[`)
	for i, m := range models {
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendText(append(b, `{"name":`...), m.ID)
		b = strictjson.AppendText(append(b, `,"model":`...), m.ID)
		b = append(b, `,"modified_at":"1970-01-01T00:00:00Z","size":0,"digest":"","details":{}}`...)
	}
	return append(b, "]}"...)
}
