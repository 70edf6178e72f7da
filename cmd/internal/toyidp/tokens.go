package toyidp

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// The half of the storage that deals in access and refresh tokens.

// CreateAccessToken keeps what a new access token stands for.
func (st *storage) CreateAccessToken(_ context.Context, r op.TokenRequest) (id string, until time.Time, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	id, until = st.newToken(r)
	return id, until, nil
}

// CreateAccessAndRefreshTokens opens a session for a fresh login. A session that
// is being refreshed has its next token already (see TokenRequestByRefreshToken).
func (st *storage) CreateAccessAndRefreshTokens(_ context.Context, r op.TokenRequest, _ string) (id, refresh string, until time.Time, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	var s session
	switch r := r.(type) {
	case login:
		s = session{
			id: rand.Text(), secret: rand.Text(),
			subject: r.subject, clientID: r.ClientID, scopes: r.Scopes, at: r.at,
		}
		st.sessions.put(s.id, s, time.Now().Add(sessionLife))
	case *session:
		s = *r
	default:
		return "", "", time.Time{}, oidc.ErrInvalidGrant().WithParent(errNotOffered)
	}
	id, until = st.newToken(r)
	return id, s.id + "." + s.secret, until, nil
}

// TokenRequestByRefreshToken uses the token up and returns a copy of its session
// with the next one, all under one lock: two refreshes at once can't both win.
//
// A right id with a wrong secret is a token used before, by its owner or by a
// thief; since we can't tell, the session ends for both (RFC 9700, section 4.14.2).
func (st *storage) TokenRequestByRefreshToken(_ context.Context, token string) (op.RefreshTokenRequest, error) {
	id, secret := splitRefresh(token)
	st.mu.Lock()
	defer st.mu.Unlock()
	s, until, ok := st.sessions.get(id)
	if !ok {
		return nil, errNoSession
	}
	if !equal(s.secret, secret) {
		st.sessions.drop(id)
		return nil, errNoSession
	}
	s.secret = rand.Text()
	st.sessions.put(id, s, until)
	return &s, nil
}

// newToken is CreateAccessToken for one who holds the lock.
func (st *storage) newToken(r op.TokenRequest) (id string, until time.Time) {
	t := accessToken{subject: r.GetSubject(), scopes: slices.Clone(r.GetScopes())}
	if of, ok := r.(interface{ GetClientID() string }); ok {
		t.clientID = of.GetClientID()
	}
	id, until = rand.Text(), time.Now().Add(accessTokenLife)
	st.tokens.put(id, t, until)
	return id, until
}

func (st *storage) accessToken(id string) (accessToken, time.Time, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	t, until, ok := st.tokens.get(id)
	if !ok {
		return accessToken{}, time.Time{}, errNoToken
	}
	return t, until, nil
}

// GetRefreshTokenInfo tells the library, for /revoke, whether this is a refresh
// token of that client.
func (st *storage) GetRefreshTokenInfo(_ context.Context, clientID, token string) (subject, id string, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	id, secret := splitRefresh(token)
	s, _, ok := st.sessions.get(id)
	if !ok || s.clientID != clientID || !equal(s.secret, secret) {
		return "", "", op.ErrInvalidRefreshToken
	}
	return s.subject, id, nil
}

// RevokeToken ends a session or an access token of the client. One that is not
// there counts as revoked (RFC 7009, section 2.2).
func (st *storage) RevokeToken(_ context.Context, id, _, clientID string) *oidc.Error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if s, _, ok := st.sessions.get(id); ok && s.clientID == clientID {
		st.sessions.drop(id)
	}
	if t, _, ok := st.tokens.get(id); ok && t.clientID == clientID {
		st.tokens.drop(id)
	}
	return nil
}

// TerminateSession ends what a user has with one client, at /end_session.
func (st *storage) TerminateSession(_ context.Context, subject, clientID string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	for id, k := range st.sessions.items {
		if k.item.subject == subject && k.item.clientID == clientID {
			st.sessions.drop(id)
		}
	}
	return nil
}

// splitRefresh takes a refresh token apart into the session's id and secret.
func splitRefresh(token string) (id, secret string) {
	id, secret, _ = strings.Cut(token, ".")
	return id, secret
}
