package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/lockedfile"
)

// state is what the program remembers between runs.
type state struct {
	Issuer  string    `json:"issuer,omitempty"`
	Access  string    `json:"access_token,omitempty"` // Of the login, for the issuer's own endpoints alone.
	Fresh   time.Time `json:"fresh_until,omitzero"`   // When Access ends.
	Refresh string    `json:"refresh_token,omitempty"`
	KeyID   string    `json:"key_id,omitempty"`
	Key     string    `json:"key,omitempty"`
}

// stateFile is the path of the file that keeps the state, mode 0600.
type stateFile string

// update lets change work on the state while no other run of the program can,
// and keeps what it made of it, even if it then failed: a refresh token that was
// rotated must not be lost to a later error.
func (f stateFile) update(change func(*state) error) error {
	if err := os.MkdirAll(filepath.Dir(string(f)), 0o700); err != nil {
		return err
	}
	// A lock file of its own, because the state is replaced as a whole.
	unlock, err := lockedfile.MutexAt(string(f) + ".lock").Lock()
	if err != nil {
		return fmt.Errorf("locking the state: %w", err)
	}
	defer unlock()
	s, err := f.read()
	if err != nil {
		return err
	}
	before := *s
	err = change(s)
	if *s != before {
		err = errors.Join(err, f.write(s))
	}
	return err
}

// read returns the state; of a file that is not there, the empty one.
func (f stateFile) read() (*state, error) {
	b, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return &state{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	info, err := os.Stat(string(f))
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others: chmod 600 it", f)
	}
	s := &state{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("reading the state in %s: %w", f, err)
	}
	return s, nil
}

// write replaces the file in one step, so that a crash leaves the old or the new
// state and never half of one.
func (f stateFile) write(s *state) error {
	b, err := json.MarshalIndent(s, "", "  ") //nolint:gosec // This file is where they are kept.
	if err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(string(f)), ".state-*") // With mode 0600.
	if err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	_, err = tmp.Write(append(b, '\n'))
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), string(f))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing the state: %w", err), os.Remove(tmp.Name()))
	}
	return nil
}
