package issuer

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/audit"
	"github.com/hourpass/hourpass/internal/reply"
	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/issuer/internal/idp"
	"github.com/hourpass/hourpass/issuer/internal/pages"
)

// Bounds of a device's login (RFC 8628).
const (
	deviceLife     = 10 * time.Minute
	deviceInterval = 5 * time.Second
	maxDeviceName  = 80 // Characters of what a device says of itself.
)

// userAlphabet has no vowels, so that no code is a word, and no letters that
// look like others (RFC 8628, section 6.1). Eight of them are 34 bits: enough
// where an address has 30 wrong ones a minute and a code 10 minutes.
const (
	userAlphabet = "BCDFGHJKLMNPQRSTVWXZ"
	userLen      = 8
)

// device is a login that a device waits for. It is sealed in the database.
type device struct {
	ID       string    `json:"id"`   // Sealed along: the row it belongs to.
	Name     string    `json:"name"` // What it says of itself: a stranger's text.
	Address  string    `json:"address"`
	AskedAt  time.Time `json:"asked_at"`
	UserCode string    `json:"user_code"`

	// Once somebody has logged in for it: who, in which browser, and the ticket
	// that their confirmation must bring back.
	Session session `json:"session"`
	Browser []byte  `json:"browser,omitempty"`
	Ticket  []byte  `json:"ticket,omitempty"`
}

// askDevice is POST /device_authorization (RFC 8628, section 3.1).
func (s *Server) askDevice(w http.ResponseWriter, r *http.Request) error {
	now := s.Now()
	addr := s.clientAddr(r)
	if err := s.throttles.start(addr, now); err != nil {
		return err
	}
	f, err := readForm(r)
	if err != nil {
		return err
	}
	if err := f.only([]string{"client_id", "scope"}); err != nil {
		return err
	}
	if err := loginScope(f["scope"]); err != nil {
		return err
	}
	c, err := readCredentials(r, f, false)
	if err != nil {
		return err
	}
	if err := c.public(); err != nil {
		return err
	}
	deviceCode, userCode := randomToken("hpd_"), newUserCode()
	mac := s.Sealer.MAC(macDevice, []byte(deviceCode))
	d := device{Name: nameOfDevice(r.UserAgent()), Address: ipText(addr), AskedAt: now, UserCode: userCode}
	sealed, err := s.sealDevice(mac, d)
	if err != nil {
		return err
	}
	if _, err := s.DB.ExecContext(r.Context(), `INSERT INTO device_logins (device_mac, user_mac, sealed, state, session_id, polled_at, expires_at)
		VALUES ($1, $2, $3, 'pending', '', 0, $4)`, mac, s.userMAC(userCode), sealed, now.Add(deviceLife).Unix()); err != nil {
		return fmt.Errorf("starting a device's login: %w", err)
	}
	reply.JSON(w, http.StatusOK, map[string]any{
		"device_code": deviceCode, "user_code": userCode,
		"verification_uri": s.URL + "/device", "verification_uri_complete": s.URL + "/device?user_code=" + userCode,
		"expires_in": int(deviceLife / time.Second), "interval": int(deviceInterval / time.Second),
	})
	return nil
}

func newUserCode() string {
	code := make([]byte, userLen)
	for i := range code {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(userAlphabet))))
		if err != nil {
			panic(err) // Unreachable: crypto/rand.Reader never fails (Go 1.24).
		}
		code[i] = userAlphabet[n.Int64()]
	}
	return string(code[:userLen/2]) + "-" + string(code[userLen/2:])
}

// userMAC finds a code however a person typed it.
func (s *Server) userMAC(code string) []byte {
	return s.Sealer.MAC(macUser, []byte(strings.Map(func(r rune) rune {
		if strings.ContainsRune(userAlphabet, r) {
			return r
		}
		return -1
	}, strings.ToUpper(code))))
}

func nameOfDevice(userAgent string) string {
	name := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, userAgent)
	if name == "" {
		return "a device that does not say what it is"
	}
	return name[:min(len(name), maxDeviceName)]
}

func (s *Server) sealDevice(mac []byte, d device) ([]byte, error) {
	d.ID = base64.RawURLEncoding.EncodeToString(mac)
	plain, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("sealing a device's login: %w", err)
	}
	sealed, err := s.Sealer.Seal(sealDevice, plain)
	if err != nil {
		return nil, fmt.Errorf("sealing a device's login: %w", err)
	}
	return sealed, nil
}

// pendingDevice finds the login that waits under the MAC of its user code or of
// its device code.
func (s *Server) pendingDevice(ctx context.Context, code []byte, now time.Time) (mac []byte, d device, err error) {
	var sealed []byte
	err = s.DB.QueryRowContext(ctx, `SELECT device_mac, sealed FROM device_logins
		WHERE (user_mac = $1 OR device_mac = $1) AND state = 'pending' AND expires_at > $2`, code, now.Unix()).Scan(&mac, &sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, device{}, errUserCode
	}
	if err != nil {
		return nil, device{}, fmt.Errorf("reading a device's login: %w", err)
	}
	plain, err := s.Sealer.Open(sealDevice, sealed)
	if err != nil {
		return nil, device{}, fmt.Errorf("opening a device's login: %w", err)
	}
	if err := json.Unmarshal(plain, &d); err != nil || d.ID != base64.RawURLEncoding.EncodeToString(mac) {
		return nil, device{}, errors.Join(errors.New("opening a device's login: it is another one's content"), err)
	}
	return mac, d, nil
}

// enterPage is GET /device: it asks for the code.
func (s *Server) enterPage(w http.ResponseWriter, r *http.Request) error {
	q, err := readQuery(r, "user_code")
	if err != nil {
		return err
	}
	return pages.Write(w, http.StatusOK, pages.Enter{UserCode: q["user_code"], Providers: s.loginProviders()})
}

func (s *Server) loginProviders() (names []string) {
	for _, p := range s.Providers {
		if p.ClientID != "" {
			names = append(names, p.Name)
		}
	}
	return names
}

// enterCode is POST /device: the person has entered the code and logs in.
func (s *Server) enterCode(w http.ResponseWriter, r *http.Request) error {
	now := s.Now()
	addr := s.clientAddr(r)
	if err := errors.Join(s.sameOrigin(r), s.throttles.admit(addr, now)); err != nil {
		return err
	}
	f, err := readForm(r)
	if err != nil {
		return err
	}
	if err := f.only([]string{"user_code", "provider"}); err != nil {
		return err
	}
	if err := s.throttles.guess(addr, now); err != nil {
		return err
	}
	mac, _, err := s.pendingDevice(r.Context(), s.userMAC(f["user_code"]), now)
	if errors.Is(err, errUserCode) {
		return pages.Write(w, http.StatusBadRequest, pages.Enter{Providers: s.loginProviders(), Problem: reply.Sentence(err)})
	}
	if err != nil {
		return err
	}
	s.throttles.guessed(addr)
	provider, err := s.loginProvider(f["provider"])
	if err != nil {
		return err
	}
	return s.startLogin(w, r, provider, login{ClientID: CLI, Device: mac})
}

// sameOrigin refuses what another site had a browser send.
func (s *Server) sameOrigin(r *http.Request) error {
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return &reply.Refusal{Status: http.StatusForbidden, Code: "access_denied", Detail: "This form is sent from its own page only.", Err: err}
	}
	return nil
}

// confirmPage follows the login of somebody who entered a device's code: they
// see who asks, from where, and decide (RFC 8628, sections 3.3 and 5.4).
func (s *Server) confirmPage(w http.ResponseWriter, r *http.Request, l login, p idp.Proof, now time.Time) error {
	_, d, err := s.pendingDevice(r.Context(), l.Device, now)
	if err != nil {
		return err
	}
	// What the browser was known by before it logged in is known by no more.
	browser, ticket := rand.Text(), rand.Text()
	s.setBrowser(w, browser)
	d.Session = session{Identity: p.Identity, Refresh: p.Refresh}
	d.Browser, d.Ticket = s.Sealer.MAC(macState, []byte(browser)), s.Sealer.MAC(macState, []byte(ticket))
	sealed, err := s.sealDevice(l.Device, d)
	if err != nil {
		return err
	}
	if _, err := s.DB.ExecContext(r.Context(), `UPDATE device_logins SET sealed = $1 WHERE device_mac = $2 AND state = 'pending'`, sealed, l.Device); err != nil {
		return fmt.Errorf("keeping a device's login: %w", err)
	}
	return pages.Write(w, http.StatusOK, pages.Confirm{
		Identity: p.Identity.String(), UserCode: d.UserCode, Device: d.Name, Address: d.Address, Ticket: ticket,
		Ago: now.Sub(d.AskedAt).Truncate(time.Second).String() + " ago",
	})
}

// confirmDevice is POST /device/confirm: the person's answer.
func (s *Server) confirmDevice(w http.ResponseWriter, r *http.Request) error {
	now := s.Now()
	addr := s.clientAddr(r)
	if err := errors.Join(s.sameOrigin(r), s.throttles.admit(addr, now)); err != nil {
		return err
	}
	f, err := readForm(r)
	if err != nil {
		return err
	}
	if err := f.only([]string{"user_code", "ticket", "answer"}); err != nil {
		return err
	}
	if err := s.throttles.guess(addr, now); err != nil {
		return err
	}
	rec := audit.Record{Time: now, Decision: audit.NewID(), Event: "device", ClientIP: ipText(addr)}
	done, err := s.decideDevice(r, f, &rec, now)
	if err == nil {
		s.throttles.guessed(addr)
	}
	if err := s.keep(r, &rec, err); err != nil {
		return err
	}
	return pages.Write(w, http.StatusOK, done)
}

func (s *Server) decideDevice(r *http.Request, f form, rec *audit.Record, now time.Time) (pages.Done, error) {
	mac, d, err := s.pendingDevice(r.Context(), s.userMAC(f["user_code"]), now)
	if errors.Is(err, errUserCode) {
		return pages.Done{}, errConfirm // As below: nobody learns here which codes there are.
	}
	if err != nil {
		return pages.Done{}, err
	}
	browser, ok := s.browserCookie(r)
	if !ok || d.Browser == nil || !hmac.Equal(s.Sealer.MAC(macState, []byte(browser)), d.Browser) || !hmac.Equal(s.Sealer.MAC(macState, []byte(f["ticket"])), d.Ticket) {
		return pages.Done{}, errConfirm
	}
	rec.Identity = d.Session.Identity.String()
	if f["answer"] != "approve" {
		_, err := s.DB.ExecContext(r.Context(), `UPDATE device_logins SET state = 'denied' WHERE device_mac = $1 AND state = 'pending'`, mac)
		if err != nil {
			return pages.Done{}, fmt.Errorf("refusing a device's login: %w", err)
		}
		rec.Detail = "The person refused the device."
		return pages.Done{Title: "Refused", Text: "The device was not logged in. If you did not start this, tell your security team."}, nil
	}
	id := rand.Text()
	d.Session.Opener, d.Session.Ends = mac, now.Add(s.Session).Unix()
	sealed, err := s.sealSession(id, d.Session)
	if err != nil {
		return pages.Done{}, err
	}
	err = store.Tx(r.Context(), s.DB, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(r.Context(), `UPDATE device_logins SET state = 'approved', session_id = $1 WHERE device_mac = $2 AND state = 'pending'`, id, mac)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(errConfirm, err) // Another request took it first.
		}
		_, err = tx.ExecContext(r.Context(), `INSERT INTO sessions (id, client_id, identity_mac, sealed, code_challenge, redirect_uri, code_ends_at,
			code_used, access_ends_at, rotated_at, ends_at, ended) VALUES ($1, $2, $3, $4, '', '', 0, 1, 0, 0, $5, 0)`, id, CLI,
			s.identityMAC(d.Session.Identity.String()), sealed, d.Session.Ends)
		return err
	})
	if err != nil {
		return pages.Done{}, fmt.Errorf("keeping a login: %w", err)
	}
	return pages.Done{Title: "Logged in", Text: "The device is logged in as you. You can close this page."}, nil
}

// redeemDevice is the grant of RFC 8628, section 3.4: what a device polls with.
func (s *Server) redeemDevice(ctx context.Context, req *tokenRequest, rec *audit.Record, now time.Time) (any, error) {
	if err := req.Client.public(); err != nil {
		return nil, err
	}
	mac := s.Sealer.MAC(macDevice, []byte(req.form["device_code"]))
	var state, id string
	var polled, expires int64
	err := s.DB.QueryRowContext(ctx, `SELECT state, session_id, polled_at, expires_at FROM device_logins WHERE device_mac = $1`, mac).
		Scan(&state, &id, &polled, &expires)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, errDevice
	case err != nil:
		return nil, fmt.Errorf("reading a device's login: %w", err)
	case now.Unix() >= expires:
		return nil, errDeviceExpired
	case state == "denied":
		return nil, errDenied
	case state == "pending":
		if _, err := s.DB.ExecContext(ctx, `UPDATE device_logins SET polled_at = $1 WHERE device_mac = $2`, now.Unix(), mac); err != nil {
			return nil, fmt.Errorf("noting a device's question: %w", err)
		}
		if now.Sub(time.Unix(polled, 0)) < deviceInterval {
			return nil, errSlow
		}
		return nil, errPending
	}
	// One statement, so that of two requests with the code one at most succeeds.
	res, err := s.DB.ExecContext(ctx, `UPDATE device_logins SET state = 'used' WHERE device_mac = $1 AND state = 'approved'`, mac)
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return nil, errors.Join(errDevice, err, s.endSession(ctx, id)) // It came twice: two hold it.
	}
	return s.openTokens(ctx, id, mac, rec, now)
}
