// Package throttle spaces events out: each name has a rate and a burst of its
// own (the generic cell rate algorithm, ITU-T I.371), and all of them together a
// bounded place in memory.
//
// It reads no clock and knows nothing of what it counts.
package throttle

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// MaxNames bounds how many names a [Limiter] remembers. Whoever floods it with
// names pushes out those that were quiet longest, which had most left anyway.
const MaxNames = 100_000

// A Limiter allows each name Burst events at once and one more every Every. It
// is safe for concurrent use.
type Limiter struct {
	every time.Duration
	burst time.Duration // As the time that it takes to win it back.

	mu   sync.Mutex
	full *lru.Cache[string, time.Time] // When a name has its whole burst again.
}

// New returns a limiter of one event per every, after a burst of at least one.
func New(every time.Duration, burst int) *Limiter {
	full, err := lru.New[string, time.Time](MaxNames)
	if err != nil {
		panic(err) // Unreachable: the size is positive.
	}
	return &Limiter{every: every, burst: every * time.Duration(max(burst, 1)), full: full}
}

// Take counts an event of that name at now and returns 0; or, where it is one
// too many, counts nothing and returns after how long there is room for it.
func (l *Limiter) Take(name string, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	full, _ := l.full.Get(name)
	if full.Before(now) {
		full = now
	}
	next := full.Add(l.every)
	if wait := next.Sub(now) - l.burst; wait > 0 {
		return wait
	}
	l.full.Add(name, next)
	return 0
}

// Undo uncounts an event of that name.
func (l *Limiter) Undo(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if full, ok := l.full.Get(name); ok {
		l.full.Add(name, full.Add(-l.every))
	}
}
