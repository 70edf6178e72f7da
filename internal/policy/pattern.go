package policy

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// A Pattern is what a text must be: exactly the text, or, where it begins with
// "~", a regular expression (RE2) that must match the whole of it. The zero
// Pattern matches nothing. As text and JSON it is as it was written.
type Pattern struct {
	text  string
	whole *regexp.Regexp // Nil: exact.
}

// nonsense is what no honest pattern means: one that matches all of it matches
// anything.
var nonsense = []string{"q", "7#Zk/:,0 wv", strings.Repeat("9xJ_", 24)}

// ParsePattern reads a pattern of 1 to [MaxPattern] bytes. One that matches
// anything is refused, as is a star in an exact text: whoever wrote it meant a
// pattern.
func ParsePattern(text string) (Pattern, error) {
	expr, isPattern := strings.CutPrefix(text, "~")
	switch {
	case text == "" || len(text) > MaxPattern:
		return Pattern{}, fmt.Errorf("want 1 to %d bytes", MaxPattern)
	case !isPattern && strings.Contains(text, "*"):
		return Pattern{}, errors.New("is exact, so * would be only a star; a regular expression begins with ~")
	case !isPattern:
		return Pattern{text: text}, nil
	}
	// By itself first: "a)|(b" is no expression, but "(a)|(b)" is one, and only
	// half of it would be anchored.
	parsed, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return Pattern{}, errors.New("is no regular expression (RE2)")
	}
	if steps(parsed) > maxSteps {
		return Pattern{}, fmt.Errorf("is longer than %d steps, once its repetitions are written out", maxSteps)
	}
	whole, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	if err != nil {
		return Pattern{}, errors.New("is no regular expression (RE2)")
	}
	if !slices.ContainsFunc(nonsense, func(s string) bool { return !whole.MatchString(s) }) {
		return Pattern{}, errors.New("matches anything")
	}
	return Pattern{text: text, whole: whole}, nil
}

// maxSteps bounds a pattern that is compiled: anybody may put some into a key, and
// they are compiled whenever the key is read.
const maxSteps = 1000

// steps is about how long the expression is with its repetitions written out.
func steps(re *syntax.Regexp) int {
	n := 1
	switch re.Op {
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpRepeat:
		n = 0
	}
	for _, sub := range re.Sub {
		n += steps(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return n
}

// Match tells whether the whole of s is as wanted.
func (p Pattern) Match(s string) bool {
	if p.whole != nil {
		return p.whole.MatchString(s)
	}
	return p.text != "" && p.text == s
}

// Exact tells whether p matches exactly one text.
func (p Pattern) Exact() bool { return p.text != "" && p.whole == nil }

// IsZero tells whether p is no pattern at all.
func (p Pattern) IsZero() bool { return p.text == "" }

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }

// MarshalText is the pattern as it was written.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.text), nil }

// UnmarshalText is [ParsePattern].
func (p *Pattern) UnmarshalText(text []byte) error {
	parsed, err := ParsePattern(string(text))
	if err != nil {
		return fmt.Errorf("reading a pattern: it %w", err)
	}
	*p = parsed
	return nil
}
