package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // The driver: pure Go, so that the binary stays static.
)

func createSQLite(ctx context.Context, path string) (*sql.DB, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	// Not later: to close a file gives up the locks that SQLite has on it.
	var db *sql.DB
	if err = file.Close(); err == nil {
		db, err = migratedSQLite(ctx, path, true)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return db, nil
}

func openSQLite(ctx context.Context, path string) (*sql.DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	return migratedSQLite(ctx, path, false)
}

func migratedSQLite(ctx context.Context, path string, first bool) (*sql.DB, error) {
	// WAL lets readers go on while one writes; synchronous=FULL keeps what was
	// committed across a power cut; immediate transactions queue for the write
	// lock at their start, where busy_timeout applies, instead of failing later.
	db, err := connectSQLite(path, url.Values{
		"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
		"_txlock": {"immediate"},
	})
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	if err := migrate(ctx, db, goose.DialectSQLite3, first); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func connectSQLite(path string, options url.Values) (*sql.DB, error) {
	options.Set("mode", "rw") // Never make a file.
	name := url.URL{Path: filepath.Clean(path)}
	dsn := url.URL{Scheme: "file", Opaque: name.EscapedPath(), RawQuery: options.Encode()}
	return sql.Open("sqlite", dsn.String())
}

// Backup copies the live store at where, which must be a SQLite file, to a new
// file with mode 0600. The copy is of one moment, whole, and on the disk when
// Backup returns; readers and writers of the store go on meanwhile. It neither
// migrates the store nor writes over a file.
func Backup(ctx context.Context, where, to string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("backing up the store: %w", err)
		}
	}()
	path, ok := File(where)
	if !ok {
		return errors.New("it is a PostgreSQL database: use pg_dump")
	}
	if _, err := os.Stat(path); err != nil {
		return err
	}
	db, err := connectSQLite(path, url.Values{"_pragma": {"busy_timeout(10000)"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	// An empty file takes the name, so that nothing else is written over; the
	// copy takes its place when it is whole. A crash leaves an empty file, which
	// is no store, and never half a copy under the name of a whole one.
	claim, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	half, err := os.CreateTemp(filepath.Dir(to), filepath.Base(to)+".*.part") // Mode 0600.
	if err != nil {
		return errors.Join(err, claim.Close(), os.Remove(to))
	}
	if err := errors.Join(copyTo(ctx, db, half), claim.Close()); err != nil {
		return errors.Join(err, os.Remove(half.Name()), os.Remove(to))
	}
	if err := os.Rename(half.Name(), to); err != nil {
		return errors.Join(err, os.Remove(half.Name()), os.Remove(to))
	}
	return syncDir(filepath.Dir(to))
}

// copyTo copies the store into the empty file and closes it.
func copyTo(ctx context.Context, db *sql.DB, file *os.File) error {
	_, err := db.ExecContext(ctx, `VACUUM INTO $1`, file.Name())
	if err == nil {
		err = file.Sync() // VACUUM INTO leaves that to us.
	}
	return errors.Join(err, file.Close())
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
