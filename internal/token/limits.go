package token

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// MaxLimit bounds any one number of a limit: the largest integer that all JSON
// readers agree on.
const MaxLimit = 1 << 53

// ErrLimit means that a limit or parameter is not in the grammar.
var ErrLimit = errors.New("not a limit such as tokens/day: 1000 or max_tokens: 4096")

// Limits say what may be spent, by names that [ParseLimit] reads, such as
// "tokens/day". A name that is absent is not limited, 0 allows none. The zero
// value limits nothing.
type Limits map[string]int64

// MaxLimits bounds the limits of one token.
const MaxLimits = 32

// Check tells whether each name is known and each number in range. Errors match
// [ErrLimit].
func (l Limits) Check() error {
	if len(l) > MaxLimits {
		return fmt.Errorf("%w: more than %d of them", ErrLimit, MaxLimits)
	}
	for name, n := range l {
		if _, err := ParseLimit(name); err != nil {
			return err
		}
		if n < 0 || n > MaxLimit {
			return fmt.Errorf("%w: %s is negative or too large", ErrLimit, name)
		}
	}
	return nil
}

// Within tells whether l allows nothing that whole forbids.
func (l Limits) Within(whole Limits) bool {
	for name, most := range whole {
		if n, limited := l[name]; !limited || n > most {
			return false
		}
	}
	return true
}

// Intersect returns the limits that forbid whatever l or m forbids.
func (l Limits) Intersect(m Limits) Limits {
	if len(l)+len(m) == 0 {
		return nil
	}
	both := maps.Clone(l)
	if both == nil {
		both = Limits{}
	}
	for name, n := range m {
		if own, limited := both[name]; !limited || n < own {
			both[name] = n
		}
	}
	return both
}

// paramNames are the parameters of calls that may be bounded, by the names of
// the OpenAI API; other API families have names of their own for them.
var paramNames = []string{"best_of", "image_pixels", "images", "max_tokens", "n", "stream", "temperature", "tools", "top_logprobs"}

// A Range bounds a number, ends included.
type Range struct{ Min, Max float64 }

// Params bound the parameters of calls. "stream" and "tools" bound their count:
// 0 allows none. The zero value bounds nothing.
type Params struct {
	Bounds map[string]Range
	// Clamp brings a parameter that is out of bounds to the nearest bound;
	// otherwise its call is refused.
	Clamp bool
}

// IsZero tells whether p bounds nothing.
func (p Params) IsZero() bool { return len(p.Bounds) == 0 }

// Check tells whether each name is known and each range is one. Errors match
// [ErrLimit].
func (p Params) Check() error {
	for name, r := range p.Bounds {
		if !slices.Contains(paramNames, name) {
			return fmt.Errorf("%w: %q is none of %s", ErrLimit, name, strings.Join(paramNames, ", "))
		}
		if !(r.Min >= 0 && r.Max <= MaxLimit && r.Min <= r.Max) { // NaN fails, too.
			return fmt.Errorf("%w: the range of %s is empty or negative", ErrLimit, name)
		}
	}
	return nil
}

// Within tells whether p allows nothing that whole forbids. To clamp where whole
// refuses is to allow more.
func (p Params) Within(whole Params) bool {
	for name, most := range whole.Bounds {
		if r, bounded := p.Bounds[name]; !bounded || r.Min < most.Min || r.Max > most.Max {
			return false
		}
	}
	return whole.IsZero() || whole.Clamp || !p.Clamp
}

// Intersect returns the bounds that forbid whatever p or q forbids. Where they
// have nothing in common the result fails [Params.Check].
func (p Params) Intersect(q Params) Params {
	switch {
	case p.IsZero():
		return q
	case q.IsZero():
		return p
	}
	both := Params{Bounds: maps.Clone(p.Bounds), Clamp: p.Clamp && q.Clamp}
	for name, r := range q.Bounds {
		if own, bounded := both.Bounds[name]; bounded {
			r = Range{math.Max(own.Min, r.Min), math.Min(own.Max, r.Max)}
		}
		both.Bounds[name] = r
	}
	return both
}

// ReadLimits reads {"tokens/day": 1000}, as the claim lim has it.
func ReadLimits(v strictjson.Value) (Limits, bool) {
	members, ok := object(v, MaxLimits)
	if !ok {
		return nil, false
	}
	l := Limits{}
	for _, m := range members {
		n, ok := m.Int()
		if !ok {
			return nil, false
		}
		l[m.Name] = n
	}
	return l, l.Check() == nil
}

// ReadParams reads {"max_tokens": 4096, "temperature": [0, 1], "clamp": true},
// as the claim par has it.
func ReadParams(v strictjson.Value) (Params, bool) {
	members, ok := object(v, len(paramNames)+1)
	if !ok {
		return Params{}, false
	}
	p := Params{Bounds: map[string]Range{}}
	for _, m := range members {
		if m.Name == "clamp" {
			if p.Clamp, ok = m.Bool(); !ok {
				return Params{}, false
			}
			continue
		}
		if p.Bounds[m.Name], ok = readRange(m.Value); !ok {
			return Params{}, false
		}
	}
	return p, p.Check() == nil && !p.IsZero()
}

func readRange(v strictjson.Value) (r Range, ok bool) {
	if v.Kind == strictjson.KindNumber {
		r.Max, ok = v.Float()
		return r, ok
	}
	if v.Kind != strictjson.KindArray {
		return Range{}, false
	}
	ends, err := strictjson.Array(v.Raw, strictjson.Limits{Depth: 1})
	if err != nil || len(ends) != 2 {
		return Range{}, false
	}
	low, ok1 := ends[0].Float()
	high, ok2 := ends[1].Float()
	return Range{low, high}, ok1 && ok2
}

func object(v strictjson.Value, most int) ([]strictjson.Member, bool) {
	if v.Kind != strictjson.KindObject {
		return nil, false
	}
	members, err := strictjson.Object(v.Raw, strictjson.Limits{Depth: MaxActors, Members: most})
	return members, err == nil && len(members) > 0
}

// AppendJSON appends what [ReadLimits] reads back, sorted by name.
func (l Limits) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	for i, name := range slices.Sorted(maps.Keys(l)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(appendName(b, name), l[name], 10)
	}
	return append(b, '}')
}

// AppendJSON appends what [ReadParams] reads back, sorted by name.
func (p Params) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	for i, name := range slices.Sorted(maps.Keys(p.Bounds)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendName(b, name)
		r := p.Bounds[name]
		if r.Min == 0 {
			b = appendNumber(b, r.Max)
			continue
		}
		b = append(appendNumber(append(b, '['), r.Min), ',')
		b = append(appendNumber(b, r.Max), ']')
	}
	if p.Clamp {
		b = append(b, `,"clamp":true`...)
	}
	return append(b, '}')
}

func appendNumber(b []byte, f float64) []byte { return strconv.AppendFloat(b, f, 'f', -1, 64) }

// MarshalJSON writes what [ReadLimits] reads.
func (l Limits) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("null"), nil
	}
	return l.AppendJSON(nil), nil
}

// UnmarshalJSON reads null or what [ReadLimits] reads.
func (l *Limits) UnmarshalJSON(b []byte) error {
	return unmarshal(b, func(v strictjson.Value) (ok bool) {
		*l, ok = ReadLimits(v)
		return ok || string(v.Raw) == "{}"
	})
}

// MarshalJSON writes what [ReadParams] reads, or null.
func (p Params) MarshalJSON() ([]byte, error) {
	if p.IsZero() {
		return []byte("null"), nil
	}
	return p.AppendJSON(nil), nil
}

// UnmarshalJSON reads null or what [ReadParams] reads.
func (p *Params) UnmarshalJSON(b []byte) error {
	return unmarshal(b, func(v strictjson.Value) (ok bool) {
		*p, ok = ReadParams(v)
		return ok
	})
}

// unmarshal reads one JSON value strictly. Null leaves what is there.
func unmarshal(b []byte, read func(strictjson.Value) bool) error {
	values, err := strictjson.Array(append(append([]byte{'['}, b...), ']'), strictjson.Limits{Depth: 4})
	if err != nil {
		return err
	}
	if len(values) != 1 || values[0].Kind != strictjson.KindNull && !read(values[0]) {
		return ErrLimit
	}
	return nil
}
