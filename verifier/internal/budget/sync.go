package budget

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
)

// queue is the accounts that the ledger is to be asked about next.
type queue struct {
	mu   *sync.Mutex
	list []*account
	more chan struct{} // Has one element while the list has any.
}

func newQueue() queue { return queue{mu: &sync.Mutex{}, more: make(chan struct{}, 1)} }

// ask has the ledger asked about an account as soon as may be. With need, what a
// call needs, the channel tells when it was answered.
func (b *Budgets) ask(a *account, need int64) <-chan struct{} {
	a.mu.Lock()
	a.waiting += need
	asked, on := a.asked, a.on
	a.on = true
	a.mu.Unlock()
	if !on {
		b.queue.mu.Lock()
		b.queue.list = append(b.queue.list, a)
		b.queue.mu.Unlock()
		select {
		case b.queue.more <- struct{}{}:
		default:
		}
	}
	return asked
}

// take empties the queue, up to the bound of one question.
func (q *queue) take() []*account {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.list), ledger.MaxClaims)
	list := q.list[:n:n]
	if q.list = q.list[n:]; len(q.list) > 0 {
		select {
		case q.more <- struct{}{}:
		default:
		}
	} else {
		q.list = nil
	}
	return list
}

const (
	round    = 500 * time.Millisecond // How often leases are looked through.
	soon     = 2 * round              // How long before it begins a window is asked about.
	farewell = 2 * time.Second        // For the last word to the ledger.
)

// Run renews the leases until ctx ends; then it gives them back.
func (b *Budgets) Run(ctx context.Context) error {
	tick := time.NewTicker(round)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return b.end()
		case <-tick.C:
			b.look(b.c.Now())
		case <-b.queue.more:
			if b.failed.Load() {
				// Not at the pace of calls, while nobody answers.
				select {
				case <-ctx.Done():
					return b.end()
				case <-tick.C:
				}
			}
			_ = b.sync(ctx, b.queue.take(), b.c.Lease)
		}
	}
}

// look puts into the queue what is due, and forgets what is over.
func (b *Budgets) look(now time.Time) {
	b.mu.RLock()
	all := b.looked[:0]
	for _, a := range b.accounts {
		all = append(all, a)
	}
	b.mu.RUnlock()
	b.looked = all
	for _, a := range all {
		ask, forget := a.due(now, b.c.Lease)
		switch {
		case forget:
			b.mu.Lock()
			delete(b.accounts, a.name)
			b.mu.Unlock()
		case ask:
			b.ask(a, 0)
		}
		b.foresee(a, now)
	}
}

// foresee asks for the next window of a budget that is in use, so that its first
// call does not wait.
func (b *Budgets) foresee(a *account, now time.Time) {
	if a.end.IsZero() || a.end.Sub(now) > soon || !now.Before(a.end) {
		return
	}
	a.mu.Lock()
	rate, last, lastAt, most := a.rate, a.last, a.lastAt, a.most
	a.mu.Unlock()
	if lastAt.IsZero() || now.Sub(lastAt) > idle {
		return
	}
	next, err := b.account(a.of, a.end)
	if err != nil {
		return // The call that needs it will say so.
	}
	next.mu.Lock()
	fresh := next.askedAt.IsZero() && !next.on
	if fresh {
		next.rate, next.last, next.lastAt, next.most = rate, last, lastAt, most
	}
	next.mu.Unlock()
	if fresh {
		b.ask(next, 0)
	}
}

// sync puts one question to the ledger.
func (b *Budgets) sync(ctx context.Context, list []*account, lease time.Duration) error {
	if len(list) == 0 {
		return nil
	}
	now := b.c.Now()
	claims := make([]ledger.Claim, len(list))
	for i, a := range list {
		claims[i] = a.claim(now, b.c.Lease)
	}
	ctx, cancel := context.WithTimeout(ctx, b.c.Wait)
	defer cancel()
	shares, err := b.c.Engine.Sync(ctx, b.holder, lease, claims)
	if err == nil && len(shares) != len(claims) {
		err = fmt.Errorf("the ledger answered %d of %d claims", len(shares), len(claims))
	}
	if err != nil {
		if !b.failed.Swap(true) {
			b.c.Log.Error("asking the ledger of budgets", "err", err.Error())
		}
		for _, a := range list {
			a.unanswered()
			b.ask(a, 0)
		}
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	if b.failed.Swap(false) {
		b.c.Log.Warn("the ledger of budgets answers again")
	}
	for i, a := range list {
		a.answer(shares[i], now.Add(lease))
	}
	return nil
}

// end tells the ledger what was spent, and gives back all that is in hand.
func (b *Budgets) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	b.mu.RLock()
	var all []*account
	for _, a := range b.accounts {
		a.mu.Lock()
		a.lastAt = time.Time{} // Nothing is wanted in advance.
		known := a.hold != 0 || a.spent != a.told
		a.mu.Unlock()
		if known {
			all = append(all, a)
		}
	}
	b.mu.RUnlock()
	for len(all) > 0 {
		n := min(len(all), ledger.MaxClaims)
		if err := b.sync(ctx, all[:n], b.c.Lease); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// Ready tells whether calls can be counted; the error is fit for a readiness page.
func (b *Budgets) Ready() error {
	if b.failed.Load() {
		return ErrLost
	}
	return nil
}

// Accounts is how many budgets are known.
func (b *Budgets) Accounts() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.accounts)
}
