package strictjson_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/strictjson"
)

func TestObject(t *testing.T) {
	doc := " {\"a\" : 1.50, \"\\u0062\":\"x\\ny\",\n\"c\":[ {\"d\":null} ],\"e\":{},\t\"f\":true, \"\":[],\"g\":null}\r\n"
	members, err := strictjson.Object([]byte(doc), strictjson.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range members {
		got = append(got, m.Name+" "+m.Kind.String()+" "+string(m.Raw))
	}
	want := []string{"a number 1.50", `b string "x\ny"`, `c array [ {"d":null} ]`, "e object {}", "f bool true", " array []", "g null null"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Object(%s):\n%s", doc, diff)
	}
}

func TestArray(t *testing.T) {
	doc := "\t[ 1, \"x\" ,{\"a\":[2]},\r\n[ ]\n] "
	elements, err := strictjson.Array([]byte(doc), strictjson.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range elements {
		got = append(got, e.Kind.String()+" "+string(e.Raw))
	}
	want := []string{"number 1", `string "x"`, `object {"a":[2]}`, "array [ ]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Array(%s):\n%s", doc, diff)
	}
}

// TestRawHasNoRoom: who appends to a value must not write over its neighbour.
func TestRawHasNoRoom(t *testing.T) {
	doc := []byte(`{"model":"a","n":1}`)
	members, err := strictjson.Object(doc, strictjson.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	_ = append(members[0].Raw, "!!!!!!"...)
	if want := `{"model":"a","n":1}`; string(doc) != want {
		t.Errorf("after an append to a member the document is %s, want %s", doc, want)
	}
}

// numbers is an object of n members.
func numbers(n int) string {
	var b strings.Builder
	b.WriteByte('{')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + strconv.Itoa(i) + `":0`)
	}
	b.WriteByte('}')
	return b.String()
}

// nested is an object with others in it, so many in all.
func nested(n int) string { return strings.Repeat(`{"a":`, n-1) + "{}" + strings.Repeat("}", n-1) }

func TestTakes(t *testing.T) {
	for situation, good := range map[string]string{
		"nothing in it":                          `{}`,
		"every white space":                      "\r\n\t {\r\n\t \"a\"\r\n\t :\r\n\t 1\r\n\t ,\r\n\t \"b\"\r\n\t :\r\n\t [\r\n\t ]\r\n\t }\r\n\t ",
		"as deep as may be":                      nested(strictjson.DefaultDepth),
		"as many members as may be":              numbers(strictjson.DefaultMembers),
		"many side by side, none too deep":       `{"a":[` + strings.Repeat(`{"a":[{}]},[[]],`, 100) + `0]}`,
		"more elements than members may be":      `{"a":[` + strings.Repeat("0,", strictjson.DefaultMembers) + `0]}`,
		"the same name in parent and child":      `{"a":{"a":{"a":1}}}`,
		"the same name in child and then parent": `{"a":{"b":1},"b":[{"c":1}],"c":2}`,
		"the same name in brothers":              `{"x":[{"a":1},{"a":1}],"y":{"a":1}}`,
		"names that differ in case":              `{"model":1,"Model":2}`,
		"names that differ in normal form":       "{\"\u00e9\":1,\"e\u0301\":2}",
		"a name that begins another":             `{"a":1,"aa":2,"":3}`,
		"DEL and the first of two bytes":         "{\"a\":\"\x7f\u0080\"}",
		"U+FFFD and its escape":                  `{"a":"` + "\ufffd" + `","b":"\ufffd"}`,
		"the first and last of each length":      "{\"a\":\"\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff\"}",
		"a noncharacter":                         `{"a":"` + "\uffff" + `\uffff"}`,
		"every escape":                           `{"a":"\"\\\/\b\f\n\r\t\u0000\uABCDEF\uabcdef"}`,
		"the first and last pair":                `{"a":"\ud800\udc00\uDBFF\uDFFF"}`,
		"characters next to surrogates":          `{"a":"\ud7ff\ue000"}`,
		"a backslash before u":                   `{"a":"\\ud800"}`,
		"a number as long as may be":             `{"a":-0.` + strings.Repeat("1", strictjson.MaxNumber-3) + `}`,
		"the largest number":                     `{"a":1.7976931348623157e+308}`,
		"a number that is only too small":        `{"a":[5e-324,1E-400,0e400]}`,
		"zeros":                                  `{"a":[0,-0,0.0,-0e+0,0E-0]}`,
		"an integer beyond int64 and float64":    `{"a":9007199254740993000000000001}`,
		"words":                                  `{"a":[true,false,null]}`,
		"slashes, as a comment has them, inside": `{"a":"/**/ // #"}`,
	} {
		if _, err := strictjson.Object([]byte(good), strictjson.Limits{}); err != nil {
			t.Errorf("%s: Object(%.80q): %v, want it taken", situation, good, err)
		}
	}
}

const (
	badEscape  = "a bad escape stands in a string"
	badNumber  = "a bad number"
	control    = "a control character stands in a string"
	cutOff     = "the document is cut off"
	follows    = "something follows the document"
	half       = "half of a surrogate pair stands in a string"
	leadZero   = "a number begins with zero"
	longNumber = "a number is too long"
	manyNames  = "too many members"
	noColon    = "a colon is missing"
	noComma    = "a comma or the end is missing"
	noName     = "a member's name is missing"
	notArray   = "not a JSON array"
	notObject  = "not a JSON object"
	notUTF8    = "not UTF-8"
	notValue   = "not a JSON value"
	tooDeep    = "nested too deep"
	tooLarge   = "a number is too large"
	twice      = "a member's name stands twice in one object"
)

// problems are all that an error can say. They are fixed texts, so none of them
// tells anything of the document.
var problems = []string{
	badEscape, badNumber, control, cutOff, follows, half, leadZero, longNumber, manyNames, noColon, noComma, noName, notArray, notObject,
	notUTF8, notValue, tooDeep, tooLarge, twice,
}

func TestRefuses(t *testing.T) {
	long := "1" + strings.Repeat("0", strictjson.MaxNumber)
	for _, row := range []struct {
		situation, doc string
		offset         int
		problem        string
	}{
		{"a name twice", `{"model":"a","model":"b"}`, 13, twice},
		{"a name twice, the same value", `{"a":1, "a":1}`, 8, twice},
		{"a name twice, the second escaped", `{"model":"a","mod\u0065l":"b"}`, 13, twice},
		{"a name twice, the first escaped", `{"mod\u0065l":"a","model":"b"}`, 18, twice},
		{"a name twice, escaped otherwise", `{"\n\/\ud83d\ude00":"a","\u000A/😀":"b"}`, 24, twice},
		{"a name twice, something between", `{"a":1,"b":{"a":[{"b":2}]},"a":2}`, 27, twice},
		{"no name twice", `{"":1,"":2}`, 6, twice},
		{"a name twice, further in", `{"a":[{"b":{"c":1,"c":1}}]}`, 18, twice},
		{"not UTF-8 in a value", "{\"a\":\"x\xff\"}", 7, notUTF8},
		{"not UTF-8 in a name", "{\"\xff\":1}", 2, notUTF8},
		{"a continuation alone", "{\"a\":\"\x80\"}", 6, notUTF8},
		{"UTF-8 of a surrogate", "{\"a\":\"\xed\xa0\x80\"}", 6, notUTF8},
		{"UTF-8 of a pair", "{\"a\":\"\xed\xa0\xbd\xed\xb8\x80\"}", 6, notUTF8},
		{"overlong UTF-8", "{\"a\":\"\xc0\xaf\"}", 6, notUTF8},
		{"UTF-8 beyond Unicode", "{\"a\":\"\xf4\x90\x80\x80\"}", 6, notUTF8},
		{"cut-off UTF-8", "{\"a\":\"\xe2\x82\"}", 6, notUTF8},
		{"a high surrogate alone", `{"a":"x\ud800"}`, 7, half},
		{"a high surrogate before text", `{"a":"\ud800xxxxxx"}`, 6, half},
		{"a high surrogate before another escape", `{"a":"\ud800\ndc00"}`, 6, half},
		{"a high surrogate before what is no escape", `{"a":"\ud800xudc00"}`, 6, half},
		{"a high surrogate before a character", `{"a":"\ud800\u0041"}`, 6, half},
		{"a high surrogate before no hex", `{"a":"\ud800\udc0g"}`, 6, half},
		{"a high surrogate twice", `{"a":"\uD800\uD800"}`, 6, half},
		{"the last high surrogate", `{"a":"\udbff"}`, 6, half},
		{"a low surrogate alone", `{"a":"\udc00"}`, 6, half},
		{"the last low surrogate", `{"a":"\udfff"}`, 6, half},
		{"surrogates in the wrong order", `{"a":"\udc00\ud800"}`, 6, half},
		{"a surrogate in a name", `{"\ud800":1}`, 2, half},
		{"a line's end in a string", "{\"a\":\"x\n\"}", 7, control},
		{"a tab in a name", "{\"\t\":1}", 2, control},
		{"NUL in a string", "{\"a\":\"\x00\"}", 6, control},
		{"the last control character", "{\"a\":\"\x1f\"}", 6, control},
		{"an escape that is none", `{"a":"\x41"}`, 6, badEscape},
		{"an escaped apostrophe", `{"a":"\'"}`, 6, badEscape},
		{"an escape in capitals", `{"a":"\N"}`, 6, badEscape},
		{"a hex escape in capitals", `{"a":"\U0041"}`, 6, badEscape},
		{"an escaped line's end", "{\"a\":\"\\\n\"}", 6, badEscape},
		{"a short hex escape", `{"a":"\u00"}`, 6, badEscape},
		{"letters that are not hex", `{"a":"\u00gz"}`, 6, badEscape},
		{"capitals that are not hex", `{"a":"\u00GA"}`, 6, badEscape},
		{"a signed hex escape", `{"a":"\u+041"}`, 6, badEscape},
		{"single quotes", `{"a":'x'}`, 5, notValue},
		{"single quotes around a name", `{'a':1}`, 1, noName},
		{"a bare name", `{a:1}`, 1, noName},
		{"a number as a name", `{1:1}`, 1, noName},
		{"null as a name", `{null:1}`, 1, noName},
		{"no name", `{:1}`, 1, noName},
		{"a comment before a name", `{/**/"a":1}`, 1, noName},
		{"a comment before a value", `{"a":/**/1}`, 5, notValue},
		{"a comment behind a value", `{"a":1/**/}`, 6, noComma},
		{"a line of comment", "{\"a\":1 // x\n}", 7, noComma},
		{"a comma at the end", `{"a":1,}`, 7, noName},
		{"a comma at the start", `{,"a":1}`, 1, noName},
		{"a comma alone", `{,}`, 1, noName},
		{"two commas", `{"a":1,,"b":2}`, 7, noName},
		{"a comma at an array's end", `{"a":[1,]}`, 8, notValue},
		{"a comma at an array's start", `{"a":[,1]}`, 6, notValue},
		{"a comma alone in an array", `{"a":[,]}`, 6, notValue},
		{"no comma", `{"a":1 "b":2}`, 7, noComma},
		{"no comma in an array", `{"a":[1 2]}`, 8, noComma},
		{"an array closed as an object", `{"a":[1}}`, 7, noComma},
		{"an object closed as an array", `{"a":{"b":1]}`, 11, noComma},
		{"no colon", `{"a" 1}`, 5, noColon},
		{"no colon and no value", `{"a"}`, 4, noColon},
		{"a comma for a colon", `{"a",1}`, 4, noColon},
		{"two colons", `{"a"::1}`, 5, notValue},
		{"an equals sign", `{"a"=1}`, 4, noColon},
		{"no value", `{"a":}`, 5, notValue},
		{"NaN", `{"a":NaN}`, 5, notValue},
		{"nan", `{"a":nan}`, 5, notValue},
		{"Infinity", `{"a":Infinity}`, 5, notValue},
		{"minus Infinity", `{"a":-Infinity}`, 6, badNumber},
		{"True", `{"a":True}`, 5, notValue},
		{"undefined", `{"a":undefined}`, 5, notValue},
		{"three quarters of true", `{"a":tru}`, 5, notValue},
		{"false with another end", `{"a":falsy}`, 5, notValue},
		{"half of null", `{"a":nul}`, 5, notValue},
		{"more than null", `{"a":nullx}`, 9, noComma},
		{"a leading zero", `{"a":01}`, 5, leadZero},
		{"a leading zero behind minus", `{"a":-01}`, 5, leadZero},
		{"zeros", `{"a":00}`, 5, leadZero},
		{"a leading plus", `{"a":+1}`, 5, notValue},
		{"a bare minus", `{"a":-}`, 6, badNumber},
		{"two minuses", `{"a":--1}`, 6, badNumber},
		{"no digit behind the point", `{"a":1.}`, 7, badNumber},
		{"no digit between point and exponent", `{"a":1.e5}`, 7, badNumber},
		{"no digit before the point", `{"a":.5}`, 5, notValue},
		{"no digit between minus and point", `{"a":-.5}`, 6, badNumber},
		{"two points", `{"a":1.5.2}`, 8, noComma},
		{"no exponent", `{"a":1e}`, 7, badNumber},
		{"no exponent behind its sign", `{"a":1e+}`, 8, badNumber},
		{"an exponent with two signs", `{"a":1e+-1}`, 8, badNumber},
		{"an exponent with a point", `{"a":1e1.5}`, 8, noComma},
		{"a hex number", `{"a":0x1}`, 6, noComma},
		{"digits in groups", `{"a":1_000}`, 6, noComma},
		{"full-width digits", `{"a":１}`, 5, notValue},
		{"a number beyond float64", `{"a":1e400}`, 5, tooLarge},
		{"a negative number beyond float64", `{"a":-1E+309}`, 5, tooLarge},
		{"a number just beyond float64", `{"a":1.7976931348623159e308}`, 5, tooLarge},
		{"a number one byte too long", `{"a":` + long + `}`, 5, longNumber},
		{"a fraction that is too long", `{"a":0.` + long + `}`, 5, longNumber},
		{"a number in range but long", `{"a":1e` + strings.Repeat("0", strictjson.MaxNumber) + `1}`, 5, longNumber},
		{"vertical tab", "{\"a\":\v1}", 5, notValue},
		{"form feed", "{\f\"a\":1}", 1, noName},
		{"NUL between", "{\"a\":\x001}", 5, notValue},
		{"no-break space", "{\"a\":\u00a01}", 5, notValue},
		{"BOM inside", "{\"a\":\ufeff1}", 5, notValue},
		{"a name twice among many", strings.TrimSuffix(numbers(40), "}") + `,"39":1}`, 271, twice},
	} {
		refuses(t, row.situation, row.doc, row.offset, row.problem)
		// Nothing is less strict further in.
		before := `{"x":[0,{"y":`
		refuses(t, row.situation+", further in", before+row.doc+`}]}`, len(before)+row.offset, row.problem)
	}
}

func TestRefusesDocuments(t *testing.T) {
	for _, row := range []struct {
		situation, doc string
		offset         int
		problem        string
	}{
		{"nothing", "", 0, notObject},
		{"white space", " \r\n\t", 4, notObject},
		{"an array", ` []`, 1, notObject},
		{"a string", `"a"`, 0, notObject},
		{"null", `null`, 0, notObject},
		{"BOM", "\ufeff{}", 0, notObject},
		{"BOM behind", "{}\ufeff", 2, follows},
		{"UTF-16", "{\x00}\x00", 1, noName},
		{"UTF-16, the other way", "\x00{\x00}", 0, notObject},
		{"UTF-16 with BOM", "\xff\xfe{\x00}\x00", 0, notObject},
		{"UTF-32", "{\x00\x00\x00}\x00\x00\x00", 1, noName},
		{"a comment in front", `/**/{}`, 0, notObject},
		{"a comment behind", `{}//`, 2, follows},
		{"two documents", `{}{}`, 2, follows},
		{"two documents in lines", "{}\n{}", 3, follows},
		{"something behind", `{} x`, 3, follows},
		{"NUL behind", "{}\x00", 2, follows},
		{"a comma behind", `{},`, 2, follows},
		{"closed twice", `{}}`, 2, follows},
		{"a guard in front", ")]}'\n{}", 0, notObject},
		{"a record separator", "\x1e{}", 0, notObject},
		{"too deep", nested(strictjson.DefaultDepth + 1), 5 * strictjson.DefaultDepth, tooDeep},
		{"too deep in arrays", `{"a":` + strings.Repeat("[", 1_000_000), 5 + strictjson.DefaultDepth - 1, tooDeep},
		{"too many members", numbers(strictjson.DefaultMembers + 1), len(numbers(strictjson.DefaultMembers)), manyNames},
		{"too many members in all", `{"a":[` + strings.Repeat(`{"b":0},`, strictjson.DefaultMembers), 8*strictjson.DefaultMembers - 1, manyNames},
	} {
		refuses(t, row.situation, row.doc, row.offset, row.problem)
	}
	if elements, err := strictjson.Array([]byte(`{}`), strictjson.Limits{}); elements != nil || err == nil || err.Error() != notArray+" at byte 0" {
		t.Errorf("Array({}) = %v, %v, want it refused", elements, err)
	}
	if elements, err := strictjson.Array([]byte(`[1] ,`), strictjson.Limits{}); elements != nil || err == nil || err.Error() != follows+" at byte 4" {
		t.Errorf("Array([1] ,) = %v, %v, want it refused", elements, err)
	}
}

// TestCutOff: a document that ends early is refused wherever it ends.
func TestCutOff(t *testing.T) {
	doc := `{"a":[1.5e+3,{"b":"x\n\ud83d\ude00é"},true,false,null,[]],"c":{}}`
	if _, err := strictjson.Object([]byte(doc), strictjson.Limits{}); err != nil {
		t.Fatal(err)
	}
	for n := range len(doc) {
		if members, err := strictjson.Object([]byte(doc[:n]), strictjson.Limits{}); err == nil || members != nil {
			t.Errorf("Object(%s) = %v, %v, want it refused", doc[:n], members, err)
		}
	}
}

func refuses(t *testing.T, situation, doc string, offset int, problem string) {
	t.Helper()
	members, err := strictjson.Object([]byte(doc), strictjson.Limits{})
	var got *strictjson.Error
	if !errors.As(err, &got) || members != nil {
		t.Errorf("%s: Object(%.80q) = %v, %v, want an *Error", situation, doc, members, err)
		return
	}
	if diff := cmp.Diff(&strictjson.Error{Offset: offset, Problem: problem}, got); diff != "" {
		t.Errorf("%s: Object(%.80q):\n%s", situation, doc, diff)
	}
	if want := fmt.Sprintf("%s at byte %d", problem, offset); got.Error() != want {
		t.Errorf("%s: the error reads %q, want %q", situation, got, want)
	}
}

// TestEveryByteInAString puts each byte at each place, since text is read in
// steps of eight.
func TestEveryByteInAString(t *testing.T) {
	for at := range 18 {
		for c := range 256 {
			doc := []byte(`["` + strings.Repeat("x", 18) + `"]`)
			doc[2+at] = byte(c)
			want := ' ' <= c && c < 0x80 && c != '"' && c != '\\'
			if _, err := strictjson.Array(doc, strictjson.Limits{}); (err == nil) != want {
				t.Errorf("Array(%q): %v, want ok %v", doc, err, want)
			}
		}
	}
}

// TestNameTwice: each of few and of many names is remembered, whatever objects
// stand between it and its repetition.
func TestNameTwice(t *testing.T) {
	for _, n := range []int{1, 2, 15, 16, 17, 18, 40, 70} {
		for _, child := range []int{0, 1, 16, 17, 40} {
			before := strings.TrimSuffix(numbers(n), "}") + `,"child":` + numbers(child)
			if _, err := strictjson.Object([]byte(before+"}"), strictjson.Limits{}); err != nil {
				t.Errorf("Object of %d names and a child of %d: %v", n, child, err)
			}
			for i := range n {
				name := `"` + strconv.Itoa(i) + `"`
				refuses(t, fmt.Sprintf("name %d of %d again behind a child of %d", i, n, child), before+","+name+":1}", len(before)+1, twice)
			}
		}
	}
}

// TestManyNames: a name costs the same among few and among many. Were each
// compared with all others, this test would not end.
func TestManyNames(t *testing.T) {
	const n = 300_000
	members, err := strictjson.Object([]byte(numbers(n)), strictjson.Limits{Members: n})
	if err != nil || len(members) != n {
		t.Errorf("Object of %d members has %d, %v", n, len(members), err)
	}
}

func TestLimits(t *testing.T) {
	for _, row := range []struct {
		doc     string
		limits  strictjson.Limits
		problem string
	}{
		{`{"a":{"b":1}}`, strictjson.Limits{Depth: 2, Members: 2}, ""},
		{`{"a":{"b":1}}`, strictjson.Limits{Depth: 1}, tooDeep},
		{`{"a":[]}`, strictjson.Limits{Depth: 1}, tooDeep},
		{`{"a":1}`, strictjson.Limits{Depth: 1}, ""},
		{`{"a":{"b":1}}`, strictjson.Limits{Members: 1}, manyNames},
		{`{"a":[{"b":1},{"b":1}]}`, strictjson.Limits{Members: 2}, manyNames},
		{`{"a":[],"b":{},"c":[]}`, strictjson.Limits{Depth: 2}, ""}, // A level left is free again.
		{`{"a":[1],"b":{"c":2},"d":[3]}`, strictjson.Limits{Depth: 2}, ""},
		{`{"a":[1,2,3,4]}`, strictjson.Limits{Members: 1}, ""},
		{`{"a":{"b":1}}`, strictjson.Limits{Depth: -1, Members: -1}, ""},
		{nested(strictjson.DefaultDepth + 1), strictjson.Limits{Depth: -1}, tooDeep},
		{nested(strictjson.DefaultDepth + 1), strictjson.Limits{Depth: strictjson.DefaultDepth + 1}, ""},
	} {
		_, err := strictjson.Object([]byte(row.doc), row.limits)
		var got strictjson.Error
		if problem := (*strictjson.Error)(nil); errors.As(err, &problem) {
			got = *problem
		}
		if got.Problem != row.problem {
			t.Errorf("Object(%.80s, %+v): %v, want problem %q", row.doc, row.limits, err, row.problem)
		}
	}
}

func value(t *testing.T, raw string) strictjson.Value {
	t.Helper()
	elements, err := strictjson.Array([]byte("["+raw+"]"), strictjson.Limits{})
	if err != nil || len(elements) != 1 {
		t.Fatalf("Array([%s]) = %v, %v", raw, elements, err)
	}
	return elements[0]
}

func TestInt(t *testing.T) {
	for raw, want := range map[string]int64{"0": 0, "-1": -1, "9223372036854775807": 1<<63 - 1, "-9223372036854775808": -1 << 63} {
		if got, ok := value(t, raw).Int(); !ok || got != want {
			t.Errorf("Int(%s) = %d, %v, want %d", raw, got, ok, want)
		}
	}
	for _, raw := range []string{
		"1.0", "1e2", "1E2", "0.0", "0e0", "-0", "9223372036854775808", "-9223372036854775809", "18446744073709551616",
		`"1"`, `""`, "true", "null", "[]", "[1]", "{}",
	} {
		if got, ok := value(t, raw).Int(); ok || got != 0 {
			t.Errorf("Int(%s) = %d, %v, want it refused", raw, got, ok)
		}
	}
}

func TestFloat(t *testing.T) {
	for raw, want := range map[string]float64{"0": 0, "-1.5e2": -150, "1E-400": 0, "1.7976931348623157e308": 1.7976931348623157e308, "0.1": 0.1} {
		if got, ok := value(t, raw).Float(); !ok || got != want {
			t.Errorf("Float(%s) = %v, %v, want %v", raw, got, ok, want)
		}
	}
	for _, raw := range []string{`"1"`, "true", "null", "[1]", "{}"} {
		if got, ok := value(t, raw).Float(); ok || got != 0 {
			t.Errorf("Float(%s) = %v, %v, want it refused", raw, got, ok)
		}
	}
	// No document holds it, but anyone can make a Value.
	infinite := strictjson.Value{Kind: strictjson.KindNumber, Raw: []byte("1e400")}
	if got, ok := infinite.Float(); ok || got != 0 {
		t.Errorf("Float(1e400) = %v, %v, want it refused", got, ok)
	}
}

func TestBool(t *testing.T) {
	for raw, want := range map[string]bool{"true": true, "false": false} {
		if got, ok := value(t, raw).Bool(); !ok || got != want {
			t.Errorf("Bool(%s) = %v, %v, want %v", raw, got, ok, want)
		}
	}
	for _, raw := range []string{"0", "1", `"true"`, "null", "[true]", "{}"} {
		if got, ok := value(t, raw).Bool(); ok || got {
			t.Errorf("Bool(%s) = %v, %v, want it refused", raw, got, ok)
		}
	}
}

func TestText(t *testing.T) {
	for raw, want := range map[string]string{
		`""`:   "",
		`"a"`:  "a",
		`"\\"`: `\`,
		`"\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00é"`: "\"\\/\b\f\n\r\tAé😀é",
		`"\u0000\uABCD\uDBFF\uDFFF-\\ud800"`:          "\x00\uabcd\U0010ffff-\\ud800",
	} {
		if got, ok := value(t, raw).Text(); !ok || got != want {
			t.Errorf("Text(%s) = %q, %v, want %q", raw, got, ok, want)
		}
	}
	for _, raw := range []string{"1", "true", "null", `["a"]`, "{}"} {
		if got, ok := value(t, raw).Text(); ok || got != "" {
			t.Errorf("Text(%s) = %q, %v, want it refused", raw, got, ok)
		}
	}
}

func TestTexts(t *testing.T) {
	for raw, want := range map[string][]string{
		`[]`:                   {}, // Not nil: an empty list is not an absent one.
		"[ \n]":                {},
		`["a"]`:                {"a"},
		"[ \"a\" ,\n\"\\n\" ]": {"a", "\n"},
	} {
		got, ok := value(t, raw).Texts(2)
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Errorf("Texts(%s), ok %v:\n%s", raw, ok, diff)
		}
	}
	for _, raw := range []string{
		`["a","b","c"]`, `["a",1]`, `[null]`, `["a",["b"]]`, `"a"`, `"]"`, `"\"a\"]"`, `null`, "1", "true", "{}", `{"a":"b"}`,
	} {
		if list, ok := value(t, raw).Texts(2); ok || list != nil {
			t.Errorf("Texts(%s) = %q, %v, want it refused", raw, list, ok)
		}
	}
	if list, ok := value(t, `["a"]`).Texts(-1); ok {
		t.Errorf("Texts with a limit below zero = %q, want it refused", list)
	}
}

// TestTextsStopsAtItsLimit: a list that is too long costs no more than the limit.
func TestTextsStopsAtItsLimit(t *testing.T) {
	long := value(t, "["+strings.Repeat(`"some text of its own",`, 10_000)+`""]`)
	if got := testing.AllocsPerRun(10, func() { long.Texts(8) }); got > 20 {
		t.Errorf("Texts(8) of a long list allocates %v times", got)
	}
}

// TestNoValue: the zero value is of no kind.
func TestNoValue(t *testing.T) {
	var v strictjson.Value
	_, isText := v.Text()
	_, isInt := v.Int()
	_, isFloat := v.Float()
	_, isBool := v.Bool()
	_, isTexts := v.Texts(1)
	if isText || isInt || isFloat || isBool || isTexts {
		t.Errorf("the zero value is text %v, int %v, float %v, bool %v, texts %v, want none", isText, isInt, isFloat, isBool, isTexts)
	}
	if got := v.Kind.String() + " " + strictjson.Kind(9).String(); got != "nothing Kind(9)" {
		t.Errorf("kinds that are none read %q", got)
	}
}

// TestAppendText: only what must be escaped is, in the shortest way.
func TestAppendText(t *testing.T) {
	for s, want := range map[string]string{
		"":                        `""`,
		"a":                       `"a"`,
		"\"\\\b\f\n\r\t":          `"\"\\\b\f\n\r\t"`,
		"\x00\x0b\x1f":            `"\u0000\u000b\u001f"`,
		"/<>&'\x7f":               "\"/<>&'\x7f\"",
		"\u2028\ufeff😀\U0010ffff": "\"\u2028\ufeff😀\U0010ffff\"",
		"a\xffb\xc3":              "\"a\ufffdb\ufffd\"",
		"\xed\xa0\x80":            "\"\ufffd\ufffd\ufffd\"",
	} {
		if got := string(strictjson.AppendText([]byte("x"), s)); got != "x"+want {
			t.Errorf("AppendText(x, %q) = %s, want x%s", s, got, want)
		}
	}
}

// anything is a value as a Go program may hold it.
func anything(depth int) *rapid.Generator[any] {
	kinds := []*rapid.Generator[any]{
		rapid.Just[any](nil), rapid.Bool().AsAny(), rapid.Int64().AsAny(), rapid.Float64().AsAny(), rapid.String().AsAny(),
	}
	if depth > 0 {
		kinds = append(kinds,
			rapid.SliceOfN(anything(depth-1), 0, 4).AsAny(),
			rapid.MapOfN(rapid.String(), anything(depth-1), 0, 4).AsAny(),
			rapid.MapOfN(rapid.String(), rapid.Bool(), 0, 30).AsAny())
	}
	return rapid.OneOf(kinds...)
}

// TestEverythingThatGoMarshals is taken, and read as Go reads it.
func TestEverythingThatGoMarshals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc, err := json.Marshal([]any{anything(3).Draw(t, "value")})
		if err != nil {
			t.Fatal(err)
		}
		var want any
		if err := json.Unmarshal(doc, &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, decode(t, strictjson.Value{Kind: strictjson.KindArray, Raw: doc})); diff != "" {
			t.Fatalf("%s is read otherwise than by encoding/json:\n%s", doc, diff)
		}
	})
}

// decode reads a value as encoding/json does.
func decode(t *rapid.T, v strictjson.Value) (x any) {
	ok := true
	switch v.Kind {
	case strictjson.KindNull:
	case strictjson.KindBool:
		x, ok = v.Bool()
	case strictjson.KindNumber:
		x, ok = v.Float()
	case strictjson.KindString:
		x, ok = v.Text()
	case strictjson.KindArray:
		elements, err := strictjson.Array(v.Raw, strictjson.Limits{})
		if err != nil {
			t.Fatalf("Array(%s): %v", v.Raw, err)
		}
		list := []any{}
		for _, e := range elements {
			list = append(list, decode(t, e))
		}
		x = list
	case strictjson.KindObject:
		members, err := strictjson.Object(v.Raw, strictjson.Limits{})
		if err != nil {
			t.Fatalf("Object(%s): %v", v.Raw, err)
		}
		object := map[string]any{}
		for _, m := range members {
			object[m.Name] = decode(t, m.Value)
		}
		if !slices.IsSortedFunc(members, func(a, b strictjson.Member) int { return strings.Compare(a.Name, b.Name) }) {
			t.Fatalf("Object(%s): members out of order, got %q", v.Raw, slices.Collect(maps.Keys(object)))
		}
		x = object
	}
	if !ok {
		t.Fatalf("%s, a %s, has no value", v.Raw, v.Kind)
	}
	return x
}
