package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
)

// run runs a command line without an environment, and so without a home.
func run(stdin []byte, args ...string) (string, error) {
	cmd := command(func(string) string { return "" })
	var out bytes.Buffer
	cmd.SetIn(bytes.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

type edKey struct{ ed25519.PrivateKey }

var b64 = base64.RawURLEncoding

func (k edKey) Sign(payload []byte, typ string) (string, error) {
	signed := b64.EncodeToString([]byte(`{"alg":"EdDSA","kid":"k","typ":"`+typ+`"}`)) + "." + b64.EncodeToString(payload)
	return signed + "." + b64.EncodeToString(ed25519.Sign(k.PrivateKey, []byte(signed))), nil
}

func (k edKey) jwk(more string) string {
	return `{"crv":"Ed25519",` + more + `"kty":"OKP","x":"` + b64.EncodeToString(k.Public().(ed25519.PublicKey)) + `"}`
}

func (k edKey) document() []byte { return []byte(`{"keys":[` + k.jwk(`"kid":"k",`) + `]}`) }

func (k edKey) thumbprint() string {
	digest := sha256.Sum256([]byte(k.jwk("")))
	return b64.EncodeToString(digest[:])
}

func newEdKey(t *testing.T) edKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return edKey{k}
}

// TestAuditVerify: what people see of a log that is rotated once, and what a
// script sees.
func TestAuditVerify(t *testing.T) {
	dir := t.TempDir()
	k, other := newEdKey(t), newEdKey(t)
	newer, older := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "audit.jsonl.1")
	config := audit.Config{Path: newer, Program: "hourpass-issuer", Now: time.Now, Signer: k, Keys: k.document}
	log, err := audit.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	appendOne := func() {
		t.Helper()
		if err := log.Append(t.Context(), audit.Record{Time: time.Now(), Event: "exchange", Outcome: audit.Allow}); err != nil {
			t.Fatal(err)
		}
	}
	appendOne()
	if err := os.Rename(newer, older); err != nil {
		t.Fatal(err)
	}
	if err := log.Reopen(); err != nil {
		t.Fatal(err)
	}
	appendOne()
	appendOne()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	keySet, otherSet := filepath.Join(dir, "keys.json"), filepath.Join(dir, "others.json")
	write := func(path string, b []byte) string {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	read := func(path string) []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write(keySet, k.document())
	write(otherSet, other.document())
	whole := append(read(older), read(newer)...)
	spoiled := write(filepath.Join(dir, "spoiled"), bytes.Replace(read(older), []byte("exchange"), []byte("exchangE"), 1))
	rows := bytes.SplitAfter(read(older), []byte("\n"))
	unsigned := write(filepath.Join(dir, "unsigned"), rows[0])
	torn := write(filepath.Join(dir, "torn"), whole[:len(whole)-20])
	end := k.end(t, newer)

	for _, row := range []struct {
		name  string
		stdin []byte
		args  []string
		good  bool
		says  []string
	}{
		{"both files", nil, []string{older, newer}, true, []string{"good         3 records, lines 1 to 9\n", `written by ["hourpass-issuer"]`, "4 good, 0 bad; they vouch for the lines up to 8", k.thumbprint() + " (EdDSA, 4 checkpoints; not compared with anything: say --trust or --jwks)", "end          9:"}},
		{"the newer alone", nil, []string{newer}, true, []string{"2 records, lines 5 to 9", "it begins before line 5, in a file that was not given"}},
		{"standard input", whole, []string{"-"}, true, []string{"3 records"}},
		{"a trusted key", nil, []string{older, newer, "--trust", k.thumbprint()}, true, []string{"4 checkpoints; trusted"}},
		{"a key set of several", nil, []string{older, newer, "--jwks", keySet, "--jwks", otherSet}, true, []string{"4 checkpoints; trusted"}},
		{"the end of an earlier check", nil, []string{older, newer, "--expect", end}, true, nil},
		{"without a signature", nil, []string{unsigned}, true, []string{"checkpoints  none: the lines are chained, but nothing is signed"}},
		{"a last line in the making", nil, []string{torn}, true, []string{"unfinished   the last line, of ", "which no signature vouches for yet"}},

		{"a changed line", nil, []string{spoiled}, false, []string{"NOT GOOD     " + spoiled + ", row 4: line 3 was changed", "(changed)", "2 good, 0 bad; they vouch for the lines up to 1"}},
		{"another key", nil, []string{older, newer, "--trust", other.thumbprint()}, false, []string{"(untrusted)", "NOT TRUSTED"}},
		{"much that is wrong", nil, []string{spoiled, "--trust", other.thumbprint()}, false, []string{"and 3 problems after it"}},
		{"another key set", nil, []string{older, newer, "--jwks", otherSet}, false, []string{"(untrusted)"}},
		{"no signature, but a key", nil, []string{unsigned, "--trust", k.thumbprint()}, false, []string{"no checkpoint is signed by a trusted key (untrusted)"}},
		{"the end is cut off", nil, []string{older, "--expect", end}, false, []string{"the log ends with line 4, but line 9 was there once (truncated)"}},
		{"the wrong order", nil, []string{newer, older}, false, []string{older + ", row 1: a new log begins here"}},
		{"nothing", nil, []string{"-"}, false, []string{"NOT GOOD     standard input: there is no line of a log"}},
	} {
		out, err := run(row.stdin, append([]string{"audit", "verify"}, row.args...)...)
		if row.good && err != nil || !row.good && !errors.Is(err, errNotGood) {
			t.Errorf("%s: %v\n%s", row.name, err, out)
		}
		for _, want := range row.says {
			if !strings.Contains(out, want) {
				t.Errorf("%s does not say %q:\n%s", row.name, want, out)
			}
		}
	}
	for name, args := range map[string][]string{
		"no file": nil, "a file that is not there": {filepath.Join(dir, "none")}, "a key set that is not there": {newer, "--jwks", filepath.Join(dir, "none")},
		"a key set that is none": {newer, "--jwks", newer}, "an end that is none": {newer, "--expect", "5"},
	} {
		if out, err := run(nil, append([]string{"audit", "verify"}, args...)...); err == nil || errors.Is(err, errNotGood) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// end asks as a script does for where a log ends.
func (k edKey) end(t *testing.T, path string) string {
	t.Helper()
	out, err := run(nil, "audit", "verify", "--json", path)
	if err != nil {
		t.Fatal(err)
	}
	var r audit.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if r.Problem != nil || r.Records != 2 || r.Signatures[0].Thumbprint != k.thumbprint() {
		t.Errorf("report %s", out)
	}
	return r.Last.String()
}
