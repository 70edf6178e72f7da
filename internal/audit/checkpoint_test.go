package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
)

// TestCheckpointsByTime: a minute after the last one at the latest, and none when
// there is nothing new to sign.
func TestCheckpointsByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSigner(t, "EdDSA")
		c := s.with(audit.Config{Path: filepath.Join(t.TempDir(), "audit"), Now: time.Now, CheckpointEvery: time.Minute})
		l := open(t, c)
		step := func(wait time.Duration, want int32) {
			t.Helper()
			time.Sleep(wait) // In the bubble's time.
			synctest.Wait()
			if got := s.signed.Load(); got != want {
				t.Errorf("%d checkpoints, want %d", got, want)
			}
		}
		step(0, 1) // Of the first line.
		step(time.Hour, 1)
		appends(t, l, "a")
		step(59*time.Second, 1)
		step(time.Second, 2)
		step(time.Hour, 2)
		if r := good(t, audit.Options{}, content(t, c.Path)); r.Uncovered != 0 || r.To.Sub(r.From) < time.Hour {
			t.Errorf("report %+v", r)
		}
		closed(t, l)
		step(0, 2)
	})
}

// TestCheckpointsByCount: and a restart signs what a crash left unsigned.
func TestCheckpointsByCount(t *testing.T) {
	s := newSigner(t, "EdDSA")
	c := s.with(audit.Config{Path: filepath.Join(t.TempDir(), "audit"), CheckpointRecords: 3})
	l := open(t, c)
	appends(t, l, "a", "b", "c", "d", "e", "f", "g", "h")
	crashed := content(t, c.Path)
	if r := good(t, audit.Options{}, crashed); r.Checkpoints != 3 || r.Uncovered != 2 {
		t.Errorf("report %+v", r)
	}
	c.Path = filepath.Join(t.TempDir(), "crashed")
	put(t, c.Path, crashed)
	open(t, c)
	if r := good(t, audit.Options{}, content(t, c.Path)); r.Checkpoints != 4 || r.Uncovered != 0 {
		t.Errorf("after the restart: %+v", r)
	}
}

// TestSignerFails: records are kept all the same, somebody is told, and it is not
// asked at each record.
func TestSignerFails(t *testing.T) {
	s := newSigner(t, "EdDSA")
	var problems []error
	c := s.with(audit.Config{Path: filepath.Join(t.TempDir(), "audit"), CheckpointRecords: 4, Problem: func(err error) { problems = append(problems, err) }})
	l := open(t, c)
	s.err = errors.New("the key service is away")
	appends(t, l, "a", "b", "c", "d", "e", "f", "g", "h")
	if err := l.Close(); err != nil {
		t.Errorf("Close = %v: what is not signed is kept all the same", err)
	}
	if len(problems) != 3 || !errors.Is(problems[0], s.err) {
		t.Errorf("problems %v", problems)
	}
	if r := good(t, audit.Options{}, content(t, c.Path)); r.Records != 8 || r.Uncovered != 8 {
		t.Errorf("report %+v", r)
	}
	if _, err := tryOpen(c); !errors.Is(err, s.err) {
		t.Errorf("Open = %v, want that it can't sign", err)
	}
}

// TestSlowSignerFails: one that fails when its time has come is asked again when
// it comes again.
func TestSlowSignerFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSigner(t, "EdDSA")
		l := open(t, s.with(audit.Config{Path: filepath.Join(t.TempDir(), "audit"), Now: time.Now, CheckpointEvery: time.Minute}))
		s.err = errors.New("the key service is away")
		appends(t, l, "a")
		for minute := range int32(3) {
			time.Sleep(time.Minute) // In the bubble's time.
			synctest.Wait()
			appends(t, l, "b", "c")
			if got := s.asked.Load(); got != 2+minute {
				t.Errorf("minute %d: asked %d times, want %d", minute+1, got, 2+minute)
			}
		}
		_ = l.Close()
	})
}

// TestSignerMustBeBorneOut: a checkpoint that nobody could check is not written.
func TestSignerMustBeBorneOut(t *testing.T) {
	s, other := newSigner(t, "EdDSA"), newSigner(t, "EdDSA")
	for name, c := range map[string]audit.Config{
		"no keys":          {Signer: s},
		"another's keys":   {Signer: s, Keys: other.document},
		"no key set":       {Signer: s, Keys: func() []byte { return []byte("{}") }},
		"another kid":      {Signer: &signer{key: s.key, alg: "EdDSA", header: `{"alg":"EdDSA","kid":"x","typ":"audit-checkpoint+jwt"}`}, Keys: s.document},
		"another typ":      {Signer: &signer{key: s.key, alg: "EdDSA", header: `{"alg":"EdDSA","kid":"the-key","typ":"at+jwt"}`}, Keys: s.document},
		"another alg":      {Signer: &signer{key: s.key, alg: "EdDSA", header: `{"alg":"ES256","kid":"the-key","typ":"audit-checkpoint+jwt"}`}, Keys: s.document},
		"a key of its own": {Signer: &signer{key: s.key, alg: "EdDSA", header: `{"alg":"EdDSA","kid":"the-key","typ":"audit-checkpoint+jwt","jwk":{}}`}, Keys: s.document},
	} {
		c.Path = filepath.Join(t.TempDir(), "audit")
		if l, err := tryOpen(c); err == nil {
			t.Errorf("%s: Open = %v, no error", name, l)
		}
	}
}

// TestForgedCheckpoint: what is signed, but not as a checkpoint is.
func TestForgedCheckpoint(t *testing.T) {
	head := write(t, audit.Config{}) // Its first line alone.
	r := good(t, audit.Options{}, head)
	for _, alg := range []string{"ES256", "EdDSA", "RS256"} {
		s := newSigner(t, alg)
		payload := fmt.Sprintf(`{"log":"%s","seq":1,"hash":"%s","time":"2026-03-01T12:00:00Z"}`, r.Log, r.Last.Hash)
		checkpoint := func(header, payload string, spoil func(signature string) string) []byte {
			s.header = header
			jws, err := s.Sign([]byte(payload), "audit-checkpoint+jwt")
			if err != nil {
				t.Fatal(err)
			}
			jwk, err := json.Marshal(s.jwk())
			if err != nil {
				t.Fatal(err)
			}
			at := strings.LastIndexByte(jws, '.') + 1
			return fmt.Appendf(bytes.Clone(head), `{"seq":2,"prev":"%s","time":"2026-03-01T12:00:00Z","event":"log.checkpoint","jws":"%s","key":%s}`+"\n",
				r.Last.Hash, jws[:at]+spoil(jws[at:]), jwk)
		}
		whole := func(signature string) string { return signature }
		right := `{"alg":"` + alg + `","kid":"x","typ":"audit-checkpoint+jwt"}`
		good(t, audit.Options{}, checkpoint(right, payload, whole))
		for name, b := range map[string][]byte{
			"a token":                    checkpoint(strings.Replace(right, "audit-checkpoint+jwt", "at+jwt", 1), payload, whole),
			"no typ":                     checkpoint(`{"alg":"`+alg+`","kid":"x"}`, payload, whole),
			"no algorithm":               checkpoint(strings.Replace(right, alg, "none", 1), payload, whole),
			"a symmetric algorithm":      checkpoint(strings.Replace(right, alg, "HS256", 1), payload, whole),
			"a header that is not ours":  checkpoint(`{"alg":"`+alg+`","crit":"x","typ":"audit-checkpoint+jwt"}`, payload, whole),
			"a header twice":             checkpoint(`{"alg":"`+alg+`","alg":"`+alg+`","typ":"audit-checkpoint+jwt"}`, payload, whole),
			"another line":               checkpoint(right, strings.Replace(payload, `"seq":1`, `"seq":2`, 1), whole),
			"another log":                checkpoint(right, strings.Replace(payload, r.Log, audit.NewID(), 1), whole),
			"more":                       checkpoint(right, payload+" ", whole),
			"no signature":               checkpoint(right, payload, func(string) string { return "" }),
			"a short signature":          checkpoint(right, payload, func(string) string { return "AAAA" }),
			"a long signature":           checkpoint(right, payload, func(s string) string { return s + "AAAA" }),
			"a changed signature":        checkpoint(right, payload, func(s string) string { return "AAAA" + s[4:] }),
			"a signature of zeros":       checkpoint(right, payload, func(s string) string { return strings.Repeat("A", len(s)) }),
			"a padded signature":         checkpoint(right, payload, func(s string) string { return s + "==" }),
			"a fourth part":              checkpoint(right, payload, func(s string) string { return s + "." + s }),
			"a newline in the signature": checkpoint(right, payload, func(s string) string { return s[:8] + `\n` + s[8:] }),
		} {
			if r := verify(t, audit.Options{}, b); r.Problem == nil || r.Problem.Kind != audit.Forged || r.Bad != 1 || r.Checkpoints != 0 || r.Covered != 0 {
				t.Errorf("%s, %s: report %+v", alg, name, r)
			}
		}
	}
}
