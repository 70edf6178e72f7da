package issuer

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"github.com/hourpass/hourpass/internal/alert"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/revocation"
	"github.com/hourpass/hourpass/internal/store"
)

// When keys' owners are told.
const (
	// NoticeEvery is how often keys are looked at.
	NoticeEvery = time.Hour

	day         = 24 * time.Hour
	noticeLate  = 7 * day                // How long after a key has expired its owner is still told that it has.
	noticesKept = 60 * day               // A notice that could be due again is younger.
	noticePoll  = 100 * time.Millisecond // How often the clock is looked at: it may jump, as after a suspend.
	noticeRetry = time.Minute            // After a failure.
	alarmQuiet  = time.Hour              // For how long the like of an alarm is not told again: the audit has each.
	alarmTime   = 5 * time.Second        // To keep one.
)

// noticeDays are how many days before a date people are told of it, the last
// first.
var noticeDays = []int{1, 7, 30}

// watchKeys gives notice of keys that expire or want a new secret, until ctx
// ends.
func (s *Server) watchKeys(ctx context.Context) error {
	tick := time.NewTicker(noticePoll)
	defer tick.Stop()
	var next time.Time
	for {
		if now := s.Now(); !now.Before(next) || next.Sub(now) > NoticeEvery { // The clock may have been set back.
			next = now.Add(NoticeEvery)
			if err := s.giveNotices(ctx, now); err != nil && ctx.Err() == nil {
				s.Log.Error("giving notice of keys", "err", err.Error())
				next = now.Add(noticeRetry)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// giveNotices looks at every key with a date that is near or past.
func (s *Server) giveNotices(ctx context.Context, now time.Time) error {
	furthest := time.Duration(noticeDays[len(noticeDays)-1]) * day
	f := policy.KeyFilter{Due: now.Add(furthest + time.Second)}
	// Keys come newest first, and none outlives its maxKeyAge: what was made
	// before then has expired long ago, so that those need no look again and again.
	oldest := now.Add(-maxKeyAge - noticeLate)
	for {
		page, err := s.Keys.List(ctx, f, now)
		if err != nil {
			return err
		}
		if err := s.noticePage(ctx, page, now); err != nil {
			return err
		}
		n := len(page.Keys)
		if page.Next == "" || n > 0 && page.Keys[n-1].CreatedAt.Before(oldest) {
			break
		}
		f.After = page.Next
	}
	if _, err := s.DB.ExecContext(ctx, `DELETE FROM notices WHERE sent_at < $1`, now.Add(-noticesKept).Unix()); err != nil {
		return fmt.Errorf("forgetting notices: %w", err)
	}
	return nil
}

// noticePage keeps the notices of a page of keys in one transaction: each is
// noted as given exactly if it will be sent.
func (s *Server) noticePage(ctx context.Context, page policy.KeyPage, now time.Time) error {
	var due []notice
	for _, k := range page.Keys {
		due = append(due, noticesOf(k, s.RotationGrace, now)...)
	}
	for _, id := range page.Forged {
		due = append(due, notice{string(alert.KeyForged), forgedAlert(id, now)})
	}
	if len(due) == 0 {
		return nil
	}
	defer s.Alert.Wake()
	err := store.Tx(ctx, s.DB, func(tx *sql.Tx) error {
		for _, n := range due {
			if err := s.tellOnce(ctx, tx, n.name, time.Time{}, n.event); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keeping notices: %w", err)
	}
	return nil
}

// notice is one thing to tell of a key, once.
type notice struct {
	name  string // Tells it from all others of the key; the date is part of it, so that a date that moved gives new ones.
	event alert.Event
}

// noticesOf are the notices of a key that are due at now, given before or not.
func noticesOf(k policy.Key, grace time.Duration, now time.Time) (due []notice) {
	state := k.StateAt(now)
	if state != policy.Active && state != policy.Expired {
		return nil // It opens nothing, and who put it there knows.
	}
	add := func(kind alert.Kind, mark string, severity alert.Severity, date time.Time, text string) {
		due = append(due, notice{
			name: string(kind) + " " + mark + " " + strconv.FormatInt(date.Unix(), 10),
			event: alert.Event{
				Time: now, Kind: kind, Severity: severity, Key: k.ID, Owner: k.Owner, Team: k.Team, Due: date,
				Text: "Machine key " + k.ID + " " + text,
			},
		})
	}
	if state == policy.Expired {
		if now.Sub(k.ExpiresAt) < noticeLate {
			add(alert.KeyExpired, "0", alert.Warning, k.ExpiresAt, "has expired.")
		}
		return due
	}
	if days, ok := threshold(k.ExpiresAt, k.CreatedAt, now); ok {
		add(alert.KeyExpiring, strconv.Itoa(days), urgency(days), k.ExpiresAt, "expires within "+countDays(days)+".")
	}
	if !k.RotateAfter.Before(k.ExpiresAt) {
		return due // A new secret would end with the key.
	}
	if late := now.Sub(k.RotateAfter); late >= 0 {
		text := "is overdue for rotation."
		if grace >= 0 {
			text += " It gets no tokens from " + k.RotateAfter.Add(grace).UTC().Format(time.RFC3339) + " on."
		}
		add(alert.KeyRotationOverdue, strconv.Itoa(int(late/day)), alert.Warning, k.RotateAfter, text)
	} else if days, ok := threshold(k.RotateAfter, rotatedAt(k), now); ok {
		add(alert.KeyRotationDue, strconv.Itoa(days), urgency(days), k.RotateAfter, "wants a new secret within "+countDays(days)+".")
	}
	return due
}

// forgedAlert tells of a key's row that is not the issuer's.
func forgedAlert(id string, now time.Time) alert.Event {
	return alert.Event{
		Time: now, Kind: alert.KeyForged, Severity: alert.Critical, Key: id,
		Text: "Machine key " + id + " stands in the database as the issuer did not write it. It opens nothing; whoever wrote it can write there.",
	}
}

// threshold is the last of noticeDays that has been reached. It is not ok where
// none has been, or where it was when the date was set: that is no news.
func threshold(date, set, now time.Time) (days int, ok bool) {
	for _, days := range noticeDays {
		if reached := date.Add(-time.Duration(days) * day); !now.Before(reached) {
			return days, reached.After(set)
		}
	}
	return 0, false
}

// rotatedAt is when the present rotation began.
func rotatedAt(k policy.Key) time.Time {
	if n := len(k.Secrets); n > 0 {
		return k.Secrets[n-1].CreatedAt
	}
	return k.CreatedAt
}

func urgency(days int) alert.Severity {
	if days > 7 {
		return alert.Info
	}
	return alert.Warning
}

func countDays(n int) string {
	if n == 1 {
		return "a day"
	}
	return strconv.Itoa(n) + " days"
}

// tellOnce keeps an event as part of tx, unless one of that name was kept for the
// same key after since. It holds across restarts and issuers.
func (s *Server) tellOnce(ctx context.Context, tx *sql.Tx, name string, since time.Time, e alert.Event) error {
	res, err := tx.ExecContext(ctx, `INSERT INTO notices (key_id, notice, sent_at) VALUES ($1, $2, $3)
		ON CONFLICT (key_id, notice) DO UPDATE SET sent_at = excluded.sent_at WHERE notices.sent_at <= $4`,
		e.Key, name, e.Time.Unix(), since.Unix())
	if err != nil {
		return fmt.Errorf("noting a notice: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("noting a notice: %w", err)
	}
	if n == 0 {
		return nil
	}
	return s.Alert.Put(ctx, tx, e)
}

// alarm keeps an event that no change goes with, once an hour for each key. The
// caller refuses the request in any case, so a failure is the operator's to see.
func (s *Server) alarm(ctx context.Context, e alert.Event) {
	// A client that hangs up must not keep it silent.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), alarmTime)
	defer cancel()
	err := store.Tx(ctx, s.DB, func(tx *sql.Tx) error {
		return s.tellOnce(ctx, tx, string(e.Kind)+" "+e.Reason, e.Time.Add(-alarmQuiet), e)
	})
	if err != nil {
		s.Log.Error("keeping an alert", "alarm", string(e.Kind), "reason", e.Reason, "key", e.Key, "decision", e.Decision, "err", err.Error())
	}
	s.Alert.Wake()
}

// tell keeps events as part of tx.
func (s *Server) tell(ctx context.Context, tx *sql.Tx, events []alert.Event) error {
	for _, e := range events {
		if err := s.Alert.Put(ctx, tx, e); err != nil {
			return err
		}
	}
	return nil
}

// replayAlert tells the owner of the key with which something came twice.
func replayAlert(k policy.Key, reason, what string, rec *audit.Record, now time.Time) alert.Event {
	text := what + ", with machine key " + k.ID
	if rec.Identity != "" {
		text += ", for " + rec.Identity
	}
	return alert.Event{
		Time: now, Kind: alert.Replay, Severity: alert.Critical, Reason: reason, Text: text + ". It was refused.",
		Key: k.ID, Owner: k.Owner, Team: k.Team, Decision: rec.Decision,
	}
}

// wideRevocation tells of a revocation that is wider than one token or key.
func wideRevocation(kind revocation.What, value string, by person, rec *audit.Record, now time.Time) []alert.Event {
	e := alert.Event{
		Time: now, Kind: alert.TokensRevoked, Severity: alert.Warning, Reason: string(kind), By: by.String(), Decision: rec.Decision,
	}
	switch kind {
	case revocation.Identity:
		e.Owner, e.Text = value, "All logins and tokens of "+value
	case revocation.Grant:
		e.Text = "All tokens of the grant " + value
	case revocation.SigningKey:
		e.Text = "All tokens of the signing key " + value
	case revocation.All:
		e.Severity, e.Text = alert.Critical, "All tokens"
	default:
		return nil
	}
	e.Text += " were revoked by " + by.String() + "."
	return []alert.Event{e}
}

// overflowAlert tells that so much is revoked that everything is.
func overflowAlert(now time.Time) alert.Event {
	return alert.Event{
		Time: now, Kind: alert.TokensRevoked, Severity: alert.Critical, Reason: "overflow",
		Text: "More is revoked than a document holds, so all tokens are, until there is less.",
	}
}

func taintAlert(kid string, by person, rec *audit.Record, now time.Time) alert.Event {
	return alert.Event{
		Time: now, Kind: alert.SigningKeyTainted, Severity: alert.Critical, Reason: "tainted", By: by.String(), Decision: rec.Decision,
		Text: "Signing key " + kid + " was dropped by " + by.String() + ", and all that it signed is revoked.",
	}
}
