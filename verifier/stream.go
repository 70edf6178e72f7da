package verifier

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"
)

// stream is the body of an upstream's answer on its way to the client, byte for
// byte. If the upstream breaks off, a stream of events still ends properly: with
// an event that says so, which clients report as an error. Any other answer is
// cut off, so that nobody takes part of it for the whole.
type stream struct {
	body   io.ReadCloser
	call   *call
	events bool // Server-sent events.
	idle   *time.Timer
	pause  time.Duration

	tail  [4]byte // The last bytes that were passed on.
	any   bool    // Whether any were.
	final []byte  // The closing event, still to be read.
	done  bool
}

// errIdle is why an upstream that pauses for too long is given up.
var errIdle = errors.New("it paused for too long")

func newStream(c *call, res *http.Response, pause time.Duration) *stream {
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return &stream{
		body: res.Body, call: c, events: media == "text/event-stream", pause: pause,
		idle: time.AfterFunc(pause, func() { c.cancel(errIdle) }),
	}
}

func (s *stream) Read(p []byte) (int, error) {
	if s.done {
		if len(s.final) == 0 {
			return 0, io.EOF
		}
		n := copy(p, s.final)
		s.final = s.final[n:]
		return n, nil
	}
	s.idle.Reset(s.pause)
	n, err := s.body.Read(p)
	s.idle.Stop() // A client that reads slowly is not the upstream's pause.
	s.note(p[:n])
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	s.call.rec.Reason, s.call.rec.Detail = "upstream_died", fmt.Sprintf("%v: %v", errDied, err)
	if !s.events {
		return n, err
	}
	s.done, s.final = true, s.closing()
	return n, nil
}

func (s *stream) Close() error {
	s.idle.Stop()
	return s.body.Close()
}

// note remembers the last bytes, which tell whether an event has ended.
func (s *stream) note(p []byte) {
	if len(p) == 0 {
		return
	}
	s.any = true
	last := append(s.tail[:], p[max(0, len(p)-len(s.tail)):]...)
	copy(s.tail[:], last[len(last)-len(s.tail):])
}

// closing is the event that says that the answer broke off. It begins with what
// the stream lacks to have ended its last event: clients must not read it as
// part of that.
func (s *stream) closing() []byte {
	tail := string(s.tail[:])
	lack := "\n\n"
	switch {
	case !s.any, tail[2:] == "\n\n", tail[2:] == "\r\r", tail == "\r\n\r\n":
		lack = ""
	case tail[3] == '\n', tail[3] == '\r':
		lack = "\n"
	}
	event := append([]byte(lack), "data: "...)
	event = append(event, newRefusal(s.call, errDied).openAIError(s.call.rec.Decision)...)
	return append(event, "\n\n"...)
}
