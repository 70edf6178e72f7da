package route_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// TestRoutesAreSound: what every entry of the registry must keep.
func TestRoutesAreSound(t *testing.T) {
	for _, r := range all() {
		bad := func(problem string) { t.Errorf("%s %s", r.Name(), problem) }
		hasPath := strings.Contains(r.Path, "{model")
		switch {
		case !slices.Contains(token.Actions, r.Action):
			bad("wants an action that no scope has")
		case hasPath != (r.Carrier == route.InPath):
			bad("has its model elsewhere than its path says")
		case r.Carrier == route.InBody && (r.Members == nil || r.Members.Rules["model"].Is == nil):
			bad("takes a model in the body without a rule")
		case r.Carrier == route.InQuery && r.Query["model"] == nil:
			bad("takes a model in the query without a rule")
		case r.Carrier == route.Nowhere && !r.Admin() && r.List == nil:
			bad("is about no model, so that every token opens it")
		case r.Method == http.MethodGet && r.Members != nil && !r.Socket:
			bad("takes a body")
		case r.Admin() && (r.AnyAction || r.Bound):
			bad("rules servers and is opened by less")
		case r.LargeBody && r.Carrier != route.InForm && !r.Form:
			bad("takes large bodies that are no forms")
		case r.Socket && r.Carrier != route.InQuery && r.Carrier != route.InFrame:
			bad("is a socket whose model is neither in the query nor in a frame")
		}
		for _, name := range r.Required {
			if r.Query[name] == nil {
				bad("requires a parameter that may not stand there")
			}
		}
		// Whatever names the model again has to be judged.
		if r.Carrier == route.InPath && r.Members != nil && !r.Admin() {
			rule, known := r.Members.Rules["model"]
			if known && rule.Is(text("m")) && !slices.Contains(r.Agree, "model") {
				bad("takes a model in the body that need not agree")
			}
			if !known {
				bad("has no rule for a model in the body")
			}
		}
		if r.Members != nil {
			sound(t, r.Name(), r.Members)
		}
	}
}

func sound(t *testing.T, name string, m *route.Members) {
	t.Helper()
	seen := map[string]bool{}
	for _, param := range m.Params {
		rule := m.Rules[param]
		if rule.Param == nil {
			continue // A later rule took its place.
		}
		// What is put in must be what every server reads, unless its family says more.
		if !seen[rule.Param.Name] && rule.Some && rule.Param.Absent > 1 {
			t.Errorf("%s: of the members for %s, the first is one that some don't read", name, rule.Param.Name)
		}
		seen[rule.Param.Name] = true
	}
	for member, rule := range m.Rules {
		switch {
		case rule.Is == nil || rule.Words == "":
			t.Errorf("%s: the rule for %s says nothing", name, member)
		case rule.Inner != nil:
			sound(t, name+" "+member, rule.Inner)
		}
		if len(member) > 40 {
			t.Errorf("%s: %s is longer than a skeleton", name, member)
		}
	}
}

func text(s string) strictjson.Value {
	return strictjson.Value{Kind: strictjson.KindString, Raw: strictjson.AppendText(nil, s)}
}

// each calls f with the members of every object that has rules.
func each(f func(where string, m *route.Members)) {
	var walk func(string, *route.Members)
	walk = func(where string, m *route.Members) {
		f(where, m)
		for _, name := range m.Inners {
			if inner := m.Rules[name].Inner; inner != nil {
				walk(where+" "+name, inner)
			}
		}
	}
	for _, r := range all() {
		if r.Members != nil {
			walk(r.Name(), r.Members)
		}
	}
}

// TestConfusable: whatever some parser could take for a name that has a rule is
// found, and what none could, is not.
func TestConfusable(t *testing.T) {
	fullwidth := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r > ' ' && r < unicode.MaxASCII {
				return r + 0xFEE0
			}
			return r
		}, s)
	}
	each(func(where string, m *route.Members) {
		for name := range m.Rules {
			for _, other := range []string{
				strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:], " " + name, name + "\n", name + "\x00", "\ufeff" + name, name[:1] + "\u200b" + name[1:],
				fullwidth(name), name + "\u00a0", strings.ReplaceAll(name, "s", "\u017f"), strings.ReplaceAll(name, "k", "\u212a"), name + "\u2800", name + "\ufe0f",
			} {
				if _, known := m.Rules[other]; !known && !m.Confusable(other) {
					t.Errorf("%s: %q passes beside %q", where, other, name)
				}
			}
			for _, other := range []string{name + "x", "x" + name, name + "2"} {
				if _, known := m.Rules[other]; !known && m.Confusable(other) {
					if !slices.ContainsFunc(names(m), func(n string) bool { return strings.EqualFold(n, other) }) {
						t.Errorf("%s: %q passes for a name that has a rule", where, other)
					}
				}
			}
		}
	})
}

func names(m *route.Members) (list []string) {
	for name := range m.Rules {
		list = append(list, name)
	}
	return list
}

// TestOtherModels: a second way to name a model is refused wherever a body names
// the first.
func TestOtherModels(t *testing.T) {
	for _, r := range all() {
		if r.Members == nil || r.Admin() || r.Opaque && !r.Socket || strings.HasPrefix(r.Path, "/model/") {
			continue
		}
		for _, name := range []string{"models", "model_id", "fallbacks", "fallback_models", "lora", "adapter_id", "api_base", "extra_body", "provider", "deployment", "id_slot"} {
			if rule := r.Members.Rules[name]; rule.Is == nil || rule.Is(text("x")) {
				t.Errorf("%s takes %q", r.Name(), name)
			}
		}
	}
	for _, row := range []struct{ method, path, doc string }{
		{"POST", "/api/chat", `{"name":"x"}`},
		{"POST", "/api/show", `{"name":"x"}`},
		{"POST", "/api/chat", `{"keep_alive":0}`},
		{"POST", "/api/generate", `{"keep_alive":"0s"}`},
		{"POST", "/api/chat", `{"options":{"num_gpu":0}}`},
		{"POST", "/v1/messages", `{"fallback":{"model":"x"}}`},
		{"POST", "/v1/messages", `{"container":"c"}`},
		{"POST", "/v1/messages", `{"tools":[{"type":"advisor","model":"x"}]}`},
		{"POST", "/v1/responses", `{"tools":[{"type":"image_generation","model":"x"}]}`},
		{"POST", "/v1/responses", `{"tools":[{"type":"image_generation","Model":"x"}]}`},
		{"POST", "/v1/responses", `{"tools":{"model":"x"}}`},
		{"POST", "/v1/responses", `{"previous_response_id":"r"}`},
		{"POST", "/v1/chat/completions", `{"data_sources":[]}`},
		{"POST", "/generate", `{"parameters":{"adapter_id":"x"}}`},
		{"POST", "/v1beta/models/m:generateContent", `{"generation_config":{}}`},
		{"POST", "/v1beta/models/m:generateContent", `{"generationConfig":{"max_output_tokens":5}}`},
		{"POST", "/v1beta/models/m:generateContent", `{"cachedContent":"c"}`},
		{"POST", "/v1beta/models/m:generateContent", `{"cached_content":"c"}`},
		{"POST", "/v1beta/models/m:countTokens", `{"generate_content_request":{}}`},
		{"POST", "/model/m/converse", `{"additionalModelRequestFields":{"max_tokens":5}}`},
		{"POST", "/model/m/invoke", `{"modelId":"x"}`},
		{"POST", "/v2/models/m/infer", `{"inputs":[{"name":"a","parameters":{"shared_memory_region":"r"}}]}`},
		{"POST", "/v2/models/m/infer", `{"outputs":[{"name":"a","parameters":{"Shared_Memory_Region":"r"}}]}`},
		{"POST", "/v2/models/m/infer", `{"parameters":{"sequence_id":5}}`},
		{"POST", "/v2/models/m/generate", `{"sequence_id":5}`},
		{"POST", "/v2/repository/models/m/load", `{"parameters":{"config":"{}"}}`},
		{"GET", "/v1/realtime", `{"session":{"input_audio_transcription":{"model":"x"}}}`},
		{"GET", "/v1/realtime", `{"session":{"audio":{"input":{"transcription":{"model":"x"}}}}}`},
		{"GET", "/v1/realtime", `{"session":{"prompt":{"id":"p"}}}`},
	} {
		if keeps(t, row.method, row.path, row.doc) {
			t.Errorf("%s %s takes %s", row.method, row.path, row.doc)
		}
	}
	for _, row := range []struct{ method, path, doc string }{
		{"POST", "/api/chat", `{"model":"m","stream":false,"options":{"num_predict":-1,"num_ctx":4096,"seed":1},"tools":[{"type":"function","function":{"name":"f"}}]}`},
		{"POST", "/v1/responses", `{"tools":[{"type":"function","name":"f","parameters":{"properties":{"model":{"type":"string"}}}}]}`},
		{"POST", "/v1/messages", `{"tools":[{"name":"f","input_schema":{"properties":{"model":{}}}}],"max_tokens":5,"mcp_servers":[]}`},
		{"POST", "/v1beta/models/m:generateContent", `{"model":"models/m","contents":[],"generationConfig":{"maxOutputTokens":5}}`},
		{"POST", "/model/m/converse", `{"messages":[],"inferenceConfig":{"maxTokens":5},"toolConfig":{"tools":[{"toolSpec":{}}]}}`},
		{"POST", "/v2/models/m/infer", `{"id":"1","inputs":[{"name":"a","shape":[1],"datatype":"FP32","data":[1],"parameters":{"x":1}}]}`},
		{"POST", "/generate", `{"inputs":"hi","parameters":{"max_new_tokens":20,"details":true}}`},
		{"POST", "/v1/images/generations", `{"model":"m","size":"1024x1024","n":2}`},
		{"POST", "/v1/audio/speech", `{"model":"m","stream_format":"sse","input":"hi","voice":"a"}`},
		{"GET", "/v1/realtime", `{"type":"session.update","session":{"model":"m","audio":{"input":{"format":"x"}},"tools":[]}}`},
	} {
		if !keeps(t, row.method, row.path, row.doc) {
			t.Errorf("%s %s refuses %s", row.method, row.path, row.doc)
		}
	}
}

// keeps tells whether a body keeps the rules of its route.
func keeps(t *testing.T, method, path, doc string) bool {
	t.Helper()
	m, _, ok := route.Find(method, path)
	if !ok {
		t.Fatalf("no route %s %s", method, path)
	}
	return within([]byte(doc), m.Members)
}

func within(doc []byte, m *route.Members) bool {
	members, err := strictjson.Object(doc, strictjson.Limits{})
	for _, one := range members {
		rule, known := m.Rules[one.Name]
		if known && !rule.Is(one.Value) || !known && m.Confusable(one.Name) {
			return false
		}
		if rule.Inner != nil && one.Kind == strictjson.KindObject && !within(one.Raw, rule.Inner) {
			return false
		}
	}
	return err == nil
}

// TestDisagrees: whatever names the model again must name the same.
func TestDisagrees(t *testing.T) {
	for _, row := range []struct{ path, doc, want string }{
		{"/openai/deployments/m/chat/completions", `{}`, ""},
		{"/openai/deployments/m/chat/completions", `{"model":"m"}`, ""},
		{"/openai/deployments/m/chat/completions", `{"model":null}`, ""},
		{"/openai/deployments/m/chat/completions", `{"model":"n"}`, "model"},
		{"/openai/deployments/m/chat/completions", `{"model":"models/m"}`, "model"},
		{"/openai/deployments/m/chat/completions", `{"model":1}`, "model"},
		{"/v1beta/models/m:generateContent", `{"model":"models/m"}`, ""},
		{"/v1beta/models/m:generateContent", `{"model":"m"}`, ""},
		{"/v1beta/models/m:generateContent", `{"model":"models/n"}`, "model"},
		{"/v1beta/models/m:generateContent", `{"model":"tunedModels/m"}`, "model"},
		{"/v1beta/models/m:generateContent", `{"model":""}`, "model"},
		{"/v1beta/models/m:countTokens", `{"generateContentRequest":{"model":"models/m"}}`, ""},
		{"/v1beta/models/m:countTokens", `{"generateContentRequest":{"model":"models/n"}}`, "generateContentRequest.model"},
		{"/v1beta/models/m:batchEmbedContents", `{"requests":[{"model":"models/m"},{"model":"m"},{}]}`, ""},
		{"/v1beta/models/m:batchEmbedContents", `{"requests":[{"model":"models/m"},{"model":"models/n"}]}`, "requests.model"},
		{"/v1beta/models/m:batchEmbedContents", `{"requests":{"model":"models/n"}}`, "requests.model"},
	} {
		m, _, ok := route.Find("POST", row.path)
		if !ok {
			t.Fatalf("no route %s", row.path)
		}
		members, err := strictjson.Object([]byte(row.doc), strictjson.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Disagrees(members, m.Model); got != row.want {
			t.Errorf("%s with %s disagrees at %q, want %q", row.path, row.doc, got, row.want)
		}
	}
}

func TestQueries(t *testing.T) {
	for _, row := range []struct {
		method, path, name string
		good, bad          []string
	}{
		{
			"POST", "/openai/deployments/m/chat/completions", "api-version",
			[]string{"2024-10-21", "2025-04-01-preview", "v1", "preview"},
			[]string{"", "2024-10", "2024-10-21-x", "2024-1a-21", "2024-10-21%20", "../x", "2024-10-21-preview-preview"},
		},
		{"POST", "/v1beta/models/m:streamGenerateContent", "alt", []string{"sse"}, []string{"", "json", "SSE", "sse&key=x"}},
		{"GET", "/v1/realtime", "model", []string{"m", "gpt-realtime"}, []string{"", "a b", "a%20b", "..", "*"}},
		{"POST", "/slots/1", "action", []string{"save", "restore", "erase"}, []string{"", "load"}},
		{"POST", "/sleep", "level", []string{"1", "2"}, []string{"", "-1", "x", "1234567890"}},
	} {
		m, _, ok := route.Find(row.method, row.path)
		if !ok || m.Query[row.name] == nil {
			t.Fatalf("%s %s has no %s", row.method, row.path, row.name)
		}
		for _, s := range row.good {
			if !m.Query[row.name](s) {
				t.Errorf("%s refuses %s=%s", row.path, row.name, s)
			}
		}
		for _, s := range row.bad {
			if m.Query[row.name](s) {
				t.Errorf("%s takes %s=%s", row.path, row.name, s)
			}
		}
	}
}

// TestPictures, and other parameters that measure more than one number.
func TestMeasures(t *testing.T) {
	for _, row := range []struct {
		path, name, value string
		want              float64
	}{
		{"/v1/images/generations", "size", `"1024x512"`, 1024 * 512},
		{"/v1/images/generations", "size", `"auto"`, route.Endless},
		{"/v1/images/generations", "n", `3`, 3},
		{"/v1/audio/speech", "stream_format", `"sse"`, 1},
		{"/v1/audio/speech", "stream_format", `"audio"`, 0},
		{"/v1beta/models/m:generateContent", "tools", `[{"functionDeclarations":[{},{},{}]},{"googleSearch":{}}]`, 4},
		{"/v1beta/models/m:generateContent", "tools", `[{"function_declarations":[{},{}],"codeExecution":{}}]`, 3},
		{"/v1beta/models/m:generateContent", "tools", `[{}]`, 1},
		{"/v1/chat/completions", "max_tokens", `-1`, route.Endless},
	} {
		m, _, ok := route.Find("POST", row.path)
		if !ok {
			t.Fatalf("no route %s", row.path)
		}
		doc, err := strictjson.Array([]byte("["+row.value+"]"), strictjson.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Members.Rules[row.name].Param.Measure(doc[0]); got != row.want {
			t.Errorf("%s: %s of %s measures %v, want %v", row.path, row.name, row.value, got, row.want)
		}
	}
}
