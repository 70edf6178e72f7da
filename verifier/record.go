package verifier

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/verifier/internal/refusal"
)

// records keeps the record of every call, and stops calls when it can't.
type records struct {
	to  *audit.Log // Nil: the log.
	log *slog.Logger

	broken atomic.Bool
	mu     sync.Mutex
	unkept []audit.Record // What could not be kept so far, the oldest first.
	lost   int            // What did not fit in there.
}

const (
	// keepTimeout is how long a record may take. A disk that hangs must not hold
	// every call's answer.
	keepTimeout = 5 * time.Second

	// maxUnkept is how many records wait for the audit to get well. New calls are
	// refused meanwhile, so they are of calls that were under way, and of
	// refusals.
	maxUnkept = 4096
)

// keep writes a record down. One that can't be kept waits in memory, is logged,
// and closes the verifier to new calls: a call that nobody could trace later is
// not made.
func (k *records) keep(r audit.Record) {
	if k.to == nil {
		k.log.Info("call", "record", r)
		return
	}
	err := k.append(r)
	if err == nil {
		return
	}
	k.log.Error("keeping an audit record", "decision", r.Decision, "err", err.Error())
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.unkept) < maxUnkept {
		k.unkept = append(k.unkept, r)
	} else {
		k.lost++
	}
	k.broken.Store(true)
}

func (k *records) append(r audit.Record) error {
	ctx, cancel := context.WithTimeout(context.Background(), keepTimeout)
	defer cancel()
	return k.to.Append(ctx, r)
}

// takesMore tells whether a call may be made. One caller at a time tries to mend
// what is broken; the others need not wait for it.
func (k *records) takesMore() error {
	if !k.broken.Load() {
		return nil
	}
	if !k.mu.TryLock() {
		return refusal.ErrAudit
	}
	defer k.mu.Unlock()
	return k.mend()
}

// ready is takesMore for a readiness page.
func (k *records) ready() error {
	if !k.broken.Load() {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mend()
}

// mend keeps what was not kept, with k.mu held. A record whose fate was not known
// may then stand twice, under one decision id.
func (k *records) mend() error {
	for len(k.unkept) > 0 {
		if err := k.append(k.unkept[0]); err != nil {
			return fmt.Errorf("%w: %d records wait, %d are lost: %w", refusal.ErrAudit, len(k.unkept), k.lost, err)
		}
		k.unkept = k.unkept[1:]
	}
	if k.broken.Swap(false) {
		k.log.Warn("the audit is kept again", "lost", k.lost)
		k.unkept, k.lost = nil, 0
	}
	return nil
}
