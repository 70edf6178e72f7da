package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxKeyFile bounds what is read of a key file: the text has 44 bytes.
const maxKeyFile = 1 << 10

// NewKeyFile writes a fresh random key as base64 to path, which must not be
// there yet, with mode 0600. A file that is there is left alone: what is sealed
// under it would be lost with it. The error then matches [os.ErrExist].
func NewKeyFile(path string) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("making a key file: %w", err)
	}
	key := make([]byte, KeySize)
	_, _ = rand.Read(key) // Never fails.
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("making a key file: %w", errors.Join(err, os.Remove(path)))
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("making a key file: %w", err)
	}
	return nil
}

// syncDir makes sure that the file's name survives a power cut, not only its
// bytes: a store sealed under a key that is gone is gone too.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// LoadKey reads the [KeySize] bytes that the file at path holds as base64 text,
// with or without a final newline. A file that group or others may read or write
// is refused: it is not a secret any more. A missing file is an error that
// matches [os.ErrNotExist].
func LoadKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading a key file: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat() // Of what was opened, not of what the path names by now.
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading a key file: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("reading a key file: %s is not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("reading a key file: %s has mode %04o: others than its owner may read or write it; want 0600",
			path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("reading a key file: %w", err)
	}
	// The decoder's error would quote the text, so it is not passed on. It
	// skips newlines within the text, hence the second condition.
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	key, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || len(key) != KeySize || len(text) != base64.StdEncoding.EncodedLen(KeySize) {
		return nil, fmt.Errorf("reading a key file: %s does not hold base64 of %d bytes", path, KeySize)
	}
	return key, nil
}
