package verifier

import (
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// retryAfter is how long a client had best wait while we can't decide.
const retryAfter = "5"

// refuse answers with err, in the dialect of the route, and notes it.
func (v *Verifier) refuse(w *answer, c *call, err error) {
	r, d := refusal.Of(err)
	c.note(err)
	if r.Status >= http.StatusInternalServerError {
		v.c.Log.LogAttrs(c.client, slog.LevelWarn, "a call failed", slog.String("decision", c.record.Decision),
			slog.String("route", c.record.Route), slog.String("upstream", c.record.Upstream), slog.String("err", err.Error()))
	}
	message := r.Message(d)
	body := c.family().Refusal(r.Status, r.Code, message, c.record.Decision)
	switch {
	case r.Status == refusal.ClientGone:
		return // Nobody listens.
	case c.keeper.stop():
		_, _ = w.Write(c.family().Event(body)) // The client may have gone; nothing is left to do.
		return
	case w.status != 0:
		return // The answer has begun.
	}
	h := w.Header()
	clear(h) // Of what an upstream or a handler in this process had begun to say.
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(requestID, c.record.Decision)
	if challenge := r.Challenge(d, message); challenge != "" {
		h.Set("WWW-Authenticate", challenge)
	}
	if d.Allow != "" {
		h.Set("Allow", d.Allow)
	}
	rateLimit(h, d.Limits)
	switch {
	case d.RetryAfter > 0:
		h.Set("Retry-After", strconv.FormatInt(int64((d.RetryAfter+time.Second-1)/time.Second), 10))
	case r.Status == http.StatusServiceUnavailable:
		h.Set("Retry-After", retryAfter)
	case r.Err == token.ErrExpired: //nolint:errorlint // The row itself, not a chain.
		// The SDKs send the call once more then, with what may be a fresh token.
		h.Set("X-Should-Retry", "true")
	}
	if r.Err == refusal.ErrTarget || !v.drained(w, c.unread) { //nolint:errorlint // The row itself, not a chain.
		w.last = true // What follows on it can't be trusted to be a request.
	}
	w.WriteHeader(r.Status)
	_, _ = w.Write(body) // The client may have gone; nothing is left to do.
}

// note writes down why a call did not end well. The first reason stands: later
// ones follow from it.
func (c *call) note(err error) {
	if c.record.Reason == "" {
		r, _ := refusal.Of(err)
		c.record.Reason = r.Reason
	}
}

func (c *call) family() *route.Family {
	if c.route.Route != nil {
		return c.route.Family
	}
	return route.Families[0]
}
