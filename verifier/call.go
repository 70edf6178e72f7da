package verifier

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/target"
	"github.com/hourpass/hourpass/internal/token"
)

// call is one request on its way through.
type call struct {
	rec      audit.Record
	started  time.Time
	path     string // Canonical.
	query    string
	claims   *token.Claims
	route    *route
	model    string
	stream   bool   // The client asked for a streamed answer.
	body     []byte // What the upstream gets: ours, not the client's.
	upstream *upstream
	cancel   context.CancelCauseFunc // Ends the upstream's part.
}

// serve judges a call, answers or forwards it, and records it: once each.
func (v *Verifier) serve(rw http.ResponseWriter, r *http.Request) {
	now := v.Now()
	c := &call{started: now, rec: audit.Record{Time: now, Decision: audit.NewID(), Event: "call", ClientIP: clientAddr(r).String()}}
	w := &answer{ResponseWriter: rw, control: http.NewResponseController(rw)}
	ctx, cancel := context.WithCancelCause(r.Context())
	c.cancel = cancel
	defer func() {
		cancel(nil)
		problem := recover()
		if problem != nil && problem != http.ErrAbortHandler { //nolint:errorlint // Panics are compared as they are.
			v.Log.Error("panic in a call", "decision", c.rec.Decision, "panic", problem)
			c.rec.Outcome, c.rec.Reason = audit.Deny, "error"
			if w.status == 0 {
				v.refuse(w, c, errInternal)
				problem = nil
			} else {
				problem = http.ErrAbortHandler
			}
		}
		v.record(c, w)
		if problem != nil {
			panic(problem)
		}
	}()
	r = r.WithContext(ctx)
	if err := v.judge(c, w, r); err != nil {
		v.refuse(w, c, err)
		return
	}
	c.rec.Outcome = audit.Allow
	if err := c.route.answer(v, c, w, r); err != nil {
		v.refuse(w, c, err)
	}
}

// judge takes the steps of a decision, the cheapest first. Nothing of the call
// has left for an upstream when it returns.
func (v *Verifier) judge(c *call, w http.ResponseWriter, r *http.Request) (err error) {
	if err := v.Ready(); err != nil {
		return err
	}
	if c.path, c.query, err = target.Split(r.RequestURI); err != nil {
		return err
	}
	if c.claims, err = v.authenticate(r); err != nil {
		return err
	}
	c.rec.Key, c.rec.Identity, c.rec.Team = c.claims.ClientID, c.claims.Subject, c.claims.Team
	c.rec.Grant, c.rec.Token = c.claims.Grant, c.claims.ID
	if r.Header.Get("Upgrade") != "" {
		return errUpgrade
	}
	if c.route, c.model, err = findRoute(r.Method, c.path); err != nil {
		return err
	}
	c.rec.Route, c.rec.Action = c.route.name, c.route.action
	if c.query != "" {
		return errQuery
	}
	if err := v.readBody(c, w, r); err != nil {
		return err
	}
	c.rec.Model = c.model
	return v.authorize(c)
}

// authorize holds the call to the token's scope and finds who answers it.
func (v *Verifier) authorize(c *call) (err error) {
	if c.route.carrier == carriesNone {
		return nil // Its answer is cut to what the token may use.
	}
	allowed := c.claims.Scope.Allow(c.route.action, c.model)
	if c.route.anyAction {
		allowed = c.claims.Scope.AllowModel(c.model)
	}
	if !allowed {
		return errScope
	}
	c.upstream, err = v.upstreamFor(c.model)
	return err
}

// record writes the decision down. While that fails, further calls are refused;
// each of them tries again.
func (v *Verifier) record(c *call, w *answer) {
	c.rec.Status, c.rec.Bytes = w.status, w.bytes
	c.rec.Millis = float64(v.Now().Sub(c.started).Microseconds()) / 1000
	if c.upstream != nil {
		c.rec.Upstream = c.upstream.Name
	}
	err := v.Audit.Append(context.Background(), c.rec) // The call's own context may have ended with it.
	if failed := err != nil; v.auditFailed.Swap(failed) != failed || failed {
		if failed {
			v.Log.Error("recording a decision", "decision", c.rec.Decision, "err", err.Error())
		} else {
			v.Log.Info("decisions are recorded again")
		}
	}
}

// clientAddr is the address of the peer; the zero address where it has none.
func clientAddr(r *http.Request) netip.Addr {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Addr().Unmap()
}

// answer is the way back to the client. It knows what was sent, and cuts off a
// client that does not take it.
type answer struct {
	http.ResponseWriter
	control *http.ResponseController
	status  int
	bytes   int64
}

// SlowClient is how long a client may take to accept one piece of an answer.
const SlowClient = time.Minute

// WriteHeader passes on the final status alone: what an upstream says before it
// (103 and others) carries headers that nobody looked through.
func (a *answer) WriteHeader(status int) {
	if status < http.StatusOK {
		return
	}
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	if err := a.control.SetWriteDeadline(time.Now().Add(SlowClient)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := a.ResponseWriter.Write(p)
	a.bytes += int64(n)
	return n, err
}

// Unwrap lets a ResponseController find the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
