package issuer

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"golang.org/x/oauth2"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/issuer/internal/idp"
)

// CLI is the one client that may start a browser login: the people's own
// program. It is public (RFC 8252), so PKCE proves that who started a login is
// who finishes it.
const CLI = "hourpass-cli"

// Bounds of a login.
const (
	loginLife = 10 * time.Minute // From /authorize to the way back.
	codeLife  = time.Minute      // From the way back to POST /token.
	maxState  = 512              // Of the client's state, in bytes.
)

// login is a browser login on its way, sealed until the browser is back.
type login struct {
	Provider    string `json:"provider"`
	Nonce       string `json:"nonce"`
	Verifier    string `json:"verifier"` // Of PKCE with the provider.
	Browser     []byte `json:"browser"`  // MAC of the cookie of the browser that started it.
	ClientID    string `json:"client_id"`
	RedirectURI string `json:"redirect_uri"`
	Challenge   string `json:"challenge"`        // Of PKCE with the client.
	State       string `json:"state"`            // The client's.
	Device      []byte `json:"device,omitempty"` // The device that waits for the login, in the place of all but ClientID.
}

// authorize starts a browser login (RFC 6749, section 4.1.1; RFC 7636): it
// remembers what the client wants and sends the browser to the provider.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) error {
	noStore(w)
	q, err := readQuery(r, "response_type", "client_id", "redirect_uri", "state", "code_challenge", "code_challenge_method", "provider", "scope")
	if err != nil {
		return err
	}
	// Until client and redirect URI are known to be good, an error stays here:
	// to send it on would make us an open redirector.
	if q["client_id"] != CLI {
		return badRequest("client_id is not known.")
	}
	if !isLoopbackRedirect(q["redirect_uri"]) {
		return badRequest("redirect_uri must be http://127.0.0.1:PORT/callback or http://[::1]:PORT/callback.")
	}
	switch {
	case q["response_type"] != "code":
		return badRequest("response_type must be code.")
	case q["code_challenge_method"] != "S256" || len(q["code_challenge"]) != 43:
		return badRequest("code_challenge must be there, with code_challenge_method=S256.")
	case q["state"] == "" || len(q["state"]) > maxState || !idp.Printable(q["state"]):
		return badRequest("state must be there, printable and at most 512 characters.")
	}
	if err := loginScope(q["scope"]); err != nil {
		return err
	}
	provider, err := s.loginProvider(q["provider"])
	if err != nil {
		return err
	}
	return s.startLogin(w, r, provider, login{
		ClientID: q["client_id"], RedirectURI: q["redirect_uri"], Challenge: q["code_challenge"], State: q["state"],
	})
}

// loginScope refuses scopes of a login: what it yields opens nothing at a model
// server, and always comes with a refresh token, which offline_access asks for.
func loginScope(scope string) error {
	if scope != "" && scope != "offline_access" {
		return &reply.Refusal{Status: http.StatusBadRequest, Code: "invalid_scope", Detail: "A login has no scope but offline_access: name scopes where the machine key asks for a token."}
	}
	return nil
}

// startLogin remembers the login and sends the browser to the provider.
func (s *Server) startLogin(w http.ResponseWriter, r *http.Request, provider *Provider, l login) error {
	if err := s.throttles.start(s.clientAddr(r), s.Now()); err != nil {
		return err
	}
	browser, err := s.browser(w, r)
	if err != nil {
		return err
	}
	l.Provider, l.Nonce, l.Verifier, l.Browser = provider.Name, rand.Text(), oauth2.GenerateVerifier(), s.Sealer.MAC(macState, []byte(browser))
	state := rand.Text()
	to, err := provider.AuthURL(s.callbackURL(provider), state, l.Nonce, l.Verifier)
	if err != nil {
		return err
	}
	plain, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("starting a login: %w", err)
	}
	sealed, err := s.Sealer.Seal(sealLogin, plain)
	if err != nil {
		return fmt.Errorf("starting a login: %w", err)
	}
	if _, err := s.DB.ExecContext(r.Context(), `INSERT INTO logins (state_mac, sealed, expires_at) VALUES ($1, $2, $3)`,
		s.Sealer.MAC(macState, []byte(state)), sealed, s.Now().Add(loginLife).Unix()); err != nil {
		return fmt.Errorf("starting a login: %w", err)
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

// callback is where the provider sends the browser back to.
func (s *Server) callback(w http.ResponseWriter, r *http.Request) error {
	noStore(w)
	now := s.Now()
	if err := s.throttles.admit(s.clientAddr(r), now); err != nil {
		return err // Each leaves a record.
	}
	rec := audit.Record{Time: now, Decision: audit.NewID(), Event: "login", ClientIP: ipText(s.clientAddr(r))}
	l, p, err := s.finishLogin(r, &rec, now)
	to := ""
	if err == nil && l.Device == nil {
		to, err = s.codeRedirect(r.Context(), l, p, now)
	}
	if err := s.keep(r, &rec, err); err != nil {
		return err
	}
	if l.Device != nil {
		return s.confirmPage(w, r, l, p, now)
	}
	http.Redirect(w, r, to, http.StatusSeeOther) //nolint:gosec // To a loopback address that authorize checked.
	return nil
}

// finishLogin takes the login that the browser comes back from, and has the
// provider prove who it was.
func (s *Server) finishLogin(r *http.Request, rec *audit.Record, now time.Time) (login, idp.Proof, error) {
	l, provider, q, err := s.takeLogin(r, now)
	if err != nil {
		return login{}, idp.Proof{}, err
	}
	if q["error"] != "" {
		// What the provider says is a stranger's text: neither shown nor sent on.
		return login{}, idp.Proof{}, fmt.Errorf("%w: it answered with an error", idp.ErrRefused)
	}
	p, err := provider.Redeem(r.Context(), s.callbackURL(provider), q["code"], l.Verifier, l.Nonce, now)
	if err != nil {
		return login{}, idp.Proof{}, err
	}
	rec.Identity = p.Identity.String()
	return l, p, nil
}

// codeRedirect is where to send the browser, with a code of our own.
func (s *Server) codeRedirect(ctx context.Context, l login, p idp.Proof, now time.Time) (string, error) {
	code, err := s.openSession(ctx, l, p, now)
	if err != nil {
		return "", err
	}
	to, err := url.Parse(l.RedirectURI)
	if err != nil {
		return "", fmt.Errorf("finishing a login: %w", err)
	}
	to.RawQuery = url.Values{"code": {code}, "state": {l.State}, "iss": {s.URL}}.Encode() // RFC 9207.
	return to.String(), nil
}

// takeLogin finds the login that the browser comes back from, and takes it: its
// state is good once, for the browser that started it, and for the provider it
// was sent to.
func (s *Server) takeLogin(r *http.Request, now time.Time) (l login, p *Provider, q map[string]string, err error) {
	fail := func(detail string) (login, *Provider, map[string]string, error) {
		return login{}, nil, nil, badRequest(detail)
	}
	q, err = readQuery(r, "code", "state", "iss", "session_state", "scope", "error", "error_description", "error_uri", "authuser", "hd", "prompt")
	if err != nil {
		return login{}, nil, nil, err
	}
	const stale = "This login is not known here, was finished already or took too long: start again."
	mac := s.Sealer.MAC(macState, []byte(q["state"]))
	var sealed []byte
	var expires int64
	if err := s.DB.QueryRowContext(r.Context(), `SELECT sealed, expires_at FROM logins WHERE state_mac = $1`, mac).Scan(&sealed, &expires); err != nil || now.Unix() >= expires {
		return fail(stale)
	}
	plain, err := s.Sealer.Open(sealLogin, sealed)
	if err != nil {
		return login{}, nil, nil, fmt.Errorf("finishing a login: %w", err)
	}
	if err := json.Unmarshal(plain, &l); err != nil {
		return login{}, nil, nil, fmt.Errorf("finishing a login: %w", err)
	}
	// A state of somebody else's browser would log this one in as them (RFC 6749,
	// section 10.12). It is left for its owner to use.
	browser, ok := s.browserCookie(r)
	if !ok || !hmac.Equal(s.Sealer.MAC(macState, []byte(browser)), l.Browser) {
		return fail("This login was started in another browser.")
	}
	if l.Provider != mux.Vars(r)["provider"] {
		return fail("This login was started at another identity provider.") // Mix-up, RFC 9207.
	}
	if p, err = s.loginProvider(l.Provider); err != nil {
		return login{}, nil, nil, err
	}
	if !p.Answers(q["iss"]) {
		return fail("The answer does not come from the identity provider that was asked.")
	}
	res, err := s.DB.ExecContext(r.Context(), `DELETE FROM logins WHERE state_mac = $1`, mac)
	if err != nil {
		return login{}, nil, nil, fmt.Errorf("finishing a login: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return fail(stale) // Another request took it first.
	}
	return l, p, q, nil
}

// loginProvider finds the provider to log in at. The name may be empty where
// there is only one.
func (s *Server) loginProvider(name string) (*Provider, error) {
	var found []*Provider
	for _, p := range s.Providers {
		if p.ClientID != "" && (name == "" || name == p.Name) {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		return nil, badRequest("provider must name one of the identity providers that people log in at.")
	}
	return found[0], nil
}

// callbackURL is made of configuration alone, never of what a Host header says.
func (s *Server) callbackURL(p *Provider) string { return s.URL + "/callback/" + p.Name }

// isLoopbackRedirect tells whether uri is a native app's: a fixed path on a
// loopback address, any port (RFC 8252, section 7.3). It is compared in its one
// spelling, so that no parser reads another host out of it.
func isLoopbackRedirect(uri string) bool {
	host, ok1 := strings.CutPrefix(uri, "http://")
	host, ok2 := strings.CutSuffix(host, "/callback")
	addr, err := netip.ParseAddrPort(host)
	return ok1 && ok2 && err == nil && addr.Addr().Zone() == "" && addr.String() == host &&
		(addr.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || addr.Addr() == netip.IPv6Loopback())
}

// browserName is the cookie that tells browsers apart while they log in. Its
// prefix keeps sibling domains and plain HTTP from setting it (RFC 6265bis).
func (s *Server) browserName() string {
	if s.secure() {
		return "__Host-hourpass-browser"
	}
	return "hourpass-browser" // On loopback over plain HTTP, where the prefix is refused.
}

func (s *Server) secure() bool { return strings.HasPrefix(s.URL, "https:") }

// browserCookie returns the browser's one cookie; two of that name mean that
// somebody else set one, and neither is believed.
func (s *Server) browserCookie(r *http.Request) (string, bool) {
	cookies := r.CookiesNamed(s.browserName())
	if len(cookies) != 1 || len(cookies[0].Value) != 26 {
		return "", false
	}
	return cookies[0].Value, true
}

// browser returns the browser's cookie and gives it one if it has none, so that
// several tabs can log in side by side.
func (s *Server) browser(w http.ResponseWriter, r *http.Request) (string, error) {
	if value, ok := s.browserCookie(r); ok {
		return value, nil
	}
	if len(r.CookiesNamed(s.browserName())) > 1 {
		return "", badRequest("The browser sends a cookie of ours twice: delete this site's cookies.")
	}
	value := rand.Text()
	s.setBrowser(w, value)
	return value, nil
}

func (s *Server) setBrowser(w http.ResponseWriter, value string) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure wherever the issuer's URL is https.
		Name: s.browserName(), Value: value, Path: "/", MaxAge: int(loginLife / time.Second),
		HttpOnly: true, Secure: s.secure(), SameSite: http.SameSiteLaxMode,
	})
}

func noStore(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer") // The query holds codes.
	w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
}

// readQuery reads a query strictly: each parameter known, and once.
func readQuery(r *http.Request, known ...string) (map[string]string, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("The query can't be read.")
	}
	q := map[string]string{}
	for name, v := range values {
		if len(v) != 1 || !slices.Contains(known, name) {
			return nil, badRequest("A parameter of the query is unknown or stands twice.")
		}
		q[name] = v[0]
	}
	return q, nil
}

// openSession keeps a finished login and returns the code that opens it.
func (s *Server) openSession(ctx context.Context, l login, p idp.Proof, now time.Time) (string, error) {
	id, code := rand.Text(), randomToken("hpc_")
	opener, ends := s.Sealer.MAC(macCode, []byte(code)), now.Add(s.Session).Unix()
	sealed, err := s.sealSession(id, session{Identity: p.Identity, Refresh: p.Refresh, Opener: opener, Ends: ends})
	if err != nil {
		return "", err
	}
	if _, err := s.DB.ExecContext(ctx, `INSERT INTO sessions (id, client_id, identity_mac, sealed, code_mac, code_challenge, redirect_uri, code_ends_at,
		code_used, access_ends_at, rotated_at, ends_at, ended) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, 0, $9, 0)`,
		id, l.ClientID, s.identityMAC(p.Identity.String()), sealed, opener, l.Challenge, l.RedirectURI,
		now.Add(codeLife).Unix(), ends); err != nil {
		return "", errors.Join(errors.New("keeping a login"), err)
	}
	return code, nil
}

// randomToken returns 256 random bits behind a prefix that tells people and
// scanners what it is.
func randomToken(prefix string) string {
	var bits [32]byte
	_, _ = rand.Read(bits[:]) // It never fails (Go 1.24).
	return prefix + base64.RawURLEncoding.EncodeToString(bits[:])
}
