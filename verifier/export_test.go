package verifier

import (
	"context"
	"net/http"

	"github.com/hourpass/hourpass/internal/audit"
)

// Pull asks once, without Run's pace.
func (r *Revocations) Pull(ctx context.Context) error { return r.pull(ctx) }

// Decide takes the steps of a decision alone: nothing is forwarded, answered or
// written down.
func (v *Verifier) Decide(w http.ResponseWriter, r *http.Request) error {
	c := &call{began: v.c.Now(), client: r.Context(), unread: r}
	c.record = audit.Record{Time: c.began, Decision: audit.NewID(), Event: "call", Outcome: audit.Deny}
	defer c.doc.Close()
	return v.decide(&answer{ResponseWriter: w, decision: c.record.Decision}, r, c)
}

// DecideAndSettle is Decide, for a call that then cost ten tokens.
func (v *Verifier) DecideAndSettle(w http.ResponseWriter, r *http.Request) error {
	c := &call{began: v.c.Now(), client: r.Context(), unread: r}
	c.record = audit.Record{Time: c.began, Decision: audit.NewID(), Event: "call", Outcome: audit.Deny}
	defer c.doc.Close()
	err := v.decide(&answer{ResponseWriter: w, decision: c.record.Decision}, r, c)
	c.tellLimits(w.Header())
	c.spending.limits.Settle(5, 5)
	return err
}
