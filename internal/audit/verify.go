package audit

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
)

// Checker checks a log that may stand in several files.
type Checker struct {
	options Options
	report  Report
	chain   chain
	started bool // It has a line to go on from.

	file      string
	row       int
	tornAt    int // The row of the first line that was cut off, 0 if none waits to be vouched for.
	tornBytes int
	tornHash  hash.Hash
	gap       *Problem // The first one, if it is a gap, until lines of it turn up.
	missing   Gap      // The one that it is about.
}

// Verify checks a log that is one file, or files one behind the other. Its error
// is the reader's.
func Verify(r io.Reader, o Options) (Report, error) {
	c := NewChecker(o)
	if err := c.File("", r); err != nil {
		return Report{}, err
	}
	return c.Report(), nil
}

// NewChecker returns a checker that has seen nothing yet.
func NewChecker(o Options) *Checker {
	return &Checker{options: o, tornHash: sha256.New(), report: Report{Pinned: len(o.Trust) > 0}}
}

// File reads the next file of the log, from beginning to end. The name is for the
// report.
func (c *Checker) File(name string, r io.Reader) error {
	if c.report.Tail > 0 {
		c.problem(Changed, "its last line is cut off, and another file follows")
		c.report.Tail = 0
	}
	c.file, c.row = name, 0
	c.report.Files++
	in := bufio.NewReaderSize(r, MaxLine)
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			c.row++
		}
		switch {
		case err == nil:
			c.line(line)
		case errors.Is(err, io.EOF):
			c.end(line)
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			c.changed(fmt.Sprintf("it is longer than %d bytes", MaxLine), nil)
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = in.ReadSlice('\n')
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		default:
			return err
		}
	}
}

// Report ends the check and returns what was found out.
func (c *Checker) Report() Report {
	switch expect := c.options.Expect; {
	case !c.started:
		c.row = 0
		c.problem(NoLog, "there is no line of a log")
	case expect.Line > c.chain.seq:
		c.problem(Truncated, fmt.Sprintf("the log ends with line %d, but line %d was there once", c.chain.seq, expect.Line))
	case expect.Line > 0 && expect.Line < c.report.First:
		c.row = 0
		c.problem(Removed, fmt.Sprintf("the log begins with line %d, so line %d can't be looked at: check the file before it too", c.report.First, expect.Line))
	}
	if c.report.Pinned && c.report.Checkpoints == 0 {
		c.row = 0
		c.problem(Untrusted, "no checkpoint is signed by a trusted key")
	}
	if c.started {
		c.report.Last = Position{c.chain.seq, c.chain.hash.String()}
	}
	return c.report
}

func (c *Checker) problem(kind, text string) *Problem {
	p := &Problem{kind, c.file, c.row, text}
	if c.report.Problems++; c.report.Problem == nil {
		c.report.Problem = p
	}
	return p
}

// end takes what stands behind the last newline of a file.
func (c *Checker) end(rest []byte) {
	if c.tornAt > 0 {
		c.loose()
	}
	if len(rest) == 0 {
		return
	}
	e, whole := parse(rest)
	if c.started && (whole && e.seq == c.chain.seq+1 && e.prev == c.chain.hash || c.chain.isTorn(rest)) {
		c.report.Tail = len(rest)
		return
	}
	c.problem(Changed, "it is neither a line of a log nor the beginning of one, and has no newline")
}

// loose tells of lines that are cut off without a line after them that says so.
func (c *Checker) loose() {
	row := c.row
	c.row = c.tornAt
	c.problem(Unfinished, "it is cut off, and no log.torn follows that vouches for it: somebody changed it, or the program died as it came back from a crash and has not run since")
	c.row, c.tornAt, c.tornBytes = row, 0, 0
	c.tornHash.Reset()
}

// line takes a line with its newline.
func (c *Checker) line(line []byte) {
	e, ok := parse(line[:len(line)-1])
	if !ok {
		c.fragment(line)
		return
	}
	if c.tornAt > 0 && e.event != eventTorn {
		c.loose()
	}
	if c.row == 1 || !c.started {
		c.begin(&e)
	}
	c.follow(&e)
	c.take(&e, line)
	c.chain.seq, c.chain.hash = e.seq, sha256.Sum256(line)
	if expect := c.options.Expect; expect.Line == e.seq && expect.Hash != c.chain.hash.String() {
		c.problem(Changed, fmt.Sprintf("line %d is another one than was there once", e.seq))
	}
	if c.report.From.IsZero() || e.time.Before(c.report.From) {
		c.report.From = e.time
	}
	if e.time.After(c.report.To) {
		c.report.To = e.time
	}
}

// fragment takes a line that is not whole.
func (c *Checker) fragment(line []byte) {
	if !c.started || !c.chain.isTorn(line[:len(line)-1]) {
		c.changed("it is not a whole line of a log", line)
		return
	}
	if c.tornAt == 0 {
		c.tornAt = c.row
	}
	c.tornBytes += len(line)
	c.tornHash.Write(line)
}

// changed goes on behind a line that can't be read, as if it were the next one.
func (c *Checker) changed(text string, line []byte) {
	if c.tornAt > 0 {
		c.loose()
	}
	c.problem(Changed, text)
	if c.started {
		c.chain.seq, c.chain.hash = c.chain.seq+1, sha256.Sum256(line)
	}
}

// begin takes the first line of a file.
func (c *Checker) begin(e *entry) {
	log, ok := e.head()
	switch {
	case !ok && e.event == eventStart:
		c.problem(NoLog, fmt.Sprintf("it begins a log of another version than %d", formatVersion))
	case !ok:
		c.problem(Removed, "the file does not begin with log.start: its beginning is missing")
	}
	if c.started {
		return
	}
	c.started = true
	c.chain = chain{log: log, seq: e.seq - 1, hash: e.prev}
	c.report.Log, c.report.First = log, e.seq
	if e.seq == 1 && e.prev != (sum{}) {
		c.problem(Changed, "the first line of a log says that one came before it")
	}
}

// follow holds a line against the one before it.
func (c *Checker) follow(e *entry) {
	next := c.chain.seq + 1
	switch {
	case e.seq == next && e.prev == c.chain.hash:
	case e.event == eventStart && e.seq == 1:
		c.problem(Apart, "a new log begins here, which nothing ties to what comes before")
	case e.seq == next:
		c.problem(Changed, fmt.Sprintf("line %d was changed after it was written, or line %d is another than was: it says that a line of another hash came before it", c.chain.seq, next))
	case e.seq > next:
		p := c.problem(Removed, fmt.Sprintf("lines %d to %d are missing before it", next, e.seq-1))
		g := Gap{next, e.seq - 1}
		if len(c.report.Gaps) < maxGaps {
			c.report.Gaps = append(c.report.Gaps, g)
		}
		if p == c.report.Problem {
			c.gap, c.missing = p, g
		}
	case c.gap != nil && c.missing.First <= e.seq && e.seq <= c.missing.Last:
		c.gap.Kind = Reordered
		c.gap.Text = fmt.Sprintf("lines %d to %d are missing before it, but line %d stands further down", c.missing.First, c.missing.Last, e.seq)
		c.problem(Reordered, fmt.Sprintf("line %d stands behind later ones", e.seq))
	default:
		c.problem(Inserted, fmt.Sprintf("its number %d was there already: it, or what follows, was put in", e.seq))
	}
}

// take looks at what a line says.
func (c *Checker) take(e *entry, line []byte) {
	before := chain{c.chain.log, e.seq - 1, e.prev}
	switch e.event {
	case eventStart:
		c.startLine(e)
	case eventTorn:
		c.tornLine(e, line, &before)
	case eventSigned:
		c.signedLine(e, line, &before)
	default:
		if strings.HasPrefix(e.event, logEvents) {
			c.problem(Changed, fmt.Sprintf("its event %.48q is none of this version", e.event))
			return
		}
		c.report.Records++
		c.report.Uncovered++
	}
}

func (c *Checker) startLine(e *entry) {
	log, ok := e.head()
	if ok && c.chain.log != log {
		if c.chain.log != "" && e.seq > 1 {
			c.problem(Apart, "it goes on with another log than the one before it")
		}
		c.chain.log = log
	}
	program := e.text("program")
	if len(c.report.Programs) < maxListed && !slices.Contains(c.report.Programs, program) {
		c.report.Programs = append(c.report.Programs, program)
	}
}

func (c *Checker) tornLine(e *entry, line []byte, before *chain) {
	t := torn{bytes: c.tornBytes}
	c.tornHash.Sum(t.hash[:0])
	again, err := before.appendTorn(nil, e.time, t)
	if c.tornAt == 0 || err != nil || string(again) != string(line) {
		c.problem(Changed, "it vouches for something else than what is cut off before it")
	} else {
		c.report.Torn++
		c.report.TornBytes += t.bytes
	}
	c.tornAt, c.tornBytes = 0, 0
	c.tornHash.Reset()
}

func (c *Checker) signedLine(e *entry, line []byte, before *chain) {
	k, err := before.checkpoint(e, line)
	if err != nil {
		c.report.Bad++
		c.problem(Forged, "the checkpoint is bad: "+err.Error())
		return
	}
	s := c.signature(k)
	s.Checkpoints++
	if c.report.Pinned && !s.Trusted {
		c.report.Bad++
		c.problem(Untrusted, "the checkpoint is signed by the key "+s.Thumbprint+", which is not trusted")
		return
	}
	c.report.Checkpoints++
	if c.report.Problem == nil {
		c.report.Covered, c.report.Uncovered = before.seq, 0
	}
}

// signature returns the entry of the report for the key. Beyond the bound it is
// one that nobody sees.
func (c *Checker) signature(k *publicKey) *Signature {
	thumbprint := k.thumbprint()
	for i := range c.report.Signatures {
		if c.report.Signatures[i].Thumbprint == thumbprint {
			return &c.report.Signatures[i]
		}
	}
	s := Signature{Thumbprint: thumbprint, Algorithm: k.alg, Trusted: slices.Contains(c.options.Trust, thumbprint)}
	if len(c.report.Signatures) == maxListed {
		return &s
	}
	c.report.Signatures = append(c.report.Signatures, s)
	return &c.report.Signatures[len(c.report.Signatures)-1]
}
