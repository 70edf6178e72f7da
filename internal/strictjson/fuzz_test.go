package strictjson_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// FuzzScan: what we take, another strict parser takes too and reads alike; what
// only we refuse is over a bound of ours that it has none for.
func FuzzScan(f *testing.F) {
	f.Add([]byte(`{"model":"a","messages":[{"role":"user","content":"\ud83d\ude00"}],"n":1e3}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		compare(t, doc)
		compare(t, slices.Concat([]byte("["), doc, []byte("]")))
		compare(t, slices.Concat([]byte(`{"":`), doc, []byte("}")))
	})
}

// entry is a member of the outermost object or an element of the outermost array.
type entry struct{ Kind, Name, Raw, Text string }

func compare(t *testing.T, doc []byte) {
	whole := bytes.Clone(doc)
	got, err := ours(t, doc)
	if !bytes.Equal(doc, whole) {
		t.Fatalf("reading %q made it %q", whole, doc)
	}
	want, bounds, oracle := theirs(doc)
	if err == nil {
		if oracle != nil {
			t.Fatalf("%q is taken, the oracle refuses it: %v", doc, oracle)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q is read otherwise than by the oracle:\n%s", doc, diff)
		}
		if len(bounds) > 0 {
			t.Fatalf("%q is taken, but %q", doc, bounds)
		}
		return
	}
	var own *strictjson.Error
	if !errors.As(err, &own) || !slices.Contains(problems, own.Problem) || own.Offset < 0 || own.Offset > len(doc) || got != nil {
		t.Fatalf("%q: %v, %v, want one of the known problems, and no entries", doc, got, err)
	}
	if oracle == nil && !slices.Contains(bounds, own.Problem) {
		t.Fatalf("%q: %v, the oracle takes it", doc, own)
	}
}

func ours(t *testing.T, doc []byte) (entries []entry, err error) {
	add := func(name string, v strictjson.Value) {
		if cap(v.Raw) != len(v.Raw) {
			t.Fatalf("%q: there is room behind %q", doc, v.Raw)
		}
		text, _ := v.Text()
		entries = append(entries, entry{v.Kind.String(), name, string(v.Raw), text})
	}
	if bytes.HasPrefix(bytes.TrimLeft(doc, " \t\r\n"), []byte("[")) {
		elements, err := strictjson.Array(doc, strictjson.Limits{})
		for _, e := range elements {
			add("", e)
		}
		return entries, err
	}
	members, err := strictjson.Object(doc, strictjson.Limits{})
	for _, m := range members {
		add(m.Name, m.Value)
	}
	return entries, err
}

// theirs reads as ours does, and names the bounds of ours that doc is over.
func theirs(doc []byte) (entries []entry, bounds []string, err error) {
	bounds, err = measure(doc)
	if err != nil {
		return nil, nil, err
	}
	d := jsontext.NewDecoder(bytes.NewReader(doc))
	begin, err := d.ReadToken()
	if err != nil || begin.Kind() != '{' && begin.Kind() != '[' {
		return nil, nil, fmt.Errorf("no object and no array: %w", err)
	}
	for d.PeekKind() != '}' && d.PeekKind() != ']' {
		var e entry
		if begin.Kind() == '{' {
			name, err := d.ReadToken()
			if err != nil {
				return nil, nil, err
			}
			e.Name = name.String()
		}
		raw, err := d.ReadValue()
		if err != nil {
			return nil, nil, err
		}
		e.Raw = string(raw)
		e.Kind = map[jsontext.Kind]string{'n': "null", 't': "bool", 'f': "bool", '0': "number", '"': "string", '[': "array", '{': "object"}[raw.Kind()]
		if raw.Kind() == '"' {
			text, err := jsontext.AppendUnquote(nil, raw)
			if err != nil {
				return nil, nil, err
			}
			e.Text = string(text)
		}
		entries = append(entries, e)
	}
	return entries, bounds, nil
}

// measure reads all of doc as tokens and tells which bounds of ours it is over.
func measure(doc []byte) (bounds []string, err error) {
	d := jsontext.NewDecoder(bytes.NewReader(doc), jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))
	var depth, members, documents int
	var long, large bool
	for {
		inObject, read := d.StackIndex(d.StackDepth())
		token, err := d.ReadToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if d.StackDepth() == 0 {
			if documents++; documents > 1 {
				return nil, errors.New("more than one document")
			}
		}
		depth = max(depth, d.StackDepth())
		if token.Kind() == '"' && inObject == '{' && read%2 == 0 {
			members++
		}
		if token.Kind() == '0' {
			f, err := strconv.ParseFloat(token.String(), 64)
			large = large || err != nil || math.IsInf(f, 0)
			long = long || len(token.String()) > strictjson.MaxNumber
		}
	}
	for problem, over := range map[string]bool{
		tooDeep: depth > strictjson.DefaultDepth, manyNames: members > strictjson.DefaultMembers, longNumber: long, tooLarge: large,
	} {
		if over {
			bounds = append(bounds, problem)
		}
	}
	return bounds, nil
}

// FuzzText: what is written is read back, by us and by others, and is no longer
// than it must be.
func FuzzText(f *testing.F) {
	f.Add("a\"\\\n\x00\u2028😀")
	f.Fuzz(func(t *testing.T, s string) {
		raw := strictjson.AppendText(nil, s)
		got, ok := value(t, string(raw)).Text()
		if !ok || utf8.ValidString(s) && got != s {
			t.Fatalf("Text(AppendText(%q)) = %q, %v", s, got, ok)
		}
		// Of what is not UTF-8 it says so, and writes U+FFFD as we do.
		if want, _ := jsontext.AppendQuote(nil, s); string(want) != string(raw) {
			t.Fatalf("AppendText(%q) = %s, the oracle writes %s", s, raw, want)
		}
	})
}

func TestFuzzSeedsAreThere(t *testing.T) {
	for _, target := range []string{"FuzzScan", "FuzzText"} {
		if seeds, err := os.ReadDir("testdata/fuzz/" + target); err != nil || len(seeds) == 0 {
			t.Errorf("%s has no seeds: %v", target, err)
		}
	}
}
