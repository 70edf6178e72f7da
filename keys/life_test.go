package keys_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store/storetest"
	"github.com/hourpass/hourpass/keys"
)

// opener opens another store of the engine that a test runs on.
type opener func(*testing.T) (*keys.Store, *sql.DB, string)

// onStores runs the test on each engine.
func onStores(t *testing.T, test func(*testing.T, opener)) {
	for name, make := range map[string]func(testing.TB) storetest.Store{"sqlite": storetest.SQLite, "postgres": storetest.Postgres} {
		t.Run(name, func(t *testing.T) {
			test(t, func(t *testing.T) (*keys.Store, *sql.DB, string) {
				in := make(t)
				return keep(t, in), in.DB, in.Where
			})
		})
	}
}

// opens tells whether the secret authenticates at a time, and as which number.
func opens(t *testing.T, s *keys.Store, secret string, at time.Time) int64 {
	t.Helper()
	_, number, err := s.Authenticate(t.Context(), secret, at)
	if err != nil && !errors.Is(err, policy.ErrUnknownKey) {
		t.Fatal(err)
	}
	return number
}

// TestRotation is the story of a rotation without an outage.
func TestRotation(t *testing.T) { onStores(t, testRotation) }

func testRotation(t *testing.T, open opener) {
	s, _, _ := open(t)
	k, first := create(t, s, example())
	day := 24 * time.Hour
	at := now.Add(80 * day)
	rotated, second, err := s.Rotate(t.Context(), k.ID, k.Version, 7*day, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rotated.Version != k.Version+1 || !rotated.RotateAfter.Equal(at.Add(keys.RotateEvery)) || len(rotated.Secrets) != 2 {
		t.Errorf("after Rotate: %+v", rotated)
	}
	// Both open it, and one sees which of them is still in use.
	if opens(t, s, first, at) != 1 || opens(t, s, second, at) != 2 {
		t.Error("during the overlap one of the two secrets does not open the key")
	}
	s.Used(k.ID, 1, "10.0.0.0/24", at.Add(time.Hour))
	s.Used(k.ID, 1, "10.9.9.0/24", at)
	s.Used(k.ID, 2, "10.0.1.0/24", at.Add(2*time.Hour))
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(t.Context(), k.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := []policy.Secret{
		{Number: 1, CreatedAt: now, EndsAt: at.Add(7 * day), LastUsedAt: at.Add(time.Hour), LastUsedFrom: "10.0.0.0/24"},
		{Number: 2, CreatedAt: at, LastUsedAt: at.Add(2 * time.Hour), LastUsedFrom: "10.0.1.0/24"},
	}
	if !slices.Equal(got.Secrets, want) || !got.LastUsedAt.Equal(at.Add(2*time.Hour)) {
		t.Errorf("the secrets are %+v, want %+v", got.Secrets, want)
	}
	// A third would end one that is in use.
	if _, _, err := s.Rotate(t.Context(), k.ID, 0, day, at.Add(day), nil); !errors.Is(err, policy.ErrTwoSecrets) {
		t.Errorf("a rotation within an overlap: %v, want ErrTwoSecrets", err)
	}
	// The old one ends by itself.
	if opens(t, s, first, at.Add(7*day-1)) != 1 || opens(t, s, first, at.Add(7*day)) != 0 || opens(t, s, second, at.Add(7*day)) != 2 {
		t.Error("the overlap does not end when it should")
	}
	_, third, err := s.Rotate(t.Context(), k.ID, 0, day, at.Add(8*day), nil)
	if err != nil || opens(t, s, third, at.Add(8*day)) != 3 {
		t.Errorf("a rotation after the overlap: %v", err)
	}
	// In an emergency all others end at once.
	_, fourth, err := s.Rotate(t.Context(), k.ID, 0, 0, at.Add(8*day), nil)
	if err != nil || opens(t, s, third, at.Add(8*day)) != 0 || opens(t, s, second, at.Add(8*day)) != 0 || opens(t, s, fourth, at.Add(8*day)) != 4 {
		t.Errorf("a rotation without an overlap: %v", err)
	}
	if _, _, err := s.Rotate(t.Context(), k.ID, 0, keys.MaxOverlap+1, at, nil); err == nil {
		t.Error("an overlap has no bound")
	}
}

func TestEndSecret(t *testing.T) { onStores(t, testEndSecret) }

func testEndSecret(t *testing.T, open opener) {
	s, _, _ := open(t)
	k, first := create(t, s, example())
	if _, err := s.EndSecret(t.Context(), k.ID, 0, 1, now, nil); !errors.Is(err, policy.ErrLastSecret) {
		t.Errorf("to end the only secret: %v, want ErrLastSecret", err)
	}
	_, second, err := s.Rotate(t.Context(), k.ID, 0, time.Hour, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.EndSecret(t.Context(), k.ID, 0, 3, now, nil); !errors.Is(err, policy.ErrLastSecret) {
		t.Errorf("to end a secret that is not there: %v", err)
	}
	if _, err := s.EndSecret(t.Context(), k.ID, 0, 1, now, nil); err != nil {
		t.Fatal(err)
	}
	if opens(t, s, first, now) != 0 || opens(t, s, second, now) != 2 {
		t.Error("the wrong secret ended")
	}
}

// TestUpdate: what may change changes, what may not does not.
// TestRotationIsNoDetour: who rotates and then ends the new secret has not
// rotated. The old one is due when it was, and ends when it was to end.
func TestRotationIsNoDetour(t *testing.T) { onStores(t, testRotationIsNoDetour) }

func testRotationIsNoDetour(t *testing.T, open opener) {
	s, _, _ := open(t)
	k, first := create(t, s, example())
	day := 24 * time.Hour
	ended := now.Add(20 * day)
	if _, _, err := s.Rotate(t.Context(), k.ID, 0, 10*day, now.Add(10*day), nil); err != nil {
		t.Fatal(err)
	}
	back, err := s.EndSecret(t.Context(), k.ID, 0, 2, now.Add(11*day), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !back.RotateAfter.Equal(now.Add(keys.RotateEvery)) {
		t.Errorf("without the new secret the old one is due %s, want %s", back.RotateAfter, now.Add(keys.RotateEvery))
	}
	again, _, err := s.Rotate(t.Context(), k.ID, 0, keys.MaxOverlap, now.Add(12*day), nil)
	if err != nil {
		t.Fatal(err)
	}
	third := again.Secrets[len(again.Secrets)-1].Number
	if third <= 2 {
		t.Errorf("a secret got the number %d, which another had", third)
	}
	if len(again.Secrets) != 2 || !again.Secrets[0].EndsAt.Equal(ended) || opens(t, s, first, ended) != 0 {
		t.Errorf("the old secret's end was put off: %+v", again.Secrets)
	}
	// An end that comes sooner counts.
	if _, err := s.EndSecret(t.Context(), k.ID, 0, third, now.Add(12*day), nil); err != nil {
		t.Fatal(err)
	}
	if sooner, _, err := s.Rotate(t.Context(), k.ID, 0, time.Hour, now.Add(12*day), nil); err != nil || !sooner.Secrets[0].EndsAt.Equal(now.Add(12*day+time.Hour)) {
		t.Errorf("a shorter overlap gives %+v, %v", sooner.Secrets, err)
	}
}

func TestUpdate(t *testing.T) { onStores(t, testUpdate) }

func testUpdate(t *testing.T, open opener) {
	s, _, _ := open(t)
	k, secret := create(t, s, example())
	got, err := s.Update(t.Context(), k.ID, k.Version, func(k *policy.Key) error {
		k.Description, k.Grants, k.Identity, k.State, k.StateReason = "desktop", []string{"faq"}, policy.None, policy.Disabled, "lost"
		k.ID, k.CreatedAt, k.Secrets = "other", time.Time{}, nil
		return nil
	}, nil)
	if err != nil || got.Description != "desktop" || got.ID != k.ID || !got.CreatedAt.Equal(k.CreatedAt) || len(got.Secrets) != 1 || got.Version != k.Version+1 {
		t.Fatalf("Update = %+v, %v", got, err)
	}
	if again, _, err := s.Authenticate(t.Context(), secret, now); err != nil || again.State != policy.Disabled || again.StateReason != "lost" || again.Identity != policy.None {
		t.Errorf("after Update: %+v, %v", again, err)
	}
	if _, err := s.Update(t.Context(), k.ID, k.Version, func(*policy.Key) error { return nil }, nil); !errors.Is(err, policy.ErrKeyChanged) {
		t.Errorf("an update of an old version: %v, want ErrKeyChanged", err)
	}
	// A key that lives on is not overdue when it was to end.
	short, _, err := s.Create(t.Context(), example(), time.Hour, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	longer, err := s.Update(t.Context(), short.ID, 0, func(k *policy.Key) error { k.ExpiresAt = now.Add(200 * 24 * time.Hour); return nil }, nil)
	if err != nil || !short.RotateAfter.Equal(now.Add(time.Hour)) || !longer.RotateAfter.Equal(now.Add(keys.RotateEvery)) {
		t.Errorf("rotation is due %v, then %v, %v", short.RotateAfter, longer.RotateAfter, err)
	}
	if _, err := s.Update(t.Context(), "nobody", 0, func(*policy.Key) error { return nil }, nil); !errors.Is(err, policy.ErrNoSuchKey) {
		t.Errorf("an update of no key: %v, want ErrNoSuchKey", err)
	}
	no := errors.New("no")
	for name, update := range map[string]func() error{
		"refused by the change": func() error {
			_, err := s.Update(t.Context(), k.ID, 0, func(k *policy.Key) error { k.Description = "x"; return no }, nil)
			return err
		},
		"refused by what is done along": func() error {
			_, err := s.Update(t.Context(), k.ID, 0, func(k *policy.Key) error { k.Description = "x"; return nil }, func(*sql.Tx) error { return no })
			return err
		},
	} {
		if err := update(); !errors.Is(err, no) {
			t.Errorf("%s: %v", name, err)
		}
		if again, err := s.Get(t.Context(), k.ID); err != nil || again.Description != "desktop" || again.Version != got.Version {
			t.Errorf("%s: %+v, %v, want nothing changed", name, again, err)
		}
	}
}

// TestUpdatesInParallel: none is lost.
func TestUpdatesInParallel(t *testing.T) { onStores(t, testUpdatesInParallel) }

func testUpdatesInParallel(t *testing.T, open opener) {
	s, db, _ := open(t)
	other, err := keys.New(db, pepper())
	if err != nil {
		t.Fatal(err)
	}
	k, _ := create(t, s, example())
	var wg sync.WaitGroup
	for i := range 20 {
		store := []*keys.Store{s, other}[i%2]
		wg.Go(func() {
			for {
				_, err := store.Update(context.Background(), k.ID, 0, func(k *policy.Key) error { k.Description += "x"; return nil }, nil)
				if errors.Is(err, policy.ErrKeyChanged) {
					continue
				}
				if err != nil {
					t.Error(err)
				}
				return
			}
		})
	}
	wg.Wait()
	if got, err := s.Get(t.Context(), k.ID); err != nil || strings.Count(got.Description, "x") != 20 {
		t.Errorf("after 20 updates: %+v, %v", got, err)
	}
}

func TestRevokedAndDeletedForEver(t *testing.T) { onStores(t, testRevokedAndDeletedForEver) }

func testRevokedAndDeletedForEver(t *testing.T, open opener) {
	for _, final := range []policy.State{policy.Revoked, policy.Deleted} {
		s, _, _ := open(t)
		k, secret := create(t, s, example())
		set := func(state policy.State) error {
			_, err := s.Update(t.Context(), k.ID, 0, func(k *policy.Key) error { k.State = state; return nil }, nil)
			return err
		}
		if err := set(final); err != nil {
			t.Fatal(err)
		}
		if opens(t, s, secret, now) != 0 {
			t.Errorf("%s: the secret still opens the key", final)
		}
		for _, state := range []policy.State{policy.Active, policy.Disabled, policy.Quarantined} {
			if err := set(state); !errors.Is(err, policy.ErrKeyFinal) {
				t.Errorf("%s to %s: %v, want ErrFinal", final, state, err)
			}
		}
		if _, _, err := s.Rotate(t.Context(), k.ID, 0, 0, now, nil); err == nil {
			t.Errorf("%s: it got a new secret", final)
		}
		if err := set(policy.Deleted); (err == nil) != (final == policy.Revoked) {
			t.Errorf("%s to deleted: %v", final, err)
		}
	}
}

// TestPublicKeys: a key that was enrolled with public keys has no secret.
func TestPublicKeys(t *testing.T) { onStores(t, testPublicKeys) }

func testPublicKeys(t *testing.T, open opener) {
	s, _, _ := open(t)
	with := example()
	with.JWKS = `{"keys":[]}`
	k, secret := create(t, s, with)
	if secret != "" || k.JWKS != with.JWKS {
		t.Fatalf("Create = %+v, %q", k, secret)
	}
	if _, _, err := s.Rotate(t.Context(), k.ID, 0, 0, now, nil); !errors.Is(err, policy.ErrNoSecrets) {
		t.Errorf("Rotate: %v, want ErrNoSecrets", err)
	}
	k, err := s.Enrol(t.Context(), k.ID, k.Version, `{"keys":[1]}`, now.Add(time.Hour), nil)
	if err != nil || k.JWKS != `{"keys":[1]}` || !k.RotateAfter.Equal(now.Add(time.Hour+keys.RotateEvery)) {
		t.Errorf("Enrol = %+v, %v", k, err)
	}
	plain, _ := create(t, s, example())
	if _, err := s.Enrol(t.Context(), plain.ID, 0, `{"keys":[]}`, now, nil); !errors.Is(err, policy.ErrSecrets) {
		t.Errorf("Enrol of a key with a secret: %v, want ErrSecrets", err)
	}
}

// TestStale: a store sees what another changed, in the transaction in which it
// acts.
func TestStale(t *testing.T) { onStores(t, testStale) }

func testStale(t *testing.T, open opener) {
	s, db, _ := open(t)
	other, err := keys.New(db, pepper())
	if err != nil {
		t.Fatal(err)
	}
	a, secret := create(t, s, example())
	b, _ := create(t, s, example())
	if opens(t, s, secret, now) != 1 {
		t.Fatal("the key does not open")
	}
	if _, err := other.Update(t.Context(), a.ID, 0, func(k *policy.Key) error { k.State = policy.Disabled; return nil }, nil); err != nil {
		t.Fatal(err)
	}
	cached, _, err := s.Authenticate(t.Context(), secret, now)
	if err != nil || cached.State != policy.Active {
		t.Fatalf("the key is not from memory: %+v, %v", cached, err)
	}
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	stale, err := s.Stale(t.Context(), tx, []policy.Key{cached, b, {ID: "gone", Version: 1}})
	if err := errors.Join(err, tx.Rollback()); err != nil || !slices.Equal(stale, []string{a.ID, "gone"}) {
		t.Errorf("Stale = %q, %v, want the changed and the missing one", stale, err)
	}
	s.Forget(a.ID)
	if fresh, _, err := s.Authenticate(t.Context(), secret, now); err != nil || fresh.State != policy.Disabled {
		t.Errorf("after Forget: %+v, %v", fresh, err)
	}
}

// TestWrittenRowsForgeNothing: each row is what somebody could do who can write
// into the database and lacks the pepper.
func TestWrittenRowsForgeNothing(t *testing.T) { onStores(t, testWrittenRowsForgeNothing) }

func testWrittenRowsForgeNothing(t *testing.T, open opener) {
	s, db, _ := open(t)
	create(t, s, example())
	for _, forged := range []string{
		`UPDATE machine_keys SET grants = '["faq","admin"]' WHERE id = $1`,
		`UPDATE machine_keys SET bindings = '[{"issuer":"https://idp","subject":"eve"}]' WHERE id = $1`,
		`UPDATE machine_keys SET identity = 'none' WHERE id = $1`,
		`UPDATE machine_keys SET ip_ranges = 'null' WHERE id = $1`,
		`UPDATE machine_keys SET limits = 'null' WHERE id = $1`,
		`UPDATE machine_keys SET params = 'null' WHERE id = $1`,
		`UPDATE machine_keys SET verifier_for = '["models"]' WHERE id = $1`,
		`UPDATE machine_keys SET jwks = '{"keys":[]}' WHERE id = $1`,
		`UPDATE machine_keys SET owner = 'corp:eve' WHERE id = $1`,
		`UPDATE machine_keys SET state = 'disabled' WHERE id = $1`,
		`UPDATE machine_keys SET expires_at = expires_at + 1 WHERE id = $1`,
		`UPDATE machine_keys SET rotate_after = rotate_after + 1 WHERE id = $1`,
		`UPDATE machine_keys SET version = version + 1 WHERE id = $1`,
		`UPDATE machine_key_secrets SET ends_at = 0 WHERE key_id = $1 AND ends_at > 0`,
		`UPDATE machine_key_secrets SET mac = (SELECT mac FROM machine_key_secrets WHERE number = 1 AND key_id <> $1 LIMIT 1) WHERE key_id = $1`,
		`UPDATE machine_key_secrets SET number = number + 10 WHERE key_id = $1`,
		`DELETE FROM machine_key_secrets WHERE key_id = $1 AND number = 1`,
	} {
		k, secret := create(t, s, example())
		if _, _, err := s.Rotate(t.Context(), k.ID, 0, time.Hour, now, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), forged, k.ID); err != nil {
			t.Fatalf("%s: %v", forged, err)
		}
		if got, _, err := s.Authenticate(t.Context(), secret, now); err == nil || errors.Is(err, policy.ErrUnknownKey) {
			t.Errorf("%s: Authenticate = %+v, %v, want an alarm", forged, got, err)
		}
		if _, err := s.Update(t.Context(), k.ID, 0, func(*policy.Key) error { return nil }, nil); err == nil {
			t.Errorf("%s: an update made it good", forged)
		}
	}
}
