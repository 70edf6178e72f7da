package verifier

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/hourpass/hourpass/verifier/internal/body"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// Bounds of WebSockets.
const (
	maxMessage       = 16 << 20         // Bytes, either way: a quarter of an hour of sound.
	handshakeTimeout = 30 * time.Second // For the upstream's answer, and for a client's first message.
	pingEvery        = 30 * time.Second
	pingTimeout      = 15 * time.Second
	closeTimeout     = 5 * time.Second
)

// subprotocols are those that upstreams hear of. Clients in browsers put their
// token among them, as they can set no header.
var subprotocols = []string{"realtime", "openai-beta.realtime-v1"}

const tokenSubprotocol = "openai-insecure-api-key."

// offered are the subprotocols of a request.
func offered(h http.Header) (list []string) {
	for _, value := range h["Sec-Websocket-Protocol"] {
		for p := range strings.SplitSeq(value, ",") {
			list = append(list, strings.TrimSpace(p))
		}
	}
	return list
}

// isHandshake tells whether a request opens a WebSocket (RFC 6455, section 4.1),
// over HTTP/1.1, and nothing else.
func isHandshake(r *http.Request) bool {
	one := func(name string) string {
		if len(r.Header[name]) != 1 {
			return ""
		}
		return r.Header[name][0]
	}
	key, err := base64.StdEncoding.DecodeString(one("Sec-Websocket-Key"))
	connection := slices.ContainsFunc(strings.Split(one("Connection"), ","), func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), "upgrade") })
	return r.ProtoMajor == 1 && r.ProtoMinor == 1 && r.Method == http.MethodGet && strings.EqualFold(one("Upgrade"), "websocket") && connection &&
		one("Sec-Websocket-Version") == "13" && err == nil && len(key) == 16 && r.ContentLength == 0 && r.TransferEncoding == nil
}

// sameOrigin tells whether a browser's page is of the host that it asks. Others
// are no clients of ours: a token is for programs.
func sameOrigin(r *http.Request) bool {
	origin := r.Header["Origin"]
	if len(origin) == 0 {
		return true
	}
	u, err := url.Parse(origin[0])
	return len(origin) == 1 && err == nil && strings.EqualFold(u.Host, r.Host)
}

// socket is a WebSocket on its way through.
type socket struct {
	v        *Verifier
	call     *call
	client   *websocket.Conn
	upstream *websocket.Conn
}

// relay connects client and upstream. Each message of the client's is read,
// judged, and written anew; what the upstream says passes as it is. It ends when
// either side does, with the token, and with the verifier.
func (v *Verifier) relay(w *answer, r *http.Request, c *call) error {
	switch {
	case !sameOrigin(r):
		return refusal.ErrOrigin
	case c.route.Carrier != route.InFrame && c.upstream == nil:
		return refusal.ErrNoUpstream
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(c.client)) // net/http's own ends with the handshake.
	defer cancel(nil)
	defer v.limitLife(c, cancel, true)()
	c.ended = v.sockets.add(cancel)
	c.life = ctx
	s := &socket{v: v, call: c}
	defer s.hangUp()

	if c.route.Carrier == route.InFrame {
		if err := s.accept(w, r, ""); err != nil {
			return err
		}
		return s.fromFirstMessage(ctx, r)
	}
	if err := s.dial(ctx, r); err != nil {
		return err
	}
	if err := s.accept(w, r, s.upstream.Subprotocol()); err != nil {
		return err
	}
	return s.run(ctx)
}

// stay follows no redirect: where it leads was not judged.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// dial opens the upstream's side.
func (s *socket) dial(ctx context.Context, r *http.Request) error {
	c := s.call
	if !c.upstream.Serves(c.route.Route) {
		return refusal.ErrNotServed
	}
	c.record.Upstream, c.spending.sent = c.upstream.Name, true
	header := outgoingHeader(r.Header, c, c.upstream.Family)
	if err := c.decorate(c.upstream, header); err != nil {
		return err
	}
	query := c.query
	if c.route.Carrier == route.InQuery {
		query = strings.Replace("&"+query, "&model="+c.named, "&model="+c.model, 1)[1:]
	}
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, refusal.ErrUpstreamSlow)
	defer cancel()
	var err error
	options := &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: c.upstream, CheckRedirect: stay}, HTTPHeader: header, CompressionMode: websocket.CompressionDisabled,
		Subprotocols: slices.DeleteFunc(offered(r.Header), func(p string) bool { return !slices.Contains(subprotocols, p) }),
	}
	s.upstream, _, err = websocket.Dial(ctx, "ws://upstream"+c.route.Target(c.model)+"?"+query, options) //nolint:bodyclose // The connection is the body.
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return &refusal.Denial{Is: refusal.ErrUpstream, Cause: err}
	}
	s.upstream.SetReadLimit(maxMessage)
	return nil
}

// accept opens the client's side.
func (s *socket) accept(w *answer, r *http.Request, subprotocol string) error {
	w.Header().Set(requestID, s.call.record.Decision)
	options := &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled}
	if subprotocol != "" {
		options.Subprotocols = []string{subprotocol}
	}
	var err error
	w.status = http.StatusSwitchingProtocols
	if s.client, err = websocket.Accept(w.ResponseWriter, r, options); err != nil {
		return &refusal.Denial{Is: refusal.ErrUpgrade, Cause: err}
	}
	s.client.SetReadLimit(maxMessage)
	return nil
}

// fromFirstMessage goes on where the first message says which model is meant.
func (s *socket) fromFirstMessage(ctx context.Context, r *http.Request) error {
	first, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, refusal.ErrBodySlow)
	defer cancel()
	kind, raw, err := s.client.Read(first)
	if err != nil {
		if cause := context.Cause(first); cause != nil {
			return s.refuse(cause)
		}
		return refusal.ErrClientGone
	}
	c := s.call
	doc, err := s.parse(kind, raw)
	if err != nil {
		return s.refuse(err)
	}
	if c.named = doc.Model; c.named == "" {
		return s.refuse(refusal.ErrNoModel)
	}
	if err := errors.Join(s.v.findModel(c), c.checkScope()); err != nil {
		return s.refuse(err)
	}
	if c.upstream == nil {
		return s.refuse(refusal.ErrNoUpstream)
	}
	if err := s.dial(ctx, r); err != nil {
		return s.refuse(err)
	}
	message, err := s.judge(kind, raw)
	if err != nil {
		return s.refuse(err)
	}
	if err := s.upstream.Write(ctx, websocket.MessageText, message); err != nil {
		return s.refuse(refusal.ErrUpstreamDied)
	}
	return s.run(ctx)
}

func (s *socket) parse(kind websocket.MessageType, raw []byte) (body.Doc, error) {
	if kind != websocket.MessageText {
		return body.Doc{}, refusal.ErrContentType
	}
	return body.Parse(raw, s.call.route.Members)
}

// judge returns what the upstream gets of a message. Whatever names a model must
// name the connection's.
func (s *socket) judge(kind websocket.MessageType, raw []byte) ([]byte, error) {
	c := s.call
	doc, err := s.parse(kind, raw)
	if err != nil {
		return nil, err
	}
	if doc.Disagrees(c.route.Route, c.named) != "" {
		return nil, refusal.ErrTwoModels
	}
	model := ""
	if doc.Model != "" {
		model = c.model
	}
	content, err := doc.Write(model, body.Bounds{})
	if err != nil {
		return nil, err
	}
	return content.Bytes(), nil
}

// ended is how one side came to its end.
type ended struct {
	client bool // The client's side.
	err    error
}

// run passes messages on until one side ends, or the call's life does.
func (s *socket) run(ctx context.Context) error {
	// Not that of the call's life: what is read or written with one that ends takes
	// the connection along, and the client is to hear why.
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	ends := make(chan ended, 4)
	var all sync.WaitGroup
	all.Go(func() { ends <- ended{true, s.up(ctx)} })
	all.Go(func() { ends <- ended{false, s.down(ctx)} })
	all.Go(func() { ends <- ended{true, ping(ctx, s.client)} })
	all.Go(func() { ends <- ended{false, ping(ctx, s.upstream)} })
	defer func() {
		stop()
		s.hangUp()
		all.Wait()
	}()
	var end ended
	select {
	case end = <-ends:
	case <-s.call.life.Done():
	}
	if cause := context.Cause(s.call.life); cause != nil {
		return s.refuse(cause)
	}
	return s.close(end)
}

// up passes the client's messages on, one at a time.
func (s *socket) up(ctx context.Context) error {
	for {
		kind, raw, err := s.client.Read(ctx)
		if err != nil {
			return err
		}
		message, err := s.judge(kind, raw)
		if err != nil {
			return err
		}
		if err := s.upstream.Write(ctx, websocket.MessageText, message); err != nil {
			return refusal.ErrUpstreamDied
		}
	}
}

// down passes the upstream's messages on, one at a time.
func (s *socket) down(ctx context.Context) error {
	for {
		kind, raw, err := s.upstream.Read(ctx)
		if err != nil {
			return err
		}
		if err := s.client.Write(ctx, kind, raw); err != nil {
			return refusal.ErrClientGone
		}
		s.call.answer.bytes += int64(len(raw))
	}
}

// ping finds out when a side has gone without a word.
func ping(ctx context.Context, c *websocket.Conn) error {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		patience, cancel := context.WithTimeout(ctx, pingTimeout)
		err := c.Ping(patience)
		cancel()
		if err != nil {
			return err
		}
	}
}

// close passes on how one side ended to the other, if it did so properly.
func (s *socket) close(end ended) error {
	var said websocket.CloseError
	proper := errors.As(end.err, &said)
	code := said.Code
	if code == websocket.StatusNoStatusRcvd {
		code = websocket.StatusNormalClosure
	}
	r, _ := refusal.Of(end.err)
	switch {
	case end.client && proper:
		_ = s.upstream.Close(code, said.Reason) // It may have gone as well.
		return nil
	case proper:
		_ = s.client.Close(code, said.Reason)
		return nil
	case !end.client && r.Err != refusal.ErrClientGone: //nolint:errorlint // The row itself, not a chain.
		return s.refuse(refusal.ErrUpstreamDied)
	case r.Err == refusal.ErrInternal: //nolint:errorlint // The row itself: no reason of ours.
		return refusal.ErrClientGone
	}
	return s.refuse(end.err)
}

// refuse tells an open client why its connection ends: in a message of the
// dialect, and in the close frame. The error goes into the record.
func (s *socket) refuse(err error) error {
	if s.client == nil {
		return err
	}
	c := s.call
	r, d := refusal.Of(err)
	if r.Status == refusal.ClientGone {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.life), closeTimeout)
	defer cancel()
	event := c.family().Refusal(r.Status, r.Code, r.Message(d), c.record.Decision)
	_ = s.client.Write(ctx, websocket.MessageText, append([]byte(`{"type":"error",`), event[1:]...)) // The client may have gone.
	code := websocket.StatusPolicyViolation
	switch {
	case errors.Is(err, refusal.ErrDraining):
		code = websocket.StatusServiceRestart
	case r.Status >= http.StatusInternalServerError:
		code = websocket.StatusInternalError
	}
	_ = s.client.Close(code, fmt.Sprintf("%s, decision %s", r.Code, c.record.Decision))
	return err
}

// hangUp leaves nothing open, whatever happened.
func (s *socket) hangUp() {
	for _, c := range []*websocket.Conn{s.client, s.upstream} {
		if c != nil {
			_ = c.CloseNow() // It may be closed.
		}
	}
}
