package toyidp

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// How long things live here.
const (
	loginLife       = 10 * time.Minute // From /authorize to the password.
	codeLife        = time.Minute      // From the password to the token endpoint.
	accessTokenLife = 5 * time.Minute  // For /userinfo; and a service's JWT.
	idTokenLife     = time.Hour
	sessionLife     = 12 * time.Hour // From the login, however often it is refreshed.
)

// How many of each we keep (see shelf).
const (
	maxLogins   = 1_000
	maxSessions = 1_000
	maxTokens   = 10_000
)

var (
	errNoLogin    = errors.New("this login is unknown or has ended")
	errNoCode     = errors.New("the code is unknown, used or has ended")
	errNoSession  = errors.New("the refresh token is unknown, used or has ended")
	errNoToken    = errors.New("the access token is unknown or has ended")
	errNoClient   = errors.New("no such client, or not its secret")
	errNotOffered = errors.New("not offered here")
)

// accessToken is what /userinfo and /oauth/introspect need to know of one.
type accessToken struct {
	subject, clientID string
	scopes            []string
}

// storage is the provider's memory, in the shape the library asks for it.
type storage struct {
	clients  map[string]client
	users    *directory
	signer   signer
	audience string // Of services' tokens.

	mu       sync.Mutex // Guards what follows.
	logins   shelf[login]
	codes    shelf[login]
	sessions shelf[session]
	tokens   shelf[accessToken]
}

var (
	_ op.Storage                   = &storage{}
	_ op.ClientCredentialsStorage  = &storage{}
	_ op.CanSetUserinfoFromRequest = &storage{}
)

func newStorage(cfg Config, users *directory, s signer) *storage {
	st := &storage{
		clients: map[string]client{}, users: users, signer: s, audience: cfg.ServiceAudience,
		logins: newShelf[login](maxLogins), codes: newShelf[login](maxLogins),
		sessions: newShelf[session](maxSessions), tokens: newShelf[accessToken](maxTokens),
	}
	for _, c := range cfg.Clients {
		st.clients[c.ID] = client{cfg: c, issuer: cfg.Issuer}
	}
	return st
}

// --- A login, from /authorize to its code.

// CreateAuthRequest begins a login. The library has checked client, redirect URI
// and response type; the rest of our strictness is here.
func (st *storage) CreateAuthRequest(_ context.Context, asked *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	public := st.clients[asked.ClientID].cfg.Secret == ""
	switch {
	case public && asked.CodeChallenge == "":
		return nil, oidc.ErrInvalidRequest().WithDescription("A public client must send a code_challenge (PKCE).")
	case asked.CodeChallenge != "" && asked.CodeChallengeMethod != oidc.CodeChallengeMethodS256:
		// An absent method means plain (RFC 7636, section 4.3), which whoever sees the request can answer.
		return nil, oidc.ErrInvalidRequest().WithDescription("The code_challenge_method must be S256.")
	case !slices.Contains(asked.Scopes, oidc.ScopeOpenID):
		return nil, oidc.ErrInvalidScope().WithDescription("The scope must contain openid.")
	case slices.Contains(asked.Prompt, oidc.PromptNone):
		return nil, oidc.ErrLoginRequired() // No browser session is kept: everybody logs in each time.
	}
	l := login{AuthRequest: asked, id: rand.Text()}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.logins.put(l.id, l, time.Now().Add(loginLife))
	return l, nil
}

func (st *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	l, _, ok := st.logins.get(id)
	if !ok {
		return nil, errNoLogin
	}
	return l, nil
}

// finishLogin writes down who logged in.
func (st *storage) finishLogin(id, subject string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	l, until, ok := st.logins.get(id)
	if !ok || l.Done() {
		return errNoLogin
	}
	l.subject, l.at = subject, time.Now()
	st.logins.put(id, l, until)
	return nil
}

// SaveAuthCode turns a login, of which the library has seen that it is done, into
// its code, so that one login has one code.
func (st *storage) SaveAuthCode(_ context.Context, id, code string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	l, _, ok := st.logins.get(id)
	if !ok {
		return errNoLogin
	}
	st.logins.drop(id)
	st.codes.put(code, l, time.Now().Add(codeLife))
	return nil
}

// AuthRequestByCode uses the code up, before the library looks at verifier and
// client: a stolen code gets one guess, and two at once can't both win (RFC 6749,
// section 4.1.2).
func (st *storage) AuthRequestByCode(_ context.Context, code string) (op.AuthRequest, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	l, _, ok := st.codes.get(code)
	st.codes.drop(code)
	if !ok {
		return nil, errNoCode
	}
	return l, nil
}

func (st *storage) DeleteAuthRequest(_ context.Context, id string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.logins.drop(id)
	return nil
}

// --- Clients.

func (st *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	c, ok := st.clients[id]
	if !ok {
		return nil, errNoClient
	}
	return c, nil
}

// AuthorizeClientIDSecret never takes the empty secret: it is that of every
// public client.
func (st *storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	want := st.clients[id].cfg.Secret
	if !equal(want, secret) || want == "" {
		return oidc.ErrInvalidClient().WithParent(errNoClient)
	}
	return nil
}

func (st *storage) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	if err := st.AuthorizeClientIDSecret(ctx, id, secret); err != nil {
		return nil, err
	}
	return st.clients[id], nil
}

func (st *storage) ClientCredentialsTokenRequest(_ context.Context, id string, _ []string) (op.TokenRequest, error) {
	return serviceRequest{clientID: id, audience: st.audience}, nil
}

// --- What users are, to those who may know.

// describe fills in what the scopes let out about a user. Every ID token passes
// here, at login and at each refresh, and no answer leaves without its ID token:
// this is the one place that stops a leaver who was already inside.
func (st *storage) describe(info *oidc.UserInfo, subject string, scopes []string) error {
	u, err := st.users.live(subject)
	if err != nil {
		return oidc.ErrInvalidGrant().WithParent(err)
	}
	info.Subject = u.Subject
	info.AppendClaims("groups", append([]string{}, u.Groups...)) // Never null.
	if slices.Contains(scopes, oidc.ScopeProfile) {
		info.Name, info.PreferredUsername = u.Name, u.Username
	}
	return nil
}

func (st *storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	return st.describe(info, r.GetSubject(), scopes)
}

func (st *storage) SetUserinfoFromToken(_ context.Context, info *oidc.UserInfo, id, _, _ string) error {
	t, _, err := st.accessToken(id)
	if err != nil {
		return err
	}
	return st.describe(info, t.subject, t.scopes)
}

func (st *storage) SetIntrospectionFromToken(_ context.Context, answer *oidc.IntrospectionResponse, id, _, clientID string) error {
	t, until, err := st.accessToken(id)
	if err != nil {
		return err
	}
	if t.clientID != clientID {
		return errNoToken // Somebody else's.
	}
	info := &oidc.UserInfo{Subject: t.subject}
	if !st.clients[clientID].cfg.Service {
		if err := st.describe(info, t.subject, t.scopes); err != nil {
			return err
		}
	}
	answer.SetUserInfo(info)
	answer.Scope, answer.ClientID, answer.TokenType = t.scopes, t.clientID, oidc.BearerToken
	answer.Expiration = oidc.FromTime(until)
	return nil
}

// --- The signing key.

func (st *storage) SigningKey(context.Context) (op.SigningKey, error) { return st.signer, nil }

func (st *storage) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{publicKey{st.signer}}, nil
}

func (st *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.ES256}, nil
}

// --- What the library asks for and we do not offer.

func (st *storage) Health(context.Context) error { return nil }

// SetUserinfoFromScopes is deprecated; SetUserinfoFromRequest does its work.
func (st *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

func (st *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

func (st *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errNotOffered
}

func (st *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errNotOffered
}
