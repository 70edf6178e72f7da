package verifier

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"github.com/hourpass/hourpass/verifier/internal/refusal"
)

// stream is the body of an upstream's answer on its way to the client. It ends
// an upstream that falls silent, and gives a broken stream of events a proper
// end: a client that sees only the connection close can't tell a short answer
// from half of one.
type stream struct {
	body   io.ReadCloser
	res    *http.Response
	call   *call
	events bool // It is a stream that can be given an end.
	lines  bool // Of JSON lines, not of events.

	tail [4]byte // The last bytes passed on.
	held []byte  // To be passed on before anything more is read.
	end  error   // Why nothing more is read.
}

func (s *stream) Read(p []byte) (int, error) {
	if len(s.held) > 0 {
		n := copy(p, s.held)
		s.held = s.held[n:]
		return n, nil
	}
	if s.end != nil {
		return 0, s.end
	}
	s.call.watch.arm(s.call.upstream.IdleTimeout, refusal.ErrUpstreamIdle)
	n, err := s.body.Read(p[:s.call.spending.room(len(p))])
	timeout := s.call.watch.done()
	n = s.pass(p, n)
	switch {
	case err == nil && timeout == nil && s.events:
		if cut := s.call.overrun(); cut != nil {
			return n, s.broken(cut)
		}
		return n, nil
	case err == nil && timeout == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		s.res.Trailer = nil // It came with the last bytes, past the list of headers.
		s.rest()
		s.end, s.call.spending.whole = io.EOF, true
		return n, nil
	}
	return n, s.broken(timeout)
}

// pass has the meter look at the first n bytes of p, and leaves there what is to
// be passed on of them. What has no room waits.
func (s *stream) pass(p []byte, n int) int {
	out := p[:n]
	if m := s.call.spending.meter; m != nil {
		out = m.Feed(out)
	}
	s.remember(out)
	n = copy(p, out) // Onto itself, mostly.
	s.held = append(s.held[:0], out[n:]...)
	return n
}

// rest takes what the meter has held back.
func (s *stream) rest() {
	if m := s.call.spending.meter; m != nil {
		rest := m.End()
		s.remember(rest)
		s.held = append(s.held, rest...)
	}
}

// broken decides what the client gets of an answer that does not finish: because
// of cause, if that is known.
func (s *stream) broken(cause error) error {
	why := refusal.ErrUpstreamDied
	switch {
	case s.call.client.Err() != nil:
		why = refusal.ErrClientGone
	case s.call.cut() != nil:
		why = s.call.cut()
	case cause != nil:
		why = cause
	}
	r, d := refusal.Of(why)
	s.call.note(why)
	if !s.events || r.Status == refusal.ClientGone {
		return why // The connection is cut: half an answer must not look like a whole one.
	}
	f := s.call.route.Family
	switch {
	case s.lines && s.tail[len(s.tail)-1] != '\n' && s.tail != [4]byte{}:
		s.held = append(s.held, '\n')
	case !s.lines && !s.atEvent():
		s.held = append(s.held, "\n\n"...)
	}
	s.held = append(s.held, f.Event(f.Refusal(r.Status, r.Code, r.Message(d), s.call.record.Decision))...)
	s.end = io.EOF
	return nil
}

func (s *stream) remember(p []byte) {
	if len(p) >= len(s.tail) {
		copy(s.tail[:], p[len(p)-len(s.tail):])
		return
	}
	copy(s.tail[:], s.tail[len(p):])
	copy(s.tail[len(s.tail)-len(p):], p)
}

// atEvent tells whether a new event can begin here: after a blank line, with
// whichever of its three line ends, or at the start.
func (s *stream) atEvent() bool {
	tail := s.tail[:]
	return s.tail == [4]byte{} || bytes.HasSuffix(tail, []byte("\n\n")) || bytes.HasSuffix(tail, []byte("\r\r")) || bytes.HasSuffix(tail, []byte("\n\r\n"))
}

func (s *stream) Close() error { return s.body.Close() }
