package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// ErrBusy means that another process has the log open, or this one twice.
var ErrBusy = errors.New("another process writes to the audit log")

// errForeign means that the file is not as this process left it.
var errForeign = errors.New("somebody else wrote to the file or cut it")

// errRemoved: a record that nobody will ever find is not kept.
var errRemoved = errors.New("somebody removed the file; once the log is reopened it goes on in a new one")

// maxKept bounds the buffer that is kept between writes.
const maxKept = 1 << 20

// writer owns the file. One goroutine uses it.
type writer struct {
	config  Config
	file    *os.File
	regular bool  // Otherwise a device or pipe, of which nothing can be read back.
	size    int64 // Of a regular file.
	tail    tail  // How it ends.
	stale   bool  // A write failed: how much of it is there is not known.

	start    bool   // The file lacks its first line.
	lines    int    // How many no checkpoint covers, or 1 for some.
	due      bool   // It is time for one.
	unsigned error  // Why the last one was not made.
	buf      []byte // For the next write.
}

func newWriter(c Config) (*writer, error) {
	if c.Now == nil || c.Signer != nil && c.Keys == nil {
		return nil, errors.New("no clock is given, or a signer without its keys")
	}
	w := &writer{config: c}
	err := w.open()
	if errors.Is(err, ErrBroken) && c.SetAside {
		if err = os.Rename(c.Path, c.Path+".broken-"+c.Now().UTC().Format("20060102T150405.000000000Z")); err == nil {
			err = w.open()
		}
	}
	if err != nil {
		return nil, err
	}
	if !w.tail.signed {
		w.lines = 1
	}
	w.due = w.lines > 0      // What a crash left unsigned, or the first line.
	if w.write(nil) != nil { // The next write says so again.
		return w, nil
	}
	if w.unsigned != nil {
		return nil, errors.Join(w.unsigned, w.file.Close())
	}
	return w, nil
}

// open opens the file and finds out how it ends.
func (w *writer) open() error {
	if err := w.take(); err != nil {
		return err
	}
	w.start, w.tail = true, tail{chain: chain{log: NewID()}}
	if !w.regular {
		return nil
	}
	if err := w.recover(); err != nil {
		_ = w.file.Close()
		return fmt.Errorf("%s: %w", w.config.Path, err)
	}
	return nil
}

// take opens the file, a regular one for this process alone.
func (w *writer) take() error {
	file, err := os.OpenFile(w.config.Path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil && info.Mode().IsRegular() {
		err = lock(file)
		if err == nil && info.Size() == 0 && w.config.Durable {
			err = syncFolder(w.config.Path) // Or a power cut could take a new file's name.
		}
	}
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("%s: %w", w.config.Path, err)
	}
	w.file, w.regular, w.size = file, info.Mode().IsRegular(), info.Size()
	return nil
}

func syncFolder(path string) error {
	if runtime.GOOS == "windows" {
		return nil // It can't, and no server runs there.
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// recover reads from the file where it ends.
func (w *writer) recover() error {
	info, err := w.file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	t, err := readTail(w.file, size, w.tail.chain)
	switch {
	case err != nil:
		return err
	case t.empty && !w.start, t.seq < w.tail.seq, t.seq == w.tail.seq && t.hash != w.tail.hash:
		return errForeign
	case t.empty && size > 0:
		// Part of a first line, which holds no record, and behind which no first
		// line could follow.
		if err := w.file.Truncate(0); err != nil {
			return err
		}
		t, size = tail{chain: t.chain}, 0
	}
	w.start, w.size, w.tail, w.stale = size == 0, size, t, false
	return nil
}

// write appends the records of the batch, after what the file lacks: the end of a
// line that a crash cut off, its first line, a checkpoint that is due.
func (w *writer) write(batch []*waiting) error {
	var err error
	if w.stale {
		err = w.recover()
	}
	if err == nil {
		err = w.append(batch)
	}
	if err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	return nil
}

// untouched makes sure that the file still ends where the chain does, and still
// has a name.
func (w *writer) untouched() error {
	if !w.regular {
		return nil
	}
	info, err := w.file.Stat()
	switch {
	case err != nil:
		return err
	case info.Size() != w.size:
		return fmt.Errorf("%w: it has %d bytes, not %d", errForeign, info.Size(), w.size)
	case removed(info):
		return errRemoved
	}
	return nil
}

func (w *writer) append(batch []*waiting) error {
	next := w.tail.chain
	buf, err := w.mend(w.buf[:0], &next)
	if err != nil {
		return err
	}
	lines := w.lines
	if w.due || lines >= w.config.CheckpointRecords {
		buf, lines = w.checkpoint(buf, &next)
	}
	for _, e := range batch {
		begin := len(buf)
		buf = append(next.appendStart(buf), e.body...)
		next.push(buf[begin:])
	}
	if w.buf = buf; cap(buf) > maxKept {
		w.buf = nil
	}
	if len(buf) == 0 {
		return nil
	}
	if err := w.untouched(); err != nil {
		return err
	}
	n, err := w.file.Write(buf)
	if err != nil {
		w.stale = w.regular
		if !w.regular && n > 0 {
			w.start, w.tail = true, tail{chain: chain{log: NewID()}, open: true}
		}
		return err
	}
	w.size += int64(n)
	w.tail, w.start, w.due, w.lines = tail{chain: next}, false, false, lines+len(batch)
	if w.config.Durable && w.regular {
		// If it fails, the lines stay in the chain: the file has them as far as
		// anybody can read it, and nobody was told that they are kept.
		return w.file.Sync()
	}
	return nil
}

// mend appends what must stand before the next record.
func (w *writer) mend(buf []byte, next *chain) ([]byte, error) {
	if w.tail.open {
		buf = append(buf, '\n')
	}
	begin := len(buf)
	var err error
	switch {
	case w.tail.torn.bytes > 0:
		buf, err = next.appendTorn(buf, w.config.Now(), w.tail.torn)
	case w.start:
		buf, err = next.appendHead(buf, w.config.Now(), w.config.Program)
	}
	if err == nil && len(buf) > begin {
		next.push(buf[begin:])
	}
	return buf, err
}

// checkpoint appends one, if there is a signer, and returns how many lines it
// leaves uncovered.
func (w *writer) checkpoint(buf []byte, next *chain) ([]byte, int) {
	if w.config.Signer == nil {
		return buf, 0
	}
	signed, err := next.sign(buf, w.config.Now(), w.config.Signer, w.config.Keys)
	if err != nil {
		// Not again at each record: the signer may be slow as well as broken.
		w.due, w.lines = false, 1
		w.unsigned = fmt.Errorf("signing a checkpoint of the audit log: %w", err)
		if w.config.Problem != nil {
			w.config.Problem(w.unsigned)
		}
		return buf, 1
	}
	w.unsigned = nil
	next.push(signed[len(buf):])
	return signed, 0
}

// reopen goes on in a new file, if the path no longer names the present one.
func (w *writer) reopen() error {
	if !w.regular {
		return nil
	}
	here, err := w.file.Stat()
	if err != nil {
		return fmt.Errorf("reopening the audit log: %w", err)
	}
	if there, err := os.Stat(w.config.Path); err == nil && os.SameFile(here, there) {
		return nil
	}
	w.due = w.lines > 0
	finished := w.write(nil)
	if w.stale {
		return finished // The new file could not say where this one ends.
	}
	old := *w
	if err := w.take(); err != nil {
		return fmt.Errorf("reopening the audit log: %w", err)
	}
	if !w.regular || w.size > 0 {
		_ = w.file.Close()
		*w = old
		return fmt.Errorf("reopening the audit log: %s is there already, and not empty", w.config.Path)
	}
	w.start, w.due, w.tail = true, true, tail{chain: old.tail.chain}
	return errors.Join(finished, old.file.Close(), w.write(nil))
}

// close signs what no checkpoint covers and closes the file.
func (w *writer) close() error {
	var err error
	if !w.start { // Otherwise there is no record in it.
		w.due = w.lines > 0
		err = w.write(nil)
	}
	// What could not be signed was told to Problem, and is signed when the log is
	// opened again.
	return errors.Join(err, w.file.Close())
}
