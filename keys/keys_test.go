package keys_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/store/storetest"
	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/keys"
	"github.com/hourpass/hourpass/keys/format"
)

var now = time.Unix(1_800_000_000, 0).UTC()

func pepper() []byte { return bytes.Repeat([]byte("p"), keys.MinPepper) }

// onEach runs the test on each engine.
func onEach(t *testing.T, test func(*testing.T, *keys.Store, storetest.Store)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, in storetest.Store) { test(t, keep(t, in), in) })
}

func keep(t testing.TB, in storetest.Store) *keys.Store {
	t.Helper()
	s, err := keys.New(in.DB, pepper())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func example() policy.Key {
	return policy.Key{
		Owner: "corp:ada", Team: "search", Description: "laptop", Grants: []string{"faq", "extra"},
		Bindings: []policy.Binding{{Issuer: "https://idp", Subject: "ada"}}, IPRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Limits: token.Limits{"tokens/day": 1000}, Params: token.Params{Bounds: map[string]token.Range{"max_tokens": {Max: 10}}},
	}
}

func create(t testing.TB, s *keys.Store, k policy.Key) (policy.Key, string) {
	t.Helper()
	k, secret, err := s.Create(t.Context(), k, 200*24*time.Hour, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k, secret
}

func TestForm(t *testing.T) {
	onEach(t, func(t *testing.T, s *keys.Store, _ storetest.Store) {
		k, secret := create(t, s, example())
		if !regexp.MustCompile(`^hpk_[0-9A-Za-z]{16}_[0-9A-Za-z]{49}$`).MatchString(secret) {
			t.Fatalf("a key looks like %q", secret)
		}
		if id, err := format.ParseID(secret); err != nil || id != k.ID {
			t.Errorf("ParseID = %q, %v, want %q", id, err, k.ID)
		}
		for i := range secret {
			for _, c := range []byte("0Aa_") {
				spoilt := secret[:i] + string(c) + secret[i+1:]
				if spoilt == secret {
					continue
				}
				if _, err := format.ParseID(spoilt); !errors.Is(err, format.ErrFormat) {
					t.Errorf("ParseID with %q at %d: %v, want ErrFormat", c, i, err)
				}
			}
		}
		for why, bad := range map[string]string{
			"empty": "", "prefix only": secret[:21], "one too short": secret[:len(secret)-1], "one too long": secret + "0",
			"space before": " " + secret, "space behind": secret + " ", "other case": strings.ToUpper(secret),
		} {
			if _, err := format.ParseID(bad); !errors.Is(err, format.ErrFormat) {
				t.Errorf("%s: ParseID = %v, want ErrFormat", why, err)
			}
		}
	})
}

func TestKeySurvivesRestart(t *testing.T) {
	onEach(t, func(t *testing.T, s *keys.Store, in storetest.Store) {
		inherits := example()
		inherits.IPRanges = nil
		nowhere := example()
		nowhere.IPRanges = []netip.Prefix{}
		want := map[string]policy.Key{}
		for _, k := range []policy.Key{example(), inherits, nowhere} {
			made, secret := create(t, s, k)
			want[secret] = made
		}
		if err := in.DB.Close(); err != nil {
			t.Fatal(err)
		}
		db, err := store.Open(t.Context(), in.Where)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if s, err = keys.New(db, pepper()); err != nil {
			t.Fatal(err)
		}
		for secret, made := range want {
			got, _, err := s.Authenticate(t.Context(), secret, now)
			if err != nil || !reflect.DeepEqual(got, made) {
				t.Errorf("Authenticate = %+v, %v, want %+v", got, err, made)
			}
		}
	})
}

func TestAuthenticateRefuses(t *testing.T) {
	onEach(t, func(t *testing.T, s *keys.Store, in storetest.Store) {
		_, secret := create(t, s, example())
		refuse := func(why, presented string) {
			t.Helper()
			if k, _, err := s.Authenticate(t.Context(), presented, now); !errors.Is(err, policy.ErrUnknownKey) {
				t.Errorf("%s: Authenticate = %+v, %v, want ErrUnknownKey", why, k, err)
			}
		}
		_, foreign := create(t, keep(t, storetest.SQLite(t)), example())
		refuse("a key of another issuer", foreign)
		refuse("not a key", "hello")

		// Another pepper knows none of the secrets.
		var err error
		if s, err = keys.New(in.DB, bytes.Repeat([]byte("q"), keys.MinPepper)); err != nil {
			t.Fatal(err)
		}
		if k, _, err := s.Authenticate(t.Context(), secret, now); err == nil {
			t.Errorf("under another pepper: %+v", k)
		}
	})
}

func TestNothingSecretIsStored(t *testing.T) {
	in := storetest.SQLite(t)
	_, secret := create(t, keep(t, in), example())
	if err := in.DB.Close(); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(in.Where + "*")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(secret)) || bytes.Contains(b, []byte(secret[21:64])) {
			t.Errorf("%s holds the secret", file)
		}
	}
}

func TestCreateBounds(t *testing.T) {
	onEach(t, func(t *testing.T, s *keys.Store, _ storetest.Store) {
		for _, life := range []time.Duration{0, -1, keys.MaxLife + 1} {
			if _, _, err := s.Create(t.Context(), example(), life, now, nil); err == nil {
				t.Errorf("Create with a life of %v: no error", life)
			}
		}
		if _, err := keys.New(nil, pepper()[1:]); err == nil {
			t.Error("New with a short pepper: no error")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := s.Authenticate(ctx, mustSecret(t, s), now); err == nil || errors.Is(err, policy.ErrUnknownKey) {
			t.Errorf("Authenticate while the store fails: %v, want neither nil nor ErrUnknownKey", err)
		}
	})
}

func mustSecret(t *testing.T, s *keys.Store) string {
	_, secret := create(t, s, example())
	return secret
}

func BenchmarkAuthenticate(b *testing.B) {
	for engine, make := range map[string]func(testing.TB) storetest.Store{"sqlite": storetest.SQLite, "postgres": storetest.Postgres} {
		b.Run(engine, func(b *testing.B) {
			s := keep(b, make(b))
			_, secret, err := s.Create(b.Context(), example(), time.Hour, now, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := s.Authenticate(b.Context(), secret, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
