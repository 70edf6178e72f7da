//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package audit

import "os"

// lock does nothing where there is no flock: no server runs there.
func lock(*os.File) error { return nil }

// removed is for where an open file can be removed.
func removed(os.FileInfo) bool { return false }
