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

	tail [4]byte // The last bytes read.
	last []byte  // What is still to come of the final event.
	over bool    // Nothing more is read of the upstream.
}

func (s *stream) Read(p []byte) (int, error) {
	if s.over {
		n := copy(p, s.last)
		if s.last = s.last[n:]; len(s.last) == 0 {
			return n, io.EOF
		}
		return n, nil
	}
	s.call.watch.arm(s.call.upstream.IdleTimeout, refusal.ErrUpstreamIdle)
	n, err := s.body.Read(p)
	timeout := s.call.watch.done()
	s.remember(p[:n])
	switch {
	case err == nil && timeout == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		s.res.Trailer = nil // It came with the last bytes, past the list of headers.
		return n, io.EOF
	}
	return n, s.broken(timeout)
}

// broken decides what the client gets after an upstream that did not finish.
func (s *stream) broken(timeout error) error {
	why := refusal.ErrUpstreamDied
	switch {
	case s.call.client.Err() != nil:
		why = refusal.ErrClientGone
	case s.call.cut() != nil:
		why = s.call.cut()
	case timeout != nil:
		why = timeout
	}
	r, d := refusal.Of(why)
	s.call.note(why)
	if !s.events || r.Status == refusal.ClientGone {
		return why // The connection is cut: half an answer must not look like a whole one.
	}
	f := s.call.route.Family
	switch {
	case s.lines && s.tail[len(s.tail)-1] != '\n' && s.tail != [4]byte{}:
		s.last = append(s.last, '\n')
	case !s.lines && !s.atEvent():
		s.last = append(s.last, "\n\n"...)
	}
	s.last = append(s.last, f.Event(f.Refusal(r.Status, r.Code, r.Message(d), s.call.record.Decision))...)
	s.over = true
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
