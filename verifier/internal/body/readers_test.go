package body_test

import (
	"bytes"
	stdcmp "cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/hourpass/hourpass/internal/peers"
	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/verifier/internal/body"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// maxRead is what the readers of other languages are given, so that their answer
// fits on a line.
const maxRead = 16 << 10

// readers are the parsers that model servers have.
type readers []peers.JSONReader

// agree fails the test if one of the readers sees another model in doc than we
// do, or another value of any member that has a rule.
func (rs readers) agree(t testing.TB, doc []byte, rules *route.Members) {
	t.Helper()
	members, err := strictjson.Object(doc, strictjson.Limits{})
	if err != nil {
		t.Fatalf("%q: %v", doc, err)
	}
	ours := map[string]strictjson.Value{}
	for _, m := range members {
		if _, known := rules.Rules[m.Name]; known {
			ours[m.Name] = m.Value
		}
	}
	names := slices.Sorted(maps.Keys(rules.Rules))

	// Go, which folds case and keeps the last.
	var fields []reflect.StructField
	for i, name := range names {
		fields = append(fields, reflect.StructField{
			Name: fmt.Sprintf("F%d", i), Type: reflect.TypeFor[json.RawMessage](), Tag: reflect.StructTag(fmt.Sprintf("json:%q", name)),
		})
	}
	folded := reflect.New(reflect.StructOf(fields))
	exact := map[string]json.RawMessage{}
	for _, into := range []any{folded.Interface(), &exact} {
		if err := json.Unmarshal(doc, into); err != nil {
			t.Fatalf("%q: Go says %v", doc, err)
		}
	}
	for i, name := range names {
		if got := folded.Elem().Field(i).Bytes(); !bytes.Equal(got, ours[name].Raw) || !bytes.Equal(exact[name], got) {
			t.Fatalf("%q: %s is %s; to Go's structs %s, to its maps %s", doc, name, ours[name].Raw, got, exact[name])
		}
	}
	if len(doc) > maxRead {
		return
	}
	for _, r := range rs {
		theirs, ok := r.Members(t, doc, names...)
		if !ok {
			t.Fatalf("%q: no object to %s", doc, r.Name)
		}
		for _, name := range names {
			v, given := ours[name]
			raw, seen := theirs[name]
			if given != seen || given && !same(t, v, raw, rules.Rules[name]) {
				t.Fatalf("%q: %s is %s; to %s it is %s", doc, name, v.Raw, r.Name, raw)
			}
		}
	}
}

// same tells whether another language says a value as we do: whole numbers to
// the last digit, others as floats.
func same(t testing.TB, v strictjson.Value, raw json.RawMessage, rule route.Rule) bool {
	t.Helper()
	half := strictjson.Value{Kind: strictjson.KindNumber, Raw: []byte("0.5")}
	if v.Kind == strictjson.KindNumber && !rule.Is(half) {
		a, ok1 := new(big.Rat).SetString(string(v.Raw))
		b, ok2 := new(big.Rat).SetString(string(raw))
		return ok1 && ok2 && a.Cmp(b) == 0
	}
	var a, b any
	if err := json.Unmarshal(v.Raw, &a); err != nil {
		t.Fatal(err)
	}
	return json.Unmarshal(raw, &b) == nil && reflect.DeepEqual(a, b)
}

// taken fails the test if a document is taken that the readers would disagree
// about, as it came or as it is written.
func (rs readers) taken(t testing.TB, raw []byte, rules *route.Members, b body.Bounds) (ok bool) {
	t.Helper()
	d, err := body.Parse(raw, rules)
	if err != nil {
		return false
	}
	rs.agree(t, raw, rules)
	if _, text, ok := rewrite(t, &d, "", b); ok {
		rs.agree(t, text, rules)
	}
	return true
}

// FuzzReaders: no body that is taken means another model, or another parameter,
// to any of the parsers that model servers have.
func FuzzReaders(f *testing.F) {
	rs := readers(peers.StartJSONReaders(f))
	routes := documents()
	f.Fuzz(func(t *testing.T, raw []byte, which uint8, param byte, low, high float64, clamp bool) {
		rules := routes[int(which)%len(routes)].Members
		b := boundsOf(rules, param, low, high, clamp)
		if !b.IsZero() && b.Check() != nil {
			b = body.Bounds{}
		}
		rs.taken(t, raw, rules, b)
	})
}

// TestReaders: bodies on which parsers are known to differ are refused, or read
// alike.
func TestReaders(t *testing.T) {
	rs := readers(peers.StartJSONReaders(t))
	rules := chat(t).Members
	for doc, want := range map[string]bool{
		`{"model":"small","max_tokens":1}`:                           true,
		`{"model":"sm\u0061ll\ud83d\ude00","\u006eothing":"\u2028"}`: true,
		`{"model":"small","max_tokens":9007199254740991}`:            true,
		`{"model":"small","max_tokens":9007199254740993}`:            false, // JavaScript: 9007199254740992.
		`{"model":"small","max_tokens":9223372036854775807}`:         false,
		`{"model":"small","max_tokens":1.0}`:                         false,
		`{"model":"small","max_tokens":10000000000000000000000}`:     false,
		`{"model":"small","temperature":1e-400,"n_predict":-1}`:      true,
		`{"model":"small","temperature":0.1000000000000000055511}`:   true,
		`{"model":"small","temperature":-0.0}`:                       true,
		`{"model":"small","stop":NaN}`:                               false, // Python takes it.
		`{"model":"small","model":"large"}`:                          false,
		`{"model":"small","Model":"large"}`:                          false, // Go folds.
		`{"model":"small","max_to` + "\u212a" + `ens":1}`:            false,
		`{"model":"small","model` + "\x00" + `":"large"}`:            false,
		`{"model":"small","__proto__":{"max_tokens":5}}`:             true,
		`{"model":"small","tools":[{"a":1}],"stream_options":{}}`:    true,
		"{\"model\":\"sm\xffall\"}":                                  false,
		`{"model":"small\ud800"}`:                                    false,
		"\ufeff" + `{"model":"small"}`:                               false,
		"{\x00\"\x00m\x00":                                           false, // UTF-16, to Python.
	} {
		if got := rs.taken(t, []byte(doc), rules, body.Bounds{}); got != want {
			t.Errorf("%q is taken: %v", doc, got)
		}
	}
}

// TestReadersOfVectors: of the shared attack vectors, whatever is taken.
func TestReadersOfVectors(t *testing.T) {
	dir := stdcmp.Or(os.Getenv("HOURPASS_VECTORS"), "../../../../shared/vectors")
	b, err := os.ReadFile(filepath.Join(dir, "attack", "model-bodies.json"))
	if err != nil {
		t.Logf("not tested: %v (HOURPASS_VECTORS names the folder)", err)
		return
	}
	var file struct {
		Cases []struct {
			ID, Description, Expect string
			BodyB64                 string `json:"body_b64"`
			ContentType             string `json:"content_type"`
			ContentEncoding         string `json:"content_encoding"`
		}
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	rs := readers(peers.StartJSONReaders(t))
	taken, asForm := 0, 0
	for _, c := range file.Cases {
		raw, err := base64.StdEncoding.DecodeString(c.BodyB64)
		if err != nil {
			t.Fatal(err)
		}
		if rs.taken(t, raw, chat(t).Members, body.Bounds{}) {
			taken++
		}
		if formBody := bytes.HasPrefix(raw, []byte("--")); formBody {
			asForm++
			r := forms(t)
			if got, err := written(t, source(r, raw, "Content-Type", c.ContentType), r); err == nil {
				t.Errorf("%s %s: taken as %q, want %s", c.ID, c.Description, got, c.Expect)
			}
		}
	}
	if taken == 0 || asForm < 3 {
		t.Errorf("%d of the bodies are taken, %d are forms: is the file whole?", taken, asForm)
	}
}
