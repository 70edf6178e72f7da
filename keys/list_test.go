package keys_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store"
)

func TestList(t *testing.T) { onStores(t, testList) }

func testList(t *testing.T, open opener) {
	s, _, _ := open(t)
	var all []string
	for i := range 7 {
		k := example()
		k.Owner, k.Team = []string{"corp:ada", "corp:grace"}[i%2], fmt.Sprint("team", i%3)
		k, _, err := s.Create(t.Context(), k, 40*24*time.Hour, now.Add(time.Duration(i/2)*time.Hour), nil)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, k.ID)
	}
	set := func(i int, state policy.State) {
		if _, err := s.Update(t.Context(), all[i], 0, func(k *policy.Key) error { k.State = state; return nil }, nil); err != nil {
			t.Fatal(err)
		}
	}
	set(5, policy.Disabled)
	set(6, policy.Deleted)
	count := func(f policy.KeyFilter, at time.Time) (n int) {
		t.Helper()
		seen := map[string]bool{}
		for pages := 0; ; pages++ {
			page, err := s.List(t.Context(), f, at)
			if err != nil || pages > 10 {
				t.Fatalf("List(%+v): %v after %d pages", f, err, pages)
			}
			for i, k := range page.Keys {
				if seen[k.ID] || i > 0 && k.CreatedAt.After(page.Keys[i-1].CreatedAt) || len(k.Secrets) == 0 && k.State != policy.Deleted {
					t.Errorf("List(%+v) has %+v at %d", f, k, i)
				}
				seen[k.ID] = true
				n++
			}
			if f.After = page.Next; page.Next == "" {
				return n
			}
		}
	}
	end := now.Add(50 * 24 * time.Hour)
	for _, row := range []struct {
		filter policy.KeyFilter
		at     time.Time
		want   int
	}{
		{policy.KeyFilter{}, now, 6},
		{policy.KeyFilter{Limit: 1}, now, 6},
		{policy.KeyFilter{Limit: 2}, now, 6},
		{policy.KeyFilter{Limit: 6}, now, 6},
		{policy.KeyFilter{Owner: "corp:ada"}, now, 3},
		{policy.KeyFilter{Owner: "corp:grace", Limit: 2}, now, 3},
		{policy.KeyFilter{Owner: "corp:ada", Team: "team0"}, now, 1},
		{policy.KeyFilter{State: policy.Deleted}, now, 1},
		{policy.KeyFilter{State: policy.Disabled}, now, 1},
		{policy.KeyFilter{State: policy.Active}, now, 5},
		{policy.KeyFilter{State: policy.Active}, end, 0},
		{policy.KeyFilter{State: policy.Expired}, end, 5},
		{policy.KeyFilter{State: policy.Expired}, now, 0},
		{policy.KeyFilter{Due: now.Add(41 * 24 * time.Hour)}, now, 6},
		{policy.KeyFilter{Due: now}, now, 0},
		{policy.KeyFilter{Owner: "corp:ada' OR '1'='1"}, now, 0},
	} {
		if got := count(row.filter, row.at); got != row.want {
			t.Errorf("List(%+v) has %d keys, want %d", row.filter, got, row.want)
		}
	}
	for _, bad := range []string{"x", "1", "x.y", ".", "1.\x00", "1.\xff", "1-y"} {
		if _, err := s.List(t.Context(), policy.KeyFilter{After: bad}, now); !errors.Is(err, policy.ErrCursor) {
			t.Errorf("List after %q: %v, want ErrCursor", bad, err)
		}
	}
}

// TestListForged: a row that somebody wrote hides none of the others, wherever it
// stands, and nothing in it is told.
func TestListForged(t *testing.T) { onStores(t, testListForged) }

func testListForged(t *testing.T, open opener) {
	forgeries := []string{
		`UPDATE machine_keys SET grants = '["admin"]' WHERE id = $1`,
		`UPDATE machine_keys SET grants = 'x' WHERE id = $1`,
		`UPDATE machine_keys SET created_at = 0 WHERE id = $1`,
		`UPDATE machine_keys SET created_at = -5 WHERE id = $1`,
		`UPDATE machine_keys SET created_at = 99999999999 WHERE id = $1`,
		`UPDATE machine_key_secrets SET ends_at = 1 WHERE key_id = $1`,
		`DELETE FROM machine_key_secrets WHERE key_id = $1`,
		`UPDATE machine_keys SET expires_at = 'x' WHERE id = $1`,
		`UPDATE machine_key_secrets SET number = 'x' WHERE key_id = $1 AND number = 2`,
		`UPDATE machine_key_secrets SET last_used_at = 'x' WHERE key_id = $1 AND number = 2`,
	}
	s, db, where := open(t)
	if _, file := store.File(where); !file {
		forgeries = forgeries[:len(forgeries)-3] // PostgreSQL keeps the types of columns.
	}
	var genuine, forged []string
	for _, query := range forgeries {
		bad, _ := create(t, s, example())
		good, _ := create(t, s, example())
		if _, _, err := s.Rotate(t.Context(), bad.ID, 0, time.Hour, now, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), query, bad.ID); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		genuine, forged = append(genuine, good.ID), append(forged, bad.ID)
		if got, err := s.Get(t.Context(), bad.ID); err == nil || errors.Is(err, policy.ErrNoSuchKey) || strings.Contains(err.Error(), "admin") {
			t.Errorf("%s: Get = %+v, %v, want an alarm", query, got, err)
		}
	}
	if _, err := db.ExecContext(t.Context(), `INSERT INTO machine_keys SELECT 'Click https://evil', owner, team, description, grants, bindings, identity, ip_ranges,
		limits, params, verifier_for, jwks, state, state_reason, state_by, created_at, expires_at, rotate_after, version, mac FROM machine_keys WHERE id = $1`, genuine[0]); err != nil {
		t.Fatal(err)
	}
	forged = append(forged, "?")
	for limit := range 4 {
		var good, bad []string
		for f := (policy.KeyFilter{Limit: limit}); ; {
			page, err := s.List(t.Context(), f, now)
			if err != nil {
				t.Fatalf("List(%+v): %v", f, err)
			}
			for _, k := range page.Keys {
				good = append(good, k.ID)
			}
			bad = append(bad, page.Forged...)
			if f.After = page.Next; page.Next == "" {
				break
			}
		}
		for _, list := range [][]string{good, bad, genuine, forged} {
			slices.Sort(list)
		}
		if !slices.Equal(good, genuine) || !slices.Equal(bad, forged) {
			t.Errorf("with pages of %d, List has %q and the forged %q, want %q and %q", limit, good, bad, genuine, forged)
		}
	}
}
