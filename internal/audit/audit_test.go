package audit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/audit"
)

// bodyOf appends r to a log and returns its line from the time on.
func bodyOf(t testing.TB, r audit.Record) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Path: path})
	if err := l.Append(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	closed(t, l)
	b := content(t, path)
	if p := verify(t, audit.Options{}, b).Problem; p != nil {
		t.Fatalf("%+v in %.2000s", p, b)
	}
	line := lines(b)[1]
	return "{" + string(line[bytes.Index(line, []byte(`"time"`)):])
}

// full has every field set.
func full() audit.Record {
	r := audit.Record{Time: noon.Add(123456789), Policies: []string{"a", "b\"c"}, Change: map[string]string{"state": "active → disabled", "a": ""}}
	v := reflect.ValueOf(&r).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString(v.Type().Field(i).Name + " <&> ü\u2028\n")
		case reflect.Int, reflect.Int64:
			f.SetInt(int64(i) + 1)
		case reflect.Uint64:
			f.SetUint(math.MaxUint64)
		case reflect.Float64:
			f.SetFloat(1234.5678)
		}
	}
	return r
}

// TestLineIsTheRecord: the encoder by hand writes every field, with the names,
// the order and the values of encoding/json.
func TestLineIsTheRecord(t *testing.T) {
	for name, r := range map[string]audit.Record{
		"all fields": full(), "no field": {}, "small latency": {Millis: 1e-9}, "great latency": {Millis: 1e300}, "negative": {Millis: -0.25, Expires: -1},
		"another zone": {Time: time.Date(2026, 1, 1, 0, 30, 0, 0, time.FixedZone("", 3600))},
	} {
		t.Run(name, func(t *testing.T) {
			line := bodyOf(t, r)
			var got audit.Record
			if err := json.Unmarshal([]byte(line), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(r, got); diff != "" {
				t.Errorf("read back (-appended +read):\n%s", diff)
			}
			r.Time = r.Time.UTC()
			var want bytes.Buffer
			enc := json.NewEncoder(&want)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(r); err != nil {
				t.Fatal(err)
			}
			// It escapes two characters more than JSON asks for, and writes e-09 as e-9.
			if plain := strings.NewReplacer(`\u2028`, "\u2028", "e-9", "e-09").Replace(want.String()); line != plain {
				t.Errorf("line\n%s, want\n%s", line, plain)
			}
		})
	}
}

func TestAnyRecordIsALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Path: path})
	text := rapid.Custom(func(rt *rapid.T) string { return string(rapid.SliceOf(rapid.Byte()).Draw(rt, "bytes")) })
	rapid.Check(t, func(rt *rapid.T) {
		r := audit.Record{
			Time: noon, Decision: rapid.String().Draw(rt, "decision"), Event: "call", Detail: text.Draw(rt, "detail"),
			Policies: rapid.SliceOfN(rapid.String(), 0, 80).Draw(rt, "policies"),
			Change:   rapid.MapOfN(text, text, 0, 40).Draw(rt, "change"),
			Millis:   rapid.Float64Range(-math.MaxFloat64, math.MaxFloat64).Draw(rt, "millis"),
		}
		if err := l.Append(t.Context(), r); err != nil {
			rt.Fatal(err)
		}
	})
	closed(t, l)
	good(t, audit.Options{}, content(t, path))
	names := bodyOf(t, audit.Record{Change: map[string]string{"\xff": "a", "\xfe": "b", "…": "c", "d": "e"}})
	if want := `"change":{"d":"e","…":"3 more"}`; !strings.Contains(names, want) {
		t.Errorf("names that are no text: %s, want %s", names, want)
	}
}

// TestLongRecord: the longest record is cut to fit, and is not refused.
func TestLongRecord(t *testing.T) {
	long := strings.Repeat("\x01", 100<<10) // Each needs six bytes in JSON.
	r := full()
	v := reflect.ValueOf(&r).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.String {
			f.SetString(long)
		}
	}
	r.Policies, r.Change = make([]string, 1000), map[string]string{}
	for i := range r.Policies {
		r.Policies[i] = long
		r.Change[fmt.Sprintf("%03d%s", i, long[:250])] = long
	}
	r.Change[long] = "a name that is too long"
	line := bodyOf(t, r)
	var got audit.Record
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Detail) > audit.MaxText || len(got.Detail) < audit.MaxText-3 || !strings.HasSuffix(got.Detail, "\x01…") {
		t.Errorf("a text of %d bytes was kept with %d", len(long), len(got.Detail))
	}
	if len(got.Policies) != audit.MaxPolicies+1 || got.Policies[audit.MaxPolicies] != "…" {
		t.Errorf("1000 policies were kept as %d", len(got.Policies))
	}
	if len(got.Change) != audit.MaxChange+1 || got.Change["…"] != fmt.Sprintf("%d more", 1001-audit.MaxChange) {
		t.Errorf("1001 changes were kept as %d, %q", len(got.Change), got.Change["…"])
	}
	if cut := bodyOf(t, audit.Record{Detail: strings.Repeat("€", 1000)}); !strings.Contains(cut, "€…") || strings.Contains(cut, "\ufffd") {
		t.Error("a character is cut in two")
	}
}

func TestAppendRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Path: path})
	for name, r := range map[string]audit.Record{
		"an event of the log's own": {Event: "log.checkpoint"},
		"a latency without value":   {Millis: math.NaN()},
		"an endless latency":        {Millis: math.Inf(1)},
		"a year of five digits":     {Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if err := l.Append(t.Context(), r); err == nil {
			t.Errorf("%s is appended", name)
		}
	}
	closed(t, l)
	if got := ids(t, path); len(got) != 0 {
		t.Errorf("the log holds %v", got)
	}
}

func BenchmarkAppend(b *testing.B) {
	r := audit.Record{
		Time: noon, Decision: audit.NewID(), Event: "call", Outcome: audit.Allow, Key: "AbCdEfGh01234567", Identity: "corp:ada",
		Team: "support", Grant: "faq-read-only", Token: audit.NewID(), Policies: []string{"hr-only-from-vpn"}, Route: "POST /v1/chat/completions",
		Action: "chat", Model: "faq-bot", Upstream: "vllm", UpstreamStatus: 200, Status: 200, Bytes: 12345, Millis: 812.25, ClientIP: "10.1.2.3",
	}
	for _, durable := range []bool{false, true} {
		b.Run(fmt.Sprintf("durable=%v", durable), func(b *testing.B) {
			l, err := audit.Open(audit.Config{Path: filepath.Join(b.TempDir(), "audit"), Durable: durable, Now: time.Now})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			b.ReportAllocs()
			b.SetParallelism(64)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := l.Append(b.Context(), r); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
