package alert_test

import (
	"context"
	"database/sql"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/alert"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/store/storetest"
)

// TestWithItsCause: an event is sent exactly if what it tells of was committed,
// whole, to every sink.
func TestWithItsCause(t *testing.T) {
	storetest.Each(t, func(t *testing.T, in storetest.Store) {
		c, one, two := newClock(), &sink{name: "one"}, &sink{name: "two"}
		o := open(t, in.DB, c, one, two)
		e := alert.Event{
			Time: start.In(time.FixedZone("", 3600)), Kind: alert.KeyQuarantined, Severity: alert.Critical, Text: "Ключ\x00 found.", Reason: "leaked",
			Key: "k", Owner: "corp:ada", Team: "search", By: "leak receiver", Due: start.Add(time.Hour), Decision: "d",
		}
		undone := errors.New("undone")
		err := store.Tx(t.Context(), in.DB, func(tx *sql.Tx) error { return errors.Join(o.Put(t.Context(), tx, e), undone) })
		if !errors.Is(err, undone) || waiting(t, in.DB) != 0 {
			t.Fatalf("after a rollback: %v, %d events wait", err, waiting(t, in.DB))
		}
		if err := store.Tx(t.Context(), in.DB, func(tx *sql.Tx) error { return o.Put(t.Context(), tx, e) }); err != nil {
			t.Fatal(err)
		}
		deliver(t, o)
		deliver(t, o)
		if len(one.sent) != 1 || len(two.sent) != 1 || waiting(t, in.DB) != 0 {
			t.Fatalf("sent %v and %v, %d wait", one.sent, two.sent, waiting(t, in.DB))
		}
		got := one.sent[0]
		if got.ID == "" || !reflect.DeepEqual(got, two.sent[0]) {
			t.Errorf("one was sent %+v, two %+v", got, two.sent[0])
		}
		e.ID, e.Time = got.ID, e.Time.UTC()
		if !reflect.DeepEqual(got, e) {
			t.Errorf("sent %+v, want %+v", got, e)
		}
	})
}

// TestTriedAgain: ever later, until three days are over; the last attempt is
// then, and what is given up is said.
func TestTriedAgain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, in storetest.Store) {
		c, l, s := newClock(), &logs{}, &sink{name: "s", answer: away}
		o := openLogging(t, in.DB, c, l, s)
		put(t, in.DB, o, c, "a")
		var pauses []time.Duration
		last := c.now()
		for attempts := 1; ; attempts++ {
			deliver(t, o)
			deliver(t, o) // It is not due again at once.
			if n := len(s.ids()); n != attempts || n > 200 {
				t.Fatalf("%d attempts, want %d", n, attempts)
			}
			if waiting(t, in.DB) == 0 {
				break
			}
			due := nextDue(t, in.DB)
			pauses = append(pauses, due.Sub(last))
			last = due
			c.pass(due.Sub(c.now()) - time.Second)
			deliver(t, o) // Nor before its time.
			c.pass(time.Second)
		}
		if last != start.Add(alert.Life) {
			t.Errorf("the last attempt was after %s, want %s", last.Sub(start), alert.Life)
		}
		want := alert.FirstPause
		varied := false
		for i, got := range pauses[:len(pauses)-1] {
			if got > want || got < want/2-time.Second { // Whole seconds are kept.
				t.Errorf("pause %d is %s, want %s to %s", i+1, got, want/2, want)
			}
			varied = varied || got < want-time.Second
			want = min(2*want, alert.MaxPause)
		}
		if !varied {
			t.Error("no pause is by chance")
		}
		if log := l.String(); strings.Count(log, `"alarm":"undelivered"`) != 1 || !strings.Contains(log, `"kind":"replay"`) {
			t.Errorf("the log says %s", log)
		}
	})
}

// TestTakenAtLast: after failures, once and no more.
func TestTakenAtLast(t *testing.T) {
	storetest.Each(t, func(t *testing.T, in storetest.Store) {
		c, s, well := newClock(), &sink{name: "s", answer: away}, &sink{name: "well"}
		o := open(t, in.DB, c, s, well)
		put(t, in.DB, o, c, "a")
		deliver(t, o)
		c.pass(alert.FirstPause)
		deliver(t, o)
		s.answer = nil
		c.pass(2 * alert.FirstPause)
		deliver(t, o)
		c.pass(alert.MaxPause)
		deliver(t, o)
		s.want(t, "a", "a", "a")
		well.want(t, "a") // One that is away costs the other nothing.
	})
}

// TestAfterALongOutage: whoever was down for a week still makes one attempt.
func TestAfterALongOutage(t *testing.T) {
	c, s, in := newClock(), &sink{name: "s"}, storetest.SQLite(t)
	o := open(t, in.DB, c, s)
	put(t, in.DB, o, c, "a")
	c.pass(alert.Life + time.Hour)
	deliver(t, o)
	s.want(t, "a")
}

// TestNewsFirst: what fails holds up nothing that is new.
func TestNewsFirst(t *testing.T) {
	storetest.Each(t, func(t *testing.T, in storetest.Store) {
		c := newClock()
		s := &sink{name: "s"}
		s.answer = func(e alert.Event) error {
			if e.ID == "bad" {
				return errAway
			}
			return nil
		}
		o := open(t, in.DB, c, s)
		put(t, in.DB, o, c, "bad")
		deliver(t, o)
		c.pass(time.Minute)
		put(t, in.DB, o, c, "new")
		deliver(t, o)
		s.want(t, "bad", "new", "bad")
	})
}

// TestOneSends: of issuers that share a store one sends an event, however many
// look at once.
func TestOneSends(t *testing.T) {
	storetest.Each(t, func(t *testing.T, in storetest.Store) {
		const events, issuers = 100, 4
		c, s := newClock(), &sink{name: "s"}
		var ids []string
		for i := range events {
			ids = append(ids, strconv.Itoa(i))
		}
		put(t, in.DB, open(t, in.DB, c, s), c, ids...)
		var wg sync.WaitGroup
		for range issuers {
			o := open(t, in.DB, c, s)
			wg.Go(func() {
				if err := o.Deliver(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		count := map[string]int{}
		for _, id := range s.ids() {
			count[id]++
		}
		for _, id := range ids {
			if count[id] != 1 {
				t.Errorf("event %s was sent %d times", id, count[id])
			}
		}
	})
}

// TestLease: while one sends, no other does; when it dies over it, another does
// a minute later. When it only took long, its failure puts nothing off.
func TestLease(t *testing.T) {
	storetest.Each(t, func(t *testing.T, in storetest.Store) {
		c, other := newClock(), &sink{name: "s"}
		second := open(t, in.DB, c, other)
		slow := &sink{name: "s"}
		slow.answer = func(alert.Event) error {
			deliver(t, second)
			other.want(t)
			other.answer = away
			for c.pass(alert.Lease); len(other.ids()) < 5; c.pass(time.Second) {
				deliver(t, second)
			}
			return errAway
		}
		first := open(t, in.DB, c, slow)
		put(t, in.DB, first, c, "a")
		deliver(t, first)
		slow.want(t, "a")
		// It is the other's by now, which waits longer after its fifth failure than
		// the first would after its only one.
		other.answer = nil
		c.pass(alert.FirstPause)
		deliver(t, second)
		if n := len(other.ids()); n != 5 {
			t.Errorf("the other made %d attempts, want 5", n)
		}
		c.pass(32 * alert.FirstPause)
		deliver(t, second)
		if n := len(other.ids()); n != 6 {
			t.Errorf("the other made %d attempts, want 6", n)
		}
	})
}

// TestStopped: who is told to end within an attempt leaves the event to be sent.
func TestStopped(t *testing.T) {
	storetest.Each(t, func(t *testing.T, in storetest.Store) {
		c := newClock()
		ctx, cancel := context.WithCancel(t.Context())
		s := &sink{name: "s", answer: func(alert.Event) error { cancel(); return context.Canceled }}
		o := open(t, in.DB, c, s)
		put(t, in.DB, o, c, "a")
		_ = o.Deliver(ctx) // It was told to end.
		c.pass(alert.FirstPause)
		s.answer = nil
		deliver(t, o)
		s.want(t, "a", "a")
	})
}

// TestRun: what is put is sent at once, and by whoever runs; what waits for a
// sink that is gone is forgotten.
func TestRun(t *testing.T) {
	c, s, in := newClock(), &sink{name: "s"}, storetest.SQLite(t)
	put(t, in.DB, open(t, in.DB, c, &sink{name: "gone"}), c, "orphan")
	c.pass(2*alert.Life + time.Second)
	got := make(chan alert.Event)
	s.answer = func(e alert.Event) error { got <- e; return nil }
	o := open(t, in.DB, c, s)
	put(t, in.DB, open(t, in.DB, c, s), c, "by another")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- o.Run(ctx) }()
	if e := <-got; e.ID != "by another" {
		t.Errorf("sent %+v", e)
	}
	put(t, in.DB, o, c, "woken")
	o.Wake()
	o.Wake() // Never blocks.
	if e := <-got; e.ID != "woken" {
		t.Errorf("sent %+v", e)
	}
	put(t, in.DB, o, c, "found")
	if e := <-got; e.ID != "found" {
		t.Errorf("sent %+v", e)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := waiting(t, in.DB); n != 0 {
		t.Errorf("%d events wait", n)
	}
}

func TestNames(t *testing.T) {
	in := storetest.SQLite(t)
	for _, names := range [][]string{{""}, {"a_c"}, {"a%"}, {"a/b"}, {"A"}, {"one", "one"}} {
		var sinks []alert.Sink
		for _, n := range names {
			sinks = append(sinks, &sink{name: n})
		}
		if _, err := alert.NewOutbox(in.DB, mac, (&logs{}).logger(), newClock().now, sinks...); err == nil {
			t.Errorf("NewOutbox of sinks %q: no error", names)
		}
	}
}

// TestBounded: no text is longer than it may be.
func TestBounded(t *testing.T) {
	c, s, in := newClock(), &sink{name: "s"}, storetest.SQLite(t)
	o := open(t, in.DB, c, s)
	long := strings.Repeat("x", 10_000)
	if err := store.Tx(t.Context(), in.DB, func(tx *sql.Tx) error {
		return o.Put(t.Context(), tx, alert.Event{Text: long, Reason: long, Key: long, Owner: long, Team: long, By: long, Decision: long})
	}); err != nil {
		t.Fatal(err)
	}
	deliver(t, o)
	if e := s.sent[0]; len(e.Text+e.Reason+e.Key+e.Owner+e.Team+e.By+e.Decision) != 7*alert.MaxText {
		t.Errorf("sent %+v", e)
	}
}

func TestLog(t *testing.T) {
	var l logs
	e := alert.Event{ID: "i", Time: start, Kind: alert.Replay, Severity: alert.Critical, Text: "It came\ntwice.", Key: "k", Due: start}
	if err := (alert.Log{Logger: l.logger()}).Send(t.Context(), e, start); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"level":"WARN"`, `"msg":"It came\ntwice."`, `"alarm":"replay"`, `"id":"i"`, `"severity":"critical"`, `"key":"k"`, `"due_at":"2027-01-15T08:00:00Z"`} {
		if !strings.Contains(l.String(), want) {
			t.Errorf("the line is %s, want %s", l.String(), want)
		}
	}
	if strings.Contains(l.String(), "owner") {
		t.Errorf("the line is %s, and there is no owner", l.String())
	}
}

// TestForgedAlerts: who can write into the table has nothing of their own sent,
// nor an event to another sink, under another id or with another text.
func TestForgedAlerts(t *testing.T) {
	for name, forge := range map[string]string{
		"an event of their own": `INSERT INTO alerts (id, body, mac, attempts, due_at, expires_at) VALUES ('s/evil', '{"id":"evil","text":"Log in at https://evil."}', mac, 0, 0, 99999999999)`,
		"another text":          `UPDATE alerts SET body = '{"id":"e","text":"Log in at https://evil."}'`,
		"no MAC":                `UPDATE alerts SET mac = ''`,
		"another id":            `UPDATE alerts SET id = 's/evil'`,
		"another sink's":        `UPDATE alerts SET id = 's/e' WHERE id = 'other/e'`,
	} {
		storetest.Each(t, func(t *testing.T, in storetest.Store) {
			c, s, l := newClock(), &sink{name: "s"}, &logs{}
			to := []alert.Sink{s}
			if name == "another sink's" {
				to = []alert.Sink{&sink{name: "other"}}
			}
			put(t, in.DB, open(t, in.DB, c, to...), c, "e")
			if _, err := in.DB.ExecContext(t.Context(), strings.Replace(forge, "mac, 0", "(SELECT mac FROM alerts), 0", 1)); err != nil {
				t.Fatal(err)
			}
			deliver(t, openLogging(t, in.DB, c, l, s))
			if ids := s.ids(); len(ids) > 0 && (len(ids) > 1 || ids[0] != "e" || s.sent[0].Text != "It came twice." || name != "an event of their own") {
				t.Errorf("%s: sent %+v", name, s.sent)
			}
			if n := waiting(t, in.DB); n != 0 || !strings.Contains(l.String(), `"alarm":"alert_forged"`) || strings.Contains(l.String(), "evil") {
				t.Errorf("%s: %d wait, and the log says %s", name, n, l.String())
			}
		})
	}
}
