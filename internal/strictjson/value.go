package strictjson

import (
	"bytes"
	"strconv"
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
	if v.Kind != KindNumber || string(v.Raw) == "-0" {
		return 0, false
	}
	n, err := strconv.ParseInt(string(v.Raw), 10, 64)
	if err != nil {
		return 0, false // Not the nearest that fits, which ParseInt returns.
	}
	return n, true
}

// Float is any number, to the nearest float64.
func (v Value) Float() (f float64, ok bool) {
	if v.Kind != KindNumber {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(v.Raw), 64)
	if err != nil {
		return 0, false // Not infinity, which ParseFloat returns.
	}
	return f, true
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
	s := newScanner(v.Raw, Limits{})
	if s.enter() != nil {
		return nil, false
	}
	texts = []string{}
	for more := s.peek() != ']'; more; {
		// Here, not at the end: a long list must not cost more than the limit.
		if len(texts) >= limit {
			return nil, false
		}
		element, err := s.value()
		if err != nil {
			return nil, false
		}
		text, ok := element.Text()
		if !ok {
			return nil, false
		}
		texts = append(texts, text)
		if more, err = s.more(']'); err != nil {
			return nil, false
		}
	}
	return texts, true
}
