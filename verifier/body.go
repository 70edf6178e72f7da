package verifier

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/internal/token"
)

// A rule is what a member of a body must be. Words complete the sentence: the
// member "x" …
type rule struct {
	ok    func(strictjson.Value) bool
	words string
}

// members are the rules for the names of a body's object; other names may hold
// anything.
type members struct {
	rules map[string]rule
	like  map[string]bool // The skeletons of the names.
}

func newMembers(tables ...map[string]rule) *members {
	m := &members{rules: map[string]rule{}, like: map[string]bool{}}
	for _, table := range tables {
		for name, r := range table {
			m.rules[name] = r
			m.like[string(skeleton(nil, name))] = true
		}
	}
	return m
}

// readBody takes the body of a call, whole, before anything is decided by it, and
// writes it anew into c.
func (v *Verifier) readBody(w *answer, r *http.Request, c *call) error {
	if !isJSON(r.Header["Content-Type"]) {
		return errContentType
	}
	for _, coding := range r.Header["Content-Encoding"] {
		// Servers differ on whether they decode; what we could not read may be
		// another body to them.
		if !strings.EqualFold(coding, "identity") {
			return errContentEncoding
		}
	}
	doc, err := v.receive(w, r)
	if err != nil {
		return err
	}
	c.unread = nil
	found, err := strictjson.Object(doc, strictjson.Limits{})
	if err != nil {
		return &denial{is: errBody, detail: err.Error(), cause: err}
	}
	c.model, c.body, err = c.route.members.rewrite(found, len(doc))
	if token.ValidModel(c.model) {
		c.record.Model = c.model
	}
	return err
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
	if err != nil || media != "application/json" || len(params) > 1 {
		return false
	}
	return len(params) == 0 || strings.EqualFold(params["charset"], "utf-8")
}

// maxGuess bounds the memory that a body's announced length can ask for before
// its bytes are there.
const maxGuess = 64 << 10

// receive reads the body to its end. Only then does net/http notice a client
// that goes, and no answer races with a request that is still being read, which
// costs other Go proxies some of their streams.
func (v *Verifier) receive(w *answer, r *http.Request) ([]byte, error) {
	if r.ContentLength > v.c.MaxBody {
		return nil, errTooLarge
	}
	size := min(max(r.ContentLength, 0), maxGuess) + bytes.MinRead
	doc := bytes.NewBuffer(make([]byte, 0, size))
	inTime := v.limitReading(w)
	_, err := doc.ReadFrom(http.MaxBytesReader(w.ResponseWriter, r.Body, v.c.MaxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case !inTime():
		return nil, errBodySlow
	case errors.As(err, &tooLarge):
		return nil, errTooLarge
	case err != nil:
		return nil, &denial{is: errBodyRead, cause: err}
	}
	return doc.Bytes(), nil
}

// past is a moment that has passed whatever the clock says: with it as a
// deadline, what is under way ends.
var past = time.Unix(1, 0)

// limitReading gives what is read of the client from now on BodyTimeout to
// arrive. Call done after it.
func (v *Verifier) limitReading(w *answer) (done func() (inTime bool)) {
	cut := make(chan struct{})
	late := time.AfterFunc(v.c.BodyTimeout, func() {
		_ = http.NewResponseController(w.ResponseWriter).SetReadDeadline(past)
		close(cut)
	})
	return func() bool {
		if late.Stop() {
			return true
		}
		<-cut // The writer must not be used once we have returned.
		return false
	}
}

// maxDrain is how much of an unread body is read only to use the connection
// again, as net/http does.
const maxDrain = 256 << 10

// drained takes what is left of a refused request off its connection and tells
// whether that could be done. Left to net/http, it would have no end: anybody
// could hold connections with bodies that don't arrive.
func (v *Verifier) drained(w *answer, r *http.Request) bool {
	if r == nil || r.ProtoMajor != 1 || r.ContentLength == 0 || r.Body == nil {
		return true
	}
	ok := false
	// Reading would ask a client that waits for a 100 to send its body.
	if r.Header["Expect"] == nil && r.ContentLength <= maxDrain {
		inTime := v.limitReading(w)
		_, err := io.CopyN(io.Discard, r.Body, maxDrain+1)
		ok = inTime() && errors.Is(err, io.EOF)
	}
	if !ok {
		_ = http.NewResponseController(w.ResponseWriter).SetReadDeadline(past)
	}
	return ok
}

// rewrite holds the object to the rules and writes it anew: the same members in
// the same order, names and model in their plainest form, values that we do not
// judge byte for byte. What the upstream parses is what was judged.
func (m *members) rewrite(object []strictjson.Member, size int) (model string, body []byte, err error) {
	body = append(make([]byte, 0, size+64), '{')
	for i, member := range object {
		rule, known := m.rules[member.Name]
		switch {
		case known && !rule.ok(member.Value):
			return model, nil, &denial{is: errMember, detail: fmt.Sprintf("%q %s", member.Name, rule.words)}
		case !known && m.confusable(member.Name):
			return model, nil, errMemberName
		}
		if i > 0 {
			body = append(body, ',')
		}
		body = append(strictjson.AppendText(body, member.Name), ':')
		if member.Name == "model" {
			model, _ = member.Text()
			body = strictjson.AppendText(body, model)
			continue
		}
		body = append(body, member.Raw...)
	}
	switch {
	case model == "":
		return "", nil, errNoModel
	case !token.ValidModel(model):
		return model, nil, errModelName
	}
	return model, append(body, '}'), nil
}

// confusable tells whether some parser could take name for a name that has a
// rule, although they are not the same. Go's encoding/json folds case, by
// Unicode: to it "max_toKens" with a Kelvin sign is max_tokens. Others trim.
func (m *members) confusable(name string) bool {
	var room [64]byte
	return m.like[string(skeleton(room[:0], name))]
}

// maxSkeleton is longer than any name that has a rule.
const maxSkeleton = 40

// skeleton appends what is left of name when case, spaces, fullwidth forms and
// characters that can't be seen are set aside. Of long names it appends only the
// beginning.
func skeleton(dst []byte, name string) []byte {
	for _, r := range name {
		if len(dst) > maxSkeleton {
			break
		}
		switch {
		case r > ' ' && r < unicode.MaxASCII:
		case unicode.In(r, unicode.C, unicode.Z, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector), r == '\u2800':
			continue
		case 0xFF01 <= r && r <= 0xFF5E:
			r -= 0xFEE0
		}
		dst = utf8.AppendRune(dst, foldRune(r))
	}
	return dst
}

// foldRune returns the least of the runes that are r but for case, as
// [strings.EqualFold] sees it.
func foldRune(r rune) rune {
	if 'a' <= r && r <= 'z' {
		return r - 'a' + 'A' // The least there is, and much the commonest.
	}
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return least
}
