package audit_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hourpass/hourpass/internal/audit"
)

// specimen is a short log with all that can be in one: two files, a line that a
// crash cut off, and a signature at the end.
var specimen = sync.OnceValue(func() []byte {
	dir, err := os.MkdirTemp("", "audit")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	t := failing{dir: dir}
	c := audit.Config{Path: filepath.Join(dir, "audit")}
	l := open(&t, c)
	appends(&t, l, "a")
	closed(&t, l)
	b := content(&t, c.Path)
	put(&t, c.Path, append(b, next(&t, b)[:100]...))
	l = open(&t, newSigner(&t, "EdDSA").with(c))
	if err := os.Rename(c.Path, c.Path+".1"); err != nil {
		panic(err)
	}
	if err := l.Reopen(); err != nil {
		panic(err)
	}
	appends(&t, l, "c")
	closed(&t, l)
	return append(content(&t, c.Path+".1"), content(&t, c.Path)...)
})

// failing is a test's helper outside of tests.
type failing struct {
	testing.TB
	dir string
}

func (*failing) Helper()                  {}
func (*failing) Context() context.Context { return context.Background() }
func (*failing) Cleanup(func())           {}
func (f *failing) TempDir() string {
	dir, err := os.MkdirTemp(f.dir, "")
	if err != nil {
		panic(err)
	}
	return dir
}
func (*failing) Fatal(args ...any) { panic(args) }

// spoil changes one byte of the specimen and checks that it shows.
func spoil(t *testing.T, at int, to byte) {
	t.Helper()
	b := bytes.Clone(specimen())
	if at %= len(b); b[at] == to {
		return
	}
	from := b[at]
	b[at] = to
	if r := verify(t, audit.Options{}, b); r.Problem == nil {
		t.Fatalf("byte %d changed from %q to %q, and nothing is found in\n%s", at, from, to, b)
	}
}

// FuzzOneByte: no change of any one byte of a log that was closed and signed
// passes.
func FuzzOneByte(f *testing.F) {
	good(f, audit.Options{}, specimen())
	f.Add(uint(0), byte('['))
	f.Fuzz(func(t *testing.T, at uint, to byte) { spoil(t, int(at%uint(len(specimen()))), to) })
}

// TestOneByte tries all places with what is worst there.
func TestOneByte(t *testing.T) {
	for at := range specimen() {
		for _, to := range []byte{specimen()[at] ^ 1, "\n\"} "[at%4]} {
			spoil(t, at, to)
		}
	}
}

// TestOneByteUnsigned: without a signer, any but a change of the last line.
func TestOneByteUnsigned(t *testing.T) {
	whole := write(t, audit.Config{}, "a", "b")
	last := bytes.LastIndexByte(whole[:len(whole)-1], '\n')
	for at := range last + 1 {
		for _, to := range []byte{whole[at] ^ 1, '\n', '"', '}', ' '} {
			b := bytes.Clone(whole)
			if b[at] = to; to != whole[at] && verify(t, audit.Options{}, b).Problem == nil {
				t.Errorf("byte %d changed from %q to %q, and nothing is found", at, whole[at], to)
			}
		}
	}
}

// FuzzVerify: whatever is in a file, a check ends, and what it finds good can be
// gone on with and stays good.
func FuzzVerify(f *testing.F) {
	whole := specimen()
	f.Add(whole)
	f.Add(whole[:len(whole)-20])
	path := filepath.Join(f.TempDir(), "audit")
	f.Fuzz(func(t *testing.T, b []byte) {
		if verify(t, audit.Options{}, b).Problem != nil {
			return
		}
		put(t, path, b)
		l, err := tryOpen(audit.Config{Path: path})
		if err != nil {
			t.Fatalf("a good log can't be gone on with: %v\n%s", err, b)
		}
		appends(t, l, "next")
		closed(t, l)
		good(t, audit.Options{}, content(t, path))
	})
}

func TestFuzzSeedsAreThere(t *testing.T) {
	for _, target := range []string{"FuzzOneByte", "FuzzVerify"} {
		if seeds, err := os.ReadDir("testdata/fuzz/" + target); err != nil || len(seeds) == 0 {
			t.Errorf("%s has no seeds: %v", target, err)
		}
	}
}
