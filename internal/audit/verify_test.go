package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/hourpass/hourpass/internal/audit"
)

func TestGoodLog(t *testing.T) {
	for _, alg := range []string{"ES256", "EdDSA", "RS256"} {
		s := newSigner(t, alg)
		b := write(t, s.with(audit.Config{CheckpointRecords: 2}), "a", "b", "c")
		for name, o := range map[string]audit.Options{"not pinned": {}, "pinned": {Trust: []string{"another", s.thumbprint()}}} {
			r := good(t, o, b)
			if r.Records != 3 || r.Files != 1 || r.First != 1 || r.Last.Line != 7 || r.Checkpoints != 3 || r.Bad != 0 || r.Covered != 6 || r.Uncovered != 0 || r.Problems != 0 {
				t.Errorf("%s, %s: report %+v", alg, name, r)
			}
			if len(r.Signatures) != 1 || r.Signatures[0] != (audit.Signature{Thumbprint: s.thumbprint(), Algorithm: alg, Checkpoints: 3, Trusted: r.Pinned}) {
				t.Errorf("%s, %s: signatures %+v", alg, name, r.Signatures)
			}
		}
		trust, err := audit.Thumbprints(s.document())
		if err != nil || !slices.Equal(trust, []string{s.thumbprint()}) {
			t.Errorf("%s: Thumbprints = %v, %v, want %s", alg, trust, err, s.thumbprint())
		}
	}
}

// TestSpoiled starts from a good log, unsigned but for where it says so, and
// spoils one thing a row.
func TestSpoiled(t *testing.T) {
	s := newSigner(t, "EdDSA")
	plain := write(t, audit.Config{}, "a", "b", "c", "d", "e") // Records are rows 2 to 6.
	signed := write(t, s.with(audit.Config{}), "a", "b", "c")  // Rows 3 to 5, checkpoints 2 and 6.
	other := newSigner(t, "EdDSA")
	forged := write(t, other.with(audit.Config{}), "a")
	join := func(l ...[]byte) []byte { return slices.Concat(l...) }
	p, g := lines(plain), lines(signed)
	for _, row := range []struct {
		name string
		log  []byte
		o    audit.Options
		kind string
		row  int
		text string
	}{
		{"a line is changed", bytes.Replace(plain, []byte(`"b"`), []byte(`"x"`), 1), audit.Options{}, audit.Changed, 4, "line 3 was changed"},
		{"a line is cut short", bytes.Replace(plain, []byte(`"b","event":"call",`), []byte(`"b","event":"",`), 1), audit.Options{}, audit.Changed, 4, "line 3 was changed"},
		{"a line is no JSON", bytes.Replace(plain, []byte(`"b"`), []byte(`b`), 1), audit.Options{}, audit.Changed, 3, "not a whole line"},
		{"a member stands twice", bytes.Replace(plain, []byte(`"b"`), []byte(`"b","event":"call"`), 1), audit.Options{}, audit.Changed, 3, "not a whole line"},
		{"white space is added", bytes.Replace(plain, []byte(`{"seq":3,`), []byte(`{"seq": 3,`), 1), audit.Options{}, audit.Changed, 3, "not a whole line"},
		{"a line ends as in DOS", join(p[0], p[1], []byte(strings.TrimSuffix(string(p[2]), "\n")+"\r\n"), p[3], p[4], p[5]), audit.Options{}, audit.Changed, 3, "not a whole line"},
		{"an empty line", join(p[0], p[1], []byte("\n"), p[2]), audit.Options{}, audit.Changed, 3, "not a whole line"},
		{"an endless line", join(p[0], bytes.Repeat([]byte("x"), 3*audit.MaxLine), []byte("\n"), p[1]), audit.Options{}, audit.Changed, 2, "longer than"},
		{"a line is removed", join(p[0], p[1], p[3], p[4], p[5]), audit.Options{}, audit.Removed, 3, "lines 3 to 3 are missing"},
		{"lines are removed", join(p[0], p[1], p[5]), audit.Options{}, audit.Removed, 3, "lines 3 to 5 are missing"},
		{"the first line is removed", join(p[1:]...), audit.Options{}, audit.Removed, 1, "its beginning is missing"},
		{"a line is repeated", join(p[0], p[1], p[1], p[2]), audit.Options{}, audit.Inserted, 3, "number 2 was there already"},
		{"a line is put in", join(p[0], p[1], next(t, join(p[0], p[1])), p[2]), audit.Options{}, audit.Inserted, 4, "number 3 was there already"},
		{"lines change places", join(p[0], p[1], p[3], p[2], p[4]), audit.Options{}, audit.Reordered, 3, "line 3 stands further down"},
		{"the rest is written anew", join(p[0], p[1], next(t, join(p[0], p[1])), next(t, join(p[0], p[1], next(t, join(p[0], p[1]))))), audit.Options{Expect: position(t, plain, 6)}, audit.Truncated, 4, "line 6 was there once"},
		{"a line is another than expected", join(p[0], p[1], next(t, join(p[0], p[1]))), audit.Options{Expect: position(t, plain, 3)}, audit.Changed, 3, "another one than was there once"},
		{"the end is cut off", join(p[:4]...), audit.Options{Expect: position(t, plain, 6)}, audit.Truncated, 4, "line 6 was there once"},
		{"a log of another version", bytes.Replace(p[0], []byte(`"version":1`), []byte(`"version":2`), 1), audit.Options{}, audit.NoLog, 1, "another version"},
		{"an unknown event of the log", join(p[0], bytes.Replace(g[1], []byte("log.checkpoint"), []byte("log.x"), 1)), audit.Options{}, audit.Changed, 2, "was changed"},
		{"an unknown event of the log, chained", join(g[0], bytes.Replace(g[1], []byte("log.checkpoint"), []byte("log.x"), 1)), audit.Options{}, audit.Changed, 2, "none of this version"},
		{"a record passes for the log's own", join(p[0], bytes.Replace(p[1], []byte(`"call"`), []byte(`"log.x"`), 1)), audit.Options{}, audit.Changed, 2, "not a whole line"},
		{"nothing", nil, audit.Options{}, audit.NoLog, 0, "no line of a log"},
		{"something else", []byte("hello\n"), audit.Options{}, audit.Changed, 1, "not a whole line"},
		{"something behind the last line", join(plain, []byte("x")), audit.Options{}, audit.Changed, 7, "neither"},
		{"a last newline is another byte", join(plain[:len(plain)-1], []byte(" ")), audit.Options{}, audit.Changed, 6, "neither"},
		{"a new log behind the old one", join(plain, signed), audit.Options{}, audit.Apart, 7, "a new log begins here"},
		{"a torn line that nothing vouches for", join(p[0], p[1], p[2][:50], []byte("\n"), p[2]), audit.Options{}, audit.Unfinished, 3, "no log.torn follows"},
		{"a torn line at the end, closed", join(p[0], p[1], p[2][:50], []byte("\n")), audit.Options{}, audit.Unfinished, 3, "no log.torn follows"},
		{"a torn line of another place", join(p[0], p[1], p[1][:90], []byte("\n")), audit.Options{}, audit.Changed, 3, "not a whole line"},

		{"a signed line is changed, and the rest chained anew", rechain(t, bytes.Replace(signed, []byte(`"b"`), []byte(`"x"`), 1)), audit.Options{}, audit.Forged, 6, "over something else"},
		{"a checkpoint has another time", bytes.Replace(signed, g[5], bytes.Replace(g[5], []byte("12:00:00"), []byte("13:00:00"), 1), 1), audit.Options{}, audit.Forged, 6, "over something else"},
		{"a checkpoint has another member", bytes.Replace(signed, g[5], bytes.Replace(g[5], []byte(`,"key"`), []byte(`,"x":1,"key"`), 1), 1), audit.Options{}, audit.Forged, 6, "not written as"},
		{"a checkpoint has another key", bytes.Replace(signed, g[5], bytes.Replace(g[5], key(g[5]), key(lines(forged)[1]), 1), 1), audit.Options{}, audit.Forged, 6, "does not fit its key"},
		{"a checkpoint of another log", join(lines(forged)[0], g[1]), audit.Options{}, audit.Changed, 2, "was changed"},
		{"nobody who is trusted signed", signed, audit.Options{Trust: []string{other.thumbprint()}}, audit.Untrusted, 2, "which is not trusted"},
		{"nobody signed", plain, audit.Options{Trust: []string{s.thumbprint()}}, audit.Untrusted, 0, "no checkpoint is signed"},
		{"the first line is not the first", bytes.Replace(p[0], []byte(`"prev":"0`), []byte(`"prev":"1`), 1), audit.Options{}, audit.Changed, 1, "one came before it"},
		{"a torn line is vouched for too late", tooLate(t, p), audit.Options{}, audit.Unfinished, 3, "no log.torn follows"},
		{"a line vouches for nothing torn", join(p[0], p[1], bytes.SplitAfter(mended(t, p), []byte("\n"))[3]), audit.Options{}, audit.Changed, 3, "something else"},
		{"a line vouches for no byte", join(p[0], p[1], vouchForNothing(t, p)), audit.Options{}, audit.Changed, 3, "something else"},
		{"a torn line is another", join(p[0], p[1], p[2][:110], []byte("xxxxxxxxxx"), mended(t, p)[len(p[0])+len(p[1])+120:]), audit.Options{}, audit.Changed, 4, "something else"},
		{"a newline is missing from another line", join(p[0], p[1][:len(p[1])-1]), audit.Options{Expect: position(t, plain, 2)}, audit.Truncated, 2, "line 2 was there once"},
		{"a last line of another place", join(p[0], p[1], p[3][:len(p[3])-1]), audit.Options{}, audit.Changed, 3, "neither"},
		{"the log begins too late", join(g[2:]...), audit.Options{Expect: position(t, signed, 1)}, audit.Removed, 1, "its beginning is missing"},
	} {
		r := verify(t, row.o, row.log)
		if r.Problem == nil {
			t.Errorf("%s: no problem", row.name)
			continue
		}
		if r.Problem.Kind != row.kind || r.Problem.Row != row.row || !strings.Contains(r.Problem.Text, row.text) || r.Problems < 1 {
			t.Errorf("%s: problem %+v, want %s in row %d, %q", row.name, *r.Problem, row.kind, row.row, row.text)
		}
	}
	if r := verify(t, audit.Options{}, join(p[0], p[1], p[5])); len(r.Gaps) != 1 || r.Gaps[0] != (audit.Gap{First: 3, Last: 5}) {
		t.Errorf("gaps %v", r.Gaps)
	}
	if r := verify(t, audit.Options{}, bytes.Replace(signed, []byte(`"b"`), []byte(`"x"`), 1)); r.Covered != 1 || r.Uncovered != 3 {
		t.Errorf("a checkpoint behind a change vouches for it: %+v", r)
	}
}

// mended is a log with a torn line, gone on with: rows 1 and 2 are whole, row 3 is
// torn, row 4 vouches for it.
func mended(t *testing.T, p [][]byte) []byte {
	t.Helper()
	cut := slices.Concat(p[0], p[1], p[2][:120])
	return append(cut, next(t, cut)...)
}

// vouchForNothing makes the line of a crash that cut off nothing.
func vouchForNothing(t *testing.T, p [][]byte) []byte {
	t.Helper()
	vouch := bytes.SplitAfter(mended(t, p), []byte("\n"))[3]
	at := bytes.Index(vouch, []byte(`"bytes"`))
	return fmt.Appendf(vouch[:at:at], `"bytes":0,"torn":"%x"}`+"\n", sha256.Sum256(nil))
}

// tooLate puts a whole line between a torn one and the line that vouches for it,
// and chains them.
func tooLate(t *testing.T, p [][]byte) []byte {
	t.Helper()
	m := bytes.SplitAfter(mended(t, p), []byte("\n"))
	vouch := bytes.Replace(m[3], []byte(`"seq":3`), []byte(`"seq":4`), 1)
	vouch = bytes.Replace(vouch, []byte(position(t, slices.Concat(p[:2]...), 2).Hash), []byte(position(t, slices.Concat(p[:3]...), 3).Hash), 1)
	return slices.Concat(m[0], m[1], m[2], p[2], vouch)
}

// next is a line that goes on with the log, made by who has the file alone.
func next(t testing.TB, log []byte) []byte {
	t.Helper()
	c := audit.Config{Path: t.TempDir() + "/audit"}
	put(t, c.Path, log)
	l := open(t, c)
	appends(t, l, "put in")
	closed(t, l)
	return content(t, c.Path)[len(log):]
}

// rechain makes the numbers and hashes of a log right again.
func rechain(t *testing.T, log []byte) []byte {
	t.Helper()
	var out []byte
	for i, line := range lines(log) {
		if i > 0 {
			at := bytes.Index(line, []byte(`"prev":"`)) + 8
			line = slices.Concat(line[:at], []byte(position(t, out, i).Hash), line[at+64:])
		}
		out = append(out, line...)
	}
	return out
}

func key(line []byte) []byte { return line[bytes.Index(line, []byte(`"key":`)):] }

// position is that of a row of a log that has no torn line.
func position(t testing.TB, log []byte, row int) audit.Position {
	t.Helper()
	r := good(t, audit.Options{}, slices.Concat(lines(log)[:row]...))
	return r.Last
}

func TestExpect(t *testing.T) {
	b := write(t, audit.Config{}, "a", "b", "c")
	for row := 1; row <= 4; row++ {
		p, err := audit.ParsePosition(position(t, b, row).String())
		if err != nil {
			t.Fatal(err)
		}
		good(t, audit.Options{Expect: p}, b)
	}
	for _, bad := range []string{"", "1", "1:", "0:" + strings.Repeat("0", 64), "x:" + strings.Repeat("0", 64), "01:" + strings.Repeat("0", 64), "1:" + strings.Repeat("A", 64), "1:" + strings.Repeat("0", 63)} {
		if p, err := audit.ParsePosition(bad); err == nil {
			t.Errorf("ParsePosition(%q) = %v, no error", bad, p)
		}
	}
}

// TestNewKey: keys rotate; each checkpoint brings its own.
func TestNewKey(t *testing.T) {
	first, second := newSigner(t, "ES256"), newSigner(t, "EdDSA")
	c := first.with(audit.Config{Path: t.TempDir() + "/audit"})
	l := open(t, c)
	appends(t, l, "a")
	closed(t, l)
	l = open(t, second.with(c))
	appends(t, l, "b")
	closed(t, l)
	b := content(t, c.Path)
	if r := good(t, audit.Options{Trust: []string{first.thumbprint(), second.thumbprint()}}, b); len(r.Signatures) != 2 || r.Uncovered != 0 {
		t.Errorf("report %+v", r)
	}
	if r := verify(t, audit.Options{Trust: []string{first.thumbprint()}}, b); r.Problem == nil || r.Problem.Kind != audit.Untrusted || r.Covered != 3 {
		t.Errorf("report %+v", r)
	}
}

func TestThumbprintsRefuses(t *testing.T) {
	ed := newSigner(t, "EdDSA").jwk()
	doc := func(keys ...map[string]string) string {
		b, err := json.Marshal(map[string]any{"keys": keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	rsa := newSigner(t, "RS256").jwk()
	with := func(jwk map[string]string, name, value string) map[string]string {
		changed := map[string]string{name: value}
		for n, v := range jwk {
			if n != name {
				changed[n] = v
			}
		}
		return changed
	}
	ec := newSigner(t, "ES256").jwk()
	for name, text := range map[string]string{
		"no JSON": "x", "no keys": "{}", "an empty list": `{"keys":[]}`, "no list": `{"keys":{}}`, "no objects": `{"keys":[1]}`,
		"two of one kid":        doc(with(ed, "kid", "a"), with(rsa, "kid", "a")),
		"an unknown type":       doc(with(ed, "kty", "XX")),
		"another curve":         doc(with(ec, "crv", "P-384")),
		"a point off the curve": doc(with(ec, "x", ec["y"])),
		"a short coordinate":    doc(with(ec, "x", ec["x"][:40])),
		"a padded key":          doc(with(ed, "x", ed["x"]+"=")),
		"a short key":           doc(with(ed, "x", ed["x"][:40])),
		"a newline in a key":    doc(with(ed, "x", ed["x"]+"\n")),
		"exponent 1":            doc(with(rsa, "e", "AQ")),
		"exponent 3":            doc(with(rsa, "e", "Aw")),
		"an even exponent":      doc(with(rsa, "e", "AQAC")),
		"a small modulus":       doc(with(rsa, "n", rsa["n"][:128])),
		"too long":              doc(ed) + strings.Repeat(" ", 256<<10),
		"too many":              doc(slices.Concat([]map[string]string{ed}, slices.Repeat([]map[string]string{{"kty": "XX"}}, 100))...),
	} {
		if got, err := audit.Thumbprints([]byte(text)); err == nil {
			t.Errorf("%s: Thumbprints = %v, no error", name, got)
		}
	}
}

// TestReportIsBounded: whoever writes the file decides how much is wrong with it.
func TestReportIsBounded(t *testing.T) {
	c := audit.Config{Path: t.TempDir() + "/audit"}
	for range 105 {
		l := open(t, newSigner(t, "EdDSA").with(c))
		appends(t, l, "a")
		closed(t, l)
	}
	b := content(t, c.Path)
	if r := good(t, audit.Options{}, b); len(r.Signatures) != 100 || r.Checkpoints != 106 {
		t.Errorf("%d signatures of %d checkpoints", len(r.Signatures), r.Checkpoints)
	}
	var holes []byte
	for i, line := range lines(write(t, audit.Config{}, make([]string, 300)...)) {
		if i%2 == 0 {
			holes = append(holes, line...)
		}
	}
	if r := verify(t, audit.Options{}, holes); len(r.Gaps) != 100 || r.Problems != 150 {
		t.Errorf("%d gaps, %d problems", len(r.Gaps), r.Problems)
	}
}

func TestVerifySaysWhatItCouldNotRead(t *testing.T) {
	b := write(t, audit.Config{}, "a")
	broken := errors.New("the disk is broken")
	if _, err := audit.Verify(iotest.TimeoutReader(bytes.NewReader(b)), audit.Options{}); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("Verify = %v", err)
	}
	if _, err := audit.Verify(iotest.ErrReader(broken), audit.Options{}); !errors.Is(err, broken) {
		t.Errorf("Verify = %v", err)
	}
	if r, err := audit.Verify(iotest.OneByteReader(bytes.NewReader(b)), audit.Options{}); err != nil || r.Problem != nil {
		t.Errorf("Verify = %+v, %v", r, err)
	}
}

func BenchmarkVerify(b *testing.B) {
	ids := make([]string, 10_000)
	for i := range ids {
		ids[i] = fmt.Sprint("decision", i)
	}
	log := write(b, newSigner(b, "ES256").with(audit.Config{}), ids...)
	b.SetBytes(int64(len(log)))
	b.ReportAllocs()
	for b.Loop() {
		if r, err := audit.Verify(bytes.NewReader(log), audit.Options{}); err != nil || r.Problem != nil {
			b.Fatal(r, err)
		}
	}
}
