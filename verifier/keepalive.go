package verifier

import (
	"bytes"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// keeper sends comments to a client that waits for the first event of a stream.
// A nil keeper sends none.
type keeper struct {
	mu    sync.Mutex
	timer *time.Timer
	every time.Duration
	w     *answer
	over  bool
	begun bool // The answer has begun, with status 200.
}

// keepAlive starts a keeper where the client asked for a stream of events.
func (v *Verifier) keepAlive(w *answer, c *call) *keeper {
	every := v.c.Streams.KeepAlive
	if asked, _ := c.doc.Flag("stream"); every == 0 || !asked || c.route.Stream != route.OnRequest {
		return nil
	}
	k := &keeper{every: every, w: w}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.timer = time.AfterFunc(every, k.beat)
	return k
}

// comment is no event to whoever reads the stream (HTML, section 9.2.6).
const comment = ": keep-alive\n\n"

// beat is the one writer while the call waits for its upstream.
func (k *keeper) beat() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over {
		return
	}
	client := http.NewResponseController(k.w.ResponseWriter)
	if !k.begun {
		k.begun = true
		h := k.w.Header()
		h.Set("Content-Type", mediaEvents)
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set(requestID, k.w.decision)
		k.w.status = http.StatusOK
		k.w.ResponseWriter.WriteHeader(http.StatusOK)
	}
	// Bounded, as nobody else looks after this write.
	_ = client.SetWriteDeadline(time.Now().Add(k.every)) //nolint:forbidigo // Deadlines are of the machine's clock.
	n, err := io.WriteString(k.w.ResponseWriter, comment)
	k.w.bytes += int64(n)
	if err == nil {
		err = client.Flush()
	}
	_ = client.SetWriteDeadline(time.Time{})
	if err == nil {
		k.timer.Reset(k.every)
	} // Otherwise the client is gone, which net/http tells the call.
}

// stop ends the comments, and tells whether the answer has begun.
func (k *keeper) stop() (begun bool) {
	if k == nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = true
	k.timer.Stop()
	return k.begun
}

// maxErrorBody bounds an upstream's error that is told in an event.
const maxErrorBody = 64 << 10

// asEvent makes an upstream's error an event, for a client that has status 200
// already. What is no JSON is not told.
func asEvent(f *route.Family, res *http.Response) error {
	doc, err := io.ReadAll(io.LimitReader(res.Body, maxErrorBody))
	if err != nil {
		return err
	}
	if _, err := strictjson.Object(doc, strictjson.Limits{}); err != nil {
		return err
	}
	// Line ends within JSON are white space, and would end the event.
	doc = bytes.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, doc)
	body := res.Body
	res.Body = struct {
		io.Reader
		io.Closer
	}{bytes.NewReader(f.Event(doc)), body}
	return nil
}
