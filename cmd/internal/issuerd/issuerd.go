// Package issuerd assembles the issuer out of its rooms and runs it: what
// hourpass-issuer and the local twin have in common.
package issuerd

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/ledger/redisledger"
	"github.com/hourpass/hourpass/internal/ledger/sqlledger"
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
	_, _, err := load(o)
	return err
}

// Init makes the state that an issuer starts with: the key-encryption key, the
// pepper, the first signing key and an empty store. It refuses if any of them is
// there, because each is worthless without the others.
func Init(ctx context.Context, o program.Options) (err error) {
	c, _, err := load(o)
	if err != nil {
		return err
	}
	files := []string{c.KeyEncryptionKey, c.Pepper}
	if c.SigningKeys != "" {
		files = append(files, c.SigningKeys)
	}
	if path, ok := store.File(c.Store.Reveal()); ok {
		files = append(files, path)
	}
	for _, path := range files {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is there already: nothing was changed", path)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
	}
	// First what may fail: a server may be out of reach.
	db, err := store.Create(ctx, c.Store.Reveal())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for _, path := range []string{c.KeyEncryptionKey, c.Pepper} {
		if err := seal.NewKeyFile(path); err != nil {
			return err
		}
	}
	sealer, err := openSealer(c)
	if err != nil {
		return err
	}
	conf, closing, err := ringConfig(c, sealer, db, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closing()) }()
	if _, err := ring.Create(ctx, conf); err != nil {
		return err
	}
	signingKeys := c.SigningKeys
	if signingKeys == "" {
		signingKeys = "in the store"
	}
	for what, path := range map[string]string{
		"key-encryption key": c.KeyEncryptionKey, "pepper": c.Pepper, "signing keys": signingKeys, "store": store.Name(c.Store.Reveal()),
	} {
		if _, err := fmt.Fprintf(o.Stdout, "made the %s: %s\n", what, path); err != nil {
			return err
		}
	}
	return nil
}

// Backup copies the store, which may be in use, to a new file.
func Backup(ctx context.Context, o program.Options, to string) error {
	c, _, err := load(o)
	if err != nil {
		return err
	}
	if err := store.Backup(ctx, c.Store.Reveal(), to); err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.Stdout, "copied the store: %s\n", to)
	return err
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
	db, err := store.Open(ctx, c.Store.Reveal())
	if err != nil {
		return hint(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conf, closing, err := ringConfig(c, sealer, db, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closing()) }()
	signing, err := ring.Open(ctx, conf)
	if err != nil {
		return hint(err)
	}
	stopped := runRing(ctx, signing)
	defer func() { err = errors.Join(err, stopped()) }()
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
	return listen(ctx, c, log, server, signing, records)
}

// runRing runs the ring beyond ctx until the returned function is called: the
// last requests, and the audit's last checkpoint, are signed after it.
func runRing(ctx context.Context, signing *ring.Ring) (stop func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- signing.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

// ringConfig says where the signing keys are; closing closes the device that
// holds them, if there is one.
func ringConfig(c *settings, sealer *seal.Sealer, db *sql.DB, o program.Options) (conf ring.Config, closing func() error, err error) {
	conf = ring.Config{
		Storage: ring.Table{DB: db}, Sealer: sealer, Alg: c.Signing.Algorithm, Every: c.Signing.Every, Lead: c.Signing.Lead,
		Log: o.Log(), Now: o.Clock(),
	}
	if c.SigningKeys != "" {
		conf.Storage = ring.File(c.SigningKeys)
	}
	if c.Signing.PKCS11.Module == "" {
		return conf, func() error { return nil }, nil
	}
	conf.Vault, closing, err = openPKCS11(c.Signing.PKCS11)
	return conf, closing, err
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
	alerts, err := c.Alerts.outbox(p)
	if err != nil {
		return nil, err
	}
	spent, err := openLedger(c, p)
	if err != nil {
		return nil, err
	}
	return issuer.New(issuer.Config{
		URL: c.URL, Audiences: c.Audiences, Resources: c.Resources, Lifetime: c.TokenLifetime, Session: c.SessionLifetime,
		RotationGrace: rotationGrace(c), OwnerAbsence: c.OwnerAbsence, Rates: issuer.Rates(c.Rates), Watch: c.Watch.watch(), TrustedProxies: c.proxies,
		Admins: asMembers(c.Admins), Auditors: asMembers(c.Auditors),
		Grants: grants, Providers: c.believed, Keys: machineKeys, Signer: p.signing, Ring: signingKeys{p.signing},
		KeySet:    jwks.Handler(p.signing.Document, keySetMaxAge, nil),
		OwnTokens: ownTokens(p.signing), VerifyClient: verifyClient, CheckClientKeys: checkClientKeys,
		Ledger: spent, DB: p.db, Sealer: p.sealer, Audit: p.records, Alert: alerts, Log: p.log, Now: p.now,
	})
}

func openLedger(c *settings, p parts) (issuer.Ledger, error) {
	if c.Ledger.URL.Reveal() == "" {
		return sqlledger.New(p.db, p.now), nil
	}
	redis, err := redisledger.Open(redisledger.Config{URL: c.Ledger.URL.Reveal(), Password: c.Ledger.Password.Reveal(), CA: c.Ledger.CA})
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return redis, nil // It ends with the process.
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

func listen(ctx context.Context, c *settings, log *slog.Logger, server *issuer.Server, signing *ring.Ring, records *audit.Log) error {
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
		{Name: "signing_keys", Err: signing.Ready},
		{Name: "identity_providers", Err: server.ProvidersReady},
	}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Run(ctx) })
	group.Go(func() error { return program.Reopen(ctx, log, records) })
	group.Go(func() error {
		return serve.Until(ctx, log, c.DrainTimeout, ready.Drain,
			serve.Endpoint{Name: "issuer", Listener: listeners[0], Handler: server.Handler(), TLS: tls, ReadBody: 15 * time.Second},
			serve.Endpoint{Name: "ops", Listener: listeners[1], Handler: issuer.Ops(ready)})
	})
	return group.Wait()
}
