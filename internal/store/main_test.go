package store_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/hourpass/hourpass/internal/store"
)

// writerOf in the environment makes the test's program a writer of the store
// that it names.
const writerOf = "STORE_TEST_WRITER_OF"

func TestMain(m *testing.M) {
	if where := os.Getenv(writerOf); where != "" {
		fmt.Fprintln(os.Stderr, write(where, os.Args[1]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// write commits rows, from the given number on, and prints the number of each
// when its commit was answered, until something ends it.
func write(where, from string) error {
	ctx := context.Background()
	db, err := store.Open(ctx, where)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(from, 10, 64)
	if err != nil {
		return err
	}
	for ; ; n++ {
		if _, err := db.ExecContext(ctx, insertLogin, rowKey(n), make([]byte, 200), n); err != nil {
			return err
		}
		if _, err := fmt.Println(n); err != nil {
			return err
		}
	}
}

func rowKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// writer is a process that runs write.
type writer struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	t     *testing.T
}

func startWriter(t *testing.T, where string, from uint64) *writer {
	t.Helper()
	cmd := exec.Command(os.Args[0], strconv.FormatUint(from, 10))
	cmd.Env = append(os.Environ(), writerOf+"="+where)
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return &writer{cmd, bufio.NewScanner(stdout), t}
}

// next waits for the next commit and returns its number; it is not ok when the
// writer has ended.
func (w *writer) next() (n uint64, ok bool) {
	w.t.Helper()
	if !w.lines.Scan() {
		return 0, false
	}
	n, err := strconv.ParseUint(w.lines.Text(), 10, 64)
	if err != nil {
		w.t.Fatalf("the writer printed %q, want a number", w.lines.Text())
	}
	return n, true
}

// await waits until the writer has committed so many rows.
func (w *writer) await(rows int) (last uint64) {
	w.t.Helper()
	for range rows {
		n, ok := w.next()
		if !ok {
			w.t.Fatal("the writer ended by itself")
		}
		last = n
	}
	return last
}

// rest reads what the writer had committed when it ended, which it must have
// been made to.
func (w *writer) rest(last uint64) uint64 {
	w.t.Helper()
	for {
		n, ok := w.next()
		if !ok {
			break
		}
		last = n
	}
	if err := w.cmd.Wait(); err == nil {
		w.t.Error("the writer ended well, want it killed")
	}
	return last
}
