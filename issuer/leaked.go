package issuer

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/alert"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/strictjson"
)

const (
	leakReceiver = "leak receiver" // As StateBy. No identity: those have a colon.
	leakReason   = "leaked"
	leakTries    = 5
	leakTimeout  = 10 * time.Second

	// LeakPace is how long every answer takes at least, so that its time does not
	// tell what was done.
	LeakPace = 200 * time.Millisecond
)

// errDone means that a leaked key is in quarantine already.
var errDone = errors.New("the machine key is in quarantine already")

// leaked is POST /leaked, for whoever finds a key, a scanner or a person:
// {"key": "hpk_…", "source": "…"}. Whoever holds a live secret may end its use,
// and nobody else; the answer tells neither of them which they are.
func (s *Server) leaked(w http.ResponseWriter, r *http.Request) error {
	pace := time.NewTimer(LeakPace)
	defer pace.Stop()
	now := s.Now()
	addr := s.clientAddr(r)
	if err := s.throttles.admit(addr, now); err != nil {
		return err
	}
	l, err := readLeak(r)
	if err != nil {
		return err
	}
	l.from = ipText(addr)
	// Who hangs up has reported it all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), leakTimeout)
	defer cancel()
	if err := s.quarantineLeaked(ctx, l, now); err != nil {
		return err
	}
	select {
	case <-pace.C:
	case <-r.Context().Done():
	}
	reply.JSON(w, http.StatusAccepted, map[string]string{"status": "received"})
	return nil
}

// leak is what somebody says that they found.
type leak struct {
	key    string // The text; a whole key if it is one.
	source string // Where: their own words. May be empty.
	from   string // Their address.
}

func readLeak(r *http.Request) (leak, error) {
	var l leak
	if r.URL.RawQuery != "" {
		return l, badRequest("The key belongs in the body, never in the URL, where logs keep it.")
	}
	names := 0
	found := func(v strictjson.Value) bool {
		text, ok := v.Text()
		l.key = strings.TrimSpace(text)
		names++
		return ok
	}
	if err := readBody(r, map[string]func(strictjson.Value) bool{"key": found, "token": found, "source": textInto(&l.source)}); err != nil {
		return l, err
	}
	if names != 1 {
		return l, badRequest("key must be there: the text that was found. token is another name for it.")
	}
	if strings.Contains(l.source, "hpk_") {
		l.source = "" // It will be shown, and a secret must not be.
	}
	return l, nil
}

// quarantineLeaked takes the key out of use, revokes its tokens and alerts its
// owner, all or nothing, if the text is a live secret of one.
func (s *Server) quarantineLeaked(ctx context.Context, l leak, now time.Time) error {
	for range leakTries {
		key, _, err := s.Keys.Authenticate(ctx, l.key, now)
		if errors.Is(err, policy.ErrUnknownKey) {
			return nil
		}
		if err != nil {
			return err
		}
		rec := audit.Record{
			Time: now, Decision: audit.NewID(), Event: "key.leaked", Outcome: audit.Allow,
			Key: key.ID, Team: key.Team, Status: http.StatusAccepted, ClientIP: l.from,
		}
		if l.source != "" {
			rec.Detail = "found by " + strconv.Quote(l.source)
		}
		// In the version whose secret it is: one that ends in this moment is no
		// reason any more.
		recorded, lost := false, error(nil)
		_, err = s.Keys.Update(ctx, key.ID, key.Version, func(k *policy.Key) error {
			if k.State == policy.Quarantined {
				return errDone
			}
			k.State, k.StateReason, k.StateBy = policy.Quarantined, leakReason, leakReceiver
			return nil
		}, func(tx *sql.Tx) error {
			if err := errors.Join(s.revokeKeyIn(ctx, key.ID, leakReason, now)(tx), s.Alert.Put(ctx, tx, leakAlert(key, rec))); err != nil {
				return err
			}
			// Last before the commit, so that a crash leaves no key in quarantine
			// without its record; once, however often the transaction is run. A key in
			// the wrong hands ends even if that can't be recorded, and in time for it.
			if !recorded {
				recorded, lost = true, s.recordLeak(ctx, rec)
			}
			return nil
		})
		switch {
		case err == nil:
			s.Alert.Wake()
			s.showRevoked(ctx, now)
			if lost != nil {
				s.Log.Error("recording a leaked key", "alarm", "audit", "key", rec.Key, "decision", rec.Decision, "err", lost.Error())
				return errors.Join(errNoAudit, lost)
			}
			return nil
		case errors.Is(err, errDone):
			return nil
		case !errors.Is(err, policy.ErrKeyChanged):
			return err
		}
	}
	return errStaleKey
}

func (s *Server) recordLeak(ctx context.Context, rec audit.Record) error {
	ctx, cancel := context.WithTimeout(ctx, leakTimeout/2)
	defer cancel()
	return s.Audit.Append(ctx, rec)
}

func leakAlert(k policy.Key, rec audit.Record) alert.Event {
	text := "Machine key " + k.ID + " was found where it should not be, and is in quarantine. Its tokens are revoked."
	if rec.Detail != "" {
		text += " It was " + rec.Detail + "."
	}
	return alert.Event{
		ID: audit.NewID(), Time: rec.Time, Kind: alert.KeyQuarantined, Severity: alert.Critical, Reason: leakReason, Text: text,
		Key: k.ID, Owner: k.Owner, Team: k.Team, By: leakReceiver, Decision: rec.Decision,
	}
}
