package issuer

import (
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/issuer/internal/idp"
	"github.com/hourpass/hourpass/issuer/internal/throttle"
)

// Rates bound how fast the issuer is asked. Zero fields mean the defaults. Each
// issuer counts on its own.
type Rates struct {
	// PerAddress is how many requests a second one address may send, after a
	// burst of ten times that. Default 50.
	PerAddress int
	// PerKey is how many tokens a minute one machine key may get, and at once.
	// Default 600.
	PerKey int
	// Failures is how many failed attempts a minute one address may have, and one
	// machine key, before each further one is told to wait. Default 30.
	Failures int
}

func (r *Rates) defaults() {
	for _, rate := range []struct {
		to *int
		or int
	}{{&r.PerAddress, 50}, {&r.PerKey, 600}, {&r.Failures, 30}} {
		if *rate.to == 0 {
			*rate.to = rate.or
		}
	}
}

// throttles hold the rates. What counts against a key is only ever done by who
// holds it, or fails: a stranger's failures slow down strangers, while who holds
// the secret is not asked how many others have tried.
type throttles struct {
	addresses, starts, mints, addressFailures, keyFailures, guesses, givenBack *throttle.Limiter
}

func newThrottles(r Rates) throttles {
	perMinute := func(n int) *throttle.Limiter { return throttle.New(time.Minute/time.Duration(n), n) }
	return throttles{
		addresses: throttle.New(time.Second/time.Duration(r.PerAddress), 10*r.PerAddress),
		starts:    throttle.New(startEvery, startBurst),
		mints:     perMinute(r.PerKey), addressFailures: perMinute(r.Failures), keyFailures: perMinute(r.Failures), guesses: perMinute(r.Failures),
		givenBack: throttle.New(time.Hour/giveBackHourly, giveBackHourly),
	}
}

// admit counts a request of an address.
func (t throttles) admit(addr netip.Addr, now time.Time) error {
	return tooFast(t.addresses.Take(nameOf(addr), now))
}

// How many logins an address may start: an office does so behind one address,
// and each is a row for ten minutes.
const (
	startEvery = 200 * time.Millisecond
	startBurst = 300
)

// start counts the start of a login, which leaves a row behind.
func (t throttles) start(addr netip.Addr, now time.Time) error {
	if err := t.admit(addr, now); err != nil {
		return err
	}
	return tooFast(t.starts.Take(nameOf(addr), now))
}

// giveBackHourly is how many tokens an hour one machine key may give back, and at
// once: each is carried to every verifier until it would have expired.
const giveBackHourly = 256

func (t throttles) giveBack(key string, now time.Time) error {
	return tooFast(t.givenBack.Take(key, now))
}

// mint counts a request of a key that has authenticated itself.
func (t throttles) mint(key string, now time.Time) error { return tooFast(t.mints.Take(key, now)) }

// failures are the reasons that guessing would bring about.
var failures = []error{policy.ErrUnknownKey, errNoKey, idp.ErrIdentity, policy.ErrBinding, errCode, errRefresh, errReplay, errClientReplay, errSession, errSubjectToken, errDevice}

// failed counts a failure of an address and, where it is known, of the key that
// was named. Beyond the budget it returns what to answer instead; that is not
// recorded one by one, so that nobody can fill the disk with it.
func (t throttles) failed(err error, addr netip.Addr, key string, now time.Time) error {
	guess := false
	for _, f := range failures {
		guess = guess || errors.Is(err, f)
	}
	if !guess {
		return nil
	}
	wait := t.addressFailures.Take(nameOf(addr), now)
	if key != "" {
		wait = max(wait, t.keyFailures.Take(key, now))
	}
	return tooFast(wait)
}

// guess counts what may be a guess at a code that is short enough to be guessed:
// beyond the budget, a right one is refused too (RFC 8628, section 5.1).
func (t throttles) guess(addr netip.Addr, now time.Time) error {
	return tooFast(t.guesses.Take(nameOf(addr), now))
}

// guessed uncounts a guess that was none: the code was right.
func (t throttles) guessed(addr netip.Addr) { t.guesses.Undo(nameOf(addr)) }

// nameOf is whom to count: an IPv6 customer has a whole /64 to come from.
func nameOf(addr netip.Addr) string {
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.String()
		}
	}
	return addr.String()
}

// namedKey is the machine key that a request names, whoever sent it. Empty where
// it names none.
func namedKey(r *http.Request) string {
	id := r.PostForm.Get("client_id")
	if user, _, ok := r.BasicAuth(); ok {
		id = user
	}
	if len(id) > 32 {
		return ""
	}
	return id
}

func tooFast(wait time.Duration) error {
	if wait <= 0 {
		return nil
	}
	return &reply.Refusal{
		Status: http.StatusTooManyRequests, Code: "temporarily_unavailable", Detail: reply.Sentence(errTooFast), RetryAfter: wait,
	}
}
