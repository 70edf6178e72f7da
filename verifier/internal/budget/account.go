package budget

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/token"
)

// account is one budget within one window, as far as it is in hand here.
type account struct {
	of         *budget
	name       string
	start, end time.Time // Zero: it never ends.

	mu       sync.Mutex
	hold     int64 // What may be spent beyond told, until the lease is over.
	until    time.Time
	told     int64 // What the ledger knows of spent.
	spent    int64 // By calls that were settled; it only grows.
	reserved int64 // For calls under way.
	waiting  int64 // What calls that wait need.
	most     int64 // The limit, as the tokens since the last question have it.
	on       bool  // It stands in the queue.

	allSpent, held int64         // By all, and in others' hands, at the last answer.
	asking, needed int64         // What was said to be spent and needed, in the question under way.
	denied         bool          // The last answer was less than what was needed.
	askedAt        time.Time     // When that was put.
	asked          chan struct{} // Closed when the next question is answered.
	answering      chan struct{} // Closed when the one under way is.

	short    time.Time // Until when calls that need as much as lacking are refused unasked,
	lacking  int64     // where their limit is not
	shortFor int64     // higher than this.

	drawn    int64   // Reserved since the last question.
	rate     float64 // Reserved per second, of late.
	last     int64   // The largest of late.
	lastAt   time.Time
	unleased int64 // Spent of the allowance for a lost ledger.

	gone atomic.Bool // It is forgotten: another may have its name.
}

// covers tells whether calls of now count here.
func (a *account) covers(now time.Time) bool {
	return !a.gone.Load() && (a.end.IsZero() || now.Before(a.end) && !now.Before(a.start))
}

// free is what may be reserved at now, with a.mu held. It is below zero after
// more was spent than was reserved.
func (a *account) free(now time.Time) int64 {
	if !now.Before(a.until) || a.gone.Load() {
		return 0
	}
	return a.hold - (a.spent - a.told) - a.reserved
}

// known is what is spent of the budget, or may be any moment, as far as is known
// here; with a.mu held.
func (a *account) known() int64 {
	return a.allSpent + a.held + (a.spent - a.told) + a.reserved
}

// take reserves an amount of what is in hand, and tells whether the lease wants
// to be renewed: it has become small. most is the limit of the call's own token,
// which may be lower than that of others. waited is what the call has waited for:
// once reserved it is not to be asked for a second time.
func (a *account) take(amount, waited, most int64, now time.Time) (ok, low bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.most = max(a.most, most)
	free := a.free(now)
	if amount > free || a.known()+amount > most {
		return false, false
	}
	a.waiting -= waited
	a.reserve(amount, now)
	return true, !a.on && free-amount < a.target(now)/2
}

func (a *account) reserve(amount int64, now time.Time) {
	a.reserved += amount
	a.lastAt = now
	if a.of.Window == "" {
		a.last = max(a.last, a.reserved) // What counts is how many there are at one moment.
		return
	}
	a.drawn += amount
	a.last = max(a.last, amount)
}

// takeUnleased reserves an amount of the allowance for a lost ledger.
func (a *account) takeUnleased(amount, most int64, share float64, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	allowance := int64(float64(most) * share)
	used := a.unleased
	if a.of.Window == "" {
		used = a.reserved // Calls at one moment: what ended is there again.
	}
	if used+amount > allowance || a.known()+amount > most {
		return false
	}
	a.unleased += amount
	a.reserve(amount, now)
	return true
}

// lacks notes that the ledger, which was asked, has not as much as a call needs.
// What is in hand is of no use then, and goes back: others may have the rest.
func (a *account) lacks(amount, most int64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.short, a.lacking, a.shortFor = now.Add(patience), amount, most
	a.rate, a.last, a.lastAt = 0, 0, time.Time{}
}

// isShort tells whether the ledger has said a moment ago that it has not as much.
func (a *account) isShort(amount, most int64, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return now.Before(a.short) && amount >= a.lacking && most <= a.shortFor
}

// settle puts what was spent in the place of what was reserved.
func (a *account) settle(reserved, spent int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reserved -= reserved
	if spent < reserved {
		a.short = time.Time{} // There is more in hand than was known.
	}
	a.spent = min(a.spent+spent, token.MaxLimit)
}

// How much is asked for in advance.
const (
	memory = 30 * time.Second // Over which the rate is an average, about.
	idle   = 60 * time.Second // After which nothing is held in advance.
	ahead  = 2                // Times what is reserved until the next renewal, about.

	// patience is for how long the ledger is not asked again for what it has not:
	// who has spent a budget and goes on must not keep it busy.
	patience = 200 * time.Millisecond
)

// target is what should be in hand for calls to come, with a.mu held.
func (a *account) target(now time.Time) int64 {
	if a.lastAt.IsZero() || now.Sub(a.lastAt) > idle {
		return 0
	}
	return max(a.last, int64(a.rate))
}

// claim is the question about the account, with a lease of that length. What is
// given back by it can't be reserved from here on.
func (a *account) claim(now time.Time, lease time.Duration) ledger.Claim {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.observe(now, lease)
	target := a.target(now)
	// What calls wait for is kept as well: some may be there, and not taken yet.
	keep := min(max(a.free(now), 0), target+a.waiting)
	a.hold = (a.spent - a.told) + a.reserved + keep
	a.asking, a.needed, a.askedAt, a.on = a.spent, a.reserved+max(keep, a.waiting), now, false
	a.answering, a.asked = a.asked, make(chan struct{})
	need := a.needed
	c := ledger.Claim{
		Account: a.name, Ends: a.end, Limit: a.most, Spent: a.spent,
		Need: min(need, token.MaxLimit), Want: min(max(need, a.reserved+a.waiting+target), token.MaxLimit),
	}
	return c
}

// observe brings the rate up to date, with a.mu held. It is kept as what will be
// reserved until the next renewal but one.
func (a *account) observe(now time.Time, lease time.Duration) {
	passed := now.Sub(a.askedAt)
	if a.askedAt.IsZero() || passed <= 0 {
		passed = time.Second
	}
	perSpan := float64(a.drawn) / max(passed.Seconds(), 1) * (ahead * renewal(lease)).Seconds()
	weight := min(1, passed.Seconds()/memory.Seconds())
	if perSpan > a.rate {
		weight = max(weight, 0.5) // Up at once, down in time.
	}
	a.rate += (perSpan - a.rate) * weight
	a.drawn, a.last = 0, a.last-int64(float64(a.last)*weight/4)
}

// answer takes the ledger's, to the question under way.
func (a *account) answer(s ledger.Share, until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told, a.hold, a.until = a.asking, s.Hold, until
	a.allSpent, a.held, a.denied = s.Spent, s.Held, s.Hold < a.needed
	close(a.answering)
	a.answering = nil
}

// unanswered ends the wait for an answer that does not come. What was spent stays
// to be told.
func (a *account) unanswered() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.answering)
	a.answering = nil
}

// due tells what the account wants of the next round: a question, or nothing ever
// again. Until its window is over it must not be forgotten, as what was spent is
// told as one sum.
func (a *account) due(now time.Time, lease time.Duration) (ask, forget bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.on || a.answering != nil || a.waiting > 0 {
		return false, false
	}
	over := !a.end.IsZero() && !now.Before(a.end)
	idle := a.end.IsZero() && now.Sub(a.lastAt) > idle
	switch {
	case a.spent != a.told || a.reserved > 0 || a.hold > 0 && !over:
		return over || now.Sub(a.askedAt) >= renewal(lease), false
	case over || idle:
		forget = now.Sub(a.askedAt) > lease
		a.gone.Store(forget)
	}
	return false, forget
}

// renewal is how often a lease is renewed.
func renewal(lease time.Duration) time.Duration { return lease / 3 }
