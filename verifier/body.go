package verifier

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/body"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// readBody takes the body of a call, whole, before anything is decided by it.
// Only then does net/http notice a client that goes, and no answer races with a
// request that is still being read, which costs other Go proxies some of their
// streams.
func (v *Verifier) readBody(w *answer, r *http.Request, c *call) error {
	limit := body.Limits{Body: v.c.MaxBody, Large: v.c.MaxForm}.Of(c.route.Route)
	in := body.Source{
		Body: http.MaxBytesReader(w.ResponseWriter, r.Body, limit), Max: limit,
		Header: r.Header, Length: r.ContentLength, Disk: &v.disk,
	}
	patience := v.c.BodyTimeout
	if limit > v.c.MaxBody {
		patience += time.Duration(limit/slowestForm) * time.Second
	}
	inTime := v.limitReading(w, patience)
	var err error
	c.doc, err = body.Read(&in, c.route.Route)
	if !inTime() {
		return refusal.ErrBodySlow
	}
	if in.Ended() {
		c.unread = nil
	}
	var tooLarge *http.MaxBytesError
	switch failed := in.Failed(); {
	case errors.As(failed, &tooLarge):
		return refusal.ErrTooLarge
	case failed != nil:
		return &refusal.Denial{Is: refusal.ErrBodyRead, Cause: failed}
	}
	// Elsewhere it is only held against the model that the call names, if that.
	if c.route.Carrier == route.InBody || c.route.Carrier == route.InForm {
		if c.named = c.doc.Model; token.ValidModel(c.named) {
			c.record.Model = c.named
		}
	}
	return err
}

// slowestForm is how many bytes of a form with files must come in a second.
const slowestForm = 1 << 20

// past is a moment that has passed whatever the clock says: with it as a
// deadline, what is under way ends.
var past = time.Unix(1, 0)

// limitReading gives what is read of the client from now on so long to arrive.
// Call done after it.
func (v *Verifier) limitReading(w *answer, patience time.Duration) (done func() (inTime bool)) {
	cut := make(chan struct{})
	late := time.AfterFunc(patience, func() {
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
		inTime := v.limitReading(w, v.c.BodyTimeout)
		_, err := io.CopyN(io.Discard, r.Body, maxDrain+1)
		ok = inTime() && errors.Is(err, io.EOF)
	}
	if !ok {
		_ = http.NewResponseController(w.ResponseWriter).SetReadDeadline(past)
	}
	return ok
}
