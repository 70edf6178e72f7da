package store_test

import (
	"bytes"
	"testing"

	"github.com/hourpass/hourpass/internal/peers"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/store/storetest"
)

// kills is how often a test kills a writer or a server; in between, some rows
// are committed.
const kills, between = 6, 40

// TestCommitsSurviveTheWriter: whatever was answered is there after SIGKILL.
func TestCommitsSurviveTheWriter(t *testing.T) {
	s := storetest.SQLite(t)
	if err := s.DB.Close(); err != nil { // The killed writer leaves nobody with the file open.
		t.Fatal(err)
	}
	var next uint64
	for range kills {
		w := startWriter(t, s.Where, next)
		last := w.await(between)
		if err := w.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		next = committed(t, s.Where, w.rest(last))
	}
}

// TestCommitsSurviveTheServer: the same for a killed PostgreSQL.
func TestCommitsSurviveTheServer(t *testing.T) {
	server := peers.StartPostgres(t)
	where := server.Database(t)
	db, err := store.Create(t.Context(), where)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	var next uint64
	for range kills {
		w := startWriter(t, where, next)
		last := w.await(between)
		server.Kill(t)
		last = w.rest(last)
		server.Start(t)
		next = committed(t, where, last)
	}
}

// committed fails the test unless each row up to the last that was reported is
// in the store, and returns a number after all that are.
func committed(t *testing.T, where string, last uint64) (next uint64) {
	t.Helper()
	db, err := store.Open(t.Context(), where)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), `SELECT state_mac FROM logins ORDER BY state_mac`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for ; rows.Next(); next++ {
		var key []byte
		if err := rows.Scan(&key); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(key, rowKey(next)) {
			t.Fatalf("row %d is missing; the last that was reported is %d", next, last)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	// The last commit may have been done and its answer lost, so one more is fine.
	if next != last+1 && next != last+2 {
		t.Fatalf("%d rows, but %d were reported", next, last+1)
	}
	return next
}
