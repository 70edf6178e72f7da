package audit_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hourpass/hourpass/internal/audit"
)

// TestEachRecordOnce: whatever many writers append at the same time, and what is
// pending at the close, is kept once.
func TestEachRecordOnce(t *testing.T) {
	for _, durable := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "audit")
		l := open(t, newSigner(t, "EdDSA").with(audit.Config{Path: path, Durable: durable, CheckpointRecords: 7}))
		var wg sync.WaitGroup
		for w := range 20 {
			wg.Go(func() {
				for i := range 20 {
					if err := l.Append(t.Context(), record(fmt.Sprint(w, "-", i))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		closed(t, l)
		got := ids(t, path)
		slices.Sort(got)
		if len(got) != 400 || len(slices.Compact(got)) != 400 {
			t.Errorf("durable %v: %d records, want 400 of them", durable, len(got))
		}
		if r := good(t, audit.Options{}, content(t, path)); r.Records != 400 || r.Checkpoints < 5 || r.Uncovered != 0 {
			t.Errorf("durable %v: report %+v", durable, r)
		}
	}
}

func TestAppendSaysWhenItCouldNot(t *testing.T) {
	l := open(t, audit.Config{Path: filepath.Join(t.TempDir(), "audit"), Durable: true})
	closed(t, l)
	if err := l.Append(t.Context(), audit.Record{}); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("Append after Close = %v, want ErrClosed", err)
	}
	if err := l.Reopen(); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("Reopen after Close = %v, want ErrClosed", err)
	}
	full := open(t, newSigner(t, "EdDSA").with(audit.Config{Path: "/dev/full"}))
	if err := full.Append(t.Context(), audit.Record{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Append to a full disk = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := full.Append(ctx, audit.Record{}); err == nil {
		t.Error("Append with a context that has ended: no error")
	}
	if err := full.Close(); err != nil {
		t.Errorf("Close of a log without a record = %v", err)
	}
}

func TestModeIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	closed(t, open(t, audit.Config{Path: path}))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
}

// TestChain recomputes the chain as docs/audit.md says that anybody can.
func TestChain(t *testing.T) {
	b := write(t, newSigner(t, "ES256").with(audit.Config{Program: "hourpass-test"}), "a", "b")
	prev := strings.Repeat("0", 64)
	var events []string
	for i, line := range lines(b) {
		var l struct {
			Seq                       int
			Prev, Event, Log, Program string
		}
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		if l.Seq != i+1 || l.Prev != prev {
			t.Errorf("line %d says it is line %d behind %s, want %s", i+1, l.Seq, l.Prev, prev)
		}
		if i == 0 && (len(l.Log) != 26 || l.Program != "hourpass-test") {
			t.Errorf("the first line is %s", line)
		}
		events = append(events, l.Event)
		prev = fmt.Sprintf("%x", sha256.Sum256(line))
	}
	if got := strings.Join(events, " "); got != "log.start log.checkpoint call call log.checkpoint" {
		t.Errorf("lines %s", got)
	}
}

// TestRestart: the next process goes on where the last one ended.
func TestRestart(t *testing.T) {
	for _, s := range []*signer{nil, newSigner(t, "EdDSA")} {
		c := audit.Config{Path: filepath.Join(t.TempDir(), "audit")}
		if s != nil {
			c = s.with(c)
		}
		var before []byte
		for _, id := range []string{"a", "b", "c"} {
			l := open(t, c)
			appends(t, l, id)
			closed(t, l)
			after := content(t, c.Path)
			if !bytes.HasPrefix(after, before) {
				t.Error("a line that was there has changed")
			}
			before = after
		}
		r := good(t, audit.Options{}, before)
		if got := ids(t, c.Path); !slices.Equal(got, []string{"a", "b", "c"}) || r.Files != 1 || r.Records != 3 {
			t.Errorf("records %v, report %+v", got, r)
		}
	}
}

// TestTornAnywhere: wherever a crash cuts a log off, the next process goes on,
// nothing that was whole is lost, and the check is good, before and after.
func TestTornAnywhere(t *testing.T) {
	c := audit.Config{Path: filepath.Join(t.TempDir(), "audit")}
	whole := write(t, c, "a", "b", "with \"escapes\" \\ { [ } and ü")
	first := len(lines(whole)[0])
	for end := range whole {
		put(t, c.Path, whole[:end])
		complete := bytes.Count(whole[:end], []byte("\n"))
		if whole[end] == '\n' {
			complete++ // It lacks its newline alone.
		}
		if end >= first {
			if r := good(t, audit.Options{}, whole[:end]); r.Tail != end-bytes.LastIndexByte(whole[:end], '\n')-1 {
				t.Errorf("cut at %d: a tail of %d bytes", end, r.Tail)
			}
		}
		l := open(t, c)
		appends(t, l, "next")
		closed(t, l)
		r := good(t, audit.Options{}, content(t, c.Path))
		if want := max(complete-1, 0) + 1; r.Records != want {
			t.Errorf("cut at %d: %d records, want %d", end, r.Records, want)
		}
		cutOff := end >= first && whole[end-1] != '\n' && whole[end] != '\n'
		if (r.Torn == 1) != cutOff {
			t.Errorf("cut at %d: %d torn lines in\n%s", end, r.Torn, content(t, c.Path))
		}
	}
}

// TestTornTwice: a crash within the write that mends the first one.
func TestTornTwice(t *testing.T) {
	c := audit.Config{Path: filepath.Join(t.TempDir(), "audit")}
	whole := write(t, c, "a", "b")
	put(t, c.Path, whole[:len(whole)-10])
	closed(t, open(t, c))
	mended := content(t, c.Path)
	for end := len(whole) - 9; end < len(mended); end++ {
		put(t, c.Path, mended[:end])
		l := open(t, c)
		appends(t, l, "c")
		closed(t, l)
		if r := good(t, audit.Options{}, content(t, c.Path)); r.Torn != 1 || r.Records != 2 {
			t.Errorf("cut at %d: report %+v", end, r)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	whole := string(write(t, audit.Config{}, "a", "b"))
	head := string(lines([]byte(whole))[0])
	for name, text := range map[string]string{
		"records that are not chained":   "{\"time\":\"2026-03-01T12:00:00Z\",\"decision_id\":\"x\",\"event\":\"call\"}\n",
		"some other file":                "hello\n",
		"an end of zeros":                whole + strings.Repeat("\x00", 100),
		"something behind the last line": whole + "x",
		"an empty line at the end":       whole + "\n",
		"a control character at the end": whole + string(next(t, []byte(whole))[:100]) + "\x00",
		"an end of another number":       whole + `{"seq":9,"prev":"`,
		"a version of the future":        strings.Replace(head, `"version":1`, `"version":2`, 1),
		"no first line":                  whole[len(head):],
		"part of a continued first line": `{"seq":7,"prev":"ab`,
		"a log id that needs escapes":    strings.Replace(head, `"log":"`, `"log":"\"`, 1),
	} {
		c := audit.Config{Path: filepath.Join(t.TempDir(), "audit")}
		put(t, c.Path, []byte(text))
		if l, err := tryOpen(c); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s: Open = %v, %v, want ErrBroken", name, l, err)
		}
		if string(content(t, c.Path)) != text {
			t.Errorf("%s: the file was changed", name)
		}
		// Unless it may be set aside.
		c.SetAside = true
		l := open(t, c)
		appends(t, l, "new")
		closed(t, l)
		good(t, audit.Options{}, content(t, c.Path))
		aside, _ := filepath.Glob(c.Path + ".broken-*")
		if len(aside) != 1 || string(content(t, aside[0])) != text {
			t.Errorf("%s: set aside are %v", name, aside)
		}
	}
	if _, err := audit.Open(audit.Config{Path: filepath.Join(t.TempDir(), "audit")}); err == nil {
		t.Error("Open without a clock: no error")
	}
}

func TestOneWriter(t *testing.T) {
	c := audit.Config{Path: filepath.Join(t.TempDir(), "audit")}
	l := open(t, c)
	if _, err := tryOpen(c); !errors.Is(err, audit.ErrBusy) {
		t.Errorf("Open of a log that is open = %v, want ErrBusy", err)
	}
	// One that does not ask for the lock is seen at the next record.
	appends(t, l, "a")
	before := content(t, c.Path)
	for name, now := range map[string][]byte{
		"longer": append(bytes.Clone(before), '\n'), "shorter": before[:len(before)-1], "empty": nil,
	} {
		put(t, c.Path, now)
		if err := l.Append(t.Context(), record("b")); err == nil || !strings.Contains(err.Error(), "somebody else") {
			t.Errorf("Append to a file that is %s = %v", name, err)
		}
	}
	put(t, c.Path, before)
	appends(t, l, "c")
	closed(t, l)
	good(t, audit.Options{}, content(t, c.Path))
}

// TestWriteFails: a disk that is full within a line, and has room again.
func TestWriteFails(t *testing.T) {
	c := audit.Config{Path: filepath.Join(t.TempDir(), "audit")}
	l := open(t, c)
	appends(t, l, "a", "b")
	size := len(content(t, c.Path))
	long := record(strings.Repeat("x", 1000))
	for _, room := range []int{0, 1, 500} {
		var err error
		limited(t, size+room, func() { err = l.Append(t.Context(), long) })
		if err == nil {
			t.Fatalf("Append with room for %d bytes: no error", room)
		}
		if got := len(content(t, c.Path)); got != size+room {
			t.Fatalf("%d bytes of %d are there", got, size+room)
		}
		appends(t, l, fmt.Sprint("after ", room))
		size = len(content(t, c.Path))
	}
	if r := good(t, audit.Options{}, content(t, c.Path)); r.Records != 5 || r.Torn != 2 {
		t.Errorf("report %+v", r)
	}

	// Nor does it go on from wherever somebody cut the file in the meantime.
	whole := content(t, c.Path)
	limited(t, size+500, func() { _ = l.Append(t.Context(), long) })
	for name, cut := range map[string][]byte{"a line less": whole[:bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1], "nothing": nil, "another last line": bytes.Replace(whole, []byte("after 500"), []byte("after 501"), 1)} {
		put(t, c.Path, cut)
		if err := l.Append(t.Context(), record("x")); err == nil || !strings.Contains(err.Error(), "somebody else") {
			t.Errorf("Append after a failed write to a file with %s = %v", name, err)
		}
	}
}

// limited lets no file of this process grow beyond size.
func limited(t *testing.T, size int, do func()) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	less := old
	less.Cur = uint64(size)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &less); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
	}()
	do()
}

// TestReopen: after a rename the log goes on in a new file, which says where the
// old one ended.
func TestReopen(t *testing.T) {
	c := newSigner(t, "EdDSA").with(audit.Config{Path: filepath.Join(t.TempDir(), "audit"), Durable: true})
	l := open(t, c)
	appends(t, l, "a")
	if err := l.Reopen(); err != nil { // Nothing was renamed.
		t.Fatal(err)
	}
	appends(t, l, "b")
	if err := os.Rename(c.Path, c.Path+".1"); err != nil {
		t.Fatal(err)
	}
	appends(t, l, "c") // Still into the old file.
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	appends(t, l, "d")
	closed(t, l)
	l = open(t, c) // And a restart after it.
	appends(t, l, "e")
	if err := os.Rename(c.Path, c.Path+".2"); err != nil {
		t.Fatal(err)
	}
	put(t, c.Path, nil) // As logrotate does on "create".
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	appends(t, l, "f")
	closed(t, l)

	first, second, third := content(t, c.Path+".1"), content(t, c.Path+".2"), content(t, c.Path)
	r := good(t, audit.Options{}, first, second, third)
	if r.Files != 3 || r.Records != 6 || r.First != 1 || r.Uncovered != 0 {
		t.Errorf("report %+v", r)
	}
	good(t, audit.Options{}, slices.Concat(first, second, third))
	for _, alone := range [][]byte{first, second, third} {
		if r := good(t, audit.Options{}, alone); r.Uncovered != 0 || r.Log == "" {
			t.Errorf("alone: %+v", r)
		}
	}
	other := bytes.Replace(lines(second)[0], []byte(`"log":"`), []byte(`"log":"A`), 1)
	if r := verify(t, audit.Options{Expect: position(t, first, 1)}, second); r.Problem == nil || r.Problem.Kind != audit.Removed {
		t.Errorf("a line in a file that was not given: %+v", r.Problem)
	}
	if r := verify(t, audit.Options{}, append(bytes.Clone(first), second[:40]...), second); r.Problem == nil || r.Problem.Kind != audit.Changed || r.Problem.File != "file1" {
		t.Errorf("a file that is not the last ends within a line: %+v", r.Problem)
	}
	for name, files := range map[string][][]byte{
		"the id of another log": {first, other}, "a file is missing": {first, third}, "out of order": {second, first}, "twice": {first, first},
		"of two logs": {first, write(t, c, "x")},
	} {
		if r := verify(t, audit.Options{}, files...); r.Problem == nil || r.Problem.File != "file2" || r.Problem.Row != 1 {
			t.Errorf("%s: problem %+v", name, r.Problem)
		}
	}
}

// TestRemoved: what nobody will find is not kept. Reopened, the log goes on, and
// says that lines are missing.
func TestRemoved(t *testing.T) {
	for name, c := range map[string]audit.Config{"signed": newSigner(t, "EdDSA").with(audit.Config{Durable: true}), "alone": {}} {
		c.Path = filepath.Join(t.TempDir(), "audit")
		l := open(t, c)
		appends(t, l, "a")
		if err := os.Remove(c.Path); err != nil {
			t.Fatal(err)
		}
		if err := l.Append(t.Context(), record("b")); err == nil || !strings.Contains(err.Error(), "removed") {
			t.Errorf("%s: to a file that was removed: %v", name, err)
		}
		_ = l.Reopen() // It tells that the end of the old file could not be signed.
		appends(t, l, "c")
		closed(t, l)
		if got := ids(t, c.Path); !slices.Equal(got, []string{"c"}) {
			t.Errorf("%s: the new file has %q", name, got)
		}
		if r := good(t, audit.Options{}, content(t, c.Path)); r.First == 1 {
			t.Errorf("%s: the new file says that it is the first", name)
		}
	}
}

func TestReopenOntoAnotherFile(t *testing.T) {
	c := audit.Config{Path: filepath.Join(t.TempDir(), "audit")}
	l := open(t, c)
	appends(t, l, "a")
	if err := os.Rename(c.Path, c.Path+".1"); err != nil {
		t.Fatal(err)
	}
	put(t, c.Path, []byte("somebody's\n"))
	if err := l.Reopen(); err == nil {
		t.Error("Reopen onto another file: no error")
	}
	appends(t, l, "b")
	closed(t, l)
	if r := good(t, audit.Options{}, content(t, c.Path+".1")); r.Records != 2 {
		t.Errorf("report %+v", r)
	}
	if got := string(content(t, c.Path)); got != "somebody's\n" {
		t.Errorf("the other file holds %q", got)
	}
}
