package verifier

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/body"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
)

// readBody takes the body of a call, whole, before anything is decided by it.
func (v *Verifier) readBody(w *answer, r *http.Request, c *call) error {
	if !isJSON(r.Header["Content-Type"]) {
		return refusal.ErrContentType
	}
	for _, coding := range r.Header["Content-Encoding"] {
		// Servers differ on whether they decode; what we could not read may be
		// another body to them.
		if !strings.EqualFold(coding, "identity") {
			return refusal.ErrContentEncoding
		}
	}
	doc, err := v.receive(w, r)
	if err != nil {
		return err
	}
	c.unread = nil
	c.doc, err = body.Parse(doc, c.route.Members)
	c.named = c.doc.Model
	if token.ValidModel(c.named) {
		c.record.Model = c.named
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
		return nil, refusal.ErrTooLarge
	}
	size := min(max(r.ContentLength, 0), maxGuess) + bytes.MinRead
	doc := bytes.NewBuffer(make([]byte, 0, size))
	inTime := v.limitReading(w)
	_, err := doc.ReadFrom(http.MaxBytesReader(w.ResponseWriter, r.Body, v.c.MaxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case !inTime():
		return nil, refusal.ErrBodySlow
	case errors.As(err, &tooLarge):
		return nil, refusal.ErrTooLarge
	case err != nil:
		return nil, &refusal.Denial{Is: refusal.ErrBodyRead, Cause: err}
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
