package verifier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/hourpass/hourpass/internal/token"
)

// upstream is a model server and the connections to it.
type upstream struct {
	Upstream
	base      *url.URL
	proxy     *httputil.ReverseProxy
	transport http.RoundTripper
}

// Bounds of the talk with an upstream.
const (
	maxIdleConns       = 512      // Kept open. Go's default of 2 opens a new one for half of the calls.
	maxResponseHeader  = 64 << 10 // Bytes.
	connectTimeout     = 10 * time.Second
	idleConnTimeout    = 90 * time.Second
	copyBufferSize     = 32 << 10
	transportIOBufSize = 16 << 10
)

func newUpstream(u Upstream) (*upstream, error) {
	base, err := parseUpstreamURL(u.URL)
	if err != nil {
		return nil, err
	}
	if len(u.Models) == 0 {
		return nil, errors.New(`models: want names, patterns, or "*"`)
	}
	if u.Header == "" {
		u.Header = "Authorization"
	}
	if u.ResponseTimeout == 0 {
		u.ResponseTimeout = DefaultResponseTimeout
	}
	if u.IdleTimeout == 0 {
		u.IdleTimeout = DefaultIdleTimeout
	}
	if u.ResponseTimeout < 0 || u.IdleTimeout < 0 {
		return nil, errors.New("timeouts: must not be negative")
	}
	up := &upstream{Upstream: u, base: base, transport: &http.Transport{
		// No proxy from the environment: calls go where the configuration says.
		DialContext:            (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSHandshakeTimeout:    connectTimeout,
		ResponseHeaderTimeout:  u.ResponseTimeout,
		IdleConnTimeout:        idleConnTimeout,
		MaxIdleConns:           maxIdleConns,
		MaxIdleConnsPerHost:    maxIdleConns,
		MaxResponseHeaderBytes: maxResponseHeader,
		ReadBufferSize:         transportIOBufSize,
		WriteBufferSize:        transportIOBufSize,
		DisableCompression:     true, // The bytes are the client's business.
		ForceAttemptHTTP2:      true,
	}}
	up.proxy = &httputil.ReverseProxy{
		Transport:      up.transport,
		Rewrite:        up.rewrite,
		ModifyResponse: up.modify,
		ErrorHandler:   up.failed,
		FlushInterval:  -1, // Each chunk at once.
		BufferPool:     buffers,
	}
	return up, nil
}

func (u *upstream) has(model string) bool {
	return slices.ContainsFunc(u.Models, func(p string) bool { return p == "*" || token.MatchModel(p, model) })
}

// callKey finds the call in a request's context.
type callKey struct{}

// forwarding is a call in the hands of a reverse proxy, which knows no errors.
type forwarding struct {
	*call
	err error
}

// forward sends the call to its upstream and the answer to the client.
func (v *Verifier) forward(c *call, w http.ResponseWriter, r *http.Request) error {
	f := &forwarding{call: c}
	c.upstream.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, f)))
	return f.err
}

// rewrite makes the request that the upstream gets, from nothing: a header that
// is on no list does not pass, whatever its name is or the client calls
// hop-by-hop.
func (u *upstream) rewrite(p *httputil.ProxyRequest) {
	f := p.In.Context().Value(callKey{}).(*forwarding)
	p.Out.Header = passRequest(p.In.Header)
	u.prepare(p.Out, f.rec.Decision)
	p.Out.URL = u.base.JoinPath(f.path)
	p.Out.Host = u.base.Host
	p.Out.Body, p.Out.GetBody, p.Out.ContentLength = http.NoBody, nil, 0
	if f.body != nil {
		// GetBody lets the transport send again what it has not begun to send, when
		// an idle connection turns out to be closed. What may have been executed is
		// never sent again: POST without an Idempotency-Key is not.
		p.Out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(f.body)), nil }
		p.Out.Body, _ = p.Out.GetBody()
		p.Out.ContentLength = int64(len(f.body))
		p.Out.Header.Set("Content-Type", "application/json")
	}
}

// prepare puts on what is ours: the upstream's credential and the decision's id.
func (u *upstream) prepare(r *http.Request, decision string) {
	if u.Credential != "" {
		r.Header.Set(u.Header, u.Credential)
	}
	r.Header.Set("X-Request-Id", decision)
	r.Header.Set("Accept-Encoding", "identity")
}

// traceparent is W3C Trace Context, version 00: the one header of the client's
// own making that may lead into other systems.
var traceparent = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// passRequest returns the headers that the upstream may see of a client's.
func passRequest(in http.Header) http.Header {
	out := http.Header{"User-Agent": nil} // Nil: neither the client's nor Go's own.
	for _, name := range []string{"Accept", "Openai-Beta"} {
		if v := in.Values(name); len(v) == 1 && len(v[0]) <= 256 {
			out.Set(name, v[0])
		}
	}
	if v := in.Values("Traceparent"); len(v) == 1 && traceparent.MatchString(v[0]) {
		out.Set("Traceparent", v[0])
	}
	return out
}

// passResponse are the headers that the client may see of an upstream's.
var passResponse = []string{
	"Content-Type", "Content-Length", "Content-Encoding", "Cache-Control", "Retry-After",
	"Openai-Model", "Openai-Processing-Ms", "Openai-Version",
	"X-Ratelimit-Limit-Requests", "X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Requests",
	"X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Requests", "X-Ratelimit-Reset-Tokens",
}

// modify judges the upstream's answer and makes the one that the client gets.
func (u *upstream) modify(res *http.Response) error {
	f := res.Request.Context().Value(callKey{}).(*forwarding)
	f.rec.UpstreamStatus = res.StatusCode
	switch {
	case res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusForbidden, res.StatusCode == http.StatusProxyAuthRequired:
		return errUpstream // Of our credential, not of the client's token.
	case res.StatusCode < 200, res.StatusCode >= 300 && res.StatusCode < 400:
		return errRedirect
	}
	in := res.Header
	res.Header = http.Header{"X-Request-Id": {f.rec.Decision}, "X-Content-Type-Options": {"nosniff"}}
	for _, name := range passResponse {
		if v := in[textproto.CanonicalMIMEHeaderKey(name)]; len(v) == 1 {
			res.Header[name] = v
		}
	}
	res.Trailer = nil
	res.Body = newStream(f.call, res, u.IdleTimeout)
	return nil
}

// failed notes why there is no answer; forward's caller refuses the call with it.
func (u *upstream) failed(_ http.ResponseWriter, r *http.Request, err error) {
	f := r.Context().Value(callKey{}).(*forwarding)
	var timeout net.Error
	switch {
	case errors.Is(err, errUpstream), errors.Is(err, errRedirect):
		f.err = err
	case errors.Is(err, context.Canceled):
		f.err = errGone
	case errors.As(err, &timeout) && timeout.Timeout():
		f.err = fmt.Errorf("%w: %w", errSlow, err)
	default:
		f.err = fmt.Errorf("%w: %w", errAway, err)
	}
}

// buffers are what answers are copied through.
var buffers = &bufferPool{sync.Pool{New: func() any { return new([copyBufferSize]byte) }}}

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte  { return p.pool.Get().(*[copyBufferSize]byte)[:] }
func (p *bufferPool) Put(b []byte) { p.pool.Put((*[copyBufferSize]byte)(b)) }
