package keys_test

import (
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/peers"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/keys"
)

// TestServerRestarts: a server that was down has lost its connections and what
// was prepared on them. The same store goes on with it as before.
func TestServerRestarts(t *testing.T) {
	server := peers.StartPostgres(t)
	db, err := store.Create(t.Context(), server.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := keys.New(db, pepper())
	if err != nil {
		t.Fatal(err)
	}
	k, secret := create(t, s, example())
	work := func() error {
		s.Forget(k.ID)
		if _, _, err := s.Authenticate(t.Context(), secret, now); err != nil {
			return err
		}
		if err := s.Flush(t.Context()); err != nil {
			return err
		}
		return store.Tx(t.Context(), db, func(tx *sql.Tx) error {
			_, err := s.Stale(t.Context(), tx, []policy.Key{k})
			return err
		})
	}
	if err := work(); err != nil {
		t.Fatal(err)
	}
	open := make([]*sql.Conn, 8) // So that several are idle when it dies.
	for i := range open {
		if open[i], err = db.Conn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, conn := range open {
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s.Used(k.ID, 1, "10.0.0.0/24", now)
	server.Kill(t)
	if err := errors.Join(work(), s.Flush(t.Context())); err == nil {
		t.Error("it works without a server")
	}
	s.Used(k.ID, 1, "10.0.1.0/24", now.Add(-time.Hour)) // What is noted later may be of before.
	server.Start(t)
	// The dead connections are found dead before anything is asked of them.
	for range open {
		if err := work(); err != nil {
			t.Errorf("after the restart: %v", err)
		}
	}
	if got, err := s.Get(t.Context(), k.ID); err != nil || !got.LastUsedAt.Equal(now) || got.Secrets[0].LastUsedFrom != "10.0.0.0/24" {
		t.Errorf("the use that could not be noted: %+v, %v", got, err)
	}
}
