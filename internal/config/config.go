// Package config reads a program's configuration: a YAML file, over it the
// environment, over that the command line's --set. A key that nothing knows is
// an error, because a misspelt security setting must not be a silent default,
// and all problems are told at once, each with its line.
//
// It knows nothing of what the settings mean: programs declare a struct with
// yaml tags and report what is wrong with its values through [Source.Problems].
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// MaxBytes bounds a configuration file.
const MaxBytes = 1 << 20

// EnvPrefix begins the name of each environment variable that sets a value:
// HOURPASS_OPS_LISTEN is ops.listen. A [Secret] x can also be read from the file
// that HOURPASS_X_FILE names. Lists are set in the file alone.
const EnvPrefix = "HOURPASS_"

// A Source remembers where each value came from.
type Source struct {
	path   string
	root   *yaml.Node
	failed []string // What could not be read into the struct.
}

// Load fills into, a pointer to a struct that holds the defaults. env is in the
// form of os.Environ; each of sets is "path=value". What is wrong with single
// settings is on the list of [Source.Problems], together with what the caller
// finds; the caller must look there.
func Load(path string, env, sets []string, into any) (*Source, error) {
	doc, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	s := &Source{path: path, root: &yaml.Node{Kind: yaml.MappingNode}}
	var node yaml.Node
	if err := yaml.Load(doc, &node); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(node.Content) == 1 && node.Content[0].Kind == yaml.MappingNode {
		s.root = node.Content[0]
	} else if len(node.Content) == 1 {
		return nil, fmt.Errorf("%s:1: want settings as key: value", path)
	}
	if err := s.overlay(env, sets, reflect.TypeOf(into).Elem()); err != nil {
		return nil, err
	}
	if err := s.root.Load(into, yaml.WithKnownFields()); err != nil {
		var many *yaml.LoadErrors
		if !errors.As(err, &many) {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, e := range many.Errors {
			s.failed = append(s.failed, fmt.Sprintf("%s:%d: %s", path, e.Mark.Line, plain(e.Message)))
		}
	}
	return s, nil
}

// unknownField is how the YAML library says that nothing knows a key.
var unknownField = regexp.MustCompile(`^field (\S+) not found in type .+$`)

// plain puts a problem in the words of whoever wrote the file.
func plain(message string) string {
	return unknownField.ReplaceAllString(strings.TrimSpace(message), "there is no setting $1")
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	doc, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err == nil && len(doc) > MaxBytes {
		err = fmt.Errorf("%s is larger than %d bytes", path, MaxBytes)
	}
	return doc, err
}

// overlay puts the values of env and sets over those of the file.
func (s *Source) overlay(env, sets []string, t reflect.Type) error {
	values := map[string]string{}
	for _, e := range env {
		if name, v, ok := strings.Cut(e, "="); ok && strings.HasPrefix(name, EnvPrefix) {
			values[name] = v
		}
	}
	for setting := range scalars(t, "") {
		name := EnvPrefix + strings.ToUpper(strings.ReplaceAll(setting.path, ".", "_"))
		v, ok := values[name]
		if file, isFile := values[name+"_FILE"]; isFile && setting.secret {
			if ok {
				return fmt.Errorf("both %s and %s_FILE are set", name, name)
			}
			b, err := readFile(file)
			if err != nil {
				return fmt.Errorf("reading %s_FILE: %w", name, err)
			}
			v, ok = strings.TrimRight(string(b), "\r\n"), true
		}
		if ok {
			s.set(setting.path, v)
		}
	}
	for _, set := range sets {
		path, v, ok := strings.Cut(set, "=")
		if !ok {
			return fmt.Errorf("--set %s: want path=value", set)
		}
		s.set(path, v)
	}
	return nil
}

type scalar struct {
	path   string
	secret bool
}

// scalars yields the path of each single value that structs of type t hold.
func scalars(t reflect.Type, prefix string) func(func(scalar) bool) {
	return func(yield func(scalar) bool) {
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			path := prefix + name
			switch {
			case name == "" || name == "-" || f.Type.Kind() == reflect.Slice || f.Type.Kind() == reflect.Map:
			case f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[Secret]():
				for s := range scalars(f.Type, path+".") {
					if !yield(s) {
						return
					}
				}
			default:
				if !yield(scalar{path, f.Type == reflect.TypeFor[Secret]()}) {
					return
				}
			}
		}
	}
}

// set puts value at a dotted path, making mappings on the way.
func (s *Source) set(path, value string) {
	at := s.root
	parts := strings.Split(path, ".")
	for i, part := range parts {
		next := child(at, part)
		if next == nil {
			next = &yaml.Node{Kind: yaml.MappingNode}
			at.Content = append(at.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: part}, next)
		}
		if i == len(parts)-1 {
			*next = yaml.Node{Kind: yaml.ScalarNode, Value: value, Line: next.Line}
		}
		at = next
	}
}

func child(mapping *yaml.Node, name string) *yaml.Node {
	if mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// line is where the value at a path such as "providers[0].issuer" stands, or
// the nearest that there is around it.
func (s *Source) line(path string) int {
	at, line := s.root, max(s.root.Line, 1)
	for part := range strings.SplitSeq(strings.ReplaceAll(path, "[", ".["), ".") {
		if index, ok := strings.CutPrefix(part, "["); ok {
			i, err := strconv.Atoi(strings.TrimSuffix(index, "]"))
			if err != nil || i >= len(at.Content) {
				return line
			}
			at = at.Content[i]
		} else if at = child(at, part); at == nil {
			return line
		}
		if at.Line > 0 {
			line = at.Line
		}
	}
	return line
}

// Problems starts a list of what is wrong with the values, with what could not
// be read on it.
func (s *Source) Problems() *Problems { return &Problems{source: s, found: slices.Clone(s.failed)} }

// Problems are all that is wrong with a configuration.
type Problems struct {
	source *Source
	found  []string
}

// Add notes a problem with the value at path, such as "providers[0].issuer".
func (p *Problems) Add(path, format string, args ...any) {
	p.found = append(p.found, fmt.Sprintf("%s:%d: %s: %s", p.source.path, p.source.line(path), path, fmt.Sprintf(format, args...)))
}

// Check adds the problem unless ok.
func (p *Problems) Check(ok bool, path, format string, args ...any) {
	if !ok {
		p.Add(path, format, args...)
	}
}

// Err is nil, or one error that tells every problem, a line each.
func (p *Problems) Err() error {
	if len(p.found) == 0 {
		return nil
	}
	return errors.New(strings.Join(slices.Compact(p.found), "\n"))
}

// A Secret is a text that is never printed. In YAML it is the text itself, or
// {file: PATH}, whose content without the last newline is meant.
type Secret struct{ text string }

// NewSecret wraps a secret that the program itself made.
func NewSecret(text string) Secret { return Secret{text} }

// Reveal returns the secret.
func (s Secret) Reveal() string { return s.text }

// IsZero tells whether there is none.
func (s Secret) IsZero() bool { return s.text == "" }

// String hides the secret from every log and error.
func (s Secret) String() string { return "(secret)" }

// GoString hides it from %#v too.
func (s Secret) GoString() string { return s.String() }

// MarshalText hides it from every encoder.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalYAML reads either form.
func (s *Secret) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		s.text = n.Value
		return nil
	}
	var from struct {
		File string `yaml:"file"`
	}
	if err := n.Load(&from, yaml.WithKnownFields()); err != nil {
		return err
	}
	b, err := readFile(from.File)
	if err != nil {
		return fmt.Errorf("reading a secret: %w", err)
	}
	s.text = strings.TrimRight(string(b), "\r\n")
	return nil
}
