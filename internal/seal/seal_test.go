package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/seal"
)

var key = []byte("0123456789abcdefghijklmnopqrstuv")

func newSealer(t testing.TB, key []byte) *seal.Sealer {
	t.Helper()
	s, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSealOpens(t *testing.T) {
	s := newSealer(t, key)
	again := newSealer(t, bytes.Clone(key)) // After a restart.
	rapid.Check(t, func(rt *rapid.T) {
		purpose := rapid.StringN(1, 30, seal.MaxPurpose).Draw(rt, "purpose")
		plain := rapid.SliceOf(rapid.Byte()).Draw(rt, "plain")
		sealed, err := s.Seal(purpose, plain)
		if err != nil {
			rt.Fatal(err)
		}
		if len(plain) > 7 && bytes.Contains(sealed, plain) {
			rt.Errorf("Seal(%q) shows it", plain)
		}
		got, err := again.Open(purpose, sealed)
		if err != nil || !bytes.Equal(got, plain) {
			rt.Errorf("Open(Seal(%q)) = %q, %v", plain, got, err)
		}
	})
	a, _ := s.Seal("p", []byte("same"))
	b, _ := s.Seal("p", []byte("same"))
	if bytes.Equal(a, b) {
		t.Error("Seal(same) twice gives the same bytes")
	}
}

func TestOpenRefuses(t *testing.T) {
	s := newSealer(t, key)
	const secret = "correct horse battery staple"
	good, err := s.Seal("session", []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(key)
	other[31] ^= 1
	for _, tt := range []struct {
		name    string
		s       *seal.Sealer
		purpose string
		sealed  []byte
	}{
		{"another purpose", s, "sessions", good},
		{"no purpose", s, "", good},
		{"another key", newSealer(t, other), "session", good},
		{"nothing", s, "session", nil},
		{"the version alone", s, "session", good[:1]},
		{"cut", s, "session", good[:len(good)-1]},
		{"shorter than nonce and tag", s, "session", good[:28]},
		{"one byte more", s, "session", append(bytes.Clone(good), 0)},
		{"too long", s, "session", append(bytes.Clone(good), make([]byte, seal.MaxPlain)...)},
	} {
		if plain, err := tt.s.Open(tt.purpose, tt.sealed); err != seal.ErrOpen { //nolint:errorlint // It is documented to be just that.
			t.Errorf("Open(%s) = %q, %v, want ErrOpen", tt.name, plain, err)
		}
	}
	for bit := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		if plain, err := s.Open("session", bad); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("Open(bit %d flipped) = %q, %v, want ErrOpen", bit, plain, err)
		}
	}
	if plain, err := s.Open("session", good); err != nil || string(plain) != secret {
		t.Errorf("Open(good) = %q, %v", plain, err)
	}
}

func TestSealRefuses(t *testing.T) {
	s := newSealer(t, key)
	for name, call := range map[string]func() error{
		"no purpose":   func() error { _, err := s.Seal("", []byte("x")); return err },
		"long purpose": func() error { _, err := s.Seal(strings.Repeat("p", 129), []byte("x")); return err },
		"large secret": func() error { _, err := s.Seal("p", make([]byte, seal.MaxPlain+1)); return err },
		"short key":    func() error { _, err := seal.New(key[:31]); return err },
		"long key":     func() error { _, err := seal.New(append(bytes.Clone(key), 0)); return err },
		"no key":       func() error { _, err := seal.New(nil); return err },
	} {
		if err := call(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := s.Seal("p", make([]byte, seal.MaxPlain)); err != nil {
		t.Errorf("Seal(MaxPlain bytes) = %v", err)
	}
}

// A MAC is of one key, one purpose and one message, and survives a restart.
func TestMAC(t *testing.T) {
	other := bytes.Clone(key)
	other[0] ^= 1
	want := newSealer(t, key).MAC("session", []byte("token"))
	if got := newSealer(t, key).MAC("session", []byte("token")); !bytes.Equal(got, want) || len(got) != 32 {
		t.Errorf("MAC = %x, want %x again", got, want)
	}
	for name, got := range map[string][]byte{
		"another message": newSealer(t, key).MAC("session", []byte("tokem")),
		"another purpose": newSealer(t, key).MAC("sessions", []byte("token")),
		"another key":     newSealer(t, other).MAC("session", []byte("token")),
	} {
		if bytes.Equal(got, want) {
			t.Errorf("MAC(%s) is the same", name)
		}
	}
}

// The caller may clear the key that it gave.
func TestNewCopiesTheKey(t *testing.T) {
	mine := bytes.Clone(key)
	s := newSealer(t, mine)
	sealed, err := s.Seal("p", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	clear(mine)
	if _, err := s.Open("p", sealed); err != nil {
		t.Errorf("Open after the key was cleared = %v", err)
	}
}

func TestSealerShowsNoKey(t *testing.T) {
	holder := struct {
		S *seal.Sealer
		V seal.Sealer
	}{newSealer(t, key), *newSealer(t, key)}
	var shown strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
		_, _ = fmt.Fprintf(&shown, verb+"\n"+verb+"\n"+verb+"\n", holder, holder.S, holder.V)
	}
	slog.New(slog.NewTextHandler(&shown, nil)).Info("x", "sealer", holder.S, "holder", holder)
	doc, _ := json.Marshal(holder)
	shown.Write(doc)
	for _, form := range []string{string(key), strings.Trim(fmt.Sprint([]any{key}), "[]")[:20], fmt.Sprintf("%x", key)[:20], fmt.Sprintf("%#v", key)[12:30]} {
		if strings.Contains(shown.String(), form) {
			t.Errorf("printing shows the key as %q:\n%s", form, shown.String())
		}
	}
}
