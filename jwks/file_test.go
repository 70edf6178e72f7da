package jwks_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/jwks"
)

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jwks.json")
	bring := func(names ...string) {
		t.Helper()
		var list []map[string]any
		for _, name := range names {
			list = append(list, parties()[name].jwk(t))
		}
		doc, err := json.Marshal(map[string]any{"keys": list})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, doc, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := jwks.OpenFile(path, slog.New(slog.DiscardHandler)); err == nil {
		t.Fatal("a missing file is opened")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := jwks.OpenFile(path, slog.New(slog.DiscardHandler)); err == nil {
		t.Fatal("an empty file is opened")
	}
	bring("ec")
	f, err := jwks.OpenFile(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	profile := jwks.Profile{Types: []string{"at+jwt"}, Algorithms: []string{jwks.ES256}}
	first, second := parties()["ec"].good(t), parties()["ec2"].good(t)
	check := func(what string, generation uint64, errFirst, errSecond error) {
		t.Helper()
		if g, err := f.Generation(time.Time{}); g != generation || err != nil {
			t.Errorf("%s: Generation = %d, %v, want %d", what, g, err, generation)
		}
		for compact, want := range map[string]error{first: errFirst, second: errSecond} {
			if _, _, err := f.VerifyAs(profile, compact, time.Time{}); !errors.Is(err, want) {
				t.Errorf("%s: Verify = %v, want %v", what, err, want)
			}
		}
	}
	check("one key", 1, nil, token.ErrUnknownKey)
	f.Look()
	check("no change", 1, nil, token.ErrUnknownKey)
	bring("ec", "ec2")
	f.Look()
	check("two keys", 2, nil, nil)
	if err := os.WriteFile(path, []byte(`{"keys":[]}{`), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Look()
	check("a bad file", 2, nil, nil)
	if s := f.Status(time.Time{}); s.LastError == "" || !s.Ready || s.Keys != 2 {
		t.Errorf("Status = %+v", s)
	}
	bring("ec2")
	f.Look()
	check("a key less", 3, token.ErrUnknownKey, nil)
	if s := f.Status(time.Time{}); s.LastError != "" || s.Keys != 1 {
		t.Errorf("Status = %+v", s)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	f.Look()
	if s := f.Status(time.Time{}); s.LastError == "" {
		t.Error("a file that anybody can write is read")
	}
}
