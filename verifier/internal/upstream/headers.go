package upstream

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/hourpass/hourpass/verifier/internal/assertion"
)

// Claims are who calls, and what for.
type Claims = assertion.Claims

// header is one of [Config.Headers].
type header struct {
	name  string
	parts []part
}

// part of a header's value is a text, or what a claim says.
type part struct {
	text  string
	claim func(*Claims) string
}

// placeholders are all that there are.
var placeholders = map[string]func(*Claims) string{
	"{sub}":       func(c *Claims) string { return c.Subject },
	"{client_id}": func(c *Claims) string { return c.ClientID },
	"{team}":      func(c *Claims) string { return c.Team },
	"{tier}":      func(c *Claims) string { return c.Tier },
	"{grant}":     func(c *Claims) string { return c.Grant },
	"{jti}":       func(c *Claims) string { return c.Token },
	"{decision}":  func(c *Claims) string { return c.Decision },
}

func placeholderNames() string {
	return strings.Join(slices.Sorted(maps.Keys(placeholders)), ", ")
}

var errTemplate = errors.New("the value is none that a header can have")

func parseTemplate(s string) (parts []part, err error) {
	if s == "" || !isPrintable(s) || strings.TrimSpace(s) != s {
		return nil, errTemplate
	}
	for s != "" {
		text, rest, found := strings.Cut(s, "{")
		if text != "" {
			parts = append(parts, part{text: text})
		}
		if !found {
			rest = ""
		} else {
			name, after, closed := strings.Cut(rest, "}")
			claim := placeholders["{"+name+"}"]
			if claim == nil || !closed {
				return nil, errTemplate
			}
			parts, rest = append(parts, part{claim: claim}), after
		}
		if strings.Contains(text, "}") {
			return nil, errTemplate
		}
		s = rest
	}
	return parts, nil
}

// Decorate puts into the header of a request for the server what the server is to
// know of the caller. What stood there by those names goes.
func (s *Server) Decorate(h http.Header, c Claims) error {
	for _, one := range s.headers {
		delete(h, one.name)
		if value, ok := one.value(&c); ok {
			h[one.name] = []string{value}
		}
	}
	if s.Assertions == nil {
		return nil
	}
	signed, err := s.Assertions.Sign(s.AssertionAudience, c, s.Now())
	if err != nil {
		return err
	}
	h[s.AssertionHeader] = []string{signed}
	return nil
}

func (h *header) value(c *Claims) (string, bool) {
	var b []byte
	for _, p := range h.parts {
		if p.claim == nil {
			b = append(b, p.text...)
			continue
		}
		claim := p.claim(c)
		if claim == "" { // "team-" would be some other team's.
			return "", false
		}
		b = appendEncoded(b, claim)
	}
	return string(b), true
}

// appendEncoded appends s with every byte as %XX that is not known to stand for
// nothing but itself to any reader of headers: no reader of lists, parameters or
// quotes sees more than one word, and what decodes URLs or forms gives back s.
func appendEncoded(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~:/@", c) >= 0 {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return b
}
