package jwks

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/hourpass/hourpass/jwks/internal/disk"
)

// fileRefresh is the time between two looks at the file.
const fileRefresh = 5 * time.Second

// File is the key set of an issuer that can't be reached: somebody brings its
// keys in a file. They don't get stale. [File.Run] looks whether the file has
// changed; all other methods read what it last accepted, take no lock and wait
// for nothing.
type File struct {
	path string
	log  *slog.Logger
	held atomic.Pointer[held] // Never nil.
}

// OpenFile reads the key set in the file at path: a JWKS document (RFC 7517), by
// the same rules as one that is fetched. Whoever can write it can sign any token:
// if its mode lets others, it is refused.
func OpenFile(path string, log *slog.Logger) (*File, error) {
	f := &File{path: path, log: log}
	f.held.Store(&held{})
	if err := f.read(); err != nil {
		return nil, fmt.Errorf("reading a key set: %w", err)
	}
	return f, nil
}

// Run reads the file again whenever it has changed, until ctx ends, then returns
// nil. A file that is bad or gone leaves the keys as they are.
func (f *File) Run(ctx context.Context) error {
	look := time.NewTicker(fileRefresh)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		f.look()
	}
}

func (f *File) look() {
	err := f.read()
	if err == nil || err.Error() == f.held.Load().trouble {
		return
	}
	f.log.Warn("reading a key set", "err", err.Error())
	h := *f.held.Load()
	h.trouble = err.Error()
	f.held.Store(&h)
}

func (f *File) read() error {
	doc, err := disk.Read(f.path, MaxDocument, 0o022)
	if err != nil {
		return err
	}
	old := f.held.Load()
	if old.set != nil && bytes.Equal(doc, old.doc) && old.trouble == "" {
		return nil
	}
	set, err := Parse(doc)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	next := &held{set: set, doc: doc, generation: old.generation}
	if old.set == nil || !old.set.Equal(set) {
		next.generation++
		f.log.Info("accepted a key set", "file", f.path, "keys", set.Len(), "skipped", set.Skipped(), "generation", next.generation)
	}
	f.held.Store(next)
	return nil
}

// Generation is as [Remote.Generation] says. There is no error.
func (f *File) Generation(time.Time) (uint64, error) { return f.held.Load().generation, nil }

// VerifyAs is as [Remote.VerifyAs] says, of keys that don't get stale.
func (f *File) VerifyAs(p Profile, compact string, _ time.Time) (payload []byte, kid string, err error) {
	return f.held.Load().set.VerifyKeyID(p, compact)
}

// Urge does nothing: only who brings the file can bring other keys.
func (f *File) Urge() {}

// Status returns the state. The file was found good when it was last accepted.
func (f *File) Status(time.Time) Status {
	h := f.held.Load()
	return Status{Ready: true, Keys: h.set.Len(), Skipped: len(h.set.Skipped()), Generation: h.generation, LastError: h.trouble}
}
