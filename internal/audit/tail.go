package audit

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// ErrBroken means that a file can't be continued as an audit log. Once it is
// moved away, a new log can begin.
var ErrBroken = errors.New("the file can't be continued as an audit log")

// Bounds of what is read of a file in order to continue it: its first line, and
// at its end the last whole line and what crashes left behind it.
const (
	maxHead = 4 << 10
	maxTail = 3 * MaxLine
)

// tail is how a file ends.
type tail struct {
	chain       // Of its last whole line.
	empty  bool // There is none, not even the first.
	signed bool // It is a checkpoint.
	torn   torn // What stands behind it, with the newline that closes it.
	open   bool // That newline is missing.
}

// readTail reads how an audit log of that size ends. Before is where the chain
// stood when the file was begun.
func readTail(f io.ReaderAt, size int64, before chain) (t tail, err error) {
	t = tail{chain: before, empty: true}
	if size == 0 {
		return t, nil
	}
	window := min(size, maxTail)
	b := make([]byte, window, window+1)
	if _, err := f.ReadAt(b, size-window); err != nil && !errors.Is(err, io.EOF) {
		return tail{}, err
	}
	if t.open = b[window-1] != '\n'; t.open {
		b = append(b, '\n')
	}
	end := len(b)
	for end > 0 { // Where b begins within a line, no line begins: none holds another's beginning.
		start := bytes.LastIndexByte(b[:end-1], '\n') + 1
		if e, ok := parse(b[start : end-1]); ok {
			t.seq, t.signed, t.empty = e.seq-1, e.event == eventSigned, false
			t.push(b[start:end])
			break
		}
		end = start
	}
	for line := range bytes.Lines(b[end:]) {
		if !t.isTorn(line[:len(line)-1]) {
			return tail{}, fmt.Errorf("%w: what stands behind its last whole line is not what a crash leaves", ErrBroken)
		}
	}
	if end < len(b) {
		t.torn = torn{len(b) - end, sha256.Sum256(b[end:])}
	}
	if t.empty {
		return t, nil
	}
	t.log, err = readLog(f, size)
	return t, err
}

// readLog returns the log's id, which the first line of the file says.
func readLog(f io.ReaderAt, size int64) (string, error) {
	b := make([]byte, min(size, maxHead))
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	line, _, _ := bytes.Cut(b, []byte{'\n'})
	if e, ok := parse(line); ok {
		if log, ok := e.head(); ok {
			return log, nil
		}
	}
	return "", fmt.Errorf("%w: it does not begin as one of version %d", ErrBroken, formatVersion)
}

// head returns the log's id, if e is the first line of a file of this version.
func (e *entry) head() (log string, ok bool) {
	version, _ := e.member("version").Int()
	log = e.text("log")
	return log, e.event == eventStart && version == formatVersion && isID(log)
}

// isID tells whether s looks as NewID's: text that needs no escapes.
func isID(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && (c < '2' || c > '7') {
			return false
		}
	}
	return len(s) >= 26 && len(s) <= 64
}
