package verifier

import (
	"context"
	"sync"
	"time"

	"github.com/hourpass/hourpass/verifier/internal/refusal"
)

// Streams says what becomes of an answer that has begun when its token comes to
// an end. The zero value lets it finish, within an hour.
type Streams struct {
	// CutExpired ends an answer when its token expires.
	CutExpired bool

	// CutRevoked ends an answer when its token is revoked: at most 2 s after the
	// issuer says so.
	CutRevoked bool

	// MaxAge ends every answer, counted from its call. Zero means 1 hour.
	MaxAge time.Duration

	// KeepAlive is how often a client that asked for a stream of events hears a
	// comment while it waits for the first, so that nothing on the way takes the
	// connection for dead. Status 200 goes out with the first comment: what fails
	// later is told in an event. Zero: the client waits in silence.
	KeepAlive time.Duration
}

// lives are the calls under way that a revocation must end.
type lives struct {
	mu    sync.Mutex
	calls map[*call]context.CancelCauseFunc
}

// limitLife ends the call by cancel when its time is over, until done is called. A
// WebSocket ends with its token, whatever the configuration says of answers.
func (v *Verifier) limitLife(c *call, cancel context.CancelCauseFunc, isSocket bool) (done func()) {
	left, why := v.c.Streams.MaxAge, refusal.ErrTooOld
	if v.c.Streams.CutExpired || isSocket {
		if until := c.claims.Expires.Sub(v.c.Now()); until < left {
			left, why = until, refusal.ErrCutExpired
		}
	}
	timer := time.AfterFunc(left, func() { cancel(why) })
	if !v.c.Streams.CutRevoked && !isSocket || c.token.issuer.Revocations == nil {
		return func() { timer.Stop() }
	}
	v.lives.mu.Lock()
	v.lives.calls[c] = cancel
	v.lives.mu.Unlock()
	v.endRevoked(c, cancel) // What came since the call was judged has found it nowhere.
	return func() {
		timer.Stop()
		v.lives.mu.Lock()
		defer v.lives.mu.Unlock()
		delete(v.lives.calls, c)
	}
}

// endAllRevoked is called when there is news of revocations.
func (v *Verifier) endAllRevoked() {
	v.lives.mu.Lock()
	defer v.lives.mu.Unlock()
	for c, cancel := range v.lives.calls {
		v.endRevoked(c, cancel)
	}
}

func (v *Verifier) endRevoked(c *call, cancel context.CancelCauseFunc) {
	if c.token.issuer.checkRevoked(c.claims, c.token.kid, v.c.Now()) != nil {
		cancel(refusal.ErrCutRevoked)
	}
}

// sockets are the WebSockets that are open: nothing of net/http's knows of them.
type sockets struct {
	mu    sync.Mutex
	open  map[*context.CancelCauseFunc]struct{}
	ended sync.WaitGroup
}

// add has the socket ended by cancel when the verifier is stopped, until done is
// called.
func (s *sockets) add(cancel context.CancelCauseFunc) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[&cancel] = struct{}{}
	s.ended.Add(1)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, &cancel)
		s.ended.Done()
	}
}

// end ends them all and waits for that.
func (s *sockets) end() {
	s.mu.Lock()
	for cancel := range s.open {
		(*cancel)(refusal.ErrDraining)
	}
	s.mu.Unlock()
	s.ended.Wait()
}
