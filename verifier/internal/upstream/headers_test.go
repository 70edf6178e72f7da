package upstream_test

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

// FuzzHeaders: whatever claims say, a server reads the headers of the
// configuration, each once, and in them what the claims say.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{
		"corp:ann", "a\r\nX-Admin: 1", "a, b", `"a"; q=1`, "a%41", "é\xff\x00\x7f", " a ", "\t", "a=b&c+d", "{sub}", "auth0|1", "(comment)", `\`, "=?utf-8?q?a?=",
	} {
		f.Add(s, "team")
		f.Add("x", s)
	}
	f.Add("", "team")
	f.Add("sub", "")
	got := make(chan http.Header, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header }))
	f.Cleanup(srv.Close)
	s := newServer(f, upstream.Config{URL: srv.URL, Headers: map[string]string{"x-subject": "{sub}", "X-Both": "team={team}; sub={sub}", "X-Fixed": "a b"}})
	f.Fuzz(func(t *testing.T, sub, team string) {
		r := post(t.Context(), "{}")
		r.Header["X-Subject"] = []string{"admin", "root"}
		if err := s.Decorate(r.Header, upstream.Claims{Subject: sub, Team: team}); err != nil {
			t.Fatal(err)
		}
		res, err := s.RoundTrip(r)
		if err != nil {
			t.Fatalf("sending %q: %v", r.Header, err)
		}
		res.Body.Close()
		h := <-got
		for name, values := range h {
			if name[0] == 'X' && name != "X-Subject" && name != "X-Both" && name != "X-Fixed" || len(values) != 1 {
				t.Errorf("(%q, %q) came as %s: %q", sub, team, name, values)
			}
		}
		want := func(name, claim, value string) {
			plain := strings.Trim(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/@%")
			path, err := url.PathUnescape(value)
			form, err2 := url.QueryUnescape(value)
			if plain != "" || err != nil || err2 != nil || path != claim || form != claim {
				t.Errorf("%s: %q came as %q: %q and %q when decoded", name, claim, value, path, form)
			}
		}
		if (h["X-Subject"] == nil) != (sub == "") || (h["X-Both"] == nil) != (sub == "" || team == "") {
			t.Fatalf("(%q, %q): got %q", sub, team, h)
		}
		if sub != "" {
			want("X-Subject", sub, h.Get("X-Subject"))
		}
		if sub != "" && team != "" {
			both := strings.Split(h.Get("X-Both"), "; ")
			if len(both) != 2 || !strings.HasPrefix(both[0], "team=") || !strings.HasPrefix(both[1], "sub=") {
				t.Fatalf("X-Both is %q", h.Get("X-Both"))
			}
			want("X-Both", team, both[0][5:])
			want("X-Both", sub, both[1][4:])
		}
		if h.Get("X-Fixed") != "a b" {
			t.Errorf("X-Fixed is %q", h.Get("X-Fixed"))
		}
	})
}

// TestEveryByte of claims, in many places.
func TestEveryByte(t *testing.T) {
	s := newServer(t, upstream.Config{URL: "http://u", Headers: map[string]string{"X-S": "{sub}"}})
	seen := map[string]string{}
	for i := range 20_000 {
		b := make([]byte, 1+i%5)
		for j := range b {
			b[j] = byte(rand.Uint32())
		}
		if i < 256 {
			b = []byte{byte(i)}
		}
		h := http.Header{}
		if err := s.Decorate(h, upstream.Claims{Subject: string(b)}); err != nil {
			t.Fatal(err)
		}
		value := h.Get("X-S")
		if back, err := url.QueryUnescape(value); err != nil || back != string(b) || strings.ContainsAny(value, " \t\r\n,;\"'\\<>(){}[]=+&?#|^`") {
			t.Fatalf("%q became %q", b, value)
		}
		if other, ok := seen[value]; ok && other != string(b) {
			t.Fatalf("%q and %q are both %q", other, b, value)
		}
		seen[value] = string(b)
	}
}

func TestPlaceholders(t *testing.T) {
	c := upstream.Claims{Subject: "s", ClientID: "c", Team: "t", Tier: "i", Grant: "g", Token: "j", Decision: "d", Model: "m", Action: "a"}
	s := newServer(t, upstream.Config{URL: "http://u", Headers: map[string]string{"X-All": "{sub}{client_id} {team}-{tier}/{grant}.{jti}{decision}"}})
	h := http.Header{}
	if err := s.Decorate(h, c); err != nil || h.Get("X-All") != "sc t-i/g.jd" || len(h) != 1 {
		t.Errorf("Decorate: %v, %v", h, err)
	}
}

// TestCredentialByFamily: what servers want, and what an operator says.
func TestCredential(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credential")
	if err := os.WriteFile(file, []byte("sk\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		c            upstream.Config
		header, want string
	}{
		"alone":                {upstream.Config{Credential: "sk"}, "Authorization", "Bearer sk"},
		"a whole value":        {upstream.Config{Credential: "Basic sk"}, "Authorization", "Basic sk"},
		"another header":       {upstream.Config{Credential: "sk", Header: "x-api-key"}, "X-Api-Key", "sk"},
		"a template":           {upstream.Config{Credential: "sk", Template: "Key {credential}!"}, "Authorization", "Key sk!"},
		"both":                 {upstream.Config{Credential: "sk", Header: "X-Key", Template: "k={credential}"}, "X-Key", "k=sk"},
		"a file":               {upstream.Config{CredentialFile: file}, "Authorization", "Bearer sk"},
		"one with a template":  {upstream.Config{Credential: "{credential}", Template: "a {credential}"}, "Authorization", "a {credential}"},
		"none":                 {upstream.Config{}, "Authorization", ""},
		"none, by another way": {upstream.Config{Header: "X-Key"}, "X-Key", ""},
	} {
		got := make(chan http.Header, 1)
		row.c.URL = "http://u"
		row.c.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			got <- r.Header
			return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r}, nil
		})
		if _, _, err := send(t, newServer(t, row.c)); err != nil {
			t.Fatal(err)
		}
		if h := <-got; h.Get(row.header) != row.want {
			t.Errorf("%s: %s: %q, want %q", name, row.header, h.Get(row.header), row.want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestCredentialFileChanges: the next one is used within a second, a bad one never.
func TestCredentialFileChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credential")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sk-one")
	var k clock
	var l logs
	var got string
	s := newServer(t, upstream.Config{
		URL: "http://u", CredentialFile: file, Now: k.now, Log: l.logger(),
		Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			got = r.Header.Get("Authorization")
			return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r}, nil
		}),
	})
	want := func(credential string) {
		t.Helper()
		if _, _, err := send(t, s); err != nil || got != "Bearer "+credential {
			t.Errorf("sent %q, %v, want %q", got, err, credential)
		}
	}
	want("sk-one")
	write("sk-two\r\n")
	k.pass(time.Second - 1)
	want("sk-one") // It is not read for every call.
	k.pass(1)
	want("sk-two")
	for _, bad := range []string{"", "\n", "sk\nX-Admin: 1", "sk\x00", "sk-é", " sk", "sk ", strings.Repeat("s", 8<<10+1)} {
		write(bad)
		k.pass(time.Second)
		want("sk-two")
		k.pass(time.Second)
		want("sk-two")
	}
	if n := l.count("the last one stays"); n != 2 {
		t.Errorf("bad files are logged %d times, want once for each of two problems in a row", n)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	k.pass(time.Second)
	want("sk-two")
	write("sk-six")
	k.pass(-time.Hour) // Somebody sets the clock.
	want("sk-six")
	if l.count("sk-") != 0 || l.count("has changed") != 2 {
		t.Errorf("the log has\n%s", l.b.String())
	}
	if _, err := upstream.NewSet([]upstream.Config{{Name: "u", URL: "http://u", Models: []string{"*"}, CredentialFile: t.TempDir()}}); err == nil {
		t.Error("a directory is a credential")
	}
}
