package audit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Config is what a log is opened with.
type Config struct {
	// Path of the file. If it is not there it is made, with mode 0600. If it
	// holds a log, that log goes on. Required.
	Path string

	// Program that writes it, such as "hourpass-issuer". It stands in the first
	// line of a file.
	Program string

	// Durable says when a record counts as kept: when the disk has it (fsync), or
	// else when the operating system has it, which outlives the process but not
	// the machine.
	Durable bool

	// SetAside lets a new log begin if the file can't be continued ([ErrBroken]).
	// The file is renamed: to its name, ".broken-" and the time. The zero value
	// is an error instead, so that nobody loses a log without knowing.
	SetAside bool

	// Now is the clock. Required.
	Now func() time.Time

	// Signer signs checkpoints. Without it the log is a chain alone, which shows
	// what was changed only while the one who changed it does not write the rest
	// anew. Records wait while it signs. Keys returns the JWK Set in which the signer's key is; with a Signer
	// it is required.
	Signer Signer
	Keys   func() []byte

	// A checkpoint is signed CheckpointEvery after the last one at the latest, if
	// anything was written since, and sooner when that is CheckpointRecords lines;
	// also when the log is opened, reopened and closed. They default to a minute
	// and 4096.
	CheckpointEvery   time.Duration
	CheckpointRecords int

	// Problem is told when a checkpoint could not be made. Records are kept
	// nevertheless. It must not wait for the log. Nil tells nobody.
	Problem func(error)
}

// MaxPending is how many records may wait for the disk. One more waits for room
// in [Log.Append].
const MaxPending = 1024

// ErrClosed means that the log no longer takes records.
var ErrClosed = errors.New("the audit log is closed")

// Log appends records to a file. It is safe for concurrent use. Records that
// arrive while others are being written share the next write and sync.
type Log struct {
	config  Config
	pool    sync.Pool // Of *waiting.
	pending chan *waiting
	reopen  chan chan error
	closing chan struct{}
	done    chan struct{}
	once    sync.Once
	last    error // What the writer ended with; to be read once done.
}

// waiting is a record on its way to the file.
type waiting struct {
	body []byte // Its line, but for what comes before the time.
	kept chan error
}

// gatherFor is how long a record waits for others, where others are likely.
const gatherFor = 300 * time.Microsecond

// maxPooled bounds what a record may leave in the pool.
const maxPooled = 4 << 10

// Open opens a log, or begins one. It fails if the end of the file can't be
// understood ([ErrBroken]), if another process writes to it, or if the first
// checkpoint can't be signed. A file that can't be written to is left for
// [Log.Append] to find: the disk may have room by then.
func Open(c Config) (*Log, error) {
	if c.CheckpointEvery <= 0 {
		c.CheckpointEvery = time.Minute
	}
	if c.CheckpointRecords <= 0 {
		c.CheckpointRecords = 4096
	}
	w, err := newWriter(c)
	if err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	l := &Log{
		config: c, pending: make(chan *waiting, MaxPending), reopen: make(chan chan error),
		closing: make(chan struct{}), done: make(chan struct{}),
	}
	go l.run(w)
	return l, nil
}

// Append returns when the record is kept, or says why it is not. If ctx ends
// first, or writing fails, whether it was kept is not known.
func (l *Log) Append(ctx context.Context, r Record) error {
	w, ok := l.pool.Get().(*waiting)
	if !ok {
		w = &waiting{kept: make(chan error, 1)}
	}
	body, err := appendRecord(w.body[:0], &r)
	if err != nil {
		l.pool.Put(w)
		return fmt.Errorf("encoding an audit record: %w", err)
	}
	w.body = body
	select {
	case l.pending <- w:
	case <-l.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err = <-w.kept:
	case <-l.done:
		// The writer kept all that it took before it ended.
		select {
		case err = <-w.kept:
		default:
			return ErrClosed
		}
	case <-ctx.Done():
		return ctx.Err() // The writer still has it: not for the pool.
	}
	if cap(w.body) <= maxPooled {
		l.pool.Put(w)
	}
	return err
}

// Reopen goes on in a new file at the path, after the present one was renamed;
// the new one says where the old one ended. While the path still names the
// present file, it does nothing. Without a new file, the log stays where it is.
func (l *Log) Reopen() error {
	answer := make(chan error, 1)
	select {
	case l.reopen <- answer:
		return <-answer
	case <-l.done:
		return ErrClosed
	}
}

// Close keeps what is pending, signs the last checkpoint and closes the file.
func (l *Log) Close() error {
	l.once.Do(func() { close(l.closing) })
	<-l.done
	return l.last
}

// run is the goroutine that writes.
func (l *Log) run(w *writer) {
	defer close(l.done)
	var tick <-chan time.Time
	if l.config.Signer != nil {
		ticker := time.NewTicker(l.config.CheckpointEvery)
		defer ticker.Stop()
		tick = ticker.C
	}
	var batch []*waiting
	for {
		select {
		case first := <-l.pending:
			if l.config.Durable && len(batch) > 1 {
				// Those who came together last time are on their way again: a sync of
				// the disk costs as much CPU as an exchange, whether for one or for all.
				time.Sleep(gatherFor)
			}
			batch = l.keep(w, append(batch[:0], first))
		case <-tick:
			w.due = w.lines > 0
			_ = w.write(nil) // The next record says what is wrong.
		case answer := <-l.reopen:
			answer <- w.reopen()
		case <-l.closing:
			for len(l.pending) > 0 {
				batch = l.keep(w, batch[:0])
			}
			l.last = w.close()
			return
		}
	}
}

// keep writes the batch and all else that is pending, as one write and one sync.
func (l *Log) keep(w *writer, batch []*waiting) []*waiting {
	for n := len(l.pending); n > 0; n-- {
		batch = append(batch, <-l.pending)
	}
	err := w.write(batch)
	for i, e := range batch {
		e.kept <- err
		batch[i] = nil // It is another record's soon.
	}
	return batch
}
