package audit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hourpass/hourpass/internal/audit"
)

func open(t *testing.T, path string, durable bool) *audit.Log {
	t.Helper()
	l, err := audit.Open(path, durable)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func read(t *testing.T, path string) (ids map[string]int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ids = map[string]int{}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		var r audit.Record
		if err := json.Unmarshal(s.Bytes(), &r); err == nil {
			ids[r.Decision]++
		}
	}
	return ids
}

// TestEachRecordOnce: whatever many writers append at the same time, and what is
// pending at the close, is kept once.
func TestEachRecordOnce(t *testing.T) {
	for _, durable := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "audit")
		l := open(t, path, durable)
		var wg sync.WaitGroup
		for w := range 20 {
			wg.Go(func() {
				for i := range 20 {
					if err := l.Append(t.Context(), audit.Record{Decision: fmt.Sprint(w, "-", i)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		ids := read(t, path)
		if len(ids) != 400 {
			t.Errorf("durable %v: %d records, want 400", durable, len(ids))
		}
		for id, n := range ids {
			if n != 1 {
				t.Errorf("durable %v: record %s stands %d times", durable, id, n)
			}
		}
	}
}

func TestAppendSaysWhenItCouldNot(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit"), true)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), audit.Record{}); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("Append after Close = %v, want ErrClosed", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	full := open(t, "/dev/full", false)
	if err := full.Append(context.WithoutCancel(ctx), audit.Record{}); err == nil {
		t.Error("Append to a full disk: no error")
	}
	_ = full.Close()
}

// TestTornLine: what the last process died in the middle of does not spoil the
// next one's first record.
func TestTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	if err := os.WriteFile(path, []byte("{\"decision_id\":\"whole\"}\n{\"decision_id\":\"to"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, path, true)
	if err := l.Append(t.Context(), audit.Record{Decision: "next"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if ids := read(t, path); ids["whole"] != 1 || ids["next"] != 1 {
		t.Errorf("after a torn line the log holds %v", ids)
	}
}

func TestModeIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	_ = open(t, path, false).Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, durable := range []bool{false, true} {
		b.Run(fmt.Sprintf("durable=%v", durable), func(b *testing.B) {
			l, err := audit.Open(filepath.Join(b.TempDir(), "audit"), durable)
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := l.Append(b.Context(), audit.Record{Decision: "x", Event: "call", Outcome: audit.Allow, Model: "faq-bot"}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
