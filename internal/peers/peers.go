// Package peers gives the tests the other side of each conversation: programs
// that nobody here wrote, started for one test and ended with it. They are a
// certified OpenID provider ([StartOIDCProvider]), the SDKs that people use
// ([RunNode]), a browser ([NewBrowser]) and parsers of JSON ([StartJSONReaders]).
//
// It knows nothing of Hourpass, so that its word on Hourpass counts, and only
// tests import it. scripts/test-deps installs what it starts: Chromium from the
// system, the rest from the lock file in node/. A peer that is not installed
// fails the test; it is never a reason to skip one.
//
// Peers listen on loopback, on ports that the kernel chose, and are asked until
// they answer before a test goes on.
package peers

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// patience bounds each wait for a peer. It is many times what a peer takes on
// an idle machine, for the machine that runs all the other tests too.
const patience = 60 * time.Second

// missing ends the test because what is not installed.
func missing(t testing.TB, what string) {
	t.Helper()
	t.Fatalf("%s is missing: run `make test` (it installs the test peers)", what)
}

// node returns the pinned Node and the folder of its scripts and modules.
func node(t testing.TB) (binary, dir string) {
	t.Helper()
	dir = filepath.Join(moduleRoot(t), "internal", "peers", "node")
	arch := map[string]string{"amd64": "x64"}[runtime.GOARCH]
	if arch == "" {
		arch = runtime.GOARCH
	}
	name := "node-" + runtime.GOOS + "-" + arch
	binary = filepath.Join(dir, "node_modules", name, "bin", "node")
	if _, err := os.Stat(binary); err != nil {
		missing(t, name)
	}
	return binary, dir
}

// moduleRoot returns the folder of go.mod. Tests run in the folder of their
// package, so it is that folder or above it.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if filepath.Dir(dir) == dir {
			t.Fatal("no go.mod at or above the folder of the test")
		}
		dir = filepath.Dir(dir)
	}
}

// nodeEnv is the environment of a script: what Node needs and what the test
// gives, and nothing else of the developer's, such as an OPENAI_API_KEY.
func nodeEnv(extra map[string]string) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "NO_COLOR=1"}
	for k, v := range extra {
		env = append(env, k+"="+v)
	}
	return env
}
