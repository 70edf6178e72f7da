package revocation_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/revocation"
	"github.com/hourpass/hourpass/internal/token"
)

var now = time.Unix(1_800_000_000, 0).UTC()

func entry(what revocation.What, value string) revocation.Entry {
	if what != revocation.All {
		value = revocation.Hash(what, value)
	}
	return revocation.Entry{What: what, Value: value, NotBefore: now, Until: now.Add(time.Hour)}
}

// TestRevokes: each entry refuses what it names, issued before, and nothing else.
func TestRevokes(t *testing.T) {
	claims := token.Claims{
		ID: "jti1", ClientID: "key1", Subject: "corp:ada", Grant: "faq wide", IssuedAt: now.Add(-time.Second),
		Actor: &token.Actor{Subject: "key3", Actor: &token.Actor{Subject: "key2"}},
	}
	for _, row := range []struct {
		what  revocation.What
		value string
		want  bool
	}{
		{revocation.Token, "jti1", true},
		{revocation.Token, "jti2", false},
		{revocation.Key, "key1", true},
		{revocation.Key, "key2", true},
		{revocation.Key, "key3", true},
		{revocation.Key, "key4", false},
		{revocation.Key, "jti1", false},
		{revocation.Identity, "corp:ada", true},
		{revocation.Identity, "ada", false},
		{revocation.Grant, "faq", true},
		{revocation.Grant, "wide", true},
		{revocation.Grant, "faq wide", false},
		{revocation.SigningKey, "kid1", true},
		{revocation.SigningKey, "kid2", false},
		{revocation.All, "", true},
	} {
		set := revocation.NewSet(revocation.Document{Entries: []revocation.Entry{entry(row.what, row.value), entry(revocation.Token, "other")}})
		if got := set.Revokes(&claims, "kid1"); got != row.want {
			t.Errorf("%s %q: Revokes = %v, want %v", row.what, row.value, got, row.want)
		}
		later := claims
		later.IssuedAt = now
		if set.Revokes(&later, "kid1") {
			t.Errorf("%s %q refuses what was issued after it", row.what, row.value)
		}
	}
	// Of two entries that name the same, the later counts, in whichever order.
	early := entry(revocation.Key, "key1")
	early.NotBefore = now.Add(-time.Hour)
	for _, both := range [][]revocation.Entry{{early, entry(revocation.Key, "key1")}, {entry(revocation.Key, "key1"), early}} {
		if !revocation.NewSet(revocation.Document{Entries: both}).Revokes(&claims, "kid1") {
			t.Error("the later of two entries does not count")
		}
	}
	if revocation.NewSet(revocation.Document{}).Revokes(&claims, "kid1") {
		t.Error("an empty document refuses something")
	}
}

func good() revocation.Document {
	return revocation.Document{Issuer: "https://issuer", Generation: 7, IssuedAt: now, Entries: []revocation.Entry{entry(revocation.Key, "k"), entry(revocation.All, "")}}
}

func TestDocumentSurvivesTheWay(t *testing.T) {
	for _, d := range []revocation.Document{good(), {Issuer: "https://issuer", IssuedAt: now, Entries: []revocation.Entry{}}} {
		payload, err := d.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := revocation.Parse(payload)
		if err != nil || !reflect.DeepEqual(got, d) {
			t.Errorf("Parse(%s) = %+v, %v, want %+v", payload, got, err, d)
		}
	}
	large := good()
	large.Entries = make([]revocation.Entry, revocation.MaxEntries+1)
	if _, err := large.Encode(); err == nil {
		t.Error("a document has no bound")
	}
}

func TestParseRefuses(t *testing.T) {
	doc := good()
	payload, err := doc.Encode()
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(old, text string) string {
		s := strings.Replace(string(payload), old, text, 1)
		if s == string(payload) {
			t.Fatalf("%q is not in %s", old, payload)
		}
		return s
	}
	for why, bad := range map[string]string{
		"empty":              "",
		"no issuer":          spoil(`"iss":"https://issuer",`, ""),
		"another member":     spoil(`"iss"`, `"more":1,"iss"`),
		"entries null":       spoil(`[{`, `null,"x":[{`),
		"generation below 0": spoil(`"generation":7`, `"generation":-7`),
		"generation a text":  spoil(`"generation":7`, `"generation":"7"`),
		"iat 0":              spoil(`"iat":1800000000`, `"iat":0`),
		"an unknown kind":    spoil(`"key"`, `"keys"`),
		"an entry with more": spoil(`"what"`, `"more":1,"what"`),
		"an entry with less": spoil(`"what":"key",`, ``),
		"all of something":   spoil(`"what":"key"`, `"what":"all"`),
		"a key without name": spoil(`"what":"all"`, `"what":"key"`),
		"a bad time":         spoil(`"until":1800003600`, `"until":1e9`),
	} {
		if d, err := revocation.Parse([]byte(bad)); !errors.Is(err, revocation.ErrDocument) {
			t.Errorf("%s: Parse = %+v, %v, want ErrDocument", why, d, err)
		}
	}
}
