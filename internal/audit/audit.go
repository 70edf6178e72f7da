// Package audit keeps the record of decisions: one JSON line per exchange, call
// and change. A record holds ids, names and numbers; there is no field that a
// prompt, secret, key or token could stand in.
package audit

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Outcomes of a decision.
const (
	Allow = "allow"
	Deny  = "deny"
)

// A Record is one decision. Fields that do not apply are left out of its line.
type Record struct {
	Time     time.Time `json:"time"`
	Decision string    `json:"decision_id"`      // Also told to the client, so that it can be asked about.
	Event    string    `json:"event"`            // "login", "session", "exchange", "call", "key.create", "key.list", "key.disable".
	Outcome  string    `json:"outcome"`          // Allow or Deny.
	Reason   string    `json:"reason,omitempty"` // Why not: a code from a closed list.
	Detail   string    `json:"detail,omitempty"` // The same as a sentence.

	Key      string `json:"key_id,omitempty"`
	Identity string `json:"identity,omitempty"` // "provider:subject"
	Team     string `json:"team,omitempty"`
	Grant    string `json:"grant,omitempty"`
	Scope    string `json:"scope,omitempty"`
	Token    string `json:"jti,omitempty"`
	Expires  int64  `json:"exp,omitempty"` // Unix seconds.

	Route          string  `json:"route,omitempty"`
	Action         string  `json:"action,omitempty"`
	Model          string  `json:"model,omitempty"`
	Upstream       string  `json:"upstream,omitempty"`
	UpstreamStatus int     `json:"upstream_status,omitempty"`
	Status         int     `json:"status,omitempty"`     // What the client was answered.
	Bytes          int64   `json:"bytes,omitempty"`      // Of the answer's body.
	Millis         float64 `json:"latency_ms,omitempty"` // From request to the end of the answer.
	ClientIP       string  `json:"client_ip,omitempty"`
}

// NewID returns a decision id: 130 random bits in 26 characters.
func NewID() string { return rand.Text() }

// MaxPending is how many records may wait for the disk. One more waits for room
// in [Log.Append].
const MaxPending = 1024

// ErrClosed means that the log no longer takes records.
var ErrClosed = errors.New("the audit log is closed")

// Log appends records to a file. It is safe for concurrent use. Records that
// arrive while others are being written share the next write and sync.
type Log struct {
	file    *os.File
	durable bool
	torn    bool // The file ends in part of a line.

	pending chan entry
	closing chan struct{}
	done    chan struct{}
	once    sync.Once
}

type entry struct {
	line []byte
	kept chan error
}

// Open appends to the file at path, made with mode 0600 if it is not there. If
// durable, a record counts as kept only when the disk has it (fsync); otherwise
// when the operating system has it, which outlives the process but not the
// machine.
func Open(path string, durable bool) (*Log, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	l := &Log{
		file: file, durable: durable, pending: make(chan entry, MaxPending),
		closing: make(chan struct{}), done: make(chan struct{}),
	}
	if l.torn, err = endsTorn(file); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	go l.write()
	return l, nil
}

// endsTorn tells whether the last writer died within a line.
func endsTorn(file *os.File) (bool, error) {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return false, err
	}
	var last [1]byte
	if _, err := file.ReadAt(last[:], end-1); err != nil {
		return false, err
	}
	return last[0] != '\n', nil
}

// Append returns when the record is kept, or says why it is not. If ctx ends
// first, whether it was kept is not known.
func (l *Log) Append(ctx context.Context, r Record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding an audit record: %w", err)
	}
	e := entry{append(line, '\n'), make(chan error, 1)}
	select {
	case l.pending <- e:
	case <-l.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-e.kept:
		return err
	case <-l.done:
		// The writer kept all that it took before it ended.
		select {
		case err := <-e.kept:
			return err
		default:
			return ErrClosed
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close keeps what is pending and closes the file.
func (l *Log) Close() error {
	l.once.Do(func() { close(l.closing) })
	<-l.done
	return l.file.Close()
}

func (l *Log) write() {
	defer close(l.done)
	for {
		select {
		case e := <-l.pending:
			l.keep(e)
		case <-l.closing:
			for {
				select {
				case e := <-l.pending:
					l.keep(e)
				default:
					return
				}
			}
		}
	}
}

// keep writes first and all else that is pending, as one write and one sync.
func (l *Log) keep(first entry) {
	batch := []entry{first}
	for n := len(l.pending); n > 0; n-- {
		batch = append(batch, <-l.pending)
	}
	var lines []byte
	if l.torn {
		lines = append(lines, '\n')
	}
	for _, e := range batch {
		lines = append(lines, e.line...)
	}
	n, err := l.file.Write(lines)
	if n > 0 {
		l.torn = lines[n-1] != '\n'
	}
	if err == nil && l.durable {
		err = l.file.Sync()
	}
	if err != nil {
		err = fmt.Errorf("writing the audit log: %w", err)
	}
	for _, e := range batch {
		e.kept <- err
	}
}
