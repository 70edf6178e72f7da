// Package strictjson reads JSON so strictly that no two parsers could read it
// differently. Token claims, key-set documents and request bodies all pass
// through it before anything is decided by what they say.
//
// Parsers in use disagree on which of two equal names counts, on broken UTF-8, on
// lone surrogates, on what may follow a document, and more: a body that one reads
// as harmless, another reads as something else. So all of that is refused, at
// every depth. RFC 8259 leaves most of it open; RFC 7493 (I-JSON) closes it.
//
// Nothing is decoded that was not asked for: the result is the members of the
// outermost object, or the elements of the outermost array, as slices of the
// input. Start with [Object].
package strictjson

import "strconv"

// Bounds, where [Limits] has zero.
const (
	DefaultDepth   = 64      // Objects and arrays, one within the other.
	DefaultMembers = 100_000 // Members of objects, in the whole document.
	MaxNumber      = 100     // Bytes of one number.
)

// Limits bound a document; bounds of zero or less mean the defaults.
type Limits struct {
	Depth   int // How deep objects and arrays may stand in each other; the outermost is 1.
	Members int // Members of all objects together. Elements of arrays do not count: the size of the document bounds them.

	// Names are names of members that the result may share, each by itself. Others
	// are copied from the document.
	Names map[string]string
}

// Kind is what a value is.
type Kind byte

// The kinds of JSON values.
const (
	KindNull Kind = iota + 1
	KindBool
	KindNumber
	KindString
	KindArray
	KindObject
)

func (k Kind) String() string {
	names := [...]string{"nothing", "null", "bool", "number", "string", "array", "object"}
	if int(k) < len(names) {
		return names[k]
	}
	return "Kind(" + strconv.Itoa(int(k)) + ")"
}

// Value is one value of a document that was found good as a whole. Raw are its
// bytes exactly as they stand, a slice of the input without white space around
// and without room behind, so that appending to it leaves the input alone.
type Value struct {
	Kind Kind
	Raw  []byte
}

// Member is a named value of an object. Name is unescaped.
type Member struct {
	Name string
	Value
}

// Error says what is wrong, and where. It holds nothing of the document, so it
// is safe to show.
type Error struct {
	Offset  int // Bytes before what is wrong.
	Problem string
}

func (e *Error) Error() string { return e.Problem + " at byte " + strconv.Itoa(e.Offset) }

// Object reads a document that is one object, and white space around it, and
// returns its members in order. Errors are of type [*Error].
func Object(doc []byte, l Limits) ([]Member, error) {
	s := newScanner(doc, l)
	members := make([]Member, 0, fewNames)
	err := s.begin('{')
	if err == nil {
		err = s.object(&members)
	}
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, err
	}
	return members, nil
}

// Array reads a document that is one array, and white space around it, and
// returns its elements in order. Errors are of type [*Error].
func Array(doc []byte, l Limits) ([]Value, error) {
	s := newScanner(doc, l)
	var elements []Value
	err := s.begin('[')
	if err == nil {
		err = s.array(&elements)
	}
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, err
	}
	return elements, nil
}
