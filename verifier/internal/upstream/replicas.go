package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// How replicas are left alone.
const (
	maxTries    = 3               // Replicas that one request is dialled to.
	maxFailures = 3               // In a row, until a replica is left alone.
	firstBreak  = 2 * time.Second // How long at most, the first time. Each time it doubles.
	longBreak   = time.Minute
	forgiven    = 5 * time.Minute // After the last break began, the next is as short as the first.
)

// replica is one of several servers that are alike. What a call needs of it is
// atomic; the lock is for trouble only.
type replica struct {
	base *url.URL

	working atomic.Int64 // Requests whose answer has not ended.
	until   atomic.Int64 // The end of its break.
	trial   atomic.Bool  // It had a break, and since then no request came to a good end.
	down    atomic.Bool  // Its health is asked after and not good.
	term    atomic.Int64 // How many breaks there were.
	trouble atomic.Bool  // There is something for answered to do.

	mu       sync.Mutex
	failures int   // In a row.
	breaks   int   // Since it was last forgiven.
	since    int64 // When the last one began.
	misses   int   // Of asking after its health, in a row.
}

// fit tells whether the replica may get a request. After a break it gets one at a
// time until one has come to a good end.
func (r *replica) fit(now int64) bool {
	return !r.down.Load() && (!r.trial.Load() || r.until.Load() <= now && r.working.Load() == 0)
}

// take counts a request that goes to the replica, unless another was faster.
func (r *replica) take() bool {
	if r.trial.Load() {
		return r.working.CompareAndSwap(0, 1)
	}
	r.working.Add(1)
	return true
}

// answered notes a good end of a request that was sent in that term. What was
// sent before a break says nothing about the time after it.
func (r *replica) answered(term, now int64) (back bool) {
	if !r.trouble.Load() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if term != r.term.Load() {
		return false
	}
	back = r.trial.Load()
	r.failures = 0
	r.until.Store(0)
	r.trial.Store(false)
	if now-r.since >= int64(forgiven) {
		r.breaks = 0
	}
	r.trouble.Store(r.breaks > 0)
	return back
}

// failed notes a bad end, and returns for how long the replica is left alone, if
// it is. One that cannot even be reached is at once.
func (r *replica) failed(term, now int64, unreachable bool) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if term != r.term.Load() {
		return 0
	}
	r.trouble.Store(true)
	r.failures++
	if r.failures < maxFailures && !unreachable && !r.trial.Load() {
		return 0
	}
	long := min(firstBreak<<min(r.breaks, 16), longBreak)
	// Verifiers that saw the same server die don't all come back at once.
	long = long/2 + rand.N(long/2+1) //nolint:gosec // nobody gains by guessing it
	r.failures, r.since = 0, now
	r.breaks++
	r.until.Store(now + int64(long))
	r.term.Add(1)
	r.trial.Store(true)
	return long
}

// pool chooses among replicas.
type pool struct{ next atomic.Uint64 }

// take returns the replica with the fewest requests at work, in turns where there
// are several, and its term. If none is fit, it is the one whose break ends
// first, of those that are not known to be down: a server that may be
// dead is better than none. It returns nil when all were tried.
func (p *pool) take(replicas, tried []*replica, now int64) (*replica, int64) {
	first := p.next.Add(1)
	for {
		var best *replica
		least := int64(math.MaxInt64)
		for i := range uint64(len(replicas)) {
			r := replicas[(first+i)%uint64(len(replicas))]
			if !r.fit(now) || slices.Contains(tried, r) {
				continue
			}
			if n := r.working.Load(); n < least {
				best, least = r, n
			}
		}
		if best == nil {
			break
		}
		term := best.term.Load()
		if best.take() {
			return best, term
		}
	}
	var best *replica
	for i := range uint64(len(replicas)) {
		r := replicas[(first+i)%uint64(len(replicas))]
		if !slices.Contains(tried, r) && (best == nil || r.sooner(best)) {
			best = r
		}
	}
	if best == nil {
		return nil, 0
	}
	term := best.term.Load()
	best.working.Add(1)
	return best, term
}

func (r *replica) sooner(than *replica) bool {
	if a, b := r.down.Load(), than.down.Load(); a != b {
		return b
	}
	return r.until.Load() < than.until.Load()
}

// balance sends a request to one of the replicas. It goes to another only if it
// is certain that not a byte of it was sent.
func (s *Server) balance(r *http.Request) (*http.Response, error) {
	target := r.URL
	var tried []*replica
	for {
		one, term := s.pool.take(s.replicas, tried, s.now())
		out := r.WithContext(r.Context()) // A copy: what was given to a transport stays as it was.
		address(out, target, one.base)
		if len(tried) > 0 && r.GetBody != nil {
			body, err := r.GetBody()
			if err != nil {
				one.working.Add(-1)
				return nil, err
			}
			out.Body = body
		}
		res, err := s.Transport.RoundTrip(out)
		s.judge(one, term, r, res, err)
		if err == nil {
			res.Body = hold(res.Body, one)
			return res, nil
		}
		one.working.Add(-1)
		tried = append(tried, one)
		again := unsent(err) && r.Context().Err() == nil && (r.Body == nil || r.Body == http.NoBody || r.GetBody != nil)
		if !again || len(tried) == min(maxTries, len(s.replicas)) {
			return nil, err
		}
	}
}

// unsent tells whether an error came before the first byte of a request. Of those
// of TLS only that about the server's certificate is certain to.
func unsent(err error) bool {
	var dial *net.OpError
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &dial) && dial.Op == "dial" || errors.As(err, &certificate)
}

// judge notes what a request tells about its replica. That a client left is none
// of the replica's doing; that our patience ended is.
func (s *Server) judge(one *replica, term int64, r *http.Request, res *http.Response, err error) {
	switch {
	case err != nil && errors.Is(context.Cause(r.Context()), context.Canceled):
		return
	case err == nil && res.StatusCode != http.StatusBadGateway && res.StatusCode != http.StatusServiceUnavailable && res.StatusCode != http.StatusGatewayTimeout:
		if one.answered(term, s.now()) {
			s.Log.Info("a replica is back", slog.String("url", one.base.String()))
		}
		return
	}
	if long := one.failed(term, s.now(), err != nil && unsent(err)); long > 0 {
		attrs := []any{slog.String("url", one.base.String()), slog.Duration("for", long.Round(time.Millisecond))}
		if err != nil {
			attrs = append(attrs, slog.Any("err", err))
		} else {
			attrs = append(attrs, slog.Int("status", res.StatusCode))
		}
		s.Log.Warn("a replica is left alone", attrs...)
	}
}

func (s *Server) now() int64 { return int64(s.Now().Sub(s.epoch)) }

// held is the body of an answer. Until it is closed, its replica is at work.
type held struct {
	io.ReadCloser
	by   *replica
	over atomic.Bool
}

func (h *held) Close() error {
	if h.over.CompareAndSwap(false, true) {
		h.by.working.Add(-1)
	}
	return h.ReadCloser.Close()
}

// heldBoth is the body of an answer that switched protocols.
type heldBoth struct {
	*held
	io.Writer
}

func hold(body io.ReadCloser, by *replica) io.ReadCloser {
	h := &held{ReadCloser: body, by: by}
	if w, ok := body.(io.Writer); ok {
		return heldBoth{h, w}
	}
	return h
}
