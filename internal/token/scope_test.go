package token_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/token"
)

func TestParseScope(t *testing.T) {
	for _, good := range []string{
		"chat:faq-bot", "chat:llama-*", "chat:org/*", "chat:org/team-*", "chat:llama:*", "admin:keys", "chat:a",
		"embeddings:BAAI/bge-m3", "chat:llama3.1:8b", "models:x@y",
	} {
		s, err := token.ParseScope(good)
		if err != nil || s.String() != good {
			t.Errorf("ParseScope(%q) = %v, %v, want it back", good, s, err)
		}
	}
	for why, bad := range map[string]string{
		"empty": "", "no model": "chat:", "no action": ":a", "no colon": "chat", "unknown action": "read:a", "action's case": "Chat:a",
		"bare star": "chat:*", "star after no boundary": "chat:llama*", "star in the middle": "chat:a-*-b", "two stars": "chat:a-**",
		"space": "chat:a b", "comma": "chat:a,b", "dot segment": "chat:a/../b",
		"empty segment": "chat:a//b", "leading slash": "chat:/a", "trailing slash": "chat:a/", "percent": "chat:a%2fb",
		"not ASCII": "chat:modèl", "too long": "chat:" + strings.Repeat("a", token.MaxModel+1),
	} {
		if s, err := token.ParseScope(bad); !errors.Is(err, token.ErrScope) {
			t.Errorf("%s: ParseScope(%q) = %v, %v, want ErrScope", why, bad, s, err)
		}
	}
}

func TestParseScopesRefusesSloppyLists(t *testing.T) {
	for _, bad := range []string{" ", "chat:a ", " chat:a", "chat:a  chat:b", "chat:a chat:a", "chat:a\tchat:b"} {
		if s, err := token.ParseScopes(bad); err == nil {
			t.Errorf("ParseScopes(%q) = %v, want an error", bad, s)
		}
	}
	many := make([]string, token.MaxScopes+1)
	for i := range many {
		many[i] = "chat:m" + strings.Repeat("x", i)
	}
	if _, err := token.NewScopes(many...); err == nil {
		t.Errorf("NewScopes of %d scopes: no error, want one", len(many))
	}
}

func TestMatchModel(t *testing.T) {
	for _, row := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true},
		{"a", "ab", false},
		{"a", "A", false},
		{"llama-*", "llama-3.1", true},
		{"llama-*", "llama-", false},
		{"llama-*", "llama-3:cloud", false},
		{"llama-*", "llama-3/lora", false},
		{"org/*", "org/llama", true},
		{"org/*", "org/llama:7b", false},
		{"org/*", "orgs/llama", false},
		{"llama:*", "llama:7b", true},
		{"llama-*", "llama-*", false},
	} {
		if got := token.MatchModel(row.pattern, row.name); got != row.want {
			t.Errorf("MatchModel(%q, %q) = %v, want %v", row.pattern, row.name, got, row.want)
		}
	}
}

// The algebra is judged by what the sets permit, asked of every model of a small
// world, which is as good as asking of all.
func worldOfCalls() (actions, models []string) {
	actions = []string{"chat", "embeddings"}
	pieces := []string{"a", "b"}
	for _, x := range pieces {
		models = append(models, x)
		for _, y := range pieces {
			for _, sep := range []string{"-", "/", ":"} {
				models = append(models, x+sep+y)
				for _, z := range pieces {
					for _, sep2 := range []string{"-", "/", ":"} {
						models = append(models, x+sep+y+sep2+z)
					}
				}
			}
		}
	}
	return actions, models
}

func drawScopes(t *rapid.T, name string) token.Scopes {
	actions, models := worldOfCalls()
	texts := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) string {
		model := rapid.SampledFrom(models).Draw(t, "model")
		if i := strings.LastIndexAny(model, "-/:"); i > 0 && rapid.Bool().Draw(t, "pattern") {
			model = model[:i+1] + "*"
		}
		return rapid.SampledFrom(actions).Draw(t, "action") + ":" + model
	}), 0, 5, rapid.ID[string]).Draw(t, name)
	s, err := token.NewScopes(texts...)
	if err != nil {
		t.Fatalf("NewScopes(%q): %v", texts, err)
	}
	return s
}

func TestScopeAlgebra(t *testing.T) {
	actions, models := worldOfCalls()
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawScopes(t, "a"), drawScopes(t, "b")
		both, either := a.Intersect(b), a.Union(b)
		contained := true
		for _, action := range actions {
			for _, model := range models {
				inA, inB := a.Allow(action, model), b.Allow(action, model)
				if got := both.Allow(action, model); got != (inA && inB) {
					t.Fatalf("(%v).Intersect(%v) = %v: %s:%s is %v in it", a, b, both, action, model, got)
				}
				if got := either.Allow(action, model); got != (inA || inB) {
					t.Fatalf("(%v).Union(%v) = %v: %s:%s is %v in it", a, b, either, action, model, got)
				}
				contained = contained && (!inA || inB)
			}
		}
		if a.Within(b) && !contained {
			t.Fatalf("(%v).Within(%v) is true, but it permits more", a, b)
		}
		if !both.Within(a) || !both.Within(b) || !a.Within(either) || !b.Within(either) || !a.Within(a) {
			t.Fatalf("Within is no order: a %v, b %v, both %v, either %v", a, b, both, either)
		}
		if got, err := token.ParseScopes(a.String()); err != nil || !slices.Equal(got, a) {
			t.Fatalf("ParseScopes(%q) = %v, %v, want it back", a.String(), got, err)
		}
	})
}
