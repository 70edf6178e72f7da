package issuer

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/token"
)

// The grants of POST /token.
const (
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange" // RFC 8693
	grantCode     = "authorization_code"                              // RFC 6749, section 4.1; RFC 7636
	grantRefresh  = "refresh_token"                                   // RFC 6749, section 6
)

// grantParams are the parameters that each grant knows, besides the client's own
// credentials. Any other is refused: one that we ignored could be meant as a
// restriction.
var grantParams = map[string][]string{
	grantExchange: {"subject_token", "subject_token_type", "requested_token_type", "scope", "audience"},
	grantCode:     {"code", "redirect_uri", "code_verifier"},
	grantRefresh:  {"refresh_token", "scope", "audience"},
}

// maxForm bounds the body of a token request.
const maxForm = 64 << 10

// tokenRequest is a request to POST /token, read once; nobody reaches into the
// form again.
type tokenRequest struct {
	params   map[string]string
	Grant    string
	ClientID string
	Secret   string // The machine key. Empty where the client has none.
	Scope    token.Scopes
	HasScope bool
	Audience string // Empty means the first of ours.
}

func (r *tokenRequest) param(name string) string { return r.params[name] }

// token is POST /token. It writes exactly one audit record for each request,
// and no answer leaves before its record is kept.
func (s *Server) token(w http.ResponseWriter, r *http.Request) error {
	now := s.Now()
	rec := audit.Record{Time: now, Decision: audit.NewID(), Event: "exchange", ClientIP: clientIP(r)}
	answer, err := s.answerToken(r, &rec, now)
	if err := s.keep(r, &rec, err); err != nil {
		return err
	}
	reply.JSON(w, http.StatusOK, answer)
	return nil
}

// answerToken finds the identity by the request's grant, decides, and returns
// what to answer.
func (s *Server) answerToken(r *http.Request, rec *audit.Record, now time.Time) (any, error) {
	req, err := readTokenRequest(r)
	if err != nil {
		return nil, err
	}
	if req.Audience == "" {
		req.Audience = s.Audiences[0]
	}
	if !slices.Contains(s.Audiences, req.Audience) {
		return nil, errTarget
	}
	if req.Grant == grantCode {
		rec.Event = "session"
		return s.redeemCode(r.Context(), req, rec, now)
	}

	// Shared by every grant that mints, so that no new one can forget it.
	key, err := s.authenticate(r, req, now)
	if err != nil {
		return nil, err
	}
	rec.Key, rec.Team = key.ID, key.Team
	if key.StateAt(now) != policy.Active {
		return nil, policy.ErrKeyState
	}
	switch req.Grant {
	case grantExchange:
		return s.exchange(r.Context(), req, key, rec, now)
	case grantRefresh:
		return s.refresh(r.Context(), req, key, rec, now)
	}
	return nil, errGrant
}

// authenticate finds the machine key by its own secret: the first of the two
// factors.
func (s *Server) authenticate(r *http.Request, req *tokenRequest, now time.Time) (policy.Key, error) {
	if req.Secret == "" {
		return policy.Key{}, errNoKey
	}
	key, err := s.Keys.Authenticate(r.Context(), req.Secret, now)
	if err != nil {
		return policy.Key{}, err
	}
	if req.ClientID != key.ID {
		return policy.Key{}, fmt.Errorf("%w: client_id is not its id", policy.ErrUnknownKey)
	}
	return key, nil
}

// readTokenRequest reads the form strictly (RFC 6749, section 3.2): once each,
// nothing unknown, one way of client authentication.
func readTokenRequest(r *http.Request) (*tokenRequest, error) {
	if r.URL.RawQuery != "" {
		return nil, badRequest("Parameters belong in the body, never in the URL, where logs keep them.")
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/x-www-form-urlencoded" {
		return nil, badRequest("Content-Type must be application/x-www-form-urlencoded.")
	}
	r.Body = http.MaxBytesReader(nil, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, &reply.Refusal{Status: http.StatusRequestEntityTooLarge, Code: "invalid_request", Detail: "The form is too large."}
		}
		return nil, badRequest("The form can't be read.")
	}
	req := &tokenRequest{params: map[string]string{}, Grant: r.PostForm.Get("grant_type")}
	known, ok := grantParams[req.Grant]
	if !ok {
		return nil, errGrant
	}
	for name, values := range r.PostForm {
		switch {
		case len(values) != 1:
			return nil, badRequest("A parameter stands twice.")
		case !slices.Contains(known, name) && name != "grant_type" && name != "client_id" && name != "client_secret":
			return nil, badRequest("A parameter is not known to this grant.")
		}
		req.params[name] = values[0]
	}
	if err := req.readClient(r); err != nil {
		return nil, err
	}
	req.Audience = req.param("audience")
	scope, has := req.params["scope"]
	if has && scope == "" {
		return nil, fmt.Errorf("%w: it is empty", token.ErrScope)
	}
	var err error
	req.Scope, err = token.ParseScopes(scope)
	req.HasScope = has
	return req, err
}

// readClient takes the client's credentials from the Authorization header or the
// form, never both.
func (req *tokenRequest) readClient(r *http.Request) error {
	req.ClientID, req.Secret = req.param("client_id"), req.param("client_secret")
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return nil
	}
	id, secret, ok := r.BasicAuth()
	switch {
	case len(headers) > 1 || !ok:
		return badRequest("Authorization must be one Basic credential: the machine key's id and the key.")
	case req.Secret != "":
		return badRequest("The client authenticates twice: in the header and in the form.")
	case req.ClientID != "" && req.ClientID != id:
		return badRequest("client_id names another client than the Authorization header.")
	}
	// RFC 6749, section 2.3.1 has both form-encoded first.
	id, err1 := url.QueryUnescape(id)
	secret, err2 := url.QueryUnescape(secret)
	if errors.Join(err1, err2) != nil {
		return badRequest("The Basic credential is not form-encoded.")
	}
	req.ClientID, req.Secret = id, secret
	return nil
}

func badRequest(detail string) error {
	return &reply.Refusal{Status: http.StatusBadRequest, Code: "invalid_request", Detail: detail}
}

// clientIP is the address of the peer, or empty where it has none.
func clientIP(r *http.Request) string {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return addr.Addr().Unmap().String()
}

// bearer returns the one Bearer credential of a request (RFC 6750, section 2.1).
func bearer(r *http.Request) (string, bool) {
	headers := r.Header.Values("Authorization")
	if len(headers) != 1 {
		return "", false
	}
	scheme, credential, ok := strings.Cut(headers[0], " ")
	return credential, ok && strings.EqualFold(scheme, "Bearer") && credential != ""
}
