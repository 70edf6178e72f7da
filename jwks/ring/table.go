package ring

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
)

// Table is a ring in a table of a database, SQLite or PostgreSQL:
//
//	CREATE TABLE signing_ring (id INTEGER PRIMARY KEY, version BIGINT NOT NULL, data BYTEA NOT NULL)
//
// It has one row. Processes of many machines may share it.
type Table struct{ DB *sql.DB }

// String names the table, and nothing of the database, which may have a
// password.
func (t Table) String() string { return "in the table signing_ring" }

// Format shows the same for every verb.
func (t Table) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(t.String())) }

// Load implements [Storage].
func (t Table) Load(ctx context.Context) (data []byte, version int64, err error) {
	err = t.DB.QueryRowContext(ctx, `SELECT version, data FROM signing_ring WHERE id = 1`).Scan(&version, &data)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, 0, fmt.Errorf("the table signing_ring is empty: %w", os.ErrNotExist)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading the table signing_ring: %w", err)
	}
	return data, version, nil
}

// Save implements [Storage].
func (t Table) Save(ctx context.Context, data []byte, ifVersion int64) error {
	var result sql.Result
	var err error
	if ifVersion == 0 {
		result, err = t.DB.ExecContext(ctx, `INSERT INTO signing_ring (id, version, data) VALUES (1, 1, $1) ON CONFLICT (id) DO NOTHING`, data)
	} else {
		// One statement is one step in either database: of two writers the second
		// finds another version.
		result, err = t.DB.ExecContext(ctx, `UPDATE signing_ring SET data = $1, version = version + 1 WHERE id = 1 AND version = $2`, data, ifVersion)
	}
	if err != nil {
		return fmt.Errorf("writing the table signing_ring: %w", err)
	}
	rows, err := result.RowsAffected()
	if err != nil {
		return fmt.Errorf("writing the table signing_ring: %w", err)
	}
	if rows == 0 {
		return ErrChanged
	}
	return nil
}
