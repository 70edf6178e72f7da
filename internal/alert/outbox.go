package alert

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	chance "math/rand/v2"
	"strings"
	"sync"
	"time"
)

// How events get to their sinks.
const (
	Life       = 3 * 24 * time.Hour // How long an event is tried, from when it was put.
	MaxSending = 30 * time.Second   // Of one attempt.

	// Lease is how long an event is one issuer's to send. It is longer than an
	// attempt, and who dies within one holds nobody up for longer.
	Lease = time.Minute

	FirstPause = 5 * time.Second // After the first failure, about; each further one doubles it.
	MaxPause   = time.Hour
	poll       = time.Second // How soon is seen what is due again, or was put by another issuer.
)

// Outbox keeps events in the table "alerts" until each sink has taken them.
// Several may share a store. It is safe for concurrent use.
type Outbox struct {
	db    *sql.DB
	mac   func(message []byte) []byte
	sinks []Sink
	log   *slog.Logger
	now   func() time.Time
	wakes []chan struct{} // One for each sink.
}

// NewOutbox returns the outbox of sinks, whose names differ. It starts nothing.
// What it keeps goes with its mac, a keyed hash whose key is not in the database:
// who can write there, and no more, has nothing of their own sent and signed.
func NewOutbox(db *sql.DB, mac func(message []byte) []byte, log *slog.Logger, now func() time.Time, sinks ...Sink) (*Outbox, error) {
	o := &Outbox{db: db, mac: mac, sinks: sinks, log: log, now: now}
	seen := map[string]bool{}
	for _, s := range sinks {
		name := s.Name()
		if name == "" || seen[name] || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return nil, fmt.Errorf("the name of the alert sink %q is bad, or stands twice", name)
		}
		seen[name] = true
		o.wakes = append(o.wakes, make(chan struct{}, 1))
	}
	return o, nil
}

// Put keeps the event as part of tx: it will be sent exactly if what it tells of
// was done. An event without an id gets one. [Outbox.Wake] after the commit has
// it sent at once.
func (o *Outbox) Put(ctx context.Context, tx *sql.Tx, e Event) error {
	if e.ID == "" {
		e.ID = rand.Text()
	}
	e.Time, e.Due = e.Time.UTC(), e.Due.UTC()
	e.clip()
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding an alert: %w", err)
	}
	for _, s := range o.sinks {
		id := s.Name() + "/" + e.ID
		if _, err := tx.ExecContext(ctx, `INSERT INTO alerts (id, body, mac, attempts, due_at, expires_at) VALUES ($1, $2, $3, 0, $4, $5)`,
			id, string(body), o.macOf(id, string(body)), e.Time.Unix(), e.Time.Add(Life).Unix()); err != nil {
			return fmt.Errorf("keeping an alert: %w", err)
		}
	}
	return nil
}

// macOf is of an event for one sink, under one id. JSON holds no NUL, so that
// nothing passes from one to the other.
func (o *Outbox) macOf(id, body string) []byte { return o.mac([]byte(id + "\x00" + body)) }

// Wake has [Outbox.Run] look at once for what was put.
func (o *Outbox) Wake() {
	for _, wake := range o.wakes {
		select {
		case wake <- struct{}{}:
		default: // It will look anyway.
		}
	}
}

// Run takes events to the sinks until ctx ends. A sink that hangs holds up no
// other.
func (o *Outbox) Run(ctx context.Context) error {
	o.dropOrphans(ctx)
	var wg sync.WaitGroup
	for i, sink := range o.sinks {
		wg.Go(func() {
			tick := time.NewTicker(poll)
			defer tick.Stop()
			for {
				if err := o.deliver(ctx, sink); err != nil && ctx.Err() == nil {
					o.log.Error("delivering alerts", "sink", sink.Name(), "err", err.Error())
				}
				select {
				case <-ctx.Done():
					return
				case <-o.wakes[i]:
				case <-tick.C:
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// dropOrphans forgets what waits for a sink that is configured no more. Of those
// that are, none waits that long.
func (o *Outbox) dropOrphans(ctx context.Context) {
	if _, err := o.db.ExecContext(ctx, `DELETE FROM alerts WHERE expires_at < $1`, o.now().Add(-Life).Unix()); err != nil && ctx.Err() == nil {
		o.log.Error("forgetting old alerts", "err", err.Error())
	}
}

// Deliver tries each event that is due once, and returns when none is left.
func (o *Outbox) Deliver(ctx context.Context) error {
	var failed []error
	for _, sink := range o.sinks {
		failed = append(failed, o.deliver(ctx, sink))
	}
	return errors.Join(failed...)
}

// waiting is an event on its way to one sink.
type waiting struct {
	id       string // SINK/EVENT
	body     string
	mac      []byte
	attempts int64 // The present one included.
	expires  int64
}

func (o *Outbox) deliver(ctx context.Context, sink Sink) error {
	for {
		w, err := o.claim(ctx, sink)
		if err != nil || w == nil {
			return err
		}
		if err := o.send(ctx, sink, *w); err != nil {
			return err
		}
	}
}

// claim takes the event that was tried least, so that news do not queue behind
// what fails. Nil: none is due.
func (o *Outbox) claim(ctx context.Context, sink Sink) (*waiting, error) {
	for {
		now := o.now()
		var w waiting
		err := o.db.QueryRowContext(ctx, `SELECT id, body, mac, attempts, expires_at FROM alerts
			WHERE id LIKE $1 AND due_at <= $2 ORDER BY attempts, due_at, id LIMIT 1`, sink.Name()+"/%", now.Unix()).
			Scan(&w.id, &w.body, &w.mac, &w.attempts, &w.expires)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("looking for alerts: %w", err)
		}
		// Of several issuers that saw it, one finds it as it was.
		res, err := o.db.ExecContext(ctx, `UPDATE alerts SET attempts = attempts + 1, due_at = $1 WHERE id = $2 AND attempts = $3`,
			now.Add(Lease).Unix(), w.id, w.attempts)
		if err != nil {
			return nil, fmt.Errorf("claiming an alert: %w", err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return nil, fmt.Errorf("claiming an alert: %w", err)
		}
		if n == 1 {
			w.attempts++
			return &w, nil
		}
	}
}

// send makes one attempt, and keeps how it went even when ctx has ended.
func (o *Outbox) send(ctx context.Context, sink Sink, w waiting) error {
	if !hmac.Equal(w.mac, o.macOf(w.id, w.body)) {
		// Nothing of it is told: it may be a text for people to read.
		o.log.Error("dropping an alert that was not kept here", "alarm", "alert_forged", "sink", sink.Name())
		return o.settle(ctx, `DELETE FROM alerts WHERE id = $1`, w.id)
	}
	var e Event
	err := json.Unmarshal([]byte(w.body), &e)
	if err == nil {
		sending, cancel := context.WithTimeout(ctx, MaxSending)
		err = sink.Send(sending, e, o.now())
		cancel()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), MaxSending)
	defer cancel()
	if err == nil {
		return o.settle(ctx, `DELETE FROM alerts WHERE id = $1`, w.id)
	}
	now := o.now()
	if now.Unix() >= w.expires {
		o.log.Error("giving up an alert", "alarm", "undelivered", "sink", sink.Name(), "id", e.ID, "kind", string(e.Kind), "attempts", w.attempts, "err", err.Error())
		return o.settle(ctx, `DELETE FROM alerts WHERE id = $1`, w.id)
	}
	// The last attempt is when it expires.
	due := min(now.Add(pause(w.attempts)).Unix(), w.expires)
	o.log.Warn("an alert was not taken", "sink", sink.Name(), "id", e.ID, "attempts", w.attempts, "again_at", time.Unix(due, 0).UTC(), "err", err.Error())
	// If the lease is over, it may be another's by now.
	return o.settle(ctx, `UPDATE alerts SET due_at = $1 WHERE id = $2 AND attempts = $3`, due, w.id, w.attempts)
}

func (o *Outbox) settle(ctx context.Context, query string, args ...any) error {
	if _, err := o.db.ExecContext(ctx, query, args...); err != nil {
		return fmt.Errorf("noting an alert: %w", err)
	}
	return nil
}

// pause is how long to wait after that many attempts: twice as long each time,
// less up to a half by chance, so that what failed together does not come back
// together.
func pause(attempts int64) time.Duration {
	d := MaxPause
	if attempts < 20 { // The shift stays in range.
		d = min(FirstPause<<(attempts-1), MaxPause)
	}
	return d - chance.N(d/2) //nolint:gosec // When it comes is no secret.
}
