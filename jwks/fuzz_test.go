package jwks_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/strictjson"
	"github.com/hourpass/hourpass/jwks"
)

// The seeds in testdata are signed by the keys of this document.
func seedDocument(t testing.TB) []byte {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("testdata", "seed-keys.json"))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// What is accepted can be said again without loss, in one way alone: no second
// text carries the same signature.
func FuzzVerify(f *testing.F) {
	doc := seedDocument(f)
	set, err := jwks.Parse(doc)
	if err != nil {
		f.Fatal(err)
	}
	loose := jwks.Profile{Types: []string{"", "JWT", "at+jwt"}, Algorithms: ours.Algorithms}
	f.Fuzz(func(t *testing.T, raw string) {
		payload, err := set.Verify(loose, raw)
		if err != nil {
			_ = reason(t, err) // One of the closed list.
			if strings.ContainsAny(err.Error(), "\n\r\x00") || len(err.Error()) > 250 {
				t.Errorf("Verify(%q) = %q, not fit for a log line", raw, err)
			}
			if _, err := set.Verify(ours, raw); err == nil {
				t.Errorf("Verify(%q): the exact profile accepts what the loose one refuses", raw)
			}
			return
		}
		parts := strings.Split(raw, ".")
		if len(parts) != 3 || b64(payload) != parts[1] {
			t.Fatalf("Verify(%q) = %q, which is not its payload", raw, payload)
		}
		for _, part := range parts {
			b, err := decodeB64(part)
			if err != nil || b64(b) != part {
				t.Errorf("Verify accepts %q, whose part %q can be written in another way", raw, part)
			}
		}
		header, _ := decodeB64(parts[0])
		members, err := strictjson.Object(header, strictjson.Limits{})
		if err != nil {
			t.Errorf("Verify accepts the header %q: %v", header, err)
		}
		for _, m := range members {
			if m.Name == "crit" || m.Name == "jwk" {
				t.Errorf("Verify accepts the header %q", header)
			}
		}
	})
}

// What is accepted of a document has a key, and the same document with a private
// member beside the first kty would not have been.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, doc []byte) {
		set, err := jwks.Parse(doc)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Errorf("Parse(%q) = %q, not fit for a log line", doc, err)
			}
			return
		}
		if set.Len() < 1 || set.Len()+len(set.Skipped()) > jwks.MaxKeys {
			t.Errorf("Parse(%q): %d keys, %d skipped", doc, set.Len(), len(set.Skipped()))
		}
		again, err := jwks.Parse(doc)
		if err != nil || !again.Equal(set) {
			t.Errorf("Parse(%q) twice: %v", doc, err)
		}
		if spoiled := strings.Replace(string(doc), `"kty"`, `"d":"AA","kty"`, 1); spoiled != string(doc) && strings.Count(string(doc), `"kty"`) == set.Len() {
			if _, err := jwks.Parse([]byte(spoiled)); err == nil {
				t.Errorf("Parse(%q) takes a private key", spoiled)
			}
		}
	})
}

// A fuzz target without seeds tests nothing in a plain go test.
func TestFuzzTargetsHaveSeeds(t *testing.T) {
	for _, name := range []string{"FuzzVerify", "FuzzParse"} {
		if seeds, _ := os.ReadDir(filepath.Join("testdata", "fuzz", name)); len(seeds) < 5 {
			t.Errorf("%d seeds for %s, want at least 5", len(seeds), name)
		}
	}
	set := parse(t, seedDocument(t))
	good, err := os.ReadFile(filepath.Join("testdata", "fuzz", "FuzzVerify", "good-es256"))
	if err != nil {
		t.Fatal(err)
	}
	raw := strings.Split(string(good), `"`)[1]
	if _, err := set.Verify(ours, raw); err != nil {
		t.Errorf("Verify(the good seed) = %v", err)
	}
}
