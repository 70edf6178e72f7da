// Package verifierd assembles the verifier out of its rooms and runs it: what
// hourpass-verifier and the local twin have in common.
package verifierd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/serve"
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
	issuers, err := openIssuers(c, o, log)
	if err != nil {
		return err
	}
	records, err := audit.Open(audit.Config{Path: c.Audit, Program: "hourpass-verifier", Now: o.Clock()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	registry := newRegistry()
	registry.MustRegister(issuerMetrics{issuers, o.Clock()})
	conf := verifier.Config{
		Metrics: verifier.NewMetrics(registry),
		Skew:    c.Skew, TrustedProxies: networks(c.TrustedProxies), Upstreams: upstreams(c), MaxBody: c.MaxBody, MaxForm: c.MaxForm, MaxDisk: c.MaxDisk, Audit: records, Log: log, Now: o.Clock(),
		Streams: verifier.Streams{
			CutExpired: c.Streams.AtExpiry == cut, CutRevoked: c.Streams.AtRevocation == cut, MaxAge: c.Streams.MaxAge, KeepAlive: c.Streams.KeepAlive,
		},
	}
	for _, i := range issuers {
		conf.Issuers = append(conf.Issuers, i.Issuer)
	}
	v, err := verifier.New(conf)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Config, err)
	}
	return listen(ctx, c, log, parts{v, issuers, records, metricsPage(registry, log), o.Clock()})
}

// parts are what the verifier is made of and runs beside it.
type parts struct {
	verifier *verifier.Verifier
	issuers  []issuer
	records  *audit.Log
	metrics  http.Handler
	now      func() time.Time
}

// runner runs until ctx ends.
type runner = func(ctx context.Context) error

// networks are those of the configuration, which were checked when it was read.
func networks(list []string) (prefixes []netip.Prefix) {
	for _, n := range list {
		prefixes = append(prefixes, netip.MustParsePrefix(n))
	}
	return prefixes
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

func listen(ctx context.Context, c *settings, log *slog.Logger, p parts) error {
	tls, err := c.TLS.Load()
	if err != nil {
		return err
	}
	listeners, err := program.Listen(ctx, c.Listen, c.OpsListen)
	if err != nil {
		return err
	}
	ready := &serve.Readiness{Checks: []serve.Check{{Name: "audit", Err: p.verifier.Ready}}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return program.Reopen(ctx, log, p.records) })
	for _, i := range p.issuers {
		name := func(what string) string {
			if len(p.issuers) == 1 {
				return what
			}
			return what + " of " + i.URL
		}
		ready.Checks = append(ready.Checks, serve.Check{Name: name("key_set"), Err: func() error { _, err := i.keys.Generation(p.now()); return err }})
		if i.Revocations != nil {
			ready.Checks = append(ready.Checks, serve.Check{Name: name("revocations"), Err: func() error { return i.Revocations.Ready(p.now()) }})
		}
		for _, run := range i.run {
			group.Go(func() error { return run(ctx) })
		}
	}
	group.Go(func() error {
		return serve.Until(ctx, log, c.DrainTimeout, ready.Drain,
			serve.Endpoint{Name: "verifier", Listener: listeners[0], Handler: p.verifier.Handler(), TLS: tls},
			serve.Endpoint{Name: "ops", Listener: listeners[1], Handler: verifier.Ops(ready, p.metrics)})
	})
	return group.Wait()
}
