// Package verifierd assembles the verifier out of its rooms and runs it: what
// hourpass-verifier and the local twin have in common.
package verifierd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/serve"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/jwks"
	"github.com/hourpass/hourpass/verifier"
)

// Validate checks the configuration without opening anything.
func Validate(_ context.Context, o program.Options) error {
	_, err := load(o)
	return err
}

// Run is the verifier, until ctx ends.
func Run(ctx context.Context, o program.Options) (err error) {
	c, err := load(o)
	if err != nil {
		return err
	}
	log := o.Log()
	remote, err := jwks.NewRemote(jwks.Config{
		URL: c.KeySet.URL, Snapshot: c.KeySet.Snapshot, Refresh: c.KeySet.Refresh, MaxStale: c.KeySet.MaxStale, Log: log, Now: o.Clock(),
		Profile: jwks.Profile{Types: []string{token.Type}, Algorithms: []string{"ES256", "EdDSA", "RS256"}, ExactHeader: true, MaxBytes: token.MaxBytes},
	})
	if err != nil {
		return fmt.Errorf("%s: key_set: %w", o.Config, err)
	}
	records, err := audit.Open(audit.Config{Path: c.Audit, Program: "hourpass-verifier", Now: o.Clock()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	v, err := verifier.New(verifier.Config{
		Issuer: c.Issuer, Audience: c.Audience, Skew: c.Skew, Keys: remote, Upstreams: upstreams(c), MaxBody: c.MaxBody,
		Audit: records, Log: log, Now: o.Clock(),
	})
	if err != nil {
		return fmt.Errorf("%s: %w", o.Config, err)
	}
	return listen(ctx, c, log, v, remote, records, o.Clock())
}

func upstreams(c *settings) []verifier.Upstream {
	var list []verifier.Upstream
	for _, u := range c.Upstreams {
		list = append(list, verifier.Upstream{
			Name: u.Name, URL: u.URL, Models: u.Models, Header: u.Header, Credential: u.Credential.Reveal(),
			ResponseTimeout: u.ResponseTimeout, IdleTimeout: u.IdleTimeout,
		})
	}
	return list
}

func listen(ctx context.Context, c *settings, log *slog.Logger, v *verifier.Verifier, remote *jwks.Remote, records *audit.Log, now func() time.Time) error {
	tls, err := c.TLS.Load()
	if err != nil {
		return err
	}
	listeners, err := program.Listen(ctx, c.Listen, c.OpsListen)
	if err != nil {
		return err
	}
	ready := &serve.Readiness{Checks: []serve.Check{
		{Name: "key_set", Err: func() error { _, err := remote.Generation(now()); return err }},
		{Name: "audit", Err: v.Ready},
	}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return remote.Run(ctx) })
	group.Go(func() error { return program.Reopen(ctx, log, records) })
	group.Go(func() error {
		return serve.Until(ctx, log, c.DrainTimeout, ready.Drain,
			serve.Endpoint{Name: "verifier", Listener: listeners[0], Handler: v.Handler(), TLS: tls},
			serve.Endpoint{Name: "ops", Listener: listeners[1], Handler: verifier.Ops(ready)})
	})
	return group.Wait()
}
