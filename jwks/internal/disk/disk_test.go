package disk_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hourpass/hourpass/jwks/internal/disk"
)

func TestWriteThenRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, data := range []string{"first", "second, longer", ""} {
		if err := disk.Write(path, []byte(data)); err != nil {
			t.Fatal(err)
		}
		got, err := disk.Read(path, 100, 0o077)
		if err != nil || string(got) != data {
			t.Errorf("Read = %q, %v, want %q", got, err, data)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := disk.Write(path, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("%d files are left, %v, want 1", len(names), err)
	}
}

// What can't be written leaves the old file, and nothing beside it.
func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "folder")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := disk.Write(target, []byte("x")); err == nil {
		t.Error("Write over a folder succeeds")
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("%d files are left, want the folder alone", len(names))
	}
	if err := disk.Write(filepath.Join(dir, "none", "file"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Write without a folder = %v, want ErrNotExist", err)
	}
}

func TestReadRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 10), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := disk.Read(path, 10, 0o077); err != nil || len(got) != 10 {
		t.Errorf("Read = %d bytes, %v", len(got), err)
	}
	if _, err := disk.Read(path, 9, 0o077); err == nil {
		t.Error("Read takes a byte more than the limit")
	}
	for _, mode := range []os.FileMode{0o640, 0o620, 0o604, 0o602} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := disk.Read(path, 10, 0o077); err == nil {
			t.Errorf("Read takes mode %04o", mode)
		}
		if _, err := disk.Read(path, 10, 0o022); (err == nil) != (mode&0o022 == 0) {
			t.Errorf("Read(forbidding 0022) of mode %04o = %v", mode, err)
		}
	}
	if _, err := disk.Read(t.TempDir(), 10, 0); err == nil {
		t.Error("Read takes a folder")
	}
	if _, err := disk.Read(os.DevNull, 10, 0); err == nil {
		t.Error("Read takes a device")
	}
	if _, err := disk.Read(path+".none", 10, 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Read(none) = %v, want ErrNotExist", err)
	}
}
