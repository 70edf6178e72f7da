// Package meter reads what an answer cost while it passes to the client: the
// usage that the model server reports, and, until it does, a count of the text.
// Where the client did not ask for the report, it is left out of the stream.
//
// It changes nothing else, holds nothing back but an event that may have to be
// left out, and keeps no more than an event's head: what does not look like an
// answer passes as it is. It refuses to know budgets. Start with [New]; scan.go
// reads JSON that comes in pieces, places.go is where usage and text stand.
package meter

import (
	"bytes"

	"github.com/hourpass/hourpass/verifier/internal/route"
)

// Form is how an answer is laid out.
type Form byte

// The forms.
const (
	Whole  Form = iota // One JSON text.
	Events             // A stream of events (HTML, section 9.2).
	Lines              // A JSON text on each line.
)

// Usage is what a call cost, in model tokens.
type Usage struct {
	Input  int64 // All of it, cached or not.
	Output int64 // With what is thought and not shown.
	Cached int64 // Of Input.
}

// A Meter reads one answer. It is for one goroutine.
type Meter struct {
	form Form
	Options
	sum   bool // What the elements of a whole answer report adds up.
	scan  scanner
	event event // The one that is being read.

	// Where a stream of events is.
	name   [8]byte // Of the field; longer names are of no matter.
	named  int
	value  bool // Behind the colon,
	data   bool // of a field of data.
	whole  bool // The event has nothing but comments so far.
	some   bool // The line is not blank.
	cr     bool // The last byte was CR.
	at     int  // How many bytes were read, up to a few.
	held   []byte
	out    []byte
	passes bool // It is not to be left out, whatever is still to come of it.
	gone   bool // The last event was left out.

	total   report
	choices map[int64]report // By their index, where servers report each for itself.
	counted int64
}

// Options say what becomes of a stream of events.
type Options struct {
	Hide bool // The extra event that tells the usage is left out (OpenAI, stream_options).
	Hold bool // No event is passed on before it is whole, so that the stream can be ended anywhere.
}

// maxHeld is how long an event may be that is held back, in bytes.
const maxHeld = 64 << 10

// New returns the meter of one answer to a call of the route.
func New(r *route.Route, form Form, o Options) *Meter {
	if form != Events {
		o = Options{}
	}
	m := &Meter{form: form, whole: true, Options: o, sum: form == Whole && r.Family.Name != "gemini" && r.Family.Name != "vertex"}
	m.scan.root = rootOf(r, form)
	m.scan.event, m.scan.element = &m.event, m.take
	m.scan.reset()
	return m
}

// Feed reads the next bytes of the answer, and returns those that are to be
// passed on now. They are p itself, or good until the next Feed.
func (m *Meter) Feed(p []byte) []byte {
	switch {
	case m.form == Whole:
		m.scan.feed(p)
	case m.form == Lines:
		m.lines(p)
	case m.Hide || m.Hold:
		m.out = m.out[:0]
		m.events(p)
		return m.out
	default:
		m.events(p)
	}
	return p
}

// End returns what was held back, at the end of the answer.
func (m *Meter) End() []byte {
	m.scan.end()
	m.take()
	held := m.held
	m.held = nil
	return held
}

func (m *Meter) lines(p []byte) {
	for len(p) > 0 {
		n := bytes.IndexByte(p, '\n')
		if n < 0 {
			m.scan.feed(p)
			return
		}
		m.scan.feed(p[:n])
		m.over()
		p = p[n+1:]
	}
}

var bom = [3]byte{0xEF, 0xBB, 0xBF}

// events reads fields line by line, however they are cut and whichever of the
// three line ends they have.
func (m *Meter) events(p []byte) {
	for len(p) > 0 {
		c := p[0]
		if m.at < len(bom) {
			if c == bom[m.at] {
				m.at++
				m.keep(p[:1])
				p = p[1:]
				continue
			}
			m.at = len(bom)
		}
		if m.cr && c == '\n' {
			switch {
			case m.gone: // With the event that it ended.
			case (m.Hide || m.Hold) && len(m.held) == 0:
				m.out = append(m.out, c) // Likewise.
			default:
				m.keep(p[:1])
			}
			m.cr, m.gone = false, false
			p = p[1:]
			continue
		}
		m.cr, m.gone = false, false
		if c == '\n' || c == '\r' {
			m.cr = c == '\r'
			m.keep(p[:1])
			p = p[1:]
			m.line()
			continue
		}
		m.some = true
		if !m.value {
			if c == ':' {
				m.value, m.data = true, string(m.name[:min(m.named, len(m.name))]) == "data"
			} else if m.named <= len(m.name) {
				if m.named < len(m.name) {
					m.name[m.named] = c
				}
				m.named++
			}
			m.keep(p[:1])
			p = p[1:]
			continue
		}
		n := bytes.IndexByte(p, '\n')
		if n < 0 {
			n = len(p)
		}
		if r := bytes.IndexByte(p[:n], '\r'); r >= 0 {
			n = r
		}
		switch {
		case m.data:
			m.scan.feed(p[:n]) // The space that may stand first is none to JSON.
			m.decide()
		case m.named == 0 && m.whole:
			m.pass() // A comment, and nothing else so far: it may be all that comes for long.
		}
		m.keep(p[:n])
		p = p[n:]
	}
}

// line ends one: a blank one ends the event.
func (m *Meter) line() {
	if m.some {
		if m.data {
			m.scan.feed(newline)
		}
		m.whole = m.whole && m.named == 0
		m.some, m.value, m.data, m.named = false, false, false, 0
		return
	}
	extra := m.Hide && m.event.extra()
	m.over()
	if !m.Hide && !m.Hold {
		return
	}
	if m.gone = extra && !m.passes; !m.gone {
		m.pass()
	}
	m.held, m.passes, m.whole = m.held[:0], false, true
}

// decide passes on an event of which is clear that it is not the extra one.
func (m *Meter) decide() {
	if m.Hide && !m.Hold && (m.event.elements > 0 || m.event.failed || m.scan.state == isWrong) {
		m.pass()
	}
}

// pass lets through what is held of the event, and what is still to come of it.
func (m *Meter) pass() {
	m.out = append(m.out, m.held...)
	m.held, m.passes = m.held[:0], true
}

var newline = []byte{'\n'}

// keep holds bytes back until it is clear whether their event is to be left out.
func (m *Meter) keep(p []byte) {
	switch {
	case !m.Hide && !m.Hold:
	case m.passes:
		m.out = append(m.out, p...)
	default:
		if m.held = append(m.held, p...); len(m.held) > maxHeld {
			m.pass()
		}
	}
}

// over ends an event.
func (m *Meter) over() {
	m.scan.end()
	m.take()
	m.scan.reset()
}

// take adds what the event says to what is known.
func (m *Meter) take() {
	e := &m.event
	if m.form == Whole {
		m.counted += (e.text + bytesPerToken - 1) / bytesPerToken
	} else {
		m.counted += e.tokens
	}
	if !e.failed { // What a failure says of usage is not to be trusted.
		switch {
		case !e.report.any():
		case m.form != Whole && e.elements > 0, m.sum && m.scan.count() > 0:
			if m.form == Whole {
				e.index = int64(m.scan.count())
			}
			if m.choices == nil {
				m.choices = map[int64]report{}
			}
			if _, known := m.choices[e.index]; known || len(m.choices) < maxChoices {
				m.choices[e.index] = m.choices[e.index].with(&e.report)
			}
		default:
			m.total = m.total.with(&e.report)
		}
	}
	*e = event{}
}

// maxChoices bounds the choices whose reports are kept apart.
const maxChoices = 128

// Counted is how many tokens of output have passed, about. It never falls.
func (m *Meter) Counted() int64 {
	if m.form == Whole {
		return m.counted + (m.event.text+bytesPerToken-1)/bytesPerToken
	}
	return m.counted + m.event.tokens
}

// Usage is what the server has reported so far, and of which of the two. What it
// did not report is 0.
func (m *Meter) Usage() (u Usage, input, output bool) {
	all := m.total
	if !all.has[slotOutput] {
		for _, r := range m.choices {
			all.add(&r)
		}
	}
	return all.usage()
}
