package issuer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/hourpass/hourpass/internal/alert"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/watch"
)

// Watch says what becomes of keys that spend far more than they used to.
type Watch struct {
	// Mode is "enforce", the default: such a key goes into quarantine. "warn" only
	// tells; "off" does not look.
	Mode string
	Rule watch.Rule
}

// Modes of [Watch].
const (
	WatchEnforce = "enforce"
	WatchWarn    = "warn"
	WatchOff     = "off"
)

const (
	watcher      = "watch"    // As StateBy. No identity: those have a colon.
	spendReason  = "spending" // As StateReason.
	watchEvery   = time.Second
	watchTimeout = 30 * time.Second
	pardonLife   = 24 * time.Hour
)

// spendWatch looks after what keys spend.
type spendWatch struct {
	s    *Server
	news chan struct{} // There is usage that nobody has looked at.

	mu      sync.Mutex
	history map[string]keyHistory
}

// keyHistory is what a key spent in the hours before one.
type keyHistory struct {
	hour  int64
	hours []watch.Hour
}

func newSpendWatch(s *Server) *spendWatch {
	return &spendWatch{s: s, news: make(chan struct{}, 1), history: map[string]keyHistory{}}
}

// wake has the watch look soon.
func (w *spendWatch) wake() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// run looks at what keys spend until ctx ends: when there is news, and else now
// and then, as another issuer may have taken them.
func (w *spendWatch) run(ctx context.Context) error {
	if w.s.Watch.Mode == WatchOff {
		return nil
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if err := w.look(ctx, w.s.Now()); err != nil && ctx.Err() == nil {
			w.s.Log.Error("watching what keys spend", "err", err.Error())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C: // Not at the pace of batches.
		}
		select {
		case <-w.news:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// look judges the keys that spend enough to be judged.
func (w *spendWatch) look(ctx context.Context, now time.Time) error {
	floor := w.s.Watch.Rule.Floor
	if floor == 0 {
		floor = watch.DefaultFloor
	}
	present := now.Truncate(time.Hour)
	spenders, err := w.strings(ctx, `SELECT key_id FROM usage WHERE hour >= $1 GROUP BY key_id HAVING sum(input_tokens + output_tokens) > $2 ORDER BY key_id`,
		present.Add(-time.Hour).Unix(), floor)
	if err != nil {
		return err
	}
	w.forget(present)
	for _, key := range spenders {
		if err := w.judge(ctx, key, now); err != nil {
			return err
		}
	}
	return nil
}

func (w *spendWatch) strings(ctx context.Context, query string, args ...any) (list []string, err error) {
	rows, err := w.s.DB.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("reading usage: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			return nil, fmt.Errorf("reading usage: %w", err)
		}
		list = append(list, one)
	}
	return list, rows.Err()
}

// forget drops what is known of the hours before another one.
func (w *spendWatch) forget(present time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, h := range w.history {
		if h.hour != present.Unix() {
			delete(w.history, key)
		}
	}
}

// hours are those in which the key spent, up to the present one.
func (w *spendWatch) hours(ctx context.Context, key string, present time.Time) ([]watch.Hour, error) {
	w.mu.Lock()
	h, known := w.history[key]
	w.mu.Unlock()
	from := present.Add(-watch.History)
	if known && h.hour == present.Unix() {
		from = present.Add(-time.Hour) // That one may still grow: a verifier was cut off.
	}
	fresh, err := w.s.spentHours(ctx, key, from)
	if err != nil {
		return nil, err
	}
	if !known {
		var settled []watch.Hour
		for _, one := range fresh {
			if one.Start.Before(present.Add(-time.Hour)) {
				settled = append(settled, one)
			}
		}
		h = keyHistory{present.Unix(), settled}
		w.mu.Lock()
		w.history[key] = h
		w.mu.Unlock()
		return fresh, nil
	}
	return append(h.hours[:len(h.hours):len(h.hours)], fresh...), nil
}

func (s *Server) spentHours(ctx context.Context, key string, from time.Time) (hours []watch.Hour, err error) {
	rows, err := s.DB.QueryContext(ctx, `SELECT hour, CAST(sum(input_tokens + output_tokens) AS BIGINT) FROM usage WHERE key_id = $1 AND hour >= $2 GROUP BY hour ORDER BY hour`,
		key, from.Unix())
	if err != nil {
		return nil, fmt.Errorf("reading usage: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var hour, tokens int64
		if err := rows.Scan(&hour, &tokens); err != nil {
			return nil, fmt.Errorf("reading usage: %w", err)
		}
		hours = append(hours, watch.Hour{Start: time.Unix(hour, 0).UTC(), Tokens: tokens})
	}
	return hours, rows.Err()
}

// judge judges one key, and does what is to be done.
func (w *spendWatch) judge(ctx context.Context, id string, now time.Time) error {
	hours, err := w.hours(ctx, id, now.Truncate(time.Hour))
	if err != nil {
		return err
	}
	v := w.s.Watch.Rule.Judge(hours, now)
	if !v.Crossed {
		return nil
	}
	key, err := w.s.Keys.Get(ctx, id)
	if errors.Is(err, policy.ErrNoSuchKey) || err == nil && (key.StateAt(now) != policy.Active || len(key.VerifierFor) > 0) {
		return nil
	}
	if err != nil {
		return err
	}
	pardoned, err := w.pardoned(ctx, id, v.Rate, now)
	if err != nil || pardoned {
		return err
	}
	if w.s.Watch.Mode == WatchWarn {
		return w.warn(ctx, key, v, now)
	}
	return w.s.quarantineSpender(ctx, key, v, now)
}

// pardoned tells whether an admin has let the key go, who knew of as much.
func (w *spendWatch) pardoned(ctx context.Context, id string, rate int64, now time.Time) (bool, error) {
	var known int64
	err := w.s.DB.QueryRowContext(ctx, `SELECT rate FROM watch_pardons WHERE key_id = $1 AND until > $2`, id, now.Unix()).Scan(&known)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading pardons: %w", err)
	}
	factor := w.s.Watch.Rule.Factor
	if factor == 0 {
		factor = watch.DefaultFactor
	}
	return float64(rate) <= factor*float64(known), nil
}

// pardon notes, along with its release, what a key that was in quarantine for its
// spending spends at now: up to ten times that is not too much for a day.
func (s *Server) pardon(ctx context.Context, id string, now time.Time) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		var spent int64
		if err := tx.QueryRowContext(ctx, `SELECT CAST(COALESCE(sum(input_tokens + output_tokens), 0) AS BIGINT) FROM usage WHERE key_id = $1 AND hour >= $2`,
			id, now.Truncate(time.Hour).Add(-time.Hour).Unix()).Scan(&spent); err != nil {
			return fmt.Errorf("pardoning a key: %w", err)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO watch_pardons (key_id, rate, until) VALUES ($1, $2, $3)
			ON CONFLICT (key_id) DO UPDATE SET rate = excluded.rate, until = excluded.until`, id, spent, now.Add(pardonLife).Unix())
		return err
	}
}

// spendText says what a key did, in words.
func spendText(key policy.Key, v watch.Verdict) string {
	usual := "It has not been in use for long enough to know what is usual."
	if v.Baseline > 0 {
		usual = "Usual are " + strconv.FormatInt(v.Baseline, 10) + "."
	}
	return "Machine key " + key.ID + " spent " + strconv.FormatInt(v.Rate, 10) + " tokens within an hour. " + usual
}

func (w *spendWatch) warn(ctx context.Context, key policy.Key, v watch.Verdict, now time.Time) error {
	defer w.s.Alert.Wake()
	name := string(alert.KeySpending) + " " + strconv.FormatInt(now.Truncate(time.Hour).Unix(), 10)
	err := store.Tx(ctx, w.s.DB, func(tx *sql.Tx) error {
		return w.s.tellOnce(ctx, tx, name, time.Time{}, alert.Event{
			Time: now, Kind: alert.KeySpending, Severity: alert.Warning, Reason: spendReason, Key: key.ID, Owner: key.Owner, Team: key.Team,
			By: watcher, Text: spendText(key, v),
		})
	})
	if err != nil {
		return fmt.Errorf("warning of a key: %w", err)
	}
	return nil
}

// quarantineSpender takes the key out of use, revokes its tokens, records it and
// alerts its owner: all or nothing. Of several issuers one does.
func (s *Server) quarantineSpender(ctx context.Context, key policy.Key, v watch.Verdict, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	rec := audit.Record{
		Time: now, Decision: audit.NewID(), Event: "key.quarantine", Outcome: audit.Allow, Key: key.ID, Team: key.Team,
		Reason: spendReason, Detail: spendText(key, v), Status: http.StatusOK,
	}
	recorded := false
	_, err := s.Keys.Update(ctx, key.ID, key.Version, func(k *policy.Key) error {
		k.State, k.StateReason, k.StateBy = policy.Quarantined, spendReason, watcher
		return nil
	}, func(tx *sql.Tx) error {
		event := alert.Event{
			ID: audit.NewID(), Time: now, Kind: alert.KeyQuarantined, Severity: alert.Critical, Reason: spendReason, Key: key.ID, Owner: key.Owner, Team: key.Team,
			By: watcher, Decision: rec.Decision, Text: spendText(key, v) + " It is in quarantine, and its tokens are revoked, until an admin enables it.",
		}
		if err := errors.Join(s.revokeKeyIn(ctx, key.ID, spendReason, now)(tx), s.Alert.Put(ctx, tx, event)); err != nil {
			return err
		}
		if recorded {
			return nil
		}
		// Last before the commit, so that no key is in quarantine without its record.
		recorded = true
		return s.Audit.Append(ctx, rec)
	})
	if errors.Is(err, policy.ErrKeyChanged) {
		return nil // It is looked at again in a second.
	}
	if err != nil {
		return fmt.Errorf("quarantining a key: %w", err)
	}
	s.Alert.Wake()
	s.showRevoked(ctx, now)
	return nil
}

// Bounds of a replay.
const (
	maxReplay  = 90 * day
	maxFlagged = 1000
)

// flagged is an hour in which a rule would have found a key to spend too much.
type flagged struct {
	Key       string    `json:"key_id"`
	Hour      time.Time `json:"hour"`
	Tokens    int64     `json:"tokens"`
	Baseline  int64     `json:"baseline"`
	Threshold int64     `json:"threshold"`
}

// replayWatch is GET /v1/watch/replay: what a rule would have found in what was
// recorded.
func (s *Server) replayWatch(w http.ResponseWriter, r *http.Request) error {
	return s.api(w, r, "watch.replay", http.StatusOK, func(p person, _ *audit.Record, now time.Time) (any, error) {
		if !s.mayRead(p) {
			return nil, errRole
		}
		q, err := readQuery(r, "since", "factor", "floor")
		if err != nil {
			return nil, err
		}
		since, rule := now.Add(-30*day), s.Watch.Rule
		if q["since"] != "" {
			if since, err = time.Parse(time.RFC3339, q["since"]); err != nil || now.Sub(since) > maxReplay || since.After(now) {
				return nil, badRequest("since must be a time such as 2026-01-31T00:00:00Z, at most 90 days ago.")
			}
		}
		if q["factor"] != "" {
			if rule.Factor, err = strconv.ParseFloat(q["factor"], 64); err != nil || !(rule.Factor >= 1 && rule.Factor <= 1e6) {
				return nil, badRequest("factor must be a number from 1 on.")
			}
		}
		if q["floor"] != "" {
			if rule.Floor, err = strconv.ParseInt(q["floor"], 10, 64); err != nil || rule.Floor < 1 {
				return nil, badRequest("floor must be a number of tokens from 1 on.")
			}
		}
		return s.replay(r.Context(), rule, since)
	})
}

// replay judges each hour of each key since then by the hours before it.
func (s *Server) replay(ctx context.Context, rule watch.Rule, since time.Time) (any, error) {
	rows, err := s.DB.QueryContext(ctx, `SELECT key_id, hour, CAST(sum(input_tokens + output_tokens) AS BIGINT) FROM usage WHERE hour >= $1
		GROUP BY key_id, hour ORDER BY key_id, hour`, since.Add(-watch.History).Unix())
	if err != nil {
		return nil, fmt.Errorf("reading usage: %w", err)
	}
	defer func() { _ = rows.Close() }()
	found, judged, more := []flagged{}, 0, false
	last, hours := "", []watch.Hour{}
	for rows.Next() {
		var key string
		var hour, tokens int64
		if err := rows.Scan(&key, &hour, &tokens); err != nil {
			return nil, fmt.Errorf("reading usage: %w", err)
		}
		if key != last {
			last, hours = key, hours[:0]
		}
		h := watch.Hour{Start: time.Unix(hour, 0).UTC(), Tokens: tokens}
		if !h.Start.Before(since) {
			judged++
			if v := rule.JudgeHour(hours, h); v.Crossed {
				if more = len(found) == maxFlagged; !more {
					found = append(found, flagged{key, h.Start, tokens, v.Baseline, v.Threshold})
				}
			}
		}
		hours = append(hours, h)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading usage: %w", err)
	}
	return map[string]any{"since": since.UTC(), "hours": judged, "flagged": found, "truncated": more}, nil
}
