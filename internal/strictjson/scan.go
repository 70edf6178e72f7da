package strictjson

import (
	"bytes"
	"math"
	"strconv"
)

// scanner walks a document once, from left to right.
type scanner struct {
	doc     []byte
	pos     int
	depth   int      // How deep we may still go.
	members int      // How many members may still come.
	names   [][]byte // See nameSet.
	shared  map[string]string
}

func newScanner(doc []byte, l Limits) scanner {
	if l.Depth <= 0 {
		l.Depth = DefaultDepth
	}
	if l.Members <= 0 {
		l.Members = DefaultMembers
	}
	return scanner{doc: doc, depth: l.Depth, members: l.Members, names: make([][]byte, 0, fewNames), shared: l.Names}
}

func (s *scanner) fail(problem string) error { return &Error{s.pos, problem} }

// begin goes to the one value of the document, which must begin with first.
func (s *scanner) begin(first byte) error {
	s.space()
	if s.peek() != first {
		if first == '{' {
			return s.fail("not a JSON object")
		}
		return s.fail("not a JSON array")
	}
	return nil
}

// end makes sure that the value was the whole document.
func (s *scanner) end() error {
	s.space()
	if s.pos != len(s.doc) {
		return s.fail("something follows the document")
	}
	return nil
}

// peek is the next byte; at the end it is 0, which is no JSON either.
func (s *scanner) peek() byte {
	if s.pos < len(s.doc) {
		return s.doc[s.pos]
	}
	return 0
}

func (s *scanner) space() {
	for s.pos < len(s.doc) {
		switch s.doc[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// value reads any value.
func (s *scanner) value() (Value, error) {
	start := s.pos
	var kind Kind
	var err error
	switch c := s.peek(); {
	case c == '"':
		kind = KindString
		_, err = s.text()
	case c == '{':
		kind, err = KindObject, s.object(nil)
	case c == '[':
		kind, err = KindArray, s.array(nil)
	case c == '-' || isDigit(c):
		kind, err = KindNumber, s.number()
	case c == 't':
		kind, err = KindBool, s.word("true")
	case c == 'f':
		kind, err = KindBool, s.word("false")
	case c == 'n':
		kind, err = KindNull, s.word("null")
	case s.pos == len(s.doc):
		err = s.fail("the document is cut off")
	default:
		err = s.fail("not a JSON value")
	}
	return Value{kind, s.doc[start:s.pos:s.pos]}, err
}

func (s *scanner) word(w string) error {
	if !bytes.HasPrefix(s.doc[s.pos:], []byte(w)) {
		return s.fail("not a JSON value")
	}
	s.pos += len(w)
	return nil
}

// enter goes one level down; the caller adds one to depth again on its way up.
func (s *scanner) enter() error {
	if s.depth == 0 {
		return s.fail("nested too deep")
	}
	s.depth--
	s.pos++
	s.space()
	return nil
}

// more tells whether another element follows the one just read, or the end.
func (s *scanner) more(end byte) (bool, error) {
	s.space()
	switch s.peek() {
	case ',':
		s.pos++
		s.space()
		return true, nil
	case end:
		s.pos++
		return false, nil
	}
	if s.pos == len(s.doc) {
		return false, s.fail("the document is cut off")
	}
	return false, s.fail("a comma or the end is missing")
}

func (s *scanner) array(into *[]Value) error {
	if err := s.enter(); err != nil {
		return err
	}
	if s.peek() == ']' {
		s.pos++
		s.depth++
		return nil
	}
	for more := true; more; {
		v, err := s.value()
		if err != nil {
			return err
		}
		if into != nil {
			*into = append(*into, v)
		}
		if more, err = s.more(']'); err != nil {
			return err
		}
	}
	s.depth++
	return nil
}

func (s *scanner) object(into *[]Member) error {
	if err := s.enter(); err != nil {
		return err
	}
	seen := nameSet{stack: &s.names, base: len(s.names)}
	defer seen.release()
	if s.peek() == '}' {
		s.pos++
		s.depth++
		return nil
	}
	for more := true; more; {
		name, err := s.name(&seen)
		if err != nil {
			return err
		}
		v, err := s.value()
		if err != nil {
			return err
		}
		if into != nil {
			text, ok := s.shared[string(name)]
			if !ok {
				text = string(name)
			}
			*into = append(*into, Member{text, v})
		}
		if more, err = s.more('}'); err != nil {
			return err
		}
	}
	s.depth++
	return nil
}

// name reads a member's name and its colon. The result is unescaped.
func (s *scanner) name(seen *nameSet) ([]byte, error) {
	start := s.pos
	if s.peek() != '"' {
		return nil, s.fail("a member's name is missing")
	}
	if s.members--; s.members < 0 {
		return nil, s.fail("too many members")
	}
	escaped, err := s.text()
	if err != nil {
		return nil, err
	}
	name := s.doc[start+1 : s.pos-1]
	if escaped {
		name = unescape(name)
	}
	if !seen.add(name) {
		return nil, &Error{start, "a member's name stands twice in one object"}
	}
	s.space()
	if s.peek() != ':' {
		return nil, s.fail("a colon is missing")
	}
	s.pos++
	s.space()
	return name, nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func (s *scanner) digits() bool {
	start := s.pos
	for isDigit(s.peek()) {
		s.pos++
	}
	return s.pos > start
}

// number reads a number that fits a float64: beyond it some parsers refuse,
// others read infinity.
func (s *scanner) number() error {
	start := s.pos
	if s.peek() == '-' {
		s.pos++
	}
	if s.peek() == '0' {
		s.pos++
	} else if !s.digits() {
		return s.fail("a bad number")
	}
	if s.peek() == '.' {
		s.pos++
		if !s.digits() {
			return s.fail("a bad number")
		}
	}
	exponent := s.peek() == 'e' || s.peek() == 'E'
	if exponent {
		s.pos++
		if s.peek() == '+' || s.peek() == '-' {
			s.pos++
		}
		if !s.digits() {
			return s.fail("a bad number")
		}
	}
	if isDigit(s.peek()) {
		return &Error{start, "a number begins with zero"}
	}
	if s.pos-start > MaxNumber {
		return &Error{start, "a number is too long"}
	}
	if exponent { // Without one, MaxNumber digits are far from infinity.
		if f, err := strconv.ParseFloat(string(s.doc[start:s.pos]), 64); err != nil || math.IsInf(f, 0) {
			return &Error{start, "a number is too large"}
		}
	}
	return nil
}

// nameSet are the names of one object so far. The few of most objects lie on a
// stack that all objects share and are compared one by one; more go into a map,
// so that many names cost no more each than few.
type nameSet struct {
	stack *[][]byte
	base  int
	many  map[string]struct{}
}

// fewNames is how many are compared one by one.
const fewNames = 16

// add tells whether the name is new.
func (n *nameSet) add(name []byte) bool {
	if n.many == nil {
		few := (*n.stack)[n.base:]
		for _, known := range few {
			if bytes.Equal(known, name) {
				return false
			}
		}
		if len(few) < fewNames {
			*n.stack = append(*n.stack, name)
			return true
		}
		n.many = make(map[string]struct{}, fewNames+1)
		for _, known := range few {
			n.many[string(known)] = struct{}{}
		}
	}
	if _, known := n.many[string(name)]; known {
		return false
	}
	n.many[string(name)] = struct{}{}
	return true
}

func (n *nameSet) release() { *n.stack = (*n.stack)[:n.base] }
