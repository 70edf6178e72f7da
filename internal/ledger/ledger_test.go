package ledger_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/ledger/ledgertest"
	"github.com/hourpass/hourpass/internal/token"
)

var start = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func TestMemory(t *testing.T) {
	ledgertest.Run(t, func(*testing.T) ledgertest.Subject {
		c := &clock{at: start}
		return ledgertest.Subject{Engine: ledger.NewMemory(c.now), Now: c.now, Lapse: func() { c.pass(ledgertest.Short) }, Checks: 1}
	})
}

// TestNeverMore holds the promise: however holders come, spend, die and come back,
// what is spent is never more than the limit and what died with them.
func TestNeverMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit, lease = 1000, 10 * time.Second
		c := &clock{at: start}
		m := ledger.NewMemory(c.now)
		type holder struct {
			name        string
			spent, told int64
			hold        int64
			until       time.Time
		}
		var holders []*holder
		total, lost := int64(0), int64(0)
		for i := range 6 {
			holders = append(holders, &holder{name: string(rune('a' + i))})
		}
		for n := range rapid.IntRange(1, 80).Draw(t, "steps") {
			h := rapid.SampledFrom(holders).Draw(t, "holder")
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1:
				c.pass(time.Second)
			case 2, 3:
				if c.now().Before(h.until) {
					spend := rapid.Int64Range(0, h.hold).Draw(t, "spend")
					h.spent, h.hold, total = h.spent+spend, h.hold-spend, total+spend
				}
			case 4:
				need := rapid.Int64Range(0, 100).Draw(t, "need")
				asked := c.now()
				shares, err := m.Sync(t.Context(), h.name, lease, []ledger.Claim{{Account: "a", Limit: limit, Spent: h.spent, Need: need, Want: 3 * need}})
				if err != nil {
					t.Fatal(err)
				}
				h.hold, h.told, h.until = shares[0].Hold, h.spent, asked.Add(lease)
			case 5: // It dies; another comes in its place.
				lost += h.spent - h.told + h.hold
				*h = holder{name: h.name + "'" + strings.Repeat("i", n%3)}
			}
		}
		if total > limit+lost {
			t.Fatalf("%d are spent of %d, and %d were lost", total, limit, lost)
		}
	})
}

func TestForgetting(t *testing.T) {
	c := &clock{at: start}
	m := ledger.NewMemory(c.now)
	ask := func(account string, ends time.Time, spent int64) {
		t.Helper()
		if _, err := m.Sync(t.Context(), "v", time.Minute, []ledger.Claim{{Account: account, Ends: ends, Limit: 10, Spent: spent, Need: 1, Want: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	ask("window", start.Add(time.Hour), 5)
	ask("calls at one moment", time.Time{}, 0)
	spent := func() int64 {
		b, err := m.Balances(t.Context(), []string{"window"})
		if err != nil {
			t.Fatal(err)
		}
		return b[0].Spent
	}
	c.pass(time.Hour + ledger.ForgetAfter)
	ask("other", time.Time{}, 0)
	if spent() != 5 {
		t.Error("an account is forgotten before its time")
	}
	c.pass(time.Minute)
	ask("other", time.Time{}, 0)
	if spent() != 0 {
		t.Error("an account is not forgotten in time")
	}
}

func TestName(t *testing.T) {
	names := map[string]string{}
	add := func(issuer, limit, sharer string, at time.Time) {
		l, err := token.ParseLimit(limit)
		if err != nil {
			t.Fatal(err)
		}
		from, _ := l.Span(at)
		name := ledger.Name(issuer, &l, sharer, from)
		what := strings.Join([]string{issuer, limit, sharer, from.String()}, "|")
		if other, taken := names[name]; taken && other != what {
			t.Errorf("%s and %s are both %s", what, other, name)
		}
		names[name] = what
		if len(name) > ledger.MaxName || sharer != "" && strings.Contains(name, sharer) {
			t.Errorf("the name %q is too long, or tells whose it is", name)
		}
	}
	for _, issuer := range []string{"https://a.example", "https://b.example"} {
		for _, limit := range []string{"tokens/day", "tokens/month", "team:tokens/day", "tokens/day@hr", "tokens/day in Europe/Berlin", "concurrent"} {
			for _, sharer := range []string{"", "somebody", "corp:somebody@https://b.example"} {
				add(issuer, limit, sharer, start)
				add(issuer, limit, sharer, start.Add(40*24*time.Hour))
			}
		}
	}
}
