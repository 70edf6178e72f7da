package verifier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

// forward sends the call to its upstream and the answer to the client.
func (v *Verifier) forward(w *answer, r *http.Request, c *call) error {
	c.answer = w
	switch {
	case c.route.List != nil:
		return v.listModels(w, c, v.sources(r, c))
	case c.route.Socket:
		return v.relay(w, r, c)
	case c.upstream == nil:
		return refusal.ErrNoUpstream
	case !c.upstream.Serves(c.route.Route):
		return refusal.ErrNotServed
	}
	c.record.Upstream = c.upstream.Name
	ctx, cancel := context.WithCancelCause(c.client)
	defer cancel(nil)
	defer v.limitLife(c, cancel, false)()
	c.life, c.watch = ctx, newWatch(w.ResponseWriter, cancel)
	w.watch, w.idle = c.watch, c.upstream.IdleTimeout

	out := outgoing(ctx, r, c, c.upstream)
	if err := c.decorate(c.upstream, out.Header); err != nil {
		return err
	}
	c.keeper = v.keepAlive(w, c)
	defer c.keeper.stop()
	c.spending.sent = true
	c.watch.arm(c.upstream.ResponseTimeout, refusal.ErrUpstreamSlow)
	res, err := c.upstream.RoundTrip(out)
	if err == nil {
		defer func() { _ = res.Body.Close() }()
		err = c.accept(res)
	}
	if err != nil {
		return c.failed(err)
	}
	maps.Copy(w.Header(), res.Header)
	w.WriteHeader(res.StatusCode)
	buffer := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buffer)
	if _, err := io.CopyBuffer(w, res.Body, buffer[:]); err != nil {
		panic(http.ErrAbortHandler) // Half an answer must not look like a whole one.
	}
	return nil
}

// copyBuffers are what answers are copied through.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// outgoing is the request for an upstream. Nothing of the client's is in it but
// what this function puts there.
func outgoing(ctx context.Context, r *http.Request, c *call, u *upstream.Server) *http.Request {
	out := &http.Request{
		Method: r.Method, URL: &url.URL{Path: c.route.Target(c.model), RawQuery: c.query},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: outgoingHeader(r.Header, c, u.Family),
	}
	if c.body.Len() > 0 {
		// With GetBody, the transport sends a call again of which not a byte went
		// out, because an idle connection turned out to be closed. One that may have
		// been executed it never sends twice: POST is not idempotent, and no
		// Idempotency-Key, which would say otherwise, passes the list of headers.
		out.GetBody = func() (io.ReadCloser, error) { return c.body.Open(), nil }
		out.Body, _ = out.GetBody()
		out.ContentLength = c.body.Len()
	}
	return out.WithContext(ctx)
}

// outgoingHeader is the allow-list of what a client can say to an upstream beside
// the body, if it stands there once and looks as it should. It is short: identity, forwarding and routing headers are believed by
// some server in some spelling, and all clients share one credential, so that
// another's OpenAI-Organization or Idempotency-Key would reach into a common
// account.
func outgoingHeader(from http.Header, c *call, f *route.Family) http.Header {
	to := make(http.Header, 8)
	to["User-Agent"] = userAgent
	to[requestID] = []string{c.record.Decision}
	if c.body.Len() > 0 {
		to["Content-Type"] = []string{c.body.Type}
	}
	if accept := from["Accept"]; len(accept) == 1 && isPlain(accept[0]) {
		to["Accept"] = accept
	}
	if parent := from["Traceparent"]; len(parent) == 1 && isTraceparent(parent[0]) {
		to["Traceparent"] = parent
	}
	for _, name := range f.Headers {
		if values := from[name]; len(values) == 1 && isPlain(values[0]) {
			to[name] = values
		}
	}
	return to
}

var userAgent = []string{"hourpass-verifier"}

// isPlain tells whether s is a short list of words, media types or settings.
func isPlain(s string) bool {
	return len(s) <= 256 && strings.IndexFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(" !*+,-./;=_", c)
	}) < 0
}

// isTraceparent tells whether s is of version 00 of W3C Trace Context.
func isTraceparent(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	hex := s[3:35] + s[36:52] + s[53:]
	return strings.Trim(hex, "0123456789abcdef") == "" && strings.Trim(s[3:35], "0") != "" && strings.Trim(s[36:52], "0") != ""
}

// accept turns an upstream's answer into ours, or says why it can't be.
func (c *call) accept(res *http.Response) error {
	begun := c.keeper.stop()
	if err := c.watch.done(); err != nil {
		return err
	}
	c.record.UpstreamStatus = res.StatusCode
	media, err := checkResponse(res, c.route.Route)
	if err != nil {
		return err
	}
	header := http.Header{"Content-Type": res.Header["Content-Type"], requestID: {c.record.Decision}, "X-Content-Type-Options": {"nosniff"}}
	for _, name := range []string{"Cache-Control", "Content-Length", "Retry-After", "Retry-After-Ms"} {
		if values := res.Header[name]; len(values) == 1 {
			header[name] = values
		}
	}
	if header["Cache-Control"] == nil {
		header["Cache-Control"] = []string{"no-store"}
	}
	c.tellLimits(header)
	events := media == mediaEvents || media == mediaLines
	if begun && media != mediaEvents {
		c.watch.arm(c.upstream.IdleTimeout, refusal.ErrUpstreamIdle)
		err := asEvent(c.route.Family, res)
		if late := c.watch.done(); late != nil {
			return late
		}
		if err != nil {
			return fmt.Errorf("%w: it answered %d, not with events", refusal.ErrUpstream, res.StatusCode)
		}
		events = true
	}
	c.answer.eager = events || res.ContentLength < 0
	if events {
		delete(header, "Content-Length") // A last event of ours may come on top.
	}
	c.startMeter(res.StatusCode, media, c.doc.HidesUsage())
	res.Header, res.Trailer = header, nil
	res.Body = &stream{body: res.Body, res: res, call: c, events: events, lines: media == mediaLines}
	return nil
}

// checkResponse refuses answers that the client must not take for ours.
func checkResponse(res *http.Response, r *route.Route) (media string, err error) {
	status := res.StatusCode
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusPaymentRequired, status == http.StatusProxyAuthRequired:
		// It is our credential that it does not like. A client that believed it
		// to be its own token would throw a good one away.
		return "", fmt.Errorf("%w: it refused the verifier's credential with %d", refusal.ErrUpstream, status)
	case status < http.StatusOK, status >= 300 && status < 400:
		// Neither another protocol nor another place.
		return "", fmt.Errorf("%w: it answered %d", refusal.ErrUpstream, status)
	case slices.ContainsFunc(res.Header["Content-Encoding"], func(coding string) bool { return !strings.EqualFold(coding, "identity") }):
		return "", fmt.Errorf("%w: its answer has a content encoding that was not asked for", refusal.ErrUpstream)
	}
	types := res.Header["Content-Type"]
	if len(types) == 1 { // Of two, a browser may take the other.
		media, _, err = mime.ParseMediaType(types[0])
	}
	if err != nil || !answers(r, media) {
		return "", fmt.Errorf("%w: it answered %d with what is no answer of that route", refusal.ErrUpstream, status)
	}
	return media, nil
}

// answers tells whether the route has answers of that media type.
func answers(r *route.Route, media string) bool {
	return media == mediaJSON || media == mediaEvents || slices.ContainsFunc(r.Answers, func(a string) bool {
		return media == a || strings.HasSuffix(a, "/") && strings.HasPrefix(media, a)
	})
}

// The media types that are told apart.
const (
	mediaJSON   = "application/json"
	mediaEvents = "text/event-stream"
	mediaLines  = "application/x-ndjson"
)

// cut is why the call was ended before its time, or nil.
func (c *call) cut() error {
	cause := context.Cause(c.life)
	for _, why := range []error{refusal.ErrCutExpired, refusal.ErrCutRevoked, refusal.ErrTooOld} {
		if errors.Is(cause, why) {
			return why
		}
	}
	return nil
}

// failed is why there is no answer of the upstream's.
func (c *call) failed(err error) error {
	c.keeper.stop()
	_ = c.watch.done() // Unless accept has asked already.
	if dial := (*net.OpError)(nil); errors.As(err, &dial) && dial.Op == "dial" {
		c.spending.sent = false
	}
	c.spending.left = c.client.Err() != nil || c.cut() != nil || c.watch.expired != nil
	switch {
	case c.client.Err() != nil:
		return refusal.ErrClientGone
	case c.cut() != nil:
		return c.cut()
	case c.watch.expired != nil:
		return c.watch.expired
	case errors.Is(err, refusal.ErrUpstream):
		return err
	}
	return &refusal.Denial{Is: refusal.ErrUpstream, Cause: err}
}
