package strictjson_test

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// Of JSONTestSuite, files n_ are to be refused, y_ to be taken; of i_ parsers may
// think as they like, and we refuse all that two could read differently. These
// are the exceptions to "y_ and nothing else".
var (
	// Valid JSON that we refuse on purpose.
	suiteRefused = []string{"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}

	// Open, but the same to everybody: a number that is merely not exact.
	suiteTaken = []string{
		"i_number_double_huge_neg_exp.json", "i_number_real_underflow.json", "i_number_too_big_neg_int.json",
		"i_number_too_big_pos_int.json", "i_number_very_big_negative_int.json",
	}
)

// suiteExtract stands in for the suite where it is not at hand: files of it that
// fit on a line, some of each class.
var suiteExtract = map[string]string{
	"y_array_arraysWithSpaces.json":                       "[[]   ]",
	"y_array_with_several_null.json":                      "[1,null,null,null,2]",
	"y_number_0e+1.json":                                  "[0e+1]",
	"y_number_negative_zero.json":                         "[-0]",
	"y_number_real_capital_e_neg_exp.json":                "[1E-2]",
	"y_object_duplicated_key.json":                        `{"a":"b","a":"c"}`,
	"y_object_duplicated_key_and_value.json":              `{"a":"b","a":"b"}`,
	"y_object_empty_key.json":                             `{"":0}`,
	"y_object_escaped_null_in_key.json":                   `{"foo\u0000bar": 42}`,
	"y_string_accepted_surrogate_pair.json":               `["\uD801\udc37"]`,
	"y_string_allowed_escapes.json":                       `["\"\\\/\b\f\n\r\t"]`,
	"y_string_backslash_and_u_escaped_zero.json":          `["\\u0000"]`,
	"y_string_unescaped_char_delete.json":                 "[\"\x7f\"]",
	"y_structure_lonely_int.json":                         "42",
	"y_structure_lonely_string.json":                      `"asd"`,
	"y_structure_trailing_newline.json":                   "[\"a\"]\n",
	"n_array_comma_after_close.json":                      `[""],`,
	"n_array_extra_comma.json":                            `["",]`,
	"n_number_-01.json":                                   "[-01]",
	"n_number_hex_1_digit.json":                           "[0x1]",
	"n_number_2.e3.json":                                  "[2.e3]",
	"n_number_NaN.json":                                   "[NaN]",
	"n_number_minus_infinity.json":                        "[-Infinity]",
	"n_object_single_quote.json":                          `{'a':0}`,
	"n_object_trailing_comma.json":                        `{"id":0,}`,
	"n_object_trailing_comment.json":                      `{"a":"b"}/**/`,
	"n_object_unquoted_key.json":                          `{a: "b"}`,
	"n_single_space.json":                                 " ",
	"n_string_escape_x.json":                              `["\x00"]`,
	"n_string_unescaped_ctrl_char.json":                   "[\"a\x00a\"]",
	"n_string_1_surrogate_then_escape_u.json":             `["\uD800\u"]`,
	"n_structure_UTF8_BOM_no_data.json":                   "\ufeff",
	"n_structure_array_trailing_garbage.json":             "[1]x",
	"n_structure_double_array.json":                       "[][]",
	"n_structure_no_data.json":                            "",
	"n_structure_whitespace_formfeed.json":                "[\f]",
	"i_number_pos_double_huge_exp.json":                   "[1.5e+9999]",
	"i_number_neg_int_huge_exp.json":                      "[-1e+9999]",
	"i_number_real_underflow.json":                        "[123e-10000000]",
	"i_object_key_lone_2nd_surrogate.json":                `{"\uDFAA":0}`,
	"i_string_1st_valid_surrogate_2nd_invalid.json":       `["\uD888\u1234"]`,
	"i_string_UTF8_surrogate_U+D800.json":                 "[\"\xed\xa0\x80\"]",
	"i_string_overlong_sequence_2_bytes.json":             "[\"\xc0\xaf\"]",
	"i_string_utf16LE_no_BOM.json":                        "[\x00\"\x00\xe9\x00\"\x00]\x00",
	"i_structure_UTF-8_BOM_empty_object.json":             "\ufeff{}",
	"i_string_incomplete_surrogate_and_escape_valid.json": `["\uD800\n"]`,
}

// TestJSONTestSuite holds the scanner to github.com/nst/JSONTestSuite.
func TestJSONTestSuite(t *testing.T) {
	dir := filepath.Join(cmp.Or(os.Getenv("HOURPASS_VECTORS"), "../../../shared/vectors"), "JSONTestSuite")
	suite := map[string]string{}
	files, err := filepath.Glob(filepath.Join(dir, "test_parsing", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		doc, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		suite[filepath.Base(file)] = string(doc)
	}
	for name, doc := range suiteExtract {
		if whole, ok := suite[name]; len(files) > 0 && (!ok || whole != doc) {
			t.Errorf("the extract has %s as %q, the suite as %q", name, doc, whole)
		}
	}
	if len(files) == 0 {
		t.Logf("only an extract is run, for there is no suite: git clone https://github.com/nst/JSONTestSuite %s, or set HOURPASS_VECTORS to the folder that it stands in", dir)
		suite = suiteExtract
	} else if len(files) < 300 {
		t.Errorf("%s has %d files: is it whole?", dir, len(files))
	}
	for name, doc := range suite {
		want := name[0] == 'y' && !slices.Contains(suiteRefused, name) || slices.Contains(suiteTaken, name)
		_, asObject := strictjson.Object([]byte(doc), strictjson.Limits{})
		_, asArray := strictjson.Array([]byte(doc), strictjson.Limits{})
		got := asObject == nil || asArray == nil
		if scalar(doc) { // A document there; here it must stand in something.
			_, err := strictjson.Array([]byte("["+doc+"]"), strictjson.Limits{})
			got = err == nil
		}
		if got != want {
			t.Errorf("%s (%.60q) is taken: %v, want %v; as an object: %v; as an array: %v", name, doc, got, want, asObject, asArray)
		}
	}
}

// scalar tells whether a document could be one value that holds no others.
func scalar(doc string) bool {
	for _, c := range []byte(doc) {
		switch c {
		case ' ', '\t', '\n', '\r':
		case '{', '[', '}', ']', ',':
			return false
		default:
			return true
		}
	}
	return false
}
