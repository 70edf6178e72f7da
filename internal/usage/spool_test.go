package usage_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/usage"
)

var start = time.Date(2026, 11, 23, 10, 59, 50, 0, time.UTC)

// issuer takes batches as the issuer does: none twice.
type issuer struct {
	mu   sync.Mutex
	fail func() (before, after error) // Before or after it was taken.
	seen map[string]int64
	sum  usage.Row // Of all rows.
	rows []usage.Row
	lost map[string]int64
}

func newIssuer() *issuer { return &issuer{seen: map[string]int64{}, lost: map[string]int64{}} }

func (i *issuer) send(_ context.Context, b usage.Batch) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	var before, after error
	if i.fail != nil {
		before, after = i.fail()
	}
	if before != nil {
		return before
	}
	if b.Seq <= i.seen[b.Holder] {
		return after
	}
	i.seen[b.Holder], i.lost[b.Holder] = b.Seq, b.Lost
	for _, r := range b.Rows {
		i.rows = append(i.rows, r)
		i.sum.Requests += r.Requests
		i.sum.Input += r.Input
		i.sum.Output += r.Output
		i.sum.Cached += r.Cached
		i.sum.Unreported += r.Unreported
	}
	return after
}

func (i *issuer) allLost() (n int64) {
	for _, l := range i.lost {
		n += l
	}
	return n
}

func open(t testing.TB, dir string, i *issuer, change func(*usage.SpoolConfig)) *usage.Spool {
	t.Helper()
	c := usage.SpoolConfig{Dir: dir, Send: i.send, Now: func() time.Time { return start }}
	if change != nil {
		change(&c)
	}
	s, err := usage.OpenSpool(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// end ends a spool as the verifier's end does.
func end(t testing.TB, s *usage.Spool) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

var call = usage.Call{Time: start, Key: "K", Identity: "p:s", Model: "m", Team: "T", Grant: "G", Input: 10, Output: 3, Cached: 2, Source: usage.Reported}

func TestSums(t *testing.T) {
	i := newIssuer()
	s := open(t, t.TempDir(), i, nil)
	later, counted, other := call, call, call
	later.Time, counted.Source, counted.Team, other.Model = start.Add(time.Minute), usage.Counted, "U", ""
	for _, c := range []usage.Call{call, counted, later, other, call} {
		if err := s.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	end(t, s)
	hour := start.Truncate(time.Hour)
	want := []usage.Row{
		{Hour: hour, Key: "K", Identity: "p:s", Model: "", Team: "T", Grant: "G", Requests: 1, Input: 10, Output: 3, Cached: 2},
		{Hour: hour, Key: "K", Identity: "p:s", Model: "m", Team: "T", Grant: "G", Requests: 3, Input: 30, Output: 9, Cached: 6, Unreported: 1},
		{Hour: hour.Add(time.Hour), Key: "K", Identity: "p:s", Model: "m", Team: "T", Grant: "G", Requests: 1, Input: 10, Output: 3, Cached: 2},
	}
	if !slices.Equal(i.rows, want) {
		t.Errorf("the issuer has %+v, want %+v", i.rows, want)
	}
}

// TestAway keeps everything while the issuer is away, and over restarts.
func TestAway(t *testing.T) {
	i, dir := newIssuer(), t.TempDir()
	i.fail = func() (error, error) { return errors.New("away"), nil }
	for range 3 {
		s := open(t, dir, i, nil)
		for range 5 {
			if err := s.Add(call); err != nil {
				t.Fatal(err)
			}
			_ = s.Flush(t.Context())
		}
		end(t, s)
	}
	if i.sum.Requests != 0 {
		t.Fatalf("%d calls arrived at who is away", i.sum.Requests)
	}
	i.fail = nil
	end(t, open(t, dir, i, nil))
	if i.sum.Requests != 15 || i.sum.Input != 150 || i.allLost() != 0 {
		t.Errorf("%+v arrived, %d are lost, want 15 calls", i.sum, i.allLost())
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "batch-*")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

// TestOutcomeUnknown counts once what was taken though it seemed to fail.
func TestOutcomeUnknown(t *testing.T) {
	i, now := newIssuer(), start
	i.fail = func() (error, error) { return nil, errors.New("the answer is lost") }
	s := open(t, t.TempDir(), i, func(c *usage.SpoolConfig) { c.Now = func() time.Time { return now } })
	for range 4 {
		if err := s.Add(call); err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(t.Context()); err == nil {
			t.Error("a lost answer is no error")
		}
		now = now.Add(time.Minute)
	}
	i.fail = nil
	end(t, s)
	if i.sum.Requests != 4 {
		t.Errorf("%d calls are counted, want 4", i.sum.Requests)
	}
}

// TestPause does not ask an issuer that is away at each turn.
func TestPause(t *testing.T) {
	i, asked, now := newIssuer(), 0, start
	i.fail = func() (error, error) { asked++; return errors.New("away"), nil }
	s := open(t, t.TempDir(), i, func(c *usage.SpoolConfig) { c.Now = func() time.Time { return now } })
	for range 600 { // Ten minutes.
		if err := s.Add(call); err != nil {
			t.Fatal(err)
		}
		_ = s.Flush(t.Context())
		now = now.Add(time.Second)
	}
	if asked < 15 || asked > 60 {
		t.Errorf("asked %d times within ten minutes", asked)
	}
	end(t, s)
}

// TestFull keeps the oldest and counts the rest.
func TestFull(t *testing.T) {
	i, dir := newIssuer(), t.TempDir()
	i.fail = func() (error, error) { return errors.New("away"), nil }
	now := start
	s := open(t, dir, i, func(c *usage.SpoolConfig) { c.MaxBytes, c.Now = 4000, func() time.Time { return now } })
	for range 500 {
		if err := s.Add(call); err != nil {
			t.Fatal(err)
		}
		_ = s.Flush(t.Context())
	}
	if s.Lost() < 400 || s.Lost() == 500 {
		t.Fatalf("%d of 500 are lost", s.Lost())
	}
	size := int64(0)
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if info, err := f.Info(); err == nil {
			size += info.Size()
		}
	}
	if size > 5000 {
		t.Errorf("the spool has %d bytes, want about 4000", size)
	}
	lost := s.Lost()
	i.fail = nil
	now = now.Add(time.Hour)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	end(t, s)
	if i.sum.Requests+lost != 500 || i.allLost() != lost {
		t.Errorf("%d arrived, %d are lost and %d told of, want 500 together", i.sum.Requests, lost, i.allLost())
	}
}

func TestOneProcess(t *testing.T) {
	i, dir := newIssuer(), t.TempDir()
	s := open(t, dir, i, nil)
	if _, err := usage.OpenSpool(usage.SpoolConfig{Dir: dir, Send: i.send}); err == nil {
		t.Error("two spools share a folder")
	}
	end(t, s)
	end(t, open(t, dir, i, nil))
}

func TestTorn(t *testing.T) {
	i, dir := newIssuer(), t.TempDir()
	s := open(t, dir, i, nil)
	if err := s.Add(call); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "open.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(`{"hour":"2026`)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	// As after a crash: nobody has closed anything.
	crashed := t.TempDir()
	for _, name := range []string{"open.log"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(crashed, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	end(t, open(t, crashed, i, nil))
	if i.sum.Requests != 1 {
		t.Errorf("%d calls arrived, want the one that was whole", i.sum.Requests)
	}
	i.fail = func() (error, error) { return errors.New("away"), nil }
	end(t, s)
}

// TestCrash kills a process that adds calls, again and again: what it was told
// that it was added arrives, once.
func TestCrash(t *testing.T) {
	if dir := os.Getenv("HOURPASS_SPOOL"); dir != "" {
		child(t, dir)
		return
	}
	i, dir := newIssuer(), t.TempDir()
	told := int64(0)
	for n := range 8 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrash$")
		cmd.Env = append(os.Environ(), "HOURPASS_SPOOL="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1)
		for range 50 * (n + 1) { // It says a byte for each call.
			if _, err := out.Read(buf); err != nil {
				t.Fatal(err)
			}
			told++
		}
		_ = cmd.Process.Kill()
		for {
			if k, err := out.Read(buf); k == 0 || err != nil {
				break
			}
			told++
		}
		_ = cmd.Wait() // It was killed.
	}
	end(t, open(t, dir, i, nil))
	if i.sum.Requests < told || i.sum.Requests > told+8 { // Of each, one may have been added and not told.
		t.Errorf("%d calls arrived of %d", i.sum.Requests, told)
	}
}

func child(t *testing.T, dir string) {
	s := open(t, dir, newIssuer(), func(c *usage.SpoolConfig) {
		c.Now = time.Now
		c.Send = func(context.Context, usage.Batch) error { return errors.New("away") }
	})
	for {
		if err := s.Add(call); err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString(".")
		_ = s.Flush(t.Context())
	}
}

// TestNothingIsLost holds what arrives and what is counted as lost to what was
// added, whatever fails on the way.
func TestNothingIsLost(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		i, dir, now := newIssuer(), filepath.Join(t.TempDir(), strconv.Itoa(rapid.IntRange(0, 1<<30).Draw(rt, "dir"))), start
		i.fail = func() (before, after error) {
			switch rapid.IntRange(0, 3).Draw(rt, "fails") {
			case 0:
				before = errors.New("before")
			case 1:
				after = errors.New("after")
			}
			return before, after
		}
		clock := func(c *usage.SpoolConfig) { c.Now, c.MaxBytes = func() time.Time { return now }, 3000 }
		s := open(t, dir, i, clock)
		added, lost := int64(0), int64(0)
		for range rapid.IntRange(0, 60).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(rt, "pass")) * time.Second)
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0:
				lost += s.Lost()
				end(t, s)
				s = open(t, dir, i, clock)
			case 1, 2, 3:
				_ = s.Flush(t.Context())
			default:
				c := call
				c.Time, c.Key = now, rapid.SampledFrom([]string{"K", "L"}).Draw(rt, "key")
				if err := s.Add(c); err != nil {
					rt.Fatal(err)
				}
				added++
			}
		}
		lost += s.Lost()
		i.fail = nil
		end(t, s)
		end(t, open(t, dir, i, clock))
		if i.sum.Requests+lost != added || i.sum.Input != 10*i.sum.Requests {
			rt.Fatalf("%d calls arrived and %d are lost of %d", i.sum.Requests, lost, added)
		}
		left, _ := os.ReadDir(dir)
		for _, f := range left {
			if strings.HasPrefix(f.Name(), "batch-") || strings.HasPrefix(f.Name(), "closed-") {
				rt.Fatalf("%s is left", f.Name())
			}
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	s := open(b, b.TempDir(), newIssuer(), func(c *usage.SpoolConfig) { c.MaxBytes = 1 << 40 })
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Add(call); err != nil {
			b.Fatal(err)
		}
	}
}
