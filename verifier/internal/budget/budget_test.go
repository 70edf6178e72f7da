package budget_test

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/budget"
)

var start = time.Date(2026, 11, 23, 10, 30, 30, 0, time.UTC)

// clock is a time that tests move.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time       { return start.Add(time.Duration(c.ahead.Load())) }
func (c *clock) pass(d time.Duration) { c.ahead.Add(int64(d)) }

// engine is a ledger that counts questions, and can be lost.
type engine struct {
	*ledger.Memory
	asked atomic.Int64
	lost  atomic.Bool
}

var errLost = errors.New("nobody answers")

func (e *engine) Sync(ctx context.Context, holder string, lease time.Duration, claims []ledger.Claim) ([]ledger.Share, error) {
	e.asked.Add(1)
	if e.lost.Load() {
		return nil, errLost
	}
	return e.Memory.Sync(ctx, holder, lease, claims)
}

// world is a ledger with verifiers.
type world struct {
	clock
	engine engine
}

func newWorld() *world {
	w := &world{}
	w.engine.Memory = ledger.NewMemory(w.now)
	return w
}

// verifier starts one. stop ends it as SIGTERM does.
func (w *world) verifier(t testing.TB, change func(*budget.Config)) (b *budget.Budgets, stop func()) {
	t.Helper()
	c := budget.Config{Engine: &w.engine, Now: w.now}
	if change != nil {
		change(&c)
	}
	b, err := budget.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return b, stop
}

func set(t testing.TB, limits token.Limits) *budget.Set {
	t.Helper()
	s, err := budget.NewSet(&token.Claims{Issuer: "https://issuer.example", ClientID: "K", Subject: "p:s", Team: "T", Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// call is one that costs what it says.
func call(input, output int64) budget.Cost {
	return budget.Cost{Model: "m", Input: input, Output: output, Least: output}
}

func reserve(t testing.TB, b *budget.Budgets, s *budget.Set, c budget.Cost) *budget.Reservation {
	t.Helper()
	r, err := b.Reserve(t.Context(), s, c)
	if err != nil {
		t.Fatalf("Reserve(%+v) = %v", c, err)
	}
	return r
}

func refused(t testing.TB, b *budget.Budgets, s *budget.Set, c budget.Cost) *budget.Refusal {
	t.Helper()
	_, err := b.Reserve(t.Context(), s, c)
	var r *budget.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("Reserve(%+v) = %v, want a refusal", c, err)
	}
	return r
}

func (w *world) balance(t testing.TB, name string) ledger.Balance {
	t.Helper()
	l, err := token.ParseLimit(name)
	if err != nil {
		t.Fatal(err)
	}
	from, _ := l.Span(w.now())
	sharer := l.SharerOf(&token.Claims{ClientID: "K", Subject: "p:s", Team: "T"})
	b, err := w.engine.Balances(t.Context(), []string{ledger.Name("https://issuer.example", &l, sharer, from)})
	if err != nil {
		t.Fatal(err)
	}
	return b[0]
}

func TestNoLimits(t *testing.T) {
	w := newWorld()
	b, _ := w.verifier(t, nil)
	if s := set(t, nil); s != nil {
		t.Errorf("a token without limits has %v", s)
	}
	r := reserve(t, b, nil, call(1, 1))
	r.Settle(1, 1)
	r.Release()
	if err := r.Extend(t.Context(), 5); err != nil || r.States() != nil || w.engine.asked.Load() != 0 {
		t.Errorf("a call without limits: %v, %v, %d questions", err, r.States(), w.engine.asked.Load())
	}
}

func TestEachQuantity(t *testing.T) {
	for _, tt := range []struct {
		limit       string
		most        int64
		first, next budget.Cost // The first fits, the next does not.
	}{
		{"requests/minute", 1, call(9, 9), call(0, 0)},
		{"tokens/day", 10, call(3, 4), call(2, 2)},
		{"input_tokens/hour", 10, call(10, 99), call(1, 0)},
		{"output_tokens/month", 10, call(99, 10), call(0, 1)},
		{"concurrent", 1, call(9, 9), call(0, 0)},
		{"team:tokens/day@m", 10, call(10, 0), call(1, 0)},
		{"identity:tokens/day in Europe/Berlin", 10, call(10, 0), call(1, 0)},
	} {
		t.Run(tt.limit, func(t *testing.T) {
			w := newWorld()
			b, _ := w.verifier(t, nil)
			s := set(t, token.Limits{tt.limit: tt.most})
			r := reserve(t, b, s, tt.first)
			f := refused(t, b, s, tt.next)
			if f.Limit.Name != tt.limit || f.Most != tt.most {
				t.Errorf("refused by %+v, want by %s of %d", f, tt.limit, tt.most)
			}
			r.Release()
			reserve(t, b, s, tt.first).Release()
		})
	}
}

func TestOtherModelsAreFree(t *testing.T) {
	w := newWorld()
	b, _ := w.verifier(t, nil)
	s := set(t, token.Limits{"tokens/day@other": 1})
	reserve(t, b, s, call(50, 50)).Settle(50, 50)
	if s.Counts("m") || !s.Counts("other") || !s.Counts("other", "requests", "tokens") || s.Counts("other", "requests") {
		t.Error("Counts says otherwise")
	}
}

// TestNextWindow has a budget start anew when the clock says so.
func TestNextWindow(t *testing.T) {
	w := newWorld()
	b, _ := w.verifier(t, nil)
	s := set(t, token.Limits{"requests/minute": 1})
	reserve(t, b, s, call(0, 0)).Settle(0, 0)
	if f := refused(t, b, s, call(0, 0)); f.Reset != 30*time.Second || f.Left != 0 || f.Elsewhere {
		t.Errorf("refused with %+v, want nothing left for 30 s", f)
	}
	w.pass(29 * time.Second)
	_ = refused(t, b, s, call(0, 0))
	w.pass(time.Second)
	reserve(t, b, s, call(0, 0))
}

func TestSettle(t *testing.T) {
	w := newWorld()
	b, _ := w.verifier(t, nil)
	s := set(t, token.Limits{"tokens/day": 100, "requests/day": 10, "concurrent": 3})
	r := reserve(t, b, s, call(10, 40))
	r.Settle(12, 5) // The input was more than thought.
	r.Settle(99, 99)
	r.Release()
	for _, state := range reserve(t, b, s, call(0, 1)).States() {
		want := map[string]int64{"tokens/day": 82, "requests/day": 8, "concurrent": 2}[state.Limit.Name]
		if state.Left != want {
			t.Errorf("of %s %d is left, want %d", state.Limit.Name, state.Left, want)
		}
	}
}

// TestDebt keeps what was spent beyond the limit.
func TestDebt(t *testing.T) {
	w := newWorld()
	b, stop := w.verifier(t, nil)
	s := set(t, token.Limits{"tokens/day": 100})
	reserve(t, b, s, call(10, 0)).Settle(150, 0)
	_ = refused(t, b, s, call(1, 0))
	stop()
	if got := w.balance(t, "tokens/day"); got != (ledger.Balance{Spent: 150}) {
		t.Errorf("the ledger has %+v, want 150 spent", got)
	}
}

func TestShrink(t *testing.T) {
	w := newWorld()
	b, _ := w.verifier(t, nil)
	s := set(t, token.Limits{"tokens/day": 100, "output_tokens/day": 70})
	c := budget.Cost{Model: "m", Input: 20, Output: 1000, Least: 1}
	r := reserve(t, b, s, c)
	if r.Output != 70 {
		t.Errorf("an answer of %d tokens, want 70", r.Output)
	}
	_ = refused(t, b, s, c)
	r.Settle(20, 30)
	if r := reserve(t, b, s, c); r.Output != 30 { // 100 - 50 - 20.
		t.Errorf("an answer of %d tokens, want 30", r.Output)
	}
	if f := refused(t, b, s, budget.Cost{Model: "m", Input: 20, Output: 1000, Least: 1000}); f.Limit.Quantity == "requests" {
		t.Errorf("refused by %+v", f)
	}
}

func TestExtend(t *testing.T) {
	w := newWorld()
	b, _ := w.verifier(t, nil)
	s := set(t, token.Limits{"tokens/day": 100, "requests/day": 1})
	r := reserve(t, b, s, call(20, 10))
	if err := r.Extend(t.Context(), 50); err != nil || r.Output != 60 {
		t.Fatalf("Extend by 50 = %v, to %d", err, r.Output)
	}
	if err := r.Extend(t.Context(), 50); err != nil || r.Output != 80 {
		t.Fatalf("Extend by 50 of which 20 are there = %v, to %d, want 80", err, r.Output)
	}
	var f *budget.Refusal
	if err := r.Extend(t.Context(), 1); !errors.As(err, &f) || f.Limit.Name != "tokens/day" {
		t.Errorf("Extend of what is spent = %v, want a refusal", err)
	}
	r.Settle(20, 80)
	_ = refused(t, b, set(t, token.Limits{"tokens/day": 100}), call(1, 0))
}

// TestAllOrNothing takes nothing of one limit for a call that another refuses.
func TestAllOrNothing(t *testing.T) {
	w := newWorld()
	b, _ := w.verifier(t, nil)
	for range 20 { // The limits of a set have no order.
		_ = refused(t, b, set(t, token.Limits{"requests/day": 5, "tokens/day": 10, "concurrent": 2}), call(20, 0))
	}
	reserve(t, b, set(t, token.Limits{"requests/day": 1, "tokens/day": 1, "concurrent": 1}), call(1, 0))
}

// TestLowerLimit holds a token with a lower limit to it, though the lease is of
// one with a higher.
func TestLowerLimit(t *testing.T) {
	w := newWorld()
	b, _ := w.verifier(t, nil)
	high, low := set(t, token.Limits{"tokens/day": 1000}), set(t, token.Limits{"tokens/day": 30})
	for range 2 {
		reserve(t, b, high, call(10, 0)).Settle(10, 0)
	}
	reserve(t, b, low, call(10, 0)).Settle(10, 0)
	_ = refused(t, b, low, call(1, 0))
	reserve(t, b, high, call(1, 0))
}

// TestNoHop has calls at an even pace ask the ledger a few times, not each.
func TestNoHop(t *testing.T) {
	w := newWorld()
	b, _ := w.verifier(t, nil)
	s := set(t, token.Limits{"tokens/day": 1_000_000, "requests/minute": 100_000, "concurrent": 100})
	for range 1000 {
		reserve(t, b, s, call(10, 40)).Settle(10, 20)
		w.pass(time.Millisecond)
	}
	if n := w.engine.asked.Load(); n > 100 {
		t.Errorf("1000 calls asked the ledger %d times", n)
	}
}

// TestTwoVerifiers share a budget, and one that ends gives back what it has in
// hand.
func TestTwoVerifiers(t *testing.T) {
	w := newWorld()
	one, stop := w.verifier(t, nil)
	two, _ := w.verifier(t, nil)
	s, same := set(t, token.Limits{"tokens/day": 100}), set(t, token.Limits{"tokens/day": 100})
	reserve(t, one, s, call(40, 0)).Settle(40, 0)
	reserve(t, two, same, call(40, 0)).Settle(40, 0)
	reserve(t, one, s, call(10, 0)).Settle(1, 0)
	if f := refused(t, two, same, call(30, 0)); f.Left == 0 {
		t.Errorf("refused with %+v, want some left", f)
	}
	stop()
	if got := w.balance(t, "tokens/day"); got.Spent < 41 {
		t.Errorf("the ledger has %+v after one of two has ended", got)
	}
	reserve(t, two, same, call(19, 0))
	_ = refused(t, two, same, call(1, 0))
}

// TestDead brings back what a verifier had in hand that died.
func TestDead(t *testing.T) {
	w := newWorld()
	dead, err := w.engine.Sync(t.Context(), "dead", 30*time.Second, []ledger.Claim{{
		Account: name(t, "tokens/day", w.now()), Ends: start.Add(24 * time.Hour), Limit: 100, Spent: 20, Need: 80, Want: 80,
	}})
	if err != nil || dead[0].Hold != 80 {
		t.Fatalf("Sync = %+v, %v", dead, err)
	}
	b, _ := w.verifier(t, nil)
	s := set(t, token.Limits{"tokens/day": 100})
	if f := refused(t, b, s, call(1, 0)); !f.Elsewhere || f.Left != 80 {
		t.Errorf("refused with %+v, want 80 elsewhere", f)
	}
	w.pass(30 * time.Second)
	reserve(t, b, s, call(80, 0))
	_ = refused(t, b, s, call(1, 0))
}

func name(t testing.TB, limit string, at time.Time) string {
	t.Helper()
	l, err := token.ParseLimit(limit)
	if err != nil {
		t.Fatal(err)
	}
	from, _ := l.Span(at)
	return ledger.Name("https://issuer.example", &l, "K", from)
}

// TestLost spends the lease and then nothing, or an allowance, while the ledger
// is lost; and tells it all when it is back.
func TestLost(t *testing.T) {
	for _, allowance := range []float64{0, 0.1} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			b, stop := w.verifier(t, func(c *budget.Config) { c.Allowance = allowance })
			s := set(t, token.Limits{"tokens/day": 1000, "concurrent": 20})
			reserve(t, b, s, call(100, 0)).Settle(100, 0)
			w.engine.lost.Store(true)
			w.pass(31 * time.Second)
			spent := int64(100)
			for range 10 {
				r, err := b.Reserve(t.Context(), s, call(30, 0))
				if err != nil {
					if !errors.Is(err, budget.ErrLost) {
						t.Fatalf("Reserve = %v, want %v", err, budget.ErrLost)
					}
					break
				}
				r.Settle(30, 0)
				spent += 30
			}
			want := int64(100)
			if allowance > 0 {
				want = 190 // Three times 30, of 100.
			}
			if spent != want {
				t.Errorf("with an allowance of %g %d are spent, want %d", allowance, spent, want)
			}
			if err := b.Ready(); !errors.Is(err, budget.ErrLost) {
				t.Errorf("Ready = %v", err)
			}
			w.engine.lost.Store(false)
			for b.Ready() != nil { // The next round asks again.
				time.Sleep(time.Second)
			}
			reserve(t, b, s, call(1, 0)).Settle(1, 0)
			stop()
			if got := w.balance(t, "tokens/day"); got != (ledger.Balance{Spent: want + 1}) {
				t.Errorf("the ledger has %+v, want %d", got, want+1)
			}
		})
	}
}

// TestLeaseEnds spends nothing of a lease that is over, though much is in hand:
// others may have it by now.
func TestLeaseEnds(t *testing.T) {
	w := newWorld()
	b, _ := w.verifier(t, nil)
	s := set(t, token.Limits{"tokens/day": 1_000_000})
	for range 20 { // So that some is held in advance.
		reserve(t, b, s, call(100, 0)).Settle(100, 0)
	}
	w.engine.lost.Store(true)
	w.pass(29 * time.Second)
	reserve(t, b, s, call(1, 0)).Settle(1, 0)
	w.pass(time.Second)
	if r, err := b.Reserve(t.Context(), s, call(1, 0)); !errors.Is(err, budget.ErrLost) {
		t.Errorf("after the lease: %+v, %v, want %v", r, err, budget.ErrLost)
	}
}

func TestTooMany(t *testing.T) {
	w := newWorld()
	b, _ := w.verifier(t, func(c *budget.Config) { c.MaxAccounts = 2 })
	reserve(t, b, set(t, token.Limits{"tokens/day": 5, "concurrent": 5}), call(1, 1))
	if _, err := b.Reserve(t.Context(), set(t, token.Limits{"requests/day": 5}), call(1, 1)); !errors.Is(err, budget.ErrFull) {
		t.Errorf("a third budget: %v, want %v", err, budget.ErrFull)
	}
}

// TestNeverMore has many calls of several verifiers at one budget, at once: they
// spend all of it and not one token more.
func TestNeverMore(t *testing.T) {
	const limit, verifiers, clients = 20_000, 8, 25
	w := newWorld()
	var spent atomic.Int64
	var wg sync.WaitGroup
	for range verifiers {
		b, _ := w.verifier(t, nil)
		s := set(t, token.Limits{"tokens/day": limit, "concurrent": 64})
		for n := range clients {
			wg.Go(func() {
				for i := range 60 {
					r, err := b.Reserve(t.Context(), s, budget.Cost{Model: "m", Input: 5, Output: 40, Least: 1})
					if err != nil {
						continue
					}
					cost := min(int64((n*7+i*13)%45), r.Output)
					spent.Add(5 + cost)
					r.Settle(5, cost)
				}
			})
		}
	}
	wg.Wait()
	if got := spent.Load(); got > limit {
		t.Errorf("%d are spent of %d", got, limit)
	} else {
		t.Logf("%d spent of %d", got, limit)
	}
}

func BenchmarkReserve(b *testing.B) {
	w := newWorld()
	v, _ := w.verifier(b, func(c *budget.Config) { c.Now = time.Now })
	w.engine.Memory = ledger.NewMemory(nil)
	s := set(b, token.Limits{"tokens/day": 1 << 50, "requests/minute": 1 << 50, "concurrent": 1 << 20})
	for b.Loop() {
		r, err := v.Reserve(b.Context(), s, call(10, 40))
		if err != nil {
			b.Fatal(err)
		}
		r.Settle(10, 20)
	}
	b.ReportMetric(float64(w.engine.asked.Load())/float64(b.N), "hops/op")
}

// BenchmarkManyKeys holds budgets for 100,000 keys with two limits each, and tells
// how much memory they take.
func BenchmarkManyKeys(b *testing.B) {
	const keys = 100_000
	for b.Loop() {
		before := heap()
		v, stop := newWorld().verifier(b, func(c *budget.Config) { c.Now, c.Engine = time.Now, giver{} })
		sets := make([]*budget.Set, keys)
		for i := range sets {
			var err error
			sets[i], err = budget.NewSet(&token.Claims{Issuer: "https://issuer.example", ClientID: strconv.Itoa(i), Limits: token.Limits{"tokens/day": 1000, "requests/minute": 100}})
			if err != nil {
				b.Fatal(err)
			}
			r, err := v.Reserve(b.Context(), sets[i], call(10, 10))
			if err != nil {
				b.Fatal(err)
			}
			r.Settle(10, 10)
		}
		b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
		b.ReportMetric(float64(v.Accounts()), "accounts")
		stop()
		runtime.KeepAlive(sets)
	}
}

// giver is a ledger that gives what is wanted and remembers nothing.
type giver struct{}

func (giver) Sync(_ context.Context, _ string, _ time.Duration, claims []ledger.Claim) ([]ledger.Share, error) {
	shares := make([]ledger.Share, len(claims))
	for i := range claims {
		shares[i] = ledger.Share{Hold: claims[i].Want, Spent: claims[i].Spent}
	}
	return shares, nil
}

// heap is what is in use of the heap.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
