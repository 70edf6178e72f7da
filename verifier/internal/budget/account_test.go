package budget

import (
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
	"github.com/hourpass/hourpass/internal/token"
)

// TestNeedOnce: what a call has waited for and taken is not asked for a second
// time, however soon the lease is renewed: others would be refused what nobody
// uses.
func TestNeedOnce(t *testing.T) {
	now := time.Date(2026, 11, 23, 10, 30, 30, 0, time.UTC)
	limit, err := token.ParseLimit("tokens/day")
	if err != nil {
		t.Fatal(err)
	}
	a := &account{of: &budget{Limit: limit}, end: now.Add(time.Hour), asked: make(chan struct{}), waiting: 40}
	if c := a.claim(now, time.Minute); c.Need != 40 {
		t.Fatalf("a call that waits for 40 needs %d", c.Need)
	}
	a.answer(ledger.Share{Hold: 40}, now.Add(time.Minute))
	if ok, low := a.take(40, 40, 100, now); !ok || !low {
		t.Fatalf("take = %t, %t, want it taken and the lease low", ok, low)
	}
	if c := a.claim(now, time.Minute); c.Need != 40 {
		t.Errorf("the call took 40, and the verifier needs %d", c.Need)
	}
}
