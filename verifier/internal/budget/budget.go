// Package budget holds calls to the limits of their tokens: it reserves what a
// call may cost before it is made, and settles what it did cost after.
//
// What may be spent is the ledger's to know. This package has leases of it, one
// for each budget that is in use here, so that a call asks nobody: [Budgets.Run]
// renews them, larger where more is spent. A call waits for the ledger only where
// the lease does not hold what it needs.
//
// It refuses to know requests and answers: the caller says what a call may cost
// and what it did. Start with [Budgets.Reserve]; account.go is the arithmetic of
// a lease, sync.go the talk with the ledger.
package budget

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/token"
)

// Config is what budgets are made from. Engine is required; the zero value of
// every other field is its default.
type Config struct {
	// Engine counts for all verifiers.
	Engine ledger.Engine

	// Lease is how long what is in hand here is kept from others, should this
	// verifier die: then it comes back. Zero means 30 s.
	Lease time.Duration

	// Wait is how long a call may wait for the ledger. Zero means 2 s.
	Wait time.Duration

	// Allowance is what share of each limit may be spent, once in its window, while
	// the ledger is lost and the lease is over: 0.05 is a twentieth. Zero: nothing,
	// calls are refused.
	Allowance float64

	// MaxAccounts bounds how many budgets are known at a time, about 500 bytes each.
	// Zero means 1 million. When there are more, calls that need another are
	// refused.
	MaxAccounts int

	Log *slog.Logger     // Nil: none.
	Now func() time.Time // Nil means [time.Now].
}

// Defaults of [Config].
const (
	defaultLease       = 30 * time.Second
	defaultWait        = 2 * time.Second
	defaultMaxAccounts = 1_000_000
	minLease           = time.Second
)

var (
	// ErrLost means that the ledger can't be asked, and nothing may be spent
	// without.
	ErrLost = errors.New("the ledger of budgets can't be reached")

	// ErrFull means that no further budget can be kept.
	ErrFull = errors.New("there are too many budgets in use")
)

// Budgets are those in use by one verifier. They are safe for concurrent use.
type Budgets struct {
	c      Config
	holder string

	mu       sync.RWMutex
	accounts map[string]*account

	queue  queue
	looked []*account  // Of the last round, for the next.
	failed atomic.Bool // The last question to the ledger had no answer.
}

// New checks c. It starts nothing.
func New(c Config) (*Budgets, error) {
	switch {
	case c.Engine == nil:
		return nil, errors.New("keeping budgets: there is no ledger")
	case c.Lease != 0 && (c.Lease < minLease || c.Lease > ledger.MaxLease):
		return nil, fmt.Errorf("keeping budgets: a lease is from %s to %s long", minLease, ledger.MaxLease)
	case c.Allowance < 0 || c.Allowance > 1:
		return nil, errors.New("keeping budgets: the allowance is not between 0 and 1")
	case c.Wait < 0 || c.MaxAccounts < 0:
		return nil, errors.New("keeping budgets: a bound is negative")
	}
	if c.Lease == 0 {
		c.Lease = defaultLease
	}
	if c.Wait == 0 {
		c.Wait = defaultWait
	}
	if c.MaxAccounts == 0 {
		c.MaxAccounts = defaultMaxAccounts
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Budgets{c: c, holder: rand.Text(), accounts: map[string]*account{}, queue: newQueue()}, nil
}

// A Set is the limits of one token, ready for use. It is shared by its calls.
type Set struct{ limits []*limit }

// limit is one limit, with who shares it and where it is counted now.
type limit struct {
	*budget
	most int64
	now  atomic.Pointer[account]
}

// budget is what stays the same from window to window.
type budget struct {
	token.Limit
	issuer, sharer string
}

// NewSet returns the limits of a token, nil if it has none.
func NewSet(c *token.Claims) (*Set, error) {
	if len(c.Limits) == 0 {
		return nil, nil
	}
	s := &Set{}
	for name, most := range c.Limits {
		l, err := token.ParseLimit(name)
		if err != nil {
			return nil, err
		}
		s.limits = append(s.limits, &limit{budget: &budget{l, c.Issuer, l.SharerOf(c)}, most: most})
	}
	return s, nil
}

// Counts tells whether a call to the model spends of any limit of those
// quantities; of none named, of any at all.
func (s *Set) Counts(model string, quantities ...string) bool {
	if s == nil {
		return false
	}
	return slices.ContainsFunc(s.limits, func(l *limit) bool {
		return l.Counts(model) && (len(quantities) == 0 || slices.Contains(quantities, l.Quantity))
	})
}

// ByModel tells whether any of the limits counts the calls to some models only.
func (s *Set) ByModel() bool {
	return slices.ContainsFunc(s.limits, func(l *limit) bool { return l.Model != "" })
}

// at returns the account that the limit is counted in now.
func (b *Budgets) at(l *limit, now time.Time) (*account, error) {
	if a := l.now.Load(); a != nil && a.covers(now) {
		return a, nil
	}
	a, err := b.account(l.budget, now)
	if err == nil {
		l.now.Store(a)
	}
	return a, err
}

// account returns the one of the budget's window at a time.
func (b *Budgets) account(of *budget, at time.Time) (*account, error) {
	start, end := of.Span(at)
	name := ledger.Name(of.issuer, &of.Limit, of.sharer, start)
	b.mu.RLock()
	a := b.accounts[name]
	b.mu.RUnlock()
	if a != nil {
		return a, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.accounts[name]; a != nil {
		return a, nil
	}
	if len(b.accounts) >= b.c.MaxAccounts {
		return nil, ErrFull
	}
	a = &account{of: of, name: name, start: start, end: end, asked: make(chan struct{})}
	b.accounts[name] = a
	return a, nil
}
