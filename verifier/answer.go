package verifier

import (
	"context"
	"mime"
	"net/http"
	"time"

	"github.com/hourpass/hourpass/verifier/internal/refusal"
)

// requestID is the header that names the decision, to client and upstream. The
// SDKs show it with their errors.
const requestID = "X-Request-Id"

// answer is the client's end of a call: it counts what is written, and does not
// wait for ever for a client that has stopped reading.
type answer struct {
	http.ResponseWriter
	status int   // 0 until there is one.
	bytes  int64 // Of the body.
	failed error // Of writing.
	last   bool  // The connection ends with it.

	decision string // Its id.

	// Of an upstream's answer only.
	watch *watch
	call  *call         // Of an answer that a handler in this process gives.
	idle  time.Duration // How long one write may take.
	eager bool          // Each write goes out at once, and the head before any.
}

// WriteHeader passes no informational status on: those of an upstream come with
// headers that no list has seen.
func (a *answer) WriteHeader(status int) {
	if status < http.StatusOK || a.status != 0 {
		return
	}
	a.status = status
	if a.call != nil {
		media, _, _ := mime.ParseMediaType(a.Header().Get("Content-Type"))
		a.call.startMeter(status, media, false)
	}
	if a.last {
		a.Header().Set("Connection", "close")
	}
	a.ResponseWriter.WriteHeader(status)
	if a.eager {
		_ = a.push(nil) // The next write says so too.
	}
}

func (a *answer) Write(p []byte) (n int, err error) {
	a.WriteHeader(http.StatusOK)
	if err := a.meter(p); err != nil {
		return 0, err
	}
	err = a.push(func() error {
		n, err = a.ResponseWriter.Write(p)
		return err
	})
	a.bytes += int64(n)
	return n, err
}

// meter counts what a handler in this process writes.
func (a *answer) meter(p []byte) error {
	if a.call == nil || a.call.spending.meter == nil {
		return nil
	}
	a.call.spending.meter.Feed(p)
	if err := a.call.overrun(); err != nil {
		a.failed = err
	}
	return a.failed
}

// push writes, flushes if the answer is eager, and ends a call whose client takes
// nothing.
func (a *answer) push(write func() error) (err error) {
	a.watch.arm(a.idle, refusal.ErrClientSlow)
	if write != nil {
		err = write()
	}
	if a.eager && err == nil {
		err = http.NewResponseController(a.ResponseWriter).Flush()
	}
	if slow := a.watch.done(); slow != nil {
		err = slow
	}
	if err != nil {
		a.failed = err
	}
	return err
}

// FlushError is what [http.ResponseController] calls, for handlers in this process.
func (a *answer) FlushError() error {
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// Flush is for handlers that ask for an [http.Flusher].
func (a *answer) Flush() { _ = a.FlushError() } // The next Write says so too.

// Unwrap lets [http.ResponseController] find the rest.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// watch ends a call in which one side waits too long for the other. It is armed
// before each wait and done after it, by the one goroutine that serves the call.
// A nil watch never ends anything.
type watch struct {
	timer   *time.Timer
	cancel  context.CancelCauseFunc
	client  http.ResponseWriter
	why     error // Why it would end, while armed; nil if it is not.
	expired error // Why it has ended.
	fired   chan struct{}
}

func newWatch(client http.ResponseWriter, cancel context.CancelCauseFunc) *watch {
	w := &watch{cancel: cancel, client: client, fired: make(chan struct{})}
	w.timer = time.AfterFunc(time.Hour, w.fire)
	w.timer.Stop()
	return w
}

func (w *watch) arm(d time.Duration, why error) {
	if w == nil {
		return
	}
	w.why = why
	w.timer.Reset(d)
}

// done tells whether the wait took too long, and why that ends the call.
func (w *watch) done() error {
	if w == nil || w.why == nil {
		return nil
	}
	defer func() { w.why = nil }()
	if w.timer.Stop() {
		return nil
	}
	<-w.fired // The writer must not be used once the call is over.
	w.fired, w.expired = make(chan struct{}), w.why
	return w.why
}

func (w *watch) fire() {
	w.cancel(w.why)
	if w.why == refusal.ErrClientSlow { //nolint:errorlint // It is set to just that.
		_ = http.NewResponseController(w.client).SetWriteDeadline(past)
	}
	close(w.fired)
}
