package upstream

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// How the health of replicas is asked after.
const (
	healthTimeout = 5 * time.Second
	maxMisses     = 2       // In a row, until a replica is down.
	maxHealthBody = 4 << 10 // Bytes that are read, so that the connection can be used again.
)

// Run asks after the health of replicas, where that was configured, until ctx ends.
func (s *Set) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	for _, one := range s.All {
		if one.Health != "" && len(one.replicas) > 1 {
			wait.Go(func() { one.watch(ctx) })
		}
	}
	wait.Wait()
	<-ctx.Done()
	return nil
}

func (s *Server) watch(ctx context.Context) {
	tick := time.NewTicker(s.HealthEvery)
	defer tick.Stop()
	for {
		s.AskHealth(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// AskHealth asks all replicas once.
func (s *Server) AskHealth(ctx context.Context) {
	var wait sync.WaitGroup
	for _, one := range s.replicas {
		wait.Go(func() {
			good := s.healthy(ctx, one)
			if ctx.Err() != nil {
				return
			}
			if changed := one.told(good); changed && good {
				s.Log.Info("a replica is well again", slog.String("url", one.base.String()))
			} else if changed {
				s.Log.Warn("a replica is not well", slog.String("url", one.base.String()))
			}
		})
	}
	wait.Wait()
}

func (s *Server) healthy(ctx context.Context, one *replica) bool {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	r := (&http.Request{Method: http.MethodGet, Header: http.Header{"User-Agent": {"hourpass-verifier"}}}).WithContext(ctx)
	s.authorize(r.Header)
	address(r, &url.URL{Path: s.Health}, one.base)
	res, err := s.Transport.RoundTrip(r)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, maxHealthBody)
	return res.StatusCode >= 200 && res.StatusCode < 300
}

// told notes the replica's health, and returns whether it changed.
func (r *replica) told(good bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if good {
		r.misses = 0
		return r.down.CompareAndSwap(true, false)
	}
	if r.misses++; r.misses < maxMisses {
		return false
	}
	return r.down.CompareAndSwap(false, true)
}
