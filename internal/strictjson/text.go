package strictjson

import (
	"encoding/binary"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// The characters that have an escape of two bytes, and what stands for each
// behind the backslash. The slash needs none, so it is never written.
const (
	short        = "\"\\/\b\f\n\r\t"
	shortLetters = `"\/bfnrt`
)

// plain marks the bytes that stand for themselves in a string.
var plain = func() (t [256]bool) {
	for c := ' '; c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// text reads a string and tells whether it holds escapes.
func (s *scanner) text() (escaped bool, err error) {
	s.pos++
	for {
		s.skipPlain()
		if s.pos == len(s.doc) {
			return false, s.fail("the document is cut off")
		}
		switch c := s.doc[s.pos]; {
		case c == '"':
			s.pos++
			return escaped, nil
		case c == '\\':
			escaped = true
			if err := s.escape(); err != nil {
				return false, err
			}
		case c < ' ':
			return false, s.fail("a control character stands in a string")
		default:
			r, size := utf8.DecodeRune(s.doc[s.pos:])
			if r == utf8.RuneError && size <= 1 {
				return false, s.fail("not UTF-8")
			}
			s.pos += size
		}
	}
}

// skipPlain passes over bytes that stand for themselves, eight at a time while it
// can: prompts are most of what is read.
func (s *scanner) skipPlain() {
	const (
		ones = 0x0101010101010101
		high = 0x80 * ones
	)
	pos := s.pos
	for ; len(s.doc)-pos >= 8; pos += 8 {
		w := binary.LittleEndian.Uint64(s.doc[pos:])
		// A high bit is set by a byte that has it, or from which one borrowed it:
		// a control character, a quote, a backslash. Without such a byte none is.
		if (w|(w-' '*ones)|((w^'"'*ones)-ones)|((w^'\\'*ones)-ones))&high != 0 {
			break
		}
	}
	for pos < len(s.doc) && plain[s.doc[pos]] {
		pos++
	}
	s.pos = pos
}

// escape reads one escape; of a surrogate, both halves.
func (s *scanner) escape() error {
	rest := s.doc[s.pos+1:]
	if len(rest) == 0 || rest[0] != 'u' {
		if len(rest) == 0 || strings.IndexByte(shortLetters, rest[0]) < 0 {
			return s.fail("a bad escape stands in a string")
		}
		s.pos += len(`\n`)
		return nil
	}
	r, ok := hex4(rest[1:])
	if !ok {
		return s.fail("a bad escape stands in a string")
	}
	if !utf16.IsSurrogate(r) {
		s.pos += len(`\u0000`)
		return nil
	}
	// Half of a pair is no character: some parsers put U+FFFD in its place, some
	// keep it, some drop it.
	rest = rest[len(`u0000`):]
	if len(rest) < 2 || rest[0] != '\\' || rest[1] != 'u' {
		return s.fail("half of a surrogate pair stands in a string")
	}
	low, ok := hex4(rest[2:])
	if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
		return s.fail("half of a surrogate pair stands in a string")
	}
	s.pos += len(`\ud800\udc00`)
	return nil
}

// hex4 reads the four digits of an escape.
func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case isDigit(c):
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
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
		if raw[i] != 'u' {
			text = append(text, short[strings.IndexByte(shortLetters, raw[i])])
			continue
		}
		r, _ := hex4(raw[i+1:])
		i += 4
		if utf16.IsSurrogate(r) {
			low, _ := hex4(raw[i+3:])
			r = utf16.DecodeRune(r, low)
			i += 6
		}
		text = utf8.AppendRune(text, r)
	}
	return text
}

// AppendText appends s as a JSON string that every parser reads alike: what must
// be escaped is, in the shortest way, and nothing else (RFC 8785, section
// 3.2.2.2). Bytes of s that are not UTF-8 become U+FFFD.
func AppendText(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			dst = append(dst, c)
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += size
			continue
		}
		if at := strings.IndexByte(short, c); at >= 0 {
			dst = append(dst, '\\', shortLetters[at])
		} else {
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
	}
	return append(dst, '"')
}
