package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// settings are what the URL of a PostgreSQL database may set, with what holds
// where it does not. Any other is a mistake: pgx would pass it on to the server.
// They mean what libpq's documentation says, but for pool_max_conns.
var settings = map[string]string{
	"host": "", "port": "", "user": "", "dbname": "", "passfile": "", "target_session_attrs": "", "search_path": "",
	"application_name": "hourpass",

	// libpq's own default, prefer, talks in the clear to whoever answers so.
	"sslmode":     "verify-full",
	"sslrootcert": "", "sslcert": "", "sslkey": "", "sslnegotiation": "", "channel_binding": "", "require_auth": "",

	// Bounds of each wait, in seconds and in milliseconds.
	"connect_timeout":                     "10",
	"lock_timeout":                        "10000",
	"statement_timeout":                   "30000",
	"idle_in_transaction_session_timeout": "60000",

	// A commit that was answered survives a crash of the server, whatever its own
	// default is.
	"synchronous_commit": "on",

	"pool_max_conns": strconv.Itoa(maxConns),
}

func openPostgres(ctx context.Context, where string, first bool) (*sql.DB, error) {
	cfg, conns, err := parse(where)
	if err != nil {
		return nil, err
	}
	if err := migratePostgres(ctx, cfg, first); err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*cfg)
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxIdleTime(5 * time.Minute)
	db.SetConnMaxLifetime(30 * time.Minute) // So that load finds its way to a server that came back.
	return db, nil
}

// Validate tells what is wrong with where a store is said to be, without looking
// there.
func Validate(where string) error {
	if _, ok := File(where); ok {
		return nil
	}
	_, _, err := parse(where)
	return err
}

// parse reads the URL. pgx is not shown the password in it, because its errors
// quote what it is shown.
func parse(where string) (_ *pgx.ConnConfig, conns int, err error) {
	const want = "want postgres://USER@HOST/DATABASE, with settings as ?NAME=VALUE&…"
	dsn, err := url.Parse(where)
	if err != nil {
		return nil, 0, errors.New(want) // The cause quotes the whole URL.
	}
	query, err := url.ParseQuery(dsn.RawQuery)
	if err != nil || dsn.Fragment != "" {
		return nil, 0, errors.New(want)
	}
	for name, values := range query {
		if _, known := settings[name]; !known || len(values) > 1 {
			return nil, 0, fmt.Errorf("its URL sets %q, which is unknown or stands twice", name)
		}
	}
	for name, value := range settings {
		if value != "" && !query.Has(name) {
			query.Set(name, value)
		}
	}
	if mode := query.Get("sslmode"); mode == "allow" || mode == "prefer" {
		return nil, 0, fmt.Errorf("sslmode=%s protects from nobody: want verify-full, or disable to say that the network is trusted", mode)
	}
	if conns, err = strconv.Atoi(query.Get("pool_max_conns")); err != nil || conns < 2 || conns > 1000 {
		return nil, 0, errors.New("pool_max_conns: want 2 to 1000")
	}
	query.Del("pool_max_conns")
	dsn.RawQuery = query.Encode()
	password, given := dsn.User.Password()
	if dsn.User != nil {
		dsn.User = url.User(dsn.User.Username())
	}
	cfg, err := pgx.ParseConfig(dsn.String())
	if err != nil {
		return nil, 0, err
	}
	if given {
		cfg.Password = password
	}
	return cfg, conns, nil
}

// migratePostgres migrates on connections of its own, whose statements may take
// their time. Of programs that start at once one migrates; the others wait.
func migratePostgres(ctx context.Context, cfg *pgx.ConnConfig, first bool) (err error) {
	cfg = cfg.Copy()
	cfg.RuntimeParams["statement_timeout"] = "0"
	cfg.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
	db := stdlib.OpenDB(*cfg)
	defer func() { err = errors.Join(err, db.Close()) }()
	if first {
		if err := noTables(ctx, db); err != nil {
			return err
		}
	}
	const everySeconds, times = 1, 300
	oneAtATime, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(everySeconds, times))
	if err != nil {
		return err
	}
	return migrate(ctx, db, goose.DialectPostgres, first, goose.WithSessionLocker(oneAtATime))
}

// noTables refuses a schema with tables. That of the migrations alone is what a
// Create that was cut short leaves.
func noTables(ctx context.Context, db *sql.DB) error {
	var table string
	err := db.QueryRowContext(ctx, `SELECT tablename FROM pg_catalog.pg_tables
		WHERE schemaname = current_schema() AND tablename <> $1 ORDER BY tablename LIMIT 1`, goose.DefaultTablename).Scan(&table)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("its schema has a table %s: %w", table, fs.ErrExist)
}

// Name tells people which store it is, without its password.
func Name(where string) string {
	if path, ok := File(where); ok {
		return path
	}
	u, err := url.Parse(where)
	if err != nil {
		return "a PostgreSQL database"
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	u.RawQuery, u.Fragment = "", ""
	return strings.TrimSuffix(u.String(), "/")
}
