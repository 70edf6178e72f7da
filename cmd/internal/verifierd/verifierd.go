// Package verifierd assembles the verifier out of its rooms and runs it: what
// hourpass-verifier and the local twin have in common.
package verifierd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/revocation"
	"github.com/hourpass/hourpass/internal/serve"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/jwks"
	"github.com/hourpass/hourpass/keys/format"
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
		Profile: tokenProfile,
	})
	if err != nil {
		return fmt.Errorf("%s: key_set: %w", o.Config, err)
	}
	revocations, err := openRevocations(c, remote, o, log)
	if err != nil {
		return fmt.Errorf("%s: revocations: %w", o.Config, err)
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
	v, err := verifier.New(verifier.Config{
		Issuer: c.Issuer, Audience: c.Audience, Skew: c.Skew, Keys: keySet{remote}, Revocations: revocations, Upstreams: behind, MaxBody: c.MaxBody,
		Audit: records, Log: log, Now: o.Clock(),
	})
	if err != nil {
		return fmt.Errorf("%s: %w", o.Config, err)
	}
	return listen(ctx, c, log, parts{v, remote, revocations, assertions, records, o.Clock()})
}

// parts are what the verifier is made of and runs beside it.
type parts struct {
	verifier    *verifier.Verifier
	keys        *jwks.Remote
	revocations *verifier.Revocations
	assertions  *verifier.AssertionKeys // Nil: none.
	records     *audit.Log
	now         func() time.Time
}

// keySet is a key set as the verifier wants it.
type keySet struct{ *jwks.Remote }

func (k keySet) Verify(compact string, now time.Time) ([]byte, string, error) {
	return k.VerifyAs(tokenProfile, compact, now)
}

var signingAlgorithms = []string{jwks.ES256, jwks.EdDSA, jwks.RS256}

var (
	tokenProfile      = jwks.Profile{Types: []string{token.Type}, Algorithms: signingAlgorithms, ExactHeader: true, MaxBytes: token.MaxBytes}
	revocationProfile = jwks.Profile{Types: []string{revocation.Type}, Algorithms: signingAlgorithms, ExactHeader: true, MaxBytes: revocation.MaxBytes}
)

func openRevocations(c *settings, remote *jwks.Remote, o program.Options, log *slog.Logger) (*verifier.Revocations, error) {
	if c.Revocations.Off {
		return nil, nil
	}
	conf := verifier.RevocationsConfig{
		URL: c.Revocations.URL, Issuer: c.Issuer, MaxStale: c.Revocations.MaxStale, Snapshot: c.Revocations.Snapshot, Log: log, Now: o.Clock(),
		Name: c.Revocations.Name,
		Verify: func(compact string, now time.Time) ([]byte, error) {
			payload, _, err := remote.VerifyAs(revocationProfile, compact, now)
			if errors.Is(err, token.ErrUnknownKey) {
				remote.Urge() // The issuer signs with a key that it had to bring in at once.
			}
			return payload, err
		},
	}
	if key := c.Revocations.Key.Reveal(); key != "" {
		id, err := format.ParseID(key)
		if err != nil {
			return nil, err
		}
		conf.KeyID, conf.Key = id, key
		if conf.Name == "" {
			conf.Name, err = os.Hostname()
			if err != nil {
				return nil, err
			}
		}
	}
	return verifier.NewRevocations(conf)
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
	listeners, err := program.Listen(ctx, c.Listen, c.OpsListen)
	if err != nil {
		return err
	}
	ready := &serve.Readiness{Checks: []serve.Check{
		{Name: "key_set", Err: func() error { _, err := p.keys.Generation(p.now()); return err }},
		{Name: "audit", Err: p.verifier.Ready},
	}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.keys.Run(ctx) })
	group.Go(func() error { return p.verifier.Run(ctx) })
	group.Go(func() error { return program.Reopen(ctx, log, p.records) })
	if p.revocations != nil {
		ready.Checks = append(ready.Checks, serve.Check{Name: "revocations", Err: func() error { return p.revocations.Ready(p.now()) }})
		group.Go(func() error { return p.revocations.Run(ctx) })
	}
	group.Go(func() error {
		return serve.Until(ctx, log, c.DrainTimeout, ready.Drain,
			serve.Endpoint{Name: "verifier", Listener: listeners[0], Handler: p.verifier.Handler(), TLS: tls},
			serve.Endpoint{Name: "ops", Listener: listeners[1], Handler: verifier.Ops(ready, p.assertions)})
	})
	return group.Wait()
}
