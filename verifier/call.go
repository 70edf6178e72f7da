package verifier

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/clientip"
	"github.com/hourpass/hourpass/internal/reqtarget"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/body"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

// call is one request on its way through the steps.
type call struct {
	began  time.Time
	record audit.Record
	token  verified
	claims *token.Claims // Of a verified token; nil until then.
	route  route.Match
	query  string       // What the upstream gets of the query.
	named  string       // The model, as the request names it.
	model  string       // The model, by its one name.
	doc    body.Doc     // The body as it was read.
	body   body.Content // What the upstream gets instead of the client's body.

	unread *http.Request // The request, until its body was read.

	spending  spending
	elsewhere bool // Somebody else forwards it.

	upstream *upstream.Server
	watch    *watch
	answer   *answer
	client   context.Context // Ends when the client goes.
	life     context.Context // Ends with the call, for whatever cause.
	keeper   *keeper
	ended    func() // Called once the record is kept, if not nil.
}

// step is a part of the way of a call.
type step = func(*answer, *http.Request, *call) error

// serve answers one request and keeps its record, whatever happens. A call that
// passes decide goes on to then.
func (v *Verifier) serve(rw http.ResponseWriter, r *http.Request, decide, then step) {
	c := &call{began: v.c.Now(), client: r.Context(), unread: r}
	c.record = audit.Record{Time: c.began, Decision: audit.NewID(), Event: "call", Outcome: audit.Deny}
	// A length beside chunks is ignored by net/http, and taken away before we could
	// see it. Something in front may have gone by it and have another idea of where
	// the next request begins, so there is none (RFC 9112, section 6.3).
	w := &answer{ResponseWriter: rw, last: r.TransferEncoding != nil, decision: c.record.Decision}
	v.c.Metrics.begin()
	defer v.finish(w, c)
	defer c.doc.Close()
	err := decide(w, r, c)
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
	if err := v.admit(r, c); err != nil {
		return err
	}
	if c.route.Members != nil && !c.route.Socket {
		if err := v.readBody(w, r, c); err != nil {
			return err
		}
	}
	if err := v.findModel(c); err != nil {
		return err
	}
	if err := c.checkScope(); err != nil {
		return err
	}
	if err := v.takesMore(c); err != nil {
		return err
	}
	return c.rewrite()
}

// admit takes the steps before the body: whether the request is one, who asks,
// from where, and for which route.
func (v *Verifier) admit(r *http.Request, c *call) error {
	client := clientip.From(r, v.c.TrustedProxies)
	if client.IsValid() {
		c.record.ClientIP = client.String()
	}
	// Before any router: each reads an unclean path in its own way.
	path, query, err := reqtarget.Split(r.RequestURI)
	if err != nil || r.URL.Path != path {
		return refusal.ErrTarget // Not as it came, perhaps: behind http.StripPrefix two paths are left.
	}
	if !route.KnownMethod(r.Method) {
		return &refusal.Denial{Is: refusal.ErrMethod, Allow: route.Methods()}
	}
	raw, err := credential(r.Header)
	if err != nil {
		return err
	}
	if c.token, err = v.authenticate(raw, c.began); err != nil {
		return err
	}
	c.identify(c.token.claims)
	if !c.claims.AllowsIP(client) {
		return refusal.ErrClientIP
	}
	if c.token.limits != nil && c.token.issuer.Budgets == nil {
		return refusal.ErrLimits
	}
	// Only now, so that whoever has no token learns nothing of the routes.
	return c.findRoute(r, path, query)
}

func (c *call) identify(claims *token.Claims) {
	c.claims = claims
	c.record.Key, c.record.Identity, c.record.Team = claims.ClientID, claims.Subject, claims.Team
	c.record.Grant, c.record.Token = claims.Grant, claims.ID
}

func (c *call) findRoute(r *http.Request, path, query string) error {
	m, allow, ok := route.Find(r.Method, path)
	if !ok {
		if allow != "" {
			return &refusal.Denial{Is: refusal.ErrMethod, Allow: allow}
		}
		return refusal.ErrNotFound
	}
	c.route, c.record.Route, c.record.Action = m, m.Name(), m.Action
	if c.named = m.Model; c.named != "" {
		c.record.Model = c.named // Of a path, so it is a valid name.
	}
	if err := c.judgeQuery(query); err != nil {
		return err
	}
	switch {
	case m.Members == nil && r.ContentLength != 0 && !m.Socket:
		return refusal.ErrUnwanted // It would be waited for, to no end.
	case m.Socket != (r.Header["Upgrade"] != nil), m.Socket && !isHandshake(r):
		return refusal.ErrUpgrade // Frames behind it would pass unjudged.
	}
	return nil
}

// judgeQuery keeps the query for the upstream: what the route allows, each
// parameter once.
func (c *call) judgeQuery(query string) error {
	seen := map[string]string{}
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		_, again := seen[name]
		if ok := c.route.Query[name]; query != "" && (ok == nil || again || !ok(value)) {
			return refusal.ErrQuery
		}
		seen[name] = value
	}
	for _, name := range c.route.Required {
		if _, given := seen[name]; !given {
			return refusal.ErrQuery
		}
	}
	if c.query = query; c.route.Carrier == route.InQuery {
		c.named = seen["model"]
	}
	return nil
}

// findModel finds the one name of the model that the request means, and who
// serves it. That nobody does is said once the scope allows it.
func (v *Verifier) findModel(c *call) error {
	r := c.route.Route
	switch {
	case r.Carrier == route.Nowhere && !r.Admin(), r.Carrier == route.InFrame && c.named == "":
		return nil // There is none, or not yet.
	case c.named == "" && (r.Bound || r.Admin()):
		c.upstream, c.model = v.upstreams.Bound(r)
	case c.named != "" && !token.ValidModel(c.named):
		return refusal.ErrModelName
	default:
		c.upstream, c.model = v.upstreams.Serving(c.named)
	}
	switch {
	case c.model == "" && r.Carrier == route.Nowhere:
		return refusal.ErrNotServed // Nobody has opened it, or more than one.
	case c.model == "":
		return refusal.ErrNoModel
	}
	c.record.Model = c.model
	if inRequest := r.Carrier == route.InPath || r.Carrier == route.InQuery; inRequest && c.doc.Disagrees(r, c.named) != "" {
		return refusal.ErrTwoModels
	}
	return nil
}

func (c *call) checkScope() error {
	switch {
	case c.model == "":
		return nil
	case c.ownRight():
		if slices.Contains(c.claims.Scope, token.Scope{Action: c.route.Action, Model: c.model}) {
			return nil
		}
	case c.route.AnyAction && c.claims.Scope.AllowModel(c.model), c.claims.Scope.Allow(c.route.Action, c.model):
		return nil
	}
	missing := token.Scope{Action: c.route.Action, Model: c.model}.String()
	return &refusal.Denial{Is: refusal.ErrScope, Scope: missing, Detail: missing}
}

// ownRight tells whether only the model's exact name in a scope will do.
func (c *call) ownRight() bool {
	return c.upstream != nil && c.upstream.Family.OwnRight != nil && c.upstream.Family.OwnRight(c.model)
}

// rewrite makes the body for the upstream, within the bounds of the token.
func (c *call) rewrite() (err error) {
	bounds := body.Bounds{Params: c.claims.Params, MaxOutput: c.spending.bound, ReportUsage: true}
	if c.upstream != nil {
		bounds.Cap = c.upstream.Family.Cap
	}
	stream, bounded := bounds.Bounds["stream"]
	switch {
	case c.route.Opaque && !c.claims.Params.IsZero():
		return &refusal.Denial{Is: refusal.ErrParam, Detail: "this endpoint's parameters can't be seen"}
	case c.route.Stream == route.Always && bounded && stream.Max < 1:
		return &refusal.Denial{Is: refusal.ErrParam, Detail: "this endpoint streams"}
	case c.route.Members == nil, c.route.Socket:
	case c.route.Carrier == route.InBody, c.route.Carrier == route.InForm:
		c.body, err = c.doc.Write(c.model, bounds)
	default:
		c.body, err = c.doc.Write("", bounds)
	}
	return err
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
	r.Body, r.ContentLength = http.NoBody, c.body.Len()
	r.Header.Del("Content-Length")
	if r.ContentLength > 0 {
		r.Body = c.body.Open()
		r.Header.Set("Content-Type", c.body.Type)
		r.Header.Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
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
		c.note(refusal.ErrInternal)
		if abort = w.status != 0; !abort {
			v.refuse(w, c, refusal.ErrInternal)
		}
	}
	if w.status == 0 {
		w.status, abort = refusal.ClientGone, true // Without a word, lest net/http says 200.
	}
	switch {
	case errors.Is(w.failed, refusal.ErrClientSlow), errors.Is(w.failed, refusal.ErrCutBudget):
		c.note(w.failed)
	case w.failed != nil:
		c.note(refusal.ErrClientGone)
	case abort:
		c.note(refusal.ErrAborted)
	}
	v.settle(c)
	c.record.Status, c.record.Bytes = w.status, w.bytes
	c.record.Millis = float64(v.c.Now().Sub(c.began).Microseconds()) / 1000
	v.records.keep(c.record)
	v.c.Metrics.end(&c.record)
	if c.ended != nil {
		c.ended()
	}
	if abort {
		panic(http.ErrAbortHandler)
	}
}
