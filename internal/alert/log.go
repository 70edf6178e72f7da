package alert

import (
	"context"
	"log/slog"
	"time"
)

// Log is the sink that is always there: a line of the issuer's own log, at level
// warn, with the event's kind as "alarm".
type Log struct{ *slog.Logger }

// Name is "log".
func (Log) Name() string { return "log" }

// Send writes the line.
func (l Log) Send(ctx context.Context, e Event, _ time.Time) error {
	attrs := []slog.Attr{
		slog.String("alarm", string(e.Kind)), slog.String("id", e.ID), slog.Time("at", e.Time), slog.String("severity", string(e.Severity)),
	}
	for _, a := range []struct{ name, value string }{
		{"reason", e.Reason},
		{"key", e.Key},
		{"owner", e.Owner},
		{"team", e.Team},
		{"by", e.By},
		{"decision", e.Decision},
	} {
		if a.value != "" {
			attrs = append(attrs, slog.String(a.name, a.value))
		}
	}
	if !e.Due.IsZero() {
		attrs = append(attrs, slog.Time("due_at", e.Due))
	}
	l.LogAttrs(ctx, slog.LevelWarn, e.Text, attrs...)
	return nil
}
