package route

import (
	"net/http"
	"slices"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// triton is the protocol of KServe, version 2, as Triton and others serve it. Its
// parser finds the first of two members of one name.
var triton = Family{
	Name: "triton", Title: "Triton and KServe v2",
	About: "A model's name is the segment after `models/`; a version behind it is of the same model. " +
		"What a model takes for parameters is its own affair: where they can't be seen, a token that bounds any does not open the route. " +
		"Refused are tensors in shared memory, which others could have put there, and sequences, which others could have begun. " +
		"A model that is loaded by a call is loaded as the repository has it. Bodies are JSON alone, not JSON with binary tensors behind it.",
	Routes: slices.Concat(inferring("/v2/models/{model}"), inferring("/v2/models/{model}/versions/{version}"), tritonRuling()),
	Refusal: func(_ int, code, message, decision string) []byte {
		return ollamaRefusal(0, code, message, decision) // They are the same.
	},
	Event: dataEvent,
}

func inferring(prefix string) []Route {
	return []Route{
		{
			Method: http.MethodPost, Path: prefix + "/infer", Action: "infer", Carrier: InPath, Members: tensors,
			Answers: []string{"application/octet-stream"}, Opaque: true,
		},
		{Method: http.MethodPost, Path: prefix + "/generate", Action: "infer", Carrier: InPath, Members: tritonGenerate, Opaque: true},
		{Method: http.MethodPost, Path: prefix + "/generate_stream", Action: "infer", Carrier: InPath, Members: tritonGenerate, Stream: Always, Opaque: true},
		{Method: http.MethodGet, Path: prefix, Action: "models", Carrier: InPath},
		{Method: http.MethodGet, Path: prefix + "/ready", Action: "models", Carrier: InPath, AnyAction: true},
		{Method: http.MethodGet, Path: prefix + "/config", Action: "admin", Carrier: InPath},
		{Method: http.MethodGet, Path: prefix + "/stats", Action: "admin", Carrier: InPath},
	}
}

func tritonRuling() []Route {
	routes := []Route{
		{Method: http.MethodGet, Path: "/v2", Action: "admin"},
		{Method: http.MethodGet, Path: "/v2/models/stats", Action: "admin"},
		{Method: http.MethodPost, Path: "/v2/repository/index", Action: "admin", Members: anything},
		{Method: http.MethodPost, Path: "/v2/repository/models/{model}/load", Action: "admin", Carrier: InPath, Members: asInRepository},
		{Method: http.MethodPost, Path: "/v2/repository/models/{model}/unload", Action: "admin", Carrier: InPath, Members: asInRepository},
		{Method: http.MethodGet, Path: "/v2/logging", Action: "admin"},
		{Method: http.MethodPost, Path: "/v2/logging", Action: "admin", Members: anything},
		{Method: http.MethodGet, Path: "/v2/trace/setting", Action: "admin"},
		{Method: http.MethodPost, Path: "/v2/trace/setting", Action: "admin", Members: anything},
		{Method: http.MethodGet, Path: "/v2/models/{model}/trace/setting", Action: "admin", Carrier: InPath},
		{Method: http.MethodPost, Path: "/v2/models/{model}/trace/setting", Action: "admin", Carrier: InPath, Members: anything},
	}
	for _, memory := range []string{"/v2/systemsharedmemory", "/v2/cudasharedmemory"} {
		routes = append(routes,
			Route{Method: http.MethodGet, Path: memory + "/status", Action: "admin"},
			Route{Method: http.MethodGet, Path: memory + "/region/{region}/status", Action: "admin"},
			Route{Method: http.MethodPost, Path: memory + "/region/{region}/register", Action: "admin", Members: anything},
			Route{Method: http.MethodPost, Path: memory + "/region/{region}/unregister", Action: "admin", Members: anything},
			Route{Method: http.MethodPost, Path: memory + "/unregister", Action: "admin", Members: anything},
		)
	}
	return routes
}

var asInRepository = newMembers(refused("is refused: a model is loaded as the repository has it", "parameters"))

var (
	sequences = refused("is refused: it reaches into what the model server keeps of other calls", "sequence_id sequence_start sequence_end")
	elsewhere = refused("is refused: the model server would read it where others write", "shared_memory_region shared_memory_offset shared_memory_byte_size")
	nameAgain = refused("is refused: the path names the model", "model model_name model_version")

	tensor = newMembers([]named{{"parameters", group.of(newMembers(elsewhere))}})
	inline = Rule{Is: elements(tensor), Words: "must be an array of tensors, none of them in shared memory"}
)

var tensors = newMembers([]named{
	{"id", Rule{Is: isTextOrNull, Words: "must be a string"}},
	{"parameters", group.of(newMembers(sequences))},
	{"inputs", inline},
	{"outputs", inline},
}, nameAgain)

var tritonGenerate = newMembers([]named{
	{"parameters", group.of(newMembers(sequences))},
}, sequences, nameAgain)

func isTextOrNull(v strictjson.Value) bool { return isText(v) || isNull(v) }
