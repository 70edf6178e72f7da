package alert_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/alert"
	"github.com/hourpass/hourpass/internal/store"
)

var start = time.Unix(1_800_000_000, 0).UTC()

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: start} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// sink takes what its answer says, and notes what it was sent.
type sink struct {
	name   string
	answer func(alert.Event) error // Nil takes all.

	mu   sync.Mutex
	sent []alert.Event
}

func (s *sink) Name() string { return s.name }

func (s *sink) Send(_ context.Context, e alert.Event, _ time.Time) error {
	s.mu.Lock()
	s.sent = append(s.sent, e)
	s.mu.Unlock()
	if s.answer == nil {
		return nil
	}
	return s.answer(e)
}

// ids are those of the events that it was sent, in order.
func (s *sink) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := []string{}
	for _, e := range s.sent {
		ids = append(ids, e.ID)
	}
	return ids
}

func (s *sink) want(t *testing.T, ids ...string) {
	t.Helper()
	if got := s.ids(); !slices.Equal(got, ids) {
		t.Errorf("%s was sent %v, want %v", s.name, got, ids)
	}
}

var errAway = errors.New("away")

func away(alert.Event) error { return errAway }

// logs is where an outbox of a test logs.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

// mac is that of all outboxes of all tests.
func mac(message []byte) []byte {
	h := hmac.New(sha256.New, []byte("a key that is not in the database"))
	h.Write(message)
	return h.Sum(nil)
}

func open(t *testing.T, db *sql.DB, c *clock, to ...alert.Sink) *alert.Outbox {
	t.Helper()
	return openLogging(t, db, c, &logs{}, to...)
}

func openLogging(t *testing.T, db *sql.DB, c *clock, l *logs, to ...alert.Sink) *alert.Outbox {
	t.Helper()
	o, err := alert.NewOutbox(db, mac, l.logger(), c.now, to...)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// put commits events of these ids.
func put(t *testing.T, db *sql.DB, o *alert.Outbox, c *clock, ids ...string) {
	t.Helper()
	for _, id := range ids {
		err := store.Tx(t.Context(), db, func(tx *sql.Tx) error {
			return o.Put(t.Context(), tx, alert.Event{ID: id, Time: c.now(), Kind: alert.Replay, Severity: alert.Warning, Text: "It came twice."})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func deliver(t *testing.T, o *alert.Outbox) {
	t.Helper()
	if err := o.Deliver(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func waiting(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM alerts`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func nextDue(t *testing.T, db *sql.DB) time.Time {
	t.Helper()
	var due int64
	if err := db.QueryRowContext(t.Context(), `SELECT min(due_at) FROM alerts`).Scan(&due); err != nil {
		t.Fatal(err)
	}
	return time.Unix(due, 0).UTC()
}
