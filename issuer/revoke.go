package issuer

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/alert"
	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/revocation"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/token"
)

// revokeIn writes a revocation down as part of a transaction: what is revoked is
// so exactly if what it goes with is done. It takes the place of earlier ones of
// the same, so that nobody fills the document by saying a thing often. The value
// is plain; documents hash it.
func (s *Server) revokeIn(ctx context.Context, tx *sql.Tx, what revocation.What, value, reason string, until time.Time) error {
	var generation int64
	if err := tx.QueryRowContext(ctx, `UPDATE counters SET value = value + 1 WHERE name = 'revocations' RETURNING value`).Scan(&generation); err != nil {
		return fmt.Errorf("revoking: %w", err)
	}
	// The time is read now that the counter is ours: while this waited for it, the
	// key may have got another token. One of this very second has been issued
	// before, so the second counts.
	before := s.Now().Unix() + 1
	if _, err := tx.ExecContext(ctx, `DELETE FROM revocations WHERE what = $1 AND value = $2 AND not_before <= $3 AND until <= $4`,
		string(what), value, before, until.Unix()+1); err != nil {
		return fmt.Errorf("revoking: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO revocations (generation, what, value, not_before, until, reason) VALUES ($1, $2, $3, $4, $5, $6)`,
		generation, string(what), value, before, until.Unix()+1, reason); err != nil {
		return fmt.Errorf("revoking: %w", err)
	}
	return nil
}

// lastExpiry is by when a token that is issued at now has expired.
func lastExpiry(now time.Time) time.Time { return now.Add(token.MaxLifetime + time.Minute) }

// revokeNow revokes in a transaction of its own, and has the feed show it. The
// events are told exactly if it is done.
func (s *Server) revokeNow(ctx context.Context, what revocation.What, value, reason string, until, now time.Time, events ...alert.Event) error {
	err := store.Tx(ctx, s.DB, func(tx *sql.Tx) error {
		if err := s.revokeIn(ctx, tx, what, value, reason, until); err != nil {
			return err
		}
		return s.tell(ctx, tx, events)
	})
	if err != nil {
		return err
	}
	s.Alert.Wake()
	s.showRevoked(ctx, now)
	return nil
}

// showRevoked publishes what was just revoked. If that fails it is revoked
// nevertheless, and published with the next try.
func (s *Server) showRevoked(ctx context.Context, now time.Time) {
	if err := s.feed.refresh(context.WithoutCancel(ctx), now); err != nil {
		s.Log.Error("publishing revocations", "err", err.Error())
	}
}

// ourToken reads a token that this issuer signed and that is good at now, and
// returns the kid of the key that signed it.
func (s *Server) ourToken(raw string, now time.Time) (token.Claims, string, error) {
	if len(raw) > token.MaxBytes {
		return token.Claims{}, "", fmt.Errorf("%w: too long", errSubjectToken)
	}
	payload, kid, err := s.OwnTokens(raw, now)
	if err != nil {
		return token.Claims{}, "", fmt.Errorf("%w: %w", errSubjectToken, err)
	}
	c, err := token.Parse(payload)
	if err != nil {
		return token.Claims{}, "", fmt.Errorf("%w: %w", errSubjectToken, err)
	}
	if !slices.Contains(s.Audiences, c.Audience) {
		return token.Claims{}, "", fmt.Errorf("%w: %w", errSubjectToken, token.ErrAudience)
	}
	if err := (token.Expect{Issuer: s.URL, Audience: c.Audience}).Check(&c, now); err != nil {
		return token.Claims{}, "", fmt.Errorf("%w: %w", errSubjectToken, err)
	}
	return c, kid, nil
}

// revoked tells whether a token of ours was revoked.
func (s *Server) revoked(c *token.Claims, kid string) bool {
	return s.feed.current().set.Revokes(c, kid)
}

// revoke is POST /revoke (RFC 7009): a client gives back a token of its own, or a
// person's program its login.
func (s *Server) revoke(w http.ResponseWriter, r *http.Request) error {
	now := s.Now()
	return s.decided(w, r, "revoke", http.StatusOK, func(rec *audit.Record) (any, error) {
		f, err := readForm(r)
		if err != nil {
			return nil, err
		}
		if err := f.only([]string{"token", "token_type_hint"}, credentialParams); err != nil {
			return nil, err
		}
		c, err := readCredentials(r, f, false)
		if err != nil {
			return nil, err
		}
		raw := f["token"]
		switch {
		case raw == "":
			return nil, badRequest("token is missing.")
		case strings.HasPrefix(raw, "hpr_") || strings.HasPrefix(raw, "hpl_"):
			return nil, s.revokeLogin(r.Context(), c, raw, rec)
		}
		found, err := s.authenticate(r.Context(), c, rec, now)
		if err != nil {
			return nil, err
		}
		return nil, s.revokeOwn(r.Context(), found, raw, rec, now)
	})
}

// revokeLogin ends the session that a login's own token belongs to. One that is
// not known is as good as revoked (RFC 7009, section 2.2).
func (s *Server) revokeLogin(ctx context.Context, c credentials, raw string, rec *audit.Record) error {
	if err := c.public(); err != nil {
		return err
	}
	var id string
	var sealed []byte
	err := s.DB.QueryRowContext(ctx, `SELECT id, sealed FROM sessions WHERE refresh_mac = $1 OR previous_mac = $1 OR access_mac = $2`,
		s.Sealer.MAC(macRefresh, []byte(raw)), s.Sealer.MAC(macAccess, []byte(raw))).Scan(&id, &sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading a session: %w", err)
	}
	if v, err := s.unsealSession(id, sealed); err == nil {
		rec.Identity = v.Identity.String()
	}
	return s.endSession(ctx, id)
}

// maxGivenBack bounds how many tokens are revoked one by one: a document that
// holds no more revokes everything, which is not for a client to bring about.
const maxGivenBack = revocation.MaxEntries / 2

func (s *Server) revokeOwn(ctx context.Context, c client, raw string, rec *audit.Record, now time.Time) error {
	if strings.HasPrefix(raw, "hpk_") {
		return &reply.Refusal{Status: http.StatusBadRequest, Code: "unsupported_token_type", Detail: "A machine key is revoked by its owner, at /v1/keys."}
	}
	if err := s.spend(ctx, &c); err != nil {
		return err
	}
	claims, kid, err := s.ourToken(raw, now)
	if err != nil {
		return nil //nolint:nilerr // What is no good token any more needs no revocation (RFC 7009, section 2.2).
	}
	if claims.ClientID != c.key.ID && (claims.Actor == nil || claims.Actor.Subject != c.key.ID) {
		return &reply.Refusal{Status: http.StatusBadRequest, Code: "unauthorized_client", Detail: "The token was issued to another client."}
	}
	rec.Token, rec.Identity = claims.ID, claims.Subject
	switch {
	case s.revoked(&claims, kid):
		return nil
	case s.feed.current().tokens >= maxGivenBack:
		// RFC 7009, section 2.2.1: the token is as it was, and ends by itself.
		return &reply.Refusal{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable", Detail: "Too many tokens are given back.", RetryAfter: time.Minute}
	}
	if err := s.throttles.giveBack(c.key.ID, now); err != nil {
		return err
	}
	return s.revokeNow(ctx, revocation.Token, claims.ID, "given back", claims.Expires, now)
}

// introspect is POST /introspect (RFC 7662), for verifiers of the token's
// audience alone; to all others a token is not active.
func (s *Server) introspect(w http.ResponseWriter, r *http.Request) error {
	now := s.Now()
	addr := s.clientAddr(r)
	if err := s.throttles.admit(addr, now); err != nil {
		return err
	}
	answer, err := s.introspected(r, now)
	if err != nil {
		if err := s.throttles.failed(err, addr, namedKey(r), now); err != nil {
			return err
		}
		return err
	}
	reply.JSON(w, http.StatusOK, answer)
	return nil
}

func (s *Server) introspected(r *http.Request, now time.Time) (any, error) {
	f, err := readForm(r)
	if err != nil {
		return nil, err
	}
	if err := f.only([]string{"token", "token_type_hint"}, credentialParams); err != nil {
		return nil, err
	}
	key, err := s.verifierKey(r, f, now)
	if err != nil {
		return nil, err
	}
	if f["token"] == "" {
		return nil, badRequest("token is missing.")
	}
	c, kid, err := s.ourToken(f["token"], now)
	if err != nil || s.revoked(&c, kid) || !slices.Contains(key.VerifierFor, c.Audience) {
		return map[string]bool{"active": false}, nil //nolint:nilerr // That is the answer.
	}
	// All that the token says: who enforces half of its limits enforces none.
	payload, err := c.Encode()
	if err != nil {
		return nil, fmt.Errorf("introspecting: %w", err)
	}
	answer := map[string]any{}
	if err := json.Unmarshal(payload, &answer); err != nil {
		return nil, fmt.Errorf("introspecting: %w", err)
	}
	answer["active"], answer["token_type"] = true, "Bearer"
	return answer, nil
}

// verifierKey authenticates a verifier by its machine key.
func (s *Server) verifierKey(r *http.Request, f form, now time.Time) (policy.Key, error) {
	creds, err := readCredentials(r, f, false)
	if err != nil {
		return policy.Key{}, err
	}
	var rec audit.Record // What verifiers ask is no decision, and leaves no record.
	c, err := s.authenticate(r.Context(), creds, &rec, now)
	if err != nil {
		return policy.Key{}, err
	}
	if err := s.spend(r.Context(), &c); err != nil {
		return policy.Key{}, err
	}
	if len(c.key.VerifierFor) == 0 {
		return policy.Key{}, errRole
	}
	return c.key, c.key.Usable(s.RotationGrace, now)
}
