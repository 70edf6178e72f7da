// Package remote is the ledger of budgets as an issuer keeps it for verifiers, by
// HTTP: [Serve] is the issuer's end, [Client] the verifier's. It refuses to know
// who may ask: the issuer has found out by then.
package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/hourpass/hourpass/internal/ledger"
)

// MaxBytes bounds a question and an answer.
const MaxBytes = 1 << 20

// question is what a verifier asks.
type question struct {
	Holder string  `json:"holder"`
	Lease  int64   `json:"lease_ms"`
	Claims []claim `json:"claims"`
}

type claim struct {
	Account string `json:"account"`
	Ends    int64  `json:"ends,omitempty"` // Unix seconds; 0: never.
	Limit   int64  `json:"limit"`
	Spent   int64  `json:"spent"`
	Need    int64  `json:"need"`
	Want    int64  `json:"want"`
}

type reply struct {
	Shares []share `json:"shares"`
}

type share struct {
	Hold  int64 `json:"hold"`
	Spent int64 `json:"spent"`
	Held  int64 `json:"held"`
}

// Serve answers a question that is to be asked in the name of who, so that the
// holders of two verifiers never have the same name. Errors match
// [ledger.ErrClaim] where the question is at fault.
func Serve(w http.ResponseWriter, r *http.Request, engine ledger.Engine, who string) error {
	var q question
	if err := decode(http.MaxBytesReader(w, r.Body, MaxBytes), &q); err != nil {
		return fmt.Errorf("%w: %w", ledger.ErrClaim, err)
	}
	if q.Holder == "" || q.Lease > ledger.MaxLease.Milliseconds() {
		return fmt.Errorf("%w: its holder or lease", ledger.ErrClaim)
	}
	claims := make([]ledger.Claim, len(q.Claims))
	for i, c := range q.Claims {
		claims[i] = ledger.Claim{Account: c.Account, Limit: c.Limit, Spent: c.Spent, Need: c.Need, Want: c.Want}
		if c.Ends != 0 {
			claims[i].Ends = time.Unix(c.Ends, 0)
		}
	}
	shares, err := engine.Sync(r.Context(), who+"/"+q.Holder, time.Duration(q.Lease)*time.Millisecond, claims)
	if err != nil {
		return err
	}
	a := reply{Shares: make([]share, len(shares))}
	for i, s := range shares {
		a.Shares[i] = share(s)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	return json.NewEncoder(w).Encode(a)
}

// decode reads one JSON value of known members, and nothing after it.
func decode(from io.Reader, to any) error {
	d := json.NewDecoder(from)
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	return nil
}

// Client asks an issuer. It is a [ledger.Engine].
type Client struct {
	// URL is the issuer's /ledger.
	URL string
	// KeyID and Key are a machine key that is for verifiers.
	KeyID, Key string
	// HTTP must not follow redirects. Nil: one of our own.
	HTTP *http.Client
}

var defaultHTTP = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// Sync is as [ledger.Engine] says.
func (c *Client) Sync(ctx context.Context, holder string, lease time.Duration, claims []ledger.Claim) ([]ledger.Share, error) {
	if err := ledger.Check(holder, lease, claims); err != nil {
		return nil, err
	}
	q := question{Holder: holder, Lease: lease.Milliseconds(), Claims: make([]claim, len(claims))}
	for i := range claims {
		from := &claims[i]
		q.Claims[i] = claim{Account: from.Account, Limit: from.Limit, Spent: from.Spent, Need: from.Need, Want: from.Want}
		if !from.Ends.IsZero() {
			q.Claims[i].Ends = from.Ends.Unix()
		}
	}
	body, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("asking the issuer's ledger: %w", err)
	}
	var a reply
	if err := c.post(ctx, body, &a); err != nil {
		return nil, fmt.Errorf("asking the issuer's ledger: %w", err)
	}
	if len(a.Shares) != len(claims) {
		return nil, fmt.Errorf("asking the issuer's ledger: %d shares for %d claims", len(a.Shares), len(claims))
	}
	shares := make([]ledger.Share, len(claims))
	for i, s := range a.Shares {
		if s.Hold < 0 || s.Spent < 0 || s.Held < 0 {
			return nil, errors.New("asking the issuer's ledger: a share is negative")
		}
		shares[i] = ledger.Share(s)
	}
	return shares, nil
}

func (c *Client) post(ctx context.Context, body []byte, to any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body)) //nolint:gosec // Where the configuration says.
	if err != nil {
		return errors.New("the URL is bad")
	}
	r.Header.Set("Content-Type", "application/json")
	// RFC 6749, section 2.3.1 has both form-encoded first.
	r.SetBasicAuth(url.QueryEscape(c.KeyID), url.QueryEscape(c.Key))
	client := c.HTTP
	if client == nil {
		client = defaultHTTP
	}
	res, err := client.Do(r) //nolint:gosec // Likewise.
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %d", res.StatusCode)
	}
	return decode(io.LimitReader(res.Body, MaxBytes), to)
}
