package verifier

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/usage"
	"github.com/hourpass/hourpass/verifier/internal/body"
	"github.com/hourpass/hourpass/verifier/internal/budget"
	"github.com/hourpass/hourpass/verifier/internal/meter"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
	"github.com/hourpass/hourpass/verifier/internal/route"
)

// Budgets hold calls to the limits of their tokens. [Budgets.Run] must run beside
// the verifier.
type Budgets = budget.Budgets

// BudgetsConfig is what [NewBudgets] makes them from.
type BudgetsConfig = budget.Config

// NewBudgets checks c. It starts nothing.
func NewBudgets(c BudgetsConfig) (*Budgets, error) { return budget.New(c) }

// UsageSink takes what each call cost. It is asked once per call, at its end, and
// must not wait.
type UsageSink interface {
	Add(usage.Call) error
}

// spending is what a call costs: what is reserved for it, and what it turns out
// to be.
type spending struct {
	limits *budget.Reservation
	bound  int64 // How long each answer is let be; 0: as the request says.

	metered bool // The answer may not become longer than what is reserved.
	sent    bool // The upstream may have it.
	left    bool // It was not waited for.
	whole   bool // The answer came to its end.
	meter   *meter.Meter
}

// reserve takes what the call may cost from the limits of its token.
func (v *Verifier) reserve(c *call) error {
	set := c.token.limits
	if set == nil {
		return nil
	}
	tokens, output := set.Counts(c.model, "tokens", "input_tokens", "output_tokens"), set.Counts(c.model, "tokens", "output_tokens")
	switch {
	case c.elsewhere && (tokens || set.Counts(c.model, "concurrent") || c.model == "" && set.ByModel()), c.route.Socket && (tokens || c.model == "" && set.ByModel()):
		return refusal.ErrLimits // Nobody would count what it costs, or when it ends.
	case !tokens || c.route.Usage == (route.Usage{}) && c.route.Stream == route.Never:
		return v.take(c, budget.Cost{Model: c.model})
	}
	cost, answers, said := v.estimate(c)
	if err := v.take(c, cost); err != nil {
		return err
	}
	got := c.spending.limits.Output
	c.spending.metered = output && cost.Output > 0
	// An answer that can be cut is let go on, where nobody said how far: there may
	// be more to reserve then.
	if c.spending.metered && (got < cost.Output || !said && !c.streams()) {
		c.spending.bound = max(1, got/answers)
	}
	return nil
}

func (v *Verifier) take(c *call, cost budget.Cost) error {
	r, err := c.token.issuer.Budgets.Reserve(c.client, c.token.limits, cost)
	if err != nil {
		return spent(err)
	}
	c.spending.limits = r
	return nil
}

// streams tells whether the answer comes in pieces.
func (c *call) streams() bool {
	asked, given := c.doc.Flag("stream")
	switch c.route.Stream {
	case route.Always:
		return true
	case route.OnRequest:
		return asked
	case route.Unless:
		return asked || !given
	}
	return false
}

// estimate is what a call may cost at most, as far as that can be told before: of
// how many answers, and whether the request says how long they may be.
func (v *Verifier) estimate(c *call) (cost budget.Cost, answers int64, said bool) {
	cost = budget.Cost{Model: c.model, Input: c.doc.Input()}
	family, open := c.route.Family, int64(defaultMaxOutput)
	if c.upstream != nil {
		family, open = c.upstream.Family, c.upstream.MaxOutput
	}
	cost.Output, answers, said = c.doc.Output(family, open)
	if r, bounded := c.claims.Params.Bounds["max_tokens"]; bounded && float64(cost.Output) > r.Max*float64(answers) {
		cost.Output = int64(r.Max) * answers // It is brought down to that, or refused.
	}
	cost.Least = cost.Output
	if !said || c.claims.Params.Clamp {
		cost.Least = min(cost.Output, answers) // One token of each.
	}
	return cost, answers, said
}

// defaultMaxOutput is how long an answer is thought to be where nobody says.
const defaultMaxOutput = 4096

// spent turns what budgets say into what the client is told.
func spent(err error) error {
	var r *budget.Refusal
	switch {
	case errors.As(err, &r):
	case errors.Is(err, context.Canceled):
		return refusal.ErrClientGone
	case errors.Is(err, budget.ErrFull):
		return &refusal.Denial{Is: refusal.ErrLedger, Cause: err}
	default:
		return &refusal.Denial{Is: refusal.ErrLedger, Cause: err}
	}
	d := &refusal.Denial{Is: refusal.ErrBudget, Cause: err, Detail: fmt.Sprintf("%s of %d, of which %d is left", r.Limit.Name, r.Most, r.Left), RetryAfter: r.Reset}
	if isRate(r.Limit.Window) {
		d.Is = refusal.ErrRate
	}
	if d.RetryAfter == 0 || r.Elsewhere {
		d.Is, d.RetryAfter = refusal.ErrRate, time.Second // There may be more in a moment.
	}
	d.Limits = []refusal.Limit{{Name: r.Limit.Name, Most: r.Most, Left: r.Left, Window: window(r.Limit.Window), Reset: r.Reset}}
	return d
}

// isRate tells whether a window is so short that who waits for the next has lost
// little.
func isRate(window string) bool {
	return window == "" || window == "second" || window == "minute" || window == "hour"
}

// window is the length of a window, in seconds; of a month that of 30 days.
func window(name string) time.Duration {
	switch name {
	case "second":
		return time.Second
	case "minute":
		return time.Minute
	case "hour":
		return time.Hour
	case "day":
		return 24 * time.Hour
	case "month":
		return 30 * 24 * time.Hour
	}
	return 0
}

// tellLimits says in an answer's header how the call's limits stand.
func (c *call) tellLimits(h http.Header) {
	states := c.spending.limits.States()
	if len(states) == 0 {
		return
	}
	limits := make([]refusal.Limit, len(states))
	for i, s := range states {
		limits[i] = refusal.Limit{Name: s.Limit.Name, Most: s.Most, Left: s.Left, Window: window(s.Limit.Window), Reset: s.Reset}
	}
	rateLimit(h, limits)
}

// rateLimit sets the fields of draft-ietf-httpapi-ratelimit-headers-10: for each
// limit its quota and window, and what is left until when, in seconds.
func rateLimit(h http.Header, limits []refusal.Limit) {
	if len(limits) == 0 {
		return
	}
	policy, left := make([]byte, 0, 128), make([]byte, 0, 128)
	seconds := func(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
	for i, l := range limits {
		if i > 0 {
			policy, left = append(policy, ", "...), append(left, ", "...)
		}
		policy = strconv.AppendInt(append(append(append(policy, '"'), l.Name...), `";q=`...), l.Most, 10)
		if l.Window > 0 {
			policy = strconv.AppendInt(append(policy, ";w="...), seconds(l.Window), 10)
		}
		left = strconv.AppendInt(append(append(append(left, '"'), l.Name...), `";r=`...), l.Left, 10)
		if l.Reset > 0 {
			left = strconv.AppendInt(append(left, ";t="...), seconds(l.Reset), 10)
		}
	}
	h["Ratelimit-Policy"], h["Ratelimit"] = []string{string(policy)}, []string{string(left)}
}

// startMeter begins to read what an answer says of its cost. hide leaves out what
// the client did not ask to hear of it.
func (c *call) startMeter(status int, media string, hide bool) {
	if status >= http.StatusBadRequest {
		return
	}
	if c.route.Usage == (route.Usage{}) {
		return
	}
	form := meter.Whole
	switch media {
	case mediaEvents:
		form = meter.Events
	case mediaLines:
		form = meter.Lines
	}
	c.spending.meter = meter.New(c.route.Route, form, meter.Options{Hide: hide, Hold: c.spending.metered})
}

// extension is how much more is reserved at a time for an answer that goes on.
const extension = 256

// Of an answer that may be cut, how much is read at a time: not many more tokens
// than are left.
const (
	roomPerToken = 16 // Bytes: no event of one is as short.
	leastRoom    = 512
)

func (s *spending) room(most int) int {
	if !s.metered || s.meter == nil {
		return most
	}
	left := s.limits.Output - s.meter.Counted()
	return int(min(int64(most), max(leastRoom, left*roomPerToken)))
}

// overrun tells whether an answer has become longer than the budgets have room for.
func (c *call) overrun() error {
	s := &c.spending
	if !s.metered || s.meter == nil {
		return nil
	}
	if counted := s.meter.Counted(); counted <= s.limits.Output {
		return nil
	}
	err := s.limits.Extend(c.life, max(extension, s.meter.Counted()-s.limits.Output))
	if err != nil && c.life.Err() == nil {
		return refusal.ErrCutBudget
	}
	return nil // If its life is over, the next read says so.
}

// settle puts what the call did cost in the place of what was reserved, and
// writes it down.
func (v *Verifier) settle(c *call) {
	s := &c.spending
	if !s.sent {
		s.limits.Release()
		return
	}
	cost := usage.Call{Time: c.began, Key: c.claims.ClientID, Identity: c.claims.Subject, Team: c.claims.Team, Grant: c.claims.Grant, Model: c.model}
	switch {
	case c.route.Usage == (route.Usage{}):
	case s.meter != nil:
		cost.Input, cost.Output, cost.Cached, cost.Source = s.cost(&c.doc)
	case s.left: // It may have been at work, and may be still.
		cost.Input, cost.Output, cost.Source = c.doc.Input(), s.reserved(), usage.Estimated
	}
	s.limits.Settle(cost.Input, cost.Output)
	c.record.Input, c.record.Output, c.record.Cached, c.record.Usage = cost.Input, cost.Output, cost.Cached, cost.Source
	if v.c.Usage == nil || c.record.Outcome != audit.Allow {
		return
	}
	if err := v.c.Usage.Add(cost); err != nil {
		v.c.Log.Error("noting what a call cost", "decision", c.record.Decision, "err", err.Error())
	}
}

// cost is what the model server said that the call cost, else what was counted,
// else what was reserved. It is never nothing for an answer that was made.
func (s *spending) cost(doc *body.Doc) (input, output, cached int64, source string) {
	s.meter.End()
	u, hasInput, hasOutput := s.meter.Usage()
	counted := s.meter.Counted()
	if !s.whole && counted > u.Output {
		hasOutput = false // It was reported on the way, and more came since.
	}
	if !hasInput {
		u.Input = doc.Input()
	}
	switch {
	case hasOutput && hasInput, hasInput && s.whole && counted == 0: // Of no text: embeddings.
		return u.Input, u.Output, u.Cached, usage.Reported
	case hasOutput:
		return u.Input, u.Output, u.Cached, usage.Estimated
	case counted > 0 || hasInput:
		return u.Input, counted, u.Cached, usage.Counted
	}
	return u.Input, s.reserved(), u.Cached, usage.Estimated
}

// reserved is how many tokens of output were reserved, 0 if nothing was.
func (s *spending) reserved() int64 {
	if s.limits == nil {
		return 0
	}
	return s.limits.Output
}
