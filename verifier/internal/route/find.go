package route

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hourpass/hourpass/internal/token"
)

type place struct{ method, path string }

type servedBy struct {
	family *Family
	route  *Route
}

// pattern is a path with something in braces.
type pattern struct {
	*Route
	segments []string // Of the path.
	rest     bool     // The last of them stands for one or more.
}

// The registry, by what Find looks for.
var (
	exact    = map[place]*Route{}
	patterns = map[string][]pattern{} // By their first segment.
	served   = map[servedBy]bool{}
	methods  []string // That any route has, sorted.
)

func init() {
	names := map[string]*Route{}
	for _, f := range Families {
		for i := range f.Routes {
			r := &f.Routes[i]
			r.Family, r.name = f, r.Method+" "+strings.Replace(r.Path, "...}", "}", 1)
			if names[r.name] != nil {
				panic("two routes are called " + r.name)
			}
			names[r.name], served[servedBy{f, r}] = r, true
			methods = append(methods, r.Method)
			if !strings.Contains(r.Path, "{") {
				exact[place{r.Method, r.Path}] = r
				continue
			}
			p := pattern{Route: r, segments: strings.Split(r.Path[1:], "/"), rest: strings.HasSuffix(r.Path, "{model...}")}
			patterns[p.segments[0]] = append(patterns[p.segments[0]], p)
		}
	}
	for _, f := range Families {
		for _, name := range f.Also {
			if names[name] == nil {
				panic(fmt.Sprintf("%s has no route %q to share", f.Name, name))
			}
			served[servedBy{f, names[name]}] = true
		}
	}
	slices.Sort(methods)
	methods = slices.Compact(methods)
}

// Methods are those that any route has, as the header Allow lists them.
func Methods() string { return strings.Join(methods, ", ") }

// KnownMethod tells whether any route has the method.
func KnownMethod(method string) bool { return slices.Contains(methods, method) }

// Match is a route and what a path says to it.
type Match struct {
	*Route
	Model      string // That the path names; empty where it names none.
	head, tail string // Of the path, around the model.
}

// Target is the path for an upstream, with the model by that name.
func (m *Match) Target(model string) string {
	if m.Model == "" {
		return m.head
	}
	return m.head + model + m.tail
}

// Find returns the route of a request. Where there is none, allow says which
// methods the path has, if it has any. The path must be canonical (package
// reqtarget).
func Find(method, path string) (m Match, allow string, ok bool) {
	if r := exact[place{method, path}]; r != nil {
		return Match{Route: r, head: path}, "", true
	}
	var others []string
	for _, other := range methods {
		if exact[place{other, path}] != nil {
			others = append(others, other)
		}
	}
	first, _, _ := strings.Cut(path[1:], "/")
	for i := range patterns[first] {
		p := &patterns[first][i]
		if p.Method != method && slices.Contains(others, p.Method) {
			continue
		}
		if m, ok := p.match(path); ok {
			if p.Method == method {
				return m, "", true
			}
			others = append(others, p.Method)
		}
	}
	slices.Sort(others)
	return Match{}, strings.Join(others, ", "), false
}

// match reads a path by the pattern. What it names is a model's valid name.
func (p *pattern) match(path string) (Match, bool) {
	m := Match{Route: p.Route, head: path}
	at := 1
	for i, want := range p.segments {
		segment, _, more := strings.Cut(path[at:], "/")
		last := i == len(p.segments)-1
		if last && p.rest {
			segment, more = path[at:], false
			want = "{model}"
		}
		if more == last {
			return Match{}, false
		}
		model, prefix, suffix, ok := matchSegment(want, segment)
		if !ok {
			return Match{}, false
		}
		if model != "" {
			m.Model, m.head, m.tail = model, path[:at]+prefix, suffix+path[at+len(segment):]
		}
		at += len(segment) + 1
	}
	return m, true
}

// matchSegment reads one segment: what stands in braces, with exact text before
// and after.
func matchSegment(want, segment string) (model, prefix, suffix string, ok bool) {
	prefix, rest, braces := strings.Cut(want, "{")
	if !braces {
		return "", "", "", want == segment
	}
	name, suffix, _ := strings.Cut(rest, "}")
	value, ok1 := strings.CutPrefix(segment, prefix)
	value, ok2 := strings.CutSuffix(value, suffix)
	if !ok1 || !ok2 {
		return "", "", "", false
	}
	if name == "model" {
		return value, prefix, suffix, token.ValidModel(value)
	}
	return "", "", "", isPlainName(value)
}

func isPlainName(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > token.MaxModel {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
