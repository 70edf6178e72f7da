// Package ledger counts what is spent of budgets, for all verifiers together. A
// verifier holds a lease of each budget that it needs, spends from it without a
// question, and says now and then what it has spent: then it gets a new lease.
//
// An [Engine] keeps the counts; they differ in where. [Memory] is this process.
// What it owns is one rule, [Account.Sync], and the promise that goes with it: all
// that holders may spend together never exceeds what is left of the limit. A
// holder that falls silent keeps its lease until its time is over, and then what
// it has not told is lost: that much may be spent beyond the limit, and no more.
//
// It refuses to know what a budget is of and how calls are counted. Start with
// [Engine].
package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hourpass/hourpass/internal/token"
)

// Bounds of one question.
const (
	MaxClaims  = 1000             // In one Sync.
	MaxName    = 512              // Bytes of an account's name.
	MaxHolder  = 128              // Bytes of a holder's.
	MaxHolders = 1000             // Of one account at a time.
	MaxLease   = 10 * time.Minute // How long a lease may be.
)

// ErrClaim means that a question is out of bounds.
var ErrClaim = errors.New("the question to the ledger is out of bounds")

// A Claim is what one holder says of an account, and wants from it.
type Claim struct {
	// Account is its name: of one budget within one window ([Name]).
	Account string

	// Ends is when its window is over; zero for one that never is. An engine may
	// forget the account an hour later.
	Ends time.Time

	// Limit is what may be spent in all.
	Limit int64

	// Spent is what this holder has spent, since it began: it only grows. So a
	// question that is asked twice counts once, and an engine that has forgotten
	// the holder is told anew.
	Spent int64

	// Need is what the holder must have in hand beyond Spent, for calls under way
	// and those that wait; Want is what it would like to have, at least Need. Both
	// 0 gives the lease back.
	Need, Want int64
}

// A Share is the answer to a [Claim].
type Share struct {
	// Hold is what the holder may spend beyond Claim.Spent until the lease ends. It
	// may be less than Need.
	Hold int64

	// Spent is what all holders have told, and Held what is in the hands of the
	// others. Together with Hold they may exceed the limit: it was lowered, or more
	// was spent than was in hand.
	Spent, Held int64
}

// A Balance is how an account stands.
type Balance struct {
	Spent int64 // Told by holders.
	Held  int64 // In holders' hands.
}

// An Engine gives leases. It is safe for concurrent use.
type Engine interface {
	// Sync settles and renews the leases of one holder, for lease from the moment
	// of the question on. It answers claim by claim, in order. A holder has a name
	// of its own, and a new one each time it starts. Errors match [ErrClaim] where
	// the question is at fault; after any other, what was asked may have been done.
	Sync(ctx context.Context, holder string, lease time.Duration, claims []Claim) ([]Share, error)
}

// A Book tells people how accounts stand. It is safe for concurrent use.
type Book interface {
	// Balances tells how accounts stand, in order; zero where there is none.
	Balances(ctx context.Context, accounts []string) ([]Balance, error)
}

// Check tells whether a question is within bounds.
func Check(holder string, lease time.Duration, claims []Claim) error {
	if !isName(holder, MaxHolder) || lease <= 0 || lease > MaxLease || len(claims) > MaxClaims {
		return fmt.Errorf("%w: its holder, lease or length", ErrClaim)
	}
	seen := make(map[string]bool, len(claims))
	for i := range claims {
		c := &claims[i]
		if seen[c.Account] {
			return fmt.Errorf("%w: an account stands twice", ErrClaim)
		}
		seen[c.Account] = true
		if !isName(c.Account, MaxName) || !amount(c.Limit) || !amount(c.Spent) || !amount(c.Need) || !amount(c.Want) || c.Want < c.Need {
			return fmt.Errorf("%w: the claim %d", ErrClaim, i)
		}
	}
	return nil
}

// isName tells whether s is a text that every engine can keep.
func isName(s string, most int) bool {
	return s != "" && len(s) <= most && utf8.ValidString(s) && !strings.Contains(s, "\x00")
}

// amount tells whether n may be summed up without a care: what is counted stays
// far from the end of int64.
func amount(n int64) bool { return 0 <= n && n <= token.MaxLimit }

// ShareOf says how much of what is left one holder may have beyond its need: one
// part of so many. What it does not use is no other's for the time, and lost if it
// dies.
const ShareOf = 16

// Hold is the one rule of all engines: how much a holder gets, if so much was
// spent by all and is held by others. No more than is left; what it needs before
// what it would like.
func Hold(c *Claim, spent, held int64) int64 {
	left := max(0, c.Limit-spent-held)
	return min(left, max(c.Need, min(c.Want, left/ShareOf)))
}

// Name is the name of the account that the limit's calls are counted in: of one
// issuer, of who shares it, in the window that began at start. It tells what is
// counted, not whose it is.
func Name(issuer string, l *token.Limit, sharer string, start time.Time) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%d:%s%d:%s", len(issuer), issuer, len(sharer), sharer))
	window := ""
	if !start.IsZero() {
		window = start.UTC().Format("2006-01-02T15:04:05Z")
	}
	return l.Name + " " + window + " " + base64.RawURLEncoding.EncodeToString(h[:16])
}
