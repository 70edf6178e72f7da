package ledger

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Memory keeps accounts in this process: for one verifier alone, and for tests.
// They are lost with it. Make one with [NewMemory].
type Memory struct {
	now func() time.Time

	mu       sync.Mutex
	accounts map[string]*account
	swept    time.Time
}

// account is one budget in one window.
type account struct {
	spent   int64
	ends    time.Time // Zero: never.
	holders map[string]*lease
}

// lease is what one holder has in hand.
type lease struct {
	spent int64 // As it told last.
	hold  int64
	until time.Time
}

// ForgetAfter is how long an account outlives its window, for what is told late.
const ForgetAfter = time.Hour

// NewMemory returns an empty ledger. Nil means [time.Now].
func NewMemory(now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	return &Memory{now: now, accounts: map[string]*account{}}
}

// Sync is as [Engine] says.
func (m *Memory) Sync(_ context.Context, holder string, ttl time.Duration, claims []Claim) ([]Share, error) {
	if err := Check(holder, ttl, claims); err != nil {
		return nil, err
	}
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep(now)
	shares := make([]Share, len(claims))
	for i := range claims {
		c := &claims[i]
		a := m.accounts[c.Account]
		if a == nil {
			a = &account{ends: c.Ends, holders: map[string]*lease{}}
			m.accounts[c.Account] = a
		}
		l := a.holders[holder]
		if l == nil {
			if len(a.holders) >= MaxHolders {
				return nil, fmt.Errorf("%w: the account has too many holders", ErrClaim)
			}
			l = &lease{}
			a.holders[holder] = l
		}
		a.spent += max(0, c.Spent-l.spent)
		held := a.held(holder, now)
		*l = lease{max(l.spent, c.Spent), Hold(c, a.spent, held), now.Add(ttl)}
		shares[i] = Share{l.hold, a.spent, held}
	}
	return shares, nil
}

// held is what all but one holder have in hand.
func (a *account) held(but string, now time.Time) (sum int64) {
	for name, l := range a.holders {
		if name != but && now.Before(l.until) {
			sum += l.hold
		}
	}
	return sum
}

// sweep forgets the accounts whose time is over, once a minute.
func (m *Memory) sweep(now time.Time) {
	if now.Sub(m.swept) < time.Minute {
		return
	}
	m.swept = now
	for name, a := range m.accounts {
		if !a.ends.IsZero() {
			if now.Sub(a.ends) > ForgetAfter {
				delete(m.accounts, name)
			}
			continue
		}
		for holder, l := range a.holders {
			if now.Sub(l.until) > ForgetAfter {
				delete(a.holders, holder)
			}
		}
		if len(a.holders) == 0 && a.spent == 0 {
			delete(m.accounts, name)
		}
	}
}

// Balances is as [Book] says.
func (m *Memory) Balances(_ context.Context, accounts []string) ([]Balance, error) {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	balances := make([]Balance, len(accounts))
	for i, name := range accounts {
		if a := m.accounts[name]; a != nil {
			balances[i] = Balance{a.spent, a.held("", now)}
		}
	}
	return balances, nil
}
