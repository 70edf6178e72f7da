package strictjson

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Text is the string, unescaped. Of another kind it is not ok.
func (v Value) Text() (text string, ok bool) {
	if v.Kind != KindString {
		return "", false
	}
	raw := v.Raw[1 : len(v.Raw)-1]
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw), true
	}
	return string(unescape(raw)), true
}

// Int is a number that is written as a plain integer, without fraction or
// exponent, and fits. "-0", 1.0 and 1e2 are not: parsers differ on whether they
// are integers.
func (v Value) Int() (n int64, ok bool) {
	if v.Kind != KindNumber || bytes.ContainsAny(v.Raw, ".eE") || string(v.Raw) == "-0" {
		return 0, false
	}
	n, err := strconv.ParseInt(string(v.Raw), 10, 64)
	return n, err == nil
}

// Float is any number, to the nearest float64.
func (v Value) Float() (f float64, ok bool) {
	if v.Kind != KindNumber {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(v.Raw), 64)
	return f, err == nil
}

// Bool is true or false.
func (v Value) Bool() (b, ok bool) {
	return v.Kind == KindBool && v.Raw[0] == 't', v.Kind == KindBool
}

// Texts is an array of at most limit strings, and nothing but strings. An empty
// array is ok, and not nil.
func (v Value) Texts(limit int) (texts []string, ok bool) {
	if v.Kind != KindArray {
		return nil, false
	}
	elements, err := Array(v.Raw, Limits{})
	if err != nil || len(elements) > limit {
		return nil, false
	}
	texts = make([]string, len(elements))
	for i, e := range elements {
		if texts[i], ok = e.Text(); !ok {
			return nil, false
		}
	}
	return texts, true
}

// unescape decodes the inside of a string that was found good.
func unescape(raw []byte) []byte {
	text := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			text = append(text, raw[i])
			continue
		}
		i++
		switch raw[i] {
		case 'b':
			text = append(text, '\b')
		case 'f':
			text = append(text, '\f')
		case 'n':
			text = append(text, '\n')
		case 'r':
			text = append(text, '\r')
		case 't':
			text = append(text, '\t')
		case 'u':
			r, _ := hex4(raw[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				low, _ := hex4(raw[i+3:])
				r = utf16.DecodeRune(r, low)
				i += 6
			}
			text = utf8.AppendRune(text, r)
		default: // A quote, a backslash or a slash.
			text = append(text, raw[i])
		}
	}
	return text
}

// AppendText appends s as a JSON string that every parser reads alike: it
// escapes what must be and nothing else. Bytes of s that are not UTF-8 become
// U+FFFD.
func AppendText(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case plain[c]:
			dst = append(dst, c)
			i++
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
			i++
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			i++
		default:
			r, size := utf8.DecodeRuneInString(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += size
		}
	}
	return append(dst, '"')
}
