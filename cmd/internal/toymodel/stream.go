package toymodel

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// A stream is an answer on its way as server-sent events, each flushed at once.
// After the first failure, which is the client's going, it stays silent.
type stream struct {
	ctx  context.Context
	w    http.ResponseWriter
	pace time.Duration
	err  error
}

func (s *server) stream(w http.ResponseWriter, r *http.Request) *stream {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	return &stream{ctx: r.Context(), w: w, pace: s.cfg.Pace}
}

// each sends what say makes of every piece, at the configured pace.
func (st *stream) each(pieces []string, say func(piece string)) {
	for i, piece := range pieces {
		if i > 0 && !st.wait() {
			return
		}
		say(piece)
	}
}

// wait reports whether the client is still there after the pause.
func (st *stream) wait() bool {
	if st.pace > 0 && st.err == nil {
		timer := time.NewTimer(st.pace)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-st.ctx.Done():
			st.err = st.ctx.Err()
		}
	}
	return st.err == nil
}

// event sends v under a name, or without one.
func (st *stream) event(name string, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		st.err = err
	}
	if name != "" {
		name = "event: " + name + "\n"
	}
	st.write("%sdata: %s\n\n", name, raw)
}

// data sends a nameless event.
func (st *stream) data(v any) { st.event("", v) }

// done ends a stream of nameless events.
func (st *stream) done() { st.write("data: [DONE]\n\n") }

func (st *stream) write(format string, args ...any) {
	if st.err != nil {
		return
	}
	if _, st.err = fmt.Fprintf(st.w, format, args...); st.err == nil {
		st.err = http.NewResponseController(st.w).Flush()
	}
}
