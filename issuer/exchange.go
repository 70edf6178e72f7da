package issuer

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/store"
)

// Token types of RFC 8693, section 3.
const (
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token" //nolint:gosec // A type's name.
	typeIDToken     = "urn:ietf:params:oauth:token-type:id_token"     //nolint:gosec // A type's name.
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"          //nolint:gosec // A type's name.
)

// HonestRetry is how long the same key may present the same identity token
// again, and get the same token again: its first answer may have been lost.
const HonestRetry = 30 * time.Second

// exchange is the grant of RFC 8693: the identity is a token of a trusted
// provider, made for one of the accepted clients.
func (s *Server) exchange(ctx context.Context, req *tokenRequest, key policy.Key, rec *audit.Record, now time.Time) (any, error) {
	raw := req.param("subject_token")
	if raw == "" {
		return nil, badRequest("subject_token is missing: a machine key alone gets no token.")
	}
	if t := req.param("subject_token_type"); t != typeIDToken && t != typeJWT {
		return nil, badRequest("subject_token_type must be " + typeIDToken + " or " + typeJWT + ".")
	}
	if t := req.param("requested_token_type"); t != "" && t != typeAccessToken && t != typeJWT {
		return nil, badRequest("requested_token_type must be " + typeAccessToken + ".")
	}
	provider, err := s.providerOf(raw)
	if err != nil {
		return nil, err
	}
	who, err := provider.identify(raw, expectation{Audiences: provider.Audiences}, now)
	if err != nil {
		return nil, err
	}
	rec.Identity = who.String()
	m, err := s.mint(req, key, who.Identity, provider.CapExpiry, now)
	if err != nil {
		return nil, err
	}
	m, err = s.useOnce(ctx, req, key, who, raw, m, now)
	if err != nil {
		return nil, err
	}
	if err := s.Keys.Used(ctx, key.ID, now); err != nil {
		return nil, err
	}
	m.note(rec)
	answer := m.answer(now)
	answer.IssuedType = typeAccessToken
	return answer, nil
}

// useOnce marks the identity token as used for m. If the same key used it
// moments ago for the same request, it returns what it got then; any other use
// is a replay. The mark outlives the identity token, restarts included.
func (s *Server) useOnce(ctx context.Context, req *tokenRequest, key policy.Key, who assertion, raw string, m minted, now time.Time) (minted, error) {
	fingerprint := digest("jti", who.id)
	if who.id == "" {
		// Without the signature: an ECDSA signature has a twin that anybody can
		// compute, and the pair would count as two tokens.
		fingerprint = digest("signed part", raw[:strings.LastIndexByte(raw, '.')])
	}
	asked := digest(req.Scope.String(), fmt.Sprint(req.HasScope), req.Audience)
	plain, err := json.Marshal(m)
	if err != nil {
		return minted{}, fmt.Errorf("keeping a used identity token: %w", err)
	}
	sealed, err := s.Sealer.Seal(sealAnswer, plain)
	if err != nil {
		return minted{}, fmt.Errorf("keeping a used identity token: %w", err)
	}
	forget := who.Expires.Add(time.Minute)
	_, err = s.DB.ExecContext(ctx, `INSERT INTO used_assertions (issuer, fingerprint, key_id, used_at, request, sealed, forget_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, who.Issuer, fingerprint, key.ID, now.Unix(), asked, sealed, forget.Unix())
	if err == nil {
		return m, nil
	}
	if !store.IsConflict(err) {
		return minted{}, fmt.Errorf("keeping a used identity token: %w", err)
	}

	var usedBy string
	var usedAt int64
	var askedThen []byte
	err = s.DB.QueryRowContext(ctx, `SELECT key_id, used_at, request, sealed FROM used_assertions WHERE issuer = $1 AND fingerprint = $2`,
		who.Issuer, fingerprint).Scan(&usedBy, &usedAt, &askedThen, &sealed)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return minted{}, errReplay // Forgotten between the two queries.
	case err != nil:
		return minted{}, fmt.Errorf("reading a used identity token: %w", err)
	case usedBy != key.ID || !bytes.Equal(askedThen, asked) || now.Sub(time.Unix(usedAt, 0)) > HonestRetry:
		s.Log.Warn("an identity token was presented again", "alarm", "replay", "key", key.ID, "first_key", usedBy, "identity", who.String())
		return minted{}, errReplay
	}
	if plain, err = s.Sealer.Open(sealAnswer, sealed); err != nil {
		return minted{}, fmt.Errorf("reading a used identity token: %w", err)
	}
	var before minted
	if err := json.Unmarshal(plain, &before); err != nil {
		return minted{}, fmt.Errorf("reading a used identity token: %w", err)
	}
	return before, nil
}

// The purposes of what is sealed or hashed.
const (
	sealAnswer  = "exchange answer"
	sealLogin   = "login"
	sealSession = "session"
	macState    = "login state"
	macCode     = "authorization code"
	macAccess   = "login access token"
	macRefresh  = "refresh token"
)
