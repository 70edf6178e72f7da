package token_test

import (
	"encoding/json"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/token"
)

// limits draws from few names and numbers, so that they often meet.
func limits() *rapid.Generator[token.Limits] {
	return rapid.Custom(func(t *rapid.T) token.Limits {
		return rapid.MapOfN(rapid.SampledFrom([]string{"concurrent", "tokens/day", "requests/minute"}), rapid.Int64Range(0, 3), 0, 3).Draw(t, "limits")
	})
}

func params() *rapid.Generator[token.Params] {
	return rapid.Custom(func(t *rapid.T) token.Params {
		p := token.Params{Bounds: map[string]token.Range{}}
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"max_tokens", "temperature", "tools"}), 0, 3, rapid.ID).Draw(t, "names") {
			low := rapid.IntRange(0, 3).Draw(t, "low")
			p.Bounds[name] = token.Range{Min: float64(low), Max: float64(rapid.IntRange(low, 4).Draw(t, "high"))}
		}
		p.Clamp = len(p.Bounds) > 0 && rapid.Bool().Draw(t, "clamp")
		return p
	})
}

// What l allows of one name, as a reader of the claim would say it.
func allows(l token.Limits, name string, spend int64) bool {
	most, limited := l[name]
	return !limited || spend <= most
}

// TestLimitsAlgebra: both algebra and meaning, spend by spend.
func TestLimitsAlgebra(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := limits().Draw(t, "a"), limits().Draw(t, "b")
		both := a.Intersect(b)
		if !both.Within(a) || !both.Within(b) {
			t.Fatalf("%v is not within %v and %v", both, a, b)
		}
		within := true
		for _, name := range []string{"concurrent", "tokens/day", "requests/minute"} {
			for spend := range int64(6) {
				if allows(both, name, spend) != (allows(a, name, spend) && allows(b, name, spend)) {
					t.Fatalf("%v ∩ %v = %v judges %s %d otherwise", a, b, both, name, spend)
				}
				within = within && (!allows(a, name, spend) || allows(b, name, spend))
			}
		}
		if a.Within(b) != within {
			t.Fatalf("%v.Within(%v) = %v", a, b, !within)
		}
		if again := roundTrip(t, a); !maps.Equal(again, a) {
			t.Fatalf("%v reads back as %v", a, again)
		}
	})
}

func TestParamsAlgebra(t *testing.T) {
	allows := func(p token.Params, name string, x float64) bool {
		r, bounded := p.Bounds[name]
		return !bounded || r.Min <= x && x <= r.Max
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := params().Draw(t, "a"), params().Draw(t, "b")
		both := a.Intersect(b)
		within := b.IsZero() || b.Clamp || !a.Clamp
		for _, name := range []string{"max_tokens", "temperature", "tools"} {
			for i := range 12 {
				x := float64(i) / 2
				if allows(both, name, x) != (allows(a, name, x) && allows(b, name, x)) {
					t.Fatalf("%v ∩ %v = %v judges %s %v otherwise", a, b, both, name, x)
				}
				within = within && (!allows(a, name, x) || allows(b, name, x))
			}
		}
		if both.Check() == nil && (!both.Within(a) || !both.Within(b)) {
			t.Fatalf("%v is not within %v and %v", both, a, b)
		}
		if a.Within(b) != within {
			t.Fatalf("%v.Within(%v) = %v", a, b, !within)
		}
		if again := roundTrip(t, a); !maps.Equal(again.Bounds, a.Bounds) && len(a.Bounds) > 0 || again.Clamp != a.Clamp {
			t.Fatalf("%v reads back as %v", a, again)
		}
	})
}

func roundTrip[T any](t *rapid.T, v T) (again T) {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return again
}

func TestLimitsRefused(t *testing.T) {
	for _, bad := range []string{
		`1`, `"x"`, `[]`, `{"tokens/year":1}`, `{"tokens/day":"1"}`, `{"tokens/day":1.5}`, `{"tokens/day":1,"tokens/day":2}`, `{"Tokens/day":1}`,
	} {
		var l token.Limits
		if err := json.Unmarshal([]byte(bad), &l); err == nil {
			t.Errorf("limits %s are read as %v", bad, l)
		}
	}
	for _, bad := range []string{
		`1`, `[]`, `{}`, `{"clamp":true}`, `{"max_tokens":-1}`, `{"max_tokens":[2,1]}`, `{"max_tokens":null}`, `{"max_tokens":1,"clamp":"yes"}`, `{"seed":1}`,
	} {
		var p token.Params
		if err := json.Unmarshal([]byte(bad), &p); err == nil {
			t.Errorf("parameters %s are read as %v", bad, p)
		}
	}
	if err := (token.Limits{"a": 1}).Check(); err == nil {
		t.Error("an unknown limit passes Check")
	}
}
