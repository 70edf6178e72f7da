package route_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/reqtarget"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// all are the routes of the registry.
func all() (list []*route.Route) {
	for _, f := range route.Families {
		for i := range f.Routes {
			list = append(list, &f.Routes[i])
		}
	}
	return list
}

// filled is the path of a route with something for what stands in braces.
func filled(r *route.Route, model string) string {
	path := strings.NewReplacer("{model...}", model, "{model}", model).Replace(r.Path)
	for {
		before, rest, ok := strings.Cut(path, "{")
		if !ok {
			return path
		}
		_, after, _ := strings.Cut(rest, "}")
		path = before + "x-1" + after
	}
}

// TestEachIsFound: by its method alone, with the model that the path names.
func TestEachIsFound(t *testing.T) {
	for _, r := range all() {
		for _, model := range []string{"small", "a.b:c@d_e-f"} {
			path := filled(r, model)
			if _, _, err := reqtarget.Split(path); err != nil {
				t.Errorf("%s: %s: %v", r.Name(), path, err)
			}
			m, _, ok := route.Find(r.Method, path)
			if !ok || m.Route != r {
				t.Errorf("Find(%s, %s) = %v, %t, want %s", r.Method, path, m.Route, ok, r.Name())
				continue
			}
			want := ""
			if strings.Contains(r.Path, "{model") {
				want = model
			}
			if m.Model != want || m.Target(want) != path {
				t.Errorf("Find(%s, %s) finds model %q and target %q, want %q", r.Method, path, m.Model, m.Target(want), want)
			}
			for _, method := range []string{"GET", "POST", "DELETE", "PUT", "HEAD", strings.ToLower(r.Method)} {
				if other, allow, ok := route.Find(method, path); method != r.Method && ok && other.Method != method {
					t.Errorf("Find(%s, %s) = %s", method, path, other.Name())
				} else if !ok && !slices.Contains(strings.Split(allow, ", "), r.Method) {
					t.Errorf("Find(%s, %s) allows %q, without %s", method, path, allow, r.Method)
				}
			}
		}
	}
}

// TestHostilePaths: nothing beside, above or below a route is one.
func TestHostilePaths(t *testing.T) {
	for _, path := range []string{
		"/", "/v1", "/v1/models/", "/V1/models", "/v1/chat", "/v1/chat/completions/x", "/chat/completions", "/completions", "/embeddings", "/models",
		"/v1/files", "/v1/batches", "/v1/responses/resp_1", "/v1/messages/batches", "/v1/models/a!", "/v1/models/a b", "/v1/models/é", "/v1/models/" + strings.Repeat("a", 201),
		"/openai/deployments//chat/completions", "/openai/deployments/a/b/chat/completions", "/openai/deployments/a/responses",
		"/openai/deployments/../chat/completions", "/openai/deployments/a/chat/completions/x", "/openai/deployments/a!/chat/completions", "/openai/v1/models",
		"/v1beta/models/a", "/v1beta/models/:generateContent", "/v1beta/models/a/b:generateContent", "/v1beta/models/a:GenerateContent", "/v1beta/models/a:generateContent/x",
		"/v1beta/tunedModels/a:generateContent", "/v1beta/models/a:predict", "/v1beta/models/a!:generateContent", "/v1beta/cachedContents",
		"/v1/projects/p/locations/l/publishers/anthropic/models/a:generateContent", "/v1/projects/p/locations/l/publishers/google/models/a:rawPredict",
		"/v1/projects/p/q/locations/l/publishers/google/models/a:generateContent", "/v1/projects/p:x/locations/l/publishers/google/models/a!:generateContent",
		"/v1/projects/../locations/l/publishers/google/models/a:generateContent",
		"/v2/models/a", "/v2/models/a/versions/1", "/v2/models/a/versions/1/2/infer", "/v2/models//infer", "/v2/models/a/versions/./infer", "/v2/models/a/versions/1!/infer",
		"/model/a/b/converse", "/model/arn:aws:bedrock:us-east-1::foundation-model/a/converse", "/model//converse", "/model/a/Converse", "/model/a/converse-async",
		"/api", "/api/blobs/sha256:00", "/api/user/keys/k", "/api/Chat", "/api/chat/", "/slots/1/2", "/slots/a!", "/invocations", "/predict", "/cors-proxy", "/health",
	} {
		if m, _, ok := route.Find("POST", path); ok {
			t.Errorf("POST %s = %s", path, m.Name())
		}
	}
	for _, path := range []string{"/v1/files/f", "/v1/stream/c", "/v1/streams", "/models", "/cors-proxy", "/health", "/v1beta/models", "/openai/v1/models", "/v2/health/live"} {
		if m, _, ok := route.Find("GET", path); ok {
			t.Errorf("GET %s = %s", path, m.Name())
		}
	}
}

// TestFindIsWhatItSays: whatever is found, the path is the route's pattern with
// the model in it, and with another model it is the other's.
func TestFindIsWhatItSays(t *testing.T) {
	routes := all()
	rapid.Check(t, func(t *rapid.T) {
		r := rapid.SampledFrom(routes).Draw(t, "route")
		segments := strings.Split(filled(r, rapid.StringMatching(`[a-z:.@/-]{1,12}`).Draw(t, "model")), "/")
		if rapid.Bool().Draw(t, "spoilt") {
			i := rapid.IntRange(1, len(segments)-1).Draw(t, "where")
			segments[i] = rapid.StringMatching(`[a-zA-Z0-9:.@{}%!_-]{0,12}`).Draw(t, "segment")
		}
		path := strings.Join(segments, "/")
		if _, _, err := reqtarget.Split(path); err != nil {
			return
		}
		m, _, ok := route.Find(r.Method, path)
		if !ok {
			return
		}
		if m.Method != r.Method || m.Target(m.Model) != path {
			t.Fatalf("%s %s is %s with %q and goes to %s", r.Method, path, m.Name(), m.Model, m.Target(m.Model))
		}
		if !strings.Contains(m.Path, "{model") {
			if m.Model != "" || m.Target("other") != path && !strings.Contains(m.Path, "{") {
				t.Fatalf("%s %s names %q", r.Method, path, m.Model)
			}
			return
		}
		if !token.ValidModel(m.Model) {
			t.Fatalf("%s %s names %q", r.Method, path, m.Model)
		}
		again, _, ok := route.Find(r.Method, m.Target("other"))
		if !ok || again.Route != m.Route || again.Model != "other" {
			t.Fatalf("%s %s is %s with %q", r.Method, m.Target("other"), again.Name(), again.Model)
		}
	})
}

// TestNoTwoRoutesOfOnePath: which of two patterns comes first must not matter.
func TestNoTwoRoutesOfOnePath(t *testing.T) {
	for _, a := range all() {
		for _, b := range all() {
			if a == b || a.Method != b.Method || !strings.Contains(b.Path, "{") {
				continue
			}
			// What stands in b's braces could be what a has there.
			if m, _, ok := route.Find(a.Method, filled(a, "x-1")); !ok || m.Route != a {
				t.Errorf("%s is found as %s", a.Name(), m.Name())
			}
		}
	}
}

func TestMethods(t *testing.T) {
	if got := route.Methods(); got != "DELETE, GET, POST" {
		t.Errorf("Methods() = %q", got)
	}
	for method, want := range map[string]bool{"GET": true, "POST": true, "DELETE": true, "HEAD": false, "OPTIONS": false, "get": false, "CONNECT": false, "": false} {
		if route.KnownMethod(method) != want {
			t.Errorf("KnownMethod(%q) = %t", method, !want)
		}
	}
}
