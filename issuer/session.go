package issuer

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/issuer/internal/idp"
)

// What a browser login opens at the issuer's own API, and for how long: to look
// and to narrow for AccessLife, to create and to widen for FreshLogin.
const (
	AccessLife = time.Hour
	FreshLogin = 10 * time.Minute
)

// session is what a login leaves behind. It is sealed in the database.
type session struct {
	ID       string          `json:"id"` // Sealed along, so that one row's content is worthless in another.
	Identity policy.Identity `json:"identity"`
	Refresh  string          `json:"refresh"` // The provider's refresh token. May be empty.
	Opener   []byte          `json:"opener"`  // MAC of the code that opens it: a row can't be given another.
	Ends     int64           `json:"ends"`    // Unix time, whatever the row says.
}

// A login's own tokens name their session and when they were given out. What
// stands in the database is a MAC of all of it: copied into another's row, or
// given another time, it opens nothing.
func loginToken(prefix, id string, now time.Time) string {
	return randomToken(prefix) + "." + id + "." + strconv.FormatInt(now.Unix(), 10)
}

// ofLoginToken returns what a token says of itself. It is to be believed once its
// MAC was found.
func ofLoginToken(raw string) (id string, given time.Time) {
	_, rest, _ := strings.Cut(raw, ".")
	id, at, _ := strings.Cut(rest, ".")
	unix, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return "", time.Time{}
	}
	return id, time.Unix(unix, 0)
}

func (s *Server) sealSession(id string, v session) ([]byte, error) {
	v.ID = id
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("sealing a session: %w", err)
	}
	sealed, err := s.Sealer.Seal(sealSession, plain)
	if err != nil {
		return nil, fmt.Errorf("sealing a session: %w", err)
	}
	return sealed, nil
}

func (s *Server) unsealSession(id string, sealed []byte) (session, error) {
	plain, err := s.Sealer.Open(sealSession, sealed)
	if err != nil {
		return session{}, fmt.Errorf("opening a session: %w", err)
	}
	var v session
	if err := json.Unmarshal(plain, &v); err != nil {
		return session{}, fmt.Errorf("opening a session: %w", err)
	}
	if v.ID != id {
		return session{}, errors.New("opening a session: it is another one's content")
	}
	return v, nil
}

// redeemCode turns the code of a finished login into the login's own tokens
// (RFC 6749, section 4.1.3). They mint nothing: the access token is for this
// issuer's key endpoints alone, and the refresh token is one of two factors.
func (s *Server) redeemCode(ctx context.Context, req *tokenRequest, rec *audit.Record, now time.Time) (any, error) {
	if err := req.Client.public(); err != nil {
		return nil, err
	}
	var id, challenge, redirectURI string
	var ends int64
	mac := s.Sealer.MAC(macCode, []byte(req.form["code"]))
	err := s.DB.QueryRowContext(ctx, `SELECT id, code_challenge, redirect_uri, code_ends_at FROM sessions WHERE code_mac = $1`, mac).Scan(&id, &challenge, &redirectURI, &ends)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errCode
	}
	if err != nil {
		return nil, fmt.Errorf("reading a login: %w", err)
	}
	verifier := req.form["code_verifier"]
	proven := now.Unix() < ends && req.form["redirect_uri"] == redirectURI && validVerifier(verifier) &&
		hmac.Equal([]byte(challengeOf(verifier)), []byte(challenge))
	// One statement, so that of two requests with the code one at most succeeds.
	res, err := s.DB.ExecContext(ctx, `UPDATE sessions SET code_used = 1 WHERE id = $1 AND code_used = 0`, id)
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	if n != 1 || !proven {
		// A code that comes twice, or without its proof, is in the wrong hands
		// (RFC 6749, section 4.1.2): what it opened ends.
		return nil, errors.Join(errCode, s.endSession(ctx, id))
	}
	return s.openTokens(ctx, id, mac, rec, now)
}

// openTokens gives a session its first access and refresh tokens, for the code
// that it was made for.
func (s *Server) openTokens(ctx context.Context, id string, opener []byte, rec *audit.Record, now time.Time) (any, error) {
	access, refresh := loginToken("hpl_", id, now), loginToken("hpr_", id, now)
	var sealed []byte
	err := s.DB.QueryRowContext(ctx, `UPDATE sessions SET access_mac = $1, access_ends_at = $2, refresh_mac = $3, rotated_at = $4
		WHERE id = $5 RETURNING sealed`, s.Sealer.MAC(macAccess, []byte(access)), now.Add(AccessLife).Unix(),
		s.Sealer.MAC(macRefresh, []byte(refresh)), now.Unix(), id).Scan(&sealed)
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	v, err := s.unsealSession(id, sealed)
	switch {
	case err != nil:
		return nil, err
	case !hmac.Equal(v.Opener, opener):
		return nil, errors.New("opening a session: it is another code's")
	}
	rec.Identity = v.Identity.String()
	return loginAnswer(access, refresh), s.vouched(ctx, v.Identity, now)
}

// loginAnswer is what a login itself yields. It mints nothing.
func loginAnswer(access, refresh string) tokenAnswer {
	return tokenAnswer{AccessToken: access, TokenType: "Bearer", ExpiresIn: int64(AccessLife / time.Second), RefreshToken: refresh}
}

// public wants the credentials of the one public client (RFC 6749, section 2.1).
func (c credentials) public() error {
	if c.ID != CLI || c.Secret != "" || c.Assertion != "" || c.Identity != "" {
		return badRequest("client_id must be " + CLI + ", without a secret.")
	}
	return nil
}

func (s *Server) endSession(ctx context.Context, id string) error {
	_, err := s.DB.ExecContext(context.WithoutCancel(ctx), `UPDATE sessions SET ended = 1 WHERE id = $1`, id)
	if err != nil {
		return fmt.Errorf("ending a session: %w", err)
	}
	return nil
}

// identityMAC is what a person's sessions are found by.
func (s *Server) identityMAC(identity string) []byte {
	return s.Sealer.MAC(macIdentity, []byte(identity))
}

// challengeOf is the S256 method of RFC 7636, section 4.2.
func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// validVerifier holds a PKCE verifier to RFC 7636, section 4.1.
func validVerifier(v string) bool {
	return len(v) >= 43 && len(v) <= 128 &&
		strings.Trim(v, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~") == ""
}

// refresh is the grant of a login session: the identity is whoever logged in,
// and their provider is asked again each time, so that a leaver is out at once.
// It yields the token together with the next refresh token.
func (x exchange) refresh(ctx context.Context) (any, error) {
	raw := x.req.form["refresh_token"]
	mac := x.Sealer.MAC(macRefresh, []byte(raw))
	id, err := x.findRefresh(ctx, mac)
	if err != nil {
		return nil, err
	}
	if named, _ := ofLoginToken(raw); named != id {
		return nil, errRefresh
	}
	// One refresh of a session at a time, here and at other issuers: a provider
	// takes two with the same refresh token of its own for theft.
	defer x.sessions.lock(id)()
	release, err := x.lease(ctx, id)
	if err != nil {
		return nil, err
	}
	defer release()
	v, err := x.refreshable(ctx, id, mac)
	if err != nil {
		return nil, err
	}
	x.rec.Identity = v.Identity.String()
	if v, err = x.askAgain(ctx, id, v, x.now); err != nil {
		return nil, err
	}
	m, err := x.mint(ctx, &v.Identity, x.loginAt(v.Identity.Issuer).CapExpiry)
	if err != nil {
		return nil, err
	}
	answer, err := x.use(ctx, m, nil)
	if err != nil {
		return nil, err
	}
	answer.RefreshToken = loginToken("hpr_", id, x.now)
	if _, err := x.DB.ExecContext(ctx, `UPDATE sessions SET previous_mac = $1, refresh_mac = $2, rotated_at = $3 WHERE id = $4`,
		mac, x.Sealer.MAC(macRefresh, []byte(answer.RefreshToken)), x.now.Unix(), id); err != nil {
		return nil, fmt.Errorf("rotating a refresh token: %w", err)
	}
	return answer, nil
}

// How long an issuer may be busy with a session, and how long others wait for it.
const (
	leaseLife  = 20 * time.Second // Longer than the provider may take.
	leaseWait  = 2 * time.Second
	leasePause = 50 * time.Millisecond
)

// lease claims the session among the issuers of one store. One that dies lets go
// when the lease ends.
func (x exchange) lease(ctx context.Context, id string) (release func(), err error) {
	until := x.now.Add(leaseLife).Unix()
	for waited := time.Duration(0); ; waited += leasePause {
		res, err := x.DB.ExecContext(ctx, `UPDATE sessions SET busy_until = $1 WHERE id = $2 AND busy_until <= $3`, until, id, x.now.Unix())
		if err != nil {
			return nil, fmt.Errorf("claiming a session: %w", err)
		}
		n, err := res.RowsAffected()
		switch {
		case err != nil:
			return nil, fmt.Errorf("claiming a session: %w", err)
		case n == 1:
			return func() {
				if _, err := x.DB.ExecContext(context.WithoutCancel(ctx), `UPDATE sessions SET busy_until = 0 WHERE id = $1 AND busy_until = $2`, id, until); err != nil {
					x.Log.Error("letting go of a session", "err", err.Error())
				}
			}, nil
		case waited >= leaseWait:
			return nil, &reply.Refusal{
				Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable", Detail: "This login is being refreshed elsewhere.", RetryAfter: time.Second,
			}
		}
		select {
		case <-time.After(leasePause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Server) findRefresh(ctx context.Context, mac []byte) (id string, err error) {
	err = s.DB.QueryRowContext(ctx, `SELECT id FROM sessions WHERE refresh_mac = $1 OR previous_mac = $1`, mac).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", errRefresh
	}
	if err != nil {
		return "", fmt.Errorf("reading a session: %w", err)
	}
	return id, nil
}

// refreshable returns the live session that the refresh token belongs to. The
// one before the current is good for a moment, because the answer that brought
// the current one may have been lost; later it means that two hold the session,
// and the session ends (RFC 9700, section 4.14.2).
func (x exchange) refreshable(ctx context.Context, id string, mac []byte) (session, error) {
	var sealed, current, previous []byte
	var rotatedAt, ends int64
	var ended bool
	if err := x.DB.QueryRowContext(ctx, `SELECT sealed, refresh_mac, previous_mac, rotated_at, ends_at, ended FROM sessions WHERE id = $1`, id).
		Scan(&sealed, &current, &previous, &rotatedAt, &ends, &ended); err != nil {
		return session{}, fmt.Errorf("reading a session: %w", err)
	}
	switch {
	case ended || x.now.Unix() >= ends:
		return session{}, errRefresh
	case !hmac.Equal(mac, current) && !hmac.Equal(mac, previous):
		return session{}, errRefresh // It was rotated away while this request waited.
	}
	v, err := x.unsealSession(id, sealed)
	if err == nil && x.now.Unix() >= v.Ends {
		err = errRefresh
	}
	if err == nil && !hmac.Equal(mac, current) && x.now.Sub(time.Unix(rotatedAt, 0)) > HonestRetry {
		return session{}, errors.Join(errRefresh, x.endReplayed(ctx, id, v.Identity))
	}
	return v, err
}

// endReplayed ends a session that two hold and tells whose it is.
func (x exchange) endReplayed(ctx context.Context, id string, who policy.Identity) error {
	x.rec.Identity = who.String()
	e := replayAlert(x.client.key, "refresh_token", "A refresh token that was used before was presented again", x.rec, x.now)
	e.Owner = who.String()
	e.Text += " The login is over."
	ctx = context.WithoutCancel(ctx)
	err := store.Tx(ctx, x.DB, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE sessions SET ended = 1 WHERE id = $1`, id); err != nil {
			return err
		}
		return x.Alert.Put(ctx, tx, e)
	})
	if err != nil {
		return fmt.Errorf("ending a session: %w", err)
	}
	x.Alert.Wake()
	return nil
}

// askAgain has the provider vouch for the identity once more and keeps what it
// says at once: its refresh token may have rotated too.
func (s *Server) askAgain(ctx context.Context, id string, v session, now time.Time) (session, error) {
	provider := s.loginAt(v.Identity.Issuer)
	if provider == nil {
		return session{}, fmt.Errorf("%w: it is no longer on the list", idp.ErrRefused)
	}
	if v.Refresh == "" {
		// It can't be asked without the person, so its word ends when it said.
		if !now.Before(v.Identity.Expires) {
			return session{}, errRefresh
		}
		return v, nil
	}
	p, err := provider.Ask(ctx, v.Refresh, now)
	if err == nil && p.Identity.Subject != v.Identity.Subject {
		err = fmt.Errorf("%w: it names somebody else now", idp.ErrRefused)
	}
	if errors.Is(err, idp.ErrRefused) {
		err = errors.Join(err, s.endSession(ctx, id))
	}
	if err != nil {
		return session{}, err
	}
	v.Refresh = p.Refresh
	if p.Identity.AuthTime.IsZero() {
		p.Identity.AuthTime = v.Identity.AuthTime
	}
	v.Identity = p.Identity
	sealed, err := s.sealSession(id, v)
	if err != nil {
		return session{}, err
	}
	// The provider has spoken: a client that hangs up now must not lose its word.
	ctx = context.WithoutCancel(ctx)
	if _, err := s.DB.ExecContext(ctx, `UPDATE sessions SET sealed = $1 WHERE id = $2`, sealed, id); err != nil {
		return session{}, fmt.Errorf("keeping a session: %w", err)
	}
	return v, s.vouched(ctx, v.Identity, now)
}

// loginAt is the provider of that issuer that people log in at, or nil.
func (s *Server) loginAt(issuer string) *Provider {
	i := slices.IndexFunc(s.Providers, func(p *Provider) bool { return p.Issuer == issuer && p.ClientID != "" })
	if i < 0 {
		return nil
	}
	return s.Providers[i]
}

// person is who sent a request to the API.
type person struct {
	policy.Identity
	fresh bool // They logged in moments ago.
}

// person returns who sent the request, by the access token of their login.
func (s *Server) person(r *http.Request, now time.Time) (person, error) {
	access, ok := bearer(r)
	if !ok {
		return person{}, errSession
	}
	var id string
	var sealed []byte
	err := s.DB.QueryRowContext(r.Context(), `SELECT id, sealed FROM sessions
		WHERE access_mac = $1 AND access_ends_at > $2 AND ends_at > $2 AND ended = 0`,
		s.Sealer.MAC(macAccess, []byte(access)), now.Unix()).Scan(&id, &sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return person{}, errSession
	}
	if err != nil {
		return person{}, fmt.Errorf("reading a session: %w", err)
	}
	v, err := s.unsealSession(id, sealed)
	if err != nil {
		return person{}, err
	}
	// The row says the same, but the row can be written by others.
	named, opened := ofLoginToken(access)
	if named != id || !now.Before(opened.Add(AccessLife)) || now.Unix() >= v.Ends {
		return person{}, errSession
	}
	return person{v.Identity, now.Before(opened.Add(FreshLogin))}, nil
}

// vouched notes that the identity's provider vouched for it just now.
func (s *Server) vouched(ctx context.Context, who policy.Identity, now time.Time) error {
	if _, err := s.DB.ExecContext(ctx, `INSERT INTO people (identity, vouched_at) VALUES ($1, $2)
		ON CONFLICT (identity) DO UPDATE SET vouched_at = excluded.vouched_at`, who.String(), now.Unix()); err != nil {
		return fmt.Errorf("noting a login: %w", err)
	}
	return nil
}

// ownerPresent wants the key's owner to have been vouched for lately, where the
// configuration says so: keys end with their owner's account. An owner who asks
// in person is vouched for by that.
func (x exchange) ownerPresent(ctx context.Context, who *policy.Identity) error {
	if x.OwnerAbsence == 0 {
		return nil
	}
	if who != nil && who.String() == x.client.key.Owner {
		return x.vouched(ctx, *who, x.now)
	}
	var vouched int64
	err := x.DB.QueryRowContext(ctx, `SELECT vouched_at FROM people WHERE identity = $1`, x.client.key.Owner).Scan(&vouched)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("reading an owner's last login: %w", err)
	}
	if x.now.Sub(time.Unix(vouched, 0)) > x.OwnerAbsence {
		return errOwnerGone
	}
	return nil
}

// sessionLocks are locks for any number of sessions; two may share one.
type sessionLocks struct {
	seed  maphash.Seed
	once  sync.Once
	locks [64]sync.Mutex
}

// lock returns the unlock.
func (l *sessionLocks) lock(id string) (unlock func()) {
	l.once.Do(func() { l.seed = maphash.MakeSeed() })
	m := &l.locks[maphash.String(l.seed, id)%uint64(len(l.locks))]
	m.Lock()
	return m.Unlock
}
