package ring_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourpass/hourpass/jwks/ring"
)

// What each storage must do.
func TestStorages(t *testing.T) {
	for name, s := range map[string]ring.Storage{
		"memory": &memory{}, "file": ring.File(filepath.Join(t.TempDir(), "state", "ring.json")), "table": newTable(t),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			load := func(want string) int64 {
				t.Helper()
				data, version, err := s.Load(ctx)
				if err != nil || string(data) != want || version == 0 {
					t.Fatalf("Load = %q, %d, %v, want %q", data, version, err, want)
				}
				return version
			}
			if _, _, err := s.Load(ctx); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("Load(none) = %v, want ErrNotExist", err)
			}
			if err := s.Save(ctx, []byte("x"), 7); err == nil {
				t.Error("Save over a version that is not there succeeds")
			}
			if err := s.Save(ctx, []byte("one"), 0); err != nil {
				t.Fatal(err)
			}
			first := load("one")
			if err := s.Save(ctx, []byte("x"), 0); !errors.Is(err, ring.ErrChanged) {
				t.Errorf("Save over what is there = %v, want ErrChanged", err)
			}
			if err := s.Save(ctx, []byte("two"), first); err != nil {
				t.Fatal(err)
			}
			second := load("two")
			if second == first {
				t.Error("the version is the same")
			}
			if err := s.Save(ctx, []byte("x"), first); !errors.Is(err, ring.ErrChanged) {
				t.Errorf("Save over a version that is gone = %v, want ErrChanged", err)
			}
			if load("two") != second {
				t.Error("a refused Save changes the version")
			}
			// Of many writers one wins.
			var writers sync.WaitGroup
			won := make(chan string, 8)
			for i := range 8 {
				writers.Go(func() {
					data := strings.Repeat("z", i+3)
					switch err := s.Save(ctx, []byte(data), second); {
					case err == nil:
						won <- data
					case !errors.Is(err, ring.ErrChanged):
						t.Error(err)
					}
				})
			}
			writers.Wait()
			if len(won) != 1 {
				t.Fatalf("%d writers won, want 1", len(won))
			}
			load(<-won)
		})
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "ring.json")
	c := ring.Config{Storage: ring.File(path), Sealer: newSealer(t), Now: newClock().now}
	r := create(t, c)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v, want 0600", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v, want 0700", info.Mode(), err)
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		t.Errorf("the folder has %v, want the file alone", names)
	}
	if !strings.HasPrefix(r.String(), "key ring "+path+", active key ") {
		t.Errorf("String() = %s", r)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ring.Open(t.Context(), c); err == nil {
			t.Errorf("Open takes mode %04o", mode)
		}
		if _, err := r.Rotate(t.Context()); err == nil {
			t.Errorf("Rotate takes mode %04o", mode)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rotate(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Rotate without the file = %v, want ErrNotExist", err)
	}
	if len(published(t, r.Document())) != 1 {
		t.Error("a failed Rotate changes the document")
	}
	// What is no ring is not written over either.
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Create(t.Context(), c); !errors.Is(err, os.ErrExist) {
		t.Errorf("Create over an empty file = %v, want ErrExist", err)
	}
	if _, err := ring.Open(t.Context(), c); err == nil {
		t.Error("Open takes an empty file")
	}
}

// Two replicas on one table, both awake when a key is due: it is made once.
func TestReplicasRotateOnce(t *testing.T) {
	c := newClock()
	conf := ring.Config{Storage: newTable(t), Sealer: newSealer(t), Now: c.now}
	a := create(t, conf)
	b := open(t, conf)
	for month := range 6 {
		c.add(every)
		both(t, func(r *ring.Ring) error { return r.Advance(t.Context()) }, a, b)
		later(t, c, 0, a, b)
		if states(a) != "active prepare" || !bytes.Equal(a.Document(), b.Document()) {
			t.Fatalf("month %d: a: %s, b: %s", month, states(a), states(b))
		}
		later(t, c, lead+2*stale, a, b)
		if err := errors.Join(verify(t, a.Document(), sign(t, b)), verify(t, b.Document(), sign(t, a))); err != nil {
			t.Error(err)
		}
		if signedBy(t, sign(t, a)) != signedBy(t, sign(t, b)) {
			t.Error("the replicas sign with different keys")
		}
		c.add(hold)
		both(t, func(r *ring.Ring) error { return r.Advance(t.Context()) }, a, b)
		later(t, c, 0, a, b)
		if states(a) != "active" || states(b) != "active" {
			t.Fatalf("month %d: a: %s, b: %s", month, states(a), states(b))
		}
	}
	// The same by command: one rotates, one taints, nothing is lost.
	for range 10 {
		kid := a.List()[0].KID
		both(t, func(r *ring.Ring) error {
			if r == a {
				_, err := r.Rotate(t.Context())
				return err
			}
			_, err := r.Taint(t.Context(), kid)
			return err
		}, a, b)
		later(t, c, stale, a, b)
		for _, r := range []*ring.Ring{a, b} {
			if slices.Contains(published(t, r.Document()), kid) {
				t.Fatal("a tainted key is published")
			}
			if err := verify(t, a.Document(), sign(t, r)); err != nil {
				t.Fatal(err)
			}
		}
		later(t, c, lead+2*stale, a, b)
		later(t, c, hold, a, b)
	}
}

func both(t *testing.T, f func(*ring.Ring) error, rings ...*ring.Ring) {
	t.Helper()
	var wait sync.WaitGroup
	for _, r := range rings {
		wait.Go(func() {
			if err := f(r); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

// The loser of a race takes what the winner wrote and makes nothing of its own.
func TestLoserReloads(t *testing.T) {
	c := newClock()
	m := &memory{}
	conf := ring.Config{Storage: m, Sealer: newSealer(t), Now: c.now}
	a := create(t, conf)
	b := open(t, conf)
	var won ring.Key
	m.before = func() { won = rotate(t, b) }
	if k := rotate(t, a); k != won || len(a.List()) != 2 {
		t.Errorf("Rotate = %+v, want the winner's %+v", k, won)
	}
	// A taint is not lost to a rotation, nor the other way round.
	later(t, c, lead+2*stale, a, b)
	old := a.List()[0].KID
	m.before = func() { won = rotate(t, b) }
	taint(t, a, old)
	if kids := published(t, a.Document()); slices.Contains(kids, old) || !slices.Contains(kids, won.KID) {
		t.Errorf("after the race the document has %v", kids)
	}
	// Who loses always gives up.
	busy := &always{Storage: m}
	conf.Storage = busy
	if _, err := open(t, conf).Taint(t.Context(), won.KID); !errors.Is(err, ring.ErrChanged) || busy.times == 0 || busy.times > 10 {
		t.Errorf("Taint after %d lost races = %v, want ErrChanged", busy.times, err)
	}
}

// always is a storage in which somebody else was faster.
type always struct {
	ring.Storage
	times int
}

func (a *always) Save(context.Context, []byte, int64) error {
	a.times++
	return ring.ErrChanged
}

// While a key is tainted the storage fails: nothing is half done.
func TestTaintWritesFirst(t *testing.T) {
	c := newClock()
	conf := config(t, c)
	wire := &deaf{Storage: conf.Storage}
	conf.Storage = wire
	r := create(t, conf)
	wire.on = true
	kid, doc := r.List()[0].KID, r.Document()
	if _, err := r.Taint(t.Context(), kid); !errors.Is(err, errCut) {
		t.Errorf("Taint = %v, want the storage's error", err)
	}
	if _, err := r.Rotate(t.Context()); !errors.Is(err, errCut) {
		t.Errorf("Rotate = %v, want the storage's error", err)
	}
	if !bytes.Equal(r.Document(), doc) || signedBy(t, sign(t, r)) != kid {
		t.Error("what could not be written is done all the same")
	}
}

// deaf can be read and not written.
type deaf struct {
	ring.Storage
	on bool
}

func (d *deaf) Save(ctx context.Context, data []byte, ifVersion int64) error {
	if d.on {
		return errCut
	}
	return d.Storage.Save(ctx, data, ifVersion)
}

// Whoever puts an old ring back into the storage does not bring its keys back.
func TestRollbackIsRefused(t *testing.T) {
	c := newClock()
	m := &memory{}
	conf := ring.Config{Storage: m, Sealer: newSealer(t), Now: c.now}
	r := create(t, conf)
	kid, old := r.List()[0].KID, bytes.Clone(m.data)
	taint(t, r, kid)
	m.data, m.version = old, m.version+1
	if err := r.Advance(t.Context()); err == nil || !strings.Contains(err.Error(), "older") {
		t.Errorf("Advance over an older ring = %v", err)
	}
	if slices.Contains(published(t, r.Document()), kid) {
		t.Error("the tainted key is published again")
	}
	c.add(stale + time.Second)
	if _, err := r.Sign([]byte("{}"), "at+jwt"); !errors.Is(err, ring.ErrStale) {
		t.Errorf("Sign = %v, want ErrStale", err)
	}
}
