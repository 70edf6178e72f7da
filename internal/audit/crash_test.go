package audit_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hourpass/hourpass/internal/audit"
)

const childOf = "AUDIT_TEST_CHILD"

// TestMain lets the test's own program be the one that is killed.
func TestMain(m *testing.M) {
	if path := os.Getenv(childOf); path != "" {
		appendForever(path)
	}
	os.Exit(m.Run())
}

// appendForever appends from many goroutines, and says of each record that it is
// kept.
func appendForever(path string) {
	t := &failing{}
	l := open(t, newSigner(t, "EdDSA").with(audit.Config{Path: path, CheckpointRecords: 200}))
	run := audit.NewID()
	var out sync.Mutex
	var all sync.WaitGroup
	for w := range 20 {
		all.Go(func() {
			for i := 0; ; i++ {
				r := record(fmt.Sprint(run, "-", w, "-", i))
				r.Detail = strings.Repeat("x", i*97%1000) // Writes of many pages are torn more often.
				if err := l.Append(t.Context(), r); err != nil {
					panic(err)
				}
				out.Lock()
				fmt.Println(r.Decision)
				out.Unlock()
			}
		})
	}
	all.Wait()
}

// TestKilled: a process is killed while it appends, again and again. Each record
// that it was told is kept is there, and the log is good after each kill.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	var kept []string
	torn := 0
	for round := range 20 {
		kept = append(kept, killed(t, path, 1+round*7)...)
		r := good(t, audit.Options{}, content(t, path))
		if r.Tail > 0 {
			torn++
		}
		there := map[string]int{}
		for _, id := range ids(t, path) {
			there[id]++
		}
		if r.Torn > torn || len(there) > r.Records {
			t.Errorf("report %+v", r)
		}
		for _, id := range kept {
			if there[id] != 1 {
				t.Fatalf("round %d: record %s, which was kept, stands %d times", round, id, there[id])
			}
		}
	}
	t.Logf("%d records, %d kills within a line", len(kept), torn)
}

// killed runs the child, kills it once it has kept that many records, and returns
// them and those that it kept in the meantime.
func killed(t *testing.T, path string, after int) (kept []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childOf+"="+path)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(out)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			break // Of the last line, the child could say a part only.
		}
		if kept = append(kept, strings.TrimSpace(line)); len(kept) == after {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, _ = io.Copy(io.Discard, in)
	_ = cmd.Wait() // It was killed.
	if errs.Len() > 0 || len(kept) < after {
		t.Fatalf("the child kept %d records and says %s", len(kept), errs.String())
	}
	return kept
}
