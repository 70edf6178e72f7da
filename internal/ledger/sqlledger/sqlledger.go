// Package sqlledger keeps the ledger of budgets in the issuer's store, SQLite or
// PostgreSQL: in the tables ledger_accounts and ledger_leases. Several issuers may
// share it. Start with [New].
package sqlledger

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/store"
)

// Ledger is a [ledger.Engine] and a [ledger.Book].
type Ledger struct {
	db  *sql.DB
	now func() time.Time
}

// New returns the ledger in a store that [store.Open] has opened. Nil means
// [time.Now].
func New(db *sql.DB, now func() time.Time) *Ledger {
	if now == nil {
		now = time.Now
	}
	return &Ledger{db, now}
}

// chunk is how many claims share their statements.
const chunk = 250

// lease is what one holder has in hand.
type lease struct {
	spent, hold, until int64
}

// Sync is as [ledger.Engine] says. It is one transaction.
func (l *Ledger) Sync(ctx context.Context, holder string, ttl time.Duration, claims []ledger.Claim) ([]ledger.Share, error) {
	if err := ledger.Check(holder, ttl, claims); err != nil {
		return nil, err
	}
	// All who ask lock accounts in one order, so that nobody waits for one that
	// waits for them.
	order := make([]int, len(claims))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(claims[a].Account, claims[b].Account) })
	shares := make([]ledger.Share, len(claims))
	err := store.Tx(ctx, l.db, func(tx *sql.Tx) error {
		for part := range slices.Chunk(order, chunk) {
			if err := l.sync(ctx, tx, holder, ttl, claims, part, shares); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("keeping the ledger: %w", err)
	}
	return shares, nil
}

func (l *Ledger) sync(ctx context.Context, tx *sql.Tx, holder string, ttl time.Duration, claims []ledger.Claim, part []int, shares []ledger.Share) error {
	spent, err := lock(ctx, tx, claims, part)
	if err != nil {
		return err
	}
	names := make([]any, len(part))
	for i, n := range part {
		names[i] = claims[n].Account
	}
	leases, err := leasesOf(ctx, tx, names)
	if err != nil {
		return err
	}
	now := l.now().UnixMilli()
	var accounts, held []any
	for _, n := range part {
		c := &claims[n]
		of := leases[c.Account]
		own := of[holder]
		if _, known := of[holder]; !known && len(of) >= ledger.MaxHolders {
			return fmt.Errorf("%w: the account has too many holders", ledger.ErrClaim)
		}
		s := ledger.Share{Spent: spent[c.Account] + max(0, c.Spent-own.spent), Held: inHand(of, holder, now)}
		s.Hold = ledger.Hold(c, s.Spent, s.Held)
		shares[n] = s
		accounts = append(accounts, c.Account, s.Spent, unix(c.Ends))
		held = append(held, c.Account, holder, max(own.spent, c.Spent), s.Hold, now+ttl.Milliseconds())
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO ledger_accounts (name, spent, ends) VALUES `+rows(len(part), 3)+ //nolint:gosec // Placeholders alone.
		` ON CONFLICT (name) DO UPDATE SET spent = excluded.spent`, accounts...); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO ledger_leases (account, holder, spent, hold, until) VALUES `+rows(len(part), 5)+ //nolint:gosec // Likewise.
		` ON CONFLICT (account, holder) DO UPDATE SET spent = excluded.spent, hold = excluded.hold, until = excluded.until`, held...)
	return err
}

// lock makes the accounts that are not there and locks them all until the
// transaction ends. It returns what is spent of each.
func lock(ctx context.Context, tx *sql.Tx, claims []ledger.Claim, part []int) (map[string]int64, error) {
	args := make([]any, 0, 3*len(part))
	for _, n := range part {
		args = append(args, claims[n].Account, 0, unix(claims[n].Ends))
	}
	found, err := tx.QueryContext(ctx, `INSERT INTO ledger_accounts (name, spent, ends) VALUES `+rows(len(part), 3)+ //nolint:gosec // Likewise.
		` ON CONFLICT (name) DO UPDATE SET ends = excluded.ends RETURNING name, spent`, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = found.Close() }()
	spent := make(map[string]int64, len(part))
	for found.Next() {
		var name string
		var n int64
		if err := found.Scan(&name, &n); err != nil {
			return nil, err
		}
		spent[name] = n
	}
	return spent, found.Err()
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// leasesOf are those of accounts, by account and holder.
func leasesOf(ctx context.Context, from querier, accounts []any) (map[string]map[string]lease, error) {
	found, err := from.QueryContext(ctx, `SELECT account, holder, spent, hold, until FROM ledger_leases WHERE account IN `+rows(1, len(accounts)), accounts...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = found.Close() }()
	all := map[string]map[string]lease{}
	for found.Next() {
		var account, holder string
		var one lease
		if err := found.Scan(&account, &holder, &one.spent, &one.hold, &one.until); err != nil {
			return nil, err
		}
		if all[account] == nil {
			all[account] = map[string]lease{}
		}
		all[account][holder] = one
	}
	return all, found.Err()
}

// inHand is what all but one holder have in hand.
func inHand(leases map[string]lease, but string, now int64) (sum int64) {
	for holder, one := range leases {
		if holder != but && now < one.until {
			sum += one.hold
		}
	}
	return sum
}

// rows is "($1, $2), ($3, $4)": placeholders for so many rows of so many columns.
func rows(n, columns int) string {
	var b strings.Builder
	for i := range n * columns {
		switch {
		case i == 0:
			b.WriteString("(")
		case i%columns == 0:
			b.WriteString("), (")
		default:
			b.WriteString(", ")
		}
		b.WriteString("$" + strconv.Itoa(i+1))
	}
	return b.String() + ")"
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// Balances is as [ledger.Book] says.
func (l *Ledger) Balances(ctx context.Context, accounts []string) ([]ledger.Balance, error) {
	balances := make([]ledger.Balance, 0, len(accounts))
	for part := range slices.Chunk(accounts, chunk) {
		some, err := l.balances(ctx, part)
		if err != nil {
			return nil, fmt.Errorf("reading the ledger: %w", err)
		}
		balances = append(balances, some...)
	}
	return balances, nil
}

func (l *Ledger) balances(ctx context.Context, accounts []string) ([]ledger.Balance, error) {
	names := make([]any, len(accounts))
	for i, name := range accounts {
		names[i] = name
	}
	leases, err := leasesOf(ctx, l.db, names)
	if err != nil {
		return nil, err
	}
	found, err := l.db.QueryContext(ctx, `SELECT name, spent FROM ledger_accounts WHERE name IN `+rows(1, len(names)), names...) //nolint:gosec // Likewise.
	if err != nil {
		return nil, err
	}
	defer func() { _ = found.Close() }()
	now, spent := l.now().UnixMilli(), map[string]int64{}
	for found.Next() {
		var name string
		var n int64
		if err := found.Scan(&name, &n); err != nil {
			return nil, err
		}
		spent[name] = n
	}
	balances := make([]ledger.Balance, len(accounts))
	for i, name := range accounts {
		balances[i] = ledger.Balance{Spent: spent[name], Held: inHand(leases[name], "", now)}
	}
	return balances, found.Err()
}

// Forget drops what is over since an hour: windows, and leases of what has none.
func (l *Ledger) Forget(ctx context.Context) error {
	before := l.now().Add(-ledger.ForgetAfter)
	queries := map[string]int64{
		`DELETE FROM ledger_leases WHERE account IN (SELECT name FROM ledger_accounts WHERE ends > 0 AND ends < $1)`:                before.Unix(),
		`DELETE FROM ledger_leases WHERE until < $1 AND account IN (SELECT name FROM ledger_accounts WHERE ends = 0 AND spent = 0)`: before.UnixMilli(),
	}
	err := store.Tx(ctx, l.db, func(tx *sql.Tx) error {
		for _, query := range slices.Sorted(maps.Keys(queries)) {
			if _, err := tx.ExecContext(ctx, query, queries[query]); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM ledger_accounts WHERE ends > 0 AND ends < $1
			OR ends = 0 AND spent = 0 AND NOT EXISTS (SELECT 1 FROM ledger_leases WHERE account = name)`, before.Unix())
		return err
	})
	if err != nil {
		return fmt.Errorf("forgetting old budgets: %w", err)
	}
	return nil
}
