package budget

import (
	"context"
	"fmt"
	"time"

	"github.com/hourpass/hourpass/internal/token"
)

// A Cost is what a call is expected to cost.
type Cost struct {
	Model  string // Empty: the call is to none.
	Input  int64  // Model tokens.
	Output int64  // At most.

	// Least is how small Output may become, where the budgets do not hold more:
	// Output itself if it must stay.
	Least int64
}

// amount is what such a call takes of a limit.
func (c *Cost) amount(l *limit, output int64) int64 {
	switch l.Quantity {
	case "tokens":
		return c.Input + output
	case "input_tokens":
		return c.Input
	case "output_tokens":
		return output
	}
	return 1 // A request, or a call at this moment.
}

// A Refusal says which limit a call is refused for.
type Refusal struct {
	Limit token.Limit
	Most  int64
	Left  int64         // Of it.
	Reset time.Duration // Until there is more. Zero: it can't be told.

	// Elsewhere says that what is missing is in other verifiers' hands: there may
	// be more in a moment.
	Elsewhere bool
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("the limit %s of %d is spent, but for %d", r.Limit.Name, r.Most, r.Left)
}

// A Reservation is what is reserved for one call. A nil one is of a call that
// nothing limits. It is for one goroutine.
type Reservation struct {
	// Output is how many tokens the answer may have.
	Output int64

	b     *Budgets
	cost  Cost
	parts []part
	space [4]part // For parts, mostly.
	over  bool
}

type part struct {
	l       *limit
	a       *account
	amount  int64
	waiting int64 // What more is waited for.
}

// tries bounds how often a call asks the ledger: what it was answered may be
// another's by the time it looks.
const tries = 10

// Reserve takes what a call may cost from all limits of its token that count it,
// or from none. It waits for the ledger where the leases do not hold enough. The
// error is a [*Refusal], or matches [ErrLost], [ErrFull] or ctx's.
func (b *Budgets) Reserve(ctx context.Context, s *Set, c Cost) (*Reservation, error) {
	if s == nil {
		return nil, nil
	}
	r := &Reservation{b: b, cost: c, Output: c.Output}
	r.parts = r.space[:0]
	now := b.c.Now()
	for _, l := range s.limits {
		if !l.Counts(c.Model) {
			continue
		}
		a, err := b.at(l, now)
		if err != nil {
			return nil, err
		}
		r.parts = append(r.parts, part{l: l, a: a})
	}
	if r.take(c.Output, now) == nil {
		return r, nil
	}
	if err := r.wait(ctx, c.Output, c.Least); err != nil {
		return nil, err
	}
	return r, nil
}

// take takes all parts for an answer of that many tokens beyond what they are, or
// none; then it returns the first that lacks something.
func (r *Reservation) take(output int64, now time.Time) (lacks *part) {
	for i := range r.parts {
		p := &r.parts[i]
		amount := r.further(p, output)
		if amount == 0 {
			continue
		}
		ok, low := p.a.take(amount, p.waiting, p.l.most, now)
		if !ok {
			r.untake(r.parts[:i], output)
			return p
		}
		p.waiting = 0
		if low {
			r.b.ask(p.a, 0)
		}
	}
	r.taken(output)
	return nil
}

// further is how much more of a limit an answer of that many tokens takes.
func (r *Reservation) further(p *part, output int64) int64 {
	return max(0, r.cost.amount(p.l, output)-p.amount)
}

// wait asks the ledger until an answer of output tokens is reserved for, or as
// many as there are, but at least least.
func (r *Reservation) wait(ctx context.Context, output, least int64) error {
	ctx, cancel := context.WithTimeout(ctx, r.b.c.Wait)
	defer cancel()
	defer r.unwait()
	for range tries {
		if r.b.failed.Load() {
			return r.unleased(output, least)
		}
		if p := r.short(least); p != nil {
			return r.refusal(p, r.b.c.Now())
		}
		if err := r.askAll(ctx, output); err != nil {
			return err
		}
		now := r.b.c.Now()
		fits, why := r.fits(output, now)
		if fits < max(least, min(output, 1)) {
			if r.b.failed.Load() {
				return r.unleased(output, least)
			}
			if !r.giveUp(least, now) {
				continue // Another call was faster; the ledger has more.
			}
			return why
		}
		if r.take(fits, now) == nil {
			return nil
		}
	}
	_, why := r.fits(output, r.b.c.Now())
	if why == nil {
		why = r.refusal(&r.parts[0], r.b.c.Now())
	}
	return why
}

// short is a part of which the ledger has said a moment ago that it has not what
// even the shortest answer needs.
func (r *Reservation) short(least int64) *part {
	now := r.b.c.Now()
	for i := range r.parts {
		p := &r.parts[i]
		if amount := r.further(p, least); amount > 0 && p.a.isShort(amount, p.l.most, now) {
			return p
		}
	}
	return nil
}

// giveUp tells whether there is not enough even for the shortest answer, by the
// ledger's word or the token's own limit, and gives back what is in hand of that.
func (r *Reservation) giveUp(least int64, now time.Time) (short bool) {
	for i := range r.parts {
		p := &r.parts[i]
		amount := r.further(p, least)
		p.a.mu.Lock()
		denied := p.a.free(now) < amount && p.a.denied
		over := p.a.known()+amount > p.l.most
		p.a.mu.Unlock()
		if denied {
			p.a.lacks(amount, p.l.most, now)
			r.b.ask(p.a, 0)
		}
		short = short || denied || over
	}
	return short
}

// askAll asks about each part that lacks something, and waits for the answers.
func (r *Reservation) askAll(ctx context.Context, output int64) error {
	now := r.b.c.Now()
	r.unwait()
	for i := range r.parts {
		p := &r.parts[i]
		if p.amount == 0 {
			// Its window may have ended since.
			var err error
			if p.a, err = r.b.at(p.l, now); err != nil {
				return err
			}
		}
		amount := r.further(p, output)
		p.a.mu.Lock()
		enough := p.a.free(now) >= amount
		p.a.most = max(p.a.most, p.l.most)
		p.a.mu.Unlock()
		if enough {
			continue
		}
		p.waiting = amount
		select {
		case <-r.b.ask(p.a, amount):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrLost, ctx.Err())
		}
	}
	return nil
}

// unwait ends the wait for what is taken by now, or is not to be had.
func (r *Reservation) unwait() {
	for i := range r.parts {
		p := &r.parts[i]
		if p.waiting > 0 {
			p.a.mu.Lock()
			p.a.waiting -= p.waiting
			p.a.mu.Unlock()
			p.waiting = 0
		}
	}
}

// fits is how long an answer may be, up to output, by what is in hand; or below 0,
// and why. Where it is shortened, why says by which limit.
func (r *Reservation) fits(output int64, now time.Time) (fits int64, why error) {
	fits = output
	for i := range r.parts {
		p := &r.parts[i]
		p.a.mu.Lock()
		free := min(p.a.free(now), p.l.most-p.a.known())
		p.a.mu.Unlock()
		free += p.amount
		most := output
		switch p.l.Quantity {
		case "tokens":
			most = free - r.cost.Input
		case "output_tokens":
			most = free
		default:
			if free < r.cost.amount(p.l, 0) {
				most = -1
			}
		}
		if most < fits {
			fits, why = most, r.refusal(p, now)
		}
	}
	return fits, why
}

// unleased reserves of the allowances, while the ledger is lost: for as long an
// answer as they have room for.
func (r *Reservation) unleased(output, least int64) error {
	now := r.b.c.Now()
	for ; ; output = max(output/2, least) {
		if r.takeUnleased(output, now) {
			return nil
		}
		if output <= max(least, 1) {
			return ErrLost
		}
	}
}

func (r *Reservation) takeUnleased(output int64, now time.Time) bool {
	for i := range r.parts {
		p := &r.parts[i]
		amount := r.further(p, output)
		if amount == 0 {
			continue
		}
		if ok, _ := p.a.take(amount, 0, p.l.most, now); !ok && !p.a.takeUnleased(amount, p.l.most, r.b.c.Allowance, now) {
			r.untake(r.parts[:i], output)
			return false
		}
	}
	r.taken(output)
	return true
}

// untake gives back what was taken of parts for a longer answer.
func (r *Reservation) untake(parts []part, output int64) {
	for i := range parts {
		p := &parts[i]
		p.a.settle(r.further(p, output), 0)
	}
}

// taken notes what was taken of all parts.
func (r *Reservation) taken(output int64) {
	for i := range r.parts {
		r.parts[i].amount += r.further(&r.parts[i], output)
	}
	r.Output = output
}

func (r *Reservation) refusal(p *part, now time.Time) *Refusal {
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	f := &Refusal{Limit: p.l.Limit, Most: p.l.most, Left: p.left(), Elsewhere: p.a.held > 0}
	if !p.a.end.IsZero() {
		f.Reset = max(0, p.a.end.Sub(now))
	}
	return f
}

// left is what is left of the limit, as far as is known, with the account's mu
// held. What others have in hand is not spent.
func (p *part) left() int64 { return max(0, p.l.most-(p.a.known()-p.a.held)) }

// Extend has the answer be longer by so many tokens, and tells whether it may be.
// It waits for the ledger if it must.
func (r *Reservation) Extend(ctx context.Context, tokens int64) error {
	if r == nil || r.over {
		return nil
	}
	output := r.Output + tokens
	if r.take(output, r.b.c.Now()) == nil {
		return nil
	}
	return r.wait(ctx, output, r.Output+1)
}

// Settle puts what the call did cost in the place of what was reserved. Only the
// first Settle or Release counts.
func (r *Reservation) Settle(input, output int64) {
	if r == nil || r.over {
		return
	}
	r.over = true
	did := Cost{Input: input, Output: output}
	for i := range r.parts {
		p := &r.parts[i]
		spent := int64(0)
		if p.l.Window != "" {
			spent = did.amount(p.l, output)
		}
		p.a.settle(p.amount, spent)
	}
}

// Release gives back what was reserved, for a call that was not made.
func (r *Reservation) Release() {
	if r == nil || r.over {
		return
	}
	r.over = true
	for i := range r.parts {
		r.parts[i].a.settle(r.parts[i].amount, 0)
	}
}

// A State is how a limit stands, for the client to know.
type State struct {
	Limit token.Limit
	Most  int64
	Left  int64
	Reset time.Duration // Zero: it has no end.
}

// States are those of the limits that count the call, with what it reserves taken
// off.
func (r *Reservation) States() []State {
	if r == nil {
		return nil
	}
	now := r.b.c.Now()
	states := make([]State, len(r.parts))
	for i := range r.parts {
		p := &r.parts[i]
		states[i] = State{Limit: p.l.Limit, Most: p.l.most}
		if !p.a.end.IsZero() {
			states[i].Reset = max(0, p.a.end.Sub(now))
		}
		p.a.mu.Lock()
		states[i].Left = p.left()
		p.a.mu.Unlock()
	}
	return states
}
