package verifier

import (
	"net/http"
	"strings"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
)

// credentialHeaders are where clients of the API families put what they take
// for an API key. Nowhere else is looked: not in the query, nor in a cookie.
var credentialHeaders = [...]string{"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Sec-Websocket-Protocol"}

// presented are the values of a header that claim to be a token.
func presented(h http.Header, name string) []string {
	if name != "Sec-Websocket-Protocol" {
		return h[name]
	}
	var list []string
	for _, p := range offered(h) {
		if token, ok := strings.CutPrefix(p, tokenSubprotocol); ok {
			list = append(list, token)
		}
	}
	return list
}

// credential returns the one token that the headers present. It may stand there
// more than once; two different ones are refused, not resolved, because the
// upstream, the log and we might each pick another.
func credential(h http.Header) (string, error) {
	found := ""
	for _, name := range credentialHeaders {
		for _, value := range presented(h, name) {
			if name == "Authorization" {
				scheme, rest, _ := strings.Cut(value, " ")
				if !strings.EqualFold(scheme, "Bearer") {
					return "", refusal.ErrScheme
				}
				value = rest
			}
			switch {
			case value == "":
				return "", token.ErrMalformed
			case found != "" && found != value:
				return "", refusal.ErrAmbiguous
			}
			found = value
		}
	}
	switch {
	case found == "":
		return "", token.ErrMissing
	case len(found) > token.MaxBytes:
		return "", token.ErrTooLong
	case !isCompact(found):
		return "", token.ErrMalformed
	}
	return found, nil
}

// isCompact tells whether s is three parts of base64url without padding
// (RFC 7515, section 3.1): all that a decoder further on has to look at.
func isCompact(s string) bool {
	dots, part := 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			part++
		case c == '.' && part > 0:
			dots, part = dots+1, 0
		default:
			return false
		}
	}
	return dots == 2 && part > 0
}

// isCredential tells whether a header of that name could pass for one of
// credentialHeaders. CGI-like servers read "_" as "-".
func isCredential(name string) bool {
	name = strings.ReplaceAll(name, "_", "-")
	for _, c := range credentialHeaders {
		if strings.EqualFold(name, c) {
			return true
		}
	}
	return false
}
