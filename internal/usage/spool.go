package usage

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	chance "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// SpoolConfig is what a [Spool] is made from. Dir and Send are required; the zero
// value of every other field is its default.
type SpoolConfig struct {
	// Dir is a folder of its own: what was not sent yet waits there, and is sent
	// when the verifier starts again.
	Dir string

	// Send takes a batch to the issuer. A batch that it returns an error for is
	// sent again just as it was, however that ended.
	Send func(ctx context.Context, b Batch) error

	// Every is how often batches are made and sent. Zero means 1 second.
	Every time.Duration

	// MaxBytes bounds what waits in Dir. Beyond it the oldest are kept, and calls
	// that find no room are counted. Zero means 256 MiB.
	MaxBytes int64

	Log *slog.Logger     // Nil: none.
	Now func() time.Time // Nil means [time.Now].
}

// Bounds of a spool.
const (
	defaultMaxBytes = 256 << 20
	maxRows         = 20_000 // In memory, of one moment.
	MaxBatch        = 5_000  // Rows of one batch.
	maxPause        = 30 * time.Second
	sendTimeout     = 20 * time.Second
)

// Names of files.
const (
	lockFile   = "lock"
	openFile   = "open.log" // A line for each call since the last batch.
	closedFile = "closed-"  // The same, while the batch is made of it.
	batchFile  = "batch-"   // A batch that waits.
	suffix     = ".json"
)

// Spool adds up what calls cost and takes it to the issuer. A call that was added
// is not lost when the process is killed, nor while the issuer is away: it stands
// in a file before [Spool.Add] returns. It is safe for concurrent use.
type Spool struct {
	c      SpoolConfig
	holder string // A new one at each start, so that numbers begin anew.

	lock *os.File
	held atomic.Int64 // Bytes of the batches that wait.

	mu    sync.Mutex
	open  *os.File
	bytes int64 // Of it.
	rows  map[rowKey]*Row
	lost  int64

	// Of the goroutine that runs.
	seq   int64
	stamp int64 // Of the last batch's name.
	told  int64 // Of lost.
	pause time.Duration
	after time.Time
}

// rowKey is what makes a row.
type rowKey struct {
	hour                 int64
	key, identity, model string
}

// OpenSpool makes the folder if it is not there, and takes up what an earlier
// process left. Only one may use it at a time.
func OpenSpool(c SpoolConfig) (*Spool, error) {
	if c.Every == 0 {
		c.Every = time.Second
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultMaxBytes
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Spool{c: c, holder: rand.Text(), rows: map[rowKey]*Row{}}
	if err := s.start(); err != nil {
		return nil, fmt.Errorf("opening the usage spool: %w", err)
	}
	return s, nil
}

func (s *Spool) path(name string) string { return filepath.Join(s.c.Dir, name) }

func (s *Spool) start() error {
	if err := os.MkdirAll(s.c.Dir, 0o700); err != nil {
		return err
	}
	var err error
	if s.lock, err = os.OpenFile(s.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err := lock(s.lock); err != nil {
		return errors.Join(err, s.lock.Close())
	}
	names, err := s.waiting(closedFile)
	if err != nil {
		return err
	}
	for _, name := range names {
		made := batchFile + strings.TrimPrefix(name, closedFile) + suffix
		if _, err := os.Stat(s.path(made)); errors.Is(err, fs.ErrNotExist) {
			if err := s.read(s.path(name)); err != nil {
				return err
			}
			if err := s.write(strings.TrimPrefix(name, closedFile), s.take()); err != nil {
				return err
			}
		}
		if err := os.Remove(s.path(name)); err != nil {
			return err
		}
	}
	if names, err = s.waiting(batchFile); err != nil {
		return err
	}
	held := int64(0)
	for _, name := range names {
		info, err := os.Stat(s.path(name))
		if err != nil {
			return err
		}
		held += info.Size()
	}
	s.held.Store(held)
	if s.open, err = s.openNext(); err != nil {
		return err
	}
	return s.read(s.path(openFile))
}

func (s *Spool) openNext() (*os.File, error) {
	return os.OpenFile(s.path(openFile), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
}

// read adds up the lines of a file. One that was torn by a crash was of a call
// that nobody was told of.
func (s *Spool) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var r Row
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			s.c.Log.Warn("a torn line in the usage spool", "err", err.Error())
			continue
		}
		s.add(&r)
	}
	return lines.Err()
}

// waiting are the names of files that begin so, the oldest first.
func (s *Spool) waiting(prefix string) (names []string, err error) {
	entries, err := os.ReadDir(s.c.Dir) // Sorted.
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) && !strings.HasSuffix(e.Name(), ".tmp") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Add notes what a call cost. The error says that a crash could lose it.
func (s *Spool) Add(c Call) error {
	r := c.row()
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("noting usage: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held.Load()+s.bytes >= s.c.MaxBytes {
		s.lost++
		return nil
	}
	if !s.add(&r) {
		return nil
	}
	n, err := s.open.Write(append(line, '\n'))
	if s.bytes += int64(n); err != nil {
		return fmt.Errorf("noting usage: %w", err)
	}
	return nil
}

func (c *Call) row() Row {
	r := Row{
		Hour: c.Time.UTC().Truncate(time.Hour), Key: c.Key, Identity: c.Identity, Model: c.Model, Team: c.Team, Grant: c.Grant,
		Requests: 1, Input: c.Input, Output: c.Output, Cached: c.Cached,
	}
	if c.Source == Counted || c.Source == Estimated {
		r.Unreported = 1
	}
	return r
}

// add adds a row to those that are kept, or counts what found no room.
func (s *Spool) add(r *Row) bool {
	k := rowKey{r.Hour.Unix(), r.Key, r.Identity, r.Model}
	sum := s.rows[k]
	if sum == nil {
		if len(s.rows) >= maxRows {
			s.lost += r.Requests
			return false
		}
		sum = &Row{Hour: r.Hour, Key: r.Key, Identity: r.Identity, Model: r.Model}
		s.rows[k] = sum
	}
	sum.Team, sum.Grant = r.Team, r.Grant
	sum.Requests += r.Requests
	sum.Input += r.Input
	sum.Output += r.Output
	sum.Cached += r.Cached
	sum.Unreported += r.Unreported
	return true
}

// take empties the rows, in order.
func (s *Spool) take() []Row {
	rows := make([]Row, 0, len(s.rows))
	for _, r := range s.rows {
		rows = append(rows, *r)
	}
	clear(s.rows)
	slices.SortFunc(rows, func(a, b Row) int {
		return slices.Compare([]string{a.Key, a.Hour.Format(time.RFC3339), a.Identity, a.Model}, []string{b.Key, b.Hour.Format(time.RFC3339), b.Identity, b.Model})
	})
	return rows
}

// Run makes batches and sends them until ctx ends. What was not sent then waits
// for the next start.
func (s *Spool) Run(ctx context.Context) error {
	tick := time.NewTicker(s.c.Every)
	defer tick.Stop()
	for {
		if err := s.Flush(ctx); err != nil && ctx.Err() == nil {
			s.c.Log.Error("taking usage to the issuer", "err", err.Error())
		}
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
			defer cancel()
			s.after = time.Time{}
			_ = s.Flush(last) // What fails waits in the folder.
			return errors.Join(s.open.Close(), s.lock.Close())
		case <-tick.C:
		}
	}
}

// farewell is how long the last batch may take.
const farewell = 2 * time.Second

// Flush makes a batch of what there is, and sends what waits. It is for one
// goroutine at a time: that of [Spool.Run], if it runs.
func (s *Spool) Flush(ctx context.Context) error {
	if err := s.seal(); err != nil {
		return err
	}
	if s.c.Now().Before(s.after) {
		return nil
	}
	names, err := s.waiting(batchFile)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.send(ctx, name); err != nil {
			s.pause = min(max(2*s.pause, s.c.Every), maxPause)
			s.after = s.c.Now().Add(s.pause/2 + chance.N(s.pause)) //nolint:gosec // Who waits longer is no secret.
			return err
		}
		s.pause = 0
	}
	return nil
}

// seal makes a batch of the calls since the last one.
func (s *Spool) seal() error {
	s.mu.Lock()
	if len(s.rows) == 0 && s.lost == s.told || s.held.Load() >= s.c.MaxBytes {
		s.mu.Unlock()
		return nil
	}
	// Files are sent in the order of their names, which must be that of their
	// numbers, whatever the clock does.
	s.stamp = max(s.stamp+1, s.c.Now().UnixNano())
	name := fmt.Sprintf("%019d-%s", s.stamp, s.holder)
	next, err := s.swap(name)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	old, rows := s.open, s.take()
	s.open, s.bytes, s.told = next, 0, s.lost
	s.mu.Unlock()
	if err := errors.Join(s.write(name, rows), old.Close()); err != nil {
		return err
	}
	return os.Remove(s.path(closedFile + name))
}

// swap puts the open file aside under that name, and returns the next.
func (s *Spool) swap(name string) (*os.File, error) {
	if err := os.Rename(s.path(openFile), s.path(closedFile+name)); err != nil {
		return nil, err
	}
	next, err := s.openNext()
	if err != nil {
		err = errors.Join(err, os.Rename(s.path(closedFile+name), s.path(openFile)))
	}
	return next, err
}

// write keeps rows as batches that begin with that name, or none at all.
func (s *Spool) write(name string, rows []Row) error {
	var all []Batch
	for part := range slices.Chunk(rows, MaxBatch) {
		s.seq++
		all = append(all, Batch{Holder: s.holder, Seq: s.seq, Rows: part})
	}
	if len(all) == 0 {
		s.seq++
		all = []Batch{{Holder: s.holder, Seq: s.seq, Rows: []Row{}}}
	}
	for i := range all {
		all[i].Lost = s.Lost()
	}
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	s.held.Add(int64(len(b)))
	return writeFile(s.c.Dir, batchFile+name+suffix, b)
}

// send sends the batches of one file, and forgets it.
func (s *Spool) send(ctx context.Context, name string) error {
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		return err
	}
	var all []Batch
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&all); err != nil {
		s.c.Log.Error("a batch of usage can't be read", "file", name, "err", err.Error())
		return os.Rename(s.path(name), s.path("bad-"+name))
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	for _, batch := range all {
		if err := s.c.Send(ctx, batch); err != nil {
			return fmt.Errorf("sending the batch %s of %d: %w", strconv.FormatInt(batch.Seq, 10), len(batch.Rows), err)
		}
	}
	s.held.Add(-int64(len(b)))
	return os.Remove(s.path(name))
}

// Lost is how many calls found no room.
func (s *Spool) Lost() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// writeFile writes a file so that it is there, whole, or not at all, even if the
// machine fails.
func writeFile(dir, name string, b []byte) error {
	f, err := os.CreateTemp(dir, name+"-*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
