package route

import (
	"math"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// A Rule is what a member of an object must be.
type Rule struct {
	// Is tells whether a value will do. Words complete the sentence: the member
	// "x" …
	Is    func(strictjson.Value) bool
	Words string

	// Inner are the rules for the members of a value that is an object.
	Inner *Members

	// Param is how the member stands for a parameter of the token's par claim.
	Param *Param

	// Some marks a member that only some servers of the route read: it is held to
	// the bounds, but to the others a request that has it still leaves the
	// parameter out. A family's Cap is read by its servers.
	Some bool

	never bool // It may not stand there.
}

// A Param is how a member is held to a bound of the token's par claim.
type Param struct {
	Name string // In the claim.

	// Measure is the number to be bounded. It is not asked about null.
	Measure func(strictjson.Value) float64

	// Write appends the value that measures n. Nil: a value that is out of bounds
	// can't be clamped, nor one be put in; the call is refused.
	Write func(b []byte, n float64) []byte

	// Absent is what servers take where no member that stands for the parameter
	// is there: [Endless] for as much as they like.
	Absent float64
}

// Endless is beyond every bound.
var Endless = math.Inf(1)

// Members are the rules for the names of one object; other names may hold
// anything.
type Members struct {
	Rules map[string]Rule

	Params []string // The names of those that stand for parameters. The first of each is put in where none is there.
	Inners []string // The names of those that have rules within.

	// Names are those that have rules, each by itself, for who reads names and
	// would rather not make them anew.
	Names map[string]string

	// Report is the member that has servers tell what a call cost. Nil: they do so
	// by themselves, or never.
	Report *Report

	like map[string]bool // The skeletons of the names.
}

// A Report is a flag within an object.
type Report struct {
	Group, Name string
	Streams     bool // It is for streams alone: elsewhere servers refuse it.
}

// reporting is m, with the flag that has servers tell what a call cost.
func (m *Members) reporting(r Report) *Members {
	m.Report = &r
	return m
}

// named is a row of a table of rules.
type named struct {
	name string
	Rule
}

// newMembers makes one table of several. A later rule for a name replaces an
// earlier one.
func newMembers(tables ...[]named) *Members {
	m := &Members{Rules: map[string]Rule{}, Names: map[string]string{}, like: map[string]bool{}}
	for _, table := range tables {
		for _, row := range table {
			m.Rules[row.name], m.Names[row.name] = row.Rule, row.name
			m.like[string(skeleton(nil, row.name))] = true
			if row.Param != nil && !slices.Contains(m.Params, row.name) {
				m.Params = append(m.Params, row.name)
			}
			if row.Inner != nil && !slices.Contains(m.Inners, row.name) {
				m.Inners = append(m.Inners, row.name)
			}
		}
	}
	return m
}

// Confusable tells whether some parser could take name for a name that has a
// rule, although they are not the same. Go's encoding/json folds case, by
// Unicode: to it "max_toKens" with a Kelvin sign is max_tokens. Others trim.
func (m *Members) Confusable(name string) bool {
	var room [64]byte
	return m.like[string(skeleton(room[:0], name))]
}

// maxSkeleton is longer than any name that has a rule.
const maxSkeleton = 40

// skeleton appends what is left of name when case, spaces, fullwidth forms and
// characters that can't be seen are set aside. Of long names it appends only the
// beginning.
func skeleton(dst []byte, name string) []byte {
	for _, r := range name {
		if len(dst) > maxSkeleton {
			break
		}
		switch {
		case r > ' ' && r < unicode.MaxASCII:
		case unicode.In(r, unicode.C, unicode.Z, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector), r == '\u2800':
			continue
		case 0xFF01 <= r && r <= 0xFF5E:
			r -= 0xFEE0
		}
		dst = utf8.AppendRune(dst, foldRune(r))
	}
	return dst
}

// foldRune returns the least of the runes that are r but for case, as
// [strings.EqualFold] sees it.
func foldRune(r rune) rune {
	if 'a' <= r && r <= 'z' {
		return r - 'a' + 'A' // The least there is, and much the commonest.
	}
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return least
}
