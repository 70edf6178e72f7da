package ring

import (
	"slices"
	"time"
)

// MaxKeys bounds how many keys a ring makes. Verifiers refuse very long key
// sets, and a ring within bounds fits one sealed secret.
const MaxKeys = 16

// State is where a key stands in its life. It follows from the key's times
// alone, so that all processes that share a ring change states together, to the
// precision of their clocks, whether or not they hear of one another just then.
type State string

// The states.
//
//	prepare ── Lead after it was published ──▶ active ── when the next one is ──▶ retiring ── Hold later ──▶ gone
const (
	Prepare  State = "prepare"  // Published. Does not sign yet.
	Active   State = "active"   // Published. Signs.
	Retiring State = "retiring" // Published, for what it signed. Signs no more.
	Gone     State = "gone"     // About to be dropped: all that it signed has expired.
)

// Key is what may be told of a signing key. Times are whole seconds, UTC.
type Key struct {
	KID        string    // RFC 7638 thumbprint.
	Alg        string    // ES256, EdDSA or RS256.
	State      State     // As of when it was asked for.
	Created    time.Time // When it was made.
	Published  time.Time // From when on every process publishes it.
	ActiveFrom time.Time // From when on it signs.
	Retires    time.Time // From when on it signs no more. Zero: it has no successor yet.
	GoneAt     time.Time // From when on it is not published. Zero: it has no successor yet.
}

// Tainted is a key that may be in the wrong hands, or was in them.
type Tainted struct {
	KID   string    `json:"kid"`
	At    time.Time `json:"at"`    // When it was tainted.
	Until time.Time `json:"until"` // When no verifier can believe it any more.
}

// key is a signing key with its material, which never changes.
type key struct {
	Key
	material *material
}

// life is the keys of a ring, by the time that they sign, and those that were
// tainted, by the time of that. Whoever changes it works on a clone.
type life struct {
	keys    []key // Only the last has no successor.
	tainted []Tainted
}

func (l life) clone() life { return life{slices.Clone(l.keys), slices.Clone(l.tainted)} }

// signing is the number of the key that signs at now: the first that is not
// retired. If its time has not come, the clock was set back or lags; what came
// before it may be tainted.
func (l life) signing(now time.Time) int {
	last := len(l.keys) - 1
	for i := range last {
		if now.Before(l.keys[i].Retires) {
			return i
		}
	}
	return last
}

func (l life) state(i int, now time.Time) State {
	switch s := l.signing(now); {
	case i > s:
		return Prepare
	case i == s:
		return Active
	case now.Before(l.keys[i].GoneAt):
		return Retiring
	}
	return Gone
}

// prepared tells whether the key that signs has a successor waiting.
func (l life) prepared(now time.Time) bool { return l.signing(now) < len(l.keys)-1 }

// due tells whether it is time to prepare a successor to the last key.
func (l life) due(now time.Time, c Config) bool {
	last := l.keys[len(l.keys)-1]
	return !now.Before(last.ActiveFrom.Add(c.Every - c.Lead - c.MaxStale))
}

// succeed gives the last key a successor, stored at now: processes that read
// less often publish it up to MaxStale later, verifiers know it Lead after that.
func (l *life) succeed(k key, now time.Time, c Config) {
	k.Published = ceil(now.Add(c.MaxStale))
	k.ActiveFrom = ceil(k.Published.Add(c.Lead))
	l.keys[len(l.keys)-1].retire(k.ActiveFrom, c)
	l.keys = append(l.keys, k)
}

// retire says when k stops signing.
func (k *key) retire(at time.Time, c Config) { k.Retires, k.GoneAt = at, ceil(at.Add(c.Hold)) }

// forget drops what is gone at now, and tells whether there was any.
func (l *life) forget(now time.Time) bool {
	before := len(l.keys) + len(l.tainted)
	l.keys = slices.DeleteFunc(l.keys, func(k key) bool { return !k.GoneAt.IsZero() && !now.Before(k.GoneAt) })
	l.tainted = slices.DeleteFunc(l.tainted, func(t Tainted) bool { return !now.Before(t.Until) })
	return len(l.keys)+len(l.tainted) < before
}

// taint takes key number i out. If it signed and nothing waits to succeed it,
// fresh makes what does: it signs before verifiers know it, which costs them an
// early fetch; the tainted one would cost more.
func (l *life) taint(i int, now time.Time, c Config, fresh func() (key, error)) (Tainted, error) {
	now = floor(now)
	signing := l.signing(now)
	// A stale process publishes it for MaxStale, caches and verifiers that can be
	// reached keep it for Lead, one that is cut off trusts no key for longer than
	// a token's life.
	t := Tainted{l.keys[i].KID, now, ceil(now.Add(c.MaxStale + c.Lead + c.Hold))}
	switch {
	case i > signing && i+1 < len(l.keys):
		l.keys[i-1].retire(l.keys[i+1].ActiveFrom, c)
	case i > signing:
		l.keys[i-1].Retires, l.keys[i-1].GoneAt = time.Time{}, time.Time{}
	case i == signing && i+1 < len(l.keys):
		l.keys[i+1].ActiveFrom = now
	case i == signing:
		k, err := fresh()
		if err != nil {
			return Tainted{}, err
		}
		k.Published, k.ActiveFrom = now, now
		l.keys = append(l.keys, k)
	}
	l.keys = slices.Delete(l.keys, i, i+1)
	l.tainted = append(l.tainted, t)
	return t, nil
}

// floor and ceil make whole seconds: a key may sign later than it could, and
// stay longer than it must, not the other way round.
func floor(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

func ceil(t time.Time) time.Time { return floor(t.Add(time.Second - time.Nanosecond)) }
