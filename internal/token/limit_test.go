package token_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hourpass/hourpass/internal/token"
)

func TestParseLimit(t *testing.T) {
	for _, tt := range []struct {
		name                            string
		sharer, quantity, window, model string
		zone                            string
	}{
		{"concurrent", "key", "concurrent", "", "", "UTC"},
		{"tokens/day", "key", "tokens", "day", "", "UTC"},
		{"team:requests/minute", "team", "requests", "minute", "", "UTC"},
		{"all:concurrent@hr/*", "all", "concurrent", "", "hr/*", "UTC"},
		{"output_tokens/second@hr-model:latest", "key", "output_tokens", "second", "hr-model:latest", "UTC"},
		{"identity:tokens/month@hr in Europe/Berlin", "identity", "tokens", "month", "hr", "Europe/Berlin"},
	} {
		l, err := token.ParseLimit(tt.name)
		zone := "UTC"
		if l.Zone != nil {
			zone = l.Zone.String()
		}
		if err != nil || l.Name != tt.name || l.Sharer != tt.sharer || l.Quantity != tt.quantity || l.Window != tt.window || l.Model != tt.model || zone != tt.zone {
			t.Errorf("ParseLimit(%q) = %+v, %v", tt.name, l, err)
		}
	}
	for _, bad := range []string{
		"", "tokens", "tokens/", "tokens/week", "/day", "Tokens/day", "tokens/day ", " tokens/day", "words/day", "concurrent/day", "tokens/day/day",
		"key:tokens/day", "user:tokens/day", ":tokens/day", "team:team:tokens/day", "tokens/day@", "tokens/day@*", "tokens/day@a b", "tokens/day@..", "@hr",
		"tokens/day in ", "tokens/day in UTC", "tokens/day in Local", "tokens/day in ../../etc/passwd", "tokens/day in Europe/Atlantis", "tokens/hour in Europe/Berlin",
		"concurrent in Europe/Berlin", "tokens/day in Europe/Berlin in Europe/Berlin", "tokens/day in Europe/Berlin@hr",
	} {
		if l, err := token.ParseLimit(bad); !errors.Is(err, token.ErrLimit) {
			t.Errorf("ParseLimit(%q) = %+v, %v, want %v", bad, l, err, token.ErrLimit)
		}
	}
}

func TestLimitCounts(t *testing.T) {
	for name, covers := range map[string]bool{"tokens/day": true, "tokens/day@hr/a": true, "tokens/day@hr/*": true, "tokens/day@hr/b": false, "tokens/day@hr/a/*": false} {
		if l := parse(t, name); l.Counts("hr/a") != covers {
			t.Errorf("%q counts a call to hr/a: %t, want %t", name, !covers, covers)
		}
	}
	if l := parse(t, "tokens/day@hr/a"); l.Counts("") {
		t.Error("a limit of one model counts calls to none")
	}
}

func TestLimitSharer(t *testing.T) {
	c := &token.Claims{ClientID: "K", Subject: "I", Grant: "G", Tier: "T", Team: "M"}
	for name, want := range map[string]string{
		"concurrent": "K", "identity:concurrent": "I", "grant:concurrent": "G", "tier:concurrent": "T", "team:concurrent": "M", "all:concurrent": "",
	} {
		if l := parse(t, name); l.SharerOf(c) != want {
			t.Errorf("%q is shared by %q, want %q", name, l.SharerOf(c), want)
		}
	}
}

func TestLimitSpan(t *testing.T) {
	at := time.Date(2026, 3, 29, 22, 30, 15, 5, time.UTC) // Summer time began in Berlin that day, and the 30th is an hour and a half old there.
	for name, want := range map[string][2]string{
		"tokens/second":                 {"2026-03-29T22:30:15Z", "2026-03-29T22:30:16Z"},
		"tokens/minute":                 {"2026-03-29T22:30:00Z", "2026-03-29T22:31:00Z"},
		"tokens/hour":                   {"2026-03-29T22:00:00Z", "2026-03-29T23:00:00Z"},
		"tokens/day":                    {"2026-03-29T00:00:00Z", "2026-03-30T00:00:00Z"},
		"tokens/month":                  {"2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"},
		"tokens/day in Europe/Berlin":   {"2026-03-30T00:00:00+02:00", "2026-03-31T00:00:00+02:00"},
		"tokens/month in Europe/Berlin": {"2026-03-01T00:00:00+01:00", "2026-04-01T00:00:00+02:00"},
	} {
		l := parse(t, name)
		start, end := l.Span(at)
		if start.Format(time.RFC3339) != want[0] || end.Format(time.RFC3339) != want[1] {
			t.Errorf("%q at %s spans %s to %s, want %s to %s", name, at, start, end, want[0], want[1])
		}
	}
}

// In Havana clocks are put forward at midnight, and back to it.
func TestLimitSpanAtMidnight(t *testing.T) {
	l := parse(t, "tokens/day in America/Havana")
	for _, tt := range []struct{ at, start, end string }{
		{"2029-03-11T04:30:00Z", "2029-03-10T00:00:00-05:00", "2029-03-11T01:00:00-04:00"},
		{"2029-03-11T05:00:00Z", "2029-03-11T01:00:00-04:00", "2029-03-12T00:00:00-04:00"},
		{"2028-11-05T04:30:00Z", "2028-11-05T00:00:00-04:00", "2028-11-06T00:00:00-05:00"},
		{"2028-11-05T05:30:00Z", "2028-11-05T00:00:00-04:00", "2028-11-06T00:00:00-05:00"},
	} {
		at, err := time.Parse(time.RFC3339, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		start, end := l.Span(at)
		if start.Format(time.RFC3339) != tt.start || end.Format(time.RFC3339) != tt.end {
			t.Errorf("the day of %s is %s to %s, want %s to %s", tt.at, start.Format(time.RFC3339), end.Format(time.RFC3339), tt.start, tt.end)
		}
	}
}

// TestLimitSpans holds windows to be a chain without gaps.
func TestLimitSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom([]string{"", " in Africa/Cairo", " in Asia/Beirut", " in America/Havana", " in America/Santiago", " in Australia/Lord_Howe", " in Asia/Kathmandu"}).Draw(t, "zone")
		l, err := token.ParseLimit(rapid.SampledFrom([]string{"tokens/day", "tokens/month"}).Draw(t, "window") + zone)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Unix(rapid.Int64Range(1_000_000_000, 1_900_000_000).Draw(t, "at"), 0)
		start, end := l.Span(at)
		if at.Before(start) || !at.Before(end) {
			t.Fatalf("at %s, %q spans %s to %s", at, l.Name, start, end)
		}
		if next, _ := l.Span(end); !next.Equal(end) {
			t.Fatalf("the window of %q that ends at %s is followed by one from %s", l.Name, end, next)
		}
		if again, _ := l.Span(start); !again.Equal(start) {
			t.Fatalf("the window of %q from %s has a start at %s", l.Name, start, again)
		}
	})
}

func parse(t *testing.T, name string) token.Limit {
	t.Helper()
	l, err := token.ParseLimit(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
