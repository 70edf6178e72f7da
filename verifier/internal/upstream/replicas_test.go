package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourpass/hourpass/verifier/internal/upstream"
)

func TestTurnsAmongIdle(t *testing.T) {
	newFleet(t, "a", "b", "c").want(6, "bcabca", "three that do nothing")
}

// TestFewestAtWork: an answer that is not closed is work.
func TestFewestAtWork(t *testing.T) {
	f := newFleet(t, "a", "b")
	res, err := f.server.RoundTrip(post(t.Context(), `{"model":"small"}`))
	if err != nil {
		t.Fatal(err)
	}
	busy := res.Request.URL.Host
	idle := map[string]string{"a": "b", "b": "a"}[busy]
	f.want(3, strings.Repeat(idle, 3), "one is at work")
	if err := errors.Join(res.Body.Close(), res.Body.Close()); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := f.asked(4); strings.Count(got, busy) != 2 {
		t.Errorf("none at work: asked %q, want each twice", got)
	}
}

// TestLeftAlone: one that fails three times in a row has a break; its next call
// is one at a time.
func TestLeftAlone(t *testing.T) {
	for _, status := range []int{502, 503, 504} {
		f := newFleet(t, "a", "b")
		f.let("a", status, nil)
		f.want(6, "bababa", "until the third")
		f.want(4, "bbbb", "within the break")
		f.clock.pass(2 * time.Second)
		if got, _, _ := f.asked(4); strings.Count(got, "a") != 1 {
			t.Errorf("after the break: asked %q, want a once: it fails again", got)
		}
		f.let("a", 200, nil)
		f.clock.pass(4 * time.Second)
		if got, _, _ := f.asked(4); strings.Count(got, "a") != 2 {
			t.Errorf("%d: well again: asked %q, want both", status, got)
		}
		if f.logs.count("left alone") != 2 || f.logs.count("is back") != 1 {
			t.Errorf("the log has\n%s", f.logs.b.String())
		}
	}
}

func TestNoReasonForABreak(t *testing.T) {
	for name, status := range map[string]int{"an error of its own": 500, "a limit": 429, "a bad request": 400} {
		f := newFleet(t, "a", "b")
		f.let("a", status, nil)
		f.want(8, "babababa", name)
	}
	f := newFleet(t, "a", "b")
	n := 0
	f.lets("a", func(*http.Request) (int, error) {
		if n++; n%3 == 0 {
			return 200, nil
		}
		return 503, nil
	})
	f.want(20, strings.Repeat("ba", 10), "two in a row")
	f = newFleet(t, "a", "b")
	for range 8 {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		for _, host := range []string{"a", "b"} {
			f.lets(host, func(*http.Request) (int, error) { cancel(nil); return 0, context.Canceled })
		}
		if _, err := f.server.RoundTrip(post(ctx, `{"model":"small"}`)); !errors.Is(err, context.Canceled) {
			t.Errorf("RoundTrip = %v", err)
		}
	}
	if n := f.logs.count("left alone"); n != 0 {
		t.Errorf("%d were left alone because clients had left", n)
	}
}

// TestSlowIsAFailure: our patience ended, not the client's.
func TestSlowIsAFailure(t *testing.T) {
	f := newFleet(t, "a", "b")
	for range 6 {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		f.lets("a", func(*http.Request) (int, error) { cancel(errors.New("too slow")); return 0, context.Canceled })
		if res, err := f.server.RoundTrip(post(ctx, `{"model":"small"}`)); err == nil {
			res.Body.Close()
		}
	}
	f.want(4, "bbbb", "one that is slow")
}

// TestBreaksGrow: each is twice as long as the one before, less up to a half,
// and never longer than a minute.
func TestBreaksGrow(t *testing.T) {
	for range 20 {
		f := newFleet(t, "a", "b")
		f.let("a", 0, errDial)
		f.want(2, "bab", "the first time")
		for i := range 9 {
			long := min(2*time.Second<<i, time.Minute)
			f.clock.pass(long/2 - 1)
			f.want(3, "bbb", fmt.Sprintf("break %d, before %v", i, long/2))
			f.clock.pass(long/2 + 1)
			if got, _, _ := f.asked(3); strings.Count(got, "a") != 1 {
				t.Fatalf("break %d, after %v: asked %q, want a once", i, long, got)
			}
		}
		f.let("a", 200, nil)
		f.clock.pass(time.Minute)
		if got, _, _ := f.asked(2); strings.Count(got, "a") != 1 {
			t.Fatalf("well again: asked %q", got)
		}
		f.clock.pass(5 * time.Minute)
		if got, _, _ := f.asked(2); strings.Count(got, "a") != 1 {
			t.Fatalf("well for long: asked %q", got)
		}
		f.let("a", 0, errDial)
		if got, _, _ := f.asked(2); strings.Count(got, "a") != 1 {
			t.Fatalf("dead again: asked %q", got)
		}
		f.clock.pass(2 * time.Second)
		if got, _, _ := f.asked(2); strings.Count(got, "a") != 1 {
			t.Fatalf("after a break that is short again: asked %q", got)
		}
	}
}

// TestBreaksDiffer: many verifiers don't come back at once.
func TestBreaksDiffer(t *testing.T) {
	back := map[int]bool{}
	for range 20 {
		f := newFleet(t, "a", "b")
		f.let("a", 0, errDial)
		f.sends(2)
		f.clock.pass(time.Second)
		for step := 0; ; step++ {
			if got, _, _ := f.asked(2); strings.Contains(got, "a") {
				back[step] = true
				break
			}
			f.clock.pass(10 * time.Millisecond)
		}
	}
	if len(back) < 5 {
		t.Errorf("20 breaks have %d lengths", len(back))
	}
}

// TestNeverAll: with all in a break, the one whose break ends first is asked.
func TestNeverAll(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	for _, host := range []string{"a", "b", "c"} {
		f.let(host, 503, nil)
	}
	f.sends(9)
	f.clock.pass(time.Minute) // Each fails its trial, at another time.
	f.let("b", 0, errDial)
	f.sends(1)
	f.let("b", 503, nil)
	if _, status, err := f.asked(5); status != 503 || err != nil {
		t.Errorf("with all in a break: %d, %v, want an answer all the same", status, err)
	}
	f.let("a", 200, nil)
	f.let("b", 200, nil)
	f.let("c", 200, nil)
	if _, status, err := f.asked(1); status != 200 || err != nil {
		t.Errorf("they are well again: %d, %v", status, err)
	}
	if got, status, _ := f.asked(3); status != 200 {
		t.Errorf("one is well again: asked %q, %d", got, status)
	}

	for long, short := range map[string]string{"a": "b", "b": "a"} {
		f = newFleet(t, "a", "b")
		f.let(long, 0, errDial)
		f.sends(2)
		for range 5 {
			f.clock.pass(time.Minute)
			f.sends(2)
		}
		f.let(short, 0, errDial)
		f.sends(1)
		f.let(short, 503, nil)
		f.want(1, short, "its break is shorter")

		f = newFleet(t, "a", "b")
		f.let(long, 500, nil)
		f.server.AskHealth(t.Context())
		f.server.AskHealth(t.Context())
		f.let(short, 0, errDial)
		f.sends(1)
		f.let(short, 200, nil)
		f.want(1, short, "the other is known to be down")
	}
}

// TestBreaksAreRemembered: one that dies again and again does not begin anew each time.
func TestBreaksAreRemembered(t *testing.T) {
	f := newFleet(t, "a", "b")
	f.let("a", 0, errDial)
	f.sends(2)
	f.let("a", 200, nil)
	f.clock.pass(2 * time.Second)
	f.sends(2)
	f.let("a", 0, errDial)
	f.sends(2)
	f.clock.pass(2*time.Second - 1)
	f.want(2, "bb", "the second break")
}

// TestOneTrialAtATime: what a replica may not survive does not all come to it at
// once.
func TestOneTrialAtATime(t *testing.T) {
	f := newFleet(t, "a", "b")
	f.let("a", 0, errDial)
	f.sends(2)
	f.clock.pass(time.Minute)
	inside, answer := make(chan bool, 4), make(chan bool)
	f.lets("a", func(*http.Request) (int, error) { inside <- true; <-answer; return 200, nil })
	var wait sync.WaitGroup
	for range 2 { // One of two in turns.
		wait.Go(func() { _, _, _ = send(t, f.server) })
	}
	<-inside
	var held []*http.Response
	for range 5 {
		res, err := f.server.RoundTrip(post(t.Context(), `{"model":"small"}`))
		if err != nil || res.Request.URL.Host != "b" {
			t.Fatalf("while one tries: %v, %v", res, err)
		}
		held = append(held, res) // b is the busier by far.
	}
	close(answer)
	wait.Wait()
	f.let("a", 200, nil)
	f.want(3, "aaa", "the trial went well")
	for _, res := range held {
		res.Body.Close()
	}
}

// TestOldNewsIsNoNews: what was sent before a break neither ends nor extends it.
func TestOldNewsIsNoNews(t *testing.T) {
	for _, status := range []int{200, 503} {
		f := newFleet(t, "a", "b")
		inside, answer := make(chan bool, 4), make(chan bool)
		f.lets("a", func(*http.Request) (int, error) { inside <- true; <-answer; return status, nil })
		f.sends(1) // b's turn.
		var wait sync.WaitGroup
		wait.Go(func() { _, _, _ = send(t, f.server) })
		<-inside
		f.let("a", 0, errDial)
		for f.logs.count("left alone") == 0 { // b gets busier until it is a's turn.
			res, err := f.server.RoundTrip(post(t.Context(), `{"model":"small"}`))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
		}
		close(answer)
		wait.Wait()
		f.let("a", 200, nil)
		f.want(3, "bbb", fmt.Sprintf("a late %d", status))
		f.clock.pass(2 * time.Second)
		if got, _, _ := f.asked(4); !strings.Contains(got, "a") {
			t.Errorf("a late %d: asked %q: the break was made longer", status, got)
		}
	}
}

// TestUnsentGoesElsewhere: with the whole body, and at most three times.
func TestUnsentGoesElsewhere(t *testing.T) {
	f := newFleet(t, "a", "b", "c", "d", "e")
	for _, host := range []string{"b", "c"} {
		f.let(host, 0, errDial)
	}
	if got, status, err := f.asked(1); got != "bcd" && got != "bce" && got != "bca" || status != 200 || err != nil {
		t.Errorf("asked %q: %d, %v", got, status, err)
	}
	f = newFleet(t, "a", "b", "c", "d", "e")
	for _, host := range []string{"a", "b", "c", "d", "e"} {
		f.let(host, 0, errDial)
	}
	if got, _, err := f.asked(1); len(got) != 3 || !errors.Is(err, errDial) {
		t.Errorf("asked %q: %v, want three, and the error as it is", got, err)
	}
	f = newFleet(t, "a", "b")
	f.let("a", 0, errDial)
	f.let("b", 0, errDial)
	if got, _, err := f.asked(1); len(got) != 2 || !errors.Is(err, errDial) {
		t.Errorf("asked %q: %v, want each once", got, err)
	}
	f = newFleet(t, "a", "b")
	f.let("b", 0, errDial)
	r := post(t.Context(), `{"model":"small"}`)
	r.GetBody = nil
	if _, err := f.server.RoundTrip(r); !errors.Is(err, errDial) || len(f.got) != 1 {
		t.Errorf("a body that can't be had anew: %v, asked %q", err, f.got)
	}
}

// TestSentIsSent: whatever may have been executed goes nowhere else.
func TestSentIsSent(t *testing.T) {
	for name, err := range map[string]error{"an end": io.EOF, "a reset": errors.New("write: connection reset by peer"), "a timeout": context.DeadlineExceeded, "a read": &net.OpError{Op: "read", Err: io.EOF}} {
		f := newFleet(t, "a", "b")
		f.let("b", 0, err)
		if got, _, failed := f.asked(1); got != "b" || !errors.Is(failed, err) {
			t.Errorf("%s: asked %q, %v", name, got, failed)
		}
	}
	for _, status := range []int{502, 503, 504} {
		f := newFleet(t, "a", "b")
		f.let("b", status, nil)
		if got, answer, err := f.asked(1); got != "b" || answer != status || err != nil {
			t.Errorf("%d: asked %q, got %d, %v", status, got, answer, err)
		}
	}
	var executed atomic.Int64
	c := upstream.Config{}
	for range 3 {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			executed.Add(1)
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		}))
		t.Cleanup(srv.Close)
		c.URLs = append(c.URLs, srv.URL)
	}
	if _, _, err := send(t, newServer(t, c)); err == nil || executed.Load() != 1 {
		t.Errorf("a server that dies over a call: %v, executed %d times, want once", err, executed.Load())
	}
}

// TestDeadSockets: over real ones.
func TestDeadSockets(t *testing.T) {
	var l logs
	c := upstream.Config{Log: l.logger()}
	var servers []*httptest.Server
	for range 3 {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body)
		}))
		t.Cleanup(srv.Close)
		c.URLs = append(c.URLs, srv.URL)
		servers = append(servers, srv)
	}
	for _, srv := range servers[:2] {
		srv.Close() // Not sooner: the next would get its port.
	}
	s := newServer(t, c)
	for range 10 {
		if status, body, err := send(t, s); status != 200 || body != `{"model":"small"}` || err != nil {
			t.Fatalf("%d %q, %v", status, body, err)
		}
	}
	if n := l.count("left alone"); n < 2 || n > 10 {
		t.Errorf("left alone %d times", n)
	}
}

// TestManyAtOnce gives the race detector something to do.
func TestManyAtOnce(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	var n atomic.Int64
	for _, host := range []string{"a", "b", "c"} {
		f.lets(host, func(*http.Request) (int, error) {
			switch n.Add(1) % 5 {
			case 0:
				return 0, errDial
			case 1:
				return 503, nil
			}
			return 200, nil
		})
	}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 200 {
				_, _, _ = send(t, f.server)
				f.clock.pass(50 * time.Millisecond)
				if n.Load()%50 == 0 {
					f.server.AskHealth(t.Context())
				}
			}
		})
	}
	wait.Wait()
	for _, host := range []string{"a", "b", "c"} {
		f.let(host, 200, nil)
	}
	f.server.AskHealth(t.Context())
	f.clock.pass(10 * time.Minute)
	f.sends(20)
	if got, _, _ := f.asked(9); strings.Count(got, "a") != 3 || strings.Count(got, "b") != 3 {
		t.Errorf("when all is quiet: asked %q, want each alike: nothing is at work", got)
	}
}

func TestHealth(t *testing.T) {
	f := newFleet(t, "a", "b")
	f.let("a", 500, nil)
	f.server.AskHealth(t.Context())
	f.want(4, "baba", "not well once")
	f.server.AskHealth(t.Context())
	f.want(4, "bbbb", "not well twice")
	f.let("b", 0, io.EOF)
	f.server.AskHealth(t.Context())
	f.server.AskHealth(t.Context())
	if got, _, _ := f.asked(4); !strings.Contains(got, "a") {
		t.Errorf("none is well: asked %q", got)
	}
	f.let("a", 204, nil)
	f.server.AskHealth(t.Context())
	f.want(3, "aaa", "well again")
	if f.logs.count("not well") != 2 || f.logs.count("well again") != 1 {
		t.Errorf("the log has\n%s", f.logs.b.String())
	}
	for _, status := range []int{302, 404} {
		f := newFleet(t, "a", "b")
		f.let("a", status, nil)
		f.server.AskHealth(t.Context())
		f.server.AskHealth(t.Context())
		f.want(3, "bbb", "health elsewhere")
	}
	f = newFleet(t, "a", "b")
	for _, status := range []int{500, 200, 500} {
		f.let("a", status, nil)
		f.server.AskHealth(t.Context())
	}
	f.want(4, "baba", "not well now and then")
	// Who stops asking has learned nothing.
	f = newFleet(t, "a", "b")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.let("a", 0, context.Canceled)
	f.server.AskHealth(ctx)
	f.server.AskHealth(ctx)
	f.want(4, "baba", "a program that ends")
}

func TestHealthIsAskedAfter(t *testing.T) {
	asked := make(chan *http.Request, 100)
	c := upstream.Config{Name: "llm", Models: []string{"*"}, Health: "/health", HealthEvery: time.Millisecond, Credential: "sk"}
	for range 2 {
		srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case asked <- r:
			default:
			}
		}))
		t.Cleanup(srv.Close)
		c.URLs = append(c.URLs, srv.URL+"/base")
	}
	set, err := upstream.NewSet([]upstream.Config{c})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- set.Run(ctx) }()
	for range 6 {
		if r := <-asked; r.Method != "GET" || r.RequestURI != "/base/health" || r.Header.Get("Authorization") != "Bearer sk" {
			t.Errorf("asked %s %s %v", r.Method, r.RequestURI, r.Header)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
