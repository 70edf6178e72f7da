package sqlledger_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/ledger/ledgertest"
	"github.com/hourpass/hourpass/internal/ledger/sqlledger"
	"github.com/hourpass/hourpass/internal/store/storetest"
)

var start = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

// clock is a time that tests move.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time       { return start.Add(time.Duration(c.ahead.Load())) }
func (c *clock) pass(d time.Duration) { c.ahead.Add(int64(d)) }

func TestLedger(t *testing.T) {
	for name, open := range map[string]func(testing.TB) storetest.Store{"sqlite": storetest.SQLite, "postgres": storetest.Postgres} {
		t.Run(name, func(t *testing.T) {
			ledgertest.Run(t, func(t *testing.T) ledgertest.Subject {
				c := &clock{}
				return ledgertest.Subject{
					Engine: sqlledger.New(open(t).DB, c.now), Now: c.now, Lapse: func() { c.pass(ledgertest.Short) }, Checks: 1,
				}
			})
		})
	}
}

func TestForget(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s storetest.Store) {
		c := &clock{}
		l := sqlledger.New(s.DB, c.now)
		claims := []ledger.Claim{
			{Account: "over", Ends: start, Limit: 10, Spent: 5, Need: 1, Want: 1},
			{Account: "young", Ends: start.Add(time.Hour), Limit: 10, Spent: 5},
			{Account: "calls at one moment", Limit: 10, Need: 1, Want: 1},
		}
		if _, err := l.Sync(t.Context(), "v", time.Minute, claims); err != nil {
			t.Fatal(err)
		}
		left := func(accounts, leases int) {
			t.Helper()
			if err := l.Forget(t.Context()); err != nil {
				t.Fatal(err)
			}
			var a, b int
			if err := s.DB.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM ledger_accounts), (SELECT count(*) FROM ledger_leases)`).Scan(&a, &b); err != nil {
				t.Fatal(err)
			}
			if a != accounts || b != leases {
				t.Errorf("%d accounts and %d leases are left, want %d and %d", a, b, accounts, leases)
			}
		}
		c.pass(ledger.ForgetAfter)
		left(3, 3)
		c.pass(time.Minute + time.Second)
		left(1, 1)
		c.pass(time.Hour)
		left(0, 0)
	})
}

func BenchmarkSync(b *testing.B) {
	for name, open := range map[string]func(testing.TB) storetest.Store{"sqlite": storetest.SQLite, "postgres": storetest.Postgres} {
		b.Run(name, func(b *testing.B) { ledgertest.Benchmark(b, sqlledger.New(open(b).DB, nil)) })
	}
}
