// Package serve runs HTTP servers for as long as their context lives, and
// answers whether the program is alive and ready.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// Bounds that protect a server from slow or greedy clients.
const (
	ReadHeaderTimeout = 10 * time.Second
	IdleTimeout       = 2 * time.Minute
	MaxHeaderBytes    = 32 << 10
	MaxStreams        = 250 // Of HTTP/2, on one connection at a time.
)

// Endpoint is one listener and what it serves.
type Endpoint struct {
	Name     string // For the log.
	Listener net.Listener
	Handler  http.Handler
	TLS      *tls.Config   // Nil: plain HTTP.
	H2C      bool          // HTTP/2 without TLS too, for proxies in front that speak it.
	ReadBody time.Duration // How long a request's body may take to arrive. Zero: no limit.
}

// Until serves the endpoints until ctx ends. It then calls draining, if not
// nil, takes no more connections, and lets requests in flight finish for at most
// grace; what still runs is cut. It returns nil after any such stop.
func Until(ctx context.Context, log *slog.Logger, grace time.Duration, draining func(), endpoints ...Endpoint) error {
	group, ctx := errgroup.WithContext(ctx)
	servers := make([]*http.Server, len(endpoints))
	for i, e := range endpoints {
		srv := &http.Server{
			Handler:           e.Handler,
			TLSConfig:         e.TLS,
			ReadHeaderTimeout: ReadHeaderTimeout,
			ReadTimeout:       e.ReadBody,
			IdleTimeout:       IdleTimeout,
			MaxHeaderBytes:    MaxHeaderBytes,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
			// No WriteTimeout: an answer may stream for as long as a model thinks.

			// "OPTIONS *" is the handler's to refuse and to write down, too.
			DisableGeneralOptionsHandler: true,

			HTTP2: &http.HTTP2Config{MaxConcurrentStreams: MaxStreams},
		}
		if e.H2C {
			srv.Protocols = new(http.Protocols)
			srv.Protocols.SetHTTP1(true)
			srv.Protocols.SetUnencryptedHTTP2(true)
		}
		servers[i] = srv
		log.Info("listening", "name", e.Name, "addr", e.Listener.Addr().String(), "tls", e.TLS != nil)
		group.Go(func() error {
			var err error
			if e.TLS != nil {
				err = srv.ServeTLS(e.Listener, "", "")
			} else {
				err = srv.Serve(e.Listener)
			}
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			return fmt.Errorf("serving %s: %w", e.Name, err)
		})
	}
	group.Go(func() error {
		<-ctx.Done()
		log.Info("draining", "grace", grace.String())
		if draining != nil {
			draining()
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		for _, srv := range servers {
			if err := srv.Shutdown(ctx); err != nil {
				log.Warn("cutting what still runs", "err", err.Error())
				_ = srv.Close() // It is ending either way.
			}
		}
		return nil
	})
	return group.Wait()
}
