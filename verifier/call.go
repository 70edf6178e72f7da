package verifier

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/reqtarget"
	"github.com/hourpass/hourpass/internal/token"
)

// call is one request on its way through the steps.
type call struct {
	began  time.Time
	record audit.Record
	claims *token.Claims // Of a verified token; nil until then.
	route  *route
	model  string
	body   []byte // What the upstream gets instead of the client's body. Nil: none.

	unread *http.Request // The request, until its body was read.

	upstream *upstream
	failure  error // Why the upstream's answer could not be used.
	watch    *watch
	answer   *answer
	client   context.Context // Ends when the client goes.
}

// serve answers one request and keeps its record, whatever happens. A call that
// passes goes on to then.
func (v *Verifier) serve(rw http.ResponseWriter, r *http.Request, then func(*answer, *http.Request, *call) error) {
	c := &call{began: v.c.Now(), client: r.Context(), unread: r}
	c.record = audit.Record{Time: c.began, Decision: audit.NewID(), Event: "call", Outcome: audit.Deny}
	// A length beside chunks is ignored by net/http, and taken away before we could
	// see it. Something in front may have gone by it and have another idea of where
	// the next request begins, so there is none (RFC 9112, section 6.3).
	w := &answer{ResponseWriter: rw, last: r.TransferEncoding != nil}
	defer v.finish(w, c)
	err := v.decide(w, r, c)
	if err == nil {
		c.record.Outcome = audit.Allow
		err = then(w, r, c)
	}
	if err != nil {
		v.refuse(w, c, err)
	}
}

// decide takes the steps of a decision, the cheapest first. No step looks at
// more of the request than the ones before have made safe to look at.
func (v *Verifier) decide(w *answer, r *http.Request, c *call) error {
	client := clientAddr(r.RemoteAddr)
	if client.IsValid() {
		c.record.ClientIP = client.String()
	}
	// Before any router: each reads an unclean path in its own way.
	path, query, err := reqtarget.Split(r.RequestURI)
	if err != nil || r.URL.Path != path {
		return errTarget // Not as it came, perhaps: behind http.StripPrefix two paths are left.
	}
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return &denial{is: errMethod, allow: "GET, POST"}
	}
	raw, err := credential(r.Header)
	if err != nil {
		return err
	}
	claims, err := v.authenticate(raw, c.began)
	if err != nil {
		return err
	}
	c.identify(claims)
	if !claims.AllowsIP(client) {
		return errClientIP
	}
	// A limit that is not enforced would be a promise broken in silence.
	if len(claims.Limits) > 0 || !claims.Params.IsZero() {
		return errLimits
	}
	// Only now, so that whoever has no token learns nothing of the routes.
	if err := c.findRoute(r, path, query); err != nil {
		return err
	}
	if c.route.carrier == inBody {
		if err := v.readBody(w, r, c); err != nil {
			return err
		}
	}
	if err := c.checkScope(); err != nil {
		return err
	}
	return v.records.takesMore()
}

// clientAddr is the peer's address. A peer that has none, as on a Unix socket,
// gets the invalid address, which is in no network.
func clientAddr(remote string) netip.Addr {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return peer.Addr().Unmap()
}

func (c *call) identify(claims *token.Claims) {
	c.claims = claims
	c.record.Key, c.record.Identity, c.record.Team = claims.ClientID, claims.Subject, claims.Team
	c.record.Grant, c.record.Token = claims.Grant, claims.ID
}

func (c *call) findRoute(r *http.Request, path, query string) error {
	route, model, allow := find(r.Method, path)
	if route == nil {
		if allow != "" {
			return &denial{is: errMethod, allow: allow}
		}
		return errNotFound
	}
	c.route, c.record.Route, c.record.Action = route, route.name(), route.action
	switch {
	case query != "":
		// A query may name a model, a stream or a key to servers that look there.
		return errQuery
	case r.Method == http.MethodGet && r.ContentLength != 0:
		return errUnwanted // It would be waited for, to no end.
	case r.Header["Upgrade"] != nil:
		return errUpgrade // Frames behind it would pass unjudged.
	case route.carrier == inPath:
		if !token.ValidModel(model) {
			return errNotFound // Perhaps a path below a model, of a route that we don't know.
		}
		c.model, c.record.Model = model, model
	}
	return nil
}

func (c *call) checkScope() error {
	switch {
	case c.route.carrier == nowhere:
		return nil
	case c.route.anyAction && c.claims.Scope.AllowModel(c.model), c.claims.Scope.Allow(c.route.action, c.model):
		return nil
	}
	missing := token.Scope{Action: c.route.action, Model: c.model}.String()
	return &denial{is: errScope, scope: missing, detail: missing}
}

// inProcess is the request for a handler in this process.
func (c *call) inProcess(r *http.Request) *http.Request {
	r = r.Clone(context.WithValue(r.Context(), contextKey{}, c))
	for name := range r.Header {
		if isCredential(name) || strings.EqualFold(name, "Content-Encoding") {
			delete(r.Header, name)
		}
	}
	r.TransferEncoding, r.Trailer, r.GetBody = nil, nil, nil
	r.Body, r.ContentLength = http.NoBody, int64(len(c.body))
	r.Header.Del("Content-Length")
	if c.body != nil {
		r.Body = io.NopCloser(bytes.NewReader(c.body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Content-Length", strconv.Itoa(len(c.body)))
	}
	return r
}

// finish turns a panic into an answer and keeps the record. It is deferred, so
// that no way out of a call goes round it.
func (v *Verifier) finish(w *answer, c *call) {
	abort := false
	switch p := recover(); {
	case p == nil:
	case p == any(http.ErrAbortHandler): // The answer can't be ended as it should; net/http cuts the connection.
		abort = true
	default:
		v.c.Log.Error("panic in a call", "decision", c.record.Decision, "panic", p, "stack", string(debug.Stack()))
		c.note(errInternal)
		if abort = w.status != 0; !abort {
			v.refuse(w, c, errInternal)
		}
	}
	if w.status == 0 {
		w.status, abort = statusClientGone, true // Without a word, lest net/http says 200.
	}
	switch {
	case errors.Is(w.failed, errClientSlow):
		c.note(errClientSlow)
	case w.failed != nil:
		c.note(errClientGone)
	case abort:
		c.note(errAborted)
	}
	c.record.Status, c.record.Bytes = w.status, w.bytes
	c.record.Millis = float64(v.c.Now().Sub(c.began).Microseconds()) / 1000
	v.records.keep(c.record)
	if abort {
		panic(http.ErrAbortHandler)
	}
}

// statusClientGone is what nginx writes down for a client that did not wait.
const statusClientGone = 499
