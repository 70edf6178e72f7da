package seal_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/seal"
)

func TestNewKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kek")
	if err := seal.NewKeyFile(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file: %v, %v, want mode 0600", info.Mode(), err)
	}
	a, err := seal.LoadKey(path)
	if err != nil || len(a) != seal.KeySize || bytes.Equal(a, make([]byte, seal.KeySize)) {
		t.Fatalf("LoadKey = %d bytes, %v", len(a), err)
	}
	if err := seal.NewKeyFile(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("NewKeyFile over a key = %v, want ErrExist", err)
	}
	if again, err := seal.LoadKey(path); err != nil || !bytes.Equal(a, again) {
		t.Errorf("the key changed: %v", err)
	}
	if err := seal.NewKeyFile(filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	if b, err := seal.LoadKey(filepath.Join(dir, "other")); err != nil || bytes.Equal(a, b) {
		t.Errorf("two key files hold the same key, or %v", err)
	}
	if err := seal.NewKeyFile(filepath.Join(dir, "none", "kek")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("NewKeyFile without a folder = %v, want ErrNotExist", err)
	}
}

func TestLoadKey(t *testing.T) {
	good := base64.StdEncoding.EncodeToString(key)
	for _, tt := range []struct {
		name, text string
		mode       os.FileMode
		ok         bool
	}{
		{"good", good + "\n", 0o600, true},
		{"no newline", good, 0o600, true},
		{"with a carriage return", good + "\r\n", 0o600, true},
		{"read-only", good, 0o400, true},
		{"readable by group", good, 0o640, false},
		{"readable by others", good, 0o604, false},
		{"writable by others", good, 0o602, false},
		{"empty", "", 0o600, false},
		{"two newlines", good + "\n\n", 0o600, false},
		{"newline within", good[:8] + "\n" + good[8:], 0o600, false},
		{"something follows", good + "\nx", 0o600, false},
		{"space before", " " + good, 0o600, false},
		{"31 bytes", base64.StdEncoding.EncodeToString(key[:31]), 0o600, false},
		{"33 bytes", base64.StdEncoding.EncodeToString(append(bytes.Clone(key), 0)), 0o600, false},
		{"no padding", strings.TrimSuffix(good, "="), 0o600, false},
		{"unused bits", good[:42] + "3=", 0o600, false},
		{"raw bytes", string(key), 0o600, false},
		{"huge", good + strings.Repeat("\n", 1<<20), 0o600, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "kek")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			got, err := seal.LoadKey(path)
			if tt.ok != (err == nil) || tt.ok && !bytes.Equal(got, key) {
				t.Errorf("LoadKey = %d bytes, %v, want ok %v", len(got), err, tt.ok)
			}
			if err != nil && strings.Contains(err.Error(), good[:8]) {
				t.Errorf("LoadKey = %v, which quotes the key", err)
			}
		})
	}
	if _, err := seal.LoadKey(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("LoadKey(none) = %v, want ErrNotExist", err)
	}
	if _, err := seal.LoadKey(t.TempDir()); err == nil {
		t.Error("LoadKey(a folder) succeeds")
	}
}
