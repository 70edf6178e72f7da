package verifier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"mime"
	"net/http"
	"net/http/httputil"
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
	if c.route.List {
		return v.listModels(w, c, v.sources(r, c))
	}
	switch {
	case c.upstream == nil:
		return refusal.ErrNoUpstream
	case !c.upstream.Serves(c.route.Route):
		return refusal.ErrNotServed
	}
	c.record.Upstream = c.upstream.Name
	c.answer = w
	ctx, cancel := context.WithCancelCause(c.client)
	defer cancel(nil)
	c.watch = newWatch(w.ResponseWriter, cancel)
	w.watch, w.idle = c.watch, c.upstream.IdleTimeout

	out := outgoing(context.WithValue(ctx, contextKey{}, c), r, c, c.upstream)
	if err := c.decorate(c.upstream, out.Header); err != nil {
		return err
	}
	c.watch.arm(c.upstream.ResponseTimeout, refusal.ErrUpstreamSlow)
	v.proxy.ServeHTTP(w, out)
	return c.failure
}

// outgoing is the request for an upstream. Nothing of the client's is in it but
// what this function puts there.
func outgoing(ctx context.Context, r *http.Request, c *call, u *upstream.Server) *http.Request {
	out := &http.Request{
		Method: r.Method, URL: &url.URL{Path: c.route.Target(c.model), RawQuery: c.query},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: outgoingHeader(r.Header, c, u.Family),
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
	if c.body != nil {
		to["Content-Type"] = jsonType
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

var (
	userAgent = []string{"hourpass-verifier"}
	jsonType  = []string{"application/json"}
)

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

// buffers are what answers are copied through.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return p[:]
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put((*[32 << 10]byte)(p)) }

var copyBuffers = &buffers{}

func (v *Verifier) newProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     toUpstream{},
		FlushInterval: -1, // Each word goes out as it comes.
		BufferPool:    copyBuffers,
		ErrorLog:      log.New(io.Discard, "", 0), // Errors come back to us and are logged with their decision.
		Rewrite: func(p *httputil.ProxyRequest) {
			c := p.In.Context().Value(contextKey{}).(*call)
			if c.body == nil {
				return
			}
			// With GetBody, the transport sends a call again of which not a byte went
			// out, because an idle connection turned out to be closed. One that may
			// have been executed it never sends twice: POST is not idempotent, and no
			// Idempotency-Key, which would say otherwise, passes the list of headers.
			p.Out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(c.body)), nil }
			p.Out.Body, _ = p.Out.GetBody()
			p.Out.ContentLength = int64(len(c.body))
		},
		ModifyResponse: func(res *http.Response) error {
			return res.Request.Context().Value(contextKey{}).(*call).accept(res)
		},
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			r.Context().Value(contextKey{}).(*call).fail(err)
		},
	}
}

// toUpstream sends a request where its call goes.
type toUpstream struct{}

func (toUpstream) RoundTrip(r *http.Request) (*http.Response, error) {
	return r.Context().Value(contextKey{}).(*call).upstream.RoundTrip(r)
}

// accept turns an upstream's answer into ours, or says why it can't be.
func (c *call) accept(res *http.Response) error {
	if err := c.watch.done(); err != nil {
		return err
	}
	c.record.UpstreamStatus = res.StatusCode
	media, err := checkResponse(res)
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
	events := media == "text/event-stream"
	c.answer.eager = events || res.ContentLength < 0
	if events {
		delete(header, "Content-Length") // A last event of ours may come on top.
	}
	res.Header, res.Trailer = header, nil
	res.Body = &stream{body: res.Body, res: res, call: c, events: events}
	return nil
}

// checkResponse refuses answers that the client must not take for ours.
func checkResponse(res *http.Response) (media string, err error) {
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
	if err != nil || media != "application/json" && media != "text/event-stream" {
		return "", fmt.Errorf("%w: it answered %d with neither JSON nor events", refusal.ErrUpstream, status)
	}
	return media, nil
}

// fail notes why there is no answer of the upstream.
func (c *call) fail(err error) {
	_ = c.watch.done() // Unless accept has asked already.
	timeout := c.watch.expired
	switch {
	case c.client.Err() != nil:
		c.failure = refusal.ErrClientGone
	case timeout != nil:
		c.failure = timeout
	case errors.Is(err, refusal.ErrUpstream):
		c.failure = err
	default:
		c.failure = &refusal.Denial{Is: refusal.ErrUpstream, Cause: err}
	}
}
