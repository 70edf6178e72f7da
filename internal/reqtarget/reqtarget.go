// Package reqtarget decides whether a request-target means one thing only. A
// router that cleans paths, a proxy that decodes them and an upstream that does
// both can each read another path out of an ambiguous one; whoever decides by
// the path must refuse what they could differ on, before any of them sees it.
package reqtarget

import (
	"errors"
	"strings"
)

// MaxBytes bounds a request-target.
const MaxBytes = 8 << 10

// ErrNotCanonical is fit to be shown to the client.
var ErrNotCanonical = errors.New("the request target is not in canonical form")

// Split returns path and raw query of a request-target in canonical origin-form
// (RFC 9112, section 3.2.1): an absolute path without escapes, empty or dot
// segments, parameters (";") or backslashes. No path of ours needs an escape, so
// none is allowed: the path is then its own decoded form. Errors are
// [ErrNotCanonical].
func Split(requestURI string) (path, query string, err error) {
	if len(requestURI) > MaxBytes {
		return "", "", ErrNotCanonical
	}
	path, query, _ = strings.Cut(requestURI, "?")
	if !strings.HasPrefix(path, "/") {
		return "", "", ErrNotCanonical // Absolute, authority and asterisk form.
	}
	for i := range len(path) {
		if !pathByte(path[i]) {
			return "", "", ErrNotCanonical
		}
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		if segment == "." || segment == ".." || segment == "" && len(path) > 1 {
			return "", "", ErrNotCanonical
		}
	}
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c > '~' || c == '#' || c == '\\' || c == ';' {
			return "", "", ErrNotCanonical
		}
	}
	return path, query, nil
}

// pathByte tells whether c is a pchar of RFC 3986 other than ";" and "%".
func pathByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("/-._~!$&'()*+,=:@", c) >= 0
}
