package body

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hourpass/hourpass/verifier/internal/refusal"
)

// Bounds of the headers of parts.
const (
	MaxHeader   = 1024 // Bytes of one line.
	MaxName     = 64   // Bytes of a field's name.
	MaxFilename = 255  // Bytes of a file's name.
)

// parser walks multipart/form-data (RFC 2046, section 5.1, and RFC 7578). It is
// stricter than mime/multipart, which takes bare line feeds, preambles, epilogues
// and blanks behind boundaries, and undoes transfer encodings.
type parser struct {
	in        *bufio.Reader
	delimiter []byte // Without the line's end before it.
}

func newParser(in io.Reader, boundary string) *parser {
	return &parser{in: bufio.NewReaderSize(in, 32<<10), delimiter: []byte("--" + boundary)}
}

func notForm(detail string) error { return &refusal.Denial{Is: refusal.ErrForm, Detail: detail} }

// ended is the error of a body that ends, or breaks, where it should not.
func ended(err error) error {
	if err == io.EOF { //nolint:errorlint // A reader's end is io.EOF itself.
		return notForm("it is cut off")
	}
	return err
}

// first reads the first boundary; nothing stands before it.
func (p *parser) first() error {
	line, err := p.line()
	if err == nil && !bytes.Equal(line, p.delimiter) {
		err = notForm("it does not begin with its boundary")
	}
	return err
}

// more tells whether another part follows the one just read; if not, nothing
// follows at all.
func (p *parser) more() (bool, error) {
	line, err := p.in.Peek(2)
	switch {
	case err != nil:
		return false, ended(err)
	case string(line) == "\r\n":
		_, _ = p.in.Discard(2)
		return true, nil
	case string(line) != "--":
		return false, notForm("its boundary stands within a part")
	}
	_, _ = p.in.Discard(2)
	rest, err := p.in.Peek(3)
	if err == io.EOF && (len(rest) == 0 || string(rest) == "\r\n") { //nolint:errorlint // A reader's end is io.EOF itself.
		return false, nil
	}
	if err == nil || err == io.EOF { //nolint:errorlint // A reader's end is io.EOF itself.
		err = notForm("something follows its end")
	}
	return false, err
}

// line reads one line of a header, without its end.
func (p *parser) line() ([]byte, error) {
	line, err := p.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull), err == nil && len(line) > MaxHeader:
		return nil, notForm("a line of a header is too long")
	case err != nil:
		return nil, ended(err)
	}
	line, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || !utf8.Valid(line) || bytes.ContainsFunc(line, func(c rune) bool { return c < ' ' || c == 0x7F }) {
		return nil, notForm("a line of a header is not plain")
	}
	return line, nil
}

// part reads a header and what belongs to it: of a field to memory, at most
// left bytes; of a file to the spool.
func (p *parser) part(files *spool, left int) (one part, err error) {
	header := map[string]string{}
	for {
		line, err := p.line()
		if err != nil {
			return part{}, err
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := strings.Cut(string(line), ":")
		name = strings.ToLower(name)
		if _, again := header[name]; again || !ok {
			return part{}, notForm("a part has a bad header")
		}
		header[name] = strings.Trim(value, " ")
	}
	if one.disposition, err = parseDisposition(header["content-disposition"]); err != nil {
		return part{}, err
	}
	if one.media, err = checkHeader(header, one.isFile); err != nil {
		return part{}, err
	}
	one.at = files.size
	if one.isFile {
		one.size, err = p.content(func(b []byte) error {
			_, err := files.Write(b)
			return err
		})
	} else {
		one.size, err = p.content(func(b []byte) error {
			if len(one.text)+len(b) > left {
				return notForm("its fields are too large")
			}
			one.text = append(one.text, b...)
			return nil
		})
		if err == nil && !utf8.Valid(one.text) {
			err = notForm("a field is not UTF-8")
		}
	}
	if length, given := header["content-length"]; given && err == nil && length != strconv.FormatInt(one.size, 10) {
		err = notForm("a part is not as long as it says")
	}
	return one, err
}

// checkHeader returns the media type of a file, without parameters. Whatever
// could make a server read a part in another way than we do is refused.
func checkHeader(header map[string]string, isFile bool) (media string, err error) {
	for name, value := range header {
		switch name {
		case "content-disposition", "content-length":
		case "content-type":
			var params map[string]string
			if media, params, err = mime.ParseMediaType(value); err != nil || !plainMedia(media) || strings.Contains(value, "*") {
				return "", notForm("a part has a bad media type")
			}
			if !isFile && (media != "text/plain" || !isUTF8(params)) {
				return "", notForm("a field is not plain text in UTF-8")
			}
		case "content-transfer-encoding":
			// These three change nothing; base64 some servers undo (RFC 7578, section 4.7).
			if value = strings.ToLower(value); value != "binary" && value != "8bit" && value != "7bit" {
				return "", notForm("a part is encoded for transfer")
			}
		default:
			return "", notForm("a part has a header of no meaning")
		}
	}
	if media == "" {
		media = "application/octet-stream"
	}
	return media, nil
}

// plainMedia tells whether a file of that type holds no parts of its own.
func plainMedia(media string) bool {
	top, sub, ok := strings.Cut(media, "/")
	return ok && sub != "" && top != "multipart" && top != "message"
}

// content reads up to the next boundary, and past it. The boundary must stand at
// the beginning of a line and nowhere else: of a longer one that begins alike, or
// one after a bare line feed, parsers think differently.
func (p *parser) content(emit func([]byte) error) (size int64, err error) {
	const end = "\r\n"
	for {
		window, err := p.in.Peek(p.in.Size())
		n := len(window) - len(p.delimiter) - len(end) + 1
		at := bytes.Index(window, p.delimiter)
		if at >= 0 {
			if at < len(end) || string(window[at-len(end):at]) != end {
				return size, notForm("its boundary stands within a part")
			}
			n = at - len(end)
		} else if err != nil {
			return size, ended(err)
		}
		if err := emit(window[:n]); err != nil {
			return size, err
		}
		size += int64(n)
		if at >= 0 {
			_, _ = p.in.Discard(at + len(p.delimiter))
			return size, nil
		}
		_, _ = p.in.Discard(n)
	}
}

// A disposition is what Content-Disposition says of a part.
type disposition struct {
	name     string
	filename string
	isFile   bool
}

// parseDisposition reads the header by a grammar that leaves nothing open: no
// escapes, which some undo and some don't, and no name*, which outranks name to
// some.
func parseDisposition(value string) (d disposition, err error) {
	kind, rest, more := strings.Cut(value, ";")
	if !strings.EqualFold(strings.TrimRight(kind, " "), "form-data") {
		return d, notForm("a part is not form-data")
	}
	named := false
	for more {
		var key, value string
		var ok bool
		if key, value, rest, more, ok = cutParam(rest); !ok {
			return d, notForm("a part has a bad disposition")
		}
		switch key = strings.ToLower(key); {
		case key == "name" && !named:
			d.name, named = value, true
		case key == "filename" && !d.isFile:
			d.filename, d.isFile = value, true
		default:
			return d, notForm("a part has a bad disposition")
		}
	}
	if !isFieldName(d.name) {
		return d, notForm("a part's name is not one of letters, digits and . _ - [ ]")
	}
	if d.isFile && !isFilename(d.filename) {
		return d, notForm("a file's name is none, or has quotes or separators")
	}
	return d, nil
}

// cutParam cuts one parameter off a list.
func cutParam(s string) (key, value, rest string, more, ok bool) {
	key, s, ok = strings.Cut(strings.TrimLeft(s, " "), "=")
	if !ok {
		return "", "", "", false, false
	}
	if quoted, isQuoted := strings.CutPrefix(s, `"`); isQuoted {
		value, s, ok = strings.Cut(quoted, `"`)
		if s = strings.TrimLeft(s, " "); s != "" && s[0] != ';' {
			return "", "", "", false, false
		}
		_, rest, more = strings.Cut(s, ";")
		return key, value, rest, more, ok && !strings.Contains(value, `\`)
	}
	value, rest, more = strings.Cut(s, ";")
	value = strings.TrimRight(value, " ")
	return key, value, rest, more, !strings.ContainsAny(value, " \"\\,=()<>@:/?")
}

func isFieldName(s string) bool {
	return s != "" && len(s) <= MaxName && strings.IndexFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-[]", c)
	}) < 0
}

// isFilename tells whether s is a name and not a path. An empty one makes a field
// of the part to some servers and a file to others.
func isFilename(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= MaxFilename && !strings.ContainsAny(s, `"/\`)
}
