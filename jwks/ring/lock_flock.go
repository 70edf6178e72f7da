//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package ring

import (
	"errors"
	"os"
	"syscall"
)

// lock waits for the lock on a folder. The file in it can't be locked: each
// write puts another in its place.
func lock(dir string) (unlock func() error, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d.Close, nil // Which unlocks.
}
