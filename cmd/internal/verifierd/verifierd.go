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
	behind, assertions, err := upstreams(c, log, o.Clock())
	if err != nil {
		return fmt.Errorf("%s: assertions: %w", o.Config, err)
	}
	registry := newRegistry()
	registry.MustRegister(issuerMetrics{issuers, o.Clock()})
	conf := verifier.Config{
		Skew: c.Skew, TrustedProxies: networks(c.TrustedProxies), Upstreams: behind, MaxBody: c.MaxBody, MaxForm: c.MaxForm, MaxDisk: c.MaxDisk,
		Streams: verifier.Streams{
			CutExpired: c.Streams.AtExpiry == cut, CutRevoked: c.Streams.AtRevocation == cut, MaxAge: c.Streams.MaxAge, KeepAlive: c.Streams.KeepAlive,
		},
		Audit: records, Metrics: verifier.NewMetrics(registry), Log: log, Now: o.Clock(),
	}
	late, err := c.Ledger.budgets(issuers, c, o, log)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Config, err)
	}
	spool, err := c.openSpool(log, o.Clock())
	if err != nil {
		return fmt.Errorf("%s: %w", o.Config, err)
	}
	if spool != nil {
		conf.Usage, late = spool, append(late, spool.Run)
		registry.MustRegister(spoolMetrics(spool))
	}
	for _, i := range issuers {
		conf.Issuers = append(conf.Issuers, i.Issuer)
	}
	v, err := verifier.New(conf)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Config, err)
	}
	stop := runAfter(ctx, late)
	defer func() { err = errors.Join(err, stop()) }()
	return listen(ctx, c, log, parts{v, issuers, assertions, records, metricsPage(registry, log), o.Clock()})
}

// parts are what the verifier is made of and runs beside it.
type parts struct {
	verifier   *verifier.Verifier
	issuers    []issuer
	assertions *verifier.AssertionKeys // Nil: none.
	records    *audit.Log
	metrics    http.Handler
	now        func() time.Time
}

// runAfter runs beyond ctx, until the returned function is called: calls that are
// under way when it ends are still settled.
func runAfter(ctx context.Context, list []runner) (stop func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range list {
		group.Go(func() error { return run(ctx) })
	}
	return func() error {
		cancel()
		return group.Wait()
	}
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

// upstreams are those of the configuration, and the keys that sign for them, if
// there are any.
func upstreams(c *settings, log *slog.Logger, now func() time.Time) (list []verifier.Upstream, keys *verifier.AssertionKeys, err error) {
	if c.Assertions.Keys != "" {
		keys, err = verifier.OpenAssertionKeys(c.Assertions.Keys, c.Assertions.Issuer)
		if err != nil {
			return nil, nil, err
		}
	}
	for _, u := range c.Upstreams {
		one := u.upstream()
		one.Log, one.Now = log, now
		if u.Assertion.On {
			one.Assertions = keys
		}
		list = append(list, one)
	}
	return list, keys, nil
}

func listen(ctx context.Context, c *settings, log *slog.Logger, p parts) error {
	tls, err := c.TLS.Load()
	if err != nil {
		return err
	}
	forwardAuth, err := c.ForwardAuth.handler(p.verifier)
	if err != nil {
		return err
	}
	addrs := []string{c.Listen, c.OpsListen}
	if forwardAuth != nil {
		addrs = append(addrs, c.ForwardAuth.Listen)
	}
	listeners, err := program.Listen(ctx, addrs...)
	if err != nil {
		return err
	}
	extAuthz, err := c.ExtAuthz.open(ctx, p.verifier, c.DrainTimeout)
	if err != nil {
		return err
	}
	ready := &serve.Readiness{Checks: []serve.Check{{Name: "audit", Err: p.verifier.Ready}}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.verifier.Run(ctx) })
	group.Go(func() error { return program.Reopen(ctx, log, p.records) })
	if extAuthz != nil {
		group.Go(func() error { return extAuthz(ctx) })
	}
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
		ready.Checks = append(ready.Checks, serve.Check{Name: name("ledger"), Err: i.Budgets.Ready})
		for _, run := range i.run {
			group.Go(func() error { return run(ctx) })
		}
	}
	endpoints := []serve.Endpoint{
		{Name: "verifier", Listener: listeners[0], Handler: p.verifier.Handler(), TLS: tls, H2C: c.H2C},
		{Name: "ops", Listener: listeners[1], Handler: verifier.Ops(ready, p.metrics, p.assertions)},
	}
	if forwardAuth != nil {
		endpoints = append(endpoints, serve.Endpoint{Name: "forward-auth", Listener: listeners[2], Handler: forwardAuth})
	}
	group.Go(func() error { return serve.Until(ctx, log, c.DrainTimeout, ready.Drain, endpoints...) })
	return group.Wait()
}
