package keys_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/store/storetest"
	"github.com/hourpass/hourpass/keys"
)

// TestKeysSurviveRestore: each key that was handed out before the backup began
// opens the restored store, though others were being made meanwhile.
func TestKeysSurviveRestore(t *testing.T) {
	in := storetest.SQLite(t)
	s := keep(t, in)
	var before []string
	for range 20 {
		_, secret := create(t, s, example())
		before = append(before, secret)
	}
	began, stop, stopped := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			if _, _, err := s.Create(t.Context(), example(), time.Hour, now, nil); err != nil {
				stopped <- err
				return
			}
			if n == 0 {
				close(began)
			}
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
		}
	}()
	select {
	case <-began:
	case err := <-stopped:
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy.db")
	if err := store.Backup(t.Context(), in.Where, to); err != nil {
		t.Fatal(err)
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatalf("making a key during the backup: %v", err)
	}

	db, err := store.Open(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	restored, err := keys.New(db, pepper())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range before {
		if _, _, err := restored.Authenticate(t.Context(), secret, now); err != nil {
			t.Errorf("a key from before the backup: %v", err)
		}
	}
	// What was made of a key during the backup is whole: the key and its secret.
	var halves int
	if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM machine_keys WHERE id NOT IN (SELECT key_id FROM machine_key_secrets)`).Scan(&halves); err != nil || halves != 0 {
		t.Errorf("%d keys have no secret, %v", halves, err)
	}
}
