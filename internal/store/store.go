// Package store opens the issuer's database and brings its schema up to date.
// Each room writes its own queries; the schema is in migrations/, one history
// for all. Queries use $1 placeholders in ascending order and times as Unix
// seconds, so that one text serves SQLite and, later, PostgreSQL.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite" // The driver: pure Go, so that the binary stays static.
)

//go:embed migrations/*.sql
var migrations embed.FS

// Create makes the SQLite file at path, which must not be there yet, with mode
// 0600, and its schema.
func Create(ctx context.Context, path string) (*sql.DB, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("creating the store: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("creating the store: %w", err)
	}
	return Open(ctx, path)
}

// Open opens the SQLite file at path and migrates it. A missing file is an
// error that matches [fs.ErrNotExist]: an issuer that lost its store must not
// start over with an empty one by surprise.
func Open(ctx context.Context, path string) (*sql.DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	// WAL lets readers go on while one writes; synchronous=FULL keeps what was
	// committed across a power cut; immediate transactions queue for the write
	// lock at their start, where busy_timeout applies, instead of failing later.
	dsn := url.URL{Scheme: "file", Opaque: path, RawQuery: url.Values{
		"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
		"_txlock": {"immediate"},
	}.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	if err := migrate(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("migrating the store: %w", err), db.Close())
	}
	return db, nil
}

func migrate(ctx context.Context, db *sql.DB) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, dir)
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// IsConflict tells whether err says that a row with that unique value is there
// already.
func IsConflict(err error) bool {
	const constraintPrimaryKey, constraintUnique = 1555, 2067 // https://sqlite.org/rescode.html
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code() == constraintPrimaryKey || e.Code() == constraintUnique)
}
