package peers

import (
	"bufio"
	"bytes"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// output keeps what a peer printed, for the log of a test that fails.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// process is a peer that answers lines on its standard output with lines on its
// standard input.
type process struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan string // closed when the peer closed its standard output
	stderr output
	done   chan struct{} // closed when the peer ended
}

// start runs cmd in a process group of its own until the test ends.
func start(t testing.TB, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: name, cmd: cmd, lines: make(chan string, 16), done: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = &p.stderr
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	go func() {
		for s := bufio.NewScanner(stdout); s.Scan(); {
			p.lines <- s.Text()
		}
		close(p.lines)
		_ = cmd.Wait() // after the last read, as StdoutPipe asks
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s printed:\n%s", name, &p.stderr)
		}
	})
	return p
}

// stop kills the peer's process group and waits for its end.
func (p *process) stop() {
	select {
	case <-p.done: // its number may be another's by now
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		for range p.lines { // the reader must not stand in Wait's way
		}
		<-p.done
	}
}

// ask writes one line to the peer and returns the line it answers.
func (p *process) ask(t testing.TB, line []byte) string {
	t.Helper()
	if _, err := p.stdin.Write(append(line, '\n')); err != nil {
		t.Fatalf("writing to %s: %v", p.name, err)
	}
	select {
	case answer, ok := <-p.lines:
		if !ok {
			t.Fatalf("%s ended instead of answering", p.name)
		}
		return answer
	case <-time.After(patience):
		t.Fatalf("%s did not answer within %v", p.name, patience)
	}
	return ""
}
