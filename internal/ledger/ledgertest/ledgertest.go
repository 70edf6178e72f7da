// Package ledgertest holds engines of the ledger to what they promise: one suite
// for all of them.
package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/ledger"
)

// Engine is one that can be asked how accounts stand.
type Engine interface {
	ledger.Engine
	ledger.Book
}

// Subject is an engine under test.
type Subject struct {
	Engine Engine

	// Lapse returns when leases of length Short have ended.
	Lapse func()

	// Now is the engine's time.
	Now func() time.Time

	// Checks is how many random stories are told.
	Checks int
}

// Short is the lease that [Subject.Lapse] waits for.
const Short = 300 * time.Millisecond

const long = time.Minute

// Run tells the subject, which is new and empty for each, all stories.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for _, story := range []struct {
		name string
		tell func(*testing.T, Subject)
	}{
		{"spend to the end", spend},
		{"two holders", two},
		{"asked twice", twice},
		{"a holder that dies", dies},
		{"a holder that comes back late", late},
		{"a lower limit", lower},
		{"more than was in hand", debt},
		{"a ledger that forgot", forgot},
		{"many accounts", many},
		{"names", names},
		{"questions out of bounds", bounds},
		{"too many holders", crowd},
		{"all at once", race},
		{"as the reference", reference},
	} {
		t.Run(story.name, func(t *testing.T) { story.tell(t, open(t)) })
	}
}

// ask puts one claim.
func (s *Subject) ask(t testing.TB, holder string, lease time.Duration, c ledger.Claim) ledger.Share {
	t.Helper()
	if c.Account == "" {
		c.Account = "a"
	}
	if c.Limit == 0 {
		c.Limit = 100
	}
	c.Want = max(c.Want, c.Need)
	c.Ends = s.Now().Add(time.Hour)
	shares, err := s.Engine.Sync(t.Context(), holder, lease, []ledger.Claim{c})
	if err != nil || len(shares) != 1 {
		t.Fatalf("Sync(%s, %+v) = %+v, %v", holder, c, shares, err)
	}
	return shares[0]
}

func want(t testing.TB, what string, got, want any) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

func (s *Subject) balance(t testing.TB, account string) ledger.Balance {
	t.Helper()
	b, err := s.Engine.Balances(t.Context(), []string{"nobody's", account})
	if err != nil || len(b) != 2 || b[0] != (ledger.Balance{}) {
		t.Fatalf("Balances = %+v, %v", b, err)
	}
	return b[1]
}

func spend(t *testing.T, s Subject) {
	want(t, "a first lease", s.ask(t, "v", long, ledger.Claim{Need: 10}), ledger.Share{Hold: 10})
	want(t, "a share in advance", s.ask(t, "v", long, ledger.Claim{Account: "b", Limit: 1600, Need: 10, Want: 1000}), ledger.Share{Hold: 100})
	want(t, "spent, and more", s.ask(t, "v", long, ledger.Claim{Spent: 20, Need: 30}), ledger.Share{Hold: 30, Spent: 20})
	want(t, "the balance", s.balance(t, "a"), ledger.Balance{Spent: 20, Held: 30})
	want(t, "what is left", s.ask(t, "v", long, ledger.Claim{Spent: 50, Need: 90}), ledger.Share{Hold: 50, Spent: 50})
	want(t, "nothing", s.ask(t, "v", long, ledger.Claim{Spent: 100, Need: 1}), ledger.Share{Spent: 100})
	want(t, "given back", s.ask(t, "v", long, ledger.Claim{Spent: 100}), ledger.Share{Spent: 100})
}

func two(t *testing.T, s Subject) {
	want(t, "one", s.ask(t, "one", long, ledger.Claim{Need: 60}), ledger.Share{Hold: 60})
	want(t, "two", s.ask(t, "two", long, ledger.Claim{Need: 60}), ledger.Share{Hold: 40, Held: 60})
	want(t, "one gives back", s.ask(t, "one", long, ledger.Claim{Spent: 5}), ledger.Share{Spent: 5, Held: 40})
	want(t, "two", s.ask(t, "two", long, ledger.Claim{Need: 60}), ledger.Share{Hold: 60, Spent: 5})
	want(t, "another account", s.ask(t, "two", long, ledger.Claim{Account: "b", Need: 60}), ledger.Share{Hold: 60})
}

func twice(t *testing.T, s Subject) {
	c := ledger.Claim{Spent: 30, Need: 10}
	for range 3 {
		want(t, "the same again", s.ask(t, "v", long, c), ledger.Share{Hold: 10, Spent: 30})
	}
	want(t, "an old question, late", s.ask(t, "v", long, ledger.Claim{Spent: 20, Need: 10}), ledger.Share{Hold: 10, Spent: 30})
	want(t, "and a new one", s.ask(t, "v", long, ledger.Claim{Spent: 31, Need: 10}), ledger.Share{Hold: 10, Spent: 31})
}

func dies(t *testing.T, s Subject) {
	s.ask(t, "dead", Short, ledger.Claim{Spent: 10, Need: 90})
	want(t, "while its lease lasts", s.ask(t, "v", long, ledger.Claim{Need: 50}), ledger.Share{Spent: 10, Held: 90})
	s.Lapse()
	want(t, "after it", s.ask(t, "v", long, ledger.Claim{Need: 90}), ledger.Share{Hold: 90, Spent: 10})
}

func late(t *testing.T, s Subject) {
	s.ask(t, "late", Short, ledger.Claim{Spent: 10, Need: 50})
	s.Lapse()
	want(t, "another takes all", s.ask(t, "v", long, ledger.Claim{Need: 100}), ledger.Share{Hold: 90, Spent: 10})
	want(t, "what it spent counts", s.ask(t, "late", long, ledger.Claim{Spent: 40, Need: 1}), ledger.Share{Spent: 40, Held: 90})
	want(t, "for all", s.ask(t, "v", long, ledger.Claim{Spent: 90, Need: 1}), ledger.Share{Spent: 130})
}

func lower(t *testing.T, s Subject) {
	s.ask(t, "one", long, ledger.Claim{Spent: 40, Need: 20})
	want(t, "lower than what is spent", s.ask(t, "v", long, ledger.Claim{Limit: 30, Need: 5}), ledger.Share{Spent: 40, Held: 20})
	want(t, "higher again", s.ask(t, "v", long, ledger.Claim{Limit: 70, Need: 50}), ledger.Share{Hold: 10, Spent: 40, Held: 20})
}

func debt(t *testing.T, s Subject) {
	s.ask(t, "v", long, ledger.Claim{Need: 10})
	want(t, "more than the limit", s.ask(t, "v", long, ledger.Claim{Spent: 150, Need: 10}), ledger.Share{Spent: 150})
	want(t, "for others too", s.ask(t, "w", long, ledger.Claim{Need: 1}), ledger.Share{Spent: 150})
}

// forgot has a ledger without a memory be told anew by those who live.
func forgot(t *testing.T, s Subject) {
	want(t, "one", s.ask(t, "one", long, ledger.Claim{Spent: 30, Need: 10}), ledger.Share{Hold: 10, Spent: 30})
	want(t, "two", s.ask(t, "two", long, ledger.Claim{Spent: 50, Need: 10, Want: 90}), ledger.Share{Hold: 10, Spent: 80, Held: 10})
}

func many(t *testing.T, s Subject) {
	var claims []ledger.Claim
	for i := range ledger.MaxClaims {
		claims = append(claims, ledger.Claim{Account: fmt.Sprint(i * 7919 % ledger.MaxClaims), Limit: int64(i) + 1, Spent: int64(i), Need: 1, Want: 5})
	}
	for range 2 {
		shares, err := s.Engine.Sync(t.Context(), "v", long, claims)
		if err != nil || len(shares) != len(claims) {
			t.Fatalf("Sync of %d claims: %d shares, %v", len(claims), len(shares), err)
		}
		for i, got := range shares {
			if got != (ledger.Share{Hold: 1, Spent: int64(i)}) {
				t.Fatalf("the share %d is %+v", i, got)
			}
		}
	}
	if shares, err := s.Engine.Sync(t.Context(), "v", long, nil); err != nil || len(shares) != 0 {
		t.Errorf("Sync of nothing = %+v, %v", shares, err)
	}
	if b, err := s.Engine.Balances(t.Context(), nil); err != nil || len(b) != 0 {
		t.Errorf("Balances of nothing = %+v, %v", b, err)
	}
}

func names(t *testing.T, s Subject) {
	for i, name := range []string{"tokens/day@hr:latest in Europe/Berlin", "{a}b", "'; DROP", "é\u2028", "%s", strings.Repeat("n", ledger.MaxName)} {
		want(t, name, s.ask(t, "holder/"+strings.ToUpper(name[:min(len(name), 12)]), long, ledger.Claim{Account: name, Spent: int64(i), Need: 3}), ledger.Share{Hold: 3, Spent: int64(i)})
	}
}

func bounds(t *testing.T, s Subject) {
	good := ledger.Claim{Account: "a", Limit: 1, Need: 1, Want: 1}
	for name, spoil := range map[string]func(c *ledger.Claim){
		"no account":       func(c *ledger.Claim) { c.Account = "" },
		"no text":          func(c *ledger.Claim) { c.Account = "a\xff" },
		"a NUL":            func(c *ledger.Claim) { c.Account = "a\x00" },
		"a long account":   func(c *ledger.Claim) { c.Account = strings.Repeat("n", ledger.MaxName+1) },
		"a negative limit": func(c *ledger.Claim) { c.Limit = -1 },
		"a negative spent": func(c *ledger.Claim) { c.Spent = -1 },
		"a negative need":  func(c *ledger.Claim) { c.Need = -1 },
		"a huge spent":     func(c *ledger.Claim) { c.Spent = 1 << 62 },
		"a huge want":      func(c *ledger.Claim) { c.Want = 1 << 62 },
		"less than needed": func(c *ledger.Claim) { c.Want = 0 },
	} {
		bad := good
		spoil(&bad)
		if _, err := s.Engine.Sync(t.Context(), "v", long, []ledger.Claim{bad}); !errors.Is(err, ledger.ErrClaim) {
			t.Errorf("%s: %v, want %v", name, err, ledger.ErrClaim)
		}
	}
	for name, ask := range map[string]func() error{
		"no holder":     func() error { _, err := s.Engine.Sync(t.Context(), "", long, nil); return err },
		"a long holder": func() error { _, err := s.Engine.Sync(t.Context(), strings.Repeat("h", 200), long, nil); return err },
		"no lease":      func() error { _, err := s.Engine.Sync(t.Context(), "v", 0, nil); return err },
		"a long lease":  func() error { _, err := s.Engine.Sync(t.Context(), "v", ledger.MaxLease+1, nil); return err },
		"one twice":     func() error { _, err := s.Engine.Sync(t.Context(), "v", long, []ledger.Claim{good, good}); return err },
		"too many": func() error {
			_, err := s.Engine.Sync(t.Context(), "v", long, make([]ledger.Claim, ledger.MaxClaims+1))
			return err
		},
	} {
		if err := ask(); !errors.Is(err, ledger.ErrClaim) {
			t.Errorf("%s: %v, want %v", name, err, ledger.ErrClaim)
		}
	}
	want(t, "what was refused is not kept", s.balance(t, "a"), ledger.Balance{})
}

func crowd(t *testing.T, s Subject) {
	for i := range ledger.MaxHolders {
		s.ask(t, fmt.Sprint("v", i), long, ledger.Claim{})
	}
	_, err := s.Engine.Sync(t.Context(), "one more", long, []ledger.Claim{{Account: "a", Limit: 1}})
	if !errors.Is(err, ledger.ErrClaim) {
		t.Errorf("one holder more: %v, want %v", err, ledger.ErrClaim)
	}
	s.ask(t, "v7", long, ledger.Claim{Need: 1})
}

// race has many holders spend what they are given, at once: it is never more than
// there is, and in the end all of it.
func race(t *testing.T, s Subject) {
	const holders, limit = 8, 3000
	accounts := []string{"a", "b", "c"}
	var wg sync.WaitGroup
	spent := make([][3]int64, holders)
	for h := range holders {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(h))) //nolint:gosec // A story that can be told again.
			for range 40 {
				order := r.Perm(len(accounts)) // All lock in an order of their own.
				claims := make([]ledger.Claim, len(order))
				for i, a := range order {
					claims[i] = ledger.Claim{Account: accounts[a], Limit: limit, Spent: spent[h][a], Need: 5, Want: 60, Ends: s.Now().Add(time.Hour)}
				}
				shares, err := s.Engine.Sync(context.Background(), fmt.Sprint("v", h), long, claims)
				if err != nil {
					t.Error(err)
					return
				}
				for i, a := range order {
					spent[h][a] += r.Int64N(shares[i].Hold + 1)
				}
			}
		})
	}
	wg.Wait()
	for a, name := range accounts {
		sum := int64(0)
		for h := range holders {
			sum += spent[h][a]
			s.ask(t, fmt.Sprint("v", h), long, ledger.Claim{Account: name, Limit: limit, Spent: spent[h][a]})
		}
		if sum > limit {
			t.Errorf("%d are spent of %d", sum, limit)
		}
		want(t, "the balance", s.balance(t, name), ledger.Balance{Spent: sum})
	}
}

// reference tells random stories to the subject and to [ledger.Memory].
func reference(t *testing.T, s Subject) {
	round := 0
	check := func(rt *rapid.T) {
		round++
		memory := ledger.NewMemory(s.Now)
		for range rapid.IntRange(1, 12).Draw(rt, "questions") {
			holder := rapid.SampledFrom([]string{"v", "w", "x"}).Draw(rt, "holder")
			var claims []ledger.Claim
			for _, account := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b"}), 1, 2, rapid.ID[string]).Draw(rt, "accounts") {
				n := rapid.Int64Range(0, 50)
				c := ledger.Claim{Account: fmt.Sprint(account, round), Limit: 2 * n.Draw(rt, "limit"), Spent: n.Draw(rt, "spent"), Need: n.Draw(rt, "need")}
				c.Want = c.Need + n.Draw(rt, "more")
				claims = append(claims, c)
			}
			got, err := s.Engine.Sync(t.Context(), holder, long, claims)
			should, err2 := memory.Sync(t.Context(), holder, long, claims)
			if errors.Join(err, err2) != nil || !slices.Equal(got, should) {
				rt.Fatalf("Sync(%s, %+v) = %+v, %v, the reference says %+v, %v", holder, claims, got, err, should, err2)
			}
			names := []string{fmt.Sprint("a", round), fmt.Sprint("b", round)}
			b, err := s.Engine.Balances(t.Context(), names)
			c, err2 := memory.Balances(t.Context(), names)
			if errors.Join(err, err2) != nil || !slices.Equal(b, c) {
				rt.Fatalf("Balances = %+v, %v, the reference says %+v, %v", b, err, c, err2)
			}
		}
	}
	for range s.Checks {
		rapid.Check(t, check)
	}
}

// Benchmark times questions of one, a hundred and a thousand claims.
func Benchmark(b *testing.B, engine ledger.Engine) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			claims := make([]ledger.Claim, n)
			for i := range claims {
				claims[i] = ledger.Claim{Account: fmt.Sprint("account ", n, "/", i), Ends: time.Now().Add(time.Hour), Limit: 1 << 40, Need: 10, Want: 20}
			}
			for b.Loop() {
				for i := range claims {
					claims[i].Spent++
				}
				if _, err := engine.Sync(b.Context(), "v", time.Minute, claims); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "claims/s")
		})
	}
}
