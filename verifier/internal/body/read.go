package body

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// Limits are the bounds of bodies, in bytes, both as they arrive and decoded.
type Limits struct {
	Body  int64 // Of most routes: what is held in memory.
	Large int64 // Of forms on routes that take files.
}

// Of is the bound for the bodies of a route.
func (l Limits) Of(r *route.Route) int64 {
	if r.LargeBody && r.TakesForm() {
		return max(l.Body, l.Large)
	}
	return l.Body
}

// A Source is the body of a request on its way in.
type Source struct {
	Body   io.Reader   // Ends with an error after Max bytes.
	Header http.Header // Of the request.
	Length int64       // As announced; below zero: unknown.
	Max    int64       // Bytes, before and after decoding.
	Disk   *Disk       // For the files of forms that do not stay in memory.

	n   int64 // Bytes that have arrived.
	err error // How it ended.
}

// Ended tells whether the body was read to its end.
func (s *Source) Ended() bool { return s.err == io.EOF } //nolint:errorlint // A reader's end is io.EOF itself.

// Failed is why the body could not be read to its end, if that was tried in vain.
func (s *Source) Failed() error {
	if s.Ended() {
		return nil
	}
	return s.err
}

// arriving counts what is read of a source.
type arriving struct{ *Source }

func (a arriving) Read(p []byte) (int, error) {
	n, err := a.Body.Read(p)
	a.n += int64(n)
	if err != nil {
		a.err = err
	}
	return n, err
}

// Read reads a body to its end and holds it to the rules of its route. Even with
// an error, the model is the one that it names, if that could be seen. Where the
// source has failed, that is what counts, whether there is an error or not. Close
// the Doc after use.
func Read(s *Source, r *route.Route) (d Doc, err error) {
	boundary := ""
	if r.TakesForm() {
		if boundary = formBoundary(s.Header["Content-Type"]); boundary == "" {
			return Doc{}, refusal.ErrFormType
		}
	} else if !isJSON(s.Header["Content-Type"]) {
		return Doc{}, refusal.ErrContentType
	}
	coding, err := codingOf(s.Header["Content-Encoding"])
	if err != nil {
		return Doc{}, err
	}
	if s.Length > s.Max {
		return Doc{}, refusal.ErrTooLarge
	}
	in := io.Reader(arriving{s})
	if coding != nil {
		decoder, err := coding.start(s)
		if err != nil {
			return Doc{}, err
		}
		defer coding.done(decoder)
		in = decoder
	}
	if boundary != "" {
		return parseForm(in, boundary, r.Members, s.Disk)
	}
	raw, err := s.whole(in)
	if err != nil {
		return Doc{}, err
	}
	return Parse(raw, r.Members)
}

// maxGuess bounds the memory that a body's announced length can ask for before
// its bytes are there.
const maxGuess = 64 << 10

func (s *Source) whole(in io.Reader) ([]byte, error) {
	size := min(max(s.Length, 0), maxGuess) + bytes.MinRead
	raw := bytes.NewBuffer(make([]byte, 0, size))
	_, err := raw.ReadFrom(in)
	return raw.Bytes(), err
}

// isJSON tells whether the content type is JSON in UTF-8 beyond doubt: servers
// that look at a charset would read other text than we do.
func isJSON(types []string) bool {
	if len(types) != 1 {
		return false
	}
	if types[0] == "application/json" {
		return true
	}
	media, params, err := mime.ParseMediaType(types[0])
	return err == nil && media == "application/json" && isUTF8(params)
}

// isUTF8 tells whether the parameters of a media type say nothing else.
func isUTF8(params map[string]string) bool {
	return len(params) == 0 || len(params) == 1 && strings.EqualFold(params["charset"], "utf-8")
}

// formBoundary returns the boundary of multipart/form-data in UTF-8, or nothing.
func formBoundary(types []string) string {
	// With a star, a parameter may come in pieces or encoded (RFC 2231).
	if len(types) != 1 || strings.ContainsAny(types[0], `*\`) {
		return ""
	}
	media, params, err := mime.ParseMediaType(types[0])
	boundary := params["boundary"]
	delete(params, "boundary")
	if err != nil || media != "multipart/form-data" || !isUTF8(params) || !isBoundary(boundary) {
		return ""
	}
	return boundary
}

// isBoundary tells whether s is a boundary as RFC 2046 (section 5.1.1) has it.
func isBoundary(s string) bool {
	return s != "" && len(s) <= 70 && s[len(s)-1] != ' ' && strings.IndexFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("'()+_,-./:=? ", c)
	}) < 0
}
