package route_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

func TestOllamaNames(t *testing.T) {
	f := route.FamilyOf("ollama")
	for name, want := range map[string]string{
		"hr-model":                                   "hr-model",
		"HR-Model":                                   "hr-model",
		"hr-model:latest":                            "hr-model",
		"hr-model:LATEST":                            "hr-model",
		"hr-model:local":                             "hr-model",
		"hr-model:latest:local":                      "hr-model",
		"library/hr-model":                           "hr-model",
		"Library/HR-Model:Latest":                    "hr-model",
		"registry.ollama.ai/library/hr-model":        "hr-model",
		"Registry.Ollama.AI/library/hr-model:latest": "hr-model",
		"hr-model:7b":                                "hr-model:7b",
		"hr-model:7B-Q4_K_M":                         "hr-model:7b-q4_k_m",
		"registry.ollama.ai/team/hr-model:latest":    "team/hr-model",
		"team/hr-model":                              "team/hr-model",
		"hf.co/library/hr-model:latest":              "hf.co/library/hr-model",
		"library/library/hr-model":                   "library/library/hr-model",
		"registry.ollama.ai:443/library/hr-model":    "registry.ollama.ai:443/library/hr-model",
		"registry.ollama.ai/hr-model":                "registry.ollama.ai/hr-model",
		"registry.ollama.ai/library/x/y":             "registry.ollama.ai/library/x/y",
		"latest":                                     "latest",
		":latest":                                    ":latest",
		"a/:latest":                                  "a/:latest",
		"hr-model:latest-2":                          "hr-model:latest-2",
		"hr-model-latest":                            "hr-model-latest",
		"hr-model:cloud":                             "hr-model:cloud",
		"HR-Model:Cloud":                             "hr-model:cloud",
		"hr-model:120b-cloud":                        "hr-model:120b-cloud",
		"library/hr-model:cloud":                     "hr-model:cloud",
		"hr-model:120b:cloud":                        "hr-model:120b:cloud",
		"hr-model:cloud:local":                       "hr-model:cloud", // An error to Ollama.
	} {
		if got := f.CanonicalName(name); got != want {
			t.Errorf("%s is called %s, want %s", name, got, want)
		}
	}
}

// modelName draws a valid name that would mean something to Ollama.
var modelName = rapid.Custom(func(t *rapid.T) string {
	part := rapid.StringMatching(`[a-zA-Z0-9][a-zA-Z0-9._-]{0,8}`)
	name := part.Draw(t, "model")
	if rapid.Bool().Draw(t, "namespaced") {
		name = part.Draw(t, "namespace") + "/" + name
	}
	switch rapid.IntRange(0, 3).Draw(t, "tag") {
	case 1:
		name += ":" + part.Draw(t, "other tag")
	case 2:
		name += rapid.SampledFrom([]string{":cloud", ":Cloud", ":7b-cloud", ":7b-CLOUD", ":7b:cloud"}).Draw(t, "cloud")
	}
	return name
})

// TestOneModelHasOneName: whichever way a model is spelt, it has one name, which
// is its own one.
func TestOneModelHasOneName(t *testing.T) {
	f := route.FamilyOf("ollama")
	rapid.Check(t, func(t *rapid.T) {
		name := modelName.Draw(t, "name")
		spelt := name
		if !strings.Contains(name, ":") {
			spelt += rapid.SampledFrom([]string{"", ":latest", ":Latest", ":local", ":LATEST:local"}).Draw(t, "tag")
		}
		switch strings.Count(name, "/") {
		case 0:
			spelt = rapid.SampledFrom([]string{"", "library/", "Library/", "registry.ollama.ai/library/"}).Draw(t, "before") + spelt
		case 1:
			spelt = rapid.SampledFrom([]string{"", "registry.ollama.ai/", "REGISTRY.ollama.ai/"}).Draw(t, "before") + spelt
		}
		if rapid.Bool().Draw(t, "shouted") {
			spelt = strings.ToUpper(spelt)
		}
		one, other := f.CanonicalName(name), f.CanonicalName(spelt)
		if one != other {
			t.Fatalf("%s is %s, and %s is %s", name, one, spelt, other)
		}
		if again := f.CanonicalName(one); again != one {
			t.Fatalf("%s is %s, which is %s", name, one, again)
		}
		if !token.ValidModel(one) {
			t.Fatalf("%s is %s, which no scope can name", name, one)
		}
		cloud := strings.HasSuffix(strings.ToLower(spelt), ":cloud") || strings.HasSuffix(strings.ToLower(spelt), "-cloud")
		if f.OwnRight(one) != cloud {
			t.Fatalf("%s is %s, a right of its own: %t", spelt, one, !cloud)
		}
	})
}

// TestNamesAreNames: naming is idempotent and stays within what a scope can name,
// in every family, for any name that comes.
func TestNamesAreNames(t *testing.T) {
	for _, f := range route.Families {
		rapid.Check(t, func(t *rapid.T) {
			name := rapid.OneOf(modelName, rapid.StringMatching(`((library|registry\.ollama\.ai|a)/){0,3}[a-zA-Z:.@_-]{1,6}((:latest|:local|:cloud|-cloud){0,3})`)).Draw(t, "name")
			if !token.ValidModel(name) {
				return
			}
			one := f.CanonicalName(name)
			if f.CanonicalName(one) != one || !token.ValidModel(one) {
				t.Fatalf("%s calls %s %s, and that %s", f.Name, name, one, f.CanonicalName(one))
			}
			if f.OwnRight == nil {
				return
			}
			// The name with the right is never that of the one without.
			for _, tag := range []string{":cloud", ":7b-cloud"} {
				if token.ValidModel(name+tag) && f.CanonicalName(name+tag) == f.CanonicalName(name) {
					t.Fatalf("%s and %s%s are both %s", name, name, tag, one)
				}
			}
		})
	}
}
