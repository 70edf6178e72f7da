package upstream

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// credentialPlace is where the credential stands in a template.
const credentialPlace = "{credential}" //nolint:gosec // a place for one

// Bounds of a file with a credential.
const (
	maxCredential  = 8 << 10 // Bytes.
	readCredential = time.Second
)

// secret is the credential for an upstream, as a header's whole value.
type secret struct {
	file, template string
	log            *slog.Logger

	whole  atomic.Pointer[string]
	looked atomic.Int64 // When the file was last read, in Unix nanoseconds.

	mu      sync.Mutex // Held while the file is read.
	problem string     // What was wrong with it then.
}

// newSecret returns nil if there is no credential.
func newSecret(c *Config) (*secret, error) {
	s := &secret{file: c.CredentialFile, template: c.Template, log: c.Log}
	if c.CredentialFile == "" {
		if c.Credential == "" {
			return nil, nil
		}
		s.set(c.Credential)
		return s, nil
	}
	credential, err := readSecret(s.file)
	if err != nil {
		return nil, err
	}
	s.set(credential)
	s.looked.Store(c.Now().UnixNano())
	return s, nil
}

func (s *secret) set(credential string) {
	whole := credential
	if !strings.Contains(credential, " ") {
		whole = strings.Replace(s.template, credentialPlace, credential, 1)
	}
	s.whole.Store(&whole)
}

// value returns the header's value by now. One call a second reads the file for
// all; the others don't wait for it.
func (s *secret) value(now time.Time) string {
	if s.file != "" {
		last, t := s.looked.Load(), now.UnixNano()
		// A clock that was set back is no reason to wait until it has caught up.
		if (t-last >= int64(readCredential) || t < last) && s.looked.CompareAndSwap(last, t) && s.mu.TryLock() {
			s.reread()
			s.mu.Unlock()
		}
	}
	return *s.whole.Load()
}

func (s *secret) reread() {
	credential, err := readSecret(s.file)
	if err != nil {
		if err.Error() != s.problem { // Once, not every second.
			s.problem = err.Error()
			s.log.Error("reading the credential again: the last one stays", "err", err)
		}
		return
	}
	s.problem = ""
	before := *s.whole.Load()
	if s.set(credential); *s.whole.Load() != before {
		s.log.Info("the credential has changed")
	}
}

// readSecret reads a credential. Errors say nothing of what it is.
func readSecret(path string) (string, error) {
	// A pipe would not even let itself be opened until somebody writes.
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(err, fmt.Errorf("%s is not a regular file", path))
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxCredential+1))
	credential := strings.TrimRight(string(text), "\r\n")
	switch {
	case err != nil:
		return "", err
	case len(text) > maxCredential:
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxCredential)
	case credential == "", !isPrintable(credential), strings.TrimSpace(credential) != credential:
		return "", fmt.Errorf("%s does not hold one line of printable ASCII", path)
	}
	return credential, nil
}
