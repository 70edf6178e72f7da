package toyidp

import (
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// A login is one trip of a browser through us, from /authorize to the code's
// redemption. The library gets copies, so that none changes under its hands.
type login struct {
	*oidc.AuthRequest           // As the client sent it; read only.
	id                string    // Known to the browser.
	subject           string    // Who logged in. Empty: nobody yet.
	at                time.Time // When they did.
}

var _ op.AuthRequest = login{}

func (l login) GetID() string          { return l.id }
func (l login) GetACR() string         { return "" }
func (l login) GetAMR() []string       { return []string{"pwd"} }
func (l login) GetAudience() []string  { return []string{l.ClientID} }
func (l login) GetAuthTime() time.Time { return l.at }
func (l login) GetClientID() string    { return l.ClientID }
func (l login) GetNonce() string       { return l.Nonce }
func (l login) GetScopes() []string    { return l.Scopes }
func (l login) GetSubject() string     { return l.subject }
func (l login) Done() bool             { return l.subject != "" }

func (l login) GetCodeChallenge() *oidc.CodeChallenge {
	if l.CodeChallenge == "" {
		return nil
	}
	return &oidc.CodeChallenge{Challenge: l.CodeChallenge, Method: l.CodeChallengeMethod}
}

// A session outlives its login by as long as its refresh tokens do. Its token is
// "id.secret": the id stays, the secret changes with every refresh.
type session struct {
	id       string
	secret   string
	subject  string
	clientID string
	scopes   []string
	at       time.Time
}

var _ op.RefreshTokenRequest = &session{}

func (s *session) GetAMR() []string       { return []string{"pwd"} }
func (s *session) GetAudience() []string  { return []string{s.clientID} }
func (s *session) GetAuthTime() time.Time { return s.at }
func (s *session) GetClientID() string    { return s.clientID }
func (s *session) GetScopes() []string    { return s.scopes }
func (s *session) GetSubject() string     { return s.subject }

// SetCurrentScopes narrows the library's copy for one answer; the session we
// keep has what was granted.
func (s *session) SetCurrentScopes(scopes []string) { s.scopes = scopes }

// serviceRequest asks for a token that names a service client itself.
type serviceRequest struct{ clientID, audience string }

var _ op.TokenRequest = serviceRequest{}

func (s serviceRequest) GetSubject() string    { return s.clientID }
func (s serviceRequest) GetClientID() string   { return s.clientID }
func (s serviceRequest) GetAudience() []string { return []string{s.audience} }
func (s serviceRequest) GetScopes() []string   { return nil }
