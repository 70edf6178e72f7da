package ring

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hourpass/hourpass/jwks/internal/disk"
)

// Storage keeps the bytes of one ring, which processes share.
type Storage interface {
	// Load returns the ring's bytes and their version, which is not 0 and
	// changes whenever they do. If there are none yet, the error matches
	// [os.ErrNotExist].
	Load(ctx context.Context) (data []byte, version int64, err error)

	// Save replaces the bytes of that version in one step, durably. 0 means that
	// there must be none yet. If there are others, they are left alone and the
	// error matches [ErrChanged].
	Save(ctx context.Context, data []byte, ifVersion int64) error
}

// ErrChanged means that the storage holds something else than the caller read.
var ErrChanged = errors.New("the key ring was changed by another process")

// File is the path of a file that holds a ring, with mode 0600. One that others
// than its owner may read or write is refused. Processes of one machine may
// share it.
type File string

// String returns the path.
func (f File) String() string { return string(f) }

// Load implements [Storage].
func (f File) Load(context.Context) (data []byte, version int64, err error) {
	if data, err = disk.Read(string(f), maxData, 0o077); err != nil {
		return nil, 0, err
	}
	// The version is the content's own, so that a file needs no second one to
	// count in.
	sum := sha256.Sum256(data)
	return data, int64(binary.BigEndian.Uint64(sum[:8])>>1) | 1, nil
}

// Save implements [Storage]. The folder is made with mode 0700 if need be.
func (f File) Save(ctx context.Context, data []byte, ifVersion int64) (err error) {
	dir := filepath.Dir(string(f))
	if ifVersion == 0 {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	unlock, err := lock(dir)
	if err != nil {
		return fmt.Errorf("locking %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	_, version, err := f.Load(ctx)
	if ifVersion == 0 {
		// Whatever is there, be it no ring and not readable, is not written over.
		if _, err := os.Lstat(string(f)); err == nil {
			return ErrChanged
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	} else if err != nil {
		return err
	} else if version != ifVersion {
		return ErrChanged
	}
	return disk.Write(string(f), data)
}
