// Package store opens the issuer's database, SQLite or PostgreSQL, and brings
// its schema up to date. Each room writes its own queries; the schema is in
// migrations/, one history for both engines.
//
// One text of a query serves both if it keeps to these rules:
//
//   - $1 placeholders, times as Unix seconds, booleans as INTEGER 0 or 1, and no
//     function that only one of them has.
//   - Bytes are []byte, texts are valid UTF-8 without NUL: PostgreSQL refuses
//     any other text.
//   - After an error a transaction is over. Use ON CONFLICT and the number of
//     rows, not a failed INSERT, to go on inside one.
//   - What is read may change before it is written, unless one statement does
//     both or the transaction is [Serializable]. SQLite alone would forgive it.
//
// Start with [Open] and [Tx].
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewer says that a later release has been at the store. This one would not
// understand what it finds there.
var ErrNewer = errors.New("the store was made by a newer release")

// maxConns bounds the connections of one program. A PostgreSQL server takes 100
// from all of them together unless told otherwise.
const maxConns = 16

// Create makes the store at where, and its schema: a path of a SQLite file that
// is not there yet, which gets mode 0600, or the URL of a PostgreSQL database
// whose schema has no tables yet. What is there already is an error that matches
// [fs.ErrExist].
func Create(ctx context.Context, where string) (*sql.DB, error) {
	db, err := open(ctx, where, true)
	if err != nil {
		return nil, fmt.Errorf("creating the store: %w", err)
	}
	return db, nil
}

// Open opens the store that [Create] made at where and migrates it. A missing
// store is an error that matches [fs.ErrNotExist]: an issuer that lost its store
// must not start over with an empty one by surprise. Other errors match
// [ErrNewer].
//
// No error tells a password.
func Open(ctx context.Context, where string) (*sql.DB, error) {
	db, err := open(ctx, where, false)
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	return db, nil
}

// open opens the store, or makes it if first is set.
func open(ctx context.Context, where string, first bool) (*sql.DB, error) {
	path, ok := File(where)
	switch {
	case !ok:
		return openPostgres(ctx, where, first)
	case first:
		return createSQLite(ctx, path)
	default:
		return openSQLite(ctx, path)
	}
}

// File returns the path of the store's file, if it is one.
func File(where string) (path string, ok bool) {
	server := strings.HasPrefix(where, "postgres://") || strings.HasPrefix(where, "postgresql://")
	return where, !server
}

// migrate brings the schema of db up to date. It makes the first schema if first
// is set, and only then.
func migrate(ctx context.Context, db *sql.DB, dialect goose.Dialect, first bool, options ...goose.ProviderOption) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(dialect, db, dir, options...)
	if err != nil {
		return err
	}
	at, err := version(ctx, db, dialect)
	if err != nil {
		return err
	}
	sources := p.ListSources()
	switch newest := sources[len(sources)-1].Version; {
	case at > newest:
		return fmt.Errorf("%w: its schema has version %d, this release knows %d", ErrNewer, at, newest)
	case at == 0 && !first:
		return fmt.Errorf("it has no schema of Hourpass: %w", fs.ErrNotExist)
	}
	made, err := p.Up(ctx)
	if err != nil {
		return fmt.Errorf("migrating it: %w", err)
	}
	// It may be there because somebody else made it a moment ago.
	if first && len(made) < len(sources) {
		return fmt.Errorf("its schema is there already: %w", fs.ErrExist)
	}
	return nil
}

// hasSchema asks whether there is any. Goose's own questions would make the table
// that they ask.
var hasSchema = map[goose.Dialect]string{
	goose.DialectSQLite3:  `SELECT count(*) FROM sqlite_schema WHERE name = $1`,
	goose.DialectPostgres: `SELECT count(*) FROM pg_catalog.pg_tables WHERE schemaname = current_schema() AND tablename = $1`,
}

// version is that of the schema, 0 if there is none. It changes nothing.
func version(ctx context.Context, db *sql.DB, dialect goose.Dialect) (at int64, err error) {
	var tables int
	if err := db.QueryRowContext(ctx, hasSchema[dialect], goose.DefaultTablename).Scan(&tables); err != nil || tables == 0 {
		return 0, err
	}
	err = db.QueryRowContext(ctx, `SELECT COALESCE(MAX(version_id), 0) FROM `+goose.DefaultTablename).Scan(&at)
	return at, err
}
