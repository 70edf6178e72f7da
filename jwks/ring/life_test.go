package ring_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/jwks/ring"
)

// A year without anybody's doing: a key a month.
func TestRingOfAYear(t *testing.T) {
	c := newClock()
	r := create(t, config(t, c))
	if k := r.List()[0]; k.State != ring.Active || k.Alg != "ES256" || !k.Created.Equal(start) || !k.Published.Equal(start) ||
		!k.ActiveFrom.Equal(start) || !k.Retires.IsZero() || !k.GoneAt.IsZero() {
		t.Errorf("the first key is %+v", k)
	}
	signed := map[string]time.Time{} // Last signature by kid.
	var order []string
	for c.now().Before(start.Add(365 * 24 * time.Hour)) {
		later(t, c, 5*time.Minute, r)
		if len(r.List()) > 3 {
			t.Fatalf("List = %s, want no more than one successor and one retired", states(r))
		}
		for _, k := range r.List() {
			switch _, did := signed[k.KID]; {
			case k.State == ring.Active && !did:
				order = append(order, k.KID)
				if c.now().Sub(start) > time.Hour && c.now().Before(k.Published.Add(lead)) {
					t.Errorf("a key signs %s after it was published", c.now().Sub(k.Published))
				}
				if kid := signedBy(t, sign(t, r)); kid != k.KID {
					t.Errorf("the key %s signs, want %s", kid, k.KID)
				}
			case k.State == ring.Prepare && did:
				t.Errorf("the key %s signed before its time", k.KID)
			}
			if k.State == ring.Active {
				signed[k.KID] = c.now()
			}
		}
		for kid, last := range signed {
			if c.now().Sub(last) <= token.MaxLifetime && !strings.Contains(string(r.Document()), kid) {
				t.Errorf("the key %s is not published %s after it last signed", kid, c.now().Sub(last))
			}
		}
	}
	if len(order) != 13 {
		t.Errorf("%d keys signed in a year, want 13", len(order))
	}
	if s := states(r); s != "active" {
		t.Errorf("at the end List = %s, want active", s)
	}
}

// Rotated by command, minute by minute.
func TestRotate(t *testing.T) {
	c := newClock()
	conf := config(t, c)
	r := create(t, conf)
	first := sign(t, r)
	c.add(1500 * time.Millisecond) // Times are rounded to the safe side.
	asked := c.now()
	k := rotate(t, r)
	if k.State != ring.Prepare || k.Published.Before(asked.Add(stale)) || k.ActiveFrom.Before(asked.Add(stale+lead)) ||
		k.ActiveFrom.After(asked.Add(stale+lead+2*time.Second)) || k.ActiveFrom.Nanosecond() != 0 {
		t.Errorf("Rotate = %+v", k)
	}
	if got := published(t, r.Document()); len(got) != 2 || got[1] != k.KID || signedBy(t, sign(t, r)) != signedBy(t, first) {
		t.Errorf("after Rotate the document has %v", got)
	}
	if again := rotate(t, r); again != k || states(r) != "active prepare" {
		t.Errorf("Rotate again = %+v, want %+v", again, k)
	}
	later(t, c, k.ActiveFrom.Sub(c.now())-time.Nanosecond, r)
	if last := sign(t, r); signedBy(t, last) == k.KID {
		t.Error("the new key signs before its time")
	}
	// Without anybody's reading the storage again: the times say it all.
	c.add(time.Nanosecond)
	second := sign(t, r)
	if signedBy(t, second) != k.KID || states(r) != "retiring active" {
		t.Errorf("at its time the new key does not sign: %s", states(r))
	}
	gone := k.ActiveFrom.Add(hold)
	if old := r.List()[0]; !old.Retires.Equal(k.ActiveFrom) || !old.GoneAt.Equal(gone) {
		t.Errorf("the old key is %+v", old)
	}
	later(t, c, gone.Sub(c.now())-time.Second, r)
	again := open(t, conf) // After a restart.
	for _, r := range []*ring.Ring{r, again} {
		if err := errors.Join(verify(t, r.Document(), first), verify(t, r.Document(), second)); err != nil {
			t.Errorf("a second before the old key goes: %v", err)
		}
		if signedBy(t, sign(t, r)) != k.KID {
			t.Error("after a restart another key signs")
		}
	}
	c.add(time.Second)
	if states(r) != "gone active" {
		t.Errorf("List = %s, want gone active", states(r))
	}
	later(t, c, 0, r)
	if err := verify(t, r.Document(), first); !errors.Is(err, token.ErrUnknownKey) || states(r) != "active" {
		t.Errorf("when the old key is gone: %v, %s", err, states(r))
	}
	if err := verify(t, r.Document(), second); err != nil {
		t.Error(err)
	}
}

// A ring that was asleep when a key was due makes it when it wakes, and does not
// use it before its time.
func TestLongSleep(t *testing.T) {
	c := newClock()
	r := create(t, config(t, c))
	later(t, c, 400*24*time.Hour, r)
	if states(r) != "active prepare" {
		t.Fatalf("List = %s", states(r))
	}
	if k := r.List()[1]; k.ActiveFrom.Before(c.now().Add(lead)) {
		t.Errorf("the late key signs from %s on, it is %s", k.ActiveFrom, c.now())
	}
	if err := verify(t, r.Document(), sign(t, r)); err != nil {
		t.Error(err)
	}
}

// A clock that is set back makes no key of the future sign, and breaks nothing.
func TestClockSetBack(t *testing.T) {
	c := newClock()
	r := create(t, config(t, c))
	k := rotate(t, r)
	later(t, c, lead+2*stale, r)
	later(t, c, -time.Hour, r)
	if signedBy(t, sign(t, r)) == k.KID || states(r) != "active prepare" {
		t.Errorf("List = %s", states(r))
	}
	if err := verify(t, r.Document(), sign(t, r)); err != nil {
		t.Error(err)
	}
}

func TestTaint(t *testing.T) {
	for _, tt := range []struct {
		name          string
		which         int // Of retiring, active and prepared.
		states        string
		signs         int // -1: a fresh one.
		preparedMoves bool
	}{
		{"the retiring key", 0, "active prepare", 1, false},
		{"the active key", 1, "retiring active", 2, true},
		{"the prepared key", 2, "retiring active", 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClock()
			conf := config(t, c)
			r := create(t, conf)
			tokens := []string{sign(t, r)}
			rotate(t, r)
			later(t, c, lead+2*stale, r)
			tokens = append(tokens, sign(t, r))
			rotate(t, r)
			c.add(1500 * time.Millisecond)
			later(t, c, 0, r)
			before := r.List()
			if states(r) != "retiring active prepare" {
				t.Fatalf("List = %s", states(r))
			}
			kid := before[tt.which].KID
			tainted := taint(t, r, kid)
			if tainted.KID != kid || !tainted.At.Equal(c.now().Truncate(time.Second)) || tainted.Until.Before(c.now().Add(token.MaxLifetime)) {
				t.Errorf("Taint = %+v", tainted)
			}
			if states(r) != tt.states || slices.Contains(published(t, r.Document()), kid) {
				t.Errorf("List = %s, want %s, and %s in the document no more", states(r), tt.states, kid)
			}
			if got := signedBy(t, sign(t, r)); got != before[tt.signs].KID {
				t.Errorf("%s signs, want key number %d", got, tt.signs)
			}
			for i, raw := range tokens {
				want := error(nil)
				if i == tt.which {
					want = token.ErrUnknownKey
				}
				if err := verify(t, r.Document(), raw); !errors.Is(err, want) {
					t.Errorf("token of key number %d: %v, want %v", i, err, want)
				}
			}
			// It stays so, for other processes and the next hours.
			r = open(t, conf)
			for range 300 {
				later(t, c, 30*time.Second, r)
				if slices.Contains(published(t, r.Document()), kid) || signedBy(t, sign(t, r)) == kid {
					t.Fatal("the tainted key is back")
				}
				if listed := slices.Contains(r.Tainted(), tainted); listed != c.now().Before(tainted.Until) {
					t.Fatalf("Tainted() at %s = %v", c.now(), r.Tainted())
				}
			}
			if len(r.Tainted()) != 0 {
				t.Errorf("Tainted() = %v at the end", r.Tainted())
			}
		})
	}
}

// Nothing waits to succeed the active key: a fresh one signs at once.
func TestTaintTheOnlyKey(t *testing.T) {
	c := newClock()
	r := create(t, config(t, c))
	old := r.List()[0].KID
	first := taint(t, r, old)
	if got := published(t, r.Document()); len(got) != 1 || got[0] == old || states(r) != "active" {
		t.Errorf("the document has %v, List = %s", got, states(r))
	}
	if err := verify(t, r.Document(), sign(t, r)); err != nil {
		t.Error(err)
	}
	c.add(time.Minute)
	if again := taint(t, r, old); again != first || len(r.List()) != 1 {
		t.Errorf("Taint again = %+v, want %+v", again, first)
	}
	for _, kid := range []string{"", "none", old + "x"} {
		if _, err := r.Taint(t.Context(), kid); !errors.Is(err, ring.ErrUnknownKey) {
			t.Errorf("Taint(%q) = %v, want ErrUnknownKey", kid, err)
		}
	}
	// In between, another one is prepared and tainted: the active key goes on.
	signs, k := r.List()[0].KID, rotate(t, r)
	taint(t, r, k.KID)
	if list := r.List(); len(list) != 1 || list[0].KID != signs || !list[0].Retires.IsZero() || !list[0].GoneAt.IsZero() {
		t.Errorf("List = %+v, want the active key without a successor", list)
	}
	later(t, c, every+2*lead, r)
	if states(r) != "active prepare" {
		t.Errorf("a month later List = %s", states(r))
	}
}

// A process whose clock lags sees two keys ahead; that it taints the nearer one
// does not bring the other one forward.
func TestTaintByALaggard(t *testing.T) {
	c := newClock()
	conf := config(t, c)
	r := create(t, conf)
	k := rotate(t, r)
	later(t, c, lead+2*stale, r)
	next := rotate(t, r)
	c.add(-lead)
	r = open(t, conf)
	if states(r) != "active prepare prepare" {
		t.Fatalf("List = %s", states(r))
	}
	taint(t, r, k.KID)
	list := r.List()
	if len(list) != 2 || list[1] != next || !list[0].Retires.Equal(next.ActiveFrom) || !list[0].GoneAt.Equal(next.ActiveFrom.Add(hold)) {
		t.Errorf("List = %+v", list)
	}
}

// The keys of a ring may have different algorithms, by turns.
func TestAlgorithmsChange(t *testing.T) {
	c := newClock()
	conf := config(t, c)
	create(t, conf)
	var tokens []string
	for _, alg := range []string{"EdDSA", "RS256", "ES256"} {
		conf.Alg = alg
		r := open(t, conf)
		tokens = append(tokens, sign(t, r))
		rotate(t, r)
		later(t, c, lead+2*stale, r)
		raw := sign(t, r)
		if !strings.HasPrefix(header(t, raw), `{"alg":"`+alg+`",`) {
			t.Errorf("the header is %s", header(t, raw))
		}
		tokens = append(tokens, raw)
		for _, raw := range tokens {
			if err := verify(t, r.Document(), raw); err != nil {
				t.Errorf("with %s: %v", alg, err)
			}
		}
	}
}

// However often it is asked for, no more keys are made than verifiers take; and
// when the ring is full a tainted key is replaced still.
func TestRingIsBounded(t *testing.T) {
	c := newClock()
	conf := config(t, c)
	conf.Hold = 8 * time.Hour
	r := create(t, conf)
	for range ring.MaxKeys - 1 {
		rotate(t, r)
		later(t, c, lead+2*stale, r)
	}
	if k, err := r.Rotate(t.Context()); err == nil || len(r.List()) != ring.MaxKeys {
		t.Errorf("Rotate of %d keys = %+v", len(r.List()), k)
	}
	taint(t, r, r.List()[ring.MaxKeys-1].KID)
	if err := verify(t, r.Document(), sign(t, r)); err != nil || len(r.List()) != ring.MaxKeys {
		t.Error(err)
	}
	if err := open(t, conf).Ready(); err != nil {
		t.Error(err)
	}
}
