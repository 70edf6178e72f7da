package throttle_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hourpass/hourpass/issuer/internal/throttle"
)

var now = time.Unix(1_800_000_000, 0)

func TestTake(t *testing.T) {
	l := throttle.New(time.Second, 3)
	take := func(name string, at time.Duration, want time.Duration) {
		t.Helper()
		if got := l.Take(name, now.Add(at)); got != want {
			t.Errorf("Take(%s) at %v = %v, want %v", name, at, got, want)
		}
	}
	for range 3 {
		take("a", 0, 0)
	}
	take("a", 0, time.Second)
	take("b", 0, 0) // One name's events are not another's.
	take("a", 400*time.Millisecond, 600*time.Millisecond)
	take("a", time.Second, 0)
	take("a", time.Second, time.Second)
	// Quiet for long, it has its burst again, and not more.
	for range 3 {
		take("a", time.Hour, 0)
	}
	take("a", time.Hour, time.Second)
	// A clock that jumps back frees nobody, and locks nobody out for longer than
	// it jumped.
	take("a", time.Hour-time.Minute, time.Second+time.Minute)
}

func TestUndo(t *testing.T) {
	l := throttle.New(time.Second, 2)
	l.Undo("a")
	for i, want := range []time.Duration{0, 0, time.Second} {
		if got := l.Take("a", now); got != want {
			t.Errorf("Take %d = %v, want %v", i+1, got, want)
		}
	}
	l.Undo("a")
	for i, want := range []time.Duration{0, time.Second} {
		if got := l.Take("a", now); got != want {
			t.Errorf("Take %d after Undo = %v, want %v", i+1, got, want)
		}
	}
}

func TestBounded(t *testing.T) {
	l := throttle.New(time.Hour, 1)
	l.Take("first", now)
	for i := range throttle.MaxNames {
		l.Take(fmt.Sprint(i), now)
	}
	if wait := l.Take("first", now); wait != 0 {
		t.Error("it remembers more names than it should")
	}
	if wait := l.Take(fmt.Sprint(throttle.MaxNames-1), now); wait == 0 {
		t.Error("it forgets the name that came last")
	}
}

func BenchmarkTake(b *testing.B) {
	l := throttle.New(time.Nanosecond, 10)
	b.ReportAllocs()
	for b.Loop() {
		l.Take("a", now)
	}
}
