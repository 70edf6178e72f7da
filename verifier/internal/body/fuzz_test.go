package body_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"math"
	"mime/multipart"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/body"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// documents are the routes of the registry that take JSON or a form, in order.
func documents() (routes []*route.Route) {
	for _, f := range route.Families {
		for i := range f.Routes {
			if r := &f.Routes[i]; r.Members != nil && r.Carrier != route.InFrame {
				routes = append(routes, r)
			}
		}
	}
	slices.SortFunc(routes, func(a, b *route.Route) int { return cmp.Compare(a.Name(), b.Name()) })
	return routes
}

// paramNames are those that members of the rules stand for, at any depth.
func paramNames(rules *route.Members) (names []string) {
	for _, name := range rules.Params {
		names = append(names, rules.Rules[name].Param.Name)
	}
	for _, name := range rules.Inners {
		names = append(names, paramNames(rules.Rules[name].Inner)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// boundsOf makes bounds of what the fuzzer says: those of one or two parameters.
func boundsOf(rules *route.Members, which byte, low, high float64, clamp bool) (b body.Bounds) {
	names := paramNames(rules)
	if len(names) == 0 {
		return b
	}
	b.Clamp, b.Bounds = clamp, map[string]token.Range{names[int(which>>4)%len(names)]: {Min: low, Max: high}, names[int(which&15)%len(names)]: {Max: high}}
	if which&1 == 1 {
		b.Cap = "max_completion_tokens"
	}
	return b
}

// within fails the test if members, or what stands in them, or what servers take
// for members that are not there, is out of bounds.
func within(t *testing.T, members []strictjson.Member, rules *route.Members, b body.Bounds) {
	t.Helper()
	for name, bound := range b.Bounds {
		given := false
		for _, m := range members {
			p := rules.Rules[m.Name].Param
			if p == nil || p.Name != name || m.Kind == strictjson.KindNull {
				continue
			}
			given = true
			if n := p.Measure(m.Value); n < bound.Min || n > bound.Max {
				t.Fatalf("%s is %s, which is %v, outside %v", m.Name, m.Raw, n, bound)
			}
		}
		for _, member := range rules.Params {
			if p := rules.Rules[member].Param; p.Name == name && !given && (p.Absent < bound.Min || p.Absent > bound.Max) {
				t.Fatalf("%s is not there, which is %v, outside %v", member, p.Absent, bound)
			}
		}
	}
	for _, name := range rules.Inners {
		var inner []strictjson.Member
		for _, m := range members {
			if m.Name == name && m.Kind == strictjson.KindObject {
				inner, _ = strictjson.Object(m.Raw, strictjson.Limits{})
			}
		}
		within(t, inner, rules.Rules[name].Inner, b)
	}
}

// rewrite is what a document within bounds comes to.
func rewrite(t testing.TB, d *body.Doc, model string, b body.Bounds) (*body.Content, []byte, bool) {
	t.Helper()
	c, err := d.Write(model, b)
	if err != nil {
		if !errors.Is(err, refusal.ErrParam) || b.IsZero() {
			t.Fatalf("writing: %v", err)
		}
		return nil, nil, false
	}
	return &c, readAll(t, &c), true
}

// FuzzDoc: what is written is read again and written as it is; each parameter is
// within its bounds, whether it stands there or not.
func FuzzDoc(f *testing.F) {
	routes := documents()
	f.Fuzz(func(t *testing.T, raw []byte, which uint8, param byte, low, high float64, clamp bool) {
		rules := routes[int(which)%len(routes)].Members
		b := boundsOf(rules, param, low, high, clamp)
		d, err := body.Parse(raw, rules)
		if err != nil || !b.IsZero() && b.Check() != nil {
			return
		}
		whole := bytes.Clone(raw)
		_, once, ok := rewrite(t, &d, "", b)
		if !bytes.Equal(raw, whole) {
			t.Fatalf("writing changed %q to %q", whole, raw)
		}
		if !ok {
			return
		}
		again, err := body.Parse(once, rules)
		if err != nil || again.Model != d.Model {
			t.Fatalf("%q is written as %q, of the model %q: %v", raw, once, again.Model, err)
		}
		members, err := strictjson.Object(once, strictjson.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		within(t, members, rules, b)
		for _, b := range []body.Bounds{b, {}} {
			if _, twice, _ := rewrite(t, &again, "", b); !bytes.Equal(once, twice) {
				t.Fatalf("%q is written as %q, and that as %q", raw, once, twice)
			}
		}
		_, named, ok := rewrite(t, &d, "a/b", b)
		renamed, err := body.Parse(named, rules)
		if !ok || err != nil || renamed.Model != "a/b" && d.Model != "" {
			t.Fatalf("%q, renamed, is written as %q: %v", raw, named, err)
		}
	})
}

// FuzzForm: of a form that is taken, Go's parser reads the same parts as came in;
// written anew it is taken again; its parameters are within bounds.
func FuzzForm(f *testing.F) {
	r := forms(f)
	f.Fuzz(func(t *testing.T, raw []byte, param byte, low, high float64, clamp bool) {
		b := boundsOf(r.Members, param, low, high, clamp)
		if !b.IsZero() && b.Check() != nil {
			return
		}
		d, err := body.Read(source(r, raw, "Content-Type", formType), r)
		if err != nil {
			if got, _ := refusal.Of(err); got.Status >= 500 {
				t.Fatal(err)
			}
			return
		}
		defer d.Close()
		plain, _, _ := rewrite(t, &d, "", body.Bounds{})
		parts := served(t, plain)
		in := multipart.NewReader(bytes.NewReader(raw), "B")
		models := 0
		for _, want := range parts {
			p, err := in.NextRawPart()
			if err != nil {
				t.Fatalf("%q has %q, and Go says %v", raw, want, err)
			}
			text, _ := io.ReadAll(p)
			if p.FormName() != want.Name || p.FileName() != want.Filename || string(text) != want.Text {
				t.Fatalf("%q has %q, and to Go %q %q %q", raw, want, p.FormName(), p.FileName(), text)
			}
			if base, _, _ := strings.Cut(want.Name, "["); strings.EqualFold(base, "model") {
				models++
				if want.Name != "model" || want.Text != d.Model || want.Filename != "" {
					t.Fatalf("%q has the model %q, and %q", raw, d.Model, want)
				}
			}
		}
		if _, err := in.NextRawPart(); err != io.EOF || models > 1 {
			t.Fatalf("%q has %d parts and %d models, and Go says %v", raw, len(parts), models, err)
		}
		c, once, ok := rewrite(t, &d, "", b)
		if !ok {
			return
		}
		again, err := body.Read(source(r, once, "Content-Type", c.Type), r)
		if err != nil || again.Model != d.Model {
			t.Fatalf("%q is written as %q: %v", raw, once, err)
		}
		defer again.Close()
		twice, _, _ := rewrite(t, &again, "", b)
		if diff := gocmp.Diff(served(t, c), served(t, twice)); diff != "" {
			t.Fatal(diff)
		}
		var members []strictjson.Member
		for _, p := range served(t, c) {
			if v, err := strictjson.Array([]byte("["+p.Text+"]"), strictjson.Limits{}); err == nil && len(v) == 1 && p.Filename == "" {
				members = append(members, strictjson.Member{Name: p.Name, Value: v[0]})
			}
		}
		within(t, members, r.Members, b)
	})
}

// fuzzCoding: what we take of a stream is all of it, and no more than the bounds
// allow.
func fuzzCoding(f *testing.F, coding string, decode func(io.Reader) (io.Reader, error)) {
	r := chat(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := source(r, raw, "Content-Encoding", coding)
		got, err := written(t, s, r)
		if err != nil {
			if is, _ := refusal.Of(err); is.Status >= 500 {
				t.Fatal(err)
			}
			return
		}
		in, err := decode(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		whole, err := io.ReadAll(in)
		if err != nil || len(whole) > maxBody || len(whole) > len(raw)*body.MaxRatio+body.FreeRatio {
			t.Fatalf("%q is taken, which is %d bytes: %v", raw, len(whole), err)
		}
		want, err := written(t, source(r, whole), r)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%q is read as %q, and it is %q: %v", raw, got, want, err)
		}
	})
}

func FuzzGzip(f *testing.F) {
	fuzzCoding(f, "gzip", func(in io.Reader) (io.Reader, error) { return gzip.NewReader(in) })
}

func FuzzDeflate(f *testing.F) {
	fuzzCoding(f, "deflate", func(in io.Reader) (io.Reader, error) { return zlib.NewReader(in) })
}

func FuzzBrotli(f *testing.F) {
	fuzzCoding(f, "br", func(in io.Reader) (io.Reader, error) { return brotli.NewReader(in), nil })
}

func FuzzZstd(f *testing.F) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(math.MaxInt32))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(d.Close)
	fuzzCoding(f, "zstd", func(in io.Reader) (io.Reader, error) {
		raw, _ := io.ReadAll(in)
		whole, err := d.DecodeAll(raw, nil)
		return bytes.NewReader(whole), err
	})
}

func TestFuzzSeedsAreThere(t *testing.T) {
	for _, target := range []string{"FuzzDoc", "FuzzForm", "FuzzGzip", "FuzzDeflate", "FuzzBrotli", "FuzzZstd", "FuzzReaders"} {
		if seeds, err := os.ReadDir("testdata/fuzz/" + target); err != nil || len(seeds) < 3 {
			t.Errorf("%s has %d seeds: %v", target, len(seeds), err)
		}
	}
}
