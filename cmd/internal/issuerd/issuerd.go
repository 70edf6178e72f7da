// Package issuerd assembles the issuer out of its rooms and runs it: what
// hourpass-issuer and the local twin have in common.
package issuerd

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/seal"
	"github.com/hourpass/hourpass/internal/serve"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/issuer"
	"github.com/hourpass/hourpass/jwks"
	"github.com/hourpass/hourpass/jwks/ring"
	"github.com/hourpass/hourpass/keys"
)

// keySetMaxAge is how long caches may keep the published key set.
const keySetMaxAge = 5 * time.Minute

// Validate checks the configuration without opening or making anything.
func Validate(_ context.Context, o program.Options) error {
	c, _, err := load(o)
	if err != nil {
		return err
	}
	_, err = providers(c, o.Clock())
	return err
}

// Init makes the state that an issuer starts with: the key-encryption key, the
// pepper, the first signing key and an empty store. It refuses if any of them is
// there, because each is worthless without the others.
func Init(ctx context.Context, o program.Options) error {
	c, _, err := load(o)
	if err != nil {
		return err
	}
	for _, path := range []string{c.KeyEncryptionKey, c.Pepper, c.SigningKeys, c.Store} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is there already: nothing was changed", path)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
	}
	for _, path := range []string{c.KeyEncryptionKey, c.Pepper} {
		if err := seal.NewKeyFile(path); err != nil {
			return err
		}
	}
	sealer, err := openSealer(c)
	if err != nil {
		return err
	}
	if _, err := ring.Create(c.SigningKeys, sealer, o.Clock()()); err != nil {
		return err
	}
	db, err := store.Create(ctx, c.Store)
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("closing the store: %w", err)
	}
	for what, path := range map[string]string{
		"key-encryption key": c.KeyEncryptionKey, "pepper": c.Pepper, "signing keys": c.SigningKeys, "store": c.Store,
	} {
		if _, err := fmt.Fprintf(o.Stdout, "made the %s: %s\n", what, path); err != nil {
			return err
		}
	}
	return nil
}

// Run is the issuer, until ctx ends.
func Run(ctx context.Context, o program.Options) (err error) {
	c, grants, err := load(o)
	if err != nil {
		return err
	}
	log := o.Log()
	sealer, err := openSealer(c)
	if err != nil {
		return hint(err)
	}
	signing, err := ring.Open(c.SigningKeys, sealer)
	if err != nil {
		return hint(err)
	}
	db, err := store.Open(ctx, c.Store)
	if err != nil {
		return hint(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	records, err := audit.Open(audit.Config{
		Path: c.Audit, Program: "hourpass-issuer", Durable: true, Now: o.Clock(), Signer: signing, Keys: signing.Document,
		Problem: func(err error) { log.Error("the audit log", "err", err.Error()) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	server, err := assemble(c, grants, parts{log, o.Clock(), sealer, signing, db, records})
	if err != nil {
		return fmt.Errorf("%s: %w", o.Config, err)
	}
	return listen(ctx, c, log, server)
}

// parts are what the issuer is made of and must be closed after it.
type parts struct {
	log     *slog.Logger
	now     func() time.Time
	sealer  *seal.Sealer
	signing *ring.Ring
	db      *sql.DB
	records *audit.Log
}

func assemble(c *settings, grants map[string]policy.Grant, p parts) (*issuer.Server, error) {
	pepper, err := seal.LoadKey(c.Pepper)
	if err != nil {
		return nil, hint(err)
	}
	machineKeys, err := keys.New(p.db, pepper)
	if err != nil {
		return nil, err
	}
	believed, err := providers(c, p.now)
	if err != nil {
		return nil, err
	}
	return issuer.New(issuer.Config{
		URL: c.URL, Audiences: c.Audiences, Lifetime: c.TokenLifetime, Session: c.SessionLifetime,
		Grants: grants, Providers: believed, Keys: machineKeys, Signer: p.signing,
		KeySet: jwks.Handler(p.signing.Document, keySetMaxAge),
		DB:     p.db, Sealer: p.sealer, Audit: p.records, Log: p.log, Now: p.now,
	})
}

func providers(c *settings, now func() time.Time) ([]*issuer.Provider, error) {
	var list []*issuer.Provider
	for i, s := range c.Providers {
		p, err := issuer.NewProvider(issuer.ProviderConfig{
			Name: s.Name, Issuer: s.Issuer, ClientID: s.ClientID, ClientSecret: s.ClientSecret.Reveal(), Scopes: s.Scopes,
			Audiences: s.Audiences, MaxAge: s.MaxAge, Skew: s.Skew, GroupsClaim: s.GroupsClaim, CapExpiry: s.CapExpiry,
			EndpointHosts: s.EndpointHosts,
			OpenKeys: func(url string, client *http.Client) (issuer.KeySource, error) {
				// An ID token's header says JWT, or nothing (OpenID Connect says
				// neither). An access token's says otherwise and is no identity.
				return jwks.NewRemote(jwks.Config{
					URL: url, Client: client, Now: now,
					Profile: jwks.Profile{Types: []string{"", "JWT"}, Algorithms: s.Algorithms, MaxBytes: issuer.MaxAssertion},
				})
			},
		})
		if err != nil {
			return nil, fmt.Errorf("providers[%d]: %w", i, err)
		}
		list = append(list, p)
	}
	return list, nil
}

func openSealer(c *settings) (*seal.Sealer, error) {
	key, err := seal.LoadKey(c.KeyEncryptionKey)
	if err != nil {
		return nil, err
	}
	return seal.New(key)
}

// hint tells who lacks the issuer's state how to make it; a program that made
// it by itself would hide that it was lost.
func hint(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w (a new issuer begins with: hourpass-issuer init --config FILE)", err)
	}
	return err
}

func listen(ctx context.Context, c *settings, log *slog.Logger, server *issuer.Server) error {
	tls, err := c.TLS.Load()
	if err != nil {
		return err
	}
	listeners, err := program.Listen(ctx, c.Listen, c.OpsListen)
	if err != nil {
		return err
	}
	ready := &serve.Readiness{Checks: []serve.Check{
		{Name: "store", Err: func() error { return server.Ready(ctx) }},
		{Name: "identity_providers", Err: server.ProvidersReady},
	}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Run(ctx) })
	group.Go(func() error {
		return serve.Until(ctx, log, c.DrainTimeout, ready.Drain,
			serve.Endpoint{Name: "issuer", Listener: listeners[0], Handler: server.Handler(), TLS: tls, ReadBody: 15 * time.Second},
			serve.Endpoint{Name: "ops", Listener: listeners[1], Handler: issuer.Ops(ready)})
	})
	return group.Wait()
}
