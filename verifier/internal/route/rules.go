package route

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// The rules that families share. Null is the same as absent to every server,
// except where a member is required.
var (
	model = Rule{Is: isText, Words: "must be a string that names one model"}
	text  = Rule{Is: isText, Words: "must be a string"}
	flag  = Rule{Is: isBool, Words: "must be true or false"}
	count = Rule{Is: isCount, Words: "must be a whole number of at least 1"}
	whole = Rule{Is: isWhole, Words: "must be a whole number"}
	float = Rule{Is: isNumber, Words: "must be a number"}
	list  = Rule{Is: isList, Words: "must be an array"}
	group = Rule{Is: isObject, Words: "must be an object"}
	size  = Rule{Is: isSize, Words: "must be a width and a height, such as 1024x1024"}

	// Some tools have a model of their own: one that makes images, one that gives
	// advice.
	toolList = Rule{Is: elements(newMembers(refused("is refused", "model"))), Words: "must be an array of tools none of which names a model"}
)

// anything are the rules for an object that may hold what it likes.
var anything = newMembers()

// The parameters of par claims that members stand for.
var (
	maxTokens   = Param{Name: "max_tokens", Measure: number, Write: writeWhole, Absent: Endless}
	choices     = Param{Name: "n", Measure: number, Write: writeWhole, Absent: 1}
	bestOf      = Param{Name: "best_of", Measure: number, Write: writeWhole, Absent: 1}
	images      = Param{Name: "images", Measure: number, Write: writeWhole, Absent: 1}
	imagePixels = Param{Name: "image_pixels", Measure: pixels, Absent: Endless}
	streaming   = Param{Name: "stream", Measure: number, Write: writeFlag}
	unlessSaid  = Param{Name: "stream", Measure: number, Write: writeFlag, Absent: 1}
	temperature = Param{Name: "temperature", Measure: number, Write: writeFloat, Absent: Endless}
	topLogprobs = Param{Name: "top_logprobs", Measure: number, Write: writeWhole}
	tools       = Param{Name: "tools", Measure: length}
)

// as is the rule, held to the bounds of a parameter.
func (r Rule) as(p Param) Rule {
	r.Param = &p
	return r
}

// some is the rule for a member that only some servers read.
func (r Rule) some() Rule {
	r.Some = true
	return r
}

// of is the rule for an object whose members have rules.
func (r Rule) of(inner *Members) Rule {
	r.Inner = inner
	return r
}

// refused are the rules for names that may not stand there.
func refused(words, names string) []named {
	var rows []named
	for name := range strings.FieldsSeq(names) {
		rows = append(rows, named{name, Rule{Is: isNull, Words: words, never: true}})
	}
	return rows
}

func isNull(v strictjson.Value) bool { return v.Kind == strictjson.KindNull }

func isText(v strictjson.Value) bool { return v.Kind == strictjson.KindString }

func isBool(v strictjson.Value) bool { return v.Kind == strictjson.KindBool || isNull(v) }

func isFalse(v strictjson.Value) bool {
	b, ok := v.Bool()
	return ok && !b || isNull(v)
}

func isObject(v strictjson.Value) bool { return v.Kind == strictjson.KindObject || isNull(v) }

func isList(v strictjson.Value) bool { return v.Kind == strictjson.KindArray || isNull(v) }

// elements tells of a value whether it is an array whose objects keep the rules.
func elements(rules *Members) func(strictjson.Value) bool {
	return func(v strictjson.Value) bool {
		if v.Kind != strictjson.KindArray {
			return isNull(v)
		}
		all, err := strictjson.Array(v.Raw, strictjson.Limits{})
		for _, one := range all {
			if one.Kind == strictjson.KindObject && !keeps(one, rules) {
				return false
			}
		}
		return err == nil
	}
}

// keeps tells whether an object keeps the rules, at every depth.
func keeps(v strictjson.Value, rules *Members) bool {
	members, err := strictjson.Object(v.Raw, strictjson.Limits{})
	for i := range members {
		m := &members[i]
		rule, known := rules.Rules[m.Name]
		switch {
		case known && !rule.Is(m.Value), !known && rules.Confusable(m.Name):
			return false
		case rule.Inner != nil && m.Kind == strictjson.KindObject && !keeps(m.Value, rule.Inner):
			return false
		}
	}
	return err == nil
}

// oneOf are the values of a parameter or member that may be one of a few words.
func oneOf(words ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(words, s) }
}

func isOneOf(words ...string) func(strictjson.Value) bool {
	return func(v strictjson.Value) bool {
		s, ok := v.Text()
		return ok && slices.Contains(words, s) || isNull(v)
	}
}

func isNumber(v strictjson.Value) bool { return v.Kind == strictjson.KindNumber || isNull(v) }

// maxWhole is the last of the whole numbers that every parser holds as it stands
// (RFC 7493, section 2.2): JavaScript reads 2^53+1 as 2^53.
const maxWhole = 1<<53 - 1

// isWhole takes no string and no fraction: "100000" and 1e5 are numbers to
// pydantic and nothing to a check in Go.
func isWhole(v strictjson.Value) bool {
	n, ok := v.Int()
	return ok && -maxWhole <= n && n <= maxWhole || isNull(v)
}

func isCount(v strictjson.Value) bool {
	n, _ := v.Int()
	return n >= 1 && isWhole(v) || isNull(v)
}

func isSize(v strictjson.Value) bool {
	return isNull(v) || pixels(v) < Endless || string(v.Raw) == `"auto"`
}

// number is the value of a number, and 1 for true. Below zero is what servers
// take for "without end".
func number(v strictjson.Value) float64 {
	if b, ok := v.Bool(); ok && b {
		return 1
	}
	f, _ := v.Float()
	if f < 0 {
		return Endless
	}
	return f
}

func length(v strictjson.Value) float64 {
	elements, err := strictjson.Array(v.Raw, strictjson.Limits{})
	if err != nil {
		return Endless
	}
	return float64(len(elements))
}

// pixels are those of a size such as "1024x1024"; of "auto" there is no knowing.
func pixels(v strictjson.Value) float64 {
	s, _ := v.Text()
	w, h, _ := strings.Cut(s, "x")
	width, err1 := strconv.ParseUint(w, 10, 16)
	height, err2 := strconv.ParseUint(h, 10, 16)
	if err1 != nil || err2 != nil {
		return Endless
	}
	return float64(width * height)
}

func writeWhole(b []byte, n float64) []byte {
	return strconv.AppendInt(b, int64(math.Floor(n)), 10)
}

func writeFloat(b []byte, n float64) []byte { return strconv.AppendFloat(b, n, 'f', -1, 64) }

func writeFlag(b []byte, n float64) []byte { return strconv.AppendBool(b, n >= 1) }
