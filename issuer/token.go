package issuer

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/clientip"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/token"
)

// The grants of POST /token.
const (
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange" //nolint:gosec // A grant's name: RFC 8693.
	grantBearer   = "urn:ietf:params:oauth:grant-type:jwt-bearer"     // RFC 7523, section 2.1
	grantClient   = "client_credentials"                              // RFC 6749, section 4.4
	grantRefresh  = "refresh_token"                                   // RFC 6749, section 6
	grantCode     = "authorization_code"                              // RFC 6749, section 4.1; RFC 7636
	grantDevice   = "urn:ietf:params:oauth:grant-type:device_code"    // RFC 8628
)

// grantParams are the parameters that each grant knows, besides the client's own
// credentials. Any other is refused: one that we ignored could be meant as a
// restriction.
var grantParams = map[string][]string{
	grantExchange: {"subject_token", "subject_token_type", "requested_token_type", "scope", "audience", "resource"},
	grantBearer:   {"assertion", "scope", "audience", "resource"},
	grantClient:   {"scope", "audience", "resource"},
	grantRefresh:  {"refresh_token", "scope", "audience", "resource"},
	grantCode:     {"code", "redirect_uri", "code_verifier"},
	grantDevice:   {"device_code"},
}

// credentialParams are those of the client (RFC 6749, section 2.3.1; RFC 7523,
// section 2.2).
var credentialParams = []string{"client_id", "client_secret", "client_assertion", "client_assertion_type"}

// maxForm bounds the body of a form.
const maxForm = 64 << 10

// tokenRequest is a request to POST /token, read once; nobody reaches into the
// form again.
type tokenRequest struct {
	form
	Grant    string
	Scope    token.Scopes
	HasScope bool
	Audience string // One of ours.
	Client   credentials
	From     string // The client's network, for the key's last use.
}

// token is POST /token. It writes exactly one audit record for each request that
// is decided, and no answer leaves before its record is kept.
func (s *Server) token(w http.ResponseWriter, r *http.Request) error {
	now := s.Now()
	return s.decided(w, r, "exchange", http.StatusOK, func(rec *audit.Record) (any, error) {
		return s.answerToken(r, rec, now)
	})
}

// decided runs do within the address's limits, records what came of it, and
// answers.
func (s *Server) decided(w http.ResponseWriter, r *http.Request, event string, status int, do func(*audit.Record) (any, error)) error {
	now := s.Now()
	addr := s.clientAddr(r)
	if err := s.throttles.admit(addr, now); err != nil {
		return err
	}
	rec := audit.Record{Time: now, Decision: audit.NewID(), Event: event, ClientIP: ipText(addr)}
	answer, err := do(&rec)
	if err != nil {
		if err := s.throttles.failed(err, addr, namedKey(r), now); err != nil {
			return err
		}
	}
	if errors.Is(err, errPending) || errors.Is(err, errSlow) {
		return err // A device that waits decides nothing, twelve times a minute.
	}
	if err := s.keep(r, &rec, err); err != nil {
		return err
	}
	if answer == nil {
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		return nil
	}
	if write, ok := answer.(written); ok {
		return write(w)
	}
	reply.JSON(w, status, answer)
	return nil
}

// written is an answer that is no JSON.
type written func(http.ResponseWriter) error

// answerToken finds the identity by the request's grant, decides, and returns
// what to answer.
func (s *Server) answerToken(r *http.Request, rec *audit.Record, now time.Time) (any, error) {
	req, err := s.readTokenRequest(r)
	if err != nil {
		return nil, err
	}
	switch req.Grant {
	case grantCode:
		rec.Event = "session"
		return s.redeemCode(r.Context(), req, rec, now)
	case grantDevice:
		rec.Event = "session"
		return s.redeemDevice(r.Context(), req, rec, now)
	}
	// Shared by every grant that mints, so that no new one can forget it.
	c, err := s.authenticate(r.Context(), req.Client, rec, now)
	if err != nil {
		return nil, err
	}
	answer, err := s.exchange(r.Context(), req, c, rec, now)
	if err == nil {
		return answer, nil
	}
	// The key was as of a moment ago, and may have changed since: what was refused
	// may be allowed now, or the other way round.
	changed, gone := s.reread(r.Context(), &c)
	switch {
	case gone != nil:
		rec.Key, rec.Team = "", ""
		return nil, gone
	case !changed:
		return nil, err
	}
	return s.exchange(r.Context(), req, c, rec, now)
}

// exchange is every grant that mints: it finds the identity, decides, and sees to
// it that nothing is used twice.
func (s *Server) exchange(ctx context.Context, req *tokenRequest, c client, rec *audit.Record, now time.Time) (any, error) {
	s.uses.coming.Add(1)
	defer s.uses.coming.Add(-1)
	if err := c.key.Usable(s.RotationGrace, now); err != nil {
		return nil, err
	}
	if err := s.throttles.mint(c.key.ID, now); err != nil {
		return nil, err
	}
	x := exchange{Server: s, req: req, client: c, rec: rec, now: now}
	switch req.Grant {
	case grantExchange:
		return x.tokenExchange(ctx)
	case grantBearer:
		return x.jwtBearer(ctx)
	case grantClient:
		return x.clientCredentials(ctx)
	case grantRefresh:
		return x.refresh(ctx)
	}
	return nil, errGrant
}

// readTokenRequest reads a token request strictly: only what its grant knows.
func (s *Server) readTokenRequest(r *http.Request) (*tokenRequest, error) {
	f, err := readForm(r)
	if err != nil {
		return nil, err
	}
	req := &tokenRequest{form: f, Grant: f["grant_type"]}
	known, ok := grantParams[req.Grant]
	if !ok {
		return nil, errGrant
	}
	if err := f.only(known, credentialParams, []string{"grant_type"}); err != nil {
		return nil, err
	}
	if req.Client, err = readCredentials(r, f, req.Grant == grantClient); err != nil {
		return nil, err
	}
	if req.Audience, err = s.audienceOf(f["audience"], f["resource"]); err != nil {
		return nil, err
	}
	if network := clientip.Network(s.clientAddr(r)); network.IsValid() {
		req.From = network.String()
	}
	scope, has := f["scope"]
	if has && scope == "" {
		return nil, fmt.Errorf("%w: it is empty", token.ErrScope)
	}
	req.Scope, err = token.ParseScopes(scope)
	req.HasScope = has
	return req, err
}

// audienceOf is the audience that a request means: by its name (RFC 8693), by
// the address of its endpoint (RFC 8707), or the first where it names none.
func (s *Server) audienceOf(audience, resource string) (string, error) {
	if resource != "" {
		named, ok := s.Resources[resource]
		if !ok || audience != "" && audience != named {
			return "", errTarget
		}
		audience = named
	}
	if audience == "" {
		return s.Audiences[0], nil
	}
	if !slices.Contains(s.Audiences, audience) {
		return "", errTarget
	}
	return audience, nil
}

// form is a form that was read strictly: each parameter stands once.
type form map[string]string

// readForm reads a form (RFC 6749, section 3.2).
func readForm(r *http.Request) (form, error) {
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
	f := form{}
	for name, values := range r.PostForm {
		if len(values) != 1 {
			return nil, badRequest("A parameter stands twice.")
		}
		f[name] = values[0]
	}
	return f, nil
}

// only refuses parameters that are on none of the lists.
func (f form) only(known ...[]string) error {
	for name := range f {
		if !slices.ContainsFunc(known, func(list []string) bool { return slices.Contains(list, name) }) {
			return badRequest("A parameter is not known here.")
		}
	}
	return nil
}

func badRequest(detail string) error {
	return &reply.Refusal{Status: http.StatusBadRequest, Code: "invalid_request", Detail: detail}
}

// clientAddr is where the request comes from, as far as that can be believed.
func (s *Server) clientAddr(r *http.Request) netip.Addr { return clientip.From(r, s.TrustedProxies) }

// ipText is the address as text, empty where there is none to believe.
func ipText(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
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
