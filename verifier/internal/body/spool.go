package body

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/hourpass/hourpass/verifier/internal/refusal"
)

// maxMemory is how many bytes of a form's files stay in memory.
const maxMemory = 1 << 20

// A spool keeps what is written to it until it is closed: in memory at first,
// then in a temporary file that has no name, so that it goes with the process
// whatever happens. Once written, it can be read from several places at once.
type spool struct {
	memory []byte
	file   *os.File // Has everything, if it is there.
	named  bool     // The system can't take the name of an open file away.
	size   int64
	taken  int64 // Of the disk.
	disk   *Disk
}

// A Disk bounds what all bodies together take there. It is safe for concurrent
// use.
type Disk struct {
	Max int64 // Bytes.

	taken atomic.Int64
}

func (d *Disk) take(n int64) bool {
	if d.taken.Add(n) <= d.Max {
		return true
	}
	d.taken.Add(-n)
	return false
}

func (s *spool) Write(p []byte) (int, error) {
	s.size += int64(len(p))
	if s.file == nil && s.size <= maxMemory {
		s.memory = append(s.memory, p...)
		return len(p), nil
	}
	if more := s.size - s.taken; !s.disk.take(more) {
		return 0, refusal.ErrNoRoom
	}
	s.taken = s.size
	if s.file == nil {
		if err := s.open(); err != nil {
			return 0, err
		}
	}
	n, err := s.file.Write(p)
	if err != nil {
		err = fmt.Errorf("keeping a body: %w", err)
	}
	return n, err
}

// open moves what is in memory to a file, which only we may open (0600).
func (s *spool) open() (err error) {
	if s.file, err = os.CreateTemp("", "hourpass-body-"); err != nil {
		return fmt.Errorf("keeping a body: %w", err)
	}
	s.named = os.Remove(s.file.Name()) != nil
	if _, err := s.file.Write(s.memory); err != nil {
		return fmt.Errorf("keeping a body: %w", err)
	}
	s.memory = nil
	return nil
}

// section reads n bytes from the place at on.
func (s *spool) section(at, n int64) io.Reader {
	if s.file == nil {
		return bytes.NewReader(s.memory[at : at+n])
	}
	return io.NewSectionReader(s.file, at, n)
}

// Close gives everything back. Reading from it after that fails.
func (s *spool) Close() {
	s.disk.taken.Add(-s.taken)
	s.taken = 0
	if s.file == nil {
		return
	}
	_ = s.file.Close() // The bytes are of no more use.
	if s.named {
		_ = os.Remove(s.file.Name())
	}
}
