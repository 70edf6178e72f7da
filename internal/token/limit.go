package token

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Limit is one budget: who shares it, what it counts, and over which time. Its
// name, such as "tokens/day", "team:requests/minute", "tokens/day@hr-model" or
// "all:tokens/month in Europe/Berlin", is
//
//	[ sharer ":" ] quantity [ "/" window ] [ "@" model ] [ " in " zone ]
//
// and each budget has exactly one.
type Limit struct {
	Name string

	// Sharer is whose calls count together: those of one "key", which goes without
	// saying, "identity", "grant", "tier" or "team", or "all" that the issuer gave
	// tokens to.
	Sharer string

	// Quantity is what is counted: "requests", "tokens", "input_tokens" or
	// "output_tokens" within a window, or "concurrent" calls, without one.
	Quantity string

	// Window is "second", "minute", "hour", "day" or "month". Each begins when the
	// clock and the calendar say so.
	Window string

	// Model is a name or a pattern of the scope grammar: only calls to such models
	// count, all of them together. Empty: every call.
	Model string

	// Zone is where days and months begin. Nil means UTC.
	Zone *time.Location
}

// The closed lists of a limit's parts, so that a typing error limits nothing by
// surprise.
var (
	sharers    = []string{"key", "identity", "grant", "tier", "team", "all"}
	quantities = []string{"requests", "tokens", "input_tokens", "output_tokens"}
	windows    = []string{"second", "minute", "hour", "day", "month"}
)

// maxZone bounds the name of a time zone, in bytes.
const maxZone = 64

// ParseLimit reads the name of a limit. Errors match [ErrLimit].
func ParseLimit(name string) (Limit, error) {
	bad := func(why string) (Limit, error) {
		return Limit{}, fmt.Errorf("%w: %.100q %s", ErrLimit, name, why)
	}
	l := Limit{Name: name, Sharer: "key"}
	rest, zone, zoned := strings.Cut(name, " in ")
	rest, model, modelled := strings.Cut(rest, "@")
	if sharer, after, shared := strings.Cut(rest, ":"); shared {
		if sharer == "key" || !slices.Contains(sharers, sharer) {
			return bad("has a sharer that is none of " + strings.Join(sharers[1:], ", "))
		}
		l.Sharer, rest = sharer, after
	}
	windowed := false
	l.Quantity, l.Window, windowed = strings.Cut(rest, "/")
	switch {
	case l.Quantity == "concurrent" && !windowed:
	case !slices.Contains(quantities, l.Quantity) || !slices.Contains(windows, l.Window):
		return bad("is neither concurrent nor one of " + strings.Join(quantities, ", ") + " per /" + strings.Join(windows, ", /"))
	}
	if l.Model = model; modelled && !ValidModel(model) && !validPattern(model) {
		return bad("names no model behind @")
	}
	if !zoned {
		return l, nil
	}
	if l.Window != "day" && l.Window != "month" {
		return bad("has a time zone, which only days and months have")
	}
	var err error
	if l.Zone, err = loadZone(zone); err != nil {
		return bad("names no time zone behind \" in \"")
	}
	return l, nil
}

// loadZone finds a zone of the IANA database. UTC is no name of one: it goes
// without saying.
func loadZone(name string) (*time.Location, error) {
	if name == "" || name == "UTC" || name == "Local" || len(name) > maxZone {
		return nil, ErrLimit
	}
	return time.LoadLocation(name)
}

// Counts tells whether calls to the model count. The empty model is that of calls
// to none.
func (l *Limit) Counts(model string) bool {
	return l.Model == "" || MatchModel(l.Model, model)
}

// Span returns the window that t is in: from its start to that of the next. Of
// "concurrent" both are zero: there is but one window.
func (l *Limit) Span(t time.Time) (start, end time.Time) {
	zone := l.Zone
	if zone == nil {
		zone = time.UTC
	}
	y, m, d := t.In(zone).Date()
	switch l.Window {
	case "":
		return time.Time{}, time.Time{}
	case "day":
		return midnight(y, m, d, zone), midnight(y, m, d+1, zone)
	case "month":
		return midnight(y, m, 1, zone), midnight(y, m+1, 1, zone)
	}
	length := map[string]time.Duration{"second": time.Second, "minute": time.Minute, "hour": time.Hour}[l.Window]
	start = t.Truncate(length) // Counts from the zero time, in UTC.
	return start, start.Add(length)
}

// midnight is the first moment of a day. In some zones clocks are put forward
// then: it is no midnight, but 1 o'clock.
func midnight(y int, m time.Month, d int, zone *time.Location) time.Time {
	day := time.Date(y, m, d, 12, 0, 0, 0, zone).Day()
	t := time.Date(y, m, d, 0, 0, 0, 0, zone)
	if t.Day() != day {
		t = time.Date(y, m, d, 1, 0, 0, 0, zone)
	}
	// Or put back: it comes twice.
	if before := t.Add(-time.Hour); before.Day() == day {
		return before
	}
	return t
}

// SharerOf is who shares the limit, of those that the claims name.
func (l *Limit) SharerOf(c *Claims) string {
	switch l.Sharer {
	case "identity":
		return c.Subject
	case "grant":
		return c.Grant
	case "tier":
		return c.Tier
	case "team":
		return c.Team
	case "all":
		return ""
	}
	return c.ClientID
}
