package meter

import (
	"bytes"
	"strconv"
)

// Bounds of what is read.
const (
	maxDepth  = 64      // Objects and arrays within one another.
	maxKey    = 48      // Bytes of a name; longer ones are of no matter.
	maxDigits = 32      // Bytes of a number.
	maxNumber = 1 << 53 // What all servers can mean.
)

// state is where a scanner is.
type state byte

const (
	wantValue state = iota
	wantName        // Or the end of the object.
	inName
	inNameEscape
	wantColon
	wantComma // Or the end of what it is in.
	inText
	inTextEscape
	inNumber
	inWord  // true, false, null.
	isOver  // Behind the value.
	isWrong // It is no JSON, or deeper than we read.
)

// scanner reads a JSON text that comes in pieces, and notes what stands at places
// that matter. It does not check what it need not: the answer passes as it is.
type scanner struct {
	root    *node
	event   *event
	element func() // Called behind each element of an array that is the whole text.

	state state
	depth int
	stack [maxDepth]frame
	at    *node // The place of the value that is being read; nil: it does not matter.
	key   [maxKey]byte
	keyed int // Bytes of the name, more than fit if it is too long.
	word  [maxDigits]byte
	said  int
	text  int64 // Bytes of the string.
}

// frame is an object or array that is open.
type frame struct {
	at    *node
	array bool
	count int
}

func (s *scanner) reset() { s.state, s.depth, s.at = wantValue, 0, s.root }

// end reads what only its end tells: a number has none of its own.
func (s *scanner) end() {
	if s.state == inNumber || s.state == inWord {
		s.scalar()
	}
}

func (s *scanner) feed(p []byte) {
	for i := 0; i < len(p); i++ {
		switch c := p[i]; s.state {
		case inText:
			// The most of any answer.
			n := bytes.IndexByte(p[i:], '"')
			if n < 0 {
				n = len(p) - i
			}
			if e := bytes.IndexByte(p[i:i+n], '\\'); e >= 0 {
				s.text += int64(e) + 1
				s.state = inTextEscape
				i += e
				continue
			}
			s.text += int64(n)
			if i += n; i < len(p) {
				if s.at != nil && s.at.slot == slotText {
					s.event.wrote(s.text)
				}
				s.ended()
			}
		case inTextEscape:
			s.state = inText
			if c == 'u' {
				s.text -= 2 // Four digits follow, of one to three bytes.
			}
		case inName:
			switch c {
			case '"':
				s.state = wantColon
			case '\\':
				s.keyed, s.state = maxKey+1, inNameEscape // Nobody writes the names that matter so.
			default:
				if s.keyed < maxKey {
					s.key[s.keyed] = c
				}
				if s.keyed <= maxKey {
					s.keyed++
				}
			}
		case inNameEscape:
			s.state = inName
		case inNumber, inWord:
			switch c {
			case ',', ']', '}', ' ', '\t', '\n', '\r':
				s.scalar()
				i-- // It is the next state's.
			default:
				if s.said < maxDigits {
					s.word[s.said] = c
				}
				if s.said <= maxDigits {
					s.said++
				}
			}
		case isWrong:
			return
		default:
			if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
				s.structure(c)
			}
		}
	}
}

// structure reads a byte between names and values.
func (s *scanner) structure(c byte) {
	switch s.state {
	case wantValue:
		s.begin(c)
	case wantName:
		switch c {
		case '"':
			s.keyed, s.state = 0, inName
		case '}':
			s.close()
		default:
			s.state = isWrong
		}
	case wantColon:
		if s.state = wantValue; c != ':' {
			s.state = isWrong
		}
		s.at = nil
		if f := &s.stack[s.depth-1]; f.at != nil && s.keyed <= maxKey {
			s.at = f.at.next[string(s.key[:s.keyed])]
		}
	case wantComma:
		f := &s.stack[s.depth-1]
		switch {
		case c == ',' && f.array:
			s.state, s.at = wantValue, f.at
		case c == ',':
			s.state = wantName
		case c == ']' && f.array, c == '}' && !f.array:
			s.close()
		default:
			s.state = isWrong
		}
	default:
		s.state = isWrong
	}
}

// begin reads the first byte of a value.
func (s *scanner) begin(c byte) {
	if s.depth > 0 {
		if f := &s.stack[s.depth-1]; f.array {
			if c == ']' && f.count == 0 {
				s.close()
				return
			}
			if f.count++; f.at != nil && f.at.slot == slotChoices {
				s.event.elements++
			}
		}
	}
	if s.at != nil && s.at.slot == slotFailed && c != 'n' {
		s.event.failed = true
	}
	switch {
	case c == '"':
		s.text, s.state = 0, inText
	case c == '{', c == '[':
		if s.depth == maxDepth {
			s.state = isWrong
			return
		}
		if c == '[' && s.at != nil && s.at.slot == slotChoices {
			s.event.choices = true
		}
		s.stack[s.depth] = frame{at: s.at, array: c == '['}
		s.depth++
		if s.state = wantName; c == '[' {
			s.state = wantValue
		}
	case '0' <= c && c <= '9', c == '-':
		s.word[0], s.said, s.state = c, 1, inNumber
	case c == 't', c == 'f', c == 'n':
		s.word[0], s.said, s.state = c, 1, inWord
	default:
		s.state = isWrong
	}
}

// close ends an object or array.
func (s *scanner) close() {
	s.depth--
	f := &s.stack[s.depth]
	if f.array && f.at != nil && f.at.slot == slotPrefill {
		s.note(slotInput, int64(f.count))
	}
	s.ended()
}

// ended goes on behind a value.
func (s *scanner) ended() {
	s.state = wantComma
	switch {
	case s.depth == 0:
		s.state = isOver
	case s.depth == 1 && s.stack[0].array:
		s.element()
	}
}

// count is how many elements have begun, of an array that is the whole text.
func (s *scanner) count() int {
	if s.depth == 0 || !s.stack[0].array {
		return 0
	}
	return s.stack[0].count
}

// scalar ends a number or a word.
func (s *scanner) scalar() {
	if s.at != nil && s.said <= maxDigits {
		word := string(s.word[:s.said])
		switch is := s.at.slot; {
		case is == slotDone && word == "true":
			for _, n := range [...]slot{slotInput, slotOutput} {
				if !s.event.report.has[n] {
					s.note(n, 0)
				}
			}
		case s.state == inNumber && is == slotIndex:
			s.event.index, _ = strconv.ParseInt(word, 10, 64)
		case s.state == inNumber && slotNone < is && is < slots:
			if n, err := strconv.ParseFloat(word, 64); err == nil && 0 <= n && n <= maxNumber {
				s.note(is, int64(n))
			}
		}
	}
	s.ended()
}

func (s *scanner) note(at slot, n int64) { s.event.report.has[at], s.event.report.n[at] = true, n }
